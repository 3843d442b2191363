//! VMDK images made by the writer, driven as simply as can be, held against qemu-img and against the disk they were
//! made from.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use guestctl::block::{
    self, BlockDevice, ExtentKind, HostFile, ImageFormat, NewImage, OpenOptions, SameDirectory, for_each_extent,
    new_image, read_vec,
};
use serde_json::Value;
use support::{have, shell};

const SUBFORMATS: [&str; 5] =
    ["monolithicSparse", "streamOptimized", "monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat"];
const GIB: u64 = 1 << 30;

fn noise(bytes: &mut [u8], mut seed: u64) {
    for byte in bytes {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        *byte = (seed >> 56) as u8;
    }
}

/// A sparse raw disk of `size` bytes: noise, text and bytes of zero at odd places, the last byte always set.
fn disk(path: &Path, size: u64) {
    let file = File::create(path).unwrap();
    file.set_len(size).unwrap();
    let mut place = 1u64;
    for number in 0..12u64 {
        place = place.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(number);
        let at = (place >> 8) % size.max(1);
        let mut bytes = vec![0; (100 + (place >> 44)).min(size - at) as usize];
        match number % 3 {
            0 => noise(&mut bytes, place),
            1 => bytes.iter_mut().enumerate().for_each(|(n, byte)| *byte = b"guest disk "[n % 11]),
            _ => {}
        }
        file.write_all_at(&bytes, at).unwrap();
    }
    // Both sides of where two extents meet.
    if size > 2 * GIB {
        file.write_all_at(&[0x5a; 3 << 20], (2046 << 20) - 512).unwrap();
    }
    file.write_all_at(&[0xff], size - 1).unwrap();
}

/// What convert does, on one thread and a unit at a time.
fn write(source: &dyn BlockDevice, new: &NewImage, directory: &Path, name: &str) -> Vec<String> {
    let mut writer = new_image(new, name).unwrap();
    let names = writer.file_names();
    let files: Vec<_> = names.iter().map(|name| File::create(directory.join(name)).unwrap()).collect();
    let (unit, packer) = (writer.unit(), writer.packer());
    let mut done = 0;
    for_each_extent(source, 0..source.size(), &mut |run, kind| {
        if kind != ExtentKind::Data {
            return Ok(());
        }
        // The host's extents are no units; a unit that two of them share is met once, by its first.
        let mut at = (run.start / unit * unit).max(done);
        while at < run.end {
            let bytes = read_vec(source, at, unit.min(source.size() - at) as usize)?;
            let zero = bytes.iter().all(|&byte| byte == 0);
            match packer.as_ref().filter(|_| !zero).map(|packer| packer.pack(at, &bytes).unwrap().unwrap()) {
                Some(packed) => {
                    let place = writer.place_packed(at, packed.len())?;
                    assert_eq!((place.len, place.offset % 512), (packed.len() as u64, 0));
                    files[place.file].write_all_at(&packed, place.offset).unwrap();
                }
                None if zero => {}
                None => {
                    let place = writer.place(at..at + bytes.len() as u64)?;
                    assert_eq!((place.len, place.offset % 4096), (bytes.len() as u64, 0), "{at:#x}");
                    files[place.file].write_all_at(&bytes, place.offset).unwrap();
                }
            }
            at += unit;
            done = at;
        }
        Ok(())
    })
    .unwrap();
    writer.finish(&files).unwrap();
    names
}

fn new(subformat: &str, size: u64) -> NewImage {
    let mut new = NewImage::new(ImageFormat::Vmdk, size);
    new.subformat = Some(subformat.to_owned());
    new
}

