//! Finding a blob, and being sure of it before anybody gets a byte.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rayon::prelude::*;

use super::manifest::Manifest;
use super::pack::{Catalog, Pack, Place, Window, Writer};
use super::proof::proof;
use super::store::Store;
use super::{Compression, Digest, record, seal, trash};
use crate::error::{Error, Result};

/// How much of an object is looked at before it is delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verify {
    /// Nothing.
    Never,
    /// Size, mode and modification time: what a truncated, exchanged or rewritten file changes.
    #[default]
    Trusted,
    /// The same, and the content before its first use; again when its file has changed since.
    FirstUse,
    /// The content, each time.
    Always,
}

/// A blob that was found and is sound, as far as was asked.
#[derive(Debug)]
pub(super) enum Object {
    /// A file of its own.
    Loose { file: File, path: PathBuf, compressed: bool },
    /// In a pack.
    Packed { pack: Arc<Pack>, place: Place },
}

impl Store {
    pub(super) fn object_path(&self, digest: &Digest, compressed: bool) -> PathBuf {
        let mut name = digest.shard();
        if compressed {
            name.push_str(".zst");
        }
        self.path().join("objects").join(name)
    }

    /// Whether the blob has a file of its own where it should be.
    pub(super) fn is_loose(&self, digest: &Digest) -> bool {
        [false, true].iter().any(|compressed| self.object_path(digest, *compressed).exists())
    }

