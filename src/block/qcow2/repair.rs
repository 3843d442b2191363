//! Repair: counts are made to say what the references say, and the flag `COPIED` what the counts say.
//!
//! | what is wrong | how it is repaired |
//! |---|---|
//! | counts too low | raised, durably, before anything is lowered |
//! | counts too high (leaks) | lowered |
//! | used clusters that are not counted at all, refcount structures that cannot be trusted | a new refcount table and new blocks are written past the end of everything; then the header points to them |
//! | `COPIED` | set or cleared when the counts are durable |
//! | the marks "dirty" and "corrupt" | cleared when nothing is wrong any more |
//!
//! What an entry that leads nowhere once meant is not guessed: it stays, and stays a corruption. If it was to lead to a
//! table, nothing is lowered either: what looks leaked may be what that table refers to.

use std::sync::Arc;

use super::FORMAT;
use super::check::{Examined, copied_flags, examine};
use super::header::{AUTOCLEAR_AT, CORRUPT, DIRTY, INCOMPATIBLE_AT, RAW_DATA_FILE};
use super::refcounts::{Metadata, Refcounts, Width};
use crate::block::Findings;
use crate::block::writable::Resizable;
use crate::bytes::{to_u64, to_usize};
use crate::error::{Error, Result};
use crate::limits;

/// What is repaired.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Repair {
    /// Nothing: the image is only looked at.
    #[default]
    None,
    /// Leaked clusters become free.
    Leaks,
    /// All that can be.
    All,
}

/// The autoclear features that a repair, which changes no guest data, leaves true: bitmaps, raw data file.
const KEPT_AUTOCLEAR: u64 = 1 | RAW_DATA_FILE;

/// Repairs `file` and looks at it again: what was wrong before, and what is now.
pub(super) fn repair(file: &Arc<dyn Resizable>, what: Repair) -> Result<(Findings, Findings)> {
    let before = examine(&**file)?;
    let header = before.header.clone();
    let marked = header.incompatible & (DIRTY | CORRUPT) != 0;
    let all = what == Repair::All;
    let clean = before.findings.corruptions == 0 && before.findings.leaks == 0;
    if what == Repair::None || clean && !(marked && all) {
        return Ok((before.findings, before.findings));
    }
    if header.autoclear & !KEPT_AUTOCLEAR != 0 {
        file.write_all_at(&(header.autoclear & KEPT_AUTOCLEAR).to_be_bytes(), AUTOCLEAR_AT)?;
        file.flush()?;
    }
    let untrusted = before.rebuild || before.overflow;
    if all && untrusted && !before.hidden {
        rebuild(file, &before)?;
    } else if !untrusted {
        adjust(file, &before, all)?;
    }
    if all {
        copied(file)?;
    }
    let after = examine(&**file)?;
    if all && marked && after.findings.corruptions == 0 {
        let features = after.header.incompatible & !(DIRTY | CORRUPT);
        file.write_all_at(&features.to_be_bytes(), INCOMPATIBLE_AT)?;
        file.flush()?;
    }
    Ok((before.findings, after.findings))
}

/// Counts references again in an image that was not closed, whose counts may be behind.
pub(super) fn dirty(file: &Arc<dyn Resizable>) -> Result<()> {
    let (_, after) = repair(file, Repair::All)?;
    if after.corruptions == 0 {
        return Ok(());
    }
    let found = format!("{} corruptions after a repair", after.corruptions);
    Err(Error::corrupt(FORMAT, "incompatible_features", INCOMPATIBLE_AT, found, "an image that can be repaired"))
}

/// Sets counts in place, the higher ones first.
fn adjust(file: &Arc<dyn Resizable>, before: &Examined, all: bool) -> Result<()> {
    let mut counts = Refcounts::open(Arc::clone(file), &before.header, Metadata::default())?;
    let higher = before.differing.iter().filter(|(_, count, references)| count < references);
    let lower = before.differing.iter().filter(|(_, count, references)| count > references);
    if all {
        for &(cluster, _, references) in higher {
            counts.set(cluster, references)?;
        }
        counts.write_blocks()?;
        file.flush()?;
    }
    if before.hidden {
        return Ok(());
    }
    for &(cluster, _, references) in lower {
        counts.set(cluster, references)?;
    }
    counts.write_blocks()?;
    file.flush()
}

