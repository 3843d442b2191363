//! A server of one's own: started with a listening socket that it inherits (systemd's socket activation, which qemu-nbd
//! and nbdkit know), and ended with the client.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use super::super::uri::Uri;
use super::{Client, NbdOptions};
use crate::error::{Error, Result};

/// Moves the socket from standard input to descriptor 3 and names the process that it is for, which is known only
/// inside it.
const ACTIVATE: &str = r#"exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec "$@""#;

/// A server process and the directory of its socket; both end with this.
#[derive(Debug)]
pub struct Server {
    child: Child,
    directory: PathBuf,
}

impl Client {
    /// Starts the NBD server `command`, with its arguments, and opens the export `name` of it. The server must know
    /// socket activation. It ends with the returned [`Server`].
    pub fn spawn<S: AsRef<OsStr>>(command: &[S], name: &str, options: &NbdOptions) -> Result<(Self, Server)> {
        let (server, uri) = Server::start(command, name)?;
        Ok((Self::connect(&uri, options)?, server))
    }
}

impl Server {
    fn start<S: AsRef<OsStr>>(command: &[S], name: &str) -> Result<(Self, Uri)> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let unique = format!("guestctl-nbd-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let directory = std::env::temp_dir().join(unique);
        let fail = |action, error| Error::io(action, directory.display(), error);
        // Nobody else may connect, and a directory that exists already is someone else's.
        std::fs::DirBuilder::new().mode(0o700).create(&directory).map_err(|error| fail("create", error))?;
        let socket = directory.join("socket");
        let started = UnixListener::bind(&socket).and_then(|listener| {
            Command::new("sh")
                .args(["-c", ACTIVATE, "sh"])
                .args(command)
                .stdin(Stdio::from(OwnedFd::from(listener)))
                .stdout(Stdio::null())
                .spawn()
        });
        match started {
            Ok(child) => {
                let uri = Uri { export: name.to_owned(), ..Uri::unix(&socket) };
                Ok((Self { child, directory }, uri))
            }
            Err(error) => {
                let error = fail("start an NBD server in", error);
                let _ = std::fs::remove_dir_all(&directory);
                Err(error)
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}
