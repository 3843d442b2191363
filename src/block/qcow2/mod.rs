//! qcow2, QEMU's copy-on-write format, versions 2 and 3, for reading. Specification: QEMU `docs/interop/qcow2.txt`.
//!
//! ```text
//!   header ── extensions, backing file name          (first cluster)
//!     ├── L1 table ── L2 tables ── clusters of guest data, compressed or not
//!     ├── snapshot table ── an L1 table for each snapshot
//!     └── reference counts, which only writers need
//! ```
//!
//! | structure | table in |
//! |---|---|
//! | header, feature bits | `header` |
//! | header extensions | `extensions` |
//! | internal snapshots | `snapshots` |
//! | L1 and L2 tables | `tables` |
//! | L2 entries, subclusters | `cluster` |
//! | compressed clusters | `compressed` |
//!
//! Refused: encrypted guest data, incompatible features without a name above, compression types but zlib and zstd.
//! An image that is marked dirty or corrupt is read: those marks concern writers. Where QEMU ignores reserved bits they
//! are ignored; offsets that are not aligned, or that begin past the end of the file, are not.

mod audit;
mod bitmaps;
mod check;
mod cluster;
mod compressed;
mod counts;
#[cfg(test)]
mod crash_tests;
mod disk;
mod edit;
mod extensions;
mod header;
mod pack;
mod refcounts;
mod repair;
mod snapshot_edit;
mod snapshots;
mod state;
mod tables;
#[cfg(test)]
mod tests;
mod writable;
mod writer;

use std::ops::Range;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use self::cluster::Layout;
use self::disk::{Disk, Parts};
pub use self::edit::Editor;
use self::extensions::Extensions;
use self::header::{Encryption, Header, L1Table};
pub use self::repair::Repair;
use self::snapshots::Snapshot;
pub use self::writable::WritableQcow2;
pub(crate) use self::writer::writer;
use super::check::Findings;
use super::gate::{Reference, ReferenceKind};
use super::info::FormatSpecific;
use super::open::OpenContext;
use super::probe::ImageFormat;
use super::writable::Resizable;
use super::{BlockDevice, Extent, HostRange, ImageInfo, Status, Surveyor, Sweep, WritableFile, read_vec};
use crate::bytes::{Record, to_usize};
use crate::error::{Error, Result};
use crate::limits;

const FORMAT: &str = "qcow2";

/// A qcow2 image, as the disk of its active state or of one snapshot.
#[derive(Debug)]
pub struct Qcow2 {
    header: Header,
    size: u64,
    names: Names,
    snapshots: Vec<Snapshot>,
    /// None when only the headers were asked for.
    disk: Option<Disk>,
}

/// Holds references and reference counts of the image in `file` against one another.
pub fn check(file: &dyn BlockDevice) -> Result<Findings> {
    Ok(check::examine(file)?.findings)
}

/// Checks the image in `file` and repairs it: what was wrong before, and what is now.
pub fn repair(file: WritableFile, what: Repair) -> Result<(Findings, Findings)> {
    let file: Arc<dyn Resizable> = Arc::new(file);
    repair::repair(&file, what)
}

/// The files that an image names, as they stand in it.
#[derive(Debug, Default)]
struct Names {
    backing_file: Option<Vec<u8>>,
    backing_format: Option<String>,
    data_file: Option<Vec<u8>>,
}

