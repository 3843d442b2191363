//! What the integration tests share: finding the tools that serve as oracles.
#![allow(dead_code, unreachable_pub, reason = "each test program uses a part")]

use std::fmt::Display;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Whether `tool` is installed. Prints why a test is skipped when it is not; in CI that is a failure.
pub fn have(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/sbin", "/usr/sbin"].map(PathBuf::from);
    let found = std::env::split_paths(&path).chain(system).any(|directory| directory.join(tool).is_file());
    found || skip(tool)
}

/// Whether the tests run as root; says what is skipped when not.
pub fn root() -> bool {
    let id = Command::new("id").arg("-u").output().expect("id");
    if id.stdout == b"0\n" {
        return true;
    }
    skipped("needs root");
    false
}

/// Says what is skipped, on standard error itself: what the print macros write is shown for failed tests alone.
pub fn skipped(why: impl Display) {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    let _ = writeln!(std::io::stderr(), "skipped: {test}: {why}");
}

fn skip(tool: &str) -> bool {
    assert!(std::env::var_os("CI").is_none(), "{tool} is missing, and CI must not skip tests");
    skipped(format_args!("needs {tool}"));
    false
}

/// Runs a shell script in `directory`, with the system's tool directories in PATH; it must succeed.
pub fn shell(directory: &Path, script: &str) -> Output {
    let script = format!("set -eu; export LC_ALL=C PATH=$PATH:/sbin:/usr/sbin; {script}");
    let output = Command::new("sh").arg("-c").arg(&script).current_dir(directory).output().expect("sh");
    assert!(output.status.success(), "{script}\n{}", String::from_utf8_lossy(&output.stderr));
    output
}
