//! The header: QEMU `docs/interop/qcow2.txt`, section "Header". All integers are big-endian.
//!
//! | byte | size | field | accepted |
//! |---|---|---|---|
//! | 0 | 4 | `magic` | `QFI\xfb` |
//! | 4 | 4 | `version` | 2, 3; others unsupported |
//! | 8 | 8 | `backing_file_offset` | 0, or `header_length` to the cluster size |
//! | 16 | 4 | `backing_file_size` | bytes; at most 1023, and inside the first cluster |
//! | 20 | 4 | `cluster_bits` | 9 to 21; 14 to 21 with extended L2 entries |
//! | 24 | 8 | `size` | bytes, rounded down to sectors of 512 as QEMU does |
//! | 32 | 4 | `crypt_method` | 0 none, 1 AES, 2 LUKS; others unsupported |
//! | 36 | 4 | `l1_size` | entries; enough for `size`, at most [`limits::TABLE_BYTES`] of them |
//! | 40 | 8 | `l1_table_offset` | a multiple of the cluster size; the table lies in the file |
//! | 48 | 8 | `refcount_table_offset` | a multiple of the cluster size; reading needs no reference counts |
//! | 56 | 4 | `refcount_table_clusters` | not 0 |
//! | 60 | 4 | `nb_snapshots` | at most [`limits::SNAPSHOTS`] |
//! | 64 | 8 | `snapshots_offset` | a multiple of the cluster size |
//! | 72 | 8 | `incompatible_features` | version 3; see [`Header`]; unknown bits unsupported |
//! | 80 | 8 | `compatible_features` | version 3; any |
//! | 88 | 8 | `autoclear_features` | version 3; any, but bit 1 needs an external data file |
//! | 96 | 4 | `refcount_order` | version 3; at most 6 |
//! | 100 | 4 | `header_length` | version 3; 104 to the cluster size, a multiple of 8 |
//! | 104 | 1 | `compression_type` | if `header_length` covers it; 0 zlib, 1 zstd; non-zero with incompatible bit 3 |

use super::FORMAT;
use super::compressed::Compression;
use crate::bytes::{Record, to_u64};
use crate::error::{Error, Result};
use crate::limits;

/// Where the feature bits of version 3 lie.
pub(super) const INCOMPATIBLE_AT: u64 = 72;
pub(super) const AUTOCLEAR_AT: u64 = 88;

/// Bytes of every field that is known.
pub(super) const HEADER_BYTES: usize = 112;

pub(super) const DIRTY: u64 = 1;
pub(super) const CORRUPT: u64 = 1 << 1;
const DATA_FILE: u64 = 1 << 2;
const COMPRESSION_TYPE: u64 = 1 << 3;
const EXTENDED_L2: u64 = 1 << 4;
const KNOWN_INCOMPATIBLE: u64 = DIRTY | CORRUPT | DATA_FILE | COMPRESSION_TYPE | EXTENDED_L2;
const LAZY_REFCOUNTS: u64 = 1;
pub(super) const RAW_DATA_FILE: u64 = 1 << 1;

/// How guest data is encrypted, which is not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encryption {
    Aes,
    Luks,
}

/// The header's fields, checked against one another; nothing is known yet about the file they lie in.
#[derive(Debug, Clone)]
pub(super) struct Header {
    pub version: u32,
    /// Offset and length of the backing file's name.
    pub backing_file: Option<(u64, u64)>,
    pub cluster_bits: u32,
    pub size: u64,
    pub encryption: Option<Encryption>,
    pub l1: L1Table,
    /// Where the refcount table lies.
    pub refcount_table_offset: u64,
    /// Its length in clusters.
    pub refcount_table_clusters: u32,
    pub nb_snapshots: u32,
    pub snapshots_offset: u64,
    pub dirty: bool,
    pub corrupt: bool,
    pub data_file: bool,
    pub extended_l2: bool,
    /// Incompatible features that are not known.
    pub unknown_features: u64,
    pub lazy_refcounts: bool,
    pub data_file_raw: bool,
    /// All autoclear features, known or not; none in version 2.
    pub autoclear: u64,
    /// All incompatible features.
    pub incompatible: u64,
    pub refcount_bits: u32,
    pub header_length: u64,
    pub compression: Compression,
}

