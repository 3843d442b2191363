//! New VHDX images, dynamic and fixed.
//!
//! | offset | what |
//! |---:|---|
//! | 0 | identifier, headers, region tables |
//! | 1 MiB | the log, empty |
//! | 2 MiB | metadata |
//! | 3 MiB | BAT, to whole MiB |
//! | | blocks, each at a multiple of 1 MiB |
//!
//! Identifiers come from the disk's size and BAT, so that the same input gives the same file. Sectors are 512 bytes: QEMU
//! reads no others.

use std::fs::File;
use std::ops::Range;

use super::header::{self, HEADER_LEN, HEADERS, IDENTIFIER, MIB, REGION_TABLE_LEN, REGION_TABLES, checksum};
use super::metadata::{self, BLOCK_SIZES, SIZE_MAX};
use super::{CHUNK_SECTORS, FORMAT, FULLY_PRESENT, NOT_PRESENT};
use crate::block::blocks::{self, Placement, Structure};
use crate::block::writer::{refuse, refuse_qcow2_options};
use crate::block::{ImageWriter, NewImage, Placed, Preallocation};
use crate::bytes::{div_rem, low_u32};
use crate::error::{Error, Result};

const SECTOR: u64 = 512;
const UNIT: u64 = 4096;
const LOG: u64 = MIB;
const METADATA: u64 = 2 * MIB;
const BAT: u64 = 3 * MIB;
/// Items begin behind the table.
const ITEMS: u32 = 64 << 10;

#[derive(Debug)]
struct VhdxWriter {
    name: String,
    fixed: bool,
    chunk_ratio: u64,
    placement: Placement,
}

/// A writer for a new image.
pub(crate) fn writer(new: &NewImage, name: &str) -> Result<Box<dyn ImageWriter>> {
    refuse_qcow2_options(FORMAT, new)?;
    refuse(FORMAT, &[("compression", new.compression.is_some()), ("backing_file", new.backing.is_some())])?;
    let fixed = match new.subformat.as_deref() {
        None | Some("dynamic") => false,
        Some("fixed") => true,
        Some(other) => return Err(Error::invalid(format!("vhdx has no subformat '{other}', but dynamic and fixed"))),
    };
    let size = new.size.checked_next_multiple_of(SECTOR).filter(|size| *size <= SIZE_MAX);
    let size = size.ok_or_else(|| Error::invalid("vhdx holds at most 64 TiB"))?;
    let block_size = new.cluster_size.unwrap_or(default_block_size(size));
    if !block_size.is_power_of_two() || !BLOCK_SIZES.contains(&block_size) {
        return Err(Error::invalid(format!("blocks of vhdx have 1 MiB to 256 MiB, a power of two, not {block_size}")));
    }
    let chunk_ratio = div_rem(CHUNK_SECTORS.saturating_mul(SECTOR), block_size).0;
    // QEMU counts in 32 bits and takes the bitmaps of no blocks for those of 2³² - 1; for them it wants room too.
    let room = if size == 0 { div_rem(u32::MAX.into(), chunk_ratio).0.saturating_add(1) } else { 0 };
    let entries = super::entries(size, block_size, chunk_ratio, false).max(room);
    let bat = entries.saturating_mul(8).next_multiple_of(MIB);
    let all = fixed || new.preallocation != Preallocation::Off;
    let placement = Placement::new(size, block_size, BAT.saturating_add(bat), block_size, all);
    Ok(Box::new(VhdxWriter { name: name.to_owned(), fixed, chunk_ratio, placement }))
}

/// QEMU's choice.
fn default_block_size(size: u64) -> u64 {
    match size {
        _ if size > 32 << 40 => 64 << 20,
        _ if size > 100 << 30 => 32 << 20,
        _ if size > 1 << 30 => 16 << 20,
        _ => 8 << 20,
    }
}

impl VhdxWriter {
    /// The BAT: after each chunk's blocks the entry of its bitmap, which is not there.
    fn bat(&self) -> impl Iterator<Item = [u8; 8]> {
        let state = |index: u64| self.placement.offset(index) | FULLY_PRESENT;
        let blocks = (0u64..).zip(self.placement.table());
        blocks.flat_map(move |(block, place)| {
            let new_chunk = block > 0 && block.is_multiple_of(self.chunk_ratio);
            let bitmap = new_chunk.then_some(NOT_PRESENT);
            bitmap.into_iter().chain([place.map_or(NOT_PRESENT, state)]).map(u64::to_le_bytes)
        })
    }

