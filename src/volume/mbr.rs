//! Master boot record and extended boot records. All integers are little-endian; there is no formal specification, this
//! follows what Linux (`block/partitions/msdos.c`) and libfdisk agree on.
//!
//! | offset | size | field | unit, accepted |
//! |---:|---:|---|---|
//! | 440 | 4 | disk signature | any; 0 is none |
//! | 446 | 16 × 4 | entries | |
//! | 510 | 2 | signature | 55 aa |
//!
//! An entry:
//!
//! | offset | size | field | unit, accepted |
//! |---:|---:|---|---|
//! | 0 | 1 | boot indicator | 00, 80 |
//! | 4 | 1 | system | 05, 0f, 85 extended; ee protective |
//! | 8 | 4 | start | sectors |
//! | 12 | 4 | length | sectors; 0 is an unused entry |
//!
//! A start counts from the disk in the MBR; in an extended boot record, from that record for data and from the first
//! extended boot record for the link to the next. Cylinder-head-sector fields are ignored, as Linux does. Sectors are 512
//! bytes: an MBR of a disk with 4096-byte sectors cannot be told apart and is not read.

use std::collections::HashSet;
use std::sync::Arc;

use super::table::{Partition, PartitionKind, PartitionTable, PartitionType, SECTOR, TableKind};
use crate::block::{BlockDevice, read_vec};
use crate::bytes::{Record, to_usize};
use crate::error::{Error, Result};
use crate::limits;

const FORMAT: &str = "mbr";
const ENTRIES: usize = 446;
const PROTECTIVE: u8 = 0xee;

/// The part of a (master or extended) boot record that describes partitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BootRecord {
    signature: u32,
    entries: [Entry; 4],
}

/// One entry, in sectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Entry {
    boot_indicator: u8,
    system: u8,
    start: u32,
    len: u32,
}

impl Entry {
    fn parse(record: &Record<'_>) -> Result<Self> {
        Ok(Self { boot_indicator: record.u8(0)?, system: record.u8(4)?, start: record.le32(8)?, len: record.le32(12)? })
    }

    fn is_extended(&self) -> bool {
        matches!(self.system, 0x05 | 0x0f | 0x85)
    }

    fn start_bytes(&self) -> u64 {
        u64::from(self.start).saturating_mul(SECTOR)
    }

    fn len_bytes(&self) -> u64 {
        u64::from(self.len).saturating_mul(SECTOR)
    }
}

impl BootRecord {
    /// The record in one sector that was read from `offset`; `None` without the signature 55 aa.
    pub(super) fn parse(sector: &[u8], offset: u64) -> Result<Option<Self>> {
        let record = Record::new(FORMAT, sector, offset);
        if record.array::<2>(510)? != &[0x55, 0xaa] {
            return Ok(None);
        }
        let mut entries = [Entry::default(); 4];
        for (index, entry) in entries.iter_mut().enumerate() {
            *entry = Entry::parse(&record.sub(ENTRIES.saturating_add(index.saturating_mul(16)), 16)?)?;
        }
        Ok(Some(Self { signature: record.le32(440)?, entries }))
    }

    /// Whether a GPT stands behind it. A hybrid MBR has other entries besides.
    pub(super) fn is_protective(&self) -> bool {
        self.valid_flags() && self.entries.iter().any(|entry| entry.system == PROTECTIVE)
    }

    fn valid_flags(&self) -> bool {
        self.entries.iter().all(|entry| matches!(entry.boot_indicator, 0x00 | 0x80))
    }

    /// Whether this is a table and not a filesystem's boot sector, which ends in 55 aa too. The boot indicators must be
    /// valid, as libblkid asks. Where the sector also reads as a FAT, NTFS or exFAT boot sector, there must be entries
    /// and they must make sense; one that starts at sector 0 (mkfs.fat writes such a one) does not.
    pub(super) fn is_plausible(&self, size: u64, sector: &[u8]) -> bool {
        if !self.valid_flags() {
            return false;
        }
        if !is_filesystem(sector) {
            return true;
        }
        let used = || self.entries.iter().filter(|entry| entry.len != 0);
        used().next().is_some() && used().all(|entry| entry.start != 0 && entry.start_bytes() < size)
    }
}

