//! A tree of files below one host directory, made from names that an image gives; nothing in them leads out of it.
//!
//! Every entry is made by one name in a directory that is held open. The directory was reached from the tree's root
//! without passing a symbolic link ([`beneath`]), nothing that exists is opened or written to, and no call follows a link
//! at the end. So neither the image nor a process that swaps directories for links meanwhile decides where a byte goes:
//! whoever moves a directory that is held open moves what is made in it, which he could have done afterwards.
//!
//! All methods may be called by several threads. Directories come before what is in them, and get their own attributes
//! ([`Tree::seal`]) when nothing is made in them any more: making an entry changes its directory's times, and may need a
//! permission that the guest's directory does not give.

mod attributes;
mod beneath;
mod name;
mod remove;
mod staged;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{AtFlags, FileType as HostType, Mode, OFlags};
use rustix::io::Errno;

pub(crate) use attributes::Attributes;
pub use attributes::{Fact, Preserve};
pub(crate) use remove::remove_tree;
pub(crate) use staged::{StagedTree, remove_unheld};

use crate::block::Lru;
use crate::bytes::escape;
use crate::error::{Error, Result};
use crate::fs::{DeviceNumber, FileType};
use attributes::{Giver, Refusals};
use beneath::{Beneath, DIRECTORY, open_one};

/// Directories that are held open. A walk needs those of its current path; the rest is for threads that are behind it.
const OPEN_DIRECTORIES: usize = 128;

/// What to do about an entry that exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Existing {
    /// Leave it: making the new one is an error. Directories that exist are used.
    #[default]
    Refuse,
    /// Remove it first, unless it is a directory. It is never written into.
    Replace,
}

/// A host directory that a tree is made in.
#[derive(Debug)]
pub(crate) struct Tree {
    root: Arc<OwnedFd>,
    /// The root's path, for messages.
    shown: PathBuf,
    existing: Existing,
    /// Whether the root was made by this process and is open to it alone.
    ours: bool,
    giver: Giver,
    beneath: Beneath,
    /// Open directories by their paths.
    open: Lru<Vec<u8>, Arc<OwnedFd>>,
    /// Directories that were made before their turn. The lock is held while one is made.
    early: Mutex<HashSet<Vec<u8>>>,
}

/// A new regular file, open for writing.
#[derive(Debug)]
pub(crate) struct NewFile {
    pub(crate) file: File,
    /// The mode that it is sure to have.
    mode: Option<u32>,
}

impl Tree {
    /// A tree in the directory `path`, which exists. The path is the user's: links in it are followed.
    pub(crate) fn open(path: &Path, preserve: Preserve, existing: Existing) -> Result<Self> {
        let flags = DIRECTORY.difference(OFlags::NOFOLLOW);
        let root = rustix::fs::open(path, flags, Mode::empty());
        let root = root.map_err(|errno| Error::io("open the directory", path.display(), errno))?;
        Self::in_directory(root, path.to_owned(), preserve, existing, false)
    }

    /// A tree in an open directory; `ours` says that it was just made by this process and is open to it alone.
    fn in_directory(root: OwnedFd, shown: PathBuf, preserve: Preserve, existing: Existing, ours: bool) -> Result<Self> {
        let failed = |errno| Error::io("look at", shown.display(), errno);
        let stat = rustix::fs::fstat(&root).map_err(failed)?;
        // With a default ACL the umask means nothing.
        let acl = rustix::fs::fgetxattr_query(&root, "system.posix_acl_default");
        let umask = if matches!(acl, Err(Errno::NODATA | Errno::OPNOTSUPP)) { umask() } else { None };
        // Whether a new file takes its group from the process or from its directory depends on the mount.
        let same = ours && stat.st_mode & 0o2000 == 0 && stat.st_gid == rustix::process::getegid().as_raw();
        let made_as = same.then_some((stat.st_uid, stat.st_gid));
        let giver = Giver { preserve, umask, made_as, refusals: Refusals::default() };
        let open = Lru::new(OPEN_DIRECTORIES);
        Ok(Self {
            root: Arc::new(root),
            shown,
            existing,
            ours,
            giver,
            beneath: Beneath::new(),
            open,
            early: Mutex::default(),
        })
    }

    /// The facts that were to be preserved and that the host did not take, with how often.
    pub(crate) fn refused(&self) -> Vec<(Fact, u64)> {
        self.giver.refusals.counts()
    }

