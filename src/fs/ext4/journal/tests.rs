//! Journals built by hand from the specification, one property each; what real journals look like is for `kernel_tests`.

use super::*;
use crate::ErrorKind;
use crate::block::{Extent, Memory};

const BLOCK: usize = 1024;
const COMPAT_CHECKSUM: u32 = 1;
const WIDE: u32 = 2;
const ASYNC: u32 = 4;
const V2: u32 = 8;
const V3: u32 = 0x10;
const FAST: u32 = 0x20;

/// Every kind of checksum: s_feature_compat and s_feature_incompat.
const CHECKSUMS: [(u32, u32); 4] = [(0, 0), (COMPAT_CHECKSUM, 0), (0, V2), (0, V3)];

/// The crc32c register after `bytes`, bit by bit.
fn crc32c(start: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(start, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 })
    })
}

/// The CRC-32 register after `bytes`, highest bit first.
fn crc32(start: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(start, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte) << 24, |crc, _| (crc << 1) ^ if crc >> 31 == 1 { 0x04c1_1db7 } else { 0 })
    })
}

fn put32(block: &mut [u8], at: usize, value: u32) {
    block[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

/// A journal in the making.
#[derive(Clone)]
struct Journal {
    bytes: Vec<u8>,
    compat: u32,
    incompat: u32,
    /// The next block of the log.
    next: usize,
    sequence: u32,
    /// h_commit_sec of the next commit.
    time: u64,
    crc: u32,
    blocks_count: u64,
}

impl Journal {
    /// An empty log from block 1 on, in 1100 blocks and 64 of fast commits if there are any.
    fn new((compat, incompat): (u32, u32)) -> Self {
        let length = 1100 + if incompat & FAST != 0 { 64 } else { 0 };
        let mut bytes = vec![0; length * BLOCK];
        bytes[0x30..0x40].copy_from_slice(b"journal's uuid..");
        bytes[0x50] = 4;
        for (at, value) in [
            (0x00, 0xc03b_3998),
            (0x04, 4),
            (0x0c, BLOCK as u32),
            (0x10, length as u32),
            (0x14, 1),
            (0x18, 7),
            (0x1c, 1),
            (0x24, compat),
            (0x28, incompat),
            (0x54, 64),
        ] {
            put32(&mut bytes, at, value);
        }
        Self { bytes, compat, incompat, next: 1, sequence: 7, time: 1000, crc: !0, blocks_count: 100_000 }
    }

    /// Begins the log at another block and transaction.
    fn starting(mut self, block: usize, sequence: u32) -> Self {
        (self.next, self.sequence) = (block, sequence);
        self.set(0x1c, block as u32);
        self.set(0x18, sequence);
        self
    }

    /// Sets a field of the superblock.
    fn set(&mut self, at: usize, value: u32) {
        put32(&mut self.bytes, at, value);
    }

    fn block(&mut self, block: usize) -> &mut [u8] {
        &mut self.bytes[block * BLOCK..][..BLOCK]
    }

    fn has_block_checksums(&self) -> bool {
        self.incompat & (V2 | V3) != 0
    }

    fn seed(&self) -> u32 {
        crc32c(!0, &self.bytes[0x30..0x40])
    }

    /// Puts a block behind the log; where it lies.
    fn push(&mut self, bytes: &[u8]) -> usize {
        let at = self.next;
        self.block(at).copy_from_slice(bytes);
        self.next = if at + 1 == 1100 { 1 } else { at + 1 };
        at
    }

    fn header(&self, kind: u32) -> Vec<u8> {
        let mut block = vec![0; BLOCK];
        put32(&mut block, 0, 0xc03b_3998);
        put32(&mut block, 4, kind);
        put32(&mut block, 8, self.sequence);
        block
    }

    /// Fills the last four bytes with the checksum.
    fn seal(&self, block: &mut [u8]) {
        if self.has_block_checksums() {
            let sum = crc32c(self.seed(), block);
            put32(block, BLOCK - 4, sum);
        }
    }

    /// A descriptor block and its data: blocks of the filesystem and what fills them; 0 stands for the escaped magic.
    fn log(&mut self, data: &[(u64, u8)]) -> usize {
        let mut block = self.header(1);
        let contents: Vec<Vec<u8>> = data.iter().map(|&(_, fill)| vec![fill; BLOCK]).collect();
        let mut at = 12;
        for (index, (&(number, fill), content)) in data.iter().zip(&contents).enumerate() {
            let same_uuid = if index > 0 { 2 } else { 0 };
            let last = if index + 1 == data.len() { 8 } else { 0 };
            let flags = same_uuid | last | u16::from(fill == 0);
            let sum = crc32c(crc32c(self.seed(), &self.sequence.to_be_bytes()), content);
            put32(&mut block, at, number as u32);
            block[at + 6..at + 8].copy_from_slice(&flags.to_be_bytes());
            if self.incompat & WIDE != 0 {
                put32(&mut block, at + 8, (number >> 32) as u32);
            }
            if self.incompat & V3 != 0 {
                put32(&mut block, at + 12, sum);
            } else if self.incompat & V2 != 0 {
                block[at + 4..at + 6].copy_from_slice(&(sum as u16).to_be_bytes());
            }
            at += match self.incompat & (WIDE | V2 | V3) {
                0 => 8,
                WIDE => 12,
                V2 => 10,
                sum if sum & V2 != 0 => 14,
                _ => 16,
            };
            at += if index == 0 { 16 } else { 0 };
        }
        self.seal(&mut block);
        self.crc = crc32(self.crc, &block);
        let first = self.push(&block);
        for content in contents {
            self.crc = crc32(self.crc, &content);
            self.push(&content);
        }
        first
    }

    fn revoke(&mut self, blocks: &[u64]) -> usize {
        let mut block = self.header(5);
        let size = if self.incompat & WIDE != 0 { 8 } else { 4 };
        put32(&mut block, 12, (16 + blocks.len() * size) as u32);
        for (index, number) in blocks.iter().enumerate() {
            block[16 + index * size..][..size].copy_from_slice(&number.to_be_bytes()[8 - size..]);
        }
        self.seal(&mut block);
        self.push(&block)
    }

    fn commit(&mut self) -> usize {
        let mut block = self.header(2);
        block[0x30..0x38].copy_from_slice(&self.time.to_be_bytes());
        if self.compat & COMPAT_CHECKSUM != 0 {
            (block[12], block[13]) = (1, 4);
            put32(&mut block, 0x10, self.crc);
        }
        if self.has_block_checksums() {
            let sum = crc32c(self.seed(), &block);
            put32(&mut block, 0x10, sum);
        }
        self.crc = !0;
        self.time += 1;
        self.sequence = self.sequence.wrapping_add(1);
        self.push(&block)
    }

    /// A whole transaction; its descriptor's block.
    fn transaction(&mut self, data: &[(u64, u8)]) -> usize {
        let block = self.log(data);
        self.commit();
        block
    }

    /// Fills the first blocks of the fast-commit area with records.
    fn fast_commits(&mut self, blocks: &[Vec<u8>]) {
        for (index, records) in blocks.iter().enumerate() {
            self.block(1101 + index)[..records.len()].copy_from_slice(records);
        }
    }

    fn finish(&self) -> Memory {
        let mut bytes = self.bytes.clone();
        if self.has_block_checksums() {
            put32(&mut bytes, 0xfc, 0);
            let sum = crc32c(!0, &bytes[..1024]);
            put32(&mut bytes, 0xfc, sum);
        }
        Memory::new(bytes)
    }

    fn replay(&self) -> Result<Replay> {
        read(&self.finish(), self.blocks_count)
    }

    /// What the replayed blocks hold, by the byte that fills them; `None` for an escaped one.
    fn contents(&self) -> Vec<(u64, Option<u8>)> {
        let blocks = self.replay().unwrap().blocks;
        let content = |block: &JournalBlock| (!block.escaped).then_some(self.bytes[block.offset as usize]);
        blocks.iter().map(|(&number, block)| (number, content(block))).collect()
    }

    /// Field and offset of the corruption that stops recovery.
    fn corrupt(&self) -> (&'static str, u64) {
        let error = self.replay().unwrap_err();
        let corrupt = error.as_corrupt().unwrap_or_else(|| panic!("{error}"));
        assert_eq!(corrupt.format, "jbd2");
        (corrupt.field, corrupt.offset)
    }
}

fn read(journal: &dyn BlockDevice, blocks_count: u64) -> Result<Replay> {
    replay(&JournalInput { journal, block_size: BLOCK as u32, blocks_count, inode_size: 256 })
}

fn at(block: usize, byte: usize) -> u64 {
    (block * BLOCK + byte) as u64
}

#[test]
fn every_tag_format_and_checksum_is_read() {
    for (compat, incompat) in CHECKSUMS {
        for wide in [0, WIDE] {
            let mut journal = Journal::new((compat, incompat | wide));
            let high = if wide == 0 { 0 } else { 5u64 << 32 };
            journal.blocks_count = high + 100_000;
            journal.log(&[(high + 700, 1), (9, 2), (10, 0)]);
            journal.log(&[(11, 4)]);
            journal.commit();
            journal.revoke(&[11, high + 9]);
            journal.transaction(&[(12, 5), (9, 6)]);
            let mut expected = vec![(9, Some(6)), (10, None), (12, Some(5)), (high + 700, Some(1))];
            if wide == 0 {
                expected.remove(0);
            }
            assert_eq!(journal.contents(), expected, "{compat} {incompat:#x} {wide}");
            let notes = journal.replay().unwrap().notes;
            let blocks = expected.len();
            assert_eq!(notes, [format!("replayed 2 transactions of the journal ({blocks} blocks)")]);
        }
    }
}

#[test]
fn a_clean_journal_and_one_of_version_1_are_read() {
    let mut journal = Journal::new((0, V3));
    journal.transaction(&[(5, 1)]);
    journal.set(0x1c, 0);
    let clean = journal.replay().unwrap();
    assert!(clean.blocks.is_empty() && clean.fast_commit.is_empty() && clean.notes.is_empty());
    let mut journal = Journal::new((0, 0));
    journal.transaction(&[(5, 1)]);
    journal.set(0x04, 3);
    journal.set(0x28, 0xffff_ffff);
    assert_eq!(journal.contents(), [(5, Some(1))], "version 1 has no features");
}

#[test]
fn the_log_wraps_at_its_end_and_so_do_transaction_numbers() {
    for checksums in CHECKSUMS {
        for start in 1093..1100 {
            let mut journal = Journal::new(checksums).starting(start, u32::MAX - 1);
            journal.transaction(&[(5, 1), (6, 2), (7, 3), (8, 4)]);
            journal.revoke(&[6]);
            journal.transaction(&[(9, 5)]);
            journal.revoke(&[7, 5]);
            journal.transaction(&[(7, 8)]);
            journal.transaction(&[(5, 7)]);
            let expected = [(5, Some(7)), (8, Some(4)), (9, Some(5))];
            assert_eq!(journal.contents(), expected, "{checksums:?} {start}");
        }
    }
}

#[test]
fn a_block_revoked_by_the_same_or_a_later_transaction_is_left() {
    let mut journal = Journal::new((0, 0));
    journal.log(&[(5, 1), (6, 1), (7, 1)]);
    journal.revoke(&[5]);
    journal.commit();
    journal.transaction(&[(6, 2), (7, 2)]);
    journal.revoke(&[6, 7, 99]);
    journal.commit();
    journal.transaction(&[(7, 3)]);
    assert_eq!(journal.contents(), [(7, Some(3))]);
}

#[test]
fn what_is_not_committed_is_left_out() {
    let mut journal = Journal::new((0, V3));
    journal.transaction(&[(5, 1)]);
    let finished = journal.clone();
    journal.log(&[(5, 2)]);
    assert_eq!(journal.contents(), [(5, Some(1))]);
    let notes = journal.replay().unwrap().notes;
    assert_eq!(notes[0], "replayed 1 transaction of the journal (1 block)");
    assert_eq!(notes[1], "left out transaction 8 of the journal, which was not finished");
    // A commit block of another round does not end it.
    journal.sequence = 3;
    journal.commit();
    assert_eq!(journal.contents(), [(5, Some(1))]);
    assert_eq!(finished.replay().unwrap().notes.len(), 1);
}

/// A wrong checksum is left over from an earlier round when its commit is older, else damage.
#[test]
fn wrong_checksums_are_stale_or_corrupt_by_their_commit_time() {
    for checksums in CHECKSUMS {
        let mut journal = Journal::new(checksums);
        journal.transaction(&[(5, 1)]);
        let good = journal.clone();
        let cases: [(&str, usize); 4] = [("t_checksum", 20), ("t_checksum", 20), ("h_chksum", 0x10), ("h_chksum", 60)];
        for (case, (field, byte)) in cases.into_iter().enumerate() {
            for older in [false, true] {
                let mut journal = good.clone();
                journal.time = if older { 999 } else { 1001 };
                let blocks = [journal.log(&[(5, 2), (6, 3)]), journal.revoke(&[5]), journal.commit()];
                let damaged = blocks[case.min(2)];
                let applies = match checksums {
                    (0, 0) => false,
                    (0, _) => true,
                    _ => byte == 0x10,
                };
                if !applies {
                    continue;
                }
                journal.block(damaged)[byte] ^= 1;
                let name = format!("{checksums:?} {field} {case} {older}");
                if older {
                    assert_eq!(journal.contents(), [(5, Some(1))], "{name}");
                    let notes = journal.replay().unwrap().notes;
                    assert!(notes[1].contains("before transaction 8"), "{name} {notes:?}");
                } else {
                    let byte = if field == "h_chksum" { 0x10 } else { BLOCK - 4 };
                    assert_eq!(journal.corrupt(), (field, at(damaged, byte)), "{name}");
                }
            }
        }
    }
}

#[test]
fn a_commit_block_of_which_only_the_fields_were_written_counts() {
    for sums in [V2, V3] {
        let mut journal = Journal::new((0, sums));
        journal.log(&[(5, 1)]);
        let commit = journal.commit();
        journal.block(commit)[512..].fill(0xee);
        assert_eq!(journal.contents(), [(5, Some(1))]);
        journal.block(commit)[0x38] ^= 1;
        assert_eq!(journal.corrupt(), ("h_chksum", at(commit, 0x10)));
    }
}

#[test]
fn with_async_commit_a_wrong_commit_was_only_late() {
    for checksums in [(COMPAT_CHECKSUM, ASYNC), (0, ASYNC | V3)] {
        let mut journal = Journal::new(checksums);
        journal.transaction(&[(5, 1)]);
        journal.log(&[(5, 2)]);
        let commit = journal.commit();
        journal.block(commit)[0x10] ^= 1;
        assert_eq!(journal.contents(), [(5, Some(1))], "{checksums:?}");
        let expected = "left out transaction 8 of the journal, which was not finished";
        assert_eq!(journal.replay().unwrap().notes[1], expected);
        let next = journal.transaction(&[(6, 1)]) + 2;
        if checksums.0 != 0 {
            assert_eq!(journal.corrupt(), ("h_chksum", at(next, 0x10)), "a later one was in time");
        } else {
            assert_eq!(journal.contents(), [(5, Some(1))]);
        }
    }
}

#[test]
fn damaged_data_is_corrupt_unless_revoked() {
    for (sums, field) in [(V2, 4), (V3, 12), (WIDE | V2, 4), (WIDE | V3, 12)] {
        let mut journal = Journal::new((0, sums));
        let descriptor = journal.transaction(&[(5, 1), (6, 2)]);
        journal.transaction(&[(6, 3)]);
        journal.block(descriptor + 2)[100] ^= 1;
        let tag = match sums {
            V2 => 10,
            V3 => 16,
            _ if sums & V2 != 0 => 14,
            _ => 16,
        };
        let expected = ("t_checksum", at(descriptor, 12 + tag + 16));
        assert_eq!(journal.corrupt(), expected, "{sums:#x}, t_checksum {field} bytes into its tag");
        journal.revoke(&[6]);
        journal.commit();
        assert_eq!(journal.contents(), [(5, Some(1))], "{sums:#x}");
    }
    let mut journal = Journal::new((0, 0));
    let descriptor = journal.transaction(&[(5, 1)]);
    journal.block(descriptor + 1).fill(9);
    assert_eq!(journal.contents(), [(5, Some(9))], "nothing tells");
}

#[test]
fn fields_of_the_superblock_are_checked() {
    let cases: &[(&str, usize, u32)] = &[
        ("h_magic", 0x00, 0),
        ("h_blocktype", 0x04, 2),
        ("h_blocktype", 0x04, 5),
        ("s_blocksize", 0x0c, 4096),
        ("s_blocksize", 0x0c, 0),
        ("s_maxlen", 0x10, 1165),
        ("s_maxlen", 0x10, u32::MAX),
        ("s_num_fc_blks", 0x10, 1087),
        ("s_num_fc_blks", 0x10, 0),
        ("s_first", 0x14, 0),
        ("s_first", 0x14, 142),
        ("s_first", 0x14, u32::MAX),
        ("s_start", 0x1c, 1100),
        ("s_start", 0x1c, u32::MAX),
        ("s_feature_incompat", 0x28, V2 | V3),
        ("s_feature_compat", 0x24, COMPAT_CHECKSUM),
        ("s_checksum_type", 0x50, 0x0100_0000),
        ("s_num_fc_blks", 0x54, 141),
        ("s_num_fc_blks", 0x54, u32::MAX),
    ];
    for &(field, offset, value) in cases {
        let mut journal = Journal::new((0, V3 | FAST));
        journal.transaction(&[(5, 1)]);
        journal.set(offset, value);
        let expected = if field == "s_num_fc_blks" { 0x54 } else { offset as u64 };
        assert_eq!(journal.corrupt(), (field, expected), "{value:#x} at {offset:#x}");
    }
    for (name, at, value) in [("0x40", 0x28, V3 | 0x40), ("0x80000000", 0x28, 0x8000_0000), ("0x1", 0x2c, 1)] {
        let mut journal = Journal::new((0, V3));
        journal.set(at, value);
        let error = journal.replay().unwrap_err();
        let ErrorKind::Unsupported { feature, .. } = error.kind() else { panic!("{error}") };
        assert!(feature.ends_with(name), "{feature}");
    }
    let mut sealed = Journal::new((0, V3));
    sealed.transaction(&[(5, 1)]);
    let Ok(mut bytes) = read_vec(&sealed.finish(), 0, 1100 * BLOCK) else { panic!() };
    bytes[0x200] ^= 1;
    let error = read(&Memory::new(bytes), 1000).unwrap_err();
    assert_eq!(error.as_corrupt().unwrap().field, "s_checksum");
    assert!(read(&Memory::new(vec![0; 100]), 1000).is_err(), "a journal shorter than its superblock");
}

#[test]
fn hostile_logs_are_corrupt_where_they_are() {
    let mut outside = Journal::new((0, 0));
    outside.blocks_count = 700;
    let block = outside.transaction(&[(699, 1), (700, 2)]);
    assert_eq!(outside.corrupt(), ("t_blocknr", at(block, 12 + 8 + 16)));
    outside.revoke(&[700]);
    outside.commit();
    assert_eq!(outside.contents(), [(699, Some(1))], "revoked, so it does not matter");

    for sums in [0, V3] {
        let mut revokes = Journal::new((0, sums));
        let block = revokes.revoke(&[1]);
        let limit = BLOCK as u32 - if sums == 0 { 0 } else { 4 };
        for count in [limit, limit + 1, u32::MAX] {
            put32(revokes.block(block), 12, count);
            revokes.block(block)[BLOCK - 4..].fill(0);
            let mut bytes = revokes.block(block).to_vec();
            revokes.seal(&mut bytes);
            revokes.block(block).copy_from_slice(&bytes);
            let mut finished = revokes.clone();
            finished.commit();
            if count == limit {
                finished.replay().unwrap();
            } else {
                assert_eq!(finished.corrupt(), ("r_count", at(block, 12)), "{count}");
            }
        }
    }
    // A transaction without end goes round and round.
    let mut ring = Journal::new((0, 0));
    for _ in 0..1099 {
        ring.revoke(&[1]);
    }
    assert_eq!(ring.corrupt(), ("h_sequence", at(1, 8)));
    // A descriptor with more data than the ring has left.
    let mut long = Journal::new((0, 0)).starting(1099, 7);
    for _ in 0..8 {
        long.log(&[(5, 1); 124]);
    }
    let mut longer = long.clone();
    let last = longer.log(&[(5, 1); 124]);
    long.block(last).copy_from_slice(longer.block(last));
    assert_eq!(long.corrupt(), ("h_sequence", at(last, 8)));
}

/// A journal of 4 TiB in which every block revokes the same.
#[derive(Debug)]
struct Endless(Vec<u8>, Vec<u8>);

impl BlockDevice for Endless {
    fn size(&self) -> u64 {
        1 << 42
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let source = if offset == 0 { &self.0 } else { &self.1 };
        buf.copy_from_slice(&source[..buf.len()]);
        Ok(())
    }

    fn next_extent(&self, range: std::ops::Range<u64>) -> Result<Extent> {
        Ok(Extent { kind: crate::block::ExtentKind::Data, len: range.end - range.start })
    }
}

#[test]
fn a_log_without_end_meets_its_limit() {
    let mut journal = Journal::new((0, 0));
    journal.set(0x10, u32::MAX);
    let revoke = journal.revoke(&[1]);
    let block = journal.block(revoke).to_vec();
    let error = read(&Endless(journal.bytes[..BLOCK].to_vec(), block), 1000).unwrap_err();
    let ErrorKind::Limit { what, limit, .. } = error.kind() else { panic!("{error}") };
    assert_eq!((*what, *limit), ("blocks in the journal's log", 1 << 20));
}

/// One record of a fast commit.
fn record(tag: u16, value: &[u8]) -> Vec<u8> {
    [&tag.to_le_bytes()[..], &(value.len() as u16).to_le_bytes(), value].concat()
}

fn head(features: u32, transaction: u32) -> Vec<u8> {
    record(9, &[features.to_le_bytes(), transaction.to_le_bytes()].concat())
}

fn name(tag: u16, parent: u32, inode: u32, name: &[u8]) -> Vec<u8> {
    record(tag, &[&parent.to_le_bytes()[..], &inode.to_le_bytes(), name].concat())
}

fn add_range(inode: u32, logical: u32, len: u16, physical: u64) -> Vec<u8> {
    let high = (physical >> 32) as u16;
    let extent =
        [&logical.to_le_bytes()[..], &len.to_le_bytes(), &high.to_le_bytes(), &(physical as u32).to_le_bytes()];
    record(1, &[&inode.to_le_bytes()[..], &extent.concat()].concat())
}

/// Records, ended by a TAIL that fills the block.
fn commit(transaction: u32, records: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = records.concat();
    let start = bytes.len();
    bytes.extend_from_slice(&record(8, &vec![0xaa; BLOCK - start - 4]));
    bytes[start + 4..start + 8].copy_from_slice(&transaction.to_le_bytes());
    let sum = crc32c(0, &bytes[..start + 8]);
    bytes[start + 8..start + 12].copy_from_slice(&sum.to_le_bytes());
    bytes
}

/// A journal with one transaction (7) in its log and these blocks of fast commits.
fn fast(blocks: &[Vec<u8>]) -> Journal {
    let mut journal = Journal::new((0, V3 | FAST));
    journal.transaction(&[(5, 1)]);
    journal.fast_commits(blocks);
    journal
}

#[test]
fn fast_commits_are_read_up_to_the_last_good_tail() {
    let first = commit(8, &[head(0, 8), name(4, 2, 12, b"one"), add_range(12, 3, 0x8002, 77)]);
    let mut second = commit(8, &[record(7, &[1; 30]), name(5, 2, 12, b"one"), name(3, 2, 13, b"two")]);
    let third = commit(8, &[name(4, 2, 14, b"three")]);
    let all = fast(&[first.clone(), second.clone(), third.clone()]).replay().unwrap();
    assert_eq!(all.notes[1], "replayed 5 fast-commit records of the journal");
    let changes = all.fast_commit;
    assert_eq!(changes.names(2).collect::<Vec<_>>(), [&b"one"[..], b"three", b"two"]);
    let lookup = |name: &str| changes.lookup(2, name.as_bytes(), None);
    assert_eq!((lookup("one"), lookup("two"), lookup("three")), (None, Some(13), Some(14)));
    let mut inode = vec![0; 256];
    inode[0x1a] = 1;
    let expected = RangeChange::Add { logical: 3, len: 2, physical: 77, unwritten: true };
    assert_eq!(changes.inode(12, &inode).unwrap().ranges, [expected]);

    second[40] ^= 1;
    let stopped = fast(&[first, second, third]).replay().unwrap();
    assert_eq!(stopped.fast_commit.names(2).collect::<Vec<_>>(), [b"one"]);
}

#[test]
fn fast_commits_of_another_transaction_do_not_count() {
    for (what, block) in [
        ("older", commit(7, &[head(0, 7), name(4, 2, 12, b"one")])),
        ("newer", commit(9, &[head(0, 9), name(4, 2, 12, b"one")])),
        ("no head", commit(8, &[name(4, 2, 12, b"one")])),
        ("nothing", vec![0; BLOCK]),
    ] {
        let replay = fast(&[block]).replay().unwrap();
        assert!(replay.fast_commit.is_empty() && replay.notes.len() == 1, "{what}");
    }
    let mut clean = fast(&[commit(8, &[head(0, 8), name(4, 2, 12, b"one")])]);
    clean.set(0x1c, 0);
    assert!(clean.replay().unwrap().fast_commit.is_empty(), "a clean journal");
}

/// The kernel's own area is too short by one for its own check; ours is read to the end.
#[test]
fn a_full_fast_commit_area_is_read() {
    let mut blocks = vec![commit(8, &[head(0, 8), name(4, 2, 100, b"0")])];
    blocks.extend((1..63u8).map(|index| commit(8, &[name(4, 2, 100 + u32::from(index), &[0x80 | index])])));
    assert_eq!(fast(&blocks).replay().unwrap().fast_commit.names(2).count(), 63);
}

#[test]
fn broken_fast_commits_are_corrupt_before_a_tail_and_the_end_behind_one() {
    let mut wrong_sum = commit(8, &[head(0, 8)]);
    wrong_sum[20] ^= 1;
    let inode = |len: usize| record(6, &vec![1; len]);
    let cases: Vec<(&str, u64, Vec<u8>)> = vec![
        ("fc_crc", 12 + 8, wrong_sum),
        ("fc_tid", 12 + 4, commit(9, &[head(0, 8)])),
        ("fc_tag", 12, [head(0, 8), record(10, &[])].concat()),
        ("fc_tag", 12, head(0, 8)),
        ("fc_len", 12 + 2, [head(0, 8), record(1, &[0; 15])].concat()),
        ("fc_len", 12 + 2, [head(0, 8), record(2, &[0; 13])].concat()),
        ("fc_len", 12 + 2, [head(0, 8), name(3, 2, 3, b"")].concat()),
        ("fc_len", 12 + 2, [head(0, 8), name(4, 2, 3, &[b'x'; 256])].concat()),
        ("fc_len", 12 + 2, [head(0, 8), inode(131)].concat()),
        ("fc_len", 12 + 2, [head(0, 8), inode(261)].concat()),
        ("fc_len", 12 + 2, [head(0, 8), record(8, &[0; 7])].concat()),
        ("fc_len", 12 + 2, [head(0, 8), 7u16.to_le_bytes().to_vec(), 1009u16.to_le_bytes().to_vec()].concat()),
    ];
    for (field, offset, block) in cases {
        let journal = fast(std::slice::from_ref(&block));
        assert_eq!(journal.corrupt(), (field, at(1101, 0) + offset), "{block:02x?}");
        let first = commit(8, &[head(0, 8), name(4, 2, 12, b"one")]);
        let replay = fast(&[first, block]).replay().unwrap();
        assert_eq!(replay.fast_commit.names(2).count(), 1);
    }
    let error = fast(&[commit(8, &[head(2, 8)])]).replay().unwrap_err();
    let ErrorKind::Unsupported { feature, .. } = error.kind() else { panic!("{error}") };
    assert_eq!(feature, "fast-commit feature 0x2");
}

#[test]
fn finished_fast_commits_must_stay_within_the_filesystem() {
    let delete =
        |logical: u32, len: u32| record(2, &[12u32.to_le_bytes(), logical.to_le_bytes(), len.to_le_bytes()].concat());
    let cases = [
        ("ee_start", 14, add_range(12, 0, 1, 100_000)),
        ("ee_start", 14, add_range(12, 0, 2, 99_999)),
        ("ee_start", 14, add_range(12, 0, 1, 1 << 40)),
        ("fc_lblk", 8, add_range(12, u32::MAX, 2, 5)),
        ("fc_lblk", 8, delete(2, u32::MAX)),
        ("fc_dname", 12, name(4, 2, 12, b"a/b")),
        ("fc_dname", 12, name(3, 2, 12, b"a\0b")),
        ("fc_dname", 12, name(5, 2, 12, b"..")),
    ];
    for (field, offset, broken) in cases {
        let journal = fast(&[commit(8, &[head(0, 8), broken.clone()])]);
        assert_eq!(journal.corrupt(), (field, at(1101, 12 + offset)));
        let unfinished = fast(&[commit(8, &[head(0, 8)]), broken]);
        assert!(unfinished.replay().unwrap().fast_commit.is_empty());
    }
    fast(&[commit(8, &[head(0, 8), delete(1, u32::MAX), add_range(12, 0, 1, 99_999)])]).replay().unwrap();
}

#[test]
fn fast_commits_are_limited() {
    let mut journal = Journal::new((0, FAST));
    let blocks = 17_000u32;
    journal.bytes.resize((1100 + 17_000) * BLOCK, 0);
    journal.set(0x10, 1100 + blocks);
    journal.set(0x54, blocks);
    journal.transaction(&[(5, 1)]);
    let mut filled = journal.clone();
    let records: Vec<Vec<u8>> = (0..60).map(|index| name(4, 2, 12, &[b'n', index])).collect();
    filled.fast_commits(&[commit(8, &[vec![head(0, 8)], records.clone()].concat())]);
    filled.fast_commits(&vec![commit(8, &[vec![head(0, 8)], records].concat()); 17_000 - 1]);
    let error = filled.replay().unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Limit { what: "fast-commit records", limit: 131_072, .. }), "{error}");
    journal.fast_commits(&vec![commit(8, &[head(0, 8)]); 17_000 - 1]);
    let error = journal.replay().unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Limit { what: "bytes of fast commits", .. }), "{error}");
}

#[test]
fn an_error_of_an_earlier_mount_is_told() {
    let mut journal = Journal::new((0, 0));
    journal.set(0x20, (-5i32) as u32);
    assert_eq!(journal.replay().unwrap().notes, ["the journal remembers error -5 of an earlier mount"]);
}