    fn header(&self, sequence_number: u64, bat: &blake3::Hash) -> Vec<u8> {
        let id = |purpose: &str| blocks::mixed_endian(blocks::identifier(purpose, self.placement.size, bat));
        let mut header = Structure::new(HEADER_LEN);
        header.put(0, b"head");
        header.put(8, &sequence_number.to_le_bytes());
        header.put(16, &id("vhdx FileWriteGuid"));
        header.put(32, &id("vhdx DataWriteGuid"));
        header.put(66, &1u16.to_le_bytes());
        header.put(68, &low_u32(MIB).to_le_bytes());
        header.put(72, &LOG.to_le_bytes());
        sealed(header)
    }

    fn region_table(&self) -> Vec<u8> {
        let mut table = Structure::new(REGION_TABLE_LEN);
        table.put(0, b"regi");
        table.put(8, &2u32.to_le_bytes());
        let bat_len = self.placement.start.saturating_sub(BAT);
        for (at, id, offset, len) in [(16, header::BAT, BAT, bat_len), (48, header::METADATA, METADATA, MIB)] {
            let mut entry = Structure::new(32);
            entry.put(0, &id);
            entry.put(16, &offset.to_le_bytes());
            entry.put(24, &low_u32(len).to_le_bytes());
            entry.put(28, &1u32.to_le_bytes());
            table.put(at, &entry.bytes);
        }
        sealed(table)
    }

    /// The metadata table and, right behind it, its items.
    fn metadata(&self, bat: &blake3::Hash) -> Vec<u8> {
        let size = self.placement.size;
        let parameters = u64::from(self.fixed) << 32 | self.placement.block_size;
        let disk_id = blocks::mixed_endian(blocks::identifier("vhdx virtual disk", size, bat));
        let sector = low_u32(SECTOR).to_le_bytes();
        // Flags: required, and all but the first of the disk and not of the file.
        let items: [([u8; 16], &[u8], u32); 5] = [
            (metadata::FILE_PARAMETERS, &parameters.to_le_bytes(), 4),
            (metadata::VIRTUAL_DISK_SIZE, &size.to_le_bytes(), 6),
            (metadata::VIRTUAL_DISK_ID, &disk_id, 6),
            (metadata::LOGICAL_SECTOR_SIZE, &sector, 6),
            (metadata::PHYSICAL_SECTOR_SIZE, &sector, 6),
        ];
        let mut region = Structure::new(metadata::TABLE_LEN.saturating_add(4096));
        region.put(0, metadata::SIGNATURE);
        region.put(10, &5u16.to_le_bytes());
        let mut offset = ITEMS;
        let places = (32usize..).step_by(32);
        for (at, (id, value, flags)) in places.zip(items) {
            let len = u32::try_from(value.len()).unwrap_or(0);
            let mut entry = Structure::new(32);
            entry.put(0, &id);
            entry.put(16, &offset.to_le_bytes());
            entry.put(20, &len.to_le_bytes());
            entry.put(24, &flags.to_le_bytes());
            region.put(at, &entry.bytes);
            region.put(crate::bytes::to_usize(offset.into()), value);
            offset = offset.saturating_add(len);
        }
        region.bytes
    }

    fn write(&self, file: &File) -> Result<()> {
        let write = |bytes: &[u8], at: u64| blocks::write_at(file, &self.name, bytes, at);
        file.set_len(self.placement.end()).map_err(|error| Error::io("grow", &self.name, error))?;
        let bat = blocks::write_table(file, &self.name, BAT, self.bat())?;
        write(&self.metadata(&bat), METADATA)?;
        for at in REGION_TABLES {
            write(&self.region_table(), at)?;
        }
        for (sequence_number, at) in (1u64..).zip(HEADERS) {
            write(&self.header(sequence_number, &bat), at)?;
        }
        let creator: Vec<u8> = "guestctl".encode_utf16().flat_map(u16::to_le_bytes).collect();
        write(&[&IDENTIFIER[..], &creator].concat(), 0)
    }
}

/// The structure with its checksum.
fn sealed(mut structure: Structure) -> Vec<u8> {
    let sum = checksum(&structure.bytes);
    structure.put(4, &sum.to_le_bytes());
    structure.bytes
}

impl ImageWriter for VhdxWriter {
    fn unit(&self) -> u64 {
        UNIT
    }

    fn place(&mut self, run: Range<u64>) -> Result<Placed> {
        self.placement.place(run)
    }

    fn finish(&mut self, files: &[File]) -> Result<()> {
        files.iter().try_for_each(|file| self.write(file))
    }

    fn file_names(&self) -> Vec<String> {
        vec![self.name.clone()]
    }
}
