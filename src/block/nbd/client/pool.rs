//! The connections of a client: opened when those that are open have work, up to what options and server allow, and
//! opened again when they break.

use std::ops::Deref;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::super::protocol::{FORMAT, context};
use super::super::stream::Stream;
use super::super::tls::ClientTls;
use super::super::uri::Address;
use super::connection::{Connection, Failure};
use super::handshake::Handshake;
use super::info::ExportInfo;
use super::options::{NbdOptions, from_now};
use crate::error::{Error, Result};

/// The pause before a lost connection is opened again, which doubles each time
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// up to this.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Time for one connection more when there are some; a server that takes no more lets it hang.
const ANOTHER: Duration = Duration::from_secs(1);

/// How to get a connection.
#[derive(Debug)]
pub(super) enum Route {
    /// Connect, with TLS where there are credentials for it.
    Address { address: Address, tls: Option<ClientTls> },
    /// There is one, and never another.
    Only(Mutex<Option<Stream>>),
}

impl Route {
    pub(super) fn only(stream: Stream) -> Self {
        Self::Only(Mutex::new(Some(stream)))
    }
}

/// The connections of a client.
#[derive(Debug)]
pub(super) struct Pool {
    name: String,
    export: String,
    route: Route,
    options: NbdOptions,
    open: Mutex<Open>,
    /// Held while the only connection is opened again, so that one thread does it for all.
    connecting: Mutex<()>,
}

#[derive(Debug, Default)]
struct Open {
    connections: Vec<Arc<Connection>>,
    /// Being opened now.
    coming: usize,
    /// As many as the server takes, once that is known.
    limit: Option<usize>,
    /// The export as it was at first: later connections must find the same.
    export: Option<ExportInfo>,
}

/// A connection, counted as used.
pub(super) struct Leased(Arc<Connection>);

impl Leased {
    fn new(connection: Arc<Connection>) -> Self {
        connection.users.fetch_add(1, Ordering::Relaxed);
        Self(connection)
    }
}

impl Deref for Leased {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.0
    }
}

impl Drop for Leased {
    fn drop(&mut self) {
        self.0.users.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Pool {
    pub(super) fn new(name: String, export: String, route: Route, options: NbdOptions) -> Self {
        Self { name, export, route, options, open: Mutex::default(), connecting: Mutex::new(()) }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn options(&self) -> &NbdOptions {
        &self.options
    }

    pub(super) fn can_reconnect(&self) -> bool {
        matches!(self.route, Route::Address { .. })
    }

    pub(super) fn len(&self) -> usize {
        self.open().connections.len()
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first connection, which decides what the export is.
    pub(super) fn first(&self) -> Result<Arc<Connection>> {
        let connection = Arc::new(self.connect(from_now(self.options.connect_timeout))?);
        let mut open = self.open();
        let several = self.can_reconnect() && connection.export.can_multi_conn();
        open.limit = (!several).then_some(1);
        open.export = Some(connection.export.clone());
        open.connections.push(connection.clone());
        Ok(connection)
    }

    /// The connection with the least work, or a new one when all have some.
    pub(super) fn connection(&self, total: Instant) -> Result<Leased, Failure> {
        let mut open = self.open();
        open.connections.retain(|connection| !connection.is_lost());
        let Some(idlest) = open.connections.iter().min_by_key(|connection| connection.users()).cloned() else {
            drop(open);
            return self.again(total);
        };
        let leased = Leased::new(idlest);
        let limit = open.limit.unwrap_or(usize::MAX).min(self.options.connections);
        if leased.users() == 1 || open.connections.len().saturating_add(open.coming) >= limit {
            return Ok(leased);
        }
        open.coming = open.coming.saturating_add(1);
        drop(open);
        let another = self.connect(total.min(from_now(self.options.connect_timeout.min(ANOTHER))));
        let mut open = self.open();
        open.coming = open.coming.saturating_sub(1);
        match another {
            Ok(connection) => {
                let connection = Arc::new(connection);
                open.connections.push(connection.clone());
                Ok(Leased::new(connection))
            }
            Err(error) => {
                // That was advice of the server, no promise.
                log::debug!("{}: no further connection: {error}", self.name);
                open.limit = Some(open.connections.len().max(1));
                Ok(leased)
            }
        }
    }

    /// A connection when there is none any more.
    fn again(&self, total: Instant) -> Result<Leased, Failure> {
        let _one_at_a_time = self.connecting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(connection) = self.open().connections.iter().find(|connection| !connection.is_lost()) {
            return Ok(Leased::new(connection.clone()));
        }
        let deadline = total.min(from_now(self.options.connect_timeout));
        let connection = self.connect(deadline).map_err(|error| match error.kind() {
            // The server may be on its way back.
            crate::ErrorKind::Io { source, .. } => Failure::from(std::io::Error::new(source.kind(), error.to_string())),
            _ => Failure::Final(error),
        })?;
        let connection = Arc::new(connection);
        self.open().connections.push(connection.clone());
        Ok(Leased::new(connection))
    }

    fn connect(&self, deadline: Instant) -> Result<Connection> {
        let handshake = match &self.route {
            Route::Address { address, tls } => {
                Handshake::begin(Stream::connect(address, deadline)?, tls.as_ref(), deadline)?
            }
            Route::Only(stream) => {
                let stream = stream.lock().unwrap_or_else(PoisonError::into_inner).take();
                let gone = || Error::io("use", "the connection to the NBD server", rustix::io::Errno::NOTCONN);
                Handshake::begin(stream.ok_or_else(gone)?, None, deadline)?
            }
        };
        let mut wanted = vec![context::BASE_ALLOCATION.to_owned(), context::QEMU_ALLOCATION_DEPTH.to_owned()];
        wanted.extend(self.options.contexts.iter().filter(|name| !name.starts_with("base:allocation")).cloned());
        wanted.dedup();
        let connection = Connection::new(handshake.go(&self.export, &wanted)?);
        if let Some(first) = &self.open().export
            && (first.size, first.flags) != (connection.export.size, connection.export.flags)
        {
            let found = format!("{} bytes, flags {:#x}", connection.export.size, connection.export.flags);
            let expected = format!("{} bytes, flags {:#x} as on the first connection", first.size, first.flags);
            return Err(Error::corrupt(FORMAT, "export size", 0, found, expected));
        }
        Ok(connection)
    }
}
