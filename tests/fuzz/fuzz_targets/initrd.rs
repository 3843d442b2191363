//! An initial RAM disk of any bytes: listing it neither panics, nor hangs, nor takes much memory.
#![no_main]

use std::sync::Arc;

use guestctl::block::{BlockDevice, Memory};
use guestctl::ops::initrd_list;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let image: Arc<dyn BlockDevice> = Arc::new(Memory::new(bytes.to_vec()));
    let _ = initrd_list(&image);
});
