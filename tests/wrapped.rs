//! Images wrapped by gzip, bgzip, xz and zstd, read at any offset.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use guestctl::block::{
    self, BlockDevice, Container, Extent, HostFile, ImageFormat, ImageInfo, OpenOptions, open_device, read_vec,
};
use guestctl::{Error, Result};
use support::{have, shell};

const MIB: usize = 1 << 20;

/// Text, noise and zeroes.
fn pattern(len: usize) -> Vec<u8> {
    let mut disk = vec![0; len];
    let mut seed = 1u64;
    for (index, part) in disk.chunks_mut(70_001).enumerate() {
        for (at, byte) in part.iter_mut().enumerate() {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = match index % 4 {
                0 => (seed >> 56) as u8,
                1 => b"guest disk "[at % 11],
                2 => (seed >> 61) as u8,
                _ => 0,
            };
        }
    }
    disk
}

fn tools(names: &[&str]) -> bool {
    names.iter().all(|name| have(name))
}

fn open(path: &Path) -> Result<block::Image> {
    block::open(path, &OpenOptions::default())
}

fn refused(directory: &Path, script: &str) -> Error {
    shell(directory, script);
    let opened = open(&directory.join("x")).and_then(|image| {
        let size = image.device.size();
        read_vec(&*image.device, 0, size as usize)
    });
    let error = opened.expect_err(script);
    assert_eq!(error.exit_code(), 7, "{script}: {error}");
    assert!(script.contains("xz -dc") || error.hint().is_some_and(|hint| hint.contains("-dc")), "{script}: {error}");
    error
}