    /// Makes a directory, open to its owner alone until it is sealed. False when it existed and is used.
    pub(crate) fn create_dir(&self, path: &[u8]) -> Result<bool> {
        let (parent, name) = self.place(path)?;
        let mut early = self.early.lock().unwrap_or_else(PoisonError::into_inner);
        if early.remove(path) {
            return Ok(true);
        }
        let made = self.make(path, &parent, name, || rustix::fs::mkdirat(&parent, name, Mode::RWXU));
        drop(early);
        let is_new = match made {
            Ok(()) => true,
            // In a new tree nothing exists: a second directory has a name that the host takes for another's.
            Err(Errno::EXIST) if !self.ours => false,
            Err(errno) => return Err(self.failed("make the directory", path, errno)),
        };
        let directory = open_one(parent.as_fd(), name);
        let directory = directory.map_err(|errno| self.failed("open the directory", path, errno))?;
        self.open.insert(path.to_vec(), Arc::new(directory));
        Ok(is_new)
    }

    /// Makes a directory that must not exist, for callers that make every directory before anything else: threads do not
    /// wait for each other, and it is not opened yet.
    pub(crate) fn create_new_dir(&self, path: &[u8]) -> Result<()> {
        let (parent, name) = self.place(path)?;
        let made = rustix::fs::mkdirat(&parent, name, Mode::RWXU);
        made.map_err(|errno| self.failed("make the directory", path, errno))
    }

    /// Makes the directories above an entry that do not exist yet, for a thread that is ahead of the one whose work they
    /// are; to that one they are new when it comes to them.
    pub(crate) fn ensure_parents(&self, path: &[u8]) -> Result<()> {
        name::split(path)?;
        let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        for (at, _) in slashes {
            let (parent, name) = self.place(&path[..at])?;
            let mut early = self.early.lock().unwrap_or_else(PoisonError::into_inner);
            let make = || rustix::fs::mkdirat(&parent, name, Mode::RWXU);
            match self.make(&path[..at], &parent, name, make) {
                Ok(()) => drop(early.insert(path[..at].to_vec())),
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(self.failed("make the directory", &path[..at], errno)),
            }
        }
        Ok(())
    }

    /// Takes away a file that could not be completed.
    pub(crate) fn discard(&self, path: &[u8]) {
        if let Ok((parent, name)) = self.place(path) {
            let _ = rustix::fs::unlinkat(&parent, name, AtFlags::empty());
        }
    }

    /// Gives a directory its attributes; the empty path is the root.
    pub(crate) fn seal(&self, path: &[u8], attributes: &Attributes<'_>) -> Result<()> {
        let directory = self.directory(path)?;
        let given = self.giver.give(directory.as_fd(), None, attributes);
        given.map_err(|errno| self.failed("set the attributes of", path, errno))
    }

