//! The comparison file by file: lines for people, JSON lines, or a patch.

use std::io::{self, Write};

use guestctl::bytes::escape;
use guestctl::fs::Timestamp;
use guestctl::ops::{
    Change, ChangeKind, DiffEntry, DiffFact, DiffOptions, DiffProblem, DiffSide, DiffSink, TextChange,
};
use guestctl::{Error, ErrorKind};
use serde::Serialize;

use super::{Diff, Guests};
use crate::exit::Failure;
use crate::json;
use crate::print;
use crate::progress::Shown;
use crate::record::{Record, text};

/// Problems that are said on standard error; the others are counted, and all of them are in the JSON.
const SAID: u64 = 1000;

/// Compares, and prints as it goes. Whether nothing differs.
pub(super) fn compare(
    command: &Diff,
    (old, new): Guests<'_>,
    images: &(String, String),
    options: &DiffOptions,
) -> Result<bool, Failure> {
    let form = match command {
        Diff { quiet: true, .. } => Form::Nothing,
        Diff { json: true, .. } => Form::Json,
        Diff { content, .. } if content.patch => Form::Patch,
        _ => Form::Text,
    };
    let mut printer = Printer { out: print::stdout()?, form, images, failure: None, problems: 0 };
    let progress = Shown::new("diff").quiet(command.quiet);
    let compared = old.diff(new, options, &mut printer, &progress);
    drop(progress);
    // A partial answer is printed before what ended it is told.
    let flushed = printer.out.flush();
    if let Some(error) = printer.failure {
        return Err(error.into());
    }
    let report = compared?;
    flushed?;
    if report.unreadable > 0 {
        let problems = printer.problems;
        let message = format!("{problems} {} listed above", if problems == 1 { "problem" } else { "problems" });
        return Err(Error::from(ErrorKind::Partial(message)).into());
    }
    Ok(report.is_same())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Nothing,
    Text,
    Json,
    Patch,
}

struct Printer<'a, W> {
    out: W,
    form: Form,
    /// The images' names.
    images: &'a (String, String),
    /// Why standard output could not be written.
    failure: Option<io::Error>,
    problems: u64,
}

impl<W: Write> DiffSink for Printer<'_, W> {
    fn change(&mut self, change: Change) -> guestctl::Result<()> {
        let written = match self.form {
            Form::Nothing => Ok(()),
            Form::Text => self.text(&change),
            Form::Json => json::line(&mut self.out, &Line::new(&change)),
            Form::Patch => self.patch(&change),
        };
        self.wrote(written)
    }

    fn problem(&mut self, problem: DiffProblem) -> guestctl::Result<()> {
        self.problems += 1;
        let DiffProblem { path, side, offset, error } = problem;
        let image = match side {
            DiffSide::Old => &self.images.0,
            DiffSide::New => &self.images.1,
        };
        let error = error.at_path(path.as_bytes()).in_image(image);
        if self.problems <= SAID {
            let place = offset.map(|offset| format!(" (at byte {offset} of the file)")).unwrap_or_default();
            log::error!("{error}{place}");
        } else if self.problems == SAID + 1 {
            log::error!("more problems are not told");
        }
        if self.form != Form::Json {
            return Ok(());
        }
        let path = text(path.as_bytes());
        let line =
            Unreadable { change: "unreadable", path: path.0, path_b64: path.1, side, offset, error: error.to_string() };
        let written = json::line(&mut self.out, &line);
        self.wrote(written)
    }
}

impl<W: Write> Printer<'_, W> {
    fn wrote(&mut self, written: io::Result<()>) -> guestctl::Result<()> {
        written.map_err(|error| {
            let kind = error.kind();
            self.failure = Some(error);
            Error::io("write to", "standard output", kind)
        })
    }

    fn text(&mut self, change: &Change) -> io::Result<()> {
        let path = escape(change.path.as_bytes());
        match (&change.old, &change.new) {
            (Some(old), Some(new)) => {
                let facts: Vec<String> = change.facts.iter().map(|fact| told(*fact, old, new, change)).collect();
                writeln!(self.out, "~ {path}: {}", facts.join(", "))?;
            }
            (None, Some(entry)) => writeln!(self.out, "+ {}", described(&path, entry))?,
            (Some(entry), None) => writeln!(self.out, "- {}", described(&path, entry))?,
            (None, None) => {}
        }
        for (sign, entry) in [("-", &change.old), ("+", &change.new)] {
            for (algorithm, digest) in entry.iter().flat_map(|entry| &entry.digests) {
                writeln!(self.out, "    {sign} {} {digest}", algorithm.name())?;
            }
        }
        match &change.text {
            Some(TextChange::Text(diff)) => self.out.write_all(&diff.for_people()),
            Some(TextChange::Binary) => writeln!(self.out, "Binary files {path} differ"),
            Some(TextChange::TooLarge { size }) => {
                writeln!(self.out, "Files {path} differ; of {size} bytes they are not shown")
            }
            None => Ok(()),
        }
    }

    fn patch(&mut self, change: &Change) -> io::Result<()> {
        let path = escape(change.path.as_bytes());
        match &change.text {
            Some(TextChange::Text(diff)) => self.out.write_all(diff.patch()),
            Some(TextChange::Binary) => writeln!(self.out, "Binary files {path} differ"),
            Some(TextChange::TooLarge { .. }) => writeln!(self.out, "Large files {path} differ"),
            None => Ok(()),
        }
    }
}

