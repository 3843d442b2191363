//! VMDK, the VMware virtual disk: monolithicSparse, streamOptimized, monolithicFlat, twoGbMaxExtentSparse,
//! twoGbMaxExtentFlat and vmfs, with parents. VMware, *Virtual Disk Format 5.0*.
//!
//! | part | is about |
//! |---|---|
//! | `descriptor` | the text that names extents and the parent |
//! | `header` | the header and footer of a sparse extent |
//! | `sparse` | grain directory, grain tables, runs of grains |
//! | `grain` | compressed grains |
//! | `writer` | new images |
//!
//! Files that the descriptor names, extents and the parent, are opened through the caller's gate and never by
//! [`ImageInfo::read`](super::ImageInfo::read). Refused by name: ESX sparse extents (COWD, seSparse), raw devices,
//! encryption.

mod check;
mod descriptor;
mod grain;
mod header;
mod sparse;
mod writer;

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::gate::{Reference, ReferenceKind};
use super::info::VmdkExtentInfo;
use super::open::OpenContext;
use super::{
    BlockDevice, Extent, ExtentKind, FormatSpecific, HostRange, ImageFormat, ImageInfo, Slice, Status, Surveyor, Sweep,
    check_range, range_len, read_vec,
};
use crate::bytes::{to_u64, to_usize};
use crate::error::{Error, Result};
use crate::limits;

pub(crate) use check::check;
pub(crate) use writer::writer;

use descriptor::{Descriptor, ExtentLine, ExtentType, NO_PARENT};
use sparse::{Caches, Held, Place, Sparse};

const FORMAT: &str = "vmdk";

/// A VMDK image.
#[derive(Debug)]
pub struct Vmdk {
    size: u64,
    descriptor: Descriptor,
    parts: Vec<Part>,
    parent: Option<Arc<dyn BlockDevice>>,
    caches: Caches,
    /// The directory that names in the descriptor are relative to.
    directory: std::path::PathBuf,
}

/// One extent on the disk.
#[derive(Debug)]
struct Part {
    start: u64,
    size: u64,
    source: Source,
    /// As `qemu-img info` shows them: the file, and the type in the descriptor, empty for an embedded one.
    filename: String,
    kind: &'static str,
}

#[derive(Debug)]
enum Source {
    Sparse(Sparse),
    Flat(Arc<dyn BlockDevice>),
    Zero,
    /// Not opened: only the descriptor was asked for.
    Closed,
}

/// Where a byte range of the disk comes from, after the part was found; ranges are in the part's own offsets.
struct Found<'a> {
    part: &'a Part,
    range: Range<u64>,
}

impl Vmdk {
    pub(crate) fn open(file: Arc<dyn BlockDevice>, context: &OpenContext<'_>) -> Result<Self> {
        let magic = read_vec(&file, 0, to_usize(file.size().min(4)))?;
        let mut budget = DirectoryBudget(limits::VMDK_DIRECTORY_BYTES);
        let (descriptor, parts) = if magic == header::MAGIC {
            open_monolithic(file, context, &mut budget)?
        } else {
            limits::check("descriptor bytes", file.size(), limits::DESCRIPTOR_BYTES)?;
            let descriptor = descriptor::parse(&read_vec(&file, 0, to_usize(file.size()))?, 0)?;
            let parts = open_parts(&descriptor, context, &mut budget)?;
            (descriptor, parts)
        };
        let size = parts.last().map_or(0, |last| last.start.saturating_add(last.size));
        let compressed = parts.iter().filter_map(|part| match &part.source {
            Source::Sparse(sparse) if sparse.header.compressed => Some(sparse.header.grain_size),
            _ => None,
        });
        let caches = Caches::new(compressed.max().unwrap_or(limits::TABLE_BYTES));
        let parent = match descriptor.parent_cid {
            NO_PARENT => None,
            _ => open_parent(&descriptor, context)?,
        };
        let directory = context.path.parent().unwrap_or(Path::new("")).to_owned();
        Ok(Self { size, descriptor, parts, parent, caches, directory })
    }

    pub(crate) fn info(&self, filename: String) -> ImageInfo {
        let extents: Vec<VmdkExtentInfo> = self.parts.iter().map(Part::info).collect();
        let mut info = ImageInfo::new(filename, ImageFormat::Vmdk, self.size);
        let first = extents.first().and_then(|extent| extent.cluster_size);
        info.cluster_size = first.filter(|_| extents.iter().all(|extent| extent.cluster_size == first));
        info.dirty_flag = Some(false);
        if self.descriptor.parent_cid != NO_PARENT
            && let Some(hint) = &self.descriptor.parent_hint
        {
            info.full_backing_filename = Some(self.directory.join(hint).display().to_string());
            info.backing_filename = Some(hint.clone());
            info.backing_filename_format = Some(FORMAT.to_owned());
        }
        info.format_specific = Some(FormatSpecific::Vmdk {
            create_type: self.descriptor.create_type.clone(),
            cid: self.descriptor.cid,
            parent_cid: self.descriptor.parent_cid,
            extents,
        });
        info
    }

