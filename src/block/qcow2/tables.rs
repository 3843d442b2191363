//! L1 and L2 tables, read as they are needed: QEMU `docs/interop/qcow2.txt`, section "Cluster mapping".
//!
//! | table | entry | meaning |
//! |---|---|---|
//! | L1 | bits 9–55 | file offset of an L2 table, a multiple of the cluster size; 0: all of it is unallocated |
//! | L1 | other bits | reserved or "reference count is one"; ignored as QEMU does |
//! | L2 | | see [`cluster`](super::cluster) |
//!
//! An L2 table is one cluster, up to 2 MiB, of which a small read needs one entry; an L1 table is up to 32 MiB, and a
//! chain has one for each of its images. So both are kept in slices of 4 KiB, and opening an image reads neither. Who goes
//! through the whole disk reads L2 tables in pieces of 64 KiB that nobody keeps: half the time for `map`, as 16 system
//! calls, allocations and cache entries become one read into a buffer that is there already.
//!
//! An L2 table that lies in a hole of a sparse file has nothing but empty entries, so it is passed over unread: a small
//! file can have room for millions of them. Asking costs a system call where the file's last extent is another, so it is
//! only done where tables can be many.

use std::ops::Range;
use std::sync::Arc;

use super::FORMAT;
use super::audit;
use super::cluster::{COMPRESSED, L2Entry, Layout, Mapping, OFFSET, Run, ZERO};
use super::header::L1Table;
use crate::block::claims::is_hole;
use crate::block::{BlockDevice, Lru, range_len};
use crate::bytes::{to_u64, to_usize};
use crate::error::{Error, Result};

const L1_OFFSET: u64 = 0x00ff_ffff_ffff_fe00;

/// Words of a slice, as bits: 512 words, 4 KiB.
const SLICE_BITS: u32 = 9;
const SLICE_BYTES: usize = 4096;

/// Words that a long walk reads at once, as bits: 64 KiB.
const AHEAD_BITS: u32 = 13;

/// Bytes of L2 tables, were there one for each L1 entry, from which on it is worth asking for holes.
pub(super) const MANY_TABLES: u64 = 256 << 20;

/// The tables of one state of the disk, the active one or a snapshot's.
#[derive(Debug)]
pub(super) struct Tables {
    file: Arc<dyn BlockDevice>,
    layout: Layout,
    l1: L1Table,
    /// Slices by where they begin and how many words they have.
    slices: Lru<(u64, u64), Arc<[u64]>>,
}

impl Tables {
    /// Tables of which about `cache_bytes` are kept. The L1 table was checked to lie in the file.
    pub(super) fn new(file: Arc<dyn BlockDevice>, layout: Layout, l1: L1Table, cache_bytes: u64) -> Self {
        let slice_bytes = to_u64(SLICE_BYTES).min(layout.cluster_size());
        let slices = Lru::new(to_usize(cache_bytes.div_euclid(slice_bytes)));
        Self { file, layout, l1, slices }
    }

    pub(super) fn layout(&self) -> &Layout {
        &self.layout
    }

    pub(super) fn l1(&self) -> L1Table {
        self.l1
    }

    /// No two L1 entries lead to one L2 table.
    pub(super) fn audit(&self) -> Result<()> {
        audit::l1_table(&*self.file, &self.layout, self.l1)
    }

