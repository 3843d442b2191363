//! An image that is being changed: its tables in memory, and the one way in which they reach the disk.
//!
//! Whatever happens between two flushes of the host, the image on disk is whole: at worst clusters are counted that nobody
//! refers to. For that, changes collect in memory and [`State::commit`] writes them in this order, a flush of the host
//! between the steps that need one:
//!
//! ```text
//!   guest data, new L2 tables     at once, into clusters that nothing on disk refers to, or that were the guest's already
//!   reference counts              before anything refers to what they count
//!   refcount table, header        when the blocks they refer to are durable
//!   L2 tables                     when data and counts are durable
//!   L1 table                      when the L2 tables are durable
//!   releases                      counts go down when nothing on disk refers to the cluster any more; only then can it
//!                                 be given to someone else
//! ```
//!
//! So counts are never behind, and lazy reference counts are never made use of: the dirty bit is not set.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use super::FORMAT;
use super::cluster::{COMPRESSED, COPIED, L2Entry, Layout, Mapping, OFFSET, Run};
use super::header::{AUTOCLEAR_AT, Header, INCOMPATIBLE_AT, RAW_DATA_FILE};
use super::refcounts::{Metadata, Refcounts, claim};
use super::snapshots::Snapshot;
use crate::block::writable::Resizable;
use crate::block::{Lru, range_len, read_vec};
use crate::bytes::{Record, to_u64, to_usize};
use crate::error::{Error, Result};
use crate::limits;

/// Words of a slice of an L2 table, as bits.
const SLICE_BITS: u32 = 9;
/// Slices that are kept although they have not changed.
const CLEAN_SLICES: usize = 2048;
/// Changed slices, and bytes of changed refcount blocks, after which all is written.
const DIRTY_SLICES: usize = 2048;
const DIRTY_BYTES: usize = 8 << 20;
/// Clusters to be released after which all is written.
const RELEASES: usize = 1 << 16;

/// The tables of an image's active state.
#[derive(Debug)]
pub(super) struct State {
    pub header: Header,
    pub file: Arc<dyn Resizable>,
    /// The external data file, if guest data lies in one.
    pub data: Option<Arc<dyn Resizable>>,
    pub refcounts: Refcounts,
    pub snapshots: Vec<Snapshot>,
    /// Entries of the active L1 table.
    l1: Vec<u64>,
    dirty_l1: BTreeSet<usize>,
    /// Slices of L2 tables by where they begin.
    clean: Lru<u64, Arc<[u64]>>,
    dirty: BTreeMap<u64, Vec<u64>>,
    /// Clusters with one reference less as soon as that is true on disk.
    releases: Vec<u64>,
    /// Whether anything was written since the last flush of the host.
    unflushed: bool,
    /// Whether the header says that an unknown program has been here.
    prepared: bool,
}

/// One L2 entry, and where it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub descriptor: u64,
    pub bitmap: u64,
    pub position: u64,
}

impl State {
    /// Reads the tables of an image that may be written. All metadata must lie in clusters of its own.
    pub(super) fn open(
        file: Arc<dyn Resizable>,
        data: Option<Arc<dyn Resizable>>,
        header: Header,
        snapshots: Vec<Snapshot>,
    ) -> Result<Self> {
        limits::check("L1 table bytes", header.l1.bytes(), limits::QCOW2_WRITE_TABLE_BYTES)?;
        let bytes = read_vec(&*file, header.l1.offset, to_usize(header.l1.bytes()))?;
        let (words, _) = bytes.as_chunks::<8>();
        let l1: Vec<u64> = words.iter().map(|word| u64::from_be_bytes(*word)).collect();
        let metadata = metadata(&*file, &header, &snapshots, &l1)?;
        let refcounts = Refcounts::open(Arc::clone(&file), &header, metadata)?;
        Ok(Self {
            header,
            file,
            data,
            refcounts,
            snapshots,
            l1,
            dirty_l1: BTreeSet::new(),
            clean: Lru::new(CLEAN_SLICES),
            dirty: BTreeMap::new(),
            releases: Vec::new(),
            unflushed: false,
            prepared: false,
        })
    }

