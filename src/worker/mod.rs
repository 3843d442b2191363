//! Images opened in another process: a child of the same program opens the image and serves it, read-only, over a socket
//! pair; this process reads it through the ordinary NBD client. What a hostile image may break is the child.
//!
//! ```text
//!   this process                                        child
//!   WorkerDevice ── nbd::Client ══ socket pair ══ nbd::server ── image
//! ```
//!
//! On the socket, the parent first says what to open and the child answers with the image's facts or with its error
//! (module `message`); then both speak NBD. The child ends when the socket closes. It has no environment, `/` is its working
//! directory, and its standard input is the socket; it has no output.
//!
//! The child is this program again if it calls [`run_if_asked`] first of all; a program that does not can name one that
//! does, such as `guestctl`.

mod child;
mod device;
mod error;
mod message;

use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::block::{Image, OpenOptions};
use crate::error::{Error, Result};

/// The only argument of a program that is asked to be a worker.
const ARGUMENT: &str = "__guestctl_worker";

/// This program, whatever has become of its file.
const THIS_PROGRAM: &str = "/proc/self/exe";

/// Whether this program knows how to be a worker.
static KNOWS: AtomicBool = AtomicBool::new(false);

/// Does a worker's work and gives its exit code, if this process was started for that; else `None`. To be called before
/// anything else in `main`.
///
/// ```no_run
/// fn main() -> std::process::ExitCode {
///     if let Some(code) = guestctl::worker::run_if_asked() {
///         return code;
///     }
///     // the program's own work
///     std::process::ExitCode::SUCCESS
/// }
/// ```
#[must_use]
pub fn run_if_asked() -> Option<ExitCode> {
    KNOWS.store(true, Ordering::Relaxed);
    let mut arguments = std::env::args_os().skip(1);
    let asked = arguments.next().is_some_and(|argument| argument == ARGUMENT) && arguments.next().is_none();
    asked.then(child::run)
}

/// Opens the image at `path` in a child process: `program`, or this one again, which must have called
/// [`run_if_asked`]. Errors of opening are those of [`block::open`](crate::block::open); of the facts, internal
/// snapshots and what only one format has are missing.
///
/// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) when there is no program, or when the gate is none that another
/// process can be told of ([`OpenGate::policy`](crate::block::OpenGate::policy)).
pub fn open(path: &Path, options: &OpenOptions, program: Option<&Path>) -> Result<Image> {
    device::open(path, options, find(program)?, false)
}

/// The same for somebody who is going to read the whole disk: what its tables claim is held against what its file holds,
/// as [`BlockDevice::audit`](crate::block::BlockDevice::audit) does, over there.
pub fn open_whole(path: &Path, options: &OpenOptions, program: Option<&Path>) -> Result<Image> {
    device::open(path, options, find(program)?, true)
}

fn find(program: Option<&Path>) -> Result<&Path> {
    let program = match program {
        Some(program) => program,
        None if KNOWS.load(Ordering::Relaxed) => Path::new(THIS_PROGRAM),
        None => {
            return Err(Error::invalid(
                "this program cannot be started again to open an image in a process of its own",
            )
            .with_hint("call guestctl::worker::run_if_asked() first in main, or name a worker program"));
        }
    };
    Ok(program)
}
