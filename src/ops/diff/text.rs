//! How texts differ, in the unified format that patch(1) applies.
//!
//! A file without a NUL byte is a text. The hunks hold its bytes as they are, whatever they are; shown to a person they are
//! escaped as a whole when a byte of them is not UTF-8 or could steer a terminal ([`TextDiff::for_people`]), and then say
//! so: an escaped hunk is not a patch.

use std::fmt::Write as _;

use similar::{DiffOp, DiffTag, group_diff_ops};

use super::{DiffFact, DiffSide, Work, content, lines};
use crate::block::read_vec;
use crate::bytes::{escape, is_steering, to_usize};
use crate::fs::{FileType, GuestPath, Metadata};
use crate::limits;

/// Which differences of texts to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TextOptions {
    /// Equal lines around each difference.
    pub context: usize,
    /// Bytes of the largest text that is shown; at most [`limits::DIFF_TEXT_BYTES`].
    pub limit: u64,
    /// Added and removed texts are shown whole.
    pub whole_files: bool,
}

impl Default for TextOptions {
    fn default() -> Self {
        Self { context: 3, limit: limits::DIFF_TEXT_BYTES, whole_files: false }
    }
}

/// How a content differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TextChange {
    /// By these lines.
    Text(TextDiff),
    /// It is not text on both sides.
    Binary,
    /// A side is larger than the limit.
    TooLarge {
        /// The larger side's bytes.
        size: u64,
    },
}

/// A unified diff of one file, with the `---` and `+++` lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextDiff {
    bytes: Vec<u8>,
    /// Bytes of the lines that name the file.
    head: usize,
}

