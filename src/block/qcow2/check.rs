//! Consistency of an image: every reference to a cluster is counted and held against the image's own counts, as
//! `qemu-img check` does.
//!
//! | what refers | to |
//! |---|---|
//! | header | cluster 0, L1 table, refcount table, snapshot table, encryption header, bitmap directory |
//! | refcount table | refcount blocks |
//! | L1 tables, active and of snapshots | L2 tables |
//! | L2 tables | data, compressed data (every cluster it touches) |
//! | bitmap directory | bitmap tables, and they to bitmap data |
//!
//! | found | is |
//! |---|---|
//! | a count lower than the references | a corruption: the cluster may be given away |
//! | a count higher than the references | a leak: space that is lost, no more |
//! | `COPIED` where the count is not one, or not where it is | a corruption |
//! | an entry that points nowhere, into the middle of a cluster, with contradictions | a corruption |
//!
//! An L2 table that many L1 entries refer to is read once and counted as often as they do, so time and memory depend on
//! the file's bytes and not on what its tables claim.

use std::collections::BTreeSet;
use std::ops::Range;

use super::FORMAT;
use super::bitmaps;
use super::cluster::{COMPRESSED, COPIED, OFFSET, ZERO};
use super::counts::Counts;
use super::extensions::Extensions;
use super::header::{self, Header, L1Table};
use super::refcounts::Width;
use super::snapshots::{self, Snapshot};
use super::tables::MANY_TABLES;
use crate::block::claims::is_hole;
use crate::block::{BlockDevice, ExtentKind, Findings, read_vec};
use crate::bytes::{Record, to_u64, to_usize};
use crate::error::{Error, Result};
use crate::limits;

/// Bits of an L1 entry and of a standard L2 entry that mean nothing yet.
const L1_RESERVED: u64 = 0x7f00_0000_0000_01ff;
const L2_RESERVED: u64 = 0x3f00_0000_0000_01fe;
const L2_RESERVED_EXTENDED: u64 = 0x3f00_0000_0000_01ff;

/// Bytes of tables that are read at a time.
const PIECE: u64 = 1 << 20;

/// An image that has been looked at: what was found, and what a repair needs to know.
#[derive(Debug)]
pub(super) struct Examined {
    pub findings: Findings,
    pub header: Header,
    pub counts: Counts,
    /// Clusters that their refcounts do not protect at all, or refcount structures that cannot be trusted: the counts have
    /// to be made anew.
    pub rebuild: bool,
    /// Clusters whose count differs: number, count on disk, references.
    pub differing: Vec<(u64, u64, u64)>,
    /// Whether there were more than could be noted.
    pub overflow: bool,
    /// Whether there are references that could not be followed, so that what looks leaked may be in use.
    pub hidden: bool,
    /// Entries of the refcount table, without those that lead nowhere.
    pub refcount_table: Vec<u64>,
}

/// Differences that are noted for a repair in place; more make the counts anew.
const DIFFERENCES: usize = 1 << 18;

struct Check<'a> {
    file: &'a dyn BlockDevice,
    header: Header,
    width: Width,
    counts: Counts,
    found: Findings,
    rebuild: bool,
    hidden: bool,
    refcount_table: Vec<u64>,
}

/// Looks at the whole image.
pub(super) fn examine(file: &dyn BlockDevice) -> Result<Examined> {
    let head = read_vec(file, 0, header::header_len(file.size()))?;
    let record = Record::new(FORMAT, &head, 0);
    let header = Header::parse(&record)?;
    let end = header.extensions_end().min(file.size());
    let start = header.header_length.min(end);
    let area = read_vec(file, start, to_usize(end.saturating_sub(start)))?;
    let extensions = Extensions::parse_known(&Record::new(FORMAT, &area, start), header.unknown_features)?;
    header.l1.check(header.cluster_size(), file.size(), &record, 40)?;
    let snapshots = snapshots::read_from(file, &header)?;
    let counts = Counts::new(file.size().div_ceil(header.cluster_size()));
    let width = Width::of(&header);
    let (found, refcount_table) = (Findings::default(), Vec::new());
    let mut check = Check { file, width, counts, found, rebuild: false, hidden: false, refcount_table, header };
    check.found.total_clusters = check.header.size.div_ceil(check.header.cluster_size());

    check.refer(0, check.header.cluster_size(), 1)?;
    check.tables(&snapshots)?;
    let (offset, len) = (check.header.snapshots_offset, snapshots_len(&snapshots, &check.header));
    check.refer(offset, len, 1)?;
    if let Some((offset, len)) = extensions.encryption {
        check.refer(offset, len, 1)?;
    }
    if let Some(area) = extensions.bitmaps.filter(|_| check.header.autoclear & 1 != 0) {
        check.bitmaps(area)?;
    }
    check.refcount_structures()?;
    let (differing, overflow) = check.compare()?;
    check.copied_flags()?;
    let Check { header, counts, found, rebuild, hidden, refcount_table, .. } = check;
    Ok(Examined { findings: found, header, counts, rebuild, differing, overflow, hidden, refcount_table })
}

