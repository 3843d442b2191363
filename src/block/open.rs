//! From a path to a disk: one place decides the format, follows references through the gate and counts the chain's
//! depth.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::gate::{DenyAll, OpenGate, Reference};
use super::info::ImageInfo;
use super::nbd::{Client, NbdOptions, Uri};
use super::probe::{ImageFormat, probe};
use super::qcow2::{Qcow2, WritableQcow2};
use super::vmdk::Vmdk;
use super::wrapped::{self, Container};
use super::{BlockDevice, BlockWrite, HostFile, WritableFile, ova};
use crate::error::{Error, Result};
use crate::limits;

/// How to open an image.
#[derive(Debug, Clone)]
pub struct OpenOptions {
    /// The image's format; `None` probes it. A stated format is never probed.
    pub format: Option<ImageFormat>,
    /// Who may open files that the image names.
    pub gate: Arc<dyn OpenGate>,
    /// Read this internal snapshot (its name, else its id) and not the active state; in an OVA, this disk (its member's
    /// name or its diskId) and not the first.
    pub snapshot: Option<String>,
    /// How to deal with the server when the image is an NBD export.
    pub nbd: NbdOptions,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self { format: None, gate: Arc::new(DenyAll), snapshot: None, nbd: NbdOptions::default() }
    }
}

/// An open image: the disk the guest saw, and what is known about the file.
#[derive(Debug, Clone)]
pub struct Image {
    /// The disk.
    pub device: Arc<dyn BlockDevice>,
    /// The file.
    pub info: ImageInfo,
}

/// What a format driver needs to open itself and what it refers to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OpenContext<'a> {
    /// The image's path: names it, and relative references start from its directory.
    pub path: &'a Path,
    /// Who may open references.
    pub gate: &'a dyn OpenGate,
    /// How many images refer to this one, directly or not.
    pub depth: u64,
    /// Whether references are opened at all; `info` reads headers and follows nothing.
    pub follow: bool,
    /// The internal snapshot to read, or the disk of an OVA.
    pub snapshot: Option<&'a str>,
}

impl OpenContext<'_> {
    /// The disk in the image that this one names (a backing file), in the stated or probed format.
    pub(crate) fn open_image(&self, reference: &Reference) -> Result<Arc<dyn BlockDevice>> {
        Ok(self.open_referenced(reference)?.device)
    }

    /// The image that this one names, with its facts.
    pub(crate) fn open_referenced(&self, reference: &Reference) -> Result<Image> {
        let (file, path) = self.open_file(reference)?;
        let depth = self.depth.saturating_add(1);
        let context = OpenContext { path: &path, gate: self.gate, depth, follow: true, snapshot: None };
        open_format(Arc::new(file), reference.format, &context).map_err(|error| error.in_image(path.display()))
    }

    /// The file that this image names, open for writing and locked.
    pub(crate) fn open_file_writable(&self, reference: &Reference) -> Result<WritableFile> {
        limits::check("backing chain depth", self.depth.saturating_add(1), limits::BACKING_CHAIN_DEPTH)?;
        let gated = self.gate.open(self.path, reference)?;
        WritableFile::reopen(&gated.file, &gated.path)
    }

    /// The bytes of the file that this image names, as they are (a data file, a VMDK extent).
    pub(crate) fn open_file(&self, reference: &Reference) -> Result<(HostFile, PathBuf)> {
        limits::check("backing chain depth", self.depth.saturating_add(1), limits::BACKING_CHAIN_DEPTH)?;
        let gated = self.gate.open(self.path, reference)?;
        Ok((HostFile::from_file(gated.file, &gated.path)?, gated.path))
    }
}

/// Opens the image at `path`. `path#name` opens the internal snapshot, or the disk of an OVA, of that name when no file of
/// the whole name exists.
pub fn open(path: &Path, options: &OpenOptions) -> Result<Image> {
    open_path(path, options, true)
}

impl ImageInfo {
    /// Reads only the image's own headers: no reference is opened, so this works whatever the gate.
    pub fn read(path: &Path, options: &OpenOptions) -> Result<Self> {
        Ok(open_path(path, options, false)?.info)
    }
}

