//! A VDI image of any bytes: opening and reading it neither panics, nor hangs, nor takes much memory, and what is called a
//! hole reads as zeroes.
#![no_main]

#[allow(dead_code, reason = "files are for other targets")]
#[path = "../../support/look.rs"]
mod look;

use std::path::Path;
use std::sync::Arc;

use guestctl::block::{ImageFormat, Memory, open_device};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    // The signature and the version are no challenge.
    let mut bytes = bytes.to_vec();
    if let Some(signature) = bytes.get_mut(64..72) {
        signature.copy_from_slice(b"\x7f\x10\xda\xbe\x01\0\x01\0");
    }
    let Ok(image) = open_device(Arc::new(Memory::new(bytes)), Path::new("fuzz"), Some(ImageFormat::Vdi)) else {
        return;
    };
    look::look_at_bytes(&image.device);
});
