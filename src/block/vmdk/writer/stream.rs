//! Stream-optimized images, which can be read and sent front to back: "Stream-Optimized Compressed Sparse Extents".
//!
//! ```text
//! sector 0          header, whose gdOffset of all ones says that the footer knows
//! 1 … 20            descriptor
//! 128               grains: marker with place and length, zlib stream, zeroes to the sector
//!                   a table marker and a grain table after the grains of each table
//!                   a directory marker and the grain directory
//!                   a footer marker, the footer, an end-of-stream marker
//! ```
//!
//! A marker is one sector: the sectors of what follows (8), size 0 (4), type (4): 1 table, 2 directory, 3 footer, 0 end.

use std::fs::File;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use libdeflater::{CompressionLvl, Compressor};

use super::super::FORMAT;
use super::super::descriptor::ExtentType;
use super::super::header::SECTOR;
use super::descriptor::{self, Line};
use super::sparse::{DESCRIPTOR, DESCRIPTOR_SECTORS, ENTRIES, NewHeader, Tables, bytes_of, table_count};
use super::{Disk, content_id, nth, set_len, write};
use crate::block::{ImageWriter, Pack, Placed};
use crate::bytes::{div_rem, low_u32, round_up, to_u64, to_usize};
use crate::error::{Error, Result};
use crate::limits;

/// The default level of deflate: on a Debian guest 1 % more bytes than what QEMU writes, level 6 of zlib, in a fifth of
/// the time; level 5 takes 16 % longer than this.
const LEVEL: u8 = 4;
/// Where the first grain lies, in sectors; VMware's own.
const OVERHEAD: u64 = 128;
/// Bytes of a grain's marker before its data.
const MARKER: usize = 12;
/// Sectors of a grain table with its marker.
const TABLE_SECTORS: u64 = 1 + 4;
/// Newline test, compressed grains, markers.
const FLAGS: u32 = 1 | 1 << 16 | 1 << 17;
const IN_FOOTER: u64 = u64::MAX;

#[derive(Debug)]
struct Stream {
    disk: Disk,
    packer: Arc<Deflate>,
    tables: Tables,
    table_count: u64,
    /// Sectors of the markers of `tables`, but of the last one's as long as grains come.
    places: Vec<u64>,
    /// Byte of the next grain.
    next: u64,
}

pub(super) fn writer(disk: Disk, level: Option<u8>) -> Result<Box<dyn ImageWriter>> {
    let level = level.unwrap_or(LEVEL);
    let level = CompressionLvl::new(i32::from(level))
        .ok()
        .filter(|_| level > 0)
        .ok_or_else(|| Error::invalid(format!("deflate has levels 1 to 12, not {level}")))?;
    let table_count = table_count(disk.size, disk.grain)?;
    let packer = Arc::new(Deflate { grain: to_usize(disk.grain), level, idle: Mutex::new(Vec::new()) });
    let next = OVERHEAD.saturating_mul(SECTOR);
    Ok(Box::new(Stream { disk, packer, tables: Tables::default(), table_count, places: Vec::new(), next }))
}

/// Makes grains smaller, marker in front.
struct Deflate {
    grain: usize,
    level: CompressionLvl,
    /// Compressors that are not in use, one for each thread that ever needed one at the same time.
    idle: Mutex<Vec<Compressor>>,
}

impl std::fmt::Debug for Deflate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Deflate({} bytes)", self.grain)
    }
}

impl Pack for Deflate {
    fn pack(&self, guest: u64, unit: &[u8]) -> Result<Option<Vec<u8>>> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut compressor = idle.unwrap_or_else(|| Compressor::new(self.level));
        let packed = self.pack_with(&mut compressor, guest, unit);
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(compressor);
        packed.map(Some)
    }
}

impl Deflate {
    fn pack_with(&self, compressor: &mut Compressor, guest: u64, unit: &[u8]) -> Result<Vec<u8>> {
        let whole;
        let unit = if unit.len() < self.grain {
            whole = [unit, &vec![0; self.grain.saturating_sub(unit.len())]].concat();
            &whole
        } else {
            unit
        };
        let bound = compressor.zlib_compress_bound(unit.len()).saturating_add(MARKER);
        let mut packed = vec![0; bound];
        let room = packed.get_mut(MARKER..).unwrap_or_default();
        let failed = |_| Error::invalid(format!("a grain of {} bytes has no room for its data", unit.len()));
        let len = compressor.zlib_compress(unit, room).map_err(failed)?;
        let (lba, size) = (div_rem(guest, SECTOR).0, low_u32(to_u64(len)));
        for (byte, value) in packed.iter_mut().zip(lba.to_le_bytes().into_iter().chain(size.to_le_bytes())) {
            *byte = value;
        }
        packed.truncate(len.saturating_add(MARKER));
        packed.resize(packed.len().next_multiple_of(to_usize(SECTOR)), 0);
        Ok(packed)
    }
}

