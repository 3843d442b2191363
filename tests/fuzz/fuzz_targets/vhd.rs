//! A VHD of any bytes, its checksums right: opening and reading it neither panics, nor hangs, nor takes much memory, and
//! what is called a hole reads as zeroes.
#![no_main]

#[allow(dead_code, reason = "files are for other targets")]
#[path = "../../support/look.rs"]
mod look;
#[path = "../../support/repair.rs"]
mod repair;

use std::path::Path;
use std::sync::Arc;

use guestctl::block::{ImageFormat, Memory, open_device};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut bytes = bytes.to_vec();
    for (at, cookie) in [(0, b"conectix"), (512, b"cxsparse")] {
        if let Some(place) = bytes.get_mut(at..at + 8) {
            place.copy_from_slice(cookie);
        }
    }
    repair::vhd(&mut bytes);
    let Ok(image) = open_device(Arc::new(Memory::new(bytes)), Path::new("fuzz"), Some(ImageFormat::Vhd)) else {
        return;
    };
    look::look_at_bytes(&image.device);
});
