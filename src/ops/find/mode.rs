//! Permission bits as `-perm` of find(1) takes them: `644` exactly, `-022` all of them, `/022` any of them; octal, or
//! symbolic as in chmod(1) (`u=rw,go=r`, `-u+s`), beginning with no bits set.

use crate::error::{Error, Result};

/// A test of permission bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModeTest {
    /// These bits and no others.
    Exactly(u32),
    /// These bits at least.
    All(u32),
    /// One of these bits; no bits at all stand for any mode.
    Any(u32),
}

impl ModeTest {
    /// `644`, `-u+w`, `/6000`.
    pub fn parse(text: &str) -> Result<Self> {
        let (make, mode): (fn(u32) -> Self, _) = match text.as_bytes().first() {
            Some(b'-') => (Self::All, &text[1..]),
            Some(b'/') => (Self::Any, &text[1..]),
            _ => (Self::Exactly, text),
        };
        let octal = !mode.is_empty() && mode.bytes().all(|byte| matches!(byte, b'0'..=b'7'));
        let bits =
            if octal { u32::from_str_radix(mode, 8).ok().filter(|bits| *bits <= 0o7777) } else { symbolic(mode) };
        bits.map(make).ok_or_else(|| {
            Error::invalid(format!("'{}' is no mode", crate::bytes::escape(text.as_bytes())))
                .with_hint("octal or symbolic, as 644, -u+s, /022: exactly, all of, any of these bits")
        })
    }

    /// Whether a mode passes.
    #[must_use]
    pub fn holds(self, permissions: u32) -> bool {
        match self {
            Self::Exactly(bits) => permissions == bits,
            Self::All(bits) => permissions & bits == bits,
            Self::Any(bits) => bits == 0 || permissions & bits != 0,
        }
    }
}

/// The bits that a symbolic mode makes of none.
fn symbolic(text: &str) -> Option<u32> {
    let mut bits = 0u32;
    for clause in text.split(',') {
        let end = clause.find(['+', '-', '='])?;
        let mut who = 0;
        for letter in clause[..end].chars() {
            who |= match letter {
                'u' => 0o4700,
                'g' => 0o2070,
                'o' => 0o1007,
                'a' => 0o7777,
                _ => return None,
            };
        }
        if end == 0 {
            who = 0o7777;
        }
        let mut rest = &clause[end..];
        while let Some(operator) = rest.chars().next() {
            let end = rest[1..].find(['+', '-', '=']).map_or(rest.len(), |at| at + 1);
            let mut what = 0;
            for letter in rest[1..end].chars() {
                what |= match letter {
                    'r' => 0o444,
                    'w' => 0o222,
                    'x' => 0o111,
                    's' => 0o6000,
                    't' => 0o1000,
                    _ => return None,
                };
            }
            bits = match operator {
                '+' => bits | what & who,
                '-' => bits & !(what & who),
                _ => bits & !who | what & who,
            };
            rest = &rest[end..];
        }
    }
    Some(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_read_as_find_reads_them() {
        for (text, expected) in [
            ("644", ModeTest::Exactly(0o644)),
            ("-022", ModeTest::All(0o022)),
            ("/6000", ModeTest::Any(0o6000)),
            ("u=rw,go=r", ModeTest::Exactly(0o644)),
            ("-u+s", ModeTest::All(0o4000)),
            ("/a+x", ModeTest::Any(0o111)),
            ("=rwxt", ModeTest::Exactly(0o1777)),
            ("/u+s,g+s", ModeTest::Any(0o6000)),
            ("a+rwx-w", ModeTest::Exactly(0o555)),
        ] {
            assert_eq!(ModeTest::parse(text).unwrap(), expected, "{text}");
        }
        for bad in ["", "-", "9", "77777", "u", "z+w", "u+q", "/u=rw,"] {
            assert_eq!(ModeTest::parse(bad).unwrap_err().exit_code(), 2, "{bad}");
        }
        assert!(ModeTest::Any(0).holds(0) && ModeTest::All(0).holds(0o7777));
        assert!(!ModeTest::Exactly(0o644).holds(0o4644));
    }
}