/// Our reader sees the same disk, as far as data goes; the rest is holes, which are zero.
fn reads_back(source: &dyn BlockDevice, path: &Path, what: &str) {
    let options = OpenOptions { gate: Arc::new(SameDirectory), ..OpenOptions::default() };
    let image = block::open(path, &options).unwrap();
    assert_eq!(image.device.size(), source.size().next_multiple_of(512), "{what}");
    for device in [source, &*image.device] {
        for_each_extent(device, 0..source.size(), &mut |run, kind| {
            let mut at = run.start;
            while kind == ExtentKind::Data && at < run.end {
                let len = (run.end - at).min(1 << 20) as usize;
                assert!(read_vec(source, at, len)? == read_vec(&*image.device, at, len)?, "{what}: {at:#x}");
                at += len as u64;
            }
            Ok(())
        })
        .unwrap();
    }
}

#[test]
fn every_kind_and_size_is_what_qemu_reads() {
    if !have("qemu-img") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let sizes = [1, 512, 1000, 3 * 512, 65_536, 70_001 * 512, (33 << 20) + 512, 3 * GIB + 5 * 512, 5 * GIB];
    for size in sizes {
        disk(&dir.path().join("disk.raw"), size);
        let source = HostFile::open(&dir.path().join("disk.raw")).unwrap();
        for subformat in SUBFORMATS {
            let what = format!("{subformat} of {size} bytes");
            let name = format!("{subformat}.vmdk");
            write(&source, &new(subformat, size), dir.path(), &name);
            let output = shell(dir.path(), &format!("qemu-img info --output=json {name}"));
            let info: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(info["virtual-size"], size.next_multiple_of(512), "{what}");
            assert_eq!(info["format-specific"]["data"]["create-type"], *subformat, "{what}");
            // It has no check for flat extents.
            if !subformat.ends_with("Flat") {
                shell(dir.path(), &format!("qemu-img check -q {name}"));
            }
            shell(dir.path(), &format!("qemu-img compare -f raw -F vmdk disk.raw {name}"));
            reads_back(&source, &dir.path().join(&name), &what);
        }
    }
}

#[test]
fn grains_of_every_size() {
    if !have("qemu-img") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    disk(&dir.path().join("disk.raw"), (40 << 20) + 512);
    let source = HostFile::open(&dir.path().join("disk.raw")).unwrap();
    for subformat in ["monolithicSparse", "streamOptimized", "twoGbMaxExtentSparse"] {
        for grain in (12..=20).map(|bits| 1 << bits) {
            let mut new = new(subformat, source.size());
            new.cluster_size = Some(grain);
            write(&source, &new, dir.path(), "x.vmdk");
            shell(dir.path(), "qemu-img check -q x.vmdk && qemu-img compare -f raw -F vmdk disk.raw x.vmdk");
            reads_back(&source, &dir.path().join("x.vmdk"), &format!("{subformat} of {grain}"));
        }
    }
}

#[test]
fn the_same_disk_makes_the_same_file_and_another_another_content_id() {
    let dir = tempfile::tempdir().unwrap();
    disk(&dir.path().join("disk.raw"), 9 << 20);
    let source = HostFile::open(&dir.path().join("disk.raw")).unwrap();
    disk(&dir.path().join("other.raw"), 8 << 20);
    let other = HostFile::open(&dir.path().join("other.raw")).unwrap();
    let cid = |name: &str| block::open(&dir.path().join(name), &OpenOptions::default()).unwrap().info.format_specific;
    for subformat in ["monolithicSparse", "streamOptimized"] {
        write(&source, &new(subformat, source.size()), dir.path(), "a.vmdk");
        std::fs::rename(dir.path().join("a.vmdk"), dir.path().join("b.vmdk")).unwrap();
        write(&source, &new(subformat, source.size()), dir.path(), "a.vmdk");
        let [a, b] = ["a.vmdk", "b.vmdk"].map(|name| std::fs::read(dir.path().join(name)).unwrap());
        assert!(a == b, "{subformat}");
        write(&other, &new(subformat, other.size()), dir.path(), "b.vmdk");
        let [Some(block::FormatSpecific::Vmdk { cid: a, .. }), Some(block::FormatSpecific::Vmdk { cid: b, .. })] =
            ["a.vmdk", "b.vmdk"].map(cid)
        else {
            panic!("{subformat}")
        };
        assert_ne!(a, b, "{subformat}");
    }
}

