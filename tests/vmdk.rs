//! VMDK images made by qemu-img, held against the raw disk they were made from and against `qemu-img info`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::path::Path;
use std::sync::Arc;

use guestctl::block::{
    self, BlockDevice, DenyAll, ExtentKind, ImageInfo, OpenGate, OpenOptions, SameDirectory, for_each_extent, read_vec,
};
use serde_json::Value;
use support::{have, shell};

const SUBFORMATS: [&str; 5] =
    ["monolithicSparse", "streamOptimized", "monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat"];
const MIB: usize = 1 << 20;

fn options(gate: impl OpenGate + 'static) -> OpenOptions {
    OpenOptions { gate: Arc::new(gate), ..OpenOptions::default() }
}

fn open(path: &Path) -> Arc<dyn BlockDevice> {
    block::open(path, &options(SameDirectory)).unwrap().device
}

/// A disk of holes, text, noise and zeroes at odd places, not a multiple of the grain.
fn pattern() -> Vec<u8> {
    let mut disk = vec![0; 9 * MIB + 5 * 512];
    let mut seed = 1u64;
    for byte in &mut disk[MIB + 700..2 * MIB + 90_000] {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        *byte = (seed >> 56) as u8;
    }
    for (index, byte) in disk[4 * MIB - 3..6 * MIB + 1].iter_mut().enumerate() {
        *byte = b"guest disk "[index % 11];
    }
    let end = disk.len();
    disk[end - 1] = 0xff;
    disk
}

/// Compares all bytes, in large and in odd small reads, and holds every claim of zeroes against them.
fn agrees(device: &dyn BlockDevice, expected: &[u8], what: &str) {
    assert_eq!(device.size(), expected.len() as u64, "{what}");
    assert!(read_vec(device, 0, expected.len()).unwrap() == expected, "{what}: whole");
    let mut at = 0;
    for step in [1usize, 511, 4096, 65_535, 65_536, 70_001, 300_000].iter().cycle() {
        let len = (*step).min(expected.len() - at);
        assert!(read_vec(device, at as u64, len).unwrap() == expected[at..at + len], "{what}: {len} bytes at {at}");
        at += len;
        if at == expected.len() {
            break;
        }
    }
    let mut end = 0;
    for_each_extent(device, 0..device.size(), &mut |run, kind| {
        assert_eq!(run.start, end, "{what}");
        end = run.end;
        let bytes = &expected[run.start as usize..run.end as usize];
        assert!(kind == ExtentKind::Data || bytes.iter().all(|&byte| byte == 0), "{what}: {run:?} is not {kind:?}");
        if let Some(place) = device.host_range(run.clone()) {
            use std::os::unix::fs::FileExt;
            let mut there = vec![0; place.len as usize];
            place.file.read_exact_at(&mut there, place.offset).unwrap();
            assert!(there == bytes[..there.len()], "{what}: host range of {run:?}");
        }
        Ok(())
    })
    .unwrap();
    assert_eq!(end, device.size(), "{what}");
}

/// Every key that qemu-img prints must be ours with the same value, but for how the file itself is stored.
fn info_agrees(directory: &Path, name: &str) {
    let output = shell(directory, &format!("qemu-img info --output=json {}/{name}", directory.display()));
    let mut theirs: Value = serde_json::from_slice(&output.stdout).unwrap();
    for key in ["children", "actual-size"] {
        theirs.as_object_mut().unwrap().remove(key);
    }
    let image = block::open(&directory.join(name), &options(SameDirectory)).unwrap();
    let ours = serde_json::to_value(&image.info).unwrap();
    for (key, value) in theirs.as_object().unwrap() {
        assert_eq!(&ours[key], value, "{name}: {key}");
    }
}

#[test]
fn every_subformat_reads_as_the_disk_it_was_made_from() {
    if !have("qemu-img") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let disk = pattern();
    std::fs::write(dir.path().join("disk.raw"), &disk).unwrap();
    for subformat in SUBFORMATS {
        let name = format!("{subformat}.vmdk");
        shell(dir.path(), &format!("qemu-img convert -f raw -O vmdk -o subformat={subformat} disk.raw {name}"));
        agrees(&open(&dir.path().join(&name)), &disk, subformat);
        info_agrees(dir.path(), &name);

        let alone = subformat.starts_with("mono") && subformat.ends_with("Sparse") || subformat == "streamOptimized";
        let denied = block::open(&dir.path().join(&name), &options(DenyAll));
        assert_eq!(denied.is_ok(), alone, "{subformat}");
        let info = ImageInfo::read(&dir.path().join(&name), &options(DenyAll)).unwrap();
        assert_eq!(info.virtual_size, disk.len() as u64, "{subformat}: headers alone");
    }
}

