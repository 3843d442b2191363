//! The block map against the header and the file. What QEMU counts is counted as there: an entry past the map's end, one
//! block for two entries, a wrong count in the header. Blocks past the file's end, which it passes over, count too.

use super::header::{self, Header};
use super::{DISCARDED, FORMAT};
use crate::block::blocks::{Entries, Starts, Width};
use crate::block::{BlockDevice, Findings};
use crate::error::Result;

/// Checks the image in `file`.
pub(crate) fn check(file: &std::sync::Arc<dyn BlockDevice>) -> Result<Findings> {
    let Header { block_map, data, size, block_size, blocks, allocated, .. } = header::read(file)?;
    let entries = Entries::new(std::sync::Arc::clone(file), block_map, blocks, Width::Le32, 0);
    let mut found = Findings::default();
    // A map with a hole says "the first block" there, entry for entry.
    entries.refuse_unstored(FORMAT, "block map entry")?;
    let mut starts = Starts::new(1, 1);
    let mut count = 0u64;
    entries.for_each_stored(&mut |index, entry| {
        if entry >= DISCARDED {
            return Ok(());
        }
        if entry >= blocks {
            found.corrupt(format_args!("block {index} is at place {entry} of {blocks}"));
            return Ok(());
        }
        count = count.saturating_add(1);
        // The disk's last block may be cut short by the file's end.
        let needed = size.saturating_sub(index.saturating_mul(block_size)).min(block_size);
        let start = data.saturating_add(entry.saturating_mul(block_size));
        if start.saturating_add(needed) > file.size() {
            found.corrupt(format_args!("block {index} is at place {entry}, past the end of the file"));
        }
        starts.add(entry)
    })?;
    found.corruptions = found.corruptions.saturating_add(starts.overlaps());
    if count != allocated {
        found.corrupt(format_args!("{count} blocks are allocated, the header says {allocated}"));
    }
    Ok(found)
}
