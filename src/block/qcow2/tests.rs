//! Small images made by hand, whole and broken in one place each. What QEMU makes of images is tested in
//! `tests/qcow2.rs`.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::block::{DenyAll, ExtentKind, Memory, for_each_extent};

const CLUSTER: usize = 512;
const L1: usize = 2 * CLUSTER;
const L2: usize = 3 * CLUSTER;
const DATA: usize = 4 * CLUSTER;
const COMPRESSED: usize = 5 * CLUSTER;
const SNAPSHOT_TABLE: usize = 6 * CLUSTER;
const SNAPSHOT_L1: usize = 7 * CLUSTER;
const SIZE: usize = 100 * CLUSTER;

/// A version 3 image of clusters of 512 bytes: guest cluster 0 is stored, 1 is zero, 2 is compressed, the rest is not
/// allocated. The snapshot "then", id "7", has no cluster.
struct Image(Vec<u8>);

impl Image {
    fn new() -> Self {
        let mut image = Self(vec![0; 8 * CLUSTER]);
        image.put(0, b"QFI\xfb").be32(4, 3).be32(20, 9).be64(24, SIZE as u64).be32(36, 2).be64(40, L1 as u64);
        image.be64(48, CLUSTER as u64).be32(56, 1).be32(60, 1).be64(64, SNAPSHOT_TABLE as u64);
        image.be32(96, 4).be32(100, 112);
        image.be64(L1, L2 as u64 | (1 << 63));
        image.be64(L2, DATA as u64 | (1 << 63)).be64(L2 + 8, 1).be64(L2 + 16, COMPRESSED as u64 | (1 << 62));
        image.put(DATA, &[7; CLUSTER]);
        let mut deflated = vec![0; CLUSTER];
        let mut compressor = libdeflater::Compressor::new(libdeflater::CompressionLvl::default());
        compressor.deflate_compress(&[9; CLUSTER], &mut deflated).unwrap();
        image.put(COMPRESSED, &deflated);
        let entry = SNAPSHOT_TABLE;
        image.be64(entry, SNAPSHOT_L1 as u64).be32(entry + 8, 2).be32(entry + 12, (1 << 16) | 4);
        image.be32(entry + 16, 1_700_000_000).be64(entry + 24, 3_000_000_005).be32(entry + 36, 16);
        image.be64(entry + 48, 2 * CLUSTER as u64).put(entry + 56, b"7then");
        image
    }

