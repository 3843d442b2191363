//! ext4: the journal's superblock, descriptor, revoke and commit blocks, and fast commits. Checksums are right.

use crate::disk::{Disk, Random, boundaries};
use crate::ext4::{BLOCK, Ext4, Kind, crc};
use crate::support::have;

const MAGIC: u64 = 0xc03b_3998;

/// Where each block of the journal lies in the image.
#[derive(Clone)]
struct Journal(Vec<usize>);

impl Journal {
    fn new(fs: &Ext4) -> Self {
        let root = fs.inode(8) + 0x28;
        assert_eq!(fs.disk.le_at(root + 6, 2), 0, "the journal's extents are in its inode");
        let extents = (0..fs.disk.le_at(root + 2, 2) as usize).map(|entry| root + 12 + entry * 12);
        let blocks = extents.flat_map(|at| {
            let (len, start) = (fs.disk.le_at(at + 4, 2) as usize, fs.disk.le_at(at + 8, 4) as usize);
            (start..start + len).map(|block| block * BLOCK)
        });
        Self(blocks.collect())
    }

    fn start(&self) -> usize {
        self.0[0]
    }

    /// Puts `bytes` from journal block `first` on.
    fn put(&self, disk: &mut Disk, first: usize, bytes: &[u8]) {
        for (block, chunk) in bytes.chunks(BLOCK).enumerate() {
            disk.put(self.0[first + block], chunk);
        }
    }

    /// Repairs the journal's own checksums.
    fn seal(&self, disk: &mut Disk) {
        let start = self.start();
        if disk.be_at(start + 0x28, 4) & 0x18 == 0 {
            return;
        }
        disk.be(start + 0xfc, 4, 0);
        let sum = crc(!0, disk.get(start, 1024));
        disk.be(start + 0xfc, 4, sum.into());
        let seed = crc(!0, disk.get(start + 0x30, 16));
        for &at in &self.0[1..200] {
            let field = match (disk.be_at(at, 4), disk.be_at(at + 4, 4)) {
                (MAGIC, 1 | 5) => at + BLOCK - 4,
                (MAGIC, 2) => at + 0x10,
                _ => continue,
            };
            disk.be(field, 4, 0);
            let sum = crc(seed, disk.get(at, BLOCK));
            disk.be(field, 4, sum.into());
        }
    }
}

/// A filesystem with a transaction of forty blocks, revocations and their commits in its journal.
fn dirty(options: &str, open: &str) -> (Ext4, Journal) {
    let script = format!(
        "dd if=disk of=blocks bs=1k skip=6000 count=40 status=none
         printf '{open}\\njw -b 6000-6039 blocks\\njw -r 6100-6110\\njc\\n' >script; debugfs -w -f script disk >log 2>&1"
    );
    let fs = Ext4::build(options, &script);
    let journal = Journal::new(&fs);
    assert_ne!(fs.disk.be_at(journal.start() + 0x1c, 4), 0, "debugfs left the journal to be replayed");
    (fs, journal)
}

const SUPERBLOCK: &[(&str, usize, usize)] = &[
    ("h_magic", 0, 4),
    ("h_blocktype", 4, 4),
    ("s_blocksize", 0xc, 4),
    ("s_maxlen", 0x10, 4),
    ("s_first", 0x14, 4),
    ("s_sequence", 0x18, 4),
    ("s_start", 0x1c, 4),
    ("s_errno", 0x20, 4),
    ("s_feature_compat", 0x24, 4),
    ("s_feature_incompat", 0x28, 4),
    ("s_feature_ro_compat", 0x2c, 4),
    ("s_nr_users", 0x40, 4),
    ("s_checksum_type", 0x50, 1),
    ("s_num_fc_blks", 0x54, 4),
];

