//! Partition tables: MBR with a chain of logical partitions, GPT with both copies. Built by hand, so they always run.

use crate::disk::{Disk, boundaries};
use crate::fat::tiny;
use crate::{DISK, Suite};

const SECTOR: usize = 512;

/// Puts an MBR entry: type, first sector, sectors.
fn entry(disk: &mut Disk, sector: usize, slot: usize, kind: u8, start: u32, sectors: u32) {
    let at = sector * SECTOR + 446 + slot * 16;
    disk.put(at, &[0, 0, 2, 0, kind, 0, 2, 0]);
    disk.le(at + 8, 4, start.into());
    disk.le(at + 12, 4, sectors.into());
    disk.put(sector * SECTOR + 510, &[0x55, 0xaa]);
}

/// 2 MiB: a filesystem at sector 64, an extended partition at 1024 with logical partitions at 1088 and 2112.
fn mbr() -> Disk {
    let mut disk = Disk::from(vec![0; 2 << 20]);
    disk.put(64 * SECTOR, &tiny());
    entry(&mut disk, 0, 0, 0x0c, 64, 128);
    entry(&mut disk, 0, 1, 0x05, 1024, 3072);
    entry(&mut disk, 1024, 0, 0x83, 64, 512);
    entry(&mut disk, 1024, 1, 0x05, 1024, 1024);
    entry(&mut disk, 2048, 0, 0x83, 64, 512);
    disk
}

#[test]
fn damaged_mbr() {
    let mut suite = Suite::new("mbr", mbr(), DISK);
    for (name, sector, slot) in
        [("primary", 0, 0), ("extended", 0, 1), ("logical", 1024, 0), ("link", 1024, 1), ("last", 2048, 0)]
    {
        let at = sector * SECTOR + 446 + slot * 16;
        for (field, offset, size) in [("flag", 0, 1), ("type", 4, 1), ("start", 8, 4), ("sectors", 12, 4)] {
            let now = suite.base.le_at(at + offset, size);
            for value in boundaries(size, now) {
                suite.add(format!("{name} {field} {value:#x}"), move |disk| disk.le(at + offset, size, value));
            }
        }
    }
    suite.add("a chain that meets its first record", |disk| entry(disk, 2048, 1, 0x05, 0, 1024));
    suite.add("a chain that meets itself", |disk| entry(disk, 2048, 1, 0x0f, 1024, 1024));
    suite.add("a chain of two that never ends", |disk| {
        entry(disk, 2048, 1, 0x05, 512, 1024);
        entry(disk, 1536, 0, 0x83, 64, 8);
        entry(disk, 1536, 1, 0x05, 1024, 8);
    });
    suite.add("a record in every sector", |disk| {
        for sector in 1024..4090 {
            entry(disk, sector, 0, 0x83, 1, 1);
            entry(disk, sector, 1, 0x05, sector as u32 + 1 - 1024, 1);
        }
    });
    suite.add("four extended partitions", |disk| (0..4).for_each(|slot| entry(disk, 0, slot, 0x05, 1024, 3072)));
    suite.add("partitions that overlap", |disk| (0..4).for_each(|slot| entry(disk, 0, slot, 0x83, 64, 128)));
    suite.add("a partition over the whole disk", |disk| entry(disk, 0, 0, 0x83, 0, 4096));
    suite.add("a table in a table", |disk| {
        let copy = disk.get(0, SECTOR).to_vec();
        disk.put(64 * SECTOR, &copy);
    });
    for len in [0, 1, 511, 512, 513, 1024, 32 << 10, (1 << 20) + 7] {
        suite.add(format!("cut to {len} bytes"), move |disk| disk.resize(len));
    }
    suite.run();
}

const SECTORS: usize = 4096;
const TABLE: usize = 2 * SECTOR;
const HEADERS: [usize; 2] = [SECTOR, (SECTORS - 1) * SECTOR];

