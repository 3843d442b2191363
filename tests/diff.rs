//! `ops::diff`, `inspect::differences` and `guestctl diff`, held against comparisons of the directories that images were
//! made of, GNU diff on the kernel's mounts, patch(1), dpkg, rpm and ssh-keygen.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/mounted.rs"]
mod mounted;
#[path = "support/program.rs"]
mod program;
mod support;
#[path = "support/tree_fs.rs"]
mod tree_fs;

#[path = "diff/command.rs"]
mod command;
#[path = "diff/content.rs"]
mod content;
#[path = "diff/patch.rs"]
mod patch;
#[path = "diff/semantic.rs"]
mod semantic;
#[path = "diff/trees.rs"]
mod trees;
