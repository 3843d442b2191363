//! A guest's tree as files of the host: no root needed, nothing lost, nothing outside the target.
//!
//! ```text
//! names     one thread at a time, in the walk's order: what names become            names.rs
//! place     all threads: entries and contents of a batch                             place.rs
//! finish    one thread at a time, in order: hard links, directories' attributes      finish.rs
//! record    the manifest's lines                                                     record.rs
//! ```
//!
//! What the host is given is what cannot hurt there ([`Preserve`]); what it is not given, and what it cannot hold, is in the
//! manifest. A tree appears complete under its name, or not at all; what could not be read is reported, and the rest is
//! there. Contents are shared with the image where the host can do that, and keep their holes.

mod finish;
mod names;
mod place;
mod record;

use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::bulk::{Wants, for_each_batch};
use super::filter::{Filter, Verdict};
use super::problems::{Problem, Problems};
use super::walk::Visited;
use crate::error::{Error, Result};
use crate::fs::{FileType, Follow, GuestPath, Location, MountTable};
use crate::host::{Existing, Fact, Preserve, Staged, StagedTree, Transfer, Transferred, Tree};
use crate::progress::Progress;
use finish::Finish;
use names::{Fate, Names};
use place::Place;

pub use names::{Clash, ForeignName, ForeignNames, ForeignNamesFound};

/// Where a manifest goes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Manifest {
    /// Beside the tree: `NAME.guestctl-manifest.jsonl`.
    #[default]
    Beside,
    /// Into this file.
    File(PathBuf),
    /// Nowhere: what the host cannot hold is lost.
    None,
}

/// What is copied, and what the host is given.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CopyOutOptions {
    /// Which entries.
    pub filter: Filter,
    /// What the host is given of the guest's facts.
    pub preserve: Preserve,
    /// Copy into the target, which is a directory that exists, instead of making it.
    pub into: bool,
    /// What to do about entries that exist, with [`into`](Self::into).
    pub existing: Existing,
    /// Where everything is written down.
    pub manifest: Manifest,
    /// What to do about names that another host would not take.
    pub foreign_names: ForeignNames,
    /// Share contents with the image where the host can.
    pub clone: bool,
    /// Make everything durable before the tree appears.
    pub sync: bool,
}

impl Default for CopyOutOptions {
    /// Everything, as a new tree with a manifest beside it; what [`Preserve::default`] says; durable.
    fn default() -> Self {
        Self {
            filter: Filter::default(),
            preserve: Preserve::default(),
            into: false,
            existing: Existing::Refuse,
            manifest: Manifest::Beside,
            foreign_names: ForeignNames::Report,
            clone: true,
            sync: true,
        }
    }
}

/// How many entries of each kind were made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct CopiedEntries {
    /// Regular files with a content of their own.
    pub files: u64,
    /// Directories.
    pub directories: u64,
    /// Symbolic links.
    pub symlinks: u64,
    /// Further names of files.
    pub hard_links: u64,
    /// Devices, FIFOs and sockets.
    pub nodes: u64,
    /// Entries that are in the manifest alone: devices that were not asked for, nodes that the host refused.
    pub missing: u64,
}

/// How often a fact is in the manifest and not on the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FactCount {
    /// Which: one of [`Fact::name`].
    pub fact: &'static str,
    /// How often.
    pub count: u64,
}

/// What became of a copy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CopyOutReport {
    /// What was made.
    #[serde(flatten)]
    pub entries: CopiedEntries,
    /// How contents were copied.
    #[serde(flatten)]
    pub transferred: Transferred,
    /// Facts that were not to be preserved, where there were any.
    pub not_preserved: Vec<FactCount>,
    /// Facts that were to be preserved and that the host did not take.
    pub refused: Vec<FactCount>,
    /// Names that another host would not take.
    pub foreign_names: ForeignNamesFound,
    /// The manifest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manifest: Option<PathBuf>,
    /// What could not be read or made.
    pub problems: Problems,
}