    /// How entries are read now; the file grows.
    pub(super) fn layout(&self) -> Layout {
        Layout {
            version: self.header.version,
            cluster_bits: self.header.cluster_bits,
            extended_l2: self.header.extended_l2,
            external: self.data.is_some(),
            file_size: self.file.size(),
            data_size: self.data_file().size(),
        }
    }

    /// The file of uncompressed clusters.
    pub(super) fn data_file(&self) -> &Arc<dyn Resizable> {
        self.data.as_ref().unwrap_or(&self.file)
    }

    pub(super) fn cluster_size(&self) -> u64 {
        self.header.cluster_size()
    }

    fn offset_of(&self, cluster: u64) -> u64 {
        cluster.wrapping_shl(self.header.cluster_bits)
    }

    fn cluster_of(&self, offset: u64) -> u64 {
        offset.wrapping_shr(self.header.cluster_bits)
    }

    /// To be called before the first change: says in the header that what only other programs understand is out of date.
    pub(super) fn prepare(&mut self) -> Result<()> {
        if self.prepared {
            return Ok(());
        }
        let kept = self.header.autoclear & RAW_DATA_FILE;
        if kept != self.header.autoclear {
            self.file.write_all_at(&kept.to_be_bytes(), AUTOCLEAR_AT)?;
            self.file.flush()?;
            self.header.autoclear = kept;
        }
        self.prepared = true;
        Ok(())
    }

    /// Sets and clears incompatible features, durably.
    pub(super) fn set_incompatible(&mut self, features: u64) -> Result<()> {
        if features != self.header.incompatible && self.header.version >= 3 {
            self.file.write_all_at(&features.to_be_bytes(), INCOMPATIBLE_AT)?;
            self.file.flush()?;
            self.header.incompatible = features;
        }
        Ok(())
    }

    // Clusters.

    /// Free clusters in a row, at most `most`, now counted once.
    pub(super) fn allocate(&mut self, most: u64) -> Result<Range<u64>> {
        let clusters = self.refcounts.allocate(most)?;
        Ok(self.offset_of(clusters.start)..self.offset_of(clusters.end))
    }

    /// Free clusters in a row for `bytes` of metadata, now counted once.
    pub(super) fn allocate_table(&mut self, bytes: u64) -> Result<Range<u64>> {
        let clusters = self.refcounts.allocate_exactly(bytes.div_ceil(self.cluster_size()).max(1))?;
        self.refcounts.add_metadata(clusters.clone());
        Ok(self.offset_of(clusters.start)..self.offset_of(clusters.end))
    }

    /// Gives back clusters that nothing ever referred to.
    pub(super) fn give_back(&mut self, bytes: Range<u64>) -> Result<()> {
        for cluster in self.cluster_of(bytes.start)..self.cluster_of(bytes.end) {
            self.refcounts.release(cluster)?;
        }
        Ok(())
    }

    /// Notes that one reference to each of the clusters that `bytes` touch goes away with the changes made until now.
    pub(super) fn release_later(&mut self, bytes: Range<u64>) -> Result<()> {
        let last = self.cluster_of(bytes.end.saturating_sub(1));
        for cluster in self.cluster_of(bytes.start)..=last {
            if self.refcounts.get(cluster)? == 0 {
                let position = self.offset_of(cluster);
                return Err(Error::corrupt(FORMAT, "reference count", position, 0, "at least 1 for a cluster in use")
                    .with_hint("guestctl check --repair all IMAGE counts the references again"));
            }
        }
        self.releases.extend(self.cluster_of(bytes.start)..=last);
        Ok(())
    }

