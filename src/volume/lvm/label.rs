//! What lies at the beginning of a physical volume: label, header, metadata areas. LVM2's `lib/label/label.h`,
//! `lib/format_text/layout.h`. All integers are little-endian.
//!
//! Label, in one of the first four 512-byte sectors:
//!
//! | offset | size | field | unit, accepted |
//! |---:|---:|---|---|
//! | 0 | 8 | id | `LABELONE` |
//! | 8 | 8 | sector_xl | the sector it is in |
//! | 16 | 4 | crc_xl | LVM's CRC over bytes 20 to 512 |
//! | 20 | 4 | offset_xl | bytes from the label to the header, inside the sector |
//! | 24 | 8 | type | `LVM2 001` |
//!
//! Physical volume header (`pv_header`), at `offset_xl`:
//!
//! | offset | size | field | unit, accepted |
//! |---:|---:|---|---|
//! | 0 | 32 | pv_uuid | letters and digits |
//! | 32 | 8 | device_size_xl | bytes, not checked |
//! | 40 | 16 × n | disk_areas_xl | (offset, size) in bytes: data areas, 0, metadata areas, 0 |
//!
//! Metadata area header (`mda_header`), 512 bytes:
//!
//! | offset | size | field | unit, accepted |
//! |---:|---:|---|---|
//! | 0 | 4 | checksum_xl | LVM's CRC over bytes 4 to 512 |
//! | 4 | 16 | magic | ` LVM2 x[5A%r0N*>` |
//! | 20 | 4 | version | 1 |
//! | 24 | 8 | start | bytes: where the area is |
//! | 32 | 8 | size | bytes, at most 16 MiB more than the header |
//! | 40 | 24 | raw_locns\[0\] | the committed text: offset 8 (from start), size 8, checksum 4, flags 4 (1: ignored) |
//!
//! The text is a ring behind the header: what passes the end of the area goes on at byte 512 of it.

use crate::block::{BlockDevice, read_vec};
use crate::bytes::{Record, escape, to_usize};
use crate::error::{Error, Result};
use crate::limits;

pub(super) const FORMAT: &str = "lvm2";
const SECTOR: u64 = 512;
const MAGIC: &[u8; 16] = b"\x20LVM2\x20x[5A%r0N*>";
const IGNORED: u32 = 1;

/// LVM's checksum: CRC-32 without the final complement, begun with a value of its own.
fn crc(bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(!0xf597_a6cf);
    hasher.update(bytes);
    !hasher.finalize()
}

/// A physical volume's identity and where its metadata is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PhysicalVolume {
    /// Thirty-two characters without dashes.
    pub(super) uuid: String,
    /// (offset, size) of each metadata area, in bytes of the device.
    pub(super) areas: Vec<(u64, u64)>,
}

/// The label of `device`; `None` if it is no physical volume.
pub(super) fn read(device: &dyn BlockDevice) -> Result<Option<PhysicalVolume>> {
    let head = read_vec(device, 0, to_usize(device.size().min(4 * SECTOR)))?;
    for (sector, bytes) in (0u64..).zip(head.chunks_exact(to_usize(SECTOR))) {
        if bytes.starts_with(b"LABELONE") {
            let record = Record::new(FORMAT, bytes, sector.saturating_mul(SECTOR));
            // LVM1 and foreign labels are passed over.
            if record.array::<8>(24)? == b"LVM2 001" {
                return parse_label(&record, sector).map(Some);
            }
        }
    }
    Ok(None)
}

fn parse_label(record: &Record<'_>, sector: u64) -> Result<PhysicalVolume> {
    let stated = record.le64(8)?;
    if stated != sector {
        return Err(record.corrupt("sector_xl", 8, stated, sector));
    }
    check_crc(record, "crc_xl", 16, record.slice(20, 492)?)?;
    let header = to_usize(u64::from(record.le32(20)?));
    let uuid = record.array::<32>(header)?;
    if !uuid.iter().all(u8::is_ascii_alphanumeric) {
        return Err(record.corrupt("pv_uuid", header, escape(uuid), "32 letters and digits"));
    }
    let uuid = String::from_utf8_lossy(uuid).into_owned();
    let mut at = header.saturating_add(40);
    let mut lists = [Vec::new(), Vec::new()];
    for list in &mut lists {
        loop {
            let (offset, size) = (record.le64(at)?, record.le64(at.saturating_add(8))?);
            at = at.saturating_add(16);
            if offset == 0 {
                break;
            }
            list.push((offset, size));
        }
    }
    let [_, areas] = lists;
    Ok(PhysicalVolume { uuid, areas })
}

fn check_crc(record: &Record<'_>, field: &'static str, at: usize, bytes: &[u8]) -> Result<()> {
    let (found, computed) = (record.le32(at)?, crc(bytes));
    if found != computed {
        return Err(record.corrupt(field, at, format!("{found:#x}"), format!("{computed:#x}")));
    }
    Ok(())
}

/// Where the committed metadata text of one area lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct TextLocation {
    /// The area, in bytes of the device.
    area_start: u64,
    area_size: u64,
    /// From the start of the area.
    offset: u64,
    pub(super) size: u64,
    pub(super) checksum: u32,
}

impl TextLocation {
    /// The first byte on the device.
    pub(super) fn position(&self) -> u64 {
        self.area_start.saturating_add(self.offset)
    }
}

/// Reads the header of the metadata area at `start`; `None` if it holds no text or is marked as ignored.
pub(super) fn read_area(device: &dyn BlockDevice, start: u64) -> Result<Option<TextLocation>> {
    let bytes = read_vec(device, start, to_usize(SECTOR))?;
    let record = Record::new(FORMAT, &bytes, start);
    check_crc(&record, "checksum_xl", 0, record.slice(4, 508)?)?;
    parse_area(&record)
}

