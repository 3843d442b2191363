//! What is told of hostile images, case by case: tables that refer to themselves, 32 GiB that are one compressed cluster,
//! disks of exabytes, chains that bite their tails, endless descriptors, tables larger than memory, and filesystems that
//! claim more free space than there are disks.

use std::path::Path;

use crate::commands::READ;
use crate::disk::Disk;
use crate::run;
use crate::support::{have, shell};

const CLUSTER: usize = 65_536;
const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;

/// What tells of an image without reading its disk.
const ASK: &[&str] = &[
    "info --json IMAGE",
    "map --json IMAGE",
    "measure --json -O qcow2 IMAGE",
    "check --json IMAGE",
    "inspect --json IMAGE",
    "snapshot -l IMAGE",
];

/// Runs the commands on the image and wants each within its bounds; with `refused` one at least must refuse.
#[track_caller]
fn hold(name: &str, extension: &str, disk: &Disk, commands: &[&str], refused: bool) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(format!("image.{extension}"));
    disk.write(&path);
    hold_file(name, &path, commands, refused);
}

#[track_caller]
fn hold_file(name: &str, path: &Path, commands: &[&str], refused: bool) {
    let verdict = run::judge(path, commands);
    println!("{name:<44} {:>5} ms {:>6} KiB  {}", verdict.cpu_ms, verdict.memory_kib, verdict.message);
    assert_eq!(verdict.failures, [] as [String; 0], "{name}");
    assert_eq!(verdict.refused, refused, "{name}: {}", verdict.message);
}

/// A version 3 header: refcounts in the next two clusters, the L1 table of `l1` entries in the one behind.
fn qcow2(cluster_bits: u32, size: u64, l1: u64, clusters: usize) -> Disk {
    let cluster = 1usize << cluster_bits;
    let mut disk = Disk::from(vec![0; cluster * clusters]);
    disk.put(0, b"QFI\xfb");
    for (at, bytes, value) in [
        (4, 4, 3),
        (20, 4, cluster_bits.into()),
        (24, 8, size),
        (36, 4, l1),
        (40, 8, 3 * cluster as u64),
        (48, 8, cluster as u64),
        (56, 4, 1),
        (96, 4, 4),
        (100, 4, 104),
    ] {
        disk.be(at, bytes, value);
    }
    disk.be(cluster, 8, 2 * cluster as u64);
    (0..clusters).for_each(|number| disk.be(2 * cluster + number * 2, 2, 1));
    disk
}

#[test]
fn tables_that_refer_to_themselves() {
    let (l1, l2) = (3 * CLUSTER, 4 * CLUSTER);
    let mut disk = qcow2(16, 1 << 30, 2, 8);
    (0..2).for_each(|entry| disk.be(l1 + entry * 8, 8, l1 as u64 | COPIED));
    hold("an L1 table that is its own L2 table", "qcow2", &disk, READ, true);
    (0..2).for_each(|entry| disk.be(l1 + entry * 8, 8, l2 as u64 | COPIED));
    (0..CLUSTER / 8).for_each(|entry| disk.be(l2 + entry * 8, 8, l2 as u64 | COPIED));
    // The disk is a gigabyte of that table: what there is to read is read.
    hold("an L2 table whose clusters are itself", "qcow2", &disk, ASK, true);
    disk.be(48, 8, 3 * CLUSTER as u64);
    hold("a refcount table that is the L1 table", "qcow2", &disk, ASK, true);
}

/// A disk of `gib` GiB, all of it one compressed cluster.
fn one_compressed_cluster(gib: u64) -> Disk {
    let (l1, l2, data) = (3 * CLUSTER, 4 * CLUSTER, 5 * CLUSTER);
    let entries = gib * 2;
    let mut disk = qcow2(16, gib << 30, entries, 8);
    let mut compressor = libdeflater::Compressor::new(libdeflater::CompressionLvl::best());
    let mut packed = vec![0; CLUSTER];
    let len = compressor.deflate_compress(&vec![0x5a; CLUSTER], &mut packed).unwrap();
    disk.put(data, &packed[..len]);
    (0..entries as usize).for_each(|entry| disk.be(l1 + entry * 8, 8, l2 as u64 | COPIED));
    (0..CLUSTER / 8).for_each(|entry| disk.be(l2 + entry * 8, 8, COMPRESSED | data as u64));
    disk
}