/// 2 MiB, two partitions: a filesystem at sector 64 and nothing at 1024.
fn gpt() -> Disk {
    let mut disk = Disk::from(vec![0; SECTORS * SECTOR]);
    disk.put(64 * SECTOR, &tiny());
    entry(&mut disk, 0, 0, 0xee, 1, SECTORS as u32 - 1);
    for (slot, start, end) in [(0, 64, 191), (1, 1024, 2047)] {
        let at = TABLE + slot * 128;
        disk.put(at, &[0xa2, 0xa0, 0xd0, 0xeb, 0xe5, 0xb9, 0x33, 0x44, 0x87, 0xc0, 0x68, 0xb6, 0xb7, 0x26, 0x99, 0xc7]);
        disk.put(at + 16, &[slot as u8 + 1; 16]);
        disk.le(at + 32, 8, start);
        disk.le(at + 40, 8, end);
        disk.put(at + 56, b"d\0a\0t\0a\0");
    }
    let table = disk.get(TABLE, 128 * 128).to_vec();
    disk.put((SECTORS - 33) * SECTOR, &table);
    for (index, at) in HEADERS.into_iter().enumerate() {
        let (own, other) = if index == 0 { (1, SECTORS - 1) } else { (SECTORS - 1, 1) };
        disk.put(at, b"EFI PART\0\0\x01\0\x5c\0\0\0");
        disk.le(at + 24, 8, own as u64);
        disk.le(at + 32, 8, other as u64);
        disk.le(at + 40, 8, 34);
        disk.le(at + 48, 8, SECTORS as u64 - 34);
        disk.put(at + 56, &[7; 16]);
        disk.le(at + 72, 8, if index == 0 { 2 } else { SECTORS as u64 - 33 });
        disk.le(at + 80, 4, 128);
        disk.le(at + 84, 4, 128);
    }
    seal(&mut disk);
    disk
}

/// Repairs table and header checksums of both copies, as far as their fields lead to bytes.
fn seal(disk: &mut Disk) {
    for at in HEADERS {
        let start = disk.le_at(at + 72, 8).saturating_mul(SECTOR as u64);
        let len = disk.le_at(at + 80, 4).saturating_mul(disk.le_at(at + 84, 4));
        let end = start.saturating_add(len);
        if end <= disk.len {
            let crc = crc32fast::hash(disk.get(start as usize, len as usize));
            disk.le(at + 88, 4, crc.into());
        }
        let size = disk.le_at(at + 12, 4).min(512) as usize;
        disk.le(at + 16, 4, 0);
        let crc = crc32fast::hash(disk.get(at, size));
        disk.le(at + 16, 4, crc.into());
    }
}

#[test]
fn damaged_gpt() {
    let mut suite = Suite::new("gpt", gpt(), DISK);
    let header = [
        ("signature", 0, 8),
        ("revision", 8, 4),
        ("header_size", 12, 4),
        ("reserved", 20, 4),
        ("my_lba", 24, 8),
        ("alternate_lba", 32, 8),
        ("first_usable", 40, 8),
        ("last_usable", 48, 8),
        ("entry_lba", 72, 8),
        ("entries", 80, 4),
        ("entry_size", 84, 4),
    ];
    for (field, offset, size) in header {
        for value in boundaries(size, suite.base.le_at(HEADERS[0] + offset, size)) {
            suite.add(format!("both {field} {value:#x}"), move |disk| {
                HEADERS.iter().for_each(|at| disk.le(at + offset, size, value));
                seal(disk);
            });
            suite.add(format!("primary {field} {value:#x}"), move |disk| {
                disk.le(HEADERS[0] + offset, size, value);
                seal(disk);
            });
        }
    }
    for (field, offset, size) in
        [("type", 0, 8), ("uuid", 16, 8), ("first", 32, 8), ("last", 40, 8), ("attributes", 48, 8)]
    {
        for value in boundaries(size, suite.base.le_at(TABLE + offset, size)) {
            suite.add(format!("entry {field} {value:#x}"), move |disk| {
                disk.le(TABLE + offset, size, value);
                disk.le((SECTORS - 33) * SECTOR + offset, size, value);
                seal(disk);
            });
        }
    }
    suite.add("128 partitions that are the same", |disk| {
        let first = disk.get(TABLE, 128).to_vec();
        (0..128).for_each(|slot| disk.put(TABLE + slot * 128, &first));
        seal(disk);
    });
    suite.add("the most partitions that entries can say", |disk| {
        disk.resize(40 << 20);
        disk.bytes.resize(40 << 20, 0);
        let first = disk.get(TABLE, 128).to_vec();
        disk.le(HEADERS[0] + 80, 4, 1024);
        disk.le(HEADERS[0] + 48, 8, (40 << 11) - 40);
        (0..1024).for_each(|slot| disk.put(TABLE + slot * 128, &first));
        seal(disk);
    });
    suite.add("names that are no UTF-16", |disk| {
        disk.put(TABLE + 56, &[0xff, 0xdb].repeat(36));
        seal(disk);
    });
    suite.add("names with control characters", |disk| {
        disk.put(TABLE + 56, &b"\x1b\0[\0\n\0/\0".repeat(9));
        seal(disk);
    });
    for len in [0x1ff, 0x200, 0x3ff, 0x400, 0x5000, 1 << 20] {
        suite.add(format!("cut to {len:#x} bytes"), move |disk| disk.resize(len));
    }
    suite.run();
}
