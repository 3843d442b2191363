//! ext4: extent trees, directories, extended attributes, inline data, orphans. Checksums are right.

use crate::Suite;
use crate::disk::{Disk, Random, boundaries};
use crate::ext4::{BLOCK, Ext4, Kind};
use crate::support::have;

fn available() -> bool {
    have("mke2fs") && have("debugfs")
}

/// Puts an extent header: entries, room, depth.
fn node(disk: &mut Disk, at: usize, entries: u64, max: u64, depth: u64) {
    for (offset, value) in [(0, 0xf30a), (2, entries), (4, max), (6, depth)] {
        disk.le(at + offset, 2, value);
    }
}

/// Puts an index entry: first block of the file, block of the node.
fn index(disk: &mut Disk, at: usize, first: u64, child: u64) {
    disk.le(at, 4, first);
    disk.le(at + 4, 4, child);
    disk.le(at + 8, 4, child >> 32);
}

/// Puts an extent: first block of the file, blocks, where.
fn extent(disk: &mut Disk, at: usize, first: u64, len: u64, start: u64) {
    disk.le(at, 4, first);
    disk.le(at + 4, 2, len);
    disk.le(at + 6, 2, start >> 32);
    disk.le(at + 8, 4, start);
}

#[test]
fn damaged_extents() {
    if !available() {
        return;
    }
    let fs = Ext4::build("", "");
    let mut suite = fs.suite("ext4 extents");
    suite.commands = &[
        "inspect --json IMAGE",
        "ls -R --json --checksum crc -m /dev/sda IMAGE /",
        "cat -m /dev/sda IMAGE /holes",
        "cat -m /dev/sda IMAGE /etc/os-release",
        "tar-out -q --json -j 3 -m /dev/sda IMAGE / OUT",
        "checksum -q --json -j 3 -m /dev/sda IMAGE /",
        "du --json -m /dev/sda IMAGE",
        "find -l -empty -m /dev/sda IMAGE /",
        "grep -L -m /dev/sda IMAGE zzzz /",
    ];
    let header = [("eh_magic", 0, 2), ("eh_entries", 2, 2), ("eh_max", 4, 2), ("eh_depth", 6, 2)];
    let first = [("ee_block", 12, 4), ("ee_len", 16, 2), ("ee_start_hi", 18, 2), ("ee_start", 20, 4)];
    let child = [("ei_block", 12, 4), ("ei_leaf", 16, 4), ("ei_leaf_hi", 20, 2)];
    let holes = fs.find("holes");
    let (root, leaf) = (fs.inode(holes) + 0x28, fs.block(Kind::Extents, holes));
    fs.fields(&mut suite, "index root: ", root, &header);
    fs.fields(&mut suite, "index root: ", root, &child);
    fs.fields(&mut suite, "leaf: ", leaf, &header);
    fs.fields(&mut suite, "leaf: ", leaf, &first);
    for path in ["etc/os-release", "etc", "big", "etc/slow"] {
        let at = fs.inode(fs.find(path)) + 0x28;
        fs.fields(&mut suite, &format!("{path}: "), at, &header);
        fs.fields(&mut suite, &format!("{path}: "), at, &first);
    }
    let block = (leaf / BLOCK) as u64;
    fs.add(&mut suite, "a node that is its own child", move |disk| {
        node(disk, root, 1, 4, 5);
        node(disk, leaf, 1, 84, 4);
        index(disk, leaf + 12, 0, block);
    });
    for entries in [2, 4, 80] {
        fs.add(&mut suite, format!("{entries} extents that overlap"), move |disk| {
            (0..entries).for_each(|entry| extent(disk, leaf + 12 + entry * 12, entry as u64, 100, 50));
            disk.le(leaf + 2, 2, entries as u64);
        });
        fs.add(&mut suite, format!("{entries} extents out of order"), move |disk| {
            (0..entries).for_each(|entry| extent(disk, leaf + 12 + entry * 12, 100 - entry as u64, 1, 50));
            disk.le(leaf + 2, 2, entries as u64);
        });
    }
    suite.refused = 30;
    suite.run();

    let mut suite = fs.suite("ext4 sizes");
    for path in ["etc/os-release", "etc/hostname", "etc", "big", "etc/slow", "etc/fast"] {
        let inode = fs.inode(fs.find(path));
        for size in [60, 1 << 20, 1 << 31, 1 << 32, 1 << 40, 1 << 44, 1 << 62, (1 << 63) - 1, 1 << 63, u64::MAX] {
            fs.add(&mut suite, format!("{path}: {size:#x} bytes"), move |disk| {
                disk.le(inode + 4, 4, size);
                disk.le(inode + 0x6c, 4, size >> 32);
            });
        }
    }
    suite.run();
}

