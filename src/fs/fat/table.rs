//! The file allocation table: which cluster follows which.
//!
//! "FAT32 File System Specification" 1.03, section "FAT Data Structure". Entry n tells what follows cluster n:
//!
//! | FAT12 | FAT16 | FAT32 (28 bits) | meaning |
//! |---|---|---|---|
//! | 0 | 0 | 0 | free |
//! | 2 … clusters + 1 | 2 … | 2 … | the next cluster |
//! | ff7 | fff7 | ffffff7 | bad, never part of a chain |
//! | ff8 … | fff8 … | ffffff8 … | the end |
//!
//! The table is read in small windows through the volume's cache, never as a whole: it may be a gigabyte.

use std::ops::Range;

use super::boot::{BootSector, FORMAT, FatType};
use crate::block::{BlockDevice, ExtentKind, for_each_extent, read_vec};
use crate::bytes::{Record, low_u32, to_u64, to_usize};
use crate::error::{Error, Result};
use crate::limits;

/// Bytes of one window: whole entries of every width.
const WINDOW: u64 = 1_536;

/// Bytes read at once when the whole table is counted: whole entries of every width, too.
const STRIDE: u64 = 768 << 10;

/// Consecutive clusters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    /// How many clusters of the chain come before it.
    pub(super) index: u32,
    /// Its first cluster.
    pub(super) cluster: u32,
    /// Its clusters.
    pub(super) len: u32,
}

/// A chain, or the beginning of one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) runs: Vec<Run>,
    /// Clusters in all.
    pub(super) len: u32,
    /// Whether the end of the chain was seen.
    pub(super) ended: bool,
}

/// What a table entry says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entry {
    Next(u32),
    End,
    /// Free, bad or reserved: no part of a chain.
    Stray(u32),
}

/// The table in use, read through `device`.
#[derive(Debug)]
pub(super) struct Table<'a> {
    device: &'a dyn BlockDevice,
    boot: &'a BootSector,
    window: Vec<u8>,
    window_at: u64,
}

impl<'a> Table<'a> {
    pub(super) fn new(device: &'a dyn BlockDevice, boot: &'a BootSector) -> Self {
        Self { device, boot, window: Vec::new(), window_at: 0 }
    }

    /// The byte of the device where the entry of `cluster` begins.
    fn position(&self, cluster: u32) -> u64 {
        let bits = u64::from(cluster).saturating_mul(self.boot.fat_type.bits());
        self.boot.fat.start.saturating_add(bits >> 3)
    }

    /// The entry of `cluster` as stored, reserved bits cut.
    pub(super) fn value(&mut self, cluster: u32) -> Result<u32> {
        let position = self.position(cluster);
        let within = position.saturating_sub(self.boot.fat.start);
        let start = position.saturating_sub(within.checked_rem(WINDOW).unwrap_or(0));
        if self.window.is_empty() || self.window_at != start {
            let len = self.boot.fat.end.saturating_sub(start).min(WINDOW);
            self.window = read_vec(self.device, start, to_usize(len))?;
            self.window_at = start;
        }
        let record = Record::new(FORMAT, &self.window, start);
        let at = to_usize(position.saturating_sub(start));
        Ok(match self.boot.fat_type {
            FatType::Fat12 if cluster.is_multiple_of(2) => u32::from(record.le16(at)? & 0xfff),
            FatType::Fat12 => u32::from(record.le16(at)? >> 4),
            FatType::Fat16 => u32::from(record.le16(at)?),
            FatType::Fat32 => record.le32(at)? & 0x0fff_ffff,
        })
    }

    fn entry(&mut self, cluster: u32) -> Result<Entry> {
        let value = self.value(cluster)?;
        let end = match self.boot.fat_type {
            FatType::Fat12 => 0xff8,
            FatType::Fat16 => 0xfff8,
            FatType::Fat32 => 0x0fff_fff8,
        };
        Ok(match value {
            value if self.boot.has_cluster(value) => Entry::Next(value),
            value if value >= end => Entry::End,
            value => Entry::Stray(value),
        })
    }

