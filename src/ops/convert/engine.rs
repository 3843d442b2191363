//! The copy engine: threads read and pack pieces, places are given in guest order, threads write.
//!
//! Each thread takes the next item, reads and packs it, waits for its turn to ask for places, and writes. The thread with
//! the lowest ticket never waits, so this ends on any number of threads, and as places depend on the order alone, so does
//! the file.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::super::ordered::lock;
use super::super::turnstile::Turnstile;
use super::super::zero::{for_each_run, is_zero};
use super::Converted;
use super::plan::{CLONE_ALIGNMENT, Cut, Item, Plan, Work};
use super::target::Target;
use crate::block::{BlockDevice, ExtentKind, Pack, Placed, Sweep, Zeroes, read_or_zero};
use crate::error::{Error, ErrorKind, Result};
use crate::progress::Progress;

/// What one conversion is about.
pub(super) struct Job<'a> {
    pub source: &'a dyn BlockDevice,
    pub target: &'a dyn Target,
    /// What lies below the target: bytes that are the same there are left out.
    pub below: Option<&'a dyn BlockDevice>,
    /// Whether data is searched for zeroes.
    pub detect_zeroes: bool,
    /// Whether to let the target share the source's storage where it can.
    pub clone: bool,
    /// Whether zeroes get a place.
    pub place_zeroes: bool,
    /// Whether zeroes that got a place are written there.
    pub write_zeroes: bool,
    pub progress: &'a dyn Progress,
}

/// A run of guest bytes and what becomes of it.
struct Run {
    range: Range<u64>,
    what: What,
}

enum What {
    /// Stored as it is.
    Plain,
    /// Stored packed.
    Packed(Vec<u8>),
    /// All zero.
    Zero,
}

/// Copies everything and tells how much was what.
pub(super) fn run(job: &Job<'_>) -> Result<Converted> {
    job.source.audit(Sweep::Read)?;
    job.below.map_or(Ok(()), |below| below.audit(Sweep::Read))?;
    let cut = Cut {
        unit: job.target.unit(),
        clone: job.clone && job.target.packer().is_none() && job.below.is_none() && can_clone(job)?,
        zeroes: job.place_zeroes || job.target.zeroes() != Zeroes::LeaveOut,
        read_all: job.below.is_some(),
    };
    let engine = Engine {
        job,
        unit: cut.unit,
        packer: job.target.packer(),
        plan: Mutex::new(Plan::new(job.source, cut)),
        turnstile: Turnstile::default(),
        tally: Tally::default(),
        failure: Mutex::new(None),
    };
    rayon::scope(|scope| {
        for _ in 0..rayon::current_num_threads() {
            scope.spawn(|_| engine.work());
        }
    });
    match engine.failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(engine.tally.converted(job.source.size())),
    }
}

/// Whether the host can let the target share the source's storage: the first data that could be cloned is tried.
fn can_clone(job: &Job<'_>) -> Result<bool> {
    const EXTENTS: usize = 256;
    if !job.target.unit().is_multiple_of(CLONE_ALIGNMENT) {
        return Ok(false);
    }
    let (size, mut at) = (job.source.size(), 0);
    for _ in 0..EXTENTS {
        if at >= size {
            break;
        }
        let extent = job.source.next_extent(at..size)?;
        if extent.kind == ExtentKind::Data
            && let Some(there) = job.source.host_range(at..at + extent.len)
            && there.offset.is_multiple_of(CLONE_ALIGNMENT)
            && there.len >= CLONE_ALIGNMENT
        {
            return Ok(job.target.can_clone(&there));
        }
        at += extent.len.max(1);
    }
    Ok(false)
}

struct Engine<'a, 'j> {
    job: &'a Job<'j>,
    unit: u64,
    packer: Option<std::sync::Arc<dyn Pack>>,
    plan: Mutex<Plan<'a>>,
    turnstile: Turnstile,
    tally: Tally,
    failure: Mutex<Option<Error>>,
}

/// Bytes by what became of them.
#[derive(Debug, Default)]
struct Tally {
    read: AtomicU64,
    cloned: AtomicU64,
    stored: AtomicU64,
    packed: AtomicU64,
    packed_stored: AtomicU64,
}

impl Tally {
    fn converted(&self, virtual_size: u64) -> Converted {
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let (stored, packed, cloned) = (get(&self.stored), get(&self.packed), get(&self.cloned));
        Converted {
            virtual_size,
            read: get(&self.read),
            cloned,
            stored,
            packed,
            packed_stored: get(&self.packed_stored),
            zero: virtual_size.saturating_sub(stored + packed + cloned),
        }
    }
}

fn add(count: &AtomicU64, bytes: u64) {
    count.fetch_add(bytes, Ordering::Relaxed);
}