/// Where an L1 table lies: the active one, or a snapshot's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct L1Table {
    pub offset: u64,
    /// Entries.
    pub size: u32,
}

impl L1Table {
    /// Its length in bytes.
    pub(super) fn bytes(self) -> u64 {
        u64::from(self.size).saturating_mul(8)
    }

    /// Holds the table against what every table must be: aligned, within the budget, and inside the file. `record` and
    /// `at` say where the table's offset is written.
    pub(super) fn check(self, cluster_size: u64, file_size: u64, record: &Record<'_>, at: usize) -> Result<()> {
        limits::check("L1 table bytes", self.bytes(), limits::TABLE_BYTES)?;
        aligned(record, "l1_table_offset", at, self.offset, cluster_size)?;
        match self.offset.checked_add(self.bytes()) {
            Some(end) if end <= file_size || self.size == 0 => Ok(()),
            _ => {
                let expected = format!("a table of {} bytes within the file's {file_size}", self.bytes());
                Err(record.corrupt("l1_table_offset", at, format!("{:#x}", self.offset), expected))
            }
        }
    }
}

impl Header {
    /// Parses the first [`HEADER_BYTES`] of a file, or as many as there are.
    pub(super) fn parse(record: &Record<'_>) -> Result<Self> {
        if record.array(0)? != b"QFI\xfb" {
            return Err(record.corrupt("magic", 0, format!("{:#x}", record.be32(0)?), "0x514649fb"));
        }
        let version = record.be32(4)?;
        if !matches!(version, 2 | 3) {
            return Err(Error::unsupported(FORMAT, format!("version {version}")));
        }
        let cluster_bits = record.be32(20)?;
        if !(9..=21).contains(&cluster_bits) {
            return Err(record.corrupt("cluster_bits", 20, cluster_bits, "9 to 21"));
        }
        let cluster_size = 1u64.wrapping_shl(cluster_bits);
        let extra = if version == 2 { Extra::VERSION_2 } else { Extra::parse(record, cluster_size)? };
        let extended_l2 = extra.incompatible & EXTENDED_L2 != 0;
        if extended_l2 && cluster_bits < 14 {
            return Err(record.corrupt("cluster_bits", 20, cluster_bits, "at least 14 with extended L2 entries"));
        }
        let encryption = match record.be32(32)? {
            0 => None,
            1 => Some(Encryption::Aes),
            2 => Some(Encryption::Luks),
            other => return Err(Error::unsupported(FORMAT, format!("encryption method {other}"))),
        };
        let header = Self {
            version,
            backing_file: backing_file(record, extra.header_length, cluster_size)?,
            cluster_bits,
            size: whole_sectors(record.be64(24)?),
            encryption,
            l1: L1Table { offset: record.be64(40)?, size: record.be32(36)? },
            refcount_table_offset: record.be64(48)?,
            refcount_table_clusters: record.be32(56)?,
            nb_snapshots: record.be32(60)?,
            snapshots_offset: record.be64(64)?,
            dirty: extra.incompatible & DIRTY != 0,
            corrupt: extra.incompatible & CORRUPT != 0,
            data_file: extra.incompatible & DATA_FILE != 0,
            extended_l2,
            unknown_features: extra.incompatible & !KNOWN_INCOMPATIBLE,
            lazy_refcounts: extra.compatible & LAZY_REFCOUNTS != 0,
            data_file_raw: extra.autoclear & RAW_DATA_FILE != 0,
            autoclear: extra.autoclear,
            incompatible: extra.incompatible,
            refcount_bits: extra.refcount_bits,
            header_length: extra.header_length,
            compression: extra.compression,
        };
        header.check_tables(record)?;
        Ok(header)
    }

    /// Bytes of a cluster.
    pub(super) fn cluster_size(&self) -> u64 {
        1u64.wrapping_shl(self.cluster_bits)
    }

    /// How many bits of a guest offset one L2 table decides: an L1 entry stands for that many bytes.
    pub(super) fn l1_entry_bits(&self) -> u32 {
        let entry_bits = if self.extended_l2 { 4 } else { 3 };
        self.cluster_bits.saturating_mul(2).saturating_sub(entry_bits)
    }

    /// Where the header extensions end at the latest.
    pub(super) fn extensions_end(&self) -> u64 {
        self.backing_file.map_or(self.cluster_size(), |(offset, _)| offset)
    }

