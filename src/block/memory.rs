//! Bytes in memory as a device: small structures that only exist unpacked, and test images.

use std::ops::Range;

use super::{BlockDevice, Extent, ExtentKind, check_range, range_len};
use crate::bytes::{to_u64, to_usize};
use crate::error::Result;

/// A device over bytes in memory.
#[derive(Clone)]
pub struct Memory(Vec<u8>);

impl Memory {
    /// A device of exactly these bytes.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Memory({} bytes)", self.0.len())
    }
}

impl BlockDevice for Memory {
    fn size(&self) -> u64 {
        to_u64(self.0.len())
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let end = check_range(self.size(), offset, buf.len())?;
        if let Some(bytes) = self.0.get(to_usize(offset)..to_usize(end)) {
            buf.copy_from_slice(bytes);
        }
        Ok(())
    }

    fn next_extent(&self, range: Range<u64>) -> Result<Extent> {
        Ok(Extent { kind: ExtentKind::Data, len: range_len(&range) })
    }
}
