//! Names that other hosts would not take, or would take for one another: Windows and macOS.
//!
//! A guest's tree may go on to a machine that does not tell `Makefile` from `makefile`, has no file `aux.c` and no `:` in
//! names. Such names are counted and listed; they can be refused or changed instead. Changes are `%` and two hexadecimal
//! digits for a byte that is in the way, and `~2`, `~3` … behind a name that another one stands for, so they are readable and
//! the same whenever the same guest is copied; the manifest has both names.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;
use unicode_normalization::UnicodeNormalization;

use super::super::ordered::lock;
use crate::bytes::escape;
use crate::error::{Error, Result};
use crate::limits;

/// What is done about names that another host would not take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ForeignNames {
    /// Take them as they are, and tell of them.
    #[default]
    Report,
    /// Leave them out, with what is below them, as a problem each.
    Refuse,
    /// Change them.
    Rename,
    /// Take them as they are, and do not look.
    Ignore,
}

/// Why another host would not take a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Clash {
    /// Another name in the directory differs in case or in the composition of characters alone.
    Twin,
    /// A device of Windows, whatever its extension: `CON`, `NUL`, `COM1` …
    Reserved,
    /// A dot or a space at the end, which Windows drops.
    TrailingDotOrSpace,
    /// A character that Windows has no place for in names: `< > : " | ? * \` and control characters.
    Character,
    /// Not UTF-8.
    NotUtf8,
}

impl Clash {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Twin, Self::Reserved, Self::TrailingDotOrSpace, Self::Character, Self::NotUtf8];

    /// A sentence's end: "name …".
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Twin => "differs from another in case or composition alone",
            Self::Reserved => "is a device on Windows",
            Self::TrailingDotOrSpace => "ends in a dot or space",
            Self::Character => "has a character that Windows does not take",
            Self::NotUtf8 => "is not UTF-8",
        }
    }
}

/// A name that another host would not take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ForeignName {
    /// The guest path, escaped for display.
    pub path: String,
    /// Why.
    pub clash: Clash,
}

/// The names that another host would not take.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ForeignNamesFound {
    /// The first [`limits::REPORTED_PROBLEMS`] of them.
    pub listed: Vec<ForeignName>,
    /// How many there were in all.
    pub count: u64,
}

/// What becomes of an entry's name.
#[derive(Debug)]
pub(super) enum Fate {
    Taken,
    /// The directory has that name twice, which only a broken one has.
    Second,
    Refused(Clash),
}

/// Looks at names in the order of a walk, and knows the host's names of those that were changed.
#[derive(Debug)]
pub(super) struct Names {
    what: ForeignNames,
    state: Mutex<State>,
    any_renamed: AtomicBool,
    /// By guest path below the start: the host's name.
    renamed: Mutex<HashMap<Vec<u8>, Vec<u8>>>,
}

#[derive(Debug, Default)]
struct State {
    /// The directories that the walk is in, the outermost first.
    levels: Vec<Level>,
    hasher: RandomState,
    found: ForeignNamesFound,
}

#[derive(Debug)]
struct Level {
    directory: Vec<u8>,
    /// Hashes of the names as a host sees them that tells neither case nor composition. A hash with a secret key takes a
    /// fraction of the names' memory.
    seen: HashSet<u64>,
    /// The name before: names come in byte order.
    last: Vec<u8>,
}

impl Names {
    pub(super) fn new(what: ForeignNames) -> Self {
        Self { what, state: Mutex::default(), any_renamed: AtomicBool::new(false), renamed: Mutex::default() }
    }

