//! NBD URIs (nbd.git `doc/uri.md`, version 1).
//!
//! | URI | transport |
//! |---|---|
//! | `nbd://HOST[:PORT]/EXPORT` | TCP, port 10809 unless stated |
//! | `nbds://USER@HOST[:PORT]/EXPORT` | the same, inside TLS; USER is the identity of a pre-shared key |
//! | `nbd+unix:///EXPORT?socket=PATH` | Unix socket |
//! | `nbds+unix://USER@/EXPORT?socket=PATH` | the same, inside TLS |
//!
//! Export names, paths and hosts are percent-encoded UTF-8. The query says how TLS authenticates: `tls-certificates`,
//! `tls-psk-file`, `tls-hostname`, `tls-verify-peer`. Unknown keys are ignored, as the specification asks. Refused by
//! name: `nbd+vsock`, `nbd+ssh`, and fragments (`#`).

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::error::{Error, Result};

/// The port that IANA gave to NBD.
pub const PORT: u16 = 10809;

/// Bytes of an export's name. The NBD protocol's limit for strings.
pub(super) const NAME_BYTES: usize = 4096;

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// A TCP port of a host: its name or its IP address without brackets.
    Tcp {
        /// Name or address.
        host: String,
        /// The port.
        port: u16,
    },
    /// A Unix socket.
    Unix(PathBuf),
}

/// An NBD URI, taken apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Uri {
    /// Where the server is.
    pub address: Address,
    /// The export's name; the empty one is the server's default.
    pub export: String,
    /// Whether everything must go through TLS (`nbds`).
    pub tls: bool,
    /// The identity of the pre-shared key.
    pub user: Option<String>,
    /// The directory with ca-cert.pem, and client-cert.pem and client-key.pem where the server asks for them.
    pub tls_certificates: Option<PathBuf>,
    /// The file with lines `IDENTITY:HEXKEY`.
    pub tls_psk_file: Option<PathBuf>,
    /// The name that the server's certificate must bear, when it is not the host of the URI.
    pub tls_hostname: Option<String>,
    /// Whether the server's certificate is verified, which is so unless the URI says otherwise.
    pub tls_verify_peer: bool,
}

impl Uri {
    /// Whether an image's name is an NBD URI rather than a path: it begins with a scheme of the NBD family.
    #[must_use]
    pub fn is_uri(name: &Path) -> bool {
        let Some((scheme, _)) = name.to_str().and_then(|name| name.split_once("://")) else { return false };
        let family = scheme.split('+').next().unwrap_or_default();
        family.eq_ignore_ascii_case("nbd") || family.eq_ignore_ascii_case("nbds")
    }

    /// The default export of the server at a Unix socket, without TLS.
    #[must_use]
    pub fn unix(socket: &Path) -> Self {
        Self::plain(Address::Unix(socket.to_owned()), String::new())
    }

    fn plain(address: Address, export: String) -> Self {
        Self {
            address,
            export,
            tls: false,
            user: None,
            tls_certificates: None,
            tls_psk_file: None,
            tls_hostname: None,
            tls_verify_peer: true,
        }
    }

    /// The URI of another export of the same server.
    #[must_use]
    pub fn with_export(&self, export: &str) -> Self {
        Self { export: export.to_owned(), ..self.clone() }
    }
}

impl FromStr for Uri {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        parse(text).map_err(|error| error.in_image(crate::bytes::escape(text.as_bytes())))
    }
}

