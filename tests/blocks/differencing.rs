//! Differencing VHD and VHDX, which QEMU does not make: images by qemu-img turned into children by hand, after the
//! specifications.

use std::path::Path;

use guestctl::block::{self, BlockDevice, ExtentKind, ImageInfo, OpenOptions, read_vec};

use crate::log::{bat, seal as seal_vhdx};
use crate::read::seal;
use crate::support::{have, shell};
use crate::{MIB, consistent, open, options, sparse_disk};

/// A parent full of noise, and a child of `format` that has blocks 0 and 2 of its own; both disks' bytes.
fn family(directory: &Path, format: &str, options: &str, block: usize) -> (Vec<u8>, Vec<u8>) {
    sparse_disk(&directory.join("parent.raw"), 4 * block as u64, 40);
    let mut own = vec![0; 4 * block];
    for byte in own[..block].iter_mut().chain(&mut [0u8; 0]) {
        *byte = 0x11;
    }
    own[2 * block..3 * block].fill(0x22);
    std::fs::write(directory.join("child.raw"), &own).unwrap();
    let script = format!(
        "qemu-img convert -f raw -O {format} -o {options} parent.raw parent
        qemu-img convert -f raw -O {format} -o {options} child.raw child"
    );
    shell(directory, &script);
    (std::fs::read(directory.join("parent.raw")).unwrap(), own)
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

/// What the family reads as, when of block 2 only the sectors count that `own_sector` says.
fn expected(parent: &[u8], own: &[u8], block: usize, own_sector: impl Fn(usize) -> bool) -> Vec<u8> {
    let mut disk = parent.to_vec();
    disk[..block].copy_from_slice(&own[..block]);
    for sector in 0..block / 512 {
        let range = 2 * block + sector * 512..2 * block + sector * 512 + 512;
        if own_sector(sector) {
            disk[range.clone()].copy_from_slice(&own[range]);
        }
    }
    disk
}

fn check(directory: &Path, format: &str, disk: &[u8], block: usize) {
    let path = directory.join("child");
    let device = open(&path, format);
    assert!(read_vec(&device, 0, disk.len()).unwrap() == disk, "{format}");
    consistent(&device, format);
    assert_eq!(device.status(0..1).unwrap().depth, 0);
    let below = device.status(block as u64..2 * block as u64).unwrap();
    assert_eq!(below.depth, 1);
    let denied = block::open(&path, &OpenOptions::default()).unwrap_err();
    assert_eq!(denied.exit_code(), 5, "{denied}");
    let info = ImageInfo::read(&path, &OpenOptions::default()).unwrap();
    assert_eq!(info.backing_filename.as_deref(), Some("parent"));
    assert_eq!(info.backing_filename_format.as_deref(), Some(format));
    assert_eq!(info.full_backing_filename.unwrap(), directory.join("parent").display().to_string());
}

#[test]
fn a_vhd_over_its_parent() {
    if !have("qemu-img") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let block = 2 * MIB;
    let (parent, own) = family(dir.path(), "vpc", "subformat=dynamic,force_size=on", block);
    let mut image = std::fs::read(dir.path().join("child")).unwrap();
    let id = std::fs::read(dir.path().join("parent")).unwrap()[68..84].to_vec();
    let own_sector = |sector: usize| sector % 7 < 3 || sector > 4000;
    let entry = u32::from_be_bytes(image[1536 + 8..1536 + 12].try_into().unwrap()) as usize * 512;
    for sector in 0..4096 {
        let bit = 0x80 >> (sector % 8);
        image[entry + sector / 8] = image[entry + sector / 8] & !bit | if own_sector(sector) { bit } else { 0 };
    }
    // The locator's name lies where the footer was, which follows again.
    let end = image.len() - 512;
    let mut footer = image.split_off(end);
    let name = utf16(".\\parent");
    image.extend(&name);
    image.resize(end + 512, 0);
    footer[63] = 4;
    seal(&mut footer, 64);
    image[..512].copy_from_slice(&footer);
    image.extend(&footer);
    let header = &mut image[512..1536];
    header[40..56].copy_from_slice(&id);
    header[576..580].copy_from_slice(b"W2ru");
    header[580..584].copy_from_slice(&512u32.to_be_bytes());
    header[584..588].copy_from_slice(&(name.len() as u32).to_be_bytes());
    header[592..600].copy_from_slice(&(end as u64).to_be_bytes());
    seal(header, 36);
    std::fs::write(dir.path().join("child"), &image).unwrap();
    check(dir.path(), "vpc", &expected(&parent, &own, block, own_sector), block);

    // Another parent than the one that it was made over.
    image[512 + 40] ^= 1;
    seal(&mut image[512..1536], 36);
    std::fs::write(dir.path().join("child"), &image).unwrap();
    let error = block::open(&dir.path().join("child"), &options("vpc")).unwrap_err();
    assert_eq!(error.as_corrupt().unwrap().field, "parent unique ID");
}

/// Puts a parent locator into the metadata and says in the file parameters that there is a parent.
fn add_locator(image: &mut [u8], pairs: &[(&str, String)]) {
    let metadata =
        [16, 48].map(|at| (192 << 10) + at).into_iter().find(|at| image[*at..*at + 2] == [0x06, 0xa2]).unwrap();
    let metadata = u64::from_le_bytes(image[metadata + 16..metadata + 24].try_into().unwrap()) as usize;
    let mut locator =
        vec![0xb7, 0xef, 0x4a, 0xb0, 0x9e, 0xd1, 0x81, 0x4a, 0xb7, 0x89, 0x25, 0xb8, 0xe9, 0x44, 0x59, 0x13];
    locator.extend([0, 0]);
    locator.extend((pairs.len() as u16).to_le_bytes());
    let mut text = Vec::new();
    for (key, value) in pairs {
        let (key, value) = (utf16(key), utf16(value));
        let at = 20 + 12 * pairs.len() + text.len();
        locator.extend((at as u32).to_le_bytes());
        locator.extend(((at + key.len()) as u32).to_le_bytes());
        locator.extend((key.len() as u16).to_le_bytes());
        locator.extend((value.len() as u16).to_le_bytes());
        text.extend([key, value].concat());
    }
    locator.extend(text);
    let count = u16::from_le_bytes([image[metadata + 10], image[metadata + 11]]) as usize;
    let entry = metadata + 32 + 32 * count;
    let id = [0x2d, 0x5f, 0xd3, 0xa8, 0x0b, 0xb3, 0x4d, 0x45, 0xab, 0xf7, 0xd3, 0xd8, 0x48, 0x34, 0xab, 0x0c];
    image[entry..entry + 16].copy_from_slice(&id);
    image[entry + 16..entry + 20].copy_from_slice(&(128u32 << 10).to_le_bytes());
    image[entry + 20..entry + 24].copy_from_slice(&(locator.len() as u32).to_le_bytes());
    image[entry + 24..entry + 28].copy_from_slice(&4u32.to_le_bytes());
    image[metadata + 10] = count as u8 + 1;
    image[metadata + (128 << 10)..][..locator.len()].copy_from_slice(&locator);
    let parameters = (0..count).map(|index| metadata + 32 + 32 * index).find(|at| image[*at..*at + 2] == [0x37, 0x67]);
    let offset = u32::from_le_bytes(image[parameters.unwrap() + 16..][..4].try_into().unwrap()) as usize;
    image[metadata + offset + 4] |= 2;
}

#[test]
fn a_vhdx_over_its_parent() {
    if !have("qemu-img") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let block = MIB;
    let (parent, own) = family(dir.path(), "vhdx", "block_size=1M,block_state_zero=off", block);
    let mut image = std::fs::read(dir.path().join("child")).unwrap();
    let header = std::fs::read(dir.path().join("parent")).unwrap();
    let header = header[crate::log::header(&header) + 32..][..16].to_vec();
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02X}")).collect::<String>();
    let reversed = |range: std::ops::Range<usize>| hex(&header[range].iter().rev().copied().collect::<Vec<_>>());
    let linkage = format!(
        "{{{}-{}-{}-{}-{}}}",
        reversed(0..4),
        reversed(4..6),
        reversed(6..8),
        hex(&header[8..10]),
        hex(&header[10..])
    );
    let pairs = [("parent_linkage", linkage), ("relative_path", ".\\parent".to_owned()), ("odd", String::new())];
    add_locator(&mut image, &pairs);
    let bat = bat(&image);
    let own_sector = |sector: usize| sector % 7 < 3 || sector > 1900;
    image[bat + 16] = image[bat + 16] & !7 | 7;
    // Blocks of 1 MiB: 4096 of them in a chunk, whose bitmap's entry is behind theirs.
    let bitmap = image.len().next_multiple_of(MIB);
    image.resize(bitmap + MIB, 0);
    image[bat + 4096 * 8..][..8].copy_from_slice(&(bitmap as u64 | 6).to_le_bytes());
    for sector in (0..2048).filter(|sector| own_sector(*sector)) {
        let bit = 2 * 2048 + sector;
        image[bitmap + bit / 8] |= 1 << (bit % 8);
    }
    std::fs::write(dir.path().join("child"), &image).unwrap();
    check(dir.path(), "vhdx", &expected(&parent, &own, block, own_sector), block);

    // The parent was written since.
    let mut changed = std::fs::read(dir.path().join("parent")).unwrap();
    for at in [64 << 10, 128 << 10] {
        changed[at + 32] ^= 1;
        seal_vhdx(&mut changed[at..at + 4096]);
    }
    std::fs::write(dir.path().join("parent"), &changed).unwrap();
    let error = block::open(&dir.path().join("child"), &options("vhdx")).unwrap_err();
    assert_eq!(error.as_corrupt().unwrap().field, "parent_linkage");

    // Without the bitmap nobody knows whose the sectors are.
    image[bat + 4096 * 8] = 0;
    std::fs::write(dir.path().join("child"), &image).unwrap();
    changed[(64 << 10) + 32] ^= 1;
    changed[(128 << 10) + 32] ^= 1;
    for at in [64 << 10, 128 << 10] {
        seal_vhdx(&mut changed[at..at + 4096]);
    }
    std::fs::write(dir.path().join("parent"), &changed).unwrap();
    let device = open(&dir.path().join("child"), "vhdx");
    let error = read_vec(&device, 2 * block as u64, 512).unwrap_err();
    assert_eq!(error.as_corrupt().unwrap().field, "sector bitmap BAT entry");
    assert_eq!(device.next_extent(0..512).unwrap().kind, ExtentKind::Data);
}