    /// The part at `range.start`, and how much of `range` is in it.
    fn find(&self, range: &Range<u64>) -> Result<Found<'_>> {
        check_range(self.size, range.start, to_usize(range_len(range)))?;
        let index = self.parts.partition_point(|part| part.start <= range.start).checked_sub(1);
        let part = index.and_then(|index| self.parts.get(index));
        let part = part.ok_or_else(|| Error::corrupt(FORMAT, "offset", range.start, "no extent there", "one"))?;
        let within = range.start.saturating_sub(part.start);
        let end = range.end.saturating_sub(part.start).min(part.size);
        Ok(Found { part, range: within..end })
    }

    /// The bytes of the parent at `range`; past its end there are none.
    fn in_parent(&self, range: Range<u64>) -> Option<(&Arc<dyn BlockDevice>, Range<u64>)> {
        let parent = self.parent.as_ref()?;
        (range.start < parent.size()).then(|| (parent, range.start..range.end.min(parent.size())))
    }

    /// Reads what this image has not allocated.
    fn read_unallocated(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let end = offset.saturating_add(to_u64(buf.len()));
        let Some((parent, range)) = self.in_parent(offset..end) else {
            buf.fill(0);
            return Ok(());
        };
        if let Some((head, tail)) = buf.split_at_mut_checked(to_usize(range_len(&range))) {
            parent.read_exact_at(head, offset)?;
            tail.fill(0);
        }
        Ok(())
    }

    /// Reads the beginning of `buf` and tells how many bytes it was.
    fn read_some(&self, held: &mut Held, buf: &mut [u8], offset: u64) -> Result<usize> {
        let Found { part, range } = self.find(&(offset..offset.saturating_add(to_u64(buf.len()))))?;
        let (place, len) = match &part.source {
            Source::Sparse(sparse) => {
                let run = sparse.run(&self.caches, held, range.clone())?;
                (run.place, run.len)
            }
            Source::Flat(_) => (Place::Data(range.start), range_len(&range)),
            Source::Zero => (Place::Zero, range_len(&range)),
            Source::Closed => return Err(closed()),
        };
        let len = to_usize(len);
        let buf = buf.get_mut(..len).unwrap_or_default();
        match (place, &part.source) {
            (Place::Zero, _) => buf.fill(0),
            (Place::Data(at), Source::Sparse(sparse)) => sparse.read_data(buf, at)?,
            (Place::Compressed(marker), Source::Sparse(sparse)) => {
                sparse.read_compressed(&self.caches, buf, range.start, marker)?;
            }
            (Place::Data(at), Source::Flat(device)) => device.read_exact_at(buf, at)?,
            _ => self.read_unallocated(buf, offset)?,
        }
        Ok(len)
    }
}

impl Vmdk {
    fn extent(&self, held: &mut Held, range: Range<u64>) -> Result<Extent> {
        let found = self.find(&range)?;
        match &found.part.source {
            Source::Sparse(sparse) => {
                let run = sparse.kept_run(&self.caches, held, found.range)?;
                let len = run.len;
                Ok(match run.place {
                    Place::Zero => Extent { kind: ExtentKind::Zero, len },
                    Place::Data(_) | Place::Compressed(_) => Extent { kind: ExtentKind::Data, len },
                    Place::Unallocated => match self.in_parent(range.start..range.start.saturating_add(len)) {
                        Some((parent, range)) => parent.next_extent(range)?,
                        None => Extent { kind: ExtentKind::Hole, len },
                    },
                })
            }
            Source::Flat(device) => device.next_extent(found.range),
            Source::Zero => Ok(Extent { kind: ExtentKind::Zero, len: range_len(&found.range) }),
            Source::Closed => Err(closed()),
        }
    }

