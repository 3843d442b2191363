//! The header of a VDI file, version 1.1, as VirtualBox's `VDICore.h` lays it out. All integers are little-endian.
//!
//! | offset | size | field | unit, accepted |
//! |---:|---:|---|---|
//! | 0 | 64 | text | ignored |
//! | 64 | 4 | signature | 0xbeda107f |
//! | 68 | 4 | version | 1.1: 0x00010001 |
//! | 72 | 4 | header size | ignored; QEMU's 0x180, VirtualBox's 0x190 |
//! | 76 | 4 | image type | 1 dynamic, 2 static; refused: 3 undo, 4 differencing |
//! | 80 | 4 | image flags | ignored |
//! | 84 | 256 | description | ignored |
//! | 340 | 4 | block map offset | bytes, a multiple of 512 |
//! | 344 | 4 | data offset | bytes, a multiple of 512 |
//! | 348 | 12 | cylinders, heads, sectors | ignored |
//! | 360 | 4 | sector size | 512 |
//! | 368 | 8 | disk size | bytes, rounded up to 512 as QEMU does |
//! | 376 | 4 | block size | bytes, a power of two from 4 KiB to 256 MiB |
//! | 380 | 4 | block extra size | 0; refused: bytes before each block |
//! | 384 | 4 | blocks in image | no fewer than the disk needs |
//! | 388 | 4 | blocks allocated | ignored, but for a check |
//! | 392 | 16 | UUID of the image | ignored |
//! | 408 | 16 | UUID of its last modification | ignored |
//! | 424 | 16 | UUID of the parent | all zero; refused: anything else |
//! | 440 | 16 | UUID of the parent's modification | all zero |

use super::FORMAT;
use crate::block::{BlockDevice, read_vec};
use crate::bytes::{Record, to_usize};
use crate::error::{Error, Result};

pub(super) const SIGNATURE: u32 = 0xbeda_107f;
pub(super) const VERSION: u32 = 0x0001_0001;
pub(super) const DYNAMIC: u32 = 1;
pub(super) const STATIC: u32 = 2;
pub(super) const HEADER: usize = 512;
const SECTOR: u64 = 512;
const BLOCK_SIZES: std::ops::RangeInclusive<u32> = 4096..=256 << 20;

/// The fields that are used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) image_type: u32,
    pub(super) block_map: u64,
    pub(super) data: u64,
    pub(super) size: u64,
    pub(super) block_size: u64,
    pub(super) blocks: u64,
    pub(super) allocated: u64,
}

/// Reads the header and holds its table against the file.
pub(super) fn read(file: &dyn BlockDevice) -> Result<Header> {
    let bytes = read_vec(file, 0, to_usize(file.size().min(512)))?;
    let record = Record::new(FORMAT, &bytes, 0);
    let header = parse(&record)?;
    let map_len = header.blocks.saturating_mul(4);
    if header.block_map.saturating_add(map_len) > file.size() {
        let found = format!("{map_len} bytes at byte {:#x}", header.block_map);
        return Err(record.corrupt(
            "block map offset",
            340,
            found,
            format!("a map inside the file of {}", file.size()),
        ));
    }
    Ok(header)
}

fn parse(record: &Record<'_>) -> Result<Header> {
    let signature = record.le32(64)?;
    if signature != SIGNATURE {
        return Err(record.corrupt("signature", 64, format!("{signature:#x}"), format!("{SIGNATURE:#x}")));
    }
    let version = record.le32(68)?;
    if version != VERSION {
        return Err(Error::unsupported(FORMAT, format!("version {}.{}", version >> 16, version & 0xffff)));
    }
    let image_type = record.le32(76)?;
    match image_type {
        DYNAMIC | STATIC => {}
        3 => return Err(Error::unsupported(FORMAT, "undo images")),
        4 => return Err(Error::unsupported(FORMAT, "differencing images")),
        other => return Err(record.corrupt("image type", 76, other, "1 to 4")),
    }
    if record.array::<16>(424)? != &[0; 16] || record.array::<16>(440)? != &[0; 16] {
        return Err(Error::unsupported(FORMAT, "images with a parent"));
    }
    let aligned = |field: &'static str, at: usize| {
        let offset = u64::from(record.le32(at)?);
        if offset >= SECTOR && offset & (SECTOR - 1) == 0 {
            Ok(offset)
        } else {
            Err(record.corrupt(field, at, offset, "a multiple of 512 behind the header"))
        }
    };
    let (block_map, data) = (aligned("block map offset", 340)?, aligned("data offset", 344)?);
    let sector_size = record.le32(360)?;
    if u64::from(sector_size) != SECTOR {
        return Err(Error::unsupported(FORMAT, format!("sectors of {sector_size} bytes")));
    }
    let block_size = record.le32(376)?;
    if !block_size.is_power_of_two() || !BLOCK_SIZES.contains(&block_size) {
        return Err(record.corrupt("block size", 376, block_size, "a power of two from 4 KiB to 256 MiB"));
    }
    if record.le32(380)? != 0 {
        return Err(Error::unsupported(FORMAT, "extra bytes before each block"));
    }
    let (disk_size, block_size, blocks) = (record.le64(368)?, u64::from(block_size), u64::from(record.le32(384)?));
    let allocated = record.le32(388)?.into();
    let room = blocks.saturating_mul(block_size);
    match disk_size.checked_next_multiple_of(SECTOR) {
        Some(size) if size <= room => Ok(Header { image_type, block_map, data, size, block_size, blocks, allocated }),
        _ => Err(record.corrupt("disk size", 368, disk_size, format!("at most the {room} bytes of its blocks"))),
    }
}
