//! The content of one file: hashed, and stored unless it is there.

use std::borrow::Cow;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use super::super::manifest::{INLINE_BYTES, NewContent, Run};
use super::super::{Compression, Digest, random, seal, trash};
use super::{Durability, Import, Loose, add};
use crate::block::{BlockDevice, ExtentKind, for_each_extent};
use crate::bytes::{to_u64, to_usize};
use crate::error::{Error, Result};
use crate::limits;

/// Where a file's bytes are.
#[derive(Debug)]
pub enum Source<'a> {
    /// In memory, all of them.
    Bytes(&'a [u8]),
    /// On a device, with its holes.
    Device(&'a dyn BlockDevice),
    /// Both: hashed in memory, and cloned from the device where that is possible.
    Both(&'a [u8], &'a dyn BlockDevice),
}

/// A content that [`Import::push`] takes.
#[derive(Debug)]
pub struct Prepared {
    pub(super) content: NewContent,
    pub(super) sparse: Option<Vec<Run>>,
    pub(super) to_pack: Option<Vec<u8>>,
}

/// Files are blocks of this many bytes to most filesystems, and holes are wholes of them.
const BLOCK: u64 = 4096;
const BUFFER: usize = 1 << 20;

impl Prepared {
    /// Nothing to store: directories, nodes, empty files.
    #[must_use]
    pub fn nothing() -> Self {
        Self::of(NewContent::None)
    }

    /// A symbolic link's target.
    #[must_use]
    pub fn target(target: Vec<u8>) -> Self {
        Self::of(NewContent::Target(target))
    }

    /// That of another name of the same file, which has the same `link`.
    #[must_use]
    pub fn linked() -> Self {
        Self::of(NewContent::Linked)
    }

    fn of(content: NewContent) -> Self {
        Self { content, sparse: None, to_pack: None }
    }

    /// The blob that holds all of the content, and its length.
    #[must_use]
    pub fn blob(&self) -> Option<(Digest, u64)> {
        match self.content {
            NewContent::Blob(digest, len) if self.sparse.is_none() => Some((digest, len)),
            _ => None,
        }
    }
}

impl Import<'_> {
    /// Hashes a file's content, and stores it unless it is there or small: small ones wait for [`push`](Self::push).
    /// Called by any number of threads in any order. The device must not change meanwhile.
    pub fn prepare(&self, source: Source<'_>) -> Result<Prepared> {
        match source {
            Source::Bytes(bytes) => self.small(Cow::Borrowed(bytes), None, None),
            Source::Both(bytes, device) => self.small(Cow::Borrowed(bytes), None, Some(device)),
            Source::Device(device) => {
                let runs = data_runs(device)?;
                let stored: u64 = runs.iter().map(|run| run.len).sum();
                let sparse = (stored < device.size()).then(|| runs.clone());
                if stored < self.store.version().pack_threshold_bytes.max(INLINE_BYTES.saturating_add(1)) {
                    let mut bytes = vec![0; to_usize(stored)];
                    let mut rest = &mut bytes[..];
                    for run in &runs {
                        let (part, behind) = rest.split_at_mut(to_usize(run.len));
                        device.read_exact_at(part, run.offset)?;
                        rest = behind;
                    }
                    return self.small(Cow::Owned(bytes), sparse, None);
                }
                let digest = self.large(device, &runs, stored)?;
                Ok(Prepared { sparse, ..Prepared::of(NewContent::Blob(digest, stored)) })
            }
        }
    }

    /// The content that is this blob, when the blob is stored.
    pub fn reuse(&self, digest: Digest, len: u64) -> Result<Option<Prepared>> {
        if !self.is_stored(&digest, len)? {
            return Ok(None);
        }
        self.deduplicated(len)?;
        Ok(Some(Prepared::of(NewContent::Blob(digest, len))))
    }

    fn small(
        &self,
        bytes: Cow<'_, [u8]>,
        sparse: Option<Vec<Run>>,
        device: Option<&dyn BlockDevice>,
    ) -> Result<Prepared> {
        let len = to_u64(bytes.len());
        if len == 0 {
            return Ok(Prepared { sparse, ..Prepared::nothing() });
        }
        if len <= INLINE_BYTES {
            return Ok(Prepared { sparse, ..Prepared::of(NewContent::Inline(bytes.into_owned())) });
        }
        let digest = Digest::of(&bytes);
        let content = NewContent::Blob(digest, len);
        if self.is_stored(&digest, len)? {
            self.deduplicated(len)?;
            return Ok(Prepared { sparse, ..Prepared::of(content) });
        }
        if len < self.store.version().pack_threshold_bytes {
            return Ok(Prepared { content, sparse, to_pack: Some(bytes.into_owned()) });
        }
        let mut written = self.loose_file()?;
        if let Some(device) = device.filter(|_| !self.compressed()) {
            let runs = [Run { offset: 0, len }];
            if let Some(copied) = self.clone_runs(device, &runs, &written.file)? {
                self.keep(written, digest, len, len.saturating_sub(copied))?;
                return Ok(Prepared { sparse, ..Prepared::of(content) });
            }
        }
        written.write(&bytes, self.compressed())?;
        self.keep(written, digest, len, 0)?;
        Ok(Prepared { sparse, ..Prepared::of(content) })
    }

    /// Stores `len` bytes that come from elsewhere under their digest; other bytes are refused.
    pub(in super::super) fn adopt(&self, digest: &Digest, len: u64, from: &mut dyn Read) -> Result<()> {
        let failed = |error| Error::io("read", "the archive", error);
        let refused = |found| Error::corrupt("cache archive", "blob", 0, found, digest);
        if len < self.store.version().pack_threshold_bytes {
            let mut bytes = Vec::new();
            from.take(len).read_to_end(&mut bytes).map_err(failed)?;
            if to_u64(bytes.len()) != len || Digest::of(&bytes) != *digest {
                return Err(refused(Digest::of(&bytes)));
            }
            if self.is_stored(digest, len)? {
                return self.deduplicated(len);
            }
            let mut tree = self.tree.lock().unwrap_or_else(PoisonError::into_inner);
            return self.pack(&mut tree, *digest, &bytes);
        }
        if self.is_stored(digest, len)? {
            return self.deduplicated(len);
        }
        let mut file = self.loose_file()?;
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; BUFFER];
        let (mut left, compress) = (len, self.compressed());
        let mut encoder = if compress {
            Some(zstd::stream::write::Encoder::new(file.file.try_clone().map_err(failed)?, 3).map_err(failed)?)
        } else {
            None
        };
        while left > 0 {
            let want = to_usize(left).min(buffer.len());
            let part = buffer.get_mut(..want).unwrap_or_default();
            from.read_exact(part).map_err(failed)?;
            hasher.update(part);
            match &mut encoder {
                Some(encoder) => std::io::Write::write_all(encoder, part).map_err(failed)?,
                None => file.append(part)?,
            }
            left = left.saturating_sub(to_u64(want));
        }
        if let Some(encoder) = encoder {
            encoder.finish().map_err(failed)?;
        }
        file.compressed = compress;
        let found = Digest::from(hasher.finalize());
        if found != *digest {
            return Err(refused(found));
        }
        self.keep(file, found, len, 0)
    }

    /// Whether the blob is there, by a look that is cheap: it is asked of each file. What gc takes away between this and the
    /// end is looked for again then; what it took before and is not seen here is stored a second time.
    fn is_stored(&self, digest: &Digest, len: u64) -> Result<bool> {
        if let Some((pack, _)) = self.store.catalog().find(digest) {
            let mut there = self.packs_there.lock().unwrap_or_else(PoisonError::into_inner);
            if *there.entry(pack.id).or_insert_with(|| self.store.pack_is_there(&pack)) {
                return Ok(true);
            }
        }
        // What is small is in packs, here and in the trash.
        let is_small = len < self.store.version().pack_threshold_bytes;
        if is_small && self.store.condemned().find(digest).is_none() {
            return Ok(false);
        }
        if !is_small && self.store.has_file(digest, len, self.compressed()) {
            return Ok(true);
        }
        if !is_small && !self.condemned.contains(&trash::object_name(digest, self.compressed())) {
            return Ok(false);
        }
        self.store.has(digest, len)
    }

    fn compressed(&self) -> bool {
        self.store.version().compression == Compression::Zstd
    }

    /// Hashes the runs, and stores them when they are new.
    fn large(&self, device: &dyn BlockDevice, runs: &[Run], stored: u64) -> Result<Digest> {
        let mut hasher = blake3::Hasher::new();
        for_each_part(device, runs, &mut |part| {
            hasher.update(part);
            Ok(())
        })?;
        let digest = Digest::from(hasher.finalize());
        let known = self.loose.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&digest);
        if known || self.is_stored(&digest, stored)? {
            self.deduplicated(stored)?;
            return Ok(digest);
        }
        let mut file = self.loose_file()?;
        let cloned = if self.compressed() { None } else { self.clone_runs(device, runs, &file.file)? };
        if let Some(copied) = cloned {
            self.keep(file, digest, stored, stored.saturating_sub(copied))?;
            return Ok(digest);
        }
        // Hashed again: what is stored under a digest has it, also when the device did change.
        let mut hasher = blake3::Hasher::new();
        if self.compressed() {
            let failed = |error| Error::io("compress into", "the cache", error);
            let mut encoder = zstd::stream::write::Encoder::new(&file.file, 3).map_err(failed)?;
            for_each_part(device, runs, &mut |part| {
                hasher.update(part);
                std::io::Write::write_all(&mut encoder, part).map_err(failed)
            })?;
            encoder.finish().map_err(failed)?;
            file.compressed = true;
        } else {
            for_each_part(device, runs, &mut |part| {
                hasher.update(part);
                file.append(part)
            })?;
        }
        if Digest::from(hasher.finalize()) != digest {
            return Err(Error::corrupt(
                "image",
                "file content",
                0,
                "bytes that change",
                "a disk that nobody writes to",
            ));
        }
        self.keep(file, digest, stored, 0)?;
        Ok(digest)
    }

    /// Clones the runs, one behind the other, into `to`; how many bytes had to be copied because they fill no whole block.
    /// `None` when nothing can be cloned from there.
    fn clone_runs(&self, device: &dyn BlockDevice, runs: &[Run], to: &File) -> Result<Option<u64>> {
        let (mut at, mut copied) = (0u64, 0u64);
        let mut buffer = Vec::new();
        for run in runs {
            let (mut offset, end) = (run.offset, run.offset.saturating_add(run.len));
            while offset < end {
                if !self.can_clone.load(Ordering::Relaxed) {
                    return Ok(None);
                }
                let Some(host) = device.host_range(offset..end).filter(|host| host.len > 0) else { return Ok(None) };
                let len = host.len.min(end.saturating_sub(offset));
                let whole =
                    if at.is_multiple_of(BLOCK) && host.offset.is_multiple_of(BLOCK) { len / BLOCK * BLOCK } else { 0 };
                if whole > 0 {
                    match crate::sys::clone_range(host.file, host.offset, whole, to, at) {
                        Ok(()) => {}
                        Err(rustix::io::Errno::INVAL) => return Ok(None),
                        Err(_) => {
                            // Another filesystem, or one without reflinks: it will not be different for the next file.
                            self.can_clone.store(false, Ordering::Relaxed);
                            return Ok(None);
                        }
                    }
                }
                let rest = len.saturating_sub(whole);
                // One tail of a block is copied; more of it means that nothing fits.
                if rest >= BLOCK {
                    return Ok(None);
                }
                if rest > 0 {
                    buffer.resize(to_usize(rest), 0);
                    device.read_exact_at(&mut buffer, offset.saturating_add(whole))?;
                    let written = to.write_all_at(&buffer, at.saturating_add(whole));
                    written.map_err(|error| Error::io("write to", "the cache", error))?;
                    copied = copied.saturating_add(rest);
                }
                (offset, at) = (offset.saturating_add(len), at.saturating_add(len));
            }
        }
        Ok(Some(copied))
    }

    fn loose_file(&self) -> Result<NewObject> {
        let path = self.staging.join(format!("object-{}", random()));
        let file = File::options().write(true).create_new(true).open(&path);
        let file = file.map_err(|error| Error::io("create", path.display(), error))?;
        Ok(NewObject { file, path, at: 0, compressed: false, kept: false })
    }

    /// Remembers an object for the end; another thread may have stored the same meanwhile.
    fn keep(&self, mut new: NewObject, digest: Digest, len: u64, cloned: u64) -> Result<()> {
        seal(&new.file, &new.path, &digest)?;
        if self.options.durability == Durability::Full {
            new.file.sync_all().map_err(|error| Error::io("sync", new.path.display(), error))?;
        }
        let mut loose = self.loose.lock().unwrap_or_else(PoisonError::into_inner);
        if loose.contains_key(&digest) {
            drop(loose);
            return self.deduplicated(len);
        }
        new.kept = true;
        loose.insert(digest, Loose { path: new.path.clone(), len, compressed: new.compressed });
        drop(loose);
        add(&self.counters.new_blobs, 1);
        add(&self.counters.new_bytes, len);
        add(&self.counters.cloned_bytes, cloned);
        add(&self.counters.cloned_blobs, u64::from(cloned > 0));
        add(&self.counters.written_bytes, len.saturating_sub(cloned));
        Ok(())
    }
}

