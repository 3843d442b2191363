//! From one image into another: what is known to be zero is skipped, what the host can share is cloned, and only the rest
//! is read, packed and written, on all threads of the caller's rayon pool.
//!
//! ```text
//!   plan      what to do, piece by piece in guest order: skip, clone or read
//!   engine    threads that do it, and the order in which places are given
//!   target    the files that it goes to, staged; or a device that exists
//! ```
//!
//! The same input and options give the same bytes on any number of threads. Where the host can share storage, data is
//! cloned unseen, so zeroes that the source stores are stored again; elsewhere they are found and left out.

mod engine;
mod plan;
mod target;

use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use self::engine::Job;
use self::target::Existing;
pub(super) use self::target::NewFiles;
use super::compare::{self, CompareOptions, Comparison};
use crate::block::{
    self, BlockDevice, BlockWrite, DenyAll, Extent, ExtentKind, ImageFormat, NewImage, OpenGate, OpenOptions,
    Preallocation, Slice,
};
use crate::error::{Error, Result};
use crate::progress::{Progress, Silent};

/// How to convert.
#[derive(Debug, Clone)]
pub struct ConvertOptions {
    /// What the new image shall be. Its size is the source's, whatever stands here.
    pub new: NewImage,
    /// The open backing file of the new image: what is the same there is left out. Its name in the image is
    /// [`NewImage::backing`].
    pub below: Option<Arc<dyn BlockDevice>>,
    /// Whether data is searched for zeroes, which are then not stored.
    pub detect_zeroes: bool,
    /// Whether the new image may share the source's storage, where the host's filesystem can.
    pub clone: bool,
    /// Whether to read the new image back from storage and compare it with the source before it gets its name.
    pub verify: bool,
    /// Who may open the new image's backing file when it is read back.
    pub gate: Arc<dyn OpenGate>,
}

impl ConvertOptions {
    /// The defaults for a new image.
    #[must_use]
    pub fn new(new: NewImage) -> Self {
        Self { new, below: None, detect_zeroes: true, clone: true, verify: false, gate: Arc::new(DenyAll) }
    }
}

/// What a conversion did, in bytes of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Converted {
    /// The disk's size.
    pub virtual_size: u64,
    /// Read from the source.
    pub read: u64,
    /// Shared with the source's file, not read.
    pub cloned: u64,
    /// Stored as they are.
    pub stored: u64,
    /// Stored packed,
    pub packed: u64,
    /// and the bytes which that took.
    pub packed_stored: u64,
    /// Neither: zero, or the same in the backing file.
    pub zero: u64,
}

/// Converts the disk `source` into a new image at `path`. It appears there complete, durable and in place of a file that
/// was there, or not at all.
pub fn convert(
    source: &dyn BlockDevice,
    path: &Path,
    options: &ConvertOptions,
    progress: &dyn Progress,
) -> Result<Converted> {
    let new = NewImage { size: source.size(), ..options.new.clone() };
    if std::fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_block_device()) {
        return onto_block_device(source, path, options, progress);
    }
    let preallocation = new.preallocation;
    let work = if options.verify { 2 } else { 1 };
    progress.set_total(source.size().saturating_mul(work));
    let files = NewFiles::create(path, &new)?;
    let converted = engine::run(&Job {
        source,
        target: &files,
        below: options.below.as_deref(),
        detect_zeroes: options.detect_zeroes || preallocation == Preallocation::Full,
        clone: options.clone && preallocation == Preallocation::Off,
        place_zeroes: preallocation != Preallocation::Off,
        write_zeroes: preallocation == Preallocation::Full,
        progress,
    })?;
    files.finish(preallocation)?;
    if options.verify {
        verify(source, &files, &new, options, progress)?;
    }
    files.publish()?;
    Ok(converted)
}

/// A block device is written where it is: it can have no other name before.
fn onto_block_device(
    source: &dyn BlockDevice,
    path: &Path,
    options: &ConvertOptions,
    progress: &dyn Progress,
) -> Result<Converted> {
    if options.new.format != ImageFormat::Raw {
        let feature = format!("{} on a block device", options.new.format);
        return Err(Error::unsupported("convert", feature).with_hint("only raw disks are written to block devices"));
    }
    let open = OpenOptions { format: Some(ImageFormat::Raw), ..OpenOptions::default() };
    let target = block::open_writable(path, &open)?;
    let converted = convert_into(source, &*target, progress)?;
    if options.verify {
        let written = Slice::new(target, 0, source.size())?;
        match compare::compare(source, &written, &CompareOptions::default(), progress)? {
            Comparison::Same => {}
            Comparison::Different { offset } => return Err(reads_differently(path, offset)),
        }
    }
    Ok(converted)
}

fn reads_differently(path: &Path, offset: u64) -> Error {
    let message = std::io::Error::other(format!("what was written reads differently at byte {offset:#x}"));
    Error::io("verify", path.display(), message)
}

/// Copies the disk `source` over `target`, a device that exists and is at least as large; what `target` has past the
/// source's end stays as it is.
pub fn convert_into(source: &dyn BlockDevice, target: &dyn BlockWrite, progress: &dyn Progress) -> Result<Converted> {
    if target.size() < source.size() {
        let message = format!("the target has {} bytes, the source {}", target.size(), source.size());
        return Err(Error::invalid(message));
    }
    progress.set_total(source.size());
    let converted = engine::run(&Job {
        source,
        target: &Existing { device: target },
        below: None,
        detect_zeroes: true,
        clone: false,
        place_zeroes: false,
        write_zeroes: false,
        progress,
    })?;
    target.flush()?;
    Ok(converted)
}

/// Gives every guest byte of a new, empty image its place.
pub(super) fn fill(files: &NewFiles, size: u64, preallocation: Preallocation) -> Result<()> {
    let empty = Empty { size };
    engine::run(&Job {
        source: &empty,
        target: files,
        below: None,
        detect_zeroes: true,
        clone: false,
        place_zeroes: true,
        write_zeroes: preallocation == Preallocation::Full,
        progress: &Silent,
    })?;
    Ok(())
}

/// Reads the new image back and compares.
fn verify(
    source: &dyn BlockDevice,
    files: &NewFiles,
    new: &NewImage,
    options: &ConvertOptions,
    progress: &dyn Progress,
) -> Result<()> {
    files.settle()?;
    let gate = files.gate(Arc::clone(&options.gate));
    let open = OpenOptions { format: Some(new.format), gate, ..OpenOptions::default() };
    let written = block::open(&files.path(), &open)?;
    let compared = compare::compare(source, &written.device, &CompareOptions::default(), progress)?;
    match compared {
        Comparison::Same => Ok(()),
        Comparison::Different { offset } => Err(reads_differently(&files.path(), offset)),
    }
}

/// A disk of zeroes.
#[derive(Debug)]
struct Empty {
    size: u64,
}

impl BlockDevice for Empty {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_exact_at(&self, buf: &mut [u8], _offset: u64) -> Result<()> {
        buf.fill(0);
        Ok(())
    }

    fn next_extent(&self, range: std::ops::Range<u64>) -> Result<Extent> {
        Ok(Extent { kind: ExtentKind::Hole, len: range.end - range.start })
    }
}
