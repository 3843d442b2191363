//! Block group descriptors: where each group's inode table lies.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0x00, 0x20 | 4+4 | bg_block_bitmap |
//! | 0x04, 0x24 | 4+4 | bg_inode_bitmap |
//! | 0x08, 0x28 | 4+4 | bg_inode_table |
//! | 0x0c, 0x2c | 2+2 | bg_free_blocks_count, in clusters |
//! | 0x0e, 0x2e | 2+2 | bg_free_inodes_count |
//! | 0x12 | 2 | bg_flags |
//! | 0x18, 0x38 | 2+2 | bg_block_bitmap_csum |
//! | 0x1e | 2 | bg_checksum: low half of the crc32c (metadata_csum) or crc16 (uninit_bg) |
//!
//! The upper halves exist when s_desc_size ≥ 64. The table follows the superblock, or, with meta_bg, each of its blocks
//! lies in the group it describes. Source: kernel documentation, sections "Block Group Descriptors" and "Meta Block
//! Groups". A descriptor with a wrong checksum is refused; the kernel refuses it too when it mounts for writing.

use super::checksum::extend;
use super::features::*;
use super::superblock::Superblock;
use crate::block::BlockDevice;
use crate::bytes::{Record, div_rem, join_u64, low_u16, low_u32};
use crate::error::Result;

/// One group's descriptor.
#[derive(Debug, Clone, Copy)]
pub(super) struct GroupDescriptor {
    pub block_bitmap: u64,
    pub inode_bitmap: u64,
    /// The first block of the group's inode table.
    pub inode_table: u64,
    pub flags: u16,
    /// The low half alone in short descriptors.
    pub block_bitmap_csum: u32,
    /// Where the descriptor says so.
    pub offset: u64,
    pub free_clusters: u32,
    pub free_inodes: u32,
}

impl GroupDescriptor {
    /// Reads and checks the descriptor of `group`, which must be below the group count.
    pub(super) fn read(device: &dyn BlockDevice, superblock: &Superblock, group: u32) -> Result<Self> {
        let offset = offset_of(superblock, group)?;
        let mut buffer = [0u8; 1024];
        let size = usize::from(superblock.desc_size);
        let bytes = buffer.get_mut(..size).unwrap_or_default();
        device.read_exact_at(bytes, offset)?;
        Self::parse(&Record::new("ext4", bytes, offset), superblock, group)
    }

    fn parse(record: &Record<'_>, superblock: &Superblock, group: u32) -> Result<Self> {
        verify(record, superblock, group)?;
        let wide = superblock.desc_size >= 64;
        let high16 = |at: usize| if wide { record.le16(at).map(u32::from) } else { Ok(0) };
        let high32 = |at: usize| if wide { record.le32(at) } else { Ok(0) };
        Ok(Self {
            block_bitmap: join_u64(high32(0x20)?, record.le32(0x0)?),
            inode_bitmap: join_u64(high32(0x24)?, record.le32(0x4)?),
            inode_table: join_u64(high32(0x28)?, record.le32(0x8)?),
            flags: record.le16(0x12)?,
            block_bitmap_csum: u32::from(record.le16(0x18)?) | high16(0x38)? << 16,
            offset: record.offset,
            free_clusters: u32::from(record.le16(0xc)?) | high16(0x2c)? << 16,
            free_inodes: u32::from(record.le16(0xe)?) | high16(0x2e)? << 16,
        })
    }
}

/// The byte offset of a group's descriptor.
fn offset_of(superblock: &Superblock, group: u32) -> Result<u64> {
    let (per_block, _) = div_rem(u64::from(superblock.block_size), u64::from(superblock.desc_size));
    let (table_block, index) = div_rem(u64::from(group), per_block);
    let within = index.saturating_mul(u64::from(superblock.desc_size));
    let meta_bg = superblock.features.incompat(INCOMPAT_META_BG);
    let in_meta_group = meta_bg && table_block >= u64::from(superblock.first_meta_bg);
    let block = if in_meta_group {
        let first_group = low_u32(table_block.saturating_mul(per_block));
        // In a 1 KiB filesystem that starts at block 0 (bigalloc), the boot block pushes the first table one further.
        let boot = superblock.block_size == 1024 && table_block == 0 && superblock.first_data_block == 0;
        let skip = u64::from(superblock.has_super(first_group)).saturating_add(u64::from(boot));
        superblock.group_first_block(first_group).saturating_add(skip)
    } else {
        superblock.logical_block().saturating_add(1).saturating_add(table_block)
    };
    Ok(superblock.block_offset(block, "group descriptor table", 1024)?.saturating_add(within))
}

