//! Many small pieces of many contents, read in few large reads in the order of the disk.
//!
//! A piece says where in a buffer its bytes go. Pieces are sorted by where they lie on the device below the contents
//! ([`BlockDevice::below`]); small ones that lie close together are read at once, with the bytes between them, and taken
//! apart. So a directory of small files costs one system call for dozens of them, a compressed cluster is unpacked once for all
//! the files in it, and a spinning disk is passed over once.
//!
//! A piece that cannot be read is tried again block by block: what is unreadable becomes zeroes and is reported.

use std::ops::Range;
use std::sync::Arc;

use crate::block::{Below, BlockDevice, ExtentKind};
use crate::error::{Error, Result};

/// Bytes between two pieces that are read and thrown away rather than asked for separately: copying them costs less than a
/// system call does.
const GAP: u64 = 16 << 10;
/// Pieces from this length on are read on their own, straight to where they go: a second copy would cost more than the
/// system call that it saves.
const ALONE: usize = 32 << 10;
/// Bytes of one read that is taken apart.
const TOGETHER: u64 = 256 << 10;
/// Bytes of the reads that find out what of a damaged piece can be had.
const SALVAGE: usize = 4096;

/// A run of a content that holds data, as the filesystem knows it.
#[derive(Debug)]
pub(super) struct Run {
    /// In the content.
    pub range: Range<u64>,
    /// The device that it is best read from, and where it begins there.
    pub device: Arc<dyn BlockDevice>,
    pub offset: u64,
}

/// The run of data at or behind `at` in `content`; `None` when the rest is holes. What the filesystem has mapped is data,
/// whatever the image below knows of it, so that the answer is the same for all images of one guest.
pub(super) fn next_run(content: &Arc<dyn BlockDevice>, mut at: u64) -> Result<Option<Run>> {
    let size = content.size();
    while at < size {
        if let Some(Below { device, offset, len }) = content.below(at..size) {
            return Ok(Some(Run { range: at..at + len, device: device.clone(), offset }));
        }
        let extent = content.next_extent(at..size)?;
        if extent.kind == ExtentKind::Data {
            let end = (at + extent.len.max(1)).min(size);
            return Ok(Some(Run { range: at..end, device: content.clone(), offset: at }));
        }
        at += extent.len.max(1);
    }
    Ok(None)
}

/// A piece to be read.
#[derive(Debug)]
struct Piece {
    device: Arc<dyn BlockDevice>,
    offset: u64,
    len: usize,
    /// Where in the buffer it goes.
    to: usize,
    /// Whose it is: the caller's number.
    owner: usize,
    /// Where in the owner's content it begins.
    at: u64,
}

impl Piece {
    fn device_id(&self) -> usize {
        Arc::as_ptr(&self.device).cast::<()>() as usize
    }

    fn end(&self) -> u64 {
        self.offset + self.len as u64
    }
}

/// Bytes that could not be read.
#[derive(Debug)]
pub(super) struct Unread {
    /// Whose they are.
    pub owner: usize,
    /// Where in the owner's content.
    pub range: Range<u64>,
    /// Why.
    pub error: Error,
}

/// Pieces that are to be read into one buffer.
#[derive(Debug, Default)]
pub(super) struct Gather {
    pieces: Vec<Piece>,
}

impl Gather {
    /// Asks for the first `len` bytes of `run` at `to` of the buffer.
    pub(super) fn add(&mut self, owner: usize, run: &Run, len: usize, to: usize) {
        if let Some(last) = self.pieces.last_mut()
            && Arc::ptr_eq(&last.device, &run.device)
            && (last.owner, last.end(), last.to + last.len, last.at + last.len as u64)
                == (owner, run.offset, to, run.range.start)
        {
            last.len += len;
            return;
        }
        let (device, offset, at) = (run.device.clone(), run.offset, run.range.start);
        self.pieces.push(Piece { device, offset, len, to, owner, at });
    }

    /// Reads all of them. What cannot be read is zero in the buffer and in the answer, sorted by owner and place.
    pub(super) fn read(mut self, buffer: &mut [u8], scratch: &mut Vec<u8>) -> Vec<Unread> {
        let mut unread = Vec::new();
        self.pieces.sort_unstable_by_key(|piece| (piece.device_id(), piece.offset));
        let mut rest = &self.pieces[..];
        while let Some(first) = rest.first() {
            let count = together(rest);
            let (group, behind) = rest.split_at(count);
            rest = behind;
            let span = first.offset..group.iter().map(Piece::end).max().unwrap_or(first.end());
            let done = count > 1 && {
                let len = (span.end - span.start) as usize;
                if scratch.len() < len {
                    scratch.resize(len, 0);
                }
                first.device.read_exact_at(&mut scratch[..len], span.start).is_ok()
            };
            for piece in group {
                let into = &mut buffer[piece.to..piece.to + piece.len];
                if done {
                    let from = (piece.offset - span.start) as usize;
                    into.copy_from_slice(&scratch[from..from + piece.len]);
                } else if let Err(error) = piece.device.read_exact_at(into, piece.offset) {
                    salvage(piece, into, error, &mut unread);
                }
            }
        }
        unread.sort_by_key(|unread| (unread.owner, unread.range.start));
        unread
    }
}

