//! A filesystem in memory, built path by path: guests for tests of everything above `Filesystem`.
#![allow(dead_code, reason = "each test uses its part")]

use std::collections::BTreeMap;
use std::ops::{ControlFlow, Range};
use std::path::Path;
use std::sync::Arc;

use guestctl::block::{BlockDevice, Extent, ExtentKind, HostFile, Memory};
use guestctl::fs::{
    DirEntry, FileType, Filesystem, FsKind, Identity, Inode, Metadata, MountTable, StatFs, Timestamp, Xattr,
};
use guestctl::{Error, Result};

#[derive(Debug)]
enum Node {
    Dir(BTreeMap<Vec<u8>, usize>),
    File(Arc<dyn BlockDevice>),
    /// A file whose content cannot be read: corrupt.
    Broken,
    /// A file whose content cannot be read: the host's trouble.
    Unreadable,
    Symlink(Vec<u8>),
    Fifo,
}

/// The filesystem. Building it creates the directories on the way; building the same path again replaces it.
#[derive(Debug)]
pub(crate) struct TreeFs {
    identity: Identity,
    nodes: Vec<Node>,
    /// Seconds; later nodes are newer.
    mtimes: Vec<i64>,
}

impl TreeFs {
    pub(crate) fn new() -> Self {
        let identity = Identity { kind: FsKind::Ext4, label: None, uuid: None };
        Self { identity, nodes: vec![Node::Dir(BTreeMap::new())], mtimes: vec![0] }
    }

    pub(crate) fn file(self, path: &str, content: impl AsRef<[u8]>) -> Self {
        self.device(path, Arc::new(Memory::new(content.as_ref().to_vec())))
    }

    /// A file that reads from `device`.
    pub(crate) fn device(self, path: &str, device: Arc<dyn BlockDevice>) -> Self {
        self.put(path, Node::File(device))
    }

    /// The files of the host's `directory`, not those below it, as files of the directory `path`.
    pub(crate) fn host_directory(mut self, path: &str, directory: &Path) -> Self {
        for entry in std::fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_file() {
                let name = entry.file_name().into_string().unwrap();
                self = self.device(&format!("{path}/{name}"), Arc::new(HostFile::open(&entry.path()).unwrap()));
            }
        }
        self
    }

    pub(crate) fn link(self, path: &str, target: &str) -> Self {
        self.put(path, Node::Symlink(target.as_bytes().to_vec()))
    }

    pub(crate) fn dir(mut self, path: &str) -> Self {
        self.directory(path.split('/').filter(|name| !name.is_empty()));
        self
    }

    pub(crate) fn fifo(self, path: &str) -> Self {
        self.put(path, Node::Fifo)
    }

    /// A file of this many zero bytes, none of them stored.
    pub(crate) fn sparse(self, path: &str, size: u64) -> Self {
        self.device(path, Arc::new(Zeroes(size)))
    }

    pub(crate) fn broken(self, path: &str) -> Self {
        self.put(path, Node::Broken)
    }

    pub(crate) fn unreadable(self, path: &str) -> Self {
        self.put(path, Node::Unreadable)
    }

    /// A guest with this filesystem alone.
    pub(crate) fn mounts(self) -> MountTable {
        MountTable::with_root("/dev/sda", self.arc())
    }

    pub(crate) fn arc(self) -> Arc<dyn Filesystem> {
        Arc::new(self)
    }

    fn put(mut self, path: &str, node: Node) -> Self {
        let names: Vec<&str> = path.split('/').filter(|name| !name.is_empty()).collect();
        let (name, parents) = names.split_last().expect("a path below the root");
        let parent = self.directory(parents.iter().copied());
        self.add(parent, name, node);
        self
    }

    fn directory<'a>(&mut self, names: impl Iterator<Item = &'a str>) -> usize {
        let mut at = 0;
        for name in names {
            let Node::Dir(children) = &self.nodes[at] else { panic!("{name}: its parent is no directory") };
            at = match children.get(name.as_bytes()) {
                Some(child) => *child,
                None => self.add(at, name, Node::Dir(BTreeMap::new())),
            };
        }
        at
    }

    fn add(&mut self, parent: usize, name: &str, node: Node) -> usize {
        self.nodes.push(node);
        let index = self.nodes.len() - 1;
        self.mtimes.push(index as i64);
        let Node::Dir(children) = &mut self.nodes[parent] else { panic!("{name}: its parent is no directory") };
        children.insert(name.as_bytes().to_vec(), index);
        index
    }

    fn node(&self, inode: Inode) -> &Node {
        &self.nodes[inode as usize]
    }
}

