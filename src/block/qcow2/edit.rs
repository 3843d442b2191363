//! Changes to an image as a whole: its size, its snapshots, the name of its backing file.
//!
//! Each is prepared in clusters that nothing refers to, made durable, and then becomes the image with one write to the
//! header's first sector; what was in use before is given back after that.

use std::path::Path;
use std::sync::Arc;

use super::cluster::{COMPRESSED, COPIED, OFFSET};
use super::extensions;
use super::header::{self, Header};
use super::state::{Entry, State};
use super::writable::{WritableQcow2, read_state};
use super::{FORMAT, Names};
use crate::block::open::OpenContext;
use crate::block::writable::Resizable;
use crate::block::{BlockDevice, BlockWrite, OpenOptions, SnapshotInfo, WritableFile, read_vec};
use crate::bytes::{Record, low_u32, to_u64, to_usize};
use crate::error::{Error, Result};
use crate::limits;

/// An image open for such changes, under its lock.
#[derive(Debug)]
pub struct Editor {
    pub(super) state: State,
    names: Names,
}

impl Editor {
    /// Opens the image in `file`, which lies at `path`. Only an external data file is opened beside it.
    pub fn open(file: WritableFile, path: &Path, options: &OpenOptions) -> Result<Self> {
        let file: Arc<dyn Resizable> = Arc::new(file);
        let context = OpenContext { path, gate: &*options.gate, depth: 0, follow: true, snapshot: None };
        Self::over(file, &context)
    }

    pub(super) fn over(file: Arc<dyn Resizable>, context: &OpenContext<'_>) -> Result<Self> {
        let head = read_vec(&*file, 0, header::header_len(file.size()))?;
        if Header::parse(&Record::new(FORMAT, &head, 0))?.dirty {
            super::repair::dirty(&file)?;
        }
        let (state, names) = read_state(file, context)?;
        Ok(Self { state, names })
    }

    /// Bytes of the disk.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.state.header.size
    }

    /// The backing file's name as it stands in the image.
    #[must_use]
    pub fn backing_file(&self) -> Option<&[u8]> {
        self.names.backing_file.as_deref()
    }

    /// Opens the backing file's disk.
    pub fn open_backing(&self, path: &Path, options: &OpenOptions) -> Result<Option<Arc<dyn BlockDevice>>> {
        let context = OpenContext { path, gate: &*options.gate, depth: 0, follow: true, snapshot: None };
        self.names.open_backing(&context)
    }

    /// The internal snapshots.
    #[must_use]
    pub fn snapshots(&self) -> Vec<SnapshotInfo> {
        self.state.snapshots.iter().map(|snapshot| snapshot.info.clone()).collect()
    }

    /// Names another backing file, or none, without looking at what that changes for the guest.
    pub fn set_backing(&mut self, backing: Option<(&[u8], Option<&str>)>) -> Result<()> {
        self.state.prepare()?;
        let header = &self.state.header;
        let size = header.cluster_size();
        let mut bytes = read_vec(&*self.state.file, 0, to_usize(size.min(self.state.file.size())))?;
        let start = to_usize(header.header_length);
        let end = to_usize(header.extensions_end().min(to_u64(bytes.len())));
        let area = Record::new(FORMAT, bytes.get(start..end).unwrap_or_default(), header.header_length);
        let format = backing.and_then(|(_, format)| format);
        let mut tail = extensions::with_backing_format(&area, format)?;
        let name = backing.map_or(&[][..], |(name, _)| name);
        limits::check("backing file name bytes", to_u64(name.len()), 1023)?;
        let name_at = if name.is_empty() { 0 } else { to_u64(start.saturating_add(tail.len())) };
        tail.extend(name);
        if start.saturating_add(tail.len()) > bytes.len() {
            return Err(Error::limit("header bytes", size, to_u64(start.saturating_add(tail.len()))));
        }
        if let Some(rest) = bytes.get_mut(start..) {
            let (new, old) = rest.split_at_mut(tail.len());
            new.copy_from_slice(&tail);
            old.fill(0);
        }
        if let Some(field) = bytes.get_mut(8..20) {
            let (offset, length) = field.split_at_mut(8);
            offset.copy_from_slice(&name_at.to_be_bytes());
            length.copy_from_slice(&low_u32(to_u64(name.len())).to_be_bytes());
        }
        self.state.write_header(0, &bytes)?;
        self.state.header.backing_file = (name_at > 0).then(|| (name_at, to_u64(name.len())));
        self.names.backing_file = Some(name.to_vec()).filter(|name| !name.is_empty());
        self.names.backing_format = format.map(str::to_owned);
        Ok(())
    }

    /// Gives the disk another size. Making it smaller loses what lies past the new end; that somebody wants that is the
    /// caller's to know. `backing` must be the backing file's disk, if there is one.
    pub fn resize(mut self, size: u64, backing: Option<Arc<dyn BlockDevice>>) -> Result<()> {
        let old = self.state.header.size;
        if !size.is_multiple_of(512) {
            return Err(Error::invalid("a qcow2 disk has whole sectors: its size is a multiple of 512"));
        }
        if self.state.header.version < 3 && !self.state.snapshots.is_empty() {
            return Err(Error::unsupported(FORMAT, "another size for an image of version 2 that has snapshots"));
        }
        self.state.prepare()?;
        if size < old {
            self.state.cut(size)?;
            self.state.write_header(24, &size.to_be_bytes())?;
            return match &self.state.data {
                Some(data) => data.resize(size),
                None => Ok(()),
            };
        }
        self.state.reserve_l1(size)?;
        if let Some(data) = &self.state.data
            && data.size() < size
        {
            data.resize(size)?;
        }
        // What lies below, or in the last cluster, must not come into sight.
        let last = old.next_multiple_of(self.state.cluster_size());
        let hidden = backing.as_ref().map_or(0, |backing| backing.size()).max(last).min(size);
        self.state.header.size = size;
        let disk = WritableQcow2::new(self.state, backing);
        if hidden > old {
            disk.write_zeroes(old..hidden)?;
        }
        disk.flush()?;
        disk.write_header(24, &size.to_be_bytes())
    }
}

