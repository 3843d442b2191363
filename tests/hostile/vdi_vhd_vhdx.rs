//! VDI, VHD and VHDX by qemu-img, with every field at its edges and the checksums above it repaired.

use crate::disk::{Disk, Random, boundaries};
use crate::fat::tiny;
use crate::support::have;
use crate::{DISK, SEED, Suite};

/// A small filesystem and a mark near the end, as qemu-img stores them.
fn build(format: &str, options: &str) -> Disk {
    let dir = tempfile::tempdir().unwrap();
    let mut raw = tiny();
    raw.resize(6 << 20, 0);
    raw[5 << 20..][..4096].fill(0x5a);
    std::fs::write(dir.path().join("raw"), raw).unwrap();
    crate::support::shell(dir.path(), &format!("qemu-img convert -f raw -O {format} -o {options} raw disk"));
    std::fs::read(dir.path().join("disk")).unwrap().into()
}

fn cuts(suite: &mut Suite, lengths: &[u64]) {
    for &len in lengths {
        suite.add(format!("cut to {len} bytes"), move |disk| disk.resize(len));
    }
}

#[test]
fn damaged_vdi() {
    if have("qemu-img") {
        vdi().run();
    }
}

pub fn vdi() -> Suite {
    let mut suite = Suite::new("vdi", build("vdi", "static=off"), DISK);
    suite.extension = "vdi";
    for (field, offset, size) in [
        ("signature", 64, 4),
        ("version", 68, 4),
        ("header size", 72, 4),
        ("image type", 76, 4),
        ("block map offset", 340, 4),
        ("data offset", 344, 4),
        ("sector size", 360, 4),
        ("disk size", 368, 8),
        ("block size", 376, 4),
        ("block extra size", 380, 4),
        ("blocks in image", 384, 4),
        ("blocks allocated", 388, 4),
        ("parent", 424, 8),
    ] {
        for value in boundaries(size, suite.base.le_at(offset, size)) {
            suite.add(format!("{field} {value:#x}"), move |disk| disk.le(offset, size, value));
        }
    }
    for value in [3, 4, 5] {
        suite.add(format!("image type {value}"), move |disk| disk.le(76, 4, value));
    }
    let map = suite.base.le_at(340, 4) as usize;
    for value in boundaries(4, suite.base.le_at(map, 4)) {
        suite.add(format!("block map entry {value:#x}"), move |disk| disk.le(map, 4, value));
    }
    suite.add("every block the same", move |disk| (0..6).for_each(|block| disk.le(map + block * 4, 4, 0)));
    suite.add("a disk of 4 PiB in a sparse file", move |disk| {
        disk.le(340, 4, 1 << 20);
        disk.le(344, 4, 512);
        disk.le(368, 8, 1 << 52);
        disk.le(384, 4, 0xffff_ffff);
        disk.len = 20 << 30;
    });
    cuts(&mut suite, &[0, 64, 72, 384, 511, 512, 1024, 1536, 1 << 20]);
    suite.refused = 40;
    suite
}

/// Repairs the checksum at `field` of the `len` bytes at `at`.
pub fn seal_vhd(disk: &mut Disk, at: usize, len: usize, field: usize) {
    disk.be(at + field, 4, 0);
    let sum = disk.get(at, len).iter().fold(0u32, |sum, byte| sum.wrapping_add((*byte).into()));
    disk.be(at + field, 4, u64::from(!sum));
}

#[test]
fn damaged_vhd() {
    if have("qemu-img") {
        vhd().run();
    }
}

