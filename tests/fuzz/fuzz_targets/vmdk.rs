//! VMDK images from arbitrary bytes, descriptors and sparse extents: errors are fine, panics and endless runs are not,
//! and what is called a hole reads as zeroes.
#![no_main]

use std::path::Path;
use std::sync::Arc;

use guestctl::block::{BlockDevice, ExtentKind, ImageFormat, Memory, open_device};
use libfuzzer_sys::fuzz_target;

/// More runs than this are not walked: a disk may be far larger than the input.
const RUNS: usize = 1000;

fuzz_target!(|data: &[u8]| {
    let file: Arc<dyn BlockDevice> = Arc::new(Memory::new(data.to_vec()));
    let Ok(image) = open_device(file, Path::new("fuzz.vmdk"), Some(ImageFormat::Vmdk)) else { return };
    let device = image.device;
    let mut buf = vec![0; 64 << 10];
    let mut at = 0;
    for _ in 0..RUNS {
        if at >= device.size() {
            break;
        }
        let Ok(extent) = device.next_extent(at..device.size()) else { break };
        assert!(extent.len > 0 && extent.len <= device.size() - at);
        let len = usize::try_from(extent.len).unwrap_or(usize::MAX).min(buf.len());
        if device.read_exact_at(&mut buf[..len], at).is_ok() && extent.kind != ExtentKind::Data {
            assert!(buf[..len].iter().all(|&byte| byte == 0));
        }
        at += extent.len;
    }
});
