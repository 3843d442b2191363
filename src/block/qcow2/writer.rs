//! New qcow2 images, written front to back: data first, tables last.
//!
//! ```text
//!   0                1                                      end of data
//!   header           clusters of guest data, packed or not  L2 tables │ L1 │ refcount blocks │ refcount table
//! ```
//!
//! Tables stay in memory until all data has its place: 8 bytes for each stored cluster, 16 with extended L2 entries. So
//! data is contiguous, which lets whole runs be cloned, and tables are contiguous, which lets readers find everything in
//! one place. Packed clusters lie one after another, across cluster borders where the next cluster is theirs too, as
//! QEMU lays them out; each counts as a reference to every cluster it touches.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::FORMAT;
use super::cluster::low_bits;
use super::pack::Packer;
use crate::block::writer::refuse;
use crate::block::{CompressionKind, ImageFormat, ImageWriter, NewImage, Pack, Placed, Zeroes, range_len};
use crate::bytes::{div_rem, low_u32, round_up, to_u64, to_usize};
use crate::error::{Error, Result};
use crate::limits;

const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;
const ZERO: u64 = 1;

const DEFAULT_CLUSTER_BITS: u32 = 16;
/// Bytes of a version 3 header with the compression type, and of a version 2 header.
const HEADER_LENGTH: usize = 112;
const HEADER_LENGTH_2: usize = 72;

/// A qcow2 image being laid out.
#[derive(Debug)]
struct Writer {
    name: String,
    shape: Shape,
    packer: Option<Arc<dyn Pack>>,
    /// L2 tables by L1 index: words of entries.
    tables: BTreeMap<u64, Vec<u64>>,
    /// The first byte after everything placed, a multiple of the cluster size.
    end: u64,
    /// Where packed data goes on: within the cluster before this one's end.
    packed_end: u64,
    /// References to clusters that hold packed data; all others have one.
    packed_refcounts: BTreeMap<u64, u64>,
}

/// What the header says.
#[derive(Debug, Clone)]
struct Shape {
    version: u32,
    size: u64,
    cluster_bits: u32,
    refcount_order: u32,
    extended_l2: bool,
    lazy_refcounts: bool,
    compression: CompressionKind,
    backing: Option<(String, ImageFormat)>,
}

/// A writer for a new image.
pub(crate) fn writer(new: &NewImage, name: &str) -> Result<Box<dyn ImageWriter>> {
    refuse(FORMAT, &[("subformat", new.subformat.is_some())])?;
    let shape = Shape::new(new)?;
    let packer: Option<Arc<dyn Pack>> = match new.compression {
        Some(compression) => Some(Arc::new(Packer::new(compression, shape.cluster_size())?)),
        None => None,
    };
    let end = shape.cluster_size();
    Ok(Box::new(Writer {
        name: name.to_owned(),
        shape,
        packer,
        tables: BTreeMap::new(),
        end,
        packed_end: end,
        packed_refcounts: BTreeMap::new(),
    }))
}

