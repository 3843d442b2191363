//! GUID partition table: UEFI specification 2.10, section 5.3. All integers are little-endian; GUIDs are stored with
//! their first three groups little-endian.
//!
//! | offset | size | field | unit, accepted |
//! |---:|---:|---|---|
//! | 0 | 8 | Signature | `EFI PART` |
//! | 8 | 4 | Revision | any |
//! | 12 | 4 | HeaderSize | bytes; 92 to one sector |
//! | 16 | 4 | HeaderCRC32 | over HeaderSize bytes, this field as 0 |
//! | 24 | 8 | MyLBA | where it was read |
//! | 32 | 8 | AlternateLBA | sectors |
//! | 40 | 8 | FirstUsableLBA | not checked |
//! | 48 | 8 | LastUsableLBA | noted when past the device |
//! | 56 | 16 | DiskGUID | any |
//! | 72 | 8 | PartitionEntryLBA | sectors; table inside the device |
//! | 80 | 4 | NumberOfPartitionEntries | at most 1024 |
//! | 84 | 4 | SizeOfPartitionEntry | bytes; 128 · 2ⁿ, at most 4096 |
//! | 88 | 4 | PartitionEntryArrayCRC32 | over the whole table |
//!
//! An entry: PartitionTypeGUID 16 (zero: unused), UniquePartitionGUID 16, StartingLBA 8, EndingLBA 8 (inclusive),
//! Attributes 8, PartitionName 72 (UTF-16).
//!
//! Sectors are 512 or 4096 bytes, whichever finds a header. The primary header is at LBA 1, the backup at the last LBA
//! of the device, or where the primary says when the device was grown. The kernel refuses a table whose LastUsableLBA
//! lies past the device; here its partitions that lie inside stay readable.

use std::sync::Arc;

use super::table::{Partition, PartitionKind, PartitionTable, PartitionType, TableKind};
use crate::block::{BlockDevice, read_vec};
use crate::bytes::{Record, to_u64, to_usize, uuid_text};
use crate::error::{Error, Result};
use crate::limits;

const FORMAT: &str = "gpt";
const SECTOR_SIZES: [u32; 2] = [512, 4096];
const HEADER_BYTES: u32 = 92;
const ENTRY_BYTES: u32 = 128;
const ENTRY_BYTES_MAX: u32 = 4096;
const LEGACY_BIOS_BOOTABLE: u64 = 1 << 2;

/// A header whose checksum holds.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Header {
    alternate_lba: u64,
    last_usable_lba: u64,
    disk_guid: String,
    entries_lba: u64,
    entries: u32,
    entry_size: u32,
    entries_crc: u32,
}

impl Header {
    /// The header in one sector, which was read from sector `lba`.
    fn parse(sector: &Record<'_>, lba: u64) -> Result<Self> {
        let signature = sector.array::<8>(0)?;
        if signature != b"EFI PART" {
            return Err(sector.corrupt("Signature", 0, crate::bytes::escape(signature), "EFI PART"));
        }
        let header_size = sector.le32(12)?;
        if header_size < HEADER_BYTES || to_usize(u64::from(header_size)) > sector.len() {
            let expected = format!("{HEADER_BYTES} to {}", sector.len());
            return Err(sector.corrupt("HeaderSize", 12, header_size, expected));
        }
        let found = sector.le32(16)?;
        let computed = header_crc(sector.slice(0, to_usize(u64::from(header_size)))?);
        if found != computed {
            return Err(sector.corrupt("HeaderCRC32", 16, format!("{found:#x}"), format!("{computed:#x}")));
        }
        let my_lba = sector.le64(24)?;
        if my_lba != lba {
            return Err(sector.corrupt("MyLBA", 24, my_lba, lba));
        }
        let entries = sector.le32(80)?;
        limits::check("partitions", u64::from(entries), limits::PARTITIONS)?;
        let entry_size = sector.le32(84)?;
        if !entry_size.is_power_of_two() || !(ENTRY_BYTES..=ENTRY_BYTES_MAX).contains(&entry_size) {
            return Err(sector.corrupt("SizeOfPartitionEntry", 84, entry_size, "128, 256 … 4096"));
        }
        Ok(Self {
            alternate_lba: sector.le64(32)?,
            last_usable_lba: sector.le64(48)?,
            disk_guid: guid_text(sector.array(56)?),
            entries_lba: sector.le64(72)?,
            entries,
            entry_size,
            entries_crc: sector.le32(88)?,
        })
    }
}

