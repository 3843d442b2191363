//! How inspection reads one guest: what is broken becomes a note, only the host's own trouble is an error.
//!
//! An [`Io`](crate::ErrorKind) error (the image cannot be read) and a cancelled run end the inspection. Everything else
//! that goes wrong with one guest file (a corrupt inode, an oversized file) is remembered as a note and the file counts as
//! missing.
//!
//! A path below `/etc` is looked for in the guest's other configuration trees too, where the guest has no `/etc` of its
//! own yet: `/usr/etc` (ostree, bootc, SUSE) and the system profile (NixOS before its first boot).

use std::cell::RefCell;
use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::Guest;
use super::budget::Budget;
use crate::error::{ErrorKind, Result};
use crate::fs::{FileType, MountTable};
use crate::limits;

/// A value and the guest file that says so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sourced<T> {
    /// The value.
    pub value: T,
    /// The guest path it was read from.
    pub source: String,
}

impl<T> Sourced<T> {
    pub(super) fn new(value: T, source: impl Into<String>) -> Self {
        Self { value, source: source.into() }
    }

    /// The same source with what `change` makes of the value; `None` when it makes nothing.
    pub(super) fn filter_map<U>(self, change: impl FnOnce(T) -> Option<U>) -> Option<Sourced<U>> {
        let source = self.source;
        change(self.value).map(|value| Sourced { value, source })
    }
}

/// What could not be read, in sentences for the user, and what may still be read.
#[derive(Debug)]
pub(super) struct Notes<'b> {
    notes: RefCell<Vec<String>>,
    budget: &'b Budget,
}

impl<'b> Notes<'b> {
    pub(super) fn new(budget: &'b Budget) -> Self {
        Self { notes: RefCell::default(), budget }
    }

    /// `mounts` as a guest that is read at the inspection's expense.
    pub(super) fn guest<'a>(&self, mounts: &'a MountTable) -> Guest<'a>
    where
        'b: 'a,
    {
        Guest::within(mounts, self.budget)
    }

    pub(super) fn add(&self, note: impl Into<String>) {
        let mut notes = self.notes.borrow_mut();
        let note = note.into();
        match notes.len().cmp(&limits::INSPECT_NOTES) {
            std::cmp::Ordering::Less if !notes.contains(&note) => notes.push(note),
            std::cmp::Ordering::Equal => notes.push("more notes were left out".to_owned()),
            _ => {}
        }
    }

    /// The result's value, or a note on why there is none; see the module's head for what stays an error.
    pub(super) fn tolerate<T>(&self, result: Result<T>) -> Result<Option<T>> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(error) if matches!(error.kind(), ErrorKind::Io { .. } | ErrorKind::Cancelled) => Err(error),
            Err(error) => {
                self.add(error.to_string());
                Ok(None)
            }
        }
    }

    pub(super) fn into_inner(self) -> Vec<String> {
        self.notes.into_inner()
    }
}

/// Where configuration lies when `/etc` does not have it.
const FALLBACKS: [&str; 2] = ["/usr", super::NIXOS_PROFILE];

