//! Changes on top of a device that is never touched: what is written collects in memory and, past a budget, in an
//! unlinked temporary file. A read-only drive is mounted read-write through this.
//!
//! State per 4 KiB block: absent (reads from below), zero, in memory, or in the spill file at an offset. A partial write
//! first copies the block up. The map sits behind one reader-writer lock, which is held while copying memory and never
//! while the device below is read. Spilled blocks are appended and overwritten in place; nothing is ever compacted,
//! since an overlay lives as long as one handle.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use super::{BlockDevice, BlockWrite, Extent, ExtentKind, HostRange, Sweep, check_range, range_len};
use crate::bytes::{to_u64, to_usize};
use crate::error::{Error, Result};

const BLOCK: u64 = 4096;

/// A writable view of `base`, kept in memory and past a budget in an unlinked temporary file.
#[derive(Debug)]
pub struct Overlay {
    base: Arc<dyn BlockDevice>,
    memory_budget: u64,
    spill_directory: PathBuf,
    state: RwLock<State>,
    /// One writer at a time, so that copying a block up and putting it back is one step.
    writer: Mutex<()>,
}

#[derive(Default)]
struct State {
    blocks: BTreeMap<u64, Slot>,
    in_memory: u64,
    spill: Option<Spill>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "State({} blocks, {} bytes in memory)", self.blocks.len(), self.in_memory)
    }
}

struct Spill {
    file: Arc<File>,
    len: u64,
}

#[derive(Clone)]
enum Slot {
    Zero,
    Memory(Arc<[u8]>),
    Spilled(u64),
}

/// Where the bytes of one block are, taken out of the map so that no lock is held while they are read.
enum Found {
    Below,
    Slot(Slot, Option<Arc<File>>),
}

impl Overlay {
    /// An empty overlay. Up to `memory_budget` bytes of changes stay in memory; what comes after goes to an unlinked file
    /// in `spill_directory`, which is created at the first need.
    #[must_use]
    pub fn new(base: Arc<dyn BlockDevice>, memory_budget: u64, spill_directory: &Path) -> Self {
        let spill_directory = spill_directory.to_owned();
        Self { base, memory_budget, spill_directory, state: RwLock::default(), writer: Mutex::new(()) }
    }

    /// Bytes that differ from the device below: (in memory, in the spill file).
    #[must_use]
    pub fn usage(&self) -> (u64, u64) {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        (state.in_memory, state.spill.as_ref().map_or(0, |spill| spill.len))
    }

    fn find(&self, block: u64) -> Found {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        match state.blocks.get(&block) {
            None => Found::Below,
            Some(slot) => Found::Slot(slot.clone(), state.spill.as_ref().map(|spill| spill.file.clone())),
        }
    }

    /// Reads inside one block: `buf` starts `within` bytes into it.
    fn read_block(&self, block: u64, within: usize, buf: &mut [u8]) -> Result<()> {
        match self.find(block) {
            Found::Below => self.base.read_exact_at(buf, block.saturating_mul(BLOCK).saturating_add(to_u64(within))),
            Found::Slot(Slot::Zero, _) => {
                buf.fill(0);
                Ok(())
            }
            Found::Slot(Slot::Memory(bytes), _) => {
                if let Some(bytes) = bytes.get(within..).and_then(|rest| rest.get(..buf.len())) {
                    buf.copy_from_slice(bytes);
                }
                Ok(())
            }
            Found::Slot(Slot::Spilled(offset), file) => {
                let offset = offset.saturating_add(to_u64(within));
                match file {
                    Some(file) => file
                        .read_exact_at(buf, offset)
                        .map_err(|error| Error::io("read", "the overlay's temporary file", error)),
                    None => Ok(()),
                }
            }
        }
    }

