//! Which files are names of the same inode: the first name that a walk comes upon, for every later one.
//!
//! Only inodes with more than one link are remembered, and each until all its links were seen, so a tree takes memory only
//! while its links are apart. Past [`limits::HARD_LINK_BYTES`] a further inode is not remembered: its other names are then files of their
//! own, and the caller is told so.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use crate::fs::{FileType, Location, Metadata};
use crate::limits;

/// What a file is among its links.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Link {
    /// The only one, or the first that is seen.
    First,
    /// A further name of the file at this path.
    Of(Vec<u8>),
    /// There was no room to remember: it may be another name of a file that was seen.
    Unknown,
}

/// The inodes with several names of one walk.
#[derive(Debug, Default)]
pub(super) struct HardLinks {
    first: HashMap<(usize, u64), (Vec<u8>, u64), RandomState>,
    bytes: u64,
}

/// What one remembered inode takes beside its path.
const EACH: u64 = 96;

impl HardLinks {
    /// Takes back that the entry was seen as the first of its names: it was left out, so no other can be a link to it.
    pub(super) fn forget(&mut self, location: &Location) {
        if let Some((path, _)) = self.first.remove(&(location.mount, location.inode)) {
            self.bytes -= path.len() as u64 + EACH;
        }
    }

    /// What the entry at `path` is. Directories have no links.
    pub(super) fn see(&mut self, location: &Location, metadata: &Metadata, path: &[u8]) -> Link {
        if metadata.file_type == FileType::Dir || metadata.nlink < 2 {
            return Link::First;
        }
        let key = (location.mount, location.inode);
        if let Some((first, left)) = self.first.get_mut(&key) {
            *left = left.saturating_sub(1);
            let path = first.clone();
            if *left == 0 {
                self.bytes -= path.len() as u64 + EACH;
                self.first.remove(&key);
            }
            return Link::Of(path);
        }
        let bytes = path.len() as u64 + EACH;
        if self.bytes + bytes > limits::HARD_LINK_BYTES {
            return Link::Unknown;
        }
        self.bytes += bytes;
        self.first.insert(key, (path.to_vec(), metadata.nlink - 1));
        Link::First
    }
}
