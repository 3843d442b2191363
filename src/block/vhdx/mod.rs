//! VHDX, the virtual hard disk version 2 of Microsoft: fixed, dynamic and differencing. Microsoft, *[MS-VHDX] Virtual Hard
//! Disk v2 (VHDX) File Format*.
//!
//! | part | is about |
//! |---|---|
//! | `header` | identifier, headers, region tables |
//! | `log` | changes that were not written to their places yet |
//! | `replay` | the file with those changes over it, in memory |
//! | `metadata` | the disk's size, its sectors and blocks, the parent |
//! | `writer` | new images |
//!
//! The block allocation table (BAT, 2.5) has one 64-bit little-endian entry for each block of the disk, and after each
//! *chunk ratio* of them one for the sector bitmap of that chunk: 2²³ sectors, one bit for each, the least significant bit
//! of a byte first. The chunk ratio is 2²³ × logical sector size / block size. Bits 20 to 63 of an entry are its place in
//! the file, in MiB; bits 0 to 2 its state:
//!
//! | state | of a block | reads as |
//! |---:|---|---|
//! | 0 | not present | the parent's bytes, or zeroes |
//! | 1 | undefined | zeroes |
//! | 2 | zero | zeroes |
//! | 3, 5 | unmapped (5 in drafts, as QEMU knows) | zeroes |
//! | 6 | fully present | the file's bytes; the last block may be cut short by the file's end |
//! | 7 | partially present | as the sector bitmap says the file's or the parent's; differencing disks alone |
//!
//! The parent is opened through the caller's gate by its relative path, and its DataWriteGuid must be the one that this
//! image was made over. Refused by name: other versions, unknown required regions and metadata items.

mod check;
mod header;
mod log;
mod metadata;
mod replay;
mod writer;

use std::sync::Arc;

use super::blocks::{self, BitOrder, BlockMap, Entries, Mapped, Place, Run, SectorBitmaps, Width, Window};
use super::claims::Claims;
use super::gate::{Reference, ReferenceKind};
use super::open::OpenContext;
use super::{BlockDevice, ImageFormat, ImageInfo, Sweep};
use crate::bytes::{div_rem, uuid_text};
use crate::error::{Error, Result};

pub(crate) use check::check;
pub(crate) use writer::writer;

use header::MIB;
use metadata::{Locator, Metadata};

const FORMAT: &str = "vhdx";

/// Sectors of a chunk.
const CHUNK_SECTORS: u64 = 1 << 23;

const NOT_PRESENT: u64 = 0;
const FULLY_PRESENT: u64 = 6;
const PARTIALLY_PRESENT: u64 = 7;

/// An identifier, written as its text reads, as it is stored.
const fn guid(text: u128) -> [u8; 16] {
    blocks::mixed_endian(text.to_be_bytes())
}

/// Opens the disk in `file`.
pub(crate) fn open(
    file: Arc<dyn BlockDevice>,
    context: &OpenContext<'_>,
    filename: String,
) -> Result<(Arc<dyn BlockDevice>, ImageInfo)> {
    let opened = Opened::new(file, context)?;
    let mut info = ImageInfo::new(filename, ImageFormat::Vhdx, opened.disk.size());
    info.cluster_size = Some(opened.block_size);
    info.dirty_flag = Some(false);
    if let Some(parent) = opened.parent {
        info.full_backing_filename = Some(context.path.with_file_name(&parent).display().to_string());
        info.backing_filename = Some(parent);
        info.backing_filename_format = Some(FORMAT.to_owned());
    }
    Ok((opened.disk, info))
}

/// An open image, and what its children and `info` ask about it.
struct Opened {
    disk: Arc<dyn BlockDevice>,
    block_size: u64,
    data_write_guid: [u8; 16],
    parent: Option<String>,
}

