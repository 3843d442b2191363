//! The report that all forms are made from; serialised, it is the JSON whose schema is `schema.json`.
//!
//! Fields are added without a change of `schema_version`; it changes when one is renamed, removed or means something
//! else.

use std::path::Path;

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
    pub packages: Option<Vec<PackageList>>,
}

impl<'a> Report<'a> {
    pub fn new(
        image: &Path,
        drives: &[ImageInfo],
        systems: &'a [OperatingSystem],
        packages: impl Fn(&str) -> guestctl::Result<Option<Vec<PackageList>>>,
    ) -> guestctl::Result<Self> {
        let drive = |info: &ImageInfo| DriveFacts {
            path: info.filename.clone(),
            format: info.format,
            format_probed: info.probed,
            virtual_size_bytes: info.virtual_size,
        };
        let system = |system: &'a OperatingSystem| Ok(SystemReport { system, packages: packages(&system.root)? });
        Ok(Self {
            schema: "guestctl/inspect",
            schema_version: 1,
            guestctl_version: env!("CARGO_PKG_VERSION"),
            image: image.display().to_string(),
            drives: drives.iter().map(drive).collect(),
            operating_systems: systems.iter().map(system).collect::<guestctl::Result<_>>()?,
        })
    }
}