#[test]
fn gigabytes_of_one_compressed_cluster() {
    hold("32 GiB of one compressed cluster", "qcow2", &one_compressed_cluster(32), ASK, true);
    // Clusters that are one and the same make more of a disk than its file holds, and whatever reads all of it refuses.
    let commands = ["convert -q -O qcow2 --compress --no-clone IMAGE OUT", "compare IMAGE IMAGE"];
    let mut small = one_compressed_cluster(1);
    small.be(24, 8, 256 << 20);
    hold("256 MiB of one compressed cluster", "qcow2", &small, &commands, true);
}

#[test]
fn disks_of_exabytes() {
    let whole = (1u64 << 63) - 512;
    hold("qcow2, 8 EiB in two L1 entries", "qcow2", &qcow2(16, whole, 2, 8), READ, true);
    let mut disk = qcow2(16, whole, u32::MAX.into(), 8);
    disk.len = 64 << 30;
    hold("qcow2, 8 EiB in an L1 table of 32 GiB", "qcow2", &disk, READ, true);
    // The largest that its L1 table can hold, all of it a hole.
    let mut disk = qcow2(16, 2 << 50, 4 << 20, 8);
    disk.len = 64 << 20;
    hold("qcow2, 2 PiB in an L1 table of 32 MiB", "qcow2", &disk, &READ[1..], true);
    let extent = format!("RW {} ZERO\n", whole / 512);
    let text = format!("# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"custom\"\n{extent}");
    hold("vmdk, 8 EiB of zeroes", "vmdk", &text.into_bytes().into(), READ, true);
}

#[test]
fn chains_that_bite_their_tails() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, below: &str| {
        let mut disk = qcow2(16, 1 << 20, 1, 8);
        disk.be(8, 8, 512);
        disk.be(16, 4, below.len() as u64);
        disk.put(512, below.as_bytes());
        disk.write(&dir.path().join(name));
    };
    write("a.qcow2", "a.qcow2");
    write("b.qcow2", "c.qcow2");
    write("c.qcow2", "b.qcow2");
    (0..250).for_each(|number| write(&format!("chain{number}.qcow2"), &format!("chain{}.qcow2", number + 1)));
    for (name, image) in [("itself", "a.qcow2"), ("two", "b.qcow2"), ("250", "chain0.qcow2")] {
        for command in [
            "info --backing-chain --json --allow-same-dir IMAGE",
            "map --json --allow-same-dir IMAGE",
            "measure --json -O qcow2 --allow-same-dir IMAGE",
            "inspect --json --allow-same-dir IMAGE",
            "convert -q -O raw --allow-same-dir IMAGE OUT",
            "compare --allow-same-dir IMAGE IMAGE",
            "commit --allow-same-dir IMAGE",
            "rebase --allow-same-dir -b  IMAGE",
            "convert -q -O raw IMAGE OUT",
        ] {
            hold_file(&format!("a chain of {name}"), &dir.path().join(image), &[command], true);
        }
    }
}

#[test]
fn descriptors_and_tables_without_end() {
    let text = "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"monolithicSparse\"\n";
    let mut disk = Disk::from(text.as_bytes().to_vec());
    disk.len = 1 << 30;
    hold("vmdk, a descriptor of 1 GiB", "vmdk", &disk, READ, true);
    let sparse = |capacity: u64, descriptor: u64, len: u64| {
        let mut disk = Disk::from(vec![0; 1024]);
        disk.put(0, b"KDMV\x01\0\0\0\x01\0\0\0");
        for (at, size, value) in
            [(12, 8, capacity), (20, 8, 8), (28, 8, 1), (36, 8, descriptor), (44, 4, 512), (56, 8, 4096), (64, 8, 128)]
        {
            disk.le(at, size, value);
        }
        disk.put(73, b"\n \r\n");
        disk.put(512, text.as_bytes());
        disk.put(512 + text.len(), format!("RW {capacity} SPARSE \"image.vmdk\"\n").as_bytes());
        disk.len = len;
        disk
    };
    hold("vmdk, an inner descriptor of 1 GiB", "vmdk", &sparse(8192, 2 << 20, 2 << 30), READ, true);
    hold("vmdk, a grain directory of 1 GiB", "vmdk", &sparse(1 << 40, 20, 8 << 30), READ, true);
    hold("vmdk, a grain directory of 32 MiB", "vmdk", &sparse(1 << 35, 20, 1 << 30), &READ[3..], true);
}

