//! A pack's index in memory.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::super::Digest;
use super::{INDEX_HEADER, INDEX_MAGIC, INDEX_RECORD, PACK_HEADER, PACK_MAGIC, RECORD_HEADER, VERSION, unpack};
use crate::bytes::{Record, escape, low_u32, to_u64, to_usize};
use crate::error::{Error, Result};
use crate::limits;

/// Where a blob lies in a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// Of the stored bytes.
    pub(crate) offset: u64,
    /// How many are stored.
    pub(crate) stored: u32,
    /// How many the blob has.
    pub(crate) len: u32,
}

/// The index: the file's own records, checked once.
#[derive(Debug, Clone)]
pub(crate) struct Index {
    bytes: Vec<u8>,
}

impl Index {
    /// The index of the blobs at these places, in any order.
    pub(super) fn build(id: &Digest, pack_len: u64, mut places: Vec<(Digest, Place)>) -> Self {
        places.sort_unstable_by_key(|(digest, _)| *digest);
        places.dedup_by_key(|(digest, _)| *digest);
        let mut bytes = INDEX_MAGIC.to_vec();
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(low_u32(to_u64(places.len())).to_le_bytes());
        bytes.extend(pack_len.to_le_bytes());
        bytes.extend(id.as_bytes());
        bytes.extend([0; 8]);
        for (digest, place) in places {
            bytes.extend(digest.as_bytes());
            bytes.extend(place.offset.to_le_bytes());
            bytes.extend(place.stored.to_le_bytes());
            bytes.extend(place.len.to_le_bytes());
        }
        let digest = Digest::of(&bytes);
        bytes.extend(digest.as_bytes());
        Self { bytes }
    }

    /// Takes an index file's bytes; `id` is the pack that it must belong to.
    pub(super) fn parse(bytes: Vec<u8>, id: &Digest) -> Result<Self> {
        let record = Record::new("pack index", &bytes, 0);
        let count = to_usize(u64::from(record.le32(12)?));
        limits::check("blobs of a pack", to_u64(count), limits::CACHE_PACK_BLOBS)?;
        let body = INDEX_HEADER.saturating_add(count.saturating_mul(INDEX_RECORD));
        if record.len() != body.saturating_add(32) {
            return Err(record.corrupt("length", 12, record.len(), body.saturating_add(32)));
        }
        let digest = Digest::of(record.slice(0, body)?);
        if record.array::<32>(body)? != digest.as_bytes() {
            return Err(record.corrupt("digest", body, "another", digest));
        }
        if record.array::<8>(0)? != INDEX_MAGIC || record.le32(8)? != VERSION {
            return Err(record.corrupt("magic", 0, escape(record.slice(0, 12)?), "GCTLPIDX, version 1"));
        }
        if record.array::<32>(24)? != id.as_bytes() {
            return Err(record.corrupt("pack", 24, "another pack's", id));
        }
        let index = Self { bytes };
        let mut last = None;
        for (digest, place) in index.iter() {
            let end = place.offset.saturating_add(u64::from(place.stored));
            if last >= Some(digest) || end > index.pack_len() || place.stored > place.len {
                let record = Record::new("pack index", &index.bytes, 0);
                return Err(record.corrupt("record", INDEX_HEADER, digest, "digests in order, in the pack"));
            }
            last = Some(digest);
        }
        Ok(index)
    }

    /// Reads the index beside a pack, and makes it from the pack when it is damaged.
    pub(super) fn load(path: &Path, pack: &Path, id: &Digest) -> Result<Self> {
        let limit = limits::CACHE_PACK_BLOBS.saturating_mul(to_u64(INDEX_RECORD)).saturating_add(4096);
        let read = super::super::record::read_within(path, limit)?;
        let parsed = read.map(|bytes| Self::parse(bytes, id)).transpose();
        match parsed {
            Ok(Some(index)) => Ok(index),
            Ok(None) => Self::scan(pack, id),
            Err(error) => {
                log::warn!("{error} ({}): made again from the pack", path.display());
                Self::scan(pack, id)
            }
        }
    }

    /// Makes the index from the pack itself: of the records that are what their digests say.
    pub(crate) fn scan(pack: &Path, id: &Digest) -> Result<Self> {
        let failed = |error| Error::io("read", pack.display(), error);
        let file = File::open(pack).map_err(failed)?;
        let len = file.metadata().map_err(failed)?.len();
        limits::check("bytes of a pack", len, limits::CACHE_PACK_BYTES)?;
        let mut bytes = vec![0; to_usize(len)];
        file.read_exact_at(&mut bytes, 0).map_err(failed)?;
        let record = Record::new("pack", &bytes, 0);
        if record.array::<8>(0)? != PACK_MAGIC || record.le32(8)? != VERSION || record.le32(12)? != 0 {
            return Err(record.corrupt("magic", 0, escape(record.slice(0, 8)?), "GCTLPACK, version 1"));
        }
        let mut places = Vec::new();
        let mut at = PACK_HEADER;
        while at < len {
            // A damaged length ends the scan: where the next record begins is not known.
            let Ok(head) = record.sub(to_usize(at), to_usize(RECORD_HEADER)) else { break };
            let digest = Digest::from_bytes(*head.array(0)?);
            let offset = at.saturating_add(RECORD_HEADER);
            let place = Place { offset, stored: head.le32(32)?, len: head.le32(36)? };
            let end = offset.saturating_add(u64::from(place.stored));
            let Ok(stored) = record.slice(to_usize(offset), to_usize(u64::from(place.stored))) else { break };
            let whole = u64::from(place.len) <= limits::CACHE_PACK_BYTES && place.stored <= place.len;
            if whole && unpack(stored, &place).is_ok_and(|blob| Digest::of(&blob) == digest) {
                places.push((digest, place));
            }
            at = end;
        }
        Ok(Self::build(id, len, places))
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Bytes of the pack.
    pub(crate) fn pack_len(&self) -> u64 {
        Record::new("pack index", &self.bytes, 0).le64(16).unwrap_or(0)
    }

    /// Blobs.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len().saturating_sub(INDEX_HEADER.saturating_add(32)) / INDEX_RECORD
    }

    fn get(&self, index: usize) -> Option<(Digest, Place)> {
        let at = INDEX_HEADER.saturating_add(index.saturating_mul(INDEX_RECORD));
        let record = Record::new("pack index", self.bytes.get(at..)?.get(..INDEX_RECORD)?, 0);
        let place = Place { offset: record.le64(32).ok()?, stored: record.le32(40).ok()?, len: record.le32(44).ok()? };
        Some((Digest::from_bytes(*record.array(0).ok()?), place))
    }

    /// Where a blob lies.
    pub(crate) fn find(&self, digest: &Digest) -> Option<Place> {
        let at = |index: usize| {
            let start = INDEX_HEADER.saturating_add(index.saturating_mul(INDEX_RECORD));
            self.bytes.get(start..)?.first_chunk::<32>()
        };
        let found = super::super::digest::position(self.len(), digest, at)?;
        self.get(found).map(|(_, place)| place)
    }

    /// All blobs, by digest.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Digest, Place)> + '_ {
        (0..self.len()).filter_map(|index| self.get(index))
    }
}