/// Writes all counts anew behind all that is in use, and lets the header point there last.
fn rebuild(file: &Arc<dyn Resizable>, before: &Examined) -> Result<()> {
    let header = &before.header;
    let (bits, size) = (header.cluster_bits, header.cluster_size());
    let width = Width::of(header);
    let block_bits = width.block_bits(bits);
    let mut counts = before.counts.clone();
    // The old structures are not in use any more.
    let old = header.refcount_table_offset.wrapping_shr(bits);
    for cluster in old..old.saturating_add(header.refcount_table_clusters.into()) {
        counts.take(cluster);
    }
    for entry in before.refcount_table.iter().filter(|&&entry| entry != 0) {
        counts.take(entry.wrapping_shr(bits));
    }
    let first = counts.clusters().max(file.size().div_ceil(size));
    let per_block = 1u64.wrapping_shl(block_bits);
    let used = |end: u64, counts: &super::counts::Counts| -> Vec<u64> {
        let blocks = end.div_ceil(per_block);
        let new = first.wrapping_shr(block_bits);
        (0..blocks)
            .filter(|number| {
                let start = number.wrapping_shl(block_bits);
                *number >= new || counts.any(start..start.saturating_add(per_block))
            })
            .collect()
    };
    // The more blocks and table there are, the more clusters must be counted.
    let (mut blocks, mut table) = (1u64, 1u64);
    let numbers = loop {
        let end = first.saturating_add(blocks).saturating_add(table);
        let entries = end.div_ceil(per_block);
        let needed = entries.saturating_mul(8).div_ceil(size);
        limits::check("refcount table bytes", needed.saturating_mul(size), limits::CHECK_REFCOUNT_TABLE_BYTES)?;
        let numbers = used(end, &counts);
        if to_u64(numbers.len()) <= blocks && needed <= table {
            break numbers;
        }
        (blocks, table) = (blocks.max(to_u64(numbers.len())), table.max(needed));
    };
    let end = first.saturating_add(blocks).saturating_add(table);
    file.resize(end.wrapping_shl(bits))?;
    let mut entries = vec![0u8; to_usize(table.saturating_mul(size))];
    for (index, number) in numbers.iter().enumerate() {
        let offset = first.saturating_add(to_u64(index)).wrapping_shl(bits);
        let start = number.wrapping_shl(block_bits);
        let mut block = vec![0u8; to_usize(size)];
        for within in 0..per_block {
            let cluster = start.saturating_add(within);
            let count = if (first..end).contains(&cluster) { 1 } else { counts.get(cluster) };
            if count > width.max() {
                return Err(Error::limit("references to a cluster", width.max(), count));
            }
            if count > 0 {
                width.set(&mut block, to_usize(within), count);
            }
        }
        file.write_all_at(&block, offset)?;
        let at = to_usize(number.saturating_mul(8));
        if let Some(entry) = entries.get_mut(at..).and_then(|rest| rest.first_chunk_mut::<8>()) {
            *entry = offset.to_be_bytes();
        }
    }
    let offset = first.saturating_add(blocks).wrapping_shl(bits);
    file.write_all_at(&entries, offset)?;
    file.flush()?;
    let mut fields = [0u8; 12];
    let (place, length) = fields.split_at_mut(8);
    place.copy_from_slice(&offset.to_be_bytes());
    length.copy_from_slice(&crate::bytes::low_u32(table).to_be_bytes());
    file.write_all_at(&fields, 48)?;
    file.flush()
}

/// Sets and clears the flag `COPIED`.
fn copied(file: &Arc<dyn Resizable>) -> Result<()> {
    let now = examine(&**file)?;
    copied_flags(&**file, &now.header, &now.refcount_table, &mut |position, entry| {
        file.write_all_at(&entry.to_be_bytes(), position)
    })?;
    file.flush()
}