#[test]
fn extents_are_put_together_across_two_gigabytes() {
    if !have("qemu-img") || !have("qemu-io") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for subformat in ["twoGbMaxExtentSparse", "twoGbMaxExtentFlat"] {
        let name = format!("{subformat}.vmdk");
        let script = format!(
            "qemu-img create -q -f vmdk -o subformat={subformat} {name} 5G
            qemu-io -f vmdk -c 'write -q -P 0x11 2147418112 131072' -c 'write -q -P 0x22 4294967296 512' {name}"
        );
        shell(dir.path(), &script);
        let device = open(&dir.path().join(&name));
        assert_eq!(device.size(), 5 << 30);
        assert_eq!(read_vec(&device, 2_147_418_112, 131_072).unwrap(), [0x11; 131_072], "{subformat}");
        assert_eq!(read_vec(&device, 4_294_967_296, 513).unwrap()[511..], [0x22, 0], "{subformat}");
        assert_eq!(read_vec(&device, 2_147_418_111, 1).unwrap(), [0], "{subformat}");
        info_agrees(dir.path(), &name);
        let mut data = 0;
        for_each_extent(&device, 0..device.size(), &mut |run, kind| {
            data += if kind == ExtentKind::Data { run.end - run.start } else { 0 };
            Ok(())
        })
        .unwrap();
        assert!(data <= 4 << 20, "{subformat}: {data} bytes of data");
    }
}

#[test]
fn a_child_shows_its_parent_where_it_has_nothing() {
    if !have("qemu-img") || !have("qemu-io") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut disk = pattern();
    std::fs::write(dir.path().join("disk.raw"), &disk).unwrap();
    let script = "qemu-img convert -f raw -O vmdk disk.raw base.vmdk
        qemu-img create -q -f vmdk -b base.vmdk -F vmdk -o zeroed_grain=on top.vmdk
        qemu-io -f vmdk -c 'write -q -P 0x33 1048576 200000' -c 'write -q -z 4194304 131072' top.vmdk";
    shell(dir.path(), script);
    disk[MIB..MIB + 200_000].fill(0x33);
    disk[4 * MIB..4 * MIB + 131_072].fill(0);
    agrees(&open(&dir.path().join("top.vmdk")), &disk, "child");
    info_agrees(dir.path(), "top.vmdk");
    let denied = block::open(&dir.path().join("top.vmdk"), &OpenOptions::default()).unwrap_err();
    assert_eq!(denied.exit_code(), 5);

    // A parent that was written since is not the one the child was made over.
    shell(dir.path(), "qemu-io -f vmdk -c 'write -q 0 512' base.vmdk");
    let error = block::open(&dir.path().join("top.vmdk"), &options(SameDirectory)).unwrap_err();
    assert_eq!(error.as_corrupt().unwrap().field, "parentCID");
}

#[test]
fn a_stream_with_its_directory_in_the_footer() {
    if !have("qemu-img") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let disk = pattern();
    std::fs::write(dir.path().join("disk.raw"), &disk).unwrap();
    shell(dir.path(), "qemu-img convert -f raw -O vmdk -o subformat=streamOptimized disk.raw head.vmdk");
    // As VMware's own exporter writes it: the header does not know the directory, the footer does.
    let mut file = std::fs::read(dir.path().join("head.vmdk")).unwrap();
    file.resize(file.len().next_multiple_of(512), 0);
    let footer = file[..512].to_vec();
    file[56..64].fill(0xff);
    let mut marker = vec![0; 512];
    marker[..8].copy_from_slice(&1u64.to_le_bytes());
    marker[12] = 3;
    file.extend(marker);
    file.extend(footer);
    file.extend([0; 512]);
    std::fs::write(dir.path().join("foot.vmdk"), file).unwrap();
    shell(dir.path(), "qemu-img compare -f vmdk -F raw foot.vmdk disk.raw");
    agrees(&open(&dir.path().join("foot.vmdk")), &disk, "footer");
    info_agrees(dir.path(), "foot.vmdk");
}

#[test]
fn a_truncated_extent_file_is_told() {
    if !have("qemu-img") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("disk.raw"), pattern()).unwrap();
    let script = "qemu-img convert -f raw -O vmdk -o subformat=monolithicFlat disk.raw flat.vmdk
        truncate -s 1M flat-flat.vmdk
        qemu-img convert -f raw -O vmdk disk.raw sparse.vmdk
        truncate -s 1M sparse.vmdk";
    shell(dir.path(), script);
    let error = block::open(&dir.path().join("flat.vmdk"), &options(SameDirectory)).unwrap_err();
    assert_eq!(error.as_corrupt().unwrap().field, "extent");
    let device = open(&dir.path().join("sparse.vmdk"));
    let error = read_vec(&device, 0, device.size() as usize).unwrap_err();
    assert_eq!(error.as_corrupt().unwrap().field, "grain table entry");
}
