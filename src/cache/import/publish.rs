//! The end of an import: everything gets its name, in the order in which one relies on another.

use std::collections::HashSet;
use std::io::Write;
use std::path::PathBuf;
use std::sync::PoisonError;

use super::super::epoch::{self, Doubtful, Epoch};
use super::super::manifest::Manifest;
use super::super::refs::Ref;
use super::super::{Digest, boot_id, record, seal};
use super::{Durability, Import, Imported};
use crate::error::{Error, Result};

/// Directories beyond which one `syncfs` is cheaper than an `fsync` of each.
const FEW_DIRECTORIES: usize = 4;

impl Import<'_> {
    /// Makes all of it durable and gives it its names; the tree is in the store when this returns. With a ref it stays
    /// there; without one only until the next gc that comes after this import ends.
    pub fn finish(self, reference: Option<&Ref>) -> Result<Imported> {
        let builder = std::mem::take(&mut self.tree.lock().unwrap_or_else(PoisonError::into_inner).builder);
        self.publish_as(builder.finish()?, reference)
    }

    /// The same with a manifest that is there already, whose blobs were adopted or are in the store.
    pub(in super::super) fn publish_as(self, manifest: Manifest, reference: Option<&Ref>) -> Result<Imported> {
        let packs = {
            let mut tree = self.tree.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(pack) = tree.pack.take() {
                let pack = pack.finish()?;
                tree.packs.push(pack);
            }
            std::mem::take(&mut tree.packs)
        };
        let staged_tree = self.stage_manifest(&manifest)?;
        let loose = std::mem::take(&mut *self.loose.lock().unwrap_or_else(PoisonError::into_inner));
        let tree_path = self.store.tree_path(&manifest.id());
        let known_before = tree_path.exists();
        let before = epoch::ended_here(self.store)?;
        if self.options.durability == Durability::None {
            let doubtful = loose.iter().map(|(digest, loose)| Doubtful {
                digest: *digest,
                size_bytes: loose.len,
                compressed: loose.compressed,
            });
            let packs = packs.iter().map(|pack| pack.id).collect();
            let epoch = Epoch { boot_id: boot_id(), objects: doubtful.collect(), packs, trees: vec![manifest.id()] };
            epoch::begin(self.store, &self.lease, &epoch)?;
        } else {
            record::sync_filesystem(&self.staging)?;
            for record in before {
                let _ = std::fs::remove_file(record);
            }
        }
        let turn = self.store.turn(false)?;
        let mut touched: HashSet<PathBuf> = HashSet::new();
        let mut published: HashSet<Digest> = HashSet::new();
        // What another published since that `syncfs` need not be on the disk.
        let mut anothers = false;
        for (digest, object) in &loose {
            let path = self.store.object_path(digest, object.compressed);
            anothers |= !record::rename_new(&object.path, &path)?;
            touched.extend(path.parent().map(ToOwned::to_owned));
            published.insert(*digest);
        }
        for pack in &packs {
            let path = self.store.pack_path(&pack.id, "pack");
            anothers |= !record::rename_new(&pack.pack, &path)?;
            // The index last: a pack counts from when it has one.
            record::rename_new(&pack.index, &self.store.pack_path(&pack.id, "idx"))?;
            touched.extend(path.parent().map(ToOwned::to_owned));
            published.extend(&pack.blobs);
        }
        if !packs.is_empty() {
            self.store.refresh()?;
        }
        self.check_reused(&manifest, &published)?;
        self.sync_directories(&touched, anothers)?;
        let known = self.store.has_tree(&manifest.id())?;
        self.lease.add(&manifest.id())?;
        let anothers = !record::rename_new(&staged_tree, &tree_path)? && !known_before;
        self.sync_directories(&HashSet::from_iter(tree_path.parent().map(ToOwned::to_owned)), anothers)?;
        if let Some(reference) = reference {
            self.store.write_ref(&Ref { tree: manifest.id(), ..reference.clone() })?;
        }
        drop(turn);
        let subtree = manifest.directory(0)?.subtree;
        let report = self.report(u64::from(manifest.len()));
        Ok(Imported { tree: manifest.id(), subtree, known, report })
    }

    fn stage_manifest(&self, manifest: &Manifest) -> Result<PathBuf> {
        let path = self.staging.join("tree");
        let written = std::fs::File::options().write(true).create_new(true).open(&path).and_then(|mut file| {
            file.write_all(manifest.as_bytes())?;
            Ok(file)
        });
        let file = written.map_err(|error| Error::io("write", path.display(), error))?;
        seal(&file, &path, &manifest.id())?;
        Ok(path)
    }

    /// What was there when it was needed must be there still, or again.
    fn check_reused(&self, manifest: &Manifest, published: &HashSet<Digest>) -> Result<()> {
        let Some(digest) = self.store.lacks(manifest, published)? else { return Ok(()) };
        let found = format!("the blob {digest} is gone");
        Err(Error::corrupt("cache", "object", 0, found, "what was there when the import began")
            .with_hint("add the image again"))
    }

    fn sync_directories(&self, touched: &HashSet<PathBuf>, all: bool) -> Result<()> {
        if self.options.durability == Durability::None {
            return Ok(());
        }
        if all || touched.len() > FEW_DIRECTORIES {
            return record::sync_filesystem(&self.staging);
        }
        touched.iter().try_for_each(|directory| record::sync_directory_of(&directory.join("any")))
    }
}
