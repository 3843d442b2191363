//! Which image this is.
//!
//! An image's id is made of the digests of its files: its own, and every file that it names and the gate lets in (backing
//! files, extents, data files). A file's digest is that of its bytes, holes and zeroes skipped: the same disk in a sparse and
//! in a full file has one id. Reading it all takes a while, so digests are remembered by what `stat(2)` tells of the file, in
//! `index/`, a record for each. As in git, a file that was changed within the last two seconds is not remembered: it could
//! change again and look the same. Losing the index loses time.
//!
//! Where reading the whole image would take longer than what its result saves, what `stat(2)` tells takes the digest's
//! place ([`Effort::Little`]): such an id ends with the file, and a copy has another.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rayon::prelude::*;

use super::store::Store;
use super::{Digest, record};
use crate::block::{self, BlockDevice, ExtentKind, GatePolicy, Gated, HostFile, OpenGate, OpenOptions, Reference};
use crate::bytes::{to_u64, to_usize};
use crate::error::{Error, Result};

/// Bytes that one thread reads at a time.
const CHUNK: u64 = 4 << 20;

/// Times closer to now than this say nothing.
const RACY: Duration = Duration::from_secs(2);

/// A change that is this much later than another has another time, where the kernel counts by its ticks.
const TICK: Duration = Duration::from_millis(20);

/// Allocated bytes of an image that are read without being asked for: a matter of milliseconds.
const FEW_BYTES: u64 = 64 << 20;

/// How much may be done to find an image's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// Digests that are remembered, and those of small files; else what `stat(2)` tells takes their place.
    Little,
    /// Every byte is read unless its file's digest is remembered.
    Whole,
}

/// An image's id, and the files that it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageId {
    digest: Digest,
    files: Vec<(PathBuf, Stamp)>,
}

impl ImageId {
    /// The id.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Bytes that the image's files take on the host.
    #[must_use]
    pub fn allocated_bytes(&self) -> u64 {
        let blocks = |path: &PathBuf| std::fs::metadata(path).map_or(0, |stat| stat.blocks());
        self.files.iter().map(|(path, _)| blocks(path).saturating_mul(512)).fold(0, u64::saturating_add)
    }

    pub(super) fn stamps(&self) -> impl Iterator<Item = Stamp> {
        self.files.iter().map(|(_, stamp)| *stamp)
    }

    /// Whether no file of the image has changed since.
    #[must_use]
    pub fn is_unchanged(&self) -> bool {
        self.files.iter().all(|(path, stamp)| std::fs::metadata(path).is_ok_and(|stat| Stamp::of(&stat) == *stamp))
    }
}

/// What `stat(2)` tells of a file's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    mtime: i128,
    ctime: i128,
}

impl Stamp {
    pub(super) fn of(stat: &std::fs::Metadata) -> Self {
        Self {
            device: stat.dev(),
            inode: stat.ino(),
            size: stat.len(),
            mtime: nanoseconds(stat.mtime(), stat.mtime_nsec()),
            ctime: nanoseconds(stat.ctime(), stat.ctime_nsec()),
        }
    }

    /// Whether the last change is long enough ago for its time to tell it from a next one.
    pub(super) fn is_settled(&self, now: SystemTime) -> bool {
        self.is_older(RACY, now)
    }

    fn is_older(&self, age: Duration, now: SystemTime) -> bool {
        let now = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_nanos());
        let last = self.mtime.max(self.ctime).saturating_add_unsigned(age.as_nanos());
        i128::try_from(now).unwrap_or(0) > last
    }

    pub(super) fn to_bytes(self) -> Vec<u8> {
        let numbers = [self.device, self.inode, self.size].into_iter().flat_map(u64::to_le_bytes);
        numbers.chain([self.mtime, self.ctime].into_iter().flat_map(i128::to_le_bytes)).collect()
    }

    /// The name of its record: the same for one inode, so that a file has one record.
    fn name(&self) -> Digest {
        Digest::derive("guestctl.inode.v1", [&self.device.to_le_bytes()[..], &self.inode.to_le_bytes()])
    }
}

fn nanoseconds(seconds: i64, nanoseconds: i64) -> i128 {
    i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds)
}

/// Lets in what another gate lets in, and remembers what that was.
#[derive(Debug)]
struct Recorder {
    gate: Arc<dyn OpenGate>,
    files: Mutex<Vec<PathBuf>>,
}

impl OpenGate for Recorder {
    fn open(&self, image: &Path, reference: &Reference) -> Result<Gated> {
        let gated = self.gate.open(image, reference)?;
        self.files.lock().unwrap_or_else(PoisonError::into_inner).push(gated.path.clone());
        Ok(gated)
    }