/// Tables that qemu-img made for large disks, the largest ones of VHDX and VHD, and headers that claim more.
#[test]
fn tables_larger_than_memory() {
    if !have("qemu-img") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    shell(
        dir.path(),
        "qemu-img create -q -f vhdx -o block_size=1M image.vhdx 60T
         qemu-img create -q -f vpc -o subformat=dynamic,force_size=on image.vhd 2040G
         qemu-img create -q -f vdi image.vdi 16T",
    );
    for image in ["image.vhdx", "image.vhd", "image.vdi"] {
        let path = dir.path().join(image);
        hold_file(&format!("a large {image}"), &path, &ASK[..3], false);
        hold_file(&format!("a large {image}"), &path, &["convert -q -O qcow2 IMAGE OUT"], false);
    }
    let change = |image: &str, at: usize, size: usize, value: u64| {
        let path = dir.path().join(image);
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &value.to_le_bytes()[..size], at as u64).unwrap();
        path
    };
    // 4 Gi blocks of a megabyte, 16 GiB of block map, in a file that has none of it.
    change("image.vdi", 384, 4, 0xffff_ffff);
    hold_file("vdi, a block map of 16 GiB", &change("image.vdi", 368, 8, 0xffff_ffff << 20), READ, true);
}

/// An ext4 of 512 TiB in an image of a few megabytes: every group has the descriptor and the bitmap that `pattern` is.
fn large_ext4(pattern: u8) -> Disk {
    const BITS: u32 = 21;
    const SIZE: usize = 1 << BITS;
    // Header, refcount table and block, L1, L2, first cluster, descriptors, bitmap.
    let (l1, l2, first, descriptors, bitmap) = (3 * SIZE, 4 * SIZE, 5 * SIZE, 6 * SIZE, 7 * SIZE);
    let mut disk = qcow2(BITS, 512 << 40, 1024, 8);
    let made = Disk::build(
        "mke2fs -q -t ext4 -b 4096 -N 16 -m 0 -O ^has_journal,^metadata_csum,^uninit_bg,^resize_inode,64bit,flex_bg disk 64M",
    );
    disk.put(first, made.get(0, 4096));
    // s_blocks_count and s_inodes_count: 4 Mi groups.
    let groups = 1u64 << 22;
    disk.le(first + 1024 + 4, 4, (groups << 15) & 0xffff_ffff);
    disk.le(first + 1024 + 0x150, 4, (groups << 15) >> 32);
    let inodes = made.le_at(1024 + 0x28, 4) * groups;
    disk.le(first + 1024, 4, inodes);
    disk.be(l1, 8, l2 as u64 | COPIED);
    disk.be(l2, 8, first as u64 | COPIED);
    // 64 MiB of descriptors, one cluster over and over, are a million groups.
    (1..33).for_each(|cluster| disk.be(l2 + cluster * 8, 8, descriptors as u64 | COPIED));
    let block = 33u64 << (BITS - 12);
    disk.be(l2 + 33 * 8, 8, bitmap as u64 | COPIED);
    let free = u64::from(pattern.count_zeros()) * 4096;
    for at in (first + 4096..first + SIZE).chain(descriptors..descriptors + SIZE).step_by(64) {
        // Block bitmap, inode bitmap, inode table, free blocks.
        for (field, size, value) in [(0, 4, block), (4, 4, block + 1), (8, 4, block + 2), (12, 2, free)] {
            disk.le(at + field, size, value);
        }
    }
    disk.bytes[bitmap..][..4096].fill(pattern);
    disk
}

#[test]
fn half_a_petabyte_of_free_space() {
    if !have("mke2fs") {
        return;
    }
    let commands = ["filesystems --json IMAGE", "convert -q -O qcow2 --skip-free --no-clone IMAGE OUT"];
    for (name, pattern) in [("nothing free", 0xff), ("every other block free", 0x55), ("all free", 0)] {
        // One cluster over and over is more than the file holds: to convert it is refused.
        hold(&format!("ext4 of 512 TiB, {name}"), "qcow2", &large_ext4(pattern), &commands, true);
    }
}
