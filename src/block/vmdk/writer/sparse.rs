//! Sparse extents of grains as they are: the image's only one with the descriptor inside, or several of at most 2 GB.
//!
//! ```text
//! sector 0          header
//! 1 … 20            descriptor, of a monolithic image
//! 21                redundant grain directory, then its grain tables
//!                   grain directory, then its grain tables
//! a whole grain     grains, in the order of the disk
//! ```
//!
//! Both sets of tables have their places whether grains are in them or not, and those that are empty are holes of the
//! file. Grains begin at multiples of their size, so that they can share storage with where they came from.

use std::fs::File;
use std::ops::Range;

use super::super::FORMAT;
use super::super::descriptor::ExtentType;
use super::super::header::{MAGIC, SECTOR};
use super::descriptor::{self, Line};
use super::flat::SPLIT;
use super::{Disk, content_id, nth, set_len, write};
use crate::block::{ImageWriter, Placed, range_len};
use crate::bytes::{div_rem, round_up, to_u64, to_usize};
use crate::error::{Error, Result};
use crate::limits;

/// Entries of a grain table.
pub(super) const ENTRIES: usize = 512;
const TABLE_SECTORS: u64 = 4;
/// The embedded descriptor's place, in sectors, as QEMU has it.
pub(super) const DESCRIPTOR: u64 = 1;
pub(super) const DESCRIPTOR_SECTORS: u64 = 20;

/// The grain tables of an extent that have grains, in the order of the disk.
#[derive(Debug, Default)]
pub(super) struct Tables(Vec<(u64, Box<[u32; ENTRIES]>)>);

impl Tables {
    /// Notes that grain `grain` is at byte `offset` of the file. Grains come in ascending order.
    pub(super) fn set(&mut self, grain: u64, offset: u64) -> Result<()> {
        let (table, entry) = div_rem(grain, to_u64(ENTRIES));
        let (sector, _) = div_rem(offset, SECTOR);
        let sector =
            u32::try_from(sector).map_err(|_| Error::unsupported(FORMAT, "an extent file of 2 TiB or more"))?;
        if self.last() != Some(table) {
            self.0.push((table, Box::new([0; ENTRIES])));
        }
        if let Some(slot) = self.0.last_mut().and_then(|(_, entries)| entries.get_mut(to_usize(entry))) {
            *slot = sector;
        }
        Ok(())
    }

    /// The number of the last table.
    pub(super) fn last(&self) -> Option<u64> {
        self.0.last().map(|(number, _)| *number)
    }

    /// Number and bytes of each table.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, Vec<u8>)> {
        self.0.iter().map(|(number, entries)| (*number, bytes_of(entries.iter().copied())))
    }

    /// Adds where all grains are to `hasher`.
    pub(super) fn hash(&self, hasher: &mut blake3::Hasher) {
        for (number, bytes) in self.iter() {
            hasher.update(&number.to_le_bytes()).update(&bytes);
        }
    }
}

pub(super) fn bytes_of(entries: impl Iterator<Item = u32>) -> Vec<u8> {
    entries.flat_map(u32::to_le_bytes).collect()
}

/// How many grain tables an extent of `size` bytes has; their directory is held against the reader's limit.
pub(super) fn table_count(size: u64, grain: u64) -> Result<u64> {
    let tables = size.div_ceil(grain.saturating_mul(to_u64(ENTRIES)));
    limits::check("grain directory bytes", tables.saturating_mul(4), limits::VMDK_DIRECTORY_BYTES)?;
    Ok(tables)
}

/// The fields of a new header that differ; places in sectors.
pub(super) struct NewHeader {
    pub(super) version: u32,
    pub(super) flags: u32,
    /// Bytes.
    pub(super) capacity: u64,
    /// Bytes.
    pub(super) grain: u64,
    pub(super) descriptor: bool,
    pub(super) redundant_directory: u64,
    pub(super) directory: u64,
    pub(super) overhead: u64,
    pub(super) algorithm: u16,
}

impl NewHeader {
    /// The sector of the header, as the table in `header` has it.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let (capacity, grain) = (div_rem(self.capacity, SECTOR).0, div_rem(self.grain, SECTOR).0);
        let (at, sectors) = if self.descriptor { (DESCRIPTOR, DESCRIPTOR_SECTORS) } else { (0, 0) };
        let mut bytes = MAGIC.to_vec();
        bytes.extend(self.version.to_le_bytes());
        bytes.extend(self.flags.to_le_bytes());
        bytes.extend([capacity, grain, at, sectors].map(u64::to_le_bytes).as_flattened());
        bytes.extend(512u32.to_le_bytes());
        bytes.extend([self.redundant_directory, self.directory, self.overhead].map(u64::to_le_bytes).as_flattened());
        bytes.push(0);
        bytes.extend(b"\n \r\n");
        bytes.extend(self.algorithm.to_le_bytes());
        bytes.resize(to_usize(SECTOR), 0);
        bytes
    }
}

/// One extent and its file.
#[derive(Debug)]
struct SparseExtent {
    name: String,
    size: u64,
    grain: u64,
    tables: Tables,
    /// Sectors of the two directories.
    directories: [u64; 2],
    table_count: u64,
    /// Byte of the first grain, and of the next.
    first: u64,
    next: u64,
}

