//! The one walk over a guest's tree: depth first, a directory before what is in it, names in byte order, mount points
//! crossed. Symbolic links are entries and are never followed.
//!
//! [`Walk`] is asked for its next step; [`walk()`] drives one into an [`EntrySink`]. What a sink wants of an entry beyond its metadata (content, link target, attributes) it asks for, so a listing reads
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

/// Names of a directory whose inodes are asked for ahead, in the order of the disk.
const EXPECT: usize = 1024;

/// A directory whose entries are still to be visited, from `next` on.
struct Level {
    names: Listing,
    next: usize,
    directory: Location,
    relative: Vec<u8>,
}

/// A visited entry that owns what it says.
#[derive(Debug)]
pub struct Visited {
    /// Where it is and which inode it is.
    pub location: Location,
    /// The bytes of its path below the start of the walk, without a leading `/`; empty for the start itself.
    pub relative: Vec<u8>,
    /// What `lstat(2)` would tell.
    pub metadata: Metadata,
}

impl Visited {
    /// The same, borrowed.
    #[must_use]
    pub fn entry(&self) -> Entry<'_> {
        Entry { location: &self.location, relative: &self.relative, metadata: &self.metadata }
    }
}

/// What a walk comes upon.
#[derive(Debug)]
pub enum Step {
    /// An entry. A directory is entered on the next step, unless [`Walk::skip`] is called before.
    Entry(Visited),
    /// Something that could not be read; the next step goes on behind it.
    Problem(GuestPath, Error),
}

/// A walk, step by step.
pub struct Walk<'a> {
    mounts: &'a MountTable,
    entered: HashSet<(usize, u64)>,
    levels: Vec<Level>,
    /// Bytes of the names that are held.
    held: u64,
    start: Option<Location>,
    /// The directory that the last step came upon.
    descend: Option<(Location, Vec<u8>)>,
}

impl std::fmt::Debug for Walk<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Walk({} directories deep)", self.levels.len())
    }
}

impl<'a> Walk<'a> {
    /// A walk over `start` and everything below it.
    #[must_use]
    pub fn new(mounts: &'a MountTable, start: Location) -> Self {
        let (entered, levels) = (HashSet::new(), Vec::new());
        Self { mounts, entered, levels, held: 0, start: Some(start), descend: None }
    }

    /// Does not enter the directory that the last step came upon.
    pub fn skip(&mut self) {
        self.descend = None;
    }

    /// The next entry or problem; `None` at the end. An error ends the walk: it is a limit that stands against all of it.
    pub fn step(&mut self) -> Result<Option<Step>> {
        if let Some((directory, relative)) = self.descend.take()
            && let Some(problem) = self.enter(directory, relative)?
        {
            return Ok(Some(problem));
        }
        let Some((location, relative)) =
            self.start.take().map(|start| (start, Vec::new())).or_else(|| self.next_name())
        else {
            return Ok(None);
        };
        if self.is_second_name() {
            let kind = location.fs.identity().kind.name();
            let found = "a second entry of this name";
            let error = Error::corrupt(kind, "directory entry", 0, found, "one entry for each name");
            let error = error.at_path(location.path.as_bytes());
            return Ok(Some(Step::Problem(location.path, error)));
        }
        let metadata = match location.metadata() {
            Ok(metadata) => metadata,
            Err(error) => return Ok(Some(Step::Problem(location.path, error))),
        };
        if metadata.file_type == FileType::Dir {
            self.descend = Some((location.clone(), relative.clone()));
        }
        Ok(Some(Step::Entry(Visited { location, relative, metadata })))
    }

    fn enter(&mut self, directory: Location, relative: Vec<u8>) -> Result<Option<Step>> {
        if !self.entered.insert((directory.mount, directory.inode)) {
            let error = second_way(&directory);
            return Ok(Some(Step::Problem(directory.path, error)));
        }
        let names = match Listing::read(&directory) {
            Ok(names) => names,
            Err(error) => return Ok(Some(Step::Problem(directory.path, error))),
        };
        self.held += names.memory();
        self.levels.push(Level { names, next: 0, directory, relative });
        if self.levels.len() > limits::DIRECTORY_DEPTH {
            return Err(Error::limit("directory depth", limits::DIRECTORY_DEPTH as u64, self.levels.len() as u64));
        }
        limits::check("bytes of the names in a path's directories", self.held, limits::LISTING_BYTES)?;
        Ok(None)
    }

    /// Whether the name that was given last is the same as the one before it. Who took both could be led out of a tree
    /// that they write: by a symbolic link, and then through it by a directory.
    fn is_second_name(&self) -> bool {
        let Some(level) = self.levels.last() else { return false };
        let name_at = |back: usize| level.names.get(level.next.checked_sub(back)?).map(|(name, _)| name);
        level.next > 1 && name_at(1) == name_at(2)
    }

    fn next_name(&mut self) -> Option<(Location, Vec<u8>)> {
        loop {
            let level = self.levels.last_mut()?;
            let Some((name, inode)) = level.names.get(level.next) else {
                self.held -= level.names.memory();
                self.levels.pop();
                continue;
            };
            let directory = &level.directory;
            if level.next.is_multiple_of(EXPECT) {
                let ahead = (level.next..).map_while(|at| level.names.get(at)).take(EXPECT);
                directory.fs.expect(&mut ahead.map(|(_, inode)| inode));
            }
            level.next += 1;
            let child =
                Location { fs: directory.fs.clone(), mount: directory.mount, inode, path: directory.path.join(name) };
            let mut relative = Vec::with_capacity(level.relative.len() + 1 + name.len());
            relative.extend_from_slice(&level.relative);
            if !relative.is_empty() {
                relative.push(b'/');
            }
            relative.extend_from_slice(name);
            return Some((self.mounts.cross(child), relative));
        }
    }
}

/// Visits `start` and everything below it.
pub fn walk(mounts: &MountTable, start: &Location, sink: &mut dyn EntrySink) -> Result<()> {
    let mut walk = Walk::new(mounts, start.clone());
    while let Some(step) = walk.step()? {
        match step {
            Step::Problem(path, error) => sink.problem(&path, error)?,
            Step::Entry(visited) => match sink.entry(&visited.entry()) {
                Ok(Flow::Continue) => {}
                Ok(Flow::Skip) => walk.skip(),
                Ok(Flow::Stop) => return Ok(()),
                Err(error) => {
                    walk.skip();
                    sink.problem(&visited.location.path, error)?;
                }
            },
        }
    }
    Ok(())
}

/// The error that a directory was reached by two paths.
pub(super) fn second_way(location: &Location) -> Error {
    let kind = location.fs.identity().kind.name();
    let found = format!("a second entry for directory inode {}", location.inode);
    let error = Error::corrupt(kind, "directory entry", 0, found, "one parent for each directory");
    error.at_path(location.path.as_bytes())
}
