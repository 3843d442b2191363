//! `guestctl du`

use std::fs::File;
use std::io::{self, BufWriter, Write};

use clap::Args;
use guestctl::bytes::escape;
use guestctl::fs::{Follow, GuestPath};
use guestctl::ops::{self, DuLine, DuOptions, DuSink, Problem, Problems, Usage};
use guestctl::progress::Silent;
use guestctl::{Error, Result};
use serde::Serialize;

use crate::args::{FilterArgs, GuestArgs};
use crate::cmd::cat::to_output;
use crate::exit::{self, Outcome};
use crate::json;
use crate::print;
use crate::record::text;
use crate::size;

/// Show how much space guest directories take, as du(1) counts it: a file with several names once, in KiB, each directory
/// behind what is in it.
#[derive(Debug, Args)]
#[command(after_help = JSON)]
pub struct Du {
    #[command(flatten)]
    guest: GuestArgs,
    /// Directories and files.
    #[arg(value_name = "PATH", default_value = "/")]
    paths: Vec<String>,
    /// Files, too, and not directories alone.
    #[arg(long = "all")]
    all_files: bool,
    /// Only the PATHs themselves.
    #[arg(short, long, conflicts_with_all = ["all_files", "max_depth"])]
    summarize: bool,
    /// No lines below this level; 0 is --summarize.
    #[arg(short = 'd', long, value_name = "LEVEL")]
    max_depth: Option<usize>,
    /// A last line with the sum.
    #[arg(short = 'c', long)]
    total: bool,
    /// Sizes of files and symbolic links, not of their blocks.
    #[arg(long)]
    apparent_size: bool,
    /// Count blocks of this many bytes, a begun one whole.
    #[arg(short = 'B', long, value_name = "SIZE", value_parser = size::parse, default_value = "1K")]
    block_size: u64,
    /// Apparent sizes in bytes: --apparent-size --block-size=1.
    #[arg(short, long, conflicts_with = "block_size")]
    bytes: bool,
    /// Sizes in KiB, MiB, GiB.
    #[arg(short = 'H', long, conflicts_with_all = ["block_size", "bytes"])]
    human: bool,
    /// Count inodes.
    #[arg(long, conflicts_with_all = ["block_size", "bytes", "human", "apparent_size"])]
    inodes: bool,
    /// Leave out other filesystems that are mounted below a PATH.
    #[arg(short = 'x', long)]
    one_file_system: bool,
    /// Count a file under each of its names.
    #[arg(short = 'l', long)]
    count_links: bool,
    #[command(flatten)]
    filter: FilterArgs,
    /// End each line with a NUL byte and escape nothing.
    #[arg(short = '0', long, conflicts_with = "json")]
    null: bool,
    /// One JSON object per line.
    #[arg(long)]
    json: bool,
}

const JSON: &str = "JSON: path, path_b64 (its bytes, when they are no UTF-8), type (of --total's line \"total\", whose path \
                    is null), depth, allocated_bytes, apparent_bytes, shared_bytes (part of allocated_bytes: blocks that \
                    a file counted before holds as well), inodes.";

#[derive(Debug, Serialize)]
struct Line {
    path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_b64: Option<String>,
    #[serde(rename = "type")]
    file_type: &'static str,
    depth: usize,
    #[serde(flatten)]
    usage: Usage,
}

impl Du {
    pub fn run(self) -> Outcome {
        if self.block_size == 0 {
            return Err(Error::invalid("a block has one byte at least").into());
        }
        let mounts = self.guest.mounted()?.mount_table()?;
        let resolve = |path: &String| mounts.resolve(&GuestPath::parse(path)?, Follow::NotLast);
        let starts = self.paths.iter().map(resolve).collect::<Result<Vec<_>>>()?;
        let options = DuOptions {
            all: self.all_files,
            max_depth: if self.summarize { Some(0) } else { self.max_depth },
            one_filesystem: self.one_file_system,
            count_links: self.count_links,
            filter: self.filter.filter()?,
        };
        let mut lines = Lines { out: print::stdout()?, du: &self, problems: Problems::default() };
        let total = ops::du(&mounts, &starts, &options, &mut lines, &Silent).map_err(to_output)?;
        if self.total {
            lines.write(None, "total", 0, total)?;
        }
        lines.out.flush()?;
        exit::partial(&lines.problems)
    }
}

struct Lines<'a> {
    out: BufWriter<File>,
    du: &'a Du,
    problems: Problems,
}

impl Lines<'_> {
    fn write(&mut self, path: Option<&[u8]>, file_type: &'static str, depth: usize, usage: Usage) -> io::Result<()> {
        if self.du.json {
            let (path, path_b64) = path.map(text).map_or((None, None), |(path, b64)| (Some(path), b64));
            return json::line(&mut self.out, &Line { path, path_b64, file_type, depth, usage });
        }
        let bytes = if self.du.apparent_size || self.du.bytes { usage.apparent_bytes } else { usage.allocated_bytes };
        let size = if self.du.human {
            print::human(bytes)
        } else if self.du.inodes {
            usage.inodes.to_string()
        } else {
            bytes.div_ceil(if self.du.bytes { 1 } else { self.du.block_size }).to_string()
        };
        let path = path.unwrap_or(b"total");
        if self.du.null {
            write!(self.out, "{size}\t")?;
            self.out.write_all(path)?;
            return self.out.write_all(b"\0");
        }
        writeln!(self.out, "{size}\t{}", escape(path))
    }
}

impl DuSink for Lines<'_> {
    fn line(&mut self, line: &DuLine<'_>) -> Result<()> {
        let written = self.write(Some(line.path.as_bytes()), line.file_type.name(), line.depth, line.usage);
        written.map_err(|error| Error::io("write", "the output", error))
    }

    fn problem(&mut self, path: &GuestPath, error: Error) -> Result<()> {
        self.problems.push(Problem::new(path.as_bytes(), &error));
        Ok(())
    }
}
