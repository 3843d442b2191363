//! What came of one image: one line of JSON with stable names.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::output::Encoding;

/// How work on an image ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Status {
    /// Everything was done.
    Ok,
    /// A command said no; the exit code, error kind and message say why.
    Failed,
    /// The time was up.
    Timeout,
    /// A command died of a signal or a panic, twice; or the whole batch did twice while this image was worked on.
    Crashed,
    /// A command refused by policy: the image names a host file, for example.
    Refused,
    /// The run was stopped while this image was worked on; it is begun again when the run is resumed.
    Cancelled,
}

impl Status {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Ok, Self::Failed, Self::Timeout, Self::Crashed, Self::Refused, Self::Cancelled];

    /// The word in results.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
            Self::Timeout => "timeout",
            Self::Crashed => "crashed",
            Self::Refused => "refused",
            Self::Cancelled => "cancelled",
        }
    }
}

/// What came of one image.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ItemResult {
    /// The image as the list has it; bytes that are no text are escaped.
    pub image: String,
    /// The image's bytes in base64, when they are no text.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub image_b64: Option<String>,
    /// Its name in the plan.
    pub name: String,
    /// Its place in the list, from 0.
    pub index: u64,
    /// How it ended.
    pub status: Status,
    /// The exit code of the last command; none if a signal ended it.
    pub exit_code: Option<i32>,
    /// The signal that ended the last command.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub signal: Option<i32>,
    /// Why it did not succeed: the word of an [`ErrorKind`](crate::ErrorKind::name), or `temporary`, `answer` (the exit code
    /// is that of check, compare or diff), `timeout`, `signal`, `panic`, `out-of-memory`, `quarantined`, `cancelled`.
    pub error_kind: Option<String>,
    /// The last command's error.
    pub message: Option<String>,
    /// What can be done about it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub hint: Option<String>,
    /// Which command line did not succeed, from 1, when there are several.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub line: Option<u64>,
    /// How long it took, all attempts and the time between them.
    pub seconds: f64,
    /// How often it was tried in this run.
    pub attempts: u32,
    /// How much the commands printed.
    pub bytes: u64,
    /// The file with what they printed, when it goes into files.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub output_file: Option<String>,
    /// How `output` is to be read.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub output_encoding: Option<Encoding>,
    /// What they printed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub output: Option<Box<RawValue>>,
}

impl ItemResult {
    /// Whether the same can go well later, so that a resumed run tries it again.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        self.error_kind.as_deref() == Some(TEMPORARY)
    }
}

/// The error kind of what can go well later.
pub(super) const TEMPORARY: &str = "temporary";

/// A part of a result that says nothing about its output: what is needed to go on with a run.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Head {
    pub(super) index: u64,
    pub(super) status: Status,
    pub(super) error_kind: Option<String>,
}

impl From<&ItemResult> for Head {
    fn from(result: &ItemResult) -> Self {
        Self { index: result.index, status: result.status, error_kind: result.error_kind.clone() }
    }
}