    fn put(&mut self, at: usize, bytes: &[u8]) -> &mut Self {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    fn be32(&mut self, at: usize, value: u32) -> &mut Self {
        self.put(at, &value.to_be_bytes())
    }

    fn be64(&mut self, at: usize, value: u64) -> &mut Self {
        self.put(at, &value.to_be_bytes())
    }

    fn open_as(&self, follow: bool, snapshot: Option<&str>) -> Result<Qcow2> {
        let context = OpenContext { path: Path::new("x"), gate: &DenyAll, depth: 0, follow, snapshot };
        Qcow2::open(Arc::new(Memory::new(self.0.clone())), &context)
    }

    fn open(&self) -> Result<Qcow2> {
        self.open_as(true, None)
    }

    /// Opens and reads all of it.
    fn read(&self) -> Result<Vec<u8>> {
        read_vec(&self.open()?, 0, SIZE)
    }
}

fn guest() -> Vec<u8> {
    let mut bytes = vec![0; SIZE];
    bytes[..CLUSTER].fill(7);
    bytes[2 * CLUSTER..3 * CLUSTER].fill(9);
    bytes
}

/// Changes one big-endian number of `len` bytes, and tells where the complaint must be.
fn assert_corrupt(at: usize, len: usize, value: u64, field: &str, offset: usize) {
    let mut image = Image::new();
    image.put(at, &value.to_be_bytes()[8 - len..]);
    let error = image.read().expect_err(&format!("{value:#x} at {at}"));
    let corrupt = error.as_corrupt().unwrap_or_else(|| panic!("{value:#x} at {at}: {error}"));
    assert_eq!((corrupt.field, corrupt.offset), (field, offset as u64), "{value:#x} at {at}: {error}");
}

#[test]
fn stored_zero_compressed_and_unallocated_clusters_read_as_they_should() {
    let image = Image::new();
    assert_eq!(image.read().unwrap(), guest());
    let device = image.open().unwrap();
    for (offset, len) in [(0, 1), (511, 2), (1023, 2), (1500, 100), (1024, 512), (51_199, 1), (300, 5000)] {
        assert_eq!(read_vec(&device, offset as u64, len).unwrap(), guest()[offset..offset + len], "{offset} {len}");
    }
    assert!(device.read_exact_at(&mut [0; 2], SIZE as u64 - 1).is_err());
    assert!(device.next_extent(SIZE as u64..SIZE as u64 + 1).is_err());
    assert!(device.host_range(0..1).is_none(), "memory is no host file");

    let mut extents = Vec::new();
    for_each_extent(&device, 0..SIZE as u64, &mut |run, kind| {
        extents.push((run.end as usize / CLUSTER, kind));
        Ok(())
    })
    .unwrap();
    let expected = [(1, ExtentKind::Data), (2, ExtentKind::Zero), (3, ExtentKind::Data), (100, ExtentKind::Hole)];
    assert_eq!(extents, expected);
}

#[test]
fn broken_header_fields_are_named() {
    for (at, len, value, field) in [
        (0, 4, 0x5146_4900, "magic"),
        (8, 8, 111, "backing_file_offset"),
        (8, 8, 513, "backing_file_offset"),
        (8, 8, u64::MAX, "backing_file_offset"),
        (20, 4, 0, "cluster_bits"),
        (20, 4, 8, "cluster_bits"),
        (20, 4, 22, "cluster_bits"),
        (20, 4, 63, "cluster_bits"),
        (20, 4, 0xffff_ffff, "cluster_bits"),
        (24, 8, SIZE as u64 * 2, "l1_size"),
        (24, 8, 1 << 63, "l1_size"),
        (24, 8, u64::MAX, "l1_size"),
        (36, 4, 1, "l1_size"),
        (36, 4, 0, "l1_size"),
        (36, 4, 4_000_000, "l1_table_offset"),
        (40, 8, L1 as u64 + 8, "l1_table_offset"),
        (40, 8, 8 * CLUSTER as u64, "l1_table_offset"),
        (40, 8, !511, "l1_table_offset"),
        (48, 8, 1, "refcount_table_offset"),
        (56, 4, 0, "refcount_table_clusters"),
        (64, 8, 8, "snapshots_offset"),
        (88, 8, 2, "autoclear_features"),
        (96, 4, 7, "refcount_order"),
        (100, 4, 96, "header_length"),
        (100, 4, 108, "header_length"),
        (100, 4, 520, "header_length"),
        (100, 4, 0xffff_ffff, "header_length"),
    ] {
        let reported = match field {
            "l1_size" => 36,
            "l1_table_offset" => 40,
            _ => at,
        };
        assert_corrupt(at, len, value, field, reported);
    }
    assert_corrupt(72, 8, 1 << 4, "cluster_bits", 20);
    assert_corrupt(72, 8, 1 << 3, "compression_type", 104);
    assert_corrupt(104, 1, 1, "compression_type", 104);
    assert_corrupt(64, 8, 8 * CLUSTER as u64, "snapshot table", 8 * CLUSTER);
    assert_corrupt(64, 8, !511, "snapshot table", !511);
}

#[test]
fn broken_table_entries_are_named() {
    for (entry, value) in
        [(L1, L2 as u64 + 1024 * 1024), (L1, u64::MAX), (L1 + 8, 8 * CLUSTER as u64), (L1, 0x00ff_ffff_ffff_fe00)]
    {
        let mut image = Image::new();
        image.be64(entry, value).be64(entry + 8, value);
        let device = image.open().unwrap();
        let at = (entry - L1) as u64 / 8 * 64 * 512;
        let error = device.next_extent(at..at + 1).unwrap_err();
        assert_eq!((error.as_corrupt().unwrap().field, error.exit_code()), ("L1 table entry", 8), "{value:#x}");
    }
    assert_corrupt(L2 + 24, 8, 8 * CLUSTER as u64, "L2 table entry", L2 + 24);
    assert_corrupt(L2 + 24, 8, u64::MAX, "L2 table entry", L2 + 24);
    assert_corrupt(L2 + 24, 8, (1 << 62) | (8 * CLUSTER) as u64, "L2 table entry", L2 + 24);
    assert_corrupt(L2 + 24, 8, (1 << 62) | DATA as u64, "compressed cluster", DATA);
    let mut image = Image::new();
    image.be64(L2 + 24, 8 * CLUSTER as u64);
    let device = image.open().unwrap();
    assert_eq!(device.next_extent(0..SIZE as u64).unwrap().len, CLUSTER as u64, "what comes before it is known");
    assert_eq!(read_vec(&device, 0, 3 * CLUSTER).unwrap(), guest()[..3 * CLUSTER]);
}

#[test]
fn tables_that_point_at_tables_are_only_bytes() {
    for target in [0, L1, L2] {
        let mut image = Image::new();
        image.be64(L1 + 8, target as u64).be64(L2 + 24, target as u64);
        if let Ok(device) = image.open() {
            let _ = read_vec(&device, 0, SIZE);
            let _ = for_each_extent(&device, 0..SIZE as u64, &mut |_, _| Ok(()));
        }
    }
}

#[test]
fn what_is_not_read_is_refused_by_name() {
    let refused = |at: usize, bytes: &[u8]| {
        let mut image = Image::new();
        let error = image.put(at, bytes).open().unwrap_err();
        assert_eq!(error.exit_code(), 7, "{error}");
        error.to_string()
    };
    assert!(refused(4, &1u32.to_be_bytes()).contains("version 1"));
    assert!(refused(4, &4u32.to_be_bytes()).contains("version 4"));
    assert!(refused(32, &1u32.to_be_bytes()).contains("encryption (AES)"));
    assert!(refused(32, &2u32.to_be_bytes()).contains("encryption (LUKS)"));
    assert!(refused(32, &3u32.to_be_bytes()).contains("encryption method 3"));
    assert!(refused(72, &((1u64 << 40) | 1).to_be_bytes()).contains("incompatible feature bit 40"));
    assert!(refused(72, &4u64.to_be_bytes()).contains("external data file"));
    assert!(refused(104, &[2]).contains("compression type 2"));
    let mut image = Image::new();
    let info = image.be32(32, 2).open_as(false, None).unwrap().info("x".into());
    assert!(info.encrypted, "what an encrypted image says about itself is no secret");
}

#[test]
fn budgets_are_named() {
    let limited = |at: usize, value: u32| {
        let error = Image::new().be32(at, value).open().unwrap_err();
        assert_eq!(error.exit_code(), 4, "{error}");
        error.to_string()
    };
    assert!(limited(36, 0xffff_ffff).contains("L1 table bytes"));
    assert!(limited(60, 65_537).contains("internal snapshots"));
    let mut image = Image::new();
    image.0.resize(10 << 20, 0);
    let error = image.be32(SNAPSHOT_TABLE + 36, 9 << 20).open().unwrap_err();
    assert!(error.to_string().contains("snapshot table bytes"), "{error}");
    let error = Image::new().be32(SNAPSHOT_TABLE + 36, 0xffff_ffff).open().unwrap_err();
    assert_eq!(error.as_corrupt().unwrap().field, "snapshot table");
}

#[test]
fn every_length_of_a_cut_off_file_is_an_error_or_the_beginning() {
    let whole = Image::new();
    for len in 0..whole.0.len() {
        let cut = Image(whole.0[..len].to_vec());
        if let Ok(bytes) = cut.read() {
            assert!(len >= SNAPSHOT_TABLE + 61, "{len} bytes end in the middle of the snapshot's name");
            assert_eq!(bytes, guest());
        }
    }
    // The rest of a cluster that was never written reads as zeroes.
    let mut image = Image::new();
    image.be32(60, 0).be64(L2, 7 * CLUSTER as u64);
    image.0.truncate(7 * CLUSTER + 100);
    image.0[7 * CLUSTER..].fill(5);
    let bytes = image.read().unwrap();
    assert_eq!((&bytes[..100], &bytes[100..512]), (&[5; 100][..], &[0; 412][..]));
    let device = image.open().unwrap();
    assert_eq!(device.next_extent(0..512).unwrap(), Extent { kind: ExtentKind::Data, len: 100 });
    assert_eq!(device.next_extent(100..512).unwrap(), Extent { kind: ExtentKind::Zero, len: 412 });
}

#[test]
fn a_snapshot_is_found_by_name_then_by_id() {
    let mut image = Image::new();
    for wanted in ["then", "7"] {
        let device = image.open_as(true, Some(wanted)).unwrap();
        assert_eq!(read_vec(&device, 0, device.size() as usize).unwrap(), vec![0; 2 * CLUSTER]);
    }
    let error = image.open_as(true, Some("now")).unwrap_err();
    assert_eq!(error.to_string(), "no internal snapshot 'now'; there are: 'then'");
    let info = image.open_as(false, None).unwrap().info("x".into());
    let snapshot = &info.snapshots[0];
    assert_eq!((snapshot.id.as_str(), snapshot.name.as_str(), snapshot.icount), ("7", "then", None));
    assert_eq!((snapshot.date_sec, snapshot.vm_clock_sec, snapshot.vm_clock_nsec), (1_700_000_000, 3, 5));

    for (at, value, field) in [(0, 8, "l1_table_offset"), (0, !511, "l1_table_offset"), (48, 1 << 63, "disk_size")] {
        let mut image = Image::new();
        let error = image.be64(SNAPSHOT_TABLE + at, value).open_as(true, Some("then")).unwrap_err();
        let corrupt = error.as_corrupt().unwrap();
        assert_eq!((corrupt.field, corrupt.offset), (field, (SNAPSHOT_TABLE + at) as u64));
        image.open().unwrap();
    }
    let error = image.be32(SNAPSHOT_TABLE + 8, 1 << 23).open_as(true, Some("then")).unwrap_err();
    assert_eq!(error.exit_code(), 4);
    assert!(image.be32(60, 0).open_as(true, Some("then")).unwrap_err().to_string().ends_with("there are: none"));
}

#[test]
fn references_stay_closed_when_only_headers_are_asked_for() {
    let mut image = Image::new();
    image.be64(8, 200).be32(16, 4).put(200, b"base");
    assert_eq!(image.open().unwrap_err().exit_code(), 5, "the gate refuses");
    let image = image.open_as(false, None).unwrap();
    assert_eq!(image.info("dir/x".into()).full_backing_filename.as_deref(), Some("dir/base"));
    assert_eq!(image.read_exact_at(&mut [0], 0).unwrap_err().exit_code(), 2, "and nothing is made up for it");
}

/// A device that counts the reads it gets.
#[derive(Debug)]
struct Counting(Memory, AtomicUsize);

impl BlockDevice for Counting {
    fn size(&self) -> u64 {
        self.0.size()
    }
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.read_exact_at(buf, offset)
    }
    fn next_extent(&self, range: Range<u64>) -> Result<Extent> {
        self.0.next_extent(range)
    }
}

