//! `guestctl diff`: what differs between two guests, file by file or in what they are.

mod files;
mod semantic;

use std::io;
use std::path::PathBuf;

use clap::Args;
use guestctl::block::ImageFormat;
use guestctl::fs::GuestPath;
use guestctl::ops::{Algorithm, DiffIgnore, DiffOptions, Filter, TextOptions};
use guestctl::{Error, ErrorKind, Guestfs, limits};

use crate::args::{GuestArgs, ImageArgs, OpenArgs, format};
use crate::context::Context;
use crate::exit::{Failure, Outcome};
use crate::jobs;

/// Say what differs between two guests: files added (+), removed (-) and changed (~), with what changed; with --semantic
/// packages, users, services and settings. Exit codes: 0 the same, 1 different, 2 usage or system error, 3 parts could not
/// be compared, above as everywhere.
#[derive(Debug, Args)]
pub struct Diff {
    /// One image; `disk.qcow2#name` reads an internal snapshot.
    #[arg(value_name = "IMAGE1")]
    old: PathBuf,
    /// The other.
    #[arg(value_name = "IMAGE2")]
    new: PathBuf,
    /// Compare what is here, a directory or a file, on both sides.
    #[arg(value_name = "PATH", default_value = "/")]
    path: String,
    /// A further drive of the first guest; repeatable.
    #[arg(short = 'a', long = "add", value_name = "IMAGE")]
    more: Vec<PathBuf>,
    /// A further drive of the second guest; repeatable.
    #[arg(short = 'A', long = "second-add", value_name = "IMAGE")]
    second_more: Vec<PathBuf>,
    #[command(flatten)]
    open: OpenArgs,
    /// The second image's format; without it the format is probed.
    #[arg(short = 'F', long = "second-format", value_name = "FORMAT", value_parser = format)]
    second_format: Option<ImageFormat>,
    /// Open each image in a process of its own.
    #[arg(long)]
    isolate: bool,
    /// Mount this in both guests and do not inspect: a device, and where if not at /; repeatable.
    #[arg(short, long, value_name = "DEV[:MOUNTPOINT]")]
    mount: Vec<String>,
    /// Mount this in the second guest, and not what -m says; repeatable.
    #[arg(short = 'M', long, value_name = "DEV[:MOUNTPOINT]")]
    second_mount: Vec<String>,
    #[command(flatten)]
    facts: FactArgs,
    #[command(flatten)]
    content: ContentArgs,
    /// Compare packages, users, groups, services, kernels, keys, mounts, sysctl and other settings, and no files.
    #[arg(long, conflicts_with_all = ["FactArgs", "ContentArgs", "path"])]
    semantic: bool,
    /// Print JSON: an object for each path on a line of its own; with --semantic one document.
    #[arg(long)]
    json: bool,
    /// Print nothing but errors.
    #[arg(short, long)]
    quiet: bool,
    /// Threads; all processors without it.
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
}

/// What counts as a difference.
#[derive(Debug, Args)]
#[group(id = "FactArgs", multiple = true)]
struct FactArgs {
    /// Facts that do not count; repeatable, or with commas.
    #[arg(long, value_name = "FACT", value_enum, value_delimiter = ',')]
    ignore: Vec<Ignored>,
    /// Access times count too.
    #[arg(long)]
    atime: bool,
    /// Take files of the same size and modification time for equal, and do not read them.
    #[arg(long)]
    fast: bool,
    /// Leave out what matches this pattern, as in a .gitignore; repeatable.
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<String>,
    /// Only what matches this pattern, and what is below it; repeatable.
    #[arg(long, value_name = "PATTERN")]
    include: Vec<String>,
}

