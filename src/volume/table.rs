//! Partition tables in one shape, whatever their kind, numbered as Linux names partitions.

use std::fmt;
use std::sync::Arc;

use super::{gpt, mbr};
use crate::block::{BlockDevice, Slice, read_vec};
use crate::bytes::to_usize;
use crate::error::Result;

/// Bytes of a sector in an MBR's terms, and of the MBR itself.
pub(super) const SECTOR: u64 = 512;

/// The kind of a partition table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TableKind {
    /// Master boot record, with a chain of extended boot records for logical partitions.
    Mbr,
    /// GUID partition table.
    Gpt,
}

impl TableKind {
    /// `msdos` or `gpt`: the words of parted and of libguestfs's `part_get_parttype`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Mbr => "msdos",
            Self::Gpt => "gpt",
        }
    }
}

impl fmt::Display for TableKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A disk's partition table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionTable {
    /// MBR or GPT.
    pub kind: TableKind,
    /// Bytes of a sector in the table's terms: 512, or 4096 for a GPT made on such a disk.
    pub sector_size: u32,
    /// The disk's identity as blkid's PTUUID: eight hexadecimal digits for an MBR (empty when it has none), a lower-case
    /// UUID for a GPT.
    pub id: String,
    /// The partitions: primaries in the order of the table, then logicals in the order of the chain.
    pub partitions: Vec<Partition>,
    /// What is odd about the table and was worked around, as sentences for the user.
    pub notes: Vec<String>,
}

/// What kind of entry a partition is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PartitionKind {
    /// One of the four of an MBR.
    Primary,
    /// A primary that holds logical partitions and no data of its own.
    Extended,
    /// One in an extended partition.
    Logical,
    /// An entry of a GPT.
    Gpt,
}

/// What a partition is said to hold.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PartitionType {
    /// The system byte of an MBR entry.
    Mbr(u8),
    /// The type GUID of a GPT entry, in lower case.
    Gpt(String),
}

impl fmt::Display for PartitionType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mbr(byte) => write!(f, "{byte:02x}"),
            Self::Gpt(uuid) => f.write_str(uuid),
        }
    }
}

/// One partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Its number as Linux names it: primaries 1 to 4, logicals from 5, the slot of a GPT entry from 1.
    pub number: u32,
    /// First byte on the disk.
    pub start: u64,
    /// Bytes.
    pub size: u64,
    /// Which kind of entry it is.
    pub kind: PartitionKind,
    /// What it is said to hold.
    pub type_id: PartitionType,
    /// The name in a GPT entry.
    pub name: Option<String>,
    /// PARTUUID as blkid and fstab spell it: a lower-case UUID in a GPT, `deb1a12b-01` in an MBR that has an id.
    pub uuid: Option<String>,
    /// The MBR's active flag, or the "legacy BIOS bootable" attribute of a GPT entry.
    pub bootable: bool,
    /// The attribute bits of a GPT entry; the boot indicator byte of an MBR entry.
    pub attributes: u64,
}

impl Partition {
    /// The partition's bytes on `disk`, the disk that was scanned.
    pub fn device(&self, disk: &Arc<dyn BlockDevice>) -> Result<Arc<dyn BlockDevice>> {
        Ok(Arc::new(Slice::new(disk.clone(), self.start, self.size)?))
    }
}

/// Reads the partition table of `device`; `None` when it has none, as a bare filesystem.
///
/// A table may have no partitions: the caller then looks at the device as a whole, as Linux does. Behind a protective or
/// hybrid MBR the GPT counts alone, and both of its copies broken is [`Corrupt`](crate::ErrorKind::Corrupt).
///
/// What ends past the device is treated as the kernel treats it: an MBR partition is cut at the device's end, a GPT entry
/// is left out; either leaves a note.
pub fn scan(device: &Arc<dyn BlockDevice>) -> Result<Option<PartitionTable>> {
    if device.size() < SECTOR {
        return Ok(None);
    }
    let sector = read_vec(device, 0, to_usize(SECTOR))?;
    let Some(record) = mbr::BootRecord::parse(&sector, 0)? else { return Ok(None) };
    if record.is_protective() {
        return gpt::scan(device).map(Some);
    }
    if !record.is_plausible(device.size(), &sector) {
        return Ok(None);
    }
    mbr::scan(device, &record).map(Some)
}
