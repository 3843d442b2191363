//! What lies on a device, by its signatures: kind, label and UUID, with the names and spellings of blkid(8), which
//! libguestfs's `vfs_type`, `vfs_label` and `vfs_uuid` report too. Kinds that cannot be read yet are still named.
//!
//! | kind | signature | at byte | label | UUID |
//! |---|---|---|---|---|
//! | ext2, ext3, ext4 | 53 ef | 0x438 | 0x478, 16 | 0x468, RFC 9562 |
//! | xfs | `XFSB` | 0 | 0x6c, 12 | 0x20 |
//! | btrfs | `_BHRfS_M` | 0x10040 | 0x1012b, 256 | 0x10020 |
//! | swap | `SWAPSPACE2`, `SWAP-SPACE` | page end − 10 | 0x41c, 16 | 0x40c |
//! | vfat | boot sector (`fat` checks it) | 0 | root directory entry | serial as `XXXX-XXXX` |
//! | ntfs | `NTFS    ` | 3 | (in $Volume) | 0x48 as 16 digits |
//! | crypto_LUKS | `LUKS\xba\xbe` | 0 | 0x18, 48 (version 2) | 0xa8 as text |
//! | LVM2_member | `LABELONE`, type `LVM2 001` | 512 × (0…3) | – | in the label's PV header |
//! | squashfs, erofs, f2fs, iso9660, exfat, hfsplus, apfs, ufs, linux_raid_member, BitLocker, zfs_member | see below | | | |

use serde::Serialize;

use super::fat;
use crate::block::{BlockDevice, read_vec};
use crate::bytes::{Record, fixed_text, to_usize, uuid_text};
use crate::error::Result;

/// What lies on a device; the names are blkid's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[allow(missing_docs, reason = "each is a filesystem's or container's proper name")]
#[non_exhaustive]
pub enum FsKind {
    Ext2,
    Ext3,
    Ext4,
    Vfat,
    Xfs,
    Btrfs,
    Ntfs,
    Exfat,
    Iso9660,
    Squashfs,
    Erofs,
    F2fs,
    HfsPlus,
    Apfs,
    Ufs,
    Swap,
    Luks,
    BitLocker,
    Lvm2Member,
    RaidMember,
    ZfsMember,
    Unknown,
}

impl FsKind {
    /// blkid's name; `unknown` when there is no known signature.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext2 => "ext2",
            Self::Ext3 => "ext3",
            Self::Ext4 => "ext4",
            Self::Vfat => "vfat",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
            Self::Ntfs => "ntfs",
            Self::Exfat => "exfat",
            Self::Iso9660 => "iso9660",
            Self::Squashfs => "squashfs",
            Self::Erofs => "erofs",
            Self::F2fs => "f2fs",
            Self::HfsPlus => "hfsplus",
            Self::Apfs => "apfs",
            Self::Ufs => "ufs",
            Self::Swap => "swap",
            Self::Luks => "crypto_LUKS",
            Self::BitLocker => "BitLocker",
            Self::Lvm2Member => "LVM2_member",
            Self::RaidMember => "linux_raid_member",
            Self::ZfsMember => "zfs_member",
            Self::Unknown => "unknown",
        }
    }

    /// Whether it is a part of something else (a volume group, an array, an encrypted container) and no filesystem of its
    /// own; `list_filesystems` leaves those out.
    #[must_use]
    pub fn is_container(self) -> bool {
        matches!(self, Self::Luks | Self::BitLocker | Self::Lvm2Member | Self::RaidMember | Self::ZfsMember)
    }
}

/// Kind, label and UUID of what lies on a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The kind.
    pub kind: FsKind,
    /// The label, when it has one.
    pub label: Option<String>,
    /// The UUID or serial number, spelled as blkid does.
    pub uuid: Option<String>,
}

impl Identity {
    fn bare(kind: FsKind) -> Self {
        Self { kind, label: None, uuid: None }
    }

