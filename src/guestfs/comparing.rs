//! Two handles side by side: what differs between their guests.

use super::{Guestfs, inspection};
use crate::error::Result;
use crate::inspect::{self, Differences};
use crate::ops::{self, DiffOptions, DiffReport, DiffSink};
use crate::progress::Progress;

impl Guestfs {
    /// What differs between what is mounted here and in `other`, file by file. This handle is the old side.
    pub fn diff(
        &self,
        other: &Self,
        options: &DiffOptions,
        sink: &mut dyn DiffSink,
        progress: &dyn Progress,
    ) -> Result<DiffReport> {
        ops::diff(&*self.mounted()?, &*other.mounted()?, options, sink, progress)
    }

    /// What differs between two installed systems, by packages, users, services and settings. Nothing has to be mounted.
    pub fn inspect_differences(&self, root: &str, other: &Self, other_root: &str) -> Result<Differences> {
        let (systems, others) = (self.operating_systems()?, other.operating_systems()?);
        inspect::differences(inspection::find(systems.iter(), root)?, inspection::find(others.iter(), other_root)?)
    }
}