fn snapshots_len(snapshots: &[Snapshot], header: &Header) -> u64 {
    snapshots.last().map_or(0, |last| last.end.saturating_sub(header.snapshots_offset))
}

impl Check<'_> {
    fn corrupt(&mut self, what: std::fmt::Arguments<'_>) {
        log::debug!("{what}");
        self.found.corruptions = self.found.corruptions.saturating_add(1);
    }

    /// Counts `times` references to every cluster that `len` bytes at `offset` touch.
    fn refer(&mut self, offset: u64, len: u64, times: u64) -> Result<()> {
        if len == 0 {
            return Ok(());
        }
        let size = self.header.cluster_size();
        let end = offset.saturating_add(len);
        // The last cluster may be cut short by the end of the file.
        if end.saturating_sub(self.file.size()) >= size && end > self.file.size() {
            for _ in 0..times.min(1) {
                self.corrupt(format_args!("a reference past the end of the file: {len} bytes at {offset:#x}"));
            }
            self.found.corruptions = self.found.corruptions.saturating_add(times.saturating_sub(1));
            return Ok(());
        }
        let bits = self.header.cluster_bits;
        for cluster in offset.wrapping_shr(bits)..=end.saturating_sub(1).wrapping_shr(bits) {
            let refused = self.counts.add(cluster, times, self.width.max())?;
            if refused > 0 {
                self.found.corruptions = self.found.corruptions.saturating_add(refused);
            }
        }
        Ok(())
    }

    /// All L1 tables and what they lead to.
    fn tables(&mut self, snapshots: &[Snapshot]) -> Result<()> {
        let size = self.header.cluster_size();
        // Each reference to an L2 table; the active ones are marked in the lowest bit.
        let mut references: Vec<u64> = Vec::new();
        let mut entries = 0u64;
        let tables =
            std::iter::once((self.header.l1, true)).chain(snapshots.iter().map(|snapshot| (snapshot.l1, false)));
        for (table, active) in tables {
            if !active && self.table_is_wrong(table) {
                continue;
            }
            entries = entries.saturating_add(table.size.into());
            limits::check("L1 table entries", entries, limits::CHECK_L1_ENTRIES)?;
            self.refer(table.offset, table.bytes(), 1)?;
            let (mut wrong, mut hidden) = (0u64, false);
            let file = self.file;
            for_each_word(file, table.offset, table.bytes(), &mut |_, entry| {
                let offset = entry & OFFSET;
                if entry & L1_RESERVED != 0 {
                    wrong = wrong.saturating_add(1);
                }
                if offset == 0 {
                    return;
                }
                if !offset.is_multiple_of(size) || offset.saturating_add(size) > file.size() {
                    wrong = wrong.saturating_add(1);
                    hidden = true;
                    return;
                }
                references.push(offset | u64::from(active));
            })?;
            self.hidden |= hidden;
            self.found.corruptions = self.found.corruptions.saturating_add(wrong);
        }
        references.sort_unstable();
        let many = to_u64(references.len()).saturating_mul(size) > MANY_TABLES;
        for group in references.chunk_by(|one, other| one & OFFSET == other & OFFSET) {
            let offset = group.first().copied().unwrap_or(0) & OFFSET;
            let active = to_u64(group.iter().filter(|reference| *reference & 1 == 1).count());
            let times = to_u64(group.len());
            self.refer(offset, size, times)?;
            // In a hole of a sparse file there are empty entries, of which there is nothing to say.
            if !(many && is_hole(self.file, offset..offset.saturating_add(size))?) {
                self.l2_table(offset, times, active)?;
            }
        }
        Ok(())
    }

    fn table_is_wrong(&mut self, table: L1Table) -> bool {
        let aligned = table.offset.is_multiple_of(self.header.cluster_size());
        let inside = table.offset.saturating_add(table.bytes()) <= self.file.size();
        let wrong = table.size > 0 && !(aligned && inside && table.bytes() <= limits::TABLE_BYTES);
        if wrong {
            self.hidden = true;
            self.corrupt(format_args!("a snapshot's L1 table at {:#x}", table.offset));
        }
        wrong
    }

    /// One L2 table that `times` L1 entries refer to, `active` of them of the active state.
    fn l2_table(&mut self, table: u64, times: u64, active: u64) -> Result<()> {
        let size = self.header.cluster_size();
        let extended = self.header.extended_l2;
        let mut expected = 0u64;
        let mut descriptor = 0u64;
        let mut result = Ok(());
        for_each_word(self.file, table, size, &mut |index, word| {
            if extended && index & 1 == 0 {
                descriptor = word;
                return;
            }
            let (descriptor, bitmap) = if extended { (descriptor, word) } else { (word, 0) };
            if (descriptor | bitmap) != 0 && result.is_ok() {
                result = self.l2_entry(descriptor, bitmap, times, active, &mut expected);
            }
        })?;
        result
    }

    fn l2_entry(&mut self, descriptor: u64, bitmap: u64, times: u64, active: u64, expected: &mut u64) -> Result<()> {
        let size = self.header.cluster_size();
        let fragments = |found: &mut Findings, more: bool| {
            found.allocated_clusters = found.allocated_clusters.saturating_add(active);
            found.fragmented_clusters = found.fragmented_clusters.saturating_add(if more { active } else { 0 });
        };
        if descriptor & COMPRESSED != 0 {
            if descriptor & COPIED != 0 {
                self.corrupt(format_args!("a compressed cluster with the flag COPIED: {descriptor:#x}"));
            }
            if self.header.data_file || bitmap != 0 {
                self.corrupt(format_args!("a compressed cluster where there can be none: {descriptor:#x}"));
                return Ok(());
            }
            let (offset, len) = compressed(descriptor, self.header.cluster_bits);
            fragments(&mut self.found, true);
            self.found.compressed_clusters = self.found.compressed_clusters.saturating_add(active);
            return self.refer(offset, len, times);
        }
        let reserved = if self.header.extended_l2 { L2_RESERVED_EXTENDED } else { L2_RESERVED };
        if descriptor & reserved != 0 {
            self.corrupt(format_args!("an L2 entry with reserved bits: {descriptor:#x}"));
        }
        let host = descriptor & OFFSET;
        if host == 0 && !(self.header.data_file && descriptor & COPIED != 0) {
            if bitmap & 0xffff_ffff != 0 {
                self.corrupt(format_args!("subclusters without a cluster: {bitmap:#x}"));
            }
            return Ok(());
        }
        if bitmap.wrapping_shr(32) & bitmap != 0 {
            self.corrupt(format_args!("subclusters both stored and zero: {bitmap:#x}"));
            return Ok(());
        }
        if !host.is_multiple_of(size) {
            self.corrupt(format_args!("an L2 entry that is not aligned: {descriptor:#x}"));
        }
        if descriptor & ZERO != 0 && self.header.version < 3 {
            self.corrupt(format_args!("a zero cluster in version 2: {descriptor:#x}"));
        }
        let jumps = *expected != 0 && host != *expected;
        fragments(&mut self.found, jumps);
        *expected = host.saturating_add(size);
        if self.header.data_file { Ok(()) } else { self.refer(host, size, times) }
    }

    fn bitmaps(&mut self, area: &[u8]) -> Result<()> {
        let mut references: Vec<Range<u64>> = Vec::new();
        match bitmaps::references(self.file, area, &self.header, &mut references) {
            Ok(()) => {}
            Err(error) if error.as_corrupt().is_some() => {
                self.hidden = true;
                self.corrupt(format_args!("{error}"));
            }
            Err(error) => return Err(error),
        }
        for range in references {
            self.refer(range.start, range.end.saturating_sub(range.start), 1)?;
        }
        Ok(())
    }

    /// The refcount table and the blocks that it names.
    fn refcount_structures(&mut self) -> Result<()> {
        let size = self.header.cluster_size();
        let offset = self.header.refcount_table_offset;
        let bytes = u64::from(self.header.refcount_table_clusters).saturating_mul(size);
        limits::check("refcount table bytes", bytes, limits::CHECK_REFCOUNT_TABLE_BYTES)?;
        if offset.saturating_add(bytes) > self.file.size().next_multiple_of(size) {
            let expected = format!("a table of {bytes} bytes within the file's {}", self.file.size());
            return Err(Error::corrupt(FORMAT, "refcount_table_offset", 48, format!("{offset:#x}"), expected));
        }
        self.refer(offset, bytes, 1)?;
        let mut table = Vec::new();
        let there = self.file.size().saturating_sub(offset).min(bytes) & !7;
        for_each_word(self.file, offset, there, &mut |index, entry| {
            if entry != 0 {
                table.resize(index, 0);
                table.push(entry);
            }
        })?;
        for entry in &mut table {
            let inside = entry.saturating_add(size) <= self.file.size().next_multiple_of(size);
            if *entry == 0 {
                continue;
            }
            if *entry & 511 != 0 || !entry.is_multiple_of(size) || !inside {
                self.corrupt(format_args!("a refcount table entry that leads nowhere: {entry:#x}"));
                self.rebuild = true;
                *entry = 0;
                continue;
            }
            self.refer(*entry, size, 1)?;
            if self.counts.get(entry.wrapping_shr(self.header.cluster_bits)) != 1 {
                self.corrupt(format_args!("a refcount block that something else uses: {entry:#x}"));
                self.rebuild = true;
            }
        }
        self.refcount_table = table;
        Ok(())
    }

    /// Holds counts and references against one another.
    fn compare(&mut self) -> Result<(Vec<(u64, u64, u64)>, bool)> {
        let clusters = self.counts.clusters();
        let per_block = 1u64.wrapping_shl(self.width.block_bits(self.header.cluster_bits));
        let mut differing = Vec::new();
        let mut overflow = false;
        let mut last = None;
        // Only where something is counted or referred to: a file may claim to be of any size.
        let bits = self.width.block_bits(self.header.cluster_bits);
        let counted = self.refcount_table.iter().enumerate().filter(|(_, entry)| **entry != 0);
        let mut numbers: BTreeSet<u64> = counted.map(|(number, _)| to_u64(number)).collect();
        for piece in self.counts.pieces() {
            numbers.extend(piece.start.wrapping_shr(bits)..=piece.end.saturating_sub(1).wrapping_shr(bits));
        }
        for number in numbers {
            let start = number.saturating_mul(per_block);
            let end = start.saturating_add(per_block).min(clusters);
            let entry = self.refcount_table.get(to_usize(number)).copied().unwrap_or(0);
            let block = self.block(entry)?;
            let empty = block.as_ref().is_none_or(|block| block.iter().all(|&byte| byte == 0));
            if empty && !self.counts.any(start..end) {
                continue;
            }
            for cluster in start..end {
                let count =
                    block.as_ref().map_or(0, |block| self.width.get(block, to_usize(cluster.saturating_sub(start))));
                let references = self.counts.get(cluster);
                if count == 0 && references == 0 {
                    continue;
                }
                last = Some(cluster);
                if count == references {
                    continue;
                }
                if count < references {
                    self.rebuild |= count == 0;
                    self.found.corruptions = self.found.corruptions.saturating_add(1);
                } else {
                    self.found.leaks = self.found.leaks.saturating_add(1);
                }
                if differing.len() < DIFFERENCES {
                    differing.push((cluster, count, references));
                } else {
                    overflow = true;
                }
            }
        }
        let end = last.map_or(0, |cluster| cluster.saturating_add(1));
        self.found.image_end_offset = end.wrapping_shl(self.header.cluster_bits);
        Ok((differing, overflow))
    }

    fn block(&self, offset: u64) -> Result<Option<Vec<u8>>> {
        if offset == 0 {
            return Ok(None);
        }
        let size = to_usize(self.header.cluster_size());
        let mut bytes = vec![0; size];
        let there = to_usize(self.file.size().saturating_sub(offset)).min(size);
        self.file.read_exact_at(bytes.get_mut(..there).unwrap_or_default(), offset)?;
        Ok(Some(bytes))
    }

    /// The flag `COPIED` of the active tables against the counts.
    fn copied_flags(&mut self) -> Result<()> {
        let mut wrong = 0u64;
        copied_flags(self.file, &self.header, &self.refcount_table, &mut |_, _| {
            wrong = wrong.saturating_add(1);
            Ok(())
        })?;
        self.found.corruptions = self.found.corruptions.saturating_add(wrong);
        Ok(())
    }
}

