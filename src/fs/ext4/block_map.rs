//! From a file's blocks to the filesystem's blocks: extent trees, and the direct and indirect map of ext2 and ext3.
//!
//! Nothing is loaded ahead: each question walks from the root, so a file with a million extents costs no memory, and a
//! hostile tree can make one question slow by its depth (at most 5) and no more.
//!
//! | node | offset | size | field |
//! |---|---|---|---|
//! | header | 0 | 2 | eh_magic = 0xf30a |
//! | | 2 | 2 | eh_entries ≤ eh_max |
//! | | 4 | 2 | eh_max ≤ what fits |
//! | | 6 | 2 | eh_depth: one less than the parent's, 5 at most |
//! | index | 0 | 4 | ei_block |
//! | | 4, 8 | 4+2 | ei_leaf |
//! | extent | 0 | 4 | ee_block |
//! | | 4 | 2 | ee_len; above 32768: unwritten, less 32768 |
//! | | 6, 8 | 2+4 | ee_start |
//! | tail | end | 4 | eb_checksum, crc32c over the node, with metadata_csum |
//!
//! Source: kernel documentation, sections "Extent Tree" and "Direct/Indirect Block Addressing".

use super::Ext4;
use super::checksum::extend;
use super::inode::{FLAG_EXTENTS, RawInode};
use super::journal::RangeChange;
use crate::block::read_vec;
use crate::bytes::{Record, div_rem, join_u64, to_u64, to_usize};
use crate::error::Result;
use std::sync::Arc;

const MAX_DEPTH: u16 = 5;
const UNWRITTEN: u16 = 32_768;
const ENTRY: usize = 12;

/// A run of a file's blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mapping {
    /// The first block on the filesystem; `None` for a hole.
    pub physical: Option<u64>,
    /// Allocated but never written: reads as zeroes.
    pub unwritten: bool,
    /// Blocks, at least 1.
    pub len: u64,
}

impl Mapping {
    fn hole(len: u64) -> Self {
        Self { physical: None, unwritten: false, len: len.max(1) }
    }
}

impl Ext4 {
    /// The run that begins at the file's block `logical`. What fast commits changed wins over the tree.
    pub(super) fn map_block(&self, inode: &RawInode, logical: u64) -> Result<Mapping> {
        let next = inode.ranges.partition_point(|change| change.end() <= logical);
        let Some(change) = inode.ranges.get(next) else { return self.map_on_disk(inode, logical) };
        let start = u64::from(change.logical());
        let Some(within) = logical.checked_sub(start) else {
            let mut mapping = self.map_on_disk(inode, logical)?;
            mapping.len = mapping.len.min(start.saturating_sub(logical));
            return Ok(mapping);
        };
        let len = change.end().saturating_sub(logical);
        Ok(match *change {
            RangeChange::Add { physical, unwritten, .. } => {
                Mapping { physical: Some(physical.saturating_add(within)), unwritten, len }
            }
            RangeChange::Delete { .. } => Mapping::hole(len),
        })
    }

    fn map_on_disk(&self, inode: &RawInode, logical: u64) -> Result<Mapping> {
        if inode.has(FLAG_EXTENTS)? { self.map_extent(inode, logical) } else { self.map_indirect(inode, logical) }
    }

    fn map_extent(&self, inode: &RawInode, logical: u64) -> Result<Mapping> {
        let root = inode.record().sub(0x28, 60)?;
        let mut depth = node_depth(&root, None)?;
        // Blocks before the next sibling's first one, on every level passed: how long a hole can be.
        let Some(mut until) = (1u64 << 32).checked_sub(logical).filter(|blocks| *blocks > 0) else {
            // Extents count blocks with 32 bits: what i_size says beyond is one hole.
            return Ok(Mapping::hole(u64::MAX));
        };
        let mut node: Arc<[u8]> = Arc::from(root.bytes);
        let mut offset = root.offset;
        loop {
            let record = Record::new("ext4", &node, offset);
            let at = match last_at_or_before(&record, logical)? {
                Search::Before(first) => return Ok(Mapping::hole(until.min(first.saturating_sub(logical)))),
                Search::At { entry, next } => {
                    if let Some(next) = next {
                        until = until.min(next.saturating_sub(logical));
                    }
                    entry
                }
                Search::Empty => return Ok(Mapping::hole(until)),
            };
            if depth == 0 {
                return self.leaf_mapping(&record, at, logical, until);
            }
            let child = join_u64(u32::from(record.le16(at.saturating_add(8))?), record.le32(at.saturating_add(4))?);
            offset = self.superblock.block_offset(child, "ei_leaf", record.position(at))?;
            node = self.extent_node(inode, child, offset)?;
            depth = node_depth(&Record::new("ext4", &node, offset), Some(depth))?;
        }
    }