    /// A walk over mappings that looks at no more than `steps` table entries, but always at one.
    pub(super) fn walk(&self, steps: u32) -> Walk<'_> {
        Walk { tables: self, l1: Slice::default(), l2: Slice::default(), table: None, ahead: None, steps: steps.into() }
    }

    /// A walk through all of the disk, or much of it.
    pub(super) fn long_walk(&self) -> Walk<'_> {
        Walk { ahead: Some(Vec::new()), steps: u64::MAX, ..self.walk(0) }
    }

    /// Whether all of the L2 table at `table` is known to be empty without reading it.
    fn is_empty_table(&self, table: u64) -> Result<bool> {
        let (len, entries) = (self.layout.cluster_size(), u64::from(self.l1.size));
        if len.saturating_mul(entries) < MANY_TABLES {
            return Ok(false);
        }
        is_hole(&*self.file, table..table.saturating_add(len))
    }

    /// The slice around word `index` of the table of `words` words at `table`.
    fn slice(&self, table: u64, words: u64, index: u64) -> Result<Slice> {
        let first = index.wrapping_shr(SLICE_BITS).wrapping_shl(SLICE_BITS);
        let len = words.saturating_sub(first).min(1u64.wrapping_shl(SLICE_BITS));
        let position = word_position(table, first);
        let words = self.slices.get_or_read((position, len), || {
            let mut bytes = [0u8; SLICE_BYTES];
            let bytes = bytes.get_mut(..to_usize(len.saturating_mul(8))).unwrap_or_default();
            self.file.read_exact_at(bytes, position)?;
            let (words, _) = bytes.as_chunks::<8>();
            Ok::<_, Error>(words.iter().map(|word| u64::from_be_bytes(*word)).collect())
        })?;
        Ok(Slice { table, first, words: Words::Shared(words) })
    }

    /// A longer piece around word `index`, read into the walk's own memory.
    fn piece_ahead(&self, held: &mut Slice, bytes: &mut Vec<u8>, table: u64, words: u64, index: u64) -> Result<()> {
        let first = index.wrapping_shr(AHEAD_BITS).wrapping_shl(AHEAD_BITS);
        let len = words.saturating_sub(first).min(1u64.wrapping_shl(AHEAD_BITS));
        bytes.resize(to_usize(len.saturating_mul(8)), 0);
        self.file.read_exact_at(bytes, word_position(table, first))?;
        let mut own = match std::mem::take(&mut held.words) {
            Words::Own(own) => own,
            Words::Shared(_) => Vec::new(),
        };
        own.clear();
        own.extend(bytes.as_chunks::<8>().0.iter().map(|word| u64::from_be_bytes(*word)));
        *held = Slice { table, first, words: Words::Own(own) };
        Ok(())
    }
}

fn word_position(table: u64, index: u64) -> u64 {
    table.saturating_add(index.saturating_mul(8))
}

/// Some words of the table at `table`, from word `first` on.
#[derive(Debug, Default)]
struct Slice {
    table: u64,
    first: u64,
    words: Words,
}

#[derive(Debug)]
enum Words {
    /// Kept for others too.
    Shared(Arc<[u64]>),
    /// The walk's own.
    Own(Vec<u64>),
}

impl Default for Words {
    fn default() -> Self {
        Self::Own(Vec::new())
    }
}

impl Slice {
    fn get(&self, table: u64, index: u64) -> Option<u64> {
        self.from(table, index)?.first().copied()
    }

    /// The words from word `index` on, if it is among them.
    fn from(&self, table: u64, index: u64) -> Option<&[u64]> {
        let within = index.checked_sub(self.first)?;
        let words = match &self.words {
            Words::Shared(words) => &**words,
            Words::Own(words) => words,
        };
        if table == self.table { words.get(to_usize(within)..) } else { None }
    }
}

/// A look at one mapping after another. It holds on to the slices that it is in, so that neighbours cost no look-up.
#[derive(Debug)]
pub(super) struct Walk<'a> {
    tables: &'a Tables,
    l1: Slice,
    l2: Slice,
    /// The L1 entry that was looked at last, and its L2 table.
    table: Option<(u64, Option<u64>)>,
    /// The bytes of what is read ahead, if anything is.
    ahead: Option<Vec<u8>>,
    steps: u64,
}