impl Qcow2 {
    pub(crate) fn open(file: Arc<dyn BlockDevice>, context: &OpenContext<'_>) -> Result<Self> {
        let head = read_vec(&file, 0, header::header_len(file.size()))?;
        let record = Record::new(FORMAT, &head, 0);
        let header = Header::parse(&record)?;
        let names = Names::read(&file, &header)?;
        header.l1.check(header.cluster_size(), file.size(), &record, 40)?;

        // Only the image that was asked for shows its snapshots; those of its backing files say nothing about it.
        let snapshots = if context.depth == 0 { snapshots::read(&file, &header)? } else { Vec::new() };
        let (l1, size) = match context.snapshot {
            None => (header.l1, header.size),
            Some(wanted) => snapshot_state(snapshots::find(&snapshots, wanted)?, &header, file.size())?,
        };
        let disk = match (context.follow, header.encryption) {
            (false, _) => None,
            (true, None) => Some(open_disk(file, &header, &names, l1, size, context)?),
            (true, Some(Encryption::Aes)) => return Err(Error::unsupported(FORMAT, "encryption (AES)")),
            (true, Some(Encryption::Luks)) => return Err(Error::unsupported(FORMAT, "encryption (LUKS)")),
        };
        Ok(Self { header, size, names, snapshots, disk })
    }

    pub(crate) fn info(&self, filename: String) -> ImageInfo {
        let header = &self.header;
        let version_3 = header.version >= 3;
        let mut info = ImageInfo::new(filename, ImageFormat::Qcow2, self.size);
        info.cluster_size = Some(header.cluster_size());
        info.encrypted = header.encryption.is_some();
        info.dirty_flag = Some(header.dirty);
        if let Some(name) = self.names.backing_file.as_deref().map(String::from_utf8_lossy) {
            info.full_backing_filename = Some(seen_from(&info.filename, &name));
            info.backing_filename = Some(name.into_owned());
            info.backing_filename_format.clone_from(&self.names.backing_format);
        }
        info.snapshots = self.snapshots.iter().map(|snapshot| snapshot.info.clone()).collect();
        info.format_specific = Some(FormatSpecific::Qcow2 {
            compat: if version_3 { "1.1" } else { "0.10" }.to_owned(),
            compression_type: header.compression.name().to_owned(),
            lazy_refcounts: version_3.then_some(header.lazy_refcounts),
            refcount_bits: header.refcount_bits,
            corrupt: version_3.then_some(header.corrupt),
            extended_l2: version_3.then_some(header.extended_l2),
            data_file: self.names.data_file.as_deref().map(|name| String::from_utf8_lossy(name).into_owned()),
            data_file_raw: header.data_file.then_some(header.data_file_raw),
        });
        info
    }

    /// The backing file, as it is named.
    pub(crate) fn backing_reference(&self) -> Result<Option<Reference>> {
        self.names.backing_reference()
    }

    fn disk(&self) -> Result<&Disk> {
        self.disk.as_ref().ok_or_else(|| Error::invalid("the image was opened for its headers only"))
    }
}

impl Names {
    /// Reads the header extensions and the backing file's name, and refuses what the feature bits demand and nobody
    /// here knows.
    fn read(file: &Arc<dyn BlockDevice>, header: &Header) -> Result<Self> {
        let end = header.extensions_end().min(file.size());
        let start = header.header_length.min(end);
        let area = read_vec(file, start, to_usize(end.saturating_sub(start)))?;
        let extensions = Extensions::parse_known(&Record::new(FORMAT, &area, start), header.unknown_features)?;
        let backing_file = match header.backing_file {
            None => None,
            Some((offset, len)) if offset.saturating_add(len) <= file.size() => {
                let mut name = read_vec(file, offset, to_usize(len))?;
                // A name ends at a NUL for QEMU.
                name.truncate(name.iter().position(|&byte| byte == 0).unwrap_or(name.len()));
                Some(name).filter(|name| !name.is_empty())
            }
            Some((offset, len)) => {
                let expected = format!("a name of {len} bytes within the file's {}", file.size());
                return Err(Error::corrupt(FORMAT, "backing_file_offset", 8, format!("{offset:#x}"), expected));
            }
        };
        Ok(Self {
            backing_file,
            backing_format: extensions.backing_format.map(|name| String::from_utf8_lossy(name).into_owned()),
            data_file: extensions.data_file.filter(|_| header.data_file).map(<[u8]>::to_vec),
        })
    }

