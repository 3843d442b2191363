//! `guestctl commit`

use std::path::PathBuf;

use clap::Args;
use guestctl::ops::{self, CommitOptions};

use crate::args::GateArgs;
use crate::exit::Outcome;
use crate::progress::Shown;

/// Write what an overlay holds into its backing file, and empty the overlay.
#[derive(Debug, Args)]
pub struct Commit {
    /// The overlay, a qcow2 image.
    #[arg(value_name = "IMAGE")]
    image: PathBuf,
    /// The overlay's format.
    #[arg(short = 'f', long = "input-format", value_name = "FORMAT", value_parser = ["qcow2"])]
    format: Option<String>,
    /// Do not empty the overlay: it will be deleted, or is to be kept as it is.
    #[arg(short = 'd', long)]
    keep: bool,
    /// Accepted for qemu-img's sake: progress is always shown.
    #[arg(short, hide = true)]
    progress: bool,
    #[command(flatten)]
    gate: GateArgs,
}

impl Commit {
    pub fn run(self) -> Outcome {
        let options = CommitOptions { gate: self.gate.gate()?, keep: self.keep };
        Ok(ops::commit(&self.image, &options, &Shown::new("commit"))?)
    }
}
