//! What differs between two guests' trees, file by file: added, removed, and changed in which facts.
//!
//! Both trees are walked in step (`pairs`) and compared in batches on the caller's pool: metadata first (`facts`), then
//! contents (`content`), of which nothing is read that both images keep in one place or know to be zero. Equal metadata is
//! no proof of equal contents and is only taken for one with [`DiffOptions::fast`]. What comes out is in the order of the
//! walk on any number of threads.
//!
//! Not compared are what a copy cannot keep and the filesystem makes up: inode numbers, change and creation times,
//! allocation, and sizes and link counts of directories.

mod content;
mod facts;
mod lines;
mod pairs;
mod text;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;
use serde::Serialize;

pub use facts::{DiffFact, DiffIgnore};
pub use text::{TextChange, TextDiff, TextOptions};

use super::checksum::{Algorithm, checksum};
use super::filter::Filter;
use super::links::Link;
use crate::block::BlockDevice;
use crate::error::{Error, ErrorKind, PathProblem, Result};
use crate::fs::{FileType, Follow, GuestPath, Location, Metadata, MountTable, Xattr};
use crate::progress::Progress;
use content::Equality;
use pairs::{Found, Node, Pairs};

/// Pairs that are looked at together.
const BATCH: usize = 512;

/// Changes whose digests and texts are held at once.
const FINISHED: usize = 16;

/// What to compare, and what to tell of it.
#[derive(Debug, Clone)]
pub struct DiffOptions {
    /// Where to begin on both sides; the root by default. One side may have nothing there.
    pub path: GuestPath,
    /// Facts that do not count.
    pub ignore: DiffIgnore,
    /// Access times count too.
    pub atime: bool,
    /// Files of the same size and modification time are taken for equal.
    pub fast: bool,
    /// Digests to compute of the regular files that differ.
    pub checksums: Vec<Algorithm>,
    /// Show how texts differ.
    pub text: Option<TextOptions>,
    /// Which paths take part.
    pub filter: Filter,
}

impl Default for DiffOptions {
    fn default() -> Self {
        Self {
            path: GuestPath::root(),
            ignore: DiffIgnore::default(),
            atime: false,
            fast: false,
            checksums: Vec::new(),
            text: None,
            filter: Filter::default(),
        }
    }
}

/// Receives what differs, in the order of the walk.
pub trait DiffSink {
    /// One path that differs.
    fn change(&mut self, change: Change) -> Result<()>;

    /// Something could not be compared. Returning an error ends the comparison; `Ok` goes on with the rest.
    fn problem(&mut self, problem: DiffProblem) -> Result<()>;
}

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DiffSide {
    /// The first.
    Old,
    /// The second.
    New,
}

impl DiffSide {
    const BOTH: [Self; 2] = [Self::Old, Self::New];

    fn index(self) -> usize {
        match self {
            Self::Old => 0,
            Self::New => 1,
        }
    }
}

/// How a path differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ChangeKind {
    /// Only the new side has it.
    Added,
    /// Only the old side has it.
    Removed,
    /// Both have it, and it differs.
    Changed,
}

/// One path that differs.
#[derive(Debug, Clone)]
pub struct Change {
    /// The guest path.
    pub path: GuestPath,
    /// How.
    pub kind: ChangeKind,
    /// In what, in the order of [`DiffFact`]; empty unless it is changed.
    pub facts: Vec<DiffFact>,
    /// What was there.
    pub old: Option<DiffEntry>,
    /// What is there now.
    pub new: Option<DiffEntry>,
    /// The first byte that differs, of files of one size whose contents were compared.
    pub first_difference: Option<u64>,
    /// How its text differs, when that was asked for and there is text.
    pub text: Option<TextChange>,
}

/// What is known of one side of a change.
#[derive(Debug, Clone)]
pub struct DiffEntry {
    /// What `lstat(2)` would tell.
    pub metadata: Metadata,
    /// A symbolic link's target.
    pub target: Option<Vec<u8>>,
    /// Extended attributes, sorted by name.
    pub xattrs: Vec<Xattr>,
    /// The first path that leads to the same file, when that is another one.
    pub hard_link_to: Option<Vec<u8>>,
    /// Whether that is known; past a limit it is not.
    links_known: bool,
    /// The digests that were asked for, of a regular file.
    pub digests: Vec<(Algorithm, String)>,
}

