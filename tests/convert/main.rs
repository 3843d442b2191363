//! Conversions through the real program, judged by QEMU's tools.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test program, and it says what it skips")]

#[path = "../support/program.rs"]
mod program;
#[path = "../support/mod.rs"]
mod support;

mod commands;
mod faults;
mod layout;
mod pairs;
mod reflink;
mod skip_free;

use std::path::Path;
use std::process::Output;

use program::program;

/// Runs guestctl in a directory and expects success.
fn guestctl(directory: &Path, arguments: &str) -> Vec<u8> {
    let output = run(directory, arguments);
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "guestctl {arguments}: {}{err}", output.status);
    output.stdout
}

fn run(directory: &Path, arguments: &str) -> Output {
    program().args(arguments.split_whitespace()).current_dir(directory).output().unwrap()
}
