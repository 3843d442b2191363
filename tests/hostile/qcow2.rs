//! qcow2: a small version 3 image built by hand.

use crate::disk::{Disk, boundaries};
use crate::fat::tiny;
use crate::{DISK, Suite};

const CLUSTER: usize = 4096;
const L1: usize = 3 * CLUSTER;
const L2: usize = 4 * CLUSTER;
const DATA: usize = 8 * CLUSTER;
const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;

/// A disk of 2 MiB in clusters of 4 KiB: header, refcounts, L1, L2, a snapshot table and 64 KiB of data.
fn base() -> Disk {
    let mut disk = Disk::from(vec![0; DATA + (64 << 10)]);
    disk.put(0, b"QFI\xfb");
    for (at, size, value) in [
        (4, 4, 3),
        (20, 4, 12),
        (24, 8, 2 << 20),
        (36, 4, 1),
        (40, 8, L1),
        (48, 8, CLUSTER),
        (56, 4, 1),
        (60, 4, 1),
        (64, 8, 5 * CLUSTER),
        (96, 4, 4),
        (100, 4, 104),
    ] {
        disk.be(at, size, value as u64);
    }
    disk.be(CLUSTER, 8, 2 * CLUSTER as u64);
    (0..24).for_each(|cluster| disk.be(2 * CLUSTER + cluster * 2, 2, 1));
    disk.be(L1, 8, L2 as u64 | COPIED);
    for cluster in 0..16 {
        disk.be(L2 + cluster * 8, 8, (DATA + cluster * CLUSTER) as u64 | COPIED);
    }
    // A snapshot: L1 table, sizes of id and name, 16 bytes of extra data.
    let at = 5 * CLUSTER;
    disk.be(at, 8, L1 as u64);
    disk.be(at + 8, 4, 1);
    disk.be(at + 12, 2, 1);
    disk.be(at + 14, 2, 4);
    disk.be(at + 36, 4, 16);
    disk.be(at + 48, 8, 2 << 20);
    disk.put(at + 56, b"1snap");
    disk.put(DATA, &tiny());
    disk
}

/// The same without the snapshot, which shares the active L1 table, as no writer would do.
pub fn clean() -> Disk {
    let mut base = base();
    base.be(60, 4, 0);
    base.be(64, 8, 0);
    (5..8).for_each(|cluster| base.be(2 * CLUSTER + cluster * 2, 2, 0));
    base
}

/// Commands that read or change the tables themselves.
const TABLES: &[&str] = &[
    "check --json IMAGE",
    "snapshot -c snap IMAGE",
    "resize IMAGE +64M",
    "snapshot -d snap IMAGE",
    "check -r leaks --json IMAGE",
    "check -r all --json IMAGE",
    "snapshot -c newer IMAGE",
];

#[test]
fn damaged_qcow2() {
    damaged("qcow2", base(), DISK).run();
}

#[test]
fn damaged_qcow2_is_checked_repaired_and_changed() {
    damaged("qcow2 tables", clean(), TABLES).run();
}

