//! `guestctl find`

use std::io::{self, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{ArgAction, Args};
use guestctl::bytes::escape;
use guestctl::fs::{GuestPath, MountTable, Timestamp};
use guestctl::ops::{self, Entry, EntrySink, FindContext, FindOptions, FindTest, Flow, Owners, Problem, Problems};
use guestctl::{Error, Result};

use crate::args::{FilterArgs, GuestArgs};
use crate::cmd::cat::to_output;
use crate::exit::{self, Outcome};
use crate::json;
use crate::print;
use crate::record::Record;

/// List the paths below a guest directory that pass all tests, relative to it and sorted. The tests are those of find(1)
/// and may have one hyphen as there: find disk.qcow2 /etc -name '*.conf' -size +4k.
#[derive(Debug, Args)]
#[command(after_help = JSON)]
pub struct Find {
    #[command(flatten)]
    guest: GuestArgs,
    /// The directory.
    #[arg(value_name = "PATH", default_value = "/")]
    directory: String,
    /// End each path with a NUL byte and escape nothing.
    #[arg(short = '0', long, conflicts_with_all = ["json", "long"])]
    print0: bool,
    /// One JSON string per line; what is not UTF-8 is escaped. With --long one object per line.
    #[arg(long)]
    json: bool,
    /// Mode, links, owner, group, size, time (UTC) and name, as ls -l; a column is as wide as its 4,096 lines need.
    #[arg(short = 'l', long)]
    long: bool,
    /// Do not enter directories on which another filesystem is mounted.
    #[arg(short = 'x', long, visible_alias = "xdev")]
    one_file_system: bool,
    /// Find nothing above this level; 1 are the directory's own entries.
    #[arg(long, value_name = "LEVEL", default_value_t = 0, hide_default_value = true)]
    mindepth: usize,
    /// Look no deeper than this level.
    #[arg(long, value_name = "LEVEL")]
    maxdepth: Option<usize>,
    #[command(flatten)]
    filter: FilterArgs,
    #[command(flatten)]
    tests: Box<Tests>,
}

const JSON: &str = "JSON: without --long each line is a string. With --long each line is an object as ls --json has it: \
                    path (absolute), path_b64 (its bytes, when they are no UTF-8), type, mode, uid, gid, size, nlink, \
                    inode, mtime_ns, target, target_b64, rdev, xattrs.";

/// The tests; each may be given several times, and all must pass.
#[derive(Debug, Args)]
#[command(next_help_heading = "Tests, as in find(1)")]
struct Tests {
    /// The name matches a shell pattern.
    #[arg(long, value_name = "GLOB")]
    name: Vec<String>,
    /// The same, ASCII letters in either case.
    #[arg(long, value_name = "GLOB")]
    iname: Vec<String>,
    /// The absolute guest path matches a shell pattern; * matches / too.
    #[arg(long, value_name = "GLOB")]
    path: Vec<String>,
    /// The same, ASCII letters in either case.
    #[arg(long, value_name = "GLOB")]
    ipath: Vec<String>,
    /// All of the absolute guest path matches a regular expression (syntax of Rust's regex crate).
    #[arg(long, value_name = "REGEX")]
    regex: Vec<String>,
    /// The same in either case.
    #[arg(long, value_name = "REGEX")]
    iregex: Vec<String>,
    /// The type is one of f, d, l, c, b, p, s, joined with commas.
    #[arg(long = "type", id = "file_type", value_name = "TYPES")]
    file_type: Vec<String>,
    /// The size rounded up to units is N, more (+N) or less (-N): c bytes, w 2, b 512 (the default), k, M, G, T.
    #[arg(long, value_name = "[+-]N[UNIT]", allow_hyphen_values = true)]
    size: Vec<String>,
    /// Changed N, more or less days ago, hours dropped.
    #[arg(long, value_name = "[+-]N", allow_hyphen_values = true)]
    mtime: Vec<String>,
    /// Read N, more or less days ago.
    #[arg(long, value_name = "[+-]N", allow_hyphen_values = true)]
    atime: Vec<String>,
    /// Changed itself, and not only its content, N, more or less days ago.
    #[arg(long, value_name = "[+-]N", allow_hyphen_values = true)]
    ctime: Vec<String>,
    /// Changed later than this guest file.
    #[arg(long, value_name = "GUEST-PATH")]
    newer: Vec<String>,
    /// Read later than this guest file was changed.
    #[arg(long, value_name = "GUEST-PATH")]
    anewer: Vec<String>,
    /// Changed itself later than this guest file was changed.
    #[arg(long, value_name = "GUEST-PATH")]
    cnewer: Vec<String>,
    /// Changed later than @SECONDS or YYYY-MM-DD[ HH:MM[:SS]] UTC.
    #[arg(long, value_name = "TIME")]
    newermt: Vec<String>,
    /// The owner, by the guest's name for it or by number.
    #[arg(long, value_name = "USER")]
    user: Vec<String>,
    /// The group, by the guest's name for it or by number.
    #[arg(long, value_name = "GROUP")]
    group: Vec<String>,
    /// The permission bits are these, all of these (-MODE) or any of these (/MODE); octal or symbolic.
    #[arg(long, value_name = "[-/]MODE", allow_hyphen_values = true)]
    perm: Vec<String>,
    /// There is an extended attribute whose name matches, and which has this value.
    #[arg(long, value_name = "GLOB[=VALUE]")]
    xattr: Vec<String>,
    /// The number of hard links is N, more or less.
    #[arg(long, value_name = "[+-]N", allow_hyphen_values = true)]
    links: Vec<String>,
    /// Files without bytes and directories without entries.
    #[arg(long)]
    empty: bool,
    /// A test of these that must fail: --not name='*.gz', --not empty.
    #[arg(long, value_name = "TEST[=VALUE]", action = ArgAction::Append)]
    not: Vec<String>,
    /// What ages are counted from; now without it.
    #[arg(long, value_name = "TIME")]
    now: Option<String>,
}

/// find(1)'s words, each with the values that were given for it.
type Words<'a> = [(&'static str, &'a [String]); 20];

impl Tests {
    fn words(&self) -> Words<'_> {
        [
            ("type", &self.file_type),
            ("name", &self.name),
            ("iname", &self.iname),
            ("path", &self.path),
            ("ipath", &self.ipath),
            ("regex", &self.regex),
            ("iregex", &self.iregex),
            ("size", &self.size),
            ("mtime", &self.mtime),
            ("atime", &self.atime),
            ("ctime", &self.ctime),
            ("newer", &self.newer),
            ("anewer", &self.anewer),
            ("cnewer", &self.cnewer),
            ("newermt", &self.newermt),
            ("user", &self.user),
            ("group", &self.group),
            ("perm", &self.perm),
            ("links", &self.links),
            ("xattr", &self.xattr),
        ]
    }

    fn parse(&self, mounts: &MountTable) -> Result<Vec<FindTest>> {
        let now = match &self.now {
            Some(text) => ops::timestamp(text)?,
            None => now(),
        };
        let context = FindContext { mounts, now };
        let mut tests = Vec::new();
        for (word, values) in self.words() {
            for value in values {
                tests.push(FindTest::parse(word, value, &context)?);
            }
        }
        if self.empty {
            tests.push(FindTest::Empty);
        }
        for test in &self.not {
            let (word, value) = test.split_once('=').unwrap_or((test, ""));
            tests.push(FindTest::parse(word, value, &context)?.negated());
        }
        Ok(tests)
    }
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp { seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX), nanoseconds: since.subsec_nanos() }
}

