//! Reference counts, which say which clusters are in use: QEMU `docs/interop/qcow2.txt`, section "Host cluster
//! management".
//!
//! | structure | entry | meaning |
//! |---|---|---|
//! | refcount table | 8 bytes: bits 9–63 | file offset of a refcount block, a multiple of the cluster size; 0: all counts are 0 |
//! | refcount block, one cluster | 1 to 64 bits, `1 << refcount_order` | how often the cluster is referred to |
//!
//! Counts of less than 8 bits fill a byte from its lowest bits, larger ones are big-endian.
//!
//! Counts change in memory; [`Refcounts::write_blocks`], [`Refcounts::write_table`] and [`Refcounts::write_header`] bring
//! them to disk in the order in which they refer to one another, with a flush by the caller between them.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::Range;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::FORMAT;
use super::header::Header;
use crate::block::writable::Resizable;
use crate::block::{range_len, read_vec};
use crate::bytes::{to_u64, to_usize};
use crate::error::{Error, Result};
use crate::limits;

/// Bytes of refcount blocks that are kept although nothing in them has changed.
const CLEAN_BYTES: usize = 4 << 20;

const TABLE_OFFSET: u64 = 0xffff_ffff_ffff_fe00;

/// Clusters that metadata lies in, by number.
pub(super) type Metadata = HashSet<u64, RandomState>;

/// The counts of an image that is being changed.
#[derive(Debug)]
pub(super) struct Refcounts {
    file: Arc<dyn Resizable>,
    cluster_bits: u32,
    width: Width,
    /// Entries of the refcount table.
    table: Vec<u64>,
    offset: u64,
    /// Entries that the table on disk lacks.
    dirty_entries: BTreeSet<usize>,
    /// Where the header still says the table is, with its clusters, when it has become longer elsewhere.
    moved_from: Option<Range<u64>>,
    blocks: BTreeMap<usize, Block>,
    /// No cluster below is free.
    next_free: u64,
    /// Clusters that hold metadata and are given to nobody, whatever their counts say.
    metadata: Metadata,
}

#[derive(Debug)]
struct Block {
    bytes: Vec<u8>,
    /// What differs from disk.
    dirty: Range<usize>,
}

/// How counts are packed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Width {
    /// Bits of a count, as a power of two.
    order: u32,
}

impl Width {
    pub(super) fn of(header: &Header) -> Self {
        Self { order: header.refcount_bits.trailing_zeros() }
    }

    /// The largest count.
    pub(super) fn max(self) -> u64 {
        u64::MAX.wrapping_shr(64u32.saturating_sub(1u32.wrapping_shl(self.order)))
    }

    /// Counts in a block of one cluster, as bits.
    pub(super) fn block_bits(self, cluster_bits: u32) -> u32 {
        cluster_bits.saturating_add(3).saturating_sub(self.order)
    }

    /// Where count `index` lies: its bytes, and how far up its lowest bit is.
    fn place(self, index: usize) -> (Range<usize>, u32) {
        match self.order.checked_sub(3) {
            Some(bytes) => {
                let start = index.wrapping_shl(bytes);
                (start..start.saturating_add(1usize.wrapping_shl(bytes)), 0)
            }
            None => {
                let per_byte = 3u32.saturating_sub(self.order);
                let byte = index.wrapping_shr(per_byte);
                let within = index.saturating_sub(byte.wrapping_shl(per_byte));
                let shift = crate::bytes::low_u32(to_u64(within)).wrapping_shl(self.order);
                (byte..byte.saturating_add(1), shift)
            }
        }
    }

    /// Count `index` of a block.
    pub(super) fn get(self, block: &[u8], index: usize) -> u64 {
        let (place, shift) = self.place(index);
        let bytes = block.get(place).unwrap_or_default();
        let value = bytes.iter().fold(0u64, |value, byte| value.wrapping_shl(8) | u64::from(*byte));
        value.wrapping_shr(shift) & self.max()
    }

