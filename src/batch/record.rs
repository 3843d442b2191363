//! The record of a run: what is finished, and what was at work when the run ended without saying so.
//!
//! | file | holds |
//! |---|---|
//! | `lock` | nothing; locked (flock) as long as a run uses the directory |
//! | `plan.json` | the plan's digest, and the images for people |
//! | `attempts.jsonl` | before an image is begun `start`, after its result is recorded `done`, if it was cancelled `released` |
//! | `results.jsonl` | results as they come, a line each; of several for one image the last one counts |
//! | `summary.json` | the summary of the last run that came to its end |
//!
//! A line is appended with one write, so it is there after the process is killed, whatever happens to the process. It is made
//! durable within a second; what a power cut takes is done again. A last line that is torn is cut off. Results wait here for
//! their turn to be delivered, too, so that a run holds none in memory; without a directory in a file that has no name.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use serde::{Deserialize, Serialize};

use super::plan::Plan;
use super::result::{Head, ItemResult};
use crate::bytes::escape;
use crate::error::{Error, Result};
use crate::limits;

/// How long a line may be without being durable.
const SYNC_EVERY: Duration = Duration::from_secs(1);

/// Where a result lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    offset: u64,
    len: usize,
}

/// What an earlier run left.
#[derive(Debug, Default)]
pub(super) struct Past {
    /// By the image's index.
    pub(super) results: HashMap<usize, (Span, Head)>,
    /// How often the run died while this image was worked on.
    pub(super) deaths: HashMap<usize, u32>,
}

/// The record, open.
#[derive(Debug)]
pub(super) struct Record {
    directory: Option<PathBuf>,
    results: Mutex<Appended>,
    attempts: Option<Mutex<Appended>>,
    /// Held.
    _lock: Option<File>,
}

#[derive(Debug)]
struct Appended {
    file: File,
    path: PathBuf,
    end: u64,
    synced: Instant,
    durable: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct PlanFile {
    version: u32,
    digest: String,
    #[serde(default)]
    images: Vec<String>,
}

const VERSION: u32 = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Event {
    Start,
    Done,
    Released,
}

#[derive(Debug, Serialize, Deserialize)]
struct Attempt {
    index: usize,
    event: Event,
}

impl Record {
    /// The record in `directory`, which is made if it is not there, of a run of `plan`.
    ///
    /// An error with exit code 75 when another run uses it; [`InvalidArgument`](crate::ErrorKind::InvalidArgument) when it is
    /// that of another plan.
    pub(super) fn open(directory: &Path, plan: &Plan) -> Result<(Self, Past)> {
        let fail = |action, path: &Path, error: io::Error| Error::io(action, path.display(), error);
        std::fs::create_dir_all(directory).map_err(|error| fail("make", directory, error))?;
        let path = directory.join("lock");
        let lock = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
        let lock = lock.map_err(|error| fail("open", &path, error))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|errno| {
            let error = fail("lock", &path, errno.into());
            if errno == rustix::io::Errno::WOULDBLOCK {
                error.with_hint("another run uses this directory")
            } else {
                error
            }
        })?;
        hold_plan(directory, plan)?;
        let (mut results, mut attempts) =
            (Appended::open(directory.join("results.jsonl"))?, Appended::open(directory.join("attempts.jsonl"))?);
        let mut past = Past::default();
        let images = plan.items().len();
        results.each_line(|span, line| {
            match serde_json::from_slice::<Head>(line) {
                Ok(head) if (head.index as usize) < images => {
                    past.results.insert(head.index as usize, (span, head));
                }
                _ => log::warn!("{}: a line at byte {} is no result", directory.display(), span.offset),
            };
        })?;
        attempts.each_line(|_, line| {
            let Ok(attempt) = serde_json::from_slice::<Attempt>(line) else { return };
            let deaths = past.deaths.entry(attempt.index).or_default();
            *deaths = match attempt.event {
                Event::Start => deaths.saturating_add(1),
                Event::Done => 0,
                Event::Released => deaths.saturating_sub(1),
            };
        })?;
        past.deaths.retain(|_, deaths| *deaths > 0);
        let (results, attempts) = (Mutex::new(results), Some(Mutex::new(attempts)));
        Ok((Self { directory: Some(directory.to_owned()), results, attempts, _lock: Some(lock) }, past))
    }

    /// A record that goes with the run.
    pub(super) fn unnamed() -> Result<Self> {
        let path = std::env::temp_dir();
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let file = match rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR) {
            Ok(fd) => File::from(fd),
            Err(_) => named_and_removed(&path).map_err(|error| Error::io("make a file in", path.display(), error))?,
        };
        let results = Appended { file, path, end: 0, synced: Instant::now(), durable: false };
        Ok(Self { directory: None, results: Mutex::new(results), attempts: None, _lock: None })
    }

    /// Records a result.
    pub(super) fn append(&self, result: &ItemResult) -> Result<Span> {
        let fail = |error: serde_json::Error| Error::io("write", "a result", io::Error::from(error));
        let mut line = serde_json::to_vec(result).map_err(fail)?;
        line.push(b'\n');
        lock(&self.results).append(&line)
    }

    /// A result that was recorded.
    pub(super) fn read(&self, span: Span) -> Result<ItemResult> {
        let mut line = vec![0; span.len];
        let results = lock(&self.results);
        let fail = |error| Error::io("read", results.path.display(), error);
        results.file.read_exact_at(&mut line, span.offset).map_err(fail)?;
        serde_json::from_slice(&line).map_err(|error| fail(error.into()))
    }

    /// Records what becomes of an image.
    pub(super) fn note(&self, index: usize, event: Event) -> Result<()> {
        let Some(attempts) = &self.attempts else { return Ok(()) };
        let fail = |error: serde_json::Error| Error::io("write", "an attempt", io::Error::from(error));
        let mut line = serde_json::to_vec(&Attempt { index, event }).map_err(fail)?;
        line.push(b'\n');
        lock(attempts).append(&line).map(drop)
    }

    /// Makes everything durable and, when the run is over, keeps its summary.
    pub(super) fn finish(&self, summary: &impl Serialize) -> Result<()> {
        let Some(directory) = &self.directory else { return Ok(()) };
        lock(&self.results).sync()?;
        if let Some(attempts) = &self.attempts {
            lock(attempts).sync()?;
        }
        let mut text = serde_json::to_vec_pretty(summary)
            .map_err(|error| Error::io("write", directory.join("summary.json").display(), io::Error::from(error)))?;
        text.push(b'\n');
        replace(&directory.join("summary.json"), &text)
    }
}