/// Whether a sector reads as the boot sector of a filesystem: a jump, then a name or a sane BIOS parameter block.
fn is_filesystem(sector: &[u8]) -> bool {
    let has = |at: usize, text: &[u8]| sector.get(at..).is_some_and(|rest| rest.starts_with(text));
    let byte = |at: usize| sector.get(at).copied().unwrap_or(0);
    let jump = (byte(0) == 0xeb && byte(2) == 0x90) || byte(0) == 0xe9;
    let named = [b"NTFS    ", b"EXFAT   ", b"-FVE-FS-"].iter().any(|name| has(3, *name));
    let sector_size = u16::from_le_bytes([byte(11), byte(12)]);
    let fat = jump
        && matches!(sector_size, 512 | 1024 | 2048 | 4096)
        && byte(13).is_power_of_two()
        && matches!(byte(16), 1 | 2)
        && (byte(21) == 0xf0 || byte(21) >= 0xf8);
    named || fat
}

/// The partitions behind the MBR `record` of `device`.
pub(super) fn scan(device: &Arc<dyn BlockDevice>, record: &BootRecord) -> Result<PartitionTable> {
    let id = match record.signature {
        0 => String::new(),
        signature => format!("{signature:08x}"),
    };
    let table =
        PartitionTable { kind: TableKind::Mbr, sector_size: 512, id, partitions: Vec::new(), notes: Vec::new() };
    let mut scan = Scan { device, table, next_logical: 5, visited: HashSet::new() };
    for (number, entry) in (1u32..).zip(&record.entries) {
        let kind = if entry.is_extended() { PartitionKind::Extended } else { PartitionKind::Primary };
        scan.add(number, entry, entry.start_bytes(), kind);
    }
    for entry in record.entries.iter().filter(|entry| entry.is_extended() && entry.len != 0) {
        scan.walk_chain(entry)?;
    }
    Ok(scan.table)
}

struct Scan<'a> {
    device: &'a Arc<dyn BlockDevice>,
    table: PartitionTable,
    next_logical: u32,
    /// Where extended boot records were read, in bytes.
    visited: HashSet<u64>,
}