impl Shape {
    fn new(new: &NewImage) -> Result<Self> {
        let version = new.version.unwrap_or(3);
        if !matches!(version, 2 | 3) {
            return Err(Error::invalid(format!("qcow2 has versions 2 and 3, not {version}")));
        }
        let default = 1u64.wrapping_shl(DEFAULT_CLUSTER_BITS);
        let cluster_size = new.cluster_size.unwrap_or(default);
        let least = if new.extended_l2 { 1 << 14 } else { 1 << 9 };
        if !cluster_size.is_power_of_two() || !(least..=1 << 21).contains(&cluster_size) {
            let message = format!("the cluster size is {cluster_size}; it is a power of two from {least} to 2097152");
            return Err(Error::invalid(message));
        }
        let refcount_bits = new.refcount_bits.unwrap_or(16);
        if !refcount_bits.is_power_of_two() || refcount_bits > 64 {
            let message = format!("reference counts have {refcount_bits} bits; there are 1, 2, 4, 8, 16, 32, 64");
            return Err(Error::invalid(message));
        }
        let compression = match (new.compression, new.compression_type) {
            (Some(used), Some(stated)) if used.kind != stated => {
                return Err(Error::invalid("clusters are compressed in one way in the whole image"));
            }
            (Some(used), _) => used.kind,
            (None, stated) => stated.unwrap_or(CompressionKind::Zlib),
        };
        if version == 2 {
            let newer = [
                ("extended_l2", new.extended_l2),
                ("lazy_refcounts", new.lazy_refcounts),
                ("refcount_bits", refcount_bits != 16),
                ("compression_type=zstd", compression == CompressionKind::Zstd),
            ];
            if let Some((option, _)) = newer.iter().find(|(_, given)| *given) {
                return Err(Error::invalid(format!("{option} needs version 3 (compat=1.1)")));
            }
        }
        if new.backing.as_ref().is_some_and(|(name, _)| name.len() > 1023) {
            return Err(Error::invalid("the backing file's name is longer than 1023 bytes"));
        }
        let size = round_up(new.size, 512).ok_or_else(|| Error::limit("disk bytes", u64::MAX, new.size))?;
        let shape = Self {
            version,
            size,
            cluster_bits: cluster_size.trailing_zeros(),
            refcount_order: refcount_bits.trailing_zeros(),
            extended_l2: new.extended_l2,
            lazy_refcounts: new.lazy_refcounts,
            compression,
            backing: new.backing.clone(),
        };
        limits::check("L1 table bytes", shape.l1_entries().saturating_mul(8), limits::TABLE_BYTES)
            .map_err(|error| error.with_hint("larger clusters make the table smaller (cluster_size)"))?;
        Ok(shape)
    }

    fn cluster_size(&self) -> u64 {
        1u64.wrapping_shl(self.cluster_bits)
    }

    /// 64-bit words of an L2 entry.
    fn entry_words(&self) -> u64 {
        if self.extended_l2 { 2 } else { 1 }
    }

    fn l2_bits(&self) -> u32 {
        self.cluster_bits.saturating_sub(3).saturating_sub(u32::from(self.extended_l2))
    }

    fn l1_entries(&self) -> u64 {
        self.size.div_ceil(1u64.wrapping_shl(self.l2_bits().saturating_add(self.cluster_bits)))
    }

    fn clusters(&self, bytes: u64) -> u64 {
        bytes.div_ceil(self.cluster_size())
    }

    fn subcluster_size(&self) -> u64 {
        self.cluster_size().wrapping_shr(5)
    }

    fn most_references(&self) -> u64 {
        let bits = 1u32.wrapping_shl(self.refcount_order);
        if bits == 64 { u64::MAX } else { 1u64.wrapping_shl(bits).wrapping_sub(1) }
    }
}

impl Writer {
    /// The words of the entry of the guest cluster at `guest`.
    fn entry(&mut self, guest: u64) -> &mut [u64] {
        let shape = &self.shape;
        let cluster = guest.wrapping_shr(shape.cluster_bits);
        let words = 1u64.wrapping_shl(shape.l2_bits()).saturating_mul(shape.entry_words());
        let index = to_usize((cluster & low_bits(shape.l2_bits())).saturating_mul(shape.entry_words()));
        let end = index.saturating_add(to_usize(shape.entry_words()));
        let table = self.tables.entry(cluster.wrapping_shr(shape.l2_bits()));
        let table = table.or_insert_with(|| vec![0; to_usize(words)]);
        table.get_mut(index..end).unwrap_or_default()
    }

    /// The host cluster of the guest cluster at `guest`: the one it has, or the next new one.
    fn host_cluster(&mut self, guest: u64) -> u64 {
        match self.entry(guest).first().copied().unwrap_or(0) & !(COPIED | ZERO) {
            0 => self.end,
            there => there,
        }
    }

    /// Sets the bits, from bit `shift` on, of the subclusters that `range` touches, all within one cluster.
    fn set_subclusters(&mut self, range: &Range<u64>, shift: u32) {
        if !self.shape.extended_l2 {
            return;
        }
        let size = self.shape.subcluster_size();
        let within = range.start & low_bits(self.shape.cluster_bits);
        let first = low_u32(div_rem(within, size).0);
        let last = low_u32(within.saturating_add(range_len(range)).div_ceil(size));
        let bits = low_bits(last) & !low_bits(first);
        if let [_, bitmap] = self.entry(range.start) {
            *bitmap |= bits.wrapping_shl(shift);
        }
    }

