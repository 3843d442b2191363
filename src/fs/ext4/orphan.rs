//! Orphans: inodes that were deleted while open, or were being truncated, when the filesystem was last in use. The kernel
//! finishes both at the next mount; a view that never writes counts what that would free, and says so.
//!
//! The old list starts at s_last_orphan and goes on in each inode's i_dtime. With orphan_file, an inode
//! (s_orphan_file_inum) holds blocks of inode numbers instead, each block ending in `ob_magic` 0x0b10ca04 and a checksum.
//! An orphan with links was being truncated: its size is already the new one, so nothing visible is left to do but its
//! block count. Source: kernel documentation, section "Orphan file".

use std::collections::BTreeSet;

use super::Ext4;
use super::checksum::extend;
use super::features::{COMPAT_ORPHAN_FILE, RO_COMPAT_ORPHAN_PRESENT};
use crate::block::read_vec;
use crate::bytes::{Record, div_rem, to_usize};
use crate::error::Result;

const TAIL_MAGIC: u32 = 0x0b10_ca04;

/// What the next mount would free.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Orphans {
    /// Inodes without links, which would be deleted.
    pub deleted: u64,
    /// Their allocated units of 512 bytes.
    pub deleted_units: u64,
    /// Inodes with links, whose truncation would be finished.
    pub truncated: u64,
}

impl Ext4 {
    /// Finds all orphans. A damaged list ends where the damage is, as it does for the kernel.
    pub(super) fn find_orphans(&self) -> Result<Orphans> {
        let mut numbers = BTreeSet::new();
        let mut next = self.superblock.last_orphan;
        while next != 0 && next <= self.superblock.inodes_count && numbers.insert(next) {
            match self.inode(next) {
                Ok(inode) => next = inode.record().le32(0x14)?,
                Err(error) => {
                    log::debug!("orphan list ends at inode {next}: {error}");
                    break;
                }
            }
        }
        let features = self.superblock.features;
        if features.compat(COMPAT_ORPHAN_FILE) && features.ro_compat(RO_COMPAT_ORPHAN_PRESENT) {
            self.read_orphan_file(&mut numbers)?;
        }
        let mut orphans = Orphans::default();
        for number in numbers {
            let Ok(inode) = self.inode(number) else { continue };
            if inode.links_count()? == 0 {
                orphans.deleted = orphans.deleted.saturating_add(1);
                orphans.deleted_units = orphans.deleted_units.saturating_add(inode.blocks(&self.superblock)?);
            } else {
                orphans.truncated = orphans.truncated.saturating_add(1);
            }
        }
        Ok(orphans)
    }

    fn read_orphan_file(&self, numbers: &mut BTreeSet<u32>) -> Result<()> {
        let inode = self.inode(self.superblock.orphan_file_inum)?;
        let block_size = u64::from(self.superblock.block_size);
        let (blocks, _) = div_rem(inode.size(&self.superblock)?, block_size);
        // The kernel's own bound on the file.
        let blocks = crate::limits::check("orphan file blocks", blocks, 512)?;
        for logical in 0..blocks {
            let Some(physical) = self.map_block(&inode, logical)?.physical else { continue };
            let offset = self.superblock.block_offset(physical, "orphan file block", inode.offset)?;
            let bytes = read_vec(&self.metadata, offset, to_usize(block_size))?;
            let record = Record::new("ext4", &bytes, offset);
            let tail = record.len().saturating_sub(8);
            let magic = record.le32(tail)?;
            if magic != TAIL_MAGIC {
                return Err(record.corrupt("ob_magic", tail, format!("{magic:#x}"), format!("{TAIL_MAGIC:#x}")));
            }
            if self.superblock.features.metadata_csum() {
                let computed = extend(extend(inode.checksum_seed, &physical.to_le_bytes()), record.slice(0, tail)?);
                let stored = record.le32(tail.saturating_add(4))?;
                if stored != computed {
                    return Err(record.corrupt(
                        "ob_checksum",
                        tail.saturating_add(4),
                        format!("{stored:#x}"),
                        format!("{computed:#x}"),
                    ));
                }
            }
            for at in (0..tail).step_by(4) {
                let number = record.le32(at)?;
                if number != 0 && number <= self.superblock.inodes_count {
                    numbers.insert(number);
                }
            }
        }
        Ok(())
    }
}
