//! The journal superblock: the first 1024 bytes of the journal, all integers big-endian.
//!
//! Source: kernel.org, "ext4 Data Structures and Algorithms", section "Journal (jbd2)", "Super Block".
//!
//! | offset | size | field | accepted |
//! |---|---|---|---|
//! | 0x00 | 4 | h_magic | 0xc03b3998 |
//! | 0x04 | 4 | h_blocktype | 3 (version 1, no features), 4 (version 2) |
//! | 0x0c | 4 | s_blocksize | the filesystem's block size |
//! | 0x10 | 4 | s_maxlen | blocks of the journal: 1024 up to what the journal holds |
//! | 0x14 | 4 | s_first | first block of the log: 1 or more, and 1024 blocks follow it |
//! | 0x18 | 4 | s_sequence | transaction expected at s_start |
//! | 0x1c | 4 | s_start | block where the log begins; 0 for a clean journal |
//! | 0x20 | 4 | s_errno | error of an earlier mount |
//! | 0x24 | 4 | s_feature_compat | 1: checksum (version 1) |
//! | 0x28 | 4 | s_feature_incompat | 1 revoke, 2 64bit, 4 async_commit, 8 csum_v2, 0x10 csum_v3, 0x20 fast_commit |
//! | 0x2c | 4 | s_feature_ro_compat | 0 |
//! | 0x30 | 16 | s_uuid | seeds the checksums of the log |
//! | 0x50 | 1 | s_checksum_type | 4 (crc32c) with csum_v2 or csum_v3 |
//! | 0x54 | 4 | s_num_fc_blks | blocks of the fast-commit area at the journal's end; 0 means 256 |
//! | 0xfc | 4 | s_checksum | crc32c of these 1024 bytes with this field zero, with csum_v2 or csum_v3 |
//!
//! Refused as the kernel refuses them: unknown incompatible or read-only features, two kinds of checksums at once, a
//! wrong checksum, a log outside the journal.

use crate::bytes::Record;
use crate::error::{Error, Result};

/// The format's name in errors.
pub(super) const FORMAT: &str = "jbd2";

/// Bytes of the superblock.
pub(super) const SIZE: usize = 1024;

/// The first four bytes of every block of the log that is not data.
pub(super) const MAGIC: u32 = 0xc03b_3998;

const VERSION_1: u32 = 3;
const VERSION_2: u32 = 4;

/// The shortest journal that the kernel accepts, in blocks.
const MIN_BLOCKS: u32 = 1024;

const DEFAULT_FAST_COMMIT_BLOCKS: u32 = 256;

const CRC32C: u8 = 4;

const COMPAT_CHECKSUM: u32 = 1;
const INCOMPAT_REVOKE: u32 = 1;
const INCOMPAT_64BIT: u32 = 2;
const INCOMPAT_ASYNC_COMMIT: u32 = 4;
const INCOMPAT_CSUM_V2: u32 = 8;
const INCOMPAT_CSUM_V3: u32 = 0x10;
const INCOMPAT_FAST_COMMIT: u32 = 0x20;
const INCOMPAT_KNOWN: u32 = INCOMPAT_REVOKE
    | INCOMPAT_64BIT
    | INCOMPAT_ASYNC_COMMIT
    | INCOMPAT_CSUM_V2
    | INCOMPAT_CSUM_V3
    | INCOMPAT_FAST_COMMIT;

/// How the log is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Checksum {
    /// Not at all.
    None,
    /// "checksum": the commit block holds a CRC-32 of the transaction's descriptors and data.
    V1,
    /// "csum_v2": crc32c in every block of the log, 16 bits of it for each data block.
    V2,
    /// "csum_v3": the same with 32 bits for each data block.
    V3,
}

/// What recovery needs of the journal superblock.
#[derive(Debug, Clone)]
pub(super) struct Superblock {
    /// Bytes of a block.
    pub block_size: u32,
    /// First block of the log.
    pub first: u32,
    /// The block after the log; the fast-commit area begins one after it.
    pub end: u32,
    /// Blocks of the journal.
    pub length: u32,
    /// The transaction expected at `start`.
    pub sequence: u32,
    /// Where the log begins; 0 for a clean journal.
    pub start: u32,
    /// The error that an earlier mount left behind.
    pub errno: u32,
    /// Whether block numbers have 64 bits.
    pub wide: bool,
    /// Whether a commit block may reach the disk before what it commits.
    pub async_commit: bool,
    /// How the log is protected.
    pub checksum: Checksum,
    /// Whether there is a fast-commit area.
    pub fast_commit: bool,
    /// The crc32c of s_uuid, from which checksums of the log start.
    pub seed: u32,
}

/// The crc32c of `bytes`, continued from `seed`, without the customary inversions at both ends; the kernel's convention.
pub(super) fn crc32c(seed: u32, bytes: &[u8]) -> u32 {
    !crc32c::crc32c_append(!seed, bytes)
}

