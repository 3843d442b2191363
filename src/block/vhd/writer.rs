//! New VHD images, dynamic and fixed, of exactly the size asked for.
//!
//! The geometry cannot state every size, and older versions of QEMU believe the current size only of creators they know.
//! So the creator is `qem2`, which QEMU itself writes to say that the current size counts; the geometry is the
//! specification's, for those who go by it. The time stamp is 0 (1 January 2000) and the unique ID comes from the disk's
//! size and BAT, so that the same input gives the same file.
//!
//! A block's bitmap takes the last sector in front of a multiple of 4 KiB, so that its data begins at one and can be
//! cloned; blocks are 2 MiB and 4 KiB apart, which the specification leaves open.

use std::fs::File;
use std::ops::Range;

use super::FORMAT;
use super::footer::{self, COOKIE, SECTOR, SIZE_MAX, checksum};
use super::header;
use crate::block::blocks::{self, Placement, Structure};
use crate::block::writer::{refuse, refuse_qcow2_options};
use crate::block::{ImageWriter, NewImage, Placed, Preallocation};
use crate::bytes::{div_rem, low_u32, to_u64};
use crate::error::{Error, Result};

const BLOCK: u64 = 2 << 20;
/// Whose bitmaps fit into one sector.
const BLOCKS: std::ops::RangeInclusive<u64> = 512 << 10..=2 << 20;
const UNIT: u64 = 4096;
const HEADER: u64 = 512;
const TABLE: u64 = 1536;
const NOWHERE: u32 = u32::MAX;

#[derive(Debug)]
struct VhdWriter {
    name: String,
    fixed: bool,
    placement: Placement,
}

/// A writer for a new image.
pub(crate) fn writer(new: &NewImage, name: &str) -> Result<Box<dyn ImageWriter>> {
    let fixed = match new.subformat.as_deref() {
        None | Some("dynamic") => false,
        Some("fixed") => true,
        Some(other) => return Err(Error::invalid(format!("vpc has no subformat '{other}', but dynamic and fixed"))),
    };
    refuse_qcow2_options(FORMAT, new)?;
    refuse(
        FORMAT,
        &[
            ("compression", new.compression.is_some()),
            ("backing_file", new.backing.is_some()),
            ("cluster_size in a fixed disk", fixed && new.cluster_size.is_some()),
        ],
    )?;
    let block_size = new.cluster_size.unwrap_or(BLOCK);
    if !block_size.is_power_of_two() || !BLOCKS.contains(&block_size) {
        return Err(Error::invalid(format!("blocks of vpc have 524288, 1048576 or 2097152 bytes, not {block_size}")));
    }
    let size = new.size.checked_next_multiple_of(SECTOR).filter(|size| *size <= SIZE_MAX);
    let size = size.ok_or_else(|| Error::invalid("vpc holds at most 2040 GiB"))?;
    let placement = if fixed {
        Placement::new(size, block_size, 0, block_size, true)
    } else {
        let table_end = blocks::table_end(TABLE, size, block_size, 4, SECTOR);
        let start = table_end.saturating_add(SECTOR).next_multiple_of(UNIT);
        let stride = block_size.saturating_add(UNIT);
        // Entries count sectors in 32 bits, and all blocks may be needed.
        let end = blocks::blocks(size, block_size).saturating_mul(stride).saturating_add(start);
        if div_rem(end, SECTOR).0 >= u64::from(NOWHERE) {
            return Err(Error::invalid(format!("vpc with blocks of {block_size} bytes cannot hold {size}")));
        }
        Placement::new(size, block_size, start, stride, new.preallocation != Preallocation::Off)
    };
    Ok(Box::new(VhdWriter { name: name.to_owned(), fixed, placement }))
}

impl VhdWriter {
    /// Where the footer begins.
    fn end(&self) -> u64 {
        match (self.fixed, self.placement.count()) {
            (true, _) => self.placement.size,
            // Directly behind the table, as there is no block.
            (false, 0) => self.table_end(),
            _ => self.placement.end(),
        }
    }

    fn table_end(&self) -> u64 {
        blocks::table_end(TABLE, self.placement.size, self.placement.block_size, 4, SECTOR)
    }

    /// The sector of the bitmap of the block with place `index`.
    fn bitmap(&self, index: u64) -> u64 {
        div_rem(self.placement.offset(index), SECTOR).0.saturating_sub(1)
    }

    fn footer(&self, table: &blake3::Hash) -> Vec<u8> {
        let size = self.placement.size;
        let (cylinders, heads, sectors) = footer::geometry(size);
        let geometry = cylinders << 16 | heads << 8 | sectors;
        let mut footer = Structure::new(footer::LEN);
        footer.put(0, COOKIE);
        footer.put(8, &2u32.to_be_bytes());
        footer.put(12, &0x0001_0000u32.to_be_bytes());
        footer.put(16, &(if self.fixed { u64::MAX } else { HEADER }).to_be_bytes());
        footer.put(28, b"qem2");
        footer.put(32, &0x0001_0000u32.to_be_bytes());
        footer.put(36, b"Wi2k");
        footer.put(40, &size.to_be_bytes());
        footer.put(48, &size.to_be_bytes());
        footer.put(56, &low_u32(geometry).to_be_bytes());
        footer.put(60, &(if self.fixed { 2u32 } else { 3 }).to_be_bytes());
        footer.put(68, &blocks::identifier("vhd", size, table));
        let sum = checksum(&footer.bytes, 64);
        footer.put(64, &sum.to_be_bytes());
        footer.bytes
    }

    fn header(&self) -> Vec<u8> {
        let mut header = Structure::new(header::LEN);
        header.put(0, header::COOKIE);
        header.put(8, &u64::MAX.to_be_bytes());
        header.put(16, &TABLE.to_be_bytes());
        header.put(24, &0x0001_0000u32.to_be_bytes());
        header.put(28, &low_u32(self.placement.blocks()).to_be_bytes());
        header.put(32, &low_u32(self.placement.block_size).to_be_bytes());
        let sum = checksum(&header.bytes, 36);
        header.put(36, &sum.to_be_bytes());
        header.bytes
    }

    fn write(&self, file: &File) -> Result<()> {
        let write = |bytes: &[u8], at: u64| blocks::write_at(file, &self.name, bytes, at);
        let end = self.end();
        file.set_len(end.saturating_add(to_u64(footer::LEN))).map_err(|error| Error::io("grow", &self.name, error))?;
        if self.fixed {
            let nothing = blocks::write_table(file, &self.name, 0, std::iter::empty::<[u8; 4]>())?;
            return write(&self.footer(&nothing), end);
        }
        // The table fills whole sectors.
        let sectors = div_rem(self.table_end().saturating_sub(TABLE), 4).0;
        let filling = sectors.saturating_sub(self.placement.blocks());
        let entry = |place: Option<u64>| place.map_or(NOWHERE, |index| low_u32(self.bitmap(index))).to_be_bytes();
        let filling = (0..filling).map(|_| NOWHERE.to_be_bytes());
        let table = blocks::write_table(file, &self.name, TABLE, self.placement.table().map(entry).chain(filling))?;
        for index in 0..self.placement.count() {
            write(&[0xff; 512], self.bitmap(index).saturating_mul(SECTOR))?;
        }
        write(&self.header(), HEADER)?;
        let footer = self.footer(&table);
        write(&footer, end)?;
        write(&footer, 0)
    }
}

impl ImageWriter for VhdWriter {
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
