//! What one inspection may cost, whatever its guests contain.
//!
//! A single file and a single list have limits of their own; these are for their sum. A partition table can name one
//! filesystem a hundred times, a directory can link to another one sixty thousand times, and every path can lead through
//! links of a thousand components each.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};
use crate::limits;

/// What is left; shared by all guests of one inspection.
#[derive(Debug)]
pub(super) struct Budget {
    steps: AtomicU64,
    bytes: AtomicU64,
    entries: AtomicU64,
}

impl Budget {
    pub(super) fn new() -> Self {
        Self {
            steps: AtomicU64::new(limits::INSPECT_TOTAL_STEPS),
            bytes: AtomicU64::new(limits::INSPECT_TOTAL_BYTES),
            entries: AtomicU64::new(limits::INSPECT_TOTAL_ENTRIES),
        }
    }

    /// Path components that may still be looked up.
    pub(super) fn steps(&self) -> u64 {
        self.steps.load(Ordering::Relaxed)
    }

    pub(super) fn spend_steps(&self, count: u64) -> Result<()> {
        spend(&self.steps, count, "path components of an inspection", limits::INSPECT_TOTAL_STEPS)
    }

    pub(super) fn spend_bytes(&self, count: u64) -> Result<()> {
        spend(&self.bytes, count, "bytes of inspected files", limits::INSPECT_TOTAL_BYTES)
    }

    pub(super) fn spend_entries(&self, count: u64) -> Result<()> {
        spend(&self.entries, count, "entries of inspected lists", limits::INSPECT_TOTAL_ENTRIES)
    }
}

fn spend(left: &AtomicU64, count: u64, what: &'static str, limit: u64) -> Result<()> {
    let spent = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(count));
    spent.map(drop).map_err(|left| Error::limit(what, limit, limit.saturating_sub(left).saturating_add(count)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_spent_is_gone_and_too_much_is_refused() {
        let budget = Budget::new();
        budget.spend_steps(limits::INSPECT_TOTAL_STEPS - 1).unwrap();
        assert_eq!(budget.steps(), 1);
        let error = budget.spend_steps(2).unwrap_err();
        assert_eq!(error.exit_code(), 4);
        budget.spend_steps(1).unwrap();
        assert_eq!(budget.steps(), 0);
    }
}
