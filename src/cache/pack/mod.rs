//! Packs: many small blobs in one file, in the order in which they are restored.
//!
//! ```text
//! <id>.pack   0    8  "GCTLPACK"
//!             8    4  version: 1
//!            12    4  zero
//!            16       records: digest (32), stored length (4), length (4), stored bytes
//!
//! <id>.idx    0    8  "GCTLPIDX"
//!             8    4  version: 1
//!            12    4  records: n
//!            16    8  length of the pack
//!            24   32  its id
//!            56    8  zero
//!            64  48n  digest (32), offset of the stored bytes (8), stored length (4), length (4); sorted by digest
//!                 32  BLAKE3 of all before it
//! ```
//!
//! A pack's id is the BLAKE3 digest of the file. Stored bytes of fewer than `length` bytes are a zstd frame. The index can
//! be made again from the pack. Integers are little-endian; a digest is in a pack once.
#![deny(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::as_conversions)]
#![cfg_attr(test, allow(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::as_conversions))]

mod catalog;
mod index;
mod write;

use std::borrow::Cow;

pub(super) use catalog::{Catalog, Pack, Window};
pub(super) use index::{Index, Place};
pub(super) use write::{Finished, Writer};

const PACK_MAGIC: &[u8; 8] = b"GCTLPACK";
const INDEX_MAGIC: &[u8; 8] = b"GCTLPIDX";
const VERSION: u32 = 1;
const PACK_HEADER: u64 = 16;
const RECORD_HEADER: u64 = 40;
const INDEX_HEADER: usize = 64;
const INDEX_RECORD: usize = 48;

/// A pack that has grown to this many bytes is closed.
pub(super) const FULL: u64 = 32 << 20;

/// Stored bytes as the blob's own.
pub(super) fn unpack<'a>(stored: &'a [u8], place: &Place) -> crate::Result<Cow<'a, [u8]>> {
    if place.stored == place.len {
        return Ok(Cow::Borrowed(stored));
    }
    let len = crate::bytes::to_usize(u64::from(place.len));
    let unpacked = zstd::bulk::decompress(stored, len);
    let unpacked =
        unpacked.map_err(|error| crate::Error::corrupt("pack", "blob", place.offset, error, "a zstd frame"))?;
    if unpacked.len() != len {
        return Err(crate::Error::corrupt("pack", "length", place.offset, unpacked.len(), len));
    }
    Ok(Cow::Owned(unpacked))
}
