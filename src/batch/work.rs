//! One image: its command lines in turn, again if that makes sense, and what came of it.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::RunOptions;
use super::child::{self, Bounds};
use super::output::encode;
use super::parent::{MEMORY, PARENT};
use super::plan::{Item, Plan};
use super::result::{ItemResult, Status};
use super::verdict::{Again, Verdict, can_start_later};
use crate::bytes::escape;
use crate::error::{Error, Result};

/// How often a command that dies is started.
const LIVES: u32 = 2;

/// The longest time between two attempts.
const LONGEST_BACKOFF: Duration = Duration::from_secs(60);

/// Works on images.
pub(super) struct Worker<'a> {
    pub(super) plan: &'a Plan,
    pub(super) options: &'a RunOptions,
    pub(super) program: PathBuf,
    /// Threads of each command.
    pub(super) threads: usize,
    pub(super) stop: &'a (dyn Fn() -> bool + Sync),
}

/// What one attempt gave.
struct Tried {
    verdict: Verdict,
    /// From 1.
    line: u64,
    printed: Vec<u8>,
    bytes: u64,
    output_file: Option<PathBuf>,
}

impl Tried {
    fn nothing(verdict: Verdict) -> Self {
        Self { verdict, line: 1, printed: Vec::new(), bytes: 0, output_file: None }
    }
}

impl Worker<'_> {
    /// Why an image cannot be begun: what would be made is there already.
    pub(super) fn obstacle(&self, item: &Item) -> Option<Verdict> {
        let product = self.plan.product(item)?;
        product.symlink_metadata().is_ok().then(|| {
            let message = format!("{} exists", escape(product.as_os_str().as_encoded_bytes()));
            Verdict::invalid(message, "it is not replaced; remove it, or take another output directory")
        })
    }

    /// Works on an image. `resumed` says that an earlier run has begun and not finished it. An error is one of this system,
    /// and ends the run.
    pub(super) fn work(&self, index: usize, item: &Item, resumed: bool) -> Result<ItemResult> {
        let begun = Instant::now();
        let mut attempts = 0;
        let mut deaths = 0;
        let mut backoff = self.options.backoff;
        let tried = loop {
            if (self.stop)() {
                break Tried::nothing(Verdict::cancelled());
            }
            if resumed || attempts > 0 {
                self.clear(item)?;
            }
            attempts += 1;
            let tried = self.attempt(item)?;
            match tried.verdict.again {
                Again::Later if attempts < self.options.attempts.max(1) => {
                    self.pause(backoff);
                    backoff = backoff.saturating_mul(4).min(LONGEST_BACKOFF);
                }
                Again::Once if deaths + 1 < LIVES => deaths += 1,
                _ => break tried,
            }
            log::debug!("{}: tried again: {:?}", item.image.display(), tried.verdict);
        };
        if attempts > 0 && matches!(tried.verdict.status, Status::Cancelled | Status::Timeout) {
            // It may have been made whole at the last moment, and nobody would know.
            self.clear(item)?;
        }
        let mut result = result(index, item, tried.verdict);
        result.line = (result.status != Status::Ok && self.plan.commands(item).len() > 1).then_some(tried.line);
        result.seconds = (begun.elapsed().as_secs_f64() * 1e6).round() / 1e6;
        result.attempts = attempts;
        result.bytes = tried.bytes;
        result.output_file = tried.output_file.map(|path| escape(path.as_os_str().as_encoded_bytes()));
        if let Some((output, encoding)) = encode(&tried.printed) {
            (result.output, result.output_encoding) = (Some(output), Some(encoding));
        }
        Ok(result)
    }

    /// Removes what an attempt that was interrupted may have made.
    fn clear(&self, item: &Item) -> Result<()> {
        let Some(product) = self.plan.product(item) else { return Ok(()) };
        let Ok(metadata) = product.symlink_metadata() else { return Ok(()) };
        let removed =
            if metadata.is_dir() { std::fs::remove_dir_all(&product) } else { std::fs::remove_file(&product) };
        removed.map_err(|error| Error::io("remove", product.display(), error))
    }

    /// Waits, unless the run is to stop.
    fn pause(&self, time: Duration) {
        let until = Instant::now() + time;
        while !(self.stop)() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            std::thread::sleep(left.min(Duration::from_millis(100)));
        }
    }

    fn attempt(&self, item: &Item) -> Result<Tried> {
        let bounds = Bounds {
            deadline: self.options.timeout.and_then(|time| Instant::now().checked_add(time)),
            grace: self.options.grace,
            memory: self.options.memory_limit,
            stop: self.stop,
        };
        let file = self.options.output_directory.as_deref().map(|directory| OutputFile::new(directory, item));
        let file = file.transpose()?;
        let mut tried = Tried::nothing(Verdict::ok());
        let mut messages = Vec::new();
        for (line, words) in (1..).zip(self.plan.commands(item)) {
            tried.line = line;
            let mut command = Command::new(&self.program);
            command.args(&self.options.leading_arguments).args(&words);
            // The user's number of threads is for all images together.
            command.env("RAYON_NUM_THREADS", self.threads.to_string()).env_remove("GUESTCTL_JOBS");
            command.env(PARENT, std::process::id().to_string());
            if let Some(bytes) = self.options.memory_limit {
                command.env(MEMORY, bytes.to_string());
            }
            if let Some(file) = &file {
                command.stdout(file.descriptor()?);
            }
            let output = file.is_none().then_some(&mut tried.printed);
            let word = words.first().map(|word| word.to_string_lossy().into_owned()).unwrap_or_default();
            tried.verdict = match child::run(&mut command, &bounds, output, &mut messages) {
                Ok(ended) => Verdict::of(&word, ended, &messages),
                Err(error) if can_start_later(&error) => {
                    Verdict::not_started(format!("cannot start {}: {error}", self.program.display()))
                }
                Err(error) => return Err(Error::io("start", self.program.display(), error)),
            };
            if tried.verdict.status != Status::Ok {
                break;
            }
        }
        tried.bytes = tried.printed.len() as u64;
        // What came out before the limit is of no use.
        if tried.verdict.error_kind.as_deref() == Some("limit") && tried.verdict.exit_code.is_none() {
            tried.printed.clear();
        }
        if let Some(file) = file {
            let is_whole = matches!(tried.verdict.error_kind.as_deref(), None | Some("partial" | "answer"));
            (tried.bytes, tried.output_file) = if is_whole { file.publish()? } else { file.discard() };
        }
        Ok(tried)
    }
}