pub fn vhd() -> Suite {
    let mut suite = Suite::new("vhd dynamic", build("vpc", "subformat=dynamic,force_size=on"), DISK);
    suite.extension = "vhd";
    let end = suite.base.bytes.len() - 512;
    for (field, offset, size) in [
        ("cookie", 0, 8),
        ("version", 12, 4),
        ("data offset", 16, 8),
        ("creator", 28, 4),
        ("current size", 48, 8),
        ("geometry", 56, 4),
        ("disk type", 60, 4),
        ("unique ID", 68, 8),
    ] {
        for value in boundaries(size, suite.base.be_at(offset, size)) {
            suite.add(format!("{field} {value:#x}"), move |disk| {
                for at in [0, end] {
                    disk.be(at + offset, size, value);
                    seal_vhd(disk, at, 512, 64);
                }
            });
        }
    }
    for (field, offset, size) in [
        ("header cookie", 0, 8),
        ("table offset", 16, 8),
        ("header version", 24, 4),
        ("max table entries", 28, 4),
        ("block size", 32, 4),
    ] {
        for value in boundaries(size, suite.base.be_at(512 + offset, size)) {
            suite.add(format!("{field} {value:#x}"), move |disk| {
                disk.be(512 + offset, size, value);
                seal_vhd(disk, 512, 1024, 36);
            });
        }
    }
    for value in boundaries(4, suite.base.be_at(1536, 4)) {
        suite.add(format!("BAT entry {value:#x}"), move |disk| disk.be(1536, 4, value));
    }
    suite.add("every block the same", |disk| (0..3).for_each(|block| disk.be(1536 + block * 4, 4, 0)));
    suite.add("no checksum is right", move |disk| [64, 512 + 36, end + 64].iter().for_each(|at| disk.be(*at, 4, 1)));
    suite.add("the end is damaged", move |disk| disk.be(end + 64, 4, 1));
    suite.add("the beginning is damaged", |disk| disk.be(64, 4, 1));
    for (name, entry, len) in [
        ("relative", *b"W2ru", 20u64),
        ("absolute", *b"W2ku", 20),
        ("of 4 GiB", *b"W2ru", u32::MAX.into()),
        ("none", *b"MacX", 20),
    ] {
        suite.add(format!("a parent, {name}"), move |disk| {
            for at in [0, end] {
                disk.be(at + 60, 4, 4);
                seal_vhd(disk, at, 512, 64);
            }
            disk.put(512 + 576, &entry);
            disk.be(512 + 584, 4, len);
            disk.be(512 + 592, 8, 4096);
            seal_vhd(disk, 512, 1024, 36);
            let name: Vec<u8> = "/etc/passwd".encode_utf16().flat_map(u16::to_le_bytes).collect();
            disk.put(4096, &name);
        });
    }
    suite.add("2040 GiB in blocks of 512 bytes", move |disk| {
        for at in [0, end] {
            disk.be(at + 48, 8, 2040 << 30);
            seal_vhd(disk, at, 512, 64);
        }
        disk.be(512 + 28, 4, 0xffff_ffff);
        disk.be(512 + 32, 4, 512);
        disk.be(512 + 16, 8, 1 << 30);
        seal_vhd(disk, 512, 1024, 36);
        disk.len = 20 << 30;
    });
    cuts(&mut suite, &[0, 8, 511, 512, 1024, 1535, 1536, 2048, 1 << 20]);
    suite.refused = 40;
    suite
}

#[test]
fn damaged_fixed_vhd() {
    if !have("qemu-img") {
        return;
    }
    let mut suite = Suite::new("vhd fixed", build("vpc", "subformat=fixed,force_size=on"), DISK);
    suite.extension = "vhd";
    let end = suite.base.bytes.len() - 512;
    suite.add("a dynamic footer at the beginning", move |disk| {
        let footer = disk.get(end, 512).to_vec();
        disk.put(0, &footer);
        disk.be(60, 4, 3);
        disk.be(16, 8, 512);
        seal_vhd(disk, 0, 512, 64);
    });
    for value in boundaries(8, 6 << 20) {
        suite.add(format!("current size {value:#x}, by its name"), move |disk| {
            let footer = disk.get(end, 512).to_vec();
            disk.put(0, &footer);
            for at in [0, end] {
                disk.be(at + 48, 8, value);
                seal_vhd(disk, at, 512, 64);
            }
        });
    }
    suite.refused = 50;
    suite.run();
}

/// Repairs the checksum of the `len` bytes at `at`.
fn seal_vhdx(disk: &mut Disk, at: usize, len: usize) {
    disk.le(at + 4, 4, 0);
    let sum = crc32c::crc32c(disk.get(at, len));
    disk.le(at + 4, 4, sum.into());
}

const KIB: usize = 1 << 10;

#[test]
fn damaged_vhdx() {
    if have("qemu-img") {
        vhdx().run();
    }
}

