//! `Packages.db`: RPM's own database ("ndb"), a table of slots and the headers they lead to.
//!
//! All integers are little-endian; a block is 16 bytes. The file's header:
//!
//! | offset | size | field | accepted |
//! |---:|---:|---|---|
//! | 0 | 4 | magic | `RpmP` |
//! | 4 | 4 | version | 0 |
//! | 8 | 4 | generation | |
//! | 12 | 4 | slotnpages, pages of 4096 bytes with slots | 1 or more, what the file holds |
//! | 16 | 4 | nextpkgidx | |
//!
//! Slots of 16 bytes fill the slot pages from byte 32 on:
//!
//! | offset | size | field | accepted |
//! |---:|---:|---|---|
//! | 0 | 4 | magic | `Slot` |
//! | 4 | 4 | pkgidx | not 0 in a slot that is used |
//! | 8 | 4 | blkoff, first block of the blob | 0 in a free slot, else behind the slot pages |
//! | 12 | 4 | blkcnt, blocks of the blob | inside the file; all together no more than it |
//!
//! A blob begins with 16 bytes, magic `BlbS`, pkgidx, a time stamp and bloblen; the RPM header of bloblen bytes follows,
//! and zeroes. Its last 12 bytes are an Adler-32 checksum, bloblen again and the magic `BlbE`. As RPM itself does when it
//! reads, the checksum is passed over. There is no other specification than RPM's `lib/backend/ndb`.

use super::pages::Window;
use super::{Gathered, add_header, check_size, record_len};
use crate::block::BlockDevice;
use crate::bytes::{Record, escape, to_u64, to_usize};
use crate::error::{Error, Result};
use crate::limits;

const FORMAT: &str = "rpm ndb";
const HEADER: usize = 32;
const SLOT_PAGE: u64 = 4_096;
const SLOT: usize = 16;
const BLOCK: u64 = 16;
const BLOB_HEAD: usize = 16;
const BLOB_TAIL: usize = 12;

/// A slot that is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Slot {
    package: u32,
    /// Bytes from the beginning of the file.
    offset: u64,
    /// Bytes of the blob with its head and tail.
    len: u64,
}

/// Gathers the packages of `database`.
///
/// # Errors
///
/// What reading fails with; [`Corrupt`](crate::ErrorKind::Corrupt) when the file's header is damaged. Damaged slots and
/// blobs are noted.
pub fn read(database: &dyn BlockDevice, gathered: &mut Gathered) -> Result<()> {
    let size = check_size(database)?;
    if size == 0 {
        return Ok(());
    }
    let mut file = Window::new(database);
    let slots_end = slots_end(&Record::new(FORMAT, file.read(0, HEADER.min(to_usize(size)))?, 0), size)?;
    let mut slots = read_slots(&mut file, slots_end, gathered)?;
    slots.sort_unstable_by_key(|slot| slot.offset);
    let mut free_from = slots_end;
    for slot in slots {
        let outcome = read_blob(&mut file, slot, free_from, gathered);
        gathered.tolerate(outcome)?;
        free_from = free_from.max(slot.offset.saturating_add(slot.len));
    }
    Ok(())
}

/// Where the slot pages end.
fn slots_end(header: &Record<'_>, size: u64) -> Result<u64> {
    if header.array(0)? != b"RpmP" {
        return Err(header.corrupt("magic", 0, escape(header.slice(0, 4)?), "RpmP"));
    }
    if header.le32(4)? != 0 {
        return Err(Error::unsupported(FORMAT, format!("version {}", header.le32(4)?)));
    }
    let pages = header.le32(12)?;
    match u64::from(pages).checked_mul(SLOT_PAGE) {
        Some(end) if end > 0 && end <= size => Ok(end),
        _ => Err(header.corrupt("slotnpages", 12, pages, format!("1 or more in a file of {size} bytes"))),
    }
}

