//! How much space files take, as du(1) counts: allocated blocks of everything below a directory, a file with several names
//! once, and the directory itself.
//!
//! Three sums are kept. *Allocated* is what `st_blocks` says. *Apparent* is the sizes of regular files and symbolic links;
//! those of other kinds of inodes mean nothing. *Shared* is the part of the allocated bytes that lies in blocks which a file
//! counted before holds as well, where a filesystem can say so (reflinks): allocated less shared is what is really used.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;

use super::filter::{Filter, Verdict};
use super::walk::{Entry, EntrySink, Flow, walk};
use crate::error::{Error, Result};
use crate::fs::{FileType, GuestPath, Location, MountTable};
use crate::limits;
use crate::progress::Progress;

/// What is counted.
#[derive(Debug, Clone, Default)]
pub struct DuOptions {
    /// Whether files have lines of their own, too.
    pub all: bool,
    /// The last level below a start that has lines of its own; the start is level 0.
    pub max_depth: Option<usize>,
    /// Whether other filesystems that are mounted below a start are left out.
    pub one_filesystem: bool,
    /// Whether a file is counted under each of its names.
    pub count_links: bool,
    /// What is counted at all.
    pub filter: Filter,
}

/// Sums over files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Usage {
    /// Bytes of their blocks.
    pub allocated_bytes: u64,
    /// Their sizes.
    pub apparent_bytes: u64,
    /// Bytes of blocks that a file counted before holds, too.
    pub shared_bytes: u64,
    /// How many they are.
    pub inodes: u64,
}

impl Usage {
    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            allocated_bytes: self.allocated_bytes.saturating_add(other.allocated_bytes),
            apparent_bytes: self.apparent_bytes.saturating_add(other.apparent_bytes),
            shared_bytes: self.shared_bytes.saturating_add(other.shared_bytes),
            inodes: self.inodes.saturating_add(other.inodes),
        }
    }
}

/// One line of the answer.
#[derive(Debug)]
pub struct DuLine<'a> {
    /// Which directory or file.
    pub path: &'a GuestPath,
    /// Its type.
    pub file_type: FileType,
    /// Levels below the start.
    pub depth: usize,
    /// The sums over it and everything below it.
    pub usage: Usage,
}

/// Receives the lines; a directory comes behind what is in it.
pub trait DuSink: Send {
    /// One line.
    fn line(&mut self, line: &DuLine<'_>) -> Result<()>;

    /// Something under `path` could not be read. Returning the error ends the work; `Ok` goes on without it.
    fn problem(&mut self, _path: &GuestPath, error: Error) -> Result<()> {
        Err(error)
    }
}

/// Counts below `start`s, each file once for all of them together, and returns the sum.
pub fn du(
    mounts: &MountTable,
    starts: &[Location],
    options: &DuOptions,
    sink: &mut dyn DuSink,
    progress: &dyn Progress,
) -> Result<Usage> {
    let mut counted = Counted::default();
    let mut total = Usage::default();
    for start in starts {
        let mut counter = Counter {
            options,
            mount: start.mount,
            counted,
            open: Vec::new(),
            sum: Usage::default(),
            sink,
            progress,
            ending: false,
        };
        walk(mounts, start, &mut counter)?;
        counter.close(0)?;
        total = total.plus(counter.sum);
        counted = counter.counted;
    }
    Ok(total)
}

/// What was counted already.
#[derive(Debug, Default)]
struct Counted {
    /// Directories, and files with several names.
    inodes: HashSet<(usize, u64)>,
    /// By mount, of those whose files share blocks.
    runs: HashMap<usize, Runs>,
}

/// A directory whose entries are being counted.
struct Open {
    path: GuestPath,
    depth: usize,
    usage: Usage,
}

struct Counter<'a> {
    options: &'a DuOptions,
    mount: usize,
    counted: Counted,
    open: Vec<Open>,
    sum: Usage,
    sink: &'a mut dyn DuSink,
    progress: &'a dyn Progress,
    /// Whether an error is not about what is counted, and ends the work.
    ending: bool,
}

impl Counter<'_> {
    /// Ends the directories that are not above level `depth`.
    fn close(&mut self, depth: usize) -> Result<()> {
        while let Some(Open { path, depth, usage }) = self.open.pop_if(|open| open.depth >= depth) {
            if self.options.max_depth.is_none_or(|max| depth <= max) {
                self.line(&DuLine { path: &path, file_type: FileType::Dir, depth, usage })?;
            }
            self.add(usage);
        }
        Ok(())
    }

    fn line(&mut self, line: &DuLine<'_>) -> Result<()> {
        let written = self.sink.line(line);
        self.ending |= written.is_err();
        written
    }

    /// Adds to the directory that is being counted.
    fn add(&mut self, usage: Usage) {
        let sum = self.open.last_mut().map_or(&mut self.sum, |open| &mut open.usage);
        *sum = sum.plus(usage);
    }

    fn usage(&mut self, entry: &Entry<'_>) -> Result<Usage> {
        let metadata = entry.metadata;
        let has_size = matches!(metadata.file_type, FileType::File | FileType::Symlink);
        let mut shared_bytes = 0u64;
        let Location { fs, mount, inode, path } = entry.location;
        if metadata.file_type == FileType::File && fs.shares_blocks() {
            let runs = self.counted.runs.entry(*mount).or_default();
            fs.content_extents(*inode, &mut |run| {
                shared_bytes = shared_bytes.saturating_add(runs.add(run)?);
                Ok(())
            })
            .map_err(|error| error.at_path(path.as_bytes()))?;
        }
        let allocated_bytes = metadata.blocks.saturating_mul(512);
        Ok(Usage {
            allocated_bytes,
            apparent_bytes: if has_size { metadata.size } else { 0 },
            shared_bytes: shared_bytes.min(allocated_bytes),
            inodes: 1,
        })
    }
}

