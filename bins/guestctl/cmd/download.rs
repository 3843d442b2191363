//! `guestctl download`

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use guestctl::ops;

use super::cat::to_output;
use crate::args::GuestArgs;
use crate::exit::Outcome;
use crate::print;
use crate::progress::Shown;

/// Copy a guest file or device out: complete under its name or not at all, holes kept.
#[derive(Debug, Args)]
pub struct Download {
    #[command(flatten)]
    guest: GuestArgs,
    /// The guest file, or a device such as /dev/sda1.
    #[arg(value_name = "REMOTE")]
    remote: String,
    /// The host file; - for standard output.
    #[arg(value_name = "LOCAL")]
    local: PathBuf,
}

impl Download {
    pub fn run(self) -> Outcome {
        // A device needs nothing mounted, and may hold nothing that could be.
        let g = if self.remote.starts_with("/dev/") { self.guest.images.launch()? } else { self.guest.mounted()? };
        let content = g.open_content(&self.remote)?;
        let progress = Shown::new("download");
        if self.local.as_os_str() == "-" {
            let mut out = print::stdout()?;
            ops::write_to(&content, &mut out, &progress)
                .map_err(|error| to_output(error.at_path(self.remote.as_bytes())))?;
            return Ok(out.flush()?);
        }
        Ok(ops::download(&content, &self.local, &progress).map_err(|error| error.at_path(self.remote.as_bytes()))?)
    }
}
