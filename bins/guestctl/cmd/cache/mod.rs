//! `guestctl cache`: one file per subcommand.

mod add;
mod analyze;
mod bench;
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
mod target;
mod top;
mod verify;

use clap::{Args, Subcommand};
use guestctl::Error;

pub use restore::How;

use crate::context::Context;
use crate::exit::Outcome;

/// Keep extracted trees in a content-addressed store, and bring them back by reflink, link or copy.
#[derive(Debug, Args)]
pub struct Cache {
    #[command(subcommand)]
    command: Command,
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
    /// Show what is asked of the cache and how fast it answers, again and again.
    Top(top::Top),
    /// Say how fast trees come back here.
    Bench(bench::Bench),
    /// Write a tree as a tar archive.
    TarOut(tar_out::TarOut),
    /// Write trees into one tar file.
    Export(export::Export),
    /// Store the trees of such a file.
    Import(import::Import),
}

impl Cache {
    pub fn run(self, context: &Context) -> Outcome {
        if context.is_without_cache() && !matches!(self.command, Command::Restore(_)) {
            return Err(Error::invalid("--no-cache leaves the cache alone, and this command is about it").into());
        }
        match self.command {
            Command::Init(command) => command.run(context),
            Command::Add(command) => command.run(context),
            Command::Seed(command) => command.run(context),
            Command::Restore(command) => command.run(context),
            Command::Ls(command) => command.run(context),
            Command::Show(command) => command.run(context),
            Command::Diff(command) => command.run(context),
            Command::Rm(command) => command.run(context),
            Command::Pin(command) => command.run(context),
            Command::Gc(command) => command.run(context),
            Command::Stats(command) => command.run(context),
            Command::Verify(command) => command.run(context),
            Command::Doctor(command) => command.run(context),
            Command::Prewarm(command) => command.run(context),
            Command::Explain(command) => command.run(context),
            Command::Misses(command) => command.run(context),
            Command::Analyze(command) => command.run(context),
            Command::Top(command) => command.run(context),
            Command::Bench(command) => command.run(context),
            Command::TarOut(command) => command.run(context),
            Command::Export(command) => command.run(context),
            Command::Import(command) => command.run(context),
        }
    }
}

/// Seconds since 1970 at the beginning of the last `days`.
fn since(days: u32) -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_secs()).unwrap_or(i64::MAX) - i64::from(days) * 24 * 3600
}