/// Calls `wrong` with the position of each entry of the active tables whose flag `COPIED` is not what the counts say, and
/// with what it should be.
pub(super) fn copied_flags(
    file: &dyn BlockDevice,
    header: &Header,
    refcount_table: &[u64],
    wrong: &mut dyn FnMut(u64, u64) -> Result<()>,
) -> Result<()> {
    let size = header.cluster_size();
    let mut counts = OnDisk { file, header, table: refcount_table, width: Width::of(header), block: None };
    let mut tables = Vec::new();
    for_each_word(file, header.l1.offset, header.l1.bytes(), &mut |index, entry| {
        if entry & OFFSET != 0 {
            tables.push((header.l1.offset.saturating_add(to_u64(index).saturating_mul(8)), entry));
        }
    })?;
    let many = to_u64(tables.len()).saturating_mul(size) > MANY_TABLES;
    let mut seen = std::collections::HashSet::new();
    for (position, entry) in tables {
        let table = entry & OFFSET;
        if !table.is_multiple_of(size) || table.saturating_add(size) > file.size() {
            continue;
        }
        if (counts.get(table)? == 1) != (entry & COPIED != 0) {
            wrong(position, entry ^ COPIED)?;
        }
        if !seen.insert(table) || (many && is_hole(file, table..table.saturating_add(size))?) {
            continue;
        }
        let mut result = Ok(());
        for_each_word(file, table, size, &mut |index, entry| {
            let host = entry & OFFSET;
            let skipped = (header.extended_l2 && index & 1 == 1) || entry & COMPRESSED != 0;
            if skipped || result.is_err() || host == 0 && !(header.data_file && entry & COPIED != 0) {
                return;
            }
            let count = if header.data_file { Ok(1) } else { counts.get(host) };
            let position = table.saturating_add(to_u64(index).saturating_mul(8));
            result = match count {
                Ok(count) if (count == 1) != (entry & COPIED != 0) => wrong(position, entry ^ COPIED),
                Ok(_) => Ok(()),
                Err(error) => Err(error),
            };
        })?;
        result?;
    }
    Ok(())
}

