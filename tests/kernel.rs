//! What guestctl lists and reads is what the kernel lists and reads: every fact of every path, every extended attribute,
//! every byte, on filesystems that the kernel itself has filled.
#![cfg(all(feature = "cli", target_os = "linux"))]
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

#[path = "support/program.rs"]
mod program;
mod support;

#[path = "kernel/containers.rs"]
mod containers;
#[path = "support/corners.rs"]
mod corners;
#[path = "support/facts.rs"]
mod facts;
#[path = "kernel/guests.rs"]
mod guests;
#[path = "support/mounted.rs"]
mod mounted;
#[path = "kernel/recovery.rs"]
mod recovery;
#[path = "kernel/variants.rs"]
mod variants;