impl Engine<'_, '_> {
    /// One thread's work, until there is none or something failed.
    fn work(&self) {
        let mut buffers = Buffers::default();
        if let Err(error) = self.work_all(&mut buffers) {
            let mut failure = lock(&self.failure);
            // Those who were sent away because another failed have nothing to add.
            if failure.is_none() {
                *failure = Some(error);
            }
            self.turnstile.close();
        }
    }

    fn work_all(&self, buffers: &mut Buffers) -> Result<()> {
        loop {
            if self.job.progress.cancelled() {
                return Err(ErrorKind::Cancelled.into());
            }
            let (item, passed) = {
                let mut plan = lock(&self.plan);
                let item = plan.next()?;
                (item, std::mem::take(&mut plan.passed))
            };
            self.job.progress.advance(passed);
            let Some(item) = item else { return Ok(()) };
            if self.turnstile.closed() {
                return Ok(());
            }
            self.item(&item, buffers)?;
            self.job.progress.advance(item.range.end - item.range.start);
        }
    }

    fn item(&self, item: &Item, buffers: &mut Buffers) -> Result<()> {
        let whole = |what| vec![Run { range: item.range.clone(), what }];
        let runs = match &item.work {
            Work::Zero => whole(What::Zero),
            Work::Clone(_) => whole(What::Plain),
            Work::Read(parts) => self.read(item, parts, buffers)?,
        };
        let Some(places) = self.turnstile.pass(item.ticket, || self.place(runs))? else { return Ok(()) };
        match &item.work {
            Work::Clone(parts) => self.clone(parts, &places, buffers),
            _ => self.write(item, places, buffers),
        }
    }

    /// Reads an item, finds its zeroes and packs the rest.
    fn read(&self, item: &Item, parts: &[Range<u64>], buffers: &mut Buffers) -> Result<Vec<Run>> {
        let start = item.range.start;
        let len = (item.range.end - start) as usize;
        let bytes = room(&mut buffers.data, len);
        let mut filled = start;
        for part in parts {
            bytes[(filled - start) as usize..(part.start - start) as usize].fill(0);
            self.job
                .source
                .read_exact_at(&mut bytes[(part.start - start) as usize..(part.end - start) as usize], part.start)?;
            add(&self.tally.read, part.end - part.start);
            filled = part.end;
        }
        bytes[(filled - start) as usize..].fill(0);
        let bytes = &*bytes;
        let mut runs = Vec::new();
        let mut keep = |range: Range<usize>, zero: bool| {
            let guest = start + range.start as u64..start + range.end as u64;
            if zero {
                runs.push(Run { range: guest, what: What::Zero });
                return Ok(());
            }
            let Some(packer) = &self.packer else {
                runs.push(Run { range: guest, what: What::Plain });
                return Ok(());
            };
            for unit in bytes[range].chunks(self.unit as usize).zip((guest.start..).step_by(self.unit as usize)) {
                let (unit, guest) = unit;
                let what = packer.pack(guest, unit)?.map_or(What::Plain, What::Packed);
                runs.push(Run { range: guest..guest + unit.len() as u64, what });
            }
            Ok(())
        };
        if let Some(below) = self.job.below {
            let under = room(&mut buffers.below, len);
            read_or_zero(below, under, start)?;
            for_each_difference(bytes, under, self.unit as usize, &mut keep)?;
        } else if self.job.detect_zeroes {
            for_each_run(bytes, self.unit as usize, &mut keep)?;
        } else {
            keep(0..len, false)?;
        }
        Ok(runs)
    }

    /// Asks for places, in guest order.
    fn place(&self, runs: Vec<Run>) -> Result<Vec<(Range<u64>, What, Placed)>> {
        let target = self.job.target;
        let mut places = Vec::with_capacity(runs.len());
        for Run { range, what } in runs {
            match what {
                What::Packed(bytes) => {
                    let placed = target.place_packed(range.start, bytes.len())?;
                    places.push((range, What::Packed(bytes), placed));
                    continue;
                }
                What::Zero if self.job.place_zeroes || target.zeroes() == Zeroes::Store => {}
                What::Zero => {
                    if target.zeroes() == Zeroes::Mark {
                        target.mark_zero(range)?;
                    }
                    continue;
                }
                What::Plain => {}
            }
            let zero = matches!(what, What::Zero);
            let mut rest = range;
            while !rest.is_empty() {
                let placed = target.place(rest.clone())?;
                let end = (rest.start + placed.len.max(1)).min(rest.end);
                let what = if zero { What::Zero } else { What::Plain };
                places.push((rest.start..end, what, placed));
                rest.start = end;
            }
        }
        Ok(places)
    }

