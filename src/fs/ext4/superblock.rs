//! The superblock: 1024 bytes at byte 1024, little-endian.
//!
//! | offset | size | field | unit, accepted |
//! |---|---|---|---|
//! | 0x00 | 4 | s_inodes_count | ≥ 1, = groups × s_inodes_per_group |
//! | 0x04, 0x150 | 4+4 | s_blocks_count | blocks; at most the device |
//! | 0x08, 0x154 | 4+4 | s_r_blocks_count | blocks |
//! | 0x14 | 4 | s_first_data_block | 1 for 1 KiB blocks (0 with bigalloc), else 0 |
//! | 0x18 | 4 | s_log_block_size | block = 1024 << n, n ≤ 6 |
//! | 0x1c | 4 | s_log_cluster_size | cluster = 1024 << n, not below the block |
//! | 0x20 | 4 | s_blocks_per_group | 8 × … ≤ 8 × block size × blocks per cluster |
//! | 0x28 | 4 | s_inodes_per_group | > 0, ≤ 8 × block size |
//! | 0x38 | 2 | s_magic | 0xef53 |
//! | 0x3a | 2 | s_state | bit 0 clean, bit 1 errors |
//! | 0x4c | 4 | s_rev_level | 0 or 1 |
//! | 0x58 | 2 | s_inode_size | power of two, 128 … block size |
//! | 0x5c, 0x60, 0x64 | 4 each | feature words | see `features` |
//! | 0x68 | 16 | s_uuid | |
//! | 0xce | 2 | s_reserved_gdt_blocks | |
//! | 0xe0 | 4 | s_journal_inum | |
//! | 0xe8 | 4 | s_last_orphan | |
//! | 0xfe | 2 | s_desc_size | power of two, 64 … 1024 with 64bit |
//! | 0x104 | 4 | s_first_meta_bg | |
//! | 0x175 | 1 | s_checksum_type | 1 = crc32c with metadata_csum |
//! | 0x248 | 4 | s_overhead_clusters | clusters; 0 = not computed |
//! | 0x24c | 4+4 | s_backup_bgs | groups, with sparse_super2 |
//! | 0x270 | 4 | s_checksum_seed | with metadata_csum_seed |
//! | 0x280 | 4 | s_orphan_file_inum | with orphan_file |
//! | 0x3fc | 4 | s_checksum | crc32c of the 1020 bytes before, with metadata_csum |
//!
//! Source: kernel documentation, "ext4 Data Structures and Algorithms", section "Super Block". The bounds are those that
//! the kernel enforces at mount.

use super::features::*;
use crate::block::{BlockDevice, read_vec};
use crate::bytes::{Record, join_u64};
use crate::error::{Error, Result};

const OFFSET: u64 = 1024;
const LEN: usize = 1024;

/// The checked superblock, in the units that the rest of the reader uses.
#[derive(Debug, Clone)]
pub(super) struct Superblock {
    pub features: Features,
    pub state: u16,
    pub inodes_count: u32,
    pub blocks_count: u64,
    pub reserved_blocks: u64,
    pub first_data_block: u32,
    /// Bytes.
    pub block_size: u32,
    /// Blocks per cluster, 1 without bigalloc.
    pub cluster_ratio: u32,
    pub blocks_per_group: u32,
    pub inodes_per_group: u32,
    /// Bytes.
    pub inode_size: u16,
    /// Bytes.
    pub desc_size: u16,
    pub group_count: u32,
    pub uuid: [u8; 16],
    pub reserved_gdt_blocks: u16,
    pub first_meta_bg: u32,
    pub journal_inum: u32,
    pub journal_dev: u32,
    pub last_orphan: u32,
    pub overhead_clusters: u32,
    pub backup_bgs: [u32; 2],
    pub orphan_file_inum: u32,
    /// What every metadata checksum of this filesystem begins from.
    pub checksum_seed: u32,
}

impl Superblock {
    /// Reads and checks the primary superblock.
    pub(super) fn read(device: &dyn BlockDevice) -> Result<Self> {
        if device.size() < OFFSET.saturating_add(1024) {
            let found = format!("a device of {} bytes", device.size());
            return Err(Error::corrupt("ext4", "superblock", OFFSET, found, "at least 2048 bytes"));
        }
        let bytes = read_vec(device, OFFSET, LEN)?;
        Self::parse(&Record::new("ext4", &bytes, OFFSET), device.size())
    }

