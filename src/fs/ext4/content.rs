//! A file's content as a device: read through its block map, so that holes and host ranges are known before bytes.

use std::ops::Range;
use std::sync::Arc;

use super::Ext4;
use super::block_map::Mapping;
use super::inode::RawInode;
use crate::block::{Below, BlockDevice, Extent, ExtentKind, HostRange, check_range};
use crate::bytes::{div_rem, to_u64, to_usize};
use crate::error::Result;

/// How many runs of one kind `next_extent` joins before it answers.
const JOIN: usize = 1024;

/// The content of one block-mapped inode.
pub(super) struct Content {
    fs: Arc<Ext4>,
    inode: Arc<RawInode>,
    size: u64,
}

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ext4 inode {} ({} bytes)", self.inode.number, self.size)
    }
}

impl Content {
    pub(super) fn new(fs: Arc<Ext4>, inode: Arc<RawInode>, size: u64) -> Self {
        Self { fs, inode, size }
    }

    /// The run at byte `at`: (its byte offset on the device unless it reads as zeroes, kind, bytes left in it).
    fn run(&self, at: u64) -> Result<(Option<u64>, ExtentKind, u64)> {
        let block_size = u64::from(self.fs.superblock.block_size);
        let (logical, within) = div_rem(at, block_size);
        let Mapping { physical, unwritten, len } = self.fs.map_block(&self.inode, logical)?;
        let left = len.saturating_mul(block_size).saturating_sub(within).min(self.size.saturating_sub(at));
        Ok(match physical {
            None => (None, ExtentKind::Hole, left),
            Some(_) if unwritten => (None, ExtentKind::Zero, left),
            Some(block) => {
                let offset = self.fs.superblock.block_offset(block, "ee_start", self.inode.offset)?;
                (Some(offset.saturating_add(within)), ExtentKind::Data, left)
            }
        })
    }
}

impl BlockDevice for Content {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self.size, offset, buf.len())?;
        let (mut at, mut rest) = (offset, buf);
        while !rest.is_empty() {
            let (position, _, left) = self.run(at)?;
            let len = to_usize(left.min(to_u64(rest.len()))).max(1);
            let (head, tail) = rest.split_at_mut(len);
            match position {
                Some(position) => self.fs.device.read_exact_at(head, position)?,
                None => head.fill(0),
            }
            at = at.saturating_add(to_u64(len));
            rest = tail;
        }
        Ok(())
    }

    fn next_extent(&self, range: Range<u64>) -> Result<Extent> {
        let (position, kind, mut len) = self.run(range.start)?;
        if let Some(position) = position {
            // What the image knows to be zero below an allocated block is zero in the file too.
            let below = self.fs.device.next_extent(position..position.saturating_add(len))?;
            if below.kind != ExtentKind::Data || below.len < len {
                let len = below.len.min(range.end.saturating_sub(range.start));
                let kind = if below.kind == ExtentKind::Data { ExtentKind::Data } else { ExtentKind::Zero };
                return Ok(Extent { kind, len });
            }
        } else {
            for _ in 0..JOIN {
                let at = range.start.saturating_add(len);
                if at >= range.end {
                    break;
                }
                match self.run(at)? {
                    (None, next, more) if next == kind => len = len.saturating_add(more),
                    _ => break,
                }
            }
        }
        Ok(Extent { kind, len: len.min(range.end.saturating_sub(range.start)) })
    }

    fn below(&self, range: Range<u64>) -> Option<Below<'_>> {
        let (position, _, left) = self.run(range.start).ok()?;
        let len = left.min(range.end.saturating_sub(range.start));
        Some(Below { device: &self.fs.device, offset: position?, len })
    }

    fn host_range(&self, range: Range<u64>) -> Option<HostRange<'_>> {
        let (position, _, left) = self.run(range.start).ok()?;
        let position = position?;
        let len = left.min(range.end.saturating_sub(range.start));
        self.fs.device.host_range(position..position.saturating_add(len))
    }
}
