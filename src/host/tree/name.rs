//! Names that an image gives, before the host sees them.

use crate::bytes::escape;
use crate::error::{Error, PathProblem, Result};

/// The longest name of every host filesystem: the kernel's NAME_MAX.
pub(crate) const NAME_BYTES: usize = 255;

/// Refuses what is no name of one entry in a host directory.
pub(crate) fn check_name(name: &[u8]) -> Result<()> {
    if name.len() > NAME_BYTES {
        return Err(Error::path(name, PathProblem::TooLong));
    }
    if matches!(name, b"" | b"." | b"..") || name.iter().any(|byte| matches!(byte, b'/' | 0)) {
        return Err(Error::denied(format!("'{}' is no name of a host file", escape(name))));
    }
    Ok(())
}

/// A relative path's directory and last name; all names are checked. The tree's own root is no entry and is refused.
pub(crate) fn split(path: &[u8]) -> Result<(&[u8], &[u8])> {
    for name in path.split(|byte| *byte == b'/') {
        check_name(name)?;
    }
    Ok(match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_name() {
        for name in [&b"a"[..], b"...", b".a", b"\xff", b"a\nb", b" ", b"-", &[b'x'; 255]] {
            check_name(name).unwrap();
        }
        for (name, code) in [
            (&b""[..], 5),
            (b".", 5),
            (b"..", 5),
            (b"a/b", 5),
            (b"/", 5),
            (b"a\0b", 5),
            (&[b'x'; 256], 9),
            (&[b'x'; 65_535], 9),
        ] {
            assert_eq!(check_name(name).unwrap_err().exit_code(), code, "{}", escape(name));
        }
    }

    #[test]
    fn a_path_is_names() {
        assert_eq!(split(b"a").unwrap(), (&b""[..], &b"a"[..]));
        assert_eq!(split(b"a/b/c").unwrap(), (&b"a/b"[..], &b"c"[..]));
        for path in [&b""[..], b"/a", b"a/", b"a//b", b"a/../b", b"./a", b"a/."] {
            split(path).unwrap_err();
        }
    }
}