#[test]
fn damaged_indirect_blocks() {
    if !available() {
        return;
    }
    let fs = Ext4::build("-O ^extent,^64bit,^metadata_csum", "");
    let mut suite = fs.suite("ext2 block maps");
    suite.commands = &[
        "inspect --json IMAGE",
        "ls -R --json --checksum crc -m /dev/sda IMAGE /",
        "find -m /dev/sda IMAGE",
        "tar-out -q -m /dev/sda IMAGE / OUT",
        "checksum -q -m /dev/sda IMAGE /",
    ];
    for path in ["holes", "etc", "big", "etc/slow"] {
        let at = fs.inode(fs.find(path)) + 0x28;
        for slot in [0, 1, 11, 12, 13, 14] {
            let mut values = boundaries(4, fs.disk.le_at(at + slot * 4, 4));
            values.extend([2, 3, 8191, 8192, 8193]);
            for value in values {
                fs.add(&mut suite, format!("{path}: i_block {slot} {value:#x}"), move |disk| {
                    disk.le(at + slot * 4, 4, value);
                });
            }
        }
    }
    let holes = fs.inode(fs.find("holes"));
    let block = fs.disk.le_at(holes + 0x28 + 48, 4);
    for (name, slot) in [("itself", 12), ("itself, doubly", 13), ("itself, trebly", 14)] {
        fs.add(&mut suite, format!("an indirect block of {name}"), move |disk| {
            disk.le(holes + 0x28 + slot * 4, 4, block);
            (0..256).for_each(|entry| disk.le(block as usize * BLOCK + entry * 4, 4, block));
            disk.le(holes + 4, 4, 20 << 20);
        });
    }
    suite.run();
}

/// Puts a directory entry over what is at `at`.
fn entry(disk: &mut Disk, at: usize, inode: u32, rec_len: usize, name: &[u8], kind: u8) {
    disk.le(at, 4, inode.into());
    disk.le(at + 4, 2, rec_len as u64);
    disk.put(at + 6, &[name.len() as u8, kind]);
    disk.put(at + 8, name);
}