impl Appended {
    /// Opens a file of lines, without a torn last one.
    fn open(path: PathBuf) -> Result<Self> {
        let fail = |action, error| Error::io(action, path.display(), error);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(|error| fail("open", error))?;
        let len = file.metadata().map_err(|error| fail("read", error))?.len();
        let end = whole_lines(&file, len).map_err(|error| fail("read", error))?;
        if end < len {
            file.set_len(end).map_err(|error| fail("write", error))?;
        }
        Ok(Self { file, path, end, synced: Instant::now(), durable: true })
    }

    fn append(&mut self, line: &[u8]) -> Result<Span> {
        let span = Span { offset: self.end, len: line.len() };
        let fail = |error| Error::io("write", self.path.display(), error);
        self.file.write_all_at(line, self.end).map_err(fail)?;
        self.end += line.len() as u64;
        if self.durable && self.synced.elapsed() >= SYNC_EVERY {
            self.sync()?;
        }
        Ok(span)
    }

    fn sync(&mut self) -> Result<()> {
        self.synced = Instant::now();
        self.file.sync_data().map_err(|error| Error::io("write", self.path.display(), error))
    }

    /// Shows each line, without its end; a line that is too long to be one of ours is passed over.
    fn each_line(&mut self, mut show: impl FnMut(Span, &[u8])) -> Result<()> {
        let fail = |error| Error::io("read", self.path.display(), error);
        let mut reader = BufReader::with_capacity(1 << 20, &self.file);
        reader.seek(SeekFrom::Start(0)).map_err(fail)?;
        let (mut offset, mut line) = (0, Vec::new());
        loop {
            line.clear();
            let limit = limits::BATCH_LINE_BYTES as u64;
            let read = (&mut reader).take(limit).read_until(b'\n', &mut line).map_err(fail)?;
            if read == 0 {
                return Ok(());
            }
            if let Some(text) = line.strip_suffix(b"\n") {
                show(Span { offset, len: read }, text);
            }
            offset += read as u64;
        }
    }
}

/// Bytes up to the end of the last whole line.
fn whole_lines(file: &File, len: u64) -> io::Result<u64> {
    let mut buf = [0; 64 << 10];
    let mut end = len;
    while end > 0 {
        let begin = end.saturating_sub(buf.len() as u64);
        let part = buf.get_mut(..(end - begin) as usize).unwrap_or_default();
        file.read_exact_at(part, begin)?;
        if let Some(at) = part.iter().rposition(|byte| *byte == b'\n') {
            return Ok(begin + at as u64 + 1);
        }
        end = begin;
    }
    Ok(0)
}

/// Writes the plan down in a new directory, and holds it against the one in an old.
fn hold_plan(directory: &Path, plan: &Plan) -> Result<()> {
    let path = directory.join("plan.json");
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let images = plan.items().iter().map(|item| escape(item.image.as_os_str().as_encoded_bytes()));
            let file = PlanFile { version: VERSION, digest: plan.digest().to_owned(), images: images.collect() };
            let text = serde_json::to_vec_pretty(&file);
            let text = text.map_err(|error| Error::io("write", path.display(), io::Error::from(error)))?;
            return replace(&path, &text);
        }
        Err(error) => return Err(Error::io("read", path.display(), error)),
    };
    let found: PlanFile = serde_json::from_slice(&text)
        .map_err(|error| Error::invalid(format!("{} is no plan: {error}", path.display())))?;
    if found.version != VERSION {
        return Err(Error::unsupported("batch", format!("a run directory of version {}", found.version)));
    }
    if found.digest != plan.digest() {
        let error = Error::invalid(format!("{} is the run of another plan", directory.display()));
        return Err(error.with_hint("resume with the same images and the same commands, or take a new directory"));
    }
    Ok(())
}

/// A file that is there with all of `text` or as it was.
fn replace(path: &Path, text: &[u8]) -> Result<()> {
    let fail = |error| Error::io("write", path.display(), error);
    let mut partial = path.as_os_str().to_owned();
    partial.push(".part");
    let mut file = File::create(&partial).map_err(fail)?;
    file.write_all(text).map_err(fail)?;
    file.sync_all().map_err(fail)?;
    std::fs::rename(&partial, path).map_err(fail)?;
    let directory = path.parent().unwrap_or(Path::new("."));
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(fail)
}

/// Where files cannot be made without a name.
fn named_and_removed(directory: &Path) -> io::Result<File> {
    for at in 0.. {
        let path = directory.join(format!("guestctl-batch-{}-{at}", std::process::id()));
        match OpenOptions::new().read(true).write(true).create_new(true).open(&path) {
            Ok(file) => return std::fs::remove_file(path).map(|()| file),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && at < 1000 => {}
            Err(error) => return Err(error),
        }
    }
    unreachable!("the loop ends itself")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