/// The counts on disk, read a block at a time.
struct OnDisk<'a> {
    file: &'a dyn BlockDevice,
    header: &'a Header,
    table: &'a [u64],
    width: Width,
    block: Option<(u64, Vec<u8>)>,
}

impl OnDisk<'_> {
    fn get(&mut self, offset: u64) -> Result<u64> {
        let cluster = offset.wrapping_shr(self.header.cluster_bits);
        let bits = self.width.block_bits(self.header.cluster_bits);
        let number = cluster.wrapping_shr(bits);
        if self.block.as_ref().is_none_or(|(held, _)| *held != number) {
            let entry = self.table.get(to_usize(number)).copied().unwrap_or(0);
            let mut bytes = Vec::new();
            if entry != 0 {
                bytes = vec![0; to_usize(self.header.cluster_size())];
                let there = to_usize(self.file.size().saturating_sub(entry)).min(bytes.len());
                self.file.read_exact_at(bytes.get_mut(..there).unwrap_or_default(), entry)?;
            }
            self.block = Some((number, bytes));
        }
        let index = to_usize(cluster.saturating_sub(number.wrapping_shl(bits)));
        Ok(self.block.as_ref().map_or(0, |(_, bytes)| self.width.get(bytes, index)))
    }
}

/// Offset and length of a compressed cluster's sectors.
fn compressed(descriptor: u64, cluster_bits: u32) -> (u64, u64) {
    let sector_bits = cluster_bits.saturating_sub(8);
    let offset_bits = 62u32.saturating_sub(sector_bits);
    let mask = |bits: u32| 1u64.wrapping_shl(bits).wrapping_sub(1);
    let offset = descriptor & mask(offset_bits);
    let sectors = descriptor.wrapping_shr(offset_bits) & mask(sector_bits);
    (offset, sectors.saturating_add(1).saturating_mul(512).saturating_sub(offset & 511))
}

