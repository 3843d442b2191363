//! `guestctl cache restore`

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use guestctl::cache::{
    Chosen, Digest, Event, EventKind, RestoreOptions, RestoreReport, Rewrite, Store, Strategy, nanoseconds_since,
};
use guestctl::ops::{CopyOutOptions, Filter, ForeignNames, Manifest, Preserve, Problems, Verdict};
use guestctl::{Error, ErrorKind, PathProblem, Result};
use serde::{Deserialize, Serialize};

use super::add::Add;
use crate::context::Context;
use crate::exit::{self, Outcome};
use crate::progress::Shown;
use crate::{jobs, print};

/// Bring a tree back as a directory: complete under its name, or not there at all.
///
/// When the tree is an image's and the cache is full, cannot be written, opened or made, or is left alone by --no-cache, the
/// directory is made straight from the image.
#[derive(Debug, Args)]
pub struct Restore {
    /// The tree: its name, its id, the beginning of its id, or an image, which is added if need be. A file is an image, also
    /// where a tree has its name; trees/NAME is that tree.
    #[arg(value_name = "TREE")]
    tree: String,
    /// The directory to make; with --update the directory to change.
    #[arg(value_name = "DEST")]
    target: PathBuf,
    /// How contents come back. reflink fails where the filesystem cannot; hardlink needs --read-only; copy lets the kernel copy;
    /// pack reads and writes; snapshot keeps the tree as a subvolume of btrfs in the cache, so that from the second time on
    /// it comes back in milliseconds, as a subvolume, whatever its size. Without it the settings file's, else auto.
    #[arg(long, value_enum)]
    strategy: Option<How>,
    /// Nobody will write to the tree, so that files may be names of the store's.
    #[arg(long)]
    read_only: bool,
    /// Copy files that match this pattern whatever the strategy; repeatable. Without it the settings file's.
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

/// How contents come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum How {
    #[default]
    Auto,
    Reflink,
    Hardlink,
    Copy,
    Pack,
    Snapshot,
}

/// Whether an error is the store's and not the image's or the target's: its disk is full, it cannot be written, it is damaged.
fn is_of(store: &Store, error: &Error) -> bool {
    match error.kind() {
        ErrorKind::Io { subject, .. } => subject == "the cache" || Path::new(subject).starts_with(store.path()),
        ErrorKind::Corrupt(corrupt) => corrupt.format == "cache",
        _ => false,
    }
}

/// What was done, as JSON.
#[derive(Debug, Serialize)]
struct Report<'a> {
    /// Whether the tree came out of the cache.
    cached: bool,
    #[serde(flatten)]
    report: &'a RestoreReport,
}

impl Restore {
    pub fn run(self, context: &Context) -> Outcome {
        let is_image = Path::new(&self.tree).is_file();
        if context.is_without_cache() {
            if !is_image {
                return Err(Error::invalid(format!(
                    "{} is no image, and --no-cache leaves the cache alone",
                    self.tree
                ))
                .into());
            }
            return self.straight(context);
        }
        if !is_image {
            let (report, problems) = self.out_of_store(&context.open()?, context)?;
            return self.finish(true, &report, &problems);
        }
        let store = match context.open_or_init() {
            Ok(store) => store,
            Err(error) => return self.straight_because(&error, context),
        };
        match self.out_of_store(&store, context) {
            Ok((report, problems)) => self.finish(true, &report, &problems),
            Err(error) if is_of(&store, &error) => self.straight_because(&error, context),
            Err(error) => Err(error.into()),
        }
    }

