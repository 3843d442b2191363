//! `guestctl version`

use std::io::Write;

use clap::Args;
use guestctl::block::ImageFormat;
use serde::Serialize;

use crate::exit::Outcome;
use crate::print;

/// Print the version and what can be read.
#[derive(Debug, Args)]
pub struct Version {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Facts {
    version: &'static str,
    image_formats: Vec<&'static str>,
    filesystems: [&'static str; 4],
}

impl Version {
    pub fn run(self) -> Outcome {
        let facts = Facts {
            version: env!("CARGO_PKG_VERSION"),
            image_formats: ImageFormat::ALL.map(ImageFormat::name).to_vec(),
            filesystems: ["ext2", "ext3", "ext4", "vfat"],
        };
        if self.json {
            return Ok(print::json(&facts)?);
        }
        let mut out = print::stdout()?;
        writeln!(out, "guestctl {}", facts.version)?;
        writeln!(out, "image formats: {}", facts.image_formats.join(", "))?;
        writeln!(out, "filesystems: {}", facts.filesystems.join(", "))?;
        Ok(out.flush()?)
    }
}