#[test]
fn damaged_directories() {
    if !available() {
        return;
    }
    let fs = Ext4::build("", "");
    let mut suite = fs.suite("ext4 directories");
    suite.commands = &[crate::FILESYSTEM, crate::commands::TREE].concat().leak()[..];
    let (etc, root, big) = (fs.find("etc"), 2, fs.find("big"));
    let at = fs.block(Kind::Directory, etc);
    // `.` and `..` take 12 bytes each; the third entry is the first name.
    let third = at + 24;
    for (which, at) in [("dot", at), ("dotdot", at + 12), ("first", third)] {
        let fields = [("inode", 0, 4), ("rec_len", 4, 2), ("name_len", 6, 1), ("file_type", 7, 1)];
        fs.fields(&mut suite, &format!("{which}: "), at, &fields);
        for rec_len in [4, 7, 9, 10, 1000, 1012, 1016, 1024] {
            fs.add(&mut suite, format!("{which}: rec_len {rec_len}"), move |disk| disk.le(at + 4, 2, rec_len));
        }
    }
    for name in ["a/b", "/", "\0", "a\0b", "..", ".", "\n", "\u{1b}[2J", "../../etc"] {
        fs.add(&mut suite, format!("a name {name:?}"), move |disk| {
            let (inode, len) = (disk.le_at(third, 4) as u32, disk.le_at(third + 4, 2) as usize);
            let len = len.max(8 + name.len().next_multiple_of(4));
            entry(disk, third, inode, len, name.as_bytes(), 1);
        });
    }
    let over = 1012 - 24;
    for (name, target) in [
        ("itself", etc),
        ("its parent", root),
        ("a file", fs.find("solid")),
        ("inode 1", 1),
        ("the journal", 8),
        ("an unused inode", 200),
        ("no inode", 257),
        ("all ones", u32::MAX),
    ] {
        fs.add(&mut suite, format!("a directory entry for {name}"), move |disk| {
            entry(disk, third, target, over, b"again", 2);
        });
    }
    // Eighty names for the same directory, which has eighty names for the next: 80^3 paths.
    let levels = [fs.find("deep"), fs.find("deep/er"), fs.find("deep/er/still")];
    let blocks = levels.map(|level| fs.block(Kind::Directory, level));
    for (name, cyclic) in [("a tree that grows with its depth", false), ("a tree that grows for ever", true)] {
        fs.add(&mut suite, name, move |disk| {
            for (level, block) in blocks.iter().enumerate() {
                let next = levels.get(level + 1).copied().unwrap_or(if cyclic { levels[0] } else { 11 });
                let count = (1012 - 24) / 12;
                for number in 0..count {
                    let last = number + 1 == count;
                    let at = block + 24 + number * 12;
                    entry(
                        disk,
                        at,
                        next,
                        if last { 1012 - 24 - number * 12 } else { 12 },
                        format!("{number:03}").as_bytes(),
                        2,
                    );
                }
            }
        });
    }
    hash_tree(&fs, &mut suite, big);
    let mut random = Random(crate::SEED);
    for number in 0..60 {
        let damage: Vec<_> = (0..3).map(|_| (random.below(1012), random.next())).collect();
        fs.add(&mut suite, format!("random bytes {number}"), move |disk| {
            damage.iter().for_each(|&(offset, value)| disk.le(at + offset, 1, value));
        });
    }
    suite.refused = 30;
    suite.run();
}

fn hash_tree(fs: &Ext4, suite: &mut Suite, directory: u32) {
    let at = fs.block(Kind::Directory, directory);
    let fields = [
        ("hash_version", 0x1c, 1),
        ("info_length", 0x1d, 1),
        ("indirect_levels", 0x1e, 1),
        ("limit", 0x20, 2),
        ("count", 0x22, 2),
        ("block", 0x24, 4),
        ("hash", 0x28, 4),
    ];
    fs.fields(suite, "hash tree: ", at, &fields);
}

/// Makes of the inode at `inode` a directory of many names for `target` in few bytes: `extents` extents that all say the
/// same thousand blocks of 84 names, up to `size` bytes.
fn flood(disk: &mut Disk, inode: usize, target: u32, extents: usize, size: u64) {
    const NAMES: usize = 4096;
    const NODES: usize = 3500;
    for block in NAMES..NAMES + 1000 {
        for name in 0..84 {
            let at = block * BLOCK + name * 12;
            let len = if name == 83 { BLOCK - 83 * 12 } else { 12 };
            entry(disk, at, target, len, format!("{:04}", (block * 84 + name) % 10_000).as_bytes(), 1);
        }
    }
    let children = extents / 80;
    node(disk, inode + 0x28, 1, 4, 2);
    index(disk, inode + 0x34, 0, NODES as u64);
    node(disk, NODES * BLOCK, children as u64, 84, 1);
    for child in 0..children {
        let at = (NODES + 1 + child) * BLOCK;
        let slot = NODES * BLOCK + 12 + child * 12;
        index(disk, slot, (child * 80 * 1000) as u64, (NODES + 1 + child) as u64);
        node(disk, at, 80, 84, 0);
        for number in 0..80 {
            extent(disk, at + 12 + number * 12, ((child * 80 + number) * 1000) as u64, 1000, NAMES as u64);
        }
    }
    disk.le(inode + 4, 4, size.min((children * 80 * 1000 * BLOCK) as u64));
    disk.le(inode + 0x20, 4, 0x8_0000);
}

