//! Whether two contents of one size are equal, reading as little as that takes.

use std::ops::Range;
use std::sync::atomic::Ordering;

use super::{Counters, DiffSide};
use crate::block::{BlockDevice, Survey};
use crate::error::{Error, ErrorKind, Result};
use crate::ops::both::{Both, Buffers, PIECE, known};
use crate::ops::compare::{CompareOptions, Comparison, Located, compare_located};
use crate::progress::Progress;

/// Larger contents are compared by all threads together, one after the other.
pub(super) const LARGE: u64 = 2 * PIECE;

/// Bytes that are read to find the first one that cannot be.
const PROBE: u64 = 4096;

/// The answer for one pair of contents.
#[derive(Debug)]
pub(super) enum Equality {
    Same,
    /// With the first byte that differs.
    Different(u64),
    /// As far as they can be read they are equal.
    Unreadable {
        side: DiffSide,
        offset: u64,
        error: Error,
    },
}

/// Compares on this thread. The only error is a cancelled run.
pub(super) fn compare(old: &dyn BlockDevice, new: &dyn BlockDevice, counters: &Counters) -> Result<Equality> {
    let (mut at, end) = (0, old.size().max(new.size()));
    let mut buffers = Buffers::default();
    let (mut old_survey, mut new_survey) = (Survey::new(old), Survey::new(new));
    while at < end {
        let both = match known(&mut old_survey, &mut new_survey, at, end) {
            Ok(both) => both,
            Err(error) => return unreadable(old, new, at, error),
        };
        let next = both.range.end;
        if !both.is_equal() {
            match buffers.compare(old, new, &both) {
                Ok(None) => {}
                Ok(Some(offset)) => {
                    count(counters, &both);
                    return Ok(Equality::Different(offset));
                }
                Err(error) => return unreadable(old, new, at, error),
            }
        }
        count(counters, &both);
        at = next;
    }
    Ok(Equality::Same)
}

/// Compares on all threads of the pool. The only error is a cancelled run.
pub(super) fn compare_on_all_threads(
    old: &dyn BlockDevice,
    new: &dyn BlockDevice,
    counters: &Counters,
    progress: &dyn Progress,
) -> Result<Equality> {
    let seen = |both: &Both| count(counters, both);
    match compare_located(old, new, &CompareOptions::default(), progress, &seen) {
        Ok(Comparison::Same) => Ok(Equality::Same),
        Ok(Comparison::Different { offset }) => Ok(Equality::Different(offset)),
        Err(Located { offset, error }) => unreadable(old, new, offset, error),
    }
}

fn count(counters: &Counters, both: &Both) {
    let len = both.range.end - both.range.start;
    if both.shared {
        counters.shared.fetch_add(len, Ordering::Relaxed);
    }
    counters.read.fetch_add(len * both.sides_read(), Ordering::Relaxed);
}

/// Which side cannot be read in the piece at `at`, and where.
fn unreadable(old: &dyn BlockDevice, new: &dyn BlockDevice, at: u64, error: Error) -> Result<Equality> {
    if matches!(error.kind(), ErrorKind::Cancelled) {
        return Err(error);
    }
    for (side, device) in [(DiffSide::Old, old), (DiffSide::New, new)] {
        let end = device.size().min(at + PIECE);
        if let Some((offset, error)) = probe(device, at..end) {
            return Ok(Equality::Unreadable { side, offset, error });
        }
    }
    Ok(Equality::Unreadable { side: DiffSide::Old, offset: at, error })
}

/// The first offset in `range` that cannot be read, and why; the beginning and `error` when all of it can be now.
pub(super) fn first_unreadable(device: &dyn BlockDevice, range: Range<u64>, error: Error) -> (u64, Error) {
    let start = range.start;
    probe(device, range).unwrap_or((start, error))
}

fn probe(device: &dyn BlockDevice, range: Range<u64>) -> Option<(u64, Error)> {
    let mut buffer = Vec::new();
    let mut at = range.start;
    while at < range.end {
        let extent = match device.next_extent(at..range.end) {
            Ok(extent) => extent,
            Err(error) => return Some((at, error)),
        };
        let len = match extent.kind {
            crate::block::ExtentKind::Data => extent.len.min(PROBE),
            _ => extent.len,
        };
        if extent.kind == crate::block::ExtentKind::Data {
            buffer.resize(len as usize, 0);
            if let Err(error) = device.read_exact_at(&mut buffer, at) {
                return Some((at, error));
            }
        }
        at += len.max(1);
    }
    None
}
