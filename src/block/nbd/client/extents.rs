//! What a server has said about ranges of the disk, one map for each metadata context: neighbouring runs of one value
//! are one, and the map is bounded.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Runs kept per context. A map that grows past this is forgotten and begins anew: 3 MiB of memory.
const RUNS: usize = 1 << 16;

/// Runs of the disk and their values in one context.
#[derive(Debug, Default)]
pub(super) struct Extents(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// Start → end and value; runs do not overlap.
    runs: BTreeMap<u64, (u64, u64)>,
    /// Counts what made all earlier answers worthless.
    generation: u64,
}

impl Extents {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The end and the value of the known run around `at`.
    pub(super) fn get(&self, at: u64) -> Option<(u64, u64)> {
        self.known().around(at)
    }

    /// To be asked before the server is, and given to [`insert`](Self::insert).
    pub(super) fn generation(&self) -> u64 {
        self.known().generation
    }

    /// Keeps what the server said about `start` and on: pairs of length and value. Nothing is kept when the disk has
    /// changed since `generation`.
    pub(super) fn insert(&self, generation: u64, start: u64, runs: &[(u64, u64)]) {
        let mut known = self.known();
        if known.generation != generation {
            return;
        }
        if known.runs.len().saturating_add(runs.len()) > RUNS {
            known.runs.clear();
        }
        let mut at = start;
        for &(len, value) in runs.iter().take(RUNS) {
            let end = at.saturating_add(len);
            known.put(at..end, value);
            at = end;
        }
    }

    /// Forgets everything: the disk has been written to.
    pub(super) fn forget(&self) {
        let mut known = self.known();
        known.runs.clear();
        known.generation = known.generation.wrapping_add(1);
    }
}

impl Known {
    /// Two threads may have asked for overlapping ranges: what is known stays, only the beginning of what is new is added.
    fn put(&mut self, run: Range<u64>, value: u64) {
        let mut start = run.start;
        while let Some((end, _)) = self.around(start) {
            start = end;
        }
        let next = self.runs.range(start..).next().map_or(u64::MAX, |(&next, _)| next);
        let end = run.end.min(next);
        if end <= start {
            return;
        }
        match self.runs.range(..start).next_back() {
            Some((&before, &(until, known))) if until == start && known == value => {
                self.runs.insert(before, (end, value));
            }
            _ => {
                self.runs.insert(start, (end, value));
            }
        }
    }

    fn around(&self, at: u64) -> Option<(u64, u64)> {
        let (_, &(end, value)) = self.runs.range(..=at).next_back()?;
        (end > at).then_some((end, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_found_merged_and_forgotten() {
        let extents = Extents::default();
        extents.insert(0, 100, &[(10, 1), (10, 1), (5, 2)]);
        assert_eq!(extents.get(99), None);
        assert_eq!(extents.get(100), Some((120, 1)));
        assert_eq!(extents.get(119), Some((120, 1)));
        assert_eq!(extents.get(120), Some((125, 2)));
        assert_eq!(extents.get(125), None);
        // Overlaps what is known at both ends.
        extents.insert(0, 90, &[(50, 3)]);
        assert_eq!(extents.get(90), Some((100, 3)));
        assert_eq!(extents.get(100), Some((120, 1)));
        extents.insert(0, 115, &[(30, 4)]);
        assert_eq!(extents.get(119), Some((120, 1)));
        extents.forget();
        assert_eq!(extents.get(100), None);
        extents.insert(0, 100, &[(10, 1)]);
        assert_eq!(extents.get(100), None, "an answer from before the change is not kept");
    }

    #[test]
    fn the_map_is_bounded() {
        let extents = Extents::default();
        for window in 0..8u64 {
            let runs: Vec<_> = (0..20_000).map(|index| (1, index % 2)).collect();
            extents.insert(0, window * 20_000, &runs);
        }
        assert!(extents.known().runs.len() <= RUNS);
        assert_eq!(extents.get(159_999), Some((160_000, 1)));
    }
}
