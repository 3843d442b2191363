//! The disk in an image, changed in place: where guest bytes go, what must be copied first, and what becomes free.
//!
//! | the guest cluster is | a write goes |
//! |---|---|
//! | in a cluster of its own (`COPIED`) | there |
//! | a zero cluster with a cluster of its own | there; the rest becomes zeroes |
//! | shared with a snapshot, compressed, below, nowhere | to a new cluster; what is not written is copied or made zero |
//!
//! With extended L2 entries only the subclusters that a write touches are filled, the others stay as they are.
//!
//! Readers share a lock and go on side by side; a writer is alone. What a write changes in the tables is on disk after
//! the next [`flush`](BlockWrite::flush), in the order that [`state`](super::state) keeps.

use std::ops::Range;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::audit;
use super::cluster::{COMPRESSED, COPIED, CompressedCluster, Mapping, OFFSET, SUBCLUSTER_BITS, ZERO};
use super::header::{self, Header};
use super::snapshots;
use super::state::{Entry, State};
use super::{FORMAT, Names};
use crate::block::gate::{Reference, ReferenceKind};
use crate::block::open::OpenContext;
use crate::block::probe::ImageFormat;
use crate::block::read_or_zero;
use crate::block::writable::Resizable;
use crate::block::{BlockDevice, BlockWrite, Extent, ExtentKind, Lru, Sweep, check_range, range_len, read_vec};
use crate::bytes::{Record, to_u64, to_usize};
use crate::error::{Error, Result};

/// All subclusters, as the low half of a bitmap.
const ALL: u64 = 0xffff_ffff;

/// Bytes of decompressed clusters that are kept.
const CLUSTER_CACHE: u64 = 4 << 20;

/// Bytes of zeroes written at a time where no entry can say "zero".
const ZEROES: u64 = 1 << 20;

/// A qcow2 image, open for reading and writing.
#[derive(Debug)]
pub struct WritableQcow2 {
    size: u64,
    backing: Option<Arc<dyn BlockDevice>>,
    clusters: Lru<CompressedCluster, Arc<[u8]>>,
    state: RwLock<State>,
}

/// What a file's headers tell, checked as far as writing needs it.
pub(super) fn read_state(file: Arc<dyn Resizable>, context: &OpenContext<'_>) -> Result<(State, Names)> {
    let head = read_vec(&*file, 0, header::header_len(file.size()))?;
    let record = Record::new(FORMAT, &head, 0);
    let header = Header::parse(&record)?;
    let device: Arc<dyn BlockDevice> = file.clone();
    let names = Names::read(&device, &header)?;
    header.l1.check(header.cluster_size(), file.size(), &record, 40)?;
    if header.encryption.is_some() {
        return Err(Error::unsupported(FORMAT, "writing encrypted images"));
    }
    if header.corrupt {
        let expected = "no such mark on an image that is written";
        return Err(record
            .corrupt("incompatible_features", 72, "the mark of a corrupt image", expected)
            .with_hint("guestctl check --repair all IMAGE repairs what can be repaired"));
    }
    let snapshots = snapshots::read(&device, &header)?;
    let data: Option<Arc<dyn Resizable>> = match (&names.data_file, header.data_file) {
        (_, false) => None,
        (None, true) => return Err(Error::unsupported(FORMAT, "an external data file whose name is not in the image")),
        (Some(name), true) => {
            let format = Some(ImageFormat::Raw);
            let reference = Reference { kind: ReferenceKind::DataFile, name: name.clone(), format };
            Some(Arc::new(context.open_file_writable(&reference)?))
        }
    };
    Ok((State::open(file, data, header, snapshots)?, names))
}

impl WritableQcow2 {
    pub(crate) fn open(file: Arc<dyn Resizable>, context: &OpenContext<'_>) -> Result<Self> {
        let head = read_vec(&*file, 0, header::header_len(file.size()))?;
        if Header::parse(&Record::new(FORMAT, &head, 0))?.dirty {
            super::repair::dirty(&file)?;
        }
        let (state, names) = read_state(file, context)?;
        let backing = names.open_backing(context)?;
        Ok(Self::new(state, backing))
    }

