//! Questions about one part of a disk after another, up to its end. The answers are those of [`BlockDevice::next_extent`]
//! and [`BlockDevice::status`]; but what was found to answer one question is at hand for the next, so that a table is gone
//! through once and not for each extent again, and an extent that is asked for in pieces is found once.

use std::ops::Range;

use super::{BlockDevice, Extent, Status, range_len};
use crate::error::Result;

/// How a device answers such questions faster than one at a time.
pub trait Surveyor: Send {
    /// As [`BlockDevice::next_extent`].
    fn next_extent(&mut self, range: Range<u64>) -> Result<Extent>;

    /// As [`BlockDevice::status`].
    fn status(&mut self, range: Range<u64>) -> Result<Status>;
}

/// A walk over a device's extents.
pub struct Survey<'a> {
    device: &'a dyn BlockDevice,
    surveyor: Option<Box<dyn Surveyor + 'a>>,
    /// The extent that was found last.
    last: Option<(Range<u64>, Extent)>,
}

impl std::fmt::Debug for Survey<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Survey({:?})", self.device)
    }
}

impl<'a> Survey<'a> {
    /// A walk over `device`.
    #[must_use]
    pub fn new(device: &'a dyn BlockDevice) -> Self {
        Self { device, surveyor: device.surveyor(), last: None }
    }

    /// The device.
    #[must_use]
    pub fn device(&self) -> &'a dyn BlockDevice {
        self.device
    }

    /// The extent at `at`, as far as it is known to go.
    pub fn extent(&mut self, at: u64) -> Result<Extent> {
        if let Some((run, extent)) = &self.last
            && run.contains(&at)
        {
            return Ok(Extent { len: run.end.saturating_sub(at), ..*extent });
        }
        let range = at..self.device.size();
        let found = match &mut self.surveyor {
            Some(surveyor) => surveyor.next_extent(range)?,
            None => self.device.next_extent(range)?,
        };
        let extent = Extent { len: found.len.max(1), ..found };
        self.last = Some((at..at.saturating_add(extent.len), extent));
        Ok(extent)
    }

    /// The status of the beginning of `range`.
    pub fn status(&mut self, range: Range<u64>) -> Result<Status> {
        let most = range_len(&range).max(1);
        let found = match &mut self.surveyor {
            Some(surveyor) => surveyor.status(range)?,
            None => self.device.status(range)?,
        };
        Ok(Status { len: found.len.clamp(1, most), ..found })
    }
}