    fn check_tables(&self, record: &Record<'_>) -> Result<()> {
        let needed = self.size.div_ceil(1u64.wrapping_shl(self.l1_entry_bits()));
        if u64::from(self.l1.size) < needed {
            let expected = format!("at least {needed} entries for {} bytes", self.size);
            return Err(record.corrupt("l1_size", 36, self.l1.size, expected));
        }
        aligned(record, "refcount_table_offset", 48, record.be64(48)?, self.cluster_size())?;
        if record.be32(56)? == 0 {
            return Err(record.corrupt("refcount_table_clusters", 56, 0, "at least 1"));
        }
        limits::check("internal snapshots", self.nb_snapshots.into(), limits::SNAPSHOTS)?;
        aligned(record, "snapshots_offset", 64, self.snapshots_offset, self.cluster_size())?;
        if self.data_file_raw && !self.data_file {
            return Err(record.corrupt("autoclear_features", 88, "bit 1", "bit 1 only with an external data file"));
        }
        Ok(())
    }
}

/// The fields that version 3 added.
struct Extra {
    incompatible: u64,
    compatible: u64,
    autoclear: u64,
    refcount_bits: u32,
    header_length: u64,
    compression: Compression,
}

impl Extra {
    const VERSION_2: Self = Self {
        incompatible: 0,
        compatible: 0,
        autoclear: 0,
        refcount_bits: 16,
        header_length: 72,
        compression: Compression::Zlib,
    };

    fn parse(record: &Record<'_>, cluster_size: u64) -> Result<Self> {
        let incompatible = record.be64(72)?;
        let refcount_order = record.be32(96)?;
        if refcount_order > 6 {
            return Err(record.corrupt("refcount_order", 96, refcount_order, "at most 6"));
        }
        let header_length = u64::from(record.be32(100)?);
        if !(104..=cluster_size).contains(&header_length) || !header_length.is_multiple_of(8) {
            let expected = format!("a multiple of 8 from 104 to {cluster_size}");
            return Err(record.corrupt("header_length", 100, header_length, expected));
        }
        let compression_type = if header_length > 104 { record.u8(104)? } else { 0 };
        let compression = match compression_type {
            0 => Compression::Zlib,
            1 => Compression::Zstd,
            other => return Err(Error::unsupported(FORMAT, format!("compression type {other}"))),
        };
        if (incompatible & COMPRESSION_TYPE != 0) != (compression_type != 0) {
            let expected = "non-zero exactly when incompatible feature bit 3 is set";
            return Err(record.corrupt("compression_type", 104, compression_type, expected));
        }
        Ok(Self {
            incompatible,
            compatible: record.be64(80)?,
            autoclear: record.be64(88)?,
            refcount_bits: 1u32.wrapping_shl(refcount_order),
            header_length,
            compression,
        })
    }
}

fn backing_file(record: &Record<'_>, header_length: u64, cluster_size: u64) -> Result<Option<(u64, u64)>> {
    let (offset, len) = (record.be64(8)?, u64::from(record.be32(16)?));
    if offset == 0 {
        return Ok(None);
    }
    if !(header_length..=cluster_size).contains(&offset) {
        let expected = format!("0 or {header_length} to {cluster_size}");
        return Err(record.corrupt("backing_file_offset", 8, format!("{offset:#x}"), expected));
    }
    let room = cluster_size.saturating_sub(offset).min(1023);
    if len > room {
        return Err(record.corrupt("backing_file_size", 16, len, format!("at most {room} bytes")));
    }
    Ok((len > 0).then_some((offset, len)))
}

pub(super) fn aligned(
    record: &Record<'_>,
    field: &'static str,
    at: usize,
    offset: u64,
    cluster_size: u64,
) -> Result<()> {
    if offset.is_multiple_of(cluster_size) {
        return Ok(());
    }
    Err(record.corrupt(field, at, format!("{offset:#x}"), format!("a multiple of {cluster_size}")))
}

/// A disk's size as QEMU sees it: in whole sectors of 512 bytes.
pub(super) fn whole_sectors(size: u64) -> u64 {
    size & !511
}

/// Bytes of the header that a file of this size has.
pub(super) fn header_len(file_size: u64) -> usize {
    crate::bytes::to_usize(file_size.min(to_u64(HEADER_BYTES)))
}
