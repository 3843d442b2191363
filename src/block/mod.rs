//! Virtual disks: a sized, positioned run of bytes, and where its holes are.
//!
//! Everything here is a [`BlockDevice`]: a host file, an image, a partition, an overlay, a file inside a guest. Devices
//! are immutable after open and shared by threads; what changes inside one is a cache behind sharded locks. They stack
//! freely:
//!
//! ```text
//!   Slice (partition)  →  Qcow2  →  HostFile
//!                              ↘  Qcow2 (backing, let in by the OpenGate)  →  HostFile
//! ```
//!
//! Mapping comes before bytes: [`BlockDevice::next_extent`] tells data from zeroes and holes without reading them, and
//! [`BlockDevice::host_range`] tells where bytes lie unchanged in a host file.
#![deny(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::as_conversions)]
#![cfg_attr(test, allow(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::as_conversions))]

mod blocks;
mod cached;
mod check;
mod claims;
mod file;
mod gate;
mod info;
mod lock;
mod lru;
mod memory;
pub mod nbd;
mod open;
mod ova;
mod overlay;
mod probe;
pub mod qcow2;
mod raw;
mod slice;
mod split;
mod survey;
pub mod vdi;
pub mod vhd;
pub mod vhdx;
pub mod vmdk;
mod wrapped;
mod writable;
mod writer;

use std::fmt;
use std::fs::File;
use std::ops::Range;

pub use cached::Cached;
pub use check::{Findings, check};
pub use claims::Sweep;
pub use file::HostFile;
pub use gate::{AllowDirectories, DenyAll, GatePolicy, Gated, OpenGate, Reference, ReferenceKind, SameDirectory};
pub use info::{FormatSpecific, ImageInfo, SnapshotInfo};
pub use lock::{Lock, writer_present};
pub use lru::Lru;
pub use memory::Memory;
pub(crate) use open::split_snapshot;
pub use open::{
    Image, OpenOptions, OpenOverlay, open, open_backing_writable, open_device, open_overlay, open_writable,
    open_writable_file,
};
pub use overlay::Overlay;
pub use probe::{ImageFormat, probe};
pub use slice::Slice;
pub(crate) use split::may_be_split;
pub use survey::{Survey, Surveyor};
pub use wrapped::Container;
pub use writable::WritableFile;
pub use writer::{Compression, CompressionKind, ImageWriter, NewImage, Pack, Placed, Preallocation, Zeroes, new_image};

use crate::bytes::to_usize;
use crate::error::{Error, Result};

/// A sized run of bytes, readable at any offset by any number of threads.
pub trait BlockDevice: Send + Sync + fmt::Debug {
    /// Bytes; never changes while open.
    fn size(&self) -> u64;

    /// Fills `buf` from `offset`. Exact: a range that passes [`size`](Self::size) is an error and nothing is promised
    /// about `buf`.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()>;

    /// The extent that begins at `range.start`, at least one byte and at most `range` long. Never claims zero for bytes
    /// that are not zero. `range` must be non-empty and inside the device.
    fn next_extent(&self, range: Range<u64>) -> Result<Extent>;

    /// Where the beginning of `range` lies unchanged in a host file; lets copies clone and not read.
    fn host_range(&self, _range: Range<u64>) -> Option<HostRange<'_>> {
        None
    }

    /// Where the beginning of `range` lies, unchanged, on the device that this one is put together from: a file's content on
    /// the filesystem's device. Many small contents can then be read in few large reads, in the order of the disk. `None`
    /// where there is no such place: a hole, bytes that exist only unpacked, or a device that stands on nothing else.
    fn below(&self, _range: Range<u64>) -> Option<Below<'_>> {
        None
    }

    /// What `qemu-img map` tells of the beginning of `range`: the extent, and which image of a chain holds it.
    /// A device without layers answers for itself.
    fn status(&self, range: Range<u64>) -> Result<Status> {
        let Extent { kind, len } = self.next_extent(range)?;
        Ok(Status { len, kind, depth: 0, allocated: true, compressed: false, offset: None })
    }

    /// What answers the questions of a [`Survey`]; nothing for a device that knows no better way than being asked.
    fn surveyor(&self) -> Option<Box<dyn Surveyor + '_>> {
        None
    }

    /// Holds what tables claim against what their files hold: whoever is about to go through a whole disk asks first, so
    /// that tables which lead to one place again and again are refused and not followed. Takes no longer than reading each
    /// table once. A device without tables has nothing to hold against anything.
    fn audit(&self, _sweep: Sweep) -> Result<()> {
        Ok(())
    }
}

/// A run of bytes on a device below.
#[derive(Debug, Clone, Copy)]
pub struct Below<'a> {
    /// The device below.
    pub device: &'a std::sync::Arc<dyn BlockDevice>,
    /// The first byte on it.
    pub offset: u64,
    /// The run's length in bytes, never zero.
    pub len: u64,
}

/// An extent and where it comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// Its length in bytes, never zero.
    pub len: u64,
    /// What is known of its bytes. A zero extent with an [`offset`](Self::offset) is stored as data, where the file below
    /// happens to have a hole.
    pub kind: ExtentKind,
    /// How many images lie above the one that decides this extent: 0 for the image itself, 1 for its backing file …
    pub depth: u32,
    /// Whether an image of the chain holds it; a hole that no image has an entry for is not allocated.
    pub allocated: bool,
    /// Whether it is stored compressed.
    pub compressed: bool,
    /// Where it lies unchanged in the file of that image.
    pub offset: Option<u64>,
}

