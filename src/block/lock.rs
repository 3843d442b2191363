//! The image lock: who may write an image while others have it open. It is QEMU's (block/file-posix.c), so each sees what
//! the other holds.
//!
//! Locks are those of open file descriptions (fcntl(2), `F_OFD_SETLK`), one byte of the file each, and always read locks: a
//! conflict is looked for with `F_OFD_GETLK`, and the lock says why.
//!
//! | byte | held by who |
//! |---|---|
//! | 100 + permission | uses the permission |
//! | 200 + permission | does not share it |
//!
//! Permissions: 0 consistent read, 1 write, 2 write unchanged, 3 resize. A writer uses all of them and shares neither
//! write nor resize. Readers of QEMU share neither too, so they and a writer keep each other out. Our readers take no
//! lock: they ask [`writer_present`] and warn.

use std::fs::File;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use crate::error::{Error, Result};

const USED: i64 = 100;
const UNSHARED: i64 = 200;
const WRITE: i64 = 1;

/// What a writer uses, and what it leaves to no one else.
const WRITER_USES: [i64; 4] = [0, 1, 2, 3];
const WRITER_KEEPS: [i64; 2] = [1, 3];

/// A writer's lock on an image; given back when dropped.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

impl Lock {
    /// Takes the lock of a writer on the open `file`; `path` names it in messages. [`Denied`](crate::ErrorKind::Denied)
    /// when another process has the image open.
    pub fn exclusive(file: &File, path: &Path) -> Result<Self> {
        let file = file.try_clone().map_err(|error| Error::io("lock", path.display(), error))?;
        let held = Self { file };
        let fail = |errno: Errno| Error::io("lock", path.display(), std::io::Error::from(errno));
        let bytes = WRITER_USES.map(|permission| USED.saturating_add(permission)).into_iter();
        for byte in bytes.chain(WRITER_KEEPS.map(|permission| UNSHARED.saturating_add(permission))) {
            match set(&held.file, byte, libc::F_RDLCK) {
                Ok(()) => {}
                // Taken as a write lock by something that is not QEMU.
                Err(Errno::EAGAIN | Errno::EACCES) => return Err(in_use(path)),
                Err(Errno::ENOLCK | Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP) => {
                    log::debug!("{}: no locks on this filesystem", path.display());
                    return Ok(held);
                }
                Err(errno) => return Err(fail(errno)),
            }
        }
        let refused_by_us = WRITER_KEEPS.map(|permission| USED.saturating_add(permission)).into_iter();
        for byte in refused_by_us.chain(WRITER_USES.map(|permission| UNSHARED.saturating_add(permission))) {
            if is_held(&held.file, byte).map_err(fail)? {
                return Err(in_use(path));
            }
        }
        Ok(held)
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let bytes = WRITER_USES.map(|permission| USED.saturating_add(permission)).into_iter();
        for byte in bytes.chain(WRITER_KEEPS.map(|permission| UNSHARED.saturating_add(permission))) {
            let _ = set(&self.file, byte, libc::F_UNLCK);
        }
    }
}

/// Whether another process has the image open for writing.
#[must_use]
pub fn writer_present(file: &File) -> bool {
    is_held(file, USED.saturating_add(WRITE)).unwrap_or(false)
}

fn in_use(path: &Path) -> Error {
    Error::denied(format!("{} is in use by another process", path.display()))
        .with_hint("shut down the guest or end the program that has the image open")
}

fn range(byte: i64, kind: libc::c_int) -> Result<libc::flock, Errno> {
    let short = |value: libc::c_int| libc::c_short::try_from(value).map_err(|_| Errno::EINVAL);
    Ok(libc::flock { l_type: short(kind)?, l_whence: short(libc::SEEK_SET)?, l_start: byte, l_len: 1, l_pid: 0 })
}

fn set(file: &File, byte: i64, kind: libc::c_int) -> Result<(), Errno> {
    fcntl(file, FcntlArg::F_OFD_SETLK(&range(byte, kind)?)).map(drop)
}

/// Whether another open file description holds any lock on `byte`.
fn is_held(file: &File, byte: i64) -> Result<bool, Errno> {
    let mut lock = range(byte, libc::F_WRLCK)?;
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock))?;
    Ok(libc::c_int::from(lock.l_type) != libc::F_UNLCK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_writer_at_a_time_and_readers_can_tell() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk");
        let open = || File::options().read(true).write(true).create(true).truncate(false).open(&path).unwrap();
        let (first, second) = (open(), open());
        assert!(!writer_present(&second));
        let lock = Lock::exclusive(&first, &path).unwrap();
        assert!(writer_present(&second) && !writer_present(&first));
        let error = Lock::exclusive(&second, &path).unwrap_err();
        assert_eq!(error.exit_code(), 5);
        assert!(error.to_string().contains("in use by another process"), "{error}");
        drop(lock);
        assert!(!writer_present(&second));
        Lock::exclusive(&second, &path).unwrap();
    }
}
