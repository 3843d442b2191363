//! Making a manifest: entries in any order in which a directory comes before what lies in it.

use std::collections::HashMap;

use super::super::Digest;
use super::super::digest::position;
use super::entry::{Times, type_number};
use super::read::{Manifest, Run};
use super::{BLOB, DIR, ENTRY, HEADER, INLINE_BYTES, MAGIC, TIMES, VERSION, subtree};
use crate::bytes::{escape, low_u16, low_u32, to_u64, to_usize};
use crate::error::{Error, Result};
use crate::fs::{FileType, Metadata, Xattr};
use crate::limits;

/// One entry to be.
#[derive(Debug, Clone)]
pub struct NewEntry {
    /// Its path from the root, without a leading `/`; empty for the root.
    pub path: Vec<u8>,
    /// Type, permissions, owner, mtime, size and rdev are kept.
    pub metadata: Metadata,
    /// Extended attributes in any order.
    pub xattrs: Vec<Xattr>,
    /// Its content.
    pub content: NewContent,
    /// The same number for all names of one file.
    pub link: Option<u64>,
    /// Data runs of a file with holes.
    pub sparse: Option<Vec<Run>>,
}

/// An entry's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NewContent {
    /// None, or what its metadata says: directories, devices, pipes, sockets.
    None,
    /// A file's few bytes.
    Inline(Vec<u8>),
    /// A file's bytes under this digest, and how many there are.
    Blob(Digest, u64),
    /// A symbolic link's target.
    Target(Vec<u8>),
    /// That of the other entries with the same `link`.
    Linked,
}

#[derive(Debug)]
struct Node {
    parent: u32,
    name: Box<[u8]>,
    entry: NewEntry,
}

/// Collects entries and makes the manifest.
#[derive(Debug, Default)]
pub struct Builder {
    nodes: Vec<Node>,
    /// Path → node, of directories.
    directories: HashMap<Vec<u8>, u32>,
    keep_times: bool,
}

impl Builder {
    /// An empty one; `keep_times` says whether atime, ctime and crtime are kept.
    #[must_use]
    pub fn new(keep_times: bool) -> Self {
        Self { keep_times, ..Self::default() }
    }

    /// Entries so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Whether the directory that `path` lies in was added.
    #[must_use]
    pub fn has_parent(&self, path: &[u8]) -> bool {
        let parent = path.iter().rposition(|byte| *byte == b'/').and_then(|at| path.get(..at)).unwrap_or_default();
        path.is_empty() || self.directories.contains_key(parent)
    }

    /// Adds an entry. The root comes first, and a directory before what lies in it.
    pub fn push(&mut self, mut entry: NewEntry) -> Result<()> {
        let index = limits::check("entries of one tree", to_u64(self.nodes.len()), limits::CACHE_ENTRIES)?;
        let path = std::mem::take(&mut entry.path);
        let split = path.iter().rposition(|byte| *byte == b'/');
        let (parent, name) = match split {
            Some(at) => (path.get(..at).unwrap_or_default(), path.get(at.saturating_add(1)..).unwrap_or_default()),
            None => (&[][..], &path[..]),
        };
        let parent = match self.directories.get(parent) {
            Some(parent) => *parent,
            None if path.is_empty() && entry.metadata.file_type == FileType::Dir => 0,
            None => {
                return Err(Error::invalid(format!("{}: its directory must come before it", escape(&path))));
            }
        };
        if path.is_empty() != self.nodes.is_empty() {
            return Err(Error::invalid("a tree's root comes first, and once"));
        }
        let legal = path.is_empty()
            || !(matches!(name, b"" | b"." | b"..") || name.contains(&0) || name.len() > limits::CACHE_NAME_BYTES);
        if !legal {
            return Err(Error::invalid(format!("'{}' is no file name", escape(name))));
        }
        let name = name.into();
        if entry.metadata.file_type == FileType::Dir {
            self.directories.insert(path, low_u32(index));
        }
        self.nodes.push(Node { parent, name, entry });
        Ok(())
    }

