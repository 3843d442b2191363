//! Filesystems inside a guest, addressed by inode.
//!
//! A [`Filesystem`] answers for inodes and names; it knows nothing of paths. Path rules (symbolic links, `..`, mount
//! points) live once, in `resolve`. A file's content is a [`BlockDevice`] again, so that everything above can ask where
//! holes are and where bytes lie in a host file before it reads them.
//!
//! One folder per filesystem, one file per on-disk concept, named with the specification's word.
#![deny(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::as_conversions)]
#![cfg_attr(test, allow(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::as_conversions))]

pub mod ext4;
pub mod fat;
mod listing;
mod metadata;
mod mounts;
mod name_index;
mod path;
mod probe;
mod resolve;
mod subroot;

use std::fmt;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;

pub use listing::Listing;
pub use metadata::{DeviceNumber, FileType, Metadata, StatFs, Timestamp, Xattr};
pub use mounts::{Mount, MountTable};
pub use path::GuestPath;
pub use probe::{FsKind, Identity, probe};
pub use resolve::{Follow, Location};
pub use subroot::SubRoot;

use crate::block::BlockDevice;
use crate::error::{Error, Result};

/// An inode number, or what a filesystem without inodes uses in its place; unique and stable while the filesystem is
/// open.
pub type Inode = u64;

/// One name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// The name's bytes: never empty, never `.` or `..`, no `/` and no NUL.
    pub name: Vec<u8>,
    /// What it leads to.
    pub inode: Inode,
    /// The type, when the directory itself says it.
    pub file_type: Option<FileType>,
}

/// A filesystem, open for reading; shared by any number of threads.
pub trait Filesystem: Send + Sync + fmt::Debug {
    /// Its kind, label and UUID.
    fn identity(&self) -> &Identity;

    /// The root directory.
    fn root(&self) -> Inode;

    /// What `stat(2)` would tell of an inode.
    fn metadata(&self, inode: Inode) -> Result<Metadata>;

    /// The inode under `name` in the directory `directory`; `None` when there is none.
    fn lookup(&self, directory: Inode, name: &[u8]) -> Result<Option<Inode>>;

    /// Calls `visit` with each entry but `.` and `..`, in the directory's own order, until it breaks. An entry whose
    /// name could not exist in a real directory (empty, `/`, NUL) is a [`Corrupt`](crate::ErrorKind) error.
    fn read_dir(&self, directory: Inode, visit: &mut dyn FnMut(DirEntry) -> Result<ControlFlow<()>>) -> Result<()>;

    /// A symbolic link's target.
    fn read_link(&self, inode: Inode) -> Result<Vec<u8>>;

    /// A regular file's content. Its size is the file's.
    fn open(&self, inode: Inode) -> Result<Arc<dyn BlockDevice>>;

    /// Extended attributes, ACLs and labels included, sorted by name.
    fn xattrs(&self, inode: Inode) -> Result<Vec<Xattr>>;

    /// Sizes and free space.
    fn statfs(&self) -> Result<StatFs>;

    /// Calls `visit` with runs of bytes of the filesystem's device that it says are free, in ascending order: no file, no
    /// metadata and nothing that recovery needs is there. What is damaged counts as in use. A kind whose free space is not
    /// read, or a filesystem whose word cannot be relied on, is [`Unsupported`](crate::ErrorKind).
    fn free_extents(&self, _visit: &mut dyn FnMut(Range<u64>) -> Result<()>) -> Result<()> {
        Err(Error::unsupported(self.identity().kind.name(), "free space"))
    }

    /// Says that these inodes will be asked for soon, so that they can be read in the order of the disk. Advice: doing nothing is
    /// right, and no error is reported here.
    fn expect(&self, _inodes: &mut dyn Iterator<Item = Inode>) {}

    /// Whether several files may hold the same blocks (reflinks, snapshots, deduplication).
    fn shares_blocks(&self) -> bool {
        false
    }

    /// Calls `visit` with the runs of bytes of the filesystem's device that hold a regular file's content. Asked of
    /// filesystems whose files [share blocks](Self::shares_blocks), which have to answer.
    fn content_extents(&self, _inode: Inode, _visit: &mut dyn FnMut(Range<u64>) -> Result<()>) -> Result<()> {
        Err(Error::unsupported(self.identity().kind.name(), "telling where contents lie"))
    }

    /// What opening had to do so that the contents are true (journal transactions replayed, orphans found), in sentences
    /// for the user; empty for a clean filesystem.
    fn recovery(&self) -> Vec<String> {
        Vec::new()
    }
}

/// Opens the filesystem on `device` for reading, whatever its kind.
pub fn open(device: Arc<dyn BlockDevice>) -> Result<Arc<dyn Filesystem>> {
    let identity = probe(&*device)?;
    match identity.kind {
        FsKind::Ext2 | FsKind::Ext3 | FsKind::Ext4 => ext4::open(device),
        FsKind::Vfat => Ok(Arc::new(fat::Fat::open(device)?)),
        FsKind::Unknown => Err(Error::unsupported("filesystem", "what is on this device (no known signature)")),
        kind => Err(Error::unsupported(kind.name(), "reading")),
    }
}
