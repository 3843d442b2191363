//! Tests as the command line writes them: a kind, which is find(1)'s word, and a value.

use regex::bytes::Regex;

use super::mode::ModeTest;
use super::test::{Compare, FindTest, TimeField};
use crate::bytes::escape;
use crate::error::{Error, Result};
use crate::fs::{FileType, Follow, GuestPath, MountTable, Timestamp};
use crate::ops::Owners;

/// What values of tests refer to.
#[derive(Debug)]
pub struct Context<'a> {
    /// The guest, for names of owners and for files that others are newer than.
    pub mounts: &'a MountTable,
    /// What ages are counted from.
    pub now: Timestamp,
}

impl FindTest {
    /// The test that find(1) calls `kind`, a `-` before it left out.
    pub fn parse(kind: &str, value: &str, context: &Context<'_>) -> Result<Self> {
        let pattern = || value.as_bytes().to_vec();
        let newer = |field| modified(value, context).map(|than| Self::Newer { field, than });
        Ok(match kind {
            "name" => Self::Name { pattern: pattern(), ignore_case: false },
            "iname" => Self::Name { pattern: pattern(), ignore_case: true },
            "path" => Self::Path { pattern: pattern(), ignore_case: false },
            "ipath" => Self::Path { pattern: pattern(), ignore_case: true },
            "regex" => Self::Regex(whole(value, false)?),
            "iregex" => Self::Regex(whole(value, true)?),
            "type" => Self::Type(value.split(',').map(file_type).collect::<Result<_>>()?),
            "size" => {
                let (count, unit) = size(value)?;
                Self::Size { unit, units: compare(count, value)? }
            }
            "mtime" => Self::days(TimeField::Modify, value, context)?,
            "atime" => Self::days(TimeField::Access, value, context)?,
            "ctime" => Self::days(TimeField::Change, value, context)?,
            "newer" => newer(TimeField::Modify)?,
            "anewer" => newer(TimeField::Access)?,
            "cnewer" => newer(TimeField::Change)?,
            "newermt" => Self::Newer { field: TimeField::Modify, than: timestamp(value)? },
            "user" => Self::Owner(owner(value, "user", |name| Owners::read(context.mounts).uid(name))?),
            "group" => Self::Group(owner(value, "group", |name| Owners::read(context.mounts).gid(name))?),
            "perm" => Self::Mode(ModeTest::parse(value)?),
            "xattr" => {
                let (name, wanted) = value.split_once('=').map_or((value, None), |(name, value)| (name, Some(value)));
                Self::Xattr { name: name.as_bytes().to_vec(), value: wanted.map(|value| value.as_bytes().to_vec()) }
            }
            "links" => Self::Links(compare(value, value)?),
            "empty" => Self::Empty,
            _ => return Err(Error::invalid(format!("'{}' is no test", escape(kind.as_bytes())))),
        })
    }

    fn days(field: TimeField, value: &str, context: &Context<'_>) -> Result<Self> {
        Ok(Self::Days { field, days: compare(value, value)?, now: context.now })
    }
}

fn wrong(value: &str, what: &str, hint: &str) -> Error {
    Error::invalid(format!("'{}' is no {what}", escape(value.as_bytes()))).with_hint(hint)
}

/// `+n`, `-n`, `n`; `value` is what a complaint shows.
fn compare(count: &str, value: &str) -> Result<Compare> {
    let (make, digits): (fn(u64) -> Compare, _) = match count.as_bytes().first() {
        Some(b'+') => (Compare::More, &count[1..]),
        Some(b'-') => (Compare::Less, &count[1..]),
        _ => (Compare::Exactly, count),
    };
    let number = digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok()).flatten();
    number.map(make).ok_or_else(|| wrong(value, "number", "n, +n or -n: exactly, more, less"))
}

/// The count and the bytes of its unit.
fn size(value: &str) -> Result<(&str, u64)> {
    let unit = match value.as_bytes().last() {
        Some(b'c') => 1,
        Some(b'w') => 2,
        Some(b'b') => 512,
        Some(b'k') => 1 << 10,
        Some(b'M') => 1 << 20,
        Some(b'G') => 1 << 30,
        Some(b'T') => 1 << 40,
        Some(byte) if byte.is_ascii_digit() => return Ok((value, 512)),
        _ => {
            return Err(wrong(value, "size", "a number and c, w, b, k, M, G or T: bytes, words, blocks of 512, KiB …"));
        }
    };
    Ok((&value[..value.len() - 1], unit))
}

fn file_type(word: &str) -> Result<FileType> {
    Ok(match word {
        "f" | "file" => FileType::File,
        "d" | "dir" => FileType::Dir,
        "l" | "symlink" => FileType::Symlink,
        "c" | "char" => FileType::Char,
        "b" | "block" => FileType::Block,
        "p" | "fifo" => FileType::Fifo,
        "s" | "socket" => FileType::Socket,
        _ => return Err(wrong(word, "type", "f, d, l, c, b, p, s; several are joined with commas")),
    })
}

