//! `guestctl measure`: what `qemu-img measure` says, with the same JSON keys.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use guestctl::block::{self, ImageFormat, OpenOptions};
use guestctl::ops;

use crate::args::{OpenArgs, Output, format};
use crate::exit::Outcome;
use crate::new_image::NewImageArgs;
use crate::{print, size};

/// Say how many bytes a new image would need.
#[derive(Debug, Args)]
pub struct Measure {
    /// The image whose data is to be stored.
    #[arg(value_name = "IMAGE", required_unless_present = "size")]
    image: Option<PathBuf>,
    /// An empty disk of this size.
    #[arg(long, value_name = "SIZE", value_parser = size::parse, conflicts_with = "image")]
    size: Option<u64>,
    /// The new image's format: raw or qcow2.
    #[arg(short = 'O', long, value_name = "FORMAT", value_parser = format, default_value = "raw")]
    format: ImageFormat,
    #[command(flatten)]
    open: OpenArgs,
    #[command(flatten)]
    new: NewImageArgs,
    /// Measure this internal snapshot, by name or id.
    #[arg(short = 'l', long, value_name = "NAME")]
    snapshot: Option<String>,
    /// Print JSON with the keys of qemu-img.
    #[arg(long)]
    json: bool,
    /// The same choice in qemu-img's words.
    #[arg(long, value_enum, default_value_t = Output::Human, conflicts_with = "json")]
    output: Output,
}

impl Measure {
    pub fn run(self) -> Outcome {
        let new = self.new.new_image(self.format, self.size.unwrap_or(0))?;
        let source = match &self.image {
            Some(path) => {
                let options = OpenOptions { snapshot: self.snapshot, ..self.open.options()? };
                Some(block::open(path, &options)?.device)
            }
            None => None,
        };
        let measured = ops::measure(&new, source.as_deref())?;
        if self.json || self.output == Output::Json {
            return Ok(print::json(&measured)?);
        }
        let mut out = print::stdout()?;
        writeln!(out, "required size: {}", measured.required)?;
        writeln!(out, "fully allocated size: {}", measured.fully_allocated)?;
        Ok(out.flush()?)
    }
}
