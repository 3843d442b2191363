//! Indexes of large directories, made at the first look-up in them.
//!
//! Reading a directory from its beginning for every look-up is quick while it is small. A large one would make each
//! component of each path cost as much as the directory is long, and a hostile one is as long as it likes: on ext4,
//! extents may name the same blocks again and again. So the names of a large directory are read once and kept as keyed
//! 64-bit hashes, which nobody can make collide who does not know the key; where there are too many even for that, that
//! is kept and told at once.

use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};

use super::Inode;
use crate::bytes::to_u64;
use crate::error::{Error, Result};
use crate::limits;

/// The indexes of one filesystem's directories.
#[derive(Debug, Default)]
pub(super) struct NameIndexes {
    hasher: RandomState,
    /// The oldest first.
    kept: Mutex<Vec<(Inode, Arc<Index>)>>,
}

/// The names of one directory: hash and inode, sorted by hash; of names that are the same, the first one comes first.
#[derive(Debug, Default)]
struct Index {
    names: Vec<(u64, Inode)>,
    /// There are more than may be kept.
    too_many: bool,
}

impl Index {
    fn find(&self, hash: u64) -> Option<Inode> {
        let at = self.names.partition_point(|(found, _)| *found < hash);
        self.names.get(at).filter(|(found, _)| *found == hash).map(|(_, inode)| *inode)
    }
}

/// Takes a directory's names while its index is made.
#[derive(Debug)]
pub(super) struct Names<'a> {
    hasher: &'a RandomState,
    index: Index,
}

impl Names<'_> {
    /// Takes one name; `false` when no more can be taken.
    pub(super) fn add(&mut self, name: &[u8], inode: Inode) -> bool {
        self.put(self.hasher.hash_one((false, name)), inode)
    }

    /// Takes a name by which the same entry is found when no name is the same byte for byte.
    pub(super) fn add_folded(&mut self, folded: &[u8], inode: Inode) -> bool {
        self.put(self.hasher.hash_one((true, folded)), inode)
    }

    fn put(&mut self, hash: u64, inode: Inode) -> bool {
        self.index.too_many |= to_u64(self.index.names.len()) >= limits::DIRECTORY_INDEX_NAMES;
        if !self.index.too_many {
            self.index.names.push((hash, inode));
        }
        !self.index.too_many
    }
}

impl NameIndexes {
    /// Whether a directory has an index.
    pub(super) fn has(&self, directory: Inode) -> bool {
        self.get(directory).is_some()
    }

    /// The inode under `name`, or else under `folded`, in a directory whose names `read` tells if they are not known.
    pub(super) fn find(
        &self,
        directory: Inode,
        name: &[u8],
        folded: Option<&[u8]>,
        read: impl FnOnce(&mut Names<'_>) -> Result<()>,
    ) -> Result<Option<Inode>> {
        let index = match self.get(directory) {
            Some(index) => index,
            None => self.make(directory, read)?,
        };
        if index.too_many {
            let most = limits::DIRECTORY_INDEX_NAMES;
            return Err(Error::limit("names in a directory that is searched", most, most.saturating_add(1)));
        }
        let exact = index.find(self.hasher.hash_one((false, name)));
        Ok(exact.or_else(|| index.find(self.hasher.hash_one((true, folded?)))))
    }

    fn get(&self, directory: Inode) -> Option<Arc<Index>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().find(|(inode, _)| *inode == directory).map(|(_, index)| index.clone())
    }

    fn make(&self, directory: Inode, read: impl FnOnce(&mut Names<'_>) -> Result<()>) -> Result<Arc<Index>> {
        let mut names = Names { hasher: &self.hasher, index: Index::default() };
        read(&mut names)?;
        let mut index = names.index;
        if index.too_many {
            index.names = Vec::new();
        }
        index.names.sort_by_key(|(hash, _)| *hash);
        let index = Arc::new(index);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push((directory, index.clone()));
        // All of them together hold no more names than the largest one may.
        let mut total = kept.iter().fold(0usize, |sum, (_, index)| sum.saturating_add(index.names.len()));
        while to_u64(total) > limits::DIRECTORY_INDEX_NAMES && kept.len() > 1 {
            total = total.saturating_sub(kept.remove(0).1.names.len());
        }
        Ok(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(names: &'static [(&'static str, Inode)]) -> impl FnOnce(&mut Names<'_>) -> Result<()> {
        move |index| {
            for (name, inode) in names {
                index.add(name.as_bytes(), *inode);
                index.add_folded(name.to_lowercase().as_bytes(), *inode);
            }
            Ok(())
        }
    }

    #[test]
    fn the_first_of_two_counts_and_exact_names_come_before_folded_ones() {
        let indexes = NameIndexes::default();
        let names = &[("A", 1), ("a", 2), ("b", 3), ("b", 4)];
        let find = |name: &str, folded: Option<&str>| {
            indexes.find(7, name.as_bytes(), folded.map(str::as_bytes), read(names)).unwrap()
        };
        assert_eq!((find("a", Some("a")), find("A", Some("a"))), (Some(2), Some(1)));
        assert_eq!((find("b", None), find("B", Some("b")), find("B", None)), (Some(3), Some(3), None));
        assert!(indexes.has(7) && !indexes.has(8));
    }

    #[test]
    fn too_many_names_are_an_error_that_costs_nothing_the_second_time() {
        let indexes = NameIndexes::default();
        let flood = |index: &mut Names<'_>| {
            while index.add(b"name", 1) {}
            Ok(())
        };
        assert_eq!(indexes.find(7, b"name", None, flood).unwrap_err().exit_code(), 4);
        let unread = |_: &mut Names<'_>| panic!("the directory is not read again");
        assert_eq!(indexes.find(7, b"name", None, unread).unwrap_err().exit_code(), 4);
    }
}
