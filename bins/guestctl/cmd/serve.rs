//! `guestctl serve`: images over NBD.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::{ArgGroup, Args};
use guestctl::block::nbd::server::{Disk, Export, Exports, ServerOptions};
use guestctl::block::nbd::tls::{PreSharedKey, ServerTls};
use guestctl::block::nbd::{Address, PORT, Uri};
use guestctl::block::{self, BlockDevice, BlockWrite, OpenOptions, Overlay, Slice};
use guestctl::ops::{self, Listener, ServeOptions, SocketFile, Stop};
use guestctl::{Error, Result, volume};
use listenfd::ListenFd;
use serde::Serialize;

use crate::args::OpenArgs;
use crate::exit::Outcome;
use crate::print;

/// Bytes of changes to one export that `--temporary` keeps in memory; more go to an unnamed temporary file.
const TEMPORARY_MEMORY: u64 = 32 << 20;

/// Serve images over NBD, read-only unless told otherwise, until a signal ends it.
///
/// Without --socket and --listen the server listens at 127.0.0.1 port 10809, or at the socket that systemd or nbdcopy
/// has passed to it.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("place").args(["socket", "listen"])))]
pub struct Serve {
    /// The images; NAME=IMAGE names an export. One image is the default export, of several each has its file's name
    /// without what follows the last dot, and the first one is the default export too.
    #[arg(value_name = "[NAME=]IMAGE", required = true)]
    images: Vec<String>,
    #[command(flatten)]
    open: OpenArgs,
    /// Listen at this Unix socket, which only this user can connect to and which is removed at the end.
    #[arg(short = 'k', long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Listen at this TCP address. Any address but this host's own needs TLS or --insecure; port 0 takes a free one.
    #[arg(short, long, value_name = "ADDRESS[:PORT]", value_parser = address)]
    listen: Option<SocketAddr>,
    /// Listen without TLS where other hosts can connect.
    #[arg(long, requires = "listen")]
    insecure: bool,
    /// The name of the only export.
    #[arg(short = 'x', long, value_name = "NAME")]
    export_name: Option<String>,
    /// What the exports are, for people who list them.
    #[arg(short = 'D', long, value_name = "TEXT")]
    description: Option<String>,
    /// Refuse writes. This is the default.
    #[arg(short, long)]
    read_only: bool,
    /// Let clients change the images.
    #[arg(short, long, conflicts_with_all = ["read_only", "temporary", "snapshot"])]
    writable: bool,
    /// Let clients write, and throw away what they wrote at the end; the images are not changed.
    #[arg(long, conflicts_with = "read_only")]
    temporary: bool,
    /// Serve this partition of each image.
    #[arg(short = 'P', long, value_name = "NUMBER")]
    partition: Option<u32>,
    /// Serve this internal snapshot of each image.
    #[arg(short, long, value_name = "NAME")]
    snapshot: Option<String>,
    /// Require TLS, with server-cert.pem and server-key.pem of this directory.
    #[arg(long, value_name = "DIR")]
    tls_certificates: Option<PathBuf>,
    /// Require TLS, with the pre-shared keys of this file: lines IDENTITY:HEXKEY.
    #[arg(long, value_name = "FILE", conflicts_with = "tls_certificates")]
    tls_psk: Option<PathBuf>,
    /// Require of clients a certificate of an authority in ca-cert.pem.
    #[arg(long, requires = "tls_certificates")]
    tls_verify_peer: bool,
    /// Connections at the same time.
    #[arg(short = 'c', long, value_name = "NUMBER", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    max_connections: u32,
    /// Drop clients that are silent for so many seconds.
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<NonZeroU64>,
    /// End when a client has come and none is left.
    #[arg(long)]
    exit_with_last_client: bool,
    /// Go on when the last client has left. This is the default.
    #[arg(short = 't', long, conflicts_with = "exit_with_last_client")]
    persistent: bool,
    /// Write the process id to this file when clients can connect; removed at the end.
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Say on standard output as JSON where the exports are, when clients can connect.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Served {
    name: String,
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    uri: Option<String>,
}

impl Serve {
    pub fn run(self) -> Outcome {
        let tls = self.tls()?;
        let exports = self.exports()?;
        let stop = Stop::new()?;
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            signal_hook::low_level::pipe::register(signal, stop.trigger()?)
                .map_err(|error| Error::io("listen to", "signals", error))?;
        }
        let (listener, address, _socket) = self.listener()?;
        let _pid_file = self.pid_file.as_deref().map(PidFile::write).transpose()?;
        self.announce(&exports, address)?;
        let options = ServeOptions {
            server: ServerOptions {
                tls,
                idle: self.timeout.map(|seconds| Duration::from_secs(seconds.get())),
                ..ServerOptions::default()
            },
            max_connections: usize::try_from(self.max_connections).unwrap_or(usize::MAX),
            until_idle: self.exit_with_last_client,
            ..ServeOptions::default()
        };
        Ok(ops::serve(&listener, &exports, &options, &stop)?)
    }

