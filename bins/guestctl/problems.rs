//! Parts of a guest that could not be read while the rest could: said on standard error as they turn up, exit code 3 at
//! the end.

use guestctl::{Error, ErrorKind, Result};

use crate::exit::{Failure, Outcome};

/// Problems that are told one by one; a hostile image can make any number.
const TOLD: u64 = 100;

/// What was met so far.
#[derive(Debug, Default)]
pub struct Problems {
    count: u64,
}

impl Problems {
    /// Notes what could not be read; a user who wants to stop ends the work.
    pub fn note(&mut self, error: Error) -> Result<()> {
        if matches!(error.kind(), ErrorKind::Cancelled) {
            return Err(error);
        }
        self.count += 1;
        if self.count <= TOLD {
            tell(&error.to_string());
        }
        Ok(())
    }

    /// The end of a run: the exit code says whether anything was left out.
    pub fn finish(self) -> Outcome {
        match self.count {
            0 => Ok(()),
            count => Err(Failure::Guest(ErrorKind::Partial(format!("{count} of them, named above")).into())),
        }
    }
}

#[allow(clippy::print_stderr, reason = "problems are for people")]
fn tell(message: &str) {
    eprintln!("guestctl: {message}");
}
