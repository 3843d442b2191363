//! ext4: a model that knows where things lie and repairs every checksum, and damage to superblock, group descriptor and
//! inodes.

use std::sync::Arc;

use guestctl::block::Memory;
use guestctl::fs::Filesystem;

use crate::disk::{Disk, boundaries};
use crate::support::have;
use crate::{FILESYSTEM, Suite};

pub const BLOCK: usize = 1024;
const SUPER: usize = 1024;
/// The descriptor of the first group.
const GROUP: usize = 2 * BLOCK;

/// What the base images hold.
const TREE: &str = "mkdir -p t/etc t/big t/deep/er/still; echo 'NAME=x\nID=x' >t/etc/os-release; echo x >t/etc/hostname
    ln -s hostname t/etc/fast; ln -s $(printf 'a/%.0s' $(seq 60)) t/etc/slow; ln t/etc/hostname t/deep/er/hard
    for n in $(seq 120); do : >t/big/a-name-that-takes-some-room-$n; done; truncate -s 200k t/holes
    for n in $(seq 2 9 180); do printf x | dd of=t/holes bs=1k seek=$n conv=notrunc status=none; done
    head -c 3000 /dev/zero | tr '\\0' x >t/solid; mkfifo t/fifo";

/// An ext4 of one group in blocks of 1 KiB, and where its parts lie.
#[derive(Clone)]
pub struct Ext4 {
    pub disk: Disk,
    inode_size: usize,
    /// The byte where the inode table begins.
    table: usize,
    inodes: usize,
    seed: u32,
    checksums: bool,
    /// Directory blocks, extent nodes and attribute blocks: whose, and at which byte.
    blocks: Vec<(Kind, u32, usize)>,
}

#[derive(Clone, Copy, PartialEq)]
pub enum Kind {
    Directory,
    Extents,
    Attributes,
}

/// The crc32c of `bytes` continued from `seed`, without inversions.
pub fn crc(seed: u32, bytes: &[u8]) -> u32 {
    !crc32c::crc32c_append(!seed, bytes)
}

impl Ext4 {
    /// A filesystem of 8 MiB (64 with a large journal) made with mke2fs's `options` on top of its usual ones, and `more`
    /// done to it.
    pub fn build(options: &str, more: &str) -> Self {
        Self::build_from(TREE, options, more)
    }

    /// The same from another tree.
    pub fn build_from(tree: &str, options: &str, more: &str) -> Self {
        let size = if options.contains("size=16") { "64M" } else { "8M" };
        let script = format!(
            "{tree}; mke2fs -q -t ext4 -b 1024 -O ^resize_inode -J size=1 -I 256 -N 256 -U 01234567-89ab-cdef-0123-456789abcdef \
             -E hash_seed=01234567-89ab-cdef-0123-456789abcdef {options} -d t disk {size}
             value=$(head -c 700 /dev/zero | tr '\\0' v)
             debugfs -w -R \"ea_set /etc/os-release user.long $value\" disk 2>/dev/null
             debugfs -w -R 'ea_set /etc/os-release user.short s' disk 2>/dev/null
             e2fsck -fyD disk >/dev/null || [ $? -le 1 ]; {more}"
        );
        Self::new(Disk::build(&script))
    }

    pub fn new(disk: Disk) -> Self {
        let checksums = disk.le_at(SUPER + 0x64, 4) & 0x400 != 0;
        let seed = if disk.le_at(SUPER + 0x60, 4) & 0x2000 != 0 {
            disk.le_at(SUPER + 0x270, 4) as u32
        } else {
            crc(!0, disk.get(SUPER + 0x68, 16))
        };
        let mut fs = Self {
            inode_size: disk.le_at(SUPER + 0x58, 2) as usize,
            table: disk.le_at(GROUP + 8, 4) as usize * BLOCK,
            inodes: disk.le_at(SUPER, 4) as usize,
            seed,
            checksums,
            blocks: Vec::new(),
            disk,
        };
        for number in [2].into_iter().chain(11..=fs.inodes as u32) {
            fs.find_blocks(number);
        }
        fs
    }

