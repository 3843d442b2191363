//! `guestctl completions`

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::exit::Outcome;

/// Print the completions of a shell.
#[derive(Debug, Args)]
pub struct Completions {
    /// The shell.
    shell: Shell,
}

impl Completions {
    pub fn run(self) -> Outcome {
        clap_complete::generate(
            self.shell,
            &mut crate::args::Args::command(),
            "guestctl",
            &mut crate::print::stdout()?,
        );
        Ok(())
    }
}