/// An object that is being written; removed unless it is kept.
struct NewObject {
    file: File,
    path: std::path::PathBuf,
    at: u64,
    compressed: bool,
    kept: bool,
}

impl NewObject {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let written = self.file.write_all_at(bytes, self.at);
        written.map_err(|error| Error::io("write", self.path.display(), error))?;
        self.at = self.at.saturating_add(to_u64(bytes.len()));
        Ok(())
    }

    /// All of a small object at once.
    fn write(&mut self, bytes: &[u8], compress: bool) -> Result<()> {
        let packed = if compress { zstd::bulk::compress(bytes, 3).ok() } else { None };
        self.compressed = packed.is_some();
        self.append(packed.as_deref().unwrap_or(bytes))
    }
}

impl Drop for NewObject {
    fn drop(&mut self) {
        if !self.kept {
            let _ = std::fs::remove_file(Path::new(&self.path));
        }
    }
}

/// Where a device's data lies, in whole blocks: what remains between the runs are holes.
fn data_runs(device: &dyn BlockDevice) -> Result<Vec<Run>> {
    let size = device.size();
    let mut runs: Vec<Run> = Vec::new();
    for_each_extent(device, 0..size, &mut |range, kind| {
        if kind != ExtentKind::Data {
            return Ok(());
        }
        let start = range.start / BLOCK * BLOCK;
        let end = range.end.checked_next_multiple_of(BLOCK).unwrap_or(u64::MAX).min(size);
        match runs.last_mut() {
            Some(last) if last.offset.saturating_add(last.len) >= start => last.len = end.saturating_sub(last.offset),
            _ => {
                limits::check("runs of data of one file", to_u64(runs.len()), limits::CACHE_DATA_RUNS)?;
                runs.push(Run { offset: start, len: end.saturating_sub(start) });
            }
        }
        Ok(())
    })?;
    Ok(runs)
}

fn for_each_part(device: &dyn BlockDevice, runs: &[Run], show: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let longest = runs.iter().map(|run| run.len).max().unwrap_or(0);
    let mut buffer = vec![0; to_usize(longest).min(BUFFER)];
    for run in runs {
        let (mut offset, end) = (run.offset, run.offset.saturating_add(run.len));
        while offset < end {
            let len = to_usize(end.saturating_sub(offset)).min(buffer.len());
            let part = buffer.get_mut(..len).unwrap_or_default();
            device.read_exact_at(part, offset)?;
            show(part)?;
            offset = offset.saturating_add(to_u64(len));
        }
    }
    Ok(())
}
