//! `guestctl cat`

use std::io::Write;

use clap::Args;
use guestctl::ops;
use guestctl::progress::Silent;

use crate::args::GuestArgs;
use crate::exit::{Failure, Outcome};
use crate::print;

/// Print guest files to standard output, byte for byte.
#[derive(Debug, Args)]
pub struct Cat {
    #[command(flatten)]
    guest: GuestArgs,
    /// The files.
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<String>,
}

impl Cat {
    pub fn run(self) -> Outcome {
        let g = self.guest.mounted()?;
        let mut out = print::stdout()?;
        for path in &self.paths {
            let content = g.open_content(path)?;
            ops::write_to(&content, &mut out, &Silent).map_err(|error| to_output(error.at_path(path.as_bytes())))?;
        }
        Ok(out.flush()?)
    }
}

/// A write that failed because nobody reads any more is not the guest's fault.
pub fn to_output(error: guestctl::Error) -> Failure {
    match error.kind() {
        guestctl::ErrorKind::Io { source, .. } if source.kind() == std::io::ErrorKind::BrokenPipe => {
            Failure::Output(std::io::ErrorKind::BrokenPipe.into())
        }
        _ => error.into(),
    }
}