    fn parse(record: &Record<'_>, device_size: u64) -> Result<Self> {
        let magic = record.le16(0x38)?;
        if magic != 0xef53 {
            return Err(record.corrupt("s_magic", 0x38, format!("{magic:#x}"), "0xef53"));
        }
        // Feature words come before the checksum: an unknown feature may have changed what the checksum covers.
        let revision = record.le32(0x4c)?;
        let features = if revision == 0 {
            Features { compat: 0, incompat: 0, ro_compat: 0 }
        } else {
            Features { compat: record.le32(0x5c)?, incompat: record.le32(0x60)?, ro_compat: record.le32(0x64)? }
                .check()?
        };
        if features.metadata_csum() {
            let kind = record.u8(0x175)?;
            if kind != 1 {
                return Err(record.corrupt("s_checksum_type", 0x175, kind, "1 (crc32c)"));
            }
            let (stored, computed) = (record.le32(0x3fc)?, !crc32c::crc32c(record.slice(0, 0x3fc)?));
            if stored != computed {
                return Err(record.corrupt("s_checksum", 0x3fc, format!("{stored:#x}"), format!("{computed:#x}")));
            }
        }
        let uuid = *record.array::<16>(0x68)?;
        let checksum_seed = if features.incompat(INCOMPAT_CSUM_SEED) {
            record.le32(0x270)?
        } else {
            super::checksum::extend(!0, &uuid)
        };

        let (block_size, cluster_ratio) = block_and_cluster(record, features)?;
        let (inode_size, desc_size) = record_sizes(record, features, revision, block_size)?;
        let wide = features.incompat(INCOMPAT_64BIT);
        let high = |at: usize| if wide { record.le32(at) } else { Ok(0) };
        let blocks_count = join_u64(high(0x150)?, record.le32(0x4)?);
        let bytes = blocks_count.checked_mul(u64::from(block_size));
        if blocks_count == 0 || bytes.is_none_or(|bytes| bytes > device_size) {
            let expected = format!("at most the device's {device_size} bytes in blocks of {block_size}");
            return Err(record
                .corrupt("s_blocks_count", 0x4, blocks_count, expected)
                .with_hint("the image may have been cut short while it was copied"));
        }
        let first_data_block = record.le32(0x14)?;
        let right_first = if block_size == 1024 && cluster_ratio == 1 { 1 } else { 0 };
        if first_data_block != right_first && !(first_data_block == 1 && block_size == 1024) {
            return Err(record.corrupt("s_first_data_block", 0x14, first_data_block, right_first));
        }
        let (blocks_per_group, inodes_per_group) = group_geometry(record, block_size, cluster_ratio)?;
        let data_blocks = blocks_count.saturating_sub(u64::from(first_data_block));
        let groups = data_blocks.div_ceil(u64::from(blocks_per_group));
        let group_count = u32::try_from(groups)
            .ok()
            .filter(|groups| u64::from(*groups).saturating_mul(u64::from(inodes_per_group)) <= u64::from(u32::MAX) + 1)
            .ok_or_else(|| record.corrupt("s_blocks_per_group", 0x20, groups, "fewer groups than inode numbers"))?;
        let inodes_count = record.le32(0x0)?;
        let inodes = u64::from(group_count).saturating_mul(u64::from(inodes_per_group));
        if u64::from(inodes_count) != inodes {
            let expected = format!("{inodes} ({group_count} groups of {inodes_per_group})");
            return Err(record.corrupt("s_inodes_count", 0x0, inodes_count, expected));
        }
        Ok(Self {
            features,
            state: record.le16(0x3a)?,
            inodes_count,
            blocks_count,
            reserved_blocks: join_u64(high(0x154)?, record.le32(0x8)?),
            first_data_block,
            block_size,
            cluster_ratio,
            blocks_per_group,
            inodes_per_group,
            inode_size,
            desc_size,
            group_count,
            uuid,
            reserved_gdt_blocks: record.le16(0xce)?,
            first_meta_bg: record.le32(0x104)?,
            journal_inum: record.le32(0xe0)?,
            journal_dev: record.le32(0xe4)?,
            last_orphan: record.le32(0xe8)?,
            overhead_clusters: record.le32(0x248)?,
            backup_bgs: [record.le32(0x24c)?, record.le32(0x250)?],
            orphan_file_inum: record.le32(0x280)?,
            checksum_seed,
        })
    }