    /// Whether the guest may write to its cluster at `host` in place: it is counted once and holds no metadata.
    fn may_overwrite(&mut self, host: u64, position: u64) -> Result<()> {
        if self.data.is_some() {
            return Ok(());
        }
        let cluster = self.cluster_of(host);
        let count = self.refcounts.get(cluster)?;
        if count == 1 && !self.refcounts.is_metadata(cluster) {
            return Ok(());
        }
        let found =
            if count == 1 { "a cluster of metadata".to_owned() } else { format!("a cluster counted {count} times") };
        Err(Error::corrupt(FORMAT, "L2 table entry", position, found, "a data cluster counted once")
            .with_hint("guestctl check --repair all IMAGE counts the references again"))
    }

    /// Says that data was written, which the next commit makes durable.
    pub(super) fn wrote(&mut self) {
        self.unflushed = true;
    }

    // Tables.

    fn index(&self, at: u64) -> (usize, u64) {
        let layout_bits = self.layout_l2_bits();
        let cluster = at.wrapping_shr(self.header.cluster_bits);
        let l1 = cluster.wrapping_shr(layout_bits);
        let within = cluster.saturating_sub(l1.wrapping_shl(layout_bits));
        (to_usize(l1), within.wrapping_shl(u32::from(self.header.extended_l2)))
    }

    fn layout_l2_bits(&self) -> u32 {
        self.header.cluster_bits.saturating_sub(3).saturating_sub(u32::from(self.header.extended_l2))
    }

    /// Guest bytes of one L1 entry.
    pub(super) fn l1_entry_bytes(&self) -> u64 {
        1u64.wrapping_shl(self.header.l1_entry_bits())
    }

    pub(super) fn l1(&self) -> &[u64] {
        &self.l1
    }

    fn slice_words(&self) -> u64 {
        self.cluster_size().wrapping_shr(3).min(1u64.wrapping_shl(SLICE_BITS))
    }

    /// Word `index` of the L2 table at `table`.
    fn word(&self, table: u64, index: u64) -> Result<u64> {
        let words = self.slice_words();
        let within = index & words.saturating_sub(1);
        let start = table.saturating_add(index.saturating_sub(within).saturating_mul(8));
        if let Some(slice) = self.dirty.get(&start) {
            return Ok(slice.get(to_usize(within)).copied().unwrap_or(0));
        }
        let slice = self.clean.get_or_read(start, || self.read_slice(start))?;
        Ok(slice.get(to_usize(within)).copied().unwrap_or(0))
    }

    fn read_slice(&self, start: u64) -> Result<Arc<[u64]>> {
        let bytes = read_vec(&*self.file, start, to_usize(self.slice_words().saturating_mul(8)))?;
        let (words, _) = bytes.as_chunks::<8>();
        Ok(words.iter().map(|word| u64::from_be_bytes(*word)).collect())
    }

    fn set_word(&mut self, table: u64, index: u64, value: u64) -> Result<()> {
        let words = self.slice_words();
        let within = index & words.saturating_sub(1);
        let start = table.saturating_add(index.saturating_sub(within).saturating_mul(8));
        if !self.dirty.contains_key(&start) {
            let slice = self.clean.get_or_read(start, || self.read_slice(start))?;
            self.dirty.insert(start, slice.to_vec());
        }
        if let Some(word) = self.dirty.get_mut(&start).and_then(|slice| slice.get_mut(to_usize(within))) {
            *word = value;
        }
        Ok(())
    }

    /// The entry for the guest cluster at `at`; `None` where there is no L2 table.
    pub(super) fn entry(&self, at: u64) -> Result<Option<Entry>> {
        let (l1_index, index) = self.index(at);
        let table = self.l1.get(l1_index).copied().unwrap_or(0) & OFFSET;
        if table == 0 {
            return Ok(None);
        }
        let descriptor = self.word(table, index)?;
        let bitmap = if self.header.extended_l2 { self.word(table, index.saturating_add(1))? } else { 0 };
        Ok(Some(Entry { descriptor, bitmap, position: table.saturating_add(index.saturating_mul(8)) }))
    }