    /// Follows the chain from `first`, one of the volume's clusters, for at most `most` clusters. A chain that meets
    /// itself, or leaves the volume, is corrupt.
    pub(super) fn chain(&mut self, first: u32, most: u32) -> Result<Chain> {
        let mut chain = Chain { runs: Vec::new(), len: 0, ended: false };
        let mut at = first;
        while chain.len < most {
            match chain.runs.last_mut() {
                Some(run) if run.cluster.saturating_add(run.len) == at => run.len = run.len.saturating_add(1),
                _ => {
                    if to_u64(chain.runs.len()) == limits::FAT_FRAGMENTS {
                        self.check_visits(&chain)?;
                        let found = limits::FAT_FRAGMENTS.saturating_add(1);
                        return Err(Error::limit("fragments of a FAT file", limits::FAT_FRAGMENTS, found));
                    }
                    chain.runs.push(Run { index: chain.len, cluster: at, len: 1 });
                }
            }
            chain.len = chain.len.saturating_add(1);
            match self.entry(at)? {
                Entry::Next(next) => at = next,
                Entry::End => {
                    chain.ended = true;
                    break;
                }
                // The last wanted cluster may lead anywhere: what lies behind is not looked at.
                Entry::Stray(_) if chain.len == most => break,
                Entry::Stray(value) => {
                    let expected = format!("a cluster from 2 to {}, or the end", self.boot.clusters.saturating_add(1));
                    return Err(self.corrupt("FAT entry", at, value, expected));
                }
            }
        }
        self.check_visits(&chain)?;
        Ok(chain)
    }

    /// No cluster may come twice: runs that overlap are a chain that has met itself.
    fn check_visits(&self, chain: &Chain) -> Result<()> {
        let mut runs: Vec<(u32, u32)> = chain.runs.iter().map(|run| (run.cluster, run.len)).collect();
        runs.sort_unstable();
        for pair in runs.windows(2) {
            let [(start, len), (next, _)] = pair else { continue };
            if start.saturating_add(*len) > *next {
                return Err(self.corrupt("FAT chain", *next, format!("cluster {next} twice"), "each cluster once"));
            }
        }
        Ok(())
    }

    /// The error for what the entry of `cluster` says.
    pub(super) fn corrupt(
        &self,
        field: &'static str,
        cluster: u32,
        found: impl std::fmt::Display,
        expected: impl std::fmt::Display,
    ) -> Error {
        Error::corrupt(FORMAT, field, self.position(cluster), found, expected)
    }
}

/// Counts the free clusters.
pub(super) fn count_free(device: &dyn BlockDevice, boot: &BootSector) -> Result<u64> {
    let mut free = 0u64;
    for_each_stride(device, boot, &mut |stride| {
        free = free.saturating_add(match stride.bytes {
            None => to_u64(stride.to.saturating_sub(stride.from)),
            Some(bytes) => to_u64(zero_entries(bytes, boot.fat_type, stride.from, stride.to)),
        });
        Ok(())
    })?;
    Ok(free)
}

/// Calls `visit` with each free cluster in ascending order.
pub(super) fn for_each_free(
    device: &dyn BlockDevice,
    boot: &BootSector,
    visit: &mut dyn FnMut(u32) -> Result<()>,
) -> Result<()> {
    for_each_stride(device, boot, &mut |stride| {
        let number = |entry: usize| low_u32(stride.first.saturating_add(to_u64(entry)));
        match stride.bytes {
            None => (stride.from..stride.to).try_for_each(|entry| visit(number(entry))),
            Some(bytes) => {
                let mut entries = zeroes(bytes, boot.fat_type).enumerate().take(stride.to).skip(stride.from);
                entries.try_for_each(|(entry, zero)| if zero { visit(number(entry)) } else { Ok(()) })
            }
        }
    })
}

