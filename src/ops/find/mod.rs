//! Paths below a directory that pass tests, as find(1) and libguestfs's `find` and `find0` list them: relative, without a
//! leading `/`, without the directory itself, sorted by bytes.
//!
//! Sorted by bytes is not the order of the walk: `a-b` comes before what is in `a`, because `-` comes before `/`. So a
//! directory is entered where its name with a `/` would stand among its neighbours, and the whole list never has to be
//! held to be sorted.

mod mode;
mod test;
mod text;

use std::collections::{BTreeMap, HashSet};

pub use mode::ModeTest;
pub use test::{Compare, FindTest, TimeField};
pub use text::{Context, timestamp};

use super::filter::{Filter, Verdict};
use super::walk::{Entry, EntrySink, Flow};
use crate::error::{Error, PathProblem, Result};
use crate::fs::{FileType, Follow, GuestPath, Listing, Location, MountTable};
use crate::limits;

/// What to find.
#[derive(Debug, Clone, Default)]
pub struct FindOptions {
    /// Tests that a path must all pass; with none every path is found.
    pub tests: Vec<FindTest>,
    /// Levels below the directory before which nothing is found: 1 are the directory's own entries.
    pub min_depth: usize,
    /// The last level that is looked at.
    pub max_depth: Option<usize>,
    /// Whether directories on which another filesystem is mounted are listed and not entered.
    pub one_filesystem: bool,
    /// What is looked at at all: what it leaves out is neither found nor entered.
    pub filter: Filter,
}

/// A directory whose names are being visited.
struct Level {
    names: Listing,
    next: usize,
    /// Directories that were visited and not entered yet, by their names with a `/`.
    waiting: BTreeMap<Vec<u8>, Location>,
    directory: Location,
    /// The directory's own path below the start, with a `/` unless it is the start.
    prefix: Vec<u8>,
}

impl Level {
    fn enter(directory: Location, prefix: Vec<u8>) -> Result<Self> {
        Ok(Self { names: Listing::read(&directory)?, next: 0, waiting: BTreeMap::new(), directory, prefix })
    }
}

/// Shows `sink` everything below `start`, sorted by the bytes of the relative paths; `start` itself is not shown.
fn walk_sorted(mounts: &MountTable, start: Location, sink: &mut dyn EntrySink) -> Result<()> {
    let mut entered = HashSet::from([(start.mount, start.inode)]);
    let mut levels = vec![Level::enter(start, Vec::new())?];
    let mut held = levels.iter().map(|level| level.names.memory()).sum::<u64>();
    while let Some(level) = levels.last_mut() {
        let name = level.names.get(level.next);
        let waiting = level.waiting.first_key_value().map(|(name, _)| name.as_slice());
        let names_first = match (name, waiting) {
            (Some((name, _)), Some(waiting)) => name < waiting,
            (name, _) => name.is_some(),
        };
        if let (Some((name, inode)), true) = (name, names_first) {
            let relative = [&level.prefix, name].concat();
            let Location { fs, mount, path, .. } = &level.directory;
            let child = mounts.cross(Location { fs: fs.clone(), mount: *mount, inode, path: path.join(name) });
            let key = [name, b"/"].concat();
            level.next += 1;
            match child.metadata() {
                Err(error) => sink.problem(&child.path, error)?,
                Ok(metadata) => {
                    let flow = sink.entry(&Entry { location: &child, relative: &relative, metadata: &metadata })?;
                    match flow {
                        Flow::Stop => return Ok(()),
                        Flow::Continue if metadata.file_type == FileType::Dir => {
                            level.waiting.insert(key, child);
                        }
                        Flow::Continue | Flow::Skip => {}
                    }
                }
            }
        } else if let Some((name, child)) = level.waiting.pop_first() {
            if !entered.insert((child.mount, child.inode)) {
                sink.problem(&child.path, super::walk::second_way(&child))?;
                continue;
            }
            let prefix = [level.prefix.as_slice(), &name].concat();
            let path = child.path.clone();
            match Level::enter(child, prefix) {
                Err(error) => sink.problem(&path, error)?,
                Ok(level) => {
                    held += level.names.memory();
                    levels.push(level);
                }
            }
            limits::check("directory depth", levels.len() as u64, limits::DIRECTORY_DEPTH as u64)?;
            limits::check("bytes of the names in a path's directories", held, limits::LISTING_BYTES)?;
        } else {
            held -= level.names.memory();
            levels.pop();
        }
    }
    Ok(())
}

