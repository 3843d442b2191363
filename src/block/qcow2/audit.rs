//! What the tables claim, held against what the file holds, before somebody goes through the whole disk: with 2 MiB of L1
//! table that lead to one L2 table, and its entries to one cluster, a file of 4 MiB is a disk of 1 TiB.
//!
//! | what | is refused when |
//! |---|---|
//! | L2 tables | two entries of one L1 table name the same: no writer does that, each guest cluster has an entry of its own |
//! | stored clusters | together they are more than the file's data: see [`Claims`] |
//! | compressed clusters | there are more of them than their least size allows, or most of them are the same ones again |

use std::ops::Range;

use super::FORMAT;
use super::check::for_each_word;
use super::cluster::{Layout, Mapping, Run};
use super::compressed::Compression;
use super::header::L1Table;
use crate::block::BlockDevice;
use crate::block::claims::Claims;
use crate::bytes::{to_u64, to_usize};
use crate::error::{Error, Result};
use crate::limits;

const L1_OFFSET: u64 = 0x00ff_ffff_ffff_fe00;

/// No two entries of the L1 table lead to one L2 table. Entries that lead nowhere are for whoever follows them.
pub(super) fn l1_table(file: &dyn BlockDevice, layout: &Layout, l1: L1Table) -> Result<()> {
    if l1.size < 2 {
        return Ok(());
    }
    // Room for all of them, used as far as there are any: growing would need twice as much.
    let mut tables: Vec<u64> = Vec::with_capacity(to_usize(l1.size.into()));
    for_each_word(file, l1.offset, l1.bytes(), &mut |_, entry| {
        if entry & L1_OFFSET != 0 {
            tables.push(entry & L1_OFFSET);
        }
    })?;
    let bytes = to_u64(tables.len()).saturating_mul(layout.cluster_size());
    if bytes > layout.file_size {
        let (found, expected) = (format!("{bytes} bytes of L2 tables"), format!("the file's {}", layout.file_size));
        return Err(Error::corrupt(FORMAT, "L1 table", l1.offset, found, expected));
    }
    tables.sort_unstable();
    let twice = tables.iter().zip(tables.iter().skip(1)).find(|(one, next)| one == next).map(|(table, _)| *table);
    let Some(table) = twice else { return Ok(()) };
    let mut position = None;
    for_each_word(file, l1.offset, l1.bytes(), &mut |index, entry| {
        if entry & L1_OFFSET == table {
            position = Some(l1.offset.saturating_add(to_u64(index).saturating_mul(8)));
        }
    })?;
    let found = format!("the L2 table at {table:#x}, which another entry names");
    let expected = "an L2 table of its own";
    Err(Error::corrupt(FORMAT, "L1 table entry", position.unwrap_or(l1.offset), found, expected))
}

/// Sums up the clusters of a disk of `size` bytes, which lie in `data`. `run` tells the mapping at the beginning of a
/// range; what is wrong with an entry ends the sum, and is for whoever asks for its bytes.
pub(super) fn clusters(
    data: &dyn BlockDevice,
    size: u64,
    l1: L1Table,
    (compression, cluster_size): (Compression, u64),
    run: &mut dyn FnMut(Range<u64>) -> Result<Run>,
) -> Result<()> {
    let mut claims = Claims::new(data, FORMAT, "L2 tables", l1.offset)?;
    let least = compression.least(cluster_size);
    let mut compressed: Vec<u64> = Vec::new();
    let mut at = 0;
    while at < size {
        let Ok(Run { mapping, len }) = run(at..size) else { break };
        match mapping {
            Mapping::Host(host) => claims.add(host..host.saturating_add(len))?,
            Mapping::Compressed(cluster) => {
                claims.add_somewhere(least)?;
                if to_u64(compressed.len()) < limits::AUDIT_COMPRESSED_CLUSTERS {
                    compressed.push(cluster.offset);
                }
            }
            Mapping::Unallocated | Mapping::Zero => {}
        }
        at = at.saturating_add(len.max(1));
    }
    claims.finish()?;
    compressed.sort_unstable();
    let all = compressed.len();
    compressed.dedup();
    if all > compressed.len().saturating_mul(2) {
        let found = format!("{all} compressed clusters in {} places", compressed.len());
        return Err(Error::corrupt(FORMAT, "L2 tables", l1.offset, found, "a place for each"));
    }
    Ok(())
}