impl Filesystem for TreeFs {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn root(&self) -> Inode {
        0
    }

    fn metadata(&self, inode: Inode) -> Result<Metadata> {
        let (file_type, size) = match self.node(inode) {
            Node::Dir(_) => (FileType::Dir, 4096),
            Node::File(content) => (FileType::File, content.size()),
            Node::Broken | Node::Unreadable => (FileType::File, 10),
            Node::Symlink(target) => (FileType::Symlink, target.len() as u64),
            Node::Fifo => (FileType::Fifo, 0),
        };
        let time = Timestamp { seconds: self.mtimes[inode as usize], nanoseconds: 0 };
        Ok(Metadata {
            inode,
            file_type,
            permissions: 0o755,
            uid: 0,
            gid: 0,
            nlink: 1,
            size,
            blocks: size.div_ceil(512),
            block_size: 4096,
            rdev: None,
            atime: time,
            mtime: time,
            ctime: time,
            crtime: None,
            encrypted: false,
        })
    }

    fn lookup(&self, directory: Inode, name: &[u8]) -> Result<Option<Inode>> {
        match self.node(directory) {
            Node::Dir(children) => Ok(children.get(name).map(|index| *index as Inode)),
            _ => Err(Error::corrupt("tree", "directory", 0, "something else", "a directory")),
        }
    }

    fn read_dir(&self, directory: Inode, visit: &mut dyn FnMut(DirEntry) -> Result<ControlFlow<()>>) -> Result<()> {
        let Node::Dir(children) = self.node(directory) else {
            return Err(Error::corrupt("tree", "directory", 0, "something else", "a directory"));
        };
        for (name, index) in children {
            let entry = DirEntry { name: name.clone(), inode: *index as Inode, file_type: None };
            if visit(entry)?.is_break() {
                break;
            }
        }
        Ok(())
    }

    fn read_link(&self, inode: Inode) -> Result<Vec<u8>> {
        match self.node(inode) {
            Node::Symlink(target) => Ok(target.clone()),
            _ => Err(Error::corrupt("tree", "link", 0, "something else", "a link")),
        }
    }

    fn open(&self, inode: Inode) -> Result<Arc<dyn BlockDevice>> {
        match self.node(inode) {
            Node::File(content) => Ok(content.clone()),
            Node::Unreadable => Err(Error::io("read", "image", std::io::Error::other("a bad sector"))),
            _ => Err(Error::corrupt("tree", "extent", 7, "overlap", "no overlap")),
        }
    }

    fn xattrs(&self, _inode: Inode) -> Result<Vec<Xattr>> {
        Ok(Vec::new())
    }

    fn statfs(&self) -> Result<StatFs> {
        Ok(StatFs {
            block_size: 4096,
            blocks: 1000,
            blocks_free: 500,
            blocks_available: 400,
            files: 100,
            files_free: 50,
            name_max: 255,
        })
    }
}

#[derive(Debug)]
struct Zeroes(u64);

impl BlockDevice for Zeroes {
    fn size(&self) -> u64 {
        self.0
    }

    fn read_exact_at(&self, buf: &mut [u8], _offset: u64) -> Result<()> {
        buf.fill(0);
        Ok(())
    }

    fn next_extent(&self, range: Range<u64>) -> Result<Extent> {
        Ok(Extent { kind: ExtentKind::Hole, len: range.end - range.start })
    }
}
