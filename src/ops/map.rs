//! Which parts of a disk are data, where they lie, and which image of a chain holds them.

use crate::block::{BlockDevice, ExtentKind, Status, Survey, Sweep};
use crate::error::Result;
use serde::Serialize;

/// A part of a disk, with the keys of `qemu-img map --output=json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct MapEntry {
    /// The first byte.
    pub start: u64,
    /// How many bytes.
    pub length: u64,
    /// Images above the one that holds it: 0 is the image itself.
    pub depth: u32,
    /// Whether an image of the chain has an entry for it.
    pub present: bool,
    /// Whether it is known to read as zeroes.
    pub zero: bool,
    /// Whether it is stored.
    pub data: bool,
    /// Whether it is stored compressed.
    pub compressed: bool,
    /// Where it lies unchanged in the file of that image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
}

impl MapEntry {
    fn new(start: u64, status: Status) -> Self {
        let zero = status.kind != ExtentKind::Data;
        Self {
            start,
            length: status.len,
            depth: status.depth,
            present: status.allocated,
            zero,
            data: !zero || (status.kind == ExtentKind::Zero && status.offset.is_some()),
            compressed: status.compressed,
            offset: status.offset,
        }
    }

    /// Whether `next` only goes on with this.
    fn continues_in(&self, next: &Self) -> bool {
        let same = |entry: &Self| (entry.depth, entry.present, entry.zero, entry.data, entry.compressed);
        same(self) == same(next) && self.offset.map(|offset| offset + self.length) == next.offset
    }
}

/// Calls `visit` with the parts of the disk in order, neighbours merged.
pub fn map(device: &dyn BlockDevice, visit: &mut dyn FnMut(&MapEntry) -> Result<()>) -> Result<()> {
    device.audit(Sweep::Map)?;
    let mut pending: Option<MapEntry> = None;
    let mut at = 0;
    let mut survey = Survey::new(device);
    while at < device.size() {
        let next = MapEntry::new(at, survey.status(at..device.size())?);
        at += next.length.max(1);
        match &mut pending {
            Some(entry) if entry.continues_in(&next) => entry.length += next.length,
            _ => {
                if let Some(entry) = pending.replace(next) {
                    visit(&entry)?;
                }
            }
        }
    }
    pending.map_or(Ok(()), |entry| visit(&entry))
}
