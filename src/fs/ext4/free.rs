//! Free space, from the block bitmaps.
//!
//! | what | rule |
//! |---|---|
//! | bitmap | a bit for each cluster of the group, the lowest first, 0 free; one block at bg_block_bitmap |
//! | its checksum | with metadata_csum: crc32c over s_clusters_per_group / 8 bytes, in bg_block_bitmap_csum |
//! | BLOCK_UNINIT, with group checksums | there is no bitmap: all is free but the group's own metadata |
//!
//! A cluster that is wrongly taken for free is lost data, so whatever looks wrong is in use. A group is in use as a whole
//! when its descriptor or bitmap is damaged, counts other clusters than the descriptor, or has the group's own metadata
//! free. Nothing is free in a filesystem that remembers errors, that has no journal and was not unmounted, or whose
//! journal ends in fast commits, as these do not change bitmaps before the kernel replays them. All other transactions of
//! the journal are replayed first.
//!
//! Source: kernel documentation, sections "Block and Inode Bitmaps" and "Block Group Descriptors".

use std::ops::Range;

use super::checksum::extend;
use super::features::*;
use super::group::{self, GroupDescriptor};
use super::{Ext4, Superblock};
use crate::bytes::{div_rem, low_u32, to_usize};
use crate::error::{Error, Result};
use crate::limits;

const BLOCK_UNINIT: u16 = 0x2;
const STATE_CLEAN: u16 = 1;
const STATE_ERRORS: u16 = 2;

impl Ext4 {
    /// Calls `visit` with each run of free bytes, in ascending order; runs of neighbouring groups are not merged.
    pub(super) fn free_extents(&self, visit: &mut dyn FnMut(Range<u64>) -> Result<()>) -> Result<()> {
        self.check_state()?;
        let superblock = &self.superblock;
        limits::check("ext4 block groups", u64::from(superblock.group_count), limits::EXT4_GROUPS)?;
        let block_size = u64::from(superblock.block_size);
        let cluster = block_size.saturating_mul(u64::from(superblock.cluster_ratio));
        let end = superblock.blocks_count.saturating_mul(block_size);
        let mut bitmap = vec![0; to_usize(block_size)];
        let mut damaged = 0u64;
        for number in 0..superblock.group_count {
            let group = Group::new(superblock, number);
            match self.read_bitmap(&group, &mut bitmap) {
                Ok(()) => {}
                Err(error) if error.as_corrupt().is_some() => {
                    log::debug!("group {number} counts as full: {error}");
                    damaged =
                        limits::check("damaged ext4 groups", damaged.saturating_add(1), limits::FREE_DAMAGED_GROUPS)?;
                    continue;
                }
                Err(error) => return Err(error),
            }
            let start = group.first_block.saturating_mul(block_size);
            for_each_zero_run(&bitmap, group.clusters, &mut |run| {
                let byte = |bit: u32| start.saturating_add(u64::from(bit).saturating_mul(cluster)).min(end);
                visit(byte(run.start)..byte(run.end))
            })?;
        }
        Ok(())
    }

    /// Whether the bitmaps can be relied on.
    fn check_state(&self) -> Result<()> {
        let superblock = &self.superblock;
        let why = if superblock.state & STATE_ERRORS != 0 {
            "free space of a filesystem with recorded errors"
        } else if !superblock.features.compat(COMPAT_HAS_JOURNAL) && superblock.state & STATE_CLEAN == 0 {
            "free space of a filesystem that was not unmounted"
        } else if !self.fast_commit.is_empty() {
            "free space of a filesystem with fast commits to replay"
        } else {
            return Ok(());
        };
        Err(Error::unsupported("ext4", why))
    }

