//! A file with the changes of a log over it. Changed sectors are read from the log when they are asked for.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use crate::block::{BlockDevice, Extent, ExtentKind, HostRange, check_range, range_len};
use crate::bytes::{to_u64, to_usize};
use crate::error::Result;

/// The log's unit: changes begin and end at multiples of it.
pub(super) const SECTOR: u64 = 4096;

/// What a change puts in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Patch {
    Zero,
    /// The data sector at `position` of the file, whose first 8 and last 4 bytes were taken for its own header.
    Sector {
        position: u64,
        leading: [u8; 8],
        trailing: [u8; 4],
    },
}

/// The file as it will be once its log is replayed.
#[derive(Debug)]
pub(super) struct Replayed {
    file: Arc<dyn BlockDevice>,
    size: u64,
    /// By where they begin, with where they end; they do not overlap.
    patches: BTreeMap<u64, (u64, Patch)>,
}

/// What one run of bytes comes from.
enum Source {
    Patch(u64, Patch),
    File,
    /// Past the file's end.
    Nothing,
}

impl Replayed {
    /// A file that grows to `size` bytes.
    pub(super) fn new(file: Arc<dyn BlockDevice>, size: u64) -> Self {
        Self { file, size, patches: BTreeMap::new() }
    }

    /// Puts `patch` over `range`, whose ends are multiples of a sector.
    pub(super) fn patch(&mut self, range: Range<u64>, patch: Patch) {
        if range.is_empty() {
            return;
        }
        // A run of zeroes that begins before and reaches into the range keeps what is before.
        let before = self.patches.range(..range.start).next_back().map(|(start, (end, patch))| (*start, *end, *patch));
        if let Some((start, end, old)) = before.filter(|(_, end, _)| *end > range.start) {
            self.patches.insert(start, (range.start, old));
            if end > range.end {
                self.patches.insert(range.end, (end, old));
            }
        }
        while let Some((&start, &(end, old))) = self.patches.range(range.clone()).next() {
            self.patches.remove(&start);
            if end > range.end {
                self.patches.insert(range.end, (end, old));
            }
        }
        self.patches.insert(range.start, (range.end, patch));
    }

    /// The source of the beginning of `range`, and how far it reaches.
    fn source(&self, range: &Range<u64>) -> (Source, u64) {
        let at = range.start;
        if let Some((start, (end, patch))) = self.patches.range(..=at).next_back()
            && *end > at
        {
            return (Source::Patch(*start, *patch), (*end).min(range.end));
        }
        let next = self.patches.range(at..range.end).next().map_or(range.end, |(start, _)| *start);
        if at >= self.file.size() { (Source::Nothing, next) } else { (Source::File, next.min(self.file.size())) }
    }

    fn read_sector(&self, position: u64, leading: [u8; 8], trailing: [u8; 4]) -> Result<[u8; 4096]> {
        let mut sector = [0; 4096];
        self.file.read_exact_at(&mut sector, position)?;
        if let Some(head) = sector.first_chunk_mut() {
            *head = leading;
        }
        if let Some(tail) = sector.last_chunk_mut() {
            *tail = trailing;
        }
        Ok(sector)
    }
}

impl BlockDevice for Replayed {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let end = check_range(self.size, offset, buf.len())?;
        let (mut at, mut rest) = (offset, buf);
        while !rest.is_empty() {
            let (source, until) = self.source(&(at..end));
            let len = to_usize(until.saturating_sub(at)).clamp(1, rest.len());
            let (part, tail) = rest.split_at_mut(len);
            match source {
                Source::Nothing | Source::Patch(_, Patch::Zero) => part.fill(0),
                Source::File => self.file.read_exact_at(part, at)?,
                Source::Patch(start, Patch::Sector { position, leading, trailing }) => {
                    let sector = self.read_sector(position, leading, trailing)?;
                    let within = to_usize(at.saturating_sub(start));
                    if let Some(bytes) = sector.get(within..).and_then(|bytes| bytes.get(..len)) {
                        part.copy_from_slice(bytes);
                    }
                }
            }
            (at, rest) = (at.saturating_add(to_u64(len)), tail);
        }
        Ok(())
    }

    fn next_extent(&self, range: Range<u64>) -> Result<Extent> {
        let (source, until) = self.source(&range);
        let len = until.saturating_sub(range.start);
        match source {
            Source::File => self.file.next_extent(range.start..until),
            Source::Nothing => Ok(Extent { kind: ExtentKind::Hole, len }),
            Source::Patch(_, Patch::Zero) => Ok(Extent { kind: ExtentKind::Zero, len }),
            Source::Patch(..) => Ok(Extent { kind: ExtentKind::Data, len }),
        }
    }

    fn host_range(&self, range: Range<u64>) -> Option<HostRange<'_>> {
        match self.source(&range) {
            (Source::File, until) if range_len(&range) > 0 => self.file.host_range(range.start..until),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::{Memory, read_vec};

    #[test]
    fn later_changes_cover_earlier_ones() {
        let file: Vec<u8> = (0..5 * 4096usize).map(|at| (at / 4096 + 1) as u8).collect();
        let mut replayed = Replayed::new(Arc::new(Memory::new(file.clone())), 8 * 4096);
        replayed.patch(0..7 * 4096, Patch::Zero);
        replayed.patch(4096..8192, Patch::Sector { position: 4 * 4096, leading: [9; 8], trailing: [8; 4] });
        replayed.patch(6 * 4096..7 * 4096, Patch::Sector { position: 0, leading: [7; 8], trailing: [6; 4] });
        replayed.patch(6 * 4096..8 * 4096, Patch::Zero);
        let bytes = read_vec(&replayed, 0, 8 * 4096).unwrap();
        assert!(bytes[..4096].iter().all(|byte| *byte == 0));
        assert_eq!(
            (&bytes[4096..4104], &bytes[4104..8188], &bytes[8188..8192]),
            (&[9; 8][..], &[5; 4084][..], &[8; 4][..])
        );
        assert!(bytes[8192..].iter().all(|byte| *byte == 0));
        assert_eq!(read_vec(&replayed, 8000, 300).unwrap(), bytes[8000..8300]);

        let mut one = Replayed::new(Arc::new(Memory::new(file)), 6 * 4096);
        one.patch(8192..12288, Patch::Zero);
        assert_eq!(one.next_extent(0..6 * 4096).unwrap(), Extent { kind: ExtentKind::Data, len: 8192 });
        assert_eq!(one.next_extent(8192..6 * 4096).unwrap(), Extent { kind: ExtentKind::Zero, len: 4096 });
        assert_eq!(one.next_extent(5 * 4096..6 * 4096).unwrap(), Extent { kind: ExtentKind::Hole, len: 4096 });
        assert_eq!(read_vec(&one, 4096 * 5 - 1, 2).unwrap(), [5, 0]);
        assert!(read_vec(&one, 0, 6 * 4096 + 1).is_err());
    }
}
