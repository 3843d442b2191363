//! The boot sector: where the tables, the root directory and the clusters lie.
//!
//! "FAT32 File System Specification" 1.03, sections "Boot Sector and BPB" and "FAT Type Determination" (ECMA-107 § 8 for
//! FAT12 and FAT16). All integers little-endian.
//!
//! | byte | size | field | unit | accepted |
//! |---|---|---|---|---|
//! | 0 | 3 | BS_jmpBoot | | `eb` or `e9` first, unless byte 0x36 or 0x52 names the type |
//! | 11 | 2 | BPB_BytsPerSec | bytes | 512, 1024, 2048, 4096 |
//! | 13 | 1 | BPB_SecPerClus | sectors | a power of two |
//! | 14 | 2 | BPB_RsvdSecCnt | sectors | not 0 |
//! | 16 | 1 | BPB_NumFATs | | not 0 |
//! | 17 | 2 | BPB_RootEntCnt | entries | whole sectors; not 0 for FAT12/16 |
//! | 19 | 2 | BPB_TotSec16 | sectors | 0: BPB_TotSec32 counts |
//! | 21 | 1 | BPB_Media | | `f0`, `f8`–`ff` |
//! | 22 | 2 | BPB_FATSz16 | sectors | 0: FAT32 |
//! | 32 | 4 | BPB_TotSec32 | sectors | not 0 where it counts |
//! | 36 | 4 | BPB_FATSz32 | sectors | FAT32 |
//! | 40 | 2 | BPB_ExtFlags | | FAT32; bit 7: only the FAT in bits 0–3 is in use |
//! | 42 | 2 | BPB_FSVer | | FAT32; 0 |
//! | 44 | 4 | BPB_RootClus | cluster | FAT32 |
//! | 48 | 2 | BPB_FSInfo | sector | FAT32 |
//! | 37 / 65 | 1 | BS_Reserved1 | | bit 0: mounted when last seen |
//! | 38 / 66 | 1 | BS_BootSig | | `29`: serial and label follow; `28`: the serial alone |
//! | 39 / 67 | 4 | BS_VolID | | |
//! | 43 / 71 | 11 | BS_VolLab | | `NO NAME` is none |
//! | 54 / 82 | 8 | BS_FilSysType | | only a hint, the count of clusters decides |
//! | 510 | 2 | signature | | `55 aa`, unless byte 0x36 or 0x52 names the type |
//!
//! The type follows from the count of clusters: less than 4085 is FAT12, less than 65525 is FAT16, else FAT32. The one
//! exception is every driver's: a volume without BPB_FATSz16 is FAT32 however small it is, because `mkfs.fat -F 32`
//! makes such EFI system partitions and nothing else could be meant by a FAT whose length stands in the FAT32 field.

use std::ops::Range;

use crate::bytes::Record;
use crate::error::Result;

/// The name of the format in errors, as `Record` carries it.
pub(super) const FORMAT: &str = "fat";

/// The largest valid count of clusters of FAT12 and of FAT16, and of FAT32 (28 bits less the reserved values).
const MAX_FAT12: u64 = 4_084;
const MAX_FAT16: u64 = 65_524;
const MAX_FAT32: u64 = 0x0fff_fff5;

/// How wide the entries of the file allocation table are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FatType {
    Fat12,
    Fat16,
    Fat32,
}

impl FatType {
    /// Bits of one table entry as stored.
    pub(super) fn bits(self) -> u64 {
        match self {
            Self::Fat12 => 12,
            Self::Fat16 => 16,
            Self::Fat32 => 32,
        }
    }
}

/// Where the root directory lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Root {
    /// FAT12 and FAT16: these bytes of the device.
    Fixed(Range<u64>),
    /// FAT32: the chain that begins with this cluster.
    Chain(u32),
}

