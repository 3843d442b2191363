//! An rpmdb.sqlite of any bytes, with a write-ahead log of any bytes: reading it neither panics, nor hangs, nor takes much
//! memory. The first two bytes are the log's length.
#![no_main]

use guestctl::block::Memory;
use guestctl::inspect::packages::{Gathered, rpm::sqlite};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((len, rest)) = bytes.split_first_chunk::<2>() else { return };
    let (wal, database) = rest.split_at(rest.len().min(usize::from(u16::from_le_bytes(*len))));
    let (wal, database) = (Memory::new(wal.to_vec()), Memory::new(database.to_vec()));
    let _ = sqlite::read(&database, Some(&wal), &mut Gathered::default());
});