    /// The manifest's bytes.
    pub fn finish(self) -> Result<Manifest> {
        if self.nodes.is_empty() {
            return Err(Error::invalid("a tree has a root"));
        }
        let layout = Layout::of(&self.nodes)?;
        let bytes = Writer::new(&self.nodes, &layout, self.keep_times)?.file()?;
        let manifest = Manifest::new(bytes)?;
        let digests = subtree::digests(&manifest)?;
        let mut bytes = manifest.into_bytes();
        for (index, digest) in digests.iter().enumerate() {
            let at = HEADER.saturating_add(index.saturating_mul(DIR)).saturating_add(16);
            if let Some(place) = bytes.get_mut(at..at.saturating_add(32)) {
                place.copy_from_slice(digest.as_bytes());
            }
        }
        Manifest::new(bytes)
    }
}

/// Which node is which entry and directory.
struct Layout {
    /// Entry → node.
    order: Vec<u32>,
    /// Directory → (its entry, first child, children, parent directory).
    directories: Vec<(u32, u32, u32, u32)>,
    /// Node → directory.
    directory_of: HashMap<u32, u32>,
    /// Link number → (first entry, node that has the content, names).
    links: HashMap<u64, (u32, Option<u32>, u32)>,
}

impl Layout {
    fn of(nodes: &[Node]) -> Result<Self> {
        let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
        for (index, node) in nodes.iter().enumerate().skip(1) {
            children.entry(node.parent).or_default().push(low_u32(to_u64(index)));
        }
        let name = |node: &u32| nodes.get(to_usize(u64::from(*node))).map_or(&[][..], |node| &node.name);
        let is_dir = |node: u32| {
            nodes.get(to_usize(u64::from(node))).is_some_and(|node| node.entry.metadata.file_type == FileType::Dir)
        };
        let mut order = vec![0u32];
        let mut directories = vec![(0u32, 1u32, 0u32, 0u32)];
        let mut directory_of = HashMap::from([(0u32, 0u32)]);
        let mut at = 0;
        while let Some((entry, first, count, _)) = directories.get_mut(at) {
            let node = order.get(to_usize(u64::from(*entry))).copied().unwrap_or_default();
            let mut names = children.remove(&node).unwrap_or_default();
            names.sort_unstable_by(|a, b| name(a).cmp(name(b)));
            let same = |pair: &&[u32]| matches!(pair, [a, b] if name(a) == name(b));
            if let Some([twice, _]) = names.windows(2).find(same) {
                return Err(Error::invalid(format!("'{}' is twice in its directory", escape(name(twice)))));
            }
            (*first, *count) = (low_u32(to_u64(order.len())), low_u32(to_u64(names.len())));
            for node in names {
                if is_dir(node) {
                    directory_of.insert(node, low_u32(to_u64(directories.len())));
                    directories.push((low_u32(to_u64(order.len())), 0, 0, low_u32(to_u64(at))));
                }
                order.push(node);
            }
            at = at.saturating_add(1);
        }
        let mut links: HashMap<u64, (u32, Option<u32>, u32)> = HashMap::new();
        for (entry, node) in order.iter().enumerate() {
            let Some(content) = nodes.get(to_usize(u64::from(*node))).map(|node| &node.entry) else { continue };
            if let Some(link) = content.link {
                let group = links.entry(link).or_insert((low_u32(to_u64(entry)), None, 0));
                group.2 = group.2.saturating_add(1);
                if content.content != NewContent::Linked {
                    group.1.get_or_insert(*node);
                }
            }
        }
        Ok(Self { order, directories, directory_of, links })
    }
}

/// The sections while they are made.
struct Writer<'a> {
    nodes: &'a [Node],
    layout: &'a Layout,
    keep_times: bool,
    blobs: Vec<(Digest, u64)>,
    entries: Vec<u8>,
    times: Vec<u8>,
    xattrs: Lists,
    sparse: Lists,
    strings: Vec<u8>,
}

/// Different lists in the order in which they are first needed.
#[derive(Default)]
struct Lists {
    known: HashMap<Vec<u8>, u32>,
    lists: Vec<Vec<u8>>,
}

impl Lists {
    /// 1 + the list's number.
    fn number(&mut self, list: Vec<u8>) -> u32 {
        let next = low_u32(to_u64(self.lists.len()).saturating_add(1));
        *self.known.entry(list).or_insert_with_key(|list| {
            self.lists.push(list.clone());
            next
        })
    }