/// Something that could not be compared.
#[derive(Debug)]
pub struct DiffProblem {
    /// The guest path.
    pub path: GuestPath,
    /// On which side.
    pub side: DiffSide,
    /// Where in the file's content, when that is what could not be read.
    pub offset: Option<u64>,
    /// Why.
    pub error: Error,
}

/// The sum of a comparison.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct DiffReport {
    /// Paths that both sides have and that were compared.
    pub compared: u64,
    /// Paths that only the new side has.
    pub added: u64,
    /// Paths that only the old side has.
    pub removed: u64,
    /// Paths that differ.
    pub changed: u64,
    /// Problems.
    pub unreadable: u64,
    /// Bytes of content that were read, of both sides together.
    pub read_bytes: u64,
    /// Bytes of content that are equal because both sides keep them in one place, counted once.
    pub shared_bytes: u64,
}

impl DiffReport {
    /// Whether nothing differs, as far as could be seen.
    #[must_use]
    pub fn is_same(&self) -> bool {
        self.added == 0 && self.removed == 0 && self.changed == 0
    }
}

/// Compares two guests' trees. Only trouble that ends everything is an error: a cancelled run, a used-up limit, what the
/// sink answers; a file that cannot be read is a [`DiffProblem`].
pub fn diff(
    old: &MountTable,
    new: &MountTable,
    options: &DiffOptions,
    sink: &mut dyn DiffSink,
    progress: &dyn Progress,
) -> Result<DiffReport> {
    let start = |mounts: &MountTable| match mounts.resolve(&options.path, Follow::Links) {
        Ok(location) => Ok(Some(location)),
        Err(error) if matches!(error.kind(), ErrorKind::Path { problem: PathProblem::NotFound, .. }) => Ok(None),
        Err(error) => Err(error),
    };
    let starts = Sides { old: start(old)?, new: start(new)? };
    if starts.old.is_none() && starts.new.is_none() {
        return Err(Error::path(options.path.as_bytes(), PathProblem::NotFound));
    }
    let counters = Counters::default();
    let run = Run { options, progress, counters: &counters };
    let mounts = Sides { old: Some(old), new: Some(new) };
    let mut pairs = Pairs::new(mounts, options.path.clone(), starts, &options.filter);
    let mut report = DiffReport::default();
    let mut batch = pairs.batch(BATCH)?;
    while !batch.is_empty() {
        if progress.cancelled() {
            return Err(ErrorKind::Cancelled.into());
        }
        let (following, works) = rayon::join(|| pairs.batch(BATCH), || run.examine_all(batch));
        let mut works = works?;
        run.compare_large(&mut works)?;
        run.finish(works, &mut report, sink)?;
        batch = following?;
    }
    report.read_bytes = counters.read.load(Ordering::Relaxed);
    report.shared_bytes = counters.shared.load(Ordering::Relaxed);
    Ok(report)
}

/// Something of each side, where the side has it.
#[derive(Debug, Clone, Copy)]
struct Sides<T> {
    old: Option<T>,
    new: Option<T>,
}

impl<T> Sides<T> {
    fn get(&self, side: DiffSide) -> Option<&T> {
        match side {
            DiffSide::Old => self.old.as_ref(),
            DiffSide::New => self.new.as_ref(),
        }
    }

    fn get_mut(&mut self, side: DiffSide) -> Option<&mut T> {
        self.slot(side).as_mut()
    }

    fn slot(&mut self, side: DiffSide) -> &mut Option<T> {
        match side {
            DiffSide::Old => &mut self.old,
            DiffSide::New => &mut self.new,
        }
    }

    fn iter(&self) -> impl Iterator<Item = (DiffSide, &T)> {
        DiffSide::BOTH.into_iter().filter_map(|side| Some((side, self.get(side)?)))
    }

    fn map<U>(&self, change: impl Fn(&T) -> Option<U>) -> Sides<U> {
        Sides { old: self.old.as_ref().and_then(&change), new: self.new.as_ref().and_then(&change) }
    }
}

/// Bytes of content, counted on all threads.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) read: AtomicU64,
    pub(super) shared: AtomicU64,
}

/// One pair on its way to a change.
struct Work {
    path: GuestPath,
    entries: Sides<DiffEntry>,
    locations: Sides<Location>,
    facts: Vec<DiffFact>,
    first_difference: Option<u64>,
    /// Both contents, when they are too large to be compared by one thread.
    large: Option<(Arc<dyn BlockDevice>, Arc<dyn BlockDevice>)>,
    problems: Vec<DiffProblem>,
}

