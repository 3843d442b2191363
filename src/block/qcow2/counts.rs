//! How often clusters are referred to, in little memory: a byte for each cluster, in pieces that exist where something is
//! referred to, and a map for the few larger numbers.

use std::collections::HashMap;
use std::ops::Range;

use foldhash::fast::RandomState;

use crate::bytes::{to_u64, to_usize};
use crate::error::Result;
use crate::limits;

/// Clusters of a piece, as bits.
const PIECE_BITS: u32 = 12;
const PIECE: usize = 1 << PIECE_BITS;

/// The byte that says "see the map".
const LARGE: u8 = u8::MAX;

/// References to clusters.
#[derive(Debug, Clone)]
pub(super) struct Counts {
    pieces: HashMap<u64, Box<[u8]>, RandomState>,
    large: HashMap<u64, u64, RandomState>,
    /// Clusters of the file, or past it if something refers to them.
    clusters: u64,
}

impl Counts {
    /// No references to any of `clusters` clusters.
    pub(super) fn new(clusters: u64) -> Self {
        Self { pieces: HashMap::default(), large: HashMap::default(), clusters }
    }

    /// How many clusters there are to speak of.
    pub(super) fn clusters(&self) -> u64 {
        self.clusters
    }

    /// References to a cluster.
    pub(super) fn get(&self, cluster: u64) -> u64 {
        let within = to_usize(cluster) & PIECE.wrapping_sub(1);
        let piece = self.pieces.get(&cluster.wrapping_shr(PIECE_BITS));
        match piece.and_then(|piece| piece.get(within)).copied().unwrap_or(0) {
            LARGE => self.large.get(&cluster).copied().unwrap_or(LARGE.into()),
            small => small.into(),
        }
    }

    /// Where references may be, in no order.
    pub(super) fn pieces(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.pieces.keys().map(|piece| {
            let start = piece.wrapping_shl(PIECE_BITS);
            start..start.saturating_add(to_u64(PIECE))
        })
    }

    /// Whether there is a reference to one of `clusters`; may say so where there was one near.
    pub(super) fn any(&self, clusters: Range<u64>) -> bool {
        if clusters.is_empty() {
            return false;
        }
        let pieces = clusters.start.wrapping_shr(PIECE_BITS)..=clusters.end.saturating_sub(1).wrapping_shr(PIECE_BITS);
        if pieces.end().saturating_sub(*pieces.start()) > to_u64(self.pieces.len()) {
            return self.pieces.keys().any(|piece| pieces.contains(piece));
        }
        pieces.into_iter().any(|piece| self.pieces.contains_key(&piece))
    }

    /// Adds references, up to `max` in all; how many that left out.
    pub(super) fn add(&mut self, cluster: u64, times: u64, max: u64) -> Result<u64> {
        let number = cluster.wrapping_shr(PIECE_BITS);
        let within = to_usize(cluster) & PIECE.wrapping_sub(1);
        // Nearly always there is a piece and the count stays small: one look-up.
        if let Some(byte) = self.pieces.get_mut(&number).and_then(|piece| piece.get_mut(within)) {
            let wanted = u64::from(*byte).saturating_add(times);
            if wanted <= max
                && let Some(small) = u8::try_from(wanted).ok().filter(|&small| small < LARGE)
            {
                *byte = small;
                self.clusters = self.clusters.max(cluster.saturating_add(1));
                return Ok(0);
            }
        }
        let before = self.get(cluster);
        let wanted = before.saturating_add(times);
        let now = wanted.min(max.max(before));
        if !self.pieces.contains_key(&number) {
            let bytes = to_u64(self.pieces.len()).saturating_add(1).saturating_mul(to_u64(PIECE));
            limits::check("bytes of counted references", bytes, limits::CHECK_COUNT_BYTES)?;
            self.pieces.insert(number, vec![0; PIECE].into());
        }
        if let Some(byte) = self.pieces.get_mut(&number).and_then(|piece| piece.get_mut(within)) {
            *byte = u8::try_from(now).unwrap_or(LARGE);
        }
        if now >= LARGE.into() {
            limits::check("clusters with many references", to_u64(self.large.len()), limits::CHECK_LARGE_COUNTS)?;
            self.large.insert(cluster, now);
        }
        self.clusters = self.clusters.max(cluster.saturating_add(1));
        Ok(wanted.saturating_sub(now))
    }

    /// Adds references to each of `clusters`, as [`add`](Self::add) does; how many that left out in all.
    pub(super) fn add_run(&mut self, clusters: Range<u64>, times: u64, max: u64) -> Result<u64> {
        let (mut refused, mut cluster) = (0u64, clusters.start);
        while cluster < clusters.end {
            let number = cluster.wrapping_shr(PIECE_BITS);
            let within = to_usize(cluster) & PIECE.wrapping_sub(1);
            let most = to_usize(clusters.end.saturating_sub(cluster)).min(PIECE.saturating_sub(within));
            // Nearly always there is a piece and all counts stay small: one look-up for the piece.
            let bytes = self.pieces.get_mut(&number).and_then(|piece| piece.get_mut(within..)?.get_mut(..most));
            let mut done = 0u64;
            for byte in bytes.unwrap_or_default() {
                let wanted = u64::from(*byte).saturating_add(times);
                match u8::try_from(wanted).ok().filter(|&small| wanted <= max && small < LARGE) {
                    Some(small) => *byte = small,
                    None => break,
                }
                done = done.saturating_add(1);
            }
            if done == 0 {
                refused = refused.saturating_add(self.add(cluster, times, max)?);
                done = 1;
            }
            cluster = cluster.saturating_add(done);
            self.clusters = self.clusters.max(cluster);
        }
        Ok(refused)
    }

    /// Takes one reference away.
    pub(super) fn take(&mut self, cluster: u64) {
        let now = self.get(cluster).saturating_sub(1);
        let within = to_usize(cluster) & PIECE.wrapping_sub(1);
        let piece = self.pieces.get_mut(&cluster.wrapping_shr(PIECE_BITS));
        if let Some(byte) = piece.and_then(|piece| piece.get_mut(within)) {
            *byte = u8::try_from(now).unwrap_or(LARGE);
        }
        if now >= LARGE.into() {
            self.large.insert(cluster, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_and_large_counts_add_up_to_a_maximum() {
        let mut counts = Counts::new(10);
        for (times, expected) in [(1, 1), (253, 254), (1, 255), (1000, 1255)] {
            assert_eq!(counts.add(5_000_000, times, u64::MAX).unwrap(), 0);
            assert_eq!(counts.get(5_000_000), expected);
        }
        assert_eq!(counts.add(3, 5, 1).unwrap(), 4);
        let mut one_by_one = Counts::new(10);
        let mut in_runs = Counts::new(10);
        for (run, times, max) in [(4000..9000, 1, 9), (4090..4100, 7, 9), (4095..5000, 3, 9), (0..2, 300, 1000)] {
            let refused: u64 = run.clone().map(|cluster| one_by_one.add(cluster, times, max).unwrap()).sum();
            assert_eq!(in_runs.add_run(run, times, max).unwrap(), refused);
        }
        assert!((0..10_000).all(|cluster| one_by_one.get(cluster) == in_runs.get(cluster)));
        assert_eq!((in_runs.get(4096), in_runs.get(1), in_runs.clusters()), (9, 300, 9000));
        assert_eq!((counts.get(3), counts.get(4), counts.clusters()), (1, 0, 5_000_001));
        assert!(counts.any(0..10) && !counts.any(10_000..20_000));
    }
}
