//! From an outcome to an exit code: 0 ok, else the library's codes; a closed pipe is success.

use std::io;
use std::process::ExitCode;

use guestctl::ops::Problems;

/// Why a command did not finish.
#[derive(Debug)]
pub enum Failure {
    /// The library's answer.
    Guest(guestctl::Error),
    /// The same, with the exit code that a command's users know instead of the library's.
    Coded(guestctl::Error, u8),
    /// Nothing failed, but the answer is an exit code.
    Answer(u8),
    /// Standard output could not be written.
    Output(io::Error),
}

impl From<guestctl::Error> for Failure {
    fn from(error: guestctl::Error) -> Self {
        Self::Guest(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

/// What every command returns.
pub type Outcome = Result<(), Failure>;

/// Prints what went wrong and picks the exit code.
pub fn report(outcome: Outcome) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(Failure::Output(error)) => {
            report(Err(Failure::Guest(guestctl::Error::io("write to", "standard output", error))))
        }
        Err(Failure::Guest(error)) => {
            let code = error.exit_code();
            report(Err(Failure::Coded(error, code)))
        }
        Err(Failure::Coded(error, code)) => {
            complain(&error.to_string(), error.hint());
            ExitCode::from(code)
        }
        Err(Failure::Answer(code)) => ExitCode::from(code),
    }
}

/// Says something to people that is no data.
#[allow(clippy::print_stderr, reason = "this is where messages for people are printed")]
pub fn say(message: &str) {
    eprintln!("guestctl: {message}");
}

/// Says what could not be read, a line each; exit code 3 when there is any of it.
#[allow(clippy::print_stderr, reason = "this is where messages for people are printed")]
pub fn partial(problems: &Problems) -> Outcome {
    for problem in &problems.listed {
        eprintln!("guestctl: {problem}");
    }
    let unlisted = problems.count - problems.listed.len() as u64;
    if unlisted > 0 {
        eprintln!("guestctl: and {unlisted} more");
    }
    if problems.is_empty() {
        return Ok(());
    }
    eprintln!("guestctl: error: some parts could not be read: {} in all, everything else is there", problems.count);
    Err(Failure::Answer(3))
}

#[allow(clippy::print_stderr, reason = "this is where messages for people are printed")]
fn complain(message: &str, hint: Option<&str>) {
    eprintln!("guestctl: error: {message}");
    if let Some(hint) = hint {
        eprintln!("hint: {hint}");
    }
}
