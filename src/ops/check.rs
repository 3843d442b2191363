//! Consistency of an image file, and its repair.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use crate::block::{self, DenyAll, Findings, HostFile, ImageFormat, OpenGate, WritableFile, probe, qcow2};
use crate::error::{Error, Result};

pub use crate::block::qcow2::Repair;

/// How to check an image.
#[derive(Debug, Clone)]
pub struct CheckOptions {
    /// The image's format; `None` probes it.
    pub format: Option<ImageFormat>,
    /// What is repaired. Anything but [`Repair::None`] opens the image for writing, under its lock.
    pub repair: Repair,
    /// Who may open the files that the image names: a VMDK's extents.
    pub gate: Arc<dyn OpenGate>,
}

impl Default for CheckOptions {
    fn default() -> Self {
        Self { format: None, repair: Repair::None, gate: Arc::new(DenyAll) }
    }
}

/// What was found, with the keys of `qemu-img check --output=json`. What is zero is left out of the output, as there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct CheckReport {
    /// Where the last cluster in use ends, in bytes.
    #[serde(skip_serializing_if = "is_zero")]
    pub image_end_offset: u64,
    /// Clusters of the disk.
    #[serde(skip_serializing_if = "is_zero")]
    pub total_clusters: u64,
    /// Clusters that are stored.
    #[serde(skip_serializing_if = "is_zero")]
    pub allocated_clusters: u64,
    /// Stored clusters that do not follow the one before.
    #[serde(skip_serializing_if = "is_zero")]
    pub fragmented_clusters: u64,
    /// Stored clusters that are compressed.
    #[serde(skip_serializing_if = "is_zero")]
    pub compressed_clusters: u64,
    /// Structures that could not be checked.
    pub check_errors: u64,
    /// Contradictions that are there still.
    #[serde(skip_serializing_if = "is_zero")]
    pub corruptions: u64,
    /// Clusters that are lost still.
    #[serde(skip_serializing_if = "is_zero")]
    pub leaks: u64,
    /// Contradictions that were repaired.
    #[serde(skip_serializing_if = "is_zero")]
    pub corruptions_fixed: u64,
    /// Lost clusters that were taken back.
    #[serde(skip_serializing_if = "is_zero")]
    pub leaks_fixed: u64,
    /// The path as given.
    pub filename: PathBuf,
    /// The format.
    pub format: ImageFormat,
}

fn is_zero(value: &u64) -> bool {
    *value == 0
}

impl CheckReport {
    /// The exit code of `qemu-img check`: 0 nothing is wrong, 1 the check did not come to an end, 2 corruptions, 3 leaks.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self { check_errors: 1.., .. } => 1,
            Self { corruptions: 1.., .. } => 2,
            Self { leaks: 1.., .. } => 3,
            _ => 0,
        }
    }
}

/// Checks the image at `path`. Formats that have nothing to check are [`Unsupported`](crate::ErrorKind).
pub fn check(path: &Path, options: &CheckOptions) -> Result<CheckReport> {
    check_path(path, options).map_err(|error| match error.kind() {
        crate::ErrorKind::Io { .. } => error,
        _ => error.in_image(path.display()),
    })
}

fn check_path(path: &Path, options: &CheckOptions) -> Result<CheckReport> {
    let file = HostFile::open(path)?;
    let format = options.format.map_or_else(|| probe(&file), Ok)?;
    let (before, after) = if options.repair == Repair::None {
        if block::writer_present(file.file()) {
            log::warn!("{}: another process is writing, so what is found may be wrong", path.display());
        }
        let found = block::check(Arc::new(file), path, format, &*options.gate)?;
        let found = found.ok_or_else(|| Error::unsupported(format.name(), "a consistency check"))?;
        (found, found)
    } else if format == ImageFormat::Qcow2 {
        qcow2::repair(WritableFile::open(path)?, options.repair)?
    } else {
        return Err(Error::unsupported(format.name(), "a repair"));
    };
    Ok(report(path, format, &before, &after))
}

fn report(path: &Path, format: ImageFormat, before: &Findings, after: &Findings) -> CheckReport {
    CheckReport {
        image_end_offset: after.image_end_offset,
        total_clusters: after.total_clusters,
        allocated_clusters: after.allocated_clusters,
        fragmented_clusters: after.fragmented_clusters,
        compressed_clusters: after.compressed_clusters,
        check_errors: after.check_errors,
        corruptions: after.corruptions,
        leaks: after.leaks,
        corruptions_fixed: before.corruptions.saturating_sub(after.corruptions),
        leaks_fixed: before.leaks.saturating_sub(after.leaks),
        filename: path.to_owned(),
        format,
    }
}
