//! How fast trees come back in one filesystem: made-up trees out of a store that is thrown away, and beside each the bare
//! system calls that it comes down to.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rayon::prelude::*;
use serde::Serialize;

use super::import::{Described, Durability, ImportOptions, Prepared, Source};
use super::restore::{RestoreOptions, RestoreReport, Strategy};
use super::store::{InitOptions, Store};
use super::{Digest, random, set_mtime};
use crate::error::{Error, ErrorKind, Result};
use crate::fs::{FileType, Timestamp};
use crate::progress::Progress;

/// Bytes of each file: most files of a system are no larger.
pub const BENCH_FILE_BYTES: u64 = 4096;

/// What one way of bringing a tree back took, in nanoseconds; medians of three, of large trees one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Benchmark {
    /// The strategy that was asked for.
    pub strategy: Strategy,
    /// What it came down to here.
    pub calls: Calls,
    /// Files of [`BENCH_FILE_BYTES`], 25 to a directory.
    pub files: u32,
    /// [`Store::restore`], until the tree has its name.
    pub restore_ns: u64,
    /// The bare calls, on as many threads.
    pub bare_ns: u64,
}

/// The calls that make one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Calls {
    /// Created and written from memory.
    Write,
    /// Created, and written from a file that is opened and read.
    ReadWrite,
    /// Created, and `copy_file_range` from a file that is opened.
    CopyFileRange,
    /// Created, and `FICLONE` from a file that is opened.
    Clone,
    /// `link`.
    Link,
}

/// Files of a directory.
const PER_DIRECTORY: u32 = 25;
/// Trees of more files are brought back once.
const LARGE: u32 = 1000;
const ROUNDS: usize = 3;
/// 2020-01-01.
const MTIME: Timestamp = Timestamp { seconds: 1_577_836_800, nanoseconds: 0 };

/// Brings trees of so many files back by each strategy that the filesystem of `directory` can, on the rayon pool that the
/// caller is in. Everything is made below `directory`, and removed whatever happens.
pub fn benchmark(directory: &Path, counts: &[u32], progress: &dyn Progress) -> Result<Vec<Benchmark>> {
    let scratch = Scratch::new(directory)?;
    let at = |name: &str| scratch.0.join(name);
    // As users have it, and with a file for each blob, so that none is packed.
    let packed = Store::init(at("packed"), &InitOptions::default())?;
    let loose = InitOptions { pack_threshold: Some(0), ..InitOptions::default() };
    let loose = Store::init(at("loose"), &loose)?;
    let sources = Sources::create(at("sources"), counts.iter().copied().max().unwrap_or(0))?;
    let mut measured = Vec::new();
    for &files in counts {
        let ways = [
            (Strategy::Auto, &packed),
            (Strategy::Reflink, &loose),
            (Strategy::Hardlink, &loose),
            (Strategy::Copy, &loose),
            (Strategy::Pack, &loose),
        ];
        let can = |strategy| strategy != Strategy::Reflink || loose.version().reflink;
        for (strategy, store) in ways.into_iter().filter(|(strategy, _)| can(*strategy)) {
            let tree = tree_of(store, files, progress)?;
            let options = RestoreOptions { strategy, read_only: strategy == Strategy::Hardlink, ..Default::default() };
            let target = at("target");
            // The first says what it comes down to, and makes what later ones find.
            let report = store.restore(&tree, &target, &options, progress)?;
            remove(&target)?;
            let Some(calls) = Calls::of(&report).filter(|calls| calls.are_those_of(strategy)) else { continue };
            let restore_ns = median(files, &target, || store.restore(&tree, &target, &options, progress).map(drop))?;
            let bare_ns = median(files, &target, || bare(calls, files, &sources, &target, progress))?;
            measured.push(Benchmark { strategy, calls, files, restore_ns, bare_ns });
        }
    }
    Ok(measured)
}

/// A directory that goes with its owner. Its name is one that gc removes in the end should this program be killed.
struct Scratch(PathBuf);

