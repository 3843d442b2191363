//! A sparse extent: a grain directory (GD) of sectors of grain tables (GT), whose entries are sectors of grains; all are
//! 32-bit little-endian. VMware, *Virtual Disk Format 5.0*, "Hosted Sparse Extents".
//!
//! | entry | value | meaning |
//! |---|---|---|
//! | directory | 0 | the whole table is unallocated |
//! | directory | n | the table of numGTEsPerGT entries is at sector n, inside the file |
//! | table | 0 | unallocated: the parent's bytes, or zeroes |
//! | table | 1, with flag bit 2 | zeroes, whatever the parent has |
//! | table | n | the grain is at sector n, inside the file; its marker, if compressed |
//!
//! The file's last grain may be cut short by its end, as QEMU leaves it; what is missing reads as zeroes.

use std::ops::Range;
use std::sync::Arc;

use super::FORMAT;
use super::grain::Inflaters;
use super::header::{Header, SECTOR};
use crate::block::claims::Claims;
use crate::block::{BlockDevice, ExtentKind, Lru, Sweep, range_len, read_vec};
use crate::bytes::{to_u64, to_usize};
use crate::error::{Error, Result};

/// Bytes of grain tables kept in memory, and of a table at most.
const TABLES_BYTES: usize = 8 << 20;
const TABLE_BYTES: usize = 2048;
/// Bytes of unpacked grains kept in memory.
const GRAINS_BYTES: u64 = 16 << 20;
/// Entries of a directory from which on it is worth asking for tables in holes.
const MANY_TABLES: u64 = 1 << 12;
/// Bytes of the directory read at once.
const DIRECTORY_CHUNK: u64 = 64 << 10;

/// What all extents of an image share. Keys begin with the extent's number.
#[derive(Debug)]
pub(super) struct Caches {
    /// By sector.
    tables: Lru<(usize, u32), GrainTable>,
    /// By grain.
    grains: Lru<(usize, u64), Arc<[u8]>>,
    inflaters: Inflaters,
}

impl Caches {
    /// Caches for an image whose largest compressed grain has `grain_size` bytes, at least 1.
    pub(super) fn new(grain_size: u64) -> Self {
        let grains = GRAINS_BYTES.checked_div(grain_size).unwrap_or(1);
        Self {
            tables: Lru::new(TABLES_BYTES.checked_div(TABLE_BYTES).unwrap_or(1)),
            grains: Lru::new(to_usize(grains)),
            inflaters: Inflaters::default(),
        }
    }
}

/// A grain table in memory.
#[derive(Debug, Clone)]
struct GrainTable {
    entries: Arc<[u32]>,
    /// All entries are equal and say that there is nothing to read, so that the table can be passed over at once.
    empty: bool,
}

/// What somebody who goes through the disk has in hand.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// The table, by the extent's number and its own.
    table: Option<((usize, u64), Option<GrainTable>)>,
    /// The run that was found last, with the extent's number and where it begins: of a long one over a parent only a part is
    /// used at a time.
    run: Option<(usize, u64, Run)>,
    /// A hole of the extent's file, with its number.
    hole: Option<(usize, Range<u64>)>,
}

/// An open sparse extent.
#[derive(Debug)]
pub(super) struct Sparse {
    file: Arc<dyn BlockDevice>,
    pub(super) header: Header,
    directory: Box<[u32]>,
    /// Its number in the image.
    number: usize,
}

/// Where the bytes of a run are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Unallocated,
    Zero,
    /// At this byte of the file.
    Data(u64),
    /// In the grain whose marker is at this byte of the file.
    Compressed(u64),
}

/// Bytes of the extent that lie together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) place: Place,
    pub(super) len: u64,
}

/// Entries in a directory for `header`.
pub(super) fn directory_entries(header: &Header) -> u64 {
    let per_table = header.grain_size.saturating_mul(u64::from(header.gtes_per_gt));
    header.capacity.checked_div(per_table).map_or(0, |full| {
        full.saturating_add(u64::from(header.capacity.checked_rem(per_table).is_some_and(|rest| rest > 0)))
    })
}

