//! Archives and digests of whole trees, judged by other programs: GNU tar, bsdtar, Python's tarfile, the `tar` crate, the
//! compressors' own programs, sha256sum and its like, and the kernel's own mount.
#![cfg(all(feature = "cli", target_os = "linux"))]
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub, reason = "a test fails by panicking")]

#[path = "../support/corners.rs"]
mod corners;
#[path = "../support/facts.rs"]
mod facts;
#[path = "../support/mounted.rs"]
mod mounted;
#[path = "../support/program.rs"]
mod program;
#[path = "../support/mod.rs"]
mod support;

mod bytes;
mod checksums;
mod compression;
mod extracted;
mod faults;
mod filters;
mod guest;
mod interrupted;
mod read_back;
mod recipes;
mod scaling;

/// The small guest that is part of the repository.
pub fn demo() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("images/demo.qcow2")
}
