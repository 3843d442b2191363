//! RPM's Packages.db of any bytes: reading it neither panics, nor hangs, nor takes much memory.
#![no_main]

use guestctl::block::Memory;
use guestctl::inspect::packages::{Gathered, rpm::ndb};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = ndb::read(&Memory::new(bytes.to_vec()), &mut Gathered::default());
});
