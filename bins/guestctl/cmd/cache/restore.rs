//! `guestctl cache restore`

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use guestctl::cache::{Chosen, Digest, Event, EventKind, RestoreOptions, RestoreReport, Rewrite, Store, Strategy};
use guestctl::ops::{Filter, Preserve, Verdict};
use guestctl::{Error, Result};

use super::StoreArgs;
use super::add::Add;
use crate::exit::Outcome;
use crate::progress::Shown;
use crate::{jobs, print};

/// Bring a tree back as a directory: complete under its name, or not there at all.
#[derive(Debug, Args)]
pub struct Restore {
    /// The tree: its name, its id, the beginning of its id, or an image, which is added if need be.
    #[arg(value_name = "TREE")]
    tree: String,
    /// The directory to make; with --update the directory to change.
    #[arg(value_name = "DEST")]
    target: PathBuf,
    /// How contents come back. reflink fails where the filesystem cannot; hardlink needs --read-only; copy lets the kernel copy;
    /// pack reads and writes; snapshot keeps the tree as a subvolume of btrfs in the cache, so that from the second time on
    /// it comes back in milliseconds, as a subvolume, whatever its size.
    #[arg(long, value_enum, default_value_t = How::Auto)]
    strategy: How,
    /// Nobody will write to the tree, so that files may be names of the store's.
    #[arg(long)]
    read_only: bool,
    /// Copy files that match this pattern whatever the strategy; repeatable.
    #[arg(long, value_name = "PATTERN")]
    copy_pattern: Vec<String>,
    /// Replace a string in files; repeatable, needs --rewrite-in.
    #[arg(long, value_name = "FROM=TO", requires = "rewrite_in")]
    rewrite: Vec<String>,
    /// The files to replace strings in; repeatable.
    #[arg(long, value_name = "PATTERN", requires = "rewrite")]
    rewrite_in: Vec<String>,
    /// What the guest says of its files and the host's get: mode, times, xattrs by default; setid, owner, acls, security, trusted,
    /// devices; none, all.
    #[arg(long, value_name = "FACTS", default_value = "default")]
    preserve: Preserve,
    /// Only this directory of the tree.
    #[arg(long, value_name = "PATH", default_value = "/")]
    below: String,
    /// Change an existing directory: only what differs is made again, what the tree does not have is removed.
    #[arg(long)]
    update: bool,
    /// Return when the tree is on the disk.
    #[arg(long)]
    sync: bool,
    /// Threads; without a number as many as there are processors.
    #[arg(short = 'j', long, value_name = "N")]
    jobs: Option<usize>,
    /// Print what was done as JSON.
    #[arg(long)]
    json: bool,
    /// Show no progress.
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum How {
    Auto,
    Reflink,
    Hardlink,
    Copy,
    Pack,
    Snapshot,
}

impl Restore {
    pub fn run(self, store: &StoreArgs) -> Outcome {
        let store = if std::path::Path::new(&self.tree).is_file() { store.open_or_init()? } else { store.open()? };
        let tree = self.found(&store)?;
        let options = self.options()?;
        let progress = Shown::new("restore").quiet(self.quiet);
        let started = std::time::Instant::now();
        let report = jobs::install(self.jobs, || {
            if self.update {
                store.update(&tree, &self.target, &options, &progress)
            } else {
                store.restore(&tree, &self.target, &options, &progress)
            }
        })??;
        drop(progress);
        let mut event = Event::new(EventKind::Restore, "restore");
        event.key = tree.to_string();
        event.subject = self.target.display().to_string();
        event.bytes = report.file_bytes;
        event.duration_ns = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        store.note(&event);
        if self.json { Ok(print::json(&report)?) } else { self.show(&report) }
    }

    /// The tree of this name; of an image, the tree that adding it gives.
    fn found(&self, store: &Store) -> Result<Digest> {
        let resolved = store.resolve(&self.tree);
        if resolved.is_ok() || !std::path::Path::new(&self.tree).is_file() {
            return resolved;
        }
        Ok(Add::of_image(self.tree.as_ref())?.added(store)?.imported.tree)
    }

    fn options(&self) -> Result<RestoreOptions> {
        let chosen = |patterns: &[String]| -> Result<Option<Chosen>> {
            if patterns.is_empty() {
                return Ok(None);
            }
            let none: [&str; 0] = [];
            let filter = Filter::new(patterns, none)?;
            let chosen: Chosen = Arc::new(move |path| filter.matches(&[b"/", path].concat(), false) == Verdict::Skip);
            Ok(Some(chosen))
        };
        let pair = |text: &String| match text.split_once('=') {
            Some((from, to)) if !from.is_empty() => Ok((from.as_bytes().to_vec(), to.as_bytes().to_vec())),
            _ => Err(Error::invalid(format!("'{text}' is not FROM=TO"))),
        };
        let pairs = self.rewrite.iter().map(pair).collect::<Result<Vec<_>>>()?;
        let rewrite = chosen(&self.rewrite_in)?.map(|files| Rewrite { pairs, files });
        let below = self.below.split('/').filter(|name| !name.is_empty()).collect::<Vec<_>>().join("/");
        let strategy = match self.strategy {
            How::Auto => Strategy::Auto,
            How::Reflink => Strategy::Reflink,
            How::Hardlink => Strategy::Hardlink,
            How::Copy => Strategy::Copy,
            How::Pack => Strategy::Pack,
            How::Snapshot => Strategy::Snapshot,
        };
        Ok(RestoreOptions {
            strategy,
            read_only: self.read_only,
            preserve: self.preserve,
            copy: chosen(&self.copy_pattern)?,
            rewrite,
            below: below.into_bytes(),
            sync: self.sync,
        })
    }

    fn show(&self, report: &RestoreReport) -> Outcome {
        let mut rows = vec![
            ("directories", report.directories),
            ("files", report.files),
            ("symbolic links", report.symlinks),
            ("further names", report.links),
            ("nodes", report.nodes),
            ("nodes left out", report.nodes_left_out),
            ("empty", report.empty_files),
            ("inline", report.inline_files),
            ("from packs", report.packed_files),
            ("hard links to the cache", report.hardlinked_files),
            ("reflinked", report.reflinked_files),
            ("copied", report.copied_files),
            ("written", report.written_files),
            ("rewritten", report.rewritten_files),
            ("snapshots", report.snapshots),
        ];
        if self.update {
            rows.extend([("unchanged", report.unchanged), ("replaced", report.replaced), ("removed", report.removed)]);
        }
        rows.extend(report.refused.iter().map(|(fact, count)| (fact.as_str(), *count)));
        let mut rows: Vec<_> = rows
            .into_iter()
            .filter(|(_, count)| *count > 0)
            .map(|(name, count)| vec![name.to_owned(), count.to_string()])
            .collect();
        rows.push(vec!["bytes".to_owned(), print::human(report.file_bytes)]);
        if self.update {
            let touched = report.replaced + report.removed;
            let percent = touched as f64 * 100.0 / (touched + report.unchanged).max(1) as f64;
            rows.push(vec!["dirty".to_owned(), format!("{percent:.1}%")]);
        }
        Ok(print::table(&["RESTORED", ""], &[false, true], &rows)?)
    }
}
