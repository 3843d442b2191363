//! The NBD client against other people's servers (qemu-nbd, nbdkit), plain and inside TLS, and against a server of our
//! own that breaks the rules.

mod support;

#[path = "nbd_client/hostile.rs"]
mod hostile;
#[path = "nbd_client/servers.rs"]
mod servers;
#[path = "nbd_client/tls.rs"]
mod tls;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use guestctl::block::nbd::{Client, NbdOptions, Uri};

/// A server program on a Unix socket, ended with the test.
struct Server {
    child: Child,
    socket: PathBuf,
}

impl Server {
    /// Starts `command`, in which `SOCKET` and `DIR` are replaced, and waits until it listens.
    fn start(directory: &Path, command: &str) -> Self {
        let socket = directory.join("nbd.sock");
        let _ = std::fs::remove_file(&socket);
        let command = format!(
            "exec {}",
            command.replace("SOCKET", socket.to_str().unwrap()).replace("DIR", directory.to_str().unwrap())
        );
        let child = Command::new("sh")
            .args(["-c", &command])
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(directory.join("server.log")).unwrap())
            .spawn()
            .unwrap();
        let begun = Instant::now();
        while std::os::unix::net::UnixStream::connect(&socket).is_err() {
            assert!(begun.elapsed() < Duration::from_secs(20), "{command}: {}", log(directory));
            std::thread::sleep(Duration::from_millis(5));
        }
        Self { child, socket }
    }

    fn uri(&self) -> Uri {
        Uri::unix(&self.socket)
    }

    fn client(&self) -> Client {
        Client::connect(&self.uri(), &quick()).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn log(directory: &Path) -> String {
    std::fs::read_to_string(directory.join("server.log")).unwrap_or_default()
}

/// Deadlines for tests, long enough for a busy machine.
fn quick() -> NbdOptions {
    NbdOptions {
        connect_timeout: Duration::from_secs(20),
        request_timeout: Duration::from_secs(20),
        ..NbdOptions::default()
    }
}

/// Bytes without a pattern that a wrong offset would hide.
fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()
    };
    std::iter::repeat_with(|| next()[..4].to_vec()).flatten().take(len).collect()
}