    /// Brings the tree back out of the store, which gets it first if it is that of an image. What of the image could not be
    /// read comes along.
    fn out_of_store(&self, store: &Store, context: &Context) -> Result<(RestoreReport, Problems)> {
        let (tree, problems) = self.found(store, context)?;
        let options = self.options(context)?;
        let progress = Shown::new("restore").quiet(self.quiet);
        let started = std::time::Instant::now();
        let report = jobs::install(context.jobs(self.jobs), || {
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
        event.duration_ns = nanoseconds_since(started);
        store.note(&event);
        Ok((report, problems))
    }

    /// The tree of this name; of an image, the tree that adding it gives.
    fn found(&self, store: &Store, context: &Context) -> Result<(Digest, Problems)> {
        if !Path::new(&self.tree).is_file() {
            return Ok((store.resolve(&self.tree)?, Problems::default()));
        }
        let add = Add::of_image(self.tree.as_ref())?;
        if !store.is_writable() {
            // What is known is there to be read.
            let known = add.known(store, context)?;
            let error = || Error::io("write to", store.path().display(), io::ErrorKind::ReadOnlyFilesystem);
            return Ok((known.ok_or_else(error)?, Problems::default()));
        }
        let added = add.added(store, context)?;
        Ok((added.imported.tree, added.problems))
    }

    fn straight_because(&self, error: &Error, context: &Context) -> Outcome {
        context.do_without(error);
        self.straight(context)
    }

    /// Makes the directory from the image, without a cache.
    fn straight(&self, context: &Context) -> Outcome {
        let asked = [
            (self.update, "--update"),
            (!self.rewrite.is_empty(), "--rewrite"),
            (self.read_only, "--read-only"),
            (
                matches!(self.strategy, Some(How::Reflink | How::Hardlink | How::Snapshot)),
                "--strategy reflink, hardlink or snapshot",
            ),
        ];
        if let Some((_, option)) = asked.into_iter().find(|(is_asked, _)| *is_asked) {
            return Err(Error::unsupported("cache restore", format!("{option} without a cache")).into());
        }
        let options = self.options(context)?;
        let add = Add::of_image(self.tree.as_ref())?;
        let mut copy = CopyOutOptions::default();
        copy.filter = add.options()?.filter;
        copy.preserve = self.preserve;
        copy.manifest = Manifest::None;
        copy.foreign_names = ForeignNames::Ignore;
        copy.clone = options.strategy == Strategy::Auto && options.copy.is_none();
        copy.sync = self.sync;
        let below = [b"/", &options.below[..]].concat();
        let guest = add.mounted()?;
        let progress = Shown::new("restore").quiet(self.quiet);
        let copied = jobs::install(context.jobs(self.jobs), || {
            if !guest.is_dir(&below)? {
                return Err(Error::path(&below, PathProblem::NotADirectory));
            }
            guest.copy_out_with(&below, &self.target, &copy, &progress)
        })??;
        drop(progress);
        let refused = copied.refused.iter().map(|count| (count.fact.to_string(), count.count)).collect();
        let report = RestoreReport {
            // The root is the target itself.
            directories: copied.entries.directories.saturating_sub(1),
            files: copied.entries.files,
            file_bytes: [
                copied.transferred.hole_bytes,
                copied.transferred.cloned_bytes,
                copied.transferred.copied_bytes,
            ]
            .iter()
            .sum(),
            symlinks: copied.entries.symlinks,
            nodes: copied.entries.nodes,
            nodes_left_out: copied.entries.missing,
            reflinked_files: copied.transferred.cloned_files,
            written_files: copied.entries.files.saturating_sub(copied.transferred.cloned_files),
            links: copied.entries.hard_links,
            reflinked_bytes: copied.transferred.cloned_bytes,
            written_bytes: copied.transferred.copied_bytes,
            refused,
            ..RestoreReport::default()
        };
        self.finish(false, &report, &copied.problems)
    }

    fn finish(&self, cached: bool, report: &RestoreReport, problems: &Problems) -> Outcome {
        if self.json {
            print::json(&Report { cached, report })?;
        } else {
            self.show(report)?;
        }
        exit::partial(problems)
    }

    fn options(&self, context: &Context) -> Result<RestoreOptions> {
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
        let settings = &context.settings;
        let strategy = match self.strategy.unwrap_or(settings.restore_strategy.value) {
            How::Auto => Strategy::Auto,
            How::Reflink => Strategy::Reflink,
            How::Hardlink => Strategy::Hardlink,
            How::Copy => Strategy::Copy,
            How::Pack => Strategy::Pack,
            How::Snapshot => Strategy::Snapshot,
        };
        let copies =
            if self.copy_pattern.is_empty() { &settings.restore_copy_patterns.value } else { &self.copy_pattern };
        Ok(RestoreOptions {
            strategy,
            read_only: self.read_only,
            preserve: self.preserve,
            copy: chosen(copies)?,
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
