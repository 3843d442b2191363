//! Filesystems that no image here has: with blocks that files share, and with files that cannot be read.

use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use guestctl::block::BlockDevice;
use guestctl::fs::{DirEntry, Filesystem, FsKind, GuestPath, Identity, Inode, Metadata, MountTable, StatFs, Xattr};
use guestctl::ops::{self, DuLine, DuOptions, DuSink, GrepEvent, GrepOptions, Pattern};
use guestctl::progress::Silent;
use guestctl::{Error, Result};

use super::tree_fs::TreeFs;

/// A tree whose files lie where they say: the content of a file of `n` bytes is read as the place of its blocks.
#[derive(Debug)]
struct Sharing(Arc<dyn Filesystem>);

impl Filesystem for Sharing {
    fn identity(&self) -> &Identity {
        self.0.identity()
    }
    fn root(&self) -> Inode {
        self.0.root()
    }
    fn metadata(&self, inode: Inode) -> Result<Metadata> {
        let mut metadata = self.0.metadata(inode)?;
        if metadata.file_type == guestctl::fs::FileType::File {
            let mut bytes = 0;
            self.content_extents(inode, &mut |run| {
                bytes += run.end - run.start;
                Ok(())
            })?;
            metadata.blocks = bytes / 512;
        }
        Ok(metadata)
    }
    fn lookup(&self, directory: Inode, name: &[u8]) -> Result<Option<Inode>> {
        self.0.lookup(directory, name)
    }
    fn read_dir(&self, directory: Inode, visit: &mut dyn FnMut(DirEntry) -> Result<ControlFlow<()>>) -> Result<()> {
        self.0.read_dir(directory, visit)
    }
    fn read_link(&self, inode: Inode) -> Result<Vec<u8>> {
        self.0.read_link(inode)
    }
    fn open(&self, inode: Inode) -> Result<Arc<dyn BlockDevice>> {
        self.0.open(inode)
    }
    fn xattrs(&self, inode: Inode) -> Result<Vec<Xattr>> {
        self.0.xattrs(inode)
    }
    fn statfs(&self) -> Result<StatFs> {
        self.0.statfs()
    }
    fn shares_blocks(&self) -> bool {
        true
    }
    /// Pairs of bytes: the first block and the one behind the last.
    fn content_extents(&self, inode: Inode, visit: &mut dyn FnMut(Range<u64>) -> Result<()>) -> Result<()> {
        let content = self.open(inode)?;
        let bytes = guestctl::block::read_vec(&content, 0, content.size() as usize)?;
        for pair in bytes.chunks_exact(2) {
            visit(u64::from(pair[0]) * 4096..u64::from(pair[1]) * 4096)?;
        }
        Ok(())
    }
}

#[derive(Default)]
struct Lines(Vec<(String, u64, u64)>, Vec<String>);

impl DuSink for Lines {
    fn line(&mut self, line: &DuLine<'_>) -> Result<()> {
        self.0.push((line.path.to_string(), line.usage.allocated_bytes, line.usage.shared_bytes));
        Ok(())
    }
    fn problem(&mut self, path: &GuestPath, _error: Error) -> Result<()> {
        self.1.push(path.to_string());
        Ok(())
    }
}

#[test]
fn blocks_that_files_share_are_told() {
    let tree = TreeFs::new()
        .file("/a/one", [10, 20])
        .file("/a/clone", [10, 20])
        .file("/b/part", [5, 12, 18, 30])
        .file("/b/own", [40, 41])
        .file("/c/again", [40, 41, 40, 41]);
    let mounts = MountTable::with_root("/dev/sda", Arc::new(Sharing(tree.arc())));
    let mut lines = Lines::default();
    let start = mounts.root().unwrap();
    let options = DuOptions { all: true, ..DuOptions::default() };
    ops::du(&mounts, &[start], &options, &mut lines, &Silent).unwrap();
    let block = |path: &str| {
        let (_, allocated, shared) = lines.0.iter().find(|line| line.0 == path).unwrap();
        (allocated / 4096, shared / 4096)
    };
    assert_eq!(block("/a/clone"), (10, 0), "the first that is counted has it for its own");
    assert_eq!(block("/a/one"), (10, 10));
    assert_eq!(block("/a"), (21, 10));
    assert_eq!(block("/b/part"), (19, 4));
    assert_eq!(block("/b/own"), (1, 0));
    assert_eq!(block("/c/again"), (2, 2), "with itself, too");
    assert_eq!(block("/"), (46, 16));
}

#[test]
fn what_cannot_be_read_is_told_and_the_rest_is_searched() {
    let tree = TreeFs::new().file("/a", "needle\n").broken("/b").unreadable("/c").file("/d/e", "no\nneedle 2\n");
    assert_eq!(FsKind::Ext4.name(), "ext4");
    let mounts = tree.mounts();
    let start = mounts.root().unwrap();
    let pattern = Pattern { alternatives: vec!["needle".to_owned()], ..Pattern::default() };
    let options = GrepOptions { pattern, recursive: true, ..GrepOptions::default() };
    let mut out = Vec::new();
    let render = |event: &GrepEvent<'_>, bytes: &mut Vec<u8>| {
        if let GrepEvent::Line { path, text, byte_offset, .. } = event {
            bytes.extend_from_slice(&[path, &b"@"[..], byte_offset.to_string().as_bytes(), b" ", text, b"\n"].concat());
        }
        Ok(())
    };
    let mut write = |bytes: &[u8]| {
        out.extend_from_slice(bytes);
        Ok(())
    };
    let grepped = ops::grep(&mounts, std::slice::from_ref(&start), &options, &render, &mut write, &Silent).unwrap();
    assert_eq!(String::from_utf8(out).unwrap(), "/a@0 needle\n/d/e@3 needle 2\n");
    let paths: Vec<_> = grepped.problems.listed.iter().map(|problem| problem.path.as_str()).collect();
    assert_eq!((paths, grepped.files, grepped.matching_files), (vec!["/b", "/c"], 2, 2));
    // A directory that is not to be searched is a problem, too.
    let options = GrepOptions { recursive: false, ..options };
    let grepped = ops::grep(&mounts, &[start], &options, &render, &mut |_| Ok(()), &Silent).unwrap();
    assert_eq!((grepped.problems.count, grepped.files), (1, 0));
}