#[test]
fn every_container_is_read_at_any_offset() {
    if !tools(&["xz", "gzip", "bgzip", "zstd"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let disk = pattern(9 * MIB + 777);
    std::fs::write(dir.path().join("disk"), &disk).unwrap();
    seekable(&disk, &dir.path().join("seekable"));
    let (gzip, xz, zstd) = (Container::Gzip, Container::Xz, Container::Zstd);
    for (container, script) in [
        (xz, "xz -kc -T0 --block-size=1MiB disk > x"),
        (xz, "xz -kc --block-size=300001 -C sha256 disk > x"),
        (xz, "xz -kc --block-size=3MiB -C crc32 -9 disk > x"),
        (xz, "xz -kc --block-size=3MiB -C none -0 disk > x"),
        (xz, "xz -kc disk > x"),
        (
            xz,
            "head -c 5000000 disk | xz -T2 --block-size=1MiB > x; head -c 8000 /dev/zero >> x
              xz -c /dev/null >> x; tail -c +5000001 disk | xz -C crc32 >> x; head -c 4 /dev/zero >> x",
        ),
        (gzip, "gzip -kc disk > x"),
        (gzip, "gzip -1 -kc disk > x"),
        (gzip, "bgzip -c disk > x"),
        (gzip, "head -c 5000000 disk | bgzip > x; tail -c +5000001 disk | bgzip -l 9 >> x"),
        (zstd, "zstd -qkc disk > x"),
        (zstd, "zstd -qkc --no-check -19 disk > x"),
        (zstd, "split -b 100003 disk part-; zstd -q part-*; cat part-*.zst > x; rm part-*"),
        (zstd, "cp seekable x"),
    ] {
        shell(dir.path(), script);
        let image = open(&dir.path().join("x")).unwrap_or_else(|error| panic!("{script}: {error}"));
        assert_eq!((image.info.compressed_container, image.info.format), (Some(container), ImageFormat::Raw));
        let device = &*image.device;
        assert!(read_vec(device, 0, disk.len()).unwrap() == disk, "{script}");
        let mut at = disk.len();
        for step in [1usize, 511, 4096, 65_536, 70_001, 300_001, 2 * MIB].iter().cycle() {
            let len = (*step).min(at);
            at -= len;
            assert!(read_vec(device, at as u64, len).unwrap() == disk[at..at + len], "{script}: {len} bytes at {at}");
            if at == 0 {
                break;
            }
        }
        assert!(read_vec(device, disk.len() as u64, 1).is_err());
    }
}

/// Frames of 500,000 bytes with the seek table of zstd's seekable format behind them.
fn seekable(disk: &[u8], path: &Path) {
    let (mut file, mut table, mut count) = (Vec::new(), Vec::new(), 0u32);
    for part in disk.chunks(500_000) {
        let frame = zstd::bulk::compress(part, 3).unwrap();
        table.extend([frame.len() as u32, part.len() as u32, 0x1234_5678].map(u32::to_le_bytes).concat());
        file.extend(frame);
        count += 1;
    }
    table.extend(count.to_le_bytes());
    table.push(0x80);
    table.extend(0x8f92_eab1u32.to_le_bytes());
    file.extend(0x184d_2a5eu32.to_le_bytes());
    file.extend((table.len() as u32).to_le_bytes());
    file.extend(table);
    std::fs::write(path, file).unwrap();
}

#[test]
fn the_image_inside_is_probed_unless_its_format_is_stated() {
    if !tools(&["qemu-img", "xz", "zstd"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let disk = pattern(3 * MIB);
    std::fs::write(dir.path().join("disk.raw"), &disk).unwrap();
    let script = "qemu-img convert -O qcow2 disk.raw disk.qcow2; xz -k disk.qcow2; xz -kc disk.raw > other.img
        xz -k disk.raw; zstd -q disk.raw.xz -o twice.zst; cp disk.qcow2.xz base.img
        qemu-img create -q -f qcow2 -u -b disk.raw.xz -F raw top.qcow2 3M";
    shell(dir.path(), script);
    let path = |name: &str| dir.path().join(name);
    let image = open(&path("disk.qcow2.xz")).unwrap();
    assert_eq!((image.info.format, image.info.compressed_container), (ImageFormat::Qcow2, Some(Container::Xz)));
    assert!(read_vec(&*image.device, 0, disk.len()).unwrap() == disk);
    let json = serde_json::to_value(ImageInfo::read(&path("disk.qcow2.xz"), &OpenOptions::default()).unwrap()).unwrap();
    assert_eq!(json["compressed-container"], "xz");

    let stated =
        |name: &str, format| block::open(&path(name), &OpenOptions { format: Some(format), ..Default::default() });
    let raw = stated("disk.qcow2.xz", ImageFormat::Raw).unwrap();
    assert_eq!(raw.device.size(), std::fs::metadata(path("disk.qcow2")).unwrap().len());
    assert!(stated("disk.raw.xz", ImageFormat::Qcow2).is_err());
    // The name says nothing of a container, so the stated format is that of the file.
    let whole = stated("other.img", ImageFormat::Raw).unwrap();
    assert_eq!(whole.device.size(), std::fs::metadata(path("other.img")).unwrap().len());

    let twice = open(&path("twice.zst")).unwrap_err();
    assert_eq!(twice.to_string().split(": ").last().unwrap(), "xz inside is not supported");
    // What another image calls raw is taken as it is.
    let gate = Arc::new(block::SameDirectory);
    let top = block::open(&path("top.qcow2"), &OpenOptions { gate, ..Default::default() }).unwrap();
    assert!(read_vec(&*top.device, 0, 6).unwrap() == b"\xfd7zXZ\0");
}

#[test]
fn what_cannot_be_read_anywhere_is_refused_with_advice() {
    if !tools(&["xz", "gzip", "zstd", "pzstd"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("disk"), pattern(30 * MIB)).unwrap();
    let small = "head -c 3000000 disk > small";
    for (script, feature) in [
        ("xz -kc -1 -T1 disk > x", "xz: a block of 31457280 bytes"),
        ("gzip -1 -kc disk > x", "gzip: a block of 31457280 bytes"),
        ("zstd -qkc disk > x", "zstd: a frame of 31457280 bytes"),
        ("cat small | zstd -q > x", "zstd: a frame without Frame_Content_Size"),
        ("pzstd -q -p 4 -1 -c small > x", "zstd: a frame without Frame_Content_Size"),
        ("gzip -kc small > x; gzip -kc small >> x", "gzip: members without their size"),
        ("gzip -kc small > x; echo | gzip >> x", "gzip: members without their size"),
        ("echo | gzip > x; gzip -kc small >> x", "gzip: members without their size"),
        ("xz -kc --x86 --lzma2 small > x", "xz: filter 0x4"),
        ("xz -kc --lzma2=dict=512MiB disk --block-size=24MiB > x", "xz: a block of 25165824 bytes with a window of"),
    ] {
        let error = refused(dir.path(), &format!("{small}; {script}"));
        assert!(error.to_string().contains(feature), "{script}: {error}");
    }
}

/// Counts the bytes that are read from the file.
#[derive(Debug)]
struct Counting(HostFile, AtomicU64);

impl BlockDevice for Counting {
    fn size(&self) -> u64 {
        self.0.size()
    }
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.1.fetch_add(buf.len() as u64, Ordering::Relaxed);
        self.0.read_exact_at(buf, offset)
    }
    fn next_extent(&self, range: Range<u64>) -> Result<Extent> {
        self.0.next_extent(range)
    }
}

#[test]
fn threads_that_read_in_turn_unpack_each_block_once() {
    if !tools(&["xz", "bgzip", "zstd"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let disk = pattern(61 * MIB);
    std::fs::write(dir.path().join("disk"), &disk).unwrap();
    for script in [
        "xz -kc -0 --block-size=20MiB disk > x",
        "xz -kc -0 --block-size=3MiB disk > x",
        "bgzip -l 1 -c disk > x",
        "split -b 7000000 disk part-; zstd -q -1 part-*; cat part-*.zst > x; rm part-*",
    ] {
        shell(dir.path(), script);
        let file = Arc::new(Counting(HostFile::open(&dir.path().join("x")).unwrap(), AtomicU64::new(0)));
        let image = open_device(file.clone(), Path::new("x"), None).unwrap();
        let next = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    loop {
                        let at = next.fetch_add(2 << 20, Ordering::Relaxed) as usize;
                        if at >= disk.len() {
                            break;
                        }
                        let len = (2 * MIB).min(disk.len() - at);
                        assert!(read_vec(&*image.device, at as u64, len).unwrap() == disk[at..at + len], "{script}");
                    }
                });
            }
        });
        let (read, size) = (file.1.load(Ordering::Relaxed), file.size());
        assert!(read <= size * 3 / 2, "{script}: {read} bytes read of {size}");
    }
}
