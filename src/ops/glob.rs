//! Wildcards over guest paths, as glob(7) and libguestfs's `glob_expand`: `*`, `?` and `[…]` match within one component
//! and never a leading dot; a pattern without wildcards gives the path if it exists. Results are sorted; an entry that
//! is a directory gets no mark.

use std::ops::ControlFlow;

use crate::error::Result;
use crate::fs::{FileType, Follow, GuestPath, MountTable};

/// The paths that match `pattern`, as bytes.
pub fn glob_expand(mounts: &MountTable, pattern: &GuestPath) -> Result<Vec<Vec<u8>>> {
    let mut paths = vec![GuestPath::root()];
    for component in pattern.components() {
        let mut next = Vec::new();
        for path in paths {
            if component.iter().any(|byte| matches!(byte, b'*' | b'?' | b'[' | b'\\')) {
                matching(mounts, &path, component, &mut next)?;
            } else {
                let path = path.join(component);
                if exists(mounts, &path)? {
                    next.push(path);
                }
            }
        }
        paths = next;
    }
    let mut found: Vec<_> = paths.into_iter().map(|path| path.as_bytes().to_vec()).collect();
    found.sort_unstable();
    Ok(found)
}

fn exists(mounts: &MountTable, path: &GuestPath) -> Result<bool> {
    match mounts.resolve(path, Follow::NotLast) {
        Ok(_) => Ok(true),
        Err(error) if error.is_path_problem() => Ok(false),
        Err(error) => Err(error),
    }
}

fn matching(mounts: &MountTable, directory: &GuestPath, pattern: &[u8], found: &mut Vec<GuestPath>) -> Result<()> {
    let location = match mounts.resolve(directory, Follow::Links) {
        Ok(location) => location,
        Err(error) if error.is_path_problem() => return Ok(()),
        Err(error) => return Err(error),
    };
    if location.metadata()?.file_type != FileType::Dir {
        return Ok(());
    }
    location.fs.read_dir(location.inode, &mut |entry| {
        let hidden = entry.name.first() == Some(&b'.') && pattern.first() != Some(&b'.');
        if !hidden && matches(pattern, &entry.name) {
            found.push(directory.join(&entry.name));
        }
        Ok(ControlFlow::Continue(()))
    })
}

/// fnmatch(3) within one component, without recursion: on a mismatch the last `*` takes one byte more.
pub(crate) fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut at, mut seen) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    loop {
        if pattern.get(at) == Some(&b'*') {
            at += 1;
            star = Some((at, seen));
            continue;
        }
        let step = match name.get(seen) {
            None if at == pattern.len() => return true,
            None => None,
            Some(&byte) => match_one(&pattern[at..], byte),
        };
        match (step, star) {
            (Some(len), _) => {
                at += len;
                seen += 1;
            }
            (None, Some((behind, taken))) if taken < name.len() => {
                at = behind;
                seen = taken + 1;
                star = Some((behind, taken + 1));
            }
            _ => return false,
        }
    }
}

/// Whether the first element of `pattern` matches `byte`, and how long that element is.
fn match_one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern.first()? {
        b'?' => Some(1),
        b'\\' => (pattern.get(1) == Some(&byte)).then_some(2),
        b'[' => match_set(pattern, byte),
        literal => (*literal == byte).then_some(1),
    }
}

/// `[abc]`, `[a-z]`, `[[:digit:]]`, `[!…]`; an unclosed `[` is an ordinary character.
fn match_set(pattern: &[u8], byte: u8) -> Option<usize> {
    let negated = matches!(pattern.get(1), Some(b'!' | b'^'));
    let first = 1 + usize::from(negated);
    let mut close = first;
    loop {
        match pattern.get(close) {
            None => return (byte == b'[').then_some(1),
            Some(b']') if close > first => break,
            _ => close += class(&pattern[close..]).map_or(1, |(_, len)| len),
        }
    }
    let set = &pattern[first..close];
    let mut inside = false;
    let mut at = 0;
    while at < set.len() {
        if let Some((holds, len)) = class(&set[at..]) {
            inside |= holds(&byte);
            at += len;
        } else if set.get(at + 1) == Some(&b'-') && at + 2 < set.len() {
            inside |= (set[at]..=set[at + 2]).contains(&byte);
            at += 3;
        } else {
            inside |= set[at] == byte;
            at += 1;
        }
    }
    (inside != negated).then_some(close + 1)
}

/// The class of bytes that `set` begins with, and how long its name is: `[:alpha:]`.
#[allow(clippy::type_complexity, reason = "it is used once")]
fn class(set: &[u8]) -> Option<(fn(&u8) -> bool, usize)> {
    let rest = set.strip_prefix(b"[:")?;
    let len = rest.windows(2).position(|end| end == b":]")?;
    let holds = match &rest[..len] {
        b"alpha" => u8::is_ascii_alphabetic,
        b"digit" => u8::is_ascii_digit,
        b"alnum" => u8::is_ascii_alphanumeric,
        b"upper" => u8::is_ascii_uppercase,
        b"lower" => u8::is_ascii_lowercase,
        b"space" => |byte: &u8| matches!(byte, b' ' | b'\t'..=b'\r'),
        b"blank" => |byte: &u8| matches!(byte, b' ' | b'\t'),
        b"punct" => u8::is_ascii_punctuation,
        b"cntrl" => u8::is_ascii_control,
        b"graph" => u8::is_ascii_graphic,
        b"print" => |byte: &u8| matches!(byte, b' '..=b'~'),
        b"xdigit" => u8::is_ascii_hexdigit,
        _ => return None,
    };
    Some((holds, len + 4))
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn wildcards_as_fnmatch_has_them() {
        for (pattern, name, expected) in [
            ("*", "", true),
            ("a*c", "abc", true),
            ("a*c", "abd", false),
            ("*.conf", "x.conf", true),
            ("*a*b*", "xxaxxbxx", true),
            ("?", "", false),
            ("[a-c]x", "bx", true),
            ("[!a-c]x", "bx", false),
            ("[]x]", "]", true),
            ("[x", "[x", true),
            ("[[:digit:]_]x", "7x", true),
            ("[[:digit:]_]x", "_x", true),
            ("[![:alpha:]]", "a", false),
            ("[[:nothing:]]", "n]", true),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("a", "ab", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), expected, "{pattern} {name}");
        }
        let (many, long) = ("*a".repeat(50), "a".repeat(5000) + "b");
        assert!(!matches(many.as_bytes(), long.as_bytes()));
    }
}
