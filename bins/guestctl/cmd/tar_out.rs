//! `guestctl tar-out`

use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::path::PathBuf;

use clap::Args;
use guestctl::Error;
use guestctl::fs::GuestPath;
use guestctl::ops::{self, StreamCompression, TarOptions};

use super::cat::to_output;
use crate::args::{BulkArgs, GuestArgs};
use crate::context::Context;
use crate::exit::{self, Outcome};
use crate::progress::Shown;
use crate::{jobs, print};

/// Copy a guest's tree out as a tar archive, with nothing lost.
///
/// Owners by number and by the guest's own names, extended attributes, ACLs, labels and capabilities, hard links, devices,
/// holes and times in nanoseconds are kept, in the pax format. The same guest gives the same bytes, from any image format.
#[derive(Debug, Args)]
pub struct TarOut {
    #[command(flatten)]
    guest: GuestArgs,
    /// The guest directory.
    #[arg(value_name = "DIRECTORY")]
    directory: String,
    /// The archive: complete under its name or not there at all; - for standard output.
    #[arg(value_name = "TARFILE", default_value = "-")]
    archive: PathBuf,
    /// none, gzip, bzip2, xz, zstd or lz4; without it the archive's name decides.
    #[arg(short = 'c', long, value_name = "COMPRESSION")]
    compress: Option<String>,
    /// The compression's level.
    #[arg(long, value_name = "N")]
    level: Option<i32>,
    #[command(flatten)]
    bulk: BulkArgs,
    /// Leave out extended attributes, ACLs, labels and capabilities.
    #[arg(long)]
    no_xattrs: bool,
    /// Leave out the owners' names.
    #[arg(long)]
    numeric_owner: bool,
    /// Write holes as zeroes.
    #[arg(long)]
    no_sparse: bool,
    /// Keep times of access, change and creation, too.
    #[arg(long)]
    all_times: bool,
    /// Print what was done as JSON, sizes in bytes; the archive must be a file.
    #[arg(long)]
    json: bool,
    /// Show no progress.
    #[arg(short, long)]
    quiet: bool,
}

impl TarOut {
    pub fn run(self, context: &Context) -> Outcome {
        let to_stdout = self.archive.as_os_str() == "-";
        if to_stdout && self.json {
            return Err(Error::invalid("--json needs a file for the archive: both would go to standard output").into());
        }
        if to_stdout && io::stdout().is_terminal() {
            let error = Error::invalid("an archive is nothing for a terminal");
            return Err(error.with_hint("name a file, or pipe it to a program").into());
        }
        let mut options = TarOptions::default();
        // Parsed here: what exists and is not supported has an exit code of its own.
        options.compression = match &self.compress {
            Some(name) => name.parse()?,
            None => StreamCompression::of_path(&self.archive),
        };
        options.level = self.level;
        options.filter = self.bulk.filter()?;
        (options.xattrs, options.acls, options.selinux) = (!self.no_xattrs, !self.no_xattrs, !self.no_xattrs);
        options.owner_names = !self.numeric_owner;
        options.sparse = !self.no_sparse;
        options.all_times = self.all_times;
        let mounts = self.guest.mounted()?.mount_table()?;
        let directory = GuestPath::parse(&self.directory)?;
        let progress = Shown::new("tar-out").quiet(self.quiet);
        let report = jobs::install(context.jobs(self.bulk.jobs), || {
            if to_stdout {
                let descriptor = io::stdout().as_fd().try_clone_to_owned();
                let mut out = File::from(descriptor.map_err(|error| Error::io("use", "standard output", error))?);
                // A pipe that holds a piece of the archive; writer and reader wait for one another less. Nothing else has one.
                let _ = rustix::pipe::fcntl_setpipe_size(&out, 1 << 20);
                ops::tar_out(&mounts, &directory, &mut out, &options, &progress)
            } else {
                ops::tar_out_file(&mounts, &directory, &self.archive, &options, &progress)
            }
        })?;
        drop(progress);
        let report = report.map_err(to_output)?;
        if self.json {
            print::json(&report)?;
        }
        exit::partial(&report.problems)
    }
}
