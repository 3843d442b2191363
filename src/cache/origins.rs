//! Where contents come from: a file whose bytes lie where those of an earlier import lay, in a host file that has not changed
//! since, is known without being read. So the second image on one backing file costs what is its own.
//!
//! ```text
//! origins/<64 hex>   0    8  "GCTLORIG"
//!                    8    4  version: 1
//!                   12    4  records: n
//!                   16  72n  place (32), digest of the blob (32), its length (8); sorted by place
//!                       32  BLAKE3 of all before it
//! ```
//!
//! One table for each host file, named by what `stat(2)` tells of it: a file that changes leaves its table behind, and gc
//! removes it. A place is the digest of the ranges in that file, one behind the other. Integers are little-endian. Losing
//! a table loses time.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use super::identity::Stamp;
use super::store::Store;
use super::{Digest, ImageId, record};
use crate::block::BlockDevice;
use crate::bytes::{Record, low_u32, to_u64, to_usize};
use crate::limits;

const MAGIC: &[u8; 8] = b"GCTLORIG";
const VERSION: u32 = 1;
const HEADER: usize = 16;
const RECORD: usize = 72;

/// Ranges of one file: one with more is read as it ever was.
const RANGES: usize = 4096;

/// How long a table that nobody used is kept.
const UNUSED: Duration = Duration::from_secs(30 * 24 * 3600);

/// Where a file's content lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    host: usize,
    place: Digest,
}

/// What is known of the contents in some images' host files.
#[derive(Debug)]
pub struct Origins {
    hosts: Vec<Host>,
    /// The host file behind an open descriptor: a device keeps its files open.
    descriptors: Mutex<HashMap<RawFd, Option<usize>>>,
}

#[derive(Debug)]
struct Host {
    stamp: Stamp,
    known: Vec<u8>,
    learnt: Mutex<HashMap<Digest, (Digest, u64)>>,
}

impl Store {
    /// What earlier imports told of the host files of these images. Files that have just been changed are left out.
    #[must_use]
    pub fn origins(&self, images: &[ImageId]) -> Origins {
        let now = SystemTime::now();
        let stamps = images.iter().flat_map(ImageId::stamps).filter(|stamp| stamp.is_settled(now));
        let host = |stamp: Stamp| Host { known: self.read_origins(&stamp), stamp, learnt: Mutex::default() };
        Origins { hosts: stamps.map(host).collect(), descriptors: Mutex::default() }
    }

    fn origins_of(&self, stamp: &Stamp) -> PathBuf {
        self.path().join("origins").join(Digest::derive("guestctl.origins.v1", [&stamp.to_bytes()[..]]).hex())
    }

    /// The records of a table; none when it is not there or damaged.
    fn read_origins(&self, stamp: &Stamp) -> Vec<u8> {
        let path = self.origins_of(stamp);
        let parsed =
            record::read_within(&path, limits::CACHE_MANIFEST_BYTES).map(|bytes| parse(bytes.unwrap_or_default()));
        match parsed {
            Ok(Some(records)) => {
                if let Ok(file) = File::open(&path) {
                    let _ = file.set_modified(SystemTime::now());
                }
                records
            }
            _ => Vec::new(),
        }
    }

    /// Keeps what was learnt. That it could not be kept is nobody's trouble.
    pub fn keep_origins(&self, origins: &Origins, images: &[ImageId]) {
        if !self.is_writable() || !images.iter().all(ImageId::is_unchanged) {
            return;
        }
        let _ = std::fs::create_dir(self.path().join("origins"));
        for host in &origins.hosts {
            let learnt = host.learnt.lock().unwrap_or_else(PoisonError::into_inner);
            if learnt.is_empty() {
                continue;
            }
            let kept =
                record::replace_soon(&self.staging(), &self.origins_of(&host.stamp), &build(&host.known, &learnt));
            if let Err(error) = kept {
                log::debug!("{error}: not remembered where contents lie");
            }
        }
    }

    /// Removes tables that nobody used for long.
    pub(super) fn forget_origins(&self) {
        for entry in std::fs::read_dir(self.path().join("origins")).into_iter().flatten().flatten() {
            let used = entry.metadata().and_then(|metadata| metadata.modified());
            if used.is_ok_and(|used| used.elapsed().is_ok_and(|age| age > UNUSED)) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }
}

impl Origins {
    /// Where a content lies, if all of it lies in one host file that is known. One with holes, or that is stored packed, has
    /// no such place.
    #[must_use]
    pub fn of(&self, content: &dyn BlockDevice) -> Option<Origin> {
        if self.hosts.is_empty() || content.size() == 0 {
            return None;
        }
        let (mut at, size) = (0, content.size());
        let mut host = None;
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        while at < size {
            let range = content.host_range(at..size)?;
            let this = self.host_of(range.file)?;
            if range.len == 0 || *host.get_or_insert(this) != this {
                return None;
            }
            let full = ranges.len() >= RANGES;
            match ranges.last_mut() {
                Some((offset, len)) if offset.saturating_add(*len) == range.offset => {
                    *len = len.saturating_add(range.len);
                }
                _ if full => return None,
                _ => ranges.push((range.offset, range.len)),
            }
            at = at.saturating_add(range.len);
        }
        let bytes: Vec<u8> =
            ranges.iter().flat_map(|(offset, len)| [*offset, *len]).flat_map(u64::to_le_bytes).collect();
        Some(Origin { host: host?, place: Digest::of(&bytes) })
    }

