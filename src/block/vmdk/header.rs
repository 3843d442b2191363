//! The header of a sparse extent: VMware, *Virtual Disk Format 5.0*, "Hosted Sparse Extents" and "Stream-Optimized
//! Compressed Sparse Extents". All integers are little-endian, sectors are 512 bytes, the structure is packed.
//!
//! | offset | size | field | unit, accepted |
//! |---:|---:|---|---|
//! | 0 | 4 | magicNumber | `KDMV` |
//! | 4 | 4 | version | 1 to 3 |
//! | 8 | 4 | flags | bit 0 newline test, 1 redundant table, 2 zeroed grains, 16 compressed, 17 markers |
//! | 12 | 8 | capacity | sectors, not 0 |
//! | 20 | 8 | grainSize | sectors; a power of two up to 2²¹, compressed up to 2¹¹ |
//! | 28 | 8 | descriptorOffset | sectors; 0: no embedded descriptor |
//! | 36 | 8 | descriptorSize | sectors |
//! | 44 | 4 | numGTEsPerGT | 1 to 512 |
//! | 48 | 8 | rgdOffset | ignored: the redundant grain directory |
//! | 56 | 8 | gdOffset | sectors; all ones: the header is repeated in a footer, which knows |
//! | 64 | 8 | overHead | ignored |
//! | 72 | 1 | uncleanShutdown | ignored |
//! | 73 | 4 | singleEndLineChar … doubleEndLineChar2 | `\n` ` ` `\r` `\n` when flag bit 0 is set |
//! | 77 | 2 | compressAlgorithm | 0 none, 1 deflate |
//!
//! The footer is the last 1536 bytes of the file: a footer marker, a header, an end-of-stream marker, each one sector. A
//! marker: value 8 (0 here), size 4 (0), type 4 (3 footer, 0 end of stream).
//!
//! Refused by name: other versions, unknown incompatible flags, compression without markers, other algorithms.

use super::FORMAT;
use crate::block::{BlockDevice, read_vec};
use crate::bytes::{Record, escape, to_usize};
use crate::error::{Error, Result};
use crate::limits;

pub(super) const SECTOR: u64 = 512;
pub(super) const MAGIC: &[u8; 4] = b"KDMV";
const GD_AT_END: u64 = u64::MAX;
const GRAIN_SECTORS_MAX: u64 = 1 << 21;
/// A compressed grain is unpacked in memory; VMware's own are 128 sectors.
const COMPRESSED_GRAIN_SECTORS_MAX: u64 = 1 << 11;

const FLAG_NEWLINES: u32 = 1;
const FLAG_ZEROED_GRAINS: u32 = 1 << 2;
const FLAG_COMPRESSED: u32 = 1 << 16;
const FLAG_MARKERS: u32 = 1 << 17;

/// The fields that are used; sizes and places in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) capacity: u64,
    pub(super) grain_size: u64,
    /// (offset, size) of the embedded descriptor.
    pub(super) descriptor: Option<(u64, u64)>,
    pub(super) gtes_per_gt: u32,
    pub(super) grain_directory: u64,
    pub(super) zeroed_grains: bool,
    pub(super) compressed: bool,
}

/// Reads the header of a sparse extent, and its footer when the header says that the footer counts.
pub(super) fn read(file: &dyn BlockDevice) -> Result<Header> {
    let sector = read_vec(file, 0, to_usize(file.size().min(SECTOR)))?;
    let (header, in_footer) = parse(&Record::new(FORMAT, &sector, 0))?;
    if !in_footer {
        return Ok(header);
    }
    let missing = |found: &str| Error::corrupt(FORMAT, "gdOffset", 56, found, "a footer at the end of the file");
    let start = file.size().checked_sub(3 * SECTOR).filter(|&start| start >= SECTOR);
    let start = start.ok_or_else(|| missing("all ones in a file too short for a footer"))?;
    let bytes = read_vec(file, start, to_usize(3 * SECTOR))?;
    let footer = Record::new(FORMAT, &bytes, start);
    let marker = |at: usize| {
        Ok::<_, Error>((footer.le64(at)?, footer.le32(at.saturating_add(8))?, footer.le32(at.saturating_add(12))?))
    };
    let (first, last) = (marker(0)?, marker(1024)?);
    if (first.1, first.2) != (0, 3) {
        return Err(footer.corrupt("footer marker", 0, format!("{first:?}"), "(_, 0, 3)"));
    }
    if last != (0, 0, 0) {
        return Err(footer.corrupt("end-of-stream marker", 1024, format!("{last:?}"), "(0, 0, 0)"));
    }
    let (repeated, again) = parse(&footer.sub(512, 512)?)?;
    if again {
        return Err(footer.corrupt("gdOffset", 512 + 56, "all ones in the footer itself", "a sector"));
    }
    if (repeated.capacity, repeated.grain_size) != (header.capacity, header.grain_size) {
        return Err(footer.corrupt("capacity", 512 + 12, repeated.capacity, header.capacity));
    }
    // The embedded descriptor is where the header says; writers leave it out of the footer.
    Ok(Header { descriptor: header.descriptor, ..repeated })
}

