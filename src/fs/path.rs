//! Paths inside a guest: bytes, not text, and never a host path.

use std::fmt;

use crate::bytes::escape;
use crate::error::{Error, Result};
use crate::limits;

/// An absolute path inside a guest. It is split at `/`, empty components and `.` are gone; `..` is kept, because what it
/// means depends on symbolic links and is decided when it is resolved.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct GuestPath(Vec<u8>);

impl GuestPath {
    /// The root directory.
    #[must_use]
    pub fn root() -> Self {
        Self(b"/".to_vec())
    }

    /// A path as a caller wrote it. It must be absolute, as in libguestfs, hold no NUL, and be no longer than PATH_MAX.
    pub fn parse(path: impl AsRef<[u8]>) -> Result<Self> {
        let bytes = path.as_ref();
        if bytes.first() != Some(&b'/') {
            let message = format!("guest path '{}' is not absolute", escape(bytes));
            return Err(Error::invalid(message).with_hint("begin the path with '/'"));
        }
        if bytes.contains(&0) {
            return Err(Error::invalid(format!("guest path '{}' holds a NUL byte", escape(bytes))));
        }
        if bytes.len() > limits::PATH_BYTES {
            return Err(Error::path(bytes, crate::PathProblem::TooLong));
        }
        Ok(bytes.split(|&byte| byte == b'/').fold(Self::root(), |path, name| match name {
            b"" | b"." => path,
            name => path.join(name),
        }))
    }

    /// The path with one more component, taken as it is.
    #[must_use]
    pub fn join(&self, name: &[u8]) -> Self {
        let mut bytes = self.0.clone();
        if bytes != b"/" {
            bytes.push(b'/');
        }
        bytes.extend_from_slice(name);
        Self(bytes)
    }

    /// The components, outermost first.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.0.split(|&byte| byte == b'/').filter(|name| !name.is_empty())
    }

    /// The last component; `None` for the root.
    #[must_use]
    pub fn file_name(&self) -> Option<&[u8]> {
        self.components().next_back()
    }

    /// The path without its last component; the root's parent is the root.
    #[must_use]
    pub fn parent(&self) -> Self {
        match self.0.iter().rposition(|&byte| byte == b'/') {
            Some(at) if at > 0 => Self(self.0.get(..at).unwrap_or_default().to_vec()),
            _ => Self::root(),
        }
    }

    /// The bytes, beginning with `/`.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for GuestPath {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for GuestPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&escape(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_absolute_and_normal() {
        let text = |path: &str| GuestPath::parse(path).map(|path| path.to_string());
        assert_eq!(text("//a/./b//c/").unwrap(), "/a/b/c");
        assert_eq!(text("/").unwrap(), "/");
        assert_eq!(text("/a/../b").unwrap(), "/a/../b");
        assert!(text("a").is_err());
        assert!(text("").is_err());
        assert!(GuestPath::parse(b"/a\0b").is_err());
        assert_eq!(GuestPath::parse("/a/b").unwrap().parent().to_string(), "/a");
        assert_eq!(GuestPath::parse("/a").unwrap().parent().to_string(), "/");
        assert_eq!(GuestPath::root().parent(), GuestPath::root());
    }
}
