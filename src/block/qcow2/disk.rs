//! The disk in the image: mappings turned into bytes, extents and host ranges.

use std::ops::Range;
use std::sync::Arc;

use super::audit;
use super::cluster::{CompressedCluster, Layout, Mapping, Run};
use super::compressed::Compression;
use super::header::L1Table;
use super::tables::{Tables, Walk};
use crate::block::{
    BlockDevice, Extent, ExtentKind, HostRange, Lru, Status, Survey, Surveyor, Sweep, check_range, range_len,
    read_or_zero,
};
use crate::bytes::{to_u64, to_usize};
use crate::error::Result;

/// Bytes of tables, and again of decompressed clusters, that the image on top of a chain keeps. Each image below keeps
/// half of what the one above it does, down to a floor, so that a chain of any depth stays within 50 MiB.
const CACHE_BYTES: u64 = 8 << 20;
const CACHE_HALVINGS: u64 = 8;

/// Table entries that one question about extents or host ranges looks at, so that its work is bounded.
const STEPS: u32 = 1024;

/// The same over a backing file: of a long unallocated run only as much is used as the backing file's next extent is
/// long, and the rest would be looked at again and again.
const STEPS_OVER_BACKING: u32 = 64;

/// One state of the disk, readable.
#[derive(Debug)]
pub(super) struct Disk {
    size: u64,
    tables: Tables,
    /// The image file: compressed clusters.
    file: Arc<dyn BlockDevice>,
    /// The file of uncompressed clusters: the image file, or the external data file.
    data: Arc<dyn BlockDevice>,
    /// Whether that file has holes, which uncompressed clusters may then be.
    sparse: bool,
    backing: Option<Arc<dyn BlockDevice>>,
    compression: Compression,
    /// Decompressed clusters, for reads of less than one; none where not even one fits.
    clusters: Option<Lru<CompressedCluster, Arc<[u8]>>>,
}

/// An extent, or the length of what lies below.
enum Found {
    Here(Extent),
    Below(u64),
}

/// What a [`Disk`] is put together from.
pub(super) struct Parts {
    pub size: u64,
    pub layout: Layout,
    pub l1: L1Table,
    pub file: Arc<dyn BlockDevice>,
    pub data: Arc<dyn BlockDevice>,
    pub backing: Option<Arc<dyn BlockDevice>>,
    pub compression: Compression,
    /// How many images refer to this one.
    pub depth: u64,
}

impl Disk {
    pub(super) fn new(parts: Parts) -> Result<Self> {
        let Parts { size, layout, l1, file, data, backing, compression, depth } = parts;
        let cache_bytes = CACHE_BYTES.wrapping_shr(crate::bytes::low_u32(depth.min(CACHE_HALVINGS)));
        let clusters = to_usize(cache_bytes.div_euclid(layout.cluster_size()));
        let whole = 0..data.size();
        let sparse = !whole.is_empty() && {
            let extent = data.next_extent(whole.clone())?;
            extent.kind != ExtentKind::Data || extent.len < whole.end
        };
        Ok(Self {
            size,
            tables: Tables::new(Arc::clone(&file), layout, l1, cache_bytes),
            file,
            data,
            sparse,
            backing,
            compression,
            clusters: (clusters > 0).then(|| Lru::new(clusters)),
        })
    }