/// Extents of one directory may say the same blocks again and again, and all its names may lead to the same place.
#[test]
fn floods_of_names() {
    if !available() {
        return;
    }
    let tree = "mkdir -p t/bin t/sbin t/dev t/home t/boot t/usr/lib t/etc t/var/lib/pacman/local/p; echo x >t/file
        printf 'NAME=x\\nID=arch\\n' >t/etc/os-release; for n in $(seq 1200); do ln t/file t/var/lib/pacman/local/p/$n; done";
    let fs = Ext4::build_from(tree, "-O ^metadata_csum", "");
    let mut suite = fs.suite("ext4 floods");
    let (file, package) = (fs.find("file"), fs.find("var/lib/pacman/local/p"));
    let all = u64::from(u32::MAX) & !1023;
    for path in ["etc", "usr/lib", "var/lib/pacman/local", "boot"] {
        let inode = fs.inode(fs.find(path));
        for size in [30 << 10, 700 << 10, 1_100 << 10, 10 << 20, all] {
            let name = format!("{path}: {} MiB of names", size >> 20);
            suite.add(format!("{name} for a file"), move |disk| flood(disk, inode, file, 3000, size));
            suite.add(format!("{name} for a directory"), move |disk| flood(disk, inode, package, 3000, size));
        }
    }
    let root = fs.inode(2);
    suite.add("the root of names", move |disk| flood(disk, root, file, 3000, all));
    // A tree of 100,000 names takes as long as its output is; what is judged is what it costs when it is not asked for.
    suite.commands = &[
        "inspect --json IMAGE",
        "filesystems --json IMAGE",
        "df --json IMAGE",
        "stat -m /dev/sda IMAGE /etc/os-release",
    ];
    suite.run();

    let mut suite = fs.suite("ext4 floods, listed");
    for (name, path) in [("etc", "etc"), ("boot", "boot")] {
        let inode = fs.inode(fs.find(path));
        suite.add(format!("{name}: names for a file"), move |disk| flood(disk, inode, file, 3000, all));
    }
    suite.add("the root of names", move |disk| flood(disk, root, file, 3000, all));
    suite.commands = &[
        "ls -R --json -m /dev/sda IMAGE /",
        "ls -R -m /dev/sda IMAGE /",
        "find -m /dev/sda IMAGE /",
        "tar-out -q -m /dev/sda IMAGE / OUT",
        "checksum -q -m /dev/sda IMAGE /",
    ];
    suite.refused = 100;
    suite.run();
}

#[test]
fn damaged_attributes() {
    if !available() {
        return;
    }
    let fs = Ext4::build("-O ea_inode", "");
    let mut suite = fs.suite("ext4 attributes");
    let number = fs.find("etc/os-release");
    let inode = fs.inode(number);
    let block = fs.block(Kind::Attributes, number);
    let inner = inode + 128 + fs.disk.le_at(inode + 0x80, 2) as usize;
    let entry = [
        ("e_name_len", 0, 1),
        ("e_name_index", 1, 1),
        ("e_value_offs", 2, 2),
        ("e_value_inum", 4, 4),
        ("e_value_size", 8, 4),
        ("e_hash", 12, 4),
    ];
    fs.fields(&mut suite, "block: ", block, &[("h_magic", 0, 4), ("h_refcount", 4, 4), ("h_blocks", 8, 4)]);
    fs.fields(&mut suite, "block: ", block + 32, &entry);
    fs.fields(&mut suite, "inode: ", inner, &[("h_magic", 0, 4)]);
    fs.fields(&mut suite, "inode: ", inner + 4, &entry);
    for (name, target) in [("itself", number), ("the root", 2), ("a file", fs.find("solid"))] {
        fs.add(&mut suite, format!("a value in {name}"), move |disk| {
            disk.le(block + 32 + 4, 4, target.into());
            disk.le(inode + 0x20, 4, 0x28_0000);
        });
    }
    fs.add(&mut suite, "values that are the inode itself, as often as fits", move |disk| {
        let size = disk.le_at(inode + 4, 4);
        disk.le(inode + 0x20, 4, 0x28_0000);
        disk.put(block + 32, &[0; BLOCK - 32]);
        for at in (block + 32..block + BLOCK - 24).step_by(20) {
            disk.put(at, &[1, 1]);
            disk.le(at + 4, 4, number.into());
            disk.le(at + 8, 4, size);
            disk.put(at + 16, b"a");
        }
    });
    fs.add(&mut suite, "values of 64 KiB each in an inode of holes", move |disk| {
        disk.le(inode + 0x20, 4, 0x28_0000);
        disk.le(inode + 4, 4, 65_536);
        disk.put(block + 32, &[0; BLOCK - 32]);
        for at in (block + 32..block + BLOCK - 24).step_by(20) {
            disk.put(at, &[1, 1]);
            disk.le(at + 4, 4, number.into());
            disk.le(at + 8, 4, 65_536);
            disk.put(at + 16, b"a");
        }
    });
    let solid = fs.inode(fs.find("solid"));
    for target in [1, 2, 3, block as u64 / 1024, 8191, 8192, u64::from(u32::MAX)] {
        fs.add(&mut suite, format!("attributes of another file at block {target}"), move |disk| {
            disk.le(solid + 0x68, 4, target);
        });
    }
    suite.refused = 30;
    suite.run();
}