impl Scan<'_> {
    /// Adds a partition that begins at byte `start`; what lies outside the device is cut off or left out. False if there
    /// is none.
    fn add(&mut self, number: u32, entry: &Entry, start: u64, kind: PartitionKind) -> bool {
        if entry.len == 0 {
            return false;
        }
        let available = self.device.size().saturating_sub(start);
        let size = entry.len_bytes().min(available);
        if size == 0 {
            self.table.notes.push(format!("partition {number} begins past the end of the disk and is left out"));
            return true;
        }
        if size < entry.len_bytes() {
            self.table.notes.push(format!("partition {number} is cut at the end of the disk"));
        }
        let uuid = Some(&self.table.id).filter(|id| !id.is_empty()).map(|id| format!("{id}-{number:02x}"));
        self.table.partitions.push(Partition {
            number,
            start,
            size,
            kind,
            type_id: PartitionType::Mbr(entry.system),
            name: None,
            uuid,
            bootable: entry.boot_indicator == 0x80,
            attributes: u64::from(entry.boot_indicator),
        });
        true
    }

    /// Follows the chain of extended boot records in `extended`. A record without signature or past the device ends it,
    /// as in the kernel; a record that was read before is a cycle.
    fn walk_chain(&mut self, extended: &Entry) -> Result<()> {
        let first = extended.start_bytes();
        let mut at = first;
        loop {
            if at.checked_add(SECTOR).is_none_or(|end| end > self.device.size()) {
                self.table
                    .notes
                    .push(format!("the extended boot record at byte {at:#x} lies past the end of the disk"));
                return Ok(());
            }
            if !self.visited.insert(at) {
                let expected = "a record that is not in the chain already";
                return Err(Error::corrupt(FORMAT, "extended boot record", at, "a record read before", expected));
            }
            let sector = read_vec(self.device, at, to_usize(SECTOR))?;
            let Some(record) = BootRecord::parse(&sector, at)? else {
                self.table.notes.push(format!("the extended boot record at byte {at:#x} has no signature"));
                return Ok(());
            };
            for (index, entry) in record.entries.iter().enumerate().filter(|(_, entry)| !entry.is_extended()) {
                // The last two slots are unused but by some old systems; then they stay inside the extended partition.
                let start = at.saturating_add(entry.start_bytes());
                let end = start.saturating_add(entry.len_bytes());
                let inside = start >= first && end <= first.saturating_add(extended.len_bytes());
                if (index < 2 || inside) && self.add(self.next_logical, entry, start, PartitionKind::Logical) {
                    self.next_logical = self.next_logical.saturating_add(1);
                    limits::check("partitions", u64::from(self.next_logical), limits::PARTITIONS)?;
                }
            }
            limits::check("extended boot records", crate::bytes::to_u64(self.visited.len()), limits::PARTITIONS)?;
            match record.entries.iter().find(|entry| entry.is_extended() && entry.len != 0) {
                Some(link) => at = first.saturating_add(link.start_bytes()),
                None => return Ok(()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::table::scan;
    use super::*;
    use crate::block::Memory;

    fn put(disk: &mut [u8], sector: usize, slot: usize, entry: (u8, u8, u32, u32)) {
        let at = sector * 512 + ENTRIES + slot * 16;
        disk[at] = entry.0;
        disk[at + 4] = entry.1;
        disk[at + 8..at + 12].copy_from_slice(&entry.2.to_le_bytes());
        disk[at + 12..at + 16].copy_from_slice(&entry.3.to_le_bytes());
        disk[sector * 512 + 510..sector * 512 + 512].copy_from_slice(&[0x55, 0xaa]);
    }

    fn scanned(disk: Vec<u8>) -> Result<Option<PartitionTable>> {
        let device: Arc<dyn BlockDevice> = Arc::new(Memory::new(disk));
        scan(&device)
    }

    fn layout(table: &PartitionTable) -> Vec<(u32, u64, u64, PartitionKind)> {
        table.partitions.iter().map(|p| (p.number, p.start / 512, p.size / 512, p.kind)).collect()
    }

    #[test]
    fn logical_offsets_count_from_their_record_and_links_from_the_first() {
        let mut disk = vec![0; 200 * 512];
        disk[440..444].copy_from_slice(&0xdeb1_a12bu32.to_le_bytes());
        put(&mut disk, 0, 0, (0x80, 0x83, 1, 9));
        put(&mut disk, 0, 1, (0, 0x0f, 10, 190));
        put(&mut disk, 10, 0, (0, 0x83, 2, 8));
        put(&mut disk, 10, 1, (0, 0x05, 50, 20));
        put(&mut disk, 60, 0, (0, 0x82, 1, 19));
        let table = scanned(disk).unwrap().unwrap();
        let expected = [
            (1, 1, 9, PartitionKind::Primary),
            (2, 10, 190, PartitionKind::Extended),
            (5, 12, 8, PartitionKind::Logical),
            (6, 61, 19, PartitionKind::Logical),
        ];
        assert_eq!(layout(&table), expected);
        assert_eq!(table.partitions[3].uuid.as_deref(), Some("deb1a12b-06"));
        assert!(table.partitions[0].bootable && !table.partitions[1].bootable);
        assert!(table.notes.is_empty());
    }

    #[test]
    fn a_chain_that_meets_itself_is_corrupt() {
        let mut disk = vec![0; 100 * 512];
        put(&mut disk, 0, 0, (0, 0x05, 10, 90));
        put(&mut disk, 10, 1, (0, 0x05, 20, 20));
        put(&mut disk, 30, 1, (0, 0x05, 0, 20));
        let error = scanned(disk).unwrap_err();
        let corrupt = error.as_corrupt().unwrap();
        assert_eq!((corrupt.field, corrupt.offset), ("extended boot record", 10 * 512));
    }

    #[test]
    fn what_passes_the_end_is_cut_or_left_out_with_a_note() {
        let mut disk = vec![0; 100 * 512];
        put(&mut disk, 0, 0, (0, 0x83, 50, 100));
        put(&mut disk, 0, 1, (0, 0x83, 100, 5));
        put(&mut disk, 0, 2, (0, 0x05, 200, 5));
        let table = scanned(disk).unwrap().unwrap();
        assert_eq!(layout(&table), [(1, 50, 50, PartitionKind::Primary)]);
        assert_eq!(table.notes.len(), 4, "{:?}", table.notes);
    }

    #[test]
    fn boot_sectors_and_noise_are_no_tables() {
        let mut fat = vec![0; 100 * 512];
        fat[..3].copy_from_slice(&[0xeb, 0x3c, 0x90]);
        fat[11..14].copy_from_slice(&[0, 2, 4]);
        (fat[16], fat[21]) = (2, 0xf8);
        put(&mut fat, 0, 3, (0, 0, 0, 0));
        assert_eq!(scanned(fat.clone()).unwrap(), None);
        put(&mut fat, 0, 0, (0, 0x0c, 0, 100));
        assert_eq!(scanned(fat.clone()).unwrap(), None, "an entry that begins at sector 0");
        put(&mut fat, 0, 0, (0, 0x0c, 1, 99));
        assert_eq!(scanned(fat).unwrap().unwrap().partitions.len(), 1);

        let mut noise = vec![0; 1024];
        put(&mut noise, 0, 0, (0x17, 0x83, 1, 1));
        assert_eq!(scanned(noise).unwrap(), None);
        assert_eq!(scanned(vec![0; 511]).unwrap(), None);
        let mut empty = vec![0; 512];
        put(&mut empty, 0, 0, (0, 0, 0, 0));
        assert_eq!(scanned(empty).unwrap().unwrap().partitions, []);
    }
}
