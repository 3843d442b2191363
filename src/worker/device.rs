//! The parent's side: the child process, and the disk that it serves.

use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::{ARGUMENT, error, message};
use crate::block::nbd::{Client, NbdOptions, Stream};
use crate::block::{BlockDevice, Extent, Image, OpenOptions, Status};
use crate::error::{Error, ErrorKind, Result};

/// For opening an image; one behind NBD may take long.
const OPENING: Duration = Duration::from_secs(60);

/// How long a child whose socket has closed may take to be gone, so that its end can be told of.
const ENDING: Duration = Duration::from_millis(500);

/// A disk that another process reads.
#[derive(Debug)]
struct WorkerDevice {
    // Closed first: then the child has nothing to do any more.
    client: Client,
    process: Process,
}

/// A child process that is ended and reaped when this is dropped.
#[derive(Debug)]
struct Process(Mutex<Child>);

pub(super) fn open(path: &Path, options: &OpenOptions, program: &Path, whole: bool) -> Result<Image> {
    let request = message::request(path, options, whole)?;
    let fail = |error| Error::io("start a worker process for", path.display(), error);
    let (ours, theirs) = UnixStream::pair().map_err(fail)?;
    let stream = Stream::try_from(ours).map_err(fail)?;
    let process = Process::start(program, theirs.into()).map_err(fail)?;
    let deadline = Instant::now() + OPENING;
    let explain = |error: Error| process.explain(error).in_image(path.display());
    message::send(&stream, &request, deadline).map_err(explain)?;
    let answer = message::receive(&stream, deadline).map_err(explain)?;
    if answer.first().is_none_or(|word| word != b"ok") {
        return Err(error::decode(answer));
    }
    let info = message::parse_answer(answer, path.display().to_string()).map_err(explain)?;
    let client = Client::from_stream(stream, "", &NbdOptions::default()).map_err(explain)?;
    if client.size() != info.virtual_size {
        return Err(message::malformed().in_image(path.display()));
    }
    Ok(Image { device: Arc::new(WorkerDevice { client, process }), info })
}

impl Process {
    fn start(program: &Path, socket: OwnedFd) -> io::Result<Self> {
        let mut command = Command::new(program);
        command.arg0("guestctl-worker").arg(ARGUMENT).env_clear();
        command.stdin(Stdio::from(socket)).stdout(Stdio::null()).stderr(Stdio::null());
        // A signal from the terminal is for the parent, which ends its workers itself.
        command.process_group(0);
        command.spawn().map(|child| Self(Mutex::new(child)))
    }

    /// `error`, or that the process has ended if that is the reason for it.
    fn explain(&self, error: Error) -> Error {
        let ErrorKind::Io { source, .. } = error.kind() else { return error };
        use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, UnexpectedEof};
        let closed =
            matches!(source.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected | UnexpectedEof);
        let wait = if closed { ENDING } else { Duration::ZERO };
        match self.ended_within(wait) {
            Some(status) => {
                let source = io::Error::new(io::ErrorKind::BrokenPipe, format!("it has ended with {}", words(status)));
                let error = Error::io("read the image through", "its worker process", source);
                error.with_hint("the image may have broken it; report that, with the image if you can")
            }
            None => error,
        }
    }

    fn ended_within(&self, time: Duration) -> Option<ExitStatus> {
        let end = Instant::now() + time;
        loop {
            let status = self.0.lock().unwrap_or_else(PoisonError::into_inner).try_wait().ok().flatten();
            if status.is_some() || Instant::now() >= end {
                return status;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

fn words(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(signal), _) => format!("signal {signal}"),
        (None, Some(code)) => format!("code {code}"),
        (None, None) => "an unknown status".to_owned(),
    }
}

impl Drop for Process {
    /// It only reads, so nothing is lost by ending it at once.
    fn drop(&mut self) {
        let child = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        let _ = child.kill();
        let _ = child.wait();
    }
}

impl BlockDevice for WorkerDevice {
    fn size(&self) -> u64 {
        self.client.size()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.client.read_exact_at(buf, offset).map_err(|error| self.process.explain(error))
    }

    fn next_extent(&self, range: Range<u64>) -> Result<Extent> {
        self.client.next_extent(range).map_err(|error| self.process.explain(error))
    }

    fn status(&self, range: Range<u64>) -> Result<Status> {
        self.client.status(range).map_err(|error| self.process.explain(error))
    }
}
