//! What a number shall be, and whether it is.

use serde::Serialize;

/// A number and what it shall be.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Target {
    pub name: &'static str,
    pub unit: &'static str,
    pub target: f64,
    /// `above` or `below` what the number shall be.
    pub wanted: &'static str,
    /// The number; null when nothing was measured.
    pub found: Option<f64>,
    /// `met`, `missed`, or `unknown` when nothing was measured.
    pub status: &'static str,
}

impl Target {
    /// A number that shall be less than the target.
    pub fn below(name: &'static str, unit: &'static str, target: f64, found: Option<f64>) -> Self {
        Self { name, unit, target, wanted: "below", found, status: status(found.map(|found| found < target)) }
    }

    /// A number that shall be more than the target.
    pub fn above(name: &'static str, unit: &'static str, target: f64, found: Option<f64>) -> Self {
        Self { name, unit, target, wanted: "above", found, status: status(found.map(|found| found > target)) }
    }
}

fn status(is_met: Option<bool>) -> &'static str {
    match is_met {
        Some(true) => "met",
        Some(false) => "missed",
        None => "unknown",
    }
}
