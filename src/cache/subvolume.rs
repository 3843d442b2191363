//! Hot trees: subvolumes of btrfs that come back as snapshots, in the same time whatever their size.
//!
//! ```text
//! subvolumes/<64 hex>        a tree as a restore made it; read-only where the caller may have that
//! subvolumes/<64 hex>.json   the subvolume's state when it was made, and the restore's report; its time is the last use
//! subvolumes/.<64 hex>.….part   one that is being made, locked by its maker
//! ```
//!
//! The name is the digest of everything that decides what a restore makes. Nothing refers to hot trees and nothing is lost
//! with one: whoever finds one that is not in its recorded state makes it anew, and gc removes those whose trees are gone or
//! that were not used for long. The record comes before the name, so a subvolume whose record says otherwise is an older one,
//! or was written to.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::restore::RestoreReport;
use super::store::Store;
use super::{Digest, record};
use crate::error::{Error, Result};
use crate::host;
use crate::sys::{self, SubvolumeInfo};

/// The word in `VERSION.json` of a store that has had hot trees.
pub(super) const FEATURE: &str = "subvolumes";

/// What a hot tree was when it was made.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Hot {
    /// The tree's id.
    pub(super) tree: Digest,
    /// The subvolume's.
    uuid: [u8; 16],
    read_only: bool,
    /// The transaction and the time, in seconds and nanoseconds, of the last change to anything in it.
    ctransid: u64,
    ctime: (u64, u32),
    /// What the restore that made it did.
    pub(super) report: RestoreReport,
}

impl Hot {
    pub(super) fn new(tree: Digest, state: SubvolumeInfo, report: RestoreReport) -> Self {
        let SubvolumeInfo { read_only, uuid, ctransid, ctime } = state;
        Self { tree, uuid, read_only, ctransid, ctime, report }
    }

    /// Whether nothing in it has changed since.
    fn is_in(&self, state: SubvolumeInfo) -> bool {
        let Self { uuid, read_only, ctransid, ctime, .. } = *self;
        state == SubvolumeInfo { read_only, uuid, ctransid, ctime }
    }
}

/// A hot tree in the list of all.
#[derive(Debug, Clone)]
pub(super) struct Listed {
    /// Its name in `subvolumes/`.
    pub(super) name: String,
    /// Bytes that are its own.
    pub(super) bytes: u64,
    /// Seconds since 1970 at its last use.
    pub(super) used: i64,
}

impl Store {
    pub(super) fn subvolumes_path(&self) -> PathBuf {
        self.path().join("subvolumes")
    }

    pub(super) fn hot_path(&self, key: &Digest) -> PathBuf {
        self.subvolumes_path().join(key.hex())
    }

    /// Makes the directory of hot trees, and says so in `VERSION.json`.
    pub(super) fn prepare_subvolumes(&self) -> Result<()> {
        let path = self.subvolumes_path();
        match std::fs::create_dir(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => return Ok(()),
            Err(error) => return Err(Error::io("make", path.display(), error)),
        }
        self.add_compat(FEATURE)
    }

    /// The subvolume of this name, open, when it is in the state that its record says.
    pub(super) fn hot(&self, key: &Digest) -> Result<Option<(OwnedFd, Hot)>> {
        let path = self.hot_path(key);
        let Some(hot) = read(&path.with_extension("json"))? else { return Ok(None) };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let Ok(subvolume) = rustix::fs::open(&path, flags, Mode::empty()) else { return Ok(None) };
        if !sys::subvolume_info(&subvolume).is_ok_and(|state| hot.is_in(state)) {
            log::warn!("the hot tree {} was changed, and is made anew", path.display());
            return Ok(None);
        }
        Ok(Some((subvolume, hot)))
    }

    /// Says that a hot tree was used now.
    pub(super) fn touch_hot(&self, key: &Digest) {
        if let Ok(file) = File::open(self.hot_path(key).with_extension("json")) {
            let _ = file.set_modified(SystemTime::now());
        }
    }

    /// Writes the record of a hot tree that is about to get its name.
    pub(super) fn write_hot(&self, key: &Digest, hot: &Hot) -> Result<()> {
        let bytes = serde_json::to_vec(hot).map_err(|error| Error::invalid(error.to_string()))?;
        record::replace(&self.staging(), &self.hot_path(key).with_extension("json"), &bytes)
    }

    /// Removes a hot tree; its record stays, for the one that may come after it.
    pub(super) fn remove_hot(&self, key: &Digest) -> Result<()> {
        self.remove_subvolume(key.hex().as_ref())
    }

    fn remove_subvolume(&self, name: &std::ffi::OsStr) -> Result<()> {
        let directory = self.subvolumes_path();
        let parent = File::open(&directory).map_err(|error| Error::io("open", directory.display(), error))?;
        match host::remove_tree(parent.as_fd(), name.as_bytes()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(Error::io("remove", directory.join(name).display(), errno)),
        }
    }

    /// All hot trees that have a record.
    pub(super) fn hot_trees(&self) -> Result<Vec<Listed>> {
        let mut listed = Vec::new();
        for name in self.names_of_subvolumes()? {
            let path = self.subvolumes_path().join(&name);
            let Some(name) = name.to_str().filter(|name| name.parse::<Digest>().is_ok()) else { continue };
            let record = path.with_extension("json");
            let Some(hot) = read(&record)? else { continue };
            let used = std::fs::metadata(&record).and_then(|metadata| metadata.modified());
            let since = used.ok().and_then(|used| used.duration_since(SystemTime::UNIX_EPOCH).ok()).unwrap_or_default();
            listed.push(Listed {
                name: name.to_owned(),
                bytes: hot.report.written_bytes,
                used: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
            });
        }
        Ok(listed)
    }

    /// Removes every hot tree that `keeps` does not want, by its name and tree, and what killed programs left; how many.
    pub(super) fn sweep_subvolumes(&self, keeps: &dyn Fn(&str, &Digest) -> bool, dry_run: bool) -> Result<u64> {
        let mut removed = 0;
        let directory = self.subvolumes_path();
        for name in self.names_of_subvolumes()? {
            let path = directory.join(&name);
            if name.as_bytes().ends_with(b".part") {
                let parent = File::open(&directory).map_err(|error| Error::io("open", directory.display(), error))?;
                if !dry_run && host::remove_unheld(&parent, name.as_bytes()) {
                    removed += 1;
                }
            } else if name.as_bytes().ends_with(b".json") {
                // Its subvolume is about to come, or does not exist any more.
                if !dry_run && !path.with_extension("").exists() && super::gc::is_stale(&path) {
                    let _ = std::fs::remove_file(&path);
                }
            } else {
                let hot = read(&path.with_extension("json"))?;
                if hot.is_some_and(|hot| name.to_str().is_some_and(|name| keeps(name, &hot.tree))) {
                    continue;
                }
                removed += 1;
                if !dry_run {
                    self.remove_subvolume(&name)?;
                    let _ = std::fs::remove_file(path.with_extension("json"));
                }
            }
        }
        Ok(removed)
    }

    fn names_of_subvolumes(&self) -> Result<Vec<OsString>> {
        let directory = self.subvolumes_path();
        let failed = |error| Error::io("list", directory.display(), error);
        let entries = match std::fs::read_dir(&directory) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(failed)?,
        };
        entries.map(|entry| entry.map(|entry| entry.file_name()).map_err(failed)).collect()
    }
}

/// A record; one that cannot be read is none.
fn read(path: &Path) -> Result<Option<Hot>> {
    Ok(record::read(path)?.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
}