impl ImageInfo {
    /// The facts of the image and of every backing file below it, top first. Each is opened through the gate.
    pub fn read_chain(path: &Path, options: &OpenOptions) -> Result<Vec<Self>> {
        let mut chain = vec![Self::read(path, options)?];
        let mut path = split_snapshot(path).0.to_owned();
        while let Some(top) = chain.last().filter(|top| top.backing_filename.is_some()) {
            let depth = crate::bytes::to_u64(chain.len());
            limits::check("backing chain depth", depth, limits::BACKING_CHAIN_DEPTH)?;
            let format = top.backing_filename_format.as_deref().filter(|name| !name.is_empty());
            let reference = Reference {
                kind: super::gate::ReferenceKind::Backing,
                name: top.backing_filename.clone().unwrap_or_default().into_bytes(),
                format: format.map(str::parse).transpose()?,
            };
            let context = OpenContext { path: &path, gate: &*options.gate, depth: 0, follow: false, snapshot: None };
            let (file, below) = context.open_file(&reference)?;
            let allocated = file.allocated()?;
            let context = OpenContext { path: &below, ..context };
            let opened = open_format(Arc::new(file), reference.format, &context);
            let mut info = opened.map_err(|error| error.in_image(below.display()))?.info;
            info.actual_size = Some(allocated);
            if let Some(name) = chain.last().and_then(|above| above.full_backing_filename.clone()) {
                info.filename = name;
            }
            chain.push(info);
            path = below;
        }
        Ok(chain)
    }
}

fn open_path(path: &Path, options: &OpenOptions, follow: bool) -> Result<Image> {
    if Uri::is_uri(path) {
        return open_uri(path, options, follow);
    }
    let (path, fragment) = split_snapshot(path);
    let snapshot = options.snapshot.as_deref().or(fragment);
    let named = |error: Error| error.in_image(path.display());
    let file = HostFile::open(path).map_err(|error| match error.kind() {
        // The path is the subject of the message already.
        crate::ErrorKind::Io { .. } => error,
        _ => named(error),
    })?;
    if follow && super::writer_present(file.file()) {
        log::warn!("{} is open for writing elsewhere: what is read may not fit together", path.display());
    }
    let (file, allocated) = super::split::join(path, file).map_err(named)?;
    let context = OpenContext { path, gate: &*options.gate, depth: 0, follow, snapshot };
    let mut image = open_format(file, options.format, &context).map_err(named)?;
    image.info.actual_size = Some(allocated);
    Ok(image)
}

/// Opens what an NBD server exports as the file below the format. `URI#name` opens an internal snapshot; a `#` that
/// belongs to the URI is written `%23`.
fn open_uri(uri: &Path, options: &OpenOptions, follow: bool) -> Result<Image> {
    let (name, fragment) = match uri.to_str().and_then(|text| text.split_once('#')) {
        Some((name, fragment)) => (Path::new(name), Some(fragment)),
        None => (uri, None),
    };
    let client = Client::connect(&name.to_string_lossy().parse()?, &options.nbd)?;
    let snapshot = options.snapshot.as_deref().or(fragment);
    // It lies in no directory: names of other files in it lead nowhere unless they are absolute.
    let context = OpenContext { path: name, gate: &*options.gate, depth: 0, follow, snapshot };
    open_format(Arc::new(client), options.format, &context).map_err(|error| error.in_image(name.display()))
}

/// Opens the image at `path` for reading and writing in place, under the image lock. Formats that cannot be changed in
/// place are [`Unsupported`](crate::ErrorKind::Unsupported).
pub fn open_writable(path: &Path, options: &OpenOptions) -> Result<Arc<dyn BlockWrite>> {
    let named = |error: Error| error.in_image(path.display());
    if options.snapshot.is_some() {
        return Err(named(Error::invalid("an internal snapshot cannot be written")));
    }
    if Uri::is_uri(path) {
        // What an export holds is for its server to know; to us it is a disk.
        if options.format.is_some_and(|format| format != ImageFormat::Raw) {
            return Err(named(Error::unsupported("nbd", "writing into an image inside an export")));
        }
        let client = Client::connect(&path.to_string_lossy().parse()?, &options.nbd)?;
        return Ok(Arc::new(client));
    }
    let file = WritableFile::open(path)?;
    let format = options.format.map_or_else(|| probe(&file), Ok).map_err(named)?;
    open_writable_file(file, path, format, options)
}

/// A qcow2 image open for writing in place, and its backing file for reading.
#[derive(Debug)]
pub struct OpenOverlay {
    /// The overlay. What it does not hold itself reads as the backing file does, if that is open, else as zeroes.
    pub disk: WritableQcow2,
    /// The backing file's disk.
    pub backing: Option<Arc<dyn BlockDevice>>,
}

/// Opens the overlay at `path`, its backing file too if `follow` says so.
pub fn open_overlay(path: &Path, options: &OpenOptions, follow: bool) -> Result<OpenOverlay> {
    let named = |error: Error| error.in_image(path.display());
    let file = Arc::new(WritableFile::open(path)?);
    let context = OpenContext { path, gate: &*options.gate, depth: 0, follow, snapshot: None };
    let (disk, backing) = WritableQcow2::open_overlay(file, &context).map_err(named)?;
    Ok(OpenOverlay { disk, backing })
}