    /// Writes what was read, neighbours in the file in one go.
    fn write(&self, item: &Item, places: Vec<(Range<u64>, What, Placed)>, buffers: &mut Buffers) -> Result<()> {
        let mut joined = Joined { bytes: std::mem::take(&mut buffers.packed), at: None };
        joined.bytes.clear();
        for (range, what, placed) in places {
            match what {
                What::Packed(bytes) => {
                    add(&self.tally.packed, range.end - range.start);
                    add(&self.tally.packed_stored, bytes.len() as u64);
                    joined.push(self.job.target, placed, &bytes)?;
                }
                What::Plain => {
                    add(&self.tally.stored, range.end - range.start);
                    let within = (range.start - item.range.start) as usize..(range.end - item.range.start) as usize;
                    self.job.target.write(placed, &buffers.data[within])?;
                }
                What::Zero if self.job.write_zeroes || !self.job.place_zeroes => self.write_zeroes(placed)?,
                What::Zero => {}
            }
        }
        joined.flush(self.job.target)?;
        buffers.packed = joined.bytes;
        Ok(())
    }

    fn write_zeroes(&self, placed: Placed) -> Result<()> {
        const ZEROES: &[u8] = &[0; 1 << 16];
        let mut done = 0;
        while done < placed.len {
            let len = (placed.len - done).min(ZEROES.len() as u64);
            let at = Placed { offset: placed.offset + done, len, ..placed };
            self.job.target.write(at, &ZEROES[..len as usize])?;
            done += len;
        }
        Ok(())
    }

    /// Clones `parts` to where they were placed; where the host refuses it they are read and written.
    fn clone(&self, parts: &[Range<u64>], places: &[(Range<u64>, What, Placed)], buffers: &mut Buffers) -> Result<()> {
        for (range, _, placed) in places {
            let inside = parts.iter().map(|part| part.start.max(range.start)..part.end.min(range.end));
            for part in inside.filter(|part| !part.is_empty()) {
                let at = Placed {
                    offset: placed.offset + (part.start - range.start),
                    len: part.end - part.start,
                    file: placed.file,
                };
                let there = self.job.source.host_range(part.clone()).filter(|there| there.len >= at.len);
                if there.is_some_and(|there| self.job.target.clone_from(&there, at)) {
                    add(&self.tally.cloned, at.len);
                } else {
                    self.copy(part, at, buffers)?;
                }
            }
        }
        Ok(())
    }

    fn copy(&self, part: Range<u64>, to: Placed, buffers: &mut Buffers) -> Result<()> {
        const READ: u64 = 1 << 20;
        let mut done = 0;
        while done < to.len {
            let len = (to.len - done).min(READ);
            let bytes = room(&mut buffers.data, len as usize);
            self.job.source.read_exact_at(bytes, part.start + done)?;
            self.job.target.write(Placed { offset: to.offset + done, len, ..to }, bytes)?;
            done += len;
        }
        add(&self.tally.read, to.len);
        add(&self.tally.stored, to.len);
        Ok(())
    }
}

/// A thread's buffers, kept from item to item.
#[derive(Default)]
struct Buffers {
    data: Vec<u8>,
    below: Vec<u8>,
    packed: Vec<u8>,
}

/// The first `len` bytes of `buffer`, which grows to the largest item and stays.
fn room(buffer: &mut Vec<u8>, len: usize) -> &mut [u8] {
    if buffer.len() < len {
        buffer.resize(len, 0);
    }
    &mut buffer[..len]
}

/// Packed units that lie one after another in a file.
struct Joined {
    bytes: Vec<u8>,
    at: Option<Placed>,
}

impl Joined {
    fn push(&mut self, target: &dyn Target, placed: Placed, bytes: &[u8]) -> Result<()> {
        match &mut self.at {
            Some(at) if at.file == placed.file && at.offset + at.len == placed.offset => at.len += placed.len,
            _ => {
                self.flush(target)?;
                self.at = Some(placed);
            }
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self, target: &dyn Target) -> Result<()> {
        if let Some(at) = self.at.take() {
            target.write(at, &self.bytes)?;
        }
        self.bytes.clear();
        Ok(())
    }
}

/// Calls `visit` with runs of units that differ from what lies below, and whether they are all zero.
fn for_each_difference(
    bytes: &[u8],
    below: &[u8],
    unit: usize,
    visit: &mut dyn FnMut(Range<usize>, bool) -> Result<()>,
) -> Result<()> {
    for (index, (unit_bytes, under)) in bytes.chunks(unit).zip(below.chunks(unit)).enumerate() {
        if unit_bytes != under {
            visit(index * unit..index * unit + unit_bytes.len(), is_zero(unit_bytes))?;
        }
    }
    Ok(())
}
