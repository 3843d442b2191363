//! The handshake with OpenSSL: the one widespread library that does certificates and pre-shared keys, the latter in TLS
//! 1.2 and 1.3, as GnuTLS does at the other end.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use openssl::error::ErrorStack;
use openssl::ssl::{
    ErrorCode, Ssl, SslContext, SslContextBuilder, SslFiletype, SslMethod, SslMode, SslOptions, SslSessionCacheMode,
    SslStream, SslVerifyMode, SslVersion,
};
use openssl::x509::X509VerifyResult;
use openssl::x509::verify::X509CheckFlags;
use rustix::event::PollFlags;

use super::super::stream::{Shared, Stop, Stream};
use super::{ClientTls, PreSharedKey, ServerTls};
use crate::error::{Error, Result};

/// Bytes written under one lock, so that a reader need not wait for a large write: four records.
const WRITE_BYTES: usize = 64 << 10;

/// Key exchanges by a pre-shared key that keep past traffic secret when the key becomes known.
const PSK_CIPHERS: &str = "kECDHEPSK:kDHEPSK:!eNULL:!3DES";

/// TLS on a socket, after its handshake.
pub(in super::super) struct Session(Mutex<SslStream<Shared>>);

impl Session {
    pub(in super::super) fn read(&self, buf: &mut [u8]) -> Result<usize, Stop> {
        let mut stream = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match stream.ssl_read(buf) {
            Ok(len) => Ok(len),
            Err(error) if error.code() == ErrorCode::ZERO_RETURN => Ok(0),
            Err(error) => Err(stop(error)),
        }
    }

    pub(in super::super) fn write(&self, bytes: &[u8]) -> Result<usize, Stop> {
        let mut stream = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = bytes.get(..WRITE_BYTES).unwrap_or(bytes);
        stream.ssl_write(bytes).map_err(stop)
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Session")
    }
}

fn stop(error: openssl::ssl::Error) -> Stop {
    match error.code() {
        ErrorCode::WANT_READ => Stop::Wait(PollFlags::IN),
        ErrorCode::WANT_WRITE => Stop::Wait(PollFlags::OUT),
        _ => Stop::Failed(error.into_io_error().unwrap_or_else(io::Error::other)),
    }
}

/// Puts TLS on a client's connection; `stream` must be at the point where the server expects the handshake. Bytes that
/// are no part of it are an error.
///
/// [`Denied`](crate::ErrorKind::Denied) when the server's certificate is not the one that was to be expected, `Io` for
/// everything else.
pub fn connect(stream: Stream, tls: &ClientTls, deadline: Instant) -> Result<Stream> {
    let ssl = client(tls)?;
    handshake(stream, ssl, deadline, |stream| stream.connect())
}

/// Puts TLS on a server's connection, as [`connect`] does.
pub fn accept(stream: Stream, tls: &ServerTls, deadline: Instant) -> Result<Stream> {
    let ssl = server(tls)?;
    handshake(stream, ssl, deadline, |stream| stream.accept())
}

type Step = fn(&mut SslStream<Shared>) -> Result<(), openssl::ssl::Error>;

fn handshake(stream: Stream, ssl: Ssl, deadline: Instant, step: Step) -> Result<Stream> {
    let mut refused = None;
    let started = stream.with_tls(|socket| {
        let mut stream = SslStream::new(ssl, socket)?;
        while let Err(error) = step(&mut stream) {
            match stop(error) {
                Stop::Wait(ready) => stream.get_ref().wait(ready, deadline)?,
                Stop::Failed(error) => {
                    let verdict = stream.ssl().verify_result();
                    refused = (verdict != X509VerifyResult::OK).then(|| verdict.error_string());
                    return Err(error);
                }
            }
        }
        Ok(Session(Mutex::new(stream)))
    });
    started.map_err(|error| match refused {
        Some(why) => Error::denied(format!("the certificate of the NBD peer: {why}")),
        None => Error::io("set up", "TLS with the NBD peer", error),
    })
}

fn failed(error: ErrorStack) -> Error {
    Error::io("set up", "TLS", error)
}

/// What holds for every connection.
fn context(method: SslMethod) -> Result<SslContextBuilder, ErrorStack> {
    let mut context = SslContext::builder(method)?;
    context.set_min_proto_version(Some(SslVersion::TLS1_2))?;
    context.set_options(SslOptions::NO_COMPRESSION | SslOptions::NO_RENEGOTIATION | SslOptions::NO_TICKET);
    context.set_session_cache_mode(SslSessionCacheMode::OFF);
    // A write that could not be finished is tried again from another buffer, with what is left.
    context.set_mode(SslMode::ENABLE_PARTIAL_WRITE | SslMode::ACCEPT_MOVING_WRITE_BUFFER);
    Ok(context)
}