fn verify(record: &Record<'_>, superblock: &Superblock, group: u32) -> Result<()> {
    const AT: usize = 0x1e;
    let stored = record.le16(AT)?;
    let (before, after) = (record.slice(0, AT)?, record.slice(0x20, record.len().saturating_sub(0x20))?);
    let computed = if superblock.features.metadata_csum() {
        let seed = extend(superblock.checksum_seed, &group.to_le_bytes());
        low_u16(extend(extend(extend(seed, before), &[0, 0]), after))
    } else if superblock.features.ro_compat(RO_COMPAT_GDT_CSUM) {
        let mut digest = CRC16.digest();
        digest.update(&superblock.uuid);
        digest.update(&group.to_le_bytes());
        digest.update(before);
        digest.update(after);
        digest.finalize()
    } else {
        return Ok(());
    };
    if stored != computed {
        return Err(record.corrupt(
            "bg_checksum",
            AT,
            format!("{stored:#x}"),
            format!("{computed:#x} (group {group})"),
        ));
    }
    Ok(())
}

/// The kernel's crc16 from 0xffff, which catalogues call CRC-16/MODBUS.
static CRC16: crc::Crc<u16> = crc::Crc::<u16>::new(&crc::CRC_16_MODBUS);

/// Blocks that hold no files' data, as the kernel counts them: what `statvfs` takes off the total. In each group the copy
/// of the superblock with the blocks reserved for descriptors, descriptors, two bitmaps and the inode table; then what
/// lies before the first group, and the journal.
pub(super) fn overhead_blocks(superblock: &Superblock, journal_bytes: u64) -> u64 {
    let block_size = u64::from(superblock.block_size);
    let inode_table = inode_table_blocks(superblock);
    let in_group = |group| base_blocks(superblock, group).saturating_add(inode_table).saturating_add(2);
    (0..superblock.group_count)
        .map(in_group)
        .fold(u64::from(superblock.first_data_block), u64::saturating_add)
        .saturating_add(div_rem(journal_bytes, block_size).0)
}

/// Blocks of a group's inode table.
pub(super) fn inode_table_blocks(superblock: &Superblock) -> u64 {
    let bytes = u64::from(superblock.inodes_per_group).saturating_mul(u64::from(superblock.inode_size));
    bytes.div_ceil(u64::from(superblock.block_size))
}

/// Blocks at the beginning of `group`: the copy of the superblock, descriptors and what is reserved for more of them.
pub(super) fn base_blocks(superblock: &Superblock, group: u32) -> u64 {
    let copy =
        if superblock.has_super(group) { u64::from(superblock.reserved_gdt_blocks).saturating_add(1) } else { 0 };
    copy.saturating_add(descriptor_blocks(superblock, group))
}

/// Blocks of descriptors in `group`: the whole table behind each copy of the superblock; with meta_bg, from
/// s_first_meta_bg on, a table's block lies in the first, the second and the last of the groups that it describes.
fn descriptor_blocks(superblock: &Superblock, group: u32) -> u64 {
    let (per_block, _) = div_rem(u64::from(superblock.block_size), u64::from(superblock.desc_size));
    let (table_block, index) = div_rem(u64::from(group), per_block);
    let meta_bg = superblock.features.incompat(INCOMPAT_META_BG);
    if meta_bg && table_block >= u64::from(superblock.first_meta_bg) {
        return u64::from(index < 2 || index.saturating_add(1) == per_block);
    }
    match superblock.has_super(group) {
        true if meta_bg => u64::from(superblock.first_meta_bg),
        true => u64::from(superblock.group_count).div_ceil(per_block),
        false => 0,
    }
}

/// Sums free clusters and inodes over all groups.
pub(super) fn count_free(device: &dyn BlockDevice, superblock: &Superblock) -> Result<(u64, u64)> {
    let mut free = (0u64, 0u64);
    for group in 0..superblock.group_count {
        let descriptor = GroupDescriptor::read(device, superblock, group)?;
        free.0 = free.0.saturating_add(u64::from(descriptor.free_clusters));
        free.1 = free.1.saturating_add(u64::from(descriptor.free_inodes));
    }
    Ok(free)
}