    fn new(kind: FsKind, label: String, uuid: Option<String>) -> Self {
        Self { kind, label: Some(label).filter(|label| !label.is_empty()), uuid }
    }
}

/// The bytes read at once from the beginning; every signature but those of other page sizes lies inside.
const HEAD: u64 = 0x1_2000;

/// Looks for every known signature on `device`. Reads at most some 100 KiB.
pub fn probe(device: &dyn BlockDevice) -> Result<Identity> {
    let head = read_vec(device, 0, to_usize(device.size().min(HEAD)))?;
    let record = Record::new("filesystem", &head, 0);
    let has = |at: usize, magic: &[u8]| head.get(at..).is_some_and(|rest| rest.starts_with(magic));
    let text =
        |at: usize, len: usize| head.get(at..).and_then(|rest| rest.get(..len)).map(fixed_text).unwrap_or_default();
    let uuid = |at: usize| record.array::<16>(at).ok().filter(|uuid| **uuid != [0; 16]).map(uuid_text);

    // Containers first: what lies inside them can leave signatures of its own.
    if has(0, b"LUKS\xba\xbe") {
        let label = if record.be16(6)? == 2 { text(0x18, 48) } else { String::new() };
        return Ok(Identity::new(FsKind::Luks, label, Some(text(0xa8, 40)).filter(|uuid| !uuid.is_empty())));
    }
    for sector in 0..4usize {
        let at = sector.saturating_mul(512);
        if has(at, b"LABELONE") && has(at.saturating_add(24), b"LVM2 001") {
            let header = at.saturating_add(to_usize(u64::from(record.le32(at.saturating_add(20))?)));
            return Ok(Identity::new(FsKind::Lvm2Member, String::new(), Some(lvm_uuid(&text(header, 32)))));
        }
    }
    if let Some(identity) = raid_member(device, &record)? {
        return Ok(identity);
    }
    if has(3, b"-FVE-FS-") {
        return Ok(Identity::bare(FsKind::BitLocker));
    }

    if has(0x438, &[0x53, 0xef]) {
        return Ok(Identity::new(ext_kind(&record)?, text(0x478, 16), uuid(0x468)));
    }
    if has(0, b"XFSB") {
        return Ok(Identity::new(FsKind::Xfs, text(0x6c, 12), uuid(0x20)));
    }
    if has(0x1_0040, b"_BHRfS_M") {
        return Ok(Identity::new(FsKind::Btrfs, text(0x1_012b, 256), uuid(0x1_0020)));
    }
    for page in [0x1000usize, 0x2000, 0x4000, 0x8000, 0x1_0000] {
        let at = page.saturating_sub(10);
        if has(at, b"SWAPSPACE2") || has(at, b"SWAP-SPACE") {
            return Ok(Identity::new(FsKind::Swap, text(0x41c, 16), uuid(0x40c)));
        }
    }
    if has(3, b"NTFS    ") {
        let serial = record.le64(0x48)?;
        return Ok(Identity::new(FsKind::Ntfs, String::new(), Some(format!("{serial:016X}"))));
    }
    if has(3, b"EXFAT   ") {
        let serial = record.le32(0x64)?;
        return Ok(Identity::new(FsKind::Exfat, String::new(), Some(fat_serial(serial))));
    }
    if has(0, b"hsqs") {
        return Ok(Identity::bare(FsKind::Squashfs));
    }
    if has(0x400, &[0xe2, 0xe1, 0xf5, 0xe0]) {
        return Ok(Identity::new(FsKind::Erofs, text(0x440, 16), uuid(0x430)));
    }
    if has(0x400, &[0x10, 0x20, 0xf5, 0xf2]) {
        return Ok(Identity::new(FsKind::F2fs, String::new(), uuid(0x46c)));
    }
    if has(0x400, b"H+\0\x04") || has(0x400, b"HX\0\x05") {
        return Ok(Identity::bare(FsKind::HfsPlus));
    }
    if has(0x20, b"NXSB") {
        return Ok(Identity::new(FsKind::Apfs, String::new(), uuid(0x48)));
    }
    if has(0x8001, b"CD001") {
        return Ok(Identity::new(FsKind::Iso9660, text(0x8028, 32), None));
    }
    for at in [0x2000usize, 0x1_0000] {
        let magic = at.saturating_add(0x55c);
        if has(magic, &[0x54, 0x19, 0x01, 0x00]) || has(magic, &[0x19, 0x01, 0x54, 0x19]) {
            return Ok(Identity::bare(FsKind::Ufs));
        }
    }
    if let Some((label, serial)) = fat::identify(device, &head)? {
        return Ok(Identity::new(FsKind::Vfat, label.unwrap_or_default(), serial.map(fat_serial)));
    }
    Ok(Identity::bare(FsKind::Unknown))
}

