//! Output files: complete under their final name, or not there at all.
//!
//! A file is made under a temporary name beside its target, synced, renamed, and its directory synced. Whatever ends the
//! program before leaves the temporary file at most: the next one to write that target removes it. Whoever writes a
//! temporary file holds a lock on it (flock(2)), so a file without one is nobody's.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use crate::error::{Error, Result};

/// A file under a temporary name in its target's directory, taken away again unless it is published.
#[derive(Debug)]
pub(crate) struct Staged {
    /// Open for reading and writing.
    pub(crate) file: File,
    target: PathBuf,
    /// Where it is until it is published.
    path: Option<PathBuf>,
}

impl Staged {
    /// A new file that will become `target`.
    pub(crate) fn create(target: &Path) -> Result<Self> {
        let name = target.file_name().ok_or_else(|| Error::invalid(format!("{} is no file name", target.display())))?;
        if target.is_dir() {
            return Err(Error::invalid(format!("{} is a directory", target.display())));
        }
        let mut prefix = std::ffi::OsString::from(".");
        prefix.push(name);
        remove_stale(target, &prefix);
        for attempt in 0..1000u32 {
            let mut staged = prefix.clone();
            staged.push(format!(".{}-{attempt}.part", std::process::id()));
            let path = target.with_file_name(staged);
            let file = match File::options().write(true).read(true).create_new(true).open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(Error::io("create", path.display(), error)),
            };
            // Between creation and lock another program may have taken the file for a stale one. Filesystems without
            // locks have no such program either.
            let _ = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive);
            if file.metadata().is_ok_and(|metadata| metadata.nlink() > 0) {
                return Ok(Self { file, target: target.to_owned(), path: Some(path) });
            }
        }
        Err(Error::io("create", target.display(), std::io::ErrorKind::AlreadyExists))
    }

    /// The name it will have.
    pub(crate) fn target(&self) -> &Path {
        &self.target
    }

    /// Where it is now.
    pub(crate) fn path(&self) -> &Path {
        self.path.as_deref().unwrap_or(&self.target)
    }

    /// A file without a name in the same directory.
    pub(crate) fn scratch(&self) -> Result<File> {
        use rustix::fs::{Mode, OFlags};
        let directory = directory_of(&self.target);
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let made = rustix::fs::open(directory, flags, Mode::RUSR | Mode::WUSR);
        made.map(File::from).map_err(|errno| Error::io("create a file in", directory.display(), errno))
    }

    /// Makes the content durable.
    pub(crate) fn sync(&self) -> Result<()> {
        self.file.sync_all().map_err(|error| Error::io("sync", self.target.display(), error))
    }

    /// Makes the content durable, gives it its name, and makes the name durable.
    pub(crate) fn publish(self) -> Result<()> {
        publish_all(vec![self])
    }
}

/// Publishes files of one directory that belong together. The first is what users name, and it appears last.
pub(crate) fn publish_all(mut files: Vec<Staged>) -> Result<()> {
    for staged in &files {
        staged.sync()?;
    }
    for staged in files.iter_mut().rev() {
        if let Some(path) = &staged.path {
            let renamed = std::fs::rename(path, &staged.target);
            renamed.map_err(|error| Error::io("rename to", staged.target.display(), error))?;
        }
        staged.path = None;
    }
    let Some(first) = files.first() else { return Ok(()) };
    let directory = directory_of(&first.target);
    let synced = File::open(directory).and_then(|directory| directory.sync_all());
    synced.map_err(|error| Error::io("sync", directory.display(), error))
}

pub(super) fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Removes temporary files of `target` that no living program holds.
fn remove_stale(target: &Path, prefix: &std::ffi::OsStr) {
    let Ok(entries) = std::fs::read_dir(directory_of(target)) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let rest = name.as_encoded_bytes().strip_prefix(prefix.as_encoded_bytes());
        let is_ours = rest.and_then(|rest| rest.strip_prefix(b".")?.strip_suffix(b".part")).is_some_and(|middle| {
            !middle.is_empty() && middle.iter().all(|byte| byte.is_ascii_digit() || *byte == b'-')
        });
        if !is_ours || !entry.file_type().is_ok_and(|kind| kind.is_file()) {
            continue;
        }
        let Ok(file) = File::options().write(true).open(entry.path()) else { continue };
        if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            let _ = std::fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_nobody_holds_is_removed_by_the_next_and_one_that_is_held_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("disk.raw");
        let stale = dir.path().join(".disk.raw.4194304-0.part");
        std::fs::write(&stale, b"left by a killed program").unwrap();
        for other in [".disk.raw.part", ".disk.raw.mine.part", ".disk2.raw.1-0.part", "disk.raw.1-0.part"] {
            std::fs::write(dir.path().join(other), b"").unwrap();
        }
        let first = Staged::create(&target).unwrap();
        assert!(!stale.exists());
        let second = Staged::create(&target).unwrap();
        assert!(first.path().exists() && second.path().exists());
        second.publish().unwrap();
        drop(first);
        let names = std::fs::read_dir(dir.path()).unwrap().count();
        assert_eq!((names, target.exists()), (5, true));
    }
}
