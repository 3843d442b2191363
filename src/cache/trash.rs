//! What gc has condemned: `trash/<epoch>/`, where every object can still be found and brought back by a rename.
//!
//! Epochs count up: the directory of the newest stays when its files are deleted. Names are `object-<hex>`, `object-<hex>.zst`,
//! `pack-<hex>` with `index-<hex>`, `tree-<hex>`.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use rustix::fs::AtFlags;
use rustix::io::Errno;

use super::Digest;
use crate::error::{Error, Result};

/// Epochs that have a directory, oldest first.
pub(super) fn epochs(root: &Path) -> Vec<u64> {
    let Ok(entries) = std::fs::read_dir(root.join("trash")) else { return Vec::new() };
    let mut epochs: Vec<u64> = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    epochs.sort_unstable();
    epochs
}

/// The directory of an epoch.
pub(super) fn directory(root: &Path, epoch: u64) -> PathBuf {
    root.join("trash").join(format!("{epoch:010}"))
}

/// Begins an epoch that no other gc has.
pub(super) fn begin(root: &Path) -> Result<u64> {
    loop {
        let epoch = epochs(root).last().map_or(1, |last| last.saturating_add(1));
        match std::fs::create_dir(directory(root, epoch)) {
            Ok(()) => return Ok(epoch),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(Error::io("make", directory(root, epoch).display(), error)),
        }
    }
}

/// Deletes what an epoch condemned; false when there was nothing.
pub(super) fn delete(root: &Path, epoch: u64) -> Result<bool> {
    let directory = directory(root, epoch);
    let failed = |error| Error::io("delete", directory.display(), error);
    if epochs(root).last() != Some(&epoch) {
        let had = std::fs::read_dir(&directory).map_err(failed)?.next().is_some();
        return std::fs::remove_dir_all(&directory).map(|()| had).map_err(failed);
    }
    let mut had = false;
    // By their names in the open directory: there may be many.
    let opened = std::fs::File::open(&directory).map_err(failed)?;
    for entry in std::fs::read_dir(&directory).map_err(failed)? {
        match rustix::fs::unlinkat(&opened, entry.map_err(failed)?.file_name(), AtFlags::empty()) {
            Ok(()) => had = true,
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(failed(errno.into())),
        }
    }
    Ok(had)
}

/// Where a condemned file lies.
pub(super) fn find(root: &Path, name: &str) -> Option<PathBuf> {
    epochs(root).into_iter().map(|epoch| directory(root, epoch).join(name)).find(|path| path.exists())
}

/// The names of all condemned objects.
pub(super) fn objects(root: &Path) -> HashSet<String> {
    let entries = epochs(root).into_iter().flat_map(|epoch| std::fs::read_dir(directory(root, epoch)));
    let names = entries.flatten().flatten().filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.starts_with("object-")).collect()
}

/// Brings a condemned file back to `path`; false when it is not there.
pub(super) fn bring_back(root: &Path, name: &str, path: &Path) -> Result<bool> {
    for epoch in epochs(root) {
        match std::fs::rename(directory(root, epoch).join(name), path) {
            Ok(()) => return Ok(true),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io("bring back", path.display(), error)),
        }
    }
    Ok(false)
}

pub(super) fn object_name(digest: &Digest, compressed: bool) -> String {
    format!("object-{digest}{}", if compressed { ".zst" } else { "" })
}

pub(super) fn pack_name(id: &Digest) -> String {
    format!("pack-{id}")
}

pub(super) fn index_name(id: &Digest) -> String {
    format!("index-{id}")
}

pub(super) fn tree_name(id: &Digest) -> String {
    format!("tree-{id}")
}