    /// The image and its backing file's disk, which is opened only if the context says that references are followed.
    pub(crate) fn open_overlay(
        file: Arc<dyn Resizable>,
        context: &OpenContext<'_>,
    ) -> Result<(Self, Option<Arc<dyn BlockDevice>>)> {
        if context.follow {
            let disk = Self::open(file, context)?;
            let backing = disk.backing.clone();
            return Ok((disk, backing));
        }
        let head = read_vec(&*file, 0, header::header_len(file.size()))?;
        if Header::parse(&Record::new(FORMAT, &head, 0))?.dirty {
            super::repair::dirty(&file)?;
        }
        Ok((Self::new(read_state(file, context)?.0, None), None))
    }

    pub(super) fn new(state: State, backing: Option<Arc<dyn BlockDevice>>) -> Self {
        let clusters = CLUSTER_CACHE.div_euclid(state.cluster_size());
        Self { size: state.header.size, backing, clusters: Lru::new(to_usize(clusters)), state: RwLock::new(state) }
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state, for a change.
    fn change(&self) -> Result<RwLockWriteGuard<'_, State>> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        state.prepare()?;
        Ok(state)
    }

    /// Bytes of a cluster.
    #[must_use]
    pub fn cluster_size(&self) -> u64 {
        self.read().cluster_size()
    }

    /// Whether this image, and none below it, decides the bytes from `range.start` on; and how long that is so.
    pub fn allocated(&self, range: Range<u64>) -> Result<(bool, u64)> {
        let run = self.read().run(range)?;
        Ok((run.mapping != Mapping::Unallocated, run.len))
    }

    /// Writes fields of the header, durably.
    pub(super) fn write_header(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.state.write().unwrap_or_else(PoisonError::into_inner).write_header(offset, bytes)
    }

    /// Makes the whole image empty again, so that all comes from below.
    pub fn make_empty(&self) -> Result<()> {
        let mut state = self.change()?;
        let mut at = 0;
        while at < self.size {
            let run = state.run(at..self.size)?;
            if run.mapping == Mapping::Unallocated {
                at = at.saturating_add(run.len);
                continue;
            }
            let start = at & !state.layout().offset_mask();
            if let Some(entry) = state.entry(start)? {
                state.release_entry(&entry, start)?;
                state.set_entry(start, 0, 0)?;
            }
            at = start.saturating_add(state.cluster_size());
            if state.is_full() {
                state.commit()?;
            }
        }
        state.settle()
    }

    // Reading.

    fn read_with(&self, state: &State, buf: &mut [u8], offset: u64) -> Result<()> {
        let end = offset.saturating_add(to_u64(buf.len()));
        let (mut at, mut rest) = (offset, buf);
        while !rest.is_empty() {
            let run = state.run(at..end)?;
            let (part, tail) = rest.split_at_mut(to_usize(run.len));
            match run.mapping {
                Mapping::Zero => part.fill(0),
                Mapping::Unallocated => match &self.backing {
                    Some(backing) => read_or_zero(&**backing, part, at)?,
                    None => part.fill(0),
                },
                Mapping::Host(host) => read_or_zero(&**state.data_file(), part, host)?,
                Mapping::Compressed(cluster) => self.read_compressed(state, part, at, cluster)?,
            }
            (at, rest) = (at.saturating_add(run.len), tail);
        }
        Ok(())
    }

    fn read_compressed(&self, state: &State, part: &mut [u8], at: u64, from: CompressedCluster) -> Result<()> {
        let layout = state.layout();
        let compression = state.header.compression;
        if to_u64(part.len()) == layout.cluster_size() {
            return compression.read(&*state.file, from, part);
        }
        let cluster = self.clusters.get_or_read(from, || {
            let mut bytes = vec![0; to_usize(layout.cluster_size())];
            compression.read(&*state.file, from, &mut bytes)?;
            Ok::<_, Error>(bytes.into())
        })?;
        let within = to_usize(at & layout.offset_mask());
        if let Some(bytes) = cluster.get(within..).and_then(|bytes| bytes.get(..part.len())) {
            part.copy_from_slice(bytes);
        }
        Ok(())
    }