    /// Whether the blob is stored where it can be relied on; what is condemned is brought back.
    pub(super) fn has(&self, digest: &Digest, len: u64) -> Result<bool> {
        if [false, true].into_iter().any(|compressed| self.has_file(digest, len, compressed)) {
            return Ok(true);
        }
        if self.catalog().find(digest).is_some_and(|(pack, _)| self.pack_is_there(&pack)) {
            return Ok(true);
        }
        // It may have been packed anew meanwhile.
        if self.catalog().find(digest).is_some()
            && self.refresh()?.find(digest).is_some_and(|(pack, _)| self.pack_is_there(&pack))
        {
            return Ok(true);
        }
        if !self.is_writable() {
            return Ok(false);
        }
        if self.condemned().find(digest).is_some_and(|(pack, _)| self.pack_is_there(&pack)) {
            return Ok(true);
        }
        for compressed in [false, true] {
            let path = self.object_path(digest, compressed);
            trash::bring_back(self.path(), &trash::object_name(digest, compressed), &path)?;
            if self.has_file(digest, len, compressed) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// A blob of the tree that is not stored where it can be relied on, apart from those that are `published`; what is
    /// condemned is brought back.
    pub(super) fn lacks(&self, manifest: &Manifest, published: &HashSet<Digest>) -> Result<Option<Digest>> {
        let catalog = self.catalog();
        let packs_there: Mutex<HashMap<Digest, bool>> = Mutex::default();
        let lacks = |index: u32| -> Result<Option<Digest>> {
            let (digest, len) = manifest.blob(index)?;
            if published.contains(&digest) {
                return Ok(None);
            }
            if let Some((pack, _)) = catalog.find(&digest) {
                let mut packs_there = packs_there.lock().unwrap_or_else(PoisonError::into_inner);
                if *packs_there.entry(pack.id).or_insert_with(|| self.pack_is_there(&pack)) {
                    return Ok(None);
                }
            }
            Ok((!self.has(&digest, len)?).then_some(digest))
        };
        (0..manifest.blobs()).into_par_iter().find_map_first(|index| lacks(index).transpose()).transpose()
    }

    /// Whether the blob is a file of its own in its place, and sound.
    pub(super) fn has_file(&self, digest: &Digest, len: u64, compressed: bool) -> bool {
        let path = self.object_path(digest, compressed);
        match std::fs::symlink_metadata(&path) {
            Ok(metadata) if self.looks_sound(&metadata, digest, (!compressed).then_some(len)) => true,
            Ok(_) => File::open(&path).is_ok_and(|file| self.recheck(&file, digest, len, compressed).unwrap_or(false)),
            Err(_) => false,
        }
    }

    /// Whether the pack and its index have their names; they are brought back when they were condemned.
    pub(super) fn pack_is_there(&self, pack: &Pack) -> bool {
        let there = |path: &Path, name: String| {
            path.exists() || (self.is_writable() && trash::bring_back(self.path(), &name, path).unwrap_or(false))
                // Another may have brought it back between the two looks.
                || path.exists()
        };
        let path = self.pack_path(&pack.id, "pack");
        let metadata = there(&path, trash::pack_name(&pack.id)).then(|| std::fs::symlink_metadata(&path));
        let sound = metadata
            .and_then(std::io::Result::ok)
            .is_some_and(|metadata| self.looks_sound(&metadata, &pack.id, Some(pack.index.pack_len())));
        sound && there(&self.pack_path(&pack.id, "idx"), trash::index_name(&pack.id))
    }

    pub(super) fn pack_path(&self, id: &Digest, extension: &str) -> PathBuf {
        self.path().join("packs").join(format!("{id}.{extension}"))
    }

    /// Size, mode and time as they were given to the file.
    pub(super) fn looks_sound(&self, metadata: &std::fs::Metadata, name: &Digest, len: Option<u64>) -> bool {
        let sentinel = name.sentinel();
        let step = self.version().mtime_step_ns.max(1);
        let nanoseconds = u64::from(sentinel.nanoseconds) / step * step;
        let time = if step >= 1_000_000_000 {
            metadata.mtime() / 2 == sentinel.seconds / 2
        } else {
            metadata.mtime() == sentinel.seconds && u64::try_from(metadata.mtime_nsec()) == Ok(nanoseconds)
        };
        let size = len.is_none_or(|len| len == metadata.len());
        metadata.is_file() && size && metadata.mode() & 0o7777 == 0o444 && time
    }

    /// Opens a blob of `len` bytes and looks at it as the store's level of verification asks. A damaged one is put into
    /// quarantine and is an error.
    pub(super) fn object(&self, digest: &Digest, len: u64) -> Result<Object> {
        for attempt in 0..2 {
            // A small one is packed, as a rule; looking for a file takes as long as making one.
            let is_small = len < self.version().pack_threshold_bytes;
            if is_small && let Some(found) = self.packed_object(digest, len)? {
                return Ok(found);
            }
            for compressed in [false, true] {
                if let Some((file, path)) = self.open_loose(digest, compressed)? {
                    self.check_loose(&file, digest, len, compressed)?;
                    return Ok(Object::Loose { file, path, compressed });
                }
            }
            if !is_small && let Some(found) = self.packed_object(digest, len)? {
                return Ok(found);
            }
            if attempt == 0 {
                self.refresh()?;
            }
        }
        if let Some((pack, place)) = Catalog::condemned(self.path()).find(digest)
            && u64::from(place.len) == len
        {
            self.check_pack(&pack)?;
            return Ok(Object::Packed { pack, place });
        }
        let error = Error::corrupt("cache", "object", 0, "nothing", format!("the blob {digest}"));
        Err(error.in_image(self.path().display()).with_hint("add the image again; guestctl cache verify tells more"))
    }

    fn packed_object(&self, digest: &Digest, len: u64) -> Result<Option<Object>> {
        let Some((pack, place)) = self.catalog().find(digest) else { return Ok(None) };
        if u64::from(place.len) != len {
            return Err(Error::corrupt("cache", "blob length", place.offset, place.len, len));
        }
        self.check_pack(&pack)?;
        Ok(Some(Object::Packed { pack, place }))
    }

    /// The blob's own file, where it should be or where gc has put it.
    fn open_loose(&self, digest: &Digest, compressed: bool) -> Result<Option<(File, PathBuf)>> {
        let path = self.object_path(digest, compressed);
        let open = |path: PathBuf| match File::open(&path) {
            Ok(file) => Ok(Some((file, path))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("open", path.display(), error)),
        };
        if let Some(found) = open(path.clone())? {
            return Ok(Some(found));
        }
        let condemned = trash::find(self.path(), &trash::object_name(digest, compressed));
        if let Some(found) = condemned.map(open).transpose()?.flatten() {
            return Ok(Some(found));
        }
        // Between the first look and the trash it may have been brought back.
        open(path)
    }

    fn check_loose(&self, file: &File, digest: &Digest, len: u64, compressed: bool) -> Result<()> {
        let level = self.verification();
        if level == Verify::Never {
            return Ok(());
        }
        let metadata = file.metadata().map_err(|error| Error::io("stat the object", digest, error))?;
        if !self.looks_sound(&metadata, digest, (!compressed).then_some(len)) {
            return if self.recheck(file, digest, len, compressed)? { Ok(()) } else { Err(self.damaged(digest)) };
        }
        let proof = proof(digest, &metadata);
        let enough = match level {
            Verify::Never | Verify::Trusted => !self.is_doubtful(digest) || self.proofs().has(&proof),
            Verify::FirstUse => self.proofs().has(&proof),
            Verify::Always => false,
        };
        if enough {
            return Ok(());
        }
        if digest_of_file(file, compressed, len)? == Some(*digest) {
            self.proofs().add(proof, &metadata);
            return Ok(());
        }
        self.quarantine_object(digest, compressed);
        Err(self.damaged(digest))
    }

    /// Reads an object that does not look as it should. If its bytes are right, as in a copy of a store that did not keep
    /// times, it is given its looks again; else it is put aside.
    fn recheck(&self, file: &File, digest: &Digest, len: u64, compressed: bool) -> Result<bool> {
        if digest_of_file(file, compressed, len)? != Some(*digest) {
            self.quarantine_object(digest, compressed);
            return Ok(false);
        }
        if self.is_writable() {
            let _ = seal(file, &self.object_path(digest, compressed), digest);
        }
        Ok(true)
    }

    fn check_pack(&self, pack: &Pack) -> Result<()> {
        let looked_at = || self.packs_looked_at().lock().unwrap_or_else(PoisonError::into_inner);
        if self.verification() == Verify::Never || looked_at().contains(&pack.id) {
            return Ok(());
        }
        let file = pack.file()?;
        let metadata = file.metadata().map_err(|error| Error::io("stat the pack", pack.id, error))?;
        let len = pack.index.pack_len();
        if !self.looks_sound(&metadata, &pack.id, Some(len)) || self.is_doubtful(&pack.id) {
            // As with an object; what is right in a damaged pack is kept.
            if metadata.len() != len || digest_of_file(file, false, len)? != Some(pack.id) {
                self.salvage(pack)?;
                return Err(self.damaged(&pack.id));
            }
            if self.is_writable() {
                let _ = seal(file, &self.pack_path(&pack.id, "pack"), &pack.id);
            }
        }
        // Looked at once; the file stays open.
        looked_at().insert(pack.id);
        Ok(())
    }

    /// Packs anew what is right in a damaged pack, and puts the pack aside.
    pub(super) fn salvage(&self, pack: &Pack) -> Result<()> {
        if !self.is_writable() {
            return Ok(());
        }
        let lease = self.lease()?;
        let staging = self.staging().join(lease.name());
        std::fs::create_dir(&staging).map_err(|error| Error::io("make", staging.display(), error))?;
        let salvaged = (|| {
            let mut writer = Writer::create(&staging)?;
            let mut places: Vec<_> = pack.index.iter().collect();
            places.sort_unstable_by_key(|(_, place)| place.offset);
            let (mut kept, mut window) = (0u64, Window::in_order());
            for (digest, place) in places {
                if let Ok(blob) = pack.read(&digest, &place, &mut window)
                    && Digest::of(&blob) == digest
                {
                    writer.add(digest, &blob, self.version().compression == Compression::Zstd)?;
                    kept += 1;
                }
            }
            let finished = writer.finish()?;
            record::sync_filesystem(&staging)?;
            let _turn = self.turn(false)?;
            if kept > 0 {
                record::rename_new(&finished.pack, &self.pack_path(&finished.id, "pack"))?;
                record::rename_new(&finished.index, &self.pack_path(&finished.id, "idx"))?;
                record::sync_directory_of(&self.pack_path(&finished.id, "idx"))?;
            }
            for extension in ["idx", "pack"] {
                let name = format!("{extension}-{}-{}", pack.id, super::random());
                let _ = std::fs::rename(self.pack_path(&pack.id, extension), self.path().join("quarantine").join(name));
            }
            log::warn!(
                "the pack {} is damaged and was put aside; {kept} of its {} blobs are right",
                pack.id,
                pack.index.len()
            );
            Ok(())
        })();
        let _ = std::fs::remove_dir_all(&staging);
        self.refresh()?;
        salvaged
    }

    /// A packed blob's bytes, held against its digest when the level asks.
    pub(super) fn read_packed<'w>(
        &self,
        digest: &Digest,
        pack: &Pack,
        place: &Place,
        window: &'w mut Window,
    ) -> Result<Cow<'w, [u8]>> {
        let read = pack.read(digest, place, window);
        let level = self.verification();
        let proof = if level == Verify::FirstUse {
            let metadata = pack.file()?.metadata().map_err(|error| Error::io("stat the pack", pack.id, error))?;
            Some((proof(digest, &metadata), metadata))
        } else {
            None
        };
        let check = level == Verify::Always || proof.as_ref().is_some_and(|(proof, _)| !self.proofs().has(proof));
        match read {
            Ok(bytes) if !check || Digest::of(&bytes) == *digest => {
                if let Some((proof, metadata)) = proof.filter(|_| check) {
                    self.proofs().add(proof, &metadata);
                }
                Ok(bytes)
            }
            Err(error) if matches!(error.kind(), crate::ErrorKind::Io { .. }) => Err(error),
            _ => {
                self.mark_packed(digest, &pack.id);
                Err(self.damaged(digest))
            }
        }
    }

