//! Serving disks over NBD: accepts connections and gives each its threads; the protocol is
//! [`block::nbd::server`](crate::block::nbd::server)'s.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::Shutdown;

use crate::block::nbd::Stream;
use crate::block::nbd::server::{Exports, ServerOptions, negotiate};
use crate::error::{Error, Result};

/// How long connections may finish what they are doing when the server stops.
const GRACE: Duration = Duration::from_secs(2);

/// How long nothing is accepted after the system had no room for one more connection.
const PAUSE: Duration = Duration::from_millis(100);

/// How to serve.
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// What clients must do and may do.
    pub server: ServerOptions,
    /// Connections at the same time, those in negotiation included; one more is closed at once. With 1, clients are told
    /// not to connect again.
    pub max_connections: usize,
    /// Threads that answer the requests of one connection.
    pub threads: usize,
    /// Whether to return when a client has come and none is left.
    pub until_idle: bool,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self { server: ServerOptions::default(), max_connections: 64, threads: 1, until_idle: false }
    }
}

/// A socket that clients connect to.
#[derive(Debug)]
pub enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// A Unix socket.
    Unix(UnixListener),
}

impl Listener {
    /// A Unix socket at `path`, which must not exist or must be a socket that nobody listens on. Only this user may
    /// connect: it is made under another name, and gets its own when its mode is right.
    ///
    /// The file stays when the listener is dropped; [`SocketFile`] takes it away.
    pub fn unix(path: &Path) -> Result<(Self, SocketFile)> {
        use std::os::unix::fs::{FileTypeExt, PermissionsExt};
        if let Ok(metadata) = path.symlink_metadata() {
            let stale = metadata.file_type().is_socket() && UnixStream::connect(path).is_err();
            if !stale {
                return Err(Error::io("create", path.display(), io::ErrorKind::AlreadyExists));
            }
        }
        let name = path.file_name().ok_or_else(|| Error::invalid(format!("{} is no file name", path.display())))?;
        // Kept short: the address of a socket has 108 bytes.
        let mut staged = std::ffi::OsString::from(".");
        staged.push(name);
        staged.push(format!(".{}", std::process::id()));
        let staged = SocketFile(path.with_file_name(staged));
        let fail = |error| Error::io("create", path.display(), error);
        let listener = UnixListener::bind(&staged.0).map_err(fail)?;
        std::fs::set_permissions(&staged.0, std::fs::Permissions::from_mode(0o600)).map_err(fail)?;
        std::fs::rename(&staged.0, path).map_err(fail)?;
        Ok((Self::Unix(listener), SocketFile(path.to_owned())))
    }

    /// A TCP socket at `address`; port 0 takes one that is free.
    pub fn tcp(address: SocketAddr) -> Result<Self> {
        TcpListener::bind(address).map(Self::Tcp).map_err(|error| Error::io("listen at", address, error))
    }

    /// A TCP socket's own address.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok(),
            Self::Unix(_) => None,
        }
    }

    fn set_nonblocking(&self) -> io::Result<()> {
        match self {
            Self::Tcp(listener) => listener.set_nonblocking(true),
            Self::Unix(listener) => listener.set_nonblocking(true),
        }
    }

    fn accept(&self) -> io::Result<(Stream, OwnedFd)> {
        match self {
            Self::Tcp(listener) => {
                let socket: TcpStream = listener.accept()?.0;
                let handle = socket.try_clone()?.into();
                Ok((Stream::try_from(socket)?, handle))
            }
            Self::Unix(listener) => {
                let socket: UnixStream = listener.accept()?.0;
                let handle = socket.try_clone()?.into();
                Ok((Stream::try_from(socket)?, handle))
            }
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(listener) => listener.as_fd(),
            Self::Unix(listener) => listener.as_fd(),
        }
    }
}

/// The file of a Unix socket, removed when this is dropped.
#[derive(Debug)]
pub struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Ends a server: one end is given to [`serve`], a byte to the other stops it.
pub struct Stop {
    ours: UnixStream,
    theirs: UnixStream,
}

impl Stop {
    /// A new one.
    pub fn new() -> Result<Self> {
        let (ours, theirs) = UnixStream::pair().map_err(|error| Error::io("create", "a socket pair", error))?;
        Ok(Self { ours, theirs })
    }

    /// Stops the server.
    pub fn stop(&self) -> Result<()> {
        use std::io::Write;
        (&self.ours).write_all(&[0]).map_err(|error| Error::io("stop", "the NBD server", error))
    }

    /// What a signal handler writes a byte to.
    pub fn trigger(&self) -> Result<UnixStream> {
        self.ours.try_clone().map_err(|error| Error::io("copy", "a socket", error))
    }
}

impl fmt::Debug for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stop")
    }
}