    fn host_of(&self, file: &File) -> Option<usize> {
        let mut descriptors = self.descriptors.lock().unwrap_or_else(PoisonError::into_inner);
        *descriptors.entry(file.as_raw_fd()).or_insert_with(|| {
            let stamp = Stamp::of(&file.metadata().ok()?);
            self.hosts.iter().position(|host| host.stamp == stamp)
        })
    }

    /// The blob at a place, and its length.
    #[must_use]
    pub fn known(&self, origin: &Origin) -> Option<(Digest, u64)> {
        let records = &self.hosts.get(origin.host)?.known;
        let at = |index: usize| records.get(index.saturating_mul(RECORD)..)?.first_chunk::<32>();
        let found = super::digest::position(records.len() / RECORD, &origin.place, at)?;
        let (digest, len) =
            records.get(found.saturating_mul(RECORD).saturating_add(32)..)?.split_first_chunk::<32>()?;
        Some((Digest::from_bytes(*digest), u64::from_le_bytes(*len.first_chunk()?)))
    }

    /// The content at this place was read, and is this blob.
    pub fn learn(&self, origin: &Origin, digest: Digest, len: u64) {
        if let Some(host) = self.hosts.get(origin.host) {
            host.learnt.lock().unwrap_or_else(PoisonError::into_inner).insert(origin.place, (digest, len));
        }
    }
}

/// The records of a table.
fn parse(mut bytes: Vec<u8>) -> Option<Vec<u8>> {
    let record = Record::new("origins", &bytes, 0);
    let count = to_usize(u64::from(record.le32(12).ok()?));
    let end = HEADER.saturating_add(count.saturating_mul(RECORD));
    let is_ours = record.array::<8>(0).ok()? == MAGIC && record.le32(8).ok()? == VERSION;
    let sum = Digest::of(record.slice(0, end).ok()?);
    if !is_ours || bytes.len() != end.saturating_add(32) || record.array::<32>(end).ok()? != sum.as_bytes() {
        return None;
    }
    bytes.truncate(end);
    bytes.drain(..HEADER);
    Some(bytes)
}

fn build(known: &[u8], learnt: &HashMap<Digest, (Digest, u64)>) -> Vec<u8> {
    let mut records: Vec<Vec<u8>> = known
        .chunks_exact(RECORD)
        .filter(|record| {
            let place = record.first_chunk::<32>().map(|place| Digest::from_bytes(*place));
            !place.is_some_and(|place| learnt.contains_key(&place))
        })
        .map(<[u8]>::to_vec)
        .collect();
    for (place, (digest, len)) in learnt {
        records.push([&place.as_bytes()[..], digest.as_bytes(), &len.to_le_bytes()].concat());
    }
    records.sort_unstable();
    let mut bytes = MAGIC.to_vec();
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend(low_u32(to_u64(records.len())).to_le_bytes());
    records.iter().for_each(|record| bytes.extend(record));
    let sum = Digest::of(&bytes);
    bytes.extend(sum.as_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_found_again_and_a_damaged_one_is_none() {
        let digest = |number: u32| Digest::of(&number.to_le_bytes());
        let learnt: HashMap<_, _> = (0..100u32).map(|n| (digest(n), (digest(n + 1000), u64::from(n)))).collect();
        let first = parse(build(&[], &learnt)).unwrap();
        let more = HashMap::from([(digest(7), (digest(1), 2)), (digest(200), (digest(3), 4))]);
        let bytes = build(&first, &more);
        let known = parse(bytes.clone()).unwrap();
        let stamp = Stamp::of(&tempfile::tempfile().unwrap().metadata().unwrap());
        let host = Host { stamp, known, learnt: Mutex::default() };
        let origins = Origins { hosts: vec![host], descriptors: Mutex::default() };
        let find = |place| origins.known(&Origin { host: 0, place });
        for number in (0..100).filter(|number| *number != 7) {
            assert_eq!(find(digest(number)), Some((digest(number + 1000), u64::from(number))));
        }
        assert_eq!(find(digest(7)), Some((digest(1), 2)));
        assert_eq!(find(digest(200)), Some((digest(3), 4)));
        assert_eq!(find(digest(201)), None);
        for at in [0, 9, 12, 50, bytes.len() - 1] {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert_eq!(parse(damaged), None, "byte {at}");
        }
        assert_eq!(parse(bytes[..bytes.len() - 1].to_vec()), None);
        assert_eq!(parse(Vec::new()), None);
    }
}