    fn tls(&self) -> Result<Option<ServerTls>> {
        Ok(match (&self.tls_certificates, &self.tls_psk) {
            (Some(directory), _) => {
                Some(ServerTls::Certificates { directory: directory.clone(), verify_peer: self.tls_verify_peer })
            }
            (None, Some(file)) => Some(ServerTls::Psk(PreSharedKey::read_file(file)?)),
            (None, None) => None,
        })
    }

    /// Where to listen, its address unless somebody else has made it, and the file to remove at the end.
    fn listener(&self) -> Result<(Listener, Option<Address>, Option<SocketFile>)> {
        if let Some(path) = &self.socket {
            let (listener, file) = Listener::unix(path)?;
            let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
            return Ok((listener, Some(Address::Unix(path)), Some(file)));
        }
        if self.listen.is_none()
            && let Some(listener) = inherited()?
        {
            return Ok((listener, None, None));
        }
        let address = self.listen.unwrap_or(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), PORT));
        let secure = self.tls_certificates.is_some() || self.tls_psk.is_some();
        if !address.ip().is_loopback() && !secure && !self.insecure {
            return Err(Error::denied(format!("other hosts can connect to {}, and there is no TLS", address.ip()))
                .with_hint("use --tls-certificates or --tls-psk, or say --insecure"));
        }
        let listener = Listener::tcp(address)?;
        let address = listener.address().unwrap_or(address);
        Ok((listener, Some(Address::Tcp { host: address.ip().to_string(), port: address.port() }), None))
    }

    fn exports(&self) -> Result<Exports> {
        if self.export_name.is_some() && self.images.len() > 1 {
            return Err(Error::invalid("--export-name is for one image; name several as NAME=IMAGE"));
        }
        let options = OpenOptions { snapshot: self.snapshot.clone(), ..self.open.options()? };
        let export = |image: &String| {
            let (name, path) = self.name(image);
            let disk = self.disk(path, &options).map_err(|error| error.in_image(path.display()))?;
            Ok(Export { name, description: self.description.clone().unwrap_or_default(), disk })
        };
        Exports::new(self.images.iter().map(export).collect::<Result<_>>()?)
    }

    /// An image's export name and path.
    fn name<'a>(&self, image: &'a str) -> (String, &'a Path) {
        let named = image.split_once('=').filter(|(name, _)| !name.contains('/') && !Path::new(image).exists());
        match (&self.export_name, named) {
            (Some(name), _) => (name.clone(), Path::new(image)),
            (None, Some((name, path))) => (name.to_owned(), Path::new(path)),
            (None, None) if self.images.len() == 1 => (String::new(), Path::new(image)),
            (None, None) => {
                let path = Path::new(image);
                (path.file_stem().unwrap_or_default().to_string_lossy().into_owned(), path)
            }
        }
    }

    fn disk(&self, path: &Path, options: &OpenOptions) -> Result<Disk> {
        if self.writable {
            let disk = block::open_writable(path, options)?;
            let Some(number) = self.partition else { return Ok(Disk::Writable(disk)) };
            let (start, size) = partition(&(disk.clone() as Arc<dyn BlockDevice>), number)?;
            let slice: Slice<dyn BlockWrite> = Slice::new(disk, start, size)?;
            return Ok(Disk::Writable(Arc::new(slice)));
        }
        let mut disk = block::open(path, options)?.device;
        if let Some(number) = self.partition {
            let (start, size) = partition(&disk, number)?;
            disk = Arc::new(Slice::new(disk, start, size)?);
        }
        if self.temporary {
            let overlay = Overlay::new(disk, TEMPORARY_MEMORY, &std::env::temp_dir());
            return Ok(Disk::Writable(Arc::new(overlay)));
        }
        Ok(Disk::ReadOnly(disk))
    }

    /// Says where the exports are.
    fn announce(&self, exports: &Exports, address: Option<Address>) -> Outcome {
        let uri = |export: &Export| {
            address.clone().map(|address| {
                let uri = Uri {
                    address,
                    export: export.name.clone(),
                    tls: self.tls_certificates.is_some() || self.tls_psk.is_some(),
                    user: None,
                    tls_certificates: None,
                    tls_psk_file: None,
                    tls_hostname: None,
                    tls_verify_peer: true,
                };
                uri.to_string()
            })
        };
        if self.json {
            let served = |export: &Export| Served { name: export.name.clone(), size: size(export), uri: uri(export) };
            let mut out = print::stdout()?;
            crate::json::line(&mut out, &exports.all().iter().map(served).collect::<Vec<_>>())?;
            return Ok(out.flush()?);
        }
        for uri in exports.all().iter().filter_map(uri) {
            say(&uri);
        }
        Ok(())
    }
}

