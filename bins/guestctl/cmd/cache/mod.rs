//! `guestctl cache`: one file per subcommand.

mod add;
mod analyze;
mod diff;
mod doctor;
mod explain;
mod export;
mod gc;
mod import;
mod init;
mod ls;
mod misses;
mod pin;
mod prewarm;
mod restore;
mod rm;
mod seed;
mod show;
mod stats;
mod tar_out;
mod verify;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use guestctl::cache::{Store, Verify};
use guestctl::{Error, Result};

use crate::exit::Outcome;

/// Keep extracted trees in a content-addressed store, and bring them back by reflink, link or copy.
#[derive(Debug, Args)]
pub struct Cache {
    #[command(flatten)]
    store: StoreArgs,
    #[command(subcommand)]
    command: Command,
}

/// Which store.
#[derive(Debug, Clone, Args)]
pub struct StoreArgs {
    /// The store's directory; without it $XDG_CACHE_HOME/guestctl.
    #[arg(long, global = true, env = "GUESTCTL_CACHE_DIR", value_name = "DIR")]
    cache_dir: Option<PathBuf>,
    /// What of an object is looked at before it is delivered: never nothing; trusted its size, mode and time; first-use its
    /// content once; always its content.
    #[arg(long, global = true, value_enum, default_value_t = Level::Trusted, value_name = "LEVEL")]
    verify_level: Level,
}

/// Levels of verification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Level {
    Never,
    Trusted,
    FirstUse,
    Always,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a store.
    Init(init::Init),
    /// Add a guest's tree.
    Add(add::Add),
    /// Add a directory of the host.
    Seed(seed::Seed),
    /// Bring a tree back.
    Restore(restore::Restore),
    /// List trees and what names them.
    Ls(ls::Ls),
    /// Show a tree, or what is in it.
    Show(show::Show),
    /// Say what differs between two trees.
    Diff(diff::Diff),
    /// Take a tree's name away.
    Rm(rm::Rm),
    /// Keep a tree whatever gc wants.
    Pin(pin::Pin),
    /// Remove what nothing refers to.
    Gc(gc::Gc),
    /// Show how much there is, and what it was good for.
    Stats(stats::Stats),
    /// Hold everything that is stored against its digests.
    Verify(verify::Verify),
    /// Say what the store's filesystem can do.
    Doctor(doctor::Doctor),
    /// Add the guests of several images.
    Prewarm(prewarm::Prewarm),
    /// Say why a guest's tree is not there.
    Explain(explain::Explain),
    /// List results that had to be made, and why.
    Misses(misses::Misses),
    /// Say what the cache was good for.
    Analyze(analyze::Analyze),
    /// Write a tree as a tar archive.
    TarOut(tar_out::TarOut),
    /// Write trees into one tar file.
    Export(export::Export),
    /// Store the trees of such a file.
    Import(import::Import),
}

impl StoreArgs {
    /// The store's directory.
    pub fn directory(&self) -> Result<PathBuf> {
        self.cache_dir
            .clone()
            .or_else(Store::default_directory)
            .ok_or_else(|| Error::invalid("there is no directory for the cache").with_hint("name one with --cache-dir"))
    }

    fn level(&self) -> Verify {
        match self.verify_level {
            Level::Never => Verify::Never,
            Level::Trusted => Verify::Trusted,
            Level::FirstUse => Verify::FirstUse,
            Level::Always => Verify::Always,
        }
    }

    /// The store, which must be there.
    fn open(&self) -> Result<Store> {
        Ok(Store::open(self.directory()?)?.with_verification(self.level()))
    }

    /// The store, which is made if need be.
    fn open_or_init(&self) -> Result<Store> {
        Ok(Store::open_or_init(self.directory()?)?.with_verification(self.level()))
    }
}

impl Cache {
    pub fn run(self) -> Outcome {
        let store = self.store;
        match self.command {
            Command::Init(command) => command.run(&store),
            Command::Add(command) => command.run(&store),
            Command::Seed(command) => command.run(&store),
            Command::Restore(command) => command.run(&store),
            Command::Ls(command) => command.run(&store),
            Command::Show(command) => command.run(&store),
            Command::Diff(command) => command.run(&store),
            Command::Rm(command) => command.run(&store),
            Command::Pin(command) => command.run(&store),
            Command::Gc(command) => command.run(&store),
            Command::Stats(command) => command.run(&store),
            Command::Verify(command) => command.run(&store),
            Command::Doctor(command) => command.run(&store),
            Command::Prewarm(command) => command.run(&store),
            Command::Explain(command) => command.run(&store),
            Command::Misses(command) => command.run(&store),
            Command::Analyze(command) => command.run(&store),
            Command::TarOut(command) => command.run(&store),
            Command::Export(command) => command.run(&store),
            Command::Import(command) => command.run(&store),
        }
    }
}

/// Seconds since 1970 at the beginning of the last `days`.
fn since(days: u32) -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_secs()).unwrap_or(i64::MAX) - i64::from(days) * 24 * 3600
}
