//! `guestctl cpio-out`

use std::path::PathBuf;

use clap::Args;
use guestctl::fs::GuestPath;
use guestctl::ops::{self, CpioOptions};

use crate::args::{BulkArgs, GuestArgs};
use crate::cmd::cat::to_output;
use crate::context::Context;
use crate::exit::{self, Outcome};
use crate::jobs;
use crate::print;
use crate::progress::Shown;

/// Write a guest directory as a cpio archive (newc), sorted, the same tree as the same bytes. Attributes and fractions of
/// seconds do not fit into the format; a file of 4 GiB or more is refused.
#[derive(Debug, Args)]
pub struct CpioOut {
    #[command(flatten)]
    guest: GuestArgs,
    #[command(flatten)]
    bulk: BulkArgs,
    /// Leave out other filesystems that are mounted below the directory.
    #[arg(short = 'x', long)]
    one_file_system: bool,
    /// Print what was written as JSON: entries, bytes, clamped_times, problems.
    #[arg(long)]
    json: bool,
    /// Show no progress.
    #[arg(short, long)]
    quiet: bool,
    /// The guest directory.
    #[arg(value_name = "DIRECTORY")]
    directory: String,
    /// The archive on the host, complete or not there at all; - for standard output.
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

impl CpioOut {
    pub fn run(self, context: &Context) -> Outcome {
        let mounts = self.guest.mounted()?.mount_table()?;
        let directory = GuestPath::parse(&self.directory)?;
        let options = CpioOptions { filter: self.bulk.filter()?, one_filesystem: self.one_file_system };
        let progress = Shown::new("cpio-out").quiet(self.quiet);
        let to_stdout = self.file.as_os_str() == "-";
        let written = jobs::install(context.jobs(self.bulk.jobs), || {
            if to_stdout {
                let mut out = print::stdout().map_err(|error| guestctl::Error::io("write", "the archive", error))?;
                return ops::cpio_to(&mounts, &directory, &mut out, &options, &progress);
            }
            ops::cpio_out(&mounts, &directory, &self.file, &options, &progress)
        })?
        .map_err(to_output)?;
        drop(progress);
        if written.clamped_times > 0 {
            log::warn!("{} times outside 1970 to 2106 were changed to fit the format", written.clamped_times);
        }
        if self.json && !to_stdout {
            print::json(&written)?;
        }
        exit::partial(&written.problems)
    }
}
