//! The fast-commit area: small changes since the last transaction, recorded without their blocks.
//!
//! It takes the journal's last s_num_fc_blks blocks but the first of them. Records follow each other without gaps, never
//! across blocks; integers are little-endian. Source: kernel.org, "Journal (jbd2)", "Fast commits", and what Linux 6.18
//! accepts.
//!
//! | offset | size | field | |
//! |---|---|---|---|
//! | 0 | 2 | fc_tag | below |
//! | 2 | 2 | fc_len | bytes of the value, which follows |
//!
//! | fc_tag | value | fc_len |
//! |---|---|---|
//! | 1 ADD_RANGE | fc_ino (4), extent: ee_block (4), ee_len (2), ee_start_hi (2), ee_start_lo (4) | 16 |
//! | 2 DEL_RANGE | fc_ino (4), fc_lblk (4), fc_len (4) | 12 |
//! | 3 CREAT, 4 LINK, 5 UNLINK | fc_parent_ino (4), fc_ino (4), name | 9 to 263 |
//! | 6 INODE | fc_ino (4), the inode's first bytes | 132 up to inode size + 4 |
//! | 7 PAD | nothing of meaning | any |
//! | 8 TAIL | fc_tid (4), fc_crc (4), padding | 8 or more |
//! | 9 HEAD | fc_features (4), fc_tid (4) | 8 |
//!
//! An ee_len above 32768 is an unwritten extent of ee_len - 32768 blocks. The area is in use when it begins with a HEAD
//! whose fc_tid is the transaction after the last one in the log. Each TAIL ends one commit: fc_tid is that transaction
//! and fc_crc the crc32c of all records since the TAIL before it, up to fc_tid. What follows the last good TAIL was never
//! finished and does not count.
//!
//! Refused, as by the kernel: features in HEAD; a HEAD for the right transaction without a good TAIL behind it.

use super::JournalInput;
use super::changes::{Change, Operation, RangeChange};
use super::log::Log;
use super::superblock::{FORMAT, crc32c};
use crate::bytes::{Record, join_u64, to_u64, to_usize};
use crate::error::{Error, Result};
use crate::limits;

const ADD_RANGE: u16 = 1;
const DEL_RANGE: u16 = 2;
const CREAT: u16 = 3;
const LINK: u16 = 4;
const UNLINK: u16 = 5;
const INODE: u16 = 6;
const PAD: u16 = 7;
const TAIL: u16 = 8;
const HEAD: u16 = 9;

/// Bytes of fc_tag and fc_len.
const TAG_BYTES: usize = 4;

/// The largest length of a written extent; what is above it counts unwritten blocks.
const WRITTEN_BLOCKS: u16 = 0x8000;

/// The fast-commit area of a journal.
#[derive(Debug)]
pub(super) struct Area<'a> {
    pub log: &'a Log<'a>,
    /// The transaction after the last one in the log.
    pub transaction: u32,
    pub input: &'a JournalInput<'a>,
}

/// The records so far.
#[derive(Debug, Default)]
struct Records {
    changes: Vec<Change>,
    /// How many of `changes` a good TAIL has confirmed.
    confirmed: usize,
    /// Good TAILs.
    commits: u32,
    /// The checksum since the last TAIL.
    crc: u32,
}

/// Whether records go on.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Record,
    Stop,
}