    /// Notes an inode's checksummed blocks: of directories, the first level of the extent tree, attributes.
    fn find_blocks(&mut self, number: u32) {
        let at = self.inode(number);
        let (mode, flags) = (self.disk.le_at(at, 2), self.disk.le_at(at + 0x20, 4));
        if mode == 0 {
            return;
        }
        let attributes = self.disk.le_at(at + 0x68, 4) as usize * BLOCK;
        if attributes != 0 {
            self.blocks.push((Kind::Attributes, number, attributes));
        }
        if flags & 0x8_0000 == 0 {
            return;
        }
        let (entries, depth) = (self.disk.le_at(at + 0x2a, 2) as usize, self.disk.le_at(at + 0x2e, 2));
        for entry in (0..entries).map(|entry| at + 0x34 + entry * 12) {
            if depth > 0 {
                self.blocks.push((Kind::Extents, number, self.disk.le_at(entry + 4, 4) as usize * BLOCK));
            } else if mode & 0xf000 == 0x4000 {
                let (len, start) = (self.disk.le_at(entry + 4, 2) as usize, self.disk.le_at(entry + 8, 4) as usize);
                self.blocks.extend((start..start + len).map(|block| (Kind::Directory, number, block * BLOCK)));
            }
        }
    }

    /// The byte where an inode lies.
    pub fn inode(&self, number: u32) -> usize {
        self.table + (number as usize - 1) * self.inode_size
    }

    /// The inode at a path of the undamaged filesystem.
    pub fn find(&self, path: &str) -> u32 {
        let fs = self.open();
        let step = |inode, name: &str| fs.lookup(inode, name.as_bytes()).unwrap().unwrap();
        path.split('/').fold(fs.root(), step) as u32
    }

    /// The first block of a kind that belongs to an inode.
    pub fn block(&self, kind: Kind, number: u32) -> usize {
        self.blocks.iter().find(|(found, owner, _)| *found == kind && *owner == number).unwrap().2
    }

    fn open(&self) -> Arc<dyn Filesystem> {
        guestctl::fs::ext4::open(Arc::new(Memory::new(self.disk.bytes.clone()))).unwrap()
    }

    /// Repairs all checksums of `disk`, wherever its structures still hold together.
    pub fn seal(&self, disk: &mut Disk) {
        if !self.checksums {
            return;
        }
        for number in 1..=self.inodes as u32 {
            self.seal_inode(disk, number);
        }
        for &(kind, number, at) in &self.blocks {
            let generation = disk.get(self.inode(number) + 0x64, 4).to_vec();
            let seed = crc(crc(self.seed, &number.to_le_bytes()), &generation);
            match kind {
                Kind::Directory => seal_directory(disk, at, seed),
                Kind::Extents => {
                    let tail = at + 12 * (1 + disk.le_at(at + 4, 2) as usize);
                    if tail + 4 <= at + BLOCK {
                        let sum = crc(seed, disk.get(at, tail - at));
                        disk.le(tail, 4, sum.into());
                    }
                }
                Kind::Attributes => {
                    disk.le(at + 0x10, 4, 0);
                    let seed = crc(self.seed, &((at / BLOCK) as u64).to_le_bytes());
                    let sum = crc(seed, disk.get(at, BLOCK));
                    disk.le(at + 0x10, 4, sum.into());
                }
            }
        }
        self.seal_group(disk);
        let sum = !crc32c::crc32c(disk.get(SUPER, 0x3fc));
        disk.le(SUPER + 0x3fc, 4, sum.into());
    }

    fn seal_group(&self, disk: &mut Disk) {
        let size =
            if disk.le_at(SUPER + 0x60, 4) & 0x80 == 0 { 32 } else { disk.le_at(SUPER + 0xfe, 2).clamp(64, 1024) };
        disk.le(GROUP + 0x1e, 2, 0);
        let sum = crc(crc(self.seed, &[0; 4]), disk.get(GROUP, size as usize));
        disk.le(GROUP + 0x1e, 2, (sum & 0xffff).into());
    }

    fn seal_inode(&self, disk: &mut Disk, number: u32) {
        let at = self.inode(number);
        if disk.get(at, self.inode_size).iter().all(|byte| *byte == 0) {
            return;
        }
        let wide = self.inode_size > 128 && disk.le_at(at + 0x80, 2) >= 4;
        disk.le(at + 0x7c, 2, 0);
        if wide {
            disk.le(at + 0x82, 2, 0);
        }
        let seed = crc(crc(self.seed, &number.to_le_bytes()), disk.get(at + 0x64, 4));
        let sum = crc(seed, disk.get(at, self.inode_size));
        disk.le(at + 0x7c, 2, (sum & 0xffff).into());
        if wide {
            disk.le(at + 0x82, 2, (sum >> 16).into());
        }
    }

    pub fn suite(&self, name: &'static str) -> Suite {
        Suite::new(name, self.disk.clone(), FILESYSTEM)
    }

    /// Adds a case whose checksums are repaired after the damage.
    pub fn add(&self, suite: &mut Suite, name: impl Into<String>, change: impl Fn(&mut Disk) + Send + Sync + 'static) {
        let mut layout = self.clone();
        layout.disk = Disk::default();
        suite.add(name, move |disk| {
            change(disk);
            layout.seal(disk);
        });
    }