#[test]
fn neighbouring_host_clusters_are_read_at_once_and_tables_once() {
    let mut image = Image::new();
    image.be32(60, 0).0.resize(80 * CLUSTER, 3);
    for cluster in 0..60 {
        image.be64(L2 + 8 * cluster, ((10 + cluster) * CLUSTER) as u64);
    }
    let file = Arc::new(Counting(Memory::new(image.0), AtomicUsize::new(0)));
    let context = OpenContext { path: Path::new("x"), gate: &DenyAll, depth: 0, follow: true, snapshot: None };
    let device = Qcow2::open(file.clone(), &context).unwrap();
    let reads = |len| {
        let before = file.1.load(Ordering::Relaxed);
        read_vec(&device, 100, len).unwrap();
        file.1.load(Ordering::Relaxed) - before
    };
    assert_eq!(reads(50 * CLUSTER), 3, "one each for L1, L2 and data");
    assert_eq!((reads(50 * CLUSTER), reads(1)), (1, 1));
}

#[test]
fn many_threads_read_the_same() {
    let device = Image::new().open().unwrap();
    std::thread::scope(|scope| {
        for thread in 0..8usize {
            let device = &device;
            scope.spawn(move || {
                for round in 0..500 {
                    let at = (thread * 131 + round * 97) % (4 * CLUSTER);
                    assert_eq!(read_vec(device, at as u64, 200).unwrap(), guest()[at..at + 200]);
                }
            });
        }
    });
}

#[test]
fn names_are_seen_from_the_images_directory() {
    for (image, name, expected) in [
        ("/a/top", "base", "/a/base"),
        ("top", "base", "base"),
        ("./top", "../base", "./../base"),
        ("/a/top", "/b/base", "/b/base"),
        ("/a/top", "nbd://host/x", "nbd://host/x"),
        ("/a/top", "json:{}", "json:{}"),
        ("/a/top", "b/c:d", "/a/b/c:d"),
    ] {
        assert_eq!(seen_from(image, name), expected);
    }
}