#[test]
fn damaged_journals() {
    if !have("mke2fs") || !have("debugfs") {
        return;
    }
    for (name, options, open) in [("jbd2", "-O ^metadata_csum", "jo"), ("jbd2 checksums", "", "jo -c")] {
        let (fs, journal) = dirty(options, open);
        let start = journal.start();
        let mut suite = fs.suite(name);
        let table = fs.disk.le_at(2 * BLOCK + 8, 4);
        let root = (fs.block(Kind::Directory, 2) / BLOCK) as u64;
        let first = fs.disk.be_at(start + 0x1c, 4) as usize;
        let log = journal.0[first];
        let mut blocks = vec![("journal superblock", start, SUPERBLOCK.to_vec())];
        for &at in &journal.0[first..first + 80] {
            let header = [("h_magic", 0, 4), ("h_blocktype", 4, 4), ("h_sequence", 8, 4)];
            let more: &[_] = match (fs.disk.be_at(at, 4), fs.disk.be_at(at + 4, 4)) {
                (MAGIC, 1) => &[("t_blocknr", 0xc, 4), ("t_flags", 0x10, 4), ("t_blocknr_high", 0x14, 4)],
                (MAGIC, 2) => &[("h_chksum_type", 0xc, 2), ("h_commit_sec", 0x30, 8)],
                (MAGIC, 5) => &[("r_count", 0xc, 4), ("r_block", 0x10, 8)],
                _ => continue,
            };
            blocks.push(("log", at, [&header[..], more].concat()));
        }
        assert!(blocks.len() >= 3, "{name}: descriptor and commit blocks are found");
        for (what, block, fields) in blocks {
            for (field, offset, size) in fields {
                let at = block + offset;
                for value in boundaries(size, fs.disk.be_at(at, size)) {
                    let journal = journal.clone();
                    fs.add(&mut suite, format!("{what} {block:#x}: {field} {value:#x}"), move |disk| {
                        disk.be(at, size, value);
                        journal.seal(disk);
                    });
                }
            }
        }
        let mut add = |name: String, change: Box<dyn Fn(&mut Disk, &Journal) + Send + Sync>| {
            let journal = journal.clone();
            fs.add(&mut suite, name, move |disk| {
                change(disk, &journal);
                journal.seal(disk);
            });
        };
        let tag = if open == "jo" { 8 } else { 16 };
        for (name, target) in [("the superblock", 1), ("the inodes", table), ("the root directory", root)] {
            let change = move |disk: &mut Disk, _: &Journal| {
                (1..40).for_each(|number| disk.be(log + 12 + 16 + tag * number, 4, target));
            };
            add(format!("{name} in the log, again and again"), Box::new(change));
        }
        let descriptors = move |disk: &mut Disk, journal: &Journal| {
            let descriptor = disk.get(log, BLOCK).to_vec();
            (first + 1..first + 150).for_each(|block| journal.put(disk, block, &descriptor));
        };
        add("a log of descriptors".to_owned(), Box::new(descriptors));
        let mut random = Random(crate::SEED);
        for number in 0..80 {
            let damage: Vec<_> = (0..4).map(|_| (random.below(60), random.below(BLOCK), random.next())).collect();
            let change = move |disk: &mut Disk, journal: &Journal| {
                damage.iter().for_each(|&(block, at, value)| disk.be(journal.0[first + block] + at, 1, value));
            };
            add(format!("random bytes {number}"), Box::new(change));
        }
        suite.run();
    }
}

/// Fast-commit records with their values.
#[derive(Default)]
struct Records(Vec<u8>);

impl Records {
    fn put(&mut self, tag: u16, value: &[&[u8]]) {
        let value = value.concat();
        // No record crosses a block; a PAD fills what is left.
        let left = BLOCK - self.0.len() % BLOCK;
        if value.len() + 4 + 4 > left {
            self.0.extend([7, 0]);
            self.0.extend(((left - 4) as u16).to_le_bytes());
            self.0.resize(self.0.len() + left - 4, 0);
        }
        self.0.extend(tag.to_le_bytes());
        self.0.extend((value.len() as u16).to_le_bytes());
        self.0.extend(value);
    }

    fn head(transaction: u32) -> Self {
        let mut records = Self::default();
        records.put(9, &[&[0; 4], &transaction.to_le_bytes()]);
        records
    }

    /// Ends the commit and puts it where the fast-commit area begins.
    fn commit(mut self, disk: &mut Disk, journal: &Journal, first: usize, transaction: u32) {
        self.put(8, &[&transaction.to_le_bytes(), &[0; 4]]);
        let end = self.0.len();
        let sum = crc(0, &self.0[..end - 4]);
        self.0[end - 4..].copy_from_slice(&sum.to_le_bytes());
        journal.put(disk, first, &self.0);
    }
}

