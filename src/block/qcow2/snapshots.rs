//! The table of internal snapshots: QEMU `docs/interop/qcow2.txt`, section "Snapshots". Entries have any length, so the
//! table is read entry by entry.
//!
//! | byte | size | field | accepted |
//! |---|---|---|---|
//! | 0 | 8 | `l1_table_offset` | checked when the snapshot is opened |
//! | 8 | 4 | `l1_size` | entries; checked when the snapshot is opened |
//! | 12 | 2 | `id_str_size` | bytes |
//! | 14 | 2 | `name_size` | bytes |
//! | 16 | 4 | `date_sec` | seconds since 1970 |
//! | 20 | 4 | `date_nsec` | nanoseconds |
//! | 24 | 8 | `vm_clock_nsec` | nanoseconds the guest had run |
//! | 32 | 4 | `vm_state_size` | bytes, unless the extra data has it |
//! | 36 | 4 | `extra_data_size` | bytes; unknown ones are passed over |
//! | 40 | 8 | extra: `vm_state_size` | bytes |
//! | 48 | 8 | extra: `disk_size` | bytes; without it the disk's size is the header's |
//! | 56 | 8 | extra: `icount` | instructions; all ones means none |
//! | … | | id, name, padding to 8 bytes | UTF-8 by convention |

use std::sync::Arc;

use super::FORMAT;
use super::header::{Header, L1Table};
use crate::block::{BlockDevice, Cached, SnapshotInfo, read_vec};
use crate::bytes::{Record, round_up, to_u64, to_usize};
use crate::error::{Error, Result};
use crate::limits;

const ENTRY_BYTES: usize = 40;
const EXTRA_BYTES: usize = 24;

/// How many snapshots an error message lists.
const LISTED: usize = 10;

/// One internal snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Snapshot {
    /// Where its entry begins in the file.
    pub position: u64,
    /// Where it ends, padding included.
    pub end: u64,
    /// Extra data past what is known.
    pub unknown: Vec<u8>,
    pub l1: L1Table,
    pub info: SnapshotInfo,
}

/// The fixed part of an entry: what is needed to know its length.
struct Entry<'a> {
    record: Record<'a>,
    id_len: usize,
    name_len: usize,
    extra_len: u64,
}

impl<'a> Entry<'a> {
    fn parse(record: Record<'a>) -> Result<Self> {
        let (id_len, name_len) = (record.be16(12)?.into(), record.be16(14)?.into());
        let extra_len = record.be32(36)?.into();
        Ok(Self { record, id_len, name_len, extra_len })
    }

    /// The snapshot, from the fixed part, the known part of the extra data, and id and name.
    fn snapshot(&self, extra: &Record<'_>, strings: &Record<'_>, disk_size: u64) -> Result<Snapshot> {
        let record = &self.record;
        let has = |end: usize| extra.len() >= end;
        let vm_clock = record.be64(24)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(Snapshot {
            position: record.offset,
            end: 0,
            unknown: Vec::new(),
            l1: L1Table { offset: record.be64(0)?, size: record.be32(8)? },
            info: SnapshotInfo {
                id: text(strings.slice(0, self.id_len)?),
                name: text(strings.slice(self.id_len, self.name_len)?),
                vm_state_size: if has(8) { extra.be64(0)? } else { record.be32(32)?.into() },
                date_sec: record.be32(16)?.into(),
                date_nsec: record.be32(20)?,
                vm_clock_sec: vm_clock.div_euclid(1_000_000_000),
                vm_clock_nsec: crate::bytes::low_u32(vm_clock.rem_euclid(1_000_000_000)),
                icount: if has(24) { Some(extra.be64(16)?).filter(|&count| count != u64::MAX) } else { None },
                disk_size: if has(16) { extra.be64(8)? } else { disk_size },
            },
        })
    }
}

/// Reads the whole table.
pub(super) fn read(file: &Arc<dyn BlockDevice>, header: &Header) -> Result<Vec<Snapshot>> {
    if header.nb_snapshots == 0 {
        return Ok(Vec::new());
    }
    read_from(&Cached::new(Arc::clone(file), 256 << 10), header)
}

/// The same with small reads, for a file that keeps what was read or is read once.
pub(super) fn read_from(file: &dyn BlockDevice, header: &Header) -> Result<Vec<Snapshot>> {
    let mut snapshots = Vec::new();
    let mut at = header.snapshots_offset;
    for _ in 0..header.nb_snapshots {
        let fixed = part(file, at, to_u64(ENTRY_BYTES))?;
        let entry = Entry::parse(Record::new(FORMAT, &fixed, at))?;
        let extra_at = at.saturating_add(to_u64(ENTRY_BYTES));
        let extra = part(file, extra_at, entry.extra_len.min(to_u64(EXTRA_BYTES)))?;
        let strings_at = extra_at.saturating_add(entry.extra_len);
        let strings_len = to_u64(entry.id_len.saturating_add(entry.name_len));
        let strings = part(file, strings_at, strings_len)?;
        let mut snapshot = entry.snapshot(
            &Record::new(FORMAT, &extra, extra_at),
            &Record::new(FORMAT, &strings, strings_at),
            header.size,
        )?;
        at = round_up(strings_at.saturating_add(strings_len), 8).unwrap_or(u64::MAX);
        let table_bytes = at.saturating_sub(header.snapshots_offset);
        limits::check("snapshot table bytes", table_bytes, limits::SNAPSHOT_TABLE_BYTES)?;
        let unknown = entry.extra_len.saturating_sub(to_u64(EXTRA_BYTES));
        if unknown > 0 {
            snapshot.unknown = part(file, extra_at.saturating_add(to_u64(EXTRA_BYTES)), unknown)?;
        }
        snapshot.end = at;
        snapshots.push(snapshot);
    }
    Ok(snapshots)
}

/// `len` bytes of the table at `at`, which must lie in the file.
fn part(file: &dyn BlockDevice, at: u64, len: u64) -> Result<Vec<u8>> {
    let room = file.size().saturating_sub(at);
    if len > room {
        let found = format!("an entry that needs {len} bytes there");
        let expected = format!("a table within the file's {} bytes", file.size());
        return Err(Error::corrupt(FORMAT, "snapshot table", at, found, expected));
    }
    read_vec(file, at, to_usize(len))
}

/// The snapshot of that name, else of that id.
pub(super) fn find<'a>(snapshots: &'a [Snapshot], wanted: &str) -> Result<&'a Snapshot> {
    let named = snapshots.iter().find(|snapshot| snapshot.info.name == wanted);
    let found = named.or_else(|| snapshots.iter().find(|snapshot| snapshot.info.id == wanted));
    found.ok_or_else(|| {
        let quoted = |text: &str| format!("'{}'", crate::bytes::escape(text.as_bytes()));
        let mut names: Vec<_> = snapshots.iter().take(LISTED).map(|snapshot| quoted(&snapshot.info.name)).collect();
        match snapshots.len().saturating_sub(LISTED) {
            0 if names.is_empty() => names.push("none".to_owned()),
            0 => {}
            more => names.push(format!("{more} more")),
        }
        Error::invalid(format!("no internal snapshot {}; there are: {}", quoted(wanted), names.join(", ")))
    })
}
