//! `guestctl batch`

mod operation;
mod progress;

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{ArgGroup, Args};
use guestctl::batch::{self, ItemResult, Plan, RunOptions, Status, Summary};
use guestctl::block::ImageFormat;
use guestctl::{Error, Result};

use self::operation::Operation;
use self::progress::Counted;
use super::cat::to_output;
use crate::args::{Command, format};
use crate::context::Context;
use crate::exit::{Failure, Outcome};
use crate::{duration, interrupt, json, print, size};

/// Do the same with many images, each in a process of its own, and print a line of JSON for each, in the order of the list.
///
/// A corrupt, hostile or endless image is a result and harms no other. Exit codes: 0 all went well, 2 usage, 3 finished, some
/// images did not succeed, 75 some may later, 130 or 143 interrupted.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").args(["op", "script"]).required(true))]
pub struct Batch {
    /// Images; wildcards in quotes are expanded here, ** stands for any directories.
    #[arg(value_name = "IMAGE")]
    images: Vec<OsString>,
    /// Read images from this file, one on each line, # for comments; - for standard input; repeatable.
    #[arg(short, long, value_name = "FILE")]
    list: Vec<PathBuf>,
    /// What to do: arguments behind -- are added to its command.
    #[arg(long, value_enum, value_name = "OP")]
    op: Option<Operation>,
    /// Run the command lines of this file for each image: words with quotes, no shell, {image}, {name} and {out} for the
    /// image, a name that no other has, and the directory of --output.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["arguments", "format"])]
    script: Option<PathBuf>,
    /// The format that --op convert writes.
    #[arg(short = 'O', long, value_name = "FORMAT", value_parser = format)]
    format: Option<ImageFormat>,
    /// The directory for what is made; if nothing is, what is printed goes into its files NAME.out and not into the lines.
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Keep a record in this directory, and go on from it: what is finished is not done again.
    #[arg(long, value_name = "DIR")]
    run: Option<PathBuf>,
    /// With --run, try again what did not succeed.
    #[arg(long, requires = "run")]
    retry_failed: bool,
    /// Images at work at once; without a number as many as there are processors.
    #[arg(short, long, value_name = "N")]
    jobs: Option<usize>,
    /// Images of one device of this host at work at once.
    #[arg(long, value_name = "N", default_value_t = 4)]
    io_depth: usize,
    /// How long one image may take: 90, 90s, 5m, 2h; 0 for any time.
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = duration::parse)]
    timeout: Duration,
    /// How often an image is tried when what is in the way can go away.
    #[arg(long, value_name = "N", default_value_t = 3)]
    attempts: u32,
    /// Memory for all images at work; without it three quarters of what is available.
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    memory: Option<u64>,
    /// Memory that one image is taken to need.
    #[arg(long, value_name = "SIZE", default_value = "256M", value_parser = size::parse)]
    memory_per_image: u64,
    /// Address space that one image may have; a command that asks for more fails.
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    memory_limit: Option<u64>,
    /// Stop at the first image that does not succeed.
    #[arg(long)]
    fail_fast: bool,
    /// Go on behind images that do not succeed. It is what happens without --fail-fast.
    #[arg(long, conflicts_with = "fail_fast")]
    keep_going: bool,
    /// Write the summary as JSON into this file; - for a last line on standard output.
    #[arg(long, value_name = "FILE")]
    summary: Option<PathBuf>,
    /// Show no progress and no summary.
    #[arg(short, long)]
    quiet: bool,
    /// Added to the command of --op.
    #[arg(value_name = "ARG", last = true)]
    arguments: Vec<OsString>,
}

impl Batch {
    pub fn run(self, context: &Context) -> Outcome {
        let plan = self.plan(context)?;
        let options = self.options(&plan, context);
        let progress = Counted::new(plan.items().len() as u64, self.quiet);
        let mut out = print::stdout()?;
        let on_result = |result: &ItemResult| {
            // Whoever reads along gets whole lines.
            let done = json::line(&mut out, result).and_then(|()| out.flush());
            done.map_err(|error| Error::io("write", "the output", error))
        };
        let done = batch::run(&plan, &options, on_result, &progress);
        drop(progress);
        let summary = done.map_err(to_output)?;
        self.report(&summary, &mut out)?;
        match interrupt::exit_code().filter(|_| summary.stopped).unwrap_or(summary.exit_code()) {
            0 => Ok(()),
            code => Err(Failure::Answer(code)),
        }
    }

