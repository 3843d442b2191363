//! Images that our writers made.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use guestctl::block::{
    self, BlockDevice, ExtentKind, ImageFormat, NewImage, OpenOptions, Preallocation, for_each_extent, new_image,
    read_vec,
};

use serde_json::Value;

use crate::support::{have, shell};
use crate::{MIB, consistent, open, raw, same, sparse_disk};

/// Writes `source` as `new` says into `directory`/`name`; runs are at most `most` bytes.
pub fn write(new: &NewImage, source: &dyn BlockDevice, directory: &Path, name: &str, most: usize) {
    let mut writer = new_image(new, name).unwrap();
    let files: Vec<File> = writer.file_names().iter().map(|name| File::create(directory.join(name)).unwrap()).collect();
    let unit = writer.unit();
    assert!(unit.is_power_of_two() && writer.packer().is_none());
    let mut at = 0;
    for_each_extent(source, 0..source.size(), &mut |run, kind| {
        if kind != ExtentKind::Data {
            return Ok(());
        }
        // Extents need not begin or end at a unit.
        at = (run.start / unit * unit).max(at);
        let end = run.end.next_multiple_of(unit).min(source.size());
        while at < end {
            let len = (most as u64 / unit * unit).min(end - at);
            let bytes = read_vec(source, at, len as usize)?;
            let mut place = |start: usize, end: usize| {
                let (mut start, end) = (start as u64, end as u64);
                while start < end {
                    let placed = writer.place(at + start..at + end).unwrap();
                    assert!(placed.len > 0 && placed.len <= end - start);
                    let part = &bytes[start as usize..(start + placed.len) as usize];
                    files[placed.file].write_all_at(part, placed.offset).unwrap();
                    start += placed.len;
                }
            };
            let mut start = None;
            for (index, chunk) in bytes.chunks(unit as usize).enumerate() {
                let here = index * unit as usize;
                match (chunk.iter().all(|byte| *byte == 0), start) {
                    (true, Some(first)) => {
                        place(first, here);
                        start = None;
                    }
                    (false, None) => start = Some(here),
                    _ => {}
                }
            }
            if let Some(first) = start {
                place(first, bytes.len());
            }
            at += len;
        }
        Ok(())
    })
    .unwrap();
    writer.finish(&files).unwrap();
}

/// What qemu-img says about `image`: as large as it was to be, and the same as `disk.raw`.
fn compare(directory: &Path, format: &str, size: u64) {
    shell(directory, &format!("qemu-img compare -q -f {format} -F raw image disk.raw"));
    let info = shell(directory, &format!("qemu-img info -f {format} --output=json image"));
    let info: Value = serde_json::from_slice(&info.stdout).unwrap();
    assert_eq!(info["virtual-size"], size, "{format}");
}

fn new(format: &str, subformat: &str, size: u64) -> NewImage {
    let mut new = NewImage::new(format.parse().unwrap(), size);
    new.subformat = Some(subformat.to_owned());
    new
}

const KINDS: [(&str, &str); 6] = [
    ("vdi", "dynamic"),
    ("vdi", "static"),
    ("vpc", "dynamic"),
    ("vpc", "fixed"),
    ("vhdx", "dynamic"),
    ("vhdx", "fixed"),
];

#[test]
fn qemu_img_reads_what_was_written() {
    if !have("qemu-img") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("disk.raw");
    for (size, runs) in [(0, 0), (512, 1), (7 * 512, 2), (9 * MIB as u64 + 5 * 512, 20), (3 << 30, 25), (140 << 30, 9)]
    {
        sparse_disk(&source, size, runs);
        let disk = raw(&source);
        for (format, subformat) in KINDS {
            let what = format!("{format} {subformat} {size}");
            write(&new(format, subformat, size), &disk, dir.path(), "image", 1 << 20);
            let written = std::fs::metadata(dir.path().join("image")).unwrap();
            assert!(subformat != "dynamic" || written.len() < 800 * MIB as u64, "{what}: {} bytes", written.len());
            // A fixed VHD of no bytes begins with its footer, and QEMU looks for a dynamic header. What has no holes for
            // QEMU (VHDX, and what is stored whole) takes it long.
            let slow = size > 1 << 30 && (format == "vhdx" || subformat != "dynamic");
            if !slow && (size, format, subformat) != (0, "vpc", "fixed") {
                compare(dir.path(), format, size);
            }
            if format != "vpc" {
                shell(dir.path(), &format!("qemu-img check -q -f {format} image"));
            }
            let ours = open(&dir.path().join("image"), format);
            assert_eq!(ours.size(), size, "{what}");
            same(&ours, &disk, &what);
            consistent(&ours, &what);
        }
    }
}

