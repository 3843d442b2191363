//! ext4: the journal's superblock, descriptor, revoke and commit blocks, and fast commits. Checksums are right.

use crate::disk::{Disk, Random, boundaries};
use crate::ext4::{BLOCK, Ext4, crc};
use crate::support::have;

const MAGIC: u64 = 0xc03b_3998;

/// A filesystem with a transaction of forty blocks, a revocation and their commits in its journal; and the journal's
/// first byte.
fn dirty(options: &str, open: &str) -> (Ext4, usize) {
    let script = format!(
        "dd if=disk of=blocks bs=1k skip=6000 count=40 status=none
         printf '{open}\\njw -b 6000-6039 blocks\\njw -r 6100-6110\\njc\\n' >script; debugfs -w -f script disk >log 2>&1"
    );
    let fs = Ext4::build(options, &script);
    let start = start(&fs);
    assert_ne!(fs.disk.be_at(start + 0x1c, 4), 0, "debugfs left the journal to be replayed");
    (fs, start)
}

fn start(fs: &Ext4) -> usize {
    fs.disk.le_at(fs.inode(8) + 0x28 + 20, 4) as usize * BLOCK
}

/// Repairs the journal's own checksums.
fn seal(disk: &mut Disk, start: usize) {
    if disk.be_at(start + 0x28, 4) & 0x18 == 0 {
        return;
    }
    disk.be(start + 0xfc, 4, 0);
    let sum = crc(!0, disk.get(start, 1024));
    disk.be(start + 0xfc, 4, sum.into());
    let seed = crc(!0, disk.get(start + 0x30, 16));
    for at in (1..200).map(|block| start + block * BLOCK) {
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
        let (fs, start) = dirty(options, open);
        let mut suite = fs.suite(name);
        let log = start + BLOCK * fs.disk.be_at(start + 0x1c, 4) as usize;
        let mut blocks = vec![("journal superblock", start, SUPERBLOCK.to_vec())];
        for at in (0..80).map(|block| log + block * BLOCK) {
            let header = [("h_magic", 0, 4), ("h_blocktype", 4, 4), ("h_sequence", 8, 4)];
            let more: &[_] = match (fs.disk.be_at(at, 4), fs.disk.be_at(at + 4, 4)) {
                (MAGIC, 1) => &[("t_blocknr", 0xc, 4), ("t_flags", 0x10, 4), ("t_blocknr_high", 0x14, 4)],
                (MAGIC, 2) => &[("h_chksum_type", 0xc, 2), ("h_commit_sec", 0x30, 8)],
                (MAGIC, 5) => &[("r_count", 0xc, 4), ("r_block", 0x10, 8)],
                _ => continue,
            };
            blocks.push(("log", at, [&header, more].concat()));
        }
        assert!(blocks.len() >= 3, "{name}: descriptor and commit blocks are found");
        for (what, block, fields) in blocks {
            for (field, offset, size) in fields {
                let at = block + offset;
                for value in boundaries(size, fs.disk.be_at(at, size)) {
                    fs.add(&mut suite, format!("{what} {:#x}: {field} {value:#x}", block - start), move |disk| {
                        disk.be(at, size, value);
                        seal(disk, start);
                    });
                }
            }
        }
        let target = 1024u64;
        fs.add(&mut suite, "tags for the superblock, every one", move |disk| {
            (0..40).for_each(|tag| disk.be(log + 12 + 16 * tag + usize::from(tag > 0) * 16, 4, target / 1024));
            seal(disk, start);
        });
        fs.add(&mut suite, "a log of descriptors", move |disk| {
            let descriptor = disk.get(log, BLOCK).to_vec();
            (1..150).for_each(|block| disk.put(log + block * BLOCK, &descriptor));
            seal(disk, start);
        });
        fs.add(&mut suite, "the journal's inode in the log", move |disk| {
            let inode = fs_inode_table(disk);
            disk.be(log + 12, 4, inode);
            seal(disk, start);
        });
        let mut random = Random(crate::SEED);
        for number in 0..80 {
            let damage: Vec<_> = (0..4).map(|_| (random.below(60 * BLOCK), random.next())).collect();
            fs.add(&mut suite, format!("random bytes {number}"), move |disk| {
                damage.iter().for_each(|&(offset, value)| disk.be(log + offset, 1, value));
                seal(disk, start);
            });
        }
        suite.run();
    }
}

/// The block of the inode table.
fn fs_inode_table(disk: &Disk) -> u64 {
    disk.le_at(2 * BLOCK + 8, 4)
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
    fn commit(mut self, disk: &mut Disk, at: usize, transaction: u32) {
        self.put(8, &[&transaction.to_le_bytes(), &[0; 4]]);
        let end = self.0.len();
        let sum = crc(0, &self.0[..end - 4]);
        self.0[end - 4..].copy_from_slice(&sum.to_le_bytes());
        disk.put(at, &self.0);
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
    let start = start(&fs);
    let sequence = fs.disk.be_at(start + 0x18, 4) as u32;
    let area = start + ((16 << 10) - AREA + 1) * BLOCK;
    let mut add = |name: String, make: Box<dyn Fn(&mut Records) + Send + Sync>| {
        fs.add(&mut suite, name, move |disk| {
            let features = disk.le_at(1024 + 0x60, 4) | 4;
            disk.le(1024 + 0x60, 4, features);
            disk.be(start + 0x1c, 4, 1);
            let features = disk.be_at(start + 0x28, 4) | 0x20;
            disk.be(start + 0x28, 4, features);
            disk.be(start + 0x54, 4, AREA as u64);
            let mut records = Records::head(sequence);
            make(&mut records);
            records.commit(disk, area, sequence);
            seal(disk, start);
        });
    };
    let word = |value: u32| value.to_le_bytes();
    for inode in [0u32, 1, 2, 8, 12, 256, 257, u32::MAX] {
        for tag in 0..12u16 {
            add(
                format!("tag {tag} for inode {inode}"),
                Box::new(move |records| {
                    let value = [word(inode), word(2), word(u32::MAX), word(0)].concat();
                    records.put(tag, &[&value]);
                    records.put(tag, &[&value, b"name"]);
                    records.put(tag, &[&word(inode), &[0xff; 256]]);
                }),
            );
        }
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
            format!("500,000 changes to the map of inode {target}"),
            Box::new(move |records| {
                for number in 0..500_000u32 {
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
            format!("250,000 names in inode {target}"),
            Box::new(move |records| {
                for number in 0..250_000u32 {
                    if records.0.len() > (AREA - 4) * BLOCK {
                        break;
                    }
                    records.put(4, &[&word(target), &word(12), format!("{number:x}").as_bytes()]);
                }
            }),
        );
        add(
            format!("250,000 times the same name in inode {target}"),
            Box::new(move |records| {
                for _ in 0..250_000 {
                    records.put(4, &[&word(target), &word(12), b"name"]);
                }
            }),
        );
    }
    suite.run();
}