fn parse(text: &str) -> Result<Uri> {
    let (scheme, rest) = text.split_once("://").ok_or_else(|| invalid("has no scheme"))?;
    let (tls, unix) = match &*scheme.to_ascii_lowercase() {
        "nbd" => (false, false),
        "nbds" => (true, false),
        "nbd+unix" => (false, true),
        "nbds+unix" => (true, true),
        other => {
            return Err(Error::unsupported(
                "nbd",
                format!("the URI scheme {}", crate::bytes::escape(other.as_bytes())),
            ));
        }
    };
    if rest.contains('#') {
        return Err(invalid("has a fragment; # in a name is written %23"));
    }
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (user, host) = match authority.rsplit_once('@') {
        Some((user, host)) => (Some(decode(user)?), host),
        None => (None, authority),
    };
    let export = decode(path)?;
    if export.len() > NAME_BYTES {
        return Err(Error::limit(
            "bytes of an export's name",
            crate::bytes::to_u64(NAME_BYTES),
            crate::bytes::to_u64(export.len()),
        ));
    }
    let mut socket = None;
    let plain = Uri::plain(Address::Unix(PathBuf::new()), export);
    let mut uri = Uri { tls, user: user.filter(|user| !user.is_empty()), ..plain };
    for pair in query.split(['&', ';']).filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = decode(value)?;
        match &*decode(key)?.to_ascii_lowercase() {
            "socket" => socket = Some(PathBuf::from(value)),
            "tls-certificates" => uri.tls_certificates = Some(PathBuf::from(value)),
            "tls-psk-file" => uri.tls_psk_file = Some(PathBuf::from(value)),
            "tls-hostname" => uri.tls_hostname = Some(value),
            "tls-verify-peer" => uri.tls_verify_peer = truth(&value)?,
            _ => {}
        }
    }
    uri.address = match (unix, socket) {
        (true, Some(path)) if !path.as_os_str().is_empty() && host.is_empty() => Address::Unix(path),
        (true, Some(path)) if !path.as_os_str().is_empty() => return Err(invalid("names a host and a Unix socket")),
        (true, _) => return Err(invalid("has no socket=PATH")),
        (false, Some(_)) => return Err(invalid("has socket=PATH, which belongs to nbd+unix")),
        (false, None) => tcp(host)?,
    };
    Ok(uri)
}

/// `HOST`, `HOST:PORT`, `[IPv6]` or `[IPv6]:PORT`; no host is this one.
fn tcp(authority: &str) -> Result<Address> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']').ok_or_else(|| invalid("has a [ without its ]"))?;
            let port = match rest.strip_prefix(':') {
                Some(port) => Some(port),
                None if rest.is_empty() => None,
                None => return Err(invalid("has something between ] and the port")),
            };
            host.parse::<std::net::Ipv6Addr>().map_err(|_| invalid("has no IPv6 address between [ and ]"))?;
            (host.to_owned(), port)
        }
        None => {
            let (host, port) = authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port)));
            (decode(host)?, port)
        }
    };
    let port = match port {
        Some(digits) if !digits.is_empty() => match digits.parse() {
            Ok(port) if port != 0 && digits.bytes().all(|byte| byte.is_ascii_digit()) => port,
            _ => return Err(invalid("has a port that is not a number from 1 to 65535")),
        },
        _ => PORT,
    };
    let host = if host.is_empty() { "localhost".to_owned() } else { host };
    Ok(Address::Tcp { host, port })
}

fn invalid(why: &str) -> Error {
    Error::invalid(format!("the NBD URI {why}"))
}

fn truth(value: &str) -> Result<bool> {
    match &*value.to_ascii_lowercase() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err(invalid("has a tls-verify-peer that is neither true nor false")),
    }
}

/// Percent-encoded UTF-8 (RFC 3986, 2.1) without NUL.
fn decode(text: &str) -> Result<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        if first != b'%' {
            bytes.push(first);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2).ok_or_else(|| invalid("ends inside a %XX"))?;
        let digits =
            std::str::from_utf8(digits).ok().filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(byte.ok_or_else(|| invalid("has a % without two hexadecimal digits"))?);
        rest = after;
    }
    if bytes.contains(&0) {
        return Err(invalid("has a NUL byte"));
    }
    String::from_utf8(bytes).map_err(|_| invalid("is not UTF-8"))
}