    /// The part of `run` in its first cluster.
    fn first_cluster(&self, run: &Range<u64>) -> Range<u64> {
        let next = (run.start | low_bits(self.shape.cluster_bits)).saturating_add(1);
        run.start..run.end.min(next)
    }

    /// Where `len` packed bytes go: after the ones before if they fit into that cluster, or if what follows it is still
    /// free; else into a cluster of their own.
    fn packed_place(&mut self, len: u64) -> u64 {
        let size = self.shape.cluster_size();
        let border = round_up(self.packed_end, size).unwrap_or(u64::MAX);
        let last = self.packed_end.saturating_add(len);
        let room = last <= border || border == self.end;
        let shared = self.packed_refcounts.get(&self.packed_end.wrapping_shr(self.shape.cluster_bits)).copied();
        let start = if room && shared.unwrap_or(0) < self.shape.most_references() { self.packed_end } else { self.end };
        self.packed_end = start.saturating_add(len);
        self.end = self.end.max(round_up(self.packed_end, size).unwrap_or(u64::MAX));
        let clusters = start.wrapping_shr(self.shape.cluster_bits)
            ..=self.packed_end.saturating_sub(1).wrapping_shr(self.shape.cluster_bits);
        for cluster in clusters {
            let references = self.packed_refcounts.entry(cluster).or_default();
            *references = references.saturating_add(1);
        }
        start
    }

    /// Big-endian L2 tables, in the order of their L1 index.
    fn write_tables(&self, file: &File, at: u64) -> Result<Vec<u64>> {
        let mut l1 = vec![0u64; to_usize(self.shape.l1_entries())];
        let mut position = at;
        for (&index, table) in &self.tables {
            let bytes: Vec<u8> = table.iter().flat_map(|word| word.to_be_bytes()).collect();
            self.write(file, &bytes, position)?;
            if let Some(entry) = l1.get_mut(to_usize(index)) {
                *entry = position | COPIED;
            }
            position = position.saturating_add(self.shape.cluster_size());
        }
        Ok(l1)
    }

    /// Writes the refcount blocks for the first `clusters` clusters, one block at a time.
    fn write_refcounts(&self, file: &File, at: u64, blocks: u64, clusters: u64) -> Result<()> {
        let size = self.shape.cluster_size();
        let bits = 1u64.wrapping_shl(self.shape.refcount_order);
        let per_block = size.saturating_mul(8).checked_div(bits).unwrap_or(1);
        for block in 0..blocks {
            let first = block.saturating_mul(per_block);
            let mut bytes = vec![0u8; to_usize(size)];
            let last = first.saturating_add(per_block).min(clusters);
            let mut packed = self.packed_refcounts.range(first..last).peekable();
            for cluster in first..last {
                let count = match packed.peek() {
                    Some((at, count)) if **at == cluster => {
                        let count = **count;
                        packed.next();
                        count
                    }
                    _ => 1,
                };
                put_refcount(&mut bytes, cluster.saturating_sub(first), self.shape.refcount_order, count);
            }
            self.write(file, &bytes, at.saturating_add(block.saturating_mul(size)))?;
        }
        Ok(())
    }

    fn write(&self, file: &File, bytes: &[u8], offset: u64) -> Result<()> {
        file.write_all_at(bytes, offset).map_err(|error| Error::io("write", &self.name, error))
    }
}

impl ImageWriter for Writer {
    fn unit(&self) -> u64 {
        let subclusters = self.shape.extended_l2 && self.packer.is_none();
        // Smaller subclusters gain nothing: the host's blocks are no smaller.
        if subclusters { self.shape.subcluster_size().max(4096) } else { self.shape.cluster_size() }
    }

    fn packer(&self) -> Option<Arc<dyn Pack>> {
        self.packer.clone()
    }

    fn zeroes(&self) -> Zeroes {
        match (&self.shape.backing, self.shape.version) {
            (None, _) => Zeroes::LeaveOut,
            (Some(_), 2) => Zeroes::Store,
            (Some(_), _) => Zeroes::Mark,
        }
    }