impl Sparse {
    /// Reads the grain directory, whose size the caller has held against the limit.
    pub(super) fn open(file: Arc<dyn BlockDevice>, header: Header, number: usize) -> Result<Self> {
        let len = directory_entries(&header).saturating_mul(4);
        let start = header.grain_directory;
        let end = start.checked_add(len).filter(|&end| end <= file.size());
        let Some(end) = end.filter(|_| start >= SECTOR) else {
            let expected = format!("{len} bytes from there inside the file of {}", file.size());
            return Err(Error::corrupt(FORMAT, "gdOffset", 56, start.checked_div(SECTOR).unwrap_or(0), expected));
        };
        let mut directory = Vec::with_capacity(to_usize(len.checked_div(4).unwrap_or(0)));
        let mut at = start;
        while at < end {
            let chunk = read_vec(&file, at, to_usize(DIRECTORY_CHUNK.min(end.saturating_sub(at))))?;
            directory.extend(entries(&chunk));
            at = at.saturating_add(DIRECTORY_CHUNK);
        }
        Ok(Self { file, header, directory: directory.into(), number })
    }

    /// The grain table that directory entry `index` names.
    fn table(&self, caches: &Caches, index: u64) -> Result<Option<GrainTable>> {
        let sector = match self.directory.get(to_usize(index)) {
            None | Some(0) => return Ok(None),
            Some(&sector) => sector,
        };
        let read = || {
            let (start, len) =
                (u64::from(sector).saturating_mul(SECTOR), u64::from(self.header.gtes_per_gt).saturating_mul(4));
            if start.saturating_add(len) > self.file.size() {
                let at = self.header.grain_directory.saturating_add(index.saturating_mul(4));
                let expected = format!("a table inside the file of {} bytes", self.file.size());
                return Err(Error::corrupt(FORMAT, "grain directory entry", at, sector, expected));
            }
            let entries: Arc<[u32]> = entries(&read_vec(&self.file, start, to_usize(len))?).collect();
            let first = entries.first().copied().unwrap_or(0);
            let nothing = first == 0 || (first == 1 && self.header.zeroed_grains);
            let empty = nothing && entries.iter().all(|&entry| entry == first);
            Ok(GrainTable { entries, empty })
        };
        caches.tables.get_or_read((self.number, sector), read).map(Some)
    }

