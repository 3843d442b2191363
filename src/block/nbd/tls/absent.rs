//! What stands for TLS in a build without the feature `tls`.

use std::time::Instant;

use super::super::stream::{Stop, Stream};
use super::{ClientTls, ServerTls};
use crate::error::{Error, Result};

/// There is none.
#[derive(Debug)]
pub(in super::super) enum Session {}

impl Session {
    pub(in super::super) fn read(&self, _buf: &mut [u8]) -> Result<usize, Stop> {
        match *self {}
    }

    pub(in super::super) fn write(&self, _bytes: &[u8]) -> Result<usize, Stop> {
        match *self {}
    }
}

/// Refuses: this build has no TLS.
pub fn connect(_stream: Stream, _tls: &ClientTls, _deadline: Instant) -> Result<Stream> {
    Err(missing())
}

/// Refuses: this build has no TLS.
pub fn accept(_stream: Stream, _tls: &ServerTls, _deadline: Instant) -> Result<Stream> {
    Err(missing())
}

fn missing() -> Error {
    Error::unsupported("nbd", "TLS, in a program built without the feature tls,")
}
