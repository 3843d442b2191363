//! `guestctl compare`: what `qemu-img compare` says, with its exit codes.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use guestctl::block::{ImageFormat, OpenOptions};
use guestctl::ops::{self, CompareOptions, Comparison};
use serde::Serialize;

use crate::args::{Isolation, OpenArgs, format};
use crate::context::Context;
use crate::exit::{Failure, Outcome};
use crate::progress::Shown;
use crate::{jobs, print};

/// Say whether two disks hold the same bytes. Exit codes: 0 the same, 1 different, more than 1 an error.
#[derive(Debug, Args)]
pub struct Compare {
    /// One image.
    #[arg(value_name = "IMAGE1")]
    left: PathBuf,
    /// The other.
    #[arg(value_name = "IMAGE2")]
    right: PathBuf,
    #[command(flatten)]
    open: OpenArgs,
    #[command(flatten)]
    isolation: Isolation,
    /// The second image's format; without it the format is probed.
    #[arg(short = 'F', value_name = "FORMAT", value_parser = format)]
    right_format: Option<ImageFormat>,
    /// Sizes and allocation must be the same too.
    #[arg(short, long)]
    strict: bool,
    /// Threads; all processors without it.
    #[arg(short = 'm', long, value_name = "N")]
    jobs: Option<usize>,
    /// Print nothing but errors.
    #[arg(short, long)]
    quiet: bool,
    /// Accepted for qemu-img's users: progress is shown on a terminal.
    #[arg(short = 'p', hide = true)]
    progress: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Answer {
    identical: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_difference: Option<u64>,
    sizes: [u64; 2],
}

/// QEMU's code for an image that cannot be opened or read: 1 would say that they differ.
const CANNOT_OPEN: u8 = 2;
const CANNOT_READ: u8 = 4;

impl Compare {
    pub fn run(self, context: &Context) -> Outcome {
        let failed = |code| move |error: guestctl::Error| Failure::Coded(error, code);
        let options = self.open.options().map_err(failed(CANNOT_OPEN))?;
        let left = self.isolation.open(&self.left, &options).map_err(failed(CANNOT_OPEN))?.device;
        let options = OpenOptions { format: self.right_format, ..options };
        let right = self.isolation.open(&self.right, &options).map_err(failed(CANNOT_OPEN))?.device;
        let progress = Shown::new("compare").quiet(self.quiet);
        guestctl::progress::Progress::set_total(&progress, left.size().max(right.size()));
        let strict = CompareOptions { strict: self.strict };
        let compared = jobs::install(context.jobs(self.jobs), || ops::compare(&*left, &*right, &strict, &progress));
        let compared = compared.and_then(|compared| compared).map_err(failed(CANNOT_READ))?;
        drop(progress);
        let sizes = [left.size(), right.size()];
        let first_difference = match compared {
            Comparison::Same => None,
            Comparison::Different { offset } => Some(offset),
        };
        if self.json {
            print::json(&Answer { identical: first_difference.is_none(), first_difference, sizes })?;
        } else if !self.quiet {
            let mut out = print::stdout()?;
            if sizes[0] != sizes[1] {
                writeln!(out, "the sizes differ: {} and {} bytes", sizes[0], sizes[1])?;
            }
            match first_difference {
                None => writeln!(out, "Images are identical.")?,
                Some(offset) => writeln!(out, "Content mismatch at offset {offset}!")?,
            }
            out.flush()?;
        }
        if first_difference.is_some() { Err(Failure::Answer(1)) } else { Ok(()) }
    }
}
