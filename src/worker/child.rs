//! The child: opens what it is told to and serves it until the parent hangs up.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use super::{error, message};
use crate::block::nbd::Stream;
use crate::block::nbd::server::{Disk, Export, Exports, ServerOptions, negotiate};
use crate::block::{Image, Sweep};
use crate::error::{Error, Result};

/// For the parent's request; it writes it before anything else.
const REQUEST: Duration = Duration::from_secs(10);

/// Threads that answer the parent at most.
const THREADS: usize = 4;

/// A worker's whole life.
pub(super) fn run() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => ExitCode::from(error.exit_code()),
    }
}

fn serve() -> Result<()> {
    let fail = |error| Error::io("set up", "the worker process", error);
    let socket = std::io::stdin().as_fd().try_clone_to_owned().map_err(fail)?;
    let stream = Stream::try_from(UnixStream::from(socket)).map_err(fail)?;
    std::env::set_current_dir("/").map_err(fail)?;
    let deadline = Instant::now() + REQUEST;
    let (path, options, whole) = message::parse_request(message::receive(&stream, deadline)?)?;
    // The parent sees no tables that it could hold against the file.
    let audit = |image: Image| if whole { image.device.audit(Sweep::Read).map(|()| image) } else { Ok(image) };
    let image = match crate::block::open(&path, &options).and_then(audit) {
        Ok(image) => image,
        Err(error) => return message::send(&stream, &error::encode(&error), Instant::now() + REQUEST),
    };
    message::send(&stream, &message::answer(&image.info), Instant::now() + REQUEST)?;
    let disk = Disk::ReadOnly(image.device);
    let exports = Exports::new(vec![Export { name: String::new(), description: String::new(), disk }])?;
    let options = ServerOptions { multi_conn: false, ..ServerOptions::default() };
    let Some(connection) = negotiate(stream, &exports, &options)? else { return Ok(()) };
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS);
    std::thread::scope(|scope| {
        for _ in 1..threads {
            // One thread is enough; more read and unpack at the same time.
            let _ = std::thread::Builder::new().spawn_scoped(scope, || connection.serve());
        }
        connection.serve()
    })
}
