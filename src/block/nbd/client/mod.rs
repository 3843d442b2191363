//! An NBD export as a disk.
//!
//! ```text
//!   BlockDevice, BlockWrite ── Client: alignment, trying again, which connection
//!                                 └── Connection: requests under way, who reads which reply
//!                                        └── Stream: a socket, or TLS on one, with deadlines
//! ```
//!
//! A server is as untrusted as an image: what it says is held against the protocol and the limits, what it does not say
//! in time ends the connection. A read either has every byte from the server or is an error.

mod connection;
mod extents;
mod handshake;
mod info;
mod list;
mod options;
mod pool;
mod read;
mod spawn;
mod status;
mod write;

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use self::connection::{Clock, Connection, Failure};
use self::extents::Extents;
pub use self::info::{BlockSizes, ExportInfo, ServerInfo};
pub use self::list::{Listing, list_exports};
pub use self::options::NbdOptions;
use self::options::from_now;
use self::pool::{Pool, Route};
pub use self::spawn::Server as SpawnedServer;
pub use self::status::MetaExtent;
use super::stream::Stream;
use super::uri::Uri;
use crate::block::{BlockDevice, Extent, Status, check_range};
use crate::bytes::{div_rem, to_u64, to_usize};
use crate::error::{Error, Result};
use crate::limits;

/// A disk that an NBD server exports.
pub struct Client {
    pool: Pool,
    server: ServerInfo,
    export: ExportInfo,
    sizes: BlockSizes,
    /// What the server has said about extents, for each context that it agreed to.
    known: Vec<(String, Extents)>,
    /// Something was written and not flushed.
    unflushed: AtomicBool,
    /// A connection broke while that was so: what was written may be gone.
    unsure: AtomicBool,
    /// Held while blocks are read, changed and written back.
    partial: std::sync::Mutex<()>,
}

impl Client {
    /// Connects to the server of `uri` and opens its export.
    pub fn connect(uri: &Uri, options: &NbdOptions) -> Result<Self> {
        let tls = options.tls_for(uri)?;
        let route = Route::Address { address: uri.address.clone(), tls };
        Self::open(uri.to_string(), uri.export.clone(), route, options)
    }

    /// Opens an export through a connected socket. When it breaks there is no other.
    pub fn from_stream(stream: Stream, export: &str, options: &NbdOptions) -> Result<Self> {
        Self::open("the NBD server".to_owned(), export.to_owned(), Route::only(stream), options)
    }

    fn open(name: String, export: String, route: Route, options: &NbdOptions) -> Result<Self> {
        limits::check("bytes of an export's name", to_u64(export.len()), to_u64(super::uri::NAME_BYTES))?;
        let named = |error: Error| error.in_image(&name);
        let pool = Pool::new(name.clone(), export, route, options.clone());
        let first = pool.first().map_err(named)?;
        let (server, export) = (first.server, first.export.clone());
        log::debug!("{name}: {server:?} {export:?}");
        let sizes = export.block_sizes.unwrap_or(BlockSizes::UNSTATED);
        let known = first.contexts.iter().map(|(_, name)| (name.clone(), Extents::default())).collect();
        Ok(Self {
            pool,
            server,
            export,
            sizes,
            known,
            unflushed: AtomicBool::new(false),
            unsure: AtomicBool::new(false),
            partial: std::sync::Mutex::new(()),
        })
    }

    /// What was negotiated.
    #[must_use]
    pub fn server(&self) -> ServerInfo {
        self.server
    }

    /// The export.
    #[must_use]
    pub fn export(&self) -> &ExportInfo {
        &self.export
    }