impl SparseExtent {
    fn new(name: String, size: u64, grain: u64) -> Result<Self> {
        let table_count = table_count(size, grain)?;
        let directory = table_count.saturating_mul(4).div_ceil(SECTOR);
        let set = directory.saturating_add(table_count.saturating_mul(TABLE_SECTORS));
        let redundant = DESCRIPTOR.saturating_add(DESCRIPTOR_SECTORS);
        let primary = redundant.saturating_add(set);
        let overhead = primary.saturating_add(set).saturating_mul(SECTOR);
        let first = round_up(overhead, grain).unwrap_or(u64::MAX);
        let directories = [redundant, primary];
        Ok(Self { name, size, grain, tables: Tables::default(), directories, table_count, first, next: first })
    }

    /// Places `run` of the extent's own bytes behind all before it.
    fn place(&mut self, run: &Range<u64>) -> Result<u64> {
        let offset = self.next;
        let first = div_rem(run.start, self.grain).0;
        for grain in first..run.end.div_ceil(self.grain) {
            self.tables.set(grain, self.next)?;
            self.next = self.next.saturating_add(self.grain);
        }
        Ok(offset)
    }

    fn finish(&self, file: &File, embedded: Option<&str>) -> Result<()> {
        set_len(file, &self.name, self.next)?;
        let write = |bytes: &[u8], sector: u64| write(file, &self.name, bytes, sector.saturating_mul(SECTOR));
        for directory in self.directories {
            let tables = directory.saturating_add(self.table_count.saturating_mul(4).div_ceil(SECTOR));
            let place = |number: u64| tables.saturating_add(number.saturating_mul(TABLE_SECTORS));
            for (number, bytes) in self.tables.iter() {
                write(&bytes, place(number))?;
            }
            write(&bytes_of((0..self.table_count).map(|number| crate::bytes::low_u32(place(number)))), directory)?;
        }
        if let Some(text) = embedded {
            limits::check("descriptor bytes", to_u64(text.len()), DESCRIPTOR_SECTORS.saturating_mul(SECTOR))?;
            write(text.as_bytes(), DESCRIPTOR)?;
        }
        let header = NewHeader {
            version: 1,
            flags: 0b11,
            capacity: self.size,
            grain: self.grain,
            descriptor: embedded.is_some(),
            redundant_directory: self.directories[0],
            directory: self.directories[1],
            overhead: div_rem(self.first, SECTOR).0,
            algorithm: 0,
        };
        write(&header.bytes(), 0)
    }

    fn line(&self) -> Line {
        Line { size: self.size, kind: ExtentType::Sparse, file: self.name.clone() }
    }
}

/// An image of sparse extents.
#[derive(Debug)]
struct Sparse {
    disk: Disk,
    /// All but the last have `part` bytes.
    extents: Vec<SparseExtent>,
    part: u64,
    /// Whether the only extent has the descriptor inside.
    monolithic: bool,
}

pub(super) fn monolithic(disk: Disk) -> Result<Box<dyn ImageWriter>> {
    let extents = vec![SparseExtent::new(disk.name.clone(), disk.size, disk.grain)?];
    let part = disk.size;
    Ok(Box::new(Sparse { disk, extents, part, monolithic: true }))
}

pub(super) fn split(disk: Disk) -> Result<Box<dyn ImageWriter>> {
    let sizes = (1..).zip(disk.parts(SPLIT)?);
    let extents = sizes
        .map(|(number, size): (u32, u64)| SparseExtent::new(disk.beside(&format!("-s{number:03}")), size, disk.grain));
    let extents = extents.collect::<Result<_>>()?;
    Ok(Box::new(Sparse { disk, extents, part: SPLIT, monolithic: false }))
}

impl ImageWriter for Sparse {
    fn unit(&self) -> u64 {
        self.disk.grain
    }

    fn place(&mut self, run: Range<u64>) -> Result<Placed> {
        let (index, start) = div_rem(run.start, self.part);
        let index = to_usize(index);
        let len = range_len(&run).min(self.part.saturating_sub(start));
        let extent = self.extents.get_mut(index).ok_or_else(|| Error::invalid("a place past the disk's end"))?;
        let offset = extent.place(&(start..start.saturating_add(len)))?;
        let file = if self.monolithic { 0 } else { index.saturating_add(1) };
        Ok(Placed { file, offset, len })
    }

    fn finish(&mut self, files: &[File]) -> Result<()> {
        let create_type = if self.monolithic { "monolithicSparse" } else { "twoGbMaxExtentSparse" };
        let mut hasher = blake3::Hasher::new();
        hasher.update(create_type.as_bytes()).update(&self.disk.size.to_le_bytes());
        self.extents.iter().for_each(|extent| extent.tables.hash(&mut hasher));
        let lines: Vec<_> = self.extents.iter().map(SparseExtent::line).collect();
        let text = descriptor::text(create_type, content_id(&hasher), self.disk.size, &lines);
        let main = nth(files, 0, &self.disk.name)?;
        if let [extent] = self.extents.as_slice()
            && self.monolithic
        {
            return extent.finish(main, Some(&text));
        }
        for (index, extent) in self.extents.iter().enumerate() {
            extent.finish(nth(files, index.saturating_add(1), &extent.name)?, None)?;
        }
        set_len(main, &self.disk.name, to_u64(text.len()))?;
        write(main, &self.disk.name, text.as_bytes(), 0)
    }

    fn file_names(&self) -> Vec<String> {
        let extents = self.extents.iter().map(|extent| extent.name.clone());
        let main = (!self.monolithic).then(|| self.disk.name.clone());
        main.into_iter().chain(extents).collect()
    }
}