/// What is shown of contents.
#[derive(Debug, Args)]
#[group(id = "ContentArgs", multiple = true)]
struct ContentArgs {
    /// The digest of each regular file that differs; repeatable.
    #[arg(long, value_name = "ALG")]
    checksum: Vec<Algorithm>,
    /// Show how texts differ, in the unified format. What is not UTF-8 or could steer a terminal is shown escaped.
    #[arg(long)]
    content: bool,
    /// Print a patch for `patch -p1` and nothing else: all texts that changed, came or went, their bytes as they are.
    #[arg(long, conflicts_with_all = ["json", "quiet", "content"])]
    patch: bool,
    /// Equal lines around each difference.
    #[arg(short = 'U', long, value_name = "LINES", default_value_t = 3)]
    unified: usize,
    /// With --content: show added and removed texts whole.
    #[arg(short = 'N', long)]
    new_file: bool,
    /// Bytes of the largest text that is shown.
    #[arg(long, value_name = "BYTES", default_value_t = limits::DIFF_TEXT_BYTES)]
    text_limit: u64,
}

/// A fact that can be ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Ignored {
    /// Modification times.
    Times,
    /// Modification times of directories.
    DirTimes,
    /// Owners and groups.
    Owners,
    /// Extended attributes, ACLs and labels.
    Xattrs,
    /// Which names lead to one file.
    HardLinks,
}

/// As in diff(1): 1 says that the guests differ.
const DIFFERENT: u8 = 1;
const TROUBLE: u8 = 2;

impl Diff {
    pub fn run(self, context: &Context) -> Outcome {
        match self.compare(context) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Failure::Answer(DIFFERENT)),
            Err(Failure::Guest(error)) => {
                let code = match error.exit_code() {
                    DIFFERENT => TROUBLE,
                    code => code,
                };
                Err(Failure::Coded(error, code))
            }
            // Nobody reads on: what was to be written was a difference.
            Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Err(Failure::Answer(DIFFERENT)),
            Err(Failure::Output(error)) => {
                Err(Failure::Coded(Error::io("write to", "standard output", error), TROUBLE))
            }
            Err(failure) => Err(failure),
        }
    }

    /// Whether nothing differs.
    fn compare(&self, context: &Context) -> Result<bool, Failure> {
        let (old, new) = self.guests();
        let sides = (old.image().display().to_string(), new.image().display().to_string());
        if self.semantic {
            return semantic::compare((&old, &new), self.json, self.quiet);
        }
        let options = self.options()?;
        let (old, new) = (old.mounted()?, new.mounted()?);
        let run = || files::compare(self, (&old, &new), &sides, &options);
        jobs::install(context.jobs(self.jobs), run)?
    }

    fn guests(&self) -> (GuestArgs, GuestArgs) {
        let guest = |image: &PathBuf, more: &[PathBuf], open: OpenArgs, mount: &[String]| GuestArgs {
            images: ImageArgs { image: image.clone(), more: more.to_vec(), open, isolate: self.isolate },
            mount: mount.to_vec(),
        };
        let second_mount = if self.second_mount.is_empty() { &self.mount } else { &self.second_mount };
        let second_open = OpenArgs { format: self.second_format, ..self.open.clone() };
        (
            guest(&self.old, &self.more, self.open.clone(), &self.mount),
            guest(&self.new, &self.second_more, second_open, second_mount),
        )
    }

    fn options(&self) -> guestctl::Result<DiffOptions> {
        let ignored = |fact| self.facts.ignore.contains(&fact);
        let ContentArgs { content, patch, unified, new_file, text_limit, .. } = self.content;
        if text_limit > limits::DIFF_TEXT_BYTES {
            return Err(ErrorKind::Limit {
                what: "bytes of a text that is shown",
                limit: limits::DIFF_TEXT_BYTES,
                found: text_limit,
            }
            .into());
        }
        let text = TextOptions { context: unified, limit: text_limit, whole_files: patch || new_file };
        Ok(DiffOptions {
            path: GuestPath::parse(&self.path)?,
            ignore: DiffIgnore {
                times: ignored(Ignored::Times),
                directory_times: ignored(Ignored::DirTimes),
                owners: ignored(Ignored::Owners),
                xattrs: ignored(Ignored::Xattrs),
                hard_links: ignored(Ignored::HardLinks),
            },
            atime: self.facts.atime,
            fast: self.facts.fast,
            checksums: self.content.checksum.clone(),
            text: (content || patch).then_some(text),
            filter: Filter::new(&self.facts.exclude, &self.facts.include)?,
        })
    }
}

/// Both guests.
type Guests<'a> = (&'a Guestfs, &'a Guestfs);