struct Run<'a> {
    options: &'a DiffOptions,
    progress: &'a dyn Progress,
    counters: &'a Counters,
}

impl Run<'_> {
    fn examine_all(&self, batch: Vec<Found>) -> Result<Vec<Work>> {
        batch.into_par_iter().map(|found| self.examine(found)).collect()
    }

    /// Everything but what takes all threads.
    fn examine(&self, found: Found) -> Result<Work> {
        let (path, nodes) = match found {
            Found::Problem { path, side, error } => {
                let problem = DiffProblem { path: path.clone(), side, offset: None, error };
                return Ok(Work::new(path, vec![problem]));
            }
            Found::Pair { path, sides } => (path, sides),
        };
        let mut work = Work::new(path, Vec::new());
        work.locations = nodes.map(|node| Some(node.location.clone()));
        let Sides { old, new } = *nodes;
        work.entries.old = old.and_then(|node| work.entry(DiffSide::Old, node));
        work.entries.new = new.and_then(|node| work.entry(DiffSide::New, node));
        if let (Some(old), Some(new)) = (&work.entries.old, &work.entries.new) {
            work.facts = facts::differences(old, new, self.options);
            let (left, right) = (&old.metadata, &new.metadata);
            let files = left.file_type == FileType::File && right.file_type == FileType::File;
            let taken_for_equal = self.options.fast && left.mtime == right.mtime;
            let size = left.size;
            if files && size == right.size && !taken_for_equal {
                self.contents(&mut work, size)?;
            }
        }
        // Attributes can be large: a batch does not hold them, what is told reads them again.
        for side in DiffSide::BOTH {
            work.entries.get_mut(side).into_iter().for_each(|entry| entry.xattrs = Vec::new());
        }
        Ok(work)
    }

    /// Compares the contents of two files of `size` bytes, or leaves that to all threads.
    fn contents(&self, work: &mut Work, size: u64) -> Result<()> {
        let (Some(old), Some(new)) = (work.open(DiffSide::Old), work.open(DiffSide::New)) else { return Ok(()) };
        if size > content::LARGE {
            work.large = Some((old, new));
            return Ok(());
        }
        work.take(content::compare(&*old, &*new, self.counters)?);
        self.progress.advance(size);
        Ok(())
    }

    fn compare_large(&self, works: &mut [Work]) -> Result<()> {
        for work in works {
            if let Some((old, new)) = work.large.take() {
                work.take(content::compare_on_all_threads(&*old, &*new, self.counters, self.progress)?);
            }
        }
        Ok(())
    }

    /// Counts, and gives to the sink, what differs and what could not be compared.
    fn finish(&self, works: Vec<Work>, report: &mut DiffReport, sink: &mut dyn DiffSink) -> Result<()> {
        let mut telling = Vec::new();
        for work in works {
            report.compared += u64::from(work.entries.old.is_some() && work.entries.new.is_some());
            if work.is_telling() {
                telling.push(work);
            }
        }
        let mut telling = telling.into_iter().peekable();
        while telling.peek().is_some() {
            let some: Vec<Work> = telling.by_ref().take(FINISHED).collect();
            let some = some.into_par_iter().map(|work| self.details(work)).collect::<Result<Vec<_>>>()?;
            for (change, problems) in some {
                for problem in problems {
                    report.unreadable += 1;
                    sink.problem(problem)?;
                }
                let Some(change) = change else { continue };
                match change.kind {
                    ChangeKind::Added => report.added += 1,
                    ChangeKind::Removed => report.removed += 1,
                    ChangeKind::Changed => report.changed += 1,
                }
                sink.change(change)?;
            }
        }
        Ok(())
    }

    /// Digests and text of what differs.
    fn details(&self, mut work: Work) -> Result<(Option<Change>, Vec<DiffProblem>)> {
        let kind = match (&work.entries.old, &work.entries.new) {
            (Some(_), Some(_)) if !work.facts.is_empty() => ChangeKind::Changed,
            (Some(_), None) if work.locations.new.is_none() => ChangeKind::Removed,
            (None, Some(_)) if work.locations.old.is_none() => ChangeKind::Added,
            _ => return Ok((None, work.problems)),
        };
        work.read_xattrs();
        self.digests(&mut work)?;
        let text = match &self.options.text {
            Some(options) => text::of(&mut work, options),
            None => None,
        };
        let Work { path, entries: Sides { old, new }, facts, first_difference, problems, .. } = work;
        Ok((Some(Change { path, kind, facts, old, new, first_difference, text }), problems))
    }

    fn digests(&self, work: &mut Work) -> Result<()> {
        if self.options.checksums.is_empty() {
            return Ok(());
        }
        for side in DiffSide::BOTH {
            let is_file = |entry: &DiffEntry| entry.metadata.file_type == FileType::File;
            if !work.entries.get(side).is_some_and(is_file) {
                continue;
            }
            let Some(device) = work.open(side) else { continue };
            for &algorithm in &self.options.checksums {
                match checksum(&device, algorithm, &Cancellable(self.progress)) {
                    Ok(digest) => {
                        let entry = work.entries.get_mut(side);
                        entry.into_iter().for_each(|entry| entry.digests.push((algorithm, digest.clone())));
                    }
                    Err(error) if matches!(error.kind(), ErrorKind::Cancelled) => return Err(error),
                    Err(error) => {
                        let (offset, error) = content::first_unreadable(&*device, 0..device.size(), error);
                        work.unreadable(side, offset, error);
                        break;
                    }
                }
            }
        }
        Ok(())
    }
}