    /// Sets count `index` of a block and says which bytes that are.
    pub(super) fn set(self, block: &mut [u8], index: usize, value: u64) -> Range<usize> {
        let (place, shift) = self.place(index);
        let Some(bytes) = block.get_mut(place.clone()) else { return 0..0 };
        if let [byte] = bytes {
            let low = |value: u64| value.to_le_bytes().first().copied().unwrap_or(0);
            *byte = (*byte & !low(self.max().wrapping_shl(shift))) | low(value.wrapping_shl(shift));
        } else {
            let value = value.to_be_bytes();
            let from = value.len().saturating_sub(bytes.len());
            bytes.copy_from_slice(value.get(from..).unwrap_or_default());
        }
        place
    }
}

impl Refcounts {
    /// Reads the refcount table. `metadata` holds the clusters of all other metadata; those of the refcount structures are
    /// added, and none may be used twice.
    pub(super) fn open(file: Arc<dyn Resizable>, header: &Header, metadata: Metadata) -> Result<Self> {
        let bytes = u64::from(header.refcount_table_clusters).saturating_mul(header.cluster_size());
        limits::check("refcount table bytes", bytes, limits::QCOW2_WRITE_TABLE_BYTES)?;
        let offset = header.refcount_table_offset;
        if offset == 0 || offset.saturating_add(bytes) > file.size() {
            let expected = format!("a table of {bytes} bytes within the file's {}", file.size());
            return Err(Error::corrupt(FORMAT, "refcount_table_offset", 48, format!("{offset:#x}"), expected));
        }
        let table = read_vec(&*file, offset, to_usize(bytes))?;
        let (entries, _) = table.as_chunks::<8>();
        let mut counts = Self {
            cluster_bits: header.cluster_bits,
            width: Width::of(header),
            table: entries.iter().map(|entry| u64::from_be_bytes(*entry)).collect(),
            offset,
            dirty_entries: BTreeSet::new(),
            moved_from: None,
            blocks: BTreeMap::new(),
            next_free: 0,
            metadata,
            file,
        };
        counts.claim(offset, bytes, "refcount_table_offset", 48)?;
        for index in 0..counts.table.len() {
            let entry = counts.table.get(index).copied().unwrap_or(0);
            let position = offset.saturating_add(to_u64(index).saturating_mul(8));
            if entry & !TABLE_OFFSET != 0 || !entry.is_multiple_of(header.cluster_size()) {
                let expected = format!("a multiple of {}", header.cluster_size());
                return Err(Error::corrupt(FORMAT, "refcount table entry", position, format!("{entry:#x}"), expected));
            }
            if entry != 0 {
                if entry.saturating_add(header.cluster_size()) > counts.file.size() {
                    let expected = format!("a refcount block within the file's {} bytes", counts.file.size());
                    return Err(Error::corrupt(
                        FORMAT,
                        "refcount table entry",
                        position,
                        format!("{entry:#x}"),
                        expected,
                    ));
                }
                counts.claim(entry, 1, "refcount table entry", position)?;
            }
        }
        Ok(counts)
    }

    /// Notes that `len` bytes at `offset` are metadata, and no other. The field that says so stands at `position`.
    pub(super) fn claim(&mut self, offset: u64, len: u64, field: &'static str, position: u64) -> Result<()> {
        claim(&mut self.metadata, self.cluster_bits, offset..offset.saturating_add(len), field, position)
    }

    /// Whether metadata lies in the cluster.
    pub(super) fn is_metadata(&self, cluster: u64) -> bool {
        self.metadata.contains(&cluster)
    }

    /// Notes that metadata lies in these clusters.
    pub(super) fn add_metadata(&mut self, clusters: Range<u64>) {
        self.metadata.extend(clusters);
    }

    /// Whether a count can be as high as `value`.
    pub(super) fn fits(&self, value: u64) -> Result<()> {
        if value <= self.width.max() {
            return Ok(());
        }
        Err(Error::limit("references to a cluster", self.width.max(), value)
            .with_hint("convert the image into one with wider reference counts (refcount_bits)"))
    }

    fn block_of(&self, cluster: u64) -> (usize, usize) {
        let bits = self.width.block_bits(self.cluster_bits);
        let block = cluster.wrapping_shr(bits);
        (to_usize(block), to_usize(cluster.saturating_sub(block.wrapping_shl(bits))))
    }

    fn has_block(&self, cluster: u64) -> bool {
        self.table.get(self.block_of(cluster).0).is_some_and(|&entry| entry != 0)
    }

