//! Another backing file for an overlay.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::zero::is_zero;
use crate::block::qcow2::Editor;
use crate::block::{
    BlockDevice, BlockWrite, DenyAll, ExtentKind, ImageFormat, OpenGate, OpenOptions, Sweep, WritableFile, open,
    open_overlay,
};
use crate::error::{Error, Result};
use crate::progress::Progress;

/// How to put an overlay onto another backing file.
#[derive(Debug, Clone)]
pub struct RebaseOptions {
    /// Who may open the backing files that images name. The new one is named by the caller and needs no leave.
    pub gate: Arc<dyn OpenGate>,
    /// The name of the new backing file as it shall stand in the image; relative names start from the image's directory.
    /// `None` leaves the image without one.
    pub backing: Option<String>,
    /// Its format, written into the image; `None` probes it, and writes what was found.
    pub backing_format: Option<ImageFormat>,
    /// Only change the name: the guest sees what lies there.
    pub unsafe_mode: bool,
}

impl Default for RebaseOptions {
    fn default() -> Self {
        Self { gate: Arc::new(DenyAll), backing: None, backing_format: None, unsafe_mode: false }
    }
}

/// Bytes that are compared at a time.
const STEP: u64 = 1 << 20;

/// Gives the qcow2 image at `path` another backing file. Unless the options say otherwise the guest sees no difference:
/// what the new one has not is written into the image.
pub fn rebase(path: &Path, options: &RebaseOptions, progress: &dyn Progress) -> Result<()> {
    let named = |error: Error| error.in_image(path.display());
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let open_options =
        OpenOptions { format: Some(ImageFormat::Qcow2), gate: Arc::clone(&options.gate), ..OpenOptions::default() };
    let new = match &options.backing {
        Some(name) if !options.unsafe_mode => {
            let backing = OpenOptions { format: options.backing_format, ..open_options.clone() };
            Some(open(&directory.join(name), &backing)?)
        }
        _ => None,
    };
    if !options.unsafe_mode {
        let overlay = open_overlay(path, &open_options, true)?;
        let new = new.as_ref().map(|image| &*image.device);
        copy_differences(&overlay.disk, overlay.backing.as_deref(), new, progress).map_err(named)?;
        overlay.disk.flush().map_err(named)?;
    }
    let format = options.backing_format.or_else(|| new.as_ref().map(|image| image.info.format));
    let backing = options.backing.as_deref().map(|name| (name.as_bytes(), format.map(ImageFormat::name)));
    let mut editor = Editor::open(WritableFile::open(path)?, path, &open_options).map_err(named)?;
    editor.set_backing(backing).map_err(named)
}

/// Writes into `disk` what it takes from `old` and would not find in `new`.
fn copy_differences(
    disk: &crate::block::qcow2::WritableQcow2,
    old: Option<&dyn BlockDevice>,
    new: Option<&dyn BlockDevice>,
    progress: &dyn Progress,
) -> Result<()> {
    let size = disk.size();
    disk.audit(Sweep::Read)?;
    new.map_or(Ok(()), |new| new.audit(Sweep::Read))?;
    progress.set_total(size);
    let cluster = disk.cluster_size();
    let mut at = 0;
    while at < size {
        if progress.cancelled() {
            return Err(crate::ErrorKind::Cancelled.into());
        }
        let (allocated, len) = disk.allocated(at..size)?;
        let end = at + len;
        if allocated || (is_empty(old, &(at..end))? && is_empty(new, &(at..end))?) {
            progress.advance(len);
            at = end;
            continue;
        }
        let end = end.min(at + STEP.max(cluster));
        let was = bytes(old, &(at..end))?;
        let will_be = bytes(new, &(at..end))?;
        let unit = usize::try_from(cluster).unwrap_or(usize::MAX);
        let mut offset = at;
        for (was, will_be) in was.chunks(unit).zip(will_be.chunks(unit)) {
            if was != will_be {
                let range = offset..offset + was.len() as u64;
                if is_zero(was) {
                    disk.write_zeroes(range)?;
                } else {
                    disk.write_all_at(was, offset)?;
                }
            }
            offset += was.len() as u64;
        }
        progress.advance(end - at);
        at = end;
    }
    Ok(())
}

/// Whether all of `range` is known to be zero.
fn is_empty(device: Option<&dyn BlockDevice>, range: &Range<u64>) -> Result<bool> {
    let Some(device) = device else { return Ok(true) };
    let end = range.end.min(device.size());
    if range.start >= end {
        return Ok(true);
    }
    let extent = device.next_extent(range.start..end)?;
    Ok(extent.kind != ExtentKind::Data && extent.len >= end - range.start)
}

fn bytes(device: Option<&dyn BlockDevice>, range: &Range<u64>) -> Result<Vec<u8>> {
    let mut bytes = vec![0; (range.end - range.start) as usize];
    if let Some(device) = device {
        let there = device.size().min(range.end).saturating_sub(range.start) as usize;
        if there > 0 {
            device.read_exact_at(&mut bytes[..there], range.start)?;
        }
    }
    Ok(bytes)
}