pub fn vhdx() -> Suite {
    let base = build("vhdx", "subformat=dynamic,block_size=1M");
    let region = |index: usize| base.le_at(192 * KIB + 16 + 32 * index + 16, 8) as usize;
    let (bat, metadata) = (region(0), region(1));
    let mut suite = Suite::new("vhdx", base, DISK);
    suite.extension = "vhdx";
    for (field, offset, size) in [
        ("Signature", 0, 4),
        ("SequenceNumber", 8, 8),
        ("LogGuid", 48, 8),
        ("LogVersion", 64, 2),
        ("Version", 66, 2),
        ("LogLength", 68, 4),
        ("LogOffset", 72, 8),
    ] {
        for value in boundaries(size, suite.base.le_at(64 * KIB + offset, size)) {
            suite.add(format!("{field} {value:#x}"), move |disk| {
                for at in [64 * KIB, 128 * KIB] {
                    disk.le(at + offset, size, value);
                    if size == 8 && offset == 8 {
                        disk.le(at + offset, size, value.wrapping_add(at as u64));
                    }
                    seal_vhdx(disk, at, 4096);
                }
            });
        }
    }
    let regions = [("EntryCount", 8, 4), ("BAT Guid", 16, 8), ("BAT FileOffset", 32, 8), ("BAT Length", 40, 4)];
    let more = [("metadata Guid", 48, 8), ("metadata FileOffset", 64, 8), ("metadata Length", 72, 4)];
    for (field, offset, size) in regions.into_iter().chain(more) {
        for value in boundaries(size, suite.base.le_at(192 * KIB + offset, size)) {
            suite.add(format!("{field} {value:#x}"), move |disk| {
                for at in [192 * KIB, 256 * KIB] {
                    disk.le(at + offset, size, value);
                    seal_vhdx(disk, at, 64 * KIB);
                }
            });
        }
    }
    for at in [0, 10] {
        for value in boundaries(2, suite.base.le_at(metadata + at, 2)) {
            suite.add(format!("metadata byte {at} {value:#x}"), move |disk| disk.le(metadata + at, 2, value));
        }
    }
    for entry in 0..5 {
        let entry = metadata + 32 + 32 * entry;
        let item = metadata + suite.base.le_at(entry + 16, 4) as usize;
        for (at, size) in [(entry, 4), (entry + 16, 4), (entry + 20, 4), (entry + 24, 4), (item, 4), (item + 4, 4)] {
            for value in boundaries(size, suite.base.le_at(at, size)) {
                suite.add(format!("item {at:#x} {value:#x}"), move |disk| disk.le(at, size, value));
            }
        }
    }
    for value in
        boundaries(8, suite.base.le_at(bat, 8)).into_iter().chain(0..8).chain((0..8).map(|state| state | 1 << 20))
    {
        suite.add(format!("BAT entry {value:#x}"), move |disk| disk.le(bat, 8, value));
    }
    cuts(&mut suite, &[0, 8, 65_536, 70_000, 200_000, 300_000, 1 << 20, 2 << 20, 3 << 20]);
    suite.refused = 40;
    suite
}

/// Where the block allocation table begins.
pub fn bat(disk: &Disk) -> usize {
    disk.le_at(192 * KIB + 32, 8) as usize
}

/// Gives the disk `size` bytes, and a table of `len` bytes at `at`.
pub fn give_vhdx(disk: &mut Disk, size: u64, at: u64, len: u64) {
    let metadata = disk.le_at(192 * KIB + 64, 8) as usize;
    for entry in (metadata + 32..metadata + 32 * 6).step_by(32) {
        // The virtual disk size has the identifier 2FA54224-….
        if disk.le_at(entry, 4) == 0x2fa5_4224 {
            let item = metadata + disk.le_at(entry + 16, 4) as usize;
            disk.le(item, 8, size);
        }
    }
    for region in [192 * KIB, 256 * KIB] {
        disk.le(region + 32, 8, at);
        disk.le(region + 40, 4, len);
        seal_vhdx(disk, region, 64 * KIB);
    }
}

const GUID: u64 = 0x5a5a_5a5a_5a5a_5a5a;

/// Says that there is a log of `length` bytes at `offset`.
fn dirty(disk: &mut Disk, offset: u64, length: u64) {
    for at in [64 * KIB, 128 * KIB] {
        disk.le(at + 48, 8, GUID);
        disk.le(at + 56, 8, GUID);
        disk.le(at + 68, 4, length);
        disk.le(at + 72, 8, offset);
        seal_vhdx(disk, at, 4096);
    }
}

