//! Look inside guest disk images, convert and serve them, in-process: no root, no virtual machine, no kernel mount, no
//! helper program.
//!
//! # The map
//!
//! Layers import downwards only; `tests/layers.rs` enforces it.
//!
//! | layer | is about |
//! |---|---|
//! | [`batch`] | many images, one plan |
//! | [`Guestfs`] | the handle over all of it, with libguestfs's calls |
//! | [`inspect`] | what is installed in a guest |
//! | [`ops`] | what users ask for: list, find, checksum, download; convert, compare, check, resize, serve |
//! | [`cache`] | extracted trees, stored once and restored anywhere |
//! | [`fs`] | filesystems inside the guest, paths and mount points |
//! | [`volume`] | partitions and logical volumes |
//! | [`worker`] | images opened in another process |
//! | [`block`] | images as runs of bytes that know their holes |
//! | [`limits`], [`bytes`], [`progress`] and the [`Error`] | for everyone |
//!
//! # Threads
//!
//! Reads are synchronous and positioned, there is no async. Devices and filesystems do not change after they are opened;
//! what changes inside one is a bounded cache behind sharded locks, and no lock is held while the layer below is read.
//! Everything is `Send + Sync` and takes `&self`. Only [`ops`] starts parallel work, on the rayon pool of its caller (a
//! server has a thread for each connection, a [`batch`] one for each image at work), and its results do not depend on the
//! number of threads. `unsafe` stands in
//! one module of system calls, `sys`.
//!
//! # Errors
//!
//! One type, [`Error`]: whose problem it is ([`ErrorKind`], each with an exit code), where (image, device, guest path), and
//! a hint when there is something to do. A corrupt structure names format, field, byte offset, found and expected. Image
//! bytes never panic, allocate without a limit or loop without an end; the budgets are in [`limits`].
//!
//! # Words
//!
//! *Image* is the file, *disk* what the guest saw, *device* a [`block::BlockDevice`]. *Virtual size* is the disk's,
//! *allocated size* the file's. An *overlay* refers to its *backing file*, several are a *backing chain*. A *cluster*
//! (qcow2, FAT), *grain* (VMDK) or *block* (ext4) is a format's unit; an *extent* is a run of bytes of one kind: data, zero
//! or hole. A *mountable* is what can be mounted: a disk, partition or logical volume. A *checksum* is a format's own or one
//! that a user asks for. `offset`, `len` and `size` are in bytes.
#![warn(missing_docs, missing_debug_implementations, unreachable_pub)]
#![warn(clippy::print_stderr, clippy::print_stdout, clippy::unwrap_used)]

pub mod batch;
pub mod block;
pub mod bytes;
pub mod cache;
mod error;
pub mod fs;
mod guestfs;
mod host;
pub mod inspect;
pub mod limits;
pub mod ops;
pub mod progress;
mod sys;
pub mod volume;
pub mod worker;

pub use error::{Corrupt, Error, ErrorKind, PathProblem, Place, Result};
pub use guestfs::Inspected;
pub use guestfs::{
    Dirent, DriveOptions, GetKernelOptions, GrepFlags, GuestKernel, Guestfs, KernelFile, Listed, Stat, TskDirent,
};

/// The README's program, compiled and run with the other examples.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
