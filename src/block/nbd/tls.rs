//! TLS on an NBD connection: who the peers are, and the handshake. Certificates (RFC 5280, RFC 6125) or a pre-shared key
//! (RFC 4279, RFC 5489, RFC 8446 2.2), TLS 1.2 or later.
//!
//! The files are those of libvirt, QEMU, nbdkit and libnbd:
//!
//! | file | of | what |
//! |---|---|---|
//! | `ca-cert.pem` | both | the authorities that may have signed the peer's certificate |
//! | `client-cert.pem`, `client-key.pem` | client | its own certificate, where the server asks for one |
//! | `server-cert.pem`, `server-key.pem` | server | its own certificate |
//! | the PSK file | both | lines `IDENTITY:HEXKEY` |
//!
//! A client never continues unless the handshake has proved the server: by a certificate that names the host, or by
//! knowledge of the key.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

#[cfg(feature = "tls")]
mod openssl;
#[cfg(feature = "tls")]
use openssl as library;

#[cfg(not(feature = "tls"))]
mod absent;
#[cfg(not(feature = "tls"))]
use absent as library;

pub(super) use library::Session;
pub use library::{accept, connect};

/// Bytes of a PSK file that are looked at. Ours; ten thousand identities.
const PSK_FILE_BYTES: u64 = 1 << 20;

/// How a client knows its server, and is known to it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum ClientTls {
    /// By certificates.
    Certificates {
        /// The directory of ca-cert.pem, and client-cert.pem and client-key.pem if there are such; `None` takes the
        /// system's certificate authorities.
        directory: Option<PathBuf>,
        /// The name or IP address that the server's certificate must bear.
        hostname: String,
        /// Whether the server's certificate is looked at. Without this anyone can be the server.
        verify_peer: bool,
    },
    /// By a key that both know.
    Psk(PreSharedKey),
}

/// How a server is known to its clients.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum ServerTls {
    /// By certificates.
    Certificates {
        /// The directory of server-cert.pem, server-key.pem and, to verify clients, ca-cert.pem.
        directory: PathBuf,
        /// Whether a client must have a certificate of an authority in ca-cert.pem.
        verify_peer: bool,
    },
    /// By keys that both know: those of all clients.
    Psk(Vec<PreSharedKey>),
}

/// A key that client and server share, and its name.
#[derive(Clone, PartialEq, Eq)]
pub struct PreSharedKey {
    /// The identity: a user's name.
    pub identity: String,
    /// The key's bytes.
    pub key: Vec<u8>,
}

impl fmt::Debug for PreSharedKey {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PreSharedKey").field("identity", &self.identity).finish_non_exhaustive()
    }
}

impl PreSharedKey {
    /// All keys of a file with lines `IDENTITY:HEXKEY`; empty lines and those that begin with `#` are passed over.
    pub fn read_file(path: &Path) -> Result<Vec<Self>> {
        let fail = |error| Error::io("read", path.display(), error);
        let mut text = String::new();
        std::fs::File::open(path).map_err(fail)?.take(PSK_FILE_BYTES).read_to_string(&mut text).map_err(fail)?;
        let keys = parse_keys(&text)
            .map_err(|line| Error::invalid(format!("{} line {line} is not IDENTITY:HEXKEY", path.display())))?;
        if keys.is_empty() {
            return Err(Error::invalid(format!("{} has no key", path.display())));
        }
        Ok(keys)
    }

    /// The key of `user` in a file; without a user the only key there.
    pub fn of_user(path: &Path, user: Option<&str>) -> Result<Self> {
        let mut keys = Self::read_file(path)?;
        match user {
            Some(user) => keys.into_iter().find(|key| key.identity == user).ok_or_else(|| {
                Error::invalid(format!("{} has no key of {}", path.display(), crate::bytes::escape(user.as_bytes())))
            }),
            None if keys.len() == 1 => Ok(keys.remove(0)),
            None => Err(Error::invalid(format!("{} has the keys of several users", path.display()))
                .with_hint("name one in the URI: nbds://USER@HOST/…")),
        }
    }
}

/// The keys, or the number of the first line that is none.
fn parse_keys(text: &str) -> Result<Vec<PreSharedKey>, usize> {
    let mut keys = Vec::new();
    for (line, number) in text.lines().zip(1usize..) {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let (identity, hex) = line.trim_end().rsplit_once(':').ok_or(number)?;
        let key = unhex(hex).filter(|key| !key.is_empty()).ok_or(number)?;
        if identity.is_empty() || identity.contains('\0') {
            return Err(number);
        }
        keys.push(PreSharedKey { identity: identity.to_owned(), key });
    }
    Ok(keys)
}

fn unhex(hex: &str) -> Option<Vec<u8>> {
    if !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let (pairs, rest) = hex.as_bytes().as_chunks::<2>();
    let byte = |pair: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    if rest.is_empty() { pairs.iter().map(byte).collect() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn psk_files_are_lines_of_identity_and_key() {
        let keys = parse_keys("# comment\nalice:00ff\n\nbob:a:0A0b\n").unwrap();
        let found: Vec<_> = keys.iter().map(|key| (&*key.identity, &*key.key)).collect();
        assert_eq!(found, [("alice", &[0, 255][..]), ("bob:a", &[10, 11])]);
        for (text, line) in [("alice", 1), ("alice:", 1), ("a:00\n:00", 2), ("a:0", 1), ("a:zz", 1), ("a:+1", 1)] {
            assert_eq!(parse_keys(text).unwrap_err(), line, "{text}");
        }
        assert!(!format!("{keys:?}").contains("255"), "keys are never printed");
    }

    #[test]
    fn a_client_has_one_key() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "alice:01\nbob:02\n").unwrap();
        assert_eq!(PreSharedKey::of_user(file.path(), Some("bob")).unwrap().key, [2]);
        assert_eq!(PreSharedKey::of_user(file.path(), Some("eve")).unwrap_err().exit_code(), 2);
        assert_eq!(PreSharedKey::of_user(file.path(), None).unwrap_err().exit_code(), 2);
        std::fs::write(file.path(), "alice:01\n").unwrap();
        assert_eq!(PreSharedKey::of_user(file.path(), None).unwrap().identity, "alice");
    }
}