    fn block(&mut self, number: usize) -> Result<Option<&mut Block>> {
        let Some(&offset) = self.table.get(number).filter(|&&entry| entry != 0) else { return Ok(None) };
        if !self.blocks.contains_key(&number) {
            let size = 1usize.wrapping_shl(self.cluster_bits);
            if self.blocks.len().saturating_mul(size) > CLEAN_BYTES {
                self.blocks.retain(|_, block| !block.dirty.is_empty());
            }
            let bytes = read_vec(&*self.file, offset, size)?;
            self.blocks.insert(number, Block { bytes, dirty: 0..0 });
        }
        Ok(self.blocks.get_mut(&number))
    }

    /// How often the cluster is referred to.
    pub(super) fn get(&mut self, cluster: u64) -> Result<u64> {
        let width = self.width;
        let (number, index) = self.block_of(cluster);
        Ok(self.block(number)?.map_or(0, |block| width.get(&block.bytes, index)))
    }

    /// Sets a count whose block exists.
    pub(super) fn set(&mut self, cluster: u64, value: u64) -> Result<()> {
        let width = self.width;
        let (number, index) = self.block_of(cluster);
        self.fits(value)?;
        let Some(block) = self.block(number)? else {
            let found = "no refcount block";
            let position = cluster.wrapping_shl(self.cluster_bits);
            return Err(Error::corrupt(FORMAT, "refcount table entry", position, found, "a refcount block"));
        };
        let changed = width.set(&mut block.bytes, index, value);
        block.dirty = if block.dirty.is_empty() {
            changed
        } else {
            block.dirty.start.min(changed.start)..block.dirty.end.max(changed.end)
        };
        if value == 0 {
            self.next_free = self.next_free.min(cluster);
        }
        Ok(())
    }

    /// One reference less. When it was the last, the cluster is free and no metadata any more; says whether it was.
    pub(super) fn release(&mut self, cluster: u64) -> Result<bool> {
        let count = self.get(cluster)?;
        self.set(cluster, count.saturating_sub(1))?;
        if count <= 1 {
            self.metadata.remove(&cluster);
        }
        Ok(count == 1)
    }

    /// The number of a free cluster and of those behind it, at most `most`, all of them counted once from now on.
    pub(super) fn allocate(&mut self, most: u64) -> Result<Range<u64>> {
        let mut start = self.next_free;
        loop {
            if !self.has_block(start) {
                // The first cluster without a count becomes the block that has it.
                self.add_block(start)?;
            } else if self.get(start)? == 0 {
                break;
            }
            start = start.saturating_add(1);
        }
        let mut end = start;
        while range_len(&(start..end)) < most && self.has_block(end) && self.get(end)? == 0 {
            end = end.saturating_add(1);
        }
        self.take(start..end)?;
        self.next_free = end;
        Ok(start..end)
    }

    /// Exactly `count` clusters in a row, which may be more than one block counts.
    pub(super) fn allocate_exactly(&mut self, count: u64) -> Result<Range<u64>> {
        let block_bits = self.width.block_bits(self.cluster_bits);
        let per_block = 1u64.wrapping_shl(block_bits);
        // Room behind them for blocks that count them, and themselves.
        let spare = count.checked_div(per_block.saturating_sub(1)).unwrap_or(count).saturating_add(3);
        let run = loop {
            let run = self.free_run(count.saturating_add(spare))?;
            if self.block_of(run.end).0 < self.table.len() {
                break run;
            }
            self.grow(to_u64(self.table.len()).wrapping_shl(block_bits))?;
        };
        let end = run.start.saturating_add(count);
        let (first, last) = (self.block_of(run.start).0, self.block_of(run.end).0);
        let missing: Vec<usize> =
            (first..=last).filter(|&number| self.table.get(number).is_none_or(|&entry| entry == 0)).collect();
        let mut spot = end;
        for &number in &missing {
            self.put_block(number, spot)?;
            spot = spot.saturating_add(1);
        }
        for block in end..spot {
            self.set(block, 1)?;
        }
        self.take(run.start..end)?;
        Ok(run.start..end)
    }

    /// So many clusters in a row that nothing refers to.
    fn free_run(&mut self, count: u64) -> Result<Range<u64>> {
        let (mut start, mut end) = (self.next_free, self.next_free);
        while range_len(&(start..end)) < count {
            let free = self.get(end)? == 0;
            end = end.saturating_add(1);
            if !free {
                start = end;
            }
        }
        Ok(start..end)
    }