/// A result with nothing in it but how it ended.
pub(super) fn result(index: usize, item: &Item, verdict: Verdict) -> ItemResult {
    let bytes = item.image.as_os_str().as_encoded_bytes();
    let text = std::str::from_utf8(bytes);
    ItemResult {
        image: text.map_or_else(|_| escape(bytes), str::to_owned),
        image_b64: text.is_err().then(|| BASE64.encode(bytes)),
        name: item.name.clone(),
        index: index as u64,
        status: verdict.status,
        exit_code: verdict.exit_code,
        signal: verdict.signal,
        error_kind: verdict.error_kind,
        message: verdict.message,
        hint: verdict.hint,
        line: None,
        seconds: 0.0,
        attempts: 0,
        bytes: 0,
        output_file: None,
        output_encoding: None,
        output: None,
    }
}

/// The file for what an image's commands print: complete under its name or not there.
struct OutputFile {
    file: File,
    partial: PathBuf,
    path: PathBuf,
}

impl OutputFile {
    fn new(directory: &Path, item: &Item) -> Result<Self> {
        let path = directory.join(format!("{}.out", item.name));
        let partial = directory.join(format!(".{}.out.part", item.name));
        // One that an earlier run left is written anew.
        let removed = std::fs::remove_file(&partial);
        if let Err(error) = removed
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(Error::io("remove", partial.display(), error));
        }
        let file = File::create_new(&partial).map_err(|error| Error::io("make", partial.display(), error))?;
        Ok(Self { file, partial, path })
    }

    fn descriptor(&self) -> Result<Stdio> {
        let file = self.file.try_clone().map_err(|error| Error::io("use", self.partial.display(), error))?;
        Ok(Stdio::from(file))
    }

    fn publish(self) -> Result<(u64, Option<PathBuf>)> {
        let fail = |error| Error::io("write", self.path.display(), error);
        let len = self.file.metadata().map_err(fail)?.len();
        self.file.sync_data().map_err(fail)?;
        std::fs::rename(&self.partial, &self.path).map_err(fail)?;
        Ok((len, Some(self.path.clone())))
    }

    fn discard(self) -> (u64, Option<PathBuf>) {
        (self.file.metadata().map_or(0, |metadata| metadata.len()), None)
    }
}

impl Drop for OutputFile {
    fn drop(&mut self) {
        // Gone already when it was published.
        let _ = std::fs::remove_file(&self.partial);
    }
}
