//! Whether two disks hold the same bytes: what both know to be zero, or both keep in the same place of the same file, is
//! never read.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::both::{Both, Buffers, known};
use crate::block::{BlockDevice, Survey, Sweep};
use crate::error::{Error, ErrorKind, Result};
use crate::progress::Progress;

/// How to compare.
#[derive(Debug, Clone, Copy, Default)]
pub struct CompareOptions {
    /// Sizes and what is allocated must be the same too, as in `qemu-img compare -s`.
    pub strict: bool,
}

/// The result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// The same bytes; a longer disk goes on with zeroes.
    Same,
    /// Different.
    Different {
        /// The first byte that differs, or, when strict, the first whose allocation does.
        offset: u64,
    },
}

/// An error, and where the piece begins that could not be compared.
#[derive(Debug)]
pub(super) struct Located {
    pub(super) offset: u64,
    pub(super) error: Error,
}

/// Compares two disks on all threads of the caller's pool. The answer does not depend on their number.
pub fn compare(
    left: &dyn BlockDevice,
    right: &dyn BlockDevice,
    options: &CompareOptions,
    progress: &dyn Progress,
) -> Result<Comparison> {
    compare_located(left, right, options, progress, &|_| {}).map_err(|located| located.error)
}

/// The same; `seen` is told of each piece, on any thread.
pub(super) fn compare_located(
    left: &dyn BlockDevice,
    right: &dyn BlockDevice,
    options: &CompareOptions,
    progress: &dyn Progress,
    seen: &(dyn Fn(&Both) + Sync),
) -> Result<Comparison, Located> {
    let (shorter, longer) = (left.size().min(right.size()), left.size().max(right.size()));
    if options.strict && shorter != longer {
        return Ok(Comparison::Different { offset: shorter });
    }
    for device in [left, right] {
        device.audit(Sweep::Read).map_err(|error| Located { offset: 0, error })?;
    }
    let work = Pieces {
        left,
        right,
        strict: options.strict,
        end: longer,
        at: Mutex::new(Walk { at: 0, left: Survey::new(left), right: Survey::new(right) }),
        first: AtomicU64::new(u64::MAX),
        failure: Mutex::new(None),
        progress,
        seen,
    };
    rayon::scope(|scope| {
        for _ in 0..rayon::current_num_threads() {
            scope.spawn(|_| work.run());
        }
    });
    let first = work.first.into_inner();
    match work.failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        // A difference before the part that cannot be read answers the question.
        Some((offset, error)) if offset <= first => Err(Located { offset, error }),
        _ if first != u64::MAX => Ok(Comparison::Different { offset: first }),
        _ => Ok(Comparison::Same),
    }
}

struct Pieces<'a> {
    left: &'a dyn BlockDevice,
    right: &'a dyn BlockDevice,
    strict: bool,
    /// The longer disk's size.
    end: u64,
    /// Where the next piece begins, and what is known from there on.
    at: Mutex<Walk<'a>>,
    /// The lowest difference.
    first: AtomicU64,
    /// The lowest piece that could not be compared.
    failure: Mutex<Option<(u64, Error)>>,
    progress: &'a dyn Progress,
    seen: &'a (dyn Fn(&Both) + Sync),
}

struct Walk<'a> {
    at: u64,
    left: Survey<'a>,
    right: Survey<'a>,
}

impl Pieces<'_> {
    fn run(&self) {
        let mut buffers = Buffers::default();
        loop {
            let piece = match self.next() {
                Ok(Some(piece)) => piece,
                Ok(None) => return,
                Err((at, error)) => return self.fail(at, error),
            };
            if self.progress.cancelled() {
                return self.fail(0, ErrorKind::Cancelled.into());
            }
            match self.compare(&piece, &mut buffers) {
                Ok(None) => {}
                Ok(Some(offset)) => drop(self.first.fetch_min(offset, Ordering::Relaxed)),
                Err(error) => return self.fail(piece.range.start, error),
            }
            (self.seen)(&piece);
            self.progress.advance(piece.range.end - piece.range.start);
        }
    }

    fn fail(&self, at: u64, error: Error) {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        if failure.as_ref().is_none_or(|(first, _)| at < *first) {
            *failure = Some((at, error));
        }
        self.first.fetch_min(at, Ordering::Relaxed);
    }

    /// The next piece that must be looked at: not past the first difference.
    fn next(&self) -> Result<Option<Both>, (u64, Error)> {
        let mut guard = self.at.lock().unwrap_or_else(PoisonError::into_inner);
        let walk = &mut *guard;
        while walk.at < self.end && walk.at < self.first.load(Ordering::Relaxed) {
            let start = walk.at;
            let both = known(&mut walk.left, &mut walk.right, start, self.end).map_err(|error| (start, error))?;
            walk.at = both.range.end;
            if both.is_equal() && !self.strict {
                (self.seen)(&both);
                self.progress.advance(both.range.end - start);
                continue;
            }
            return Ok(Some(both));
        }
        Ok(None)
    }

    /// The first difference in a piece.
    fn compare(&self, piece: &Both, buffers: &mut Buffers) -> Result<Option<u64>> {
        if self.strict {
            let allocated = |device: &dyn BlockDevice| Ok::<_, Error>(device.status(piece.range.clone())?.allocated);
            if allocated(self.left)? != allocated(self.right)? {
                return Ok(Some(piece.range.start));
            }
        }
        if piece.is_equal() { Ok(None) } else { buffers.compare(self.left, self.right, piece) }
    }
}