    /// Whether something below may shine through where this image has nothing.
    fn is_backed(&self, at: u64) -> bool {
        self.backing.as_ref().is_some_and(|backing| at < backing.size())
    }

    // Writing.

    fn write_with(&self, state: &mut State, bytes: &[u8], offset: u64) -> Result<()> {
        let size = state.cluster_size();
        let (mut at, mut rest) = (offset, bytes);
        while !rest.is_empty() {
            if state.is_full() {
                state.commit()?;
            }
            let within = at & state.layout().offset_mask();
            let len = match self.write_in_place(state, rest, at)? {
                0 if within == 0 && to_u64(rest.len()) >= size => self.write_new(state, rest, at)?,
                0 => {
                    let len = rest.len().min(to_usize(size.saturating_sub(within)));
                    self.write_part(state, rest.get(..len).unwrap_or_default(), at)?;
                    len
                }
                len => len,
            };
            rest = rest.get(len..).unwrap_or_default();
            at = at.saturating_add(to_u64(len));
        }
        Ok(())
    }

    /// Writes as much of the beginning of `bytes` as lies in clusters of the guest's own, in a row on the host.
    fn write_in_place(&self, state: &mut State, bytes: &[u8], at: u64) -> Result<usize> {
        let end = at.saturating_add(to_u64(bytes.len()));
        let run = state.run(at..end)?;
        let Mapping::Host(host) = run.mapping else { return Ok(0) };
        let size = state.cluster_size();
        let mut own = 0u64;
        while own < run.len {
            let here = at.saturating_add(own);
            let Some(entry) = state.entry(here)? else { break };
            if state.own_cluster(&entry)?.is_none() {
                break;
            }
            let next = (here & !state.layout().offset_mask()).saturating_add(size);
            own = next.saturating_sub(at);
        }
        let len = to_usize(own.min(run.len));
        if len > 0 {
            put(state, bytes.get(..len).unwrap_or_default(), host)?;
        }
        Ok(len)
    }

    /// Writes whole clusters at the beginning of `bytes` to new places, as many as find one in a row.
    fn write_new(&self, state: &mut State, bytes: &[u8], at: u64) -> Result<usize> {
        let size = state.cluster_size();
        if state.data.is_some() {
            put(state, bytes.get(..to_usize(size)).unwrap_or_default(), at)?;
            let entry = state.entry(at)?;
            self.point(state, at, entry, at | COPIED, ALL)?;
            return Ok(to_usize(size));
        }
        // A cluster of its own that has no bytes yet (preallocated, zeroed) is taken for what it is there for.
        if let Some(entry) = state.entry(at)?
            && let Some(host) = state.own_cluster(&entry)?
        {
            put(state, bytes.get(..to_usize(size)).unwrap_or_default(), host)?;
            state.set_entry(at, host | COPIED, ALL)?;
            return Ok(to_usize(size));
        }
        let mut wanted = 1u64;
        let most = to_u64(bytes.len()).div_euclid(size).min(4096);
        while wanted < most {
            let next = at.saturating_add(wanted.saturating_mul(size));
            let free = match state.entry(next)? {
                Some(entry) => entry.descriptor & COPIED == 0,
                None => true,
            };
            if !free {
                break;
            }
            wanted = wanted.saturating_add(1);
        }
        let place = state.allocate(wanted)?;
        let len = to_usize(range_len(&place));
        if let Err(error) = put(state, bytes.get(..len).unwrap_or_default(), place.start) {
            state.give_back(place)?;
            return Err(error);
        }
        let mut done = 0u64;
        while done < range_len(&place) {
            let here = at.saturating_add(done);
            let entry = state.entry(here)?;
            self.point(state, here, entry, place.start.saturating_add(done) | COPIED, ALL)?;
            done = done.saturating_add(size);
        }
        Ok(len)
    }