    /// The mapping from `at` on as one entry tells it.
    pub(super) fn piece(&self, at: u64) -> Result<Run> {
        match self.entry(at)? {
            Some(Entry { descriptor, bitmap, position }) => {
                L2Entry { descriptor, bitmap, position }.run(&self.layout(), at)
            }
            None => {
                let span = self.l1_entry_bytes();
                let within = at & span.saturating_sub(1);
                Ok(Run { mapping: Mapping::Unallocated, len: span.saturating_sub(within) })
            }
        }
    }

    /// The mapping from `range.start` on, as far as it is one run and at most `range` long.
    pub(super) fn run(&self, range: Range<u64>) -> Result<Run> {
        let mut run = self.piece(range.start)?;
        let wanted = range_len(&range);
        let mut steps = 1024u32;
        while run.len < wanted && steps > 0 {
            steps = steps.saturating_sub(1);
            match self.piece(range.start.saturating_add(run.len)) {
                Ok(next) if run.continues_in(&next.mapping) => run.len = run.len.saturating_add(next.len),
                _ => break,
            }
        }
        run.len = run.len.min(wanted);
        Ok(run)
    }

    /// Sets the entry for the guest cluster at `at`, in an L2 table that is this state's alone.
    pub(super) fn set_entry(&mut self, at: u64, descriptor: u64, bitmap: u64) -> Result<()> {
        let (l1_index, index) = self.index(at);
        let table = self.own_table(l1_index)?;
        self.set_word(table, index, descriptor)?;
        if self.header.extended_l2 {
            self.set_word(table, index.saturating_add(1), bitmap)?;
        }
        Ok(())
    }

    /// Where the L2 table of an L1 entry is: made if there is none, copied if a snapshot uses it too.
    pub(super) fn own_table(&mut self, l1_index: usize) -> Result<u64> {
        let entry = self.l1.get(l1_index).copied().unwrap_or(0);
        let old = entry & OFFSET;
        if old != 0 && entry & COPIED != 0 {
            let count = self.refcounts.get(self.cluster_of(old))?;
            if count != 1 {
                let position = self.header.l1.offset.saturating_add(to_u64(l1_index).saturating_mul(8));
                let found = format!("a table counted {count} times");
                return Err(Error::corrupt(FORMAT, "L1 table entry", position, found, "a table counted once")
                    .with_hint("guestctl check --repair all IMAGE counts the references again"));
            }
            return Ok(old);
        }
        let place = self.allocate_table(1)?;
        let done = self.fill_table(old, place.start);
        if let Err(error) = done {
            self.give_back(place)?;
            return Err(error);
        }
        if old != 0 {
            self.release_later(old..old.saturating_add(1))?;
        }
        self.set_l1(l1_index, place.start | COPIED);
        Ok(place.start)
    }

    /// Writes the L2 table at `new` as a copy of that at `old`, which is empty if there is none.
    fn fill_table(&mut self, old: u64, new: u64) -> Result<()> {
        let size = to_usize(self.cluster_size());
        let bytes = if old == 0 { vec![0; size] } else { read_vec(&*self.file, old, size)? };
        self.file.write_all_at(&bytes, new)?;
        self.unflushed = true;
        // The cluster may have been a table before: what is kept of that is out of date.
        let slice_bytes = self.slice_words().saturating_mul(8);
        let mut start = new;
        for slice in bytes.chunks(to_usize(slice_bytes)) {
            let (words, _) = slice.as_chunks::<8>();
            self.dirty.remove(&start);
            self.clean.insert(start, words.iter().map(|word| u64::from_be_bytes(*word)).collect());
            start = start.saturating_add(slice_bytes);
        }
        Ok(())
    }