/// The backing file of the qcow2 image at `path`, opened for writing under its lock: its path, its format as stated or
/// probed, and the file.
pub fn open_backing_writable(path: &Path, options: &OpenOptions) -> Result<(PathBuf, ImageFormat, WritableFile)> {
    let named = |error: Error| error.in_image(path.display());
    let context = OpenContext { path, gate: &*options.gate, depth: 0, follow: false, snapshot: None };
    let image = Qcow2::open(Arc::new(HostFile::open(path)?), &context).map_err(named)?;
    let reference = image.backing_reference().map_err(named)?;
    let Some(reference) = reference else {
        return Err(named(Error::invalid("the image has no backing file")));
    };
    let file = context.open_file_writable(&reference).map_err(named)?;
    let path = file.path().to_owned();
    let format = reference.format.map_or_else(|| probe(&file), Ok).map_err(named)?;
    Ok((path, format, file))
}

/// Opens a file that is open for writing already as an image.
pub fn open_writable_file(
    file: WritableFile,
    path: &Path,
    format: ImageFormat,
    options: &OpenOptions,
) -> Result<Arc<dyn BlockWrite>> {
    let named = |error: Error| error.in_image(path.display());
    match format {
        ImageFormat::Raw => Ok(Arc::new(file)),
        ImageFormat::Qcow2 => {
            let context = OpenContext { path, gate: &*options.gate, depth: 0, follow: true, snapshot: None };
            Ok(Arc::new(WritableQcow2::open(Arc::new(file), &context).map_err(named)?))
        }
        other => Err(named(Error::unsupported(other.name(), "writing in place"))),
    }
}

/// Opens an image that is itself a device: a member of an archive, a file inside a guest. It has no directory, so it can
/// name no other file.
pub fn open_device(file: Arc<dyn BlockDevice>, name: &Path, format: Option<ImageFormat>) -> Result<Image> {
    let context = OpenContext { path: name, gate: &DenyAll, depth: 0, follow: true, snapshot: None };
    open_format(file, format, &context).map_err(|error| error.in_image(name.display()))
}

pub(crate) fn open_format(
    file: Arc<dyn BlockDevice>,
    format: Option<ImageFormat>,
    context: &OpenContext<'_>,
) -> Result<Image> {
    let probed = format.is_none();
    let container = container_of(&file, format, context)?;
    let file = match container {
        Some(container) => wrapped::open(file, container)?,
        None => file,
    };
    if let (Some(outer), None) = (container, format)
        && let Some(inner) = Container::probe(&file)?
    {
        return Err(Error::unsupported(outer.name(), format!("{} inside", inner.name())));
    }
    let format = match format {
        Some(format) => format,
        None => probe(&file)?,
    };
    log::debug!("{}: {format}{}", context.path.display(), if probed { " (probed)" } else { "" });
    if context.snapshot.is_some() && !matches!(format, ImageFormat::Qcow2 | ImageFormat::Ova) {
        return Err(Error::unsupported(format.name(), "internal snapshots"));
    }
    let filename = context.path.display().to_string();
    let (device, mut info): (Arc<dyn BlockDevice>, ImageInfo) = match format {
        ImageFormat::Raw => {
            let mut info = ImageInfo::new(filename, format, file.size());
            info.dirty_flag = Some(false);
            (file, info)
        }
        ImageFormat::Qcow2 => {
            let image = Qcow2::open(file, context)?;
            let info = image.info(filename);
            (Arc::new(image), info)
        }
        ImageFormat::Vmdk => {
            let image = Vmdk::open(file, context)?;
            let info = image.info(filename);
            (Arc::new(image), info)
        }
        ImageFormat::Vdi => super::vdi::open(file, context, filename)?,
        ImageFormat::Vhd => super::vhd::open(file, context, filename)?,
        ImageFormat::Vhdx => super::vhdx::open(file, context, filename)?,
        ImageFormat::Ova => {
            let mut image = ova::open(&file, context)?;
            image.info.filename = filename;
            (image.device, image.info)
        }
    };
    info.probed = probed;
    info.compressed_container = container;
    Ok(Image { device, info })
}

/// What `file` is wrapped in. When the format is stated, it is that of the image inside if the user's own name for the
/// file says that there is a container; a name in an image says nothing.
fn container_of(
    file: &dyn BlockDevice,
    format: Option<ImageFormat>,
    context: &OpenContext<'_>,
) -> Result<Option<Container>> {
    let found = Container::probe(file)?;
    Ok(found.filter(|found| format.is_none() || (context.depth == 0 && found.names(context.path))))
}

/// `disk.qcow2#name` as `(disk.qcow2, name)`, unless a file of the whole name exists.
pub(crate) fn split_snapshot(path: &Path) -> (&Path, Option<&str>) {
    let whole = path.to_str().and_then(|text| text.rsplit_once('#'));
    match whole {
        Some((file, name)) if !name.is_empty() && !path.exists() => (Path::new(file), Some(name)),
        _ => (path, None),
    }
}