    /// Puts a new descriptor in the place of `entry`, whose cluster loses a reference.
    fn point(&self, state: &mut State, at: u64, entry: Option<Entry>, descriptor: u64, bitmap: u64) -> Result<()> {
        let old = entry
            .filter(|entry| entry.descriptor & COMPRESSED != 0 || entry.descriptor & OFFSET != descriptor & OFFSET);
        if let Some(old) = old {
            state.release_entry(&old, at)?;
        }
        state.set_entry(at, descriptor, bitmap)
    }

    /// Writes `bytes` inside one cluster that cannot be written in place as it is.
    fn write_part(&self, state: &mut State, bytes: &[u8], at: u64) -> Result<()> {
        let layout = state.layout();
        let size = layout.cluster_size();
        let cluster = at & !layout.offset_mask();
        let entry = state.entry(at)?;
        let old = entry.unwrap_or(Entry { descriptor: 0, bitmap: 0, position: 0 });
        let own = match &entry {
            Some(entry) => state.own_cluster(entry)?,
            None => None,
        };
        let own = if state.data.is_some() { Some(cluster) } else { own };
        // What must be filled: all of the cluster, or the subclusters that are touched where the others can stay out.
        let compressed = old.descriptor & COMPRESSED != 0;
        let shared = own.is_none() && old.descriptor & OFFSET != 0;
        let unit = if layout.extended_l2 && !compressed && !shared { size.wrapping_shr(SUBCLUSTER_BITS) } else { size };
        let end = at.saturating_add(to_u64(bytes.len()));
        let fill = at & !unit.wrapping_sub(1)..end.next_multiple_of(unit);
        let touched = subclusters(size, &(at.saturating_sub(cluster)..end.saturating_sub(cluster)));
        let bitmap = if compressed {
            ALL
        } else {
            let allocated = (old.bitmap & ALL) | touched;
            allocated | (old.bitmap & !ALL & !touched.wrapping_shl(32))
        };
        let place = match own {
            Some(host) => host..host.saturating_add(size),
            None => state.allocate(1)?,
        };
        let host = place.start.saturating_add(fill.start.saturating_sub(cluster));
        if let Err(error) = self.fill(state, &fill, host, bytes, at) {
            if own.is_none() {
                state.give_back(place)?;
            }
            return Err(error);
        }
        self.point(state, cluster, entry, place.start | COPIED, bitmap)
    }

    /// Writes the guest's `fill` to `host`: what it was, but `bytes` at `at`.
    fn fill(&self, state: &mut State, fill: &Range<u64>, host: u64, bytes: &[u8], at: u64) -> Result<()> {
        let within = at.saturating_sub(fill.start);
        let run = state.run(fill.clone())?;
        let nothing = match run.mapping {
            Mapping::Zero => true,
            Mapping::Unallocated => !self.is_backed(fill.start),
            _ => false,
        };
        if nothing && run.len == range_len(fill) {
            zero(state, host..host.saturating_add(range_len(fill)))?;
            return put(state, bytes, host.saturating_add(within));
        }
        let mut content = vec![0; to_usize(range_len(fill))];
        let there = self.size.min(fill.end).saturating_sub(fill.start);
        if let Some(old) = content.get_mut(..to_usize(there)) {
            self.read_with(state, old, fill.start)?;
        }
        if let Some(part) = content.get_mut(to_usize(within)..).and_then(|rest| rest.get_mut(..bytes.len())) {
            part.copy_from_slice(bytes);
        }
        put(state, &content, host)
    }

    // Zeroes.

