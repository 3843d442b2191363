//! A FAT volume of any bytes: opening and walking it neither panics, nor hangs, nor takes much memory.
#![no_main]

#[path = "../../support/look.rs"]
mod look;

use std::sync::Arc;

use guestctl::block::Memory;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| look::look_at_files(Arc::new(Memory::new(bytes.to_vec()))));
