//! What stands at fixed places of a VHDX file: Microsoft, *[MS-VHDX] Virtual Hard Disk v2 (VHDX) File Format*, 2.2. All
//! integers are little-endian, all checksums CRC-32C with the field itself taken as zero.
//!
//! | offset | structure |
//! |---:|---|
//! | 0 | file type identifier: `vhdxfile`, then its creator (UTF-16, ignored) |
//! | 64 KiB, 128 KiB | headers; the one with the greater sequence number counts |
//! | 192 KiB, 256 KiB | region tables; the second stands in when the first is damaged |
//!
//! A header, 4 KiB (2.2.2):
//!
//! | offset | size | field | unit, accepted |
//! |---:|---:|---|---|
//! | 0 | 4 | Signature | `head` |
//! | 4 | 4 | Checksum | over 4 KiB |
//! | 8 | 8 | SequenceNumber | |
//! | 16 | 16 | FileWriteGuid | ignored |
//! | 32 | 16 | DataWriteGuid | what children were made over |
//! | 48 | 16 | LogGuid | all zero: the log is empty |
//! | 64 | 2 | LogVersion | 0 |
//! | 66 | 2 | Version | 1 |
//! | 68 | 4 | LogLength | bytes, a multiple of 1 MiB |
//! | 72 | 8 | LogOffset | bytes, a multiple of 1 MiB |
//!
//! A region table, 64 KiB (2.2.3): Signature `regi`, Checksum over 64 KiB, EntryCount (at most 2047), 4 reserved bytes,
//! then entries:
//!
//! | offset | size | field | unit, accepted |
//! |---:|---:|---|---|
//! | 0 | 16 | Guid | BAT, metadata; others are ignored unless required, then refused by name |
//! | 16 | 8 | FileOffset | bytes, a multiple of 1 MiB |
//! | 24 | 4 | Length | bytes, a multiple of 1 MiB |
//! | 28 | 4 | Required | bit 0 |

use super::{FORMAT, guid};
use crate::block::blocks::mixed_endian;
use crate::block::{BlockDevice, read_vec};
use crate::bytes::{Record, escape, to_usize, uuid_text};
use crate::error::{Error, Result};

pub(super) const MIB: u64 = 1 << 20;
pub(super) const IDENTIFIER: &[u8; 8] = b"vhdxfile";
pub(super) const HEADERS: [u64; 2] = [64 << 10, 128 << 10];
pub(super) const HEADER_LEN: usize = 4096;
pub(super) const REGION_TABLES: [u64; 2] = [192 << 10, 256 << 10];
pub(super) const REGION_TABLE_LEN: usize = 64 << 10;
pub(super) const BAT: [u8; 16] = guid(0x2dc2_7766_f623_4200_9d64_115e_9bfd_4a08);
pub(super) const METADATA: [u8; 16] = guid(0x8b7c_a206_4790_4b9a_b8fe_575f_050f_886e);
const ENTRIES_MAX: u32 = 2047;

/// The fields that are used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) sequence_number: u64,
    pub(super) data_write_guid: [u8; 16],
    pub(super) log_guid: [u8; 16],
    pub(super) log_version: u16,
    pub(super) log_length: u64,
    pub(super) log_offset: u64,
}

/// A region: offset and length in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Region {
    pub(super) offset: u64,
    pub(super) length: u64,
}

/// The two regions that every file has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Regions {
    pub(super) bat: Region,
    pub(super) metadata: Region,
}

/// Checks the identifier and reads the header that counts.
pub(super) fn read(file: &dyn BlockDevice) -> Result<Header> {
    let identifier = read_vec(file, 0, to_usize(file.size().min(8)))?;
    if identifier != IDENTIFIER {
        return Err(Error::corrupt(FORMAT, "file type identifier", 0, escape(&identifier), escape(IDENTIFIER)));
    }
    let one = |at: u64| {
        let len = to_usize(file.size().saturating_sub(at)).min(HEADER_LEN);
        parse(&Record::new(FORMAT, &read_vec(file, at.min(file.size()), len)?, at))
    };
    match HEADERS.map(one) {
        [Ok(first), Ok(second)] if first.sequence_number == second.sequence_number && first != second => {
            let found = format!("{}, as in the first header", second.sequence_number);
            Err(Error::corrupt(FORMAT, "SequenceNumber", (128 << 10) + 8, found, "another"))
        }
        [Ok(first), Ok(second)] => Ok(if second.sequence_number > first.sequence_number { second } else { first }),
        [Ok(only), Err(error)] | [Err(error), Ok(only)] => {
            log::debug!("one of the headers does not count: {error}");
            Ok(only)
        }
        [Err(error), Err(_)] => Err(error),
    }
}