    /// Makes `range` read as zeroes, or where that only saves space, leaves it.
    fn zero_with(&self, state: &mut State, range: Range<u64>, advice: bool) -> Result<()> {
        let mask = state.layout().offset_mask();
        let mut at = range.start;
        while at < range.end {
            if state.is_full() {
                state.commit()?;
            }
            let run = state.piece(at)?;
            let nothing = match run.mapping {
                Mapping::Zero => true,
                Mapping::Unallocated => !self.is_backed(at) && !state.header.data_file_raw,
                _ => false,
            };
            if nothing {
                at = at.saturating_add(run.len);
                continue;
            }
            let cluster = at & !mask;
            let end = cluster.saturating_add(state.cluster_size());
            // The disk may end inside its last cluster.
            let whole = at == cluster && (range.end >= end || range.end == self.size);
            let part = at..range.end.min(end);
            at = part.end;
            if state.data.is_some() && matches!(run.mapping, Mapping::Host(_)) || state.header.data_file_raw {
                self.zero_data(state, part, &run.mapping)?;
            } else if whole {
                self.zero_cluster(state, cluster, part, advice)?;
            } else if !advice {
                self.zero_part(state, part)?;
            }
        }
        Ok(())
    }

    /// Zeroes in the external data file; entries stay as they are, except where there is none for these bytes yet.
    fn zero_data(&self, state: &mut State, part: Range<u64>, mapping: &Mapping) -> Result<()> {
        if matches!(mapping, Mapping::Host(_)) || state.header.data_file_raw {
            // An extended entry may have only some of the subclusters; the rest goes by the ordinary way.
            let run = state.run(part.clone())?;
            let first = part.start..part.start.saturating_add(run.len).min(part.end);
            let rest = first.end..part.end;
            zero(state, first)?;
            if !rest.is_empty() {
                return self.zero_with(state, rest, false);
            }
        }
        Ok(())
    }

    /// A whole cluster becomes zero, by its entry where the version has that.
    fn zero_cluster(&self, state: &mut State, cluster: u64, part: Range<u64>, advice: bool) -> Result<()> {
        let backed = self.is_backed(cluster);
        if backed && state.header.version < 3 {
            return if advice { Ok(()) } else { self.write_zeroes_out(state, part) };
        }
        let (descriptor, bitmap) = match (backed, state.header.extended_l2) {
            (false, _) => (0, 0),
            (true, true) => (0, ALL.wrapping_shl(32)),
            (true, false) => (ZERO, 0),
        };
        if let Some(entry) = state.entry(cluster)? {
            state.release_entry(&entry, cluster)?;
        }
        state.set_entry(cluster, descriptor, bitmap)
    }

    /// Zeroes in a part of a cluster: whole subclusters by their bits, the rest written.
    fn zero_part(&self, state: &mut State, part: Range<u64>) -> Result<()> {
        if !state.header.extended_l2 {
            return self.write_zeroes_out(state, part);
        }
        let size = state.cluster_size();
        let unit = size.wrapping_shr(SUBCLUSTER_BITS);
        let cluster = part.start & !size.wrapping_sub(1);
        let inner = part.start.next_multiple_of(unit)..part.end & !unit.wrapping_sub(1);
        let entry = state.entry(cluster)?.unwrap_or(Entry { descriptor: 0, bitmap: 0, position: 0 });
        if inner.start >= inner.end || entry.descriptor & COMPRESSED != 0 {
            return self.write_zeroes_out(state, part);
        }
        let touched = subclusters(size, &(inner.start.saturating_sub(cluster)..inner.end.saturating_sub(cluster)));
        let bitmap = (entry.bitmap & !touched) | touched.wrapping_shl(32);
        state.set_entry(cluster, entry.descriptor, bitmap)?;
        self.write_zeroes_out(state, part.start..inner.start)?;
        self.write_zeroes_out(state, inner.end..part.end)
    }

    fn write_zeroes_out(&self, state: &mut State, range: Range<u64>) -> Result<()> {
        let zeroes = vec![0u8; to_usize(range_len(&range).min(ZEROES))];
        let mut at = range.start;
        while at < range.end {
            let len = to_usize(range.end.saturating_sub(at)).min(zeroes.len());
            self.write_with(state, zeroes.get(..len).unwrap_or_default(), at)?;
            at = at.saturating_add(to_u64(len));
        }
        Ok(())
    }
}

