//! A disk whose blocks a map finds in a file, over a parent if it has one.

use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

use super::Window;
use crate::block::{
    BlockDevice, Extent, ExtentKind, HostRange, Status, Survey, Surveyor, Sweep, check_range, range_len,
};
use crate::bytes::{to_u64, to_usize};
use crate::error::Result;

/// Pieces that one question about extents looks at: some 100 µs.
const STEPS: u32 = 1 << 14;
/// The same over a parent, whose answer may be much shorter than the run that was looked for.
const STEPS_OVER_PARENT: u32 = 64;

/// Where the bytes of a run are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::block) enum Place {
    /// Not in this image: the parent's bytes, or zeroes.
    Unallocated,
    /// Zeroes, whatever the parent has.
    Zero,
    /// At this byte of the file.
    Data(u64),
}

/// Bytes of the disk that lie together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::block) struct Run {
    pub(in crate::block) place: Place,
    pub(in crate::block) len: u64,
}

/// Knows where blocks are.
pub(in crate::block) trait BlockMap: Send + Sync + Debug {
    /// The run at `at`, as far as one entry of the table tells; data lies inside the file. `at` is inside the disk, the
    /// run may pass its end.
    fn piece(&self, window: &mut Window, at: u64) -> Result<Run>;

    /// As [`BlockDevice::audit`], for the table alone.
    fn audit(&self, sweep: Sweep) -> Result<()>;
}

/// The disk is the beginning of the file.
#[derive(Debug)]
pub(in crate::block) struct Identity;

impl BlockMap for Identity {
    fn piece(&self, _window: &mut Window, at: u64) -> Result<Run> {
        Ok(Run { place: Place::Data(at), len: u64::MAX.saturating_sub(at) })
    }

    fn audit(&self, _sweep: Sweep) -> Result<()> {
        Ok(())
    }
}

/// The disk.
#[derive(Debug)]
pub(in crate::block) struct Mapped<M> {
    pub(in crate::block) size: u64,
    pub(in crate::block) file: Arc<dyn BlockDevice>,
    pub(in crate::block) parent: Option<Arc<dyn BlockDevice>>,
    pub(in crate::block) map: M,
    /// Every block has its place from the beginning, so that holes of the file tell what was never written.
    pub(in crate::block) fixed: bool,
    /// The file is not as it lies there (a log was replayed over it), so places in it are nobody else's business.
    pub(in crate::block) moved: bool,
}

impl<M: BlockMap> Mapped<M> {
    /// The run at the beginning of `range`, found in no more than `steps` pieces.
    fn run(&self, window: &mut Window, range: Range<u64>, steps: u32) -> Result<Run> {
        let mut run = self.map.piece(window, range.start)?;
        let wanted = range_len(&range);
        for _ in 1..steps {
            if run.len >= wanted {
                break;
            }
            // What is wrong with a later entry is for whoever asks for it.
            let Ok(next) = self.map.piece(window, range.start.saturating_add(run.len)) else { break };
            let goes_on = match run.place {
                Place::Data(at) => Place::Data(at.saturating_add(run.len)),
                other => other,
            };
            if next.place != goes_on {
                break;
            }
            run.len = run.len.saturating_add(next.len);
        }
        run.len = run.len.min(wanted);
        Ok(run)
    }

    /// The run at the beginning of `range`, for a question about extents.
    fn some(&self, range: &Range<u64>) -> Result<Run> {
        check_range(self.size, range.start, to_usize(range_len(range)))?;
        let steps = if self.parent.is_some() { STEPS_OVER_PARENT } else { STEPS };
        self.run(&mut Window::default(), range.clone(), steps)
    }

    /// The parent and its part of `len` bytes at `at`, if it reaches that far.
    fn in_parent(&self, at: u64, len: u64) -> Option<(&Arc<dyn BlockDevice>, Range<u64>)> {
        let parent = self.parent.as_ref()?;
        let end = at.saturating_add(len).min(parent.size());
        (at < end).then_some((parent, at..end))
    }

    /// The extent of a run, unless the parent decides.
    fn own_extent(&self, run: &Run) -> Result<Option<Extent>> {
        match run.place {
            Place::Zero => Ok(Some(Extent { kind: ExtentKind::Zero, len: run.len })),
            Place::Data(host) => self.stored_extent(host, run.len).map(Some),
            Place::Unallocated => Ok(None),
        }
    }

