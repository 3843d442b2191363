//! Every path below a directory, as libguestfs's `find` and `find0` list them: relative, without a leading `/`, without
//! the directory itself, sorted by bytes.

use super::walk::{Entry, EntrySink, Flow, walk};
use crate::error::{Error, PathProblem, Result};
use crate::fs::{FileType, Follow, GuestPath, MountTable};

/// The paths as bytes.
pub fn find0(mounts: &MountTable, directory: &GuestPath) -> Result<Vec<Vec<u8>>> {
    let start = mounts.resolve(directory, Follow::Links)?;
    if start.metadata()?.file_type != FileType::Dir {
        return Err(Error::path(directory.as_bytes(), PathProblem::NotADirectory));
    }
    let mut paths = Paths(Vec::new());
    walk(mounts, &start, &mut paths)?;
    paths.0.sort_unstable();
    Ok(paths.0)
}

/// The paths as text; one that is not UTF-8 is escaped as [`escape`](crate::bytes::escape) does.
pub fn find(mounts: &MountTable, directory: &GuestPath) -> Result<Vec<String>> {
    let text = |path: Vec<u8>| String::from_utf8(path).unwrap_or_else(|error| crate::bytes::escape(error.as_bytes()));
    Ok(find0(mounts, directory)?.into_iter().map(text).collect())
}

struct Paths(Vec<Vec<u8>>);

impl EntrySink for Paths {
    fn entry(&mut self, entry: &Entry<'_>) -> Result<Flow> {
        if !entry.relative.is_empty() {
            self.0.push(entry.relative.to_vec());
        }
        Ok(Flow::Continue)
    }
}
