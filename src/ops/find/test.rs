//! The tests of find(1), on what a walk shows of an entry.

use std::ops::ControlFlow;

use regex::bytes::Regex;

use super::mode::ModeTest;
use crate::error::Result;
use crate::fs::{FileType, Metadata, Timestamp};
use crate::ops::glob::matches;
use crate::ops::walk::Entry;

const DAY: i64 = 86_400;

/// A number held against another: `+n`, `-n` and `n` of find(1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compare {
    /// `n`
    Exactly(u64),
    /// `+n`
    More(u64),
    /// `-n`
    Less(u64),
}

impl Compare {
    fn holds(self, value: i128) -> bool {
        match self {
            Self::Exactly(wanted) => value == i128::from(wanted),
            Self::More(bound) => value > i128::from(bound),
            Self::Less(bound) => value < i128::from(bound),
        }
    }
}

/// One of an inode's times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeField {
    /// Last access.
    Access,
    /// Last change of the content.
    Modify,
    /// Last change of the inode.
    Change,
}

impl TimeField {
    fn of(self, metadata: &Metadata) -> Timestamp {
        match self {
            Self::Access => metadata.atime,
            Self::Modify => metadata.mtime,
            Self::Change => metadata.ctime,
        }
    }
}

/// One test.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum FindTest {
    /// The last component matches a glob(7) pattern, in which `*` matches a leading dot too.
    Name {
        /// The pattern.
        pattern: Vec<u8>,
        /// Whether ASCII letters match in either case.
        ignore_case: bool,
    },
    /// The absolute guest path matches a pattern, in which `*` matches `/` too.
    Path {
        /// The pattern.
        pattern: Vec<u8>,
        /// Whether ASCII letters match in either case.
        ignore_case: bool,
    },
    /// The absolute guest path matches; the command line's patterns are anchored, so that all of it must.
    Regex(Regex),
    /// The type is one of these.
    Type(Vec<FileType>),
    /// The size in units, a begun unit counted as a whole one.
    Size {
        /// Bytes of a unit, at least 1.
        unit: u64,
        /// How many.
        units: Compare,
    },
    /// The age in whole days, what is left over dropped.
    Days {
        /// Which time.
        field: TimeField,
        /// How many.
        days: Compare,
        /// What the age is counted from.
        now: Timestamp,
    },
    /// A time is later than this.
    Newer {
        /// Which time.
        field: TimeField,
        /// Than what.
        than: Timestamp,
    },
    /// The owner.
    Owner(u32),
    /// The group.
    Group(u32),
    /// The permission bits.
    Mode(ModeTest),
    /// There is an extended attribute whose name matches a pattern, and whose value is this, where one is given.
    Xattr {
        /// The name's pattern.
        name: Vec<u8>,
        /// The value. Labels are kept with a NUL byte behind them, which need not be given.
        value: Option<Vec<u8>>,
    },
    /// The number of hard links.
    Links(Compare),
    /// A regular file without bytes, or a directory without entries.
    Empty,
    /// The test in it fails.
    Not(Box<FindTest>),
}

/// Whether the entry passes all of them.
pub(super) fn all(tests: &[FindTest], entry: &Entry<'_>) -> Result<bool> {
    for test in tests {
        if !test.passes(entry)? {
            return Ok(false);
        }
    }
    Ok(true)
}

impl FindTest {
    /// The opposite test.
    #[must_use]
    pub fn negated(self) -> Self {
        Self::Not(Box::new(self))
    }

    /// Whether an entry passes. Only tests of attributes and of empty directories read more than the entry shows.
    pub fn passes(&self, entry: &Entry<'_>) -> Result<bool> {
        let metadata = entry.metadata;
        Ok(match self {
            Self::Name { pattern, ignore_case } => {
                glob(pattern, entry.location.path.file_name().unwrap_or(b"/"), *ignore_case)
            }
            Self::Path { pattern, ignore_case } => glob(pattern, entry.location.path.as_bytes(), *ignore_case),
            Self::Regex(regex) => regex.is_match(entry.location.path.as_bytes()),
            Self::Type(types) => types.contains(&metadata.file_type),
            Self::Size { unit, units } => units.holds(i128::from(metadata.size.div_ceil((*unit).max(1)))),
            Self::Days { field, days, now } => {
                let age = now.total_nanoseconds() - field.of(metadata).total_nanoseconds();
                days.holds(age.div_euclid(i128::from(DAY) * 1_000_000_000))
            }
            Self::Newer { field, than } => field.of(metadata) > *than,
            Self::Owner(uid) => metadata.uid == *uid,
            Self::Group(gid) => metadata.gid == *gid,
            Self::Mode(mode) => mode.holds(metadata.permissions),
            Self::Xattr { name, value } => entry.xattrs()?.iter().any(|xattr| {
                let bare = xattr.value.strip_suffix(b"\0").unwrap_or(&xattr.value);
                matches(name, &xattr.name)
                    && value.as_ref().is_none_or(|value| *value == xattr.value || value.as_slice() == bare)
            }),
            Self::Links(links) => links.holds(i128::from(metadata.nlink)),
            Self::Empty => is_empty(entry)?,
            Self::Not(test) => !test.passes(entry)?,
        })
    }
}

fn glob(pattern: &[u8], text: &[u8], ignore_case: bool) -> bool {
    if ignore_case {
        matches(&pattern.to_ascii_lowercase(), &text.to_ascii_lowercase())
    } else {
        matches(pattern, text)
    }
}

fn is_empty(entry: &Entry<'_>) -> Result<bool> {
    match entry.metadata.file_type {
        FileType::File => Ok(entry.metadata.size == 0),
        FileType::Dir => {
            let mut empty = true;
            let read = entry.location.fs.read_dir(entry.location.inode, &mut |_| {
                empty = false;
                Ok(ControlFlow::Break(()))
            });
            read.map_err(|error| error.at_path(entry.location.path.as_bytes()))?;
            Ok(empty)
        }
        _ => Ok(false),
    }
}
