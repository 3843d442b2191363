//! SSH host keys, by the names of their public halves; clones of an image that has some share them.

use serde::Serialize;

use super::reader::Reader;
use crate::error::Result;

/// One host key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SshHostKey {
    /// `rsa`, `ecdsa`, `ed25519`.
    pub key_type: String,
    /// The public key's guest path.
    pub source: String,
}

/// The keys in `/etc/ssh`, sorted by type.
pub(super) fn host_keys(reader: &Reader<'_>) -> Result<Vec<SshHostKey>> {
    let names = reader.names("/etc/ssh")?;
    let keys = names.iter().filter_map(|name| {
        let key_type = name.strip_prefix("ssh_host_")?.strip_suffix("_key.pub")?.to_owned();
        Some(SshHostKey { key_type, source: format!("/etc/ssh/{name}") })
    });
    Ok(keys.collect())
}
