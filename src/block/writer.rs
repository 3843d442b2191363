//! New images: what a format decides while one is written front to back.
//!
//! A format knows *where* guest bytes go and which tables say so; who reads, compresses and writes them, on how many
//! threads, is the business of [`ops::convert`](crate::ops::convert()). So an [`ImageWriter`] hands out places and keeps
//! the tables in memory:
//!
//! ```text
//!   any thread:      read a run ── find zeroes ── pack (compress)
//!   in guest order:                    place ── place_packed        (cheap: the tables are in memory)
//!   any thread:                                     write bytes at their places
//!   at the end:                                                finish: tables, header
//! ```
//!
//! Places are given in guest order, so the same input gives the same file on any number of threads. The header is
//! written last: a file that was not finished is no image.

use std::fmt;
use std::fs::File;
use std::ops::Range;
use std::sync::Arc;

use super::{ImageFormat, qcow2, vdi, vhd, vhdx, vmdk};
use crate::error::{Error, Result};

/// A new image of one format, being laid out.
pub trait ImageWriter: Send + Sync + fmt::Debug {
    /// Guest bytes that are stored or left out together, a power of two: all that is known to be zero at this
    /// granularity is left out. Runs given to [`place`](Self::place) are whole units, but for the disk's last.
    fn unit(&self) -> u64;

    /// How units become smaller; `None` when this image stores them as they are.
    fn packer(&self) -> Option<Arc<dyn Pack>> {
        None
    }

    /// What becomes of zeroes.
    fn zeroes(&self) -> Zeroes {
        Zeroes::LeaveOut
    }

    /// Gives the beginning of the guest bytes `run` a place, at least one unit of them. Runs come in ascending order.
    fn place(&mut self, run: Range<u64>) -> Result<Placed>;

    /// Gives the packed unit at `guest` a place for its `len` bytes. In one order with [`place`](Self::place).
    fn place_packed(&mut self, _guest: u64, _len: usize) -> Result<Placed> {
        Err(Error::invalid("this image stores nothing packed"))
    }

    /// Notes that `run` is zero, where [`zeroes`](Self::zeroes) says [`Zeroes::Mark`]. In one order with the others.
    fn mark_zero(&mut self, _run: Range<u64>) -> Result<()> {
        Ok(())
    }

    /// Gives every file its length and writes tables and header. `files` are those of
    /// [`file_names`](Self::file_names), open for writing. All data has been written by then.
    fn finish(&mut self, files: &[File]) -> Result<()>;

    /// The names of all files of the image, all in one directory. The first is the one that users name; data may lie
    /// in any.
    fn file_names(&self) -> Vec<String>;
}

/// Where guest bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    /// Which of the image's files.
    pub file: usize,
    /// The offset in it.
    pub offset: u64,
    /// How many bytes go there.
    pub len: u64,
}

/// What a new image does with bytes that are known to be zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Zeroes {
    /// Nothing: what has no place reads as zeroes.
    LeaveOut,
    /// They are noted in the tables, because below what has no place lies a backing file.
    Mark,
    /// They are stored like data, because the format can neither leave them out nor note them.
    Store,
}

/// Makes units smaller; shared by all threads.
pub trait Pack: Send + Sync + fmt::Debug {
    /// The bytes to be stored for `unit` of the guest at `guest`, or `None` if it is better stored as it is. The last unit
    /// of a disk may be short.
    fn pack(&self, guest: u64, unit: &[u8]) -> Result<Option<Vec<u8>>>;
}

/// How the clusters of a new image are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compression {
    /// The kind of compressed data.
    pub kind: CompressionKind,
    /// How hard to try, 1 to 12 for deflate and 1 to 19 for zstd; `None` is the format's default.
    pub level: Option<u8>,
}

/// The kinds of compressed data that images hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompressionKind {
    /// Deflate (RFC 1951), which every reader knows.
    Zlib,
    /// Zstandard (RFC 8878): qcow2 version 3 with QEMU 5.1 and later.
    Zstd,
}

