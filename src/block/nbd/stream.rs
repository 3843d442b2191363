//! A connected socket, plain or inside TLS, that any number of threads read from and write to, each with a deadline.
//!
//! The socket never blocks: who finds nothing to read, or no room to write, waits in poll(2) without holding a lock. So
//! one thread can read replies while another sends requests, inside TLS too, and no peer holds a thread past its
//! deadline. Nothing is read ahead: bytes are taken from the socket only as they are asked for.

use std::fmt;
use std::io::{self, Read};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use super::tls::Session;
use super::uri::Address;
use crate::error::{Error, Result};

/// How often a Unix socket whose backlog is full is tried again.
const BACKLOG_PAUSE: Duration = Duration::from_millis(5);

/// A connection to a peer.
pub struct Stream {
    socket: Arc<Socket>,
    tls: Option<Box<Session>>,
}

/// A socket in non-blocking mode.
#[derive(Debug)]
pub(super) enum Socket {
    /// TCP.
    Tcp(TcpStream),
    /// Unix.
    Unix(UnixStream),
}

/// Why an attempt to read or write ended without moving bytes.
#[derive(Debug)]
pub(super) enum Stop {
    /// Nothing to do until the socket is ready for this.
    Wait(PollFlags),
    /// It failed.
    Failed(io::Error),
}

impl Socket {
    fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => (&*socket).read(buf),
            Self::Unix(socket) => (&*socket).read(buf),
        }
    }

    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        // Not write(2): a peer that is gone is an error here and must not be a signal to the process.
        rustix::net::send(self, bytes, rustix::net::SendFlags::NOSIGNAL).map_err(io::Error::from)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(socket) => socket.as_fd(),
            Self::Unix(socket) => socket.as_fd(),
        }
    }
}

/// The socket as TLS sees it.
#[cfg(feature = "tls")]
#[derive(Debug)]
pub(super) struct Shared(Arc<Socket>);

#[cfg(feature = "tls")]
impl Read for Shared {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

#[cfg(feature = "tls")]
impl io::Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl TryFrom<TcpStream> for Stream {
    type Error = io::Error;

    fn try_from(socket: TcpStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        socket.set_nodelay(true)?;
        Ok(Self { socket: Arc::new(Socket::Tcp(socket)), tls: None })
    }
}

impl TryFrom<UnixStream> for Stream {
    type Error = io::Error;

    fn try_from(socket: UnixStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self { socket: Arc::new(Socket::Unix(socket)), tls: None })
    }
}

impl Stream {
    /// Connects to a server. The look-up of a host name is the system's and has the system's own time limits.
    pub fn connect(address: &Address, deadline: Instant) -> Result<Self> {
        match address {
            Address::Unix(path) => {
                connect_unix(path, deadline).map_err(|error| Error::io("connect to", path.display(), error))
            }
            Address::Tcp { host, port } => connect_tcp(host, *port, deadline).map_err(|error| {
                Error::io("connect to", format!("{} port {port}", crate::bytes::escape(host.as_bytes())), error)
            }),
        }
    }

    /// The same connection with TLS on it.
    #[cfg(feature = "tls")]
    pub(super) fn with_tls(self, start: impl FnOnce(Shared) -> io::Result<Session>) -> io::Result<Self> {
        let session = start(Shared(self.socket.clone()))?;
        Ok(Self { socket: self.socket, tls: Some(Box::new(session)) })
    }