fn parse(record: &Record<'_>) -> Result<Header> {
    check(record, b"head", HEADER_LEN)?;
    let version = record.le16(66)?;
    if version != 1 {
        return Err(Error::unsupported(FORMAT, format!("version {version}")));
    }
    Ok(Header {
        sequence_number: record.le64(8)?,
        data_write_guid: *record.array(32)?,
        log_guid: *record.array(48)?,
        log_version: record.le16(64)?,
        log_length: record.le32(68)?.into(),
        log_offset: record.le64(72)?,
    })
}

/// Checks the signature at byte 0 and the checksum at byte 4 of a structure of `len` bytes.
fn check(record: &Record<'_>, signature: &[u8; 4], len: usize) -> Result<()> {
    let found = record.array::<4>(0)?;
    if found != signature {
        return Err(record.corrupt("Signature", 0, escape(found), escape(signature)));
    }
    let (stated, computed) = (record.le32(4)?, checksum(record.slice(0, len)?));
    if stated != computed {
        return Err(record.corrupt("Checksum", 4, format!("{stated:#x}"), format!("{computed:#x}")));
    }
    Ok(())
}

/// The checksum of a structure that has it at byte 4.
pub(super) fn checksum(bytes: &[u8]) -> u32 {
    let start = bytes.get(..4).map_or(0, crc32c::crc32c);
    let field = crc32c::crc32c_append(start, &[0; 4]);
    crc32c::crc32c_append(field, bytes.get(8..).unwrap_or_default())
}

/// Reads the region table.
pub(super) fn regions(file: &dyn BlockDevice) -> Result<Regions> {
    let one = |at: u64| {
        let len = to_usize(file.size().saturating_sub(at)).min(REGION_TABLE_LEN);
        let bytes = read_vec(file, at.min(file.size()), len)?;
        let record = Record::new(FORMAT, &bytes, at);
        check(&record, b"regi", REGION_TABLE_LEN)?;
        parse_regions(&record, file.size())
    };
    let [first, second] = REGION_TABLES;
    match one(first) {
        // Only damage has a remedy in the copy.
        Err(error) if matches!(error.as_corrupt().map(|corrupt| corrupt.field), Some("Signature" | "Checksum")) => {
            one(second).map_err(|_| error)
        }
        result => result,
    }
}

fn parse_regions(record: &Record<'_>, file_size: u64) -> Result<Regions> {
    let count = record.le32(8)?;
    if count > ENTRIES_MAX {
        return Err(record.corrupt("EntryCount", 8, count, format!("at most {ENTRIES_MAX}")));
    }
    let (mut bat, mut metadata) = (None, None);
    for index in 0..count {
        let at = to_usize(u64::from(index).saturating_mul(32).saturating_add(16));
        let entry = record.sub(at, 32)?;
        let id = entry.array::<16>(0)?;
        let slot = match *id {
            BAT => &mut bat,
            METADATA => &mut metadata,
            _ if entry.le32(28)? & 1 == 1 => {
                return Err(Error::unsupported(FORMAT, format!("region {}", uuid_text(&mixed_endian(*id)))));
            }
            _ => continue,
        };
        let (offset, length) = (entry.le64(16)?, u64::from(entry.le32(24)?));
        let aligned = offset >= MIB && offset.is_multiple_of(MIB);
        if !aligned || offset.checked_add(length).is_none_or(|end| end > file_size) {
            let expected = format!("a multiple of 1 MiB, {length} bytes inside the file of {file_size}");
            return Err(entry.corrupt("FileOffset", 16, offset, expected));
        }
        if slot.replace(Region { offset, length }).is_some() {
            return Err(entry.corrupt("Guid", 0, uuid_text(&mixed_endian(*id)), "each region once"));
        }
    }
    match (bat, metadata) {
        (Some(bat), Some(metadata)) => Ok(Regions { bat, metadata }),
        _ => Err(record.corrupt("EntryCount", 8, count, "a BAT and a metadata region")),
    }
}
