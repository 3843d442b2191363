//! Recovery without a write: what ext4's journal (JBD2) would bring back, seen on top of the filesystem's blocks.
//!
//! A filesystem that was not unmounted is only whole together with its journal. The kernel copies the journal's blocks to
//! their places when it mounts; here a map from block to place in the journal is made ([`replay`]), and [`Replayed`] reads
//! through it. What a fast commit recorded is a change to an inode or a name and no block; [`FastCommit`] holds those.
//!
//! As in the kernel there are three passes: find the log's end (`scan`), learn which blocks are revoked, take the blocks
//! that are not. A block is taken from the last transaction that logged it, unless that or a later one revoked it.
//!
//! Damage is treated as the kernel treats it (Linux 6.18): where it refuses the mount, [`replay`] is a
//! [`Corrupt`](crate::ErrorKind) error with the byte in the journal; where it ends the log quietly, a note says so.

mod changes;
mod device;
mod fast_commit;
#[cfg(test)]
mod kernel_tests;
mod log;
mod scan;
mod superblock;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

pub(super) use changes::{FastCommit, RangeChange, RecoveredInode};
pub(super) use device::Replayed;

use crate::block::{BlockDevice, read_vec};
use crate::bytes::to_u64;
use crate::error::Result;
use log::Log;
use scan::{Scan, is_before};
use superblock::Superblock;

/// What recovery needs to know of the filesystem.
#[derive(Debug)]
pub(super) struct JournalInput<'a> {
    /// The journal file's content.
    pub journal: &'a dyn BlockDevice,
    /// Bytes of a block of the filesystem.
    pub block_size: u32,
    /// Blocks of the filesystem.
    pub blocks_count: u64,
    /// Bytes of an inode of the filesystem.
    pub inode_size: u32,
}

/// What must be seen on top of the filesystem's blocks.
#[derive(Debug, Default)]
pub(super) struct Replay {
    /// By block of the filesystem.
    pub blocks: BTreeMap<u64, JournalBlock>,
    /// Changes to inodes and names that are not in any block yet; they come after all of `blocks`.
    pub fast_commit: FastCommit,
    /// What was done, in sentences for the user; empty for a clean journal.
    pub notes: Vec<String>,
}

/// A block of the filesystem whose content is in the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct JournalBlock {
    /// Where the content lies in the journal.
    pub offset: u64,
    /// The transaction that logged it.
    pub transaction: u32,
    /// Whether the first four bytes are the journal's magic and were stored as zeroes.
    pub escaped: bool,
}

/// Reads the journal. The log of a clean one is empty.
pub(super) fn replay(input: &JournalInput<'_>) -> Result<Replay> {
    let head = read_vec(input.journal, 0, superblock::SIZE)?;
    let blocks = input.journal.size().checked_div(u64::from(input.block_size)).unwrap_or(0);
    let superblock = Superblock::parse(&head, input.block_size, blocks)?;
    let mut replay = Replay::default();
    if superblock.errno != 0 {
        let errno = crate::bytes::to_i32(superblock.errno);
        replay.notes.push(format!("the journal remembers error {errno} of an earlier mount"));
    }
    if superblock.start == 0 {
        return Ok(replay);
    }
    let log = Log { journal: input.journal, superblock };
    let scan = scan::scan(&log)?;
    let mut bytes = vec![0; log.block_size()];
    let blocks = last_logged(&log, &scan, &mut bytes)?;
    let revoked = last_revoked(&log, &scan, &blocks, &mut bytes)?;
    verify(&log, &scan, &revoked, input.blocks_count, &mut bytes)?;
    replay.blocks = blocks;
    replay.blocks.retain(|block, logged| !is_revoked(&revoked, *block, logged.transaction));

    let transactions = scan.end.wrapping_sub(log.superblock.sequence);
    if transactions > 0 {
        let transactions = counted(u64::from(transactions), "transaction");
        let blocks = counted(to_u64(replay.blocks.len()), "block");
        replay.notes.push(format!("replayed {transactions} of the journal ({blocks})"));
    }
    replay.notes.extend(scan.note);
    if log.superblock.fast_commit {
        let area = fast_commit::Area { log: &log, transaction: scan.end, input };
        let records = area.read()?;
        if !records.is_empty() {
            let records = counted(to_u64(records.len()), "fast-commit record");
            replay.notes.push(format!("replayed {records} of the journal"));
        }
        replay.fast_commit = FastCommit::new(records);
    }
    Ok(replay)
}

/// A number with its noun.
fn counted(count: u64, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// For each block in the log, where it was logged last.
fn last_logged(log: &Log<'_>, scan: &Scan, bytes: &mut [u8]) -> Result<BTreeMap<u64, JournalBlock>> {
    let mut blocks = BTreeMap::new();
    for entry in scan.entries.iter().filter(|entry| entry.describes) {
        let record = log.read(entry.block, bytes)?;
        for (index, tag) in log.tags(&record)?.into_iter().enumerate() {
            let offset = log.offset(log.after(entry.block, to_u64(index).saturating_add(1)));
            let block = JournalBlock { offset, transaction: entry.sequence, escaped: tag.escaped };
            blocks.insert(tag.block, block);
        }
    }
    Ok(blocks)
}

/// For each block in `logged` that is revoked, the last transaction that does so. Other blocks do not matter, and there
/// can be many.
fn last_revoked(
    log: &Log<'_>,
    scan: &Scan,
    logged: &BTreeMap<u64, JournalBlock>,
    bytes: &mut [u8],
) -> Result<BTreeMap<u64, u32>> {
    let mut revoked = BTreeMap::new();
    for entry in scan.entries.iter().filter(|entry| !entry.describes) {
        let record = log.read(entry.block, bytes)?;
        let blocks = log.revoked(&record)?;
        revoked
            .extend(blocks.into_iter().filter(|block| logged.contains_key(block)).map(|block| (block, entry.sequence)));
    }
    Ok(revoked)
}

/// Whether what `transaction` logged for `block` is void.
fn is_revoked(revoked: &BTreeMap<u64, u32>, block: u64, transaction: u32) -> bool {
    revoked.get(&block).is_some_and(|&by| !is_before(by, transaction))
}

/// Holds every data block that is not revoked against its checksum and the filesystem's size, also those that a later
/// transaction replaces: the kernel does.
fn verify(log: &Log<'_>, scan: &Scan, revoked: &BTreeMap<u64, u32>, blocks_count: u64, bytes: &mut [u8]) -> Result<()> {
    for entry in scan.entries.iter().filter(|entry| entry.describes) {
        let record = log.read(entry.block, bytes)?;
        let tags = log.tags(&record)?;
        let is_taken = |tag: &log::Tag| !is_revoked(revoked, tag.block, entry.sequence);
        if let Some(tag) = tags.iter().find(|tag| is_taken(tag) && tag.block >= blocks_count) {
            let expected = format!("a block below {blocks_count}");
            return Err(record.corrupt("t_blocknr", tag.at, tag.block, expected));
        }
        if !log.superblock.has_block_checksums() {
            continue;
        }
        log.read_data(log.after(entry.block, 1), to_u64(tags.len()), &mut |index, data| match tags.get(index) {
            Some(tag) if is_taken(tag) && !log.is_data_intact(tag, entry.sequence, data) => {
                let found = format!("{:#x}", tag.checksum);
                let expected = format!("the checksum of block {} in transaction {}", tag.block, entry.sequence);
                Err(record.corrupt("t_checksum", tag.at, found, expected))
            }
            _ => Ok(()),
        })?;
    }
    Ok(())
}