/// A part of the table.
struct Stride<'a> {
    /// The number of its first entry.
    first: u64,
    /// Which of its entries stand for clusters.
    from: usize,
    to: usize,
    /// Its bytes, or `None` when all are zero.
    bytes: Option<&'a [u8]>,
}

/// Reads the table once, in strides, and what the device knows to be zero not at all.
fn for_each_stride(
    device: &dyn BlockDevice,
    boot: &BootSector,
    visit: &mut dyn FnMut(Stride<'_>) -> Result<()>,
) -> Result<()> {
    let bits = boot.fat_type.bits();
    // The entries 0 and 1 stand for no cluster, and neither do those behind the last.
    let entries = 2..u64::from(boot.clusters).saturating_add(2);
    let end = boot.fat.start.saturating_add(entries.end.saturating_mul(bits).div_ceil(8)).min(boot.fat.end);
    let mut at = boot.fat.start;
    while at < end {
        let stride = at..at.saturating_add(STRIDE).min(end);
        let first = at.saturating_sub(boot.fat.start).saturating_mul(8).checked_div(bits).unwrap_or(0);
        let to = range_entries(&stride, bits).min(entries.end.saturating_sub(first));
        let from = entries.start.saturating_sub(first).min(to);
        let (from, to) = (to_usize(from), to_usize(to));
        if is_zero(device, stride.clone())? {
            visit(Stride { first, from, to, bytes: None })?;
        } else {
            let bytes = read_vec(device, stride.start, to_usize(stride.end.saturating_sub(stride.start)))?;
            visit(Stride { first, from, to, bytes: Some(&bytes) })?;
        }
        at = stride.end;
    }
    Ok(())
}

/// Whole entries in a range of bytes that begins with one.
fn range_entries(range: &Range<u64>, bits: u64) -> u64 {
    range.end.saturating_sub(range.start).saturating_mul(8).checked_div(bits).unwrap_or(0)
}

fn is_zero(device: &dyn BlockDevice, range: Range<u64>) -> Result<bool> {
    let mut zero = true;
    for_each_extent(device, range, &mut |_, kind| {
        zero &= kind != ExtentKind::Data;
        Ok(())
    })?;
    Ok(zero)
}

/// How many of the entries `from..to` are zero.
fn zero_entries(bytes: &[u8], fat_type: FatType, from: usize, to: usize) -> usize {
    let len = to.saturating_sub(from);
    match fat_type {
        FatType::Fat12 => zeroes(bytes, fat_type).skip(from).take(len).filter(|zero| *zero).count(),
        FatType::Fat16 => {
            bytes.as_chunks::<2>().0.iter().skip(from).take(len).filter(|entry| **entry == [0; 2]).count()
        }
        FatType::Fat32 => {
            let entries = bytes.as_chunks::<4>().0.iter().skip(from).take(len);
            entries.filter(|entry| u32::from_le_bytes(**entry) & 0x0fff_ffff == 0).count()
        }
    }
}

/// Whether each entry is zero.
fn zeroes(bytes: &[u8], fat_type: FatType) -> Box<dyn Iterator<Item = bool> + '_> {
    match fat_type {
        FatType::Fat12 => Box::new(bytes.chunks(3).flat_map(|chunk| {
            let [a, b, c] = [0, 1, 2].map(|at| chunk.get(at).copied().unwrap_or(0xff));
            [a == 0 && b & 0xf == 0, b >> 4 == 0 && c == 0]
        })),
        FatType::Fat16 => Box::new(bytes.as_chunks::<2>().0.iter().map(|entry| *entry == [0; 2])),
        FatType::Fat32 => {
            let entries = bytes.as_chunks::<4>().0.iter();
            Box::new(entries.map(|entry| u32::from_le_bytes(*entry) & 0x0fff_ffff == 0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::boot::Root;
    use super::*;
    use crate::block::Memory;

    fn boot(fat_type: FatType, clusters: u32) -> BootSector {
        BootSector {
            fat_type,
            cluster_size: 512,
            fat: 0..u64::from(clusters + 2) * fat_type.bits() / 8 + 4,
            root: Root::Chain(2),
            data: 0,
            clusters,
            serial: None,
            label: None,
            fs_info: None,
            dirty: false,
        }
    }

    /// A table of these entries.
    fn table(fat_type: FatType, entries: &[u32]) -> Memory {
        let mut bytes = vec![0; entries.len() * 4 + 8];
        for (n, entry) in entries.iter().enumerate() {
            match fat_type {
                FatType::Fat12 => {
                    let at = n * 3 / 2;
                    let shifted = if n % 2 == 0 { *entry } else { entry << 4 };
                    bytes[at] |= shifted as u8;
                    bytes[at + 1] |= (shifted >> 8) as u8;
                }
                FatType::Fat16 => bytes[n * 2..n * 2 + 2].copy_from_slice(&(*entry as u16).to_le_bytes()),
                FatType::Fat32 => bytes[n * 4..n * 4 + 4].copy_from_slice(&(entry | 0xf000_0000).to_le_bytes()),
            }
        }
        Memory::new(bytes)
    }

    #[test]
    fn chains_are_followed_in_every_width_and_merged_into_runs() {
        for (fat_type, end) in [(FatType::Fat12, 0xfff), (FatType::Fat16, 0xffff), (FatType::Fat32, 0x0fff_ffff)] {
            // 2 → 3 → 4 → 7 → 6 → end
            let memory = table(fat_type, &[0, 0, 3, 4, 7, 0, end, 6]);
            let boot = boot(fat_type, 6);
            let chain = Table::new(&memory, &boot).chain(2, 100).unwrap();
            let run = |index, cluster, len| Run { index, cluster, len };
            let runs = vec![run(0, 2, 3), run(3, 7, 1), run(4, 6, 1)];
            assert_eq!(chain, Chain { runs, len: 5, ended: true }, "{fat_type:?}");
            let part = Table::new(&memory, &boot).chain(2, 2).unwrap();
            assert_eq!(part, Chain { runs: vec![run(0, 2, 2)], len: 2, ended: false });
            assert_eq!(count_free(&memory, &boot).unwrap(), 1, "{fat_type:?}");
        }
    }

    #[test]
    fn a_chain_that_breaks_is_named_with_its_place() {
        let cases = [
            ("FAT chain", [0, 0, 3, 4, 2, 0], 2, "cluster 2 twice"),
            ("FAT chain", [0, 0, 3, 3, 0, 0], 2, "cluster 3 twice"),
            ("FAT entry", [0, 0, 3, 0, 0, 0], 3, "0"),
            ("FAT entry", [0, 0, 1, 0, 0, 0], 2, "1"),
            ("FAT entry", [0, 0, 6, 0, 0, 0], 2, "6"),
            ("FAT entry", [0, 0, 0xfff7, 0, 0, 0], 2, "65527"),
        ];
        let boot = boot(FatType::Fat16, 4);
        for (field, entries, at, found) in cases {
            let memory = table(FatType::Fat16, &entries);
            let error = Table::new(&memory, &boot).chain(2, 100).unwrap_err();
            let corrupt = error.as_corrupt().unwrap();
            assert_eq!((corrupt.field, corrupt.found.as_str()), (field, found), "{entries:?}");
            if field == "FAT entry" {
                assert_eq!(corrupt.offset, at * 2);
            }
        }
    }

    #[test]
    fn free_clusters_are_counted_across_strides() {
        let clusters = 500_000;
        let mut entries = vec![0u32; clusters as usize + 2];
        for n in (0..entries.len()).step_by(3) {
            entries[n] = 0x0fff_ffff;
        }
        let free = entries[2..].iter().filter(|entry| **entry == 0).count() as u64;
        let memory = table(FatType::Fat32, &entries);
        assert_eq!(count_free(&memory, &boot(FatType::Fat32, clusters)).unwrap(), free);
    }
}
