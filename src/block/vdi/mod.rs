//! VDI, the VirtualBox disk image, version 1.1: dynamic and static.
//!
//! ```text
//!   header ── block map ── (gap) ── blocks in the order in which they were first written
//! ```
//!
//! The block map has one 32-bit little-endian entry for each block of the disk:
//!
//! | entry | meaning |
//! |---|---|
//! | n | the block is the file's n-th: at data offset + n × block size, inside the file |
//! | 0xfffffffe | it was discarded and reads as zeroes |
//! | 0xffffffff | it was never written and reads as zeroes |
//!
//! Refused by name: undo and differencing images, whose parent is named by an identifier alone; other versions.

mod check;
mod header;
mod writer;

use std::sync::Arc;

use super::blocks::{self, BlockMap, Entries, Mapped, Place, Run, Width, Window};
use super::claims::Claims;
use super::open::OpenContext;
use super::{BlockDevice, ImageFormat, ImageInfo, Sweep};
use crate::bytes::div_rem;
use crate::error::{Error, Result};

pub(crate) use check::check;
use header::Header;
pub(crate) use writer::writer;

const FORMAT: &str = "vdi";

/// From here on entries are no places.
const DISCARDED: u64 = 0xffff_fffe;

/// Opens the disk in `file`.
pub(crate) fn open(
    file: Arc<dyn BlockDevice>,
    context: &OpenContext<'_>,
    filename: String,
) -> Result<(Arc<dyn BlockDevice>, ImageInfo)> {
    let header = header::read(&file)?;
    // Entries that the disk has no blocks for mean nothing.
    let count = blocks::blocks(header.size, header.block_size);
    let entries = Entries::new(Arc::clone(&file), header.block_map, count, Width::Le32, context.depth);
    let mut info = ImageInfo::new(filename, ImageFormat::Vdi, header.size);
    info.cluster_size = Some(header.block_size);
    info.dirty_flag = Some(false);
    let (size, fixed) = (header.size, header.image_type == header::STATIC);
    let map = Map { file: Arc::clone(&file), header, entries };
    Ok((Arc::new(Mapped { size, file, parent: None, map, fixed, moved: false }), info))
}

/// The block map.
#[derive(Debug)]
struct Map {
    file: Arc<dyn BlockDevice>,
    header: Header,
    entries: Entries,
}

impl BlockMap for Map {
    fn piece(&self, window: &mut Window, at: u64) -> Result<Run> {
        let block_size = self.header.block_size;
        let (block, within) = div_rem(at, block_size);
        let len = block_size.saturating_sub(within);
        let entry = self.entries.get(window, block)?;
        if entry >= DISCARDED {
            return Ok(Run { place: Place::Unallocated, len });
        }
        let start = self.header.data.saturating_add(entry.saturating_mul(block_size));
        // The disk's last block may be cut short by the file's end.
        let needed = self.header.size.saturating_sub(at.saturating_sub(within)).min(block_size);
        if start.saturating_add(needed) > self.file.size() {
            let (position, expected) =
                (self.entries.position(block), format!("a block inside {} bytes", self.file.size()));
            return Err(Error::corrupt(FORMAT, "block map entry", position, entry, expected));
        }
        Ok(Run { place: Place::Data(start.saturating_add(within)), len })
    }

    /// Of a table that was not stored every entry is 0, which is the first block.
    fn audit(&self, _sweep: Sweep) -> Result<()> {
        self.entries.refuse_unstored(FORMAT, "block map entry")?;
        let Header { block_size, data, block_map, .. } = self.header;
        let mut claims = Claims::new(&*self.file, FORMAT, "block map", block_map)?;
        self.entries.for_each_stored(&mut |_, entry| {
            let start = data.saturating_add(entry.saturating_mul(block_size));
            if entry < DISCARDED { claims.add(start..start.saturating_add(block_size)) } else { Ok(()) }
        })?;
        claims.finish()
    }
}