/// How much of a new image is allocated although nothing is stored there; QEMU's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Preallocation {
    /// Nothing.
    #[default]
    Off,
    /// All tables: every guest byte has its place, which costs no space yet.
    Metadata,
    /// The host's space too, by fallocate(2).
    Falloc,
    /// The host's space by writing zeroes to it.
    Full,
}

/// What a new image shall be. Options that the format does not have are refused by [`new_image`].
#[derive(Debug, Clone)]
pub struct NewImage {
    /// The format.
    pub format: ImageFormat,
    /// Bytes of the disk. Formats that count in sectors round up to 512.
    pub size: u64,
    /// A kind of the format: "monolithicSparse", "streamOptimized", "monolithicFlat", "twoGbMaxExtentSparse" (vmdk),
    /// "dynamic", "fixed" (vpc, vhdx), "dynamic", "static" (vdi).
    pub subformat: Option<String>,
    /// Bytes of a cluster, grain or block.
    pub cluster_size: Option<u64>,
    /// Whether clusters are compressed, and how. `None` stores them as they are. In qcow2 that says nothing about the
    /// compression type in the header, see [`compression_type`](Self::compression_type).
    pub compression: Option<Compression>,
    /// qcow2: the compression type in the header, for clusters that are compressed later.
    pub compression_type: Option<CompressionKind>,
    /// qcow2: version 2 or 3; `None` is 3.
    pub version: Option<u32>,
    /// qcow2: extended L2 entries, with subclusters.
    pub extended_l2: bool,
    /// qcow2: lazy reference counts.
    pub lazy_refcounts: bool,
    /// qcow2: bits of a reference count, 1 to 64; `None` is 16.
    pub refcount_bits: Option<u32>,
    /// qcow2: the backing file's name as it shall stand in the image, and its format.
    pub backing: Option<(String, ImageFormat)>,
    /// How much is allocated beforehand.
    pub preallocation: Preallocation,
}

impl NewImage {
    /// An image of `size` bytes with the format's defaults.
    #[must_use]
    pub fn new(format: ImageFormat, size: u64) -> Self {
        Self {
            format,
            size,
            subformat: None,
            cluster_size: None,
            compression: None,
            compression_type: None,
            version: None,
            extended_l2: false,
            lazy_refcounts: false,
            refcount_bits: None,
            backing: None,
            preallocation: Preallocation::Off,
        }
    }
}

/// A writer for the image that `new` describes, whose main file will be called `name`, a plain file name.
pub fn new_image(new: &NewImage, name: &str) -> Result<Box<dyn ImageWriter>> {
    match new.format {
        ImageFormat::Raw => super::raw::writer(new, name),
        ImageFormat::Qcow2 => qcow2::writer(new, name),
        ImageFormat::Vmdk => vmdk::writer(new, name),
        ImageFormat::Vdi => vdi::writer(new, name),
        ImageFormat::Vhd => vhd::writer(new, name),
        ImageFormat::Vhdx => vhdx::writer(new, name),
        other => Err(Error::unsupported("image", format!("writing {other}"))),
    }
}

/// Refuses what only some formats have, so that no option is ever ignored.
pub(crate) fn refuse(format: &'static str, options: &[(&str, bool)]) -> Result<()> {
    match options.iter().find(|(_, given)| *given) {
        Some((option, _)) => Err(Error::invalid(format!("{format} has no option '{option}'"))),
        None => Ok(()),
    }
}

/// Refuses what qcow2 alone has.
pub(crate) fn refuse_qcow2_options(format: &'static str, new: &NewImage) -> Result<()> {
    refuse(
        format,
        &[
            ("compression_type", new.compression_type.is_some()),
            ("compat", new.version.is_some()),
            ("extended_l2", new.extended_l2),
            ("lazy_refcounts", new.lazy_refcounts),
            ("refcount_bits", new.refcount_bits.is_some()),
        ],
    )
}
