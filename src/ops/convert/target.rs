//! Where a conversion goes: the staged files of a new image, or a device that exists.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::plan::CLONE_ALIGNMENT;
use crate::block::{
    BlockWrite, Gated, HostRange, ImageWriter, Lock, NewImage, OpenGate, Pack, Placed, Preallocation, Reference,
    Zeroes, new_image,
};
use crate::error::{Error, Result};
use crate::host::{Staged, publish_all};

/// What the engine needs of a target. Places are asked for in guest order, one caller at a time; everything else by any
/// thread.
pub(crate) trait Target: Sync {
    /// As [`ImageWriter::unit`].
    fn unit(&self) -> u64;

    /// As [`ImageWriter::packer`].
    fn packer(&self) -> Option<Arc<dyn Pack>> {
        None
    }

    /// As [`ImageWriter::zeroes`].
    fn zeroes(&self) -> Zeroes;

    /// As [`ImageWriter::place`].
    fn place(&self, run: Range<u64>) -> Result<Placed>;

    /// As [`ImageWriter::place_packed`].
    fn place_packed(&self, _guest: u64, _len: usize) -> Result<Placed> {
        Err(Error::invalid("this target stores nothing packed"))
    }

    /// As [`ImageWriter::mark_zero`].
    fn mark_zero(&self, run: Range<u64>) -> Result<()>;

    /// Writes `bytes` at a place.
    fn write(&self, at: Placed, bytes: &[u8]) -> Result<()>;

    /// Whether the host can let this target share the storage of `from`.
    fn can_clone(&self, _from: &HostRange<'_>) -> bool {
        false
    }

    /// Lets the place share the storage of `from`; false when the host cannot do that.
    fn clone_from(&self, _from: &HostRange<'_>, _at: Placed) -> bool {
        false
    }
}

/// The files of a new image under temporary names.
#[derive(Debug)]
pub(crate) struct NewFiles {
    writer: Mutex<Box<dyn ImageWriter>>,
    unit: u64,
    zeroes: Zeroes,
    packer: Option<Arc<dyn Pack>>,
    staged: Vec<Staged>,
}

impl NewFiles {
    pub(crate) fn create(path: &Path, new: &NewImage) -> Result<Self> {
        let path = real_target(path)?;
        let name = path.file_name().and_then(std::ffi::OsStr::to_str).unwrap_or_default();
        if name.is_empty() {
            return Err(Error::invalid(format!("{} is no file name in UTF-8", path.display())));
        }
        let writer = new_image(new, name)?;
        if let Ok(old) = File::open(&path) {
            // Nobody pulls a disk from under a running guest by accident.
            Lock::exclusive(&old, &path)?;
        }
        let names = writer.file_names().into_iter();
        let staged = names.map(|name| Staged::create(&path.with_file_name(name)));
        let staged = staged.collect::<Result<Vec<_>>>()?;
        let (unit, zeroes, packer) = (writer.unit(), writer.zeroes(), writer.packer());
        Ok(Self { writer: Mutex::new(writer), unit, zeroes, packer, staged })
    }

    /// Writes tables and header.
    pub(crate) fn finish(&self, preallocation: Preallocation) -> Result<()> {
        let clones = self.staged.iter().map(|staged| {
            staged.file.try_clone().map_err(|error| Error::io("open again", staged.target().display(), error))
        });
        let files = clones.collect::<Result<Vec<File>>>()?;
        self.writer.lock().unwrap_or_else(PoisonError::into_inner).finish(&files)?;
        if preallocation == Preallocation::Falloc || preallocation == Preallocation::Full {
            for (file, staged) in files.iter().zip(&self.staged) {
                allocate(file, staged.target())?;
            }
        }
        Ok(())
    }

    /// Makes everything durable and gives the files their names.
    pub(crate) fn publish(self) -> Result<()> {
        publish_all(self.staged)
    }

    /// Makes everything durable and takes it out of the page cache, so that reading it back reads the storage.
    pub(crate) fn settle(&self) -> Result<()> {
        for staged in &self.staged {
            staged.sync()?;
            // Advice: where the host does not take it, what is read is the page cache.
            let _ = rustix::fs::fadvise(&staged.file, 0, None, rustix::fs::Advice::DontNeed);
        }
        Ok(())
    }

    /// The temporary path of the main file.
    pub(crate) fn path(&self) -> PathBuf {
        self.staged.first().map(|staged| staged.path().to_owned()).unwrap_or_default()
    }

