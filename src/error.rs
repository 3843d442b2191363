//! The one error type: whose problem it is, where it is, and what to do.
//!
//! [`ErrorKind`] is split by *whose* problem an error is, and each kind has its exit code
//! ([`ErrorKind::exit_code`]). [`Error`] adds *where*: the image, the device in the guest and the guest path are filled
//! in by the layer that knows them while the error travels up, each at most once (the innermost wins). An error is one
//! pointer wide, so that `Result` stays cheap in hot loops.
//!
//! Rules: messages are lowercase fragments that fit after "error: "; a corrupt structure names format, field (the
//! specification's word), byte offset, found and expected; there is no `From<io::Error>`, because an operating-system
//! error without action and subject helps nobody; a hint is added only when there is something to do.

use std::fmt;
use std::io;

/// The result of everything fallible in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Whose problem it is.
#[derive(Debug)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The operating system refused: what was tried, on what, and its answer. Exit code 1.
    Io {
        /// What was being done, as a verb phrase: "read", "open".
        action: &'static str,
        /// On what: a host path or a device.
        subject: String,
        /// The operating system's answer.
        source: io::Error,
    },
    /// The caller asked for something that makes no sense (a second launch, an unknown digest name). Exit code 2.
    InvalidArgument(String),
    /// The work is done, but parts of the guest could not be read; the text lists them. Exit code 3.
    Partial(String),
    /// A named budget for untrusted input was used up. Exit code 4.
    Limit {
        /// What is limited, with its unit: "backing chain depth", "directory bytes".
        what: &'static str,
        /// The budget.
        limit: u64,
        /// What the input asked for.
        found: u64,
    },
    /// Refused by policy: an image named a host file, or a path tried to leave the guest. Exit code 5.
    Denied(String),
    /// A valid image uses a feature that guestctl does not read. Exit code 7.
    Unsupported {
        /// The format or filesystem: "qcow2", "ext4".
        format: &'static str,
        /// The feature, in the specification's words.
        feature: String,
    },
    /// The image breaks the rules of its format. Exit code 8.
    Corrupt(Corrupt),
    /// A guest path (or device, or key) does not lead to what was asked for. Exit code 9.
    Path {
        /// The guest path, escaped for display.
        path: String,
        /// What is wrong with it.
        problem: PathProblem,
    },
    /// The caller's [`crate::progress::Progress`] asked to stop. Exit code 130.
    Cancelled,
}

/// Where and how an image breaks the rules of its format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Corrupt {
    /// The format: "qcow2", "ext4", "gpt".
    pub format: &'static str,
    /// The field or structure, in the specification's word: "l1_table_offset", "s_magic".
    pub field: &'static str,
    /// Byte offset of the field in the device it was read from.
    pub offset: u64,
    /// What was there.
    pub found: String,
    /// What the specification allows there.
    pub expected: String,
}

/// What is wrong with a guest path; the words are those of `errno(3)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PathProblem {
    /// ENOENT.
    NotFound,
    /// ENOTDIR.
    NotADirectory,
    /// EISDIR.
    IsADirectory,
    /// ELOOP: more than 40 symbolic links, as in the kernel.
    TooManySymlinks,
    /// EINVAL: not a regular file where one is needed.
    NotARegularFile,
    /// EINVAL: not a symbolic link where one is needed.
    NotASymlink,
    /// ENAMETOOLONG.
    TooLong,
    /// ENOENT for a device or mountable name.
    NoSuchDevice,
    /// The contents are encrypted by the guest and no key is at hand (ENOKEY).
    Encrypted,
}

impl PathProblem {
    /// The sentence of `strerror(3)` or its like.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotFound => "no such file or directory in the guest",
            Self::NotADirectory => "not a directory",
            Self::IsADirectory => "is a directory",
            Self::TooManySymlinks => "too many levels of symbolic links",
            Self::NotARegularFile => "not a regular file",
            Self::NotASymlink => "not a symbolic link",
            Self::TooLong => "file name too long",
            Self::NoSuchDevice => "no such device or partition in the guest",
            Self::Encrypted => "encrypted by the guest, and there is no key",
        }
    }
}

/// Where an error happened; each part is filled in by the layer that knows it.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Place {
    /// The image file, as the caller named it.
    pub image: Option<String>,
    /// The device in the guest: `/dev/sda2`.
    pub device: Option<String>,
    /// The guest path, escaped for display.
    pub path: Option<String>,
}

/// An error: its kind, where it happened as far as that is known, and a hint when there is something to do.
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: ErrorKind,
    place: Place,
    hint: Option<String>,
}

impl From<ErrorKind> for Error {
    fn from(kind: ErrorKind) -> Self {
        Self(Box::new(Inner { kind, place: Place::default(), hint: None }))
    }
}

impl Error {
    /// An operating-system error, with what was tried and on what.
    pub fn io(action: &'static str, subject: impl fmt::Display, source: impl Into<io::Error>) -> Self {
        ErrorKind::Io { action, subject: subject.to_string(), source: source.into() }.into()
    }

    /// A request that makes no sense.
    pub fn invalid(message: impl Into<String>) -> Self {
        ErrorKind::InvalidArgument(message.into()).into()
    }

    /// A feature that is not read, by name.
    pub fn unsupported(format: &'static str, feature: impl Into<String>) -> Self {
        ErrorKind::Unsupported { format, feature: feature.into() }.into()
    }

    /// A rule of the format that the image breaks.
    pub fn corrupt(
        format: &'static str,
        field: &'static str,
        offset: u64,
        found: impl fmt::Display,
        expected: impl fmt::Display,
    ) -> Self {
        let (found, expected) = (found.to_string(), expected.to_string());
        ErrorKind::Corrupt(Corrupt { format, field, offset, found, expected }).into()
    }

