//! One content into one new host file, by the cheapest way that the host has: what is known to be zero is a hole, what
//! lies in a host file that can share its storage is cloned, and the rest is read in large pieces and written.
//!
//! Which pairs of filesystems share storage is found out by trying, once. Bytes that the image cannot give are left a hole
//! and told with their offset; an error of the host ends the transfer.

use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::io::Errno;

use crate::block::{BlockDevice, ExtentKind, HostRange};
use crate::bytes::{to_u64, to_usize};
use crate::error::{Error, ErrorKind, Result};
use crate::progress::Progress;

/// Bytes that are read and written at a time.
const CHUNK: u64 = 1 << 20;

/// Bytes that are cloned at a time: costs no memory, but progress and cancelling want pieces.
const CLONE_CHUNK: u64 = 256 << 20;

/// Files smaller than this are copied: cloning one costs as much as writing it (measured on XFS, where the break-even is
/// at 16 KiB, and btrfs).
const CLONE_FROM: u64 = 16 << 10;

/// Runs that could not be shared after which it is not tried any more, for files whose bytes are at hand and for others,
/// unless many could be.
const GIVE_UP_AT_HAND: u64 = 32;
const GIVE_UP: u64 = 4_096;

/// The least piece that is read on its own to find what of a damaged run can be read.
const SALVAGE: u64 = 4_096;

/// Failed reads of one content after which no smaller pieces are tried, and after which its rest counts as unreadable.
const SALVAGE_PIECES: u64 = 256;
const SALVAGE_READS: u64 = 4_096;

/// Bytes by the way that they took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Transferred {
    /// Bytes that were left holes.
    pub hole_bytes: u64,
    /// Bytes that share their storage with the image.
    pub cloned_bytes: u64,
    /// Bytes that were read and written.
    pub copied_bytes: u64,
    /// Files with cloned bytes.
    pub cloned_files: u64,
}

/// A part of a content that could not be read.
#[derive(Debug)]
pub(crate) struct Unreadable {
    /// Where it is in the content.
    pub(crate) range: Range<u64>,
    /// Why.
    pub(crate) error: Error,
}

/// The host's part in transfers to one place: what was learned of it, and what was done. Shared by threads.
#[derive(Debug, Default)]
pub(crate) struct Transfer {
    /// What cloning between two filesystems (source and target, by device numbers) came to.
    pairs: Mutex<HashMap<(u64, u64), Pair>>,
    holes: AtomicU64,
    cloned: AtomicU64,
    copied: AtomicU64,
    cloned_files: AtomicU64,
    /// Runs that could not be shared.
    not_shared: AtomicU64,
    /// Never clone.
    copies_only: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pair {
    /// In blocks of this many bytes.
    Shares(u64),
    Never,
}

impl Transfer {
    pub(crate) fn new(clone: bool) -> Self {
        Self { copies_only: !clone, ..Self::default() }
    }

    /// What was done so far.
    pub(crate) fn done(&self) -> Transferred {
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Transferred {
            hole_bytes: get(&self.holes),
            cloned_bytes: get(&self.cloned),
            copied_bytes: get(&self.copied),
            cloned_files: get(&self.cloned_files),
        }
    }

    /// Writes bytes that are at hand already into the empty file `to`.
    pub(crate) fn write(&self, bytes: &[u8], to: &File, progress: &dyn Progress) -> Result<(), std::io::Error> {
        if !bytes.is_empty() {
            to.write_all_at(bytes, 0)?;
        }
        self.copied.fetch_add(to_u64(bytes.len()), Ordering::Relaxed);
        progress.advance(to_u64(bytes.len()));
        Ok(())
    }

    /// Copies all of `content` into the empty file `to`, which is called `shown` in messages. `buffer` is scratch space
    /// that one thread passes again and again. What cannot be read is returned in order, and is zeroes in the file.
    pub(crate) fn copy(
        &self,
        content: &dyn BlockDevice,
        to: &File,
        shown: &dyn std::fmt::Display,
        buffer: &mut Vec<u8>,
        progress: &dyn Progress,
    ) -> Result<Vec<Unreadable>> {
        self.run(content, to, shown, buffer, progress, false)
    }

