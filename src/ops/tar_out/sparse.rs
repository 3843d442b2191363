//! Sparse files in the pax form 1.0 of GNU tar: a map before the data, and of the data only what is no hole.
//!
//! The map is text: the number of runs, then the offset and length of each, a number a line, with zeroes to a whole block.
//! A file that ends in a hole has a last run of no length at its size. Source: GNU tar manual, "Storing Sparse Files", PAX
//! format version 1.0.

use std::ops::Range;
use std::sync::Arc;

use super::super::gather::next_run;
use super::header::padding;
use crate::block::BlockDevice;
use crate::error::Result;
use crate::limits;

/// The data of a sparse file.
#[derive(Debug)]
pub(super) struct SparseMap {
    /// Ascending, apart from one another; the last may be empty.
    pub runs: Vec<Range<u64>>,
    /// The map as it stands in the archive.
    pub text: Vec<u8>,
    /// Bytes of the data.
    pub data: u64,
}

/// The map of `content` as its filesystem knows it; `None` when there are no holes in it.
pub(super) fn map(content: &Arc<dyn BlockDevice>) -> Result<Option<SparseMap>> {
    let size = content.size();
    let mut runs: Vec<Range<u64>> = Vec::new();
    let mut at = 0;
    while let Some(run) = next_run(content, at)? {
        let range = run.range;
        let is_full = runs.len() >= limits::SPARSE_RUNS;
        match runs.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            Some(last) if is_full => {
                last.end = size;
                break;
            }
            _ => runs.push(range.clone()),
        }
        at = range.end;
    }
    if matches!(&runs[..], [only] if *only == (0..size)) {
        return Ok(None);
    }
    if runs.last().is_none_or(|last| last.end < size) {
        runs.push(size..size);
    }
    let mut text = format!("{}\n", runs.len()).into_bytes();
    for run in &runs {
        text.extend_from_slice(format!("{}\n{}\n", run.start, run.end - run.start).as_bytes());
    }
    text.resize(text.len() + padding(text.len() as u64), 0);
    let data = runs.iter().map(|run| run.end - run.start).sum();
    Ok(Some(SparseMap { runs, text, data }))
}