    /// Counts free clusters once.
    fn take(&mut self, clusters: Range<u64>) -> Result<()> {
        for cluster in clusters.clone() {
            if self.metadata.contains(&cluster) {
                let position = cluster.wrapping_shl(self.cluster_bits);
                return Err(Error::corrupt(FORMAT, "reference count", position, 0, "at least 1 for metadata")
                    .with_hint("guestctl check --repair all IMAGE counts the references again"));
            }
        }
        self.cover(clusters.end)?;
        for cluster in clusters {
            self.set(cluster, 1)?;
        }
        Ok(())
    }

    /// Makes the file reach to the beginning of `cluster`.
    fn cover(&self, cluster: u64) -> Result<()> {
        let end = cluster.wrapping_shl(self.cluster_bits);
        if end > self.file.size() { self.file.resize(end) } else { Ok(()) }
    }

    /// A block for the counts from that of `cluster` on, in `cluster` itself, which has none yet.
    fn add_block(&mut self, cluster: u64) -> Result<()> {
        let (number, _) = self.block_of(cluster);
        if number >= self.table.len() {
            return self.grow(cluster);
        }
        self.put_block(number, cluster)
    }

    fn put_block(&mut self, number: usize, cluster: u64) -> Result<()> {
        if !self.metadata.insert(cluster) {
            let position = cluster.wrapping_shl(self.cluster_bits);
            return Err(Error::corrupt(FORMAT, "reference count", position, 0, "at least 1 for metadata"));
        }
        let size = 1usize.wrapping_shl(self.cluster_bits);
        if let Some(entry) = self.table.get_mut(number) {
            *entry = cluster.wrapping_shl(self.cluster_bits);
        }
        self.dirty_entries.insert(number);
        self.blocks.insert(number, Block { bytes: vec![0; size], dirty: 0..size });
        self.cover(cluster.saturating_add(1))?;
        if self.block_of(cluster).0 == number { self.set(cluster, 1) } else { Ok(()) }
    }

    /// Moves the table to `cluster`, the first that it could not count, with half as many entries more.
    fn grow(&mut self, cluster: u64) -> Result<()> {
        let block_bits = self.width.block_bits(self.cluster_bits);
        let per_cluster = 1u64.wrapping_shl(self.cluster_bits.saturating_sub(3));
        let have = to_u64(self.table.len()).div_ceil(per_cluster);
        let (first, _) = self.block_of(cluster);
        let wanted = to_u64(first).saturating_add(1).div_ceil(per_cluster);
        let clusters = wanted.max(have.saturating_add(have.div_ceil(2)));
        let bytes = clusters.wrapping_shl(self.cluster_bits);
        limits::check("refcount table bytes", bytes, limits::QCOW2_WRITE_TABLE_BYTES)?;
        // The table, and behind it the blocks that count the table and themselves.
        let mut blocks = 1u64;
        loop {
            let end = cluster.saturating_add(clusters).saturating_add(blocks);
            let needed = end.div_ceil(1u64.wrapping_shl(block_bits)).saturating_sub(to_u64(first));
            if needed <= blocks {
                break;
            }
            blocks = needed;
        }
        let table_end = cluster.saturating_add(clusters);
        if (cluster..table_end).any(|cluster| self.metadata.contains(&cluster)) {
            let position = cluster.wrapping_shl(self.cluster_bits);
            return Err(Error::corrupt(FORMAT, "reference count", position, 0, "at least 1 for metadata"));
        }
        // A table that has not reached the disk yet is simply given up; its clusters stay counted once.
        let old = self.offset.wrapping_shr(self.cluster_bits)
            ..self.offset.wrapping_shr(self.cluster_bits).saturating_add(have);
        self.moved_from.get_or_insert(old);
        self.table.resize(to_usize(clusters.saturating_mul(per_cluster)), 0);
        self.offset = cluster.wrapping_shl(self.cluster_bits);
        self.dirty_entries.extend(0..self.table.len());
        self.metadata.extend(cluster..table_end);
        self.cover(table_end.saturating_add(blocks))?;
        for index in 0..blocks {
            self.put_block(first.saturating_add(to_usize(index)), table_end.saturating_add(index))?;
        }
        for used in cluster..table_end.saturating_add(blocks) {
            self.set(used, 1)?;
        }
        Ok(())
    }