    fn section(&self) -> Result<Vec<u8>> {
        if self.lists.is_empty() {
            return Ok(Vec::new());
        }
        let mut bytes = low_u32(to_u64(self.lists.len())).to_le_bytes().to_vec();
        let mut at = 0u64;
        for len in std::iter::once(0).chain(self.lists.iter().map(|list| to_u64(list.len()))) {
            at = limits::check("bytes of a tree's attributes", at.saturating_add(len), u64::from(u32::MAX))?;
            bytes.extend(low_u32(at).to_le_bytes());
        }
        bytes.extend(self.lists.iter().flatten());
        Ok(bytes)
    }
}

impl<'a> Writer<'a> {
    fn new(nodes: &'a [Node], layout: &'a Layout, keep_times: bool) -> Result<Self> {
        let mut blobs: Vec<(Digest, u64)> = nodes
            .iter()
            .filter_map(|node| match node.entry.content {
                NewContent::Blob(digest, len) => Some((digest, len)),
                _ => None,
            })
            .collect();
        blobs.sort_unstable();
        blobs.dedup();
        let (entries, times, strings) = (Vec::new(), Vec::new(), Vec::new());
        let (xattrs, sparse) = (Lists::default(), Lists::default());
        let mut writer = Self { nodes, layout, keep_times, blobs, entries, times, xattrs, sparse, strings };
        for (index, node) in layout.order.iter().enumerate() {
            writer.entry(low_u32(to_u64(index)), *node)?;
        }
        Ok(writer)
    }

    fn string(&mut self, bytes: &[u8]) -> Result<u32> {
        let at = limits::check("bytes of a tree's names", to_u64(self.strings.len()), u64::from(u32::MAX))?;
        self.strings.extend_from_slice(bytes);
        Ok(low_u32(at))
    }