impl Stream {
    /// Gives the table whose grains are all there its place behind them.
    fn close_table(&mut self) {
        self.places.push(div_rem(self.next, SECTOR).0);
        self.next = self.next.saturating_add(TABLE_SECTORS.saturating_mul(SECTOR));
    }

    fn header(&self, directory: u64) -> Vec<u8> {
        NewHeader {
            version: 3,
            flags: FLAGS,
            capacity: self.disk.size,
            grain: self.disk.grain,
            descriptor: true,
            redundant_directory: 0,
            directory,
            overhead: OVERHEAD,
            algorithm: 1,
        }
        .bytes()
    }

    fn descriptor(&self) -> Result<String> {
        let create_type = "streamOptimized";
        let mut hasher = blake3::Hasher::new();
        hasher.update(create_type.as_bytes()).update(&self.disk.size.to_le_bytes());
        self.tables.hash(&mut hasher);
        let line = Line { size: self.disk.size, kind: ExtentType::Sparse, file: self.disk.name.clone() };
        let text = descriptor::text(create_type, content_id(&hasher), self.disk.size, &[line]);
        limits::check("descriptor bytes", to_u64(text.len()), DESCRIPTOR_SECTORS.saturating_mul(SECTOR))?;
        Ok(text)
    }

    /// The directory: the sector of each table, behind its marker, and zero for those without grains.
    fn directory(&self) -> Result<Vec<u8>> {
        let mut places = self.tables.iter().map(|(number, _)| number).zip(&self.places).peekable();
        let entries = (0..self.table_count).map(|number| match places.next_if(|(at, _)| *at == number) {
            Some((_, marker)) => u32::try_from(marker.saturating_add(1))
                .map_err(|_| Error::unsupported(FORMAT, "an extent file of 2 TiB or more")),
            None => Ok(0),
        });
        let mut bytes = bytes_of(entries.collect::<Result<Vec<_>>>()?.into_iter());
        bytes.resize(bytes.len().next_multiple_of(to_usize(SECTOR)), 0);
        Ok(bytes)
    }
}

/// The sector that says what the next ones are.
fn marker(sectors: u64, kind: u32) -> Vec<u8> {
    let mut bytes = sectors.to_le_bytes().to_vec();
    bytes.extend([0, kind].map(u32::to_le_bytes).as_flattened());
    bytes.resize(to_usize(SECTOR), 0);
    bytes
}

impl ImageWriter for Stream {
    fn unit(&self) -> u64 {
        self.disk.grain
    }

    fn packer(&self) -> Option<Arc<dyn Pack>> {
        Some(self.packer.clone())
    }

    fn place(&mut self, _run: Range<u64>) -> Result<Placed> {
        Err(Error::invalid("a stream-optimized vmdk stores nothing as it is"))
    }

    fn place_packed(&mut self, guest: u64, len: usize) -> Result<Placed> {
        let grain = div_rem(guest, self.disk.grain).0;
        let table = div_rem(grain, to_u64(ENTRIES)).0;
        if self.tables.last().is_some_and(|last| last != table) {
            self.close_table();
        }
        let offset = self.next;
        self.tables.set(grain, offset)?;
        let len = to_u64(len);
        self.next = round_up(offset.saturating_add(len), SECTOR).unwrap_or(u64::MAX);
        Ok(Placed { file: 0, offset, len })
    }

    fn finish(&mut self, files: &[File]) -> Result<()> {
        let (file, name) = (nth(files, 0, &self.disk.name)?, self.disk.name.clone());
        if self.tables.last().is_some() {
            self.close_table();
        }
        let put = |bytes: &[u8], sector: u64| write(file, &name, bytes, sector.saturating_mul(SECTOR));
        for ((_, bytes), &place) in self.tables.iter().zip(&self.places) {
            put(&[marker(4, 1), bytes].concat(), place)?;
        }
        let directory = self.directory()?;
        let sectors = div_rem(to_u64(directory.len()), SECTOR).0;
        let place = div_rem(self.next, SECTOR).0;
        let footer = self.header(place.saturating_add(1));
        let end = [marker(sectors, 2), directory, marker(1, 3), footer, marker(0, 0)].concat();
        set_len(file, &name, self.next.saturating_add(to_u64(end.len())))?;
        put(&end, place)?;
        put(self.descriptor()?.as_bytes(), DESCRIPTOR)?;
        put(&self.header(IN_FOOTER), 0)
    }

    fn file_names(&self) -> Vec<String> {
        vec![self.disk.name.clone()]
    }
}