impl CopyOutReport {
    /// Whether facts that only the user can have asked for were refused.
    #[must_use]
    pub fn refused_what_was_asked(&self) -> bool {
        let by_default = [Fact::Mode, Fact::Times, Fact::UserXattrs, Fact::Nodes, Fact::Links].map(Fact::name);
        self.refused.iter().any(|refused| !by_default.contains(&refused.fact))
    }
}

/// Copies the guest directory or file `remote`, and everything below it, to the host path `local`, on all threads of the
/// caller's pool. `local` must not exist, or with [`CopyOutOptions::into`] be a directory. The report tells what could not
/// be read; after an error `local` is as it was, or with `into` incomplete.
pub fn copy_out(
    mounts: &MountTable,
    remote: &GuestPath,
    local: &Path,
    options: &CopyOutOptions,
    progress: &dyn Progress,
) -> Result<CopyOutReport> {
    let start = mounts.resolve(remote, Follow::Links)?;
    let is_dir = start.metadata()?.file_type == FileType::Dir;
    if let Ok(statfs) = start.fs.statfs()
        && is_dir
    {
        // An estimate: what is in use on the filesystem.
        progress.set_total(statfs.blocks.saturating_sub(statfs.blocks_free).saturating_mul(statfs.block_size));
    }
    let manifest = ManifestFile::create(local, options)?;
    // A single file is the one entry of a tree.
    let single = (!is_dir).then(|| file_name(local, &start, options)).transpose()?;
    let job = Job { mounts, start: &start, single: single.as_deref(), options, progress };
    if options.into {
        let tree = Tree::open(local, options.preserve, options.existing)?;
        let (report, manifest) = job.run(&tree, manifest)?;
        if options.sync {
            tree.sync()?;
        }
        manifest.map_or(Ok(()), ManifestFile::publish)?;
        return Ok(report);
    }
    let staged = StagedTree::create(local, options.preserve)?;
    let (report, manifest) = job.run(&staged.tree, manifest)?;
    // The manifest comes first, so that the tree is complete with it when it appears.
    let path = report.manifest.clone();
    let published = staged.publish(options.sync, single.as_deref(), || manifest.map_or(Ok(()), ManifestFile::publish));
    if published.is_err()
        && let Some(path) = path
    {
        let _ = std::fs::remove_file(path);
    }
    published.map(|()| report)
}

fn file_name(local: &Path, start: &Location, options: &CopyOutOptions) -> Result<Vec<u8>> {
    use std::os::unix::ffi::OsStrExt;
    let own = || start.path.file_name().map(<[u8]>::to_vec);
    let name = if options.into { own() } else { local.file_name().map(|name| name.as_bytes().to_vec()) };
    name.ok_or_else(|| Error::invalid(format!("{} is no file name", local.display())))
}

/// One copy.
struct Job<'a> {
    mounts: &'a MountTable,
    start: &'a Location,
    single: Option<&'a [u8]>,
    options: &'a CopyOutOptions,
    progress: &'a dyn Progress,
}