/// Serves `exports` to everyone who connects to `listener`, until `stop` says so or as
/// [`ServeOptions::until_idle`] asks. What was written is made durable before it returns.
///
/// A client that breaks the protocol loses its connection, and a debug message says why. Errors are the listener's own, or
/// those of the last flush.
pub fn serve(listener: &Listener, exports: &Exports, options: &ServeOptions, stop: &Stop) -> Result<()> {
    let fail = |error: io::Error| Error::io("accept connections from", "NBD clients", error);
    listener.set_nonblocking().map_err(fail)?;
    let mut options = options.clone();
    options.server.multi_conn &= options.max_connections > 1;
    let server =
        Arc::new(Server { exports: exports.clone(), options, clients: Mutex::default(), left: Condvar::new() });
    // Woken by a client that has left, to see whether it was the last one.
    let (leaver, leaving) = UnixStream::pair().map_err(fail)?;
    let leaving = Arc::new(leaving);
    let mut number = 0u64;
    loop {
        let ready = {
            let fds = &mut [
                PollFd::new(&stop.theirs, PollFlags::IN),
                PollFd::new(listener, PollFlags::IN),
                PollFd::new(&leaver, PollFlags::IN),
            ];
            match poll(fds, None) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(fail(errno.into())),
            }
            fds.each_ref().map(|fd| !fd.revents().is_empty())
        };
        let idle = ready[2] && server.is_idle(&leaver);
        if ready[0] || (idle && !ready[1]) {
            break;
        }
        if !ready[1] {
            continue;
        }
        match listener.accept() {
            Ok((stream, socket)) => {
                number += 1;
                server.admit(number, stream, socket, &leaving)?;
            }
            Err(error) if is_passing(&error) => log::debug!("nbd: cannot accept a connection: {error}"),
            Err(error) if is_full(&error) => {
                log::warn!("nbd: no room for a connection: {error}");
                std::thread::sleep(PAUSE);
            }
            Err(error) => return Err(fail(error)),
        }
    }
    server.close();
    exports.flush()
}

/// The client is gone already, or another event was meant.
fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, WouldBlock};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted | WouldBlock)
}

fn is_full(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM))
}

struct Server {
    exports: Exports,
    options: ServeOptions,
    /// The sockets of the connections there are.
    clients: Mutex<BTreeMap<u64, OwnedFd>>,
    left: Condvar,
}

impl Server {
    fn admit(self: &Arc<Self>, number: u64, stream: Stream, socket: OwnedFd, leaving: &Arc<UnixStream>) -> Result<()> {
        {
            let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
            if clients.len() >= self.options.max_connections {
                log::warn!("nbd: a connection was refused: there are {} already", clients.len());
                return Ok(());
            }
            clients.insert(number, socket);
        }
        log::debug!("nbd: connection {number} begins");
        let (server, leaving) = (self.clone(), leaving.clone());
        let started = std::thread::Builder::new().name(format!("nbd {number}")).spawn(move || {
            // Whatever happens in there, the connection is taken off the list.
            let _leave = Leave { server: &server, number, leaving: &leaving };
            match server.attend(stream) {
                Ok(()) => log::debug!("nbd: connection {number} ends"),
                Err(error) => log::debug!("nbd: connection {number} is dropped: {error}"),
            }
        });
        if let Err(error) = started {
            log::warn!("nbd: cannot start a thread for a connection: {error}");
            self.clients.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
        }
        Ok(())
    }

    /// Whether nobody is there, now that somebody has left.
    fn is_idle(&self, mut leaver: &UnixStream) -> bool {
        use std::io::Read;
        let _ = leaver.read(&mut [0; 64]);
        self.clients.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    fn attend(&self, stream: Stream) -> Result<()> {
        let Some(connection) = negotiate(stream, &self.exports, &self.options.server)? else { return Ok(()) };
        std::thread::scope(|scope| {
            for _ in 1..self.options.threads {
                // One thread is enough to serve; what ends it ends the connection, which this thread reports.
                let _ = std::thread::Builder::new().spawn_scoped(scope, || connection.serve());
            }
            connection.serve()
        })
    }

    /// Lets connections finish the requests they have, then ends them.
    fn close(&self) {
        let end = Instant::now() + GRACE;
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        end_all(&clients, Shutdown::Read);
        while !clients.is_empty() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                end_all(&clients, Shutdown::Both);
                return;
            }
            clients = self.left.wait_timeout(clients, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

fn end_all(clients: &BTreeMap<u64, OwnedFd>, how: Shutdown) {
    for socket in clients.values() {
        // Who has hung up already is what was wanted.
        let _ = rustix::net::shutdown(socket, how);
    }
}

/// Takes a connection off the list when its thread ends.
struct Leave<'a> {
    server: &'a Server,
    number: u64,
    leaving: &'a UnixStream,
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        use std::io::Write;
        let mut clients = self.server.clients.lock().unwrap_or_else(PoisonError::into_inner);
        clients.remove(&self.number);
        if clients.is_empty() && self.server.options.until_idle {
            let _ = (&mut &*self.leaving).write_all(&[0]);
        }
        drop(clients);
        self.server.left.notify_all();
    }
}
