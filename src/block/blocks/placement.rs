//! Blocks of a new image: each gets its place in the file when the first run inside it is placed, in guest order, so the
//! rest of a block that has little data stays a hole of the file.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use crate::block::{Placed, range_len};
use crate::bytes::{div_rem, low_u32};
use crate::error::{Error, Result};

/// Bytes of a table that are written at once.
const TABLE_CHUNK: usize = 1 << 20;

/// Where blocks go. Blocks lie `stride` bytes from one another, the first block's data at `start`.
#[derive(Debug)]
pub(in crate::block) struct Placement {
    pub(in crate::block) size: u64,
    pub(in crate::block) block_size: u64,
    pub(in crate::block) start: u64,
    pub(in crate::block) stride: u64,
    /// The blocks that have a place, in the order of their places; `None` when each has the place of its number.
    placed: Option<Vec<u32>>,
}

impl Placement {
    /// A disk of `size` bytes in blocks, of which `all` have their place from the beginning. It has fewer than 2³² blocks.
    pub(in crate::block) fn new(size: u64, block_size: u64, start: u64, stride: u64, all: bool) -> Self {
        Self { size, block_size, start, stride, placed: (!all).then(Vec::new) }
    }

    /// Blocks of the disk.
    pub(in crate::block) fn blocks(&self) -> u64 {
        blocks(self.size, self.block_size)
    }

    /// Blocks that have a place.
    pub(in crate::block) fn count(&self) -> u64 {
        self.placed.as_ref().map_or_else(|| self.blocks(), |placed| crate::bytes::to_u64(placed.len()))
    }

    /// Where the data of the block with place `index` begins.
    pub(in crate::block) fn offset(&self, index: u64) -> u64 {
        self.start.saturating_add(index.saturating_mul(self.stride))
    }

    /// The end of the last block; where the first would begin when there is none.
    pub(in crate::block) fn end(&self) -> u64 {
        match self.count().checked_sub(1) {
            Some(last) => self.offset(last).saturating_add(self.block_size),
            None => self.start,
        }
    }

    /// As [`ImageWriter::place`](crate::block::ImageWriter::place).
    pub(in crate::block) fn place(&mut self, run: Range<u64>) -> Result<Placed> {
        let (first, within) = div_rem(run.start, self.block_size);
        let index = self.index(first)?;
        let offset = self.offset(index).saturating_add(within);
        let in_block = self.block_size.saturating_sub(within);
        let len = range_len(&run);
        if len <= in_block || self.stride != self.block_size {
            return Ok(Placed { file: 0, offset, len: len.min(in_block) });
        }
        // Blocks follow one another without a gap, and so do their places.
        let last = div_rem(run.end.saturating_sub(1), self.block_size).0;
        for block in first.saturating_add(1)..=last {
            self.index(block)?;
        }
        Ok(Placed { file: 0, offset, len })
    }

    /// The place of `block`, which is the last one that was given a place or follows it.
    fn index(&mut self, block: u64) -> Result<u64> {
        let Some(placed) = &mut self.placed else { return Ok(block) };
        if placed.last().copied().map(u64::from) != Some(block) {
            if placed.last().is_some_and(|&last| u64::from(last) > block) {
                return Err(Error::invalid("runs of a new image must come in ascending order"));
            }
            placed.push(low_u32(block));
        }
        Ok(crate::bytes::to_u64(placed.len()).saturating_sub(1))
    }

    /// For each block of the disk its place, if it has one.
    pub(in crate::block) fn table(&self) -> impl Iterator<Item = Option<u64>> {
        let mut placed = (0u64..).zip(self.placed.iter().flatten().copied()).peekable();
        let all = self.placed.is_none();
        (0..self.blocks()).map(move |block| {
            if all {
                return Some(block);
            }
            placed.next_if(|(_, number)| u64::from(*number) == block).map(|(index, _)| index)
        })
    }
}

/// A structure that is made field by field, zero where nothing was put.
#[derive(Debug)]
pub(in crate::block) struct Structure {
    pub(in crate::block) bytes: Vec<u8>,
}

impl Structure {
    pub(in crate::block) fn new(len: usize) -> Self {
        Self { bytes: vec![0; len] }
    }

    /// Puts a field at byte `at`, which has room for it.
    pub(in crate::block) fn put(&mut self, at: usize, field: &[u8]) {
        if let Some(place) = self.bytes.get_mut(at..).and_then(|rest| rest.get_mut(..field.len())) {
            place.copy_from_slice(field);
        }
    }
}