impl Job<'_> {
    fn run(&self, tree: &Tree, mut manifest: Option<ManifestFile>) -> Result<(CopyOutReport, Option<ManifestFile>)> {
        let Self { mounts, start, single, options, progress } = *self;
        let names = Names::new(options.foreign_names);
        let transfer = Transfer::new(options.clone);
        let place = Place { tree, names: &names, transfer: &transfer, single, options, progress };
        let mut finish = Finish::new(tree);
        let mut report = CopyOutReport::default();
        let mut lines = Vec::new();
        if manifest.is_some() {
            record::head(start.path.as_bytes(), &mut lines)?;
        }
        let name_problems = std::sync::Mutex::new(Problems::default());
        let keep = |visited: &Visited| self.keep(visited, &names, &name_problems);
        let wants = Wants {
            contents: true,
            links: false,
            xattrs: manifest.is_some() || wants_xattrs(options.preserve),
            origins: None,
        };
        let mut entries = 0;
        let mut left = place::Left::default();
        let problems = for_each_batch(
            mounts,
            start,
            wants,
            &keep,
            |batch| place.batch(batch),
            |mut placed| {
                finish.batch(&mut placed, &place)?;
                left.add(&placed.left);
                add(&mut report.entries, &placed.entries);
                report.problems.extend(placed.problems);
                entries += placed.count;
                if let Some(manifest) = &mut manifest {
                    lines.extend_from_slice(&placed.lines);
                    manifest.write(&lines)?;
                    lines.clear();
                }
                Ok(())
            },
            progress,
        )?;
        report.problems.extend(finish.end()?);
        report.problems.append(problems);
        report.problems.append(name_problems.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner));
        if let Some(manifest) = &mut manifest {
            record::tail(entries, report.problems.count, &mut lines)?;
            manifest.write(&lines)?;
            report.manifest = Some(manifest.staged.target().to_owned());
        }
        let counts = |counts: Vec<(Fact, u64)>| {
            counts.into_iter().map(|(fact, count)| FactCount { fact: fact.name(), count }).collect()
        };
        report.transferred = transfer.done();
        report.refused = counts(tree.refused());
        report.not_preserved = counts(left.counts());
        report.foreign_names = names.found();
        Ok((report, manifest))
    }

    fn keep(&self, visited: &Visited, names: &Names, problems: &std::sync::Mutex<Problems>) -> Verdict {
        let path = visited.location.path.as_bytes();
        let is_dir = visited.metadata.file_type == FileType::Dir;
        let verdict = match self.single {
            Some(_) => Verdict::Take,
            None => self.options.filter.matches(path, is_dir),
        };
        if verdict == Verdict::Skip {
            return verdict;
        }
        let error = match names.see(&visited.relative) {
            Ok(Fate::Taken) => return verdict,
            Ok(Fate::Refused(clash)) => names::refused(path, clash),
            Ok(Fate::Second) => {
                let kind = visited.location.fs.identity().kind.name();
                Error::corrupt(kind, "directory entry", 0, "the same name twice", "each name once").at_path(path)
            }
            Err(error) => error.at_path(path),
        };
        super::ordered::lock(problems).push(Problem::new(path, &error));
        Verdict::Skip
    }
}

fn wants_xattrs(preserve: Preserve) -> bool {
    preserve.user_xattrs || preserve.acls || preserve.security || preserve.trusted
}

fn add(to: &mut CopiedEntries, more: &CopiedEntries) {
    to.files += more.files;
    to.directories += more.directories;
    to.symlinks += more.symlinks;
    to.hard_links += more.hard_links;
    to.nodes += more.nodes;
    to.missing += more.missing;
}

/// The manifest on its way.
#[derive(Debug)]
struct ManifestFile {
    staged: Staged,
}

impl ManifestFile {
    fn create(local: &Path, options: &CopyOutOptions) -> Result<Option<Self>> {
        let path = match &options.manifest {
            Manifest::None => return Ok(None),
            Manifest::File(path) => path.clone(),
            Manifest::Beside => {
                let real;
                // `.` and `..` have a name, too.
                let local = if options.into {
                    let found = local.canonicalize();
                    real = found.map_err(|error| Error::io("open the directory", local.display(), error))?;
                    &real
                } else {
                    local
                };
                let name = local.file_name().ok_or_else(|| {
                    let error = Error::invalid(format!("{} has no name for a manifest beside it", local.display()));
                    error.with_hint("say where the manifest goes")
                })?;
                let mut name = name.to_owned();
                name.push(".guestctl-manifest.jsonl");
                local.with_file_name(name)
            }
        };
        Ok(Some(Self { staged: Staged::create(&path)? }))
    }

    fn write(&mut self, lines: &[u8]) -> Result<()> {
        let written = self.staged.file.write_all(lines);
        written.map_err(|error| Error::io("write", self.staged.target().display(), error))
    }

    fn publish(self) -> Result<()> {
        self.staged.publish()
    }
}
