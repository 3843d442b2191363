//! What happened: `events/<day>.jsonl`, a line each, for statistics and for the question why something was computed again.
//!
//! A line is written by one call to the end of the file and is shorter than 4 KiB, so that lines of several processes do not
//! mix. Losing them loses nothing else; a line that cannot be read is passed over.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::now;
use super::store::Store;
use crate::error::{Error, Result};
use crate::fs::Timestamp;

/// What kind of thing happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EventKind {
    /// A result was there.
    Hit,
    /// A result had to be made.
    Miss,
    /// A tree was added.
    Add,
    /// A tree was brought back.
    Restore,
    /// gc condemned or deleted something.
    Evict,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Seconds since 1970.
    pub at: i64,
    /// What.
    pub event: EventKind,
    /// Which operation: `import`, `inspect`, `restore`, `gc`.
    pub operation: String,
    /// The action's key or the tree's id.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub key: String,
    /// For people: the image, the name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub subject: String,
    /// Why it was a miss, or was evicted.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cause: String,
    /// How long it took; of a hit, how long it took when it was made.
    #[serde(default)]
    pub duration_ns: u64,
    /// Of a hit or a miss, how long whoever asked waited for the answer.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub took_ns: u64,
    /// Bytes that were delivered, added or freed.
    #[serde(default)]
    pub bytes: u64,
}

impl Event {
    /// An event of now.
    #[must_use]
    pub fn new(event: EventKind, operation: &str) -> Self {
        let (key, subject, cause) = Default::default();
        let (at, operation, duration_ns, took_ns, bytes) = (now(), operation.to_owned(), 0, 0, 0);
        Self { at, event, operation, key, subject, cause, duration_ns, took_ns, bytes }
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// How long ago something began, as events count it.
#[must_use]
pub fn nanoseconds_since(began: Instant) -> u64 {
    u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// Bytes of one line.
const LINE: usize = 4000;

/// The day of a time, as in a file's name.
fn day(at: i64) -> String {
    Timestamp { seconds: at, nanoseconds: 0 }.minute().get(..10).unwrap_or("unknown").to_owned()
}

impl Store {
    /// Writes an event down. That it could not be written is nobody's trouble.
    pub fn note(&self, event: &Event) {
        if !self.is_writable() {
            return;
        }
        let shorter: Event;
        let mut line = serde_json::to_vec(event).unwrap_or_default();
        if line.len() > LINE {
            let cut = |text: &str| text.chars().take(200).collect::<String>();
            shorter = Event { subject: cut(&event.subject), cause: cut(&event.cause), ..event.clone() };
            line = serde_json::to_vec(&shorter).unwrap_or_default();
        }
        line.push(b'\n');
        let path = self.path().join("events").join(format!("{}.jsonl", day(event.at)));
        let written = File::options().create(true).append(true).open(&path).and_then(|mut file| file.write_all(&line));
        if let Err(error) = written {
            log::debug!("{}: {error}", path.display());
        }
    }

    /// All events since a time, oldest first.
    pub fn events(&self, since: i64) -> Result<Vec<Event>> {
        let directory = self.path().join("events");
        let failed = |error| Error::io("list", directory.display(), error);
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&directory).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            names.extend(
                name.to_str().filter(|name| *name >= &day(since)[..] && name.ends_with(".jsonl")).map(str::to_owned),
            );
        }
        names.sort_unstable();
        let mut events = Vec::new();
        for name in names {
            let Ok(file) = File::open(directory.join(&name)) else { continue };
            for line in BufReader::new(file).split(b'\n').map_while(std::io::Result::ok) {
                let event = serde_json::from_slice::<Event>(&line).ok();
                events.extend(event.filter(|event| event.at >= since));
            }
        }
        Ok(events)
    }
}
