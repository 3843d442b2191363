//! RPM's Berkeley DB hash of any bytes: reading it neither panics, nor hangs, nor takes much memory.
#![no_main]

use guestctl::block::Memory;
use guestctl::inspect::packages::{Gathered, rpm::bdb};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = bdb::read(&Memory::new(bytes.to_vec()), &mut Gathered::default());
});
