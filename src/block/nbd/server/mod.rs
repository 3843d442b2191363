//! The NBD server: one connection at a time, from the greeting to the goodbye. Starts no thread and accepts no
//! connection; `ops::serve` does both.
//!
//! Fixed newstyle negotiation, simple, structured and extended replies, `base:allocation` and `qemu:allocation-depth`.
//! Reads know holes and move bytes from a host file to the socket without a copy where they can.
//!
//! A peer that breaks the protocol loses its own connection and nothing else: every length is held against a limit before
//! anything is allocated, and negotiation has a deadline.

mod negotiate;
mod read;
mod status;
mod transmit;

use std::sync::Arc;
use std::time::Duration;

use super::protocol::{PAYLOAD_BYTES, STRING_BYTES, transmission};
use super::tls::ServerTls;
use crate::block::{BlockDevice, BlockWrite};
use crate::error::{Error, Result};
use crate::limits;

pub use negotiate::negotiate;
pub use transmit::Connection;

/// A disk as it is served.
#[derive(Debug, Clone)]
pub enum Disk {
    /// Writes are refused.
    ReadOnly(Arc<dyn BlockDevice>),
    /// Clients may change it.
    Writable(Arc<dyn BlockWrite>),
}

impl Disk {
    fn device(&self) -> &dyn BlockDevice {
        match self {
            Self::ReadOnly(device) => &**device,
            Self::Writable(device) => &**device,
        }
    }

    fn writable(&self) -> Option<&dyn BlockWrite> {
        match self {
            Self::ReadOnly(_) => None,
            Self::Writable(device) => Some(&**device),
        }
    }
}

/// A disk and its name.
#[derive(Debug, Clone)]
pub struct Export {
    /// The name that clients ask for; at most 4096 bytes.
    pub name: String,
    /// What it is, for a person; may be empty.
    pub description: String,
    /// The disk.
    pub disk: Disk,
}

/// What a server offers: at least one export, no name twice. The first one is also there under the empty name.
#[derive(Debug, Clone)]
pub struct Exports(Vec<Export>);

impl Exports {
    /// Refuses an empty list, a name that is there twice, and names and descriptions past the protocol's limit.
    pub fn new(exports: Vec<Export>) -> Result<Self> {
        if exports.is_empty() {
            return Err(Error::invalid("there is nothing to serve"));
        }
        let mut names = std::collections::BTreeSet::new();
        for Export { name, description, .. } in &exports {
            for (what, text) in [("bytes of an export's name", name), ("bytes of an export's description", description)]
            {
                limits::check(what, crate::bytes::to_u64(text.len()), crate::bytes::to_u64(STRING_BYTES))?;
            }
            if !names.insert(name) {
                let name = crate::bytes::escape(name.as_bytes());
                return Err(Error::invalid(format!("there are two exports named {name:?}")));
            }
        }
        Ok(Self(exports))
    }

    /// All of them, in the order of the list.
    #[must_use]
    pub fn all(&self) -> &[Export] {
        &self.0
    }

    fn find(&self, name: &str) -> Option<&Export> {
        self.0.iter().find(|export| export.name == name).or_else(|| self.0.first().filter(|_| name.is_empty()))
    }

    /// Makes durable what was written to any of them.
    pub fn flush(&self) -> Result<()> {
        self.0.iter().filter_map(|export| export.disk.writable()).try_for_each(BlockWrite::flush)
    }
}

/// What a server demands of its clients and allows them.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// TLS, which is then required of every client; `None` refuses it.
    pub tls: Option<ServerTls>,
    /// For the whole negotiation, TLS included.
    pub handshake: Duration,
    /// How long a client may be silent, or not take its replies, before it is dropped; `None` waits for ever.
    pub idle: Option<Duration>,
    /// Bytes of data in one request or reply. The protocol's default is 32 MiB.
    pub payload: u32,
    /// Whether clients are told that they may connect several times.
    pub multi_conn: bool,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self { tls: None, handshake: Duration::from_secs(10), idle: None, payload: PAYLOAD_BYTES, multi_conn: true }
    }
}

/// How replies are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Mode {
    Simple,
    Structured,
    Extended,
}

/// The transmission flags of an export, each of them kept: what one connection has written and flushed, all of them see.
fn flags(export: &Export, mode: Mode, options: &ServerOptions) -> u16 {
    let always = transmission::HAS_FLAGS | transmission::SEND_FLUSH | transmission::SEND_CACHE;
    let write = match export.disk {
        Disk::ReadOnly(_) => transmission::READ_ONLY,
        Disk::Writable(_) => transmission::SEND_FUA | transmission::SEND_TRIM | transmission::SEND_WRITE_ZEROES,
    };
    let reads = if mode >= Mode::Structured { transmission::SEND_DF } else { 0 };
    let filter = if mode == Mode::Extended { transmission::BLOCK_STATUS_PAYLOAD } else { 0 };
    let several = if options.multi_conn { transmission::CAN_MULTI_CONN } else { 0 };
    always | write | reads | filter | several
}
