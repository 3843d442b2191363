//! The block allocation table against the file: what QEMU checks (blocks inside the file, and apart from its header, log,
//! metadata and table), and that no two blocks overlap. A log that was not emptied is replayed in memory first.

use std::ops::Range;
use std::sync::Arc;

use super::header::{self, MIB};
use super::metadata::{self, Metadata};
use super::{CHUNK_SECTORS, FULLY_PRESENT, PARTIALLY_PRESENT, bat_length, entries, log};
use crate::block::blocks::{Entries, Starts, Width};
use crate::block::{BlockDevice, Findings};
use crate::bytes::div_rem;
use crate::error::Result;

/// Checks the image in `file`.
pub(crate) fn check(file: Arc<dyn BlockDevice>) -> Result<Findings> {
    let header = header::read(&file)?;
    let file = log::replay(file, &header)?;
    let regions = header::regions(&file)?;
    let Metadata { block_size, size, sector_size, parent } = metadata::read(&file, regions.metadata)?;
    let chunk_ratio = CHUNK_SECTORS.saturating_mul(sector_size).checked_div(block_size).unwrap_or(1);
    let count = entries(size, block_size, chunk_ratio, parent.is_some());
    bat_length(count, regions.bat)?;
    let own: Vec<Range<u64>> = [
        (0, MIB),
        (header.log_offset, header.log_length),
        (regions.bat.offset, regions.bat.length),
        (regions.metadata.offset, regions.metadata.length),
    ]
    .into_iter()
    .map(|(start, len)| start..start.saturating_add(len))
    .collect();

    let mut found = Findings::default();
    let mut starts = Starts::new(MIB, block_size);
    let table = Entries::new(Arc::clone(&file), regions.bat.offset, count, Width::Le64, 0);
    table.for_each_stored(&mut |index, entry| {
        let (chunk, in_chunk) = div_rem(index, chunk_ratio.saturating_add(1));
        let present = matches!(entry & 7, FULLY_PRESENT | PARTIALLY_PRESENT);
        if !present || in_chunk == chunk_ratio {
            return Ok(());
        }
        let block = chunk.saturating_mul(chunk_ratio).saturating_add(in_chunk);
        let needed = size.saturating_sub(block.saturating_mul(block_size)).min(block_size);
        let start = entry & !(MIB - 1);
        let end = start.saturating_add(needed);
        if end > file.size() {
            found.corrupt(format_args!("block {block} at {start:#x} is past the end of the file"));
            return Ok(());
        }
        if own.iter().any(|own| start < own.end && own.start < end) {
            found.corrupt(format_args!("block {block} at {start:#x} lies in the file's own structures"));
        }
        starts.add(start)
    })?;
    found.corruptions = found.corruptions.saturating_add(starts.overlaps());
    Ok(found)
}
