//! What an operation over many files could not read: it goes on with the rest, and tells at the end.

use std::ops::Range;

use serde::Serialize;

use crate::bytes::escape;
use crate::error::{Error, ErrorKind, Result};
use crate::limits;

/// Something that could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The guest path, escaped for display.
    pub path: String,
    /// The bytes of the file that are missing; `None` when it is not about a file's bytes.
    pub range: Option<Range<u64>>,
    /// What is wrong, in words.
    pub message: String,
    /// A stable word for it: [`ErrorKind::name`].
    pub kind: &'static str,
}

impl Problem {
    /// A problem with all of the entry at `path`.
    #[must_use]
    pub fn new(path: &[u8], error: &Error) -> Self {
        Self { path: escape(path), range: None, message: error.to_string(), kind: error.kind().name() }
    }

    /// A problem with some bytes of the file at `path`.
    #[must_use]
    pub fn unread(path: &[u8], range: Range<u64>, error: &Error) -> Self {
        Self { range: Some(range), ..Self::new(path, error) }
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if !self.message.contains(&self.path) {
            write!(f, "{}: ", self.path)?;
        }
        if let Some(Range { start, end }) = &self.range {
            write!(f, "{} bytes at byte {start:#x}: ", end - start)?;
        }
        f.write_str(&self.message)
    }
}

/// The problems of one operation, in the order of its work.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Problems {
    /// The first [`limits::REPORTED_PROBLEMS`] of them.
    pub listed: Vec<Problem>,
    /// How many there were in all.
    pub count: u64,
}

impl Problems {
    /// One more.
    pub fn push(&mut self, problem: Problem) {
        self.count += 1;
        if self.listed.len() < limits::REPORTED_PROBLEMS {
            self.listed.push(problem);
        }
    }

    /// Several more.
    pub fn extend(&mut self, problems: impl IntoIterator<Item = Problem>) {
        problems.into_iter().for_each(|problem| self.push(problem));
    }

    /// Those of a further operation.
    pub fn append(&mut self, more: Self) {
        let unlisted = more.count - more.listed.len() as u64;
        self.extend(more.listed);
        self.count += unlisted;
    }

    /// Whether there was none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The [`Partial`](ErrorKind::Partial) error that lists them, when there are any.
    pub fn complete(&self) -> Result<()> {
        const SHOWN: usize = 20;
        if self.is_empty() {
            return Ok(());
        }
        let mut lines: Vec<String> = self.listed.iter().take(SHOWN).map(ToString::to_string).collect();
        let more = self.count - lines.len() as u64;
        if more > 0 {
            lines.push(format!("and {more} more"));
        }
        Err(ErrorKind::Partial(lines.join("; ")).into())
    }
}