/// The characters that stand for themselves everywhere in a URI; `/` stays readable in paths.
fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for &byte in text.as_bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                encoded.push(char::from(byte));
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.tls { "nbds" } else { "nbd" })?;
        let user = self.user.as_ref().map(|user| format!("{}@", encode(user).replace('/', "%2F"))).unwrap_or_default();
        let mut query = Vec::new();
        match &self.address {
            Address::Unix(path) => {
                write!(f, "+unix://{user}")?;
                query.push(("socket", path.to_string_lossy().into_owned()));
            }
            Address::Tcp { host, port } => {
                write!(f, "://{user}")?;
                if host.contains(':') {
                    write!(f, "[{host}]")?;
                } else {
                    f.write_str(&encode(host))?;
                }
                if *port != PORT {
                    write!(f, ":{port}")?;
                }
            }
        }
        write!(f, "/{}", encode(&self.export))?;
        let path = |path: &PathBuf| path.to_string_lossy().into_owned();
        query.extend(self.tls_certificates.as_ref().map(|value| ("tls-certificates", path(value))));
        query.extend(self.tls_psk_file.as_ref().map(|value| ("tls-psk-file", path(value))));
        query.extend(self.tls_hostname.as_ref().map(|value| ("tls-hostname", value.clone())));
        query.extend((!self.tls_verify_peer).then(|| ("tls-verify-peer", "false".to_owned())));
        for (index, (key, value)) in query.iter().enumerate() {
            write!(f, "{}{key}={}", if index == 0 { '?' } else { '&' }, encode(value))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(text: &str) -> Uri {
        text.parse().unwrap()
    }

    fn host(text: &str) -> (String, u16) {
        match uri(text).address {
            Address::Tcp { host, port } => (host, port),
            Address::Unix(path) => panic!("{}", path.display()),
        }
    }

    #[test]
    fn the_forms_of_the_specification() {
        assert_eq!(host("nbd://localhost"), ("localhost".to_owned(), 10809));
        assert_eq!(host("nbd://"), ("localhost".to_owned(), 10809));
        assert_eq!(host("NBD://example.com:444/x"), ("example.com".to_owned(), 444));
        assert_eq!(host("nbd://[::1]:3/x"), ("::1".to_owned(), 3));
        assert_eq!(host("nbd://[fe80::1]/"), ("fe80::1".to_owned(), 10809));
        assert_eq!(uri("nbd://h/").export, "");
        assert_eq!(uri("nbd://h").export, "");
        assert_eq!(uri("nbd://h//a/b%20c%C3%A9").export, "/a/b cé");
        let unix = uri("nbds+unix://alice@/exp?socket=/tmp/a%26b&unknown=1&tls-psk-file=/k&tls-verify-peer=false");
        assert_eq!(unix.address, Address::Unix("/tmp/a&b".into()));
        assert_eq!((unix.tls, unix.user.as_deref(), &*unix.export), (true, Some("alice"), "exp"));
        assert_eq!((unix.tls_psk_file, unix.tls_verify_peer), (Some("/k".into()), false));
        assert!(!uri("nbd+unix:///?socket=s").tls);
        assert!(uri("nbds://h?tls-certificates=/pki;tls-hostname=x").tls_verify_peer);
    }

    #[test]
    fn what_is_refused() {
        for (text, code) in [
            ("nbd+vsock://2:1/x", 7),
            ("nbd+ssh://h/x", 7),
            ("http://h/x", 7),
            ("nbd+unix:///x", 2),
            ("nbd+unix:///x?socket=", 2),
            ("nbd+unix://host/x?socket=/s", 2),
            ("nbd://h/x?socket=/s", 2),
            ("nbd://h:0/x", 2),
            ("nbd://h:65536/x", 2),
            ("nbd://h:+1/x", 2),
            ("nbd://[::1/x", 2),
            ("nbd://[zz]/x", 2),
            ("nbd://[::1]9/x", 2),
            ("nbd://h/%", 2),
            ("nbd://h/%1", 2),
            ("nbd://h/%+1", 2),
            ("nbd://h/%00", 2),
            ("nbd://h/%ff", 2),
            ("nbd://h/x#y", 2),
            ("nbds://h/?tls-verify-peer=maybe", 2),
            ("disk.img", 2),
        ] {
            assert_eq!(text.parse::<Uri>().unwrap_err().exit_code(), code, "{text}");
        }
        assert_eq!(format!("nbd://h/{}", "x".repeat(4097)).parse::<Uri>().unwrap_err().exit_code(), 4);
    }

    #[test]
    fn printed_and_parsed_again_it_is_the_same() {
        for text in [
            "nbd://localhost/",
            "nbd://[::1]:99/a%20b",
            "nbds://bob@example.com/x?tls-certificates=/etc/pki&tls-hostname=other",
            "nbds+unix:///e%3Fx?socket=/run/s%3F&tls-psk-file=/k&tls-verify-peer=false",
        ] {
            assert_eq!(uri(text).to_string(), text);
        }
    }

    #[test]
    fn paths_are_told_from_uris() {
        for name in ["nbd://h", "NBDS://h", "nbd+unix:///?socket=s", "nbd+vsock://1"] {
            assert!(Uri::is_uri(Path::new(name)), "{name}");
        }
        for name in ["nbd:h:1", "disk.raw", "/nbd://x", "http://nbd", "nbdx://h"] {
            assert!(!Uri::is_uri(Path::new(name)), "{name}");
        }
    }
}
