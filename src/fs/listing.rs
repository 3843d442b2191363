//! The names of one directory, sorted, in as little memory as they can be kept in: a directory may hold a million of
//! them, and a hostile one as many as it likes.

use std::ops::ControlFlow;

use super::resolve::Location;
use super::{Filesystem, Inode};
use crate::bytes::{to_u64, to_usize};
use crate::error::Result;
use crate::limits;

/// A directory's names and where they lead, in byte order.
#[derive(Debug, Default)]
pub struct Listing {
    /// All names, one behind the other.
    bytes: Vec<u8>,
    names: Vec<Name>,
}

#[derive(Debug, Clone, Copy)]
struct Name {
    inode: Inode,
    start: u32,
    len: u32,
}

impl Name {
    fn of(self, bytes: &[u8]) -> &[u8] {
        let start = to_usize(u64::from(self.start));
        bytes.get(start..start.saturating_add(to_usize(u64::from(self.len)))).unwrap_or_default()
    }
}

impl Listing {
    /// Reads the directory at `location`. More names than [`limits::LISTING_BYTES`] hold are a
    /// [`Limit`](crate::ErrorKind::Limit) error.
    pub fn read(location: &Location) -> Result<Self> {
        let listing = Self::read_inode(&*location.fs, location.inode);
        listing.map_err(|error| error.at_path(location.path.as_bytes()))
    }

    fn read_inode(fs: &dyn Filesystem, directory: Inode) -> Result<Self> {
        let mut listing = Self::default();
        fs.read_dir(directory, &mut |entry| {
            let start = u32::try_from(listing.bytes.len()).unwrap_or(u32::MAX);
            let len = u32::try_from(entry.name.len()).unwrap_or(u32::MAX);
            listing.bytes.extend_from_slice(&entry.name);
            listing.names.push(Name { inode: entry.inode, start, len });
            limits::check("bytes of a directory's names", listing.memory(), limits::LISTING_BYTES)?;
            Ok(ControlFlow::Continue(()))
        })?;
        let Self { bytes, names } = &mut listing;
        // Of one name twice the first is what a path leads to.
        names.sort_unstable_by(|a, b| a.of(bytes).cmp(b.of(bytes)).then(a.start.cmp(&b.start)));
        Ok(listing)
    }

    /// Names.
    #[must_use]
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether the directory is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// The name at `index` in byte order, and the inode it leads to.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<(&[u8], Inode)> {
        self.names.get(index).map(|name| (name.of(&self.bytes), name.inode))
    }

    /// All of them, in byte order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&[u8], Inode)> {
        self.names.iter().map(|name| (name.of(&self.bytes), name.inode))
    }

    /// Bytes that the names take in memory.
    #[must_use]
    pub fn memory(&self) -> u64 {
        let each = to_u64(size_of::<Name>());
        to_u64(self.bytes.len()).saturating_add(to_u64(self.names.len()).saturating_mul(each))
    }
}
