//! Looking into guests in bulk: what find(1), du(1), grep(1), cpio(1) and bsdtar say of the kernel's mount of an image is
//! what the program says of the image.
#![cfg(all(feature = "cli", target_os = "linux"))]
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

#[path = "../support/mounted.rs"]
mod mounted;
#[path = "../support/program.rs"]
mod program;
#[path = "../support/mod.rs"]
mod support;
#[path = "../support/tree_fs.rs"]
mod tree_fs;

mod cpio;
mod du;
mod find;
mod grep;
mod guest;
mod handle;
mod initrd;
mod kernel;
mod shared;
