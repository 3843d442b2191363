//! Epochs: what was published without waiting for the disk.
//!
//! `epochs/<name>` is written, durably, before the first of such objects gets its name; its own is that of the import's lease.
//! If the machine went down since (the boot id is another), its objects are read and held against their digests before the
//! store is used. What is damaged is put aside, and trees that lack something since then go with the names that they have:
//! adding the image again stores it anew. A later batch that does wait makes all of it durable, and removes the record.
//!
//! A record whose lease is held belongs to an import that is going on, here or on another machine, and is left alone.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::objects::digest_of_file;
use super::store::Store;
use super::{Digest, Lease, boot_id, lease, random, record, trash};
use crate::error::{Error, Result};

/// The record.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Epoch {
    pub(super) boot_id: String,
    pub(super) objects: Vec<Doubtful>,
    pub(super) packs: Vec<Digest>,
    pub(super) trees: Vec<Digest>,
}

/// An object that may not have reached the disk.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Doubtful {
    pub(super) digest: Digest,
    pub(super) size_bytes: u64,
    pub(super) compressed: bool,
}

/// Writes the record of an import.
pub(super) fn begin(store: &Store, lease: &Lease, epoch: &Epoch) -> Result<()> {
    let bytes = serde_json::to_vec(epoch).map_err(|error| Error::invalid(error.to_string()))?;
    let path = store.path().join("epochs").join(lease.name());
    record::create(&store.staging(), &path, &bytes).map(drop)
}

/// The records of this boot's imports that have ended: what they published is on the disk after the next `syncfs`. Those of
/// other machines are not, their names begin otherwise.
pub(super) fn ended_here(store: &Store) -> Result<Vec<PathBuf>> {
    let mut records = ended(store)?;
    records.retain(|path| path.file_name().and_then(std::ffi::OsStr::to_str).is_some_and(lease::is_of_this_boot));
    Ok(records)
}

/// The records of all imports that have ended.
fn ended(store: &Store) -> Result<Vec<PathBuf>> {
    let directory = store.path().join("epochs");
    let entries = std::fs::read_dir(&directory).map_err(|error| Error::io("list", directory.display(), error))?;
    let mut records: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    if !records.is_empty() {
        // Looked at after the list: whoever is in it and has no lease now has published all that he will.
        let held = lease::held(store.path(), false)?;
        records.retain(|record| record.file_name().is_some_and(|name| !held.names.iter().any(|held| held == name)));
    }
    Ok(records)
}

/// Waits until everything that was published is on the disk: before something durable relies on it.
pub(super) fn settle(store: &Store) -> Result<()> {
    let records = ended_here(store)?;
    if records.is_empty() {
        return Ok(());
    }
    record::sync_filesystem(store.path())?;
    records.iter().try_for_each(|record| remove(record))
}

/// What the last boot left in doubt: digests of objects and packs, for a store that cannot be written to.
pub(super) fn in_doubt(store: &Store) -> HashSet<Digest> {
    let epochs = ended(store).unwrap_or_default().into_iter().filter_map(|path| of_another_boot(&path).ok().flatten());
    epochs.flat_map(|epoch| epoch.objects.into_iter().map(|object| object.digest).chain(epoch.packs)).collect()
}

/// Looks at what the last boot left in doubt.
pub(super) fn recover(store: &Store) -> Result<()> {
    for path in ended(store)? {
        let Some(epoch) = of_another_boot(&path)? else { continue };
        let count = epoch.objects.len() + epoch.packs.len();
        log::warn!("the machine went down before {count} objects and packs were on the disk: looking at them");
        for Doubtful { digest, size_bytes, compressed } in &epoch.objects {
            let Ok(file) = std::fs::File::open(store.object_path(digest, *compressed)) else { continue };
            if digest_of_file(&file, *compressed, *size_bytes)? != Some(*digest) {
                store.quarantine_object(digest, *compressed);
            }
        }
        for id in &epoch.packs {
            recover_pack(store, id)?;
        }
        drop_broken(store, &epoch.trees)?;
        remove(&path)?;
    }
    Ok(())
}

/// The record, when it is one of another boot.
fn of_another_boot(path: &Path) -> Result<Option<Epoch>> {
    let Some(bytes) = record::read_within(path, 1 << 30)? else { return Ok(None) };
    // It is made durable before its objects have names: half a record is one without objects.
    let epoch: Option<Epoch> = serde_json::from_slice(&bytes).ok();
    Ok(epoch.filter(|epoch| epoch.boot_id != boot_id()))
}

/// Keeps what is right in a pack.
fn recover_pack(store: &Store, id: &Digest) -> Result<()> {
    let path = store.pack_path(id, "pack");
    let Ok(file) = std::fs::File::open(&path) else { return Ok(()) };
    let len = file.metadata().map_err(|error| Error::io("stat", path.display(), error))?.len();
    if digest_of_file(&file, false, len)? == Some(*id) {
        return Ok(());
    }
    let catalog = store.refresh()?;
    if let Some(pack) = catalog.pack(id) {
        return store.salvage(pack);
    }
    // Nothing in it can be found.
    for extension in ["idx", "pack"] {
        let name = format!("{extension}-{id}-{}", random());
        let _ = std::fs::rename(store.pack_path(id, extension), store.path().join("quarantine").join(name));
    }
    Ok(())
}

/// Puts trees aside that lack a blob or are damaged, and takes away names of those and of `doubtful` ones that are gone.
fn drop_broken(store: &Store, doubtful: &[Digest]) -> Result<()> {
    // Nobody publishes meanwhile: what is missing now is not about to come.
    let _turn = store.turn(true)?;
    let catalog = store.refresh()?;
    let mut gone: HashSet<Digest> = doubtful.iter().filter(|id| !store.tree_path(id).exists()).copied().collect();
    for id in store.trees()? {
        // A damaged one is put aside by being read.
        let Ok(manifest) = store.tree(&id) else {
            gone.insert(id);
            continue;
        };
        for index in 0..manifest.blobs() {
            let (digest, _) = manifest.blob(index)?;
            if catalog.find(&digest).is_some() || store.is_loose(&digest) {
                continue;
            }
            log::warn!("the tree {id} has lost the blob {digest} and is put aside");
            let to = store.path().join("quarantine").join(trash::tree_name(&id));
            std::fs::rename(store.tree_path(&id), &to).map_err(|error| Error::io("rename to", to.display(), error))?;
            gone.insert(id);
            break;
        }
    }
    for lost in store.refs()?.into_iter().filter(|found| gone.contains(&found.tree)) {
        log::warn!("the name {}/{} had a tree that is lost, and is taken away", lost.namespace, lost.name);
        store.remove_ref(&lost.namespace, &lost.name)?;
    }
    Ok(())
}

/// Removes a record. Another program may have done the same.
fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", path.display(), error)),
        _ => Ok(()),
    }
}