/// A volume's layout in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BootSector {
    pub(super) fat_type: FatType,
    /// Bytes of one cluster.
    pub(super) cluster_size: u64,
    /// The file allocation table in use.
    pub(super) fat: Range<u64>,
    pub(super) root: Root,
    /// The first byte of cluster 2.
    pub(super) data: u64,
    /// Clusters that can hold data; their numbers begin at 2.
    pub(super) clusters: u32,
    pub(super) serial: Option<u32>,
    /// The boot sector's copy of the label.
    pub(super) label: Option<[u8; 11]>,
    /// The first byte of the FSInfo sector.
    pub(super) fs_info: Option<u64>,
    /// Not unmounted cleanly, says the boot sector.
    pub(super) dirty: bool,
}

/// Whether a sector claims to be a FAT boot sector at all: by a type's name, or by a jump and the signature. Other
/// filesystems of OS/2 descent carry the jump, the signature and a plausible BPB; they are told by their names.
pub(super) fn claims_fat(sector: &[u8]) -> bool {
    let has = |at: usize, text: &[u8]| sector.get(at..).is_some_and(|rest| rest.starts_with(text));
    if has(0x36, b"JFS     ") || has(0x36, b"HPFS    ") || has(3, b"NTFS    ") || has(3, b"EXFAT   ") {
        return false;
    }
    let names: [(usize, &[u8]); 6] = [
        (0x52, b"FAT32   "),
        (0x52, b"MSWIN"),
        (0x36, b"FAT16   "),
        (0x36, b"FAT12   "),
        (0x36, b"FAT     "),
        (0x36, b"MSDOS"),
    ];
    let jumps = has(0, &[0xeb]) || has(0, &[0xe9]);
    names.iter().any(|(at, name)| has(*at, name)) || (jumps && has(510, &[0x55, 0xaa]))
}