/// Reads a stream-optimized image as a tape is read: never back, never ahead of what was announced.
fn unroll(mut stream: impl Read) -> Vec<u8> {
    let mut sector = [0; 512];
    let le = |bytes: &[u8]| bytes.iter().rev().fold(0u64, |value, &byte| value << 8 | u64::from(byte));
    stream.read_exact(&mut sector).unwrap();
    let header = sector;
    assert_eq!((&header[..4], le(&header[56..64])), (b"KDMV".as_slice(), u64::MAX));
    let (capacity, grain) = (le(&header[12..20]) as usize * 512, le(&header[20..28]) as usize * 512);
    let mut skipped = vec![0; (le(&header[64..72]) as usize - 1) * 512];
    stream.read_exact(&mut skipped).unwrap();
    let mut position = le(&header[64..72]);
    let mut disk = vec![0; capacity];
    // Where the grains of the open table are, the tables so far, and the last directory.
    let (mut grains, mut tables, mut directory) = (vec![], vec![], (0, vec![]));
    let mut inflater = libdeflater::Decompressor::new();
    loop {
        stream.read_exact(&mut sector).unwrap();
        let (value, size, start) = (le(&sector[..8]), le(&sector[8..12]) as usize, position);
        position += 1;
        if size > 0 {
            let mut data = sector[12..].to_vec();
            let rest = (12 + size).next_multiple_of(512) - 512;
            data.resize(500 + rest, 0);
            stream.read_exact(&mut data[500..]).unwrap();
            assert!(data[size..].iter().all(|&byte| byte == 0), "padding");
            position += rest as u64 / 512;
            let mut out = vec![0; grain];
            assert_eq!(inflater.zlib_decompress(&data[..size], &mut out).unwrap(), grain);
            let at = value as usize * 512;
            let len = grain.min(capacity - at);
            disk[at..at + len].copy_from_slice(&out[..len]);
            grains.push((value, start));
            continue;
        }
        let kind = le(&sector[12..16]);
        if kind == 0 {
            assert_eq!((value, stream.read(&mut sector).unwrap()), (0, 0), "the end of the stream");
            return disk;
        }
        let mut content = vec![0; value as usize * 512];
        stream.read_exact(&mut content).unwrap();
        position += value;
        let entries: Vec<u64> = content.chunks(4).map(le).collect();
        match kind {
            1 => {
                let first = grains[0].0 * 512 / grain as u64 / 512;
                let mut expected = vec![0; 512];
                for (lba, at) in grains.drain(..) {
                    let number = lba * 512 / grain as u64;
                    assert_eq!(number / 512, first);
                    expected[number as usize % 512] = at;
                }
                assert_eq!(entries, expected);
                tables.push((first, start + 1));
            }
            2 => {
                let listed: Vec<_> = (0..).zip(entries).filter(|(_, at)| *at != 0).collect();
                assert_eq!((listed, grains.len()), (tables.clone(), 0));
                directory = (start + 1, content);
            }
            3 => {
                assert_eq!(le(&content[56..64]), directory.0);
                assert_eq!((&content[..56], &content[64..]), (&header[..56], &header[64..]));
            }
            other => panic!("marker {other}"),
        }
    }
}

#[test]
fn a_stream_is_read_front_to_back() {
    let dir = tempfile::tempdir().unwrap();
    for (size, grain) in [(512, 65_536), ((100 << 20) + 512, 65_536), (9 << 20, 4096)] {
        disk(&dir.path().join("disk.raw"), size);
        let source = HostFile::open(&dir.path().join("disk.raw")).unwrap();
        let mut new = new("streamOptimized", size);
        new.cluster_size = Some(grain);
        write(&source, &new, dir.path(), "x.vmdk");
        let unrolled = unroll(File::open(dir.path().join("x.vmdk")).unwrap());
        assert!(unrolled == std::fs::read(dir.path().join("disk.raw")).unwrap(), "{size}");
    }
}
