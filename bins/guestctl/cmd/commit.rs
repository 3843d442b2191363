//! `guestctl commit`

use std::path::PathBuf;

use clap::Args;
use guestctl::ops::{self, CommitOptions};

use crate::args::OpenArgs;
use crate::exit::Outcome;
use crate::progress::Shown;

/// Write what an overlay holds into its backing file, and empty the overlay.
#[derive(Debug, Args)]
pub struct Commit {
    /// The overlay, a qcow2 image.
    #[arg(value_name = "IMAGE")]
    image: PathBuf,
    /// Do not empty the overlay: it will be deleted, or is to be kept as it is.
    #[arg(short = 'd', long)]
    keep: bool,
    /// Accepted for qemu-img's sake: progress is always shown.
    #[arg(short, hide = true)]
    progress: bool,
    #[command(flatten)]
    open: OpenArgs,
}

impl Commit {
    pub fn run(self) -> Outcome {
        self.open.only_qcow2()?;
        let options = CommitOptions { gate: self.open.gate()?, keep: self.keep };
        Ok(ops::commit(&self.image, &options, &Shown::new("commit"))?)
    }
}
