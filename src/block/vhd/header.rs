//! The header of a dynamic or differencing VHD, where the footer says: Microsoft, *Virtual Hard Disk Image Format
//! Specification* 1.0, "Dynamic Disk Header Format". All integers are big-endian.
//!
//! | offset | size | field | unit, accepted |
//! |---:|---:|---|---|
//! | 0 | 8 | cookie | `cxsparse` |
//! | 8 | 8 | data offset | ignored |
//! | 16 | 8 | table offset | bytes; where the block allocation table (BAT) is |
//! | 24 | 4 | header version | major version 1 |
//! | 28 | 4 | max table entries | no fewer than the disk has blocks |
//! | 32 | 4 | block size | bytes, a power of two, at least 512 |
//! | 36 | 4 | checksum | as the footer's, over the header |
//! | 40 | 16 | parent unique ID | the parent's unique ID, checked |
//! | 56 | 4 | parent time stamp | ignored |
//! | 64 | 512 | parent Unicode name | UTF-16, big-endian |
//! | 576 | 8 × 24 | parent locator entries | |
//! | 768 | 256 | reserved | |
//!
//! A parent locator entry:
//!
//! | offset | size | field | accepted |
//! |---:|---:|---|---|
//! | 0 | 4 | platform code | `W2ru` relative, `W2ku` absolute, both UTF-16, little-endian; others are ignored |
//! | 4 | 4 | platform data space | ignored |
//! | 8 | 4 | platform data length | bytes, at most 4096 |
//! | 16 | 8 | platform data offset | bytes; where the name is |

use super::FORMAT;
use super::footer::{Footer, check};
use crate::block::{BlockDevice, blocks, read_vec};
use crate::bytes::{Record, escape, to_u64, to_usize};
use crate::error::{Error, Result};
use crate::limits;

pub(super) const LEN: usize = 1024;
pub(super) const COOKIE: &[u8; 8] = b"cxsparse";
const LOCATORS: usize = 8;

/// The fields that are used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) table: u64,
    /// Entries that the disk needs.
    pub(super) entries: u64,
    pub(super) block_size: u64,
    pub(super) parent_id: [u8; 16],
    /// The parent's Unicode name, with Windows' separators.
    pub(super) parent_name: String,
    /// Where names of the parent are: (relative, offset, length).
    locators: Vec<(bool, u64, u64)>,
}

/// Reads the header and holds its table against the disk and the file.
pub(super) fn read(file: &dyn BlockDevice, footer: &Footer) -> Result<Header> {
    let room = file.size().saturating_sub(to_u64(LEN));
    if footer.data_offset > room {
        let expected = format!("a header inside the file of {} bytes", file.size());
        let at = footer.position.saturating_add(16);
        return Err(Error::corrupt(FORMAT, "data offset", at, footer.data_offset, expected));
    }
    let bytes = read_vec(file, footer.data_offset, LEN)?;
    let record = Record::new(FORMAT, &bytes, footer.data_offset);
    let mut header = parse(&record)?;
    let needed = blocks::blocks(footer.size, header.block_size);
    if needed > header.entries {
        return Err(record.corrupt("max table entries", 28, header.entries, format!("the disk's {needed} blocks")));
    }
    header.entries = needed;
    let end = header.table.checked_add(needed.saturating_mul(4));
    if end.is_none_or(|end| end > file.size()) {
        let expected = format!("{needed} entries inside the file of {} bytes", file.size());
        return Err(record.corrupt("table offset", 16, header.table, expected));
    }
    Ok(header)
}

fn parse(record: &Record<'_>) -> Result<Header> {
    let cookie = record.array::<8>(0)?;
    if cookie != COOKIE {
        return Err(record.corrupt("cookie", 0, escape(cookie), escape(COOKIE)));
    }
    check(record, LEN, 36)?;
    let version = record.be32(24)?;
    if version >> 16 != 1 {
        return Err(Error::unsupported(FORMAT, format!("header version {}.{}", version >> 16, version & 0xffff)));
    }
    let block_size = record.be32(32)?;
    if !block_size.is_power_of_two() || block_size < 512 {
        return Err(record.corrupt("block size", 32, block_size, "a power of two, at least 512"));
    }
    let mut locators = Vec::new();
    for index in 0..LOCATORS {
        let entry = record.sub(index.saturating_mul(24).saturating_add(576), 24)?;
        let relative = match entry.array::<4>(0)? {
            b"W2ru" => true,
            b"W2ku" => false,
            _ => continue,
        };
        locators.push((relative, entry.be64(16)?, entry.be32(8)?.into()));
    }
    let name = record.slice(64, 512)?;
    let name = name.as_chunks().0.iter().map(|unit| u16::from_be_bytes(*unit)).take_while(|unit| *unit != 0);
    Ok(Header {
        table: record.be64(16)?,
        entries: record.be32(28)?.into(),
        block_size: block_size.into(),
        parent_id: *record.array(40)?,
        parent_name: char::decode_utf16(name).map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER)).collect(),
        locators,
    })
}

impl Header {
    /// The parent's path, as a path of this system: the relative locator, else the Unicode name, else the absolute one.
    pub(super) fn parent_path(&self, file: &dyn BlockDevice) -> Result<String> {
        let locator = |wanted: bool| self.locators.iter().find(|(relative, ..)| *relative == wanted);
        let found = match (locator(true), locator(false)) {
            (Some(relative), _) => locator_name(file, relative)?,
            (None, Some(absolute)) if self.parent_name.is_empty() => locator_name(file, absolute)?,
            _ => self.parent_name.clone(),
        };
        let path = found.replace('\\', "/");
        Ok(path.strip_prefix("./").unwrap_or(&path).to_owned())
    }
}

fn locator_name(file: &dyn BlockDevice, &(_, offset, len): &(bool, u64, u64)) -> Result<String> {
    limits::check("parent locator bytes", len, to_u64(limits::PATH_BYTES))?;
    if offset.checked_add(len).is_none_or(|end| end > file.size()) {
        let expected = format!("{len} bytes inside the file of {}", file.size());
        return Err(Error::corrupt(FORMAT, "platform data offset", offset, offset, expected));
    }
    let bytes = read_vec(file, offset, to_usize(len))?;
    let units = bytes.as_chunks().0.iter().map(|unit| u16::from_le_bytes(*unit)).take_while(|unit| *unit != 0);
    Ok(char::decode_utf16(units).map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER)).collect())
}