    /// All bytes of a blob, which must be few.
    pub(super) fn read_blob(&self, digest: &Digest, len: u64) -> Result<Vec<u8>> {
        crate::limits::check("bytes of a blob in memory", len, crate::limits::CALL_BYTES)?;
        match self.object(digest, len)? {
            Object::Packed { pack, place } => {
                Ok(self.read_packed(digest, &pack, &place, &mut Window::default())?.into_owned())
            }
            Object::Loose { file, path, compressed } => {
                let mut bytes = Vec::new();
                read_all(&file, compressed, len, &mut |part| {
                    bytes.extend_from_slice(part);
                    Ok(())
                })
                .map_err(|error| Error::io("read", path.display(), error))?;
                Ok(bytes)
            }
        }
    }

    /// The error of a damaged object.
    pub(super) fn damaged(&self, digest: &Digest) -> Error {
        let error = Error::corrupt("cache", "object", 0, "other bytes", format!("those of {digest}"));
        error.in_image(self.path().display()).with_hint("it was put aside; add the image again to store it anew")
    }

    /// Puts a damaged object where nobody takes it for a sound one.
    pub(super) fn quarantine_object(&self, digest: &Digest, compressed: bool) {
        if !self.is_writable() {
            return;
        }
        let name = format!("{}-{}", trash::object_name(digest, compressed), super::random());
        let to = self.path().join("quarantine").join(name);
        if std::fs::rename(self.object_path(digest, compressed), &to).is_ok() {
            log::warn!("the object {digest} is damaged and was put aside: {}", to.display());
        }
    }