#[allow(clippy::print_stderr, reason = "this is for the person who waits for it")]
fn say(uri: &str) {
    eprintln!("guestctl: serving {uri}");
}

fn size(export: &Export) -> u64 {
    match &export.disk {
        Disk::ReadOnly(disk) => disk.size(),
        Disk::Writable(disk) => disk.size(),
    }
}

/// Start and size of a partition.
fn partition(disk: &Arc<dyn BlockDevice>, number: u32) -> Result<(u64, u64)> {
    let table = volume::scan(disk)?.ok_or_else(|| Error::invalid("there is no partition table on the disk"))?;
    let numbers: Vec<_> = table.partitions.iter().map(|partition| partition.number.to_string()).collect();
    let found = table.partitions.iter().find(|partition| partition.number == number);
    found.map(|partition| (partition.start, partition.size)).ok_or_else(|| {
        Error::invalid(format!("there is no partition {number}"))
            .with_hint(format!("there are: {}", numbers.join(", ")))
    })
}

/// The socket that whoever started this program has passed to it: systemd's LISTEN_FDS (sd_listen_fds(3)).
fn inherited() -> Result<Option<Listener>> {
    let mut sockets = ListenFd::from_env();
    if sockets.len() > 1 {
        return Err(Error::invalid(format!("{} sockets were passed, one is served", sockets.len())));
    }
    if let Ok(Some(listener)) = sockets.take_unix_listener(0) {
        return Ok(Some(Listener::Unix(listener)));
    }
    let listener =
        sockets.take_tcp_listener(0).map_err(|error| Error::io("use", "the socket that was passed", error))?;
    Ok(listener.map(Listener::Tcp))
}

/// `ADDRESS`, `ADDRESS:PORT` or `localhost`.
fn address(text: &str) -> Result<SocketAddr, String> {
    let text = match text.strip_prefix("localhost") {
        Some(port) if port.is_empty() || port.starts_with(':') => format!("127.0.0.1{port}"),
        _ => text.to_owned(),
    };
    let bare = |ip: IpAddr| SocketAddr::new(ip, PORT);
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok().map(bare);
    text.parse()
        .ok()
        .or_else(|| text.parse().ok().map(bare))
        .or_else(bracketed)
        .ok_or_else(|| "an IP address and perhaps a port: 127.0.0.1, 0.0.0.0:10809, [::1]:10809".to_owned())
}

/// A file with the process id, removed when this is dropped.
struct PidFile<'a>(&'a Path);

impl<'a> PidFile<'a> {
    fn write(path: &'a Path) -> Result<Self> {
        std::fs::write(path, format!("{}\n", std::process::id()))
            .map_err(|error| Error::io("write", path.display(), error))?;
        Ok(Self(path))
    }
}

impl Drop for PidFile<'_> {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_a_port_or_get_the_protocols() {
        for (text, expected) in [
            ("127.0.0.1", "127.0.0.1:10809"),
            ("localhost:7", "127.0.0.1:7"),
            ("0.0.0.0:99", "0.0.0.0:99"),
            ("::1", "[::1]:10809"),
            ("[::1]", "[::1]:10809"),
            ("[::]:5", "[::]:5"),
        ] {
            assert_eq!(address(text).unwrap().to_string(), expected);
        }
        for text in ["", "host", "localhosts", "1.2.3.4:70000"] {
            assert!(address(text).is_err(), "{text}");
        }
    }
}
