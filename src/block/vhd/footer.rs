//! The footer of a VHD: Microsoft, *Virtual Hard Disk Image Format Specification* 1.0, "Hard Disk Footer Format". All
//! integers are big-endian.
//!
//! | offset | size | field | unit, accepted |
//! |---:|---:|---|---|
//! | 0 | 8 | cookie | `conectix` |
//! | 8 | 4 | features | ignored |
//! | 12 | 4 | file format version | major version 1 |
//! | 16 | 8 | data offset | bytes; where the dynamic header is; all ones in a fixed disk |
//! | 24 | 4 | time stamp | ignored |
//! | 28 | 4 | creator application | decides about the size, see below |
//! | 32 | 4 | creator version | ignored |
//! | 36 | 4 | creator host OS | ignored |
//! | 40 | 8 | original size | ignored |
//! | 48 | 8 | current size | bytes; what is not a whole sector is dropped |
//! | 56 | 2 | cylinders | |
//! | 58 | 1 | heads | |
//! | 59 | 1 | sectors per track | |
//! | 60 | 4 | disk type | 2 fixed, 3 dynamic, 4 differencing |
//! | 64 | 4 | checksum | ones' complement of the sum of all bytes but these four |
//! | 68 | 16 | unique ID | |
//! | 84 | 1 | saved state | ignored |
//! | 85 | 427 | reserved | |
//!
//! It is the last sector of the file, and in other than fixed disks the first one too. The one at the end counts: a guest
//! can write the first sector of a fixed disk. The one at the beginning stands in when that at the end is damaged. (QEMU
//! looks at the beginning first.)
//!
//! # The disk's size
//!
//! Two fields tell it and they differ. Virtual PC shows its guests cylinders × heads × sectors, which is less than the
//! current size by up to a cylinder; everyone else shows the current size. As in QEMU 10, the geometry counts when the
//! creator is Virtual PC (`vpc `) or QEMU going by the geometry (`qemu`), unless it has the largest values that it can
//! have and is too small to be meant. (Older versions of QEMU let the geometry count for all but a few creators.)

use super::FORMAT;
use crate::block::{BlockDevice, read_vec};
use crate::bytes::{Record, escape, to_u64, to_usize};
use crate::error::{Error, Result};

pub(super) const SIZE: u64 = 512;
pub(super) const SECTOR: u64 = 512;
pub(super) const COOKIE: &[u8; 8] = b"conectix";
/// 2040 GiB, the specification's limit.
pub(super) const SIZE_MAX: u64 = 2040 << 30;
const GEOMETRY_MAX: u64 = 65_535 * 16 * 255;
const USE_GEOMETRY: [&[u8; 4]; 2] = [b"vpc ", b"qemu"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DiskType {
    Fixed,
    Dynamic,
    Differencing,
}

/// The fields that are used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Footer {
    /// Where in the file this footer is.
    pub(super) position: u64,
    pub(super) data_offset: u64,
    pub(super) size: u64,
    pub(super) disk_type: DiskType,
    pub(super) unique_id: [u8; 16],
}

/// The footer that counts.
pub(super) fn read(file: &dyn BlockDevice) -> Result<Footer> {
    let at_end = at(file, file.size().saturating_sub(SIZE)).and_then(|footer| fits(footer, file.size()));
    let error = match at_end {
        Ok(footer) => return Ok(footer),
        Err(error) => error,
    };
    match at(file, 0).and_then(|footer| fits(footer, file.size())) {
        Ok(footer) => {
            log::debug!("the footer at the end is damaged, using its copy at the beginning: {error}");
            Ok(footer)
        }
        // Without the cookie nothing at the beginning was meant to be a footer.
        Err(other) if other.as_corrupt().is_some_and(|corrupt| corrupt.field == "cookie") => Err(error),
        Err(other) => Err(other),
    }
}

/// Whether the file is a fixed disk, beyond doubt: a footer at the end in which everything is right and whose size is
/// exactly the rest of the file. Less would let a guest's last sector change how a raw disk is read.
pub(in crate::block) fn is_fixed(file: &dyn BlockDevice) -> Result<bool> {
    let Some(end) = file.size().checked_sub(SIZE) else { return Ok(false) };
    let bytes = read_vec(file, end, to_usize(SIZE))?;
    if !bytes.starts_with(COOKIE) {
        return Ok(false);
    }
    let record = Record::new(FORMAT, &bytes, end);
    Ok(parse(&record).is_ok_and(|footer| footer.disk_type == DiskType::Fixed)
        && record.be32(12)? == 0x0001_0000
        && record.be64(16)? == u64::MAX
        && record.be64(48)? == end)
}