    /// Fills `bitmap` with what is in use in `group`, or says what is wrong there.
    fn read_bitmap(&self, group: &Group, bitmap: &mut [u8]) -> Result<()> {
        let superblock = &self.superblock;
        let descriptor = GroupDescriptor::read(&self.metadata, superblock, group.number)?;
        let checked = superblock.features.metadata_csum() || superblock.features.ro_compat(RO_COMPAT_GDT_CSUM);
        let own = group.own_metadata(superblock, &descriptor);
        if checked && descriptor.flags & BLOCK_UNINIT != 0 {
            bitmap.fill(0);
            own.into_iter().flatten().for_each(|cluster| set(bitmap, cluster));
        } else {
            let at = superblock.block_offset(descriptor.block_bitmap, "bg_block_bitmap", descriptor.offset)?;
            self.device.read_exact_at(bitmap, at)?;
            verify(superblock, &descriptor, bitmap, at)?;
            if let Some(cluster) = own.into_iter().flatten().find(|&cluster| !is_set(bitmap, cluster)) {
                let found = format!("cluster {cluster} of group {} free", group.number);
                return Err(Error::corrupt("ext4", "block bitmap", at, found, "the group's metadata in use"));
            }
        }
        let free = zeroes(bitmap, group.clusters);
        if free != descriptor.free_clusters {
            let found = format!("{} (group {})", descriptor.free_clusters, group.number);
            let at = descriptor.offset.saturating_add(0xc);
            return Err(Error::corrupt("ext4", "bg_free_blocks_count", at, found, format!("{free}, as in the bitmap")));
        }
        Ok(())
    }
}

/// A group and its clusters.
struct Group {
    number: u32,
    first_block: u64,
    clusters: u32,
    blocks_per_cluster: u64,
}

impl Group {
    fn new(superblock: &Superblock, number: u32) -> Self {
        let first_block = superblock.group_first_block(number);
        let blocks = superblock.blocks_count.saturating_sub(first_block).min(u64::from(superblock.blocks_per_group));
        let blocks_per_cluster = u64::from(superblock.cluster_ratio);
        Self { number, first_block, clusters: low_u32(blocks.div_ceil(blocks_per_cluster)), blocks_per_cluster }
    }

    /// The clusters in this group that hold its descriptors, bitmaps and inodes; with flex_bg some lie in others.
    fn own_metadata(&self, superblock: &Superblock, descriptor: &GroupDescriptor) -> [Range<u32>; 4] {
        let inode_table = group::inode_table_blocks(superblock);
        [
            (self.first_block, group::base_blocks(superblock, self.number)),
            (descriptor.block_bitmap, 1),
            (descriptor.inode_bitmap, 1),
            (descriptor.inode_table, inode_table),
        ]
        .map(|(block, count)| self.clusters_of(block, count))
    }

    /// The clusters of this group that `count` blocks from `block` on touch.
    fn clusters_of(&self, block: u64, count: u64) -> Range<u32> {
        let end = block.saturating_add(count).saturating_sub(self.first_block);
        let end = end.div_ceil(self.blocks_per_cluster).min(u64::from(self.clusters));
        let start = div_rem(block.saturating_sub(self.first_block), self.blocks_per_cluster).0;
        low_u32(start.min(end))..low_u32(end)
    }
}

fn verify(superblock: &Superblock, descriptor: &GroupDescriptor, bitmap: &[u8], at: u64) -> Result<()> {
    if !superblock.features.metadata_csum() {
        return Ok(());
    }
    let clusters = superblock.blocks_per_group.checked_div(superblock.cluster_ratio).unwrap_or(0);
    let covered = bitmap.get(..to_usize(u64::from(clusters >> 3))).unwrap_or(bitmap);
    let mask = if superblock.desc_size >= 64 { u32::MAX } else { 0xffff };
    let computed = extend(superblock.checksum_seed, covered) & mask;
    if descriptor.block_bitmap_csum == computed {
        return Ok(());
    }
    let found = format!("{:#x}", descriptor.block_bitmap_csum);
    Err(Error::corrupt("ext4", "bg_block_bitmap_csum", at, found, format!("{computed:#x}")))
}

fn set(bitmap: &mut [u8], bit: u32) {
    if let Some(byte) = bitmap.get_mut(to_usize(u64::from(bit >> 3))) {
        *byte |= 1 << (bit & 7);
    }
}

