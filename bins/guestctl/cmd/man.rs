//! `guestctl man`

use std::path::PathBuf;

use clap::{Args, CommandFactory};
use guestctl::Error;

use crate::exit::Outcome;

/// Write guestctl.1 and one page per subcommand.
#[derive(Debug, Args)]
pub struct Man {
    /// The directory, which must exist.
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

impl Man {
    pub fn run(self) -> Outcome {
        let command = crate::args::Args::command();
        let written = clap_mangen::generate_to(command, &self.directory);
        Ok(written.map_err(|error| Error::io("write man pages to", self.directory.display(), error))?)
    }
}
