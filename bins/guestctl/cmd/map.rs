//! `guestctl map`: what `qemu-img map` says, with the same JSON keys.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use guestctl::block::{self, OpenOptions};
use guestctl::ops;

use crate::args::{OpenArgs, Output};
use crate::exit::Outcome;
use crate::print;

/// Show which parts of a disk are data, and where they lie.
#[derive(Debug, Args)]
pub struct Map {
    /// The image.
    #[arg(value_name = "IMAGE")]
    image: PathBuf,
    #[command(flatten)]
    open: OpenArgs,
    /// Show this internal snapshot, by name or id.
    #[arg(short = 'l', long, value_name = "NAME")]
    snapshot: Option<String>,
    /// Print JSON with the keys of qemu-img.
    #[arg(long)]
    json: bool,
    /// The same choice in qemu-img's words.
    #[arg(long, value_enum, default_value_t = Output::Human, conflicts_with = "json")]
    output: Output,
}

impl Map {
    pub fn run(self) -> Outcome {
        let options = OpenOptions { snapshot: self.snapshot, ..self.open.options()? };
        let device = block::open(&self.image, &options)?.device;
        let mut out = print::stdout()?;
        let json = self.json || self.output == Output::Json;
        let mut failure = None;
        let mut first = true;
        if !json {
            writeln!(out, "{:<16}{:<16}{:<8}Offset in file", "Offset", "Length", "Depth")?;
        }
        let mut line = |entry: &ops::MapEntry| {
            if json {
                let text = serde_json::to_string(entry).unwrap_or_default();
                write!(out, "{}{text}", if first { "[" } else { ",\n" })?;
                first = false;
            } else if entry.data && !entry.zero {
                let place = entry.offset.map_or("compressed".to_owned(), |offset| format!("{offset:#x}"));
                writeln!(out, "{:<#16x}{:<#16x}{:<8}{place}", entry.start, entry.length, entry.depth)?;
            }
            Ok::<_, std::io::Error>(())
        };
        ops::map(&*device, &mut |entry| {
            if let Err(error) = line(entry) {
                failure = Some(error);
                return Err(guestctl::ErrorKind::Cancelled.into());
            }
            Ok(())
        })
        .map_err(|error| match failure.take() {
            Some(error) => crate::exit::Failure::Output(error),
            None => error.in_image(self.image.display()).into(),
        })?;
        if json {
            writeln!(out, "{}]", if first { "[" } else { "" })?;
        }
        Ok(out.flush()?)
    }
}
