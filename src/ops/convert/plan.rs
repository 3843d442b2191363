//! What there is to do, piece by piece in guest order.

use std::ops::Range;

use super::super::zero::round_up;
use crate::block::{BlockDevice, ExtentKind, Survey};
use crate::error::Result;

/// Bytes that are read and written at a time, so that a thread's buffer stays in the processor's cache on its way from
/// read to write; larger units come one at a time.
const PIECE: u64 = 1 << 20;

/// Bytes that are cloned at a time. It costs no memory, but progress and cancelling want pieces.
const CLONED_PIECE: u64 = 64 << 20;

/// The block of the filesystems that share storage.
pub(super) const CLONE_ALIGNMENT: u64 = 4096;

/// Zeroes that are noted or allocated at a time.
const ZERO_PIECE: u64 = 64 << 20;

/// A piece of work.
#[derive(Debug)]
pub(super) struct Item {
    /// Its number: places are given in this order.
    pub ticket: u64,
    /// Guest bytes, whole units but for the disk's end.
    pub range: Range<u64>,
    pub work: Work,
}

#[derive(Debug)]
pub(super) enum Work {
    /// Read these parts of the range, which may hold data; the rest is known to be zero.
    Read(Vec<Range<u64>>),
    /// These parts of the range lie in a host file, aligned: clone them. The rest is known to be zero.
    Clone(Vec<Range<u64>>),
    /// All of it is known to be zero, and the target wants to know.
    Zero,
}

/// How a source is cut.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cut {
    /// Bytes of a unit of the target.
    pub unit: u64,
    /// Whether what lies in a host file is to be cloned.
    pub clone: bool,
    /// Whether zeroes are work too.
    pub zeroes: bool,
    /// Whether everything must be read because it is compared with what lies below.
    pub read_all: bool,
}

/// Cuts the source into items.
pub(super) struct Plan<'a> {
    source: &'a dyn BlockDevice,
    survey: Survey<'a>,
    cut: Cut,
    at: u64,
    tickets: u64,
    /// Bytes that were passed over since the last item, for progress.
    pub passed: u64,
}

impl<'a> Plan<'a> {
    pub(super) fn new(source: &'a dyn BlockDevice, cut: Cut) -> Self {
        Self { source, survey: Survey::new(source), cut, at: 0, tickets: 0, passed: 0 }
    }

    /// The extent around `at`, from `at` on.
    fn extent(&mut self, at: u64) -> Result<(Range<u64>, ExtentKind)> {
        let found = self.survey.extent(at)?;
        let end = at.saturating_add(found.len).min(self.source.size());
        Ok((at..end, if self.cut.read_all { ExtentKind::Data } else { found.kind }))
    }

    /// Where the whole units of `run`, which begins at a unit's start, end.
    fn whole_units(&self, run: &Range<u64>) -> u64 {
        if run.end == self.source.size() { run.end } else { run.end - run.end % self.cut.unit }
    }

    pub(super) fn next(&mut self) -> Result<Option<Item>> {
        let size = self.source.size();
        while self.at < size {
            let at = self.at;
            let (run, kind) = self.extent(at)?;
            let units_end = self.whole_units(&run);
            if kind != ExtentKind::Data && units_end > at {
                if !self.cut.zeroes {
                    self.passed += units_end - at;
                    self.at = units_end;
                    continue;
                }
                let end = units_end.min(at + ZERO_PIECE.max(self.cut.unit));
                return Ok(Some(self.item(end, Work::Zero)));
            }
            if self.cut.clone
                && let Some(item) = self.clone_item()?
            {
                return Ok(Some(item));
            }
            return self.read_item().map(Some);
        }
        Ok(None)
    }

    fn item(&mut self, end: u64, work: Work) -> Item {
        let range = self.at..end;
        self.at = end;
        self.tickets += 1;
        Item { ticket: self.tickets - 1, range, work }
    }

    /// How far `run` can be cloned: to a multiple of the block of every reflink filesystem, from and to such.
    fn clonable(&self, run: &Range<u64>) -> Option<u64> {
        let there = self.source.host_range(run.clone())?;
        let len = there.len.min(run.end - run.start) / CLONE_ALIGNMENT * CLONE_ALIGNMENT;
        let aligned = (there.offset | run.start).is_multiple_of(CLONE_ALIGNMENT);
        (aligned && len > 0).then(|| run.start + len)
    }

    /// Units whose data can all be cloned, if the next ones are such.
    fn clone_item(&mut self) -> Result<Option<Item>> {
        let (start, size, unit) = (self.at, self.source.size(), self.cut.unit);
        let last = size.min(start + CLONED_PIECE.max(unit));
        let mut parts: Vec<Range<u64>> = Vec::new();
        let mut at = start;
        while at < last {
            let (run, kind) = self.extent(at)?;
            if kind == ExtentKind::Data {
                let Some(end) = self.clonable(&(at..run.end.min(last))) else { break };
                parts.push(at..end);
                at = end;
            } else if self.has_whole_unit(&run) {
                at = round_up(at, unit).min(last);
                break;
            } else {
                at = run.end.min(last);
            }
        }
        let end = if at == size { size } else { start + (at - start) / unit * unit };
        parts.retain_mut(|part| {
            part.end = part.end.min(end);
            part.start < part.end
        });
        let found = end > start && !parts.is_empty();
        Ok(found.then(|| self.item(end, Work::Clone(parts))))
    }

    /// Whether zeroes at `run`, whose first unit may have begun before, fill a whole unit.
    fn has_whole_unit(&self, run: &Range<u64>) -> bool {
        let first = round_up(run.start, self.cut.unit);
        first + self.cut.unit <= run.end || (run.end == self.source.size() && first < run.end)
    }

    /// At most a piece that begins with data; it ends before whole units of zeroes.
    fn read_item(&mut self) -> Result<Item> {
        let size = self.source.size();
        let last = size.min(self.at + PIECE.max(self.cut.unit));
        let mut parts: Vec<Range<u64>> = Vec::new();
        let mut at = self.at;
        while at < last {
            let (run, kind) = self.extent(at)?;
            let end = run.end.min(last);
            if kind == ExtentKind::Data {
                match parts.last_mut() {
                    Some(part) if part.end == at => part.end = end,
                    _ => parts.push(at..end),
                }
            } else if self.has_whole_unit(&run) {
                at = round_up(at, self.cut.unit).min(last);
                break;
            }
            at = end;
        }
        Ok(self.item(at, Work::Read(parts)))
    }
}