impl BootSector {
    /// Reads the first 512 bytes of a volume.
    pub(super) fn parse(sector: &Record<'_>) -> Result<Self> {
        let sector_size = u64::from(sector.le16(11)?);
        if !matches!(sector_size, 512 | 1024 | 2048 | 4096) {
            return Err(sector.corrupt("BPB_BytsPerSec", 11, sector_size, "512, 1024, 2048 or 4096"));
        }
        let per_cluster = sector.u8(13)?;
        if !per_cluster.is_power_of_two() {
            return Err(sector.corrupt("BPB_SecPerClus", 13, per_cluster, "a power of two"));
        }
        let reserved = u64::from(sector.le16(14)?);
        if reserved == 0 {
            return Err(sector.corrupt("BPB_RsvdSecCnt", 14, 0, "at least 1"));
        }
        let fats = u64::from(sector.u8(16)?);
        if fats == 0 {
            return Err(sector.corrupt("BPB_NumFATs", 16, 0, "at least 1"));
        }
        let media = sector.u8(21)?;
        if media != 0xf0 && media < 0xf8 {
            return Err(sector.corrupt("BPB_Media", 21, format!("{media:#x}"), "0xf0 or 0xf8 to 0xff"));
        }
        let (short_size, long_size) = (sector.le16(22)?, sector.le32(36)?);
        let is_fat32 = short_size == 0;
        let fat_sectors = if is_fat32 { u64::from(long_size) } else { u64::from(short_size) };
        if fat_sectors == 0 {
            return Err(sector.corrupt("BPB_FATSz32", 36, 0, "at least 1"));
        }
        let root_bytes = u64::from(sector.le16(17)?).saturating_mul(32);
        if !root_bytes.is_multiple_of(sector_size) || (root_bytes == 0 && !is_fat32) {
            return Err(sector.corrupt("BPB_RootEntCnt", 17, sector.le16(17)?, "whole sectors; not 0 but for FAT32"));
        }
        let (total_field, total_at, total) = match (sector.le16(19)?, sector.le32(32)?) {
            (0, total) => ("BPB_TotSec32", 32, u64::from(total)),
            (total, _) => ("BPB_TotSec16", 19, u64::from(total)),
        };

        // At most 2^16 sectors, 255 tables of 2^32 sectors, 2^21 bytes of root directory: no sum here can overflow.
        let fat_size = fat_sectors.saturating_mul(sector_size);
        let first_fat = reserved.saturating_mul(sector_size);
        let root_start = first_fat.saturating_add(fats.saturating_mul(fat_size));
        let data = root_start.saturating_add(root_bytes);
        let cluster_size = u64::from(per_cluster).saturating_mul(sector_size);
        let size = total.saturating_mul(sector_size);
        let clusters = size.saturating_sub(data).checked_div(cluster_size).unwrap_or(0);
        if clusters == 0 {
            let expected = format!("more than the {} before the data", data.checked_div(sector_size).unwrap_or(0));
            return Err(sector.corrupt(total_field, total_at, total, expected));
        }
        let (fat_type, most) = match clusters {
            _ if is_fat32 => (FatType::Fat32, MAX_FAT32),
            ..=MAX_FAT12 => (FatType::Fat12, MAX_FAT12),
            _ => (FatType::Fat16, MAX_FAT16),
        };
        // A table may be too short for the volume's size; what it cannot name does not exist.
        let entries = fat_size.saturating_mul(8).checked_div(fat_type.bits()).unwrap_or(0);
        let clusters = match u32::try_from(clusters.min(entries.saturating_sub(2))) {
            Ok(clusters) if clusters > 0 && u64::from(clusters) <= most => clusters,
            _ => {
                let expected = format!("at most {most} clusters, and a table that holds them");
                return Err(sector.corrupt(total_field, total_at, format!("{clusters} clusters"), expected));
            }
        };

        let mut active = 0;
        let (mut root, mut fs_info, mut extended) = (Root::Fixed(root_start..data), None, 36usize);
        if is_fat32 {
            let version = sector.le16(42)?;
            if version != 0 {
                return Err(sector.corrupt("BPB_FSVer", 42, version, 0));
            }
            let flags = sector.le16(40)?;
            if flags & 0x80 != 0 {
                active = u64::from(flags & 0xf);
            }
            if active >= fats {
                return Err(sector.corrupt("BPB_ExtFlags", 40, format!("table {active}"), format!("below {fats}")));
            }
            let info = u64::from(sector.le16(48)?);
            root = Root::Chain(sector.le32(44)?);
            fs_info = (info != 0 && info < reserved).then(|| info.saturating_mul(sector_size));
            extended = 64;
        }
        let fat = first_fat.saturating_add(active.saturating_mul(fat_size));
        let signature = sector.u8(extended.saturating_add(2))?;
        Ok(Self {
            fat_type,
            cluster_size,
            fat: fat..fat.saturating_add(fat_size),
            root,
            data,
            clusters,
            serial: match signature {
                0x28 | 0x29 => Some(sector.le32(extended.saturating_add(3))?),
                _ => None,
            },
            label: match signature {
                0x29 => Some(*sector.array(extended.saturating_add(7))?),
                _ => None,
            },
            fs_info,
            dirty: sector.u8(extended.saturating_add(1))? & 1 != 0,
        })
    }

    /// The bytes of cluster `number`, which must be one of the volume's.
    pub(super) fn cluster_offset(&self, number: u32) -> u64 {
        self.data.saturating_add(u64::from(number.saturating_sub(2)).saturating_mul(self.cluster_size))
    }

