//! `guestctl grep`

use std::io::{self, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use clap::Args;
use guestctl::bytes::escape;
use guestctl::fs::{FileType, Follow, GuestPath};
use guestctl::ops::{self, GrepEvent, GrepMode, GrepOptions, Pattern, Syntax};
use guestctl::{Error, Result};
use serde::Serialize;

use crate::args::{BulkArgs, GuestArgs};
use crate::cmd::cat::to_output;
use crate::context::Context;
use crate::exit::{self, Failure, Outcome};
use crate::jobs;
use crate::json;
use crate::print;
use crate::progress::Shown;
use crate::record::text;
use crate::size;

/// Search guest files for a pattern, directories with what is below them. Lines are printed byte for byte, paths escaped.
/// Exit code 0: there was a match; 1: there was none.
#[derive(Debug, Args)]
#[command(after_help = AFTER)]
pub struct Grep {
    /// Search for the text itself, not for a regular expression.
    #[arg(short = 'F', long, conflicts_with_all = ["extended_regexp", "basic_regexp"])]
    fixed_strings: bool,
    /// The pattern is a POSIX extended regular expression.
    #[arg(short = 'E', long, conflicts_with = "basic_regexp")]
    extended_regexp: bool,
    /// The pattern is a POSIX basic regular expression, as grep(1) takes it without options.
    #[arg(short = 'G', long)]
    basic_regexp: bool,
    /// Letters match in either case.
    #[arg(short, long)]
    ignore_case: bool,
    /// Match whole words.
    #[arg(short, long)]
    word_regexp: bool,
    /// Match whole lines.
    #[arg(short = 'x', long)]
    line_regexp: bool,
    /// Print the lines that do not match.
    #[arg(short = 'v', long)]
    invert_match: bool,
    /// A pattern, too; with it there is no PATTERN before the paths. Repeatable.
    #[arg(short = 'e', long = "regexp", value_name = "PATTERN", allow_hyphen_values = true)]
    patterns: Vec<String>,
    /// Print the paths of files with a match.
    #[arg(short = 'l', long, conflicts_with_all = ["files_without_match", "count", "only_matching", "quiet"])]
    files_with_matches: bool,
    /// Print the paths of files without one.
    #[arg(short = 'L', long, conflicts_with_all = ["count", "only_matching", "quiet"])]
    files_without_match: bool,
    /// Print how many lines of each file match.
    #[arg(short, long, conflicts_with_all = ["only_matching", "quiet"])]
    count: bool,
    /// Print what matches, not the lines around it.
    #[arg(short, long, conflicts_with = "quiet")]
    only_matching: bool,
    /// Print nothing; the exit code is the answer.
    #[arg(short, long)]
    quiet: bool,
    /// Print line numbers.
    #[arg(short = 'n', long)]
    line_number: bool,
    /// Print where in the file a line, or with -o a match, begins.
    #[arg(short, long)]
    byte_offset: bool,
    /// Print no paths; the default for a single file.
    #[arg(long, conflicts_with = "with_filename")]
    no_filename: bool,
    /// Print paths; the default but for a single file.
    #[arg(short = 'H', long)]
    with_filename: bool,
    /// Print so many lines before each match.
    #[arg(short = 'B', long, value_name = "LINES")]
    before_context: Option<usize>,
    /// Print so many lines behind each match.
    #[arg(short = 'A', long, value_name = "LINES")]
    after_context: Option<usize>,
    /// Print so many lines around each match.
    #[arg(short = 'C', long, value_name = "LINES", default_value_t = 0, hide_default_value = true)]
    context: usize,
    /// Take every file for text.
    #[arg(short = 't', long)]
    text: bool,
    /// Stop behind this many matching lines of a file.
    #[arg(long, value_name = "LINES")]
    max_count: Option<u64>,
    /// Leave out files larger than this.
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    max_size: Option<u64>,
    /// Search what gzip has packed unpacked.
    #[arg(short = 'z', long)]
    gunzip: bool,
    /// Do not search other filesystems that are mounted below a PATH.
    #[arg(long)]
    one_file_system: bool,
    #[command(flatten)]
    bulk: BulkArgs,
    /// End paths with a NUL byte where a colon or the line's end would stand, and escape nothing.
    #[arg(short = '0', long, conflicts_with = "json")]
    null: bool,
    /// One JSON object per line.
    #[arg(long)]
    json: bool,
    /// Say what is done, on standard error; -v is grep's here.
    #[arg(id = "verbose", long)]
    _verbose: bool,
    /// Search directories, too; that is always done.
    #[arg(short, long)]
    recursive: bool,
    #[command(flatten)]
    guest: GuestArgs,
    /// The pattern (syntax of Rust's regex crate unless -F, -E or -G), and guest files and directories; / without one.
    #[arg(value_name = "PATTERN] [PATH")]
    rest: Vec<String>,
}

const AFTER: &str = "A file with a NUL byte is binary: standard error says that it matches, and it is not printed, unless --text. \
    A line of more than 16 MiB is an error of its file (exit code 3 at the end).\n\n\
    JSON: kind \"match\" or \"context\" with path, line_number, byte_offset, text (path_b64 and text_b64 have the bytes, \
    when they are no UTF-8), and for a match matches, a list of {start, end} in bytes of the line; with -o text is what \
    matched. kind \"binary\" and \"file\" with path; kind \"count\" with path and count.";

/// One JSON line.
#[derive(Debug, Serialize)]
struct Line<'a> {
    kind: &'static str,
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_b64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    line_number: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    byte_offset: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<std::borrow::Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text_b64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    matches: Option<Vec<Span>>,
}

