//! What the host's kernel says of a tree, in everything that a copy can keep.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::hash::{DefaultHasher, Hasher};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use guestctl::fs::FileType;
use rustix::fs::SeekFrom;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    pub kind: FileType,
    pub mode: u32,
    pub owner: (u32, u32),
    pub size: u64,
    /// The first path of the same file, in byte order.
    pub same_as: Vec<u8>,
    pub mtime: i128,
    pub atime: i128,
    pub target: Option<Vec<u8>>,
    pub rdev: Option<(u32, u32)>,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Of the bytes that are not zero, with their places.
    pub content: Option<u64>,
    pub data: Vec<Range<u64>>,
}

/// A tree by path below its top, whose own is empty.
pub type Tree = BTreeMap<Vec<u8>, Facts>;

pub fn tree(top: &Path) -> Tree {
    let mut tree = Tree::new();
    let mut first = BTreeMap::new();
    let mut rest = vec![top.to_owned()];
    while let Some(path) = rest.pop() {
        let metadata = std::fs::symlink_metadata(&path).unwrap();
        let kind = FileType::from_mode(metadata.mode()).unwrap();
        if kind == FileType::Dir {
            rest.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        let relative = path.strip_prefix(top).unwrap().as_os_str().as_bytes().to_vec();
        let inode = first.entry(metadata.ino()).or_insert_with(|| relative.clone());
        if relative < *inode {
            inode.clone_from(&relative);
        }
        let is_device = matches!(kind, FileType::Char | FileType::Block);
        let time = |seconds: i64, nanoseconds: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
        let facts = Facts {
            kind,
            mode: metadata.mode() & 0o7777,
            owner: (metadata.uid(), metadata.gid()),
            // What a directory takes is its filesystem's affair.
            size: if kind == FileType::Dir { 0 } else { metadata.len() },
            same_as: metadata.ino().to_le_bytes().to_vec(),
            mtime: time(metadata.mtime(), metadata.mtime_nsec()),
            atime: time(metadata.atime(), metadata.atime_nsec()),
            target: (kind == FileType::Symlink)
                .then(|| std::fs::read_link(&path).unwrap().into_os_string().as_bytes().to_vec()),
            rdev: is_device.then(|| (rustix::fs::major(metadata.rdev()), rustix::fs::minor(metadata.rdev()))),
            xattrs: xattrs(&path),
            content: None,
            data: Vec::new(),
        };
        tree.insert(relative, facts);
    }
    // Contents at last: reading one changes the time of last access, of its other names too.
    for (relative, facts) in &mut tree {
        if facts.kind == FileType::File {
            let path = top.join(OsStr::from_bytes(relative));
            facts.data = runs(&path, facts.size);
            facts.content = Some(digest(&path, &facts.data));
        }
        let inode = u64::from_le_bytes(facts.same_as[..].try_into().unwrap());
        facts.same_as = first[&inode].clone();
    }
    tree
}

/// The runs of data, as the filesystem tells them.
fn runs(path: &Path, size: u64) -> Vec<Range<u64>> {
    let file = File::open(path).unwrap();
    let mut runs = Vec::new();
    let mut at = 0;
    while at < size {
        let Ok(start) = rustix::fs::seek(&file, SeekFrom::Data(at)) else { break };
        let end = rustix::fs::seek(&file, SeekFrom::Hole(start)).unwrap();
        runs.push(start..end);
        at = end;
    }
    runs
}

fn digest(path: &Path, runs: &[Range<u64>]) -> u64 {
    let file = File::open(path).unwrap();
    let mut hasher = DefaultHasher::new();
    let mut chunk = vec![0; 1 << 20];
    for run in runs {
        let mut at = run.start;
        while at < run.end {
            let len = (run.end - at).min(1 << 20) as usize;
            file.read_exact_at(&mut chunk[..len], at).unwrap();
            for (index, block) in chunk[..len].chunks(512).enumerate() {
                if block.iter().any(|byte| *byte != 0) {
                    hasher.write_u64(at + index as u64 * 512);
                    hasher.write(block);
                }
            }
            at += len as u64;
        }
    }
    hasher.finish()
}

fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0; 1 << 16];
    let Ok(len) = rustix::fs::llistxattr(path, &mut names[..]) else { return BTreeMap::new() };
    let names = names[..len].split(|&byte| byte == 0).filter(|name| !name.is_empty());
    let value = |name: &[u8]| {
        let mut value = vec![0; 1 << 16];
        let len = rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut value[..]).unwrap();
        (name.to_vec(), value[..len].to_vec())
    };
    names.map(value).collect()
}

/// The trees are the same in everything.
#[track_caller]
pub fn same(what: &str, expected: &Tree, ours: &Tree) {
    let mut differences = Vec::new();
    for path in expected.keys().chain(ours.keys().filter(|path| !expected.contains_key(*path))) {
        let (expected, ours) = (expected.get(path), ours.get(path));
        if expected != ours {
            differences
                .push(format!("{}\n  expected {expected:?}\n  ours     {ours:?}", guestctl::bytes::escape(path)));
        }
    }
    let shown = differences.iter().take(10).map(|text| text.chars().take(1500).collect()).collect::<Vec<String>>();
    assert!(differences.is_empty(), "{what}: {} paths differ:\n{}", differences.len(), shown.join("\n"));
}