    fn place(&mut self, run: Range<u64>) -> Result<Placed> {
        let mut placed = Placed { file: 0, offset: 0, len: 0 };
        let mut rest = run;
        while !rest.is_empty() {
            let part = self.first_cluster(&rest);
            let cluster = self.host_cluster(part.start);
            let host = cluster.saturating_add(part.start & low_bits(self.shape.cluster_bits));
            if placed.len == 0 {
                placed.offset = host;
            } else if placed.offset.saturating_add(placed.len) != host {
                break;
            }
            if cluster == self.end {
                self.end = cluster.saturating_add(self.shape.cluster_size());
                if let Some(word) = self.entry(part.start).first_mut() {
                    *word = cluster | COPIED;
                }
            }
            self.set_subclusters(&part, 0);
            placed.len = placed.len.saturating_add(range_len(&part));
            rest.start = part.end;
        }
        Ok(placed)
    }

    fn place_packed(&mut self, guest: u64, len: usize) -> Result<Placed> {
        let len = to_u64(len);
        let offset = self.packed_place(len);
        // Sectors beyond the one that the data begins in.
        let sectors =
            offset.saturating_add(len).saturating_sub(1).wrapping_shr(9).saturating_sub(offset.wrapping_shr(9));
        let offset_bits = 62u32.saturating_sub(self.shape.cluster_bits.saturating_sub(8));
        if let Some(word) = self.entry(guest).first_mut() {
            *word = COMPRESSED | sectors.wrapping_shl(offset_bits) | offset;
        }
        Ok(Placed { file: 0, offset, len })
    }

    fn mark_zero(&mut self, run: Range<u64>) -> Result<()> {
        let mut rest = run;
        while !rest.is_empty() {
            let part = self.first_cluster(&rest);
            if self.shape.extended_l2 {
                self.set_subclusters(&part, 32);
            } else if let Some(word) = self.entry(part.start).first_mut() {
                *word |= ZERO;
            }
            rest.start = part.end;
        }
        Ok(())
    }

    fn finish(&mut self, files: &[File]) -> Result<()> {
        let Some(file) = files.first() else { return Err(Error::invalid("there is no file to write into")) };
        let shape = &self.shape;
        let (size, bits) = (shape.cluster_size(), shape.cluster_bits);
        let l1_at = self.end.saturating_add(to_u64(self.tables.len()).wrapping_shl(bits));
        let l1_clusters = shape.clusters(shape.l1_entries().saturating_mul(8));
        let refcounts_at = l1_at.saturating_add(l1_clusters.wrapping_shl(bits));
        let l1_at = if l1_clusters == 0 { 0 } else { l1_at };

        // Refcount blocks and their table count themselves, so how many there are is found by trying.
        let per_block = size.saturating_mul(8).wrapping_shr(shape.refcount_order);
        let before = refcounts_at.wrapping_shr(bits);
        let (mut blocks, mut table_clusters) = (1u64, 1u64);
        loop {
            let total = before.saturating_add(blocks).saturating_add(table_clusters);
            let needed = total.div_ceil(per_block);
            let needed_table = shape.clusters(needed.saturating_mul(8)).max(1);
            if (needed, needed_table) == (blocks, table_clusters) {
                break;
            }
            (blocks, table_clusters) = (needed.max(blocks), needed_table.max(table_clusters));
        }
        let table_at = refcounts_at.saturating_add(blocks.wrapping_shl(bits));
        let total = before.saturating_add(blocks).saturating_add(table_clusters);

        file.set_len(total.wrapping_shl(bits)).map_err(|error| Error::io("grow", &self.name, error))?;
        let l1 = self.write_tables(file, self.end)?;
        self.write(file, &words(l1.iter().copied()), l1_at)?;
        self.write_refcounts(file, refcounts_at, blocks, total)?;
        let table = (0..blocks).map(|block| refcounts_at.saturating_add(block.wrapping_shl(bits)));
        self.write(file, &words(table), table_at)?;
        let header = shape.header(l1_at, table_at, table_clusters)?;
        self.write(file, &header, 0)
    }

    fn file_names(&self) -> Vec<String> {
        vec![self.name.clone()]
    }
}