/// One header; true if its grain directory is for the footer to tell.
fn parse(record: &Record<'_>) -> Result<(Header, bool)> {
    let magic = record.array::<4>(0)?;
    if magic != MAGIC {
        return Err(record.corrupt("magicNumber", 0, escape(magic), escape(MAGIC)));
    }
    let version = record.le32(4)?;
    if !(1..=3).contains(&version) {
        return Err(Error::unsupported(FORMAT, format!("version {version}")));
    }
    let flags = record.le32(8)?;
    let known = 0xffff | FLAG_COMPRESSED | FLAG_MARKERS;
    if flags & !known != 0 {
        return Err(Error::unsupported(FORMAT, format!("incompatible flags {:#x}", flags & !known)));
    }
    let newlines = record.array::<4>(73)?;
    if flags & FLAG_NEWLINES != 0 && newlines != b"\n \r\n" {
        return Err(record.corrupt(
            "singleEndLineChar",
            73,
            escape(newlines),
            "\\n \\x0d\\n (a transfer in text mode changes these)",
        ));
    }
    let compressed = flags & FLAG_COMPRESSED != 0;
    let algorithm = record.le16(77)?;
    if compressed && algorithm != 1 {
        return Err(Error::unsupported(FORMAT, format!("compression algorithm {algorithm}")));
    }
    if compressed && flags & FLAG_MARKERS == 0 {
        return Err(Error::unsupported(FORMAT, "compression without markers"));
    }
    let bytes = |field: &'static str, at: usize| -> Result<u64> {
        let sectors = record.le64(at)?;
        let bytes = sectors.checked_mul(SECTOR).filter(|&bytes| bytes <= u64::MAX >> 1);
        bytes.ok_or_else(|| record.corrupt(field, at, sectors, "less than 8 EiB in sectors"))
    };
    let capacity = bytes("capacity", 12)?;
    if capacity == 0 {
        return Err(record.corrupt("capacity", 12, 0, "at least one sector"));
    }
    let grain = record.le64(20)?;
    let largest = if compressed { COMPRESSED_GRAIN_SECTORS_MAX } else { GRAIN_SECTORS_MAX };
    if !grain.is_power_of_two() || grain > largest {
        return Err(record.corrupt("grainSize", 20, grain, format!("a power of two up to {largest}")));
    }
    let gtes_per_gt = record.le32(44)?;
    if !(1..=512).contains(&gtes_per_gt) {
        return Err(record.corrupt("numGTEsPerGT", 44, gtes_per_gt, "1 to 512"));
    }
    let descriptor = match bytes("descriptorOffset", 28)? {
        0 => None,
        offset => {
            let size = bytes("descriptorSize", 36)?;
            Some((offset, limits::check("descriptor bytes", size, limits::DESCRIPTOR_BYTES)?))
        }
    };
    let in_footer = record.le64(56)? == GD_AT_END;
    let header = Header {
        capacity,
        grain_size: grain.saturating_mul(SECTOR),
        descriptor,
        gtes_per_gt,
        grain_directory: if in_footer { 0 } else { bytes("gdOffset", 56)? },
        zeroed_grains: flags & FLAG_ZEROED_GRAINS != 0,
        compressed,
    };
    Ok((header, in_footer))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::block::Memory;

    /// The header of a 1 MiB extent with a directory at sector 2.
    pub(in crate::block::vmdk) fn sample() -> Vec<u8> {
        let mut sector = vec![0; 512];
        sector[..4].copy_from_slice(MAGIC);
        for (at, value) in [(4, 1u32), (8, 1), (12, 2048), (20, 128), (44, 512), (56, 2)] {
            sector[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        sector[73..77].copy_from_slice(b"\n \r\n");
        sector
    }

    fn changed(change: impl FnOnce(&mut [u8])) -> Result<Header> {
        let mut sector = sample();
        change(&mut sector);
        read(&Memory::new(sector))
    }

    #[test]
    fn each_check_names_its_field() {
        assert_eq!(changed(|_| ()).unwrap().grain_directory, 1024);
        type Case = (&'static str, u64, fn(&mut [u8]));
        let cases: [Case; 12] = [
            ("magicNumber", 0, |s| s[0] = b'C'),
            ("singleEndLineChar", 73, |s| s[75] = b'\n'),
            ("capacity", 12, |s| s[12..20].fill(0)),
            ("capacity", 12, |s| s[12..20].fill(0xff)),
            ("grainSize", 20, |s| s[20] = 0),
            ("grainSize", 20, |s| s[20] = 129),
            ("grainSize", 20, |s| s[27] = 1),
            ("grainSize", 20, |s| (s[8], s[10], s[77], s[20], s[21]) = (1, 3, 1, 0, 16)),
            ("numGTEsPerGT", 44, |s| s[45] = 0),
            ("numGTEsPerGT", 44, |s| s[44] = 1),
            ("descriptorOffset", 28, |s| s[35] = 0x80),
            ("gdOffset", 56, |s| s[56..64].fill(0xff)),
        ];
        for (field, offset, change) in cases {
            let error = changed(change).unwrap_err();
            let corrupt = error.as_corrupt().unwrap_or_else(|| panic!("{field}: {error}"));
            assert_eq!((corrupt.field, corrupt.offset), (field, offset), "{error}");
        }
        assert_eq!(read(&Memory::new(b"KDMV".to_vec())).unwrap_err().as_corrupt().unwrap().field, "length");
    }

    #[test]
    fn what_is_not_read_is_refused_by_name() {
        type Case = (&'static str, fn(&mut [u8]));
        let cases: [Case; 4] = [
            ("vmdk: version 4 is not supported", |s| s[4] = 4),
            ("vmdk: incompatible flags 0x40000 is not supported", |s| s[10] = 4),
            ("vmdk: compression algorithm 2 is not supported", |s| (s[10], s[77]) = (3, 2)),
            ("vmdk: compression without markers is not supported", |s| (s[10], s[77]) = (1, 1)),
        ];
        for (message, change) in cases {
            assert_eq!(changed(change).unwrap_err().to_string(), message);
        }
        let huge = |s: &mut [u8]| (s[28], s[37]) = (1, 255);
        assert_eq!(changed(huge).unwrap_err().exit_code(), 4);
    }

    #[test]
    fn a_footer_takes_the_place_of_the_header() {
        let mut file = sample();
        file[56..64].fill(0xff);
        let mut marker = [0; 512];
        marker[12] = 3;
        file.extend(marker);
        file.extend(sample());
        file.extend([0; 512]);
        assert_eq!(read(&Memory::new(file.clone())).unwrap().grain_directory, 1024);
        type Case = (&'static str, u64, fn(&mut [u8]));
        let cases: [Case; 5] = [
            ("footer marker", 512, |f| f[512 + 12] = 2),
            ("magicNumber", 1024, |f| f[1024] = 0),
            ("gdOffset", 1024 + 56, |f| f[1024 + 56..1024 + 64].fill(0xff)),
            ("capacity", 1024 + 12, |f| f[1024 + 12] = 1),
            ("end-of-stream marker", 1536, |f| f[1536] = 1),
        ];
        for (field, offset, change) in cases {
            let mut file = file.clone();
            change(&mut file);
            let error = read(&Memory::new(file)).unwrap_err();
            let corrupt = error.as_corrupt().unwrap();
            assert_eq!((corrupt.field, corrupt.offset), (field, offset), "{error}");
        }
    }
}
