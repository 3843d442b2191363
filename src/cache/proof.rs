//! Contents that were looked at: `proven/<64 hex>`, a file for each tree, so that "first use" holds across processes.
//!
//! A file is a run of proofs of 32 bytes, appended to and never synced. A proof is the digest of an object's name together
//! with what stat(2) says of its file: size, mode, times of modification and change, inode. Whatever changes one of them
//! makes another proof, which nobody has written, and the object is looked at again; a proof that is torn or lost costs
//! another look, and bytes that are no proof are nobody's. So nothing needs to be checked, locked or repaired.
//!
//! A file that changed just before it was looked at may change again within the same tick of the clock: that proof is not
//! kept.

use std::collections::HashSet;
use std::fs::{File, Metadata};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use super::manifest::Manifest;
use super::objects::Verify;
use super::store::Store;
use super::{Digest, now, record};
use crate::error::{Error, Result};
use crate::limits;

/// Seconds within which a file may change without another time.
const TICK: i64 = 2;
/// A file of so many proofs for each blob is mostly about what is not any more.
const STALE: u64 = 4;

/// What a handle knows of contents.
#[derive(Debug, Default)]
pub(super) struct Proofs {
    known: Mutex<HashSet<Digest>>,
    /// Those that no file has yet.
    fresh: Mutex<Vec<Digest>>,
}

/// The proof of an object in a file of these looks.
pub(super) fn proof(name: &Digest, metadata: &Metadata) -> Digest {
    let facts = [
        metadata.len().to_le_bytes(),
        u64::from(metadata.mode()).to_le_bytes(),
        metadata.mtime().to_le_bytes(),
        metadata.mtime_nsec().to_le_bytes(),
        metadata.ctime().to_le_bytes(),
        metadata.ctime_nsec().to_le_bytes(),
        metadata.ino().to_le_bytes(),
    ];
    Digest::derive("guestctl proof v1", [name.as_bytes(), facts.as_flattened()])
}

impl Proofs {
    pub(super) fn has(&self, proof: &Digest) -> bool {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).contains(proof)
    }

    /// Keeps the proof of a file that was looked at.
    pub(super) fn add(&self, proof: Digest, metadata: &Metadata) {
        let new = self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(proof);
        if new && now().saturating_sub(metadata.ctime()) > TICK {
            self.fresh.lock().unwrap_or_else(PoisonError::into_inner).push(proof);
        }
    }
}

impl Store {
    pub(super) fn proofs_path(&self, tree: &Digest) -> PathBuf {
        self.path().join("proven").join(tree.hex())
    }

    /// Reads what is proven of a tree's contents, when the level asks for it.
    pub(super) fn load_proofs(&self, manifest: &Manifest) -> Result<()> {
        if self.verification() != Verify::FirstUse {
            return Ok(());
        }
        let path = self.proofs_path(&manifest.id());
        let bytes = record::read_within(&path, limits::CACHE_MANIFEST_BYTES).ok().flatten().unwrap_or_default();
        if bytes.len() as u64 / 32 > STALE * (u64::from(manifest.blobs()) + 1) {
            let _ = self.is_writable().then(|| std::fs::remove_file(&path));
            return Ok(());
        }
        let (proofs, _) = bytes.as_chunks::<32>();
        self.proofs()
            .known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(proofs.iter().map(|proof| Digest::from_bytes(*proof)));
        Ok(())
    }

    /// Keeps what was proven since for those who come later.
    pub(super) fn save_proofs(&self, tree: &Digest) {
        let fresh = std::mem::take(&mut *self.proofs().fresh.lock().unwrap_or_else(PoisonError::into_inner));
        if fresh.is_empty() || !self.is_writable() || self.verification() != Verify::FirstUse {
            return;
        }
        let path = self.proofs_path(tree);
        let bytes: Vec<u8> = fresh.iter().flat_map(|proof| *proof.as_bytes()).collect();
        let append = || File::options().append(true).create(true).open(&path)?.write_all(&bytes);
        let saved = match append() {
            // A store that was made before there were proofs.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                path.parent().map_or(Ok(()), std::fs::create_dir).and_then(|()| append())
            }
            saved => saved,
        };
        if let Err(error) = saved {
            log::warn!("what was proven is not kept: {}: {error}", path.display());
        }
    }

    /// Removes the proofs of trees that are not `live`.
    pub(super) fn sweep_proofs(&self, live: &HashSet<Digest>) -> Result<()> {
        let directory = self.path().join("proven");
        let entries = match std::fs::read_dir(&directory) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            entries => entries.map_err(|error| Error::io("list", directory.display(), error))?,
        };
        for entry in entries.flatten() {
            let tree = entry.file_name().to_str().and_then(|name| name.parse::<Digest>().ok());
            if tree.is_none_or(|tree| !live.contains(&tree)) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
        Ok(())
    }
}