/// A name in the guest, else a number.
fn owner(value: &str, what: &str, by_name: impl Fn(&str) -> Option<u32>) -> Result<u32> {
    by_name(value).or_else(|| value.parse().ok()).ok_or_else(|| {
        Error::invalid(format!("the guest has no {what} '{}'", escape(value.as_bytes())))
            .with_hint("a name or a number")
    })
}

/// A pattern that must match all of a path.
fn whole(pattern: &str, ignore_case: bool) -> Result<Regex> {
    let mut builder = regex::bytes::RegexBuilder::new(&format!("^(?:{pattern})$"));
    let regex = builder.case_insensitive(ignore_case).dot_matches_new_line(true).build();
    regex.map_err(|error| Error::invalid(format!("the pattern '{}': {error}", escape(pattern.as_bytes()))))
}

/// When the guest file at `path` was changed.
fn modified(path: &str, context: &Context<'_>) -> Result<Timestamp> {
    Ok(context.mounts.resolve(&GuestPath::parse(path)?, Follow::Links)?.metadata()?.mtime)
}

/// `@seconds[.fraction]`, or `YYYY-MM-DD[ HH:MM[:SS[.fraction]]]` in UTC, a `T` for the blank and a `Z` behind it too.
pub fn timestamp(text: &str) -> Result<Timestamp> {
    parse_timestamp(text).ok_or_else(|| wrong(text, "time", "@SECONDS or YYYY-MM-DD[ HH:MM[:SS]], in UTC"))
}

fn parse_timestamp(text: &str) -> Option<Timestamp> {
    let digits =
        |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<i64>().ok()).flatten();
    if let Some(seconds) = text.strip_prefix('@') {
        let (seconds, fraction) = seconds.split_once('.').unwrap_or((seconds, ""));
        return Some(Timestamp { seconds: seconds.parse().ok()?, nanoseconds: nanoseconds(fraction)? });
    }
    let text = text.strip_suffix('Z').unwrap_or(text);
    let (date, time) = text.split_once([' ', 'T']).unwrap_or((text, "00:00"));
    let mut date = date.split('-').map(digits);
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let (time, fraction) = time.split_once('.').unwrap_or((time, ""));
    let mut time = time.split(':').map(digits);
    let (hour, minute, second) = (time.next()??, time.next()??, time.next().unwrap_or(Some(0))?);
    let is_sound = (1..=12).contains(&month) && (1..=31).contains(&day) && hour < 24 && minute < 60 && second < 61;
    if !is_sound || year > 9_999 || date.next().is_some() || time.next().is_some() {
        return None;
    }
    // Years are taken to begin in March, so that the leap day is the last; 400 of them are 146,097 days.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + (month * 153 + 2) / 5;
    let seconds = (days + day - 1 - 719_468) * 86_400 + hour * 3_600 + minute * 60 + second;
    Some(Timestamp { seconds, nanoseconds: nanoseconds(fraction)? })
}

fn nanoseconds(fraction: &str) -> Option<u32> {
    if fraction.len() > 9 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    format!("{fraction:0<9}").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        for (text, seconds, nanoseconds) in [
            ("@0", 0, 0),
            ("@-5", -5, 0),
            ("@12.5", 12, 500_000_000),
            ("1970-01-01", 0, 0),
            ("2000-02-29 23:59", 951_868_740, 0),
            ("2000-02-29T23:59:59.25Z", 951_868_799, 250_000_000),
            ("2100-01-01", 4_102_444_800, 0),
            ("1901-12-13 20:45:52", -2_147_483_648, 0),
        ] {
            assert_eq!(timestamp(text).unwrap(), Timestamp { seconds, nanoseconds }, "{text}");
        }
        for bad in ["", "now", "2000-13-01", "2000-01-00", "2000-01-01 24:00", "2000-01", "@x", "@1.0123456789"] {
            assert_eq!(timestamp(bad).unwrap_err().exit_code(), 2, "{bad}");
        }
    }

    #[test]
    fn counts_and_sizes_are_read() {
        assert_eq!(compare("+3", "").unwrap(), Compare::More(3));
        assert_eq!(compare("-0", "").unwrap(), Compare::Less(0));
        assert_eq!(compare("7", "").unwrap(), Compare::Exactly(7));
        for bad in ["", "+", "--1", "1x", "+ 1", "99999999999999999999"] {
            assert!(compare(bad, bad).is_err(), "{bad}");
        }
        assert_eq!(size("+5k").unwrap(), ("+5", 1024));
        assert_eq!(size("12").unwrap(), ("12", 512));
        assert!(size("").is_err() && size("5q").is_err());
    }
}
