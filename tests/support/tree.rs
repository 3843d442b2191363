//! A filesystem of named files for tests of what lies above filesystems: directories, files and symbolic links, no more.
#![allow(dead_code, unreachable_pub, reason = "each test program uses a part")]

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use guestctl::block::{BlockDevice, HostFile, Memory};
use guestctl::fs::{
    DirEntry, FileType, Filesystem, FsKind, Identity, Inode, Metadata, MountTable, StatFs, Timestamp, Xattr,
};
use guestctl::{Error, Result};

#[derive(Debug, Clone)]
enum Node {
    Dir(BTreeMap<Vec<u8>, Inode>),
    File(Arc<dyn BlockDevice>),
    Symlink(Vec<u8>),
}

/// The filesystem; an inode is an index.
#[derive(Debug, Clone)]
pub struct Tree {
    identity: Identity,
    nodes: Vec<Node>,
}

impl Tree {
    pub fn new() -> Self {
        let identity = Identity { kind: FsKind::Unknown, label: None, uuid: None };
        Self { identity, nodes: vec![Node::Dir(BTreeMap::new())] }
    }

    /// With a file of these bytes at `path`; directories are made as needed.
    pub fn file(self, path: &str, bytes: impl Into<Vec<u8>>) -> Self {
        self.device(path, Arc::new(Memory::new(bytes.into())))
    }

    /// With a file that reads from `device`.
    pub fn device(self, path: &str, device: Arc<dyn BlockDevice>) -> Self {
        self.add(path, Node::File(device))
    }

    /// With the files of the host's `directory`, not those below it, as files of the directory `path`.
    pub fn host_directory(mut self, path: &str, directory: &Path) -> Self {
        for entry in std::fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_file() {
                let name = entry.file_name().into_string().unwrap();
                self = self.device(&format!("{path}/{name}"), Arc::new(HostFile::open(&entry.path()).unwrap()));
            }
        }
        self
    }

    pub fn symlink(self, path: &str, target: &str) -> Self {
        self.add(path, Node::Symlink(target.into()))
    }

    /// A guest with this filesystem alone.
    pub fn mounts(self) -> MountTable {
        MountTable::with_root("/dev/sda", Arc::new(self))
    }

    fn add(mut self, path: &str, node: Node) -> Self {
        let mut directory = 0;
        let mut names: Vec<&str> = path.split('/').filter(|name| !name.is_empty()).collect();
        let last = names.pop().unwrap();
        for name in names {
            directory = self.entry(directory, name, Node::Dir(BTreeMap::new()));
        }
        self.entry(directory, last, node);
        self
    }

    /// The inode of `name` in `directory`, which becomes `node` when there is none.
    fn entry(&mut self, directory: usize, name: &str, node: Node) -> usize {
        let next = self.nodes.len();
        let Node::Dir(entries) = &mut self.nodes[directory] else { panic!("{name} lies in no directory") };
        let inode = *entries.entry(name.into()).or_insert(next as Inode) as usize;
        if inode == next {
            self.nodes.push(node);
        }
        inode
    }

    fn node(&self, inode: Inode) -> Result<&Node> {
        self.nodes.get(inode as usize).ok_or_else(|| Error::invalid("no such inode"))
    }
}

impl Filesystem for Tree {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn root(&self) -> Inode {
        0
    }

    fn metadata(&self, inode: Inode) -> Result<Metadata> {
        let (file_type, size) = match self.node(inode)? {
            Node::Dir(_) => (FileType::Dir, 0),
            Node::File(device) => (FileType::File, device.size()),
            Node::Symlink(target) => (FileType::Symlink, target.len() as u64),
        };
        let time = Timestamp::default();
        Ok(Metadata {
            inode,
            file_type,
            permissions: 0o755,
            uid: 0,
            gid: 0,
            nlink: 1,
            size,
            blocks: 0,
            block_size: 4_096,
            rdev: None,
            atime: time,
            mtime: time,
            ctime: time,
            crtime: None,
            encrypted: false,
        })
    }

    fn lookup(&self, directory: Inode, name: &[u8]) -> Result<Option<Inode>> {
        match self.node(directory)? {
            Node::Dir(entries) => Ok(entries.get(name).copied()),
            _ => Err(Error::invalid("not a directory")),
        }
    }

    fn read_dir(&self, directory: Inode, visit: &mut dyn FnMut(DirEntry) -> Result<ControlFlow<()>>) -> Result<()> {
        let Node::Dir(entries) = self.node(directory)? else { return Err(Error::invalid("not a directory")) };
        for (name, &inode) in entries {
            if visit(DirEntry { name: name.clone(), inode, file_type: None })?.is_break() {
                break;
            }
        }
        Ok(())
    }

    fn read_link(&self, inode: Inode) -> Result<Vec<u8>> {
        match self.node(inode)? {
            Node::Symlink(target) => Ok(target.clone()),
            _ => Err(Error::invalid("not a symbolic link")),
        }
    }

    fn open(&self, inode: Inode) -> Result<Arc<dyn BlockDevice>> {
        match self.node(inode)? {
            Node::File(device) => Ok(device.clone()),
            _ => Err(Error::invalid("not a regular file")),
        }
    }

    fn xattrs(&self, _inode: Inode) -> Result<Vec<Xattr>> {
        Ok(Vec::new())
    }

    fn statfs(&self) -> Result<StatFs> {
        Err(Error::unsupported("tree", "statfs"))
    }
}
