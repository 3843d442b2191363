//! What an image's tables claim, held against what its file holds. Tables that name one block again and again make
//! terabytes out of a small file: every entry is sound by itself, and reading them all takes what it takes. So before
//! somebody goes through a whole disk the blocks are summed up; together they cannot be more than the file's data.
//!
//! Sharing as such is no fault (a deduplicated qcow2 counts its references), so only the sum is refused. Blocks in holes of
//! the file count for nothing: preallocated images have them, and nobody reads them.

use std::ops::Range;

use super::{BlockDevice, ExtentKind, range_len};
use crate::error::{Error, Result};

/// What somebody is about to do with a whole disk; see [`BlockDevice::audit`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sweep {
    /// Ask where everything lies.
    Map,
    /// And read all that is data.
    Read,
}

/// Blocks claimed so far.
#[derive(Debug)]
pub(super) struct Claims<'a> {
    file: &'a dyn BlockDevice,
    /// Format and field of what is refused, and where the table begins.
    format: &'static str,
    field: &'static str,
    table: u64,
    /// Bytes of data in the file.
    room: u64,
    /// Whether the file has holes.
    sparse: bool,
    claimed: u64,
    /// Claimed and not counted yet: neighbours are counted in one go.
    run: Range<u64>,
}

impl<'a> Claims<'a> {
    /// Claims of blocks in `file` by the entries, called `field`, of the table at byte `table`.
    pub(super) fn new(
        file: &'a dyn BlockDevice,
        format: &'static str,
        field: &'static str,
        table: u64,
    ) -> Result<Self> {
        let room = data_in(file, 0..file.size())?;
        Ok(Self { file, format, field, table, room, sparse: room < file.size(), claimed: 0, run: 0..0 })
    }

    /// Claims a block of the file; a part past its end does not count.
    pub(super) fn add(&mut self, block: Range<u64>) -> Result<()> {
        if block.start == self.run.end {
            self.run.end = block.end.max(block.start);
            return Ok(());
        }
        self.count()?;
        self.run = block;
        Ok(())
    }

    /// Claims `bytes` that lie anywhere in the file.
    pub(super) fn add_somewhere(&mut self, bytes: u64) -> Result<()> {
        self.claimed = self.claimed.saturating_add(bytes);
        self.check()
    }

    /// Counts what was claimed last.
    pub(super) fn finish(&mut self) -> Result<()> {
        self.count()
    }

    fn count(&mut self) -> Result<()> {
        let run = std::mem::take(&mut self.run);
        let inside = run.start..run.end.min(self.file.size());
        if !inside.is_empty() {
            let bytes = if self.sparse { data_in(self.file, inside)? } else { range_len(&inside) };
            self.claimed = self.claimed.saturating_add(bytes);
        }
        self.check()
    }

    fn check(&self) -> Result<()> {
        if self.claimed <= self.room {
            return Ok(());
        }
        let found = format!("blocks of {} bytes and more", self.claimed);
        let expected = format!("no more than the file's {} bytes of data", self.room);
        Err(Error::corrupt(self.format, self.field, self.table, found, expected))
    }
}

/// Bytes of `range` that are not known to be zero.
fn data_in(file: &dyn BlockDevice, range: Range<u64>) -> Result<u64> {
    let (mut bytes, mut at) = (0u64, range.start);
    while at < range.end {
        let extent = file.next_extent(at..range.end)?;
        if extent.kind == ExtentKind::Data {
            bytes = bytes.saturating_add(extent.len);
        }
        at = at.saturating_add(extent.len.max(1));
    }
    Ok(bytes)
}

/// Whether nothing of `range`, which is inside the file, was ever stored.
pub(super) fn is_hole(file: &dyn BlockDevice, range: Range<u64>) -> Result<bool> {
    let extent = file.next_extent(range.clone())?;
    Ok(extent.kind != ExtentKind::Data && extent.len >= range_len(&range))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Extent;

    /// Data of ten bytes at 0, 20, 40 …, holes between.
    #[derive(Debug)]
    struct Striped(u64);

    impl BlockDevice for Striped {
        fn size(&self) -> u64 {
            self.0
        }

        fn read_exact_at(&self, _buf: &mut [u8], _offset: u64) -> Result<()> {
            unreachable!("claims read nothing")
        }

        fn next_extent(&self, range: Range<u64>) -> Result<Extent> {
            let kind = if (range.start / 10).is_multiple_of(2) { ExtentKind::Data } else { ExtentKind::Hole };
            Ok(Extent { kind, len: (10 - range.start % 10).min(range.end - range.start) })
        }
    }

    #[test]
    fn the_sum_is_refused_and_no_single_block() {
        let file = crate::block::Memory::new(vec![1; 100]);
        let mut claims = Claims::new(&file, "vdi", "block map", 512).unwrap();
        for start in [0, 10, 40, 40, 95] {
            claims.add(start..start + 10).unwrap();
        }
        claims.add(0..55).unwrap();
        claims.finish().unwrap();
        claims.add(7..8).unwrap();
        let error = claims.finish().unwrap_err();
        let corrupt = error.as_corrupt().unwrap();
        assert_eq!((corrupt.format, corrupt.field, corrupt.offset), ("vdi", "block map", 512));
        assert_eq!(corrupt.expected, "no more than the file's 100 bytes of data");
    }

    #[test]
    fn holes_count_for_nothing() {
        let file = Striped(100);
        let mut claims = Claims::new(&file, "vdi", "block map", 0).unwrap();
        for _ in 0..100 {
            claims.add(10..20).unwrap();
        }
        claims.add(5..45).unwrap();
        claims.add(0..20).unwrap();
        claims.add(0..20).unwrap();
        claims.finish().unwrap();
        assert_eq!((claims.room, claims.claimed), (50, 40));
        claims.add_somewhere(10).unwrap();
        assert!(claims.add_somewhere(1).is_err());
        assert!(is_hole(&file, 12..19).unwrap() && !is_hole(&file, 12..21).unwrap());
    }
}