    /// The same, where the first thing that cannot be read ends it.
    pub(crate) fn copy_whole(
        &self,
        content: &dyn BlockDevice,
        to: &File,
        shown: &dyn std::fmt::Display,
        progress: &dyn Progress,
    ) -> Result<()> {
        self.run(content, to, shown, &mut Vec::new(), progress, true).map(|_| ())
    }

    fn run(
        &self,
        content: &dyn BlockDevice,
        to: &File,
        shown: &dyn std::fmt::Display,
        buffer: &mut Vec<u8>,
        progress: &dyn Progress,
        whole: bool,
    ) -> Result<Vec<Unreadable>> {
        let share = self.may_share_after(content.size(), GIVE_UP);
        let (unreadable, failed_reads, end, cloned) = (Vec::new(), 0, 0, 0);
        let transfer = self;
        let mut copy = Copy {
            transfer,
            content,
            to,
            shown,
            buffer,
            progress,
            share,
            whole,
            unreadable,
            failed_reads,
            end,
            cloned,
        };
        copy.all()?;
        if copy.end < content.size() {
            to.set_len(content.size()).map_err(|error| Error::io("write", shown, error))?;
        }
        if copy.cloned > 0 {
            self.cloned_files.fetch_add(1, Ordering::Relaxed);
        }
        Ok(copy.unreadable)
    }

    /// Whether it may be worth the while to open a content of this size and to share it, though its bytes are at hand.
    pub(crate) fn may_share(&self, size: u64) -> bool {
        self.may_share_after(size, GIVE_UP_AT_HAND)
    }

    fn may_share_after(&self, size: u64, failures: u64) -> bool {
        let shared = self.cloned_files.load(Ordering::Relaxed);
        size >= CLONE_FROM
            && !self.copies_only
            && self.not_shared.load(Ordering::Relaxed) < failures.saturating_add(shared.saturating_mul(8))
    }

    fn pair(&self, key: (u64, u64)) -> Option<Pair> {
        self.pairs.lock().unwrap_or_else(PoisonError::into_inner).get(&key).copied()
    }

    fn learn(&self, key: (u64, u64), pair: Pair) {
        self.pairs.lock().unwrap_or_else(PoisonError::into_inner).insert(key, pair);
    }
}

/// One content on its way.
struct Copy<'a> {
    transfer: &'a Transfer,
    content: &'a dyn BlockDevice,
    to: &'a File,
    shown: &'a dyn std::fmt::Display,
    buffer: &'a mut Vec<u8>,
    progress: &'a dyn Progress,
    /// Whether sharing is tried.
    share: bool,
    /// Whether nothing may be lost.
    whole: bool,
    unreadable: Vec<Unreadable>,
    failed_reads: u64,
    /// How long the file is.
    end: u64,
    cloned: u64,
}

