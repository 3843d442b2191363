//! Every path below a directory, as libguestfs's `find` and `find0` list them: relative, without a leading `/`, without
//! the directory itself, sorted by bytes.
//!
//! Sorted by bytes is not the order of the walk: `a-b` comes before what is in `a`, because `-` comes before `/`. So a
//! directory is entered where its name with a `/` would stand among its neighbours, and the whole list never has to be
//! held to be sorted.

use std::collections::{BTreeMap, HashSet};

use crate::error::{Error, PathProblem, Result};
use crate::fs::{FileType, Follow, GuestPath, Listing, Location, MountTable};
use crate::limits;

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

/// Calls `visit` with each path, in order, as it is found.
pub fn find_each(mounts: &MountTable, directory: &GuestPath, visit: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let start = mounts.resolve(directory, Follow::Links)?;
    if start.metadata()?.file_type != FileType::Dir {
        return Err(Error::path(directory.as_bytes(), PathProblem::NotADirectory));
    }
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
            let path = [&level.prefix, name].concat();
            visit(&path)?;
            let Location { fs, mount, path, .. } = &level.directory;
            let child = mounts.cross(Location { fs: fs.clone(), mount: *mount, inode, path: path.join(name) });
            if child.metadata()?.file_type == FileType::Dir {
                level.waiting.insert([name, b"/"].concat(), child);
            }
            level.next += 1;
        } else if let Some((name, child)) = level.waiting.pop_first() {
            if !entered.insert((child.mount, child.inode)) {
                return Err(super::walk::second_way(&child));
            }
            let level = Level::enter(child, [level.prefix.as_slice(), &name].concat())?;
            held += level.names.memory();
            levels.push(level);
            limits::check("directory depth", levels.len() as u64, limits::DIRECTORY_DEPTH as u64)?;
            limits::check("bytes of the names in a path's directories", held, limits::LISTING_BYTES)?;
        } else {
            held -= level.names.memory();
            levels.pop();
        }
    }
    Ok(())
}

impl Level {
    fn enter(directory: Location, prefix: Vec<u8>) -> Result<Self> {
        Ok(Self { names: Listing::read(&directory)?, next: 0, waiting: BTreeMap::new(), directory, prefix })
    }
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
