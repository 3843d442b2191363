//! What a filesystem shall hold: every path with all its facts, from which both the filesystem and the manifest are made.

use std::collections::BTreeMap;
use std::io::Write;

use sha2::{Digest, Sha256};

use crate::Result;
use crate::recipe::{Content, Entry, Files, FsType};

/// The most bytes of content that are written out; larger files must be sparse.
const MOST_BYTES: u64 = 64 << 20;

/// A filesystem's paths, parents before children.
#[derive(Debug)]
pub(crate) struct Tree {
    pub(crate) nodes: BTreeMap<Vec<u8>, Node>,
}

/// One path.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) kind: Kind,
    /// Permission, set-id and sticky bits.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds and nanoseconds.
    pub(crate) mtime: (i64, u32),
    pub(crate) xattrs: BTreeMap<String, Vec<u8>>,
    pub(crate) links: u64,
}

#[derive(Debug, Clone)]
pub(crate) enum Kind {
    Dir {
        casefold: bool,
    },
    File(Data),
    Symlink(Vec<u8>),
    Char(u32, u32),
    Block(u32, u32),
    Fifo,
    /// Another name of the file at this path.
    HardLink(Vec<u8>),
}

/// A file's content.
#[derive(Debug, Clone)]
pub(crate) struct Data {
    pub(crate) len: u64,
    /// (offset, bytes), in order; between them is nothing.
    pub(crate) pieces: Vec<(u64, Vec<u8>)>,
}

impl Data {
    fn whole(bytes: Vec<u8>) -> Self {
        Self { len: bytes.len() as u64, pieces: vec![(0, bytes)] }
    }

    /// Writes it as a file of the host, with holes.
    pub(crate) fn write(&self, file: &mut std::fs::File) -> std::io::Result<()> {
        use std::os::unix::fs::FileExt;
        for (offset, bytes) in &self.pieces {
            file.write_all_at(bytes, *offset)?;
        }
        file.set_len(self.len)
    }