    /// The next entry of the walk, by its path below the start.
    pub(super) fn see(&self, relative: &[u8]) -> Result<Fate> {
        if relative.is_empty() {
            return Ok(Fate::Taken);
        }
        let (directory, name) = match relative.iter().rposition(|byte| *byte == b'/') {
            Some(at) => (&relative[..at], &relative[at + 1..]),
            None => (&b""[..], relative),
        };
        let mut state = lock(&self.state);
        let State { levels, hasher, found } = &mut *state;
        while let Some(level) = levels.last() {
            // The walk comes back to those above.
            if level.directory == directory || is_above(&level.directory, directory) {
                break;
            }
            levels.pop();
        }
        if levels.last().is_none_or(|level| level.directory != directory) {
            levels.push(Level { directory: directory.to_vec(), seen: HashSet::new(), last: Vec::new() });
        }
        let Some(level) = levels.last_mut() else { return Ok(Fate::Taken) };
        if level.last == name {
            return Ok(Fate::Second);
        }
        level.last = name.to_vec();
        if self.what == ForeignNames::Ignore {
            return Ok(Fate::Taken);
        }
        let is_new = level.seen.insert(hasher.hash_one(&*folded(name)));
        let clash = if is_new { foreign(name) } else { Some(Clash::Twin) };
        let Some(clash) = clash else { return Ok(Fate::Taken) };
        found.count += 1;
        if found.listed.len() < limits::REPORTED_PROBLEMS {
            found.listed.push(ForeignName { path: escape(relative), clash });
        }
        match self.what {
            ForeignNames::Refuse => return Ok(Fate::Refused(clash)),
            ForeignNames::Report | ForeignNames::Ignore => return Ok(Fate::Taken),
            ForeignNames::Rename => {}
        }
        let plain = changed(name);
        let mut candidate = plain.clone();
        for number in 2u64.. {
            // The name itself was put in above.
            if (is_new && candidate == name) || level.seen.insert(hasher.hash_one(&*folded(&candidate))) {
                break;
            }
            candidate = [&plain[..], format!("~{number}").as_bytes()].concat();
        }
        let mut renamed = lock(&self.renamed);
        limits::check("names that are changed", renamed.len() as u64 + 1, limits::RENAMED_NAMES)?;
        renamed.insert(relative.to_vec(), candidate);
        self.any_renamed.store(true, Ordering::Release);
        Ok(Fate::Taken)
    }

    /// The host's path for a guest path below the start that was seen.
    pub(super) fn host_path<'a>(&self, relative: &'a [u8]) -> Cow<'a, [u8]> {
        if !self.any_renamed.load(Ordering::Acquire) {
            return Cow::Borrowed(relative);
        }
        let renamed = lock(&self.renamed);
        let mut path = Vec::with_capacity(relative.len() + 8);
        let mut end = 0;
        for name in relative.split(|byte| *byte == b'/') {
            end += name.len();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(renamed.get(&relative[..end]).map_or(name, Vec::as_slice));
            end += 1;
        }
        Cow::Owned(path)
    }

    pub(super) fn found(self) -> ForeignNamesFound {
        self.state.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner).found
    }
}

/// The problem that a refused name is.
pub(super) fn refused(path: &[u8], clash: Clash) -> Error {
    Error::denied(format!("the name {}", clash.as_str())).at_path(path)
}

fn is_above(above: &[u8], directory: &[u8]) -> bool {
    above.is_empty() || directory.strip_prefix(above).is_some_and(|rest| rest.first() == Some(&b'/'))
}

/// A name as a host sees it that tells neither case nor composition.
fn folded(name: &[u8]) -> Cow<'_, [u8]> {
    match std::str::from_utf8(name) {
        Ok(text) if !text.is_ascii() => {
            let folded = caseless::default_case_fold_str(&text.nfd().collect::<String>());
            Cow::Owned(folded.nfd().collect::<String>().into_bytes())
        }
        _ if name.iter().any(u8::is_ascii_uppercase) => Cow::Owned(name.to_ascii_lowercase()),
        _ => Cow::Borrowed(name),
    }
}

/// What another host would say of a name by itself.
fn foreign(name: &[u8]) -> Option<Clash> {
    if name.iter().any(|byte| in_the_way(*byte)) {
        return Some(Clash::Character);
    }
    if matches!(name.last(), Some(b'.' | b' ')) {
        return Some(Clash::TrailingDotOrSpace);
    }
    if is_reserved(name) {
        return Some(Clash::Reserved);
    }
    std::str::from_utf8(name).is_err().then_some(Clash::NotUtf8)
}

fn in_the_way(byte: u8) -> bool {
    byte < 0x20 || matches!(byte, b'<' | b'>' | b':' | b'"' | b'|' | b'?' | b'*' | b'\\')
}