    fn node(&self, node: u32) -> Result<&'a Node> {
        self.nodes.get(to_usize(u64::from(node))).ok_or_else(|| Error::invalid("an entry is missing"))
    }

    fn entry(&mut self, index: u32, number: u32) -> Result<()> {
        let node = self.node(number)?;
        let group = node.entry.link.and_then(|link| self.layout.links.get(&link).copied());
        // All names of a file have what the one with the content has.
        let entry = match group {
            Some((_, Some(with_content), _)) => &self.node(with_content)?.entry,
            None if node.entry.content != NewContent::Linked => &node.entry,
            _ => return Err(Error::invalid(format!("'{}' is a link to nothing", escape(&node.name)))),
        };
        let metadata = &entry.metadata;
        let is_sized = matches!(metadata.file_type, FileType::File | FileType::Symlink);
        let name = self.string(&node.name)?;
        let (kind, a, b) = self.content(entry, number)?;
        let mut xattrs = entry.xattrs.clone();
        xattrs.sort_unstable();
        let set = if xattrs.is_empty() { 0 } else { self.xattrs.number(encode_xattrs(&xattrs)?) };
        let map = entry.sparse.as_ref().map_or(0, |runs| {
            let runs = runs.iter().flat_map(|run| [run.offset.to_le_bytes(), run.len.to_le_bytes()]);
            self.sparse.number(runs.flatten().collect())
        });
        let leader = group.filter(|(.., names)| *names > 1).map_or(0, |(first, ..)| first.saturating_add(1));
        let mut record = [0u8; ENTRY];
        let mut put = Put(&mut record);
        put.at(0, &name.to_le_bytes());
        put.at(4, &u16::try_from(node.name.len()).unwrap_or_default().to_le_bytes());
        put.at(6, &[type_number(metadata.file_type), kind]);
        put.at(8, &low_u16(metadata.permissions & 0o7777).to_le_bytes());
        put.at(12, &metadata.uid.to_le_bytes());
        put.at(16, &metadata.gid.to_le_bytes());
        put.at(20, &metadata.mtime.nanoseconds.to_le_bytes());
        put.at(24, &metadata.mtime.seconds.to_le_bytes());
        put.at(32, &if is_sized { metadata.size } else { 0 }.to_le_bytes());
        put.at(40, &a.to_le_bytes());
        put.at(44, &b.to_le_bytes());
        put.at(48, &leader.to_le_bytes());
        put.at(52, &set.to_le_bytes());
        put.at(56, &map.to_le_bytes());
        self.entries.extend_from_slice(&record);
        if self.keep_times {
            self.times(Times::from(&node.entry.metadata));
        }
        debug_assert_eq!(self.entries.len() / ENTRY, to_usize(u64::from(index)).saturating_add(1));
        Ok(())
    }

    fn content(&mut self, entry: &NewEntry, number: u32) -> Result<(u8, u32, u32)> {
        let device = entry.metadata.rdev.unwrap_or_default();
        Ok(match (&entry.content, entry.metadata.file_type) {
            (_, FileType::Dir) => (4, self.layout.directory_of.get(&number).copied().unwrap_or_default(), 0),
            (_, FileType::Char | FileType::Block) => (5, device.major, device.minor),
            (NewContent::Target(target), FileType::Symlink) => (3, self.string(target)?, low_u32(to_u64(target.len()))),
            (NewContent::Inline(bytes), FileType::File) if to_u64(bytes.len()) <= INLINE_BYTES => {
                (1, self.string(bytes)?, low_u32(to_u64(bytes.len())))
            }
            (NewContent::Blob(digest, _), FileType::File) => {
                let at = |index: usize| self.blobs.get(index).map(|(digest, _)| digest.as_bytes());
                (2, low_u32(to_u64(position(self.blobs.len(), digest, at).unwrap_or_default())), 0)
            }
            (NewContent::None, FileType::File | FileType::Fifo | FileType::Socket) => (0, 0, 0),
            (content, file_type) => {
                return Err(Error::invalid(format!("a {} with the content {content:?}", file_type.name())));
            }
        })
    }

    fn times(&mut self, times: Times) {
        let crtime = times.crtime.unwrap_or_default();
        let all = [times.atime, times.ctime, crtime];
        self.times.extend(all.iter().flat_map(|time| time.seconds.to_le_bytes()));
        self.times.extend(all.iter().flat_map(|time| time.nanoseconds.to_le_bytes()));
        self.times.extend(u32::from(times.crtime.is_some()).to_le_bytes());
        debug_assert!(self.times.len().is_multiple_of(TIMES));
    }

    fn file(self) -> Result<Vec<u8>> {
        let directories: Vec<u8> = self
            .layout
            .directories
            .iter()
            .flat_map(|(entry, first, count, parent)| {
                let numbers = [*parent, *entry, *first, *count].into_iter().flat_map(u32::to_le_bytes);
                numbers.chain([0; 32]).collect::<Vec<u8>>()
            })
            .collect();
        let blobs: Vec<u8> = self
            .blobs
            .iter()
            .flat_map(|(digest, len)| digest.as_bytes().iter().copied().chain(len.to_le_bytes()).collect::<Vec<u8>>())
            .collect();
        debug_assert!(blobs.len().is_multiple_of(BLOB));
        let (xattrs, sparse) = (self.xattrs.section()?, self.sparse.section()?);
        let sections = [directories, self.entries, self.times, xattrs, sparse, blobs, self.strings];
        let mut header = MAGIC.to_vec();
        header.extend(VERSION.to_le_bytes());
        header.extend(0u32.to_le_bytes());
        let mut at = to_u64(HEADER);
        for section in &sections {
            at = at.next_multiple_of(8);
            header.extend(at.to_le_bytes());
            header.extend(to_u64(section.len()).to_le_bytes());
            at = at.saturating_add(to_u64(section.len()));
        }
        limits::check("bytes of a tree manifest", at, limits::CACHE_MANIFEST_BYTES)?;
        let mut file = header;
        for section in sections {
            file.resize(file.len().next_multiple_of(8), 0);
            file.extend(section);
        }
        Ok(file)
    }
}

/// Fields of a record that is being made.
struct Put<'a>(&'a mut [u8; ENTRY]);

impl Put<'_> {
    fn at(&mut self, at: usize, bytes: &[u8]) {
        if let Some(place) = self.0.get_mut(at..at.saturating_add(bytes.len())) {
            place.copy_from_slice(bytes);
        }
    }
}

fn encode_xattrs(sorted: &[Xattr]) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for Xattr { name, value } in sorted {
        limits::check("bytes of an extended attribute", to_u64(value.len()), limits::XATTR_BYTES)?;
        let name_len = u16::try_from(name.len()).ok().filter(|len| usize::from(*len) <= limits::CACHE_XATTR_NAME_BYTES);
        let Some(name_len) = name_len.filter(|len| *len > 0) else {
            return Err(Error::invalid(format!("'{}' is no name of an attribute", escape(name))));
        };
        bytes.extend(name_len.to_le_bytes());
        bytes.extend(low_u32(to_u64(value.len())).to_le_bytes());
        bytes.extend(name);
        bytes.extend(value);
    }
    Ok(bytes)
}
