//! From a path to an inode, once and for all filesystems: symbolic links, `..`, loops, mount points.
//!
//! The rules are those of path_resolution(7) with the guest's root as the root: an absolute link starts there again,
//! `..` of the root is the root, at most 40 links are followed, `..` of a mounted root leads to the directory that holds
//! the mountpoint. Nothing here can name anything outside the guest.

use std::sync::Arc;

use super::mounts::MountTable;
use super::path::GuestPath;
use super::{FileType, Filesystem, Inode};
use crate::error::{Error, PathProblem, Result};
use crate::limits;

/// What to do when the last component is a symbolic link; links before it are always followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Follow {
    /// Follow it, as `stat(2)` does.
    Links,
    /// Stay on it, as `lstat(2)` does.
    NotLast,
}

/// An inode of a mounted filesystem.
#[derive(Debug, Clone)]
pub struct Location {
    /// The filesystem.
    pub fs: Arc<dyn Filesystem>,
    /// Which mount it is: an index into the table's mounts.
    pub mount: usize,
    /// The inode in it.
    pub inode: Inode,
    /// The path without links, `.` and `..`.
    pub path: GuestPath,
}

impl Location {
    /// What `stat(2)` would tell of it.
    pub fn metadata(&self) -> Result<super::Metadata> {
        self.fs.metadata(self.inode).map_err(|error| error.at_path(self.path.as_bytes()))
    }
}

impl MountTable {
    /// Follows `path` from the guest's root.
    pub fn resolve(&self, path: &GuestPath, follow: Follow) -> Result<Location> {
        let mut steps = limits::PATH_STEPS;
        self.resolve_within(path, follow, &mut steps)
    }

    /// The same in at most `steps` components, of which those left over stay.
    pub(crate) fn resolve_within(&self, path: &GuestPath, follow: Follow, steps: &mut u64) -> Result<Location> {
        let fail = |problem| Error::path(path.as_bytes(), problem);
        // Components still to go, the next one last.
        let mut rest: Vec<Vec<u8>> = path.components().rev().map(<[u8]>::to_vec).collect();
        // The directories passed, the root first; `..` pops one.
        let mut trail = vec![self.root()?];
        let mut links = 0u32;
        while let Some(name) = rest.pop() {
            *steps = steps.checked_sub(1).ok_or_else(|| fail(PathProblem::TooManySymlinks))?;
            let Some(here) = trail.last() else { return Err(fail(PathProblem::NotFound)) };
            let here_type = here.fs.metadata(here.inode).map_err(|error| error.at_path(path.as_bytes()))?.file_type;
            if here_type != FileType::Dir {
                return Err(fail(PathProblem::NotADirectory));
            }
            if name == b".." {
                if trail.len() > 1 {
                    trail.pop();
                }
                continue;
            }
            if name == b"." {
                continue;
            }
            let found = here.fs.lookup(here.inode, &name).map_err(|error| error.at_path(path.as_bytes()))?;
            let Some(inode) = found else { return Err(fail(PathProblem::NotFound)) };
            let next =
                self.cross(Location { fs: here.fs.clone(), mount: here.mount, inode, path: here.path.join(&name) });
            let metadata = next.fs.metadata(next.inode).map_err(|error| error.at_path(path.as_bytes()))?;
            let is_last = rest.is_empty();
            if metadata.file_type == FileType::Symlink && !(is_last && follow == Follow::NotLast) {
                links = links.saturating_add(1);
                if links > limits::SYMLINKS {
                    return Err(fail(PathProblem::TooManySymlinks));
                }
                let target = next.fs.read_link(next.inode).map_err(|error| error.at_path(path.as_bytes()))?;
                if target.is_empty() {
                    return Err(fail(PathProblem::NotFound));
                }
                if target.first() == Some(&b'/') {
                    trail.truncate(1);
                }
                rest.extend(
                    target.split(|&byte| byte == b'/').rev().filter(|name| !name.is_empty()).map(<[u8]>::to_vec),
                );
                continue;
            }
            trail.push(next);
        }
        trail.pop().ok_or_else(|| fail(PathProblem::NotFound))
    }
}
