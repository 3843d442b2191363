//! Internal snapshots made, returned to and deleted.
//!
//! | | first, durably | then the header says | afterwards |
//! |---|---|---|---|
//! | create | `COPIED` cleared, all counts raised, L1 table copied, new snapshot table | the new snapshot table | the old snapshot table is given back |
//! | apply | counts of what the snapshot refers to raised, its L1 table copied | the new L1 table | counts of the old state lowered |
//! | delete | a snapshot table without it | that | counts of what it referred to lowered, `COPIED` set where they are one |
//!
//! A stop in between leaves counts too high and `COPIED` missing: space is lost until a repair, and clusters are copied
//! that need not be. No state of the guest is ever lost.

use std::time::Duration;

use super::FORMAT;
use super::cluster::{COMPRESSED, COPIED, L2Entry, Mapping, OFFSET};
use super::edit::Editor;
use super::header::L1Table;
use super::snapshots::{self, Snapshot};
use super::state::{Entry, State};
use crate::block::{SnapshotInfo, read_vec};
use crate::bytes::{Record, low_u32, to_u64, to_usize};
use crate::error::{Error, Result};
use crate::limits;

/// Bytes of a snapshot's name; QEMU's limit.
const NAME_BYTES: usize = 255;

impl Editor {
    /// Keeps the active state as a snapshot, taken at `now` since 1970; returns its id.
    pub fn create_snapshot(&mut self, name: &str, now: Duration) -> Result<String> {
        let state = &mut self.state;
        state.check_snapshots()?;
        if name.is_empty() || name.len() > NAME_BYTES {
            return Err(Error::invalid(format!("a snapshot's name has 1 to {NAME_BYTES} bytes")));
        }
        let count = to_u64(state.snapshots.len()).saturating_add(1);
        limits::check("internal snapshots", count, limits::SNAPSHOTS)?;
        let l1: Vec<u64> = state.l1().iter().map(|entry| entry & !COPIED).collect();
        state.verify(&l1, 1)?;
        state.prepare()?;
        state.set_copied(&|_, _| Ok(false))?;
        state.raise(&l1)?;
        let bytes: Vec<u8> = l1.iter().flat_map(|entry| entry.to_be_bytes()).collect();
        let place = state.allocate_table(to_u64(bytes.len()))?;
        state.file.write_all_at(&bytes, place.start)?;
        state.wrote();
        let ids = state.snapshots.iter().filter_map(|snapshot| snapshot.info.id.parse::<u64>().ok());
        let id = ids.max().unwrap_or(0).saturating_add(1).to_string();
        let mut snapshots = state.snapshots.clone();
        snapshots.push(Snapshot {
            position: 0,
            end: 0,
            unknown: Vec::new(),
            id: id.clone().into_bytes(),
            name: name.as_bytes().to_vec(),
            l1: L1Table { offset: place.start, size: state.header.l1.size },
            info: SnapshotInfo {
                id: id.clone(),
                name: name.to_owned(),
                vm_state_size: 0,
                date_sec: now.as_secs(),
                date_nsec: now.subsec_nanos(),
                vm_clock_sec: 0,
                vm_clock_nsec: 0,
                icount: None,
                disk_size: state.header.size,
            },
        });
        state.replace_snapshots(snapshots)?;
        state.settle()?;
        Ok(id)
    }

    /// Makes the state that a snapshot kept the active one. The snapshot stays.
    pub fn apply_snapshot(&mut self, wanted: &str) -> Result<()> {
        let state = &mut self.state;
        state.check_snapshots()?;
        let snapshot = snapshots::find(&state.snapshots, wanted)?.clone();
        let mut l1 = state.snapshot_l1(&snapshot)?;
        let size = super::header::whole_sectors(snapshot.info.disk_size);
        let needed = to_usize(size.div_ceil(state.l1_entry_bytes()));
        limits::check("L1 table bytes", to_u64(needed).saturating_mul(8), limits::QCOW2_WRITE_TABLE_BYTES)?;
        l1.resize(l1.len().max(needed), 0);
        let (old, table) = (state.l1().to_vec(), state.header.l1);
        state.verify(&l1, 1)?;
        state.verify(&old, 0)?;
        state.prepare()?;
        state.raise(&l1)?;
        state.point_to_l1(l1, size)?;
        state.lower(&old)?;
        state.release_table(table.offset, table.bytes())?;
        state.settle()?;
        state.mend_copied()
    }

    /// Deletes a snapshot.
    pub fn delete_snapshot(&mut self, wanted: &str) -> Result<()> {
        let state = &mut self.state;
        state.check_snapshots()?;
        let snapshot = snapshots::find(&state.snapshots, wanted)?.clone();
        let l1 = state.snapshot_l1(&snapshot)?;
        state.verify(&l1, 0)?;
        let rest = state.snapshots.iter().filter(|other| other.position != snapshot.position).cloned().collect();
        state.prepare()?;
        state.replace_snapshots(rest)?;
        state.lower(&l1)?;
        state.release_table(snapshot.l1.offset, snapshot.l1.bytes())?;
        state.settle()?;
        state.mend_copied()
    }
}

impl State {
    fn check_snapshots(&self) -> Result<()> {
        match self.data {
            Some(_) => Err(Error::unsupported(FORMAT, "internal snapshots with an external data file")),
            None => Ok(()),
        }
    }