/// Blocks of `block_size` that `size` bytes need.
pub(in crate::block) fn blocks(size: u64, block_size: u64) -> u64 {
    let (whole, rest) = div_rem(size, block_size);
    whole.saturating_add(u64::from(rest > 0))
}

/// The end of a table at byte `table` with an entry of `entry` bytes for each block, rounded up to `unit`.
pub(in crate::block) fn table_end(table: u64, size: u64, block_size: u64, entry: u64, unit: u64) -> u64 {
    let end = table.saturating_add(blocks(size, block_size).saturating_mul(entry));
    end.checked_next_multiple_of(unit).unwrap_or(u64::MAX)
}

/// Writes all of `bytes` at `offset` of the image `name`.
pub(in crate::block) fn write_at(file: &File, name: &str, bytes: &[u8], offset: u64) -> Result<()> {
    file.write_all_at(bytes, offset).map_err(|error| Error::io("write", name, error))
}

/// Writes a table entry by entry and tells its digest. Chunks of nothing but zeroes stay holes.
pub(in crate::block) fn write_table<const N: usize>(
    file: &File,
    name: &str,
    offset: u64,
    entries: impl Iterator<Item = [u8; N]>,
) -> Result<blake3::Hash> {
    let mut digest = blake3::Hasher::new();
    let mut chunk: Vec<u8> = Vec::new();
    let mut at = offset;
    let mut flush = |chunk: &mut Vec<u8>| {
        digest.update(chunk);
        if chunk.iter().any(|byte| *byte != 0) {
            write_at(file, name, chunk, at)?;
        }
        at = at.saturating_add(crate::bytes::to_u64(chunk.len()));
        chunk.clear();
        Ok::<_, Error>(())
    };
    for entry in entries {
        chunk.extend_from_slice(&entry);
        if chunk.len() >= TABLE_CHUNK {
            flush(&mut chunk)?;
        }
    }
    flush(&mut chunk)?;
    Ok(digest.finalize())
}

/// An identifier for the image whose size and table are these, one for each `purpose`: the same image has the same
/// everywhere. Version 8 of RFC 9562, in its byte order.
pub(in crate::block) fn identifier(purpose: &str, size: u64, table: &blake3::Hash) -> [u8; 16] {
    let mut digest = blake3::Hasher::new_derive_key("guestctl new image identifier");
    digest.update(purpose.as_bytes()).update(&size.to_le_bytes()).update(table.as_bytes());
    let mut id = [0; 16];
    digest.finalize_xof().fill(&mut id);
    id[6] = id[6] & 0x0f | 0x80;
    id[8] = id[8] & 0x3f | 0x80;
    id
}

/// The same identifier as Microsoft and VirtualBox store it: the first three groups little-endian. And back.
pub(in crate::block) const fn mixed_endian(id: [u8; 16]) -> [u8; 16] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = id;
    [d, c, b, a, f, e, h, g, i, j, k, l, m, n, o, p]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_get_their_places_when_they_are_first_needed() {
        let mut placement = Placement::new(95, 10, 100, 10, false);
        assert_eq!(placement.place(12..15).unwrap(), Placed { file: 0, offset: 102, len: 3 });
        assert_eq!(placement.place(16..18).unwrap(), Placed { file: 0, offset: 106, len: 2 });
        assert_eq!(placement.place(55..95).unwrap(), Placed { file: 0, offset: 115, len: 40 });
        assert!(placement.place(20..30).is_err());
        assert_eq!((placement.blocks(), placement.count(), placement.end()), (10, 6, 160));
        let table: Vec<_> = placement.table().collect();
        assert_eq!(table, [None, Some(0), None, None, None, Some(1), Some(2), Some(3), Some(4), Some(5)]);
    }

    #[test]
    fn blocks_with_gaps_are_placed_one_at_a_time() {
        let mut placement = Placement::new(100, 10, 100, 16, false);
        assert_eq!(placement.place(15..40).unwrap(), Placed { file: 0, offset: 105, len: 5 });
        assert_eq!(placement.place(20..40).unwrap(), Placed { file: 0, offset: 116, len: 10 });
        let mut all = Placement::new(100, 10, 100, 16, true);
        assert_eq!(all.place(25..100).unwrap(), Placed { file: 0, offset: 137, len: 5 });
        assert_eq!((all.count(), all.end()), (10, 254));
        assert_eq!(Placement::new(0, 10, 100, 16, true).end(), 100);
    }
}