impl Opened {
    fn new(file: Arc<dyn BlockDevice>, context: &OpenContext<'_>) -> Result<Self> {
        let header = header::read(&file)?;
        let moved = header.log_guid != [0; 16];
        let file = log::replay(file, &header)?;
        let regions = header::regions(&file)?;
        let Metadata { block_size, size, sector_size, parent: locator } = metadata::read(&file, regions.metadata)?;
        let chunk_ratio = CHUNK_SECTORS.saturating_mul(sector_size).checked_div(block_size).unwrap_or(1);
        let count = entries(size, block_size, chunk_ratio, locator.is_some());
        bat_length(count, regions.bat)?;
        let parent = match &locator {
            Some(locator) if context.follow => Some(open_parent(locator, context)?),
            _ => None,
        };
        let order = BitOrder::LeastSignificantFirst;
        let map = Map {
            entries: Entries::new(Arc::clone(&file), regions.bat.offset, count, Width::Le64, context.depth),
            bitmaps: locator.is_some().then(|| SectorBitmaps::new(Arc::clone(&file), order, context.depth)),
            size,
            block_size,
            sector_size,
            chunk_ratio,
            file: Arc::clone(&file),
        };
        let disk = Arc::new(Mapped { size, file, parent, map, fixed: false, moved });
        let parent = locator.map(|locator| locator.path);
        Ok(Self { disk, block_size, data_write_guid: header.data_write_guid, parent })
    }
}

/// Holds the region of the BAT against the `count` entries that the disk needs.
fn bat_length(count: u64, bat: header::Region) -> Result<()> {
    if count.saturating_mul(8) <= bat.length {
        return Ok(());
    }
    let (found, expected) = (bat.length, format!("room for {count} entries"));
    Err(Error::corrupt(FORMAT, "BAT length", bat.offset, found, expected))
}

/// Entries of the BAT: [MS-VHDX] 2.5. The bitmaps of disks without a parent have entries too, but not behind the last block.
fn entries(size: u64, block_size: u64, chunk_ratio: u64, has_parent: bool) -> u64 {
    let blocks = blocks::blocks(size, block_size);
    if has_parent {
        blocks::blocks(blocks, chunk_ratio).saturating_mul(chunk_ratio.saturating_add(1))
    } else {
        blocks.saturating_add(div_rem(blocks.saturating_sub(1), chunk_ratio).0)
    }
}

fn open_parent(locator: &Locator, context: &OpenContext<'_>) -> Result<Arc<dyn BlockDevice>> {
    let name = locator.path.as_bytes().to_vec();
    let (file, path) =
        context.open_file(&Reference { kind: ReferenceKind::Backing, name, format: Some(ImageFormat::Vhdx) })?;
    let depth = context.depth.saturating_add(1);
    let below = OpenContext { path: &path, gate: context.gate, depth, follow: true, snapshot: None };
    let parent = Opened::new(Arc::new(file), &below).map_err(|error| error.in_image(path.display()))?;
    let id = uuid_text(&blocks::mixed_endian(parent.data_write_guid));
    if !locator.linkage.contains(&id) {
        let (found, expected) = (locator.linkage.join(" and "), format!("{id}, its DataWriteGuid"));
        let found = if found.is_empty() { "nothing".to_owned() } else { crate::bytes::escape(found.as_bytes()) };
        return Err(Error::corrupt(FORMAT, "parent_linkage", 0, found, expected)
            .with_hint("the parent was changed after this image was made over it"));
    }
    Ok(parent.disk)
}

/// The BAT and the bitmaps.
#[derive(Debug)]
struct Map {
    entries: Entries,
    /// Only of a differencing disk.
    bitmaps: Option<SectorBitmaps>,
    size: u64,
    block_size: u64,
    sector_size: u64,
    chunk_ratio: u64,
    file: Arc<dyn BlockDevice>,
}

impl Map {
    /// The place that entry `index` gives to something of `needed` bytes.
    fn place(&self, index: u64, entry: u64, needed: u64) -> Result<u64> {
        let offset = entry & !(MIB - 1);
        if offset >= MIB && offset.saturating_add(needed) <= self.file.size() {
            return Ok(offset);
        }
        let expected = format!("{needed} bytes inside the file of {}", self.file.size());
        Err(Error::corrupt(FORMAT, "BAT entry", self.entries.position(index), format!("{entry:#x}"), expected))
    }

    /// The block of the first entry after `index`, which says "not present", that was ever stored; what was not says the
    /// same. Asked at the beginning of a slice of the table only: that is often enough to get over long holes.
    fn first_stored_block(&self, index: u64) -> u64 {
        const ASK_EVERY: u64 = 512;
        if !index.is_multiple_of(ASK_EVERY) {
            return 0;
        }
        // What is wrong with the file is for whoever reads it.
        self.block_of(self.entries.unstored_until(index).unwrap_or(index))
    }

    /// The block of entry `index`; of a bitmap's entry, the block after it.
    fn block_of(&self, index: u64) -> u64 {
        let (chunks, rest) = div_rem(index, self.chunk_ratio.saturating_add(1));
        chunks.saturating_mul(self.chunk_ratio).saturating_add(rest)
    }

