//! Directories: slots of 32 bytes, a short entry each, its long name in the slots before it.
//!
//! "FAT32 File System Specification" 1.03, sections "FAT Directory Structure" and "FAT Long Directory Entries".
//!
//! | byte | size | short entry | | byte | size | long entry |
//! |---|---|---|---|---|---|---|
//! | 0 | 11 | DIR_Name; first `00`: the end, `e5`: free | | 0 | 1 | LDIR_Ord: 1 to 20, and 0x40 on the first one stored |
//! | 11 | 1 | DIR_Attr | | 1 | 10 | LDIR_Name1: 5 units of UTF-16 |
//! | 12 | 1 | DIR_NTRes: lower-case flags | | 11 | 1 | LDIR_Attr: exactly 0x0f |
//! | 13 | 1 | DIR_CrtTimeTenth, in 10 ms | | 13 | 1 | LDIR_Chksum of the short name |
//! | 14, 16 | 2, 2 | DIR_CrtTime, DIR_CrtDate | | 14 | 12 | LDIR_Name2: 6 units |
//! | 18 | 2 | DIR_LstAccDate | | 26 | 2 | 0 |
//! | 20 | 2 | DIR_FstClusHI, FAT32 only | | 28 | 4 | LDIR_Name3: 2 units |
//! | 22, 24 | 2, 2 | DIR_WrtTime, DIR_WrtDate | | | | |
//! | 26 | 2 | DIR_FstClusLO | | | | |
//! | 28 | 4 | DIR_FileSize, 0 for directories | | | | |
//!
//! Long entries are stored last part first, right before their short entry. When a part is missing or out of order, or
//! the sum is not the short name's, they are orphans of a driver that knew nothing of them and the short name counts, as
//! in Linux. The first slot whose first byte is zero ends the directory, as the specification and Windows have it (Linux
//! reads on to the end of the chain and shows what lies behind).
//!
//! Refused: names that could not exist in a directory of Linux (`/` inside, or a long name that is empty, `.` or `..`).

use std::ops::{ControlFlow, Range};

use super::boot::{BootSector, FORMAT, FatType};
use super::name;
use crate::block::{BlockDevice, read_vec};
use crate::bytes::{Record, to_usize};
use crate::error::Result;

/// Bytes of one slot.
pub(super) const SLOT: u64 = 32;

/// Bytes read at once: whole slots.
const CHUNK: u64 = 16 << 10;

/// The bits of DIR_Attr.
pub(super) const READ_ONLY: u8 = 0x01;
const VOLUME_ID: u8 = 0x08;
const DIRECTORY: u8 = 0x10;
const LONG_NAME: u8 = 0x0f;

/// A free slot.
const FREE: u8 = 0xe5;

/// LDIR_Ord: the first long entry stored, the last part of the name.
const LAST_PART: u8 = 0x40;

/// The most long entries of one name (255 units of 13 each), and units of one entry.
const PARTS: u8 = 20;
const PART_UNITS: usize = 13;

/// What one short entry says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ShortEntry {
    pub(super) name: [u8; 11],
    pub(super) attributes: u8,
    pub(super) case: u8,
    /// (date, time, hundredths of a second).
    pub(super) created: (u16, u16, u8),
    pub(super) accessed: u16,
    pub(super) modified: (u16, u16),
    pub(super) cluster: u32,
    pub(super) size: u32,
}

impl ShortEntry {
    pub(super) fn parse(slot: &Record<'_>, fat_type: FatType) -> Result<Self> {
        // OS/2 kept extended attributes in the upper half on FAT12 and FAT16.
        let high = if fat_type == FatType::Fat32 { slot.le16(20)? } else { 0 };
        Ok(Self {
            name: *slot.array(0)?,
            attributes: slot.u8(11)?,
            case: slot.u8(12)?,
            created: (slot.le16(16)?, slot.le16(14)?, slot.u8(13)?),
            accessed: slot.le16(18)?,
            modified: (slot.le16(24)?, slot.le16(22)?),
            cluster: u32::from(high) << 16 | u32::from(slot.le16(26)?),
            size: slot.le32(28)?,
        })
    }

    pub(super) fn is_directory(&self) -> bool {
        self.attributes & DIRECTORY != 0
    }

    /// A file or a directory: neither free, nor a label, nor a part of a long name.
    pub(super) fn is_file_or_directory(&self) -> bool {
        self.attributes & VOLUME_ID == 0 && !matches!(self.name[0], 0 | FREE)
    }

    /// The label, when that is what the entry holds.
    fn label(&self) -> Option<&[u8; 11]> {
        let is_label = self.attributes & 0x3f != LONG_NAME && self.attributes & (VOLUME_ID | DIRECTORY) == VOLUME_ID;
        (is_label && self.name[0] != FREE && self.cluster == 0).then_some(&self.name)
    }
}

/// `.` or `..`.
fn is_dot(name: &[u8; 11]) -> bool {
    name == b".          " || name == b"..         "
}

