//! Epochs: what was published without waiting for the disk.
//!
//! `epochs/<name>` is written, durably, before the first of such objects gets its name. If the machine went down since (the
//! boot id is another), they are read and held against their digests before the store is used, and what is damaged is put
//! aside. A later batch that does wait makes them durable too, and removes the record.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::objects::digest_of_file;
use super::pack::Index;
use super::store::Store;
use super::{Digest, boot_id, random, record};
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

/// Writes the record of a batch.
pub(super) fn begin(store: &Store, epoch: &Epoch) -> Result<()> {
    let bytes = serde_json::to_vec(epoch).map_err(|error| Error::invalid(error.to_string()))?;
    let path = store.path().join("epochs").join(random());
    record::create(&store.staging(), &path, &bytes).map(drop)
}

/// The records that there are now: those of this boot are done with after the next `syncfs`.
pub(super) fn records(store: &Store) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(store.path().join("epochs"));
    entries.map(|entries| entries.flatten().map(|entry| entry.path()).collect()).unwrap_or_default()
}

/// Looks at what the last boot left in doubt.
pub(super) fn recover(store: &Store) -> Result<()> {
    let boot = boot_id();
    for path in records(store) {
        let Some(bytes) = record::read_within(&path, 1 << 30)? else { continue };
        let Ok(epoch) = serde_json::from_slice::<Epoch>(&bytes) else {
            // It is made durable before its objects are: half a record is one without objects.
            let _ = std::fs::remove_file(&path);
            continue;
        };
        if epoch.boot_id == boot {
            continue;
        }
        log::warn!("the machine went down before {} objects were on the disk: looking at them", epoch.objects.len());
        for Doubtful { digest, size_bytes, compressed } in &epoch.objects {
            let Ok(file) = std::fs::File::open(store.object_path(digest, *compressed)) else { continue };
            if digest_of_file(&file, *compressed, *size_bytes)? != Some(*digest) {
                store.quarantine_object(digest, *compressed);
            }
        }
        for id in &epoch.packs {
            let path = store.pack_path(id, "pack");
            let sound = std::fs::read(&path).is_ok_and(|bytes| Digest::of(&bytes) == *id);
            if !sound && path.exists() {
                let index = Index::scan(&path, id).ok();
                log::warn!("the pack {id} is damaged, {} of its blobs are sound", index.map_or(0, |index| index.len()));
                for extension in ["pack", "idx"] {
                    let name = format!("{extension}-{id}-{}", random());
                    let _ = std::fs::rename(store.pack_path(id, extension), store.path().join("quarantine").join(name));
                }
            }
        }
        for id in &epoch.trees {
            // A damaged one is put aside by being read.
            let _ = store.tree(id);
        }
        std::fs::remove_file(&path).map_err(|error| Error::io("remove", path.display(), error))?;
    }
    Ok(())
}