    /// Bytes of blocks that differ from disk.
    pub(super) fn dirty_bytes(&self) -> usize {
        let dirty = self.blocks.values().filter(|block| !block.dirty.is_empty()).count();
        dirty.wrapping_shl(self.cluster_bits)
    }

    /// First step: the counts. Says whether there were any to write.
    pub(super) fn write_blocks(&mut self) -> Result<bool> {
        let mut any = false;
        for (number, block) in &mut self.blocks {
            if block.dirty.is_empty() {
                continue;
            }
            // Whole sectors: a device below may not write less without reading.
            let start = block.dirty.start & !511;
            let end = block.dirty.end.next_multiple_of(512).min(block.bytes.len());
            let offset = self.table.get(*number).copied().unwrap_or(0);
            let bytes = block.bytes.get(start..end).unwrap_or_default();
            self.file.write_all_at(bytes, offset.saturating_add(to_u64(start)))?;
            block.dirty = 0..0;
            any = true;
        }
        Ok(any)
    }

    /// Second step, when the blocks are durable: the table's entries.
    pub(super) fn write_table(&mut self) -> Result<bool> {
        if self.dirty_entries.is_empty() {
            return Ok(false);
        }
        if self.moved_from.is_some() {
            let bytes: Vec<u8> = self.table.iter().flat_map(|entry| entry.to_be_bytes()).collect();
            self.file.write_all_at(&bytes, self.offset)?;
        } else {
            for &index in &self.dirty_entries {
                let entry = self.table.get(index).copied().unwrap_or(0);
                let position = self.offset.saturating_add(to_u64(index).saturating_mul(8));
                self.file.write_all_at(&entry.to_be_bytes(), position)?;
            }
        }
        self.dirty_entries.clear();
        Ok(true)
    }

    /// Third step, when the table is durable: the header's word of where it is. Returns the clusters of the old table, to
    /// be released when the header is durable.
    pub(super) fn write_header(&mut self) -> Result<Option<Range<u64>>> {
        let Some(old) = &self.moved_from else { return Ok(None) };
        let clusters = to_u64(self.table.len()).saturating_mul(8).wrapping_shr(self.cluster_bits);
        let mut fields = [0u8; 12];
        let (offset, count) = fields.split_at_mut(8);
        offset.copy_from_slice(&self.offset.to_be_bytes());
        count.copy_from_slice(&crate::bytes::low_u32(clusters).to_be_bytes());
        self.file.write_all_at(&fields, 48)?;
        let old = old.clone();
        self.moved_from = None;
        Ok(Some(old))
    }
}

/// Notes that `bytes` of the file are metadata, and no other.
pub(super) fn claim(
    metadata: &mut Metadata,
    cluster_bits: u32,
    bytes: Range<u64>,
    field: &'static str,
    position: u64,
) -> Result<()> {
    let last = bytes.end.saturating_sub(1).max(bytes.start).wrapping_shr(cluster_bits);
    for cluster in bytes.start.wrapping_shr(cluster_bits)..=last {
        if !metadata.insert(cluster) {
            let found = format!("{:#x}", bytes.start);
            return Err(Error::corrupt(FORMAT, field, position, found, "clusters that hold no other metadata"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_every_width_keep_to_themselves() {
        for order in 0..=6 {
            let width = Width { order };
            let mut block = vec![0; 512];
            let count = (512 * 8) >> order;
            for index in 0..count {
                width.set(&mut block, index, (index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) & width.max());
            }
            for index in 0..count {
                let expected = (index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) & width.max();
                assert_eq!(width.get(&block, index), expected, "order {order}, count {index}");
            }
        }
        assert_eq!((Width { order: 0 }.max(), Width { order: 6 }.max()), (1, u64::MAX));
        let mut block = vec![0; 8];
        Width { order: 1 }.set(&mut block, 1, 3);
        assert_eq!(block[0], 0b1100, "lowest bits first");
        Width { order: 4 }.set(&mut block, 1, 0x0102);
        assert_eq!(block[2..4], [1, 2], "big-endian");
    }
}