    pub(super) fn set_l1(&mut self, index: usize, entry: u64) {
        if let Some(word) = self.l1.get_mut(index) {
            *word = entry;
            self.dirty_l1.insert(index);
        }
    }

    /// Puts another L1 table in place of this one, which has been written to disk already.
    pub(super) fn replace_l1(&mut self, l1: Vec<u64>, offset: u64) {
        self.header.l1.offset = offset;
        self.header.l1.size = crate::bytes::low_u32(to_u64(l1.len()));
        self.l1 = l1;
        self.dirty_l1.clear();
    }

    /// The host offset at which the guest may write in place, if the entry has one: a cluster of its own.
    pub(super) fn own_cluster(&mut self, entry: &Entry) -> Result<Option<u64>> {
        let host = entry.descriptor & OFFSET;
        let there = host != 0 || self.data.is_some();
        if entry.descriptor & COMPRESSED != 0 || entry.descriptor & COPIED == 0 || !there {
            return Ok(None);
        }
        if host & self.layout().offset_mask() != 0 {
            let expected = format!("a multiple of {}", self.cluster_size());
            return Err(Error::corrupt(FORMAT, "L2 table entry", entry.position, format!("{host:#x}"), expected));
        }
        self.may_overwrite(host, entry.position)?;
        Ok(Some(host))
    }

    /// Notes that what the entry refers to has one reference less.
    pub(super) fn release_entry(&mut self, entry: &Entry, at: u64) -> Result<()> {
        if entry.descriptor & COMPRESSED != 0 {
            let run = L2Entry { descriptor: entry.descriptor, bitmap: 0, position: entry.position };
            if let Mapping::Compressed(cluster) = run.run(&self.layout(), at)?.mapping {
                self.release_later(cluster.offset..cluster.offset.saturating_add(cluster.len))?;
            }
            return Ok(());
        }
        let host = entry.descriptor & OFFSET;
        if host == 0 || self.data.is_some() {
            return Ok(());
        }
        self.release_later(host..host.saturating_add(1))
    }

    // The way to disk.

    /// Whether so much has collected that it should be written before more is changed.
    pub(super) fn is_full(&self) -> bool {
        self.dirty.len() > DIRTY_SLICES
            || self.releases.len() > RELEASES
            || self.refcounts.dirty_bytes() > DIRTY_BYTES.max(to_usize(self.cluster_size()).saturating_mul(4))
    }

    /// A flush of the host, if anything was written since the last.
    fn barrier(&mut self) -> Result<()> {
        if self.unflushed {
            if let Some(data) = &self.data {
                data.flush()?;
            }
            self.file.flush()?;
            self.unflushed = false;
        }
        Ok(())
    }

    /// Makes all changes durable, in the order that keeps the image whole.
    pub(super) fn commit(&mut self) -> Result<()> {
        self.unflushed |= self.refcounts.write_blocks()?;
        self.barrier()?;
        if self.refcounts.write_table()? {
            self.unflushed = true;
            self.barrier()?;
            if let Some(old) = self.refcounts.write_header()? {
                self.unflushed = true;
                self.barrier()?;
                self.releases.extend(old);
            }
        }
        for (start, words) in &self.dirty {
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
            self.file.write_all_at(&bytes, *start)?;
            self.unflushed = true;
        }
        for (start, words) in std::mem::take(&mut self.dirty) {
            self.clean.insert(start, words.into());
        }
        if !self.dirty_l1.is_empty() {
            self.barrier()?;
            self.write_l1()?;
        }
        self.barrier()?;
        self.release()
    }

    /// Writes the changed L1 entries, in sectors.
    fn write_l1(&mut self) -> Result<()> {
        let sectors: BTreeSet<usize> = self.dirty_l1.iter().map(|index| index & !63).collect();
        for first in sectors {
            let entries = self.l1.get(first..first.saturating_add(64).min(self.l1.len())).unwrap_or_default();
            let bytes: Vec<u8> = entries.iter().flat_map(|entry| entry.to_be_bytes()).collect();
            let position = self.header.l1.offset.saturating_add(to_u64(first).saturating_mul(8));
            self.file.write_all_at(&bytes, position)?;
        }
        self.unflushed = true;
        self.dirty_l1.clear();
        Ok(())
    }