/// One guest as inspection reads it; see the [module head](self).
#[derive(Debug)]
pub(super) struct Reader<'a> {
    guest: Guest<'a>,
    notes: &'a Notes<'a>,
    /// The names in `/etc`: most files that are asked for are not there, and this answers for all of them at once.
    etc: HashSet<String>,
    fallbacks: Vec<&'static str>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(guest: Guest<'a>, notes: &'a Notes) -> Result<Self> {
        let mut fallbacks = Vec::new();
        for prefix in FALLBACKS {
            let is_dir = notes.tolerate(guest.is_dir(&format!("{prefix}/etc")))?;
            fallbacks.extend(is_dir.unwrap_or(false).then_some(prefix));
        }
        let etc = notes.tolerate(guest.list("/etc"))?.unwrap_or_default().into_iter().collect();
        Ok(Self { guest, notes, etc, fallbacks })
    }

    pub(super) fn guest(&self) -> Guest<'a> {
        self.guest
    }

    pub(super) fn notes(&self) -> &'a Notes<'a> {
        self.notes
    }

    /// Where the guest keeps `path`; `None` when `/etc` cannot have it.
    fn place(&self, path: &str) -> Result<Option<String>> {
        let Some(below) = path.strip_prefix("/etc/") else { return Ok(Some(path.to_owned())) };
        let first = below.split('/').next().unwrap_or_default();
        if self.etc.contains(first) && (self.fallbacks.is_empty() || self.tolerate(self.guest.locate(path))?.is_some())
        {
            return Ok(Some(path.to_owned()));
        }
        for prefix in &self.fallbacks {
            let place = format!("{prefix}{path}");
            if self.tolerate(self.guest.locate(&place))?.is_some() {
                return Ok(Some(place));
            }
        }
        Ok(None)
    }

    fn tolerate<T>(&self, result: Result<Option<T>>) -> Result<Option<T>> {
        Ok(self.notes.tolerate(result)?.flatten())
    }

    /// The text of the regular file at `path`; `None` when there is none.
    pub(super) fn text(&self, path: &str) -> Result<Option<Sourced<String>>> {
        let Some(place) = self.place(path)? else { return Ok(None) };
        Ok(self.tolerate(self.guest.read_text(&place))?.map(|text| Sourced::new(text, place)))
    }

    /// The bytes of the regular file at `path`; `None` when there is none.
    pub(super) fn bytes(&self, path: &str) -> Result<Option<Vec<u8>>> {
        let Some(place) = self.place(path)? else { return Ok(None) };
        self.tolerate(self.guest.read(&place))
    }

    /// The text of the first of `paths` that is a regular file and of which `pick` makes something.
    pub(super) fn first<T>(&self, paths: &[&str], pick: impl Fn(&str) -> Option<T>) -> Result<Option<Sourced<T>>> {
        for path in paths {
            if let Some(found) = self.text(path)?.and_then(|text| text.filter_map(|text| pick(&text))) {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// The first `len` bytes of the regular file at `path`.
    pub(super) fn head(&self, path: &str, len: usize) -> Result<Option<Vec<u8>>> {
        self.tolerate(self.guest.head(path, len))
    }

    /// The bytes of the regular file at `path`.
    pub(super) fn size(&self, path: &str) -> Result<Option<u64>> {
        let metadata = self.tolerate(self.guest.metadata(path))?;
        Ok(metadata.filter(|metadata| metadata.file_type == FileType::File).map(|metadata| metadata.size))
    }

    /// The target of the symbolic link at `path`, and where the link lies.
    pub(super) fn link(&self, path: &str) -> Result<Option<Sourced<String>>> {
        let first = path.strip_prefix("/etc/").map(|below| below.split('/').next().unwrap_or_default());
        if first.is_some_and(|first| !self.etc.contains(first)) && self.fallbacks.is_empty() {
            return Ok(None);
        }
        for prefix in std::iter::once(&"").chain(&self.fallbacks) {
            let place = format!("{prefix}{path}");
            if let Some(target) = self.tolerate(self.guest.read_link(&place))? {
                return Ok(Some(Sourced::new(String::from_utf8_lossy(&target).into_owned(), place)));
            }
            if first.is_none() {
                break;
            }
        }
        Ok(None)
    }

    /// The names in the directory at `path`, sorted; empty when it is none.
    pub(super) fn names(&self, path: &str) -> Result<Vec<String>> {
        let Some(place) = self.place(path)? else { return Ok(Vec::new()) };
        Ok(self.notes.tolerate(self.guest.list(&place))?.unwrap_or_default())
    }

    pub(super) fn is_file(&self, path: &str) -> Result<bool> {
        let Some(place) = self.place(path)? else { return Ok(false) };
        Ok(self.notes.tolerate(self.guest.is_file(&place))?.unwrap_or(false))
    }

    pub(super) fn is_dir(&self, path: &str) -> Result<bool> {
        let Some(place) = self.place(path)? else { return Ok(false) };
        Ok(self.notes.tolerate(self.guest.is_dir(&place))?.unwrap_or(false))
    }
}

/// The first line that is neither blank nor a comment, blanks cut; one longer than a path is no name of anything.
pub(super) fn first_line(text: &str) -> Option<String> {
    let mut lines = text.lines().map(str::trim);
    let line = lines.find(|line| !line.is_empty() && !line.starts_with('#'));
    line.filter(|line| line.len() <= limits::PATH_BYTES).map(str::to_owned)
}
