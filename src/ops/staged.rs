//! Output files: complete under their final name, or not there at all.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// A file under a temporary name in its target's directory, taken away again unless it is published.
pub(super) struct Staged {
    /// Open for reading and writing.
    pub(super) file: File,
    path: Option<PathBuf>,
}

impl Staged {
    /// A new file beside `target`.
    pub(super) fn create(target: &Path) -> Result<Self> {
        let name = target.file_name().ok_or_else(|| Error::invalid(format!("{} is no file name", target.display())))?;
        for attempt in 0..1000u32 {
            let mut staged = std::ffi::OsString::from(".");
            staged.push(name);
            staged.push(format!(".{}-{attempt}.part", std::process::id()));
            let path = target.with_file_name(staged);
            match File::options().write(true).read(true).create_new(true).open(&path) {
                Ok(file) => return Ok(Self { file, path: Some(path) }),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(Error::io("create", path.display(), error)),
            }
        }
        Err(Error::io("create", target.display(), std::io::ErrorKind::AlreadyExists))
    }

    /// Makes the content durable, gives it its name, and makes the name durable.
    pub(super) fn publish(mut self, target: &Path) -> Result<()> {
        self.file.sync_all().map_err(|error| Error::io("sync", target.display(), error))?;
        if let Some(path) = &self.path {
            std::fs::rename(path, target).map_err(|error| Error::io("rename to", target.display(), error))?;
        }
        self.path = None;
        let directory = target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let synced = File::open(directory).and_then(|directory| directory.sync_all());
        synced.map_err(|error| Error::io("sync", directory.display(), error))
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            let _ = std::fs::remove_file(path);
        }
    }
}