/// Whether a name is one of Windows's devices: what is behind the first dot, and spaces before it, do not count.
fn is_reserved(name: &[u8]) -> bool {
    let stem = name.split(|byte| *byte == b'.').next().unwrap_or_default().trim_ascii_end();
    let stem = stem.to_ascii_uppercase();
    let numbered = |rest: &[u8]| matches!(rest, [b'1'..=b'9'] | [0xc2, 0xb9 | 0xb2 | 0xb3]);
    match &stem[..] {
        b"CON" | b"PRN" | b"AUX" | b"NUL" | b"CONIN$" | b"CONOUT$" => true,
        [b'C', b'O', b'M', rest @ ..] | [b'L', b'P', b'T', rest @ ..] => numbered(rest),
        _ => false,
    }
}

/// A name in which nothing is in the way.
fn changed(name: &[u8]) -> Vec<u8> {
    let is_text = std::str::from_utf8(name).is_ok();
    let mut changed = Vec::with_capacity(name.len() + 8);
    for (at, byte) in name.iter().enumerate() {
        let is_last = at + 1 == name.len();
        let first_of_reserved = at == 0 && is_reserved(name);
        if in_the_way(*byte)
            || (is_last && matches!(byte, b'.' | b' '))
            || first_of_reserved
            || (!is_text && !byte.is_ascii())
        {
            changed.extend_from_slice(format!("%{byte:02X}").as_bytes());
        } else {
            changed.push(*byte);
        }
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_other_hosts_do_not_take() {
        for (name, clash) in [
            ("a", None),
            ("..a", None),
            ("com10", None),
            ("console", None),
            ("nul", Some(Clash::Reserved)),
            ("NUL.tar.gz", Some(Clash::Reserved)),
            ("Com1 .x", Some(Clash::Reserved)),
            ("lpt\u{b9}", Some(Clash::Reserved)),
            ("a.", Some(Clash::TrailingDotOrSpace)),
            ("a ", Some(Clash::TrailingDotOrSpace)),
            ("perl::Foo", Some(Clash::Character)),
            ("a\u{1}", Some(Clash::Character)),
            ("é", None),
        ] {
            assert_eq!(foreign(name.as_bytes()), clash, "{name}");
        }
        assert_eq!(foreign(b"\xff"), Some(Clash::NotUtf8));
    }

    fn fates(what: ForeignNames, paths: &[&str]) -> (Vec<String>, ForeignNamesFound) {
        let names = Names::new(what);
        let mut fates = Vec::new();
        for path in paths {
            fates.push(match names.see(path.as_bytes()).unwrap() {
                Fate::Taken => String::from_utf8_lossy(&names.host_path(path.as_bytes())).into_owned(),
                Fate::Second => "second".to_owned(),
                Fate::Refused(clash) => format!("{clash:?}"),
            });
        }
        (fates, names.found())
    }

    #[test]
    fn twins_are_those_of_one_directory() {
        let paths = ["", "A", "A/x", "B", "B/X", "B/d", "B/d/x", "B/x", "a", "a/x", "e\u{301}", "\u{c9}"];
        let (taken, found) = fates(ForeignNames::Report, &paths);
        assert_eq!(taken, paths);
        let listed: Vec<_> = found.listed.iter().map(|found| (&*found.path, found.clash)).collect();
        assert_eq!(listed, [("B/x", Clash::Twin), ("a", Clash::Twin), ("\u{c9}", Clash::Twin)]);
        assert_eq!(fates(ForeignNames::Refuse, &["A", "a"]).0, ["A", "Twin"]);
        assert_eq!(fates(ForeignNames::Ignore, &["A", "a", "a"]).0, ["A", "a", "second"]);
    }

    #[test]
    fn changed_names_are_new_ones_and_are_kept_below() {
        let paths = ["A", "A/x", "a", "a/n:m", "a/n:m/y", "a/nul.c", "a~2", "b%3A", "b:", "b: ", "c"];
        let (taken, found) = fates(ForeignNames::Rename, &paths);
        let expected =
            ["A", "A/x", "a~2", "a~2/n%3Am", "a~2/n%3Am/y", "a~2/%6Eul.c", "a~2~2", "b%3A", "b%3A~2", "b%3A%20", "c"];
        assert_eq!(taken, expected);
        assert_eq!(found.count, 6);
        let bytes = Names::new(ForeignNames::Rename);
        bytes.see(b"\xffa").unwrap();
        assert_eq!(&*bytes.host_path(b"\xffa"), b"%FFa");
    }
}
