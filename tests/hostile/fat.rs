//! FAT: a tiny FAT12 built by hand, and FAT16 and FAT32 by mkfs.vfat.

use crate::disk::{Disk, Random, boundaries};
use crate::support::have;
use crate::{FILESYSTEM, SEED, Suite};

const SECTOR: usize = 512;

/// 64 KiB of FAT12: one reserved sector, one FAT, 16 root entries, one file and one directory.
pub fn tiny() -> Vec<u8> {
    let mut disk = Disk::from(vec![0; 128 * SECTOR]);
    disk.put(0, b"\xeb\x3c\x90MSDOS5.0");
    for (at, size, value) in
        [(11, 2, 512), (13, 1, 1), (14, 2, 1), (16, 1, 1), (17, 2, 16), (19, 2, 128), (21, 1, 0xf8), (22, 2, 1)]
    {
        disk.le(at, size, value);
    }
    disk.put(36, b"\x80\0\x29\x01\x02\x03\x04NO NAME    FAT12   ");
    disk.put(510, &[0x55, 0xaa]);
    disk.put(SECTOR, &[0xf8, 0xff, 0xff, 0xff, 0xff, 0xff]);
    let root = 2 * SECTOR;
    name(&mut disk, root, b"HELLO   TXT", 0x20, 2, 5);
    name(&mut disk, root + 32, b"SUB        ", 0x10, 3, 0);
    let data = 3 * SECTOR;
    disk.put(data, b"hello");
    name(&mut disk, data + SECTOR, b".          ", 0x10, 3, 0);
    name(&mut disk, data + SECTOR + 32, b"..         ", 0x10, 0, 0);
    disk.bytes
}

fn name(disk: &mut Disk, at: usize, name: &[u8; 11], attributes: u8, cluster: u64, size: u64) {
    disk.put(at, name);
    disk.put(at + 11, &[attributes]);
    disk.le(at + 20, 2, cluster >> 16);
    disk.le(at + 26, 2, cluster & 0xffff);
    disk.le(at + 28, 4, size);
}

#[test]
fn damaged_fat12() {
    let mut suite = Suite::new("fat12", tiny().into(), FILESYSTEM);
    boot_sector(&mut suite);
    for value in [0, 1, 2, 3, 0x7f, 0xff6, 0xff7, 0xff8, 0xfff] {
        for cluster in 0..4 {
            suite.add(format!("FAT entry {cluster} = {value:#x}"), move |disk| entry12(disk, cluster, value));
        }
        suite.add(format!("the directory's cluster = {value:#x}"), move |disk| {
            disk.le(2 * SECTOR + 32 + 26, 2, value as u64);
        });
        suite.add(format!("the file's cluster = {value:#x}"), move |disk| disk.le(2 * SECTOR + 26, 2, value as u64));
    }
    suite.add("a directory in itself", |disk| name(disk, 4 * SECTOR + 64, b"LOOP       ", 0x10, 3, 0));
    suite.add("a tree of one cluster that doubles at each level", |disk| {
        for slot in 0..14 {
            let letters: [u8; 11] = std::array::from_fn(|at| if at == 0 { b'A' + slot as u8 } else { b' ' });
            name(disk, 4 * SECTOR + 64 + slot * 32, &letters, 0x10, 3, 0);
        }
    });
    let root = 2 * SECTOR;
    for (field, offset, size) in
        [("first byte", 0, 1), ("attributes", 11, 1), ("cluster", 26, 2), ("size", 28, 4), ("date", 24, 2)]
    {
        for value in boundaries(size, suite.base.le_at(root + offset, size)) {
            suite.add(format!("entry {field} {value:#x}"), move |disk| disk.le(root + offset, size, value));
        }
    }
    for (text, bytes) in
        [("a slash", b"A/B     TXT"), ("dots", b"..      TXT"), ("a NUL", b"A\0B     TXT"), ("spaces", b"           ")]
    {
        suite.add(format!("a name with {text}"), move |disk| disk.put(root, bytes));
    }
    // Long names: order, checksum and length.
    for (text, order, count) in
        [("no end", 0x01, 14), ("an end of zero", 0x40, 1), ("an end past all", 0x7f, 14), ("order", 0x43, 3)]
    {
        suite.add(format!("a long name with {text}"), move |disk| {
            for slot in 0..count {
                let at = root + slot * 32;
                disk.put(at, &[0xff; 32]);
                disk.put(at, &[order]);
                disk.put(at + 11, &[0x0f, 0, 0]);
            }
        });
    }
    suite.refused = 20;
    suite.run();
}

fn entry12(disk: &mut Disk, cluster: usize, value: u16) {
    let at = SECTOR + cluster * 3 / 2;
    let now = disk.le_at(at, 2) as u16;
    let new = if cluster.is_multiple_of(2) { now & 0xf000 | value } else { now & 0x000f | value << 4 };
    disk.le(at, 2, new.into());
}

