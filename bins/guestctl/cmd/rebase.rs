//! `guestctl rebase`

use std::path::PathBuf;

use clap::Args;
use guestctl::block::ImageFormat;
use guestctl::ops::{self, RebaseOptions};

use crate::args::{self, OpenArgs};
use crate::exit::Outcome;
use crate::progress::Shown;

/// Put an overlay onto another backing file, so that the guest sees no difference.
#[derive(Debug, Args)]
pub struct Rebase {
    /// The overlay, a qcow2 image.
    #[arg(value_name = "IMAGE")]
    image: PathBuf,
    /// The new backing file's name, relative to the overlay; empty for none.
    #[arg(short, long, value_name = "FILE")]
    backing: String,
    /// The new backing file's format.
    #[arg(short = 'F', long, value_name = "FORMAT", value_parser = args::format)]
    backing_format: Option<ImageFormat>,
    /// Only change the name; the new backing file is taken to have the same content.
    #[arg(short, long = "unsafe")]
    unsafe_mode: bool,
    /// Accepted for qemu-img's sake: progress is always shown.
    #[arg(short, hide = true)]
    progress: bool,
    #[command(flatten)]
    open: OpenArgs,
}

impl Rebase {
    pub fn run(self) -> Outcome {
        self.open.only_qcow2()?;
        let options = RebaseOptions {
            gate: self.open.gate()?,
            backing: Some(self.backing).filter(|name| !name.is_empty()),
            backing_format: self.backing_format,
            unsafe_mode: self.unsafe_mode,
        };
        Ok(ops::rebase(&self.image, &options, &Shown::new("rebase"))?)
    }
}
