//! A stored tree as a filesystem: everything that looks at guests looks at stored trees too, and a tree can become an archive
//! with all that the manifest knows, whatever the host may hold.

use std::collections::HashMap;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use super::manifest::{Content, Entry, Manifest, Run};
use super::objects::Object;
use super::store::Store;
use super::{Digest, Lease};
use crate::block::{BlockDevice, Extent, ExtentKind, HostFile, Memory};
use crate::bytes::{to_u64, to_usize};
use crate::error::{Error, Result};
use crate::fs::{DirEntry, FileType, Filesystem, FsKind, Identity, Inode, Metadata, StatFs, Xattr};

/// A tree of a store, open for reading. gc leaves it while it is open.
#[derive(Debug)]
pub struct StoredTree {
    store: Arc<Store>,
    manifest: Manifest,
    identity: Identity,
    /// Names of the files that have several, by the entry of the first.
    links: HashMap<u32, u64>,
    bytes: u64,
    _lease: Option<Lease>,
}

impl StoredTree {
    /// Opens the tree `id` of a store.
    pub fn open(store: Arc<Store>, id: &Digest) -> Result<Self> {
        let (manifest, lease) = store.use_tree(id)?;
        let (mut links, mut bytes) = (HashMap::new(), 0u64);
        for index in 0..manifest.len() {
            let entry = manifest.entry(index)?;
            if let Some(leader) = entry.leader {
                *links.entry(leader).or_insert(0) += 1;
            }
            if entry.leader.is_none_or(|leader| leader == index) && entry.file_type == FileType::File {
                bytes = bytes.saturating_add(entry.size);
            }
        }
        let identity = Identity { kind: FsKind::Unknown, label: Some(id.hex()), uuid: None };
        Ok(Self { store, manifest, identity, links, bytes, _lease: lease })
    }

    /// The tree's manifest.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The entry of an inode: names of one file share the first one's.
    fn entry(&self, inode: Inode) -> Result<Entry<'_>> {
        let index = u32::try_from(inode.saturating_sub(1)).unwrap_or(u32::MAX);
        self.manifest.entry(index)
    }

    fn directory(&self, inode: Inode) -> Result<u32> {
        match self.entry(inode)?.content {
            Content::Directory(directory) => Ok(directory),
            _ => Err(Error::corrupt("tree manifest", "entry", 0, "something else", "a directory")),
        }
    }

    /// The bytes of a file without its holes.
    fn stored(&self, entry: &Entry<'_>) -> Result<Arc<dyn BlockDevice>> {
        let Content::Blob(blob) = entry.content else {
            let bytes = if let Content::Inline(bytes) = entry.content { bytes } else { &[] };
            return Ok(Arc::new(Memory::new(bytes.to_vec())));
        };
        let (digest, len) = self.manifest.blob(blob)?;
        match self.store.object(&digest, len)? {
            Object::Loose { file, path, compressed: false } => Ok(Arc::new(HostFile::from_file(file, &path)?)),
            _ => Ok(Arc::new(Memory::new(self.store.read_blob(&digest, len)?))),
        }
    }
}

fn inode_of(entry: &Entry<'_>) -> Inode {
    u64::from(entry.leader.unwrap_or(entry.index)).saturating_add(1)
}

impl Filesystem for StoredTree {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn root(&self) -> Inode {
        1
    }

    fn metadata(&self, inode: Inode) -> Result<Metadata> {
        let entry = self.entry(inode)?;
        let times = self.manifest.times(entry.index)?;
        let stored = match entry.sparse {
            Some(map) => self.manifest.sparse(map)?.iter().map(|run| run.len).sum(),
            None => entry.size,
        };
        Ok(Metadata {
            inode,
            file_type: entry.file_type,
            permissions: entry.permissions,
            uid: entry.uid,
            gid: entry.gid,
            nlink: entry.leader.and_then(|leader| self.links.get(&leader).copied()).unwrap_or(1),
            size: entry.size,
            blocks: stored.div_ceil(4096).saturating_mul(8),
            block_size: 4096,
            rdev: if let Content::Device(device) = entry.content { Some(device) } else { None },
            atime: times.map_or(entry.mtime, |times| times.atime),
            mtime: entry.mtime,
            ctime: times.map_or(entry.mtime, |times| times.ctime),
            crtime: times.and_then(|times| times.crtime),
            encrypted: false,
        })
    }

    fn lookup(&self, directory: Inode, name: &[u8]) -> Result<Option<Inode>> {
        Ok(self.manifest.child(self.directory(directory)?, name)?.map(|entry| inode_of(&entry)))
    }

    fn read_dir(&self, directory: Inode, visit: &mut dyn FnMut(DirEntry) -> Result<ControlFlow<()>>) -> Result<()> {
        for child in self.manifest.directory(self.directory(directory)?)?.children() {
            let entry = self.manifest.entry(child)?;
            let found =
                DirEntry { name: entry.name.to_vec(), inode: inode_of(&entry), file_type: Some(entry.file_type) };
            if visit(found)?.is_break() {
                break;
            }
        }
        Ok(())
    }