    fn policy(&self) -> Option<GatePolicy> {
        self.gate.policy()
    }
}

impl Store {
    /// The id of the image at `path`, which may name a snapshot or a disk (`#name`) like that of [`block::open`]. `None`
    /// when it is no file (an NBD export, a device), lies in several (`.001`), or when too little effort would have to do
    /// for a file that has just been changed.
    pub fn image_id(&self, path: &Path, options: &OpenOptions, effort: Effort) -> Result<Option<ImageId>> {
        let (file, part) = block::split_snapshot(path);
        if !file.is_file() || block::may_be_split(file) {
            return Ok(None);
        }
        let recorder = Arc::new(Recorder { gate: options.gate.clone(), files: Mutex::default() });
        let image = block::open(path, &OpenOptions { gate: recorder.clone(), ..options.clone() })?;
        let part = options.snapshot.as_deref().or(part).unwrap_or_default();
        let mut parts = vec![image.info.format.name().as_bytes().to_vec(), part.as_bytes().to_vec()];
        drop(image);
        let mut files = vec![file.to_owned()];
        files.append(&mut recorder.files.lock().unwrap_or_else(PoisonError::into_inner));
        let mut stamps = Vec::new();
        for file in files {
            let Some((id, stamp)) = self.file_id(&file, effort)? else { return Ok(None) };
            parts.push(id);
            stamps.push((file, stamp));
        }
        let digest = Digest::derive("guestctl.image.v2", parts.iter().map(Vec::as_slice));
        Ok(Some(ImageId { digest, files: stamps }))
    }

    /// What stands for one file's content: its digest, or its stamp.
    fn file_id(&self, path: &Path, effort: Effort) -> Result<Option<(Vec<u8>, Stamp)>> {
        let file = HostFile::open(path)?;
        let stat = file.file().metadata().map_err(|error| Error::io("stat", path.display(), error))?;
        if !stat.is_file() {
            return Ok(None);
        }
        let stamp = Stamp::of(&stat);
        let by_content = |digest: Digest| Ok(Some(([b"content", &digest.as_bytes()[..]].concat(), stamp)));
        if let Some(digest) = self.remembered(&stamp) {
            return by_content(digest);
        }
        let begun = SystemTime::now();
        if effort == Effort::Little && stat.blocks().saturating_mul(512) > FEW_BYTES {
            let settled = stamp.is_settled(begun);
            return Ok(settled.then(|| ([b"stat", &stamp.to_bytes()[..]].concat(), stamp)));
        }
        if !stamp.is_older(TICK, begun) {
            // Whatever is written from here on shows in the file's times.
            std::thread::sleep(TICK);
        }
        let digest = digest_of(&file)?;
        if stamp.is_settled(begun) {
            self.remember(&stamp, &digest);
        }
        by_content(digest)
    }

    fn record_of(&self, stamp: &Stamp) -> PathBuf {
        self.path().join("index").join(stamp.name().shard())
    }

    /// The digest of the file with this stamp, if it was remembered and the record is whole.
    fn remembered(&self, stamp: &Stamp) -> Option<Digest> {
        let bytes = std::fs::read(self.record_of(stamp)).ok()?;
        let digest = bytes.get(..32)?.try_into().ok()?;
        (bytes == fact(stamp, &Digest::from_bytes(digest))).then(|| Digest::from_bytes(digest))
    }

    /// Nothing waits for the disk: half a record is none.
    fn remember(&self, stamp: &Stamp, digest: &Digest) {
        if !self.is_writable() {
            return;
        }
        let path = self.record_of(stamp);
        let _ = std::fs::create_dir_all(path.parent().unwrap_or(&path));
        if let Err(error) = record::replace_soon(&self.staging(), &path, &fact(stamp, digest)) {
            log::debug!("{error}: not remembered");
        }
    }
}

/// A file's digest, and a digest of that and the file's stamp, which tells the record from half of it and from those of
/// other stamps.
fn fact(stamp: &Stamp, digest: &Digest) -> Vec<u8> {
    let sum = Digest::derive("guestctl.index.v1", [&stamp.to_bytes()[..], digest.as_bytes()]);
    [*digest.as_bytes(), *sum.as_bytes()].concat()
}

