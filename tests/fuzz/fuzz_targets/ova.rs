//! An OVA of any bytes, its headers' checksums repaired: opening it and reading the disk in it neither panics nor hangs,
//! and the disk lies inside the archive.
#![no_main]

use std::path::Path;
use std::sync::Arc;

use guestctl::block::{BlockDevice, ImageFormat, Memory, open_device};
use libfuzzer_sys::fuzz_target;

/// Headers repaired; members are small here.
const HEADERS: usize = 16;

/// Gives what stands at every header's place a right checksum.
fn repair(bytes: &mut [u8]) {
    let mut at = 0;
    for _ in 0..HEADERS {
        let Some(header) = bytes.get_mut(at..at + 512) else { return };
        header[257..262].copy_from_slice(b"ustar");
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let size = std::str::from_utf8(&header[124..135]).ok().and_then(|size| usize::from_str_radix(size, 8).ok());
        at += 512 + size.unwrap_or(0).next_multiple_of(512);
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut bytes = bytes.to_vec();
    repair(&mut bytes);
    let file: Arc<dyn BlockDevice> = Arc::new(Memory::new(bytes));
    let Ok(image) = open_device(file, Path::new("fuzz.ova"), Some(ImageFormat::Ova)) else { return };
    let mut buf = vec![0; image.device.size().min(64 << 10) as usize];
    let _ = image.device.read_exact_at(&mut buf, 0);
});