impl Area<'_> {
    /// The changes of all finished fast commits, in their order.
    pub(super) fn read(&self) -> Result<Vec<Change>> {
        let superblock = &self.log.superblock;
        let mut records = Records::default();
        let mut bytes = vec![0; self.log.block_size()];
        let first = superblock.end.saturating_add(1);
        for block in first..superblock.length {
            let read = u64::from(block.saturating_sub(first)).saturating_mul(u64::from(superblock.block_size));
            limits::check("bytes of fast commits", read, limits::FAST_COMMIT_BYTES)?;
            let record = self.log.read(block, &mut bytes)?;
            if block == first && record.le16(0)? != HEAD {
                break;
            }
            if self.block(&record, &mut records)? == Next::Stop {
                break;
            }
        }
        records.changes.truncate(records.confirmed);
        records.changes.iter().try_for_each(|change| change.check(self.input.blocks_count))?;
        Ok(records.changes)
    }

    /// Takes the records of one block.
    fn block(&self, block: &Record<'_>, records: &mut Records) -> Result<Next> {
        let mut at = 0usize;
        while at.saturating_add(TAG_BYTES) <= block.len() {
            let (tag, len) = (block.le16(at)?, usize::from(block.le16(at.saturating_add(2))?));
            let whole = TAG_BYTES.saturating_add(len);
            let Ok(record) = block.sub(at, whole) else {
                let expected = format!("at most {} bytes", block.len().saturating_sub(at).saturating_sub(TAG_BYTES));
                return records.end(|| block.corrupt("fc_len", at.saturating_add(2), len, expected));
            };
            match self.record(tag, &record, records)? {
                Next::Record => at = at.saturating_add(whole),
                Next::Stop => return Ok(Next::Stop),
            }
        }
        Ok(Next::Record)
    }

    fn record(&self, tag: u16, record: &Record<'_>, records: &mut Records) -> Result<Next> {
        let len = record.len().saturating_sub(TAG_BYTES);
        let longest = to_usize(u64::from(self.input.inode_size)).saturating_add(4);
        let expected = match tag {
            ADD_RANGE => 16..=16,
            DEL_RANGE => 12..=12,
            CREAT | LINK | UNLINK => 9..=263,
            INODE => 132..=longest,
            PAD => 0..=usize::MAX,
            TAIL => 8..=usize::MAX,
            HEAD => 8..=8,
            _ => return records.end(|| record.corrupt("fc_tag", 0, tag, "1 to 9")),
        };
        if !expected.contains(&len) {
            let expected = format!("{} to {} bytes", expected.start(), expected.end());
            return records.end(|| record.corrupt("fc_len", 2, len, expected));
        }
        match tag {
            TAIL => return self.tail(record, records),
            HEAD => {
                let features = record.le32(4)?;
                if features != 0 {
                    return Err(Error::unsupported(FORMAT, format!("fast-commit feature {features:#x}")));
                }
                if record.le32(8)? != self.transaction {
                    return Ok(Next::Stop);
                }
            }
            PAD => {}
            _ => {
                records.changes.push(change(tag, record)?);
                limits::check("fast-commit records", to_u64(records.changes.len()), limits::FAST_COMMIT_RECORDS)?;
            }
        }
        records.crc = crc32c(records.crc, record.bytes);
        Ok(Next::Record)
    }

    fn tail(&self, record: &Record<'_>, records: &mut Records) -> Result<Next> {
        let (transaction, stored) = (record.le32(4)?, record.le32(8)?);
        let computed = crc32c(records.crc, record.slice(0, 8)?);
        if transaction != self.transaction {
            return records.end(|| record.corrupt("fc_tid", 4, transaction, self.transaction));
        }
        if stored != computed {
            return records.end(|| record.corrupt("fc_crc", 8, format!("{stored:#010x}"), format!("{computed:#010x}")));
        }
        records.confirmed = records.changes.len();
        records.commits = records.commits.saturating_add(1);
        records.crc = 0;
        Ok(Next::Record)
    }
}

impl Records {
    /// The end at something that is no record: quiet behind a finished commit, else an error.
    fn end(&self, error: impl FnOnce() -> Error) -> Result<Next> {
        if self.commits > 0 { Ok(Next::Stop) } else { Err(error()) }
    }
}

/// The change that a record of a checked length describes.
fn change(tag: u16, record: &Record<'_>) -> Result<Change> {
    let first = record.le32(4)?;
    let name = || -> Result<(u32, Vec<u8>)> {
        Ok((record.le32(8)?, record.slice(12, record.len().saturating_sub(12))?.to_vec()))
    };
    let (inode, operation) = match tag {
        ADD_RANGE => {
            let (len, high) = (record.le16(12)?, record.le16(14)?);
            let unwritten = len > WRITTEN_BLOCKS;
            let len = u32::from(if unwritten { len.saturating_sub(WRITTEN_BLOCKS) } else { len });
            let physical = join_u64(u32::from(high), record.le32(16)?);
            (first, Operation::Range(RangeChange::Add { logical: record.le32(8)?, len, physical, unwritten }))
        }
        DEL_RANGE => (first, Operation::Range(RangeChange::Delete { logical: record.le32(8)?, len: record.le32(12)? })),
        INODE => (first, Operation::Write(record.slice(8, record.len().saturating_sub(8))?.to_vec())),
        CREAT => name().map(|(inode, name)| (inode, Operation::Create { parent: first, name }))?,
        LINK => name().map(|(inode, name)| (inode, Operation::Link { parent: first, name }))?,
        _ => name().map(|(inode, name)| (inode, Operation::Unlink { parent: first, name }))?,
    };
    Ok(Change { offset: record.offset, inode, operation })
}