#[test]
fn damaged_fast_commits() {
    if !have("mke2fs") || !have("debugfs") {
        return;
    }
    const AREA: usize = 12 << 10;
    let fs = Ext4::build("-J size=16 -O fast_commit", "");
    let mut suite = fs.suite("ext4 fast commits");
    let journal = Journal::new(&fs);
    let start = journal.start();
    let sequence = fs.disk.be_at(start + 0x18, 4) as u32;
    let area = journal.0.len() - AREA + 1;
    let mut add = |name: String, make: Box<dyn Fn(&mut Records) + Send + Sync>| {
        let journal = journal.clone();
        fs.add(&mut suite, name, move |disk| {
            let features = disk.le_at(1024 + 0x60, 4) | 4;
            disk.le(1024 + 0x60, 4, features);
            disk.be(start + 0x1c, 4, 1);
            let features = disk.be_at(start + 0x28, 4) | 0x20;
            disk.be(start + 0x28, 4, features);
            disk.be(start + 0x54, 4, AREA as u64);
            let mut records = Records::head(sequence);
            make(&mut records);
            records.commit(disk, &journal, area, sequence);
            journal.seal(disk);
        });
    };
    let word = |value: u32| value.to_le_bytes();
    for inode in [0u32, 1, 2, 8, 12, 256, 257, u32::MAX] {
        for tag in 0..12u16 {
            let change = move |records: &mut Records| {
                let wide = [word(inode), word(100), [1, 0, 0, 0], word(6000)].concat();
                match tag {
                    2 => records.put(tag, &[&wide[..12]]),
                    3..=5 => records.put(tag, &[&word(2), &word(inode), b"name"]),
                    6 => records.put(tag, &[&word(inode), &[0xff; 256]]),
                    _ => records.put(tag, &[&wide]),
                }
            };
            add(format!("tag {tag} for inode {inode}"), Box::new(change));
        }
    }
    for (name, logical, len, start) in [
        ("past the file's end", u32::MAX, 2u32, 6000),
        ("of no blocks", 0, 0, 6000),
        ("past the device", 0, 10, u32::MAX),
        ("of the superblock", 0, 1, 0),
    ] {
        let target = fs.find("etc/os-release");
        let value = [word(target), word(logical), word(len), word(start)].concat();
        add(format!("a range {name}"), Box::new(move |records| records.put(1, &[&value])));
        let value = [word(target), word(logical), word(len.wrapping_sub(1))].concat();
        add(format!("no range {name}"), Box::new(move |records| records.put(2, &[&value])));
    }
    for (name, bytes) in [("a slash", &b"a/b"[..]), ("dots", b".."), ("a NUL", b"\0")] {
        add(format!("a name with {name}"), Box::new(move |records| records.put(4, &[&word(2), &word(12), bytes])));
    }
    let directory = [[0xed, 0x41, 0, 0].as_slice(), &[0; 22], &[2, 0], &[0; 228]].concat();
    add(
        "a directory in itself".to_owned(),
        Box::new(move |records| {
            records.put(6, &[&word(20), &directory]);
            records.put(3, &[&word(20), &word(20), b"self"]);
            records.put(3, &[&word(2), &word(20), b"loop"]);
        }),
    );
    for target in [2u32, 11, fs.find("etc")] {
        add(
            format!("130,000 changes to the map of inode {target}"),
            Box::new(move |records| {
                for number in 0..130_000u32 {
                    if records.0.len() > (AREA - 4) * BLOCK {
                        break;
                    }
                    let logical = number.wrapping_mul(2) % 200_000;
                    records.put(1, &[&word(target), &word(logical), &[1, 0, 0, 0], &word(6000 + number % 1000)]);
                }
            }),
        );
        add(
            format!("40,000 copies of inode {target}"),
            Box::new(move |records| {
                let inode = [[0xed, 0x41, 0, 0].as_slice(), &[0; 22], &[2, 0], &[0; 228]].concat();
                while records.0.len() < (AREA - 4) * BLOCK {
                    records.put(6, &[&word(target), &inode]);
                }
            }),
        );
        add(
            format!("130,000 names in inode {target}"),
            Box::new(move |records| {
                for number in 0..130_000u32 {
                    if records.0.len() > (AREA - 4) * BLOCK {
                        break;
                    }
                    records.put(4, &[&word(target), &word(12), format!("{number:x}").as_bytes()]);
                }
            }),
        );
        add(
            format!("130,000 times the same name in inode {target}"),
            Box::new(move |records| {
                for _ in 0..130_000 {
                    records.put(4, &[&word(target), &word(12), b"name"]);
                }
            }),
        );
    }
    suite.run();
}