impl Scratch {
    fn new(directory: &Path) -> Result<Self> {
        let path = directory.join(format!("calibrate-{}", random()));
        std::fs::create_dir(&path).map_err(|error| Error::io("make", path.display(), error))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn remove(directory: &Path) -> Result<()> {
    std::fs::remove_dir_all(directory).map_err(|error| Error::io("remove", directory.display(), error))
}

/// The middle of some runs, each of which makes `target`.
fn median(files: u32, target: &Path, mut work: impl FnMut() -> Result<()>) -> Result<u64> {
    let mut took = Vec::new();
    for _ in 0..if files > LARGE { 1 } else { ROUNDS } {
        let started = Instant::now();
        work()?;
        took.push(started.elapsed());
        remove(target)?;
    }
    took.sort_unstable();
    let middle = took.get(took.len() / 2).copied().unwrap_or(Duration::ZERO);
    Ok(u64::try_from(middle.as_nanos()).unwrap_or(u64::MAX))
}

/// Content of a file: no other has it.
fn content(file: u32) -> Vec<u8> {
    let digest = Digest::of(&file.to_le_bytes());
    digest.as_bytes().iter().copied().cycle().take(BENCH_FILE_BYTES as usize).collect()
}

fn directories(files: u32) -> u32 {
    files.div_ceil(PER_DIRECTORY)
}

fn files_of(directory: u32, files: u32) -> std::ops::Range<u32> {
    let first = directory * PER_DIRECTORY;
    first..files.min(first + PER_DIRECTORY)
}

/// A tree of so many files in the store.
fn tree_of(store: &Store, files: u32, progress: &dyn Progress) -> Result<Digest> {
    let import = store.import(ImportOptions { durability: Durability::None, keep_times: false })?;
    let push = |path: String, file_type, size, prepared| {
        import.push(Described::made_up(path.as_bytes(), file_type, size, MTIME), prepared)
    };
    push(String::new(), FileType::Dir, 0, Prepared::nothing())?;
    for directory in 0..directories(files) {
        check(progress)?;
        push(directory.to_string(), FileType::Dir, 0, Prepared::nothing())?;
        let prepare = |file: u32| Ok((file, import.prepare(Source::Bytes(&content(file)))?));
        let prepared = files_of(directory, files).into_par_iter().map(prepare).collect::<Result<Vec<_>>>()?;
        for (file, prepared) in prepared {
            push(format!("{directory}/{file}"), FileType::File, BENCH_FILE_BYTES, prepared)?;
        }
    }
    Ok(import.finish(None)?.tree)
}

fn check(progress: &dyn Progress) -> Result<()> {
    if progress.cancelled() { Err(ErrorKind::Cancelled.into()) } else { Ok(()) }
}

impl Calls {
    /// What all files of a restore were made by.
    fn of(report: &RestoreReport) -> Option<Self> {
        // Links first: what they lead to may have been made by other calls, for this restore.
        let counts = [
            (report.hardlinked_files, Self::Link),
            (report.packed_files, Self::Write),
            (report.written_files, Self::ReadWrite),
            (report.copied_files, Self::CopyFileRange),
            (report.reflinked_files, Self::Clone),
        ];
        counts.into_iter().find(|(count, _)| *count == report.files).map(|(_, calls)| calls)
    }

    /// Whether the strategy is what was done, and not what was done in its place.
    fn are_those_of(self, strategy: Strategy) -> bool {
        match strategy {
            Strategy::Auto => true,
            Strategy::Reflink => self == Self::Clone,
            Strategy::Hardlink => self == Self::Link,
            Strategy::Copy => self == Self::CopyFileRange,
            Strategy::Pack => self == Self::ReadWrite,
            // It makes no files.
            Strategy::Snapshot => false,
        }
    }
}

/// Files to be read, cloned or linked.
struct Sources(PathBuf);

impl Sources {
    fn create(directory: PathBuf, files: u32) -> Result<Self> {
        let written = std::fs::create_dir(&directory).and_then(|()| {
            (0..files).try_for_each(|file| std::fs::write(directory.join(file.to_string()), content(file)))
        });
        written.map_err(|error| Error::io("write in", directory.display(), error))?;
        Ok(Self(directory))
    }

    fn path(&self, file: u32) -> PathBuf {
        self.0.join(file.to_string())
    }
}

/// Makes the tree by the bare calls, a directory on one thread.
fn bare(calls: Calls, files: u32, sources: &Sources, target: &Path, progress: &dyn Progress) -> Result<()> {
    check(progress)?;
    let failed = |error| Error::io("write in", target.display(), error);
    std::fs::create_dir(target).map_err(failed)?;
    (0..directories(files)).into_par_iter().try_for_each(|directory| {
        let below = target.join(directory.to_string());
        std::fs::create_dir(&below).map_err(failed)?;
        let mut files = files_of(directory, files);
        files.try_for_each(|file| make(calls, file, sources, &below.join(file.to_string())).map_err(failed))
    })
}

fn make(calls: Calls, file: u32, sources: &Sources, path: &Path) -> std::io::Result<()> {
    let source = sources.path(file);
    if calls == Calls::Link {
        return std::fs::hard_link(source, path);
    }
    let mut to = File::create_new(path)?;
    match calls {
        Calls::Write => to.write_all(&[0x5a; BENCH_FILE_BYTES as usize])?,
        Calls::ReadWrite => {
            let mut bytes = [0; BENCH_FILE_BYTES as usize];
            File::open(source)?.read_exact(&mut bytes)?;
            to.write_all(&bytes)?;
        }
        Calls::CopyFileRange => {
            let copied = rustix::fs::copy_file_range(File::open(source)?, None, &to, None, BENCH_FILE_BYTES as usize)?;
            if copied as u64 != BENCH_FILE_BYTES {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
        Calls::Clone => rustix::fs::ioctl_ficlone(&to, File::open(source)?)?,
        Calls::Link => {}
    }
    set_mtime(&to, MTIME)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_strategy_that_works_is_measured_and_nothing_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let measured = benchmark(dir.path(), &[30, 1], &crate::progress::Silent).unwrap();
        let of = |files| measured.iter().filter(move |found| found.files == files).map(|found| found.strategy);
        assert!(of(30).eq(of(1)) && measured.iter().all(|found| found.restore_ns > 0 && found.bare_ns > 0));
        for strategy in [Strategy::Auto, Strategy::Hardlink, Strategy::Pack] {
            assert!(of(30).any(|found| found == strategy), "{strategy:?}: {measured:?}");
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        let stopped = benchmark(dir.path(), &[30], &Stop).unwrap_err();
        assert_eq!((stopped.exit_code(), std::fs::read_dir(dir.path()).unwrap().count()), (130, 0));
    }

    struct Stop;

    impl Progress for Stop {
        fn advance(&self, _: u64) {}

        fn cancelled(&self) -> bool {
            true
        }
    }
}
