//! Which files of a tree are one: the first path of the walk that led to an inode with several names.

use std::collections::HashMap;

use crate::error::Result;
use crate::fs::{FileType, GuestPath, Location, Metadata};
use crate::limits;

/// Inodes of one tree whose other names are still to come.
#[derive(Debug, Default)]
pub(super) struct Links {
    first: HashMap<(usize, u64), First>,
    held: u64,
}

#[derive(Debug)]
struct First {
    path: GuestPath,
    /// Names that the walk has not come to.
    left: u64,
}

impl Links {
    /// The first path that led to the same inode; `None` for that path itself and for what has one name.
    pub(super) fn first_of(
        &mut self,
        location: &Location,
        metadata: &Metadata,
        path: &GuestPath,
    ) -> Result<Option<GuestPath>> {
        if metadata.nlink < 2 || metadata.file_type == FileType::Dir {
            return Ok(None);
        }
        let key = (location.mount, location.inode);
        let Some(first) = self.first.get_mut(&key) else {
            self.held += memory(path);
            limits::check("bytes of the paths of files with several names", self.held, limits::LINK_BYTES)?;
            self.first.insert(key, First { path: path.clone(), left: metadata.nlink - 1 });
            return Ok(None);
        };
        first.left = first.left.saturating_sub(1);
        if first.left > 0 {
            return Ok(Some(first.path.clone()));
        }
        // All names were seen: nothing more has to be remembered.
        let first = self.first.remove(&key).map(|first| first.path);
        self.held -= first.as_ref().map_or(0, memory);
        Ok(first)
    }
}

fn memory(path: &GuestPath) -> u64 {
    (path.as_bytes().len() + size_of::<((usize, u64), First)>()) as u64
}