pub fn damaged(name: &'static str, base: Disk, commands: &'static [&'static str]) -> Suite {
    let mut suite = Suite::new(name, base, commands);
    suite.extension = "qcow2";
    for (field, at, size) in [
        ("magic", 0, 4),
        ("version", 4, 4),
        ("backing_file_offset", 8, 8),
        ("backing_file_size", 16, 4),
        ("cluster_bits", 20, 4),
        ("size", 24, 8),
        ("crypt_method", 32, 4),
        ("l1_size", 36, 4),
        ("l1_table_offset", 40, 8),
        ("refcount_table_offset", 48, 8),
        ("refcount_table_clusters", 56, 4),
        ("nb_snapshots", 60, 4),
        ("snapshots_offset", 64, 8),
        ("incompatible_features", 72, 8),
        ("compatible_features", 80, 8),
        ("autoclear_features", 88, 8),
        ("refcount_order", 96, 4),
        ("header_length", 100, 4),
    ] {
        for value in boundaries(size, suite.base.be_at(at, size)) {
            suite.add(format!("{field} {value:#x}"), move |disk| disk.be(at, size, value));
        }
    }
    for bits in [9, 10, 13, 14, 16, 20, 21, 22, 30, 31, 32, 63, 64] {
        suite.add(format!("cluster_bits {bits}"), move |disk| disk.be(20, 4, bits));
    }
    for bit in 0..8 {
        suite.add(format!("incompatible feature bit {bit}"), move |disk| disk.be(72, 8, 1 << bit));
    }
    tables(&mut suite);
    extensions(&mut suite);
    let at = 5 * CLUSTER;
    for (field, offset, size) in [
        ("l1_table_offset", 0, 8),
        ("l1_size", 8, 4),
        ("id_str_size", 12, 2),
        ("name_size", 14, 2),
        ("vm_state_size", 32, 4),
        ("extra_data_size", 36, 4),
        ("disk_size", 48, 8),
    ] {
        for value in boundaries(size, suite.base.be_at(at + offset, size)) {
            suite.add(format!("snapshot {field} {value:#x}"), move |disk| disk.be(at + offset, size, value));
        }
    }
    suite.add("as many snapshots as there may be, in no bytes", |disk| disk.be(60, 4, 65_536));
    for name in ["/etc/passwd", "disk.qcow2", "json:{}", "nbd:localhost:1", "", "\u{1b}[2J", "file:///etc/shadow"] {
        suite.add(format!("backing file {name:?}"), move |disk| {
            disk.be(8, 8, 512);
            disk.be(16, 4, name.len() as u64);
            disk.put(512, name.as_bytes());
        });
    }
    for len in [0, 3, 4, 71, 72, 103, 104, 4095, 4096, L1 as u64, L2 as u64 + 8, DATA as u64 + 1] {
        suite.add(format!("cut to {len} bytes"), move |disk| disk.resize(len));
    }
    suite.refused = 40;
    suite
}

/// L1 and L2 entries.
fn tables(suite: &mut Suite) {
    let entries = [
        0,
        1,
        512,
        L1 as u64,
        L2 as u64,
        L1 as u64 | COPIED,
        DATA as u64 | 1,
        (CLUSTER as u64 * 1000) | COPIED,
        0x00ff_ffff_ffff_f000,
        u64::MAX,
        COMPRESSED,
        COMPRESSED | 0x3fff_ffff_ffff_ffff,
        COMPRESSED | DATA as u64,
        COMPRESSED | (DATA as u64 + 0xffff),
        1 << 56 | DATA as u64,
    ];
    for value in entries {
        suite.add(format!("L1 entry {value:#x}"), move |disk| disk.be(L1, 8, value));
        suite.add(format!("L2 entry {value:#x}"), move |disk| disk.be(L2, 8, value));
        suite.add(format!("all L2 entries {value:#x}"), move |disk| {
            (0..512).for_each(|entry| disk.be(L2 + entry * 8, 8, value));
        });
    }
    suite.add("1 TiB of one cluster", |disk| {
        // 2 MiB of L1 table, every entry the same L2 table, every entry of it the first data cluster.
        let entries = (1 << 40) / (2 << 20);
        let table = disk.bytes.len();
        disk.resize((table + entries * 8) as u64);
        disk.bytes.resize(table + entries * 8, 0);
        disk.be(24, 8, 1 << 40);
        disk.be(36, 4, entries as u64);
        disk.be(40, 8, table as u64);
        (0..entries).for_each(|entry| disk.be(table + entry * 8, 8, L2 as u64 | COPIED));
        (16..512).for_each(|entry| disk.be(L2 + entry * 8, 8, DATA as u64 | COPIED));
    });
    suite.add("one compressed cluster everywhere", |disk| {
        let mut compressor = libdeflater::Compressor::new(libdeflater::CompressionLvl::best());
        let mut packed = vec![0; 4096];
        let len = compressor.deflate_compress(disk.get(DATA, CLUSTER), &mut packed).unwrap();
        disk.put(6 * CLUSTER, &packed[..len]);
        let value = COMPRESSED | (6 * CLUSTER) as u64 | ((len as u64).div_ceil(512)) << 58;
        (0..512).for_each(|entry| disk.be(L2 + entry * 8, 8, value));
    });
    suite.add("extended L2 entries that contradict", |disk| {
        disk.be(72, 8, 1 << 4);
        disk.be(20, 4, 14);
        (0..256).for_each(|entry| disk.be(L2 + entry * 16 + 8, 8, u64::MAX));
    });
}

/// Header extensions: (type, length, data) behind the header, up to type 0.
fn extensions(suite: &mut Suite) {
    for kind in [0xe279_2acau64, 0x6803_f857, 0x2385_2875, 0x0537_be77, 0x4441_5441, 0x1234_5678] {
        for len in [0, 1, 7, 8, 24, 47, 4000, 0x7fff_ffff, 0xffff_fff8, 0xffff_ffff] {
            suite.add(format!("extension {kind:#x} of {len} bytes"), move |disk| {
                disk.be(104, 4, kind);
                disk.be(108, 4, len);
            });
        }
    }
    suite.add("extensions of no length up to the cluster's end", |disk| {
        (104..CLUSTER - 8).step_by(8).for_each(|at| disk.be(at, 4, 0x1234_5678));
    });
    suite.add("a data file with a host's name", |disk| {
        disk.be(72, 8, 1 << 2);
        disk.be(104, 4, 0x4441_5441);
        disk.be(108, 4, 11);
        disk.put(112, b"/etc/passwd");
    });
}