impl EntrySink for Counter<'_> {
    fn entry(&mut self, entry: &Entry<'_>) -> Result<Flow> {
        if self.progress.cancelled() {
            self.ending = true;
            return Err(crate::ErrorKind::Cancelled.into());
        }
        let depth = match entry.relative {
            b"" => 0,
            relative => relative.iter().filter(|&&byte| byte == b'/').count() + 1,
        };
        self.close(depth)?;
        if self.options.one_filesystem && entry.location.mount != self.mount {
            return Ok(Flow::Skip);
        }
        let metadata = entry.metadata;
        let is_dir = metadata.file_type == FileType::Dir;
        match self.options.filter.matches(entry.location.path.as_bytes(), is_dir) {
            Verdict::Skip => return Ok(Flow::Skip),
            Verdict::Enter => {
                // A way to what is counted, which is not counted itself.
                let path = entry.location.path.clone();
                self.open.push(Open { path, depth, usage: Usage::default() });
                return Ok(Flow::Continue);
            }
            Verdict::Take => {}
        }
        if is_dir || metadata.nlink > 1 && !self.options.count_links {
            let is_new = self.counted.inodes.insert((entry.location.mount, entry.location.inode));
            limits::check("inodes that are counted once", self.counted.inodes.len() as u64, limits::LINKED_INODES)?;
            if !is_new {
                return Ok(Flow::Skip);
            }
        }
        let usage = self.usage(entry)?;
        if is_dir {
            self.open.push(Open { path: entry.location.path.clone(), depth, usage });
            return Ok(Flow::Continue);
        }
        if depth == 0 || self.options.all && self.options.max_depth.is_none_or(|max| depth <= max) {
            let path = &entry.location.path;
            self.line(&DuLine { path, file_type: metadata.file_type, depth, usage })?;
        }
        self.add(usage);
        Ok(Flow::Continue)
    }

    fn problem(&mut self, path: &GuestPath, error: Error) -> Result<()> {
        if self.ending { Err(error) } else { self.sink.problem(path, error) }
    }
}

/// Disjoint runs of bytes of one device.
#[derive(Debug, Default)]
struct Runs(BTreeMap<u64, u64>);

impl Runs {
    /// Adds a run and returns how many of its bytes were there.
    fn add(&mut self, run: Range<u64>) -> Result<u64> {
        if run.is_empty() {
            return Ok(0);
        }
        let (mut start, mut end, mut known) = (run.start, run.end, 0);
        // From the right: runs that overlap or touch become one with it.
        while let Some((&from, &to)) = self.0.range(..=end).next_back().filter(|(_, to)| **to >= start) {
            known += to.min(run.end).saturating_sub(from.max(run.start));
            (start, end) = (start.min(from), end.max(to));
            self.0.remove(&from);
        }
        self.0.insert(start, end);
        limits::check("runs of blocks that files may share", self.0.len() as u64, limits::SHARED_RUNS)?;
        Ok(known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_know_what_was_there() {
        let mut runs = Runs::default();
        for (run, known) in [(10..20, 0), (30..40, 0), (15..35, 10), (10..40, 30), (40..50, 0), (0..5, 0), (4..11, 2)] {
            assert_eq!(runs.add(run.clone()).unwrap(), known, "{run:?}");
        }
        assert_eq!(runs.0.into_iter().collect::<Vec<_>>(), [(0, 50)]);
    }

    #[test]
    fn random_runs_agree_with_a_bitmap() {
        let (mut runs, mut bitmap, mut seed) = (Runs::default(), vec![false; 1000], 1u64);
        for _ in 0..10_000 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let start = (seed >> 33) % 990;
            let end = start + (seed >> 20) % 10;
            if bitmap.iter().filter(|bit| **bit).count() > 600 {
                (runs, bitmap) = (Runs::default(), vec![false; 1000]);
            }
            let part = &mut bitmap[start as usize..end as usize];
            let known = part.iter().filter(|bit| **bit).count() as u64;
            part.fill(true);
            assert_eq!(runs.add(start..end).unwrap(), known);
        }
    }
}