    /// A used-up budget.
    #[must_use]
    pub fn limit(what: &'static str, limit: u64, found: u64) -> Self {
        ErrorKind::Limit { what, limit, found }.into()
    }

    /// Something refused by policy.
    pub fn denied(message: impl Into<String>) -> Self {
        ErrorKind::Denied(message.into()).into()
    }

    /// A guest path that does not lead where it should. The path is escaped here.
    #[must_use]
    pub fn path(path: &[u8], problem: PathProblem) -> Self {
        ErrorKind::Path { path: crate::bytes::escape(path), problem }.into()
    }

    /// Whose problem it is.
    #[must_use]
    pub fn kind(&self) -> &ErrorKind {
        &self.0.kind
    }

    /// Where it happened, as far as known.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.0.place
    }

    /// What the user can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// The corruption, when that is what it is.
    #[must_use]
    pub fn as_corrupt(&self) -> Option<&Corrupt> {
        match &self.0.kind {
            ErrorKind::Corrupt(corrupt) => Some(corrupt),
            _ => None,
        }
    }

    /// Whether a guest path or device does not lead to what was asked for, whatever the reason.
    #[must_use]
    pub fn is_path_problem(&self) -> bool {
        matches!(self.0.kind, ErrorKind::Path { .. })
    }

    /// Adds the hint unless an inner layer has given one.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint.get_or_insert_with(|| hint.into());
        self
    }

    /// Adds the image unless an inner layer has named one.
    #[must_use]
    pub fn in_image(mut self, image: impl fmt::Display) -> Self {
        self.0.place.image.get_or_insert_with(|| image.to_string());
        self
    }

    /// Adds the device in the guest unless an inner layer has named one.
    #[must_use]
    pub fn on_device(mut self, device: impl fmt::Display) -> Self {
        self.0.place.device.get_or_insert_with(|| device.to_string());
        self
    }

    /// Adds the guest path unless an inner layer has named one.
    #[must_use]
    pub fn at_path(mut self, path: &[u8]) -> Self {
        if !self.is_path_problem() {
            self.0.place.path.get_or_insert_with(|| crate::bytes::escape(path));
        }
        self
    }

    /// The exit code a program should end with.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        self.0.kind.exit_code()
    }
}

impl ErrorKind {
    /// 1 operating system, 2 usage, 3 partial result, 4 limit or space, 5 refused by policy, 7 unsupported, 8 corrupt,
    /// 9 not found in the guest, 75 held by another process for now, 130 cancelled.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            // A file can be larger than the host's filesystem allows, too.
            Self::Io { source, .. }
                if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::FileTooLarge) =>
            {
                4
            }
            // Somebody else holds what is needed; the same call can go well later.
            Self::Io { source, .. } if source.kind() == io::ErrorKind::WouldBlock => 75,
            Self::Io { .. } => 1,
            Self::InvalidArgument(_) => 2,
            Self::Partial(_) => 3,
            Self::Limit { .. } => 4,
            Self::Denied(_) => 5,
            Self::Unsupported { .. } => 7,
            Self::Corrupt(_) => 8,
            Self::Path { .. } => 9,
            Self::Cancelled => 130,
        }
    }

    /// A stable word for machine-readable output.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Io { .. } => "io",
            Self::InvalidArgument(_) => "invalid-argument",
            Self::Partial(_) => "partial",
            Self::Limit { .. } => "limit",
            Self::Denied(_) => "denied",
            Self::Unsupported { .. } => "unsupported",
            Self::Corrupt(_) => "corrupt",
            Self::Path { .. } => "path",
            Self::Cancelled => "cancelled",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { action, subject, source } => write!(f, "cannot {action} {subject}: {source}"),
            Self::InvalidArgument(message) => f.write_str(message),
            Self::Partial(message) => write!(f, "some parts could not be read: {message}"),
            Self::Limit { what, limit, found } => write!(f, "{what} is limited to {limit}, the image asks for {found}"),
            Self::Denied(message) => write!(f, "refused: {message}"),
            Self::Unsupported { format, feature } => write!(f, "{format}: {feature} is not supported"),
            Self::Corrupt(corrupt) => corrupt.fmt(f),
            Self::Path { path, problem } => write!(f, "{path}: {}", problem.as_str()),
            Self::Cancelled => f.write_str("cancelled"),
        }
    }
}

impl fmt::Display for Corrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { format, field, offset, found, expected } = self;
        write!(f, "corrupt {format}: {field} at byte {offset:#x}: found {found}, expected {expected}")
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Place { image, device, path } = &self.0.place;
        for part in [image, device, path].into_iter().flatten() {
            write!(f, "{part}: ")?;
        }
        self.0.kind.fmt(f)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.0.kind {
            ErrorKind::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_pointer_and_crosses_threads() {
        fn crosses<T: Send + Sync + 'static>() {}
        crosses::<Error>();
        assert_eq!(size_of::<Error>(), size_of::<usize>());
    }

    #[test]
    fn message_names_place_field_offset_found_and_expected() {
        let error = Error::corrupt("ext4", "s_magic", 0x438, "0x0", "0xef53").on_device("/dev/sda1").in_image("a.raw");
        let text = "a.raw: /dev/sda1: corrupt ext4: s_magic at byte 0x438: found 0x0, expected 0xef53";
        assert_eq!(error.to_string(), text);
        assert_eq!(error.exit_code(), 8);
    }

    #[test]
    fn the_innermost_place_wins() {
        let error = Error::unsupported("qcow2", "encryption").in_image("base.qcow2").in_image("top.qcow2");
        assert_eq!(error.place().image.as_deref(), Some("base.qcow2"));
    }
}
