//! Look inside guest disk images in-process: no root, no virtual machine, no kernel mount, no helper program.
//!
//! # The map
//!
//! Layers import downwards only; `tests/layers.rs` enforces it.
//!
//! | layer | is about |
//! |---|---|
//! | [`Guestfs`] | the handle over all of it, with libguestfs's calls |
//! | [`inspect`] | what is installed in a guest |
//! | [`ops`] | what users ask for: list, find, checksum, download |
//! | [`fs`] | filesystems inside the guest, paths and mount points |
//! | [`volume`] | partitions and logical volumes |
//! | [`block`] | images as runs of bytes that know their holes |
//! | [`limits`], [`bytes`], [`progress`] and the [`Error`] | for everyone |
#![warn(missing_docs, missing_debug_implementations, unreachable_pub)]
#![warn(clippy::print_stderr, clippy::print_stdout, clippy::unwrap_used)]

pub mod block;
pub mod bytes;
mod error;
pub mod fs;
mod guestfs;
pub mod inspect;
pub mod limits;
pub mod ops;
pub mod progress;
pub mod volume;

pub use error::{Corrupt, Error, ErrorKind, PathProblem, Place, Result};
pub use guestfs::{DriveOptions, Guestfs, Listed, Stat};
