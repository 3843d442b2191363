//! Which image this is, by its content.
//!
//! An image's id is the digest of its files' bytes, backing files included, holes and zeroes skipped: the same disk in a
//! sparse and in a full file has one id. Reading it all takes a while, so digests of files are remembered by what `stat(2)`
//! tells, in `index.redb`. As in git, a file that was changed within two seconds of being read is not remembered: it could
//! change again and look the same. Losing the index loses time.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rayon::prelude::*;
use redb::{Database, ReadableDatabase, TableDefinition};

use super::Digest;
use super::store::Store;
use crate::block::{BlockDevice, ExtentKind, FormatSpecific, HostFile, ImageFormat, ImageInfo, OpenOptions};
use crate::bytes::{to_u64, to_usize};
use crate::error::Result;

/// Device and inode, to what was found there.
const FILES: TableDefinition<'_, (u64, u64), (u64, i128, i128, [u8; 32])> = TableDefinition::new("files");

/// Bytes that one thread reads at a time.
const CHUNK: u64 = 4 << 20;

/// Times closer to now than this say nothing.
const RACY: Duration = Duration::from_secs(2);

impl Store {
    /// The id of the image at `path`. `None` when it has parts that its headers do not list (VMDK), or is no file.
    pub fn image_id(&self, path: &Path, options: &OpenOptions) -> Result<Option<Digest>> {
        let chain = ImageInfo::read_chain(path, options)?;
        let mut parts = Vec::new();
        for info in &chain {
            let has_other_file = match &info.format_specific {
                Some(FormatSpecific::Qcow2 { data_file, .. }) => data_file.is_some(),
                _ => false,
            };
            if info.format == ImageFormat::Vmdk || has_other_file {
                return Ok(None);
            }
            let file = Path::new(&info.filename);
            if !file.is_file() {
                return Ok(None);
            }
            parts.push(info.format.name().as_bytes().to_vec());
            parts.push(self.file_digest(file)?.as_bytes().to_vec());
        }
        Ok(Some(Digest::derive("guestctl.image.v1", parts.iter().map(Vec::as_slice))))
    }

    /// The digest of one file, remembered or read.
    fn file_digest(&self, path: &Path) -> Result<Digest> {
        let file = HostFile::open(path)?;
        let stat = |file: &HostFile| file.file().metadata().ok();
        let before = stat(&file);
        let key = before.as_ref().map(|stat| (stat.dev(), stat.ino()));
        if let Some((before, key)) = before.as_ref().zip(key)
            && let Some((size, mtime, ctime, digest)) = self.remembered(key)
            && (size, mtime, ctime)
                == (
                    before.len(),
                    nanoseconds(before.mtime(), before.mtime_nsec()),
                    nanoseconds(before.ctime(), before.ctime_nsec()),
                )
        {
            return Ok(Digest::from_bytes(digest));
        }
        let begun = SystemTime::now();
        let digest = digest_of(&file)?;
        if let Some((before, key)) = before.zip(key)
            && is_settled(&before, begun)
        {
            let mtime = nanoseconds(before.mtime(), before.mtime_nsec());
            let ctime = nanoseconds(before.ctime(), before.ctime_nsec());
            self.remember(key, (before.len(), mtime, ctime, *digest.as_bytes()));
        }
        Ok(digest)
    }

    fn index(&self) -> Option<Database> {
        // Another process may have it: then nothing is remembered this time. A damaged one is made anew.
        let path = self.path().join("index.redb");
        match Database::create(&path) {
            Ok(index) => Some(index),
            Err(redb::DatabaseError::DatabaseAlreadyOpen) => None,
            Err(error) => {
                log::debug!("{}: {error}: made anew", path.display());
                if self.is_writable() {
                    let _ = std::fs::remove_file(&path);
                }
                None
            }
        }
    }

    fn remembered(&self, key: (u64, u64)) -> Option<(u64, i128, i128, [u8; 32])> {
        if !self.path().join("index.redb").exists() {
            return None;
        }
        let table = self.index()?.begin_read().ok()?.open_table(FILES).ok()?;
        let found = redb::ReadableTable::get(&table, key).ok()??;
        Some(found.value())
    }

    fn remember(&self, key: (u64, u64), value: (u64, i128, i128, [u8; 32])) {
        if !self.is_writable() {
            return;
        }
        let Some(index) = self.index() else { return };
        let remembered = (|| {
            let write = index.begin_write()?;
            write.open_table(FILES)?.insert(key, value)?;
            write.commit()?;
            Ok::<(), redb::Error>(())
        })();
        if let Err(error) = remembered {
            log::debug!("index.redb: {error}");
        }
    }
}

fn nanoseconds(seconds: i64, nanoseconds: i64) -> i128 {
    i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds)
}

/// Whether the file's last change is long enough ago for its time to tell it from a next one.
fn is_settled(stat: &std::fs::Metadata, begun: SystemTime) -> bool {
    let changed = [(stat.mtime(), stat.mtime_nsec()), (stat.ctime(), stat.ctime_nsec())];
    let last = changed.into_iter().map(|(seconds, part)| nanoseconds(seconds, part)).max().unwrap_or(i128::MAX);
    let begun = begun.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    i128::try_from(begun).unwrap_or(0) > last.saturating_add_unsigned(RACY.as_nanos())
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
    use crate::cache::{InitOptions, Store};

    #[test]
    fn holes_do_not_show_changes_do_and_what_settled_is_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let store =
            Store::init(dir.path().join("s"), &InitOptions { pack_threshold: Some(0), ..Default::default() }).unwrap();
        let (sparse, full) = (dir.path().join("sparse.raw"), dir.path().join("full.raw"));
        let mut bytes = vec![0u8; 9 << 20];
        bytes[5 << 20] = 1;
        std::fs::write(&full, &bytes).unwrap();
        let file = std::fs::File::create(&sparse).unwrap();
        file.set_len(9 << 20).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &[1], 5 << 20).unwrap();
        let options = OpenOptions { format: Some(ImageFormat::Raw), ..OpenOptions::default() };
        let id = |path: &Path| store.image_id(path, &options).unwrap().unwrap();
        assert_eq!(id(&sparse), id(&full));
        // Just written: not remembered.
        assert!(!store.path().join("index.redb").exists());
        let stat = std::fs::metadata(&full).unwrap();
        assert!(!is_settled(&stat, SystemTime::now()));
        assert!(is_settled(&stat, SystemTime::now() + Duration::from_secs(3)));
        store.remember((1, 2), (3, 4, 5, [6; 32]));
        assert_eq!(store.remembered((1, 2)), Some((3, 4, 5, [6; 32])));
        assert_eq!(store.remembered((1, 3)), None);
        std::fs::write(store.path().join("index.redb"), b"damaged").unwrap();
        assert_eq!(store.remembered((1, 2)), None);
        store.remember((1, 2), (3, 4, 5, [7; 32]));
        store.remember((1, 2), (3, 4, 5, [7; 32]));
        assert_eq!(store.remembered((1, 2)), Some((3, 4, 5, [7; 32])));
        bytes[0] = 1;
        let before = id(&full);
        std::fs::write(&full, &bytes).unwrap();
        assert_ne!(id(&full), before);
    }
}