    /// Whether the volume has a cluster of this number.
    pub(super) fn has_cluster(&self, number: u32) -> bool {
        number >= 2 && number.saturating_sub(2) < self.clusters
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A FAT16 volume of 20 MiB: 512-byte sectors, 4 to a cluster, two tables of 40 sectors, 512 root entries.
    fn sector() -> Vec<u8> {
        let mut bytes = vec![0; 512];
        bytes[..3].copy_from_slice(&[0xeb, 0x3c, 0x90]);
        bytes[11..13].copy_from_slice(&512u16.to_le_bytes());
        bytes[13..17].copy_from_slice(&[4, 1, 0, 2]);
        bytes[17..19].copy_from_slice(&512u16.to_le_bytes());
        bytes[19..21].copy_from_slice(&40_960u16.to_le_bytes());
        bytes[21..24].copy_from_slice(&[0xf8, 40, 0]);
        bytes[38..43].copy_from_slice(&[0x29, 0x78, 0x56, 0x34, 0x12]);
        bytes[43..54].copy_from_slice(b"NO NAME    ");
        bytes[510..].copy_from_slice(&[0x55, 0xaa]);
        bytes
    }

    fn parse(bytes: &[u8]) -> Result<BootSector> {
        BootSector::parse(&Record::new(FORMAT, bytes, 0))
    }

    #[test]
    fn a_volume_is_laid_out_as_the_specification_says() {
        let boot = parse(&sector()).unwrap();
        let expected = BootSector {
            fat_type: FatType::Fat16,
            cluster_size: 2048,
            fat: 512..512 + 40 * 512,
            root: Root::Fixed(81 * 512..113 * 512),
            data: 113 * 512,
            clusters: (40_960 - 113) / 4,
            serial: Some(0x1234_5678),
            label: Some(*b"NO NAME    "),
            fs_info: None,
            dirty: false,
        };
        assert_eq!(boot, expected);
        assert_eq!(boot.cluster_offset(3), 113 * 512 + 2048);
        assert!(!boot.has_cluster(1) && boot.has_cluster(2));
        assert!(boot.has_cluster(boot.clusters + 1) && !boot.has_cluster(boot.clusters + 2));
    }

    #[test]
    fn each_broken_field_is_named() {
        let table: [(&str, usize, &[u8]); 12] = [
            ("BPB_BytsPerSec", 11, &[0, 0]),
            ("BPB_BytsPerSec", 11, &[0, 0x20]),
            ("BPB_SecPerClus", 13, &[0]),
            ("BPB_SecPerClus", 13, &[3]),
            ("BPB_RsvdSecCnt", 14, &[0, 0]),
            ("BPB_NumFATs", 16, &[0]),
            ("BPB_RootEntCnt", 17, &[1, 0]),
            ("BPB_RootEntCnt", 17, &[0, 0]),
            ("BPB_TotSec16", 19, &[113, 0]),
            ("BPB_TotSec32", 19, &[0, 0]),
            ("BPB_Media", 21, &[0xf1]),
            ("BPB_FATSz32", 22, &[0; 18]),
        ];
        for (field, at, bytes) in table {
            let mut sector = sector();
            sector[at..at + bytes.len()].copy_from_slice(bytes);
            assert_eq!(parse(&sector).unwrap_err().as_corrupt().unwrap().field, field, "{at} {bytes:?}");
        }
        assert_eq!(parse(&sector()[..30]).unwrap_err().as_corrupt().unwrap().field, "length");
    }

    #[test]
    fn fat32_fields_are_checked_too() {
        let mut fat32 = sector();
        fat32[17..19].fill(0);
        fat32[22..24].fill(0);
        fat32[36..90].fill(0);
        fat32[36..40].copy_from_slice(&[40, 0, 0, 0]);
        fat32[44] = 2;
        let boot = parse(&fat32).unwrap();
        assert_eq!((boot.fat_type, boot.root), (FatType::Fat32, Root::Chain(2)), "small, but FAT32 by its fields");
        assert_eq!(boot.clusters, 40 * 128 - 2, "what the table cannot name does not exist");
        for (field, at, byte) in [("BPB_FSVer", 42, 1), ("BPB_ExtFlags", 40, 0x82)] {
            let mut bytes = fat32.clone();
            bytes[at] = byte;
            assert_eq!(parse(&bytes).unwrap_err().as_corrupt().unwrap().field, field);
        }
        fat32[40] = 0x81;
        assert_eq!(parse(&fat32).unwrap().fat, 41 * 512..81 * 512, "the second table alone is in use");
    }

    #[test]
    fn other_boot_sectors_make_no_claim() {
        assert!(claims_fat(&sector()));
        for (at, bytes) in [(0, &[0x33][..]), (510, &[0, 0]), (3, b"NTFS    "), (0x36, b"HPFS    ")] {
            let mut other = sector();
            other[at..at + bytes.len()].copy_from_slice(bytes);
            assert!(!claims_fat(&other), "{at}");
        }
        let mut named = sector();
        named[0] = 0;
        named[0x36..0x3e].copy_from_slice(b"FAT16   ");
        assert!(claims_fat(&named));
        assert!(!claims_fat(&[]));
    }
}
