//! VDI, VHD and VHDX: images by qemu-img read as the disks they were made from, images by our writers read by qemu-img.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "blocks/differencing.rs"]
mod differencing;
#[path = "blocks/log.rs"]
mod log;
#[path = "blocks/read.rs"]
mod read;
mod support;
#[path = "blocks/write.rs"]
mod write;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use guestctl::block::{
    self, BlockDevice, ExtentKind, ImageFormat, OpenOptions, SameDirectory, for_each_extent, read_vec,
};

pub const MIB: usize = 1 << 20;

pub fn options(format: &str) -> OpenOptions {
    OpenOptions { format: Some(format.parse().unwrap()), gate: Arc::new(SameDirectory), ..OpenOptions::default() }
}

pub fn open(path: &Path, format: &str) -> Arc<dyn BlockDevice> {
    block::open(path, &options(format)).unwrap().device
}

pub fn raw(path: &Path) -> Arc<dyn BlockDevice> {
    let options = OpenOptions { format: Some(ImageFormat::Raw), ..OpenOptions::default() };
    block::open(path, &options).unwrap().device
}

/// A generator of numbers that are random enough (xorshift64*).
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % bound
    }
}

/// A sparse raw disk of `size` bytes with `runs` runs of noise at any offsets, the same for the same size.
pub fn sparse_disk(path: &Path, size: u64, runs: u64) {
    let file = File::create(path).unwrap();
    file.set_len(size).unwrap();
    let mut random = Random(0x9e37_79b9 ^ size);
    for _ in 0..runs {
        let at = random.below(size);
        let len = random.below(300_000).min(size - at);
        let bytes: Vec<u8> = (0..len).map(|_| random.below(255) as u8 + 1).collect();
        file.write_all_at(&bytes, at).unwrap();
    }
}

/// Compares two disks wherever either has data; the longer one has zeroes past the shorter one's end.
pub fn same(left: &dyn BlockDevice, right: &dyn BlockDevice, what: &str) {
    for (one, other) in [(left, right), (right, left)] {
        for_each_extent(one, 0..one.size(), &mut |run, kind| {
            if kind != ExtentKind::Data {
                return Ok(());
            }
            for at in run.clone().step_by(MIB) {
                let len = (run.end - at).min(MIB as u64);
                let there = other.size().saturating_sub(at).min(len) as usize;
                let read = |at, len| read_vec(other, at, len).unwrap_or_else(|error| panic!("{what}: {error}"));
                let mut expected = if there == 0 { Vec::new() } else { read(at, there) };
                expected.resize(len as usize, 0);
                assert!(read_vec(one, at, len as usize).unwrap() == expected, "{what}: {len} bytes at {at}");
            }
            Ok(())
        })
        .unwrap();
    }
}

/// Reads at odd places in odd lengths, and holds claims of zeroes and host ranges against the bytes.
pub fn consistent(device: &dyn BlockDevice, what: &str) {
    let mut random = Random(device.size() | 1);
    for_each_extent(device, 0..device.size(), &mut |run, kind| {
        let len = (run.end - run.start).min(70_001);
        let bytes = read_vec(device, run.start, len as usize).unwrap();
        assert!(kind == ExtentKind::Data || bytes.iter().all(|byte| *byte == 0), "{what}: {run:?} is not {kind:?}");
        let within = random.below(len);
        let part = read_vec(device, run.start + within, (len - within) as usize).unwrap();
        assert!(part == bytes[within as usize..], "{what}: {within} in {run:?}");
        if let Some(place) = device.host_range(run.start..run.start + len) {
            let mut there = vec![0; place.len as usize];
            place.file.read_exact_at(&mut there, place.offset).unwrap();
            assert!(there == bytes[..there.len()], "{what}: host range of {run:?}");
        }
        let status = device.status(run.clone()).unwrap();
        assert!(status.len > 0 && status.len <= run.end - run.start, "{what}: {status:?}");
        Ok(())
    })
    .unwrap();
}