/// Bytes of a line.
#[derive(Debug, Serialize)]
struct Span {
    start: usize,
    end: usize,
}

impl Grep {
    pub fn run(self, context: &Context) -> Outcome {
        let mut rest = self.rest.iter();
        let mut alternatives = self.patterns.clone();
        if alternatives.is_empty() {
            let pattern = rest.next().ok_or_else(|| {
                Error::invalid("there is no pattern").with_hint("guestctl grep IMAGE PATTERN [PATH]..., or -e PATTERN")
            })?;
            alternatives.push(pattern.clone());
        }
        let mut paths: Vec<&str> = rest.map(String::as_str).collect();
        if paths.is_empty() {
            paths.push("/");
        }
        let options = self.options(alternatives)?;
        let mounts = self.guest.mounted()?.mount_table()?;
        let resolve = |path: &&str| mounts.resolve(&GuestPath::parse(path)?, Follow::Links);
        let starts = paths.iter().map(resolve).collect::<Result<Vec<_>>>()?;
        let is_single = starts.len() == 1 && starts[0].metadata()?.file_type != FileType::Dir;
        let names = self.with_filename || !(self.no_filename || is_single);
        let mut out = print::stdout()?;
        let mut begun = false;
        let progress = Shown::new("search").quiet(true);
        let render = |event: &GrepEvent<'_>, bytes: &mut Vec<u8>| {
            let written = if self.json { json_line(event, bytes) } else { self.line(event, names, bytes) };
            written.map_err(output)
        };
        let has_lines = !self.json && matches!(options.mode, GrepMode::Lines | GrepMode::OnlyMatching);
        let mut write = |bytes: &[u8]| {
            // A line without an end is no data, but what is said of a binary file.
            let end = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
            let (bytes, said) = if has_lines { bytes.split_at(end) } else { (bytes, &b""[..]) };
            if !said.is_empty() {
                exit::say(&String::from_utf8_lossy(said));
            }
            // Groups are apart from each other: nothing stands before the first.
            let bytes = if begun { bytes } else { bytes.strip_prefix(b"--\n").unwrap_or(bytes) };
            begun |= !bytes.is_empty();
            out.write_all(bytes).map_err(output)
        };
        let grepped = jobs::install(context.jobs(self.bulk.jobs), || {
            ops::grep(&mounts, &starts, &options, &render, &mut write, &progress)
        })?
        .map_err(to_output)?;
        out.flush()?;
        exit::partial(&grepped.problems)?;
        let found =
            if self.files_without_match { grepped.matching_files < grepped.files } else { grepped.matching_files > 0 };
        if found { Ok(()) } else { Err(Failure::Answer(1)) }
    }

    fn options(&self, alternatives: Vec<String>) -> Result<GrepOptions> {
        let syntax = match (self.fixed_strings, self.extended_regexp, self.basic_regexp) {
            (true, ..) => Syntax::Fixed,
            (_, true, _) => Syntax::Extended,
            (.., true) => Syntax::Basic,
            _ => Syntax::Rust,
        };
        let mode = match self {
            Self { quiet: true, .. } => GrepMode::Quiet,
            Self { files_with_matches: true, .. } => GrepMode::FilesWithMatches,
            Self { files_without_match: true, .. } => GrepMode::FilesWithoutMatch,
            Self { count: true, .. } => GrepMode::Count,
            Self { only_matching: true, .. } => GrepMode::OnlyMatching,
            _ => GrepMode::Lines,
        };
        Ok(GrepOptions {
            pattern: Pattern {
                alternatives,
                syntax,
                ignore_case: self.ignore_case,
                word: self.word_regexp,
                line: self.line_regexp,
            },
            invert: self.invert_match,
            mode,
            text: self.text,
            line_numbers: self.line_number || self.json,
            positions: self.json,
            before: self.before_context.unwrap_or(self.context),
            after: self.after_context.unwrap_or(self.context),
            max_count: self.max_count,
            max_size: self.max_size,
            gunzip: self.gunzip,
            recursive: true,
            one_filesystem: self.one_file_system,
            filter: self.bulk.filter()?,
        })
    }

    /// What grep(1) prints.
    fn line(&self, event: &GrepEvent<'_>, names: bool, out: &mut Vec<u8>) -> io::Result<()> {
        let name = |path: &[u8], out: &mut Vec<u8>, behind: u8| {
            if self.null {
                out.extend_from_slice(path);
                out.push(0);
            } else {
                out.extend_from_slice(escape(path).as_bytes());
                out.push(behind);
            }
        };
        match *event {
            GrepEvent::Group => out.extend_from_slice(b"--\n"),
            GrepEvent::Line { path, line_number, byte_offset, text, selected, .. } => {
                let behind = if selected { b':' } else { b'-' };
                if names {
                    name(path, out, behind);
                }
                if let Some(number) = line_number {
                    write!(out, "{number}{}", char::from(behind))?;
                }
                if self.byte_offset {
                    write!(out, "{byte_offset}{}", char::from(behind))?;
                }
                out.extend_from_slice(text);
                out.push(b'\n');
            }
            GrepEvent::Binary { path } => write!(out, "{}: binary file matches", escape(path))?,
            GrepEvent::Count { path, count } => {
                if names {
                    name(path, out, b':');
                }
                writeln!(out, "{count}")?;
            }
            GrepEvent::File { path } => name(path, out, b'\n'),
        }
        Ok(())
    }
}