    /// Puts a whole block in place of what was there.
    fn put(&self, block: u64, bytes: &[u8]) -> Result<()> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let state = &mut *state;
        if let Some(Slot::Spilled(offset)) = state.blocks.get(&block) {
            let Some(spill) = &state.spill else { return Ok(()) };
            return write_spill(&spill.file, bytes, *offset);
        }
        let replaces_memory = matches!(state.blocks.get(&block), Some(Slot::Memory(_)));
        let slot = if replaces_memory || state.in_memory.saturating_add(BLOCK) <= self.memory_budget {
            Slot::Memory(bytes.into())
        } else {
            let spill = match &mut state.spill {
                Some(spill) => spill,
                empty => empty.insert(Spill { file: Arc::new(unlinked_file(&self.spill_directory)?), len: 0 }),
            };
            let offset = spill.len;
            write_spill(&spill.file, bytes, offset)?;
            spill.len = offset.saturating_add(BLOCK);
            Slot::Spilled(offset)
        };
        if matches!(slot, Slot::Memory(_)) && !replaces_memory {
            state.in_memory = state.in_memory.saturating_add(BLOCK);
        }
        state.blocks.insert(block, slot);
        Ok(())
    }

    fn put_zero(&self, block: u64) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(Slot::Memory(_)) = state.blocks.insert(block, Slot::Zero) {
            state.in_memory = state.in_memory.saturating_sub(BLOCK);
        }
    }

    /// Calls `part(block, bytes before it in the block, bytes before it in the range, length)` for each block that
    /// `offset..offset + len` touches.
    fn for_each_block(
        offset: u64,
        len: usize,
        mut part: impl FnMut(u64, usize, Range<usize>) -> Result<()>,
    ) -> Result<()> {
        let mut done = 0usize;
        while done < len {
            let at = offset.saturating_add(to_u64(done));
            let within = to_usize(at.checked_rem(BLOCK).unwrap_or(0));
            let here = to_usize(BLOCK).saturating_sub(within).min(len.saturating_sub(done));
            let end = done.saturating_add(here);
            part(at.checked_div(BLOCK).unwrap_or(0), within, done..end)?;
            done = end;
        }
        Ok(())
    }

    /// Bytes of `block` that lie on the device: less than [`BLOCK`] only for the last one.
    fn block_len(&self, block: u64) -> usize {
        to_usize(self.base.size().saturating_sub(block.saturating_mul(BLOCK)).min(BLOCK))
    }
}

/// A file without a name in `directory`, readable and writable by us alone.
fn unlinked_file(directory: &Path) -> Result<File> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let fail = |errno: rustix::io::Errno| Error::io("create a temporary file in", directory.display(), errno);
    match rustix::fs::open(directory, flags, Mode::RUSR | Mode::WUSR) {
        Ok(descriptor) => Ok(File::from(descriptor)),
        // Not every filesystem has O_TMPFILE: make a name that did not exist and take it away again.
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR | rustix::io::Errno::INVAL) => {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::RDWR | OFlags::CLOEXEC;
            for attempt in 0..100u32 {
                let path = directory.join(format!(".guestctl-{}-{attempt}", std::process::id()));
                match rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR) {
                    Ok(descriptor) => {
                        rustix::fs::unlink(&path).map_err(fail)?;
                        return Ok(File::from(descriptor));
                    }
                    Err(rustix::io::Errno::EXIST) => {}
                    Err(errno) => return Err(fail(errno)),
                }
            }
            Err(fail(rustix::io::Errno::EXIST))
        }
        Err(errno) => Err(fail(errno)),
    }
}

fn write_spill(file: &File, bytes: &[u8], offset: u64) -> Result<()> {
    file.write_all_at(bytes, offset).map_err(|error| Error::io("write", "the overlay's temporary file", error))
}

impl BlockDevice for Overlay {
    fn size(&self) -> u64 {
        self.base.size()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let end = check_range(self.size(), offset, buf.len())?;
        let untouched = {
            let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
            let blocks = offset.checked_div(BLOCK).unwrap_or(0)..end.div_ceil(BLOCK);
            state.blocks.range(blocks).next().is_none()
        };
        if untouched {
            return self.base.read_exact_at(buf, offset);
        }
        let len = buf.len();
        Self::for_each_block(offset, len, |block, within, range| match buf.get_mut(range) {
            Some(buf) => self.read_block(block, within, buf),
            None => Ok(()),
        })
    }

    fn next_extent(&self, range: Range<u64>) -> Result<Extent> {
        let block = range.start.checked_div(BLOCK).unwrap_or(0);
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let slot = state.blocks.get(&block).map(|slot| matches!(slot, Slot::Zero));
        let until_block = |next: u64| next.saturating_mul(BLOCK).min(range.end);
        match slot {
            Some(zero) => {
                let kind = if zero { ExtentKind::Zero } else { ExtentKind::Data };
                let len = until_block(block.saturating_add(1)).saturating_sub(range.start);
                Ok(Extent { kind, len })
            }
            None => {
                let changed = state.blocks.range(block..).next().map(|(&next, _)| until_block(next));
                drop(state);
                self.base.next_extent(range.start..changed.unwrap_or(range.end))
            }
        }
    }

