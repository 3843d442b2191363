//! The metadata region: [MS-VHDX] 2.6. A table of 64 KiB, then the items that it names.
//!
//! | offset | size | field | accepted |
//! |---:|---:|---|---|
//! | 0 | 8 | Signature | `metadata` |
//! | 10 | 2 | EntryCount | at most 2047 |
//! | 32 | 32 × n | entries | |
//!
//! | offset | size | field of an entry | unit, accepted |
//! |---:|---:|---|---|
//! | 0 | 16 | ItemId | see below; others are ignored unless required, then refused by name |
//! | 16 | 4 | Offset | bytes in the region, from 64 KiB on |
//! | 20 | 4 | Length | bytes, inside the region |
//! | 24 | 4 | flags | bit 2 IsRequired; the others are ignored |
//!
//! | item | size | is | accepted |
//! |---|---:|---|---|
//! | file parameters | 8 | block size; bit 1 of the second half: has a parent | a power of two, 1 MiB to 256 MiB |
//! | virtual disk size | 8 | bytes | whole logical sectors, at most 64 TiB |
//! | virtual disk id | 16 | | ignored |
//! | logical sector size | 4 | bytes | 512, 4096 |
//! | physical sector size | 4 | bytes | ignored |
//! | parent locator | | names of the parent, see [`Locator`] | |

use super::header::Region;
use super::{FORMAT, guid};
use crate::block::blocks::mixed_endian;
use crate::block::{BlockDevice, read_vec};
use crate::bytes::{Record, escape, to_usize, uuid_text};
use crate::error::{Error, Result};
use crate::limits;

pub(super) const SIGNATURE: &[u8; 8] = b"metadata";
pub(super) const TABLE_LEN: usize = 64 << 10;
pub(super) const FILE_PARAMETERS: [u8; 16] = guid(0xcaa1_6737_fa36_4d43_b3b6_33f0_aa44_e76b);
pub(super) const VIRTUAL_DISK_SIZE: [u8; 16] = guid(0x2fa5_4224_cd1b_4876_b211_5dbe_d83b_f4b8);
pub(super) const VIRTUAL_DISK_ID: [u8; 16] = guid(0xbeca_12ab_b2e6_4523_93ef_c309_e000_c746);
pub(super) const LOGICAL_SECTOR_SIZE: [u8; 16] = guid(0x8141_bf1d_a96f_4709_ba47_f233_a8fa_ab5f);
pub(super) const PHYSICAL_SECTOR_SIZE: [u8; 16] = guid(0xcda3_48c7_445d_4471_9cc9_e988_5251_c556);
const PARENT_LOCATOR: [u8; 16] = guid(0xa8d3_5f2d_b30b_454d_abf7_d3d8_4834_ab0c);
const LOCATOR_TYPE: [u8; 16] = guid(0xb04a_efb7_d19e_4a81_b789_25b8_e944_5913);
const ENTRIES_MAX: u16 = 2047;
/// 64 TiB.
pub(super) const SIZE_MAX: u64 = 64 << 40;
pub(super) const BLOCK_SIZES: std::ops::RangeInclusive<u64> = 1 << 20..=256 << 20;

/// What the items say.
#[derive(Debug)]
pub(super) struct Metadata {
    pub(super) block_size: u64,
    pub(super) size: u64,
    pub(super) sector_size: u64,
    pub(super) parent: Option<Locator>,
}

/// Reads the table and the items.
pub(super) fn read(file: &dyn BlockDevice, region: Region) -> Result<Metadata> {
    let len = to_usize(region.length).min(TABLE_LEN);
    let bytes = read_vec(file, region.offset, len)?;
    let table = Table::parse(Record::new(FORMAT, &bytes, region.offset), region)?;

    let parameters = table.item(file, FILE_PARAMETERS, "file parameters", 8)?;
    let record = parameters.record();
    let (block_size, flags) = (u64::from(record.le32(0)?), record.le32(4)?);
    if !block_size.is_power_of_two() || !BLOCK_SIZES.contains(&block_size) {
        return Err(record.corrupt("BlockSize", 0, block_size, "a power of two from 1 MiB to 256 MiB"));
    }
    let sector = table.item(file, LOGICAL_SECTOR_SIZE, "logical sector size", 4)?;
    let sector_size = u64::from(sector.record().le32(0)?);
    if !matches!(sector_size, 512 | 4096) {
        return Err(sector.record().corrupt("LogicalSectorSize", 0, sector_size, "512 or 4096"));
    }
    let disk = table.item(file, VIRTUAL_DISK_SIZE, "virtual disk size", 8)?;
    let size = disk.record().le64(0)?;
    if !size.is_multiple_of(sector_size) || size > SIZE_MAX {
        let expected = format!("whole sectors of {sector_size} bytes, at most {SIZE_MAX}");
        return Err(disk.record().corrupt("VirtualDiskSize", 0, size, expected));
    }
    let parent = if flags & 2 == 0 {
        None
    } else {
        let item = table.item(file, PARENT_LOCATOR, "parent locator", 20)?;
        Some(Locator::parse(&item.record())?)
    };
    Ok(Metadata { block_size, size, sector_size, parent })
}