    /// Whether everything goes through TLS.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// The socket, unless its bytes are TLS's: for sendfile(2) and its like. It is in non-blocking mode.
    #[must_use]
    pub fn plain(&self) -> Option<BorrowedFd<'_>> {
        self.tls.is_none().then(|| self.socket.as_fd())
    }

    /// Fills `buf`. [`UnexpectedEof`](io::ErrorKind::UnexpectedEof) when the peer has closed, `TimedOut` past `deadline`.
    pub fn read_exact(&self, mut buf: &mut [u8], deadline: Instant) -> io::Result<()> {
        while !buf.is_empty() {
            match self.read_some(buf) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(len) => buf = buf.get_mut(len..).unwrap_or_default(),
                Err(Stop::Wait(ready)) => self.wait(ready, deadline)?,
                Err(Stop::Failed(error)) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads what there is, at least one byte; 0 when the peer has closed.
    pub(super) fn read_once(&self, buf: &mut [u8], deadline: Instant) -> io::Result<usize> {
        loop {
            match self.read_some(buf) {
                Ok(len) => return Ok(len),
                Err(Stop::Wait(ready)) => self.wait(ready, deadline)?,
                Err(Stop::Failed(error)) => return Err(error),
            }
        }
    }

    /// Writes all of `bytes`; `TimedOut` past `deadline`. Concurrent writers must take turns themselves.
    pub fn write_all(&self, mut bytes: &[u8], deadline: Instant) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.write_some(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(len) => bytes = bytes.get(len..).unwrap_or_default(),
                Err(Stop::Wait(ready)) => self.wait(ready, deadline)?,
                Err(Stop::Failed(error)) => return Err(error),
            }
        }
        Ok(())
    }

    /// Ends the connection: every thread that waits on it is woken and fails.
    pub fn close(&self) {
        // A socket that is closed already is what was wanted.
        let _ = rustix::net::shutdown(&*self.socket, rustix::net::Shutdown::Both);
    }

    fn read_some(&self, buf: &mut [u8]) -> Result<usize, Stop> {
        match &self.tls {
            Some(session) => session.read(buf),
            None => self.socket.read(buf).or_else(|error| stopped(error, PollFlags::IN)),
        }
    }

    fn write_some(&self, bytes: &[u8]) -> Result<usize, Stop> {
        match &self.tls {
            Some(session) => session.write(bytes),
            None => self.socket.write(bytes).or_else(|error| stopped(error, PollFlags::OUT)),
        }
    }

    /// Waits until the socket is ready, or fails with `TimedOut`.
    pub(super) fn wait(&self, ready: PollFlags, deadline: Instant) -> io::Result<()> {
        wait(&*self.socket, ready, deadline)
    }
}

#[cfg(feature = "tls")]
impl Shared {
    /// As [`Stream::wait`].
    pub(super) fn wait(&self, ready: PollFlags, deadline: Instant) -> io::Result<()> {
        wait(&*self.0, ready, deadline)
    }
}

fn stopped(error: io::Error, ready: PollFlags) -> Result<usize, Stop> {
    match error.kind() {
        io::ErrorKind::WouldBlock => Err(Stop::Wait(ready)),
        // Nothing to wait for: the next attempt tells.
        io::ErrorKind::Interrupted => Err(Stop::Wait(PollFlags::empty())),
        _ => Err(Stop::Failed(error)),
    }
}

fn wait(socket: impl AsFd, ready: PollFlags, deadline: Instant) -> io::Result<()> {
    if ready.is_empty() {
        return Ok(());
    }
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(Errno::TIMEDOUT.into());
    }
    let timeout = Timespec::try_from(left).map_err(|_| io::Error::from(Errno::INVAL))?;
    match poll(&mut [PollFd::new(&socket, ready)], Some(&timeout)) {
        Ok(0) => Err(Errno::TIMEDOUT.into()),
        // Interrupted counts as ready: the caller tries, and waits again if it was not so.
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

fn connect_tcp(host: &str, port: u16, deadline: Instant) -> io::Result<Stream> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for address in (host, port).to_socket_addrs()? {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Errno::TIMEDOUT.into());
        }
        match TcpStream::connect_timeout(&address, left) {
            Ok(socket) => return Stream::try_from(socket),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn connect_unix(path: &Path, deadline: Instant) -> io::Result<Stream> {
    let address = SocketAddrUnix::new(path.as_os_str().as_bytes())?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket: OwnedFd = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    loop {
        match connect(&socket, &address) {
            Ok(()) => return Stream::try_from(UnixStream::from(socket)),
            // The backlog is full; the kernel has no event for the moment when it is not.
            Err(Errno::AGAIN) if Instant::now() < deadline => std::thread::sleep(BACKLOG_PAUSE),
            Err(Errno::AGAIN) => return Err(Errno::TIMEDOUT.into()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("socket", &self.socket).field("tls", &self.is_tls()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(50)
    }

    #[test]
    fn nothing_waits_past_its_deadline() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let stream = Stream::try_from(ours).unwrap();
        assert_eq!(stream.read_exact(&mut [0; 4], soon()).unwrap_err().kind(), io::ErrorKind::TimedOut);
        let full = stream.write_all(&vec![0; 64 << 20], soon()).unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::TimedOut);
        drop((stream, theirs));
        let (ours, theirs) = UnixStream::pair().unwrap();
        let stream = Stream::try_from(ours).unwrap();
        drop(theirs);
        assert_eq!(stream.read_exact(&mut [0; 4], soon()).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(stream.write_all(&[0], soon()).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn closing_wakes_who_waits() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let stream = Stream::try_from(ours).unwrap();
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| stream.read_exact(&mut [0; 1], Instant::now() + Duration::from_secs(60)));
            std::thread::sleep(Duration::from_millis(20));
            stream.close();
            assert_eq!(reader.join().unwrap().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        });
    }
}