impl Shape {
    /// The first cluster's used part: header, extensions, the backing file's name.
    fn header(&self, l1_at: u64, refcount_table_at: u64, refcount_table_clusters: u64) -> Result<Vec<u8>> {
        let three = self.version >= 3;
        let zstd = self.compression == CompressionKind::Zstd;
        let extensions = self.extensions();
        let header_length = if three { HEADER_LENGTH } else { HEADER_LENGTH_2 };
        let name = self.backing.as_ref().map(|(name, _)| name.as_bytes()).unwrap_or_default();
        let name_at = header_length.saturating_add(extensions.len());
        if to_u64(name_at.saturating_add(name.len())) > self.cluster_size() {
            let message = "header and the backing file's name do not fit into one cluster";
            return Err(Error::invalid(message).with_hint("larger clusters have room (cluster_size)"));
        }
        let mut header = Vec::with_capacity(header_length);
        let mut put32 = |value: u32| header.extend(value.to_be_bytes());
        let (high, low) = (|value: u64| low_u32(value.wrapping_shr(32)), low_u32);
        put32(0x5146_49fb);
        put32(self.version);
        let backing_at = if name.is_empty() { 0 } else { to_u64(name_at) };
        for value in [high(backing_at), low(backing_at), low_u32(to_u64(name.len())), self.cluster_bits] {
            put32(value);
        }
        for value in [high(self.size), low(self.size), 0, low_u32(self.l1_entries())] {
            put32(value);
        }
        for value in [high(l1_at), low(l1_at), high(refcount_table_at), low(refcount_table_at)] {
            put32(value);
        }
        for value in [low_u32(refcount_table_clusters), 0, 0, 0] {
            put32(value);
        }
        if three {
            let incompatible = u32::from(zstd).wrapping_shl(3) | u32::from(self.extended_l2).wrapping_shl(4);
            for value in [0, incompatible, 0, u32::from(self.lazy_refcounts), 0, 0] {
                put32(value);
            }
            put32(self.refcount_order);
            put32(low_u32(to_u64(HEADER_LENGTH)));
            header.extend([u8::from(zstd), 0, 0, 0, 0, 0, 0, 0]);
        }
        header.extend(extensions);
        header.extend(name);
        Ok(header)
    }

    /// The backing file's format, the names of the feature bits where there is room for them, and the end mark.
    fn extensions(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut put = |kind: u32, data: &[u8]| {
            bytes.extend(kind.to_be_bytes());
            bytes.extend(low_u32(to_u64(data.len())).to_be_bytes());
            bytes.extend(data);
            bytes.resize(bytes.len().next_multiple_of(8), 0);
        };
        if let Some((_, format)) = &self.backing {
            put(0xe279_2aca, format.name().as_bytes());
        }
        if self.version >= 3 && self.cluster_bits >= 12 {
            let features = [
                (0, 0, "dirty bit"),
                (0, 1, "corrupt bit"),
                (0, 2, "external data file"),
                (0, 3, "compression type"),
                (0, 4, "extended L2 entries"),
                (1, 0, "lazy refcounts"),
                (2, 0, "bitmaps"),
                (2, 1, "raw external data"),
            ];
            let mut table = Vec::new();
            for (kind, bit, name) in features {
                let start = table.len();
                table.extend([kind, bit]);
                table.extend(name.as_bytes());
                table.resize(start.saturating_add(48), 0);
            }
            put(0x6803_f857, &table);
        }
        put(0, &[]);
        bytes
    }
}

fn words(values: impl Iterator<Item = u64>) -> Vec<u8> {
    values.flat_map(u64::to_be_bytes).collect()
}

/// Sets reference count `index` of a refcount block. Counts of less than a byte fill it from the lowest bit.
fn put_refcount(block: &mut [u8], index: u64, order: u32, count: u64) {
    if order < 3 {
        let bit = index.wrapping_shl(order);
        if let Some(byte) = block.get_mut(to_usize(bit.wrapping_shr(3))) {
            let [low, ..] = count.wrapping_shl(low_u32(bit & 7)).to_le_bytes();
            *byte |= low;
        }
        return;
    }
    let width = 1usize.wrapping_shl(order.saturating_sub(3));
    let start = to_usize(index).saturating_mul(width);
    let bytes = count.to_be_bytes();
    if let (Some(to), Some(from)) =
        (block.get_mut(start..start.saturating_add(width)), bytes.get(8usize.saturating_sub(width)..))
    {
        to.copy_from_slice(from);
    }
}