struct Table<'a> {
    record: Record<'a>,
    region: Region,
    count: usize,
}

/// The bytes of an item.
struct Item {
    bytes: Vec<u8>,
    offset: u64,
}

impl Item {
    fn record(&self) -> Record<'_> {
        Record::new(FORMAT, &self.bytes, self.offset)
    }
}

impl<'a> Table<'a> {
    fn parse(record: Record<'a>, region: Region) -> Result<Self> {
        let signature = record.array::<8>(0)?;
        if signature != SIGNATURE {
            return Err(record.corrupt("Signature", 0, escape(signature), escape(SIGNATURE)));
        }
        let count = record.le16(10)?;
        if count > ENTRIES_MAX {
            return Err(record.corrupt("EntryCount", 10, count, format!("at most {ENTRIES_MAX}")));
        }
        let table = Self { record, region, count: count.into() };
        for index in 0..table.count {
            let entry = table.entry(index)?;
            let id = *entry.array::<16>(0)?;
            let known = [
                FILE_PARAMETERS,
                VIRTUAL_DISK_SIZE,
                VIRTUAL_DISK_ID,
                LOGICAL_SECTOR_SIZE,
                PHYSICAL_SECTOR_SIZE,
                PARENT_LOCATOR,
            ];
            if entry.le32(24)? & 4 != 0 && !known.contains(&id) {
                return Err(Error::unsupported(FORMAT, format!("metadata item {}", uuid_text(&mixed_endian(id)))));
            }
        }
        Ok(table)
    }

    fn entry(&self, index: usize) -> Result<Record<'a>> {
        self.record.sub(index.saturating_mul(32).saturating_add(32), 32)
    }

    /// The item `id` of at least `least` bytes.
    fn item(&self, file: &dyn BlockDevice, id: [u8; 16], name: &'static str, least: u64) -> Result<Item> {
        for index in 0..self.count {
            let entry = self.entry(index)?;
            if entry.array::<16>(0)? != &id {
                continue;
            }
            let (offset, length) = (u64::from(entry.le32(16)?), u64::from(entry.le32(20)?));
            if offset.saturating_add(length) > self.region.length || length < least {
                let expected = format!("at least {least} bytes inside the region of {}", self.region.length);
                return Err(entry.corrupt(name, 16, format!("{length} bytes at {offset:#x}"), expected));
            }
            limits::check("metadata item bytes", length, limits::DESCRIPTOR_BYTES)?;
            let offset = self.region.offset.saturating_add(offset);
            return Ok(Item { bytes: read_vec(file, offset, to_usize(length))?, offset });
        }
        Err(self.record.corrupt("EntryCount", 10, format!("no {name} among {} items", self.count), "one"))
    }
}

/// How to find the parent: [MS-VHDX] 2.6.2.6. A header (LocatorType, 2 reserved bytes, KeyValueCount), then for each pair
/// KeyOffset 4, ValueOffset 4, KeyLength 2, ValueLength 2; keys and values are UTF-16 without an end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Locator {
    /// The parent's path, as a path of this system: the relative one, else the absolute ones.
    pub(super) path: String,
    /// The parent's DataWriteGuid as text, without braces; during a merge either may be right.
    pub(super) linkage: Vec<String>,
}

impl Locator {
    fn parse(record: &Record<'_>) -> Result<Self> {
        let kind = record.array::<16>(0)?;
        if *kind != LOCATOR_TYPE {
            let name = uuid_text(&mixed_endian(*kind));
            return Err(Error::unsupported(FORMAT, format!("parent locator type {name}")));
        }
        let mut pairs = Vec::new();
        for index in 0..usize::from(record.le16(18)?) {
            let entry = record.sub(index.saturating_mul(12).saturating_add(20), 12)?;
            let text = |offset: u32, length: u16| -> Result<String> {
                let bytes = record.slice(to_usize(offset.into()), length.into())?;
                let units = bytes.as_chunks().0.iter().map(|unit| u16::from_le_bytes(*unit));
                Ok(char::decode_utf16(units).map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER)).collect())
            };
            let key = text(entry.le32(0)?, entry.le16(8)?)?;
            // Other keys may be there in any number; what they say is not kept.
            if KEYS.contains(&key.as_str()) {
                pairs.push((key, text(entry.le32(4)?, entry.le16(10)?)?));
                limits::check("parent locator keys", crate::bytes::to_u64(pairs.len()), 16)?;
            }
        }
        let value = |wanted: &str| pairs.iter().find(|(key, _)| key == wanted).map(|(_, value)| value.as_str());
        let path = ["relative_path", "volume_path", "absolute_win32_path"].into_iter().find_map(value);
        let path = path.ok_or_else(|| record.corrupt("parent locator", 18, "no path", "one"))?.replace('\\', "/");
        let linkage = ["parent_linkage", "parent_linkage2"].into_iter().filter_map(value);
        let linkage = linkage.map(|id| id.trim_matches(['{', '}']).to_ascii_lowercase()).collect();
        Ok(Self { path: path.strip_prefix("./").unwrap_or(&path).to_owned(), linkage })
    }
}

const KEYS: [&str; 5] = ["relative_path", "volume_path", "absolute_win32_path", "parent_linkage", "parent_linkage2"];