    /// Connections that are open now.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.pool.len()
    }

    fn options(&self) -> &NbdOptions {
        self.pool.options()
    }

    /// Bytes of one read or write request: within the server's limits, whole blocks.
    fn unit(&self) -> u64 {
        let (minimum, maximum) =
            (u64::from(self.sizes.minimum), u64::from(self.sizes.maximum.min(super::protocol::PAYLOAD_BYTES)));
        let wanted = self.options().request_bytes.clamp(minimum, maximum.max(minimum));
        let (_, rest) = div_rem(wanted, minimum);
        wanted.saturating_sub(rest)
    }

    /// Bytes that one connection has under way for one call.
    fn window(&self) -> u64 {
        self.unit().saturating_mul(to_u64(self.options().requests_in_flight.max(1)))
    }

    /// `range`, grown to whole blocks of the server. The disk's end may lie in a block.
    fn aligned(&self, range: &Range<u64>) -> Range<u64> {
        let minimum = u64::from(self.sizes.minimum);
        let (_, rest) = div_rem(range.start, minimum);
        let end = range.end.checked_next_multiple_of(minimum).unwrap_or(range.end);
        range.start.saturating_sub(rest)..end.min(self.export.size).max(range.end)
    }

    /// Runs `attempt` on a connection, and again on others as long as connections break, with growing pauses.
    fn retrying<T>(
        &self,
        retries: u32,
        mut attempt: impl FnMut(&Connection, &mut Clock) -> Result<T, Failure>,
    ) -> Result<T> {
        let total = from_now(self.options().total_timeout);
        let mut pause = pool::FIRST_PAUSE;
        let mut tried = 0u32;
        loop {
            let result = self.pool.connection(total).and_then(|connection| {
                let mut clock = Clock::new(total, self.options().request_timeout);
                attempt(&connection, &mut clock)
            });
            let lost = match result {
                Ok(value) => return Ok(value),
                Err(Failure::Final(error)) => return Err(error.in_image(self.pool.name())),
                Err(Failure::Lost(lost)) => lost,
            };
            if self.unflushed.load(Ordering::SeqCst) {
                self.unsure.store(true, Ordering::SeqCst);
            }
            tried = tried.saturating_add(1);
            let next = Instant::now().checked_add(pause);
            if tried > retries || !self.pool.can_reconnect() || next.is_none_or(|next| next >= total) {
                return Err(Error::io("talk to", self.pool.name(), std::io::Error::from(lost)));
            }
            std::thread::sleep(pause);
            pause = pause.saturating_mul(2).min(pool::LONGEST_PAUSE);
        }
    }

    /// Reads whole blocks.
    fn read_aligned(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let mut at = offset;
        for part in buf.chunks_mut(to_usize(self.window()).max(1)) {
            let len = to_u64(part.len());
            self.retrying(self.options().retries, |connection, clock| connection.read(part, at, self.unit(), clock))?;
            at = at.saturating_add(len);
        }
        Ok(())
    }

    /// Reads what is no whole block: the blocks around it, in parts of bounded size.
    fn read_around(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let mut at = offset;
        for part in buf.chunks_mut(to_usize(self.unit()).max(1)) {
            let end = at.saturating_add(to_u64(part.len()));
            let blocks = self.aligned(&(at..end));
            let mut bytes = vec![0; to_usize(blocks.end.saturating_sub(blocks.start))];
            self.read_aligned(&mut bytes, blocks.start)?;
            let from = to_usize(at.saturating_sub(blocks.start));
            if let Some(bytes) = bytes.get(from..).and_then(|rest| rest.get(..part.len())) {
                part.copy_from_slice(bytes);
            }
            at = end;
        }
        Ok(())
    }
}

impl BlockDevice for Client {
    fn size(&self) -> u64 {
        self.export.size
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let end = check_range(self.size(), offset, buf.len())?;
        // The whole blocks go straight into the buffer, a block that is wanted in part does not.
        let blocks = self.aligned(&(offset..end));
        let minimum = u64::from(self.sizes.minimum);
        let head = if blocks.start < offset { blocks.start.saturating_add(minimum).min(end) } else { offset };
        let (_, rest) = div_rem(end, minimum);
        let tail = if blocks.end > end { end.saturating_sub(rest).max(head) } else { end };
        let (first, others) = buf.split_at_mut(to_usize(head.saturating_sub(offset)));
        let (middle, last) = others.split_at_mut(to_usize(tail.saturating_sub(head)));
        self.read_around(first, offset)?;
        self.read_aligned(middle, head)?;
        self.read_around(last, tail)
    }

    fn next_extent(&self, range: Range<u64>) -> Result<Extent> {
        let Status { kind, len, .. } = self.status(range)?;
        Ok(Extent { kind, len })
    }

    fn status(&self, range: Range<u64>) -> Result<Status> {
        self.allocation(&range)
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("name", &self.pool.name()).field("export", &self.export).finish_non_exhaustive()
    }
}
