//! What was asked of a store, and how fast it answered: the event log in numbers.

use std::collections::BTreeMap;

use serde::Serialize;

use super::events::{Event, EventKind};
use super::store::Store;
use crate::error::Result;

/// Numbers of some time.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Activity {
    /// By operation: what was answered from the store.
    pub operations: BTreeMap<String, Operation>,
    /// How long answers from the store took, whatever the operation; `None` without any.
    pub hit_time: Option<Times>,
    /// Trees that were brought back.
    pub restores: u64,
    /// Bytes of their files.
    pub restored_bytes: u64,
    /// Nanoseconds that took.
    pub restored_ns: u64,
}

/// Numbers of one operation.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Operation {
    /// Answered from the store.
    pub hits: u64,
    /// Made.
    pub misses: u64,
    /// Hits of all, in percent.
    pub hit_rate_percent: f64,
    /// How long hits took; `None` without any whose time is known.
    pub hit_time: Option<Times>,
    /// How long making took, as far as it was logged.
    pub miss_time: Option<Times>,
    /// What the hits took when they were made.
    pub saved_ns: u64,
    /// Bytes that the hits delivered.
    pub saved_bytes: u64,
    /// Misses by cause.
    pub causes: BTreeMap<String, u64>,
}

/// How long something took that was done several times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Times {
    /// Half of the times are no longer.
    pub median_ns: u64,
    /// 95 of 100 are no longer.
    pub p95_ns: u64,
}

impl Times {
    fn of(mut times: Vec<u64>) -> Option<Self> {
        times.sort_unstable();
        let rank = |percent: usize| times.get((times.len() * percent).div_ceil(100).checked_sub(1)?).copied();
        Some(Self { median_ns: rank(50)?, p95_ns: rank(95)? })
    }
}

impl Activity {
    fn of(events: Vec<Event>) -> Self {
        let mut activity = Self::default();
        let mut times: BTreeMap<String, (Vec<u64>, Vec<u64>)> = BTreeMap::new();
        for event in events {
            match event.event {
                EventKind::Hit => {
                    let operation = activity.operations.entry(event.operation.clone()).or_default();
                    operation.hits += 1;
                    operation.saved_ns = operation.saved_ns.saturating_add(event.duration_ns);
                    operation.saved_bytes = operation.saved_bytes.saturating_add(event.bytes);
                    // Events of before there was such a field do not say.
                    times.entry(event.operation).or_default().0.extend((event.took_ns > 0).then_some(event.took_ns));
                }
                EventKind::Miss => {
                    let operation = activity.operations.entry(event.operation.clone()).or_default();
                    operation.misses += 1;
                    *operation.causes.entry(event.cause).or_default() += 1;
                    times.entry(event.operation).or_default().1.extend((event.took_ns > 0).then_some(event.took_ns));
                }
                // What a miss led to.
                EventKind::Add => times.entry(event.operation).or_default().1.push(event.duration_ns),
                EventKind::Restore => {
                    activity.restores += 1;
                    activity.restored_bytes = activity.restored_bytes.saturating_add(event.bytes);
                    activity.restored_ns = activity.restored_ns.saturating_add(event.duration_ns);
                }
                EventKind::Evict => {}
            }
        }
        let mut all_hits = Vec::new();
        for (name, operation) in &mut activity.operations {
            operation.hit_rate_percent = operation.hits as f64 * 100.0 / (operation.hits + operation.misses) as f64;
            if let Some((hits, misses)) = times.remove(name) {
                all_hits.extend_from_slice(&hits);
                (operation.hit_time, operation.miss_time) = (Times::of(hits), Times::of(misses));
            }
        }
        activity.hit_time = Times::of(all_hits);
        activity
    }
}

impl Store {
    /// What happened since a time, in seconds since 1970.
    pub fn activity(&self, since: i64) -> Result<Activity> {
        Ok(Activity::of(self.events(since)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_times_that_were_measured() {
        assert_eq!(Times::of(Vec::new()), None);
        assert_eq!(Times::of(vec![7]), Some(Times { median_ns: 7, p95_ns: 7 }));
        assert_eq!(Times::of((1..=100).rev().collect()), Some(Times { median_ns: 50, p95_ns: 95 }));
        assert_eq!(Times::of(vec![3, 1, 2]), Some(Times { median_ns: 2, p95_ns: 3 }));
    }

    #[test]
    fn events_become_numbers_of_their_operations() {
        let event = |kind, operation: &str, took_ns, duration_ns, bytes| {
            let mut event = Event::new(kind, operation);
            (event.took_ns, event.duration_ns, event.bytes) = (took_ns, duration_ns, bytes);
            event
        };
        let activity = Activity::of(vec![
            event(EventKind::Miss, "tree", 0, 0, 0),
            event(EventKind::Add, "tree", 0, 900, 5),
            event(EventKind::Hit, "tree", 10, 900, 50),
            event(EventKind::Hit, "tree", 0, 900, 50),
            event(EventKind::Hit, "inspect", 30, 40, 1),
            event(EventKind::Restore, "restore", 0, 100, 1000),
            event(EventKind::Add, "other", 0, 1, 1),
        ]);
        let tree = &activity.operations["tree"];
        assert_eq!((tree.hits, tree.misses, tree.saved_ns, tree.saved_bytes), (2, 1, 1800, 100));
        assert_eq!(
            (tree.hit_time.map(|time| time.p95_ns), tree.miss_time.map(|time| time.median_ns)),
            (Some(10), Some(900))
        );
        assert_eq!(activity.hit_time, Some(Times { median_ns: 10, p95_ns: 30 }));
        assert_eq!((activity.restores, activity.restored_bytes, activity.restored_ns), (1, 1000, 100));
        assert_eq!(activity.operations.len(), 2);
    }
}