    fn leaf_mapping(&self, record: &Record<'_>, at: usize, logical: u64, until: u64) -> Result<Mapping> {
        let first = u64::from(record.le32(at)?);
        let raw_len = record.le16(at.saturating_add(4))?;
        let (len, unwritten) =
            if raw_len > UNWRITTEN { (raw_len.saturating_sub(UNWRITTEN), true) } else { (raw_len, false) };
        if len == 0 {
            return Err(record.corrupt("ee_len", at.saturating_add(4), 0, "at least 1"));
        }
        let start = join_u64(u32::from(record.le16(at.saturating_add(6))?), record.le32(at.saturating_add(8))?);
        let within = logical.saturating_sub(first);
        let Some(left) = u64::from(len).checked_sub(within).filter(|left| *left > 0) else {
            return Ok(Mapping::hole(until));
        };
        let end = start.saturating_add(u64::from(len));
        if end > self.superblock.blocks_count {
            let found = format!("blocks {start} to {end}");
            return Err(record.corrupt(
                "ee_start",
                at.saturating_add(8),
                found,
                format!("below {}", self.superblock.blocks_count),
            ));
        }
        Ok(Mapping { physical: Some(start.saturating_add(within)), unwritten, len: left.min(until) })
    }

    /// A node that is a block of its own, read and checked once and then kept.
    fn extent_node(&self, inode: &RawInode, block: u64, offset: u64) -> Result<Arc<[u8]>> {
        self.extent_nodes.get_or_read((inode.number, block), || {
            let bytes = read_vec(&self.metadata, offset, to_usize(u64::from(self.superblock.block_size)))?;
            let record = Record::new("ext4", &bytes, offset);
            let max = node_max(&record)?;
            if self.superblock.features.metadata_csum() {
                let tail = usize::from(max).saturating_add(1).saturating_mul(ENTRY);
                let (stored, computed) = (record.le32(tail)?, extend(inode.checksum_seed, record.slice(0, tail)?));
                if stored != computed {
                    return Err(record.corrupt("eb_checksum", tail, format!("{stored:#x}"), format!("{computed:#x}")));
                }
            }
            Ok(Arc::from(bytes))
        })
    }

    /// ext2 and ext3: 12 direct blocks, then blocks of block numbers, one, two and three levels deep.
    fn map_indirect(&self, inode: &RawInode, logical: u64) -> Result<Mapping> {
        let root = inode.record().sub(0x28, 60)?;
        let per_block = u64::from(self.superblock.block_size / 4);
        if logical < 12 {
            return self.pointer_run(&root, logical, 12);
        }
        let mut index = logical.saturating_sub(12);
        let mut span = per_block;
        for (level, slot) in [(1u32, 12usize), (2, 13), (3, 14)] {
            if index >= span {
                index = index.saturating_sub(span);
                span = span.saturating_mul(per_block);
                continue;
            }
            let mut block = u64::from(root.le32(slot.saturating_mul(4))?);
            let mut asked_at = root.position(slot.saturating_mul(4));
            for deeper in (0..level).rev() {
                if block == 0 {
                    return Ok(Mapping::hole(span.saturating_sub(index)));
                }
                let offset = self.superblock.block_offset(block, "i_block", asked_at)?;
                let bytes = self.indirect_block(block, offset)?;
                let record = Record::new("ext4", &bytes, offset);
                if deeper == 0 {
                    return self.pointer_run(&record, index, per_block);
                }
                span = per_block.saturating_pow(deeper);
                let (slot, rest) = div_rem(index, span);
                let at = to_usize(slot).saturating_mul(4);
                block = u64::from(record.le32(at)?);
                asked_at = record.position(at);
                index = rest;
            }
        }
        let found = format!("block {logical} of inode {}", inode.number);
        Err(root.corrupt("i_size", 0, found, "a size that three levels of indirection reach"))
    }

