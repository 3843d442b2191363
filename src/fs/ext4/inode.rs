//! Inodes: 128 bytes and, in larger inodes, i_extra_isize more.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0x00 | 2 | i_mode |
//! | 0x02, 0x78 | 2+2 | i_uid |
//! | 0x04, 0x6c | 4+4 | i_size, bytes; the upper half counts for regular files, and directories with large_dir |
//! | 0x08, 0x8c | 4+4 | i_atime; upper word: 2 bits of epoch, 30 of nanoseconds |
//! | 0x0c, 0x84 | 4+4 | i_ctime |
//! | 0x10, 0x88 | 4+4 | i_mtime |
//! | 0x14 | 4 | i_dtime; the next orphan while on the orphan list |
//! | 0x18, 0x7a | 2+2 | i_gid |
//! | 0x1a | 2 | i_links_count |
//! | 0x1c, 0x74 | 4+2 | i_blocks, 512-byte units, or blocks with the huge_file flag |
//! | 0x20 | 4 | i_flags |
//! | 0x28 | 60 | i_block: extent tree root, block map, symbolic link, device number or inline data |
//! | 0x64 | 4 | i_generation |
//! | 0x68, 0x76 | 4+2 | i_file_acl, the block of extended attributes |
//! | 0x7c, 0x82 | 2+2 | i_checksum |
//! | 0x80 | 2 | i_extra_isize, bytes, a multiple of 4 |
//! | 0x90, 0x94 | 4+4 | i_crtime |
//!
//! Source: kernel documentation, section "Index Nodes".

use std::sync::Arc;

use super::checksum::extend;
use super::features::*;
use super::journal::{RangeChange, RecoveredInode};
use super::superblock::Superblock;
use crate::bytes::{Record, join_u64, to_i32};
use crate::error::Result;
use crate::fs::{DeviceNumber, FileType, Metadata, Timestamp};

pub(super) const FLAG_ENCRYPT: u32 = 0x800;
pub(super) const FLAG_INDEX: u32 = 0x1000;
const FLAG_HUGE_FILE: u32 = 0x4_0000;
pub(super) const FLAG_EXTENTS: u32 = 0x8_0000;
pub(super) const FLAG_EA_INODE: u32 = 0x20_0000;
pub(super) const FLAG_INLINE_DATA: u32 = 0x1000_0000;
pub(super) const FLAG_CASEFOLD: u32 = 0x4000_0000;

/// One inode's bytes, checked against their checksum.
#[derive(Debug, Clone)]
pub(super) struct RawInode {
    pub number: u32,
    /// Where it lies on the device.
    pub offset: u64,
    /// s_inode_size bytes.
    pub bytes: Vec<u8>,
    /// What checksums of this inode's own blocks begin from.
    pub checksum_seed: u32,
    /// Changes by fast commits to the block map: sorted, never overlapping.
    pub ranges: Arc<[RangeChange]>,
    /// A directory that a fast commit made: whatever its blocks hold, only recorded names are in it.
    pub made_empty: bool,
    /// i_blocks is not known and is counted.
    pub recount: bool,
}

impl RawInode {
    /// Checks what can be checked without knowing what the inode is.
    pub(super) fn new(number: u32, offset: u64, bytes: Vec<u8>, superblock: &Superblock) -> Result<Self> {
        let record = Record::new("ext4", &bytes, offset);
        let generation = record.slice(0x64, 4)?;
        let checksum_seed = extend(extend(superblock.checksum_seed, &number.to_le_bytes()), generation);
        let extra = extra_isize(&record)?;
        if superblock.features.metadata_csum() {
            verify(&record, checksum_seed, extra)?;
        }
        Ok(Self { number, offset, bytes, checksum_seed, ranges: Arc::default(), made_empty: false, recount: false })
    }

    /// An inode as fast commits left it. Its checksum is one that nobody has written yet.
    pub(super) fn recovered(number: u32, offset: u64, inode: RecoveredInode, superblock: &Superblock) -> Result<Self> {
        let RecoveredInode { bytes, ranges, made_in, recount } = inode;
        let record = Record::new("ext4", &bytes, offset);
        extra_isize(&record)?;
        let checksum_seed = extend(extend(superblock.checksum_seed, &number.to_le_bytes()), record.slice(0x64, 4)?);
        Ok(Self { number, offset, bytes, checksum_seed, ranges: ranges.into(), made_empty: made_in.is_some(), recount })
    }

