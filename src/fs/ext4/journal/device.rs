//! The filesystem's device as it reads after recovery: blocks that the journal holds come from there.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use super::JournalBlock;
use super::superblock::MAGIC;
use crate::block::{BlockDevice, Extent, ExtentKind, HostRange, check_range};
use crate::bytes::{to_u64, to_usize};
use crate::error::Result;

/// A device under the blocks of its journal.
#[derive(Debug)]
pub(in crate::fs::ext4) struct Replayed {
    base: Arc<dyn BlockDevice>,
    journal: Arc<dyn BlockDevice>,
    block_size: u64,
    blocks: BTreeMap<u64, JournalBlock>,
}

impl Replayed {
    /// `base` with `blocks` of `block_size` bytes, which lie in `journal`, in place of its own.
    pub(in crate::fs::ext4) fn new(
        base: Arc<dyn BlockDevice>,
        journal: Arc<dyn BlockDevice>,
        block_size: u32,
        blocks: BTreeMap<u64, JournalBlock>,
    ) -> Self {
        Self { base, journal, block_size: u64::from(block_size.max(1)), blocks }
    }

    fn block_of(&self, offset: u64) -> u64 {
        offset.checked_div(self.block_size).unwrap_or(0)
    }

    /// The byte at which the first replayed block at or after `offset` begins, at most `end`.
    fn next_replayed(&self, offset: u64, end: u64) -> u64 {
        let next = self.blocks.range(self.block_of(offset)..).next();
        next.map_or(end, |(&block, _)| block.saturating_mul(self.block_size).clamp(offset, end.max(offset)))
    }

    /// Reads a part of one replayed block, `within` bytes into it.
    fn read_block(&self, logged: &JournalBlock, within: u64, buf: &mut [u8]) -> Result<()> {
        self.journal.read_exact_at(buf, logged.offset.saturating_add(within))?;
        if logged.escaped {
            let magic = MAGIC.to_be_bytes();
            let hidden = magic.get(to_usize(within)..).unwrap_or_default();
            buf.iter_mut().zip(hidden).for_each(|(byte, &magic)| *byte = magic);
        }
        Ok(())
    }
}

impl BlockDevice for Replayed {
    fn size(&self) -> u64 {
        self.base.size()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let end = check_range(self.size(), offset, buf.len())?;
        let mut at = offset;
        let mut rest = buf;
        while at < end {
            let block = self.block_of(at);
            let logged = self.blocks.get(&block);
            let until = match logged {
                Some(_) => block.saturating_add(1).saturating_mul(self.block_size).min(end),
                None => self.next_replayed(at, end),
            };
            let len = to_usize(until.saturating_sub(at)).min(rest.len());
            let (part, behind) = rest.split_at_mut(len);
            match logged {
                Some(logged) => self.read_block(logged, at.checked_rem(self.block_size).unwrap_or(0), part)?,
                None => self.base.read_exact_at(part, at)?,
            }
            at = at.saturating_add(to_u64(len.max(1)));
            rest = behind;
        }
        Ok(())
    }

    fn next_extent(&self, range: Range<u64>) -> Result<Extent> {
        let block = self.block_of(range.start);
        if !self.blocks.contains_key(&block) {
            return self.base.next_extent(range.start..self.next_replayed(range.start, range.end));
        }
        let end = block.saturating_add(1).saturating_mul(self.block_size).min(range.end);
        Ok(Extent { kind: ExtentKind::Data, len: end.saturating_sub(range.start) })
    }

    fn host_range(&self, range: Range<u64>) -> Option<HostRange<'_>> {
        let end = self.next_replayed(range.start, range.end);
        if self.blocks.contains_key(&self.block_of(range.start)) || end <= range.start {
            return None;
        }
        self.base.host_range(range.start..end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::{Memory, for_each_extent, read_vec};

    const BLOCK: usize = 1024;

    /// Blocks 2, 3 and 6 of eight come from the journal; 3 is escaped.
    fn device() -> (Replayed, Vec<u8>) {
        let base: Vec<u8> = (0..8 * BLOCK).map(|at| (at / BLOCK) as u8).collect();
        let mut journal: Vec<u8> = (0..4 * BLOCK).map(|at| 0x80 | (at / BLOCK) as u8).collect();
        journal[BLOCK..BLOCK + 4].fill(0);
        let mut expected = base.clone();
        expected[2 * BLOCK..3 * BLOCK].fill(0x80);
        expected[3 * BLOCK..4 * BLOCK].fill(0x81);
        expected[3 * BLOCK..3 * BLOCK + 4].copy_from_slice(&[0xc0, 0x3b, 0x39, 0x98]);
        expected[6 * BLOCK..7 * BLOCK].fill(0x83);
        let at = |block: u64, escaped| JournalBlock { offset: block * BLOCK as u64, transaction: 1, escaped };
        let blocks = BTreeMap::from([(2, at(0, false)), (3, at(1, true)), (6, at(3, false))]);
        let (base, journal) = (Arc::new(Memory::new(base)), Arc::new(Memory::new(journal)));
        (Replayed::new(base, journal, BLOCK as u32, blocks), expected)
    }

    #[test]
    fn every_range_reads_as_the_journal_over_the_base() {
        let (device, expected) = device();
        for start in (0..expected.len()).step_by(97).chain([3 * BLOCK + 1, 3 * BLOCK + 3]) {
            for len in [0, 1, 2, 5, 1023, 1024, 1025, 3000, expected.len() - start] {
                let len = len.min(expected.len() - start);
                assert_eq!(
                    read_vec(&device, start as u64, len).unwrap(),
                    expected[start..start + len],
                    "{start} {len}"
                );
            }
        }
        assert!(device.read_exact_at(&mut [0; 2], 8 * BLOCK as u64 - 1).is_err());
    }

    #[test]
    fn extents_end_where_the_source_changes() {
        let (device, _) = device();
        let block = BLOCK as u64;
        assert_eq!(device.next_extent(10..8 * block).unwrap().len, 2 * block - 10);
        assert_eq!(device.next_extent(2 * block + 1..8 * block).unwrap().len, block - 1);
        assert_eq!(device.next_extent(4 * block..5 * block).unwrap().len, block);
        let mut covered = 0;
        for_each_extent(&device, 0..8 * block, &mut |run, _| {
            covered += run.end - run.start;
            Ok(())
        })
        .unwrap();
        assert_eq!(covered, 8 * block);
    }

    #[test]
    fn host_ranges_never_cover_a_replayed_block() {
        let (mut device, _) = device();
        let file = tempfile::tempfile().unwrap();
        file.set_len(8 * BLOCK as u64).unwrap();
        device.base = Arc::new(crate::block::HostFile::from_file(file, std::path::Path::new("base")).unwrap());
        let block = BLOCK as u64;
        assert_eq!(device.host_range(0..8 * block).unwrap().len, 2 * block);
        assert!(device.host_range(2 * block + 5..3 * block).is_none());
        let after = device.host_range(7 * block..8 * block).unwrap();
        assert_eq!((after.offset, after.len), (7 * block, block));
    }
}