impl State {
    /// Makes the L1 table long enough for a disk of `size` bytes.
    pub(super) fn reserve_l1(&mut self, size: u64) -> Result<()> {
        let needed = size.div_ceil(self.l1_entry_bytes());
        if needed <= to_u64(self.l1().len()) {
            return Ok(());
        }
        limits::check("L1 table bytes", needed.saturating_mul(8), limits::QCOW2_WRITE_TABLE_BYTES)?;
        let mut l1 = self.l1().to_vec();
        l1.resize(to_usize(needed), 0);
        let old = self.header.l1;
        self.commit()?;
        self.point_to_l1(l1, self.header.size)?;
        self.release_table(old.offset, old.bytes())?;
        self.settle()
    }

    /// Writes an L1 table to a new place and makes it the active one, for a disk of `size` bytes.
    pub(super) fn point_to_l1(&mut self, l1: Vec<u64>, size: u64) -> Result<()> {
        let bytes: Vec<u8> = l1.iter().flat_map(|entry| entry.to_be_bytes()).collect();
        let place = self.allocate_table(to_u64(bytes.len()))?;
        self.file.write_all_at(&bytes, place.start)?;
        self.wrote();
        self.commit()?;
        self.header.size = size;
        self.replace_l1(l1, place.start);
        // Size, encryption (none) and the table in one write.
        let mut fields = [0u8; 24];
        let parts: [(usize, &[u8]); 3] = [
            (0, &size.to_be_bytes()),
            (12, &self.header.l1.size.to_be_bytes()),
            (16, &self.header.l1.offset.to_be_bytes()),
        ];
        for (at, bytes) in parts {
            if let Some(field) = fields.get_mut(at..).and_then(|rest| rest.get_mut(..bytes.len())) {
                field.copy_from_slice(bytes);
            }
        }
        self.write_header(24, &fields)
    }

    /// Notes that the clusters of a table have one reference less.
    pub(super) fn release_table(&mut self, offset: u64, bytes: u64) -> Result<()> {
        if bytes == 0 { Ok(()) } else { self.release_later(offset..offset.saturating_add(bytes)) }
    }