    pub(super) fn record(&self) -> Record<'_> {
        Record::new("ext4", &self.bytes, self.offset)
    }

    pub(super) fn mode(&self) -> Result<u32> {
        Ok(u32::from(self.record().le16(0)?))
    }

    pub(super) fn flags(&self) -> Result<u32> {
        self.record().le32(0x20)
    }

    pub(super) fn has(&self, flag: u32) -> Result<bool> {
        Ok(self.flags()? & flag != 0)
    }

    pub(super) fn links_count(&self) -> Result<u16> {
        self.record().le16(0x1a)
    }

    /// i_block's 60 bytes.
    pub(super) fn block(&self) -> Result<&[u8; 60]> {
        self.record().array(0x28)
    }

    pub(super) fn file_type(&self) -> Result<FileType> {
        let mode = self.mode()?;
        let known = FileType::from_mode(mode);
        known.ok_or_else(|| {
            self.record().corrupt("i_mode", 0, format!("{mode:#o} (inode {})", self.number), "a file type")
        })
    }

    pub(super) fn size(&self, superblock: &Superblock) -> Result<u64> {
        let record = self.record();
        let wide = match self.file_type()? {
            FileType::File => true,
            FileType::Dir => superblock.features.incompat(INCOMPAT_LARGEDIR),
            _ => false,
        };
        let size = join_u64(if wide { record.le32(0x6c)? } else { 0 }, record.le32(0x4)?);
        // The kernel keeps sizes in a signed 64-bit number.
        if size > i64::MAX.unsigned_abs() {
            return Err(record.corrupt("i_size", 0x4, format!("{size} (inode {})", self.number), "less than 2^63"));
        }
        Ok(size)
    }

    /// The block of extended attributes, 0 for none.
    pub(super) fn file_acl(&self) -> Result<u64> {
        let record = self.record();
        Ok(join_u64(u32::from(record.le16(0x76)?), record.le32(0x68)?))
    }

    /// Allocated units of 512 bytes.
    pub(super) fn blocks(&self, superblock: &Superblock) -> Result<u64> {
        let record = self.record();
        let low = u64::from(record.le32(0x1c)?);
        if !superblock.features.ro_compat(RO_COMPAT_HUGE_FILE) {
            return Ok(low);
        }
        let blocks = low | u64::from(record.le16(0x74)?) << 32;
        let unit = if self.flags()? & FLAG_HUGE_FILE != 0 { u64::from(superblock.block_size / 512) } else { 1 };
        Ok(blocks.saturating_mul(unit))
    }

    /// Whether a symbolic link's target lies in i_block itself.
    pub(super) fn is_fast_symlink(&self, superblock: &Superblock) -> Result<bool> {
        let size = self.size(superblock)?;
        let cluster_units = u64::from(superblock.block_size / 512).saturating_mul(u64::from(superblock.cluster_ratio));
        let xattr_units = if self.file_acl()? != 0 { cluster_units } else { 0 };
        let no_blocks = superblock.features.incompat(INCOMPAT_EA_INODE) || self.blocks(superblock)? <= xattr_units;
        Ok(size < 60 && no_blocks && !self.has(FLAG_INLINE_DATA)?)
    }

    /// The extended attributes inside the inode: the bytes behind the extra fields.
    pub(super) fn xattr_space(&self) -> Result<Record<'_>> {
        let record = self.record();
        let at = usize::from(extra_isize(&record)?).saturating_add(128).min(record.len());
        record.sub(at, record.len().saturating_sub(at))
    }

    pub(super) fn metadata(&self, superblock: &Superblock) -> Result<Metadata> {
        let record = self.record();
        let mode = self.mode()?;
        let file_type = self.file_type()?;
        let extra = usize::from(extra_isize(&record)?);
        let has = |at: usize| extra.saturating_add(128) >= at.saturating_add(4);
        let time = |at: usize, extra_at: usize| -> Result<Timestamp> {
            let extra = if has(extra_at) { record.le32(extra_at)? } else { 0 };
            Ok(timestamp(record.le32(at)?, extra))
        };
        let half = |low: usize, high: usize| -> Result<u32> {
            Ok(u32::from(record.le16(low)?) | u32::from(record.le16(high)?) << 16)
        };
        let rdev = match file_type {
            FileType::Char | FileType::Block => Some(device_number(record.le32(0x28)?, record.le32(0x2c)?)),
            _ => None,
        };
        Ok(Metadata {
            inode: u64::from(self.number),
            file_type,
            permissions: mode & 0o7777,
            uid: half(0x2, 0x78)?,
            gid: half(0x18, 0x7a)?,
            nlink: u64::from(self.links_count()?),
            size: self.size(superblock)?,
            blocks: self.blocks(superblock)?,
            block_size: superblock.block_size,
            rdev,
            atime: time(0x8, 0x8c)?,
            mtime: time(0x10, 0x88)?,
            ctime: time(0xc, 0x84)?,
            crtime: if has(0x90) { Some(time(0x90, 0x94)?) } else { None },
            encrypted: self.has(FLAG_ENCRYPT)?,
        })
    }
}