    fn status_of(&self, held: &mut Held, range: Range<u64>) -> Result<Status> {
        let found = self.find(&range)?;
        let stored = |Extent { kind, len }, compressed, offset| Status {
            len,
            kind,
            depth: 0,
            allocated: true,
            compressed,
            offset,
        };
        match &found.part.source {
            Source::Sparse(sparse) => {
                let run = sparse.kept_run(&self.caches, held, found.range)?;
                let data = Extent { kind: ExtentKind::Data, len: run.len };
                Ok(match run.place {
                    Place::Zero => stored(Extent { kind: ExtentKind::Zero, len: run.len }, false, None),
                    Place::Data(offset) => stored(data, false, Some(sparse.in_file(offset, run.len).start)),
                    Place::Compressed(_) => stored(data, true, None),
                    Place::Unallocated => match self.in_parent(range.start..range.start.saturating_add(run.len)) {
                        Some((parent, range)) => parent.status(range)?.seen_from_above(),
                        None => Status::unallocated(run.len),
                    },
                })
            }
            Source::Flat(device) => device.status(found.range),
            Source::Zero => Ok(stored(self.next_extent(range)?, false, None)),
            Source::Closed => Err(closed()),
        }
    }
}

/// A walk over the disk that stays in a grain table as long as it can.
struct Surveying<'a> {
    disk: &'a Vmdk,
    held: Held,
}

impl Surveyor for Surveying<'_> {
    fn next_extent(&mut self, range: Range<u64>) -> Result<Extent> {
        self.disk.extent(&mut self.held, range)
    }

    fn status(&mut self, range: Range<u64>) -> Result<Status> {
        self.disk.status_of(&mut self.held, range)
    }
}

impl BlockDevice for Vmdk {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self.size, offset, buf.len())?;
        let (mut rest, mut at) = (buf, offset);
        let mut held = Held::default();
        while !rest.is_empty() {
            let done = self.read_some(&mut held, rest, at)?;
            at = at.saturating_add(to_u64(done.max(1)));
            rest = rest.get_mut(done.max(1)..).unwrap_or_default();
        }
        Ok(())
    }

    fn next_extent(&self, range: Range<u64>) -> Result<Extent> {
        self.extent(&mut Held::default(), range)
    }

    fn status(&self, range: Range<u64>) -> Result<Status> {
        self.status_of(&mut Held::default(), range)
    }

    fn surveyor(&self) -> Option<Box<dyn Surveyor + '_>> {
        Some(Box::new(Surveying { disk: self, held: Held::default() }))
    }

    fn audit(&self, sweep: Sweep) -> Result<()> {
        for part in &self.parts {
            match &part.source {
                Source::Sparse(sparse) => sparse.audit(&self.caches, sweep)?,
                Source::Flat(device) => device.audit(sweep)?,
                Source::Zero | Source::Closed => {}
            }
        }
        self.parent.as_ref().map_or(Ok(()), |parent| parent.audit(sweep))
    }

    fn host_range(&self, range: Range<u64>) -> Option<HostRange<'_>> {
        let found = self.find(&range).ok()?;
        match &found.part.source {
            Source::Sparse(sparse) => {
                let run = sparse.run(&self.caches, &mut Held::default(), found.range).ok()?;
                match run.place {
                    Place::Data(offset) => sparse.file().host_range(sparse.in_file(offset, run.len)),
                    Place::Unallocated => {
                        let (parent, range) = self.in_parent(range.start..range.start.saturating_add(run.len))?;
                        parent.host_range(range)
                    }
                    Place::Zero | Place::Compressed(_) => None,
                }
            }
            Source::Flat(device) => device.host_range(found.range),
            Source::Zero | Source::Closed => None,
        }
    }
}

impl Part {
    fn info(&self) -> VmdkExtentInfo {
        let sparse = match &self.source {
            Source::Sparse(sparse) => Some(&sparse.header),
            _ => None,
        };
        VmdkExtentInfo {
            filename: self.filename.clone(),
            format: self.kind.to_owned(),
            virtual_size: self.size,
            cluster_size: sparse.map(|header| header.grain_size),
            compressed: sparse.is_some_and(|header| header.compressed),
        }
    }
}

fn closed() -> Error {
    Error::invalid("the image was opened for its headers alone")
}

/// Bytes that the grain directories of all extents together may still take.
struct DirectoryBudget(u64);

impl DirectoryBudget {
    fn open(&mut self, file: Arc<dyn BlockDevice>, number: usize) -> Result<Sparse> {
        let header = header::read(&file)?;
        let len = sparse::directory_entries(&header).saturating_mul(4);
        limits::check("grain directory bytes", len, self.0)?;
        self.0 = self.0.saturating_sub(len);
        Sparse::open(file, header, number)
    }
}

/// A sparse extent that is the whole disk, with its descriptor inside.
fn open_monolithic(
    file: Arc<dyn BlockDevice>,
    context: &OpenContext<'_>,
    budget: &mut DirectoryBudget,
) -> Result<(Descriptor, Vec<Part>)> {
    let sparse = budget.open(file.clone(), 0)?;
    let descriptor = match sparse.header.descriptor {
        Some((offset, size)) => descriptor::parse(&read_vec(&file, offset, to_usize(size))?, offset)?,
        None => Descriptor::default(),
    };
    let filename = context.path.display().to_string();
    let size = sparse.header.capacity;
    Ok((descriptor, vec![Part { start: 0, size, source: Source::Sparse(sparse), filename, kind: "" }]))
}