/// An argument as find(1) has it (`-name`), with the two hyphens that it has here.
pub fn two_hyphens(argument: std::ffi::OsString) -> std::ffi::OsString {
    const WORDS: [&str; 26] = [
        "name", "iname", "path", "ipath", "regex", "iregex", "type", "size", "mtime", "atime", "ctime", "newer",
        "anewer", "cnewer", "newermt", "user", "group", "perm", "links", "xattr", "empty", "not", "mindepth",
        "maxdepth", "xdev", "print0",
    ];
    match argument.to_str().and_then(|text| text.strip_prefix('-')) {
        Some(word) if WORDS.contains(&word) => format!("--{word}").into(),
        _ => argument,
    }
}

impl Find {
    pub fn run(self) -> Outcome {
        let mounts = self.guest.mounted()?.mount_table()?;
        let options = FindOptions {
            tests: self.tests.parse(&mounts)?,
            min_depth: self.mindepth,
            max_depth: self.maxdepth,
            one_filesystem: self.one_file_system,
            filter: self.filter.filter()?,
        };
        let owners = if self.long && !self.json { Owners::read(&mounts) } else { Owners::default() };
        let mut lines =
            Lines { out: print::stdout()?, find: &self, owners, rows: Vec::new(), problems: Problems::default() };
        ops::find_with(&mounts, &GuestPath::parse(&self.directory)?, &options, &mut lines).map_err(to_output)?;
        lines.write_rows().map_err(to_output)?;
        lines.out.flush()?;
        exit::partial(&lines.problems)
    }
}

/// Lines of a long listing whose columns are aligned together.
const ALIGNED: usize = 4096;

struct Lines<'a, W> {
    out: W,
    find: &'a Find,
    owners: Owners,
    rows: Vec<ops::Row>,
    problems: Problems,
}

impl<W: Write + Send> Lines<'_, W> {
    fn write_rows(&mut self) -> Result<()> {
        let text = ops::long_listing(&self.rows);
        self.rows.clear();
        self.out.write_all(text.as_bytes()).map_err(output)
    }

    fn write(&mut self, relative: &[u8]) -> io::Result<()> {
        if self.find.print0 {
            self.out.write_all(relative)?;
            return self.out.write_all(&[0]);
        }
        if self.find.json {
            let text = std::str::from_utf8(relative).map_or_else(|_| escape(relative), str::to_owned);
            return json::line(&mut self.out, &text);
        }
        writeln!(self.out, "{}", escape(relative))
    }

    fn write_long(&mut self, entry: &Entry<'_>) -> Result<()> {
        if self.find.json {
            let record = entry.read_link().and_then(|target| {
                let path = entry.location.path.as_bytes();
                Ok(Record::new(path, entry.metadata, target.as_deref(), &entry.xattrs()?))
            });
            return match record {
                Ok(record) => json::line(&mut self.out, &record).map_err(output),
                Err(error) => self.problem(&entry.location.path, error),
            };
        }
        match ops::long_row(entry.location, entry.metadata, &self.owners, &escape(entry.relative)) {
            Ok(row) => self.rows.push(row),
            Err(error) => self.problem(&entry.location.path, error)?,
        }
        if self.rows.len() >= ALIGNED { self.write_rows() } else { Ok(()) }
    }
}

fn output(error: io::Error) -> Error {
    Error::io("write", "the output", error)
}

impl<W: Write + Send> EntrySink for Lines<'_, W> {
    fn entry(&mut self, entry: &Entry<'_>) -> Result<Flow> {
        if self.find.long {
            self.write_long(entry)?;
        } else {
            self.write(entry.relative).map_err(output)?;
        }
        Ok(Flow::Continue)
    }

    fn problem(&mut self, path: &GuestPath, error: Error) -> Result<()> {
        self.problems.push(Problem::new(path.as_bytes(), &error));
        Ok(())
    }
}