    /// The same, in hand for as long as the questions stay in one table.
    fn held_table<'h>(&self, caches: &Caches, held: &'h mut Held, index: u64) -> Result<Option<&'h GrainTable>> {
        let key = (self.number, index);
        if held.table.as_ref().is_none_or(|(holds, _)| *holds != key) {
            let table = if self.is_unstored(held, index)? { None } else { self.table(caches, index)? };
            held.table = Some((key, table));
        }
        Ok(held.table.as_ref().and_then(|(_, table)| table.as_ref()))
    }

    /// Whether the table of directory entry `index` lies in a hole of the file, and so is all zero: a small file can have
    /// room for millions of them.
    fn is_unstored(&self, held: &mut Held, index: u64) -> Result<bool> {
        let sector = self.directory.get(to_usize(index)).copied().unwrap_or(0);
        if sector == 0 || to_u64(self.directory.len()) <= MANY_TABLES {
            return Ok(false);
        }
        let start = u64::from(sector).saturating_mul(SECTOR);
        let end = start.saturating_add(u64::from(self.header.gtes_per_gt).saturating_mul(4));
        let inside =
            |(number, hole): &(usize, Range<u64>)| *number == self.number && hole.start <= start && end <= hole.end;
        if end > self.file.size() || held.hole.as_ref().is_some_and(inside) {
            return Ok(end <= self.file.size());
        }
        let extent = self.file.next_extent(start..self.file.size())?;
        let unstored = extent.kind != ExtentKind::Data && start.saturating_add(extent.len) >= end;
        if unstored {
            held.hole = Some((self.number, start..start.saturating_add(extent.len)));
        }
        Ok(unstored)
    }

    /// As [`BlockDevice::audit`]. Two directory entries for one table are refused: no writer does that. A compressed grain
    /// says itself where on the disk it is, so that nobody reads it for another.
    pub(super) fn audit(&self, caches: &Caches, sweep: Sweep) -> Result<()> {
        let mut tables: Vec<u32> = self.directory.iter().copied().filter(|&sector| sector != 0).collect();
        tables.sort_unstable();
        if let Some((table, _)) = tables.iter().zip(tables.iter().skip(1)).find(|(one, next)| one == next) {
            let twice = self.directory.iter().rposition(|sector| sector == table).map_or(0, to_u64);
            let at = self.header.grain_directory.saturating_add(twice.saturating_mul(4));
            let found = format!("sector {table}, which another entry names");
            return Err(Error::corrupt(FORMAT, "grain directory entry", at, found, "a table of its own"));
        }
        drop(tables);
        if sweep == Sweep::Map || self.header.compressed {
            return Ok(());
        }
        let mut claims = Claims::new(&*self.file, FORMAT, "grain tables", self.header.grain_directory)?;
        let (mut held, mut at) = (Held::default(), 0);
        while at < self.header.capacity {
            // What is wrong with a table is for whoever asks for its bytes.
            let Ok(run) = self.run(caches, &mut held, at..self.header.capacity) else { break };
            if let Place::Data(offset) = run.place {
                claims.add(offset..offset.saturating_add(run.len))?;
            }
            at = at.saturating_add(run.len.max(1));
        }
        claims.finish()
    }

    /// How many directory entries name a table that another one names.
    pub(super) fn shared_tables(&self) -> u64 {
        let mut tables: Vec<u32> = self.directory.iter().copied().filter(|&sector| sector != 0).collect();
        tables.sort_unstable();
        to_u64(tables.iter().zip(tables.iter().skip(1)).filter(|(one, next)| one == next).count())
    }

    /// Calls `visit` with the place of each grain that has one, or what is wrong with its entry or its table; a table that
    /// is named again is not gone through again.
    pub(super) fn for_each_grain(
        &self,
        caches: &Caches,
        visit: &mut dyn FnMut(Result<Place>) -> Result<()>,
    ) -> Result<()> {
        let mut order: Vec<u32> = (0u32..).take(self.directory.len()).collect();
        let sector = |index: &u32| self.directory.get(to_usize((*index).into())).copied().unwrap_or(0);
        order.sort_unstable_by_key(sector);
        let (mut last, mut held) = (0, Held::default());
        for index in order {
            let table = sector(&index);
            if table == std::mem::replace(&mut last, table) {
                continue;
            }
            if self.is_unstored(&mut held, index.into())? {
                continue;
            }
            match self.table(caches, index.into()) {
                Err(error) => visit(Err(error))?,
                Ok(None) => {}
                Ok(Some(GrainTable { empty: true, .. })) => {}
                Ok(Some(table)) => {
                    for (within, entry) in (0u64..).zip(table.entries.iter()) {
                        visit(self.place(*entry, index.into(), within))?;
                    }
                }
            }
        }
        Ok(())
    }

    /// What table entry `entry` of directory entry `index` says.
    fn place(&self, entry: u32, index: u64, within: u64) -> Result<Place> {
        let offset = u64::from(entry).saturating_mul(SECTOR);
        match entry {
            0 => Ok(Place::Unallocated),
            1 if self.header.zeroed_grains => Ok(Place::Zero),
            _ if offset < self.file.size() => {
                Ok(if self.header.compressed { Place::Compressed(offset) } else { Place::Data(offset) })
            }
            _ => {
                let table = self.directory.get(to_usize(index)).copied().unwrap_or(0);
                let at = u64::from(table).saturating_mul(SECTOR).saturating_add(within.saturating_mul(4));
                let expected = format!("a grain inside the file of {} bytes", self.file.size());
                Err(Error::corrupt(FORMAT, "grain table entry", at, entry, expected))
            }
        }
    }

    /// The run that begins at `range.start`. Grains that follow one another in the file, or are all unallocated or all
    /// zero, make one run; a compressed grain is a run of its own. `range` lies inside the extent and is not empty.
    pub(super) fn run(&self, caches: &Caches, held: &mut Held, range: Range<u64>) -> Result<Run> {
        let grain_size = self.header.grain_size;
        let per_table = u64::from(self.header.gtes_per_gt);
        let mut grain = range.start.checked_div(grain_size).unwrap_or(0);
        let skip = range.start.checked_rem(grain_size).unwrap_or(0);
        let mut first: Option<Place> = None;
        // What the next grain must be to belong to the run.
        let mut next = Place::Unallocated;
        let mut end = range.start;
        'tables: while end < range.end {
            let index = grain.checked_div(per_table).unwrap_or(0);
            let within = grain.checked_rem(per_table).unwrap_or(0);
            let table = match self.held_table(caches, held, index) {
                Err(error) if first.is_none() => return Err(error),
                // The next call meets the error.
                Err(_) => break,
                Ok(table) => table,
            };
            let rest = per_table.saturating_sub(within);
            let whole = table.is_none_or(|table| table.empty);
            let entries = table.and_then(|table| table.entries.get(to_usize(within)..)).unwrap_or_default();
            let at_once = whole.then(|| (entries.first().copied().unwrap_or(0), rest));
            let one_by_one = entries.iter().filter(|_| !whole).map(|&entry| (entry, 1));
            for (entry, grains) in at_once.into_iter().chain(one_by_one) {
                let place = match self.place(entry, index, grain.checked_rem(per_table).unwrap_or(0)) {
                    Err(error) if first.is_none() => return Err(error),
                    Err(_) => break 'tables,
                    Ok(place) => place,
                };
                match first {
                    None => first = Some(place),
                    Some(_) if place == next && !matches!(place, Place::Compressed(_)) => {}
                    Some(_) => break 'tables,
                }
                next = match place {
                    Place::Data(offset) => Place::Data(offset.saturating_add(grain_size)),
                    other => other,
                };
                grain = grain.saturating_add(grains);
                end = grain.saturating_mul(grain_size);
                if end >= range.end {
                    break 'tables;
                }
            }
        }
        let len = end.min(range.end).saturating_sub(range.start);
        let place = match first.unwrap_or(Place::Unallocated) {
            Place::Data(offset) => Place::Data(offset.saturating_add(skip)),
            other => other,
        };
        Ok(Run { place, len })
    }

    /// The same for somebody who may have been given the beginning of this run before.
    pub(super) fn kept_run(&self, caches: &Caches, held: &mut Held, range: Range<u64>) -> Result<Run> {
        let kept = held.run.filter(|(number, start, run)| {
            *number == self.number && range.start.checked_sub(*start).is_some_and(|skip| skip < run.len)
        });
        let (start, run) = match kept {
            Some((_, start, run)) => (start, run),
            None => {
                let run = self.run(caches, held, range.clone())?;
                held.run = Some((self.number, range.start, run));
                (range.start, run)
            }
        };
        let skip = range.start.saturating_sub(start);
        let place = match run.place {
            Place::Data(offset) => Place::Data(offset.saturating_add(skip)),
            other => other,
        };
        Ok(Run { place, len: run.len.saturating_sub(skip).min(range_len(&range)) })
    }

    /// The part of a run of data that the file has; after it the file ends.
    pub(super) fn in_file(&self, offset: u64, len: u64) -> Range<u64> {
        offset..offset.saturating_add(len).min(self.file.size()).max(offset)
    }

    /// The file.
    pub(super) fn file(&self) -> &Arc<dyn BlockDevice> {
        &self.file
    }

    /// Fills `buf` with data at byte `offset` of the file.
    pub(super) fn read_data(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let there = self.in_file(offset, to_u64(buf.len()));
        let (head, tail) = buf
            .split_at_mut_checked(to_usize(there.end.saturating_sub(there.start)))
            .ok_or_else(|| Error::corrupt(FORMAT, "grain", offset, "a run past the buffer", "a shorter one"))?;
        tail.fill(0);
        if head.is_empty() { Ok(()) } else { self.file.read_exact_at(head, offset) }
    }

    /// Fills `buf` with the bytes at `guest`, which lie in the compressed grain at byte `marker` of the file.
    pub(super) fn read_compressed(&self, caches: &Caches, buf: &mut [u8], guest: u64, marker: u64) -> Result<()> {
        let grain_size = self.header.grain_size;
        let skip = guest.checked_rem(grain_size).unwrap_or(0);
        let start = guest.saturating_sub(skip);
        let needed = self.header.capacity.saturating_sub(start).min(grain_size);
        // A whole grain goes straight to its place, and is not worth keeping: its reader is going through the disk.
        if to_u64(buf.len()) == grain_size {
            return caches.inflaters.read(&self.file, marker, start, needed, buf);
        }
        let grain = caches.grains.get_or_read((self.number, start), || {
            let mut grain = vec![0; to_usize(grain_size)];
            caches.inflaters.read(&self.file, marker, start, needed, &mut grain)?;
            Ok::<_, Error>(Arc::from(grain))
        })?;
        if let Some(bytes) = grain.get(to_usize(skip)..).and_then(|rest| rest.get(..buf.len())) {
            buf.copy_from_slice(bytes);
        }
        Ok(())
    }
}

fn entries(bytes: &[u8]) -> impl Iterator<Item = u32> {
    bytes.as_chunks().0.iter().map(|entry| u32::from_le_bytes(*entry))
}
