//! A qcow2 image of any bytes: opening it, reading it and walking its extents neither panics, nor hangs, nor takes much
//! memory, and what is claimed to be zero is zero.
#![no_main]

use std::path::Path;
use std::sync::Arc;

use guestctl::block::{BlockDevice, ExtentKind, ImageFormat, Memory, open_device};
use libfuzzer_sys::fuzz_target;

/// Extents looked at; a hostile disk may have any number.
const EXTENTS: usize = 200;
const READ: u64 = 128 << 10;

fn read(device: &dyn BlockDevice, offset: u64) -> Option<Vec<u8>> {
    let mut bytes = vec![0xaa; READ.min(device.size() - offset) as usize];
    device.read_exact_at(&mut bytes, offset).ok().map(|()| bytes)
}

fuzz_target!(|bytes: &[u8]| {
    // The magic is no challenge.
    let mut bytes = bytes.to_vec();
    if let Some(magic) = bytes.get_mut(..4) {
        magic.copy_from_slice(b"QFI\xfb");
    }
    let file = Arc::new(Memory::new(bytes));
    let Ok(image) = open_device(file, Path::new("fuzz"), Some(ImageFormat::Qcow2)) else { return };
    let device = &*image.device;
    let size = device.size();
    for offset in [0, size / 2, size.saturating_sub(READ)] {
        read(device, offset);
    }
    let mut at = 0;
    for _ in 0..EXTENTS {
        if at >= size {
            break;
        }
        let Ok(extent) = device.next_extent(at..size) else { break };
        assert!(extent.len > 0 && extent.len <= size - at);
        if extent.kind != ExtentKind::Data {
            let len = extent.len.min(READ) as usize;
            let zeroes = read(device, at).is_none_or(|bytes| bytes[..len].iter().all(|&byte| byte == 0));
            assert!(zeroes, "bytes {at}.. are no zeroes");
        }
        at += extent.len;
    }
});