    /// The block that holds the primary superblock.
    pub(super) fn logical_block(&self) -> u64 {
        u64::from(self.block_size == 1024)
    }

    /// The byte offset of a block, which must be one of the filesystem's. `field` names who asks.
    pub(super) fn block_offset(&self, block: u64, field: &'static str, asked_at: u64) -> Result<u64> {
        if block >= self.blocks_count {
            let expected = format!("a block below {}", self.blocks_count);
            return Err(Error::corrupt("ext4", field, asked_at, format!("block {block}"), expected));
        }
        Ok(block.saturating_mul(u64::from(self.block_size)))
    }

    /// The first block of a group.
    pub(super) fn group_first_block(&self, group: u32) -> u64 {
        u64::from(group)
            .saturating_mul(u64::from(self.blocks_per_group))
            .saturating_add(u64::from(self.first_data_block))
    }

    /// Whether a group begins with a copy of the superblock.
    pub(super) fn has_super(&self, group: u32) -> bool {
        if group == 0 {
            return true;
        }
        if self.features.compat(COMPAT_SPARSE_SUPER2) {
            return self.backup_bgs.contains(&group);
        }
        if group == 1 || !self.features.ro_compat(RO_COMPAT_SPARSE_SUPER) {
            return true;
        }
        let power_of =
            |base: u32| std::iter::successors(Some(base), |power| power.checked_mul(base)).any(|power| power == group);
        group % 2 == 1 && (power_of(3) || power_of(5) || power_of(7))
    }
}

fn block_and_cluster(record: &Record<'_>, features: Features) -> Result<(u32, u32)> {
    let log_block = record.le32(0x18)?;
    let block_size = match log_block {
        0..=6 => 1024u32 << log_block,
        _ => return Err(record.corrupt("s_log_block_size", 0x18, log_block, "0 to 6")),
    };
    if !features.ro_compat(RO_COMPAT_BIGALLOC) {
        return Ok((block_size, 1));
    }
    let log_cluster = record.le32(0x1c)?;
    match log_cluster.checked_sub(log_block) {
        Some(shift @ 0..=16) => Ok((block_size, 1u32 << shift)),
        _ => Err(record.corrupt(
            "s_log_cluster_size",
            0x1c,
            log_cluster,
            format!("{log_block} to {}", log_block.saturating_add(16)),
        )),
    }
}

fn record_sizes(record: &Record<'_>, features: Features, revision: u32, block_size: u32) -> Result<(u16, u16)> {
    let inode_size = if revision == 0 { 128 } else { record.le16(0x58)? };
    if !inode_size.is_power_of_two() || inode_size < 128 || u32::from(inode_size) > block_size {
        return Err(record.corrupt(
            "s_inode_size",
            0x58,
            inode_size,
            format!("a power of two from 128 to {block_size}"),
        ));
    }
    if !features.incompat(INCOMPAT_64BIT) {
        return Ok((inode_size, 32));
    }
    let desc_size = record.le16(0xfe)?;
    if !desc_size.is_power_of_two() || !(64..=1024).contains(&desc_size) {
        return Err(record.corrupt("s_desc_size", 0xfe, desc_size, "a power of two from 64 to 1024"));
    }
    Ok((inode_size, desc_size))
}

fn group_geometry(record: &Record<'_>, block_size: u32, cluster_ratio: u32) -> Result<(u32, u32)> {
    let bitmap_bits = block_size.saturating_mul(8);
    let blocks_per_group = record.le32(0x20)?;
    let most = bitmap_bits.saturating_mul(cluster_ratio);
    if blocks_per_group == 0 || blocks_per_group % 8 != 0 || blocks_per_group > most {
        return Err(record.corrupt(
            "s_blocks_per_group",
            0x20,
            blocks_per_group,
            format!("a multiple of 8 from 8 to {most}"),
        ));
    }
    let inodes_per_group = record.le32(0x28)?;
    if inodes_per_group == 0 || inodes_per_group > bitmap_bits {
        return Err(record.corrupt("s_inodes_per_group", 0x28, inodes_per_group, format!("1 to {bitmap_bits}")));
    }
    Ok((blocks_per_group, inodes_per_group))
}
