//! An index of a large directory, made at the first look-up in it.
//!
//! Reading a directory from its beginning for every look-up is quick while it is small. A large one would make each
//! component of each path cost as much as the directory is long, and a hostile one is as long as it likes: extents may
//! name the same blocks again and again. So the names of a large directory are read once and kept as keyed 64-bit
//! hashes, which nobody can make collide who does not know the key; where there are too many even for that, that is kept
//! and told at once.

use std::hash::{BuildHasher, RandomState};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};

use super::Ext4;
use super::dir::fold;
use super::inode::{FLAG_CASEFOLD, RawInode};
use crate::bytes::to_u64;
use crate::error::Result;
use crate::limits;

/// Directories below this size in bytes are read from their beginning.
const SMALL: u64 = 32 << 10;

/// One name: its hash, its position among those of its directory, and the inode it leads to.
type Name = (u64, u32, u32);

/// The indexes of directories that were looked into.
#[derive(Debug, Default)]
pub(super) struct Indexes {
    hasher: RandomState,
    kept: Mutex<Vec<(u32, Arc<Index>)>>,
}

/// The names of one directory.
#[derive(Debug)]
enum Index {
    /// Sorted.
    Names(Vec<Name>),
    /// At least this many, which is more than may be kept.
    TooMany(u64),
}

impl Index {
    fn len(&self) -> usize {
        match self {
            Self::Names(names) => names.len(),
            Self::TooMany(_) => 0,
        }
    }
}

impl Ext4 {
    /// Whether look-ups in a directory go through an index.
    pub(super) fn is_indexed(&self, directory: &RawInode) -> Result<bool> {
        let large = directory.size(&self.superblock)? > SMALL;
        Ok(large || self.fast_commit.names(directory.number).next().is_some())
    }

    /// The inode under `name` by the directory's index: bytes equal, or in a casefold directory equal once folded.
    pub(super) fn find_indexed(&self, directory: &RawInode, name: &[u8]) -> Result<Option<u32>> {
        let index = self.index(directory)?;
        let names = match &*index {
            Index::Names(names) => names,
            Index::TooMany(count) => return Err(too_many(*count)),
        };
        let find = |hash: u64| {
            let at = names.partition_point(|found| found.0 < hash);
            names.get(at).filter(|found| found.0 == hash).map(|found| found.2)
        };
        let folded = || self.folded_hash(directory, name).ok().flatten().and_then(find);
        Ok(find(self.indexes.hasher.hash_one(name)).or_else(folded))
    }

    /// The hash of a name without its case, in a directory where case does not count.
    fn folded_hash(&self, directory: &RawInode, name: &[u8]) -> Result<Option<u64>> {
        let folded = if directory.has(FLAG_CASEFOLD)? { fold(name) } else { None };
        Ok(folded.map(|folded| self.indexes.hasher.hash_one((FLAG_CASEFOLD, folded))))
    }

    fn index(&self, directory: &RawInode) -> Result<Arc<Index>> {
        let lock = || self.indexes.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, index)) = lock().iter().find(|(number, _)| *number == directory.number) {
            return Ok(index.clone());
        }
        let index = Arc::new(self.read_index(directory)?);
        let mut kept = lock();
        // The oldest go first; all of them together hold no more names than the largest one may.
        kept.push((directory.number, index.clone()));
        let mut total = kept.iter().fold(0usize, |sum, (_, index)| sum.saturating_add(index.len()));
        while to_u64(total) > limits::DIRECTORY_INDEX_NAMES && kept.len() > 1 {
            total = total.saturating_sub(kept.remove(0).1.len());
        }
        Ok(index)
    }

    fn read_index(&self, directory: &RawInode) -> Result<Index> {
        let mut names: Vec<Name> = Vec::new();
        let mut too_many = false;
        self.for_each_entry(directory, &mut |entry| {
            too_many = to_u64(names.len()) >= limits::DIRECTORY_INDEX_NAMES;
            if too_many {
                return Ok(ControlFlow::Break(()));
            }
            let position = u32::try_from(names.len()).unwrap_or(u32::MAX);
            let inode = u32::try_from(entry.inode).unwrap_or(u32::MAX);
            names.push((self.indexes.hasher.hash_one(entry.name.as_slice()), position, inode));
            names.extend(self.folded_hash(directory, &entry.name)?.map(|hash| (hash, position, inode)));
            Ok(ControlFlow::Continue(()))
        })?;
        if too_many {
            return Ok(Index::TooMany(to_u64(names.len()).saturating_add(1)));
        }
        // By position too: of two entries with one name the first counts, as it does without an index.
        names.sort_unstable();
        Ok(Index::Names(names))
    }
}

fn too_many(count: u64) -> crate::Error {
    crate::Error::limit("names in a directory that is searched", limits::DIRECTORY_INDEX_NAMES, count)
}
