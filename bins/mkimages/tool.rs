//! The programs that do the work: found, run in a fixed environment, and named with their Debian package when missing.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::Result;

/// Which Debian package brings which program.
const PACKAGES: [(&str, &str); 9] = [
    ("mke2fs", "e2fsprogs"),
    ("debugfs", "e2fsprogs"),
    ("e2fsck", "e2fsprogs"),
    ("mkfs.vfat", "dosfstools"),
    ("mmd", "mtools"),
    ("mcopy", "mtools"),
    ("mattrib", "mtools"),
    ("mkswap", "util-linux"),
    ("qemu-img", "qemu-utils"),
];

/// A program to run. Its clock stands still, its language is C, and no configuration of the host reaches it.
pub(crate) struct Tool {
    name: &'static str,
    command: Command,
}

impl Tool {
    /// The program `name`, at the time `time` (seconds since 1970).
    pub(crate) fn new(name: &'static str, time: i64) -> Self {
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new(name);
        command
            .env("PATH", format!("{path}:/usr/sbin:/sbin"))
            .env("LC_ALL", "C.UTF-8")
            .env("TZ", "UTC")
            .env("SOURCE_DATE_EPOCH", time.to_string())
            .env("E2FSPROGS_FAKE_TIME", time.to_string())
            .env("E2FSCK_TIME", time.to_string())
            .env("MKE2FS_CONFIG", "/dev/null")
            .env("E2FSCK_CONFIG", "/dev/null")
            .env("MTOOLSRC", "/dev/null")
            .env("MTOOLS_SKIP_CHECK", "1")
            .stdin(Stdio::null());
        Self { name, command }
    }

    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    pub(crate) fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.command.args(args);
        self
    }

    pub(crate) fn directory(mut self, directory: &Path) -> Self {
        self.command.current_dir(directory);
        self
    }

    /// Runs it; one of the exit codes `good` is success. Returns what it wrote to its standard error.
    pub(crate) fn run(mut self, good: &[i32]) -> Result<String> {
        let output = self.command.output().map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                let package = PACKAGES.iter().find(|(name, _)| *name == self.name).map_or("?", |(_, package)| package);
                format!("{} is missing: install the Debian package {package}", self.name)
            }
            _ => format!("cannot run {}: {error}", self.name),
        })?;
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        match output.status.code() {
            Some(code) if good.contains(&code) => Ok(complaint),
            _ => {
                let said = String::from_utf8_lossy(&output.stdout);
                let said: Vec<&str> = complaint.lines().chain(said.lines()).filter(|line| !line.is_empty()).collect();
                Err(format!("{} failed ({}): {}", self.name, output.status, said.join(" / ")).into())
            }
        }
    }
}