    /// The status of a run, unless the parent decides.
    fn own_status(&self, run: &Run) -> Result<Option<Status>> {
        let own =
            Status { len: run.len, kind: ExtentKind::Zero, depth: 0, allocated: true, compressed: false, offset: None };
        match run.place {
            Place::Zero => Ok(Some(own)),
            Place::Data(host) => {
                let data = Extent { kind: ExtentKind::Data, len: run.len };
                let Extent { kind, len } = if self.fixed { self.stored_extent(host, run.len)? } else { data };
                Ok(Some(Status { len, kind, offset: (!self.moved).then_some(host), ..own }))
            }
            Place::Unallocated => Ok(None),
        }
    }

    /// The status of what neither this image nor a parent has. Past the end of a shorter parent its zeroes decide; without
    /// one nothing could lie below, so the hole is this image's own.
    fn nowhere(&self, len: u64) -> Status {
        let below = self.parent.is_some();
        let kind = if below { ExtentKind::Zero } else { ExtentKind::Hole };
        Status { len, kind, depth: below.into(), allocated: true, compressed: false, offset: None }
    }

    fn read_unallocated(&self, buf: &mut [u8], at: u64) -> Result<()> {
        let there = self.in_parent(at, to_u64(buf.len())).map(|(parent, range)| (parent, to_usize(range_len(&range))));
        let (parent, len) = match there {
            Some((parent, len)) => (Some(parent), len),
            None => (None, 0),
        };
        let (head, tail) = buf.split_at_mut(len.min(buf.len()));
        tail.fill(0);
        match parent {
            Some(parent) => parent.read_exact_at(head, at),
            None => Ok(()),
        }
    }

    /// What the file knows of `len` bytes at `at` of it.
    fn stored_extent(&self, at: u64, len: u64) -> Result<Extent> {
        let extent = self.file.next_extent(at..at.saturating_add(len))?;
        let kind = if extent.kind == ExtentKind::Data { ExtentKind::Data } else { ExtentKind::Zero };
        Ok(Extent { kind, ..extent })
    }
}

impl<M: BlockMap> BlockDevice for Mapped<M> {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let end = check_range(self.size, offset, buf.len())?;
        let mut window = Window::default();
        let (mut at, mut rest) = (offset, buf);
        while !rest.is_empty() {
            let run = self.run(&mut window, at..end, u32::MAX)?;
            let (part, tail) = rest.split_at_mut(to_usize(run.len).clamp(1, rest.len()));
            match run.place {
                Place::Unallocated => self.read_unallocated(part, at)?,
                Place::Zero => part.fill(0),
                Place::Data(host) => self.file.read_exact_at(part, host)?,
            }
            (at, rest) = (at.saturating_add(run.len), tail);
        }
        Ok(())
    }

    fn next_extent(&self, range: Range<u64>) -> Result<Extent> {
        let run = self.some(&range)?;
        match (self.own_extent(&run)?, self.in_parent(range.start, run.len)) {
            (Some(extent), _) => Ok(extent),
            (None, Some((parent, range))) => parent.next_extent(range),
            (None, None) => Ok(Extent { kind: ExtentKind::Hole, len: run.len }),
        }
    }

    fn host_range(&self, range: Range<u64>) -> Option<HostRange<'_>> {
        let run = self.some(&range).ok()?;
        match run.place {
            Place::Zero => None,
            Place::Data(host) => self.file.host_range(host..host.saturating_add(run.len)),
            Place::Unallocated => {
                let (parent, range) = self.in_parent(range.start, run.len)?;
                parent.host_range(range)
            }
        }
    }

    fn status(&self, range: Range<u64>) -> Result<Status> {
        let run = self.some(&range)?;
        match (self.own_status(&run)?, self.in_parent(range.start, run.len)) {
            (Some(status), _) => Ok(status),
            (None, Some((parent, range))) => Ok(parent.status(range)?.seen_from_above()),
            (None, None) => Ok(self.nowhere(run.len)),
        }
    }

    fn surveyor(&self) -> Option<Box<dyn Surveyor + '_>> {
        Some(Box::new(Surveying { disk: self, window: Window::default(), run: None, parent: None }))
    }

    fn audit(&self, sweep: Sweep) -> Result<()> {
        self.map.audit(sweep)?;
        self.parent.as_ref().map_or(Ok(()), |parent| parent.audit(sweep))
    }
}