impl Superblock {
    /// Reads the superblock of a journal that holds `blocks` blocks of `block_size` bytes.
    pub(super) fn parse(bytes: &[u8], block_size: u32, blocks: u64) -> Result<Self> {
        let record = Record::new(FORMAT, bytes, 0);
        let magic = record.be32(0x00)?;
        if magic != MAGIC {
            return Err(record.corrupt("h_magic", 0x00, format!("{magic:#x}"), format!("{MAGIC:#x}")));
        }
        let version = record.be32(0x04)?;
        if version != VERSION_1 && version != VERSION_2 {
            return Err(record.corrupt("h_blocktype", 0x04, version, "3 or 4"));
        }
        let found = record.be32(0x0c)?;
        if found != block_size {
            return Err(record.corrupt("s_blocksize", 0x0c, found, format!("{block_size}, as in the filesystem")));
        }
        let (compat, incompat) = if version == VERSION_2 { features(&record)? } else { (0, 0) };
        let checksum = checksum(&record, compat, incompat)?;
        let fast_commit = incompat & INCOMPAT_FAST_COMMIT != 0;
        let fast_commit_blocks = match (fast_commit, record.be32(0x54)?) {
            (false, _) => 0,
            (true, 0) => DEFAULT_FAST_COMMIT_BLOCKS,
            (true, blocks) => blocks,
        };

        let length = record.be32(0x10)?;
        if u64::from(length) > blocks {
            return Err(record.corrupt("s_maxlen", 0x10, length, format!("at most {blocks} blocks")));
        }
        let end = match length.checked_sub(fast_commit_blocks) {
            Some(end) if end >= MIN_BLOCKS => end,
            _ if fast_commit => {
                let expected = format!("at most {length} - {MIN_BLOCKS} blocks");
                return Err(record.corrupt("s_num_fc_blks", 0x54, fast_commit_blocks, expected));
            }
            _ => return Err(record.corrupt("s_maxlen", 0x10, length, format!("at least {MIN_BLOCKS} blocks"))),
        };
        let first = record.be32(0x14)?;
        let blocks = length.saturating_sub(first).saturating_add(1);
        if first == 0 || blocks < MIN_BLOCKS || first >= end {
            let expected = format!("1 or more, with {MIN_BLOCKS} blocks behind it");
            return Err(record.corrupt("s_first", 0x14, first, expected));
        }
        let start = record.be32(0x1c)?;
        if start != 0 && !(first..end).contains(&start) {
            return Err(record.corrupt("s_start", 0x1c, start, format!("0 or a block of the log, {first} to {end}")));
        }
        Ok(Self {
            block_size,
            first,
            end,
            length,
            sequence: record.be32(0x18)?,
            start,
            errno: record.be32(0x20)?,
            wide: incompat & INCOMPAT_64BIT != 0,
            async_commit: incompat & INCOMPAT_ASYNC_COMMIT != 0,
            checksum,
            fast_commit,
            seed: crc32c(!0, record.slice(0x30, 16)?),
        })
    }

    /// Whether descriptor, revoke and commit blocks hold checksums of their own.
    pub(super) fn has_block_checksums(&self) -> bool {
        matches!(self.checksum, Checksum::V2 | Checksum::V3)
    }
}

/// The compatible and incompatible features of a version 2 superblock.
fn features(record: &Record<'_>) -> Result<(u32, u32)> {
    let (compat, incompat, ro_compat) = (record.be32(0x24)?, record.be32(0x28)?, record.be32(0x2c)?);
    if incompat & !INCOMPAT_KNOWN != 0 {
        return Err(Error::unsupported(FORMAT, format!("incompatible feature {:#x}", incompat & !INCOMPAT_KNOWN)));
    }
    if ro_compat != 0 {
        return Err(Error::unsupported(FORMAT, format!("read-only compatible feature {ro_compat:#x}")));
    }
    Ok((compat, incompat))
}

/// Which checksums the features ask for, after verifying the superblock's own.
fn checksum(record: &Record<'_>, compat: u32, incompat: u32) -> Result<Checksum> {
    let kind = match (compat & COMPAT_CHECKSUM, incompat & INCOMPAT_CSUM_V2, incompat & INCOMPAT_CSUM_V3) {
        (0, 0, 0) => return Ok(Checksum::None),
        (_, 0, 0) => return Ok(Checksum::V1),
        (0, _, 0) => Checksum::V2,
        (0, 0, _) => Checksum::V3,
        (0, _, _) => {
            return Err(record.corrupt("s_feature_incompat", 0x28, format!("{incompat:#x}"), "csum_v2 or csum_v3"));
        }
        _ => {
            let expected = "no checksum of version 1 beside csum_v2 or csum_v3";
            return Err(record.corrupt("s_feature_compat", 0x24, format!("{compat:#x}"), expected));
        }
    };
    let algorithm = record.u8(0x50)?;
    if algorithm != CRC32C {
        return Err(record.corrupt("s_checksum_type", 0x50, algorithm, "4 (crc32c)"));
    }
    let stored = record.be32(0xfc)?;
    let before = crc32c(!0, record.slice(0, 0xfc)?);
    let computed = crc32c(crc32c(before, &[0; 4]), record.slice(0x100, SIZE.saturating_sub(0x100))?);
    if stored != computed {
        return Err(record.corrupt("s_checksum", 0xfc, format!("{stored:#010x}"), format!("{computed:#010x}")));
    }
    Ok(kind)
}
