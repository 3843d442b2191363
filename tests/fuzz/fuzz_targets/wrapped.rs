//! A gzip, xz or zstd file of any bytes with a raw disk in it: opening and reading it neither panics, nor hangs, nor takes
//! much memory. The first byte says which container's signature the others get.
#![no_main]

#[allow(dead_code, reason = "files are for other targets")]
#[path = "../../support/look.rs"]
mod look;

use std::path::Path;
use std::sync::Arc;

use guestctl::block::{Memory, open_device};
use libfuzzer_sys::fuzz_target;

const SIGNATURES: [&[u8]; 4] = [b"\x1f\x8b\x08", b"\xfd7zXZ\0\0", b"\x28\xb5\x2f\xfd", b"\x50\x2a\x4d\x18"];

fuzz_target!(|bytes: &[u8]| {
    let Some((which, bytes)) = bytes.split_first() else { return };
    let signature = SIGNATURES[usize::from(*which) % SIGNATURES.len()];
    let mut bytes = bytes.to_vec();
    if let Some(start) = bytes.get_mut(..signature.len()) {
        start.copy_from_slice(signature);
    }
    let Ok(image) = open_device(Arc::new(Memory::new(bytes)), Path::new("fuzz"), None) else { return };
    look::look_at_bytes(&image.device);
});
