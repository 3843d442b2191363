//! The one walk over a guest's tree: depth first, a directory before what is in it, names in byte order, mount points
//! crossed. Symbolic links are entries and are never followed.
//!
//! What a sink wants of an entry beyond its metadata (content, link target, attributes) it asks for, so a listing reads
//! no contents. A directory that is reached twice, which no healthy filesystem has, is reported and not entered again:
//! that ends cycles and the exponential trees that hard-linked directories can build.

use std::collections::HashSet;
use std::sync::Arc;

use crate::block::BlockDevice;
use crate::error::{Error, Result};
use crate::fs::{FileType, GuestPath, Listing, Location, Metadata, MountTable, Xattr};
use crate::limits;

/// Receives a walk.
pub trait EntrySink: Send {
    /// One entry; what it answers decides where the walk goes on.
    fn entry(&mut self, entry: &Entry<'_>) -> Result<Flow>;

    /// Something under `path` could not be read. Returning the error ends the walk; `Ok` goes on with the rest.
    fn problem(&mut self, _path: &GuestPath, error: Error) -> Result<()> {
        Err(error)
    }
}

/// Where a walk goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// Into the entry, if it is a directory.
    Continue,
    /// Behind the entry, without entering it.
    Skip,
    /// Nowhere: the walk ends.
    Stop,
}

/// One visited file, directory, link or node.
#[derive(Debug)]
pub struct Entry<'a> {
    /// Where it is and which inode it is.
    pub location: &'a Location,
    /// The bytes of its path below the start of the walk, without a leading `/`; empty for the start itself.
    pub relative: &'a [u8],
    /// What `lstat(2)` would tell.
    pub metadata: &'a Metadata,
}

impl Entry<'_> {
    /// The content of a regular file.
    pub fn open(&self) -> Result<Arc<dyn BlockDevice>> {
        self.location.fs.open(self.location.inode).map_err(|error| error.at_path(self.location.path.as_bytes()))
    }

    /// A symbolic link's target; `None` for anything else.
    pub fn read_link(&self) -> Result<Option<Vec<u8>>> {
        if self.metadata.file_type != FileType::Symlink {
            return Ok(None);
        }
        let target = self.location.fs.read_link(self.location.inode);
        target.map(Some).map_err(|error| error.at_path(self.location.path.as_bytes()))
    }

    /// Extended attributes.
    pub fn xattrs(&self) -> Result<Vec<Xattr>> {
        self.location.fs.xattrs(self.location.inode).map_err(|error| error.at_path(self.location.path.as_bytes()))
    }
}

/// A directory whose entries are still to be visited, from `next` on.
struct Level {
    names: Listing,
    next: usize,
    directory: Location,
    relative: Vec<u8>,
}

/// Visits `start` and everything below it.
pub fn walk(mounts: &MountTable, start: &Location, sink: &mut dyn EntrySink) -> Result<()> {
    let mut entered = HashSet::new();
    let mut levels: Vec<Level> = Vec::new();
    let mut held = 0;
    let mut next = Some((start.clone(), Vec::new()));
    loop {
        if let Some((location, relative)) = next.take() {
            match visit(&location, &relative, sink, &mut entered) {
                Ok(Flow::Stop) => return Ok(()),
                Ok(Flow::Skip) => {}
                Ok(Flow::Continue) => match Listing::read(&location) {
                    Ok(names) => {
                        held += names.memory();
                        levels.push(Level { names, next: 0, directory: location, relative });
                    }
                    Err(error) => sink.problem(&location.path, error)?,
                },
                Err(error) => sink.problem(&location.path, error)?,
            }
            if levels.len() > limits::DIRECTORY_DEPTH {
                return Err(Error::limit("directory depth", limits::DIRECTORY_DEPTH as u64, levels.len() as u64));
            }
            limits::check("bytes of the names in a path's directories", held, limits::LISTING_BYTES)?;
        }
        let Some(level) = levels.last_mut() else { return Ok(()) };
        let Some((name, inode)) = level.names.get(level.next) else {
            held -= level.names.memory();
            levels.pop();
            continue;
        };
        level.next += 1;
        let directory = &level.directory;
        let child =
            Location { fs: directory.fs.clone(), mount: directory.mount, inode, path: directory.path.join(name) };
        let mut relative = level.relative.clone();
        if !relative.is_empty() {
            relative.push(b'/');
        }
        relative.extend_from_slice(name);
        next = Some((mounts.cross(child), relative));
    }
}

/// Shows one entry to the sink; `Continue` only for a directory that is to be entered.
fn visit(
    location: &Location,
    relative: &[u8],
    sink: &mut dyn EntrySink,
    entered: &mut HashSet<(usize, u64)>,
) -> Result<Flow> {
    let metadata = location.metadata()?;
    let flow = sink.entry(&Entry { location, relative, metadata: &metadata })?;
    if flow != Flow::Continue || metadata.file_type != FileType::Dir {
        return Ok(if flow == Flow::Stop { Flow::Stop } else { Flow::Skip });
    }
    if !entered.insert((location.mount, location.inode)) {
        return Err(second_way(location));
    }
    Ok(Flow::Continue)
}

/// The error that a directory was reached by two paths.
pub(super) fn second_way(location: &Location) -> Error {
    let kind = location.fs.identity().kind.name();
    let found = format!("a second entry for directory inode {}", location.inode);
    let error = Error::corrupt(kind, "directory entry", 0, found, "one parent for each directory");
    error.at_path(location.path.as_bytes())
}
