//! The log: a ring of blocks from s_first to the end of the journal (or of what the fast-commit area leaves of it).
//!
//! A transaction is any number of descriptor blocks, each followed by the data blocks it describes, and of revoke blocks,
//! ended by one commit block. All integers are big-endian. Source: kernel.org, "Journal (jbd2)".
//!
//! Every block but data begins with this header:
//!
//! | offset | size | field | |
//! |---|---|---|---|
//! | 0x0 | 4 | h_magic | 0xc03b3998 |
//! | 0x4 | 4 | h_blocktype | 1 descriptor, 2 commit, 5 revoke |
//! | 0x8 | 4 | h_sequence | the transaction |
//!
//! A descriptor block holds tags from 0xc on, each followed by 16 bytes of UUID unless it says SAME_UUID (2), up to the one
//! that says LAST_TAG (8). ESCAPE (1): the data block began with the magic, which is stored as zeroes. DELETED (4) is
//! written by nobody. With csum_v2 and csum_v3 the last four bytes of descriptor and revoke blocks are t_checksum.
//!
//! | tag | without csum_v3 | with csum_v3 |
//! |---|---|---|
//! | t_blocknr | 0x0, 4 | 0x0, 4 |
//! | t_checksum | 0x4, 2 (csum_v2: low half) | 0xc, 4 |
//! | t_flags | 0x6, 2 | 0x4, 4 |
//! | t_blocknr_high | 0x8, 4 with 64bit | 0x8, 4 with 64bit |
//! | bytes in all | 8, with 64bit 12; csum_v2 adds 2 | 16 |
//!
//! A revoke block holds r_count (bytes used, header included) at 0xc and block numbers of 4 bytes, with 64bit 8, from 0x10.
//!
//! A commit block: h_chksum_type (0xc, 1), h_chksum_size (0xd, 1), h_chksum (0x10, 4), h_commit_sec (0x30, 8). The fields
//! end at 0x40; the checksum of csum_v2 and csum_v3 covers the whole block.

use super::superblock::{Checksum, FORMAT, MAGIC, Superblock, crc32c};
use crate::block::BlockDevice;
use crate::bytes::{Record, join_u64, low_u16, low_u32, to_u64, to_usize};
use crate::error::Result;

pub(super) const DESCRIPTOR: u32 = 1;
pub(super) const COMMIT: u32 = 2;
pub(super) const REVOKE: u32 = 5;

const FLAG_ESCAPE: u16 = 1;
const FLAG_SAME_UUID: u16 = 2;
const FLAG_LAST_TAG: u16 = 8;

/// Bytes of a commit block's fields.
const COMMIT_FIELDS: usize = 0x40;

/// Bytes read at once when data blocks are verified.
const CHUNK: u64 = 256 << 10;

/// The log of one journal.
#[derive(Debug)]
pub(super) struct Log<'a> {
    pub journal: &'a dyn BlockDevice,
    pub superblock: Superblock,
}

/// One tag of a descriptor block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tag {
    /// Where it lies in the descriptor block.
    pub at: usize,
    /// The block of the filesystem that the data belongs to.
    pub block: u64,
    /// Whether the first four bytes were the magic.
    pub escaped: bool,
    /// t_checksum, with as many bits as the format has.
    pub checksum: u32,
}

/// The fields of a commit block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Commit {
    pub checksum_type: u8,
    pub checksum_size: u8,
    pub checksum: u32,
    /// Seconds since 1970.
    pub time: u64,
}

/// Type and transaction of a block, when it begins with the magic.
pub(super) fn header(record: &Record<'_>) -> Result<Option<(u32, u32)>> {
    if record.be32(0)? != MAGIC {
        return Ok(None);
    }
    Ok(Some((record.be32(4)?, record.be32(8)?)))
}