/// A walk over the disk: one pass over the table, and over that of the parent.
struct Surveying<'a, M> {
    disk: &'a Mapped<M>,
    window: Window,
    /// The run that was found last and where it begins: of a long one over a parent only a part is used at a time.
    run: Option<(u64, Run)>,
    parent: Option<Survey<'a>>,
}

impl<'a, M: BlockMap> Surveying<'a, M> {
    fn run(&mut self, range: &Range<u64>) -> Result<Run> {
        let kept =
            self.run.filter(|(start, run)| range.start >= *start && range.start.saturating_sub(*start) < run.len);
        let (start, run) = match kept {
            Some(kept) => kept,
            None => {
                let run = self.disk.run(&mut self.window, range.start..self.disk.size, u32::MAX)?;
                self.run = Some((range.start, run));
                (range.start, run)
            }
        };
        let skip = range.start.saturating_sub(start);
        let place = match run.place {
            Place::Data(host) => Place::Data(host.saturating_add(skip)),
            other => other,
        };
        Ok(Run { place, len: run.len.saturating_sub(skip).min(range_len(range)) })
    }

    fn parent(&mut self, at: u64, len: u64) -> Option<(&mut Survey<'a>, Range<u64>)> {
        let (parent, range) = self.disk.in_parent(at, len)?;
        Some((self.parent.get_or_insert_with(|| Survey::new(parent)), range))
    }
}

impl<M: BlockMap> Surveyor for Surveying<'_, M> {
    fn next_extent(&mut self, range: Range<u64>) -> Result<Extent> {
        let run = self.run(&range)?;
        if let Some(extent) = self.disk.own_extent(&run)? {
            return Ok(extent);
        }
        match self.parent(range.start, run.len) {
            Some((parent, range)) => {
                let extent = parent.extent(range.start)?;
                Ok(Extent { len: extent.len.min(range_len(&range)), ..extent })
            }
            None => Ok(Extent { kind: ExtentKind::Hole, len: run.len }),
        }
    }

    fn status(&mut self, range: Range<u64>) -> Result<Status> {
        let run = self.run(&range)?;
        if let Some(status) = self.disk.own_status(&run)? {
            return Ok(status);
        }
        match self.parent(range.start, run.len) {
            Some((parent, range)) => Ok(parent.status(range)?.seen_from_above()),
            None => Ok(self.disk.nowhere(run.len)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::{Memory, read_vec};

    /// Blocks of ten bytes in reverse order; the second is unallocated, the third zero.
    #[derive(Debug)]
    struct Backwards;

    impl BlockMap for Backwards {
        fn piece(&self, _window: &mut Window, at: u64) -> Result<Run> {
            let place = match at / 10 {
                1 => Place::Unallocated,
                2 => Place::Zero,
                block => Place::Data(40 - block * 10 + at % 10),
            };
            Ok(Run { place, len: 10 - at % 10 })
        }

        fn audit(&self, _sweep: Sweep) -> Result<()> {
            Ok(())
        }
    }

    #[test]
    fn blocks_come_from_the_file_the_parent_or_nowhere() {
        let file: Arc<dyn BlockDevice> = Arc::new(Memory::new((0..50).collect()));
        let parent: Arc<dyn BlockDevice> = Arc::new(Memory::new(vec![99; 15]));
        let disk = Mapped { size: 45, file, parent: Some(parent), map: Backwards, fixed: false, moved: false };
        let mut expected: Vec<u8> = (40..50).collect();
        expected.extend([99; 5]);
        expected.extend([0; 15]);
        expected.extend(10..20);
        expected.extend(0..5);
        assert_eq!(read_vec(&disk, 0, 45).unwrap(), expected);
        assert_eq!(disk.next_extent(3..45).unwrap(), Extent { kind: ExtentKind::Data, len: 7 });
        assert_eq!(disk.next_extent(10..45).unwrap(), Extent { kind: ExtentKind::Data, len: 5 });
        assert_eq!(disk.next_extent(15..45).unwrap().kind, ExtentKind::Hole);
        assert_eq!(disk.next_extent(20..45).unwrap(), Extent { kind: ExtentKind::Zero, len: 10 });
        let own = disk.status(30..45).unwrap();
        assert_eq!((own.len, own.depth, own.allocated, own.offset), (10, 0, true, Some(10)));
        assert_eq!(disk.status(12..45).unwrap().depth, 1);
        assert!(read_vec(&disk, 40, 6).is_err());
    }
}