    /// Takes back what nothing on disk refers to any more. The lowered counts reach the disk with the next commit: until
    /// then they are too high, which harms nobody.
    fn release(&mut self) -> Result<()> {
        let mut releases = std::mem::take(&mut self.releases);
        releases.sort_unstable();
        let mut free: Option<Range<u64>> = None;
        for cluster in releases {
            if !self.refcounts.release(cluster)? {
                continue;
            }
            free = match free {
                Some(run) if run.end == cluster => Some(run.start..cluster.saturating_add(1)),
                run => {
                    self.punch(run);
                    Some(cluster..cluster.saturating_add(1))
                }
            };
        }
        self.punch(free);
        Ok(())
    }

    /// Gives the host its space back. It is only advice, so a failure is nobody's concern.
    fn punch(&self, clusters: Option<Range<u64>>) {
        let Some(clusters) = clusters else { return };
        let end = self.offset_of(clusters.end).min(self.file.size());
        let range = self.offset_of(clusters.start)..end;
        if !range.is_empty()
            && let Err(error) = self.file.discard(range)
        {
            log::debug!("{error}");
        }
    }

    /// Commits, and writes the lowered counts too, so that nothing at all is left to do.
    pub(super) fn settle(&mut self) -> Result<()> {
        self.commit()?;
        self.unflushed |= self.refcounts.write_blocks()?;
        self.barrier()
    }

    /// Writes fields of the header and makes them durable: the step in which what was prepared becomes the image.
    pub(super) fn write_header(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.file.write_all_at(bytes, offset)?;
        self.unflushed = true;
        self.barrier()
    }
}

/// The clusters of all metadata but the refcount structures'. That two of them share a cluster is refused: writing one
/// would destroy the other.
fn metadata(file: &dyn Resizable, header: &Header, snapshots: &[Snapshot], l1: &[u64]) -> Result<Metadata> {
    let mut found = Metadata::default();
    let bits = header.cluster_bits;
    let mut note = |start: u64, len: u64, field, position| {
        claim(&mut found, bits, start..start.saturating_add(len), field, position)
    };
    note(0, 1, "header", 0)?;
    if header.l1.size > 0 {
        note(header.l1.offset, header.l1.bytes(), "l1_table_offset", 40)?;
    }
    let layout_mask = header.cluster_size().saturating_sub(1);
    for (index, entry) in l1.iter().enumerate() {
        let offset = entry & OFFSET;
        if offset == 0 {
            continue;
        }
        let position = header.l1.offset.saturating_add(to_u64(index).saturating_mul(8));
        if offset & layout_mask != 0 || offset.saturating_add(header.cluster_size()) > file.size() {
            let expected = format!("an L2 table, aligned and within the file's {} bytes", file.size());
            return Err(Error::corrupt(FORMAT, "L1 table entry", position, format!("{offset:#x}"), expected));
        }
        note(offset, 1, "L1 table entry", position)?;
    }
    if let Some(last) = snapshots.last() {
        note(header.snapshots_offset, last.end.saturating_sub(header.snapshots_offset), "snapshots_offset", 64)?;
    }
    let mut seen = std::collections::HashSet::new();
    for snapshot in snapshots {
        snapshot.l1.check(header.cluster_size(), file.size(), &Record::new(FORMAT, &[], snapshot.position), 0)?;
        if snapshot.l1.size > 0 && seen.insert(snapshot.l1.offset) {
            note(snapshot.l1.offset, snapshot.l1.bytes(), "snapshot l1_table_offset", snapshot.position)?;
        }
    }
    Ok(found)
}
