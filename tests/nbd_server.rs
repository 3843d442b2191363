//! `guestctl serve` and the server below it: other people's clients as oracles, and clients that misbehave.

mod support;

#[path = "nbd_server/clients.rs"]
mod clients;
#[path = "nbd_server/hostile.rs"]
mod hostile;
#[path = "nbd_server/isolation.rs"]
mod isolation;
#[path = "nbd_server/tls.rs"]
mod tls;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const GUESTCTL: &str = env!("CARGO_BIN_EXE_guestctl");

/// A running `guestctl serve`, ended by a signal when dropped.
struct Served(Child);

impl Served {
    /// Serves at the socket `s` in `directory`; `arguments` are split at blanks.
    fn start(directory: &Path, arguments: &str) -> Self {
        let child = Command::new(GUESTCTL)
            .args(["serve", "--socket", "s"])
            .args(arguments.split_whitespace())
            .current_dir(directory)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let end = Instant::now() + Duration::from_secs(10);
        while !directory.join("s").exists() {
            assert!(Instant::now() < end, "the server does not come up: {arguments}");
            std::thread::sleep(Duration::from_millis(5));
        }
        Self(child)
    }

    /// Ends it with SIGTERM; its exit code.
    fn stop(mut self) -> Option<i32> {
        support::shell(Path::new("/"), &format!("kill {}", self.0.id()));
        self.0.wait().unwrap().code()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An 8 MiB disk with data, zeroes that are written and a hole: `disk.raw`, and `disk.qcow2` with the same bytes.
fn make_disks(directory: &Path) {
    let mut bytes = vec![0; 8 << 20];
    for (at, byte) in bytes.iter_mut().enumerate().take(3 << 20).skip(1 << 20) {
        *byte = (at % 251) as u8 | 1;
    }
    for (at, byte) in bytes.iter_mut().enumerate().skip((5 << 20) + 100).take(70_000) {
        *byte = (at % 241) as u8 | 1;
    }
    std::fs::write(directory.join("dense.raw"), &bytes).unwrap();
    support::shell(
        directory,
        "qemu-img convert -q -f raw -O raw -S 4k dense.raw disk.raw
         qemu-img convert -q -f raw -O qcow2 dense.raw disk.qcow2
         qemu-img convert -q -c -f raw -O qcow2 dense.raw packed.qcow2",
    );
}
