//! What a server offers, without opening any of it.

use super::super::protocol::option;
use super::super::stream::Stream;
use super::super::uri::Uri;
use super::handshake::Handshake;
use super::info::{ExportInfo, ServerInfo};
use super::options::{NbdOptions, from_now};
use crate::error::Result;

/// A server and its exports.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Listing {
    /// What was negotiated.
    pub server: ServerInfo,
    /// The exports, in the server's order, with all their metadata contexts.
    pub exports: Vec<ExportInfo>,
}

/// Asks the server of `uri` about all exports that it shows, or with `only` about that of the URI, which it need not
/// show. Exports that vanish or refuse to be described meanwhile are left out.
pub fn list_exports(uri: &Uri, only: bool, options: &NbdOptions) -> Result<Listing> {
    list(uri, only, options).map_err(|error| error.in_image(uri))
}

fn list(uri: &Uri, only: bool, options: &NbdOptions) -> Result<Listing> {
    let deadline = from_now(options.connect_timeout);
    let tls = options.tls_for(uri)?;
    let mut handshake = Handshake::begin(Stream::connect(&uri.address, deadline)?, tls.as_ref(), deadline)?;
    let server = handshake.server();
    if only {
        let contexts = handshake.list_contexts(&uri.export)?;
        let described = if server.fixed { handshake.describe(option::INFO, &uri.export)? } else { None };
        let mut export = match described {
            Some(export) => {
                handshake.abort();
                export
            }
            // A server that cannot describe it can open it.
            None => handshake.go(&uri.export, &[])?.export,
        };
        export.contexts = contexts;
        return Ok(Listing { server, exports: vec![export] });
    }
    let mut exports = Vec::new();
    for entry in handshake.list()? {
        let contexts = handshake.list_contexts(&entry.name)?;
        let mut export = match handshake.describe(option::INFO, &entry.name) {
            Ok(Some(export)) => export,
            Ok(None) => ExportInfo::new(&entry.name),
            Err(error) if matches!(error.kind(), crate::ErrorKind::Io { source, .. } if refused(source)) => continue,
            Err(error) => return Err(error),
        };
        export.description = export.description.or(Some(entry.description)).filter(|text| !text.is_empty());
        export.contexts = contexts;
        exports.push(export);
    }
    handshake.abort();
    Ok(Listing { server, exports })
}

/// Whether the server said no to this export and the connection goes on.
fn refused(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::PermissionDenied)
}