    /// Where the bitmap of `chunk` begins.
    fn bitmap(&self, chunk: u64) -> Result<u64> {
        let index = chunk.saturating_add(1).saturating_mul(self.chunk_ratio.saturating_add(1)).saturating_sub(1);
        let entry = self.entries.get(&mut Window::default(), index)?;
        if entry & 7 != FULLY_PRESENT {
            let (at, found) = (self.entries.position(index), format!("state {}", entry & 7));
            return Err(Error::corrupt(
                FORMAT,
                "sector bitmap BAT entry",
                at,
                found,
                "6, as a block is partially present",
            ));
        }
        self.place(index, entry, MIB)
    }
}

impl BlockMap for Map {
    fn piece(&self, window: &mut Window, at: u64) -> Result<Run> {
        let (block, within) = div_rem(at, self.block_size);
        let (chunk, in_chunk) = div_rem(block, self.chunk_ratio);
        let len = self.block_size.saturating_sub(within);
        let index = block.saturating_add(chunk);
        let entry = self.entries.get(window, index)?;
        // Most tables are long runs of entries that are the same: where such a run ends on the disk.
        let alike = |window: &Window| {
            self.block_of(index.saturating_add(Entries::alike(window, index))).saturating_mul(self.block_size)
        };
        match (entry & 7, &self.bitmaps) {
            (NOT_PRESENT, _) => {
                let end = self.first_stored_block(index).saturating_mul(self.block_size).max(alike(window));
                return Ok(Run { place: Place::Unallocated, len: len.max(end.saturating_sub(at)) });
            }
            (1..=3 | 5, _) => {
                return Ok(Run { place: Place::Zero, len: len.max(alike(window).saturating_sub(at)) });
            }
            (FULLY_PRESENT, _) | (PARTIALLY_PRESENT, Some(_)) => {}
            (state, _) => {
                let (position, found) = (self.entries.position(index), format!("state {state}"));
                return Err(Error::corrupt(FORMAT, "BAT entry", position, found, "a state of this kind of disk"));
            }
        }
        let needed = self.size.saturating_sub(at.saturating_sub(within)).min(self.block_size);
        let place = Place::Data(self.place(index, entry, needed)?.saturating_add(within));
        let Some(bitmaps) = self.bitmaps.as_ref().filter(|_| entry & 7 == PARTIALLY_PRESENT) else {
            return Ok(Run { place, len });
        };
        let (sector, skip) = div_rem(in_chunk.saturating_mul(self.block_size).saturating_add(within), self.sector_size);
        let (own, sectors) =
            bitmaps.run(self.bitmap(chunk)?, sector, div_rem(len.saturating_add(skip), self.sector_size).0)?;
        let len = sectors.saturating_mul(self.sector_size).saturating_sub(skip).min(len);
        Ok(Run { place: if own { place } else { Place::Unallocated }, len })
    }

    fn audit(&self, _sweep: Sweep) -> Result<()> {
        let mut claims = Claims::new(&*self.file, FORMAT, "BAT", self.entries.position(0))?;
        let chunk = self.chunk_ratio.saturating_add(1);
        self.entries.for_each_stored(&mut |index, entry| {
            let is_bitmap = div_rem(index, chunk).1 == self.chunk_ratio;
            let offset = entry & !(MIB - 1);
            match entry & 7 {
                FULLY_PRESENT | PARTIALLY_PRESENT if !is_bitmap => {
                    claims.add(offset..offset.saturating_add(self.block_size))
                }
                _ => Ok(()),
            }
        })?;
        claims.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_stored_with_their_first_groups_swapped() {
        assert_eq!(header::BAT[..8], [0x66, 0x77, 0xc2, 0x2d, 0x23, 0xf6, 0x00, 0x42]);
        assert_eq!(header::BAT[8..], [0x9d, 0x64, 0x11, 0x5e, 0x9b, 0xfd, 0x4a, 0x08]);
    }

    #[test]
    fn bitmaps_have_entries_between_those_of_blocks() {
        let (block, ratio) = (32 << 20, 128);
        assert_eq!(entries(0, block, ratio, false), 0);
        assert_eq!(entries(128 * block, block, ratio, false), 128);
        assert_eq!(entries(128 * block + 512, block, ratio, false), 130);
        assert_eq!(entries(512, block, ratio, true), 129);
        assert_eq!(entries(129 * block, block, ratio, true), 258);
    }
}