impl Copy<'_> {
    fn all(&mut self) -> Result<()> {
        let size = self.content.size();
        let mut at = 0;
        while at < size && self.failed_reads < SALVAGE_READS {
            self.check_cancelled()?;
            // Asked for piece by piece, so that a broken map costs what lies behind it and nothing before.
            let extent = match self.content.next_extent(at..size) {
                Ok(extent) => extent,
                Err(error) => {
                    return self.lost(at..size, error);
                }
            };
            let run = at..at.saturating_add(extent.len.max(1)).min(size);
            at = run.end;
            if extent.kind == ExtentKind::Data {
                self.data(run)?;
            } else {
                self.transfer.holes.fetch_add(run.end - run.start, Ordering::Relaxed);
                // Of a tree it is known how many bytes it takes, of one content how long it is.
                if self.whole {
                    self.progress.advance(run.end - run.start);
                }
            }
            if self.failed_reads >= SALVAGE_READS && at < size {
                self.lost(at..size, Error::limit("failed reads of one file", SALVAGE_READS, self.failed_reads))?;
            }
        }
        Ok(())
    }

    /// A run of data: cloned as far as that goes, else copied.
    fn data(&mut self, run: Range<u64>) -> Result<()> {
        let mut at = run.start;
        while at < run.end {
            if self.failed_reads >= SALVAGE_READS {
                let error = Error::limit("failed reads of one file", SALVAGE_READS, self.failed_reads);
                return self.lost(at..run.end, error);
            }
            if self.share {
                let cloned = self.clone(at..run.end)?;
                if cloned > 0 {
                    at += cloned;
                    continue;
                }
                self.transfer.not_shared.fetch_add(1, Ordering::Relaxed);
            }
            let len = (run.end - at).min(CHUNK);
            self.copy(at..at + len)?;
            at += len;
        }
        Ok(())
    }

    /// Lets the file share the beginning of `run`. Zero when it cannot.
    fn clone(&mut self, run: Range<u64>) -> Result<u64> {
        let Some(there) = self.content.host_range(run.start..run.end.min(run.start + CLONE_CHUNK)) else {
            return Ok(0);
        };
        let Some((key, block)) = self.block(&there) else { return Ok(0) };
        let len = there.len.min(run.end - run.start);
        let is_aligned = |offset: u64| offset.is_multiple_of(block);
        if !is_aligned(there.offset) || !is_aligned(run.start) || len < block {
            return Ok(0);
        }
        // The last block of a file is shared whole and cut to the file's size afterwards, if the image has all of it.
        let is_last = run.start + len == self.content.size();
        let whole = len.next_multiple_of(block);
        let whole = if is_last && there.offset.checked_add(whole).is_some_and(|end| size_of_file(there.file) >= end) {
            whole
        } else {
            len - len % block
        };
        match crate::sys::clone_range(there.file, there.offset, whole, self.to, run.start) {
            Ok(()) => {}
            Err(Errno::XDEV | Errno::OPNOTSUPP | Errno::NOTTY | Errno::NOSYS | Errno::PERM | Errno::BADF) => {
                self.transfer.learn(key, Pair::Never);
                return Ok(0);
            }
            Err(Errno::NOSPC | Errno::DQUOT) => return Err(self.failed(Errno::NOSPC.into())),
            // This range cannot be shared, whatever the reason; others may.
            Err(_) => return Ok(0),
        }
        let len = whole.min(len);
        if whole > len {
            self.to.set_len(run.start + len).map_err(|error| self.failed(error))?;
        }
        self.end = self.end.max(run.start + len);
        self.cloned += len;
        self.transfer.cloned.fetch_add(len, Ordering::Relaxed);
        self.progress.advance(len);
        Ok(len)
    }

    /// The two filesystems, and the block in which they share; `None` when they do not.
    fn block(&self, there: &HostRange<'_>) -> Option<((u64, u64), u64)> {
        let from = rustix::fs::fstat(there.file).ok()?;
        let to = rustix::fs::fstat(self.to).ok()?;
        let key = (from.st_dev, to.st_dev);
        let block = match self.transfer.pair(key) {
            Some(Pair::Never) => return None,
            Some(Pair::Shares(block)) => block,
            None => {
                let stat = rustix::fs::fstatfs(self.to).ok()?;
                let block = u64::try_from(stat.f_bsize).ok().filter(|block| block.is_power_of_two())?;
                // Larger ones are those of network filesystems, which do not share in them.
                let pair = if (512..=65_536).contains(&block) { Pair::Shares(block) } else { Pair::Never };
                self.transfer.learn(key, pair);
                block
            }
        };
        Some((key, block))
    }

    /// Reads and writes at most a chunk; what cannot be read of it is looked at in ever smaller pieces.
    fn copy(&mut self, run: Range<u64>) -> Result<()> {
        let mut pending = vec![run];
        while let Some(piece) = pending.pop() {
            self.check_cancelled()?;
            let len = piece.end - piece.start;
            // It only grows: what is cut off would be filled with zeroes when it is needed again.
            if self.buffer.len() < to_usize(len) {
                self.buffer.resize(to_usize(len), 0);
            }
            let bytes = &mut self.buffer[..to_usize(len)];
            match self.content.read_exact_at(bytes, piece.start) {
                Ok(()) => {
                    let written = self.to.write_all_at(bytes, piece.start);
                    written.map_err(|error| Error::io("write", self.shown, error))?;
                    self.end = self.end.max(piece.end);
                    self.transfer.copied.fetch_add(len, Ordering::Relaxed);
                    self.progress.advance(len);
                }
                Err(error) if matches!(error.kind(), ErrorKind::Cancelled) => return Err(error),
                Err(_) if !self.whole && len > SALVAGE && self.failed_reads < SALVAGE_PIECES => {
                    let middle = piece.start + (len / 2).next_multiple_of(SALVAGE).min(len - 1);
                    pending.push(middle..piece.end);
                    pending.push(piece.start..middle);
                }
                Err(error) => {
                    self.failed_reads += 1;
                    self.lost(piece, error)?;
                }
            }
        }
        Ok(())
    }

    /// Notes what cannot be read, unless nothing may be lost; neighbours are one.
    fn lost(&mut self, range: Range<u64>, error: Error) -> Result<()> {
        if self.whole {
            return Err(error);
        }
        self.progress.advance(range.end - range.start);
        match self.unreadable.last_mut() {
            Some(last) if last.range.end == range.start => last.range.end = range.end,
            _ => self.unreadable.push(Unreadable { range, error }),
        }
        Ok(())
    }

    fn check_cancelled(&self) -> Result<()> {
        if self.progress.cancelled() { Err(ErrorKind::Cancelled.into()) } else { Ok(()) }
    }

    fn failed(&self, error: std::io::Error) -> Error {
        Error::io("write", self.shown, error)
    }
}