/// A FAT or exFAT volume serial number as blkid and fstab spell it.
#[must_use]
pub(super) fn fat_serial(serial: u32) -> String {
    format!("{:04X}-{:04X}", serial >> 16, serial & 0xffff)
}

/// ext2, 3 or 4 by its features, as libblkid decides: a journal makes it ext3, anything ext3 did not know makes it ext4.
fn ext_kind(record: &Record<'_>) -> Result<FsKind> {
    const HAS_JOURNAL: u32 = 0x4;
    const EXT3_INCOMPAT: u32 = 0x2 | 0x4 | 0x10;
    const EXT3_RO_COMPAT: u32 = 0x1 | 0x2 | 0x4;
    let (compat, incompat, ro_compat) = (record.le32(0x45c)?, record.le32(0x460)?, record.le32(0x464)?);
    Ok(if incompat & !EXT3_INCOMPAT != 0 || ro_compat & !EXT3_RO_COMPAT != 0 {
        FsKind::Ext4
    } else if compat & HAS_JOURNAL != 0 {
        FsKind::Ext3
    } else {
        FsKind::Ext2
    })
}

/// Thirty-two letters in LVM's groups of 6-4-4-4-4-4-6.
fn lvm_uuid(letters: &str) -> String {
    let mut text = String::new();
    for (index, letter) in letters.chars().enumerate() {
        if matches!(index, 6 | 10 | 14 | 18 | 22 | 26) {
            text.push('-');
        }
        text.push(letter);
    }
    text
}

/// An MD RAID member: version 1.1 at byte 0, 1.2 at 4096, 1.0 near the end, 0.90 in the last 64 KiB-aligned 64 KiB.
fn raid_member(device: &dyn BlockDevice, record: &Record<'_>) -> Result<Option<Identity>> {
    const MAGIC: u32 = 0xa92b_4efc;
    let member = |record: &Record<'_>, at: usize, name: usize, uuid: usize| -> Result<Identity> {
        let label = fixed_text(record.slice(at.saturating_add(name), 32).unwrap_or_default());
        let uuid = record.array::<16>(at.saturating_add(uuid)).ok().map(uuid_text);
        Ok(Identity::new(FsKind::RaidMember, label, uuid))
    };
    for at in [0usize, 4096] {
        if record.le32(at).is_ok_and(|magic| magic == MAGIC) && record.le32(at.saturating_add(4))? == 1 {
            return member(record, at, 32, 16).map(Some);
        }
    }
    let size = device.size();
    let version_1_0 = size.checked_sub(8192).map(|at| at & !4095);
    let version_0_90 = (size & !0xffff).checked_sub(0x1_0000);
    for (at, major) in [(version_1_0, 1), (version_0_90, 0)] {
        let Some(at) = at.filter(|at| at.checked_add(4096).is_some_and(|end| end <= size)) else { continue };
        let bytes = read_vec(device, at, 4096)?;
        let record = Record::new("md", &bytes, at);
        if record.le32(0)? == MAGIC && record.le32(4)? == major {
            let identity = if major == 1 { member(&record, 0, 32, 16)? } else { Identity::bare(FsKind::RaidMember) };
            return Ok(Some(identity));
        }
    }
    Ok(None)
}