fn is_set(bitmap: &[u8], bit: u32) -> bool {
    bitmap.get(to_usize(u64::from(bit >> 3))).is_none_or(|byte| byte >> (bit & 7) & 1 != 0)
}

/// How many of the first `bits` bits are zero; what is missing is not.
fn zeroes(bitmap: &[u8], bits: u32) -> u32 {
    let (bytes, rest) = (to_usize(u64::from(bits >> 3)), bits & 7);
    let whole = bitmap.get(..bytes).unwrap_or(bitmap);
    // Word by word: a hostile filesystem has millions of bitmaps.
    let (words, odd) = whole.as_chunks::<8>();
    let zeroes = words.iter().fold(0u32, |sum, word| sum.saturating_add(u64::from_le_bytes(*word).count_zeros()));
    let zeroes = odd.iter().fold(zeroes, |sum, byte| sum.saturating_add(byte.count_zeros()));
    let last = bitmap.get(bytes).map_or(0, |byte| (byte | 0xff << rest).count_zeros());
    zeroes.saturating_add(last)
}

/// Calls `visit` with each run of zero bits below `bits`.
fn for_each_zero_run(bitmap: &[u8], bits: u32, visit: &mut dyn FnMut(Range<u32>) -> Result<()>) -> Result<()> {
    let mut at = 0u32;
    let mut start = None;
    while at < bits {
        // Whole words and bytes of one kind are passed over at once.
        let rest = bitmap.get(to_usize(u64::from(at >> 3))..).unwrap_or_default();
        let byte = rest.first().copied().unwrap_or(0xff);
        let (used, step) = match (byte, rest.first_chunk::<8>()) {
            (0xff, Some([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff])) if at & 7 == 0 => (true, 64),
            (0, Some([0, 0, 0, 0, 0, 0, 0, 0])) if at & 7 == 0 => (false, 64),
            (0xff, _) if at & 7 == 0 => (true, 8),
            (0, _) if at & 7 == 0 => (false, 8),
            _ => (byte >> (at & 7) & 1 != 0, 1),
        };
        match (used, start) {
            (false, None) => start = Some(at),
            (true, Some(first)) => {
                visit(first..at)?;
                start = None;
            }
            _ => {}
        }
        at = at.saturating_add(step);
    }
    start.map_or(Ok(()), |first| visit(first..bits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_zeroes_at_every_edge() {
        let runs = |bitmap: &[u8], bits| {
            let mut runs = Vec::new();
            for_each_zero_run(bitmap, bits, &mut |run| {
                runs.push((run.start, run.end));
                Ok(())
            })
            .unwrap();
            runs
        };
        for bits in 0..=40 {
            let bitmap = [0b1010_1010, 0, 0xff, 0x7f];
            let counted: u32 = runs(&bitmap, bits).into_iter().map(|(start, end)| end - start).sum();
            assert_eq!(zeroes(&bitmap, bits), counted, "{bits} bits");
        }
        let long: Vec<u8> = [[0xff; 9], [0; 9], [0xff; 9], [0; 9]].concat();
        for bits in 0..=long.len() as u32 * 8 {
            let counted: u32 = runs(&long, bits).into_iter().map(|(start, end)| end - start).sum();
            assert_eq!(zeroes(&long, bits), counted, "{bits} bits");
        }
        assert_eq!(runs(&long, 288), [(72, 144), (216, 288)]);
        assert_eq!(runs(&[0xff, 0xff], 16), []);
        assert_eq!(runs(&[0, 0], 16), [(0, 16)]);
        assert_eq!(runs(&[0, 0], 13), [(0, 13)]);
        assert_eq!(runs(&[0x0f, 0, 0xf0], 24), [(4, 20)]);
        assert_eq!(runs(&[0b1010_1010, 0xff, 0x7f], 24), [(0, 1), (2, 3), (4, 5), (6, 7), (23, 24)]);
        assert_eq!(runs(&[0], 16), [(0, 8)], "what is missing is in use");
    }
}