    /// As [`BlockDevice::read_exact_at`].
    pub(super) fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let end = check_range(self.size, offset, buf.len())?;
        let mut walk = self.tables.walk(u32::MAX);
        let (mut at, mut rest) = (offset, buf);
        while !rest.is_empty() {
            let run = walk.run(at..end)?;
            let (part, tail) = rest.split_at_mut(to_usize(run.len));
            match run.mapping {
                Mapping::Zero => part.fill(0),
                Mapping::Unallocated => self.read_backing(part, at)?,
                Mapping::Host(host) => read_or_zero(&*self.data, part, host)?,
                Mapping::Compressed(cluster) => self.read_compressed(part, at, cluster)?,
            }
            (at, rest) = (at.saturating_add(run.len), tail);
        }
        Ok(())
    }

    fn read_backing(&self, part: &mut [u8], at: u64) -> Result<()> {
        match &self.backing {
            Some(backing) => read_or_zero(&**backing, part, at),
            None => {
                part.fill(0);
                Ok(())
            }
        }
    }

    /// A read of a whole cluster is decompressed in place and not kept: it is part of a long one. Of a smaller read the
    /// rest of the cluster is kept, because the next one is near.
    fn read_compressed(&self, part: &mut [u8], at: u64, from: CompressedCluster) -> Result<()> {
        let layout = self.tables.layout();
        let kept = self.clusters.as_ref().and_then(|clusters| clusters.get(&from));
        let cluster = match kept {
            Some(cluster) => cluster,
            None if to_u64(part.len()) == layout.cluster_size() => {
                return self.compression.read(&*self.file, from, part);
            }
            None => {
                let mut cluster: Arc<[u8]> = std::iter::repeat_n(0, to_usize(layout.cluster_size())).collect();
                if let Some(bytes) = Arc::get_mut(&mut cluster) {
                    self.compression.read(&*self.file, from, bytes)?;
                }
                if let Some(clusters) = &self.clusters {
                    clusters.insert(from, Arc::clone(&cluster));
                }
                cluster
            }
        };
        let within = to_usize(at & layout.offset_mask());
        if let Some(bytes) = cluster.get(within..).and_then(|bytes| bytes.get(..part.len())) {
            part.copy_from_slice(bytes);
        }
        Ok(())
    }

    /// As [`BlockDevice::next_extent`]. Its work is bounded, so a very long extent may come in several pieces.
    pub(super) fn next_extent(&self, range: Range<u64>) -> Result<Extent> {
        check_range(self.size, range.start, to_usize(range_len(&range)))?;
        let mut walk = self.extent_walk();
        match self.extent(range.clone(), &mut |range| walk.run(range))? {
            Found::Here(extent) => Ok(extent),
            Found::Below(len) => match self.backed(range.start, len) {
                Some((backing, range)) => backing.next_extent(range),
                None => Ok(Extent { kind: ExtentKind::Hole, len }),
            },
        }
    }

    /// The extent at the beginning of `range`, from runs that `run` finds.
    fn extent(&self, range: Range<u64>, run: &mut dyn FnMut(Range<u64>) -> Result<Run>) -> Result<Found> {
        let first = run(range.clone())?;
        let mut extent = match first.mapping {
            Mapping::Unallocated => return Ok(Found::Below(first.len)),
            Mapping::Zero => return Ok(Found::Here(Extent { kind: ExtentKind::Zero, len: first.len })),
            Mapping::Host(_) | Mapping::Compressed(_) => self.stored_extent(&first)?,
        };
        // Stored clusters go on where the host offsets jump. A run that was cut short ended in a hole.
        let mut whole = extent.len == first.len;
        for _ in 1..STEPS {
            let at = range.start.saturating_add(extent.len);
            if !whole || at >= range.end {
                break;
            }
            let next = match run(at..range.end) {
                Ok(run) if matches!(run.mapping, Mapping::Host(_) | Mapping::Compressed(_)) => run,
                _ => break,
            };
            let more = self.stored_extent(&next)?;
            if more.kind != extent.kind {
                break;
            }
            extent.len = extent.len.saturating_add(more.len);
            whole = more.len == next.len;
        }
        Ok(Found::Here(extent))
    }

    fn extent_walk(&self) -> Walk<'_> {
        self.tables.walk(if self.backing.is_some() { STEPS_OVER_BACKING } else { STEPS })
    }

    /// The beginning of a run of stored clusters: data, or zeroes where the data file has a hole or has ended.
    fn stored_extent(&self, run: &Run) -> Result<Extent> {
        let Mapping::Host(host) = run.mapping else { return Ok(Extent { kind: ExtentKind::Data, len: run.len }) };
        let len = self.data.size().saturating_sub(host).min(run.len);
        if len == 0 {
            return Ok(Extent { kind: ExtentKind::Zero, len: run.len });
        }
        if !self.sparse {
            return Ok(Extent { kind: ExtentKind::Data, len });
        }
        let extent = self.data.next_extent(host..host.saturating_add(len))?;
        let kind = if extent.kind == ExtentKind::Data { ExtentKind::Data } else { ExtentKind::Zero };
        Ok(Extent { kind, ..extent })
    }

    /// The backing device and its part of `len` bytes at `at`, if it reaches that far.
    fn backed(&self, at: u64, len: u64) -> Option<(&Arc<dyn BlockDevice>, Range<u64>)> {
        let backing = self.backing.as_ref()?;
        let end = at.saturating_add(len).min(backing.size());
        (at < end).then_some((backing, at..end))
    }

    /// As [`BlockDevice::status`].
    pub(super) fn status(&self, range: Range<u64>) -> Result<Status> {
        check_range(self.size, range.start, to_usize(range_len(&range)))?;
        let run = self.extent_walk().run(range.clone())?;
        match (self.stored_status(&run)?, self.backed(range.start, run.len)) {
            (Some(status), _) => Ok(status),
            (None, Some((backing, range))) => Ok(backing.status(range)?.seen_from_above()),
            // Past the end of its backing file an image is as without one.
            (None, None) => Ok(Status::unallocated(run.len)),
        }
    }

    /// The status of a run, unless what lies below decides.
    fn stored_status(&self, run: &Run) -> Result<Option<Status>> {
        let stored = |extent: Extent, compressed, offset| {
            Some(Status { len: extent.len, kind: extent.kind, depth: 0, allocated: true, compressed, offset })
        };
        Ok(match run.mapping {
            Mapping::Zero => stored(Extent { kind: ExtentKind::Zero, len: run.len }, false, None),
            Mapping::Compressed(_) => stored(Extent { kind: ExtentKind::Data, len: run.len }, true, None),
            // What a whole run of clusters never stored is a preallocated image's; smaller holes are the host's affair.
            Mapping::Host(host) => {
                let hole = self.stored_extent(run)?;
                let kind = if hole.len == run.len { hole.kind } else { ExtentKind::Data };
                stored(Extent { kind, len: run.len }, false, Some(host))
            }
            Mapping::Unallocated => None,
        })
    }

    /// As [`BlockDevice::surveyor`].
    pub(super) fn surveyor(&self) -> Surveying<'_> {
        Surveying { disk: self, walk: self.tables.long_walk(), run: None, below: None }
    }

    /// As [`BlockDevice::audit`], for this image and those below it.
    pub(super) fn audit(&self, sweep: Sweep) -> Result<()> {
        self.tables.audit()?;
        if sweep == Sweep::Read {
            let mut walk = self.tables.long_walk();
            let kind = (self.compression, self.tables.layout().cluster_size());
            audit::clusters(&*self.data, self.size, self.tables.l1(), kind, &mut |range| walk.run(range))?;
        }
        self.backing.as_ref().map_or(Ok(()), |backing| backing.audit(sweep))
    }

    /// As [`BlockDevice::host_range`].
    pub(super) fn host_range(&self, range: Range<u64>) -> Option<HostRange<'_>> {
        check_range(self.size, range.start, to_usize(range_len(&range))).ok()?;
        let run = self.extent_walk().run(range.clone()).ok()?;
        match run.mapping {
            Mapping::Host(host) => {
                let end = host.saturating_add(run.len).min(self.data.size());
                if host < end { self.data.host_range(host..end) } else { None }
            }
            Mapping::Unallocated => {
                let (backing, range) = self.backed(range.start, run.len)?;
                backing.host_range(range)
            }
            Mapping::Zero | Mapping::Compressed(_) => None,
        }
    }
}