/// The subclusters that `range` of a cluster touches, as bits.
fn subclusters(cluster_size: u64, range: &Range<u64>) -> u64 {
    let unit = cluster_size.wrapping_shr(SUBCLUSTER_BITS).max(1);
    let first = crate::bytes::low_u32(range.start.div_euclid(unit));
    let end = crate::bytes::low_u32(range.end.div_ceil(unit));
    let below = |bits: u32| 1u64.wrapping_shl(bits).wrapping_sub(1);
    below(end) & !below(first) & ALL
}

/// Writes to the file of guest data, which a cut-off last cluster may have left short.
fn put(state: &mut State, bytes: &[u8], host: u64) -> Result<()> {
    state.wrote();
    let end = host.saturating_add(to_u64(bytes.len()));
    let file = state.data_file();
    if end > file.size() {
        file.resize(end)?;
    }
    file.write_all_at(bytes, host)
}

fn zero(state: &mut State, host: Range<u64>) -> Result<()> {
    state.wrote();
    let file = state.data_file();
    if host.end > file.size() {
        file.resize(host.end)?;
    }
    file.write_zeroes(host)
}

impl BlockDevice for WritableQcow2 {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self.size, offset, buf.len())?;
        self.read_with(&self.read(), buf, offset)
    }

    fn next_extent(&self, range: Range<u64>) -> Result<Extent> {
        check_range(self.size, range.start, to_usize(range_len(&range)))?;
        let state = self.read();
        let run = state.run(range.clone())?;
        let end = range.start.saturating_add(run.len);
        let of = |kind| Ok(Extent { kind, len: run.len });
        match run.mapping {
            Mapping::Zero => of(ExtentKind::Zero),
            Mapping::Host(host) => {
                let file = state.data_file();
                let there = file.size().saturating_sub(host).min(run.len);
                if there == 0 {
                    return of(ExtentKind::Zero);
                }
                let extent = file.next_extent(host..host.saturating_add(there))?;
                let kind = if extent.kind == ExtentKind::Data { ExtentKind::Data } else { ExtentKind::Zero };
                Ok(Extent { kind, ..extent })
            }
            Mapping::Compressed(_) => of(ExtentKind::Data),
            Mapping::Unallocated => match &self.backing {
                Some(backing) if range.start < backing.size() => {
                    backing.next_extent(range.start..end.min(backing.size()))
                }
                _ => of(ExtentKind::Hole),
            },
        }
    }

    /// Tables have been held against one another when the image was opened.
    fn audit(&self, sweep: Sweep) -> Result<()> {
        if sweep == Sweep::Read {
            let state = self.read();
            let (file, kind) = (state.data_file(), (state.header.compression, state.cluster_size()));
            audit::clusters(&**file, self.size, state.header.l1, kind, &mut |range| state.run(range))?;
        }
        self.backing.as_ref().map_or(Ok(()), |backing| backing.audit(sweep))
    }
}

impl BlockWrite for WritableQcow2 {
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        check_range(self.size, offset, bytes.len())?;
        self.write_with(&mut *self.change()?, bytes, offset)
    }

    fn write_zeroes(&self, range: Range<u64>) -> Result<()> {
        check_range(self.size, range.start, to_usize(range_len(&range)))?;
        self.zero_with(&mut *self.change()?, range, false)
    }

    fn discard(&self, range: Range<u64>) -> Result<()> {
        check_range(self.size, range.start, to_usize(range_len(&range)))?;
        self.zero_with(&mut *self.change()?, range, true)
    }

    fn flush(&self) -> Result<()> {
        self.state.write().unwrap_or_else(PoisonError::into_inner).commit()
    }
}

/// What was written and not flushed is brought to disk as far as that goes; who needs to know flushes first.
impl Drop for WritableQcow2 {
    fn drop(&mut self) {
        if let Err(error) = self.state.get_mut().unwrap_or_else(PoisonError::into_inner).settle() {
            log::warn!("{error}");
        }
    }
}