/// A file or directory with its names.
#[derive(Debug)]
pub(super) struct Named {
    /// Byte offset of the short entry on the device.
    pub(super) position: u64,
    pub(super) entry: ShortEntry,
    /// The name that is shown.
    pub(super) name: Vec<u8>,
    /// The short name as another name of a file that has a long one.
    pub(super) alias: Option<Vec<u8>>,
}

/// Calls `visit` with each slot of the directory in `regions` up to its end mark.
fn for_each_slot(
    device: &dyn BlockDevice,
    regions: &[Range<u64>],
    visit: &mut dyn FnMut(Record<'_>) -> Result<ControlFlow<()>>,
) -> Result<()> {
    for region in regions {
        let mut at = region.start;
        while at < region.end {
            let len = region.end.saturating_sub(at).min(CHUNK);
            let bytes = read_vec(device, at, to_usize(len))?;
            for slot in bytes.as_chunks::<32>().0 {
                if slot[0] == 0 || visit(Record::new(FORMAT, slot, at))?.is_break() {
                    return Ok(());
                }
                at = at.saturating_add(SLOT);
            }
        }
    }
    Ok(())
}

/// Calls `visit` with each file and directory in `regions` but `.` and `..`.
pub(super) fn for_each_entry(
    device: &dyn BlockDevice,
    regions: &[Range<u64>],
    boot: &BootSector,
    visit: &mut dyn FnMut(Named) -> Result<ControlFlow<()>>,
) -> Result<()> {
    let mut long = LongName::default();
    for_each_slot(device, regions, &mut |slot| {
        if slot.u8(0)? == FREE {
            long.forget();
            return Ok(ControlFlow::Continue(()));
        }
        if slot.u8(11)? == LONG_NAME {
            long.add(&slot)?;
            return Ok(ControlFlow::Continue(()));
        }
        let entry = ShortEntry::parse(&slot, boot.fat_type)?;
        let long = long.take(&entry.name);
        if !entry.is_file_or_directory() || is_dot(&entry.name) {
            return Ok(ControlFlow::Continue(()));
        }
        let short = name::short_name(&entry.name, entry.case);
        let has_long = long.is_some();
        let field = if has_long { "LDIR_Name" } else { "DIR_Name" };
        let (name, alias) = match long {
            Some(long) => (long, Some(short)),
            None if short.is_empty() => return Ok(ControlFlow::Continue(())),
            None => (short, None),
        };
        if name.is_empty() || name == b"." || name == b".." || name.contains(&b'/') {
            let found = format!("'{}'", crate::bytes::escape(&name));
            return Err(slot.corrupt(field, 0, found, "a file name"));
        }
        visit(Named { position: slot.offset, entry, name, alias })
    })
}

/// How many subdirectories there are, names unread: this is asked far more often than the names are.
pub(super) fn count_subdirectories(device: &dyn BlockDevice, regions: &[Range<u64>]) -> Result<u64> {
    let mut count = 0u64;
    for_each_slot(device, regions, &mut |slot| {
        let is_directory = slot.u8(0)? != FREE && slot.u8(11)? & (VOLUME_ID | DIRECTORY) == DIRECTORY;
        if is_directory && !is_dot(slot.array(0)?) {
            count = count.saturating_add(1);
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(count)
}

/// The volume's label, from the entry in the root directory that holds it; the placeholder is none.
pub(super) fn find_label(
    device: &dyn BlockDevice,
    regions: &[Range<u64>],
    fat_type: FatType,
) -> Result<Option<[u8; 11]>> {
    let mut found = None;
    for_each_slot(device, regions, &mut |slot| {
        found = ShortEntry::parse(&slot, fat_type)?.label().copied();
        Ok(if found.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    Ok(found)
}

/// The parts of a long name, gathered from the last to the first.
#[derive(Debug, Default)]
struct LongName {
    units: Vec<u16>,
    /// The number of the part that was added last; 0 when there is none or they do not fit together.
    part: u8,
    checksum: u8,
}

impl LongName {
    fn forget(&mut self) {
        self.part = 0;
        self.units.clear();
    }

    fn add(&mut self, slot: &Record<'_>) -> Result<()> {
        let (order, checksum) = (slot.u8(0)?, slot.u8(13)?);
        let part = order & !LAST_PART;
        if order & LAST_PART != 0 && (1..=PARTS).contains(&part) {
            self.units.clear();
            self.units.resize(usize::from(part).saturating_mul(PART_UNITS), 0);
        } else if part == 0 || self.part.checked_sub(1) != Some(part) || checksum != self.checksum {
            self.forget();
            return Ok(());
        }
        (self.part, self.checksum) = (part, checksum);
        let start = usize::from(part.saturating_sub(1)).saturating_mul(PART_UNITS);
        let fields = [(1usize, 5usize), (14, 6), (28, 2)];
        let places = fields.iter().flat_map(|(at, units)| (*at..).step_by(2).take(*units));
        for (unit, at) in self.units.iter_mut().skip(start).zip(places) {
            *unit = slot.le16(at)?;
        }
        Ok(())
    }

    /// The long name of the file whose short name follows, when the parts are complete and belong to it.
    fn take(&mut self, short: &[u8; 11]) -> Option<Vec<u8>> {
        let long = (self.part == 1 && self.checksum == name::checksum(short)).then(|| name::long_name(&self.units));
        self.forget();
        long
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::single_range_in_vec_init,
        clippy::type_complexity,
        reason = "directories of one run, and tables of cases"
    )]
    use super::super::boot::Root;
    use super::*;
    use crate::block::Memory;

    const SHORT: &[u8; 11] = b"LONGNA~1TXT";

    fn short(name: &[u8; 11], attributes: u8) -> [u8; 32] {
        let mut slot = [0; 32];
        slot[..11].copy_from_slice(name);
        slot[11] = attributes;
        slot
    }

    fn long(order: u8, checksum: u8, text: &str) -> [u8; 32] {
        let mut slot = [0xff; 32];
        (slot[0], slot[11], slot[12], slot[13]) = (order, LONG_NAME, 0, checksum);
        let places = (1..11).step_by(2).chain((14..26).step_by(2)).chain([28, 30]);
        for (at, unit) in places.zip(text.encode_utf16().chain([0])) {
            slot[at..at + 2].copy_from_slice(&unit.to_le_bytes());
        }
        slot
    }

    fn list(slots: &[[u8; 32]]) -> Result<Vec<String>> {
        let memory = Memory::new(slots.concat());
        let all = 0..memory.size();
        let boot = BootSector {
            fat_type: FatType::Fat16,
            cluster_size: 512,
            fat: 0..0,
            root: Root::Fixed(all.clone()),
            data: 0,
            clusters: 0,
            serial: None,
            label: None,
            fs_info: None,
            dirty: false,
        };
        let mut names = Vec::new();
        for_each_entry(&memory, std::slice::from_ref(&all), &boot, &mut |named| {
            names.push(String::from_utf8(named.name).unwrap());
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(names)
    }

    #[test]
    fn long_names_count_only_when_they_are_whole_and_belong_to_the_short_name() {
        let sum = name::checksum(SHORT);
        let (first, last) = (long(1, sum, "long name of "), long(0x42, sum, "a file"));
        let alone = short(SHORT, 0x20);
        let free = short(b"\xe5ONGNA~1TXT", 0x20);
        type Case<'a> = (&'a str, &'a [[u8; 32]], &'a [&'a str]);
        let cases: [Case<'_>; 12] = [
            ("whole", &[last, first, alone], &["long name of a file"]),
            ("without the last part", &[first, alone], &["LONGNA~1.TXT"]),
            ("without the first part", &[last, alone], &["LONGNA~1.TXT"]),
            ("in the wrong order", &[first, last, alone], &["LONGNA~1.TXT"]),
            ("of another file", &[last, first, short(b"OTHER   TXT", 0)], &["OTHER.TXT"]),
            ("with a free slot between", &[last, first, free, alone], &["LONGNA~1.TXT"]),
            ("two sums", &[last, long(1, sum ^ 1, "long name of "), alone], &["LONGNA~1.TXT"]),
            ("too many parts", &[long(0x40 | 21, sum, "x"), alone], &["LONGNA~1.TXT"]),
            ("no part", &[long(0x40, sum, "x"), alone], &["LONGNA~1.TXT"]),
            ("for a label", &[last, first, short(SHORT, VOLUME_ID), alone], &["LONGNA~1.TXT"]),
            ("begun anew", &[last, long(0x41, sum, "new"), alone], &["new"]),
            ("twice", &[last, first, alone, alone], &["long name of a file", "LONGNA~1.TXT"]),
        ];
        for (what, slots, names) in cases {
            assert_eq!(list(slots).unwrap(), names, "{what}");
        }
    }

    #[test]
    fn what_is_no_file_is_not_shown_and_nothing_behind_the_end() {
        let slots = [
            short(b"MY LABEL   ", VOLUME_ID),
            short(b".          ", DIRECTORY),
            short(b"..         ", DIRECTORY),
            short(b"           ", 0),
            short(b"\xe5GONE   TXT", 0),
            short(b"HERE    TXT", 0),
            [0; 32],
            short(b"BEHIND  TXT", 0),
        ];
        assert_eq!(list(&slots).unwrap(), ["HERE.TXT"]);
        let memory = Memory::new(slots.concat());
        let all = 0..memory.size();
        let label = find_label(&memory, std::slice::from_ref(&all), FatType::Fat16).unwrap();
        assert_eq!(label, Some(*b"MY LABEL   "));
    }

    #[test]
    fn names_that_lead_elsewhere_are_corrupt() {
        let sum = name::checksum(SHORT);
        let alone = short(SHORT, 0x20);
        for text in ["..", ".", "", "a/b", "/etc/passwd"] {
            let error = list(&[long(0x41, sum, text), alone]).unwrap_err();
            let corrupt = error.as_corrupt().unwrap();
            assert_eq!((corrupt.field, corrupt.offset), ("LDIR_Name", 32), "{text}");
        }
        assert_eq!(list(&[short(b"A/B     TXT", 0)]).unwrap_err().as_corrupt().unwrap().field, "DIR_Name");
    }
}