/// Passes on what the tests let through.
struct Passing<'a> {
    options: &'a FindOptions,
    mount: usize,
    sink: &'a mut dyn EntrySink,
}

impl EntrySink for Passing<'_> {
    fn entry(&mut self, entry: &Entry<'_>) -> Result<Flow> {
        let FindOptions { tests, min_depth, max_depth, one_filesystem, filter } = self.options;
        let depth = entry.relative.iter().filter(|&&byte| byte == b'/').count() + 1;
        let mut flow = Flow::Continue;
        let verdict = filter.matches(entry.location.path.as_bytes(), entry.metadata.file_type == FileType::Dir);
        if verdict == Verdict::Skip {
            return Ok(Flow::Skip);
        }
        if verdict == Verdict::Take && depth >= *min_depth && max_depth.is_none_or(|max| depth <= max) {
            match test::all(tests, entry) {
                Ok(true) => flow = self.sink.entry(entry)?,
                Ok(false) => {}
                Err(error) => self.sink.problem(&entry.location.path, error)?,
            }
        }
        let is_deepest = max_depth.is_some_and(|max| depth >= max);
        let is_elsewhere = *one_filesystem && entry.location.mount != self.mount;
        Ok(if flow == Flow::Continue && (is_deepest || is_elsewhere) { Flow::Skip } else { flow })
    }

    fn problem(&mut self, path: &GuestPath, error: Error) -> Result<()> {
        self.sink.problem(path, error)
    }
}

/// Shows `sink` each path below `directory` that passes the tests, sorted by the bytes of the relative paths.
pub fn find_with(
    mounts: &MountTable,
    directory: &GuestPath,
    options: &FindOptions,
    sink: &mut dyn EntrySink,
) -> Result<()> {
    let start = mounts.resolve(directory, Follow::Links)?;
    if start.metadata()?.file_type != FileType::Dir {
        return Err(Error::path(directory.as_bytes(), PathProblem::NotADirectory));
    }
    if options.max_depth == Some(0) {
        return Ok(());
    }
    let mount = start.mount;
    walk_sorted(mounts, start, &mut Passing { options, mount, sink })
}

/// Every path to a function; what cannot be read ends the walk.
struct Each<'a>(&'a mut (dyn FnMut(&[u8]) -> Result<()> + Send));

impl EntrySink for Each<'_> {
    fn entry(&mut self, entry: &Entry<'_>) -> Result<Flow> {
        (self.0)(entry.relative)?;
        Ok(Flow::Continue)
    }
}

/// Calls `visit` with each path, in order, as it is found.
pub fn find_each(
    mounts: &MountTable,
    directory: &GuestPath,
    visit: &mut (dyn FnMut(&[u8]) -> Result<()> + Send),
) -> Result<()> {
    find_with(mounts, directory, &FindOptions::default(), &mut Each(visit))
}

/// The paths as bytes.
pub fn find0(mounts: &MountTable, directory: &GuestPath) -> Result<Vec<Vec<u8>>> {
    let mut paths = Vec::new();
    find_each(mounts, directory, &mut |path| {
        paths.push(path.to_vec());
        Ok(())
    })?;
    Ok(paths)
}

/// The paths as text; one that is not UTF-8 is escaped as [`escape`](crate::bytes::escape) does.
pub fn find(mounts: &MountTable, directory: &GuestPath) -> Result<Vec<String>> {
    let text = |path: Vec<u8>| String::from_utf8(path).unwrap_or_else(|error| crate::bytes::escape(error.as_bytes()));
    Ok(find0(mounts, directory)?.into_iter().map(text).collect())
}