fn extra_isize(record: &Record<'_>) -> Result<u16> {
    if record.len() <= 128 {
        return Ok(0);
    }
    let extra = record.le16(0x80)?;
    if extra % 4 != 0 || usize::from(extra).saturating_add(128) > record.len() {
        let expected = format!("a multiple of 4 up to {}", record.len().saturating_sub(128));
        return Err(record.corrupt("i_extra_isize", 0x80, extra, expected));
    }
    Ok(extra)
}

fn verify(record: &Record<'_>, seed: u32, extra: u16) -> Result<()> {
    let wide = record.len() > 128 && extra >= 4;
    let mut sum = extend(extend(extend(seed, record.slice(0, 0x7c)?), &[0, 0]), record.slice(0x7e, 2)?);
    if record.len() > 128 {
        sum = extend(sum, record.slice(0x80, 2)?);
        sum = if wide { extend(sum, &[0, 0]) } else { extend(sum, record.slice(0x82, 2)?) };
        sum = extend(sum, record.slice(0x84, record.len().saturating_sub(0x84))?);
    }
    let low = u32::from(record.le16(0x7c)?);
    let stored = if wide { low | u32::from(record.le16(0x82)?) << 16 } else { low };
    let computed = if wide { sum } else { sum & 0xffff };
    if stored != computed {
        return Err(record.corrupt("i_checksum", 0x7c, format!("{stored:#x}"), format!("{computed:#x}")));
    }
    Ok(())
}

/// Seconds are signed 32 bits, extended upwards by the two epoch bits of the extra word.
fn timestamp(seconds: u32, extra: u32) -> Timestamp {
    let epoch = i64::from(extra & 3) << 32;
    Timestamp { seconds: i64::from(to_i32(seconds)).saturating_add(epoch), nanoseconds: (extra >> 2).min(999_999_999) }
}

/// Device numbers up to 255:255 in the first word, larger ones in the second.
fn device_number(old: u32, new: u32) -> DeviceNumber {
    if old != 0 {
        return DeviceNumber { major: (old >> 8) & 0xff, minor: old & 0xff };
    }
    DeviceNumber { major: (new >> 8) & 0xfff, minor: (new & 0xff) | ((new >> 12) & 0xf_ff00) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_reach_from_1901_to_2446() {
        assert_eq!(timestamp(0x8000_0000, 0), Timestamp { seconds: -2_147_483_648, nanoseconds: 0 });
        assert_eq!(timestamp(0xffff_ffff, 999_999_999 << 2), Timestamp { seconds: -1, nanoseconds: 999_999_999 });
        assert_eq!(timestamp(0x7fff_ffff, 3), Timestamp { seconds: 0x3_7fff_ffff, nanoseconds: 0 });
        assert_eq!(timestamp(0xf486_5700, 1).seconds, 4_102_444_800, "2100-01-01");
    }

    #[test]
    fn device_numbers_in_both_encodings() {
        assert_eq!(device_number(0x0103, 0), DeviceNumber { major: 1, minor: 3 });
        assert_eq!(device_number(0, 0x0011_032c), DeviceNumber { major: 259, minor: 300 });
    }
}