/// CRC-32 of a header, its own checksum field taken as zero.
fn header_crc(header: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(header.get(..16).unwrap_or_default());
    crc.update(&[0; 4]);
    crc.update(header.get(20..).unwrap_or_default());
    crc.finalize()
}

/// A GUID as text. Its first three groups are stored little-endian.
fn guid_text(bytes: &[u8; 16]) -> String {
    let [a, b, c, d, e, f, g, h, rest @ ..] = *bytes;
    let [i, j, k, l, m, n, o, p] = rest;
    uuid_text(&[d, c, b, a, f, e, h, g, i, j, k, l, m, n, o, p])
}

/// A header with its table of entries, both checksums held.
#[derive(Debug)]
struct Found {
    header: Header,
    sector_size: u32,
    entries: Vec<u8>,
    entries_offset: u64,
}

/// Reads the header at sector `lba` and its table.
fn read(device: &dyn BlockDevice, sector_size: u32, lba: u64) -> Result<Found> {
    let sector_bytes = u64::from(sector_size);
    let inside = |start: Option<u64>, len: u64, field: &'static str| -> Result<u64> {
        let end = start.and_then(|start| start.checked_add(len));
        match (start, end) {
            (Some(start), Some(end)) if end <= device.size() => Ok(start),
            _ => {
                let expected = format!("{len} bytes inside a device of {} bytes", device.size());
                Err(Error::corrupt(FORMAT, field, lba.saturating_mul(sector_bytes), "a place past the end", expected))
            }
        }
    };
    let offset = inside(lba.checked_mul(sector_bytes), sector_bytes, "header")?;
    let sector = read_vec(device, offset, to_usize(sector_bytes))?;
    let header = Header::parse(&Record::new(FORMAT, &sector, offset), lba)?;
    let len = u64::from(header.entries).saturating_mul(u64::from(header.entry_size));
    let entries_offset = inside(header.entries_lba.checked_mul(sector_bytes), len, "PartitionEntryLBA")?;
    let entries = read_vec(device, entries_offset, to_usize(len))?;
    let computed = crc32fast::hash(&entries);
    if computed != header.entries_crc {
        let found = format!("{:#x}", header.entries_crc);
        let field_offset = offset.saturating_add(88);
        let expected = format!("{computed:#x}");
        return Err(Error::corrupt(FORMAT, "PartitionEntryArrayCRC32", field_offset, found, expected));
    }
    Ok(Found { header, sector_size, entries, entries_offset })
}

/// Reads the GPT of a device that has a protective MBR.
pub(super) fn scan(device: &Arc<dyn BlockDevice>) -> Result<PartitionTable> {
    let mut problem = None;
    for sector_size in SECTOR_SIZES {
        match read(device, sector_size, 1) {
            Ok(found) => return table(device, &found, Vec::new()),
            Err(error) if !has_signature(device, sector_size) => drop(problem.get_or_insert((sector_size, error))),
            // A header that is there but damaged says more than one that is not.
            Err(error) => problem = Some((sector_size, error)),
        }
    }
    let Some((_, problem)) = problem else {
        return Err(Error::corrupt(FORMAT, "Signature", 512, "nothing", "EFI PART"));
    };
    for sector_size in SECTOR_SIZES {
        let last = device.size().checked_div(u64::from(sector_size)).unwrap_or(0).saturating_sub(1);
        for lba in [Some(last), stated_alternate(device, sector_size)].into_iter().flatten() {
            if let Ok(found) = read(device, sector_size, lba) {
                return table(
                    device,
                    &found,
                    vec![format!("the primary GPT is damaged ({problem}); its backup is used")],
                );
            }
        }
    }
    Err(problem)
}

fn has_signature(device: &dyn BlockDevice, sector_size: u32) -> bool {
    read_vec(device, u64::from(sector_size), 8).is_ok_and(|bytes| bytes == b"EFI PART")
}

/// Where a damaged primary header says its backup is. Only a guess: the backup's own checksums decide.
fn stated_alternate(device: &dyn BlockDevice, sector_size: u32) -> Option<u64> {
    let sector = read_vec(device, u64::from(sector_size), 40).ok()?;
    if !sector.starts_with(b"EFI PART") {
        return None;
    }
    Record::new(FORMAT, &sector, 0).le64(32).ok().filter(|&lba| lba > 1)
}