impl Walk<'_> {
    /// The mapping from `range.start` on, as far as it is one run and at most `range` long.
    pub(super) fn run(&mut self, range: Range<u64>) -> Result<Run> {
        let mut run = self.piece(range.start)?;
        let wanted = range_len(&range);
        while run.len < wanted && self.steps > 0 {
            let followed = self.follow(&run, range.start.saturating_add(run.len), wanted.saturating_sub(run.len));
            if followed > 0 {
                run.len = run.len.saturating_add(followed);
                continue;
            }
            // What is wrong with a later entry is for whoever asks for it.
            match self.piece(range.start.saturating_add(run.len)) {
                Ok(next) if run.continues_in(&next.mapping) => run.len = run.len.saturating_add(next.len),
                _ => break,
            }
        }
        run.len = run.len.min(wanted);
        Ok(run)
    }

    /// How many more bytes, from `at` on and at least `wanted` if there are as many, go on as `run` did, as far as that can
    /// be told from the words at hand: entries of one run differ by a cluster or not at all, so a comparison each will do.
    fn follow(&mut self, run: &Run, at: u64, wanted: u64) -> u64 {
        let layout = &self.tables.layout;
        let cluster_size = layout.cluster_size();
        let cluster = at.wrapping_shr(layout.cluster_bits);
        let l1_index = cluster.wrapping_shr(layout.l2_bits());
        let (Some((held, Some(table))), false) = (self.table, layout.extended_l2 || layout.external) else { return 0 };
        if held != l1_index || at & layout.offset_mask() != 0 {
            return 0;
        }
        let index = cluster.saturating_sub(l1_index.wrapping_shl(layout.l2_bits()));
        let Some(words) = self.l2.from(table, index) else { return 0 };
        let most = to_usize(wanted.div_ceil(cluster_size).min(self.steps));
        let words = words.get(..most).unwrap_or(words);
        let count = match run.mapping {
            Mapping::Unallocated => words.iter().take_while(|word| *word & (OFFSET | COMPRESSED | ZERO) == 0).count(),
            Mapping::Host(start) => {
                let mut next = start.saturating_add(run.len);
                let inside = layout.data_size.saturating_sub(next).div_ceil(cluster_size);
                let goes_on = |word: &&u64| {
                    let same = **word & (OFFSET | COMPRESSED | ZERO) == next;
                    next = next.wrapping_add(cluster_size);
                    same
                };
                words.iter().take(to_usize(inside)).take_while(goes_on).count()
            }
            Mapping::Zero | Mapping::Compressed(_) => 0,
        };
        self.steps = self.steps.saturating_sub(to_u64(count));
        to_u64(count).saturating_mul(cluster_size)
    }

    /// The mapping at `at` as one entry tells it.
    fn piece(&mut self, at: u64) -> Result<Run> {
        self.steps = self.steps.saturating_sub(1);
        let layout = &self.tables.layout;
        let cluster = at.wrapping_shr(layout.cluster_bits);
        let l1_index = cluster.wrapping_shr(layout.l2_bits());
        let l1_entry_bits = layout.l2_bits().saturating_add(layout.cluster_bits);
        let unallocated = |end: u64| Ok(Run { mapping: Mapping::Unallocated, len: end.saturating_sub(at) });
        if l1_index >= u64::from(self.tables.l1.size) {
            // A snapshot's table may be shorter than the disk has become since.
            return unallocated(u64::MAX);
        }
        let table = match self.table {
            Some((held, table)) if held == l1_index => table,
            _ => {
                let table = self.l2_table(l1_index)?;
                self.table = Some((l1_index, table));
                table
            }
        };
        let Some(table) = table else {
            return unallocated(l1_index.saturating_add(1).saturating_mul(1u64.wrapping_shl(l1_entry_bits)));
        };
        let first_of_table = l1_index.wrapping_shl(layout.l2_bits());
        let index = cluster.saturating_sub(first_of_table).wrapping_shl(layout.entry_word_bits());
        let descriptor = self.l2_word(table, index)?;
        let bitmap = if layout.extended_l2 { self.l2_word(table, index.saturating_add(1))? } else { 0 };
        L2Entry { descriptor, bitmap, position: word_position(table, index) }.run(layout, at)
    }

    /// Where the L2 table of L1 entry `index` lies, if there is one.
    fn l2_table(&mut self, index: u64) -> Result<Option<u64>> {
        let L1Table { offset: table, size } = self.tables.l1;
        let entry = match self.l1.get(table, index) {
            Some(entry) => entry,
            None => {
                self.l1 = self.tables.slice(table, size.into(), index)?;
                self.l1.get(table, index).unwrap_or(0)
            }
        };
        let offset = entry & L1_OFFSET;
        if offset == 0 {
            return Ok(None);
        }
        let layout = &self.tables.layout;
        let corrupt = |expected: String| {
            let position = word_position(table, index);
            Err(Error::corrupt(FORMAT, "L1 table entry", position, format!("{offset:#x}"), expected))
        };
        if offset & layout.offset_mask() != 0 {
            return corrupt(format!("a multiple of {}", layout.cluster_size()));
        }
        if offset.saturating_add(layout.cluster_size()) > layout.file_size {
            return corrupt(format!("an L2 table within the file's {} bytes", layout.file_size));
        }
        Ok(if self.tables.is_empty_table(offset)? { None } else { Some(offset) })
    }

    fn l2_word(&mut self, table: u64, index: u64) -> Result<u64> {
        if let Some(word) = self.l2.get(table, index) {
            return Ok(word);
        }
        let words = self.tables.layout.cluster_size().wrapping_shr(3);
        match &mut self.ahead {
            Some(bytes) => self.tables.piece_ahead(&mut self.l2, bytes, table, words, index)?,
            None => self.l2 = self.tables.slice(table, words, index)?,
        }
        Ok(self.l2.get(table, index).unwrap_or(0))
    }
}