    /// A case for each boundary value of each field: (name, offset, size), offsets from `start`.
    pub fn fields(&self, suite: &mut Suite, what: &str, start: usize, fields: &[(&str, usize, usize)]) {
        for &(field, offset, size) in fields {
            for value in boundaries(size, self.disk.le_at(start + offset, size)) {
                let name = format!("{what}{field} {value:#x}");
                self.add(suite, name, move |disk| disk.le(start + offset, size, value));
            }
        }
    }
}

/// Leaves end in a tail; nodes of the hash tree have theirs behind the room for entries.
fn seal_directory(disk: &mut Disk, at: usize, seed: u32) {
    let count_at = match (disk.le_at(at, 4), disk.le_at(at + 4, 2)) {
        (0, 1024) => Some(8),
        (_, 12) if disk.le_at(at + 0x10, 2) == BLOCK as u64 - 12 && disk.le_at(at + 0x1d, 1) == 8 => Some(32),
        _ => None,
    };
    let Some(count_at) = count_at else {
        let sum = crc(seed, disk.get(at, BLOCK - 12));
        return disk.le(at + BLOCK - 4, 4, sum.into());
    };
    let (limit, count) = (disk.le_at(at + count_at, 2) as usize, disk.le_at(at + count_at + 2, 2) as usize);
    let tail = count_at + limit * 8;
    if count <= limit && tail + 8 <= BLOCK {
        let sum = crc(crc(crc(seed, disk.get(at, count_at + count * 8)), disk.get(at + tail, 4)), &[0; 4]);
        disk.le(at + tail + 4, 4, sum.into());
    }
}

/// Fields that a reader must get right.
const STRUCTURE: &[(&str, usize, usize)] = &[
    ("s_inodes_count", 0x0, 4),
    ("s_blocks_count_lo", 0x4, 4),
    ("s_first_data_block", 0x14, 4),
    ("s_log_block_size", 0x18, 4),
    ("s_blocks_per_group", 0x20, 4),
    ("s_inodes_per_group", 0x28, 4),
    ("s_magic", 0x38, 2),
    ("s_inode_size", 0x58, 2),
    ("s_feature_incompat", 0x60, 4),
    ("s_feature_ro_compat", 0x64, 4),
    ("s_desc_size", 0xfe, 2),
    ("s_blocks_count_hi", 0x150, 4),
    ("s_checksum_type", 0x175, 1),
];

/// Fields that change what is shown, or nothing.
const OTHER: &[(&str, usize, usize)] = &[
    ("s_r_blocks_count", 0x8, 4),
    ("s_free_blocks_count", 0xc, 4),
    ("s_free_inodes_count", 0x10, 4),
    ("s_log_cluster_size", 0x1c, 4),
    ("s_clusters_per_group", 0x24, 4),
    ("s_mtime", 0x2c, 4),
    ("s_state", 0x3a, 2),
    ("s_errors", 0x3c, 2),
    ("s_rev_level", 0x4c, 4),
    ("s_first_ino", 0x54, 4),
    ("s_block_group_nr", 0x5a, 2),
    ("s_feature_compat", 0x5c, 4),
    ("s_volume_name", 0x78, 8),
    ("s_reserved_gdt_blocks", 0xce, 2),
    ("s_journal_inum", 0xe0, 4),
    ("s_journal_dev", 0xe4, 4),
    ("s_last_orphan", 0xe8, 4),
    ("s_def_hash_version", 0xfc, 1),
    ("s_first_meta_bg", 0x104, 4),
    ("s_r_blocks_count_hi", 0x154, 4),
    ("s_min_extra_isize", 0x15c, 2),
    ("s_log_groups_per_flex", 0x174, 1),
    ("s_overhead_clusters", 0x248, 4),
    ("s_backup_bgs", 0x24c, 4),
    ("s_checksum_seed", 0x270, 4),
    ("s_encoding", 0x27c, 2),
    ("s_orphan_file_inum", 0x280, 4),
];

#[test]
fn damaged_superblock() {
    if !have("mke2fs") || !have("debugfs") {
        return;
    }
    let fs = Ext4::build("", "");
    let mut suite = fs.suite("ext4 superblock");
    fs.fields(&mut suite, "", SUPER, STRUCTURE);
    for log in 1..8 {
        fs.add(&mut suite, format!("s_log_block_size {log}"), move |disk| disk.le(SUPER + 0x18, 4, log));
    }
    suite.refused = 70;
    suite.run();

    let mut suite = fs.suite("ext4 superblock, other");
    fs.fields(&mut suite, "", SUPER, OTHER);
    for bit in 0..32 {
        for (word, at) in [("compat", 0x5c), ("incompat", 0x60), ("ro_compat", 0x64)] {
            fs.add(&mut suite, format!("{word} feature bit {bit}"), move |disk| {
                let now = disk.le_at(SUPER + at, 4);
                disk.le(SUPER + at, 4, now ^ 1 << bit);
            });
        }
    }
    for len in [0, 1024, 1500, 2048, 3000, 100_000, (8 << 20) - 1] {
        suite.add(format!("cut to {len} bytes"), move |disk| disk.resize(len));
    }
    suite.run();
}