/// The extents that a descriptor file names.
fn open_parts(descriptor: &Descriptor, context: &OpenContext<'_>, budget: &mut DirectoryBudget) -> Result<Vec<Part>> {
    if descriptor.extents.is_empty() {
        return Err(Error::corrupt(FORMAT, "extent", 0, "no extent", "at least one"));
    }
    let mut parts = Vec::with_capacity(descriptor.extents.len());
    let mut start = 0u64;
    for (number, line) in descriptor.extents.iter().enumerate() {
        let end = start.checked_add(line.size).filter(|&end| end <= u64::MAX >> 1);
        let end = end.ok_or_else(|| {
            Error::corrupt(
                FORMAT,
                "extent",
                line.position,
                format!("{} more bytes", line.size),
                "less than 8 EiB in all",
            )
        })?;
        let source = if context.follow || line.kind == ExtentType::Zero {
            open_extent(line, number, context, budget)?
        } else {
            Source::Closed
        };
        let filename = match line.kind {
            ExtentType::Zero => String::new(),
            _ => context.path.with_file_name(&line.file).display().to_string(),
        };
        parts.push(Part { start, size: line.size, source, filename, kind: line.kind.name() });
        start = end;
    }
    Ok(parts)
}

fn open_extent(
    line: &ExtentLine,
    number: usize,
    context: &OpenContext<'_>,
    budget: &mut DirectoryBudget,
) -> Result<Source> {
    if line.kind == ExtentType::Zero {
        return Ok(Source::Zero);
    }
    let name = line.file.clone().into_bytes();
    let reference = Reference { kind: ReferenceKind::Extent, name, format: Some(ImageFormat::Raw) };
    let (file, path) = context.open_file(&reference)?;
    let file: Arc<dyn BlockDevice> = Arc::new(file);
    let opened = match line.kind {
        ExtentType::Sparse => open_sparse(file, line, number, budget),
        _ => open_flat(file, line),
    };
    opened.map_err(|error| error.in_image(path.display()))
}

fn open_sparse(
    file: Arc<dyn BlockDevice>,
    line: &ExtentLine,
    number: usize,
    budget: &mut DirectoryBudget,
) -> Result<Source> {
    if read_vec(&file, 0, to_usize(file.size().min(4)))? == b"COWD" {
        return Err(Error::unsupported(FORMAT, "ESX server sparse extents (COWD)"));
    }
    let sparse = budget.open(file, number)?;
    if sparse.header.capacity < line.size {
        let expected = format!("the {} bytes of its extent line", line.size);
        return Err(Error::corrupt(FORMAT, "capacity", 12, format!("{} bytes", sparse.header.capacity), expected));
    }
    Ok(Source::Sparse(sparse))
}

fn open_flat(file: Arc<dyn BlockDevice>, line: &ExtentLine) -> Result<Source> {
    let end = line.offset.checked_add(line.size);
    if end.is_none_or(|end| end > file.size()) {
        let found = format!("{} bytes at byte {:#x}", line.size, line.offset);
        let expected = format!("no more than the {} of the extent file", file.size());
        return Err(Error::corrupt(FORMAT, "extent", line.position, found, expected));
    }
    Ok(Source::Flat(Arc::new(Slice::new(file, line.offset, line.size)?)))
}

/// The parent that the descriptor names, if references are followed; its content id must be the one this image was made
/// over, as the parent's later changes would show through.
fn open_parent(descriptor: &Descriptor, context: &OpenContext<'_>) -> Result<Option<Arc<dyn BlockDevice>>> {
    if !context.follow {
        return Ok(None);
    }
    let Some(hint) = &descriptor.parent_hint else {
        return Err(Error::corrupt(FORMAT, "parentFileNameHint", 0, "nothing", "a name, as there is a parentCID"));
    };
    let name = hint.clone().into_bytes();
    let format = Some(ImageFormat::Vmdk);
    let parent = context.open_referenced(&Reference { kind: ReferenceKind::Backing, name, format })?;
    match parent.info.format_specific {
        Some(FormatSpecific::Vmdk { cid, .. }) if cid != descriptor.parent_cid => {
            let (found, expected) = (format!("{:08x}", descriptor.parent_cid), format!("{cid:08x}, its CID"));
            Err(Error::corrupt(FORMAT, "parentCID", 0, found, expected)
                .with_hint("the parent was changed after this image was made over it"))
        }
        _ => Ok(Some(parent.device)),
    }
}

#[cfg(test)]
mod tests;
