//! ext4
#[allow(dead_code, unused_imports)]
mod journal;
use super::*;
use std::ops::ControlFlow;
use std::sync::Arc;
/// A ext4 filesystem.
#[derive(Debug)]
pub struct Ext4 {
    identity: Identity,
}
impl Ext4 {
    /// Opens it.
    pub fn open(_device: Arc<dyn BlockDevice>) -> Result<Self> {
        Err(Error::unsupported("ext4", "reading"))
    }
}

impl Filesystem for Ext4 {
    fn identity(&self) -> &Identity {
        &self.identity
    }
    fn root(&self) -> Inode {
        1
    }
    fn metadata(&self, _inode: Inode) -> Result<Metadata> {
        Err(Error::unsupported("ext4", "reading"))
    }
    fn lookup(&self, _d: Inode, _name: &[u8]) -> Result<Option<Inode>> {
        Err(Error::unsupported("ext4", "reading"))
    }
    fn read_dir(&self, _d: Inode, _visit: &mut dyn FnMut(DirEntry) -> Result<ControlFlow<()>>) -> Result<()> {
        Err(Error::unsupported("ext4", "reading"))
    }
    fn read_link(&self, _inode: Inode) -> Result<Vec<u8>> {
        Err(Error::unsupported("ext4", "reading"))
    }
    fn open(&self, _inode: Inode) -> Result<Arc<dyn BlockDevice>> {
        Err(Error::unsupported("ext4", "reading"))
    }
    fn xattrs(&self, _inode: Inode) -> Result<Vec<Xattr>> {
        Err(Error::unsupported("ext4", "reading"))
    }
    fn statfs(&self) -> Result<StatFs> {
        Err(Error::unsupported("ext4", "reading"))
    }
}