    /// Lower-case hexadecimal digits of its SHA-256.
    pub(crate) fn sha256(&self) -> String {
        let mut digest = Sha256::new();
        let zeroes = vec![0; 1 << 16];
        let mut at = 0;
        let skip = |digest: &mut Sha256, from: u64, to: u64| {
            let mut rest = to - from;
            while rest > 0 {
                let len = rest.min(zeroes.len() as u64);
                digest.update(&zeroes[..len as usize]);
                rest -= len;
            }
        };
        for (offset, bytes) in &self.pieces {
            skip(&mut digest, at, *offset);
            digest.update(bytes);
            at = offset + bytes.len() as u64;
        }
        skip(&mut digest, at, self.len);
        digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl Tree {
    /// The tree of a filesystem of type `fs`; `time` is when everything happened that does not say so.
    pub(crate) fn new(files: &Files, fs: FsType, time: i64) -> Result<Self> {
        let mut tree = Self { nodes: BTreeMap::new() };
        let directory = Node {
            kind: Kind::Dir { casefold: false },
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: (time, 0),
            xattrs: BTreeMap::new(),
            links: 2,
        };
        tree.nodes.insert(b"/".to_vec(), directory.clone());
        if fs != FsType::Vfat {
            tree.nodes.insert(b"/lost+found".to_vec(), Node { mode: 0o700, ..directory.clone() });
        }
        let lists = [
            (&files.dir, dir as fn(&Entry) -> Result<(Kind, u32)>),
            (&files.file, file),
            (&files.symlink, symlink),
            (&files.device, device),
            (&files.fifo, |_| Ok((Kind::Fifo, 0o644))),
            (&files.hardlink, |entry| Ok((Kind::HardLink(target(entry)?), 0))),
        ];
        for (entries, read) in lists {
            for entry in entries.iter().flat_map(numbered) {
                tree.add(&entry, read, &directory, time)?;
            }
        }
        tree.count_links()?;
        if fs == FsType::Vfat {
            tree.fit_fat(time)?;
        }
        Ok(tree)
    }

    fn add(&mut self, entry: &Entry, read: fn(&Entry) -> Result<(Kind, u32)>, parent: &Node, time: i64) -> Result<()> {
        let path = path(entry)?;
        let name = guestctl::bytes::escape(&path);
        let fail = |what: &dyn std::fmt::Display| format!("{name}: {what}");
        let (kind, mode) = read(entry).map_err(|error| fail(&error))?;
        let mode = match &entry.mode {
            Some(mode) => u32::from_str_radix(mode, 8).map_err(|_| fail(&"the mode is not octal"))?,
            None => mode,
        };
        let mtime = (entry.mtime.unwrap_or(time), entry.mtime_nanoseconds);
        let xattrs = entry.xattrs.iter().map(|(name, value)| Ok((name.clone(), bytes(value)?)));
        let xattrs = xattrs.collect::<Result<_>>().map_err(|error| fail(&error))?;
        for (at, _) in path.iter().enumerate().skip(1).filter(|(_, byte)| **byte == b'/') {
            self.nodes.entry(path[..at].to_vec()).or_insert_with(|| parent.clone());
        }
        let node = Node { kind, mode, uid: entry.uid, gid: entry.gid, mtime, xattrs, links: 1 };
        let is_implied = path == b"/" || path == b"/lost+found";
        match self.nodes.insert(path, node) {
            Some(_) if !is_implied => Err(fail(&"given twice, or below something that is given later").into()),
            _ => Ok(()),
        }
    }

    /// Counts names of files and subdirectories of directories.
    fn count_links(&mut self) -> Result<()> {
        let mut more: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
        for (path, node) in &self.nodes {
            if path != b"/" {
                let parent = parent(path);
                if !matches!(self.nodes.get(parent).map(|node| &node.kind), Some(Kind::Dir { .. })) {
                    return Err(format!("{}: its parent is no directory", guestctl::bytes::escape(path)).into());
                }
                if matches!(node.kind, Kind::Dir { .. }) {
                    *more.entry(parent.to_vec()).or_default() += 1;
                }
            }
            if let Kind::HardLink(target) = &node.kind {
                *more.entry(target.clone()).or_default() += 1;
            }
        }
        for node in self.nodes.values_mut() {
            node.links = if matches!(node.kind, Kind::Dir { .. }) { 2 } else { 1 };
        }
        for (path, links) in more {
            let Some(node) = self.nodes.get_mut(&path) else {
                return Err(format!("{}: linked to, but not there", guestctl::bytes::escape(&path)).into());
            };
            node.links += links;
        }
        Ok(())
    }

    /// FAT keeps neither owners nor modes nor odd seconds, and knows only files and directories; the root has no times.
    fn fit_fat(&mut self, time: i64) -> Result<()> {
        for (path, node) in &mut self.nodes {
            let is_dir = matches!(node.kind, Kind::Dir { .. });
            if !is_dir && !matches!(node.kind, Kind::File(_)) {
                return Err(format!("{}: FAT knows only files and directories", guestctl::bytes::escape(path)).into());
            }
            if (node.uid, node.gid, node.mtime.1) != (0, 0, 0) || node.mtime.0 % 2 != 0 || !node.xattrs.is_empty() {
                let path = guestctl::bytes::escape(path);
                return Err(format!("{path}: FAT keeps no owners, attributes or odd seconds").into());
            }
            node.mode = if is_dir || node.mode & 0o222 != 0 { 0o755 } else { 0o555 };
            if is_dir {
                node.mtime.0 = if path == b"/" { 0 } else { time };
            }
        }
        Ok(())
    }

    /// The node whose inode a path names: hard links followed.
    pub(crate) fn inode<'a>(&'a self, path: &'a [u8]) -> (&'a [u8], &'a Node) {
        let node = &self.nodes[path];
        match &node.kind {
            Kind::HardLink(target) => (target, &self.nodes[target]),
            _ => (path, node),
        }
    }
}

/// The directory that holds `path`.
pub(crate) fn parent(path: &[u8]) -> &[u8] {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(at) if at > 0 => &path[..at],
        _ => b"/",
    }
}

/// The last component of `path`.
pub(crate) fn file_name(path: &[u8]) -> &[u8] {
    let at = path.iter().rposition(|&byte| byte == b'/').map_or(0, |at| at + 1);
    &path[at..]
}

/// An entry as often as it asks for, `{n}` replaced.
fn numbered(entry: &Entry) -> Vec<Entry> {
    let Some(count) = entry.count else { return vec![entry.clone()] };
    let number = |n: u64| {
        let replace = |text: &str| text.replace("{n}", &n.to_string());
        let content = |content: &Option<Content>| match content {
            Some(Content::Text(text)) => Some(Content::Text(replace(text))),
            other => other.clone(),
        };
        Entry {
            path: entry.path.as_deref().map(replace),
            content: content(&entry.content),
            target: content(&entry.target),
            ..entry.clone()
        }
    };
    (0..count).map(number).collect()
}

fn path(entry: &Entry) -> Result<Vec<u8>> {
    let path = match (&entry.path, &entry.path_hex) {
        (Some(path), None) => path.clone().into_bytes(),
        (None, Some(hex)) => from_hex(hex)?,
        _ => return Err("an entry has neither or both of path and path_hex".into()),
    };
    let names = path.get(1..).unwrap_or_default().split(|&byte| byte == b'/');
    let is_bad = |name: &[u8]| name.is_empty() || name == b"." || name == b".." || name.len() > 255;
    let has_bad = path != b"/" && names.into_iter().any(is_bad);
    if path.first() != Some(&b'/') || has_bad || path.iter().any(|byte| matches!(byte, 0 | b'\n')) {
        return Err(format!("'{}' is no plain absolute path", guestctl::bytes::escape(&path)).into());
    }
    Ok(path)
}

