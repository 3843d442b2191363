//! A directory of a filesystem as a filesystem of its own: an ostree deployment, a stateroot's `var`. It is what a bind
//! mount is to the kernel; nothing above the directory can be reached through it, because paths are resolved above.

use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use super::{DirEntry, Filesystem, Identity, Inode, Metadata, StatFs, Xattr};
use crate::block::BlockDevice;
use crate::error::Result;

/// The directory `root` of `fs`, presented as a root directory.
#[derive(Debug, Clone)]
pub struct SubRoot {
    fs: Arc<dyn Filesystem>,
    root: Inode,
}

impl SubRoot {
    /// `root` must be a directory of `fs`.
    #[must_use]
    pub fn new(fs: Arc<dyn Filesystem>, root: Inode) -> Self {
        Self { fs, root }
    }
}

impl Filesystem for SubRoot {
    fn identity(&self) -> &Identity {
        self.fs.identity()
    }

    fn root(&self) -> Inode {
        self.root
    }

    fn metadata(&self, inode: Inode) -> Result<Metadata> {
        self.fs.metadata(inode)
    }

    fn lookup(&self, directory: Inode, name: &[u8]) -> Result<Option<Inode>> {
        self.fs.lookup(directory, name)
    }

    fn read_dir(&self, directory: Inode, visit: &mut dyn FnMut(DirEntry) -> Result<ControlFlow<()>>) -> Result<()> {
        self.fs.read_dir(directory, visit)
    }

    fn read_link(&self, inode: Inode) -> Result<Vec<u8>> {
        self.fs.read_link(inode)
    }

    fn open(&self, inode: Inode) -> Result<Arc<dyn BlockDevice>> {
        self.fs.open(inode)
    }

    fn expect(&self, inodes: &mut dyn Iterator<Item = Inode>) {
        self.fs.expect(inodes);
    }

    fn xattrs(&self, inode: Inode) -> Result<Vec<Xattr>> {
        self.fs.xattrs(inode)
    }

    fn statfs(&self) -> Result<StatFs> {
        self.fs.statfs()
    }

    fn shares_blocks(&self) -> bool {
        self.fs.shares_blocks()
    }

    fn content_extents(&self, inode: Inode, visit: &mut dyn FnMut(Range<u64>) -> Result<()>) -> Result<()> {
        self.fs.content_extents(inode, visit)
    }

    fn recovery(&self) -> Vec<String> {
        self.fs.recovery()
    }
}