/// An added or removed path: mode, owner, size or device, path, target.
fn described(path: &str, entry: &DiffEntry) -> String {
    let metadata = &entry.metadata;
    let letter = metadata.file_type.letter();
    let size = metadata.rdev.map_or(metadata.size.to_string(), |rdev| format!("{}:{}", rdev.major, rdev.minor));
    let arrow = entry.target.as_ref().map(|target| format!(" -> {}", escape(target)));
    let link = entry.hard_link_to.as_ref().map(|first| format!(" = {}", escape(first)));
    let permissions = metadata.permissions;
    let (uid, gid) = (metadata.uid, metadata.gid);
    let more = arrow.or(link).unwrap_or_default();
    format!("{letter}{permissions:04o} {uid}:{gid} {size} {path}{more}")
}

/// One changed fact with both values.
fn told(fact: DiffFact, old: &DiffEntry, new: &DiffEntry, change: &Change) -> String {
    let name = fact.name();
    let (left, right) = (&old.metadata, &new.metadata);
    let time = |time: Timestamp| time.precise().trim_end_matches(" +0000").trim_end_matches(".000000000").to_owned();
    let (from, to) = match fact {
        DiffFact::Type => (left.file_type.name().to_owned(), right.file_type.name().to_owned()),
        DiffFact::Mode => (format!("{:04o}", left.permissions), format!("{:04o}", right.permissions)),
        DiffFact::Uid => (left.uid.to_string(), right.uid.to_string()),
        DiffFact::Gid => (left.gid.to_string(), right.gid.to_string()),
        DiffFact::Size => (left.size.to_string(), right.size.to_string()),
        DiffFact::Mtime => (time(left.mtime), time(right.mtime)),
        DiffFact::Atime => (time(left.atime), time(right.atime)),
        DiffFact::Rdev => {
            let number = |metadata: &guestctl::fs::Metadata| {
                metadata.rdev.map_or("none".to_owned(), |rdev| format!("{}:{}", rdev.major, rdev.minor))
            };
            (number(left), number(right))
        }
        DiffFact::Target => {
            let target = |entry: &DiffEntry| escape(entry.target.as_deref().unwrap_or_default());
            (target(old), target(new))
        }
        DiffFact::HardLinks => {
            let links = |entry: &DiffEntry| match &entry.hard_link_to {
                Some(first) => format!("{} = {}", entry.metadata.nlink, escape(first)),
                None => entry.metadata.nlink.to_string(),
            };
            (links(old), links(new))
        }
        DiffFact::Xattrs => return format!("{name} {}", xattrs(old, new).join(" ")),
        DiffFact::Content => {
            let at = change.first_difference.map(|offset| format!(" from byte {offset}"));
            return format!("{name}{}", at.unwrap_or_default());
        }
    };
    format!("{name} {from} -> {to}")
}

/// The names of attributes that came (+), went (-) or changed (~).
fn xattrs(old: &DiffEntry, new: &DiffEntry) -> Vec<String> {
    let find = |entry: &DiffEntry, name: &[u8]| entry.xattrs.iter().find(|xattr| xattr.name == name).cloned();
    let mut names: Vec<&Vec<u8>> = old.xattrs.iter().chain(&new.xattrs).map(|xattr| &xattr.name).collect();
    names.sort();
    names.dedup();
    let sign = |name: &Vec<u8>| match (find(old, name), find(new, name)) {
        (None, _) => Some('+'),
        (_, None) => Some('-'),
        (old, new) => (old != new).then_some('~'),
    };
    names.into_iter().filter_map(|name| Some(format!("{}{}", sign(name)?, escape(name)))).collect()
}

/// One path that differs, as JSON.
#[derive(Serialize)]
struct Line {
    change: ChangeKind,
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_b64: Option<String>,
    facts: Vec<DiffFact>,
    /// The first byte that differs, where contents of one size do.
    #[serde(skip_serializing_if = "Option::is_none")]
    first_difference: Option<u64>,
    old: Option<Entry>,
    new: Option<Entry>,
    /// What was asked for of the text: `text`, `binary` or `too_large`.
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'static str>,
    /// The unified diff; escaped when it is not UTF-8, and then `diff_b64` has the bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    diff: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    diff_b64: Option<String>,
}

#[derive(Serialize)]
struct Entry {
    #[serde(flatten)]
    record: Record,
    atime_ns: i128,
    /// The first path of the same file.
    hard_link_to: Option<String>,
}

#[derive(Serialize)]
struct Unreadable {
    change: &'static str,
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_b64: Option<String>,
    side: DiffSide,
    offset: Option<u64>,
    error: String,
}

impl Line {
    fn new(change: &Change) -> Self {
        let entry = |entry: &DiffEntry| {
            let path = change.path.as_bytes();
            let mut record = Record::new(path, &entry.metadata, entry.target.as_deref(), &entry.xattrs);
            let digests = entry.digests.iter();
            record
                .digests
                .extend(digests.map(|(algorithm, digest)| (algorithm.name().to_owned(), digest.clone().into())));
            let hard_link_to = entry.hard_link_to.as_ref().map(|first| text(first).0);
            Entry { record, atime_ns: entry.metadata.atime.total_nanoseconds(), hard_link_to }
        };
        let (path, path_b64) = text(change.path.as_bytes());
        let content = change.text.as_ref().map(|text| match text {
            TextChange::Text(_) => "text",
            TextChange::Binary => "binary",
            TextChange::TooLarge { .. } => "too_large",
        });
        let diff = match &change.text {
            Some(TextChange::Text(diff)) => Some(text(diff.patch())),
            _ => None,
        };
        let (diff, diff_b64) = diff.map_or((None, None), |(text, b64)| (Some(text), b64));
        Self {
            change: change.kind,
            path,
            path_b64,
            facts: change.facts.clone(),
            first_difference: change.first_difference,
            old: change.old.as_ref().map(entry),
            new: change.new.as_ref().map(entry),
            content,
            diff,
            diff_b64,
        }
    }
}