fn dir(entry: &Entry) -> Result<(Kind, u32)> {
    Ok((Kind::Dir { casefold: entry.casefold }, 0o755))
}

fn file(entry: &Entry) -> Result<(Kind, u32)> {
    let data = match &entry.content {
        None => Data::whole(Vec::new()),
        Some(Content::Sparse { len, data }) => {
            let pieces: Vec<_> = data.iter().map(|(at, text)| (at.0, text.clone().into_bytes())).collect();
            let ends = pieces.iter().map(|(at, bytes)| at + bytes.len() as u64);
            let starts = pieces.iter().skip(1).map(|(at, _)| *at).chain([len.0]);
            if ends.zip(starts).any(|(end, start)| end > start) {
                return Err("the pieces overlap, are out of order, or pass the length".into());
            }
            Data { len: len.0, pieces }
        }
        Some(content) => Data::whole(bytes(content)?),
    };
    Ok((Kind::File(data), 0o644))
}

fn symlink(entry: &Entry) -> Result<(Kind, u32)> {
    if entry.mode.is_some() {
        return Err("a symbolic link has no mode of its own".into());
    }
    let target = target(entry)?;
    if target.is_empty() || target.len() > 4095 || target.iter().any(|byte| matches!(byte, 0 | b'\n')) {
        return Err("the target is empty, too long, or holds a NUL or a line feed".into());
    }
    Ok((Kind::Symlink(target), 0o777))
}

fn target(entry: &Entry) -> Result<Vec<u8>> {
    bytes(entry.target.as_ref().ok_or("it has no target")?)
}

fn device(entry: &Entry) -> Result<(Kind, u32)> {
    match (entry.kind.as_deref(), entry.major, entry.minor) {
        (Some("char"), Some(major), Some(minor)) => Ok((Kind::Char(major, minor), 0o600)),
        (Some("block"), Some(major), Some(minor)) => Ok((Kind::Block(major, minor), 0o600)),
        _ => Err("a device needs kind = \"char\" or \"block\", major and minor".into()),
    }
}

fn bytes(content: &Content) -> Result<Vec<u8>> {
    let checked = |len: u64| match len {
        ..=MOST_BYTES => Ok(len as usize),
        _ => Err(format!("{len} bytes of content are too many, {MOST_BYTES} is the most")),
    };
    Ok(match content {
        Content::Text(text) => text.clone().into_bytes(),
        Content::Hex { hex } => from_hex(hex)?,
        Content::Repeat { repeat, len } => repeat.bytes().cycle().take(checked(len.0)?).collect(),
        Content::Random { random, len } => noise(*random, checked(len.0)?),
        Content::Sparse { .. } => return Err("only files are sparse".into()),
        Content::Acl { acl } => posix_acl(acl)?,
    })
}

/// Marsaglia's xorshift, so that the bytes never depend on a crate's version.
fn noise(seed: u32, len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15 ^ (u64::from(seed) << 20);
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

fn from_hex(hex: &str) -> Result<Vec<u8>> {
    let digits: Vec<u8> = hex.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let bytes = digits.chunks(2).map(|pair| match pair {
        [_, _] => u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok(),
        _ => None,
    });
    bytes.collect::<Option<_>>().ok_or_else(|| format!("'{hex}' is not hexadecimal").into())
}

/// A POSIX ACL in the form that getxattr(2) gives: version 2, then tag, permissions and id of each entry.
fn posix_acl(text: &str) -> Result<Vec<u8>> {
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for entry in text.split(',') {
        let fail = || format!("'{entry}' is no ACL entry");
        let parts: Vec<&str> = entry.split(':').collect();
        let [tag, id, permissions] = parts[..] else { return Err(fail().into()) };
        let code = match (tag, id.is_empty()) {
            ("u", true) => 0x01u16,
            ("u", false) => 0x02,
            ("g", true) => 0x04,
            ("g", false) => 0x08,
            ("m", true) => 0x10,
            ("o", true) => 0x20,
            _ => return Err(fail().into()),
        };
        let bits = permissions.bytes().fold(0u16, |bits, letter| match letter {
            b'r' => bits | 4,
            b'w' => bits | 2,
            b'x' => bits | 1,
            _ => bits,
        });
        let id = if id.is_empty() { u32::MAX } else { id.parse().map_err(|_| fail())? };
        bytes.write_all(&code.to_le_bytes())?;
        bytes.write_all(&bits.to_le_bytes())?;
        bytes.write_all(&id.to_le_bytes())?;
    }
    Ok(bytes)
}
