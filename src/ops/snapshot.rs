//! Internal snapshots of an image.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::block::qcow2::Editor;
use crate::block::{ImageFormat, ImageInfo, OpenOptions, SnapshotInfo, WritableFile, probe};
use crate::error::{Error, Result};

/// Which image to look at or change.
#[derive(Debug, Clone, Copy, Default)]
pub struct SnapshotOptions {
    /// The image's format; `None` probes it.
    pub format: Option<ImageFormat>,
    /// When a new snapshot is taken, since 1970; `None` is now.
    pub time: Option<Duration>,
}

/// The internal snapshots of the image at `path`, in the order of its table.
pub fn snapshots(path: &Path, options: &SnapshotOptions) -> Result<Vec<SnapshotInfo>> {
    let open = OpenOptions { format: options.format, ..OpenOptions::default() };
    Ok(ImageInfo::read(path, &open)?.snapshots)
}

/// Keeps the disk as it is now under `name`; returns the snapshot's id.
pub fn snapshot_create(path: &Path, name: &str, options: &SnapshotOptions) -> Result<String> {
    let now = options.time.or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    edit(path, options, |editor| editor.create_snapshot(name, now))
}

/// Makes the disk what it was when the snapshot of that name, else of that id, was taken.
pub fn snapshot_apply(path: &Path, name: &str, options: &SnapshotOptions) -> Result<()> {
    edit(path, options, |editor| editor.apply_snapshot(name))
}

/// Deletes the snapshot of that name, else of that id.
pub fn snapshot_delete(path: &Path, name: &str, options: &SnapshotOptions) -> Result<()> {
    edit(path, options, |editor| editor.delete_snapshot(name))
}

fn edit<T>(path: &Path, options: &SnapshotOptions, change: impl FnOnce(&mut Editor) -> Result<T>) -> Result<T> {
    let named = |error: Error| error.in_image(path.display());
    let file = WritableFile::open(path)?;
    match options.format.map_or_else(|| probe(&file), Ok).map_err(named)? {
        ImageFormat::Qcow2 => {
            let mut editor = Editor::open(file, path, &OpenOptions::default()).map_err(named)?;
            change(&mut editor).map_err(named)
        }
        other => Err(named(Error::unsupported(other.name(), "internal snapshots"))),
    }
}