impl Status {
    /// The same seen from the image above the one that answered.
    pub(crate) fn seen_from_above(self) -> Self {
        Self { depth: self.depth.saturating_add(1), ..self }
    }

    /// What no image of a chain of `depth` images below has an entry for.
    pub(crate) fn unallocated(len: u64) -> Self {
        Self { len, kind: ExtentKind::Hole, depth: 0, allocated: false, compressed: false, offset: None }
    }
}

/// A device that can be changed. What was written is seen by every later read of any thread.
pub trait BlockWrite: BlockDevice {
    /// Writes all of `bytes` at `offset`; past [`size`](BlockDevice::size) is an error and changes nothing.
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> Result<()>;

    /// Makes `range` read as zeroes.
    fn write_zeroes(&self, range: Range<u64>) -> Result<()>;

    /// Says that nobody needs the bytes of `range` any more: they may read as before or as zeroes. Advice, so doing
    /// nothing is right.
    fn discard(&self, _range: Range<u64>) -> Result<()> {
        Ok(())
    }

    /// Returns when everything written is as durable as the device can make it.
    fn flush(&self) -> Result<()>;
}

/// What a run of bytes is known to be without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ExtentKind {
    /// Bytes that must be read to be known.
    Data,
    /// Known to read as zeroes, and allocated or written as such.
    Zero,
    /// Reads as zeroes because nothing was ever stored there.
    Hole,
}

/// A run of bytes of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// What it is.
    pub kind: ExtentKind,
    /// Its length in bytes, never zero.
    pub len: u64,
}

/// A run of bytes in a host file.
#[derive(Debug, Clone, Copy)]
pub struct HostRange<'a> {
    /// The host file.
    pub file: &'a File,
    /// The first byte in it.
    pub offset: u64,
    /// The run's length in bytes.
    pub len: u64,
}

/// The end of a read of `len` bytes at `offset`, or the error that it passes `size`.
pub(crate) fn check_range(size: u64, offset: u64, len: usize) -> Result<u64> {
    match offset.checked_add(crate::bytes::to_u64(len)) {
        Some(end) if end <= size => Ok(end),
        _ => Err(Error::corrupt(
            "device",
            "offset",
            offset,
            format!("{len} bytes wanted there"),
            format!("a device of {size} bytes"),
        )),
    }
}

/// The length of `range`; zero when it is inverted.
pub(crate) fn range_len(range: &Range<u64>) -> u64 {
    range.end.saturating_sub(range.start)
}

/// `len` bytes at `offset` in a vector of their own. `len` must have been held against a limit by the caller.
pub fn read_vec(device: &dyn BlockDevice, offset: u64, len: usize) -> Result<Vec<u8>> {
    check_range(device.size(), offset, len)?;
    let mut bytes = vec![0; len];
    device.read_exact_at(&mut bytes, offset)?;
    Ok(bytes)
}

/// Reads `part` from `offset` of `device`, zeroes where that passes its end.
pub(crate) fn read_or_zero(device: &dyn BlockDevice, part: &mut [u8], offset: u64) -> Result<()> {
    let there = to_usize(device.size().saturating_sub(offset)).min(part.len());
    let (stored, past) = part.split_at_mut(there);
    past.fill(0);
    if stored.is_empty() { Ok(()) } else { device.read_exact_at(stored, offset) }
}

/// Calls `visit` with each extent of `range` in order, neighbours of one kind merged.
pub fn for_each_extent(
    device: &dyn BlockDevice,
    range: Range<u64>,
    visit: &mut dyn FnMut(Range<u64>, ExtentKind) -> Result<()>,
) -> Result<()> {
    let mut survey = Survey::new(device);
    let mut at = range.start;
    let mut pending: Option<(Range<u64>, ExtentKind)> = None;
    while at < range.end {
        let extent = survey.extent(at)?;
        let end = at.saturating_add(extent.len.max(1)).min(range.end);
        pending = match pending {
            Some((run, kind)) if kind == extent.kind => Some((run.start..end, kind)),
            Some((run, kind)) => {
                visit(run, kind)?;
                Some((at..end, extent.kind))
            }
            None => Some((at..end, extent.kind)),
        };
        at = end;
    }
    match pending {
        Some((run, kind)) => visit(run, kind),
        None => Ok(()),
    }
}

impl<T: BlockDevice + ?Sized> BlockDevice for std::sync::Arc<T> {
    fn size(&self) -> u64 {
        (**self).size()
    }
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        (**self).read_exact_at(buf, offset)
    }
    fn next_extent(&self, range: Range<u64>) -> Result<Extent> {
        (**self).next_extent(range)
    }
    fn host_range(&self, range: Range<u64>) -> Option<HostRange<'_>> {
        (**self).host_range(range)
    }
    fn below(&self, range: Range<u64>) -> Option<Below<'_>> {
        (**self).below(range)
    }
    fn status(&self, range: Range<u64>) -> Result<Status> {
        (**self).status(range)
    }
    fn surveyor(&self) -> Option<Box<dyn Surveyor + '_>> {
        (**self).surveyor()
    }
    fn audit(&self, sweep: Sweep) -> Result<()> {
        (**self).audit(sweep)
    }
}