    /// Lets the image's main file open the others, which are not under their names yet, and asks `outer` for the rest.
    pub(crate) fn gate(&self, outer: Arc<dyn OpenGate>) -> Arc<dyn OpenGate> {
        let files = self.staged.iter().skip(1).map(|staged| (staged.target().to_owned(), staged.path().to_owned()));
        Arc::new(StagedGate { files: files.collect(), outer })
    }

    fn file(&self, placed: Placed) -> Result<&Staged> {
        self.staged.get(placed.file).ok_or_else(|| Error::invalid("the writer names a file that it did not list"))
    }

    fn writer(&self) -> std::sync::MutexGuard<'_, Box<dyn ImageWriter>> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A link leads to the file that it names, so that the file is replaced and not the link.
fn real_target(path: &Path) -> Result<PathBuf> {
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_symlink() => {
            path.canonicalize().map_err(|error| Error::io("follow the link", path.display(), error))
        }
        _ => Ok(path.to_owned()),
    }
}

/// Allocates the host's space for the whole file, what is written already stays.
fn allocate(file: &File, path: &Path) -> Result<()> {
    let fail = |error: std::io::Error| Error::io("allocate space for", path.display(), error);
    let len = file.metadata().map_err(fail)?.len();
    if len == 0 {
        return Ok(());
    }
    rustix::fs::fallocate(file, rustix::fs::FallocateFlags::KEEP_SIZE, 0, len).map_err(|errno| fail(errno.into()))
}

impl Target for NewFiles {
    fn unit(&self) -> u64 {
        self.unit
    }

    fn packer(&self) -> Option<Arc<dyn Pack>> {
        self.packer.clone()
    }

    fn zeroes(&self) -> Zeroes {
        self.zeroes
    }

    fn place(&self, run: Range<u64>) -> Result<Placed> {
        self.writer().place(run)
    }

    fn place_packed(&self, guest: u64, len: usize) -> Result<Placed> {
        self.writer().place_packed(guest, len)
    }

    fn mark_zero(&self, run: Range<u64>) -> Result<()> {
        self.writer().mark_zero(run)
    }

    fn write(&self, at: Placed, bytes: &[u8]) -> Result<()> {
        let staged = self.file(at)?;
        let written = staged.file.write_all_at(bytes, at.offset);
        written.map_err(|error| Error::io("write", staged.target().display(), error))
    }

    /// Tried out on a file without a name, so that nothing is left in the image's own.
    fn can_clone(&self, from: &HostRange<'_>) -> bool {
        let Some(first) = self.staged.first() else { return false };
        let Ok(scratch) = first.scratch() else { return false };
        crate::sys::clone_range(from.file, from.offset, CLONE_ALIGNMENT, &scratch, 0).is_ok()
    }

    fn clone_from(&self, from: &HostRange<'_>, at: Placed) -> bool {
        let Ok(staged) = self.file(at) else { return false };
        crate::sys::clone_range(from.file, from.offset, at.len, &staged.file, at.offset).is_ok()
    }
}

/// Opens the files of an image that is being made.
#[derive(Debug)]
struct StagedGate {
    /// Final and temporary path.
    files: Vec<(PathBuf, PathBuf)>,
    outer: Arc<dyn OpenGate>,
}

impl OpenGate for StagedGate {
    fn open(&self, image: &Path, reference: &Reference) -> Result<Gated> {
        let staged = self
            .files
            .iter()
            .find(|(target, _)| target.file_name().is_some_and(|name| name.as_encoded_bytes() == &reference.name[..]));
        match staged {
            Some((_, path)) => {
                let file = File::open(path).map_err(|error| Error::io("open", path.display(), error))?;
                Ok(Gated { file, path: path.clone() })
            }
            None => self.outer.open(image, reference),
        }
    }
}

/// A device that exists: everything goes where the guest has it, zeroes are written.
#[derive(Debug)]
pub(crate) struct Existing<'a> {
    pub(crate) device: &'a dyn BlockWrite,
}

impl Target for Existing<'_> {
    fn unit(&self) -> u64 {
        4096
    }

    fn zeroes(&self) -> Zeroes {
        Zeroes::Mark
    }

    fn place(&self, run: Range<u64>) -> Result<Placed> {
        Ok(Placed { file: 0, offset: run.start, len: run.end - run.start })
    }

    fn mark_zero(&self, run: Range<u64>) -> Result<()> {
        self.device.write_zeroes(run)
    }

    fn write(&self, at: Placed, bytes: &[u8]) -> Result<()> {
        self.device.write_all_at(bytes, at.offset)
    }
}