/// A walk over the disk: one pass over the tables, and over those of the images below.
pub(super) struct Surveying<'a> {
    disk: &'a Disk,
    walk: Walk<'a>,
    /// The run that was found last and where it begins. Over a backing file only as much of it is used at a time as the
    /// backing file's next extent is long.
    run: Option<(u64, Run)>,
    below: Option<Survey<'a>>,
}

impl<'a> Surveying<'a> {
    fn run(&mut self, range: Range<u64>) -> Result<Run> {
        let kept =
            self.run.filter(|(start, run)| range.start >= *start && range.start.saturating_sub(*start) < run.len);
        let (start, run) = match kept {
            Some(kept) => kept,
            None => {
                let found = self.walk.run(range.start..self.disk.size)?;
                self.run = Some((range.start, found));
                (range.start, found)
            }
        };
        let skip = range.start.saturating_sub(start);
        let mapping = match run.mapping {
            Mapping::Host(host) => Mapping::Host(host.saturating_add(skip)),
            other => other,
        };
        Ok(Run { mapping, len: run.len.saturating_sub(skip).min(range_len(&range)) })
    }

    /// The backing file's part of `len` bytes at `at`, and what to ask it with.
    fn below(&mut self, at: u64, len: u64) -> Option<(&mut Survey<'a>, Range<u64>)> {
        let (backing, range) = self.disk.backed(at, len)?;
        Some((self.below.get_or_insert_with(|| Survey::new(backing)), range))
    }
}

impl Surveyor for Surveying<'_> {
    fn next_extent(&mut self, range: Range<u64>) -> Result<Extent> {
        let disk = self.disk;
        match disk.extent(range.clone(), &mut |range| self.run(range))? {
            Found::Here(extent) => Ok(extent),
            Found::Below(len) => match self.below(range.start, len) {
                Some((below, range)) => {
                    let extent = below.extent(range.start)?;
                    Ok(Extent { len: extent.len.min(range_len(&range)), ..extent })
                }
                None => Ok(Extent { kind: ExtentKind::Hole, len }),
            },
        }
    }

    fn status(&mut self, range: Range<u64>) -> Result<Status> {
        let run = self.run(range.clone())?;
        if let Some(status) = self.disk.stored_status(&run)? {
            return Ok(status);
        }
        match self.below(range.start, run.len) {
            Some((below, range)) => Ok(below.status(range)?.seen_from_above()),
            None => Ok(Status::unallocated(run.len)),
        }
    }
}