    fn indirect_block(&self, block: u64, offset: u64) -> Result<Arc<[u8]>> {
        self.extent_nodes.get_or_read((0, block), || {
            Ok(Arc::from(read_vec(&self.metadata, offset, to_usize(u64::from(self.superblock.block_size)))?))
        })
    }

    /// The run at pointer `index` of `count` in `record`: neighbours that count up, or zeroes.
    fn pointer_run(&self, record: &Record<'_>, index: u64, count: u64) -> Result<Mapping> {
        let pointer = |index: u64| record.le32(to_usize(index).saturating_mul(4)).map(u64::from);
        let first = pointer(index)?;
        let mut len = 1u64;
        while index.saturating_add(len) < count {
            let expected = if first == 0 { 0 } else { first.saturating_add(len) };
            if pointer(index.saturating_add(len))? != expected {
                break;
            }
            len = len.saturating_add(1);
        }
        if first == 0 {
            return Ok(Mapping::hole(len));
        }
        let end = first.saturating_add(len);
        if end > self.superblock.blocks_count {
            let found = format!("blocks {first} to {end}");
            return Err(record.corrupt(
                "i_block",
                to_usize(index).saturating_mul(4),
                found,
                format!("below {}", self.superblock.blocks_count),
            ));
        }
        Ok(Mapping { physical: Some(first), unwritten: false, len })
    }
}

enum Search {
    /// No entries.
    Empty,
    /// All entries begin later; the first at this block.
    Before(u64),
    /// The byte offset of the last entry that begins at or before, and where the one after it begins.
    At { entry: usize, next: Option<u64> },
}

/// The last entry whose first block is at or before `logical`, by bisection. The order of the two entries around the
/// answer is checked; an unordered node elsewhere does no harm.
fn last_at_or_before(record: &Record<'_>, logical: u64) -> Result<Search> {
    let entries = usize::from(record.le16(2)?);
    let entry_at = |index: usize| index.saturating_add(1).saturating_mul(ENTRY);
    let first_block = |index: usize| record.le32(entry_at(index)).map(u64::from);
    if entries == 0 {
        return Ok(Search::Empty);
    }
    let first = first_block(0)?;
    if logical < first {
        return Ok(Search::Before(first));
    }
    let (mut low, mut high) = (0usize, entries);
    while high.saturating_sub(low) > 1 {
        let middle = low.midpoint(high);
        if first_block(middle)? <= logical {
            low = middle;
        } else {
            high = middle;
        }
    }
    let next = if high < entries { Some(first_block(high)?) } else { None };
    if next.is_some_and(|next| next <= logical) {
        return Err(record.corrupt("ee_block", entry_at(high), next.unwrap_or(0), "entries in ascending order"));
    }
    Ok(Search::At { entry: entry_at(low), next })
}

/// A node's depth, after its header was checked; `parent` is the depth of the node that led here.
fn node_depth(record: &Record<'_>, parent: Option<u16>) -> Result<u16> {
    node_max(record)?;
    let depth = record.le16(6)?;
    let right = match parent {
        Some(parent) => depth.checked_add(1) == Some(parent),
        None => depth <= MAX_DEPTH,
    };
    if !right {
        let expected = parent.map_or_else(|| "at most 5".to_owned(), |parent| parent.saturating_sub(1).to_string());
        return Err(record.corrupt("eh_depth", 6, depth, expected));
    }
    Ok(depth)
}

/// eh_max, after magic and counts were checked against the node's size.
fn node_max(record: &Record<'_>) -> Result<u16> {
    let magic = record.le16(0)?;
    if magic != 0xf30a {
        return Err(record.corrupt("eh_magic", 0, format!("{magic:#x}"), "0xf30a"));
    }
    let (entries, max) = (record.le16(2)?, record.le16(4)?);
    let fits = record.len() / ENTRY;
    if max == 0 || to_u64(usize::from(max)) > to_u64(fits.saturating_sub(1)) {
        return Err(record.corrupt("eh_max", 4, max, format!("1 to {}", fits.saturating_sub(1))));
    }
    if entries > max {
        return Err(record.corrupt("eh_entries", 2, entries, format!("at most eh_max, {max}")));
    }
    Ok(max)
}