#[test]
fn the_same_disk_gives_the_same_bytes_however_it_comes() {
    let dir = tempfile::tempdir().unwrap();
    sparse_disk(&dir.path().join("disk.raw"), 30 * MIB as u64 + 512, 30);
    let disk = raw(&dir.path().join("disk.raw"));
    for (format, subformat) in KINDS {
        let new = new(format, subformat, disk.size());
        write(&new, &disk, dir.path(), "one", 8192);
        write(&new, &disk, dir.path(), "two", 5 << 20);
        let read = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
        assert!(read("one") == read("two"), "{format} {subformat}");
    }
}

#[test]
fn data_lies_at_multiples_of_4096() {
    for (format, subformat) in KINDS {
        let mut writer = new_image(&new(format, subformat, 100 << 20), "image").unwrap();
        for start in (0..100u64 << 20).step_by(3 << 20) {
            let placed = writer.place(start..start + 8192).unwrap();
            assert_eq!((placed.offset % 4096, placed.len), (0, 8192), "{format} {subformat}");
        }
    }
}

#[test]
fn block_sizes_and_preallocated_tables() {
    if !have("qemu-img") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    sparse_disk(&dir.path().join("disk.raw"), 600 << 20, 12);
    let disk = raw(&dir.path().join("disk.raw"));
    for (format, block_size, preallocation) in [
        (ImageFormat::Vhd, 512 << 10, Preallocation::Off),
        (ImageFormat::Vhd, 2 << 20, Preallocation::Metadata),
        (ImageFormat::Vhdx, 1 << 20, Preallocation::Off),
        (ImageFormat::Vhdx, 256 << 20, Preallocation::Off),
        (ImageFormat::Vhdx, 1 << 20, Preallocation::Metadata),
        (ImageFormat::Vdi, 1 << 20, Preallocation::Metadata),
    ] {
        let mut new = NewImage::new(format, disk.size());
        (new.cluster_size, new.preallocation) = (Some(block_size), preallocation);
        write(&new, &disk, dir.path(), "image", 1 << 20);
        compare(dir.path(), format.name(), disk.size());
        let what = format!("{format} {block_size} {preallocation:?}");
        same(&open(&dir.path().join("image"), format.name()), &disk, &what);
        if preallocation == Preallocation::Metadata {
            assert!(std::fs::metadata(dir.path().join("image")).unwrap().len() > disk.size(), "{what}");
        }
    }
}

#[test]
fn qemu_can_write_to_what_was_written() {
    if !have("qemu-img") || !have("qemu-io") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    sparse_disk(&dir.path().join("disk.raw"), 40 * MIB as u64, 6);
    let disk = raw(&dir.path().join("disk.raw"));
    for (format, subformat) in KINDS {
        write(&new(format, subformat, disk.size()), &disk, dir.path(), "image", 1 << 20);
        let writes = "-c 'write -q -P 7 1000448 3000320' -c 'write -q -P 9 39999488 512' -c 'write -q -P 1 0 65536'";
        let script = format!(
            "cp disk.raw changed.raw; qemu-io -f raw {writes} changed.raw; qemu-io -f {format} {writes} image
            qemu-img compare -q -f {format} -F raw image changed.raw"
        );
        shell(dir.path(), &script);
        same(
            &open(&dir.path().join("image"), format),
            &raw(&dir.path().join("changed.raw")),
            &format!("{format} {subformat}"),
        );
    }
}

#[test]
fn what_a_format_cannot_be_is_refused() {
    let refused = |new: &NewImage| new_image(new, "image").unwrap_err().to_string();
    for (format, size, message) in [
        ("vpc", (2040u64 << 30) + 1, "vpc holds at most 2040 GiB"),
        ("vhdx", (64u64 << 40) + 1, "vhdx holds at most 64 TiB"),
        ("vdi", 1 << 51, "vdi holds less than 1 PiB"),
    ] {
        assert_eq!(refused(&new(format, "dynamic", size)), message);
        let mut compressed = NewImage::new(format.parse().unwrap(), 512);
        compressed.version = Some(3);
        assert_eq!(refused(&compressed), format!("{format} has no option 'compat'"));
        assert!(refused(&new(format, "monolithicSparse", 512)).contains("has no subformat 'monolithicSparse'"));
        compressed.version = None;
        compressed.cluster_size = Some(65_536);
        assert!(refused(&compressed).contains("not 65536"), "{format}");
    }
    let largest = new("vpc", "fixed", 2040 << 30);
    assert!(new_image(&largest, "image").is_ok());
}

#[test]
fn sizes_are_rounded_up_to_sectors() {
    let dir = tempfile::tempdir().unwrap();
    for (format, subformat) in KINDS {
        let image = block::Memory::new(vec![7; 1000]);
        write(&new(format, subformat, 1000), &image, dir.path(), "image", 4096);
        let opened = block::open(&dir.path().join("image"), &OpenOptions::default()).unwrap();
        assert_eq!((opened.info.format.name(), opened.device.size()), (format, 1024));
        let mut expected = vec![7; 1000];
        expected.resize(1024, 0);
        assert_eq!(read_vec(&opened.device, 0, 1024).unwrap(), expected, "{format} {subformat}");
    }
}