fn json_line(event: &GrepEvent<'_>, out: &mut Vec<u8>) -> io::Result<()> {
    let mut line = Line {
        kind: "file",
        path: String::new(),
        path_b64: None,
        count: None,
        line_number: None,
        byte_offset: None,
        text: None,
        text_b64: None,
        matches: None,
    };
    let of = match *event {
        GrepEvent::Group => return Ok(()),
        GrepEvent::Line { path, line_number, byte_offset, text, selected, matches } => {
            line.kind = if selected { "match" } else { "context" };
            line.line_number = line_number;
            line.byte_offset = Some(byte_offset);
            match std::str::from_utf8(text) {
                Ok(text) => line.text = Some(text.into()),
                Err(_) => {
                    line.text = Some(escape(text).into());
                    line.text_b64 = Some(BASE64.encode(text));
                }
            }
            line.matches =
                selected.then(|| matches.iter().map(|found| Span { start: found.start, end: found.end }).collect());
            path
        }
        GrepEvent::Binary { path } => {
            line.kind = "binary";
            path
        }
        GrepEvent::Count { path, count } => {
            (line.kind, line.count) = ("count", Some(count));
            path
        }
        GrepEvent::File { path } => path,
    };
    (line.path, line.path_b64) = text(of);
    json::line(out, &line)
}

fn output(error: io::Error) -> Error {
    Error::io("write", "the output", error)
}
