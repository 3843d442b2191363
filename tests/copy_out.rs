//! Copying trees out: what comes is what the kernel shows, whoever runs it, and nothing in an image leads out of the target.
#![cfg(all(feature = "cli", target_os = "linux"))]
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

#[path = "support/program.rs"]
mod program;
mod support;
#[path = "support/tree_fs.rs"]
mod tree_fs;

#[allow(dead_code, reason = "only its trees are used")]
#[path = "support/corners.rs"]
mod corners;
#[path = "support/mounted.rs"]
mod mounted;

#[path = "copy_out/faithful.rs"]
mod faithful;
#[path = "copy_out/faults.rs"]
mod faults;
#[path = "copy_out/host.rs"]
mod host;
#[path = "copy_out/hostile.rs"]
mod hostile;
#[path = "copy_out/names.rs"]
mod names;
#[path = "copy_out/reflink.rs"]
mod reflink;
