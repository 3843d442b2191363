//! Leases: what is in use now, so that gc leaves it.
//!
//! A lease is a file in `leases/` that its process holds a lock on (flock(2)). Its lines:
//!
//! ```text
//! epoch 7          what was condemned in gc epoch 7 or later must not be deleted
//! tree <64 hex>    this tree is in use
//! ```
//!
//! A gc has a lease too, named `gc-…`: what it condemns may land in its epoch after later ones have begun, so that a new lease
//! takes the oldest epoch of all that run. A file that nobody holds is nobody's lease: the next gc removes it, and the staging
//! directory of the same name. An empty one that is held has only begun, and holds back everything. No clock takes part.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::FlockOperation;

use super::{Digest, boot_id, random};
use crate::error::{Error, Result};

/// A lease that this process holds; it ends when it is dropped.
#[derive(Debug)]
pub struct Lease {
    file: File,
    path: PathBuf,
}

/// What the names of gcs' leases begin with.
const GC: &str = "gc-";

/// How long a lease lives on a filesystem without locks.
const WITHOUT_LOCKS: Duration = Duration::from_secs(24 * 3600);

impl Lease {
    /// A new lease of the store `root`, whose newest gc epoch `epoch` tells.
    pub(super) fn new(root: &Path, epoch: impl Fn() -> u64) -> Result<Self> {
        Self::named(root, "", epoch)
    }

    /// The lease of a gc.
    pub(super) fn for_gc(root: &Path, epoch: impl Fn() -> u64) -> Result<Self> {
        Self::named(root, GC, epoch)
    }

    fn named(root: &Path, prefix: &str, epoch: impl Fn() -> u64) -> Result<Self> {
        for _ in 0..1_000 {
            let name = format!("{prefix}{}-{}-{}", boot(), std::process::id(), random());
            let path = root.join("leases").join(name);
            let failed = |error| Error::io("make the lease", path.display(), error);
            let file = File::options().write(true).create_new(true).open(&path).map_err(failed)?;
            let locked = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive);
            // Between creation and lock a gc may have taken it for an abandoned one.
            let lease = Self { file, path };
            if matches!(locked, Err(rustix::io::Errno::WOULDBLOCK)) || !lease.path.exists() {
                continue;
            }
            // The running ones first: one that begins later has a later epoch.
            let running =
                held_by(root, false, &|name| name.starts_with(GC) && Some(name) != lease.name().to_str())?.epoch;
            let newest = epoch();
            lease.line(format_args!("epoch {}", running.map_or(newest, |running| running.min(newest))))?;
            return Ok(lease);
        }
        Err(Error::io("make a lease in", root.display(), std::io::ErrorKind::AlreadyExists))
    }

    /// The lease's name, which its staging directory has too.
    pub(super) fn name(&self) -> &std::ffi::OsStr {
        self.path.file_name().unwrap_or_default()
    }

    /// Says that a tree is in use.
    pub(super) fn add(&self, tree: &Digest) -> Result<()> {
        self.line(format_args!("tree {tree}"))
    }

    fn line(&self, line: std::fmt::Arguments<'_>) -> Result<()> {
        let written = (&self.file).write_all(format!("{line}\n").as_bytes());
        written.map_err(|error| Error::io("write", self.path.display(), error))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// What tells this start of this machine from others.
fn boot() -> String {
    boot_id().chars().take(8).collect()
}

/// Whether a lease of this name was made since the machine started.
pub(super) fn is_of_this_boot(name: &str) -> bool {
    name.strip_prefix(&boot()).is_some_and(|rest| rest.starts_with('-'))
}

/// What all living leases hold together.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// Epochs from this one on are not deleted.
    pub(super) epoch: Option<u64>,
    /// Trees in use.
    pub(super) trees: Vec<Digest>,
    /// Names of living leases.
    pub(super) names: Vec<std::ffi::OsString>,
}

/// Looks at all leases; those that nobody holds are removed when `remove` says so.
pub(super) fn held(root: &Path, remove: bool) -> Result<Held> {
    held_by(root, remove, &|_| true)
}

/// The same of those whose names are `wanted`.
pub(super) fn held_by(root: &Path, remove: bool, wanted: &dyn Fn(&str) -> bool) -> Result<Held> {
    let directory = root.join("leases");
    let mut held = Held::default();
    let entries = std::fs::read_dir(&directory).map_err(|error| Error::io("list", directory.display(), error))?;
    for entry in entries {
        let path = entry.map_err(|error| Error::io("list", directory.display(), error))?.path();
        if !path.file_name().and_then(std::ffi::OsStr::to_str).is_some_and(wanted) {
            continue;
        }
        let Ok(mut file) = File::open(&path) else { continue };
        let dead = match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => true,
            Err(rustix::io::Errno::WOULDBLOCK) => false,
            Err(_) => is_old(&file),
        };
        if dead {
            if remove {
                let _ = std::fs::remove_file(&path);
            }
            continue;
        }
        let mut text = String::new();
        let _ = Read::take(&mut file, 1 << 20).read_to_string(&mut text);
        let mut epoch = 0;
        // A line without an end is still being written.
        for line in text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
            match line.split_once(' ') {
                Some(("epoch", number)) => epoch = number.parse().unwrap_or(0),
                Some(("tree", digest)) => held.trees.extend(digest.parse::<Digest>()),
                _ => {}
            }
        }
        held.epoch = Some(held.epoch.map_or(epoch, |least| least.min(epoch)));
        held.names.extend(path.file_name().map(ToOwned::to_owned));
    }
    Ok(held)
}

fn is_old(file: &File) -> bool {
    let modified = file.metadata().and_then(|metadata| metadata.modified());
    modified.is_ok_and(|time| time.elapsed().is_ok_and(|age| age > WITHOUT_LOCKS))
}