impl Log<'_> {
    /// Blocks of the ring.
    pub(super) fn len(&self) -> u32 {
        self.superblock.end.saturating_sub(self.superblock.first)
    }

    /// Bytes of a block.
    pub(super) fn block_size(&self) -> usize {
        to_usize(u64::from(self.superblock.block_size))
    }

    /// Where a block lies in the journal.
    pub(super) fn offset(&self, block: u32) -> u64 {
        u64::from(block).saturating_mul(u64::from(self.superblock.block_size))
    }

    /// The block `count` after `block` on the ring.
    pub(super) fn after(&self, block: u32, count: u64) -> u32 {
        let first = u64::from(self.superblock.first);
        let ahead = u64::from(block).saturating_sub(first).saturating_add(count);
        let wrapped = ahead.checked_rem(u64::from(self.len())).unwrap_or(0);
        low_u32(first.saturating_add(wrapped))
    }

    /// Reads one block into `bytes`, which is as long as a block.
    pub(super) fn read<'b>(&self, block: u32, bytes: &'b mut [u8]) -> Result<Record<'b>> {
        let offset = self.offset(block);
        self.journal.read_exact_at(bytes, offset)?;
        Ok(Record::new(FORMAT, bytes, offset))
    }

    /// Calls `visit` with number and content of each of the `count` blocks that begin at `block`.
    pub(super) fn read_data(
        &self,
        block: u32,
        count: u64,
        visit: &mut dyn FnMut(usize, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let at_once = CHUNK.checked_div(u64::from(self.superblock.block_size)).unwrap_or(0).max(1);
        let mut buffer = Vec::new();
        let mut done = 0u64;
        while done < count {
            let at = self.after(block, done);
            let run = count.saturating_sub(done).min(at_once).min(u64::from(self.superblock.end.saturating_sub(at)));
            buffer.resize(to_usize(run).saturating_mul(self.block_size()), 0);
            self.journal.read_exact_at(&mut buffer, self.offset(at))?;
            for (index, bytes) in buffer.chunks_exact(self.block_size()).enumerate() {
                visit(to_usize(done).saturating_add(index), bytes)?;
            }
            done = done.saturating_add(run.max(1));
        }
        Ok(())
    }

    /// The tags of a descriptor block.
    pub(super) fn tags(&self, record: &Record<'_>) -> Result<Vec<Tag>> {
        let Superblock { checksum, wide, .. } = self.superblock;
        let bytes = match (checksum, wide) {
            (Checksum::V3, _) => 16,
            (Checksum::V2, true) => 14,
            (Checksum::V2, false) => 10,
            (_, true) => 12,
            (_, false) => 8,
        };
        let end = self.end_of_entries();
        let mut tags = Vec::new();
        let mut at = 0xcusize;
        while at.saturating_add(bytes) <= end {
            let tag = record.sub(at, bytes)?;
            let flags = tag.be16(6)?;
            let high = if wide { tag.be32(8)? } else { 0 };
            let sum = if checksum == Checksum::V3 { tag.be32(0xc)? } else { u32::from(tag.be16(4)?) };
            let block = join_u64(high, tag.be32(0)?);
            tags.push(Tag { at, block, escaped: flags & FLAG_ESCAPE != 0, checksum: sum });
            at = at.saturating_add(bytes);
            if flags & FLAG_SAME_UUID == 0 {
                at = at.saturating_add(16);
            }
            if flags & FLAG_LAST_TAG != 0 {
                break;
            }
        }
        Ok(tags)
    }

    /// The block numbers in a revoke block.
    pub(super) fn revoked(&self, record: &Record<'_>) -> Result<Vec<u64>> {
        let used = record.be32(0xc)?;
        let end = self.end_of_entries();
        if u64::from(used) > to_u64(end) {
            return Err(record.corrupt("r_count", 0xc, used, format!("at most {end} bytes")));
        }
        let entries = record.bytes.get(0x10..to_usize(u64::from(used))).unwrap_or_default();
        let entries = Record::new(FORMAT, entries, record.position(0x10));
        let size = if self.superblock.wide { 8 } else { 4 };
        let count = entries.len().checked_div(size).unwrap_or(0);
        (0..count)
            .map(|index| {
                let at = index.saturating_mul(size);
                if self.superblock.wide { entries.be64(at) } else { entries.be32(at).map(u64::from) }
            })
            .collect()
    }

    /// Where tags and revoked block numbers end: at the checksum, if there is one.
    fn end_of_entries(&self) -> usize {
        self.block_size().saturating_sub(if self.superblock.has_block_checksums() { 4 } else { 0 })
    }

    /// The fields of a commit block.
    pub(super) fn commit(&self, record: &Record<'_>) -> Result<Commit> {
        Ok(Commit {
            checksum_type: record.u8(0xc)?,
            checksum_size: record.u8(0xd)?,
            checksum: record.be32(0x10)?,
            time: record.be64(0x30)?,
        })
    }

    /// Whether a descriptor or revoke block has the right checksum in its last four bytes, or needs none.
    pub(super) fn is_entries_block_intact(&self, record: &Record<'_>) -> Result<bool> {
        let at = self.end_of_entries();
        Ok(!self.superblock.has_block_checksums() || record.be32(at)? == self.checksum_without(record.bytes, at))
    }

    /// Whether a commit block has the right checksum, or needs none. A block of which only the first sectors reached the
    /// disk counts as right when its fields do: nothing is stored behind them.
    pub(super) fn is_commit_block_intact(&self, record: &Record<'_>) -> Result<bool> {
        if !self.superblock.has_block_checksums() {
            return Ok(true);
        }
        let stored = record.be32(0x10)?;
        if stored == self.checksum_without(record.bytes, 0x10) {
            return Ok(true);
        }
        let mut fields = record.slice(0, COMMIT_FIELDS)?.to_vec();
        fields.resize(self.block_size(), 0);
        Ok(stored == self.checksum_without(&fields, 0x10))
    }

    /// Whether `data` is what `tag` of transaction `sequence` describes, as far as checksums tell.
    pub(super) fn is_data_intact(&self, tag: &Tag, sequence: u32, data: &[u8]) -> bool {
        let sum = || crc32c(crc32c(self.superblock.seed, &sequence.to_be_bytes()), data);
        match self.superblock.checksum {
            Checksum::None | Checksum::V1 => true,
            Checksum::V2 => tag.checksum == u32::from(low_u16(sum())),
            Checksum::V3 => tag.checksum == sum(),
        }
    }

    /// The crc32c of a block of the log, its four bytes at `at` taken as zero.
    fn checksum_without(&self, block: &[u8], at: usize) -> u32 {
        let before = crc32c(self.superblock.seed, block.get(..at).unwrap_or_default());
        let rest = block.get(at.saturating_add(4)..).unwrap_or_default();
        crc32c(crc32c(before, &[0; 4]), rest)
    }
}