    fn read_link(&self, inode: Inode) -> Result<Vec<u8>> {
        match self.entry(inode)?.content {
            Content::Target(target) => Ok(target.to_vec()),
            _ => Err(Error::corrupt("tree manifest", "entry", 0, "something else", "a symbolic link")),
        }
    }

    fn open(&self, inode: Inode) -> Result<Arc<dyn BlockDevice>> {
        let entry = self.entry(inode)?;
        if entry.file_type != FileType::File {
            return Err(Error::corrupt("tree manifest", "entry", 0, entry.file_type.name(), "a file"));
        }
        let stored = self.stored(&entry)?;
        match entry.sparse {
            None => Ok(stored),
            Some(map) => Ok(Arc::new(Holes::new(self.manifest.sparse(map)?, stored, entry.size))),
        }
    }

    fn xattrs(&self, inode: Inode) -> Result<Vec<Xattr>> {
        self.entry(inode)?.xattrs.map_or_else(|| Ok(Vec::new()), |set| self.manifest.xattrs(set))
    }

    fn statfs(&self) -> Result<StatFs> {
        let blocks = self.bytes.div_ceil(4096);
        Ok(StatFs {
            block_size: 4096,
            blocks,
            blocks_free: 0,
            blocks_available: 0,
            files: u64::from(self.manifest.len()),
            files_free: 0,
            name_max: 255,
        })
    }
}

/// A file with its holes: runs of data that are stored one behind the other.
#[derive(Debug)]
struct Holes {
    runs: Vec<Run>,
    /// Where each run begins in what is stored.
    starts: Vec<u64>,
    stored: Arc<dyn BlockDevice>,
    size: u64,
}

impl Holes {
    fn new(runs: Vec<Run>, stored: Arc<dyn BlockDevice>, size: u64) -> Self {
        let mut at = 0u64;
        let starts = runs.iter().map(|run| {
            let start = at;
            at = at.saturating_add(run.len);
            start
        });
        Self { starts: starts.collect(), runs, stored, size }
    }

    /// The first run that ends behind `offset`, and those after it, each with where it begins in what is stored.
    fn from(&self, offset: u64) -> impl Iterator<Item = (&Run, u64)> {
        let first = self.runs.partition_point(|run| run.offset.saturating_add(run.len) <= offset);
        self.runs.iter().zip(self.starts.iter().copied()).skip(first)
    }
}

impl BlockDevice for Holes {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let end = offset.checked_add(to_u64(buf.len())).filter(|end| *end <= self.size).ok_or_else(|| {
            Error::corrupt("device", "offset", offset, buf.len(), format!("a range of {} bytes", self.size))
        })?;
        buf.fill(0);
        for (run, start) in self.from(offset).take_while(|(run, _)| run.offset < end) {
            let (from, to) = (run.offset.max(offset), run.offset.saturating_add(run.len).min(end));
            let part = buf.get_mut(to_usize(from - offset)..to_usize(to - offset)).unwrap_or_default();
            self.stored.read_exact_at(part, start + (from - run.offset))?;
        }
        Ok(())
    }

    fn next_extent(&self, range: Range<u64>) -> Result<Extent> {
        let whole = range.end.saturating_sub(range.start);
        Ok(match self.from(range.start).next() {
            Some((run, _)) if run.offset <= range.start => {
                let left = run.offset.saturating_add(run.len) - range.start;
                Extent { kind: ExtentKind::Data, len: left.min(whole) }
            }
            Some((run, _)) => Extent { kind: ExtentKind::Hole, len: (run.offset - range.start).min(whole) },
            None => Extent { kind: ExtentKind::Hole, len: whole },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_lie_between_the_runs() {
        let runs = vec![Run { offset: 2, len: 3 }, Run { offset: 8, len: 1 }];
        let holes = Holes::new(runs, Arc::new(Memory::new(b"abcd".to_vec())), 12);
        for start in 0..12usize {
            for end in start..=12 {
                let mut bytes = vec![9; end - start];
                holes.read_exact_at(&mut bytes, start as u64).unwrap();
                assert_eq!(bytes, b"\0\0abc\0\0\0d\0\0\0"[start..end]);
            }
        }
        assert!(holes.read_exact_at(&mut [0; 2], 11).is_err());
        let mut found = Vec::new();
        crate::block::for_each_extent(&holes, 0..12, &mut |range, kind| {
            found.push((range, kind == ExtentKind::Data));
            Ok(())
        })
        .unwrap();
        assert_eq!(found, [(0..2, false), (2..5, true), (5..8, false), (8..9, true), (9..12, false)]);
    }
}