/// How many of the first pieces are read at once.
fn together(pieces: &[Piece]) -> usize {
    let first = &pieces[0];
    if first.len >= ALONE {
        return 1;
    }
    let mut end = first.end();
    let mut count = 1;
    for piece in &pieces[1..] {
        let near = Arc::ptr_eq(&piece.device, &first.device)
            && piece.len < ALONE
            && piece.offset <= end + GAP
            && piece.end().saturating_sub(first.offset) <= TOGETHER;
        if !near {
            break;
        }
        end = end.max(piece.end());
        count += 1;
    }
    count
}

/// Reads what can be read of a piece that could not be read at once.
fn salvage(piece: &Piece, into: &mut [u8], error: Error, unread: &mut Vec<Unread>) {
    let mut error = Some(error);
    let mut lost: Option<Unread> = None;
    let mut done = 0;
    while done < into.len() {
        let offset = piece.offset + done as u64;
        // Blocks of the device, not of the piece: a block across the edge of what is damaged would be lost with it.
        let len = (SALVAGE - (offset % SALVAGE as u64) as usize).min(into.len() - done);
        let block = &mut into[done..done + len];
        let at = piece.at + done as u64;
        done += len;
        let Err(this) = piece.device.read_exact_at(block, offset) else {
            unread.extend(lost.take());
            continue;
        };
        block.fill(0);
        let end = at + len as u64;
        match &mut lost {
            Some(lost) => lost.range.end = end,
            None => {
                let error = error.take().unwrap_or(this);
                lost = Some(Unread { owner: piece.owner, range: at..end, error });
            }
        }
    }
    unread.extend(lost);
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::block::{Extent, Memory};

    /// Bytes that count up, a range of which cannot be read; remembers what was asked for.
    #[derive(Debug)]
    struct Device {
        bytes: Memory,
        bad: Range<u64>,
        asked: Mutex<Vec<(u64, usize)>>,
    }

    impl BlockDevice for Device {
        fn size(&self) -> u64 {
            self.bytes.size()
        }
        fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
            self.asked.lock().unwrap().push((offset, buf.len()));
            if offset < self.bad.end && offset + buf.len() as u64 > self.bad.start {
                return Err(Error::invalid(format!("bad at {offset}")));
            }
            self.bytes.read_exact_at(buf, offset)
        }
        fn next_extent(&self, range: Range<u64>) -> Result<Extent> {
            self.bytes.next_extent(range)
        }
    }

    fn device(bad: Range<u64>) -> (Arc<Device>, Vec<u8>) {
        let bytes: Vec<u8> = (0..1u32 << 20).map(|n| (n % 251) as u8).collect();
        (Arc::new(Device { bytes: Memory::new(bytes.clone()), bad, asked: Mutex::default() }), bytes)
    }

    fn run(device: &Arc<Device>, at: u64, offset: u64, len: u64) -> Run {
        Run { range: at..at + len, device: device.clone(), offset }
    }

    #[test]
    fn close_pieces_are_read_at_once_and_far_or_large_ones_alone() {
        let (device, bytes) = device(0..0);
        let mut gather = Gather::default();
        let wanted = [
            (5000u64, 100usize, 300usize),
            (4096, 200, 0),
            (20_000, 50, 500),
            (600_000, 10, 600),
            (40_000, 40_000, 700),
        ];
        for (owner, (offset, len, to)) in wanted.into_iter().enumerate() {
            gather.add(owner, &run(&device, 0, offset, len as u64), len, to);
        }
        let mut buffer = vec![9; 50_000];
        assert!(gather.read(&mut buffer, &mut Vec::new()).is_empty());
        for (offset, len, to) in wanted {
            assert_eq!(buffer[to..to + len], bytes[offset as usize..offset as usize + len]);
        }
        assert_eq!(*device.asked.lock().unwrap(), [(4096, 15_954), (40_000, 40_000), (600_000, 10)]);
    }

    #[test]
    fn what_cannot_be_read_is_zero_and_named_and_its_neighbours_are_read() {
        let (device, bytes) = device(10_000..10_001);
        let mut gather = Gather::default();
        gather.add(7, &run(&device, 1000, 0, 20_000), 20_000, 0);
        gather.add(8, &run(&device, 0, 20_000, 5000), 5000, 20_000);
        // Another that begins within a block.
        gather.add(9, &run(&device, 0, 5000, 10_000), 10_000, 25_000);
        let mut buffer = vec![9; 35_000];
        let unread = gather.read(&mut buffer, &mut Vec::new());
        let lost: Vec<_> = unread.iter().map(|lost| (lost.owner, lost.range.clone())).collect();
        assert_eq!(lost, [(7, 1000 + 8192..1000 + 12_288), (9, 8192 - 5000..12_288 - 5000)]);
        let mut expected = [&bytes[..25_000], &bytes[5000..15_000]].concat();
        expected[8192..12_288].fill(0);
        expected[25_000 + 3192..25_000 + 7288].fill(0);
        assert!(buffer == expected);
    }
}
