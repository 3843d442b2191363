//! Feature words of the superblock. A compatible feature may be ignored, a read-only-compatible one may be ignored by
//! readers, an incompatible one must be known: those in [`KNOWN_INCOMPAT`] are read, all others are refused by name.
//!
//! Source: kernel documentation, "ext4 Data Structures and Algorithms", section "Super Block".

use crate::error::{Error, Result};

pub(super) const COMPAT_HAS_JOURNAL: u32 = 0x4;
pub(super) const COMPAT_SPARSE_SUPER2: u32 = 0x200;
pub(super) const COMPAT_ORPHAN_FILE: u32 = 0x1000;

pub(super) const INCOMPAT_FILETYPE: u32 = 0x2;
pub(super) const INCOMPAT_RECOVER: u32 = 0x4;
pub(super) const INCOMPAT_META_BG: u32 = 0x10;
pub(super) const INCOMPAT_EXTENTS: u32 = 0x40;
pub(super) const INCOMPAT_64BIT: u32 = 0x80;
pub(super) const INCOMPAT_EA_INODE: u32 = 0x400;
pub(super) const INCOMPAT_CSUM_SEED: u32 = 0x2000;
pub(super) const INCOMPAT_LARGEDIR: u32 = 0x4000;

pub(super) const RO_COMPAT_SPARSE_SUPER: u32 = 0x1;
pub(super) const RO_COMPAT_HUGE_FILE: u32 = 0x8;
pub(super) const RO_COMPAT_GDT_CSUM: u32 = 0x10;
pub(super) const RO_COMPAT_BIGALLOC: u32 = 0x200;
pub(super) const RO_COMPAT_METADATA_CSUM: u32 = 0x400;
pub(super) const RO_COMPAT_ORPHAN_PRESENT: u32 = 0x1_0000;

/// (bit, name, whether it is read).
const INCOMPAT: [(u32, &str, bool); 16] = [
    (0x1, "compression", false),
    (INCOMPAT_FILETYPE, "filetype", true),
    (INCOMPAT_RECOVER, "needs_recovery", true),
    (0x8, "journal_dev", false),
    (INCOMPAT_META_BG, "meta_bg", true),
    (INCOMPAT_EXTENTS, "extents", true),
    (INCOMPAT_64BIT, "64bit", true),
    (0x100, "mmp", true),
    (0x200, "flex_bg", true),
    (INCOMPAT_EA_INODE, "ea_inode", true),
    (0x1000, "dirdata", false),
    (INCOMPAT_CSUM_SEED, "metadata_csum_seed", true),
    (INCOMPAT_LARGEDIR, "large_dir", true),
    (0x8000, "inline_data", true),
    (0x1_0000, "encrypt", true),
    (0x2_0000, "casefold", true),
];

/// The feature words, checked: no incompatible feature is unknown.
#[derive(Debug, Clone, Copy)]
pub(super) struct Features {
    pub compat: u32,
    pub incompat: u32,
    pub ro_compat: u32,
}

impl Features {
    /// Refuses, by name, what cannot be read rightly.
    pub(super) fn check(self) -> Result<Self> {
        for bit in (0..32u32).map(|shift| 1u32 << shift).filter(|bit| self.incompat & bit != 0) {
            match INCOMPAT.iter().find(|(known, ..)| *known == bit) {
                Some((_, _, true)) => {}
                Some((_, name, false)) => return Err(Error::unsupported("ext4", format!("feature {name}"))),
                None => return Err(Error::unsupported("ext4", format!("unknown incompatible feature {bit:#x}"))),
            }
        }
        Ok(self)
    }

    pub(super) fn compat(self, bit: u32) -> bool {
        self.compat & bit != 0
    }

    pub(super) fn incompat(self, bit: u32) -> bool {
        self.incompat & bit != 0
    }

    pub(super) fn ro_compat(self, bit: u32) -> bool {
        self.ro_compat & bit != 0
    }

    pub(super) fn metadata_csum(self) -> bool {
        self.ro_compat(RO_COMPAT_METADATA_CSUM)
    }
}
