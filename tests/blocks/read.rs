//! Images that qemu-img made.

use std::path::Path;

use guestctl::block::{self, BlockDevice, ExtentKind, OpenOptions};
use serde_json::Value;

use crate::support::{have, shell};
use crate::{MIB, consistent, open, options, raw, same, sparse_disk};

const KINDS: [(&str, &str); 10] = [
    ("vdi", "static=off"),
    ("vdi", "static=on"),
    ("vpc", "subformat=dynamic"),
    ("vpc", "subformat=dynamic,force_size=on"),
    ("vpc", "subformat=fixed"),
    ("vpc", "subformat=fixed,force_size=on"),
    ("vhdx", "subformat=dynamic"),
    ("vhdx", "subformat=dynamic,block_size=1M,block_state_zero=off"),
    ("vhdx", "subformat=dynamic,block_size=256M"),
    ("vhdx", "subformat=fixed"),
];

/// Every key that qemu-img prints must be ours with the same value, but for how the file itself is stored.
fn info_agrees(path: &Path, format: &str, what: &str) {
    let output = shell(Path::new("/"), &format!("qemu-img info -f {format} --output=json {}", path.display()));
    let mut theirs: Value = serde_json::from_slice(&output.stdout).unwrap();
    for key in ["children", "actual-size"] {
        theirs.as_object_mut().unwrap().remove(key);
    }
    let ours = serde_json::to_value(block::open(path, &options(format)).unwrap().info).unwrap();
    for (key, value) in theirs.as_object().unwrap() {
        assert_eq!(&ours[key], value, "{what}: {key}");
    }
}

#[test]
fn every_kind_and_size_reads_as_the_disk_it_was_made_from() {
    if !have("qemu-img") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("disk.raw");
    for (size, runs) in [(0, 0), (512, 3), (7 * 512, 4), (9 * MIB as u64 + 5 * 512, 20), (3 << 30, 25)] {
        sparse_disk(&source, size, runs);
        let expected = raw(&source);
        for (format, kind) in KINDS {
            // Fixed VHD of no bytes: the footer comes first, and QEMU looks for a dynamic header.
            // And of no bytes it makes no VHDX with blocks as large.
            if size == 0 && ((format, kind.contains("fixed")) == ("vpc", true) || kind.contains("256M")) {
                continue;
            }
            if size > 1 << 30 && (kind.contains("fixed") || kind == "static=on") {
                // What is stored whole takes long, and is no different.
                continue;
            }
            let (what, path) = (format!("{format} {kind} {size}"), dir.path().join("image"));
            shell(dir.path(), &format!("qemu-img convert -f raw -O {format} -o {kind} disk.raw image"));
            let device = open(&path, format);
            info_agrees(&path, format, &what);
            same(&device, &expected, &what);
            consistent(&device, &what);
            let probed = block::open(&path, &OpenOptions::default()).unwrap();
            assert_eq!(probed.info.format.name(), format, "{what}: probed");
        }
    }
}

#[test]
fn map_agrees_with_qemu_img() {
    if !have("qemu-img") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    sparse_disk(&dir.path().join("disk.raw"), 60 * MIB as u64, 8);
    for (format, kind) in [("vdi", "static=off"), ("vpc", "subformat=dynamic,force_size=on")] {
        let script = format!(
            "qemu-img convert -f raw -O {format} -o {kind} disk.raw image; qemu-img map -f {format} --output=json image"
        );
        let theirs: Value = serde_json::from_slice(&shell(dir.path(), &script).stdout).unwrap();
        let device = open(&dir.path().join("image"), format);
        for entry in theirs.as_array().unwrap() {
            let (start, len) = (entry["start"].as_u64().unwrap(), entry["length"].as_u64().unwrap());
            let mut at = start;
            while at < start + len {
                let status = device.status(at..start + len).unwrap();
                let what = format!("{format} at {at}: {status:?}, {entry}");
                assert_eq!(status.kind == ExtentKind::Data, entry["data"].as_bool().unwrap(), "{what}");
                assert_eq!(status.allocated, entry["present"].as_bool().unwrap(), "{what}");
                assert_eq!(status.depth, 0, "{what}");
                assert_eq!(status.offset, entry["offset"].as_u64().map(|offset| offset + at - start), "{what}");
                at += status.len;
            }
            assert_eq!(at, start + len);
        }
    }
}

#[test]
fn qemu_and_we_agree_about_the_size_whoever_made_a_vhd() {
    if !have("qemu-img") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    shell(dir.path(), "qemu-img create -q -f vpc -o force_size=on image 123456512");
    let made = std::fs::read(&path).unwrap();
    for (creator, geometry) in [
        (b"vpc ", [0x0d, 0x47, 4, 17]),
        (b"qemu", [0x0d, 0x47, 4, 17]),
        (b"qem2", [0x0d, 0x47, 4, 17]),
        (b"win ", [0x0d, 0x47, 4, 17]),
        (b"d2v ", [0x0d, 0x47, 4, 17]),
        (b"tap\0", [0x0d, 0x47, 4, 17]),
        (b"CTXS", [0x0d, 0x47, 4, 17]),
        (b"wa\0\0", [0x0d, 0x47, 4, 17]),
        (b"vs  ", [0x0d, 0x47, 4, 17]),
        (b"vpc ", [0xff, 0xff, 16, 255]),
    ] {
        let mut bytes = made.clone();
        let end = bytes.len() - 512;
        for at in [0, end] {
            let footer = &mut bytes[at..at + 512];
            footer[28..32].copy_from_slice(creator);
            footer[56..60].copy_from_slice(&geometry);
            seal(footer, 64);
        }
        std::fs::write(&path, bytes).unwrap();
        info_agrees(&path, "vpc", &format!("{} {geometry:?}", String::from_utf8_lossy(creator)));
    }
}

/// Repairs a VHD checksum.
pub fn seal(bytes: &mut [u8], at: usize) {
    bytes[at..at + 4].fill(0);
    let sum = !bytes.iter().fold(0u32, |sum, byte| sum.wrapping_add((*byte).into()));
    bytes[at..at + 4].copy_from_slice(&sum.to_be_bytes());
}