fn parse_area(record: &Record<'_>) -> Result<Option<TextLocation>> {
    let magic = record.array::<16>(4)?;
    if magic != MAGIC {
        return Err(record.corrupt("magic", 4, escape(magic), escape(MAGIC)));
    }
    let version = record.le32(20)?;
    if version != 1 {
        return Err(Error::unsupported(FORMAT, format!("metadata area version {version}")));
    }
    let area_start = record.le64(24)?;
    if area_start != record.offset {
        return Err(record.corrupt("start", 24, area_start, record.offset));
    }
    let area_size = record.le64(32)?;
    let (offset, size) = (record.le64(40)?, record.le64(48)?);
    if offset == 0 || record.le32(60)? & IGNORED != 0 {
        return Ok(None);
    }
    limits::check("LVM metadata bytes", size, limits::LVM_METADATA_BYTES)?;
    if offset < SECTOR || offset >= area_size {
        return Err(record.corrupt("raw_locn offset", 40, offset, format!("{SECTOR} to {area_size}")));
    }
    if size > area_size.saturating_sub(SECTOR) {
        return Err(record.corrupt("raw_locn size", 48, size, format!("at most the area's {area_size} bytes")));
    }
    Ok(Some(TextLocation { area_start, area_size, offset, size, checksum: record.le32(56)? }))
}

/// The metadata text, both ends of the ring joined, its checksum held.
pub(super) fn read_text(device: &dyn BlockDevice, location: &TextLocation) -> Result<String> {
    let position = location.position();
    let until_end = location.area_size.saturating_sub(location.offset);
    let head = location.size.min(until_end);
    let mut text = read_vec(device, position, to_usize(head))?;
    let wrapped = location.size.saturating_sub(head);
    if wrapped > 0 {
        text.extend(read_vec(device, location.area_start.saturating_add(SECTOR), to_usize(wrapped))?);
    }
    let computed = crc(&text);
    if computed != location.checksum {
        let found = format!("{:#x}", location.checksum);
        return Err(Error::corrupt(FORMAT, "raw_locn checksum", position, found, format!("{computed:#x}")));
    }
    String::from_utf8(text).map_err(|error| {
        let at = position.saturating_add(crate::bytes::to_u64(error.utf8_error().valid_up_to()));
        Error::corrupt(FORMAT, "metadata text", at, "invalid UTF-8", "UTF-8")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Memory;

    /// A physical volume with a text that wraps round the end of its 2048-byte area at 4096.
    fn volume() -> Vec<u8> {
        let mut disk = vec![0; 8192];
        disk[512..520].copy_from_slice(b"LABELONE");
        disk[520] = 1;
        disk[532] = 32;
        disk[536..544].copy_from_slice(b"LVM2 001");
        disk[544..576].fill(b'u');
        for (at, value) in [(584, 1 << 20), (616, 4096u64), (624, 2048)] {
            disk[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        disk[4100..4116].copy_from_slice(MAGIC);
        disk[4116] = 1;
        for (at, value) in [(24, 4096u64), (32, 2048), (40, 2040), (48, 12)] {
            disk[4096 + at..4104 + at].copy_from_slice(&value.to_le_bytes());
        }
        disk[4096 + 2040..4096 + 2048].copy_from_slice(b"contents");
        disk[4096 + 512..4096 + 516].copy_from_slice(b" = 1");
        let text_crc = crc(b"contents = 1");
        disk[4096 + 56..4096 + 60].copy_from_slice(&text_crc.to_le_bytes());
        disk
    }

    fn sealed(mut disk: Vec<u8>) -> Memory {
        let label = crc(&disk[532..1024]);
        disk[528..532].copy_from_slice(&label.to_le_bytes());
        let area = crc(&disk[4100..4608]);
        disk[4096..4100].copy_from_slice(&area.to_le_bytes());
        Memory::new(disk)
    }

    fn read_all(device: &Memory) -> Result<Option<String>> {
        let Some(volume) = read(device)? else { return Ok(None) };
        let location = read_area(device, volume.areas[0].0)?.unwrap();
        read_text(device, &location).map(Some)
    }

    #[test]
    fn the_ring_is_joined() {
        let device = sealed(volume());
        assert_eq!(read(&device).unwrap().unwrap().areas, [(4096, 2048)]);
        assert_eq!(read_all(&device).unwrap().as_deref(), Some("contents = 1"));
        assert_eq!(read_all(&Memory::new(vec![0; 100])).unwrap(), None);
    }

    #[test]
    fn each_check_names_its_field() {
        type Case = (&'static str, u64, fn(&mut [u8]));
        let cases: [Case; 7] = [
            ("sector_xl", 520, |d| d[520] = 2),
            ("pv_uuid", 544, |d| d[550] = b'-'),
            ("magic", 4100, |d| d[4100] = b'X'),
            ("start", 4120, |d| d[4121] = 0),
            ("raw_locn offset", 4136, |d| d[4137] = 0xff),
            ("raw_locn size", 4144, |d| d[4145] = 0xff),
            ("raw_locn checksum", 4096 + 2040, |d| d[4096 + 2041] = b'x'),
        ];
        for (field, offset, change) in cases {
            let mut disk = volume();
            change(&mut disk);
            let error = read_all(&sealed(disk)).unwrap_err();
            let corrupt = error.as_corrupt().unwrap_or_else(|| panic!("{field}: {error}"));
            assert_eq!((corrupt.field, corrupt.offset), (field, offset), "{error}");
        }
        assert_eq!(read_all(&Memory::new(volume())).unwrap_err().as_corrupt().unwrap().field, "crc_xl");
    }
}