fn table(device: &Arc<dyn BlockDevice>, found: &Found, mut notes: Vec<String>) -> Result<PartitionTable> {
    let Found { header, sector_size, entries, entries_offset } = found;
    let sectors = device.size().checked_div(u64::from(*sector_size)).unwrap_or(0);
    if header.last_usable_lba >= sectors {
        notes.push(format!(
            "the GPT was made for a larger disk: its last usable sector is {}, the disk has {sectors}",
            header.last_usable_lba
        ));
    }
    let entry_size = to_usize(u64::from(header.entry_size));
    let mut partitions = Vec::new();
    for (number, bytes) in (1u32..).zip(entries.chunks_exact(entry_size.max(1))) {
        let before = u64::from(number.saturating_sub(1)).saturating_mul(to_u64(entry_size));
        let record = Record::new(FORMAT, bytes, entries_offset.saturating_add(before));
        if record.array::<16>(0)? == &[0; 16] {
            continue;
        }
        match entry(&record, number, u64::from(*sector_size), device.size())? {
            Ok(partition) => partitions.push(partition),
            Err(note) => notes.push(note),
        }
    }
    let id = header.disk_guid.clone();
    Ok(PartitionTable { kind: TableKind::Gpt, sector_size: *sector_size, id, partitions, notes })
}

/// One used entry, or the note why it is left out.
fn entry(record: &Record<'_>, number: u32, sector: u64, device: u64) -> Result<Result<Partition, String>> {
    let (first, last) = (record.le64(32)?, record.le64(40)?);
    if last < first {
        return Ok(Err(format!(
            "partition {number} ends at sector {last} before it begins at {first}; it is left out"
        )));
    }
    let end = last.checked_add(1).and_then(|end| end.checked_mul(sector)).filter(|&end| end <= device);
    let (Some(start), Some(end)) = (first.checked_mul(sector), end) else {
        return Ok(Err(format!("partition {number} ends past the end of the disk and is left out")));
    };
    let attributes = record.le64(48)?;
    let units = record.slice(56, 72)?.chunks_exact(2).map(|pair| match *pair {
        [low, high] => u16::from_le_bytes([low, high]),
        _ => 0,
    });
    let name: String = char::decode_utf16(units.take_while(|&unit| unit != 0))
        .map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER))
        .collect();
    Ok(Ok(Partition {
        number,
        start,
        size: end.saturating_sub(start),
        kind: PartitionKind::Gpt,
        type_id: PartitionType::Gpt(guid_text(record.array(0)?)),
        name: Some(name).filter(|name| !name.is_empty()),
        uuid: Some(guid_text(record.array(16)?)),
        bootable: attributes & LEGACY_BIOS_BOOTABLE != 0,
        attributes,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header sector, made valid after `change`.
    fn header(change: impl FnOnce(&mut [u8])) -> Vec<u8> {
        let mut sector = vec![0; 512];
        sector[..8].copy_from_slice(b"EFI PART");
        for (at, value) in [(12, 92u32), (24, 1), (32, 99), (48, 90), (72, 2), (80, 4), (84, 128)] {
            sector[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        change(&mut sector);
        let size = u32::from_le_bytes(sector[12..16].try_into().unwrap()).min(512) as usize;
        let crc = header_crc(&sector[..size]);
        sector[16..20].copy_from_slice(&crc.to_le_bytes());
        sector
    }

    fn parse(sector: &[u8]) -> Result<Header> {
        Header::parse(&Record::new(FORMAT, sector, 512), 1)
    }

    #[test]
    fn each_check_names_its_field() {
        assert_eq!(parse(&header(|_| ())).unwrap().alternate_lba, 99);
        type Case = (&'static str, u64, fn(&mut [u8]));
        let cases: [Case; 6] = [
            ("Signature", 0, |s| s[0] = b'X'),
            ("HeaderSize", 12, |s| s[12] = 91),
            ("HeaderSize", 12, |s| s[14] = 1),
            ("MyLBA", 24, |s| s[24] = 2),
            ("SizeOfPartitionEntry", 84, |s| s[84] = 129),
            ("SizeOfPartitionEntry", 84, |s| s[85] = 0x40),
        ];
        for (field, at, change) in cases {
            let error = parse(&header(change)).unwrap_err();
            let corrupt = error.as_corrupt().unwrap();
            assert_eq!((corrupt.field, corrupt.offset), (field, 512 + at), "{error}");
        }
        let mut damaged = header(|_| ());
        damaged[60] ^= 1;
        assert_eq!(parse(&damaged).unwrap_err().as_corrupt().unwrap().field, "HeaderCRC32");
        assert_eq!(parse(&header(|s| s[82] = 1)).unwrap_err().exit_code(), 4, "65,540 entries");
    }

    #[test]
    fn guids_are_spelled_as_blkid_does() {
        let esp = [0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b];
        assert_eq!(guid_text(&esp), "c12a7328-f81f-11d2-ba4b-00a0c93ec93b");
    }
}