/// The digest of a file's bytes: of each chunk that is not all zeroes, with its number, on all threads.
fn digest_of(file: &HostFile) -> Result<Digest> {
    let size = file.size();
    let chunks = (0..size.div_ceil(CHUNK)).into_par_iter().map_init(Vec::new, |buffer, chunk| {
        let start = chunk * CHUNK;
        let end = (start + CHUNK).min(size);
        let first = file.next_extent(start..end)?;
        if first.kind != ExtentKind::Data && first.len >= end - start {
            return Ok(None);
        }
        buffer.resize(to_usize(end - start), 0);
        file.read_exact_at(buffer, start)?;
        Ok((!buffer.iter().all(|byte| *byte == 0)).then(|| Digest::of(buffer)))
    });
    let chunks = chunks.collect::<Result<Vec<Option<Digest>>>>()?;
    let mut parts = vec![size.to_le_bytes().to_vec()];
    for (number, digest) in chunks.into_iter().enumerate() {
        if let Some(digest) = digest {
            parts.push([&to_u64(number).to_le_bytes()[..], digest.as_bytes()].concat());
        }
    }
    Ok(Digest::derive("guestctl.file.v1", parts.iter().map(Vec::as_slice)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::ImageFormat;
    use crate::cache::InitOptions;

    fn store(directory: &Path) -> Store {
        Store::init(directory.join("s"), &InitOptions { pack_threshold: Some(0), ..Default::default() }).unwrap()
    }

    fn age(path: &Path) {
        let file = std::fs::File::options().write(true).open(path).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(60)).unwrap();
    }

    #[test]
    fn holes_do_not_show_and_changes_do() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let (sparse, full) = (dir.path().join("sparse.raw"), dir.path().join("full.raw"));
        let mut bytes = vec![0u8; 9 << 20];
        bytes[5 << 20] = 1;
        std::fs::write(&full, &bytes).unwrap();
        let file = std::fs::File::create(&sparse).unwrap();
        file.set_len(9 << 20).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &[1], 5 << 20).unwrap();
        let options = OpenOptions { format: Some(ImageFormat::Raw), ..OpenOptions::default() };
        let id = |path: &Path| store.image_id(path, &options, Effort::Whole).unwrap().unwrap();
        let before = id(&full);
        assert_eq!(id(&sparse).digest(), before.digest());
        assert!(before.is_unchanged());
        // Small images are read in any case.
        assert_eq!(store.image_id(&full, &options, Effort::Little).unwrap().unwrap(), before);
        // Just written: not remembered.
        assert!(!store.path().join("index").exists());
        bytes[0] = 1;
        std::fs::write(&full, &bytes).unwrap();
        assert!(!before.is_unchanged());
        assert_ne!(id(&full).digest(), before.digest());
    }

    #[test]
    fn a_change_right_behind_the_first_look_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let path = dir.path().join("image.raw");
        let options = OpenOptions { format: Some(ImageFormat::Raw), ..OpenOptions::default() };
        for number in 0..20u8 {
            std::fs::write(&path, [number; 512]).unwrap();
            let id = store.image_id(&path, &options, Effort::Little).unwrap().unwrap();
            assert!(id.is_unchanged());
            std::fs::write(&path, [number + 100; 512]).unwrap();
            assert!(!id.is_unchanged(), "{number}");
        }
    }

    #[test]
    fn what_settled_is_remembered_until_it_changes_or_the_record_is_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let path = dir.path().join("image");
        std::fs::write(&path, b"content").unwrap();
        age(&path);
        let stamp = Stamp::of(&std::fs::metadata(&path).unwrap());
        // The time of the last change of the inode cannot be set: it is now.
        assert!(!stamp.is_settled(SystemTime::now()));
        assert!(stamp.is_settled(SystemTime::now() + Duration::from_secs(3)));
        assert_eq!(store.remembered(&stamp), None);
        store.remember(&stamp, &Digest::of(b"content"));
        assert_eq!(store.remembered(&stamp), Some(Digest::of(b"content")));
        for other in [Stamp { size: 8, ..stamp }, Stamp { mtime: 1, ..stamp }, Stamp { ctime: 1, ..stamp }] {
            assert_eq!(store.remembered(&other), None);
        }
        assert_eq!(store.remembered(&Stamp { inode: stamp.inode + 1, ..stamp }), None);
        let record = store.record_of(&stamp);
        let mut bytes = std::fs::read(&record).unwrap();
        bytes[3] ^= 1;
        std::fs::write(&record, &bytes).unwrap();
        assert_eq!(store.remembered(&stamp), None);
        std::fs::write(&record, b"short").unwrap();
        assert_eq!(store.remembered(&stamp), None);
    }

    #[test]
    fn a_large_image_that_was_just_written_has_no_cheap_id() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let path = dir.path().join("large.raw");
        std::fs::write(&path, vec![1u8; to_usize(FEW_BYTES) + (1 << 20)]).unwrap();
        let options = OpenOptions { format: Some(ImageFormat::Raw), ..OpenOptions::default() };
        assert_eq!(store.image_id(&path, &options, Effort::Little).unwrap(), None);
        assert!(store.image_id(&path, &options, Effort::Whole).unwrap().is_some());
    }
}
