//! VHD, the virtual hard disk of Connectix and Microsoft, which QEMU calls vpc: fixed, dynamic and differencing.
//!
//! ```text
//!   fixed:    disk ── footer
//!   dynamic:  footer's copy ── header ── BAT ── blocks (sector bitmap, data) ── footer
//! ```
//!
//! The block allocation table (BAT) has one 32-bit big-endian entry for each block of the disk: the sector at which the
//! block's bitmap begins, inside the file, or all ones for a block that is not there. The bitmap has one bit for each
//! sector, the most significant bit of a byte first, and fills whole sectors.
//!
//! In a dynamic disk the bitmap tells which sectors were written; the others are zero in the block too, so it is not
//! looked at, as in QEMU. In a differencing disk sectors whose bit is clear are the parent's. The parent is opened through
//! the caller's gate by the name that stands in the header, and must have the unique ID that this image was made over.
//! QEMU, which knows no parents, reads zeroes there.
//!
//! Which size the guest saw is a story of its own, see `footer`.

mod footer;
mod header;
mod writer;

use std::sync::Arc;

use super::blocks::{BitOrder, BlockMap, Entries, Identity, Mapped, Place, Run, SectorBitmaps, Width, Window};
use super::claims::Claims;
use super::gate::{Reference, ReferenceKind};
use super::open::OpenContext;
use super::{BlockDevice, ImageFormat, ImageInfo, Sweep};
use crate::bytes::{div_rem, uuid_text};
use crate::error::{Error, Result};

pub(super) use footer::is_fixed;
pub(crate) use writer::writer;

use footer::{DiskType, SECTOR};

const FORMAT: &str = "vpc";

const UNALLOCATED: u64 = 0xffff_ffff;

/// Opens the disk in `file`.
pub(crate) fn open(
    file: Arc<dyn BlockDevice>,
    context: &OpenContext<'_>,
    filename: String,
) -> Result<(Arc<dyn BlockDevice>, ImageInfo)> {
    let opened = Opened::new(file, context)?;
    let mut info = ImageInfo::new(filename, ImageFormat::Vhd, opened.disk.size());
    info.cluster_size = opened.block_size;
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
    block_size: Option<u64>,
    unique_id: [u8; 16],
    parent: Option<String>,
}

impl Opened {
    fn new(file: Arc<dyn BlockDevice>, context: &OpenContext<'_>) -> Result<Self> {
        let footer = footer::read(&file)?;
        let (size, unique_id) = (footer.size, footer.unique_id);
        if footer.disk_type == DiskType::Fixed {
            let disk = Mapped { size, file, parent: None, map: Identity, fixed: true, moved: false };
            return Ok(Self { disk: Arc::new(disk), block_size: None, unique_id, parent: None });
        }
        let header = header::read(&file, &footer)?;
        let differencing = footer.disk_type == DiskType::Differencing;
        let name = if differencing { Some(header.parent_path(&file)?) } else { None };
        let parent = match &name {
            Some(name) if context.follow => Some(open_parent(name, &header.parent_id, context)?),
            _ => None,
        };
        let entries = Entries::new(Arc::clone(&file), header.table, header.entries, Width::Be32, context.depth);
        let order = BitOrder::MostSignificantFirst;
        let bitmaps = differencing.then(|| SectorBitmaps::new(Arc::clone(&file), order, context.depth));
        let block_size = header.block_size;
        // A bit for each sector, to whole sectors.
        let bitmap_size = block_size.div_euclid(SECTOR).div_ceil(8).next_multiple_of(SECTOR);
        let map = Map { entries, bitmaps, size, block_size, bitmap_size, file: Arc::clone(&file) };
        let disk = Arc::new(Mapped { size, file, parent, map, fixed: false, moved: false });
        Ok(Self { disk, block_size: Some(block_size), unique_id, parent: name })
    }
}

fn open_parent(name: &str, id: &[u8; 16], context: &OpenContext<'_>) -> Result<Arc<dyn BlockDevice>> {
    let name = name.as_bytes().to_vec();
    let (file, path) =
        context.open_file(&Reference { kind: ReferenceKind::Backing, name, format: Some(ImageFormat::Vhd) })?;
    let depth = context.depth.saturating_add(1);
    let below = OpenContext { path: &path, gate: context.gate, depth, follow: true, snapshot: None };
    let parent = Opened::new(Arc::new(file), &below).map_err(|error| error.in_image(path.display()))?;
    if parent.unique_id != *id {
        let (found, expected) = (uuid_text(id), format!("{}, its unique ID", uuid_text(&parent.unique_id)));
        return Err(Error::corrupt(FORMAT, "parent unique ID", 40, found, expected)
            .with_hint("the parent is not the image that this one was made over"));
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
    bitmap_size: u64,
    file: Arc<dyn BlockDevice>,
}

impl BlockMap for Map {
    fn piece(&self, window: &mut Window, at: u64) -> Result<Run> {
        let (block, within) = div_rem(at, self.block_size);
        let len = self.block_size.saturating_sub(within);
        let entry = self.entries.get(window, block)?;
        if entry == UNALLOCATED {
            return Ok(Run { place: Place::Unallocated, len });
        }
        let bitmap = entry.saturating_mul(SECTOR);
        let data = bitmap.saturating_add(self.bitmap_size);
        let needed = self.size.saturating_sub(at.saturating_sub(within)).min(self.block_size);
        if data.saturating_add(needed) > self.file.size() {
            let (position, expected) =
                (self.entries.position(block), format!("a block inside {} bytes", self.file.size()));
            return Err(Error::corrupt(FORMAT, "BAT entry", position, entry, expected));
        }
        let place = Place::Data(data.saturating_add(within));
        let Some(bitmaps) = &self.bitmaps else { return Ok(Run { place, len }) };
        let (sector, skip) = div_rem(within, SECTOR);
        let (own, sectors) = bitmaps.run(bitmap, sector, len.div_ceil(SECTOR))?;
        let len = sectors.saturating_mul(SECTOR).saturating_sub(skip).min(len);
        Ok(Run { place: if own { place } else { Place::Unallocated }, len })
    }

    /// Of a table that was not stored every entry is 0, which would be the first sector.
    fn audit(&self, _sweep: Sweep) -> Result<()> {
        self.entries.refuse_unstored(FORMAT, "BAT entry")?;
        let mut claims = Claims::new(&*self.file, FORMAT, "BAT", self.entries.position(0))?;
        self.entries.for_each_stored(&mut |_, entry| {
            let start = entry.saturating_mul(SECTOR);
            let end = start.saturating_add(self.bitmap_size).saturating_add(self.block_size);
            if entry == UNALLOCATED { Ok(()) } else { claims.add(start..end) }
        })?;
        claims.finish()
    }
}