#[test]
fn damaged_inline_data() {
    if !available() {
        return;
    }
    let fs = Ext4::build("-O inline_data", "");
    let mut suite = fs.suite("ext4 inline data");
    for path in ["etc/os-release", "etc", "deep/er"] {
        let at = fs.inode(fs.find(path));
        fs.fields(
            &mut suite,
            &format!("{path}: "),
            at,
            &[
                ("i_size", 4, 4),
                ("i_flags", 0x20, 4),
                ("parent", 0x28, 4),
                ("first inode", 0x2c, 4),
                ("first rec_len", 0x30, 2),
                ("first name_len", 0x32, 1),
            ],
        );
        let extra = at + 128 + fs.disk.le_at(at + 0x80, 2) as usize;
        fs.fields(
            &mut suite,
            &format!("{path}: "),
            extra,
            &[("h_magic", 0, 4), ("e_name_len", 4, 1), ("e_value_offs", 6, 2), ("e_value_size", 12, 4)],
        );
        for flags in [0u64, 0x1000_0000, 0x1008_0000, 0x1000_1000] {
            fs.add(&mut suite, format!("{path}: flags {flags:#x}"), move |disk| disk.le(at + 0x20, 4, flags));
        }
    }
    suite.run();
}

#[test]
fn damaged_orphans() {
    if !available() {
        return;
    }
    let fs = Ext4::build("", "");
    let mut suite = fs.suite("ext4 orphans");
    let inodes = [fs.find("etc/hostname"), fs.find("solid"), fs.find("holes")];
    let at = inodes.map(|number| fs.inode(number));
    let start = 1024 + 0xe8;
    fs.add(&mut suite, "a list that meets itself", move |disk| {
        disk.le(start, 4, inodes[0].into());
        (0..3).for_each(|index| disk.le(at[index] + 0x14, 4, inodes[(index + 1) % 3].into()));
    });
    for target in [1, 2, 7, 8, 255, 256, 257, u32::MAX] {
        fs.add(&mut suite, format!("a list that leads to {target}"), move |disk| {
            disk.le(start, 4, inodes[0].into());
            disk.le(at[0] + 0x14, 4, target.into());
            disk.le(at[0] + 0x1a, 2, 0);
            disk.le(at[0] + 0x1c, 4, u64::from(u32::MAX));
        });
    }
    let file = Ext4::build("-O orphan_file", "");
    suite.run();
    let mut suite = file.suite("ext4 orphan file");
    let number = file.disk.le_at(1024 + 0x280, 4) as u32;
    if number == 0 {
        return;
    }
    let inode = file.inode(number);
    for size in [0, 1, 1 << 20, 1 << 40, 1 << 62] {
        file.add(&mut suite, format!("an orphan file of {size} bytes"), move |disk| {
            let now = disk.le_at(1024 + 0x64, 4);
            disk.le(1024 + 0x64, 4, now | 0x1_0000);
            disk.le(inode + 4, 4, size);
            disk.le(inode + 0x6c, 4, size >> 32);
        });
    }
    suite.run();
}
