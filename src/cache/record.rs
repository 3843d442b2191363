//! Small files of the store: read whole within a bound, written complete or not at all.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;

use super::random;
use crate::error::{Error, Result};
use crate::limits;

/// The file's bytes; `None` when there is no such file.
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    read_within(path, limits::CACHE_RECORD_BYTES)
}

/// The same with another limit.
pub(super) fn read_within(path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("open", path.display(), error)),
    };
    let mut bytes = Vec::new();
    let read = file.take(limit.saturating_add(1)).read_to_end(&mut bytes);
    read.map_err(|error| Error::io("read", path.display(), error))?;
    limits::check("bytes of a record of the cache", bytes.len() as u64, limit)?;
    Ok(Some(bytes))
}

/// Writes the file under a temporary name in `staging`, makes it durable, and gives it its name, in place of what has it.
pub(super) fn replace(staging: &Path, path: &Path, bytes: &[u8]) -> Result<()> {
    rename_over(&write(staging, bytes, true)?, path)?;
    sync_directory_of(path)
}

/// The same without waiting for the disk, for what tells by itself whether it is whole.
pub(super) fn replace_soon(staging: &Path, path: &Path, bytes: &[u8]) -> Result<()> {
    rename_over(&write(staging, bytes, false)?, path)
}

fn rename_over(temporary: &Path, path: &Path) -> Result<()> {
    let renamed = std::fs::rename(temporary, path).map_err(|error| Error::io("rename to", path.display(), error));
    if renamed.is_err() {
        let _ = std::fs::remove_file(temporary);
    }
    renamed
}

/// The same, unless there is a file of that name: false.
pub(super) fn create(staging: &Path, path: &Path, bytes: &[u8]) -> Result<bool> {
    let temporary = write(staging, bytes, true)?;
    let made = rename_new(&temporary, path)?;
    if made {
        sync_directory_of(path)?;
    }
    Ok(made)
}

fn write(staging: &Path, bytes: &[u8], durable: bool) -> Result<std::path::PathBuf> {
    let path = staging.join(format!("record-{}", random()));
    let written = File::options().write(true).create_new(true).open(&path).and_then(|mut file| {
        file.write_all(bytes)?;
        if durable { file.sync_all() } else { Ok(()) }
    });
    written.map_err(|error| {
        let _ = std::fs::remove_file(&path);
        Error::io("write", path.display(), error)
    })?;
    Ok(path)
}

/// Renames `from` to `to` unless that exists: then `from` is removed, and the answer is false.
pub(super) fn rename_new(from: &Path, to: &Path) -> Result<bool> {
    let renamed = match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // A filesystem without that flag: a second name is refused where one exists, too.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => match rustix::fs::link(from, to) {
            Ok(()) => rustix::fs::unlink(from),
            Err(errno) => Err(errno),
        },
        renamed => renamed,
    };
    match renamed {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) => {
            let _ = std::fs::remove_file(from);
            Ok(false)
        }
        Err(errno) => Err(Error::io("rename to", to.display(), errno)),
    }
}

/// Makes the names in a file's directory durable.
pub(super) fn sync_directory_of(path: &Path) -> Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let synced = File::open(directory).and_then(|directory| directory.sync_all());
    synced.map_err(|error| Error::io("sync", directory.display(), error))
}

/// Makes everything in the filesystem of `directory` durable.
pub(super) fn sync_filesystem(directory: &Path) -> Result<()> {
    let opened = File::open(directory).map_err(|error| Error::io("open", directory.display(), error))?;
    rustix::fs::syncfs(&opened).map_err(|errno| Error::io("sync", directory.display(), errno))
}
