//! Trees that appear complete under their name, or not at all.
//!
//! A tree is made in a directory under a temporary name beside its target, open to its owner alone; synced, renamed, and
//! the directory that holds it synced. Whatever ends the program before leaves the temporary directory at most: the next
//! one to make that target removes it. Whoever makes a tree holds a lock on its directory (flock(2)), so one without a lock
//! is nobody's.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FlockOperation, Mode, RenameFlags};
use rustix::io::Errno;

use super::beneath::{DIRECTORY, open_one};
use super::remove::remove_tree;
use super::{Existing, Preserve, Tree};
use crate::error::{Error, Result};

/// A tree under a temporary name beside its target, taken away again unless it is published.
#[derive(Debug)]
pub(crate) struct StagedTree {
    pub(crate) tree: Tree,
    target: PathBuf,
    /// The directory that holds both names.
    parent: File,
    /// The name in it until the tree is published.
    name: Option<Vec<u8>>,
}

impl StagedTree {
    /// A new tree that will become `target`, which must not exist.
    pub(crate) fn create(target: &Path, preserve: Preserve) -> Result<Self> {
        Self::made(target, preserve, true, &|parent, name| rustix::fs::mkdirat(parent, name, Mode::RWXU))
    }

    /// The same as a new subvolume of btrfs.
    pub(crate) fn create_subvolume(target: &Path, preserve: Preserve) -> Result<Self> {
        Self::made(target, preserve, true, &|parent, name| crate::sys::create_subvolume(parent.as_fd(), name))
    }

    /// A tree that will become `target` and has all that is in the subvolume `source` of btrfs, its attributes included.
    pub(crate) fn snapshot(target: &Path, source: BorrowedFd<'_>) -> Result<Self> {
        let snapshot = |parent: &File, name: &[u8]| crate::sys::create_snapshot(source, parent.as_fd(), name);
        Self::made(target, Preserve::nothing(), false, &snapshot)
    }

    /// A tree that `make` makes under a temporary name; `empty` says that it has nothing of its own yet.
    fn made(
        target: &Path,
        preserve: Preserve,
        empty: bool,
        make: &dyn Fn(&File, &[u8]) -> Result<(), Errno>,
    ) -> Result<Self> {
        let name = target.file_name().ok_or_else(|| Error::invalid(format!("{} is no file name", target.display())))?;
        let path = super::super::staged::directory_of(target);
        let parent = File::open(path).map_err(|error| Error::io("open the directory", path.display(), error))?;
        if target.symlink_metadata().is_ok() {
            return Err(exists(target));
        }
        let prefix = [b".", name.as_bytes(), b"."].concat();
        remove_stale(&parent, &prefix);
        for attempt in 0..1_000u32 {
            let staged = [&prefix[..], format!("{}-{attempt}.part", std::process::id()).as_bytes()].concat();
            match make(&parent, &staged) {
                Ok(()) => {}
                Err(Errno::EXIST) => continue,
                Err(errno) => return Err(Error::io("make a directory beside", target.display(), errno)),
            }
            let taken = take(&parent, &staged, empty).inspect_err(|_| {
                let _ = remove_tree(parent.as_fd(), &staged);
            });
            if let Some(root) = taken? {
                let tree = Tree::in_directory(root, target.to_owned(), preserve, Existing::Refuse, true)?;
                return Ok(Self { tree, target: target.to_owned(), parent, name: Some(staged) });
            }
        }
        Err(Error::io("make a directory beside", target.display(), Errno::EXIST))
    }

