//! VMDK: monolithic sparse and stream-optimized images by qemu-img, and descriptors by hand.

use crate::disk::{Disk, Random, boundaries};
use crate::fat::tiny;
use crate::support::have;
use crate::{DISK, SEED, Suite};

fn build(subformat: &str) -> Disk {
    let dir = tempfile::tempdir().unwrap();
    let mut raw = tiny();
    // The first sector of a partition table's disk, so that what is behind the filesystem is not zero.
    raw.resize(4 << 20, 0);
    raw[2 << 20..][..4096].fill(0x5a);
    std::fs::write(dir.path().join("raw"), raw).unwrap();
    let script = format!("qemu-img convert -f raw -O vmdk -o subformat={subformat} raw disk");
    crate::support::shell(dir.path(), &script);
    std::fs::read(dir.path().join("disk")).unwrap().into()
}

#[test]
fn damaged_vmdk() {
    if have("qemu-img") {
        sparse().run();
    }
}

pub fn sparse() -> Suite {
    let mut suite = Suite::new("vmdk sparse", build("monolithicSparse"), DISK);
    suite.extension = "vmdk";
    header(&mut suite, 0);
    let directory = suite.base.le_at(56, 8) as usize * 512;
    let table = suite.base.le_at(directory, 4) as usize * 512;
    for value in boundaries(4, 0) {
        suite.add(format!("grain directory entry {value:#x}"), move |disk| disk.le(directory, 4, value));
        suite.add(format!("grain table entry {value:#x}"), move |disk| disk.le(table, 4, value));
    }
    suite.add("every grain the header", move |disk| (0..512).for_each(|entry| disk.le(table + entry * 4, 4, 0)));
    suite.add("every grain the same", move |disk| (0..512).for_each(|entry| disk.le(table + entry * 4, 4, 128)));
    suite.add("a table that is its directory", move |disk| disk.le(directory, 4, directory as u64 / 512));
    let at = suite.base.le_at(28, 8) as usize * 512;
    let original = String::from_utf8_lossy(suite.base.get(at, 4096)).trim_end_matches('\0').to_owned();
    for (old, new) in descriptors(&original) {
        let mut changed = original.replacen(&old, &new, 1).into_bytes();
        changed.resize(10_240, 0);
        suite.add(format!("descriptor {new:.40?}"), move |disk| disk.put(at, &changed));
    }
    for len in [0, 4, 79, 511, 512, 1024, 10_000, 65_536, 70_000] {
        suite.add(format!("cut to {len} bytes"), move |disk| disk.resize(len));
    }
    suite.refused = 30;
    suite
}

/// Every header field at its edges.
fn header(suite: &mut Suite, start: usize) {
    for (field, offset, size) in [
        ("magicNumber", 0, 4),
        ("version", 4, 4),
        ("flags", 8, 4),
        ("capacity", 12, 8),
        ("grainSize", 20, 8),
        ("descriptorOffset", 28, 8),
        ("descriptorSize", 36, 8),
        ("numGTEsPerGT", 44, 4),
        ("rgdOffset", 48, 8),
        ("gdOffset", 56, 8),
        ("overHead", 64, 8),
        ("singleEndLineChar", 73, 4),
        ("compressAlgorithm", 77, 2),
    ] {
        for value in boundaries(size, suite.base.le_at(start + offset, size)) {
            suite.add(format!("{field} at {start:#x} {value:#x}"), move |disk| disk.le(start + offset, size, value));
        }
    }
    for bit in 0..20 {
        suite.add(format!("flag bit {bit} at {start:#x}"), move |disk| {
            let flags = disk.le_at(start + 8, 4) ^ 1 << bit;
            disk.le(start + 8, 4, flags);
        });
    }
}

