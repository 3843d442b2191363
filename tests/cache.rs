//! The cache: what goes in comes out, whatever is damaged, killed, full or going on at the same time.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

#[path = "support/program.rs"]
mod program;

#[path = "cache/archive.rs"]
mod archive;
#[path = "cache/collect.rs"]
mod collect;
#[path = "cache/corruption.rs"]
mod corruption;
#[path = "cache/crash.rs"]
mod crash;
#[path = "cache/epoch.rs"]
mod epoch;
#[path = "cache/full.rs"]
mod full;
#[path = "cache/guest.rs"]
mod guest;
#[path = "cache/memo.rs"]
mod memo;
#[path = "cache/memo_convert.rs"]
mod memo_convert;
#[path = "cache/million.rs"]
mod million;
#[path = "cache/origins.rs"]
mod origins;
#[path = "cache/pass_through.rs"]
mod pass_through;
#[path = "cache/proof.rs"]
mod proof;
#[path = "cache/restore.rs"]
mod restore;
#[path = "cache/settings.rs"]
mod settings;
#[path = "cache/snapshot.rs"]
mod snapshot;
#[path = "cache/stability.rs"]
mod stability;
#[path = "cache/torture.rs"]
mod torture;
#[path = "cache/trees.rs"]
mod trees;
#[path = "cache/watched.rs"]
mod watched;
