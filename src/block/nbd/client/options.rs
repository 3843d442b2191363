//! How a client behaves: deadlines, connections, what it asks for.

use std::time::{Duration, Instant};

use super::super::tls::{ClientTls, PreSharedKey};
use super::super::uri::{Address, Uri};
use crate::error::{Error, Result};

/// How a [`Client`](super::Client) behaves. The defaults suit a server on this host or in its network.
#[derive(Debug, Clone)]
pub struct NbdOptions {
    /// Time for one connection: connecting, TLS and negotiation.
    pub connect_timeout: Duration,
    /// Time in which the server must answer something that was asked.
    pub request_timeout: Duration,
    /// Time for one read or write with everything that it takes: trying again, connecting again. Reads of many megabytes
    /// are several.
    pub total_timeout: Duration,
    /// How often a read is tried again when its connection breaks. Writes are never tried again.
    pub retries: u32,
    /// Connections at most. More than one only where the server says that they see the same disk.
    pub connections: usize,
    /// Bytes asked for with one request, within what the server allows.
    pub request_bytes: u64,
    /// Requests under way on one connection for one read or write.
    pub requests_in_flight: usize,
    /// Metadata contexts to ask for beside `base:allocation` and `qemu:allocation-depth`, such as
    /// `qemu:dirty-bitmap:NAME`.
    pub contexts: Vec<String>,
    /// Who the server must be; `None` takes it from the URI. Only used with `nbds`.
    pub tls: Option<ClientTls>,
}

impl Default for NbdOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(60),
            total_timeout: Duration::from_secs(180),
            retries: 5,
            connections: 4,
            request_bytes: 256 << 10,
            requests_in_flight: 16,
            contexts: Vec::new(),
            tls: None,
        }
    }
}

/// The moment that is `time` away; a time too long for the clock is a day.
pub(super) fn from_now(time: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(time).or_else(|| now.checked_add(Duration::from_secs(86_400))).unwrap_or(now)
}

impl NbdOptions {
    /// Who the server of `uri` must be; `None` for a URI without TLS.
    pub(super) fn tls_for(&self, uri: &Uri) -> Result<Option<ClientTls>> {
        if !uri.tls {
            return Ok(None);
        }
        if let Some(tls) = &self.tls {
            return Ok(Some(tls.clone()));
        }
        if let Some(file) = &uri.tls_psk_file {
            if uri.tls_certificates.is_some() {
                return Err(Error::invalid("the NBD URI names both certificates and a pre-shared key"));
            }
            return Ok(Some(ClientTls::Psk(PreSharedKey::of_user(file, uri.user.as_deref())?)));
        }
        // A Unix socket has no name of its own; what listens there is this host.
        let host = match &uri.address {
            Address::Tcp { host, .. } => host,
            Address::Unix(_) => "localhost",
        };
        Ok(Some(ClientTls::Certificates {
            directory: uri.tls_certificates.clone(),
            hostname: uri.tls_hostname.clone().unwrap_or_else(|| host.to_owned()),
            verify_peer: uri.tls_verify_peer,
        }))
    }
}
