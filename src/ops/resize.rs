//! Another size for a disk.

use std::path::Path;
use std::sync::Arc;

use crate::block::qcow2::Editor;
use crate::block::{BlockDevice, DenyAll, ImageFormat, OpenGate, OpenOptions, Preallocation, WritableFile, probe};
use crate::error::{Error, Result};

/// How to change a disk's size.
#[derive(Debug, Clone)]
pub struct ResizeOptions {
    /// The image's format; `None` probes it.
    pub format: Option<ImageFormat>,
    /// Who may open files that the image names: what lies past the end of an overlay must not come into sight.
    pub gate: Arc<dyn OpenGate>,
    /// Whether the disk may become smaller, which loses what lies past the new end.
    pub shrink: bool,
    /// How much of what is added is allocated; of qcow2 only [`Preallocation::Off`].
    pub preallocation: Preallocation,
}

impl Default for ResizeOptions {
    fn default() -> Self {
        Self { format: None, gate: Arc::new(DenyAll), shrink: false, preallocation: Preallocation::Off }
    }
}

/// The size asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NewSize {
    /// So many bytes.
    To(u64),
    /// So many bytes more.
    Grow(u64),
    /// So many bytes less.
    Shrink(u64),
}

impl NewSize {
    fn from(self, old: u64) -> Result<u64> {
        let size = match self {
            Self::To(size) => Some(size),
            Self::Grow(more) => old.checked_add(more),
            Self::Shrink(less) => old.checked_sub(less),
        };
        size.ok_or_else(|| {
            Error::invalid(format!("the disk has {old} bytes, and that is no size to get to from there"))
        })
    }
}

/// Gives the disk in the image at `path` another size; returns it in bytes.
pub fn resize(path: &Path, size: NewSize, options: &ResizeOptions) -> Result<u64> {
    let named = |error: Error| error.in_image(path.display());
    let file = WritableFile::open(path)?;
    let format = options.format.map_or_else(|| probe(&file), Ok).map_err(named)?;
    match format {
        ImageFormat::Raw => raw(&file, size, options).map_err(named),
        ImageFormat::Qcow2 => qcow2(file, path, size, options).map_err(named),
        other => Err(named(Error::unsupported(other.name(), "another size"))),
    }
}

fn check(old: u64, new: u64, options: &ResizeOptions) -> Result<()> {
    if new < old && !options.shrink {
        return Err(Error::invalid(format!(
            "{new} bytes are less than the disk's {old}: what lies past them would be lost"
        ))
        .with_hint("if that is wanted, say --shrink"));
    }
    Ok(())
}

fn raw(file: &WritableFile, size: NewSize, options: &ResizeOptions) -> Result<u64> {
    let old = file.size();
    let new = size.from(old)?;
    check(old, new, options)?;
    if options.preallocation == Preallocation::Metadata {
        return Err(Error::invalid("raw images have no metadata to preallocate"));
    }
    file.set_size(new)?;
    if new > old {
        match options.preallocation {
            Preallocation::Falloc => file.allocate(&(old..new))?,
            Preallocation::Full => file.fill(&(old..new))?,
            Preallocation::Off | Preallocation::Metadata => {}
        }
    }
    crate::block::BlockWrite::flush(file)?;
    Ok(new)
}

fn qcow2(file: WritableFile, path: &Path, size: NewSize, options: &ResizeOptions) -> Result<u64> {
    if options.preallocation != Preallocation::Off {
        return Err(Error::unsupported("qcow2", "preallocation when an image grows"));
    }
    let open =
        OpenOptions { format: Some(ImageFormat::Qcow2), gate: Arc::clone(&options.gate), ..OpenOptions::default() };
    let editor = Editor::open(file, path, &open)?;
    let old = editor.size();
    let new = size.from(old)?;
    check(old, new, options)?;
    let backing: Option<Arc<dyn BlockDevice>> = match editor.backing_file() {
        Some(_) if new > old => editor.open_backing(path, &open)?,
        _ => None,
    };
    editor.resize(new, backing)?;
    Ok(new)
}