impl TextDiff {
    /// What patch(1) takes with `-p1`: the texts' own bytes.
    #[must_use]
    pub fn patch(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether the bytes are UTF-8 and cannot steer a terminal.
    #[must_use]
    pub fn is_inert(&self) -> bool {
        let steers = |c: char| !matches!(c, '\n' | '\t') && (c.is_ascii_control() || is_steering(c));
        std::str::from_utf8(&self.bytes).is_ok_and(|text| !text.contains(steers))
    }

    /// The patch when it is inert; else its hunks with every line escaped, under a line that says so.
    #[must_use]
    pub fn for_people(&self) -> Vec<u8> {
        if self.is_inert() {
            return self.bytes.clone();
        }
        let mut text = String::from("Shown escaped, which is not a patch:\n");
        for line in self.bytes.get(self.head..).unwrap_or_default().split_inclusive(|byte| *byte == b'\n') {
            let line = line.strip_suffix(b"\n").unwrap_or(line);
            // Only the remark on a missing newline begins with a backslash.
            let (sign, rest) = line.split_at(line.len().min(1));
            let _ = writeln!(text, "{}{}", String::from_utf8_lossy(sign), escape(rest));
        }
        text.into_bytes()
    }
}

/// The text of one change, when there is any: of a regular file whose content differs, and of one that only one side has
/// when whole files are asked for.
pub(super) fn of(work: &mut Work, options: &TextOptions) -> Option<TextChange> {
    let is_file = |metadata: &Metadata| metadata.file_type == FileType::File;
    let metadata = work.entries.map(|entry| Some(entry.metadata.clone()));
    let files = metadata.map(|metadata| is_file(metadata).then(|| metadata.clone()));
    let both = files.old.is_some() && files.new.is_some();
    let whole = !both && (files.old.is_some() || files.new.is_some()) && options.whole_files;
    // A file that became something else was removed, and one was added when something else became it.
    let retyped = work.facts.first() == Some(&DiffFact::Type);
    if !(both && work.facts.contains(&DiffFact::Content)) && !(whole && (work.facts.is_empty() || retyped)) {
        return None;
    }
    let size = files.iter().map(|(_, metadata)| metadata.size).max().unwrap_or_default();
    if size > options.limit.min(limits::DIFF_TEXT_BYTES) {
        return Some(TextChange::TooLarge { size });
    }
    let mut texts = [const { Vec::new() }; 2];
    for (side, metadata) in files.iter() {
        let device = work.open(side)?;
        match read_vec(&*device, 0, to_usize(metadata.size)) {
            Ok(bytes) => texts[side.index()] = bytes,
            Err(error) => {
                let (offset, error) = content::first_unreadable(&*device, 0..device.size(), error);
                work.unreadable(side, offset, error);
                return None;
            }
        }
    }
    let [old, new] = texts;
    if old.contains(&0) || new.contains(&0) {
        return Some(TextChange::Binary);
    }
    let name = |side: DiffSide| files.get(side).map_or_else(absent, |metadata| named(side, &work.path, metadata));
    Some(TextChange::Text(unified(&old, &new, [name(DiffSide::Old), name(DiffSide::New)], options.context)))
}

fn absent() -> String {
    "/dev/null\t1970-01-01 00:00:00.000000000 +0000".to_owned()
}

/// `a/etc/hostname`, a tab and the time; a name that would end early or steer is quoted as git and patch do.
fn named(side: DiffSide, path: &GuestPath, metadata: &Metadata) -> String {
    let prefix = ["a", "b"][side.index()];
    let bytes = [prefix.as_bytes(), path.as_bytes()].concat();
    let unsafe_character = |c: char| c.is_ascii_control() || matches!(c, '"' | '\\') || is_steering(c);
    let name = match std::str::from_utf8(&bytes) {
        Ok(text) if !text.contains(unsafe_character) => text.to_owned(),
        _ => quoted(&bytes),
    };
    format!("{name}\t{}", metadata.mtime.precise())
}

fn quoted(name: &[u8]) -> String {
    let mut text = String::from("\"");
    for &byte in name {
        match byte {
            b'"' | b'\\' => text.extend(['\\', char::from(byte)]),
            b'\n' => text.push_str("\\n"),
            b'\t' => text.push_str("\\t"),
            b' '..=b'~' => text.push(char::from(byte)),
            _ => {
                let _ = write!(text, "\\{byte:03o}");
            }
        }
    }
    text.push('"');
    text
}

/// The unified diff of two texts under their names.
fn unified(old: &[u8], new: &[u8], names: [String; 2], context: usize) -> TextDiff {
    let split = |text| <[u8]>::split_inclusive(text, |byte: &u8| *byte == b'\n').collect::<Vec<_>>();
    let (old, new) = (split(old), split(new));
    let mut bytes = format!("--- {}\n+++ {}\n", names[0], names[1]).into_bytes();
    let head = bytes.len();
    for hunk in group_diff_ops(lines::operations(&old, &new), context) {
        write_hunk(&mut bytes, &hunk, &old, &new);
    }
    if bytes.len() == head {
        bytes.clear();
        return TextDiff { bytes, head: 0 };
    }
    TextDiff { bytes, head }
}

fn write_hunk(bytes: &mut Vec<u8>, hunk: &[DiffOp], old: &[&[u8]], new: &[&[u8]]) {
    let (Some(first), Some(last)) = (hunk.first(), hunk.last()) else { return };
    if hunk.iter().all(|operation| operation.tag() == DiffTag::Equal) {
        return;
    }
    let range = |from: std::ops::Range<usize>, to: std::ops::Range<usize>| match to.end - from.start {
        0 => format!("{},0", from.start),
        1 => format!("{}", from.start + 1),
        len => format!("{},{len}", from.start + 1),
    };
    let old_range = range(first.old_range(), last.old_range());
    let new_range = range(first.new_range(), last.new_range());
    bytes.extend(format!("@@ -{old_range} +{new_range} @@\n").into_bytes());
    for operation in hunk {
        let (tag, from, to) = operation.as_tag_tuple();
        let parts: &[(u8, &[&[u8]])] = match tag {
            DiffTag::Equal => &[(b' ', &old[from])],
            _ => &[(b'-', &old[from]), (b'+', &new[to])],
        };
        for (sign, lines) in parts {
            for line in *lines {
                bytes.push(*sign);
                bytes.extend_from_slice(line);
                if !line.ends_with(b"\n") {
                    bytes.extend_from_slice(b"\n\\ No newline at end of file\n");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(old: &str, new: &str, context: usize) -> String {
        let diff = unified(old.as_bytes(), new.as_bytes(), ["a".to_owned(), "b".to_owned()], context);
        String::from_utf8(diff.for_people()).unwrap()
    }

    #[test]
    fn hunks_are_those_of_gnu_diff() {
        assert_eq!(shown("x\n", "x\n", 3), "");
        assert_eq!(shown("", "a\nb\n", 3), "--- a\n+++ b\n@@ -0,0 +1,2 @@\n+a\n+b\n");
        assert_eq!(shown("a\n", "a", 3), "--- a\n+++ b\n@@ -1 +1 @@\n-a\n+a\n\\ No newline at end of file\n");
        assert_eq!(shown("1\n2\n3\n", "1\n3\n", 0), "--- a\n+++ b\n@@ -2 +1,0 @@\n-2\n");
        assert_eq!(shown("1\n2\n3\n", "1\n3\n", 1), "--- a\n+++ b\n@@ -1,3 +1,2 @@\n 1\n-2\n 3\n");
    }

    #[test]
    fn what_could_steer_is_escaped_as_a_whole_and_says_so() {
        let text = shown("a\\b\n", "a\x1b[31m\\b", 3);
        let expected = "Shown escaped, which is not a patch:\n@@ -1 +1 @@\n-a\\\\b\n+a\\x1b[31m\\\\b\n\
                        \\ No newline at end of file\n";
        assert_eq!(text, expected);
        let diff = unified(b"\xe9\n", b"\xc3\xa9\n", ["a".to_owned(), "b".to_owned()], 3);
        assert_eq!(diff.patch(), b"--- a\n+++ b\n@@ -1 +1 @@\n-\xe9\n+\xc3\xa9\n");
        assert!(diff.for_people().ends_with("-\\xe9\n+é\n".as_bytes()));
    }

    #[test]
    fn names_are_quoted_when_they_must_be() {
        assert_eq!(quoted(b"a/x\ny\"\xff"), "\"a/x\\ny\\\"\\377\"");
    }
}
