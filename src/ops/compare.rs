//! Whether two disks hold the same bytes: what both know to be zero, or both keep in the same place of the same file, is
//! never read.

use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::zero::is_zero;
use crate::block::{BlockDevice, ExtentKind, Survey, Sweep};
use crate::error::{Error, ErrorKind, Result};
use crate::progress::Progress;

/// Bytes that a thread reads from each side at a time.
const PIECE: u64 = 1 << 20;

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

/// Compares two disks on all threads of the caller's pool. The answer does not depend on their number.
pub fn compare(
    left: &dyn BlockDevice,
    right: &dyn BlockDevice,
    options: &CompareOptions,
    progress: &dyn Progress,
) -> Result<Comparison> {
    let (shorter, longer) = (left.size().min(right.size()), left.size().max(right.size()));
    if options.strict && shorter != longer {
        return Ok(Comparison::Different { offset: shorter });
    }
    left.audit(Sweep::Read)?;
    right.audit(Sweep::Read)?;
    let work = Pieces {
        left,
        right,
        strict: options.strict,
        end: longer,
        at: Mutex::new(Walk { at: 0, left: Survey::new(left), right: Survey::new(right) }),
        first: AtomicU64::new(u64::MAX),
        failure: Mutex::new(None),
        progress,
    };
    rayon::scope(|scope| {
        for _ in 0..rayon::current_num_threads() {
            scope.spawn(|_| work.run());
        }
    });
    let first = work.first.into_inner();
    match work.failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        // A difference before the part that cannot be read answers the question.
        Some((offset, error)) if offset <= first => Err(error),
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
}

struct Walk<'a> {
    at: u64,
    left: Survey<'a>,
    right: Survey<'a>,
}

/// What is known of both sides from one offset on.
struct Both {
    range: Range<u64>,
    left: ExtentKind,
    right: ExtentKind,
}

impl Pieces<'_> {
    fn run(&self) {
        let mut buffers = (Vec::new(), Vec::new());
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
        let mut walk = self.at.lock().unwrap_or_else(PoisonError::into_inner);
        while walk.at < self.end && walk.at < self.first.load(Ordering::Relaxed) {
            let start = walk.at;
            let both = self.known(&mut walk).map_err(|error| (start, error))?;
            walk.at = both.range.end;
            let zero = both.left != ExtentKind::Data && both.right != ExtentKind::Data;
            if zero && !self.strict {
                self.progress.advance(both.range.end - start);
                continue;
            }
            return Ok(Some(both));
        }
        Ok(None)
    }

    /// What both sides are at `at`, as far as that goes and, when it is data, at most a piece.
    fn known(&self, walk: &mut Walk<'_>) -> Result<Both> {
        let at = walk.at;
        let side = |survey: &mut Survey<'_>| {
            if at >= survey.device().size() {
                return Ok((self.end - at, ExtentKind::Hole));
            }
            let extent = survey.extent(at)?;
            Ok::<_, Error>((extent.len, extent.kind))
        };
        let ((left_len, left), (right_len, right)) = (side(&mut walk.left)?, side(&mut walk.right)?);
        let most = if left == ExtentKind::Data || right == ExtentKind::Data { PIECE } else { u64::MAX };
        let len = left_len.min(right_len).min(most);
        Ok(Both { range: at..at + len, left, right })
    }

    /// The first difference in a piece.
    fn compare(&self, piece: &Both, (left, right): &mut (Vec<u8>, Vec<u8>)) -> Result<Option<u64>> {
        let range = piece.range.clone();
        if self.strict {
            let allocated = |device: &dyn BlockDevice| Ok::<_, Error>(device.status(range.clone())?.allocated);
            if allocated(self.left)? != allocated(self.right)? {
                return Ok(Some(range.start));
            }
        }
        if self.same_place(&range) {
            return Ok(None);
        }
        let len = (range.end - range.start) as usize;
        let read = |device: &dyn BlockDevice, buffer: &mut Vec<u8>| {
            buffer.resize(len, 0);
            device.read_exact_at(buffer, range.start)
        };
        let found = match (piece.left, piece.right) {
            (ExtentKind::Data, ExtentKind::Data) => {
                read(self.left, left)?;
                read(self.right, right)?;
                if left == right { None } else { left.iter().zip(&*right).position(|(left, right)| left != right) }
            }
            (ExtentKind::Data, _) => {
                read(self.left, left)?;
                if is_zero(left) { None } else { left.iter().position(|byte| *byte != 0) }
            }
            (_, ExtentKind::Data) => {
                read(self.right, right)?;
                if is_zero(right) { None } else { right.iter().position(|byte| *byte != 0) }
            }
            _ => None,
        };
        Ok(found.map(|at| range.start + at as u64))
    }

    /// Whether both sides keep the whole range in the same place of the same file.
    fn same_place(&self, range: &Range<u64>) -> bool {
        let len = range.end - range.start;
        let whole = |device: &'_ dyn BlockDevice| {
            if range.end > device.size() {
                return None;
            }
            let there = device.host_range(range.clone()).filter(|there| there.len >= len)?;
            let metadata = there.file.metadata().ok()?;
            Some((metadata.dev(), metadata.ino(), there.offset))
        };
        let left = whole(self.left);
        left.is_some() && left == whole(self.right)
    }
}