    /// Puts a blob aside whose bytes turned out to be others than its digest says, wherever it lies.
    pub(super) fn put_aside(&self, digest: &Digest) {
        if let Some((pack, _)) = self.catalog().find(digest) {
            self.mark_packed(digest, &pack.id);
        }
        [false, true].into_iter().for_each(|compressed| self.quarantine_object(digest, compressed));
    }

    /// Marks a blob of a pack as damaged.
    pub(super) fn mark_packed(&self, digest: &Digest, pack: &Digest) {
        let mark = self.path().join("quarantine").join(format!("packed-{digest}-{pack}"));
        if self.is_writable() && File::create(&mark).is_ok() {
            log::warn!("the blob {digest} is damaged in the pack {pack}");
        }
        let _ = self.refresh();
    }
}

/// The digest of an object's content; `None` when it is no zstd frame or has another length.
pub(super) fn digest_of_file(file: &File, compressed: bool, len: u64) -> Result<Option<Digest>> {
    let mut hasher = blake3::Hasher::new();
    let read = read_all(file, compressed, len, &mut |part| {
        hasher.update(part);
        Ok(())
    });
    match read {
        Ok(()) => Ok(Some(hasher.finalize().into())),
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) => Ok(None),
        // What zstd says of a damaged frame has no kind of its own.
        Err(_) if compressed => Ok(None),
        Err(error) => Err(Error::io("read", "an object", error)),
    }
}

/// Shows `len` bytes of an object, which must not have more.
pub(super) fn read_all(
    file: &File,
    compressed: bool,
    len: u64,
    show: &mut dyn FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut reader: Box<dyn Read + '_> = if compressed {
        Box::new(zstd::stream::read::Decoder::new(Positioned { file, at: 0 })?)
    } else {
        Box::new(Positioned { file, at: 0 })
    };
    let mut buffer = vec![0; 256 << 10];
    let mut left = len;
    while left > 0 {
        let want = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let part = buffer.get_mut(..want).unwrap_or_default();
        reader.read_exact(part)?;
        show(part)?;
        left -= want as u64;
    }
    let mut more = [0];
    if reader.read(&mut more)? > 0 { Err(io::ErrorKind::InvalidData.into()) } else { Ok(()) }
}

/// Reads from a position of its own, so that threads can share the file.
struct Positioned<'a> {
    file: &'a File,
    at: u64,
}

impl Read for Positioned<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buf, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}