/// Every field of the BIOS parameter block.
fn boot_sector(suite: &mut Suite) {
    for (field, at, size) in [
        ("BPB_BytsPerSec", 11, 2),
        ("BPB_SecPerClus", 13, 1),
        ("BPB_RsvdSecCnt", 14, 2),
        ("BPB_NumFATs", 16, 1),
        ("BPB_RootEntCnt", 17, 2),
        ("BPB_TotSec16", 19, 2),
        ("BPB_Media", 21, 1),
        ("BPB_FATSz16", 22, 2),
        ("BPB_TotSec32", 32, 4),
        ("BPB_FATSz32", 36, 4),
        ("BPB_ExtFlags", 40, 2),
        ("BPB_FSVer", 42, 2),
        ("BPB_RootClus", 44, 4),
        ("BPB_FSInfo", 48, 2),
        ("signature", 510, 2),
    ] {
        for value in boundaries(size, suite.base.le_at(at, size)) {
            suite.add(format!("{field} {value:#x}"), move |disk| disk.le(at, size, value));
        }
    }
}

/// A root directory as long as one may be, and what is looked for at its end.
#[test]
fn flooded_fat() {
    if !have("mkfs.vfat") || !have("mcopy") {
        return;
    }
    let script = "truncate -s 36M disk; mkfs.vfat -F 32 -s 1 disk >/dev/null; export MTOOLS_SKIP_CHECK=1
        printf 'NAME=x\\nID=debian\\n' >os-release; seq 4000 | sed 's,.*,/dev/sda&  /m&  ext4  x 0 0,' >fstab
        mmd -i disk ::/etc ::/bin ::/sbin ::/usr ::/var ::/dev ::/home ::/boot; mcopy -i disk os-release fstab ::/etc/";
    let mut suite = Suite::new("fat flood", Disk::build(script), FILESYSTEM);
    for (what, slot) in [("short names", *b"AAAAAAAATXT"), ("long names", *b"\x41\x00A\x00A\x00A\x00A\x00A")] {
        suite.add(format!("65,536 entries: {what}"), move |disk| {
            let table = disk.le_at(14, 2) as usize * SECTOR;
            let data = table + disk.le_at(36, 4) as usize * disk.le_at(16, 1) as usize * SECTOR;
            let place = |cluster: usize| data + (cluster - 2) * SECTOR;
            let root = disk.get(place(disk.le_at(44, 4) as usize), SECTOR).to_vec();
            let (first, last) = (10_000, 10_000 + 4095);
            for cluster in first..=last {
                let next = if cluster == last { 0x0fff_ffff } else { cluster as u64 + 1 };
                disk.le(table + cluster * 4, 4, next);
                for at in (0..SECTOR).step_by(32).map(|at| place(cluster) + at) {
                    disk.put(at, &slot);
                    disk.put(at + 11, &[if slot[0] == b'A' && slot[1] == b'A' { 0x20 } else { 0x0f }]);
                }
            }
            disk.put(place(last), &root);
            disk.le(44, 4, first as u64);
        });
    }
    suite.run();
}

#[test]
fn damaged_fat16_and_fat32() {
    if !have("mkfs.vfat") || !have("mcopy") {
        return;
    }
    let fill = "export MTOOLS_SKIP_CHECK=1; mkdir t; for n in 1 2 3 4 5 6 7 8; do head -c 3000 /dev/zero | tr '\\0' $n > \
        \"t/a long name number $n.text\"; done; mmd -i disk ::/dir ::/dir/below; mcopy -i disk t/* ::/dir/";
    for (name, script, width) in [
        ("fat16", "truncate -s 8M disk; mkfs.vfat -F 16 -s 1 disk >/dev/null", 2),
        ("fat32", "truncate -s 36M disk; mkfs.vfat -F 32 -s 1 disk >/dev/null", 4),
    ] {
        let base = Disk::build(&format!("{script}; {fill}"));
        let mut suite = Suite::new(name, base, FILESYSTEM);
        boot_sector(&mut suite);
        let table = suite.base.le_at(14, 2) as usize * SECTOR;
        for value in [0u64, 1, 2, 3, 5, 0xfff6, 0xfff7, 0xfff8, 0xfff_fff6, 0xfff_fff7, 0xffff_ffff] {
            for cluster in [2, 3, 4, 5, 9] {
                suite.add(format!("FAT entry {cluster} = {value:#x}"), move |disk| {
                    disk.le(table + cluster * width, width, value);
                });
            }
        }
        suite.add("every FAT entry its own next", move |disk| {
            (2..200).for_each(|cluster| disk.le(table + cluster * width, width, cluster as u64));
        });
        suite.add("every FAT entry the one before", move |disk| {
            (3..200).for_each(|cluster| disk.le(table + cluster * width, width, cluster as u64 - 1));
        });
        suite.add("one chain through all clusters, forth and back", move |disk| {
            let clusters = 15_000;
            for cluster in 2..clusters {
                let next = if cluster % 2 == 0 { clusters - cluster + 1 } else { clusters - cluster + 3 };
                disk.le(table + cluster * width, width, next.clamp(2, clusters) as u64);
            }
        });
        let mut random = Random(SEED);
        for number in 0..60 {
            let damage: Vec<_> = (0..4).map(|_| (random.below(200), random.next() & 0xff)).collect();
            suite.add(format!("random FAT entries {number}"), move |disk| {
                damage.iter().for_each(|&(cluster, next)| disk.le(table + cluster * width, width, next));
            });
        }
        suite.refused = 20;
        suite.run();
    }
}
