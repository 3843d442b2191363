//! A VHDX whose structures are any bytes, its checksums right: opening and reading it neither panics, nor hangs, nor takes
//! much memory, and what is called a hole reads as zeroes.
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

/// Where pieces of the input go and how long they are: header, region table, metadata table, its items, BAT, log.
const PIECES: [(usize, usize); 6] =
    [(64 << 10, 80), (192 << 10, 80), (2 << 20, 224), ((2 << 20) + (64 << 10), 64), (3 << 20, 64), (1 << 20, 64 << 10)];

fuzz_target!(|bytes: &[u8]| {
    let mut image = vec![0; 4 << 20];
    let mut rest = bytes;
    for (at, len) in PIECES {
        let (piece, more) = rest.split_at(len.min(rest.len()));
        image[at..at + piece.len()].copy_from_slice(piece);
        rest = more;
    }
    image[..8].copy_from_slice(b"vhdxfile");
    image[64 << 10..][..4].copy_from_slice(b"head");
    image[192 << 10..][..4].copy_from_slice(b"regi");
    repair::vhdx(&mut image);
    let Ok(image) = open_device(Arc::new(Memory::new(image)), Path::new("fuzz"), Some(ImageFormat::Vhdx)) else {
        return;
    };
    look::look_at_bytes(&image.device);
});
