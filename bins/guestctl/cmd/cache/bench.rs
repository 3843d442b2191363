//! `guestctl cache bench`

use std::path::PathBuf;

use clap::Args;
use guestctl::cache::{BENCH_FILE_BYTES, Benchmark, benchmark};
use guestctl::{Error, Result};
use serde::Serialize;

use super::target::Target;
use crate::context::Context;
use crate::exit::Outcome;
use crate::progress::Shown;
use crate::{jobs, print};

/// Say how fast trees come back in the cache's filesystem.
///
/// Made-up trees of files of 4 KiB come out of a store that is thrown away, by each strategy that the filesystem can, beside the
/// bare system calls that this comes down to. Everything lies in one temporary directory, which is removed.
#[derive(Debug, Args)]
pub struct Bench {
    /// Measure here and not in the cache.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// One tree of so many files, instead of 100, 1,000 and 10,000.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    files: Option<u32>,
    /// Threads; without a number as many as there are processors.
    #[arg(short = 'j', long, value_name = "N")]
    jobs: Option<usize>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    directory: String,
    file_bytes: u64,
    rows: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct Row {
    #[serde(flatten)]
    measured: Benchmark,
    restore_files_per_second: f64,
    bare_files_per_second: f64,
    /// What the time shall be.
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<Target>,
}

impl Row {
    fn new(measured: Benchmark) -> Self {
        let per_second = |ns: u64| f64::from(measured.files) * 1e9 / ns.max(1) as f64;
        // What users expect of trees of these sizes.
        let seconds = match measured.files {
            100 => Some(0.02),
            1000 => Some(0.1),
            10_000 => Some(1.0),
            _ => None,
        };
        let took = measured.restore_ns as f64 / 1e9;
        let target = seconds.map(|seconds| Target::below("restore", "seconds", seconds, Some(took)));
        Self {
            restore_files_per_second: per_second(measured.restore_ns),
            bare_files_per_second: per_second(measured.bare_ns),
            measured,
            target,
        }
    }

    fn cells(&self) -> Vec<String> {
        let milliseconds = |ns: u64| format!("{:.1} ms", ns as f64 / 1e6);
        let word = |value: serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        vec![
            self.measured.files.to_string(),
            word(serde_json::json!(self.measured.strategy)),
            word(serde_json::json!(self.measured.calls)),
            milliseconds(self.measured.restore_ns),
            format!("{:.0}/s", self.restore_files_per_second),
            format!("{:.0}/s", self.bare_files_per_second),
            self.target.as_ref().map(|target| format!("{} s", target.target)).unwrap_or_default(),
            self.target.as_ref().map(|target| target.status.to_owned()).unwrap_or_default(),
        ]
    }
}

impl Bench {
    pub fn run(self, context: &Context) -> Outcome {
        let directory = self.directory(context)?;
        let counts = self.files.map_or_else(|| vec![100, 1000, 10_000], |files| vec![files]);
        // Only for interrupts: how many bytes of how many there were says nothing here.
        let progress = Shown::new("bench").quiet(true);
        let measured = jobs::install(context.jobs(self.jobs), || benchmark(&directory, &counts, &progress))??;
        let rows = measured.into_iter().map(Row::new).collect();
        let report = Report { directory: directory.display().to_string(), file_bytes: BENCH_FILE_BYTES, rows };
        if self.json {
            return Ok(print::json(&report)?);
        }
        let rows: Vec<_> = report.rows.iter().map(Row::cells).collect();
        let head = ["FILES", "STRATEGY", "CALLS", "TIME", "RESTORE", "BARE CALLS", "TARGET", "STATUS"];
        Ok(print::table(&head, &[true, false, false, true, true, true, true, false], &rows)?)
    }

    /// Where to measure: in the store, unless somewhere else is named.
    fn directory(&self, context: &Context) -> Result<PathBuf> {
        if let Some(directory) = &self.dir {
            return Ok(directory.clone());
        }
        let store = context.open().map_err(|error| error.with_hint("--dir names another directory to measure in"))?;
        if !store.is_writable() {
            let error = Error::io("write to", store.path().display(), std::io::ErrorKind::ReadOnlyFilesystem);
            return Err(error.with_hint("--dir names another directory to measure in"));
        }
        Ok(store.path().join("staging"))
    }
}
