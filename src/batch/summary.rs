//! What came of all images together.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::result::{Head, Status, TEMPORARY};

/// How far a run is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Images in the plan.
    pub images: u64,
    /// Those that are finished, by earlier runs too.
    pub finished: u64,
    /// Those that an earlier run finished.
    pub resumed: u64,
    /// Those that are finished and did not succeed.
    pub failed: u64,
}

/// What came of all images. As JSON it has stable names; a count is there for every status, and for every error kind that
/// occurred.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Summary {
    /// The plan's digest.
    pub plan: String,
    /// Images in the plan.
    pub images: u64,
    /// How many ended how.
    pub by_status: BTreeMap<&'static str, u64>,
    /// How many did not succeed, and why.
    pub by_error_kind: BTreeMap<String, u64>,
    /// Those that an earlier run finished; they are counted above, too.
    pub resumed: u64,
    /// Images that were not begun, because the run was stopped.
    pub not_started: u64,
    /// Whether the run was stopped before its end, by its caller or by the first failure.
    pub stopped: bool,
    /// How long this run took.
    pub seconds: f64,
    /// Images that this run finished, in a second.
    pub images_per_second: f64,
}

impl Summary {
    pub(super) fn new(plan: &str, images: u64) -> Self {
        let by_status = Status::ALL.iter().map(|status| (status.name(), 0)).collect();
        Self {
            plan: plan.to_owned(),
            images,
            by_status,
            by_error_kind: BTreeMap::new(),
            resumed: 0,
            not_started: images,
            stopped: false,
            seconds: 0.0,
            images_per_second: 0.0,
        }
    }

    pub(super) fn add(&mut self, head: &Head) {
        *self.by_status.entry(head.status.name()).or_default() += 1;
        if let Some(kind) = &head.error_kind {
            *self.by_error_kind.entry(kind.clone()).or_default() += 1;
        }
        self.not_started = self.not_started.saturating_sub(1);
    }

    pub(super) fn end(&mut self, stopped: bool, time: Duration) {
        self.stopped = stopped;
        self.seconds = (time.as_secs_f64() * 1e6).round() / 1e6;
        let here = self.counts().finished - self.resumed;
        self.images_per_second = (here as f64 / time.as_secs_f64().max(1e-9) * 1e3).round() / 1e3;
    }

    /// How many ended so.
    #[must_use]
    pub fn count(&self, status: Status) -> u64 {
        self.by_status.get(status.name()).copied().unwrap_or(0)
    }

    /// How far the run is.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let begun: u64 = self.by_status.values().sum();
        let finished = begun - self.count(Status::Cancelled);
        let failed = finished - self.count(Status::Ok);
        Counts { images: self.images, finished, resumed: self.resumed, failed }
    }

    /// The exit code of a program that ran the plan: 0 when all is well, 3 when images did not succeed, 75 when one of these
    /// can go well later. What stopped the run is for the program to say.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        if self.by_error_kind.contains_key(TEMPORARY) {
            75
        } else if self.counts().failed > 0 {
            3
        } else {
            0
        }
    }
}
