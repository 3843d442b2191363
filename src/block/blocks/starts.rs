//! Where blocks of one length begin, and how many of them begin inside another.

use crate::bytes::{div_rem, low_u32, to_u64};
use crate::error::{Error, Result};
use crate::limits;

/// Beginnings of blocks, in units of which all are multiples.
#[derive(Debug)]
pub(in crate::block) struct Starts {
    unit: u64,
    /// Units of a block.
    len: u64,
    starts: Vec<u32>,
}

impl Starts {
    /// None yet, of blocks of `len` bytes that begin at multiples of `unit`.
    pub(in crate::block) fn new(unit: u64, len: u64) -> Self {
        Self { unit, len: len.div_ceil(unit.max(1)), starts: Vec::new() }
    }

    /// A block at byte `at`.
    pub(in crate::block) fn add(&mut self, at: u64) -> Result<()> {
        let (start, _) = div_rem(at, self.unit);
        limits::check("blocks that are checked", to_u64(self.starts.len()).saturating_add(1), limits::CHECK_BLOCKS)?;
        if start > u64::from(u32::MAX) {
            return Err(Error::limit("bytes of a file that is checked", self.unit.saturating_mul(1 << 32), at));
        }
        self.starts.push(low_u32(start));
        Ok(())
    }

    /// How many begin before the one in front of them ends.
    pub(in crate::block) fn overlaps(mut self) -> u64 {
        self.starts.sort_unstable();
        let len = self.len;
        to_u64(
            self.starts
                .windows(2)
                .filter(|pair| matches!(pair, [one, next] if u64::from(next.abs_diff(*one)) < len))
                .count(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_apart_and_what_begins_inside_another_is_not() {
        let mut starts = Starts::new(512, 65_536);
        for at in [131_072, 0, 65_536, 1 << 40, 65_536 + 512, 0] {
            starts.add(at).unwrap();
        }
        assert!(starts.add(1 << 41).is_err());
        assert_eq!(starts.overlaps(), 3);
        assert_eq!(Starts::new(1 << 20, 1 << 20).overlaps(), 0);
    }
}
