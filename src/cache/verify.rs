//! Looking at everything that is stored, whatever anybody has asked for.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::sync::Mutex;

use rayon::prelude::*;
use serde::Serialize;

use super::manifest::Manifest;
use super::objects::digest_of_file;
use super::pack::{Index, Pack, Window};
use super::store::Store;
use super::{Digest, random, record};
use crate::bytes::to_u64;
use crate::error::{Error, ErrorKind, Result};
use crate::progress::Progress;

/// What to look at, and what to do about what is damaged.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct VerifyOptions {
    /// How many of the objects, in percent; which ones differs from time to time.
    pub sample: f64,
    /// Put damaged objects aside, so that the next import stores them anew, and make damaged indexes again.
    pub repair: bool,
}

impl Default for VerifyOptions {
    fn default() -> Self {
        Self { sample: 100.0, repair: false }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Damage {
    /// `tree`, `object`, `pack`, `packed`, `index`, `ref`, `missing`.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// What is wrong, in words.
    pub message: String,
    /// Whether it was put aside or made again.
    pub repaired: bool,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct VerifyReport {
    /// Trees looked at.
    pub trees: u64,
    /// Objects looked at.
    pub objects: u64,
    /// Blobs in packs looked at.
    pub packed_blobs: u64,
    /// Bytes read.
    pub bytes: u64,
    /// What is wrong, sorted.
    pub damage: Vec<Damage>,
}

/// The work's results from all threads.
#[derive(Default)]
struct Found(Mutex<VerifyReport>);

impl Found {
    fn with(&self, change: impl FnOnce(&mut VerifyReport)) {
        change(&mut self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    }

    fn damage(&self, kind: &'static str, name: impl ToString, message: impl ToString, repaired: bool) {
        let damage = Damage { kind, name: name.to_string(), message: message.to_string(), repaired };
        self.with(|report| report.damage.push(damage));
    }
}

impl Store {
    /// Reads trees, objects and packs, and holds them against their digests, on the rayon pool that the caller is in.
    pub fn verify(&self, options: &VerifyOptions, progress: &dyn Progress) -> Result<VerifyReport> {
        if options.repair {
            self.check_writable()?;
        }
        let found = Found::default();
        let salt = random();
        let part = (options.sample.clamp(0.0, 100.0) / 100.0 * f64::from(u32::MAX)) as u32;
        let chosen = |digest: &Digest| {
            let drawn = Digest::derive("guestctl sample", [salt.as_bytes(), digest.as_bytes()]);
            let [a, b, c, d, ..] = *drawn.as_bytes();
            u32::from_le_bytes([a, b, c, d]) <= part
        };
        let catalog = self.refresh()?;
        let sizes = self.verify_trees(options, &found)?;
        let objects: Vec<_> = self.loose()?.into_iter().filter(|(digest, _)| chosen(digest)).collect();
        let packs: Vec<_> = catalog.packs().iter().filter(|pack| chosen(&pack.id)).collect();
        progress.set_total(to_u64(objects.len() + packs.len()));
        objects.par_iter().try_for_each(|(digest, compressed)| {
            cancelled(progress)?;
            self.verify_object(digest, *compressed, sizes.get(digest).copied(), options, &found)?;
            progress.advance(1);
            Ok::<(), Error>(())
        })?;
        packs.par_iter().try_for_each(|pack| {
            cancelled(progress)?;
            self.verify_pack(pack, options, &found)?;
            progress.advance(1);
            Ok::<(), Error>(())
        })?;
        let catalog = self.refresh()?;
        for digest in &self.needed(&found)? {
            if !self.is_loose(digest) && catalog.find(digest).is_none() {
                found.damage("missing", digest, "a tree needs this blob, and it is not there", false);
            }
        }
        let mut report = found.0.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        report.damage.sort_unstable();
        Ok(report)
    }

    /// The blobs of trees that something refers to. Others may have lost some to a gc that is not done.
    fn needed(&self, found: &Found) -> Result<HashSet<Digest>> {
        let mut needed = HashSet::new();
        let refs = self.refs().unwrap_or_default().into_iter().map(|found| found.tree);
        for tree in refs.chain(self.actions()?.into_iter().flat_map(|(_, action)| action.trees)) {
            let path = self.tree_path(&tree);
            let Some(bytes) = record::read_within(&path, crate::limits::CACHE_MANIFEST_BYTES)? else {
                found.damage("missing", tree, "something refers to this tree, and it is not there", false);
                continue;
            };
            // What is damaged was reported.
            let Ok(manifest) = Manifest::verified(bytes, &tree) else { continue };
            for index in 0..manifest.blobs() {
                needed.insert(manifest.blob(index)?.0);
            }
        }
        Ok(needed)
    }

    /// Looks at all trees and refs; the sizes of all blobs that trees need.
    fn verify_trees(&self, options: &VerifyOptions, found: &Found) -> Result<HashMap<Digest, u64>> {
        let mut sizes = HashMap::new();
        for id in self.trees()? {
            let path = self.tree_path(&id);
            let Some(bytes) = record::read_within(&path, crate::limits::CACHE_MANIFEST_BYTES)? else { continue };
            let len = to_u64(bytes.len());
            let manifest = Manifest::verified(bytes, &id).and_then(|manifest| manifest.validate().map(|()| manifest));
            found.with(|report| (report.trees, report.bytes) = (report.trees + 1, report.bytes + len));
            match manifest {
                Ok(manifest) => {
                    for index in 0..manifest.blobs() {
                        let (digest, size) = manifest.blob(index)?;
                        sizes.insert(digest, size);
                    }
                }
                Err(error) => {
                    let to = self.path().join("quarantine").join(format!("tree-{id}"));
                    let repaired = options.repair && std::fs::rename(&path, to).is_ok();
                    found.damage("tree", id, error, repaired);
                }
            }
        }
        match self.refs() {
            Ok(refs) => {
                for found_ref in refs.iter().filter(|found| !self.tree_path(&found.tree).exists()) {
                    let name = format!("{}/{}", found_ref.namespace, found_ref.name);
                    found.damage("ref", name, format!("its tree {} is not there", found_ref.tree), false);
                }
            }
            Err(error) => found.damage("ref", "refs", error, false),
        }
        Ok(sizes)
    }

    fn verify_object(
        &self,
        digest: &Digest,
        compressed: bool,
        size: Option<u64>,
        options: &VerifyOptions,
        found: &Found,
    ) -> Result<()> {
        let path = self.object_path(digest, compressed);
        let opened = File::open(&path).and_then(|file| file.metadata().map(|metadata| (file, metadata)));
        let (file, metadata) = match opened {
            Ok(opened) => opened,
            // Condemned meanwhile.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(Error::io("read", path.display(), error)),
        };
        // Of a compressed object that no tree needs nobody knows the length.
        let len = match (size, compressed) {
            (Some(size), _) => size,
            (None, false) => metadata.len(),
            (None, true) => return Ok(()),
        };
        found.with(|report| (report.objects, report.bytes) = (report.objects + 1, report.bytes + metadata.len()));
        let content = match digest_of_file(&file, compressed, len) {
            Ok(content) => content,
            Err(error) if matches!(error.kind(), ErrorKind::Io { .. }) => {
                found.damage("object", digest, error, false);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let message = if content != Some(*digest) {
            "its bytes are others"
        } else if !self.looks_sound(&metadata, digest, (!compressed).then_some(len)) {
            "its mode or time was changed; its bytes are right"
        } else {
            return Ok(());
        };
        if options.repair {
            // Gives it its looks again, or puts it aside.
            self.has(digest, len)?;
            if content != Some(*digest) {
                self.quarantine_object(digest, compressed);
            }
        }
        found.damage("object", digest, message, options.repair);
        Ok(())
    }

    fn verify_pack(&self, pack: &Pack, options: &VerifyOptions, found: &Found) -> Result<()> {
        let index = self.pack_path(&pack.id, "idx");
        let stored = record::read_within(&index, crate::limits::CACHE_PACK_BYTES)?;
        if stored.is_some_and(|stored| stored != pack.index.as_bytes()) {
            // The catalog has made it again from the pack.
            let repaired = options.repair && record::replace(&self.staging(), &index, pack.index.as_bytes()).is_ok();
            found.damage("index", pack.id, "it is damaged", repaired);
        }
        let (mut damaged, mut window) = (0u64, Window::in_order());
        let mut places: Vec<_> = pack.index.iter().collect();
        places.sort_unstable_by_key(|(_, place)| place.offset);
        for (digest, place) in places {
            found.with(|report| {
                (report.packed_blobs, report.bytes) = (report.packed_blobs + 1, report.bytes + u64::from(place.stored));
            });
            let sound = pack.read(&digest, &place, &mut window).is_ok_and(|blob| Digest::of(&blob) == digest);
            if !sound {
                damaged += 1;
                found.damage("packed", digest, format!("it is damaged in the pack {}", pack.id), options.repair);
            }
        }
        let metadata = pack.file().and_then(|file| file.metadata().map_err(|error| Error::io("stat", pack.id, error)));
        let sound = metadata.is_ok_and(|metadata| self.looks_sound(&metadata, &pack.id, Some(pack.index.pack_len())));
        let scanned = || Index::scan(&self.pack_path(&pack.id, "pack"), &pack.id).map_or(0, |index| index.len());
        if options.repair && damaged > 0 {
            self.salvage(pack)?;
        }
        if !sound && damaged == 0 {
            found.damage(
                "pack",
                pack.id,
                format!("size, mode or time was changed; {} blobs are right", scanned()),
                options.repair,
            );
            if options.repair {
                self.salvage(pack)?;
            }
        }
        Ok(())
    }
}

fn cancelled(progress: &dyn Progress) -> Result<()> {
    if progress.cancelled() { Err(ErrorKind::Cancelled.into()) } else { Ok(()) }
}
