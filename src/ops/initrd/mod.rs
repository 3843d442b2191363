//! What is in an initial RAM disk: cpio archives one behind the other, each as it is or packed, as the kernel unpacks them
//! (kernel documentation, "initramfs buffer format"). An early one with microcode is often not packed, and the others
//! follow it.
//!
//! Everything is read once, from the front, and unpacked into small buffers; how much comes out is held against
//! [`limits::INITRD_BYTES`] and [`limits::INITRD_RATIO`].

mod cpio;
mod lz4_legacy;
mod unpack;

use std::io::{BufRead, BufReader, Read};
use std::ops::ControlFlow;
use std::sync::Arc;

pub use cpio::InitrdEntry;
pub use unpack::Packing;

use super::stream::{DeviceStream, error_of};
use crate::block::BlockDevice;
use crate::error::{Error, PathProblem, Result};
use crate::limits;

/// Gets each entry, and its content if it is a regular file.
pub type InitrdVisitor<'a> = dyn FnMut(&InitrdEntry, &mut dyn Read) -> Result<ControlFlow<()>> + 'a;

/// Calls `visit` with each entry of all archives, in their order, until it breaks.
pub fn initrd_each(image: &Arc<dyn BlockDevice>, visit: &mut InitrdVisitor<'_>) -> Result<()> {
    let unpacked = limits::INITRD_RATIO.saturating_mul(image.size()).saturating_add(64 << 20).min(limits::INITRD_BYTES);
    let mut reading = cpio::Reading::new(unpacked);
    let mut stream = DeviceStream::new(image.clone());
    loop {
        if reading.archives(&mut stream, Packing::None, visit)?.is_break() {
            return Ok(());
        }
        if stream.fill_buf().map_err(|error| error_of(error, of_stream))?.is_empty() {
            break;
        }
        let at = stream.position();
        let packing = Packing::of(&stream.peek::<6>()?, at)?;
        let mut unpacked = BufReader::with_capacity(64 << 10, unpack::Unpacked::new(stream, packing, at)?);
        if reading.archives(&mut unpacked, packing, visit)?.is_break() {
            return Ok(());
        }
        if !unpacked.fill_buf().map_err(|error| error_of(error, of_stream))?.is_empty() {
            return Err(Error::corrupt(
                "initrd",
                "archive",
                at,
                "neither zeroes nor cpio in what is packed here",
                "070701",
            ));
        }
        stream = unpacked.into_inner().into_input()?;
    }
    if reading.archives == 0 {
        return Err(Error::corrupt("initrd", "archive", 0, "no archive", "a cpio archive"));
    }
    Ok(())
}

/// All entries.
pub fn initrd_list(image: &Arc<dyn BlockDevice>) -> Result<Vec<InitrdEntry>> {
    let mut entries = Vec::new();
    initrd_each(image, &mut |entry, _| {
        entries.push(entry.clone());
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(entries)
}

/// The content of a regular file; of several with this name the last, which is what the kernel keeps.
pub fn initrd_cat(image: &Arc<dyn BlockDevice>, name: &[u8]) -> Result<Vec<u8>> {
    let wanted = plain(name);
    let mut found: Option<Vec<u8>> = None;
    let mut other = None;
    // The inode that the name leads to; with several names it has its content at the last of them.
    let mut linked = None;
    initrd_each(image, &mut |entry, content| {
        let key = (entry.archive, entry.device, entry.inode);
        let is_it = plain(&entry.name) == wanted;
        if is_it && !entry.is_file() {
            (found, linked) = (None, None);
            let is_dir = entry.mode & 0o170_000 == 0o040_000;
            other = Some(if is_dir { PathProblem::IsADirectory } else { PathProblem::NotARegularFile });
        } else if is_it || linked == Some(key) && entry.size > 0 {
            limits::check("bytes of a file in an initial RAM disk", entry.size, limits::INITRD_FILE_BYTES)?;
            let mut bytes = Vec::new();
            content.read_to_end(&mut bytes).map_err(|error| error_of(error, of_stream))?;
            (found, other) = (Some(bytes), None);
            linked = (entry.links > 1).then_some(key);
        }
        Ok(ControlFlow::Continue(()))
    })?;
    found.ok_or_else(|| Error::path(name, other.unwrap_or(PathProblem::NotFound)))
}

/// A name without what says that it is relative or absolute.
fn plain(name: &[u8]) -> &[u8] {
    let mut name = name;
    while let Some(rest) = name.strip_prefix(b"./").or_else(|| name.strip_prefix(b"/")) {
        name = rest;
    }
    name
}

/// What a decoder complains of.
fn of_stream(error: std::io::Error) -> Error {
    Error::corrupt("initrd", "packed archive", 0, error, "what can be unpacked")
}
