//! Containers: gzip, xz and zstd around a small disk, every field of their structures damaged.

use crate::disk::{Disk, Random, boundaries};
use crate::fat::tiny;
use crate::support::have;
use crate::{DISK, SEED, Suite};

fn build(tool: &str, script: &str) -> Option<Disk> {
    if !have(tool) {
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut raw = tiny();
    raw.resize(4 << 20, 0);
    raw[2 << 20..][..4096].fill(0x5a);
    std::fs::write(dir.path().join("raw"), raw).unwrap();
    crate::support::shell(dir.path(), script);
    Some(std::fs::read(dir.path().join("disk")).unwrap().into())
}

/// Every byte range that has a meaning at its edges, single bytes at random, and every way to be cut short.
fn damage(suite: &mut Suite, fields: &[(&'static str, usize, usize)]) {
    for &(field, at, size) in fields {
        for value in boundaries(size, suite.base.le_at(at, size)) {
            suite.add(format!("{field} {value:#x}"), move |disk| disk.le(at, size, value));
        }
    }
    let len = suite.base.bytes.len();
    let mut random = Random(SEED);
    for number in 0..60 {
        let at = if number % 2 == 0 { random.below(60.min(len)) } else { len - 1 - random.below(60.min(len)) };
        let value = random.next();
        suite.add(format!("byte {at:#x} {value:#x}"), move |disk| disk.le(at, 1, value));
    }
    for cut in [0, 1, 4, 6, 11, 12, 13, 24, 32, 100, len / 2, len - 1, len - 4, len - 12] {
        suite.add(format!("cut to {cut} bytes"), move |disk| disk.resize(cut as u64));
    }
    suite.add("a megabyte of zeroes behind", move |disk| disk.len += 1 << 20);
    suite.add("two gigabytes of zeroes behind", move |disk| disk.len += 2 << 30);
    suite.add("twice", |disk| {
        disk.bytes.extend_from_within(..);
        disk.len = disk.bytes.len() as u64;
    });
}

#[test]
fn damaged_xz() {
    let Some(base) = build("xz", "xz -c --block-size=1MiB raw > disk") else { return };
    let mut suite = Suite::new("xz", base, DISK);
    suite.extension = "xz";
    let end = suite.base.bytes.len();
    let index = end - 12 - (suite.base.le_at(end - 8, 4) as usize + 1) * 4;
    damage(
        &mut suite,
        &[
            ("stream flags", 6, 2),
            ("block header size", 12, 1),
            ("backward size", end - 8, 4),
            ("records", index + 1, 1),
        ],
    );
    // With the checksums made right again.
    for at in 1..20 {
        for value in [0, 1, 0x7f, 0x80, 0xff] {
            suite.add(format!("index byte {at} {value:#x}"), move |disk| {
                disk.le(index + at, 1, value);
                let sum = crc32fast::hash(disk.get(index, end - 16 - index));
                disk.le(end - 16, 4, sum.into());
            });
            suite.add(format!("block header byte {at} {value:#x}"), move |disk| {
                let len = (disk.le_at(12, 1) as usize + 1) * 4;
                disk.le(12 + at, 1, value);
                let sum = crc32fast::hash(disk.get(12, len - 4));
                disk.le(12 + len - 4, 4, sum.into());
            });
        }
    }
    for value in boundaries(4, 0) {
        suite.add(format!("backward size {value:#x}, with its sum"), move |disk| {
            disk.le(end - 8, 4, value);
            let sum = crc32fast::hash(disk.get(end - 8, 6));
            disk.le(end - 12, 4, sum.into());
        });
    }
    suite.refused = 60;
    suite.run();
}

#[test]
fn damaged_gzip() {
    let Some(base) = build("bgzip", "bgzip -c raw > disk") else { return };
    let mut suite = Suite::new("gzip members", base, DISK);
    suite.extension = "gz";
    damage(&mut suite, &[("FLG", 3, 1), ("XLEN", 10, 2), ("LEN", 14, 2), ("BSIZE", 16, 2)]);
    suite.refused = 60;
    suite.run();

    let Some(base) = build("gzip", "gzip -c raw > disk") else { return };
    let mut suite = Suite::new("gzip", base, DISK);
    suite.extension = "gz";
    let end = suite.base.bytes.len();
    damage(&mut suite, &[("FLG", 3, 1), ("CRC32", end - 8, 4), ("ISIZE", end - 4, 4)]);
    suite.refused = 60;
    suite.run();
}

#[test]
fn damaged_zstd() {
    let Some(base) = build("zstd", "split -b 1000000 raw part-; zstd -q part-*; cat part-*.zst > disk") else { return };
    let mut suite = Suite::new("zstd", base, DISK);
    suite.extension = "zst";
    damage(&mut suite, &[("magic", 0, 4), ("descriptor", 4, 1), ("size", 5, 4), ("block header", 9, 3)]);
    let many = [&0xfd2f_b528u32.to_le_bytes()[..], &[0x20, 1, 0, 0, 0]].concat();
    suite.add("a million headers of nothing", move |disk| *disk = many.repeat(1 << 20).into());
    suite.add("a frame of empty blocks", |disk| {
        let mut file = [&0xfd2f_b528u32.to_le_bytes()[..], &[0x20, 1]].concat();
        file.resize(6 << 20, 0);
        *disk = file.into();
    });
    suite.add("skippable frames", |disk| {
        *disk = [0x184d_2a50u32, 0].map(u32::to_le_bytes).concat().repeat(1 << 20).into();
    });
    for count in [0u32, 1, 100, 1 << 20, u32::MAX] {
        suite.add(format!("a seek table of {count} frames"), move |disk| {
            let table = [&count.to_le_bytes()[..], &[0], &0x8f92_eab1u32.to_le_bytes()].concat();
            disk.bytes.extend(table);
            disk.len = disk.bytes.len() as u64;
        });
    }
    // The largest block there may be, from a few bytes; each of the commands unpacks it more than once at most.
    suite.add("bombs", |disk| {
        let bomb = zstd::bulk::compress(&vec![0; 24 << 20], 19).unwrap();
        *disk = bomb.repeat(1000).into();
    });
    suite.refused = 50;
    suite.run();
}

#[test]
fn unpacked_images_that_are_hostile_are_too_large_for_nobody() {
    let script = "head -c 104857600 /dev/zero >> raw; xz -c -0 -T1 --block-size=25165824 raw > disk";
    let Some(base) = build("xz", script) else { return };
    let mut suite = Suite::new("xz of zeroes", base, DISK);
    suite.extension = "xz";
    suite.add("as it is", |_| ());
    // All that is behind the first headers decodes to something else, or not at all.
    let mut random = Random(SEED);
    for number in 0..20 {
        let at = 100 + random.below(suite.base.bytes.len() - 200);
        let value = random.next();
        suite.add(format!("data {number}"), move |disk| disk.le(at, 1, value));
    }
    suite.run();
}
