//! A guest's files as inspection reads them: small, bounded, and missing ones are no error.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::budget::Budget;
use crate::block::{BlockDevice, read_vec};
use crate::bytes::{to_u64, to_usize};
use crate::error::{Error, Result};
use crate::fs::{FileType, Follow, GuestPath, Location, Metadata, MountTable};
use crate::limits;

/// One guest's mounted filesystems, seen by inspection.
#[derive(Debug, Clone, Copy)]
pub struct Guest<'a> {
    mounts: &'a MountTable,
    budget: Option<&'a Budget>,
}

impl<'a> Guest<'a> {
    /// The guest whose namespace is `mounts`.
    #[must_use]
    pub fn new(mounts: &'a MountTable) -> Self {
        Self { mounts, budget: None }
    }

    /// The same, at the expense of `budget`.
    pub(super) fn within(mounts: &'a MountTable, budget: &'a Budget) -> Self {
        Self { mounts, budget: Some(budget) }
    }

    /// Entries of a list made of this guest, before it is kept.
    pub(super) fn spend_entries(&self, count: usize) -> Result<()> {
        self.budget.map_or(Ok(()), |budget| budget.spend_entries(to_u64(count)))
    }

    fn spend_bytes(&self, count: u64) -> Result<()> {
        self.budget.map_or(Ok(()), |budget| budget.spend_bytes(count))
    }

    /// Its namespace.
    #[must_use]
    pub fn mounts(&self) -> &'a MountTable {
        self.mounts
    }

    /// Where `path` leads, links followed; `None` when it leads nowhere (missing, dangling, a loop).
    pub fn locate(&self, path: &str) -> Result<Option<Location>> {
        self.resolve(path, Follow::Links)
    }

    /// `path` itself when it is a symbolic link: its target's bytes.
    pub fn read_link(&self, path: &str) -> Result<Option<Vec<u8>>> {
        match self.resolve(path, Follow::NotLast)? {
            Some(location) if location.metadata()?.file_type == FileType::Symlink => {
                Ok(Some(location.fs.read_link(location.inode)?))
            }
            _ => Ok(None),
        }
    }

    fn resolve(&self, path: &str, follow: Follow) -> Result<Option<Location>> {
        let allowed = self.budget.map_or(limits::PATH_STEPS, |budget| budget.steps().min(limits::PATH_STEPS));
        let mut left = allowed;
        let resolved = self.mounts.resolve_within(&GuestPath::parse(path)?, follow, &mut left);
        if let Some(budget) = self.budget {
            // One more, so that an exhausted budget is an error and not a path that leads nowhere.
            budget.spend_steps(allowed.saturating_sub(left).saturating_add(1))?;
        }
        match resolved {
            Ok(location) => Ok(Some(location)),
            Err(error) if error.is_path_problem() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What `stat(2)` would tell of `path`.
    pub fn metadata(&self, path: &str) -> Result<Option<Metadata>> {
        self.locate(path)?.map(|location| location.metadata()).transpose()
    }

    /// Whether `path` leads to a regular file.
    pub fn is_file(&self, path: &str) -> Result<bool> {
        Ok(self.metadata(path)?.is_some_and(|metadata| metadata.file_type == FileType::File))
    }

    /// Whether `path` leads to a directory.
    pub fn is_dir(&self, path: &str) -> Result<bool> {
        Ok(self.metadata(path)?.is_some_and(|metadata| metadata.file_type == FileType::Dir))
    }

    /// The content of the regular file at `path`, to be read in parts; `None` when there is none.
    pub fn open(&self, path: &str) -> Result<Option<Arc<dyn BlockDevice>>> {
        let Some(location) = self.locate(path)? else { return Ok(None) };
        if location.metadata()?.file_type != FileType::File {
            return Ok(None);
        }
        location.fs.open(location.inode).map(Some).map_err(|error| error.at_path(path.as_bytes()))
    }

    /// The whole content of the regular file at `path`, at most [`limits::INSPECT_FILE_BYTES`].
    pub fn read(&self, path: &str) -> Result<Option<Vec<u8>>> {
        let Some(file) = self.open(path)? else { return Ok(None) };
        let size = limits::check("bytes of an inspected file", file.size(), limits::INSPECT_FILE_BYTES);
        let size = size.and_then(|size| self.spend_bytes(size).map(|()| size));
        let bytes = size.and_then(|size| read_vec(&file, 0, to_usize(size)));
        bytes.map(Some).map_err(|error: Error| error.at_path(path.as_bytes()))
    }

    /// The same as text; bytes that are not UTF-8 are replaced.
    pub fn read_text(&self, path: &str) -> Result<Option<String>> {
        Ok(self.read(path)?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// The first `len` bytes of the regular file at `path`, fewer when it is shorter.
    pub fn head(&self, path: &str, len: usize) -> Result<Option<Vec<u8>>> {
        let Some(file) = self.open(path)? else { return Ok(None) };
        let len = len.min(to_usize(file.size()));
        let bytes = self.spend_bytes(to_u64(len)).and_then(|()| read_vec(&file, 0, len));
        bytes.map(Some).map_err(|error: Error| error.at_path(path.as_bytes()))
    }

    /// The names in the directory at `path`, sorted; empty when it is none. Names that are not UTF-8 are left out: no
    /// file that inspection looks for has one. More than [`limits::INSPECT_ENTRIES`] names are an error.
    pub fn list(&self, path: &str) -> Result<Vec<String>> {
        let mut names = Vec::new();
        let mut seen = 0usize;
        if let Some(location) = self.locate(path)?
            && location.metadata()?.file_type == FileType::Dir
        {
            let visited = location.fs.read_dir(location.inode, &mut |entry| {
                self.spend_entries(1)?;
                seen = seen.saturating_add(1);
                if seen > limits::INSPECT_ENTRIES {
                    let limit = to_u64(limits::INSPECT_ENTRIES);
                    return Err(Error::limit("names in an inspected directory", limit, to_u64(seen)));
                }
                names.extend(String::from_utf8(entry.name));
                Ok(ControlFlow::Continue(()))
            });
            visited.map_err(|error| error.at_path(path.as_bytes()))?;
        }
        names.sort();
        Ok(names)
    }
}