    /// Drops all clusters past `size`.
    fn cut(&mut self, size: u64) -> Result<()> {
        let span = self.l1_entry_bytes();
        let mut at = size.next_multiple_of(self.cluster_size());
        let end = to_u64(self.l1().len()).saturating_mul(span);
        while at < end {
            if self.is_full() {
                self.commit()?;
            }
            if at.is_multiple_of(span) {
                self.drop_table(at)?;
                at = at.saturating_add(span);
                continue;
            }
            if let Some(entry) = self.entry(at)?
                && entry.descriptor | entry.bitmap != 0
            {
                self.release_entry(&entry, at)?;
                self.set_entry(at, 0, 0)?;
            }
            at = at.saturating_add(self.cluster_size());
        }
        self.settle()
    }

    /// Drops a whole L2 table with all that it refers to.
    fn drop_table(&mut self, at: u64) -> Result<()> {
        let index = to_usize(at.div_euclid(self.l1_entry_bytes()));
        let table = self.l1().get(index).copied().unwrap_or(0) & OFFSET;
        if table == 0 {
            return Ok(());
        }
        let mut cluster = at;
        while cluster < at.saturating_add(self.l1_entry_bytes()) {
            if let Some(entry) = self.entry(cluster)? {
                self.release_entry(&entry, cluster)?;
            }
            cluster = cluster.saturating_add(self.cluster_size());
        }
        self.set_l1(index, 0);
        self.release_later(table..table.saturating_add(1))
    }

    /// The L2 tables that an L1 table refers to; none may be named twice.
    pub(super) fn l2_tables(&self, l1: &[u64]) -> Result<Vec<u64>> {
        let mut seen = std::collections::HashSet::new();
        let mut tables = Vec::new();
        for entry in l1 {
            let table = entry & OFFSET;
            let whole = table.is_multiple_of(self.cluster_size());
            if table == 0 {
                continue;
            }
            if !whole || table.saturating_add(self.cluster_size()) > self.file.size() || !seen.insert(table) {
                let found = format!("{table:#x}");
                let expected = "L2 tables within the file, each named once";
                return Err(Error::corrupt(FORMAT, "L1 table entry", table, found, expected));
            }
            tables.push(table);
        }
        Ok(tables)
    }

    /// The entries of the L2 table at `table` that refer to something.
    pub(super) fn used_entries(&self, table: u64) -> Result<Vec<Entry>> {
        let step = if self.header.extended_l2 { 2 } else { 1 };
        let mut found = Vec::new();
        let mut index = 0u64;
        while index < self.cluster_size().wrapping_shr(3) {
            let descriptor = self.word(table, index)?;
            if descriptor & (OFFSET | COMPRESSED) != 0 {
                let position = table.saturating_add(index.saturating_mul(8));
                found.push(Entry { descriptor, bitmap: 0, position });
            }
            index = index.saturating_add(step);
        }
        Ok(found)
    }

    /// Sets or clears the flag `COPIED` of all active entries as `wanted` says for the offset that they refer to.
    pub(super) fn set_copied(&mut self, wanted: &dyn Fn(&mut Self, u64) -> Result<bool>) -> Result<()> {
        for index in 0..self.l1().len() {
            let entry = self.l1().get(index).copied().unwrap_or(0);
            let table = entry & OFFSET;
            if table == 0 {
                continue;
            }
            for used in self.used_entries(table)? {
                if used.descriptor & COMPRESSED != 0 {
                    continue;
                }
                let copied = wanted(self, used.descriptor & OFFSET)?;
                if copied != (used.descriptor & COPIED != 0) {
                    let word = used.position.saturating_sub(table).wrapping_shr(3);
                    self.set_word(table, word, used.descriptor ^ COPIED)?;
                }
            }
            let copied = wanted(self, table)?;
            if copied != (entry & COPIED != 0) {
                self.set_l1(index, entry ^ COPIED);
            }
            if self.is_full() {
                self.commit()?;
            }
        }
        self.commit()
    }
}