    fn plan(&self, context: &Context) -> Result<Plan> {
        let mut images = Vec::new();
        for argument in &self.images {
            images.extend(batch::expand_images(argument)?);
        }
        let standard = self.list.iter().chain(&self.script).filter(|path| path.as_os_str() == "-").count();
        if standard > 1 {
            return Err(Error::invalid("standard input can be read once"));
        }
        for list in &self.list {
            images.extend(batch::parse_list(&read(list)?));
        }
        let Some(op) = self.op else {
            let lines = batch::parse_script(&read(self.script.as_deref().unwrap_or(Path::new("-")))?)?;
            let lines = lines.into_iter().map(known_command).collect::<Result<Vec<_>>>()?;
            return Plan::new(images, &lines, self.output.clone());
        };
        let has_cache = op == Operation::Extract && context.store().is_some();
        op.plan(images, self.output.as_deref(), self.format, &self.arguments, has_cache)
    }

    fn options(&self, plan: &Plan, context: &Context) -> RunOptions {
        let mut options = RunOptions::default();
        options.jobs = context.jobs(self.jobs);
        options.leading_arguments = context.arguments();
        options.io_depth = self.io_depth;
        options.memory_budget = self.memory;
        options.memory_per_image = self.memory_per_image;
        options.memory_limit = self.memory_limit;
        options.timeout = Some(self.timeout).filter(|time| !time.is_zero());
        options.attempts = self.attempts;
        options.fail_fast = self.fail_fast;
        options.run_directory = self.run.clone();
        options.retry_failed = self.retry_failed;
        options.output_directory = self.output.clone().filter(|_| !plan.uses_out());
        options
    }

    #[allow(clippy::print_stderr, reason = "this is for people")]
    fn report(&self, summary: &Summary, out: &mut impl Write) -> Outcome {
        match &self.summary {
            Some(path) if path.as_os_str() == "-" => {
                json::line(&mut *out, &serde_json::json!({ "summary": summary }))?;
                out.flush()?;
            }
            Some(path) => {
                let fail = |error| Error::io("write", path.display(), error);
                let mut file = BufWriter::new(File::create(path).map_err(fail)?);
                json::pretty(&mut file, summary).and_then(|()| file.flush()).map_err(fail)?;
            }
            None => {}
        }
        if !self.quiet {
            eprintln!("{}", sentence(summary));
            if summary.stopped && self.run.is_some() {
                eprintln!("hint: the same command goes on where this one stopped");
            }
        }
        Ok(())
    }
}

/// The summary for people.
fn sentence(summary: &Summary) -> String {
    let mut parts: Vec<String> = Status::ALL
        .iter()
        .map(|status| (*status, summary.count(*status)))
        .filter(|(status, count)| *count > 0 || *status == Status::Ok)
        .map(|(status, count)| format!("{count} {}", status.name()))
        .collect();
    if summary.not_started > 0 {
        parts.push(format!("{} not begun", summary.not_started));
    }
    if summary.resumed > 0 {
        parts.push(format!("{} of them by an earlier run", summary.resumed));
    }
    let (seconds, rate) = (summary.seconds, summary.images_per_second);
    format!("batch: {} images in {seconds:.1} s, {rate:.1}/s: {}", summary.images, parts.join(", "))
}

/// A line's words, if they begin with a subcommand that can be run for an image.
fn known_command(mut words: Vec<OsString>) -> Result<Vec<OsString>> {
    if words.first().is_some_and(|word| word == "guestctl") {
        words.remove(0);
    }
    let word = words.first().map(|word| word.to_string_lossy().into_owned()).unwrap_or_default();
    if word == "batch" {
        return Err(Error::invalid("a batch in a batch has no end"));
    }
    if Command::definition(&word).is_none() {
        return Err(Error::invalid(format!("the script's command \"{word}\" is none of guestctl's")));
    }
    Ok(words)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    if path.as_os_str() == "-" {
        let mut bytes = Vec::new();
        let read = std::io::stdin().lock().read_to_end(&mut bytes);
        return read.map(|_| bytes).map_err(|error| Error::io("read", "standard input", error));
    }
    std::fs::read(path).map_err(|error| Error::io("read", path.display(), error))
}
