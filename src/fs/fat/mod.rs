//! FAT
use super::*;
use std::ops::ControlFlow;
use std::sync::Arc;
/// A FAT filesystem.
#[derive(Debug)]
pub struct Fat {
    identity: Identity,
}
impl Fat {
    /// Opens it.
    pub fn open(_device: Arc<dyn BlockDevice>) -> Result<Self> {
        Err(Error::unsupported("vfat", "reading"))
    }
}
/// Label and serial number when `head` (the device's first bytes) begins with a FAT boot sector.
pub(super) fn identify(_device: &dyn BlockDevice, _head: &[u8]) -> Result<Option<(Option<String>, u32)>> {
    Ok(None)
}
impl Filesystem for Fat {
    fn identity(&self) -> &Identity {
        &self.identity
    }
    fn root(&self) -> Inode {
        1
    }
    fn metadata(&self, _inode: Inode) -> Result<Metadata> {
        Err(Error::unsupported("vfat", "reading"))
    }
    fn lookup(&self, _d: Inode, _name: &[u8]) -> Result<Option<Inode>> {
        Err(Error::unsupported("vfat", "reading"))
    }
    fn read_dir(&self, _d: Inode, _visit: &mut dyn FnMut(DirEntry) -> Result<ControlFlow<()>>) -> Result<()> {
        Err(Error::unsupported("vfat", "reading"))
    }
    fn read_link(&self, _inode: Inode) -> Result<Vec<u8>> {
        Err(Error::unsupported("vfat", "reading"))
    }
    fn open(&self, _inode: Inode) -> Result<Arc<dyn BlockDevice>> {
        Err(Error::unsupported("vfat", "reading"))
    }
    fn xattrs(&self, _inode: Inode) -> Result<Vec<Xattr>> {
        Err(Error::unsupported("vfat", "reading"))
    }
    fn statfs(&self) -> Result<StatFs> {
        Err(Error::unsupported("vfat", "reading"))
    }
}