fn at(file: &dyn BlockDevice, position: u64) -> Result<Footer> {
    let len = file.size().saturating_sub(position).min(SIZE);
    parse(&Record::new(FORMAT, &read_vec(file, position, to_usize(len))?, position))
}

/// A fixed disk must lie in front of its footer.
fn fits(footer: Footer, file_size: u64) -> Result<Footer> {
    let room = file_size.saturating_sub(SIZE);
    if footer.disk_type == DiskType::Fixed && footer.size > room {
        let at = room.saturating_add(48);
        return Err(Error::corrupt(
            FORMAT,
            "current size",
            at,
            footer.size,
            format!("at most the file's {room} bytes"),
        ));
    }
    Ok(footer)
}

fn parse(record: &Record<'_>) -> Result<Footer> {
    let cookie = record.array::<8>(0)?;
    if cookie != COOKIE {
        return Err(record.corrupt("cookie", 0, escape(cookie), escape(COOKIE)));
    }
    check(record, to_usize(SIZE), 64)?;
    let version = record.be32(12)?;
    if version >> 16 != 1 {
        return Err(Error::unsupported(FORMAT, format!("version {}.{}", version >> 16, version & 0xffff)));
    }
    let disk_type = match record.be32(60)? {
        2 => DiskType::Fixed,
        3 => DiskType::Dynamic,
        4 => DiskType::Differencing,
        other => return Err(record.corrupt("disk type", 60, other, "2, 3 or 4")),
    };
    let geometry =
        u64::from(record.be16(56)?).saturating_mul(record.u8(58)?.into()).saturating_mul(record.u8(59)?.into());
    let creator = record.array::<4>(28)?;
    let use_current = geometry == GEOMETRY_MAX || !USE_GEOMETRY.contains(&creator);
    let current = record.be64(48)?;
    let size = if use_current { current & !(SECTOR - 1) } else { geometry.saturating_mul(SECTOR) };
    if size > SIZE_MAX {
        return Err(record.corrupt("current size", 48, size, format!("at most {SIZE_MAX}")));
    }
    let (position, unique_id) = (record.position(0), *record.array(68)?);
    Ok(Footer { position, data_offset: record.be64(16)?, size, disk_type, unique_id })
}

/// Checks the checksum at byte `at` of a structure of `len` bytes.
pub(super) fn check(record: &Record<'_>, len: usize, at: usize) -> Result<()> {
    let (found, sum) = (record.be32(at)?, checksum(record.slice(0, len)?, at));
    if found == sum {
        return Ok(());
    }
    Err(record.corrupt("checksum", at, format!("{found:#x}"), format!("{sum:#x}")))
}

/// The checksum of a structure that has it at byte `at`.
pub(super) fn checksum(bytes: &[u8], at: usize) -> u32 {
    let field = at..at.saturating_add(4);
    let counted = bytes.iter().enumerate().filter(|(index, _)| !field.contains(index));
    !counted.fold(0u32, |sum, (_, byte)| sum.wrapping_add(u32::from(*byte)))
}

/// Cylinders, heads and sectors per track for a disk of `size` bytes: the specification's appendix, "CHS Calculation".
pub(super) fn geometry(size: u64) -> (u64, u64, u64) {
    let sectors = size.div_euclid(SECTOR).min(GEOMETRY_MAX);
    let tracks = |per_track: u64| sectors.checked_div(per_track).unwrap_or(0);
    let cylinders = |heads: u64, per_track: u64| tracks(per_track).checked_div(heads).unwrap_or(0);
    if sectors >= 65_535 * 16 * 63 {
        return (cylinders(16, 255), 16, 255);
    }
    let heads = tracks(17).div_ceil(1024).max(4);
    if heads <= 16 && tracks(17) < heads.saturating_mul(1024) {
        return (cylinders(heads, 17), heads, 17);
    }
    let per_track = if tracks(31) < 16 * 1024 { 31 } else { 63 };
    (cylinders(16, per_track), 16, per_track)
}