impl Work {
    fn new(path: GuestPath, problems: Vec<DiffProblem>) -> Self {
        let (entries, locations) = (Sides { old: None, new: None }, Sides { old: None, new: None });
        Self { path, entries, locations, facts: Vec::new(), first_difference: None, large: None, problems }
    }

    /// Whether there is something to tell of it.
    fn is_telling(&self) -> bool {
        let alone = self.entries.old.is_some() != self.entries.new.is_some();
        alone || !self.facts.is_empty() || !self.problems.is_empty()
    }

    /// All that is known of a node but its content; `None`, and a problem, when something of it cannot be read.
    fn entry(&mut self, side: DiffSide, node: Node) -> Option<DiffEntry> {
        let Node { location: Location { fs, inode, .. }, metadata, link } = node;
        let target = match metadata.file_type {
            FileType::Symlink => fs.read_link(inode).map(Some),
            _ => Ok(None),
        };
        match target.and_then(|target| Ok((target, fs.xattrs(inode)?))) {
            Ok((target, xattrs)) => {
                let links_known = link != Link::Unknown;
                let hard_link_to = match link {
                    Link::Of(first) => Some(first),
                    Link::First | Link::Unknown => None,
                };
                Some(DiffEntry { metadata, target, xattrs, hard_link_to, links_known, digests: Vec::new() })
            }
            Err(error) => {
                self.problems.push(DiffProblem { path: self.path.clone(), side, offset: None, error });
                None
            }
        }
    }

    /// Reads the attributes of both sides again.
    fn read_xattrs(&mut self) {
        for side in DiffSide::BOTH {
            let (Some(entry), Some(location)) = (self.entries.get_mut(side), self.locations.get(side)) else {
                continue;
            };
            match location.fs.xattrs(location.inode) {
                Ok(xattrs) => entry.xattrs = xattrs,
                Err(error) => self.problems.push(DiffProblem { path: self.path.clone(), side, offset: None, error }),
            }
        }
    }

    /// A side's content; `None`, and a problem, when it cannot be opened.
    fn open(&mut self, side: DiffSide) -> Option<Arc<dyn BlockDevice>> {
        let location = self.locations.get(side)?;
        match location.fs.open(location.inode) {
            Ok(device) => Some(device),
            Err(error) => {
                self.problems.push(DiffProblem { path: self.path.clone(), side, offset: None, error });
                None
            }
        }
    }

    fn take(&mut self, equality: Equality) {
        match equality {
            Equality::Same => {}
            Equality::Different(offset) => {
                self.first_difference = Some(offset);
                self.facts.push(DiffFact::Content);
            }
            Equality::Unreadable { side, offset, error } => self.unreadable(side, offset, error),
        }
    }

    /// Remembers that a part of a content cannot be read.
    fn unreadable(&mut self, side: DiffSide, offset: u64, error: Error) {
        self.problems.push(DiffProblem { path: self.path.clone(), side, offset: Some(offset), error });
    }
}

/// Digests are not what the progress counts, but they end with it.
struct Cancellable<'a>(&'a dyn Progress);

impl Progress for Cancellable<'_> {
    fn advance(&self, _bytes: u64) {}

    fn cancelled(&self) -> bool {
        self.0.cancelled()
    }
}
