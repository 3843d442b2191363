//! The report that all forms are made from; serialised, it is the JSON whose schema is `schema.json`.
//!
//! Fields are added without a change of `schema_version`; it changes when one is renamed, removed or means something
//! else.

use std::path::Path;

use guestctl::Inspected;
use guestctl::block::{ImageFormat, ImageInfo};
use guestctl::inspect::{OperatingSystem, PackageList};
use serde::Serialize;

/// The whole report.
#[derive(Debug, Serialize)]
pub struct Report<'a> {
    pub schema: &'static str,
    pub schema_version: u32,
    pub guestctl_version: &'static str,
    /// The image as it was named.
    pub image: String,
    /// All drives, in the order they were given.
    pub drives: Vec<DriveFacts>,
    pub operating_systems: Vec<SystemReport<'a>>,
}

/// One drive.
#[derive(Debug, Serialize)]
pub struct DriveFacts {
    pub path: String,
    pub format: ImageFormat,
    /// Whether the format was guessed from the first bytes.
    pub format_probed: bool,
    pub virtual_size_bytes: u64,
}

/// One operating system and its packages.
#[derive(Debug, Serialize)]
pub struct SystemReport<'a> {
    #[serde(flatten)]
    pub system: &'a OperatingSystem,
    /// One list per package database; left out when packages were not asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packages: Option<&'a [PackageList]>,
}

impl<'a> Report<'a> {
    pub fn new(image: &Path, drives: &[ImageInfo], found: &'a [Inspected]) -> Self {
        let drive = |info: &ImageInfo| DriveFacts {
            path: info.filename.clone(),
            format: info.format,
            format_probed: info.probed,
            virtual_size_bytes: info.virtual_size,
        };
        let system = |found: &'a Inspected| SystemReport { system: &found.system, packages: found.packages.as_deref() };
        Self {
            schema: "guestctl/inspect",
            schema_version: 1,
            guestctl_version: env!("CARGO_PKG_VERSION"),
            image: image.display().to_string(),
            drives: drives.iter().map(drive).collect(),
            operating_systems: found.iter().map(system).collect(),
        }
    }
}