/// The length of a footer in memory.
pub(super) const LEN: usize = 512;
const _: () = assert!(to_u64(LEN) == SIZE);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Memory;

    fn footer(creator: &[u8; 4], current: u64, chs: (u16, u8, u8), disk_type: u32) -> Vec<u8> {
        let mut bytes = vec![0; 512];
        bytes[..8].copy_from_slice(COOKIE);
        bytes[12..16].copy_from_slice(&0x10000u32.to_be_bytes());
        bytes[16..24].fill(0xff);
        bytes[28..32].copy_from_slice(creator);
        bytes[48..56].copy_from_slice(&current.to_be_bytes());
        bytes[56..58].copy_from_slice(&chs.0.to_be_bytes());
        (bytes[58], bytes[59]) = (chs.1, chs.2);
        bytes[60..64].copy_from_slice(&disk_type.to_be_bytes());
        let sum = checksum(&bytes, 64);
        bytes[64..68].copy_from_slice(&sum.to_be_bytes());
        bytes
    }

    #[test]
    fn the_creator_and_the_geometry_decide_about_the_size() {
        for (creator, current, chs, size) in [
            (b"vpc ", 40_000u64, (17, 4, 1), 17 * 4 * 512u64),
            (b"qemu", 40_000, (17, 4, 1), 17 * 4 * 512),
            (b"vbox", 40_000, (17, 4, 1), 39_936),
            (b"vpc ", 40_000, (65_535, 16, 255), 39_936),
            (b"win ", 40_000, (17, 4, 1), 39_936),
            (b"qem2", 40_000, (17, 4, 1), 39_936),
            (b"d2v ", 40_000, (17, 4, 1), 39_936),
            (b"tap\0", 40_000, (17, 4, 1), 39_936),
            (b"CTXS", 40_000, (17, 4, 1), 39_936),
            (b"wa\0\0", 40_000, (17, 4, 1), 39_936),
        ] {
            let bytes = footer(creator, current, chs, 3);
            assert_eq!(parse(&Record::new(FORMAT, &bytes, 0)).unwrap().size, size, "{}", escape(creator));
        }
        let error = parse(&Record::new(FORMAT, &footer(b"win ", SIZE_MAX + 512, (0, 0, 0), 3), 0)).unwrap_err();
        assert_eq!(error.as_corrupt().unwrap().field, "current size");
    }

    #[test]
    fn the_end_counts_and_the_beginning_stands_in() {
        let fixed = footer(b"win ", 1024, (1, 1, 2), 2);
        let dynamic = footer(b"win ", 4096, (1, 1, 8), 3);
        let file = |head: &[u8], tail: &[u8]| Memory::new([head, &[0; 512], tail].concat());
        // A guest wrote a footer to the first sector of a fixed disk.
        let disguised = file(&dynamic, &fixed);
        assert_eq!(read(&disguised).unwrap().disk_type, DiskType::Fixed);
        assert!(is_fixed(&disguised).unwrap());
        let mut damaged = dynamic.clone();
        damaged[100] ^= 1;
        assert_eq!(read(&file(&dynamic, &damaged)).unwrap().size, 4096);
        assert_eq!(read(&file(&damaged, &dynamic)).unwrap().size, 4096);
        assert_eq!(read(&file(&damaged, &damaged)).unwrap_err().as_corrupt().unwrap().field, "checksum");
        assert_eq!(read(&file(&[0; 512], &damaged)).unwrap_err().as_corrupt().unwrap().offset, 1024 + 64);
        // Too large for its file, or not exactly as large.
        for size in [512, 2048] {
            let other = footer(b"win ", size, (1, 1, 2), 2);
            assert!(!is_fixed(&file(&[0; 512], &other)).unwrap());
        }
        let large = footer(b"win ", 2048, (1, 1, 2), 2);
        assert_eq!(read(&file(&[0; 512], &large)).unwrap_err().as_corrupt().unwrap().field, "current size");
        assert!(!is_fixed(&Memory::new(vec![0; 100])).unwrap());
        assert!(read(&Memory::new(vec![0; 100])).is_err());
    }

    #[test]
    fn geometry_is_never_larger_than_the_disk() {
        assert_eq!(geometry(0), (0, 4, 17));
        assert_eq!(geometry(1 << 30), (2080, 16, 63));
        assert_eq!(geometry(SIZE_MAX), (65_535, 16, 255));
        for size in (0..300u64).map(|step| step * 512 * 7_654_321) {
            let (cylinders, heads, sectors) = geometry(size);
            assert!(cylinders <= 65_535 && cylinders * heads * sectors * 512 <= size);
        }
    }
}