/// An entry's header at `at` without its checksum.
fn log_entry(disk: &mut Disk, at: usize, length: u64, tail: u64, number: u64, descriptors: u64) {
    disk.put(at, b"loge");
    for (field, size, value) in
        [(8, 4, length), (12, 4, tail), (16, 8, number), (24, 4, descriptors), (32, 8, GUID), (40, 8, GUID)]
    {
        disk.le(at + field, size, value);
    }
}

#[test]
fn damaged_vhdx_logs() {
    if have("qemu-img") {
        vhdx_logs().run();
    }
}

pub fn vhdx_logs() -> Suite {
    let mut suite = Suite::new("vhdx log", build("vhdx", "subformat=dynamic,block_size=1M"), DISK);
    suite.extension = "vhdx";
    let log = 1 << 20;
    let zero = move |disk: &mut Disk, offset: u64, length: u64| {
        log_entry(disk, log, 4096, 0, 1, 1);
        disk.put(log + 64, b"zero");
        disk.le(log + 72, 8, length);
        disk.le(log + 80, 8, offset);
        disk.le(log + 88, 8, 1);
        seal_vhdx(disk, log, 4096);
        dirty(disk, log as u64, 1 << 20);
    };
    for (offset, length) in [
        (0u64, 1u64 << 62),
        (0, u64::MAX),
        (u64::MAX - 4095, 4096),
        (4096, 1 << 20),
        (64 << 10, 256 << 10),
        (2 << 20, 2 << 20),
        (1 << 62, 4096),
        (1, 4096),
    ] {
        suite.add(format!("{length} zeroes at {offset:#x}"), move |disk| zero(disk, offset, length));
    }
    for (field, offset, size) in [
        ("EntryLength", 8, 4),
        ("Tail", 12, 4),
        ("SequenceNumber", 16, 8),
        ("DescriptorCount", 24, 4),
        ("FlushedFileOffset", 48, 8),
        ("LastFileOffset", 56, 8),
        ("descriptor", 64, 4),
        ("descriptor's number", 88, 8),
    ] {
        for value in boundaries(size, 0) {
            suite.add(format!("{field} {value:#x}"), move |disk| {
                zero(disk, 5 << 20, 4096);
                disk.le(log + offset, size, value);
                seal_vhdx(disk, log, 4096);
            });
        }
    }
    // Every sector begins an entry that is as long as the log.
    suite.add("64 MiB of entries over one another", move |disk| {
        let length = 64usize << 20;
        let start = disk.bytes.len().next_multiple_of(1 << 20);
        disk.bytes.resize(start + length, 0);
        disk.len = disk.bytes.len() as u64;
        for at in (0..length).step_by(4096) {
            log_entry(disk, start + at, length as u64, at as u64, 1 + at as u64, 0);
        }
        dirty(disk, start as u64, length as u64);
    });
    suite.add("64 MiB of entries behind one another", move |disk| {
        let length = 64usize << 20;
        let start = disk.bytes.len().next_multiple_of(1 << 20);
        disk.bytes.resize(start + length, 0);
        disk.len = disk.bytes.len() as u64;
        for at in (0..length).step_by(4096) {
            log_entry(disk, start + at, 4096, 0, 1 + at as u64 / 4096, 126);
            for descriptor in 0..126 {
                let field = start + at + 64 + descriptor * 32;
                disk.put(field, b"zero");
                disk.le(field + 8, 8, 4096);
                disk.le(field + 16, 8, ((at * 32 + descriptor * 8192) as u64) << 12);
                disk.le(field + 24, 8, 1 + at as u64 / 4096);
            }
            seal_vhdx(disk, start + at, 4096);
        }
        dirty(disk, start as u64, length as u64);
    });
    suite.add("a log of 4 GiB", move |disk| {
        disk.len = 6 << 30;
        dirty(disk, log as u64, 4095 << 20);
    });
    let mut random = Random(SEED);
    for number in 0..20 {
        let (at, value) = (log + random.below(200), random.next());
        suite.add(format!("noise {number}"), move |disk| {
            zero(disk, 5 << 20, 4096);
            disk.le(at, 1, value);
        });
    }
    suite.refused = 60;
    suite
}