fn size_of_file(file: &File) -> u64 {
    file.metadata().map_or(0, |metadata| metadata.len())
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::block::{Extent, Memory};
    use crate::progress::Silent;

    /// 3 MiB of ones whose bytes from `bad` cannot be read, with a hole in the second MiB.
    #[derive(Debug)]
    struct Damaged {
        bad: Range<u64>,
        reads: AtomicU64,
        size: u64,
    }

    impl BlockDevice for Damaged {
        fn size(&self) -> u64 {
            self.size
        }
        fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
            self.reads.fetch_add(1, Ordering::Relaxed);
            if offset < self.bad.end && offset + to_u64(buf.len()) > self.bad.start {
                return Err(Error::invalid("broken"));
            }
            buf.fill(1);
            Ok(())
        }
        fn next_extent(&self, range: Range<u64>) -> Result<Extent> {
            let (kind, end) = match range.start >> 20 {
                0 => (ExtentKind::Data, 1 << 20),
                1 => (ExtentKind::Hole, 2 << 20),
                _ => (ExtentKind::Data, self.size),
            };
            Ok(Extent { kind, len: end.min(range.end) - range.start })
        }
    }

    fn damaged(bad: Range<u64>, size: u64) -> (Vec<(u64, u64)>, File, Transferred, u64) {
        let content = Damaged { bad, reads: AtomicU64::new(0), size };
        let file = tempfile::tempfile().unwrap();
        let transfer = Transfer::new(true);
        let lost = transfer.copy(&content, &file, &"file", &mut Vec::new(), &Silent).unwrap();
        let lost = lost.iter().map(|lost| (lost.range.start, lost.range.end)).collect();
        (lost, file, transfer.done(), content.reads.into_inner())
    }

    #[test]
    fn what_can_be_read_is_written_and_what_cannot_is_told() {
        let at = (2 << 20) + 10_000;
        let (lost, mut file, done, _) = damaged(at..at + 1, 3 << 20);
        assert_eq!(lost, [((2 << 20) + 8_192, (2 << 20) + 12_288)]);
        assert_eq!((done.hole_bytes, done.copied_bytes), (1 << 20, (2 << 20) - 4_096));
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes.len(), 3 << 20);
        let zeroes = bytes.iter().filter(|byte| **byte == 0).count();
        assert_eq!(zeroes, (1 << 20) + 4_096);
    }

    #[test]
    fn a_content_that_cannot_be_read_at_all_costs_a_bounded_number_of_reads() {
        let size = 1 << 40;
        let (lost, file, done, reads) = damaged(0..size, size);
        assert_eq!(lost, [(0, 1 << 20), (2 << 20, size)]);
        assert_eq!((file.metadata().unwrap().len(), done.copied_bytes), (size, 0));
        assert!(reads < 6_000, "{reads}");
    }

    #[test]
    fn an_empty_content_and_one_that_ends_in_a_hole_have_their_sizes() {
        for (size, bytes) in [(0, Vec::new()), (5, vec![7; 5])] {
            let file = tempfile::tempfile().unwrap();
            Transfer::new(true).copy(&Memory::new(bytes), &file, &"f", &mut Vec::new(), &Silent).unwrap();
            assert_eq!(file.metadata().unwrap().len(), size);
        }
        let (lost, file, ..) = damaged(0..0, (1 << 20) + 5);
        assert_eq!((lost.len(), file.metadata().unwrap().len()), (0, (1 << 20) + 5));
    }
}