    fn host_range(&self, range: Range<u64>) -> Option<HostRange<'_>> {
        let blocks = range.start.checked_div(BLOCK)?..range.end.div_ceil(BLOCK);
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        if state.blocks.range(blocks).next().is_some() {
            return None;
        }
        drop(state);
        self.base.host_range(range)
    }

    fn audit(&self, sweep: Sweep) -> Result<()> {
        self.base.audit(sweep)
    }
}

impl BlockWrite for Overlay {
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        check_range(self.size(), offset, bytes.len())?;
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut copy = vec![0u8; to_usize(BLOCK)];
        Self::for_each_block(offset, bytes.len(), |block, within, range| {
            let Some(new) = bytes.get(range) else { return Ok(()) };
            if new.len() == to_usize(BLOCK) {
                return self.put(block, new);
            }
            copy.fill(0);
            if let Some(old) = copy.get_mut(..self.block_len(block)) {
                self.read_block(block, 0, old)?;
            }
            if let Some(part) = copy.get_mut(within..).and_then(|rest| rest.get_mut(..new.len())) {
                part.copy_from_slice(new);
            }
            self.put(block, &copy)
        })
    }

    fn write_zeroes(&self, range: Range<u64>) -> Result<()> {
        let len = to_usize(range_len(&range));
        check_range(self.size(), range.start, len)?;
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        Self::for_each_block(range.start, len, |block, within, part| {
            let here = part.end.saturating_sub(part.start);
            if here == self.block_len(block) && within == 0 {
                self.put_zero(block);
                return Ok(());
            }
            let mut copy = vec![0u8; to_usize(BLOCK)];
            if let Some(old) = copy.get_mut(..self.block_len(block)) {
                self.read_block(block, 0, old)?;
            }
            if let Some(part) = copy.get_mut(within..).and_then(|rest| rest.get_mut(..here)) {
                part.fill(0);
            }
            self.put(block, &copy)
        })
    }

    /// Nothing to do: an overlay is as durable as the process.
    fn flush(&self) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::Memory;
    use super::*;

    /// Random writes against a plain array, in memory and spilled.
    #[test]
    fn behaves_like_an_array_and_leaves_the_base_alone() {
        for budget in [0, 16 << 10, u64::MAX] {
            let original: Vec<u8> = (0..70_001u32).map(|n| (n % 253) as u8).collect();
            let base = Arc::new(Memory::new(original.clone()));
            let overlay = Overlay::new(base.clone(), budget, &std::env::temp_dir());
            let mut model = original.clone();
            let mut seed = 1u64;
            let mut random = move |below: usize| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (seed >> 33) as usize % below
            };
            for round in 0..400 {
                let at = random(model.len());
                let len = random(9_000.min(model.len() - at)).max(1);
                if round % 4 == 0 {
                    overlay.write_zeroes(at as u64..(at + len) as u64).unwrap();
                    model[at..at + len].fill(0);
                } else {
                    let bytes: Vec<u8> = (0..len).map(|n| (n + round) as u8).collect();
                    overlay.write_all_at(&bytes, at as u64).unwrap();
                    model[at..at + len].copy_from_slice(&bytes);
                }
            }
            assert_eq!(crate::block::read_vec(&overlay, 0, model.len()).unwrap(), model);
            crate::block::for_each_extent(&overlay, 0..overlay.size(), &mut |run, kind| {
                if kind != ExtentKind::Data {
                    assert!(model[run.start as usize..run.end as usize].iter().all(|&byte| byte == 0));
                }
                Ok(())
            })
            .unwrap();
            assert_eq!(crate::block::read_vec(&*base, 0, original.len()).unwrap(), original);
            assert!(overlay.usage().0 <= budget);
        }
    }

    #[test]
    fn a_write_past_the_end_changes_nothing() {
        let overlay = Overlay::new(Arc::new(Memory::new(vec![1; 100])), 0, Path::new("/nonexistent"));
        assert!(overlay.write_all_at(&[0; 2], 99).is_err());
        assert_eq!(crate::block::read_vec(&overlay, 0, 100).unwrap(), [1; 100]);
        assert_eq!(overlay.write_all_at(&[0; 2], 0).unwrap_err().exit_code(), 1, "no spill directory is an I/O error");
    }
}