    fn snapshot_l1(&self, snapshot: &Snapshot) -> Result<Vec<u64>> {
        limits::check("L1 table bytes", snapshot.l1.bytes(), limits::QCOW2_WRITE_TABLE_BYTES)?;
        let entry = Record::new(FORMAT, &[], snapshot.position);
        snapshot.l1.check(self.cluster_size(), self.file.size(), &entry, 0)?;
        let bytes = read_vec(&*self.file, snapshot.l1.offset, to_usize(snapshot.l1.bytes()))?;
        let (words, _) = bytes.as_chunks::<8>();
        Ok(words.iter().map(|word| u64::from_be_bytes(*word) & !COPIED).collect())
    }

    /// Calls `visit` with each reference from an L1 table on, by the number of the cluster.
    fn for_each_reference(&mut self, l1: &[u64], visit: &mut dyn FnMut(&mut Self, u64) -> Result<()>) -> Result<()> {
        let bits = self.header.cluster_bits;
        for table in self.l2_tables(l1)? {
            // Read before it is visited: that may give it back.
            let entries = self.used_entries(table)?;
            visit(self, table.wrapping_shr(bits))?;
            for entry in entries {
                let (start, last) = self.extent_of(&entry)?;
                for cluster in start.wrapping_shr(bits)..=last.wrapping_shr(bits) {
                    visit(self, cluster)?;
                }
            }
        }
        Ok(())
    }

    /// Looks before anything is changed whether all that an L1 table leads to is counted, and can be counted `more` times
    /// more.
    fn verify(&mut self, l1: &[u64], more: u64) -> Result<()> {
        let bits = self.header.cluster_bits;
        self.for_each_reference(l1, &mut |state, cluster| {
            let count = state.refcounts.get(cluster)?;
            if count == 0 {
                let position = cluster.wrapping_shl(bits);
                return Err(Error::corrupt(FORMAT, "reference count", position, 0, "at least 1 for a cluster in use")
                    .with_hint("guestctl check --repair all IMAGE counts the references again"));
            }
            state.refcounts.fits(count.saturating_add(more))
        })
    }

    /// The first and the last byte of what an entry refers to.
    fn extent_of(&self, entry: &Entry) -> Result<(u64, u64)> {
        let host = entry.descriptor & OFFSET;
        if entry.descriptor & COMPRESSED == 0 {
            return Ok((host, host));
        }
        let entry = L2Entry { descriptor: entry.descriptor, bitmap: 0, position: entry.position };
        match entry.run(&self.layout(), 0)?.mapping {
            Mapping::Compressed(cluster) => {
                Ok((cluster.offset, cluster.offset.saturating_add(cluster.len).saturating_sub(1)))
            }
            _ => Ok((host, host)),
        }
    }

    /// One reference more to all that an L1 table leads to.
    fn raise(&mut self, l1: &[u64]) -> Result<()> {
        self.for_each_reference(l1, &mut |state, cluster| {
            let count = state.refcounts.get(cluster)?;
            state.refcounts.set(cluster, count.saturating_add(1))?;
            if state.is_full() { state.commit() } else { Ok(()) }
        })
    }

    /// One reference less, when nothing on disk leads there from this table any more.
    fn lower(&mut self, l1: &[u64]) -> Result<()> {
        let bits = self.header.cluster_bits;
        self.for_each_reference(l1, &mut |state, cluster| {
            let offset = cluster.wrapping_shl(bits);
            state.release_later(offset..offset.saturating_add(1))?;
            if state.is_full() { state.commit() } else { Ok(()) }
        })
    }

    /// Sets `COPIED` where a cluster is counted once by now, and clears it elsewhere.
    fn mend_copied(&mut self) -> Result<()> {
        let bits = self.header.cluster_bits;
        self.set_copied(&move |state, offset| Ok(state.refcounts.get(offset.wrapping_shr(bits))? == 1))?;
        self.settle()
    }

    /// Writes a new table of snapshots and lets the header point to it; the old one is given back.
    fn replace_snapshots(&mut self, mut snapshots: Vec<Snapshot>) -> Result<()> {
        let old_len = self.snapshots.last().map_or(0, |last| last.end.saturating_sub(self.header.snapshots_offset));
        let old = self.header.snapshots_offset;
        let mut bytes = Vec::new();
        for snapshot in &mut snapshots {
            snapshot.position = to_u64(bytes.len());
            snapshot.write(&mut bytes);
            snapshot.end = to_u64(bytes.len());
        }
        limits::check("snapshot table bytes", to_u64(bytes.len()), limits::SNAPSHOT_TABLE_BYTES)?;
        let mut offset = 0;
        if !bytes.is_empty() {
            offset = self.allocate_table(to_u64(bytes.len()))?.start;
            self.file.write_all_at(&bytes, offset)?;
            self.wrote();
        }
        for snapshot in &mut snapshots {
            snapshot.position = snapshot.position.saturating_add(offset);
            snapshot.end = snapshot.end.saturating_add(offset);
        }
        self.commit()?;
        let mut fields = [0u8; 12];
        let (count, place) = fields.split_at_mut(4);
        count.copy_from_slice(&low_u32(to_u64(snapshots.len())).to_be_bytes());
        place.copy_from_slice(&offset.to_be_bytes());
        self.write_header(60, &fields)?;
        self.header.snapshots_offset = offset;
        self.header.nb_snapshots = low_u32(to_u64(snapshots.len()));
        self.snapshots = snapshots;
        self.release_table(old, old_len)
    }
}