#[test]
fn damaged_groups() {
    if !have("mke2fs") || !have("debugfs") {
        return;
    }
    let fs = Ext4::build("", "");
    let mut suite = fs.suite("ext4 groups");
    let fields = [
        ("bg_block_bitmap", 0x0, 4),
        ("bg_inode_table", 0x8, 4),
        ("bg_free_blocks_count", 0xc, 2),
        ("bg_flags", 0x12, 2),
        ("bg_inode_table_hi", 0x28, 4),
    ];
    fs.fields(&mut suite, "", GROUP, &fields);
    huge(&fs, &mut suite);
    suite.refused = 30;
    suite.run();
}

/// Geometries on a sparse image as large as they say.
fn huge(fs: &Ext4, suite: &mut Suite) {
    let grow = |disk: &mut Disk, blocks: u64, per_group: u64| {
        disk.len = blocks << 10;
        disk.le(SUPER + 0x4, 4, blocks);
        disk.le(SUPER + 0x150, 4, blocks >> 32);
        disk.le(SUPER + 0x20, 4, per_group);
        disk.le(SUPER + 0x24, 4, per_group);
        let groups = (blocks - 1).div_ceil(per_group);
        let inodes = disk.le_at(SUPER + 0x28, 4);
        disk.le(SUPER, 4, (groups * inodes).min(u64::from(u32::MAX)));
    };
    for (blocks, per_group) in
        [(1u64 << 23, 8192u64), (1 << 27, 8192), (1 << 32, 8192), (1 << 26, 8), (1 << 24, 8), (1 << 33, 256)]
    {
        fs.add(suite, format!("{blocks} blocks, {per_group} in a group"), move |disk| grow(disk, blocks, per_group));
        fs.add(suite, format!("{blocks} blocks, {per_group} in a group, one inode each"), move |disk| {
            disk.le(SUPER + 0x28, 4, 1);
            grow(disk, blocks, per_group);
        });
        // Without checksums a descriptor of zeroes is as good as any, so all groups are gone through.
        fs.add(suite, format!("{blocks} blocks, {per_group} in a group, no checksums"), move |disk| {
            disk.le(SUPER + 0x28, 4, 8);
            let features = disk.le_at(SUPER + 0x64, 4) & !0x400;
            disk.le(SUPER + 0x64, 4, features);
            grow(disk, blocks, per_group);
        });
    }
}

#[test]
fn damaged_inodes() {
    if !have("mke2fs") || !have("debugfs") {
        return;
    }
    let fs = Ext4::build("", "");
    let mut suite = fs.suite("ext4 inodes");
    let fields = [
        ("i_mode", 0x0, 2),
        ("i_size_lo", 0x4, 4),
        ("i_mtime", 0x10, 4),
        ("i_links_count", 0x1a, 2),
        ("i_blocks_lo", 0x1c, 4),
        ("i_flags", 0x20, 4),
        ("i_file_acl_lo", 0x68, 4),
        ("i_size_high", 0x6c, 4),
        ("i_blocks_hi", 0x74, 2),
        ("i_file_acl_hi", 0x76, 2),
        ("i_extra_isize", 0x80, 2),
        ("i_mtime_extra", 0x88, 4),
        ("i_crtime", 0x90, 4),
    ];
    for path in ["etc", "etc/os-release", "etc/fast", "etc/slow", "holes", "fifo"] {
        fs.fields(&mut suite, &format!("{path}: "), fs.inode(fs.find(path)), &fields);
    }
    fs.fields(&mut suite, "root: ", fs.inode(2), &fields);
    for path in ["etc/os-release", "etc/fast", "etc", "big"] {
        let at = fs.inode(fs.find(path));
        for bit in 0..32 {
            fs.add(&mut suite, format!("{path}: i_flags bit {bit}"), move |disk| {
                let now = disk.le_at(at + 0x20, 4);
                disk.le(at + 0x20, 4, now ^ 1 << bit);
            });
        }
        for kind in 0..16u64 {
            fs.add(&mut suite, format!("{path}: type {kind:#x}"), move |disk| disk.le(at, 2, kind << 12 | 0o755));
        }
    }
    suite.refused = 20;
    suite.run();
}