fn client(tls: &ClientTls) -> Result<Ssl> {
    let mut context = context(SslMethod::tls_client()).map_err(failed)?;
    // With a pre-shared key too: a server that answers with a certificate instead must fail, and it does, because no
    // authority is trusted.
    context.set_verify(SslVerifyMode::PEER);
    match tls {
        ClientTls::Psk(key) => {
            let key = key.clone();
            context.set_cipher_list(PSK_CIPHERS).map_err(failed)?;
            context.set_psk_client_callback(move |_, _, identity, psk| {
                Ok(put(key.identity.as_bytes(), identity, 1).and_then(|_| put(&key.key, psk, 0)).unwrap_or(0))
            });
            Ssl::new(&context.build()).map_err(failed)
        }
        ClientTls::Certificates { directory, hostname, verify_peer } => {
            match directory {
                Some(directory) => {
                    authorities(&mut context, directory)?;
                    if directory.join("client-cert.pem").exists() {
                        own_certificate(&mut context, directory, "client")?;
                    }
                }
                None => context.set_default_verify_paths().map_err(failed)?,
            }
            if !verify_peer {
                context.set_verify(SslVerifyMode::NONE);
            }
            let mut ssl = Ssl::new(&context.build()).map_err(failed)?;
            expect_host(&mut ssl, hostname).map_err(failed)?;
            Ok(ssl)
        }
    }
}

/// The certificate must bear this name, or this address.
fn expect_host(ssl: &mut Ssl, hostname: &str) -> Result<(), ErrorStack> {
    ssl.param_mut().set_hostflags(X509CheckFlags::NO_PARTIAL_WILDCARDS);
    match hostname.parse() {
        Ok(address) => ssl.param_mut().set_ip(address),
        Err(_) => {
            ssl.set_hostname(hostname)?;
            ssl.param_mut().set_host(hostname)
        }
    }
}

fn server(tls: &ServerTls) -> Result<Ssl> {
    let mut context = context(SslMethod::tls_server()).map_err(failed)?;
    context.set_num_tickets(0).map_err(failed)?;
    match tls {
        ServerTls::Psk(keys) => {
            let keys: Arc<[PreSharedKey]> = keys.clone().into();
            context.set_cipher_list(PSK_CIPHERS).map_err(failed)?;
            context.set_psk_server_callback(move |_, identity, psk| {
                let known = keys.iter().find(|key| Some(key.identity.as_bytes()) == identity);
                Ok(known.and_then(|known| put(&known.key, psk, 0)).unwrap_or(0))
            });
        }
        ServerTls::Certificates { directory, verify_peer } => {
            own_certificate(&mut context, directory, "server")?;
            if *verify_peer {
                authorities(&mut context, directory)?;
                context.set_verify(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT);
            }
        }
    }
    Ssl::new(&context.build()).map_err(failed)
}

fn authorities(context: &mut SslContextBuilder, directory: &Path) -> Result<()> {
    let path = directory.join("ca-cert.pem");
    context.set_ca_file(&path).map_err(|error| Error::io("read certificates from", path.display(), error))
}

/// `ROLE-cert.pem`, with the authorities between it and the root, and `ROLE-key.pem`.
fn own_certificate(context: &mut SslContextBuilder, directory: &Path, role: &str) -> Result<()> {
    let path = directory.join(format!("{role}-cert.pem"));
    let read = |path: &Path, error: ErrorStack| Error::io("read the certificate or key in", path.display(), error);
    context.set_certificate_chain_file(&path).map_err(|error| read(&path, error))?;
    let path = directory.join(format!("{role}-key.pem"));
    context.set_private_key_file(&path, SslFiletype::PEM).map_err(|error| read(&path, error))?;
    context.check_private_key().map_err(|error| read(&path, error))
}

/// Copies `bytes` to the beginning of `to`, where `spare` more bytes must have room and become zero.
fn put(bytes: &[u8], to: &mut [u8], spare: usize) -> Option<usize> {
    let (head, rest) = to.split_at_mut_checked(bytes.len())?;
    head.copy_from_slice(bytes);
    rest.get_mut(..spare)?.fill(0);
    Some(bytes.len())
}