/// What the descriptor's lines are replaced with.
fn descriptors(text: &str) -> Vec<(String, String)> {
    let extent = text.lines().find(|line| line.starts_with("RW ")).unwrap().to_owned();
    let mut found = Vec::new();
    for line in [
        "",
        "RW",
        "RW 0 SPARSE \"disk\"",
        "RW -1 SPARSE \"disk\"",
        "RW 18446744073709551615 SPARSE \"disk\"",
        "RW 9223372036854775808 SPARSE \"disk\"",
        "RW 8192 FLAT \"/etc/passwd\" 0",
        "RW 8192 FLAT \"../../etc/passwd\" 18446744073709551615",
        "RW 8192 ZERO",
        "NOACCESS 8192 SPARSE \"disk\"",
        "RW 8192 SPARSE \"disk",
        "RW 8192 VMFSRDM \"/dev/sda\"",
    ] {
        found.push((extent.clone(), line.to_owned()));
    }
    found.push((extent.clone(), format!("{extent}\n").repeat(100)));
    found.push((extent.clone(), "x".repeat(9_000)));
    for (old, new) in [
        ("parentCID=ffffffff", "parentCID=12345678"),
        ("parentCID=ffffffff", "parentCID=12345678\nparentFileNameHint=\"/etc/passwd\""),
        ("monolithicSparse", "twoGbMaxExtentFlat"),
        ("monolithicSparse", "vmfs"),
        ("version=1", "version=99999999999999999999"),
        ("# Disk DescriptorFile", "# Something else"),
        ("CID=", "\u{0}\u{1b}="),
    ] {
        found.push((old.to_owned(), new.to_owned()));
    }
    found
}

#[test]
fn damaged_vmdk_stream() {
    if have("qemu-img") {
        stream().run();
    }
}

pub fn stream() -> Suite {
    let mut suite = Suite::new("vmdk stream", build("streamOptimized"), DISK);
    suite.extension = "vmdk";
    header(&mut suite, 0);
    let end = suite.base.bytes.len();
    if suite.base.le_at(56, 8) == u64::MAX {
        header(&mut suite, end - 1024);
    }
    for at in [end - 1536, end - 1536 + 8, end - 1536 + 12, end - 512, end - 504, end - 500] {
        for value in boundaries(4, suite.base.le_at(at, 4)) {
            suite.add(format!("marker at {at:#x} {value:#x}"), move |disk| disk.le(at, 4, value));
        }
    }
    // The first grain's marker stands behind the descriptor.
    let grain = suite.base.le_at(64, 8) as usize * 512;
    for value in boundaries(8, suite.base.le_at(grain, 8)) {
        suite.add(format!("grain lba {value:#x}"), move |disk| disk.le(grain, 8, value));
    }
    for value in boundaries(4, suite.base.le_at(grain + 8, 4)) {
        suite.add(format!("grain size {value:#x}"), move |disk| disk.le(grain + 8, 4, value));
    }
    let mut random = Random(SEED);
    for number in 0..40 {
        let (at, value) = (grain + 12 + random.below(200), random.next());
        suite.add(format!("compressed bytes {number}"), move |disk| disk.le(at, 1, value));
    }
    suite.add("a grain that unpacks to more than itself", move |disk| {
        let mut compressor = libdeflater::Compressor::new(libdeflater::CompressionLvl::best());
        let mut packed = vec![0; 100_000];
        let len = compressor.zlib_compress(&vec![0; 8 << 20], &mut packed).unwrap();
        let end = disk.bytes.len().max(grain + 12 + len);
        disk.bytes.resize(end, 0);
        disk.len = end as u64;
        disk.le(grain + 8, 4, len as u64);
        disk.put(grain + 12, &packed[..len]);
    });
    suite.refused = 30;
    suite
}

#[test]
fn damaged_vmdk_descriptors() {
    let base = "# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType=\"custom\"\n";
    let mut suite = Suite::new("vmdk descriptor", tiny().into(), DISK);
    suite.extension = "vmdk";
    let mut add = |name: &str, text: String| suite.add(name, move |disk| *disk = text.clone().into_bytes().into());
    add("no extents", base.to_owned());
    for extent in
        ["FLAT \"/etc/passwd\" 0", "SPARSE \"image.vmdk\"", "FLAT \"a/../../../etc/shadow\" 0", "ZERO", "FLAT \"\" 0"]
    {
        add(extent, format!("{base}RW 8192 {extent}\n"));
    }
    add("5,000 extents", format!("{base}{}", "RW 1 ZERO\n".repeat(5_000)));
    add("4,000 extents", format!("{base}{}", "RW 1 ZERO\n".repeat(4_000)));
    add("sizes that overflow", format!("{base}{}", "RW 9223372036854775807 ZERO\n".repeat(4)));
    add("an exabyte of zeroes", format!("{base}RW 2251799813685248 ZERO\n"));
    add("16 TiB of zeroes", format!("{base}RW 34359738368 ZERO\n"));
    add("a long line", format!("{base}{}", "x".repeat(900_000)));
    add("2 MiB", format!("{base}{}", "# \n".repeat(700_000)));
    add("a parent", base.replace("ffffffff", "12345678") + "parentFileNameHint=\"self.vmdk\"\nRW 8192 ZERO\n");
    suite.refused = 50;
    suite.run();
}
