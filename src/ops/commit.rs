//! An overlay's changes brought into its backing file.

use std::path::Path;
use std::sync::Arc;

use super::resize::{NewSize, ResizeOptions};
use crate::block::{
    BlockDevice, BlockWrite, DenyAll, ExtentKind, ImageFormat, OpenGate, OpenOptions, Sweep, open_backing_writable,
    open_overlay, open_writable_file,
};
use crate::error::{Error, Result};
use crate::progress::Progress;

/// How to commit an overlay.
#[derive(Debug, Clone)]
pub struct CommitOptions {
    /// Who may open, and write to, the files that the image names.
    pub gate: Arc<dyn OpenGate>,
    /// Whether the overlay keeps what it holds; else it is empty afterwards.
    pub keep: bool,
}

impl Default for CommitOptions {
    fn default() -> Self {
        Self { gate: Arc::new(DenyAll), keep: false }
    }
}

/// Bytes that are copied at a time.
const STEP: u64 = 2 << 20;

/// Writes all that the qcow2 image at `path` holds into its backing file, which grows if the disk has grown. Both are
/// locked. The overlay is emptied when the backing file has it all, durably.
pub fn commit(path: &Path, options: &CommitOptions, progress: &dyn Progress) -> Result<()> {
    let named = |error: Error| error.in_image(path.display());
    let open =
        OpenOptions { format: Some(ImageFormat::Qcow2), gate: Arc::clone(&options.gate), ..OpenOptions::default() };
    let overlay = open_overlay(path, &open, false)?.disk;
    let size = overlay.size();
    let (mut base_path, format, mut file) = open_backing_writable(path, &open)?;
    let mut base = open_writable_file(file, &base_path, format, &open)?;
    if base.size() < size {
        // One lock at a time: the file is opened anew, by the same word of the gate.
        drop(base);
        let resize =
            ResizeOptions { format: Some(format), gate: Arc::clone(&options.gate), ..ResizeOptions::default() };
        super::resize::resize(&base_path, NewSize::To(size), &resize)?;
        (base_path, _, file) = open_backing_writable(path, &open)?;
        base = open_writable_file(file, &base_path, format, &open)?;
    }
    copy(&overlay, &*base, progress).map_err(named)?;
    base.flush().map_err(|error| error.in_image(base_path.display()))?;
    if options.keep { Ok(()) } else { overlay.make_empty().map_err(named) }
}

fn copy(overlay: &crate::block::qcow2::WritableQcow2, base: &dyn BlockWrite, progress: &dyn Progress) -> Result<()> {
    let size = overlay.size();
    overlay.audit(Sweep::Read)?;
    progress.set_total(size);
    let mut at = 0;
    let mut buffer = Vec::new();
    while at < size {
        if progress.cancelled() {
            return Err(crate::ErrorKind::Cancelled.into());
        }
        let (allocated, len) = overlay.allocated(at..size)?;
        let mut end = at + len;
        if allocated {
            let extent = overlay.next_extent(at..end)?;
            end = at + extent.len;
            if extent.kind == ExtentKind::Data {
                end = end.min(at + STEP);
                buffer.resize((end - at) as usize, 0);
                overlay.read_exact_at(&mut buffer, at)?;
                base.write_all_at(&buffer, at)?;
            } else {
                base.write_zeroes(at..end)?;
            }
        }
        progress.advance(end - at);
        at = end;
    }
    Ok(())
}