/// The used slots of the pages before `end`.
fn read_slots(file: &mut Window<'_>, end: u64, gathered: &mut Gathered) -> Result<Vec<Slot>> {
    let mut slots = Vec::new();
    let mut at = to_u64(HEADER);
    while at < end {
        let page_end = at.saturating_add(1).next_multiple_of(SLOT_PAGE);
        let size = file.size();
        let page = Record::new(FORMAT, file.read(at, to_usize(page_end.saturating_sub(at)))?, at);
        for slot_at in (0..page.len()).step_by(SLOT) {
            let outcome = parse_slot(&page.sub(slot_at, SLOT)?, end, size).map(|slot| slots.extend(slot));
            gathered.tolerate(outcome)?;
        }
        limits::check("slots of a package database", to_u64(slots.len()), limits::PACKAGES)?;
        at = page_end;
    }
    Ok(slots)
}

/// What a slot leads to; `None` for a free one.
fn parse_slot(slot: &Record<'_>, slots_end: u64, size: u64) -> Result<Option<Slot>> {
    if slot.array(0)? != b"Slot" {
        return Err(slot.corrupt("slot magic", 0, escape(slot.slice(0, 4)?), "Slot"));
    }
    let (package, block, blocks) = (slot.le32(4)?, slot.le32(8)?, slot.le32(12)?);
    if block == 0 {
        return Ok(None);
    }
    if package == 0 {
        return Err(slot.corrupt("pkgidx", 4, package, "1 or more"));
    }
    let offset = u64::from(block).saturating_mul(BLOCK);
    let len = u64::from(blocks).saturating_mul(BLOCK);
    if offset < slots_end || offset > size {
        return Err(slot.corrupt("blkoff", 8, block, format!("a block from byte {slots_end} to byte {size}")));
    }
    if len < to_u64(BLOB_HEAD.saturating_add(BLOB_TAIL)) || len > size.saturating_sub(offset) {
        return Err(slot.corrupt("blkcnt", 12, blocks, "2 blocks or more that lie in the file"));
    }
    Ok(Some(Slot { package, offset, len }))
}

/// Adds the package in `slot`'s blob, which must not begin before `free_from`, where the blob before it ends.
fn read_blob(file: &mut Window<'_>, slot: Slot, free_from: u64, gathered: &mut Gathered) -> Result<()> {
    let corrupt = |field, at, found: String, expected: String| Error::corrupt(FORMAT, field, at, found, expected);
    let Slot { package, offset, len } = slot;
    if offset < free_from {
        return Err(corrupt("blkoff", offset, format!("a blob at byte {offset}"), format!("{free_from} or more")));
    }
    let blob = Record::new(FORMAT, file.read(offset, record_len(len, gathered)?)?, offset);
    if blob.array(0)? != b"BlbS" {
        return Err(blob.corrupt("blob head magic", 0, escape(blob.slice(0, 4)?), "BlbS"));
    }
    if blob.le32(4)? != package {
        return Err(blob.corrupt("pkgidx", 4, blob.le32(4)?, format!("the slot's, {package}")));
    }
    let header_len = blob.le32(12)?;
    let whole = u64::from(header_len).saturating_add(to_u64(BLOB_HEAD.saturating_add(BLOB_TAIL)));
    if whole.checked_next_multiple_of(BLOCK) != Some(len) {
        return Err(blob.corrupt("bloblen", 12, header_len, format!("what fills {len} bytes")));
    }
    let tail = blob.sub(blob.len().saturating_sub(BLOB_TAIL), BLOB_TAIL)?;
    if tail.le32(4)? != header_len {
        return Err(tail.corrupt("bloblen", 4, tail.le32(4)?, format!("{header_len} as in the head")));
    }
    if tail.array(8)? != b"BlbE" {
        return Err(tail.corrupt("blob tail magic", 8, escape(tail.slice(8, 4)?), "BlbE"));
    }
    let header = blob.sub(BLOB_HEAD, to_usize(u64::from(header_len)))?;
    add_header(header.bytes, header.offset, gathered)
}