/// Calls `visit` with index and value of each 64-bit word of a table, in large pieces; where the file has a hole all are
/// zero and nobody is called.
pub(super) fn for_each_word(
    file: &dyn BlockDevice,
    offset: u64,
    len: u64,
    visit: &mut dyn FnMut(usize, u64),
) -> Result<()> {
    let end = offset.saturating_add(len);
    let mut at = offset;
    let mut bytes = vec![0u8; to_usize(len.min(PIECE))];
    while at < end {
        if end.saturating_sub(offset) > PIECE {
            let extent = file.next_extent(at..end)?;
            // Whole words only; a hole ends on a block of the host.
            let skip = extent.len & !7;
            if extent.kind != ExtentKind::Data && skip > 0 {
                at = at.saturating_add(skip);
                continue;
            }
        }
        let piece = to_usize(end.saturating_sub(at).min(PIECE));
        let part = bytes.get_mut(..piece).unwrap_or_default();
        file.read_exact_at(part, at)?;
        let (words, _) = part.as_chunks::<8>();
        let first = to_usize(at.saturating_sub(offset).wrapping_shr(3));
        for (index, word) in words.iter().enumerate() {
            visit(first.saturating_add(index), u64::from_be_bytes(*word));
        }
        at = at.saturating_add(to_u64(piece).max(1));
    }
    Ok(())
}