    /// The backing file, in the stated format if there is one.
    fn backing_reference(&self) -> Result<Option<Reference>> {
        let Some(name) = &self.backing_file else { return Ok(None) };
        let format = self.backing_format.as_deref().filter(|name| !name.is_empty());
        let format = format.map(ImageFormat::from_str).transpose()?;
        Ok(Some(Reference { kind: ReferenceKind::Backing, name: name.clone(), format }))
    }

    /// Opens the backing file's disk, in the stated format or else in the probed one.
    fn open_backing(&self, context: &OpenContext<'_>) -> Result<Option<Arc<dyn BlockDevice>>> {
        self.backing_reference()?.map(|reference| context.open_image(&reference)).transpose()
    }

    fn open_data_file(&self, context: &OpenContext<'_>) -> Result<Arc<dyn BlockDevice>> {
        let Some(name) = &self.data_file else {
            return Err(Error::unsupported(FORMAT, "an external data file whose name is not in the image"));
        };
        let reference = Reference { kind: ReferenceKind::DataFile, name: name.clone(), format: Some(ImageFormat::Raw) };
        let (file, _) = context.open_file(&reference)?;
        Ok(Arc::new(file))
    }
}

/// The L1 table and the disk's size in the state that a snapshot kept.
fn snapshot_state(snapshot: &Snapshot, header: &Header, file_size: u64) -> Result<(L1Table, u64)> {
    let entry = Record::new(FORMAT, &[], snapshot.position);
    snapshot.l1.check(header.cluster_size(), file_size, &entry, 0)?;
    // The table may be shorter than the disk, but no table can be longer than its budget.
    let size = header::whole_sectors(snapshot.info.disk_size);
    let most = limits::TABLE_BYTES.wrapping_shr(3).wrapping_shl(header.l1_entry_bits());
    if size > most {
        return Err(entry.corrupt("disk_size", 48, size, format!("at most {most}")));
    }
    Ok((snapshot.l1, size))
}

fn open_disk(
    file: Arc<dyn BlockDevice>,
    header: &Header,
    names: &Names,
    l1: L1Table,
    size: u64,
    context: &OpenContext<'_>,
) -> Result<Disk> {
    let data = if header.data_file { names.open_data_file(context)? } else { Arc::clone(&file) };
    let backing = names.open_backing(context)?;
    let layout = Layout {
        version: header.version,
        cluster_bits: header.cluster_bits,
        extended_l2: header.extended_l2,
        external: header.data_file,
        file_size: file.size(),
        data_size: data.size(),
    };
    let (compression, depth) = (header.compression, context.depth);
    Disk::new(Parts { size, layout, l1, file, data, backing, compression, depth })
}

/// The name of a backing file as seen from where its image was named: relative names start from the image's directory,
/// absolute ones and those with a protocol stand for themselves.
fn seen_from(image: &str, name: &str) -> String {
    let has_protocol = name.split('/').next().is_some_and(|first| first.contains(':'));
    match image.rsplit_once('/') {
        Some((directory, _)) if !has_protocol && !Path::new(name).is_absolute() => format!("{directory}/{name}"),
        _ => name.to_owned(),
    }
}

impl BlockDevice for Qcow2 {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.disk()?.read_exact_at(buf, offset)
    }

    fn next_extent(&self, range: Range<u64>) -> Result<Extent> {
        self.disk()?.next_extent(range)
    }

    fn host_range(&self, range: Range<u64>) -> Option<HostRange<'_>> {
        self.disk.as_ref()?.host_range(range)
    }

    fn status(&self, range: Range<u64>) -> Result<Status> {
        self.disk()?.status(range)
    }

    fn surveyor(&self) -> Option<Box<dyn Surveyor + '_>> {
        self.disk.as_ref().map(|disk| -> Box<dyn Surveyor + '_> { Box::new(disk.surveyor()) })
    }

    fn audit(&self, sweep: Sweep) -> Result<()> {
        self.disk()?.audit(sweep)
    }
}
