//! `BLOCK_STATUS`: extents in the words of a metadata context.

use std::ops::Range;

use crate::block::nbd::protocol::context::{BASE_ALLOCATION, HOLE, QEMU_ALLOCATION_DEPTH, ZERO};
use crate::block::nbd::protocol::reply::Descriptor;
use crate::block::{BlockDevice, ExtentKind};
use crate::error::Result;

/// Extents in one reply for one context; the client asks again from where they end. Ours; they make 1 MiB at most.
const EXTENTS: usize = 65_536;

/// Steps over extents for one reply: neighbours that look alike are merged, which must not take for ever.
const STEPS: usize = 1 << 20;

/// A metadata context of every export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Context {
    Allocation,
    Depth,
}

impl Context {
    pub(super) const ALL: [Self; 2] = [Self::Allocation, Self::Depth];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Allocation => BASE_ALLOCATION,
            Self::Depth => QEMU_ALLOCATION_DEPTH,
        }
    }

    pub(super) fn id(self) -> u32 {
        match self {
            Self::Allocation => 0,
            Self::Depth => 1,
        }
    }

    /// The extents from the beginning of `range`, at least one and only one if `one`.
    pub(super) fn extents(self, device: &dyn BlockDevice, range: Range<u64>, one: bool) -> Result<Vec<Descriptor>> {
        let mut found: Vec<Descriptor> = Vec::new();
        let mut at = range.start;
        for _ in 0..STEPS {
            if at >= range.end {
                break;
            }
            let next = self.extent(device, at..range.end)?;
            at = at.saturating_add(next.len);
            let full = if one { 1 } else { EXTENTS };
            let count = found.len();
            match found.last_mut() {
                Some(last) if last.status == next.status => last.len = last.len.saturating_add(next.len),
                _ if count >= full => break,
                _ => found.push(next),
            }
        }
        Ok(found)
    }

    fn extent(self, device: &dyn BlockDevice, range: Range<u64>) -> Result<Descriptor> {
        let most = crate::block::range_len(&range);
        let (len, status) = match self {
            Self::Allocation => {
                let extent = device.next_extent(range)?;
                let status = match extent.kind {
                    ExtentKind::Data => 0,
                    ExtentKind::Zero => ZERO,
                    ExtentKind::Hole => HOLE | ZERO,
                };
                (extent.len, status)
            }
            Self::Depth => {
                let status = device.status(range)?;
                (status.len, if status.allocated { u64::from(status.depth).saturating_add(1) } else { 0 })
            }
        };
        Ok(Descriptor { len: len.clamp(1, most), status })
    }
}