    /// Makes the tree durable (unless `sync` is false), gives it its name, and makes the name durable. What `before` does
    /// comes between: when it fails the tree is not published. With `only`, the tree's one entry of that name is published
    /// in its place.
    pub(crate) fn publish(
        mut self,
        sync: bool,
        only: Option<&[u8]>,
        before: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        if sync {
            self.tree.sync()?;
        }
        before()?;
        let Some(staged) = &self.name else { return Ok(()) };
        let name = self.target.file_name().map(OsStrExt::as_bytes).unwrap_or_default();
        let renamed = match only {
            None => rename_new(self.parent.as_fd(), staged, self.parent.as_fd(), name),
            Some(only) => rename_new(self.tree.root.as_fd(), only, self.parent.as_fd(), name),
        };
        renamed.map_err(|errno| match errno {
            Errno::EXIST | Errno::NOTEMPTY => exists(&self.target),
            errno => Error::io("rename to", self.target.display(), errno),
        })?;
        if only.is_none() {
            self.name = None;
        }
        if !sync {
            return Ok(());
        }
        self.parent.sync_all().map_err(|error| Error::io("sync the directory of", self.target.display(), error))
    }
}

impl Drop for StagedTree {
    fn drop(&mut self) {
        if let Some(name) = self.name.take()
            && let Err(errno) = remove_tree(self.parent.as_fd(), &name)
        {
            log::warn!("cannot remove what was made of {}: {errno}", self.target.display());
        }
    }
}

fn exists(target: &Path) -> Error {
    Error::io("make", target.display(), Errno::EXIST).with_hint("choose another name, or copy into the directory")
}

/// Opens and locks a directory that was just made, and makes sure that nothing from outside comes with an empty one. `None`
/// when another program took it for a stale one between.
fn take(parent: &File, name: &[u8], empty: bool) -> Result<Option<OwnedFd>> {
    let failed = |errno| Error::io("open", crate::bytes::escape(name), errno);
    let root = match open_one(parent.as_fd(), name) {
        Err(Errno::NOENT) => return Ok(None),
        opened => opened.map_err(failed)?,
    };
    // Filesystems without locks have no such program either.
    let _ = rustix::fs::flock(&root, FlockOperation::NonBlockingLockExclusive);
    match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(None),
        stat => stat.map_err(failed)?,
    };
    if !empty {
        return Ok(Some(root));
    }
    // The directory above may hand down a group, or permissions for others, which are not the guest's.
    let _ = rustix::fs::fremovexattr(&root, "system.posix_acl_default");
    let _ = rustix::fs::fremovexattr(&root, "system.posix_acl_access");
    rustix::fs::fchmod(&root, Mode::RWXU).map_err(failed)?;
    Ok(Some(root))
}

/// Renames unless the new name exists.
fn rename_new(from: BorrowedFd<'_>, old: &[u8], to: BorrowedFd<'_>, new: &[u8]) -> Result<(), Errno> {
    match rustix::fs::renameat_with(from, old, to, new, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {}
        renamed => return renamed,
    }
    // A filesystem without that flag. A directory's name is claimed with an empty one, which a rename replaces, and which it
    // refuses to replace when somebody has put something into it; another entry's with a second link.
    match rustix::fs::linkat(from, old, to, new, AtFlags::empty()) {
        Ok(()) => rustix::fs::unlinkat(from, old, AtFlags::empty()),
        Err(Errno::PERM | Errno::ISDIR | Errno::OPNOTSUPP) => {
            rustix::fs::mkdirat(to, new, Mode::RWXU)?;
            rustix::fs::renameat(from, old, to, new)
        }
        linked => linked,
    }
}

/// Removes temporary trees of one target that no living program holds.
fn remove_stale(parent: &File, prefix: &[u8]) {
    let Ok(entries) = Dir::read_from(parent) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_bytes();
        let middle = name.strip_prefix(prefix).and_then(|rest| rest.strip_suffix(b".part"));
        let is_ours = middle.is_some_and(|middle| {
            middle.contains(&b'-') && middle.iter().all(|byte| byte.is_ascii_digit() || *byte == b'-')
        });
        if is_ours {
            remove_unheld(parent, name);
        }
    }
}

/// Removes a temporary tree unless a living program holds it; whether it was.
pub(crate) fn remove_unheld(parent: &File, name: &[u8]) -> bool {
    let Ok(directory) = rustix::fs::openat(parent, name, DIRECTORY, Mode::empty()) else { return false };
    rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive).is_ok()
        && remove_tree(parent.as_fd(), name).is_ok()
}
