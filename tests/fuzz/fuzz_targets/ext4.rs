//! An ext4 filesystem of any bytes: opening it (with its journal) and walking it neither panics, nor hangs, nor takes
//! much memory. Checksums are switched off, which would hide everything behind the first one.
#![no_main]

#[path = "../../support/look.rs"]
mod look;

use std::sync::Arc;

use guestctl::block::Memory;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut bytes = bytes.to_vec();
    let Some(superblock) = bytes.get_mut(1024..2048) else { return };
    superblock[0x38..0x3a].copy_from_slice(&[0x53, 0xef]);
    // uninit_bg and metadata_csum.
    superblock[0x64] &= !0x10;
    superblock[0x65] &= !0x04;
    look::look_at_files(Arc::new(Memory::new(bytes)));
});