    /// Makes a regular file. Its attributes are given by [`finish`](Self::finish), when its content is written.
    pub(crate) fn create_file(&self, path: &[u8], attributes: &Attributes<'_>) -> Result<NewFile> {
        let (parent, name) = self.place(path)?;
        let mode = self.giver.mode_at_creation(attributes);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made =
            self.make(path, &parent, name, || rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(mode)));
        let file = made.map_err(|errno| self.failed("create", path, errno))?;
        Ok(NewFile { file: File::from(file), mode: self.giver.made_with(mode) })
    }

    /// Gives a file that was made and written its attributes.
    pub(crate) fn finish(&self, path: &[u8], new: &NewFile, attributes: &Attributes<'_>) -> Result<()> {
        let given = self.giver.give(new.file.as_fd(), new.mode, attributes);
        given.map_err(|errno| self.failed("set the attributes of", path, errno))
    }

    /// Makes a symbolic link; its target is text to this process and is never followed.
    pub(crate) fn symlink(&self, path: &[u8], target: &[u8], attributes: &Attributes<'_>) -> Result<()> {
        let (parent, name) = self.place(path)?;
        let made = self.make(path, &parent, name, || rustix::fs::symlinkat(target, &parent, name));
        let given = made.and_then(|()| self.giver.give_named(parent.as_fd(), name, HostType::Symlink, attributes));
        given.map_err(|errno| self.failed("make the symbolic link", path, errno))
    }

    /// Gives the entry `existing` of this tree a second name. False when the host cannot: too many links to one file, or a
    /// filesystem without links.
    pub(crate) fn link(&self, existing: &[u8], path: &[u8]) -> Result<bool> {
        let (from, from_name) = self.place(existing)?;
        let (parent, name) = self.place(path)?;
        // Without AT_SYMLINK_FOLLOW it is the entry itself that is linked, also when it is a link.
        let link = || rustix::fs::linkat(&from, from_name, &parent, name, AtFlags::empty());
        match self.make(path, &parent, name, link) {
            Ok(()) => Ok(true),
            Err(Errno::MLINK | Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS | Errno::ACCESS | Errno::XDEV) => {
                self.giver.refusals.add(Fact::Links);
                Ok(false)
            }
            Err(errno) => Err(self.failed("make the hard link", path, errno)),
        }
    }

    /// Gives a host file outside of this tree, which the caller made, a second name in it. False when the host cannot.
    pub(crate) fn link_from(&self, existing: &Path, path: &[u8]) -> Result<bool> {
        let (parent, name) = self.place(path)?;
        let link = || rustix::fs::linkat(rustix::fs::CWD, existing, &parent, name, AtFlags::empty());
        match self.make(path, &parent, name, link) {
            Ok(()) => Ok(true),
            Err(
                Errno::MLINK
                | Errno::PERM
                | Errno::OPNOTSUPP
                | Errno::NOSYS
                | Errno::ACCESS
                | Errno::XDEV
                | Errno::NOENT,
            ) => Ok(false),
            Err(errno) => Err(self.failed("make the hard link", path, errno)),
        }
    }

    /// Removes an entry, a directory with all that is in it.
    pub(crate) fn remove(&self, path: &[u8]) -> Result<()> {
        let (parent, name) = self.place(path)?;
        let removed = match rustix::fs::unlinkat(&parent, name, AtFlags::empty()) {
            Err(Errno::ISDIR | Errno::PERM) => remove::remove_tree(parent.as_fd(), name),
            removed => removed,
        };
        removed.map_err(|errno| self.failed("remove", path, errno))
    }

    /// Makes a FIFO or socket, or a device if those are preserved. False when the host refuses.
    pub(crate) fn node(
        &self,
        path: &[u8],
        file_type: FileType,
        rdev: Option<DeviceNumber>,
        attributes: &Attributes<'_>,
    ) -> Result<bool> {
        let (kind, fact) = match file_type {
            FileType::Fifo => (HostType::Fifo, Fact::Nodes),
            FileType::Socket => (HostType::Socket, Fact::Nodes),
            FileType::Char => (HostType::CharacterDevice, Fact::Devices),
            FileType::Block => (HostType::BlockDevice, Fact::Devices),
            FileType::File | FileType::Dir | FileType::Symlink => {
                return Err(Error::invalid(format!("a {} is no node", file_type.name())));
            }
        };
        if fact == Fact::Devices && !self.giver.preserve.devices {
            return Ok(false);
        }
        let rdev = rdev.unwrap_or_default();
        let (parent, name) = self.place(path)?;
        let device = rustix::fs::makedev(rdev.major, rdev.minor);
        // Without any permission until it has its attributes.
        let none = Mode::empty();
        let made = self.make(path, &parent, name, || rustix::fs::mknodat(&parent, name, kind, none, device));
        if matches!(made, Err(Errno::PERM | Errno::ACCESS | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL)) {
            self.giver.refusals.add(fact);
            return Ok(false);
        }
        let given = made.and_then(|()| self.giver.give_named(parent.as_fd(), name, kind, attributes));
        given.map(|()| true).map_err(|errno| self.failed("make the node", path, errno))
    }

    /// The directory that holds the tree.
    pub(crate) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Makes everything in the tree's filesystem durable.
    pub(crate) fn sync(&self) -> Result<()> {
        rustix::fs::syncfs(&*self.root).map_err(|errno| Error::io("sync", self.shown.display(), errno))
    }

    /// Makes an entry, once more when one that exists is in the way and shall go.
    fn make<T>(
        &self,
        path: &[u8],
        parent: &OwnedFd,
        name: &[u8],
        mut make: impl FnMut() -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let made = make();
        if !matches!(made, Err(Errno::EXIST)) || self.existing != Existing::Replace {
            return made;
        }
        match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => make(),
            // A directory stays, and is used for one.
            Err(_) => {
                log::debug!("{} exists and is not removed", escape(path));
                made
            }
        }
    }

    /// The directory that an entry is in, and its name there.
    fn place<'a>(&self, path: &'a [u8]) -> Result<(Arc<OwnedFd>, &'a [u8])> {
        let (parent, name) = name::split(path)?;
        Ok((self.directory(parent)?, name))
    }

    /// The directory at a path whose names are checked.
    fn directory(&self, path: &[u8]) -> Result<Arc<OwnedFd>> {
        if path.is_empty() {
            return Ok(self.root.clone());
        }
        let key = path.to_vec();
        if let Some(directory) = self.open.get(&key) {
            return Ok(directory);
        }
        let opened = self.beneath.open(self.root.as_fd(), path);
        let directory = Arc::new(opened.map_err(|errno| self.failed("open the directory", path, errno))?);
        self.open.insert(key, directory.clone());
        Ok(directory)
    }

    fn failed(&self, action: &'static str, path: &[u8], errno: Errno) -> Error {
        Error::io(action, format_args!("{}/{}", self.shown.display(), escape(path)), errno)
    }
}

/// The process's umask, when it can be known without changing it.
pub(crate) fn umask() -> Option<u32> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let mask = status.lines().find_map(|line| line.strip_prefix("Umask:"))?;
    u32::from_str_radix(mask.trim(), 8).ok()
}
