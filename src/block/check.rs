//! Consistency of image files: their tables against one another and against the file.
//!
//! | format | what is checked |
//! |---|---|
//! | qcow2 | see `qcow2::check` |
//! | VDI | blocks inside the file and the map, each once; the header's count of them |
//! | VHDX | blocks inside the file, each once, apart from the file's own structures |
//! | VMDK | grain tables and grains of each sparse extent inside its file, each once |

use std::path::Path;
use std::sync::Arc;

use super::gate::OpenGate;
use super::open::OpenContext;
use super::{BlockDevice, ImageFormat, qcow2, vdi, vhdx, vmdk};
use crate::error::Result;

/// What a check found, in `qemu-img check`'s terms.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Findings {
    /// Where the last cluster in use ends.
    pub image_end_offset: u64,
    /// Clusters of the disk.
    pub total_clusters: u64,
    /// Of these, how many are stored.
    pub allocated_clusters: u64,
    /// Of these, how many do not follow the one before.
    pub fragmented_clusters: u64,
    /// Of these, how many are compressed.
    pub compressed_clusters: u64,
    /// Structures that could not be read.
    pub check_errors: u64,
    /// Contradictions that can destroy data.
    pub corruptions: u64,
    /// Clusters that are counted more often than they are referred to.
    pub leaks: u64,
}

impl Findings {
    /// Notes a contradiction.
    pub(super) fn corrupt(&mut self, what: std::fmt::Arguments<'_>) {
        log::debug!("{what}");
        self.corruptions = self.corruptions.saturating_add(1);
    }
}

/// Checks the image in `file`, which lies at `path`; `None` when its format has nothing to check. `gate` decides whether
/// files that it names are opened.
pub fn check(
    file: Arc<dyn BlockDevice>,
    path: &Path,
    format: ImageFormat,
    gate: &dyn OpenGate,
) -> Result<Option<Findings>> {
    let context = OpenContext { path, gate, depth: 0, follow: true, snapshot: None };
    match format {
        ImageFormat::Qcow2 => qcow2::check(&file).map(Some),
        ImageFormat::Vdi => vdi::check(&file).map(Some),
        ImageFormat::Vhdx => vhdx::check(file).map(Some),
        ImageFormat::Vmdk => vmdk::check(file, &context).map(Some),
        ImageFormat::Raw | ImageFormat::Vhd | ImageFormat::Ova => Ok(None),
    }
}
