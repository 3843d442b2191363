//! Version numbers: a distribution's major and minor number, and the natural order of kernel versions.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

/// A distribution's version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// The first number; 0 for a rolling release, as in libguestfs.
    pub major: u32,
    /// The second number; 0 when there is none.
    pub minor: u32,
    /// The text it was read from: "22.04", "CentOS Linux release 7.9.2009 (Core)".
    pub text: String,
}

impl Version {
    /// The first `N.M` in `text`, else the first `N`; libguestfs's rule.
    #[must_use]
    pub fn find(text: &str) -> Option<Self> {
        let whole = text.trim();
        let mut first = None;
        let mut rest = whole;
        while let Some(start) = rest.find(|c: char| c.is_ascii_digit()) {
            let (major, after) = leading_number(rest.get(start..)?);
            if let Some(minor) = after.strip_prefix('.').map(leading_number).and_then(|(minor, _)| minor) {
                return Some(Self { major: major?, minor, text: whole.to_owned() });
            }
            first = first.or(major);
            rest = after;
        }
        first.map(|major| Self { major, minor: 0, text: whole.to_owned() })
    }

    /// NeoKylin's `V7Update6`, else [`find`](Self::find).
    #[must_use]
    pub fn of_version_id(text: &str) -> Option<Self> {
        let neokylin = text.strip_prefix('V').map(leading_number).and_then(|(major, rest)| {
            let minor = leading_number(rest.strip_prefix("Update")?).0?;
            Some(Self { major: major?, minor, text: text.to_owned() })
        });
        neokylin.or_else(|| Self::find(text))
    }
}

/// The number that `text` begins with, and what follows its digits. `None` without digits or past `u32::MAX`.
fn leading_number(text: &str) -> (Option<u32>, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at_checked(end).unwrap_or((text, ""));
    (digits.parse().ok(), rest)
}

/// The order in which RPM and dpkg sort versions: runs of digits by value, runs of letters by byte, a number above
/// letters, a `~` below everything, other characters only as separators.
#[must_use]
pub fn natural_order(left: &str, right: &str) -> Ordering {
    let (mut left, mut right) = (left.as_bytes(), right.as_bytes());
    loop {
        let is_separator = |byte: &u8| !byte.is_ascii_alphanumeric() && *byte != b'~';
        left = skip(left, is_separator);
        right = skip(right, is_separator);
        match (left.first(), right.first()) {
            (Some(b'~'), Some(b'~')) => {
                left = left.get(1..).unwrap_or_default();
                right = right.get(1..).unwrap_or_default();
                continue;
            }
            (Some(b'~'), _) => return Ordering::Less,
            (_, Some(b'~')) => return Ordering::Greater,
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => return Ordering::Less,
            (Some(_), None) => return Ordering::Greater,
            (Some(l), Some(r)) if l.is_ascii_digit() != r.is_ascii_digit() => {
                return l.is_ascii_digit().cmp(&r.is_ascii_digit());
            }
            (Some(_), Some(_)) => {}
        }
        let digits = left.first().is_some_and(u8::is_ascii_digit);
        let in_run = |byte: &u8| if digits { byte.is_ascii_digit() } else { byte.is_ascii_alphabetic() };
        let (left_rest, right_rest) = (skip(left, in_run), skip(right, in_run));
        let run = |all: &[u8], rest: &[u8]| all.get(..all.len().saturating_sub(rest.len())).map(<[u8]>::to_vec);
        let (l, r) = (run(left, left_rest).unwrap_or_default(), run(right, right_rest).unwrap_or_default());
        let order = if digits {
            let (l, r) = (skip(&l, |byte| *byte == b'0'), skip(&r, |byte| *byte == b'0'));
            l.len().cmp(&r.len()).then_with(|| l.cmp(r))
        } else {
            l.cmp(&r)
        };
        if order != Ordering::Equal {
            return order;
        }
        (left, right) = (left_rest, right_rest);
    }
}

fn skip(bytes: &[u8], matches: impl Fn(&u8) -> bool) -> &[u8] {
    let at = bytes.iter().position(|byte| !matches(byte)).unwrap_or(bytes.len());
    bytes.get(at..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn major_and_minor_are_the_first_pair_or_the_first_number() {
        let pair = |text| Version::of_version_id(text).map(|version| (version.major, version.minor));
        assert_eq!(pair("22.04"), Some((22, 4)));
        assert_eq!(pair("CentOS Linux release 7.9.2009 (Core)"), Some((7, 9)));
        assert_eq!(pair("Fedora release 39 (Thirty Nine)"), Some((39, 0)));
        assert_eq!(pair("v3 of 4.5"), Some((4, 5)));
        assert_eq!(pair("V7Update6"), Some((7, 6)));
        assert_eq!(pair("trixie/sid"), None);
        assert_eq!(pair("99999999999"), None);
    }

    #[test]
    fn kernels_sort_as_packages_do() {
        let mut versions =
            ["6.1.0-10-amd64", "6.1.0-9-amd64", "6.1.0-9-amd64~rc1", "5.10", "0-rescue-1f", "6.1.0-10-arm64"];
        versions.sort_by(|left, right| natural_order(left, right));
        let sorted = ["0-rescue-1f", "5.10", "6.1.0-9-amd64~rc1", "6.1.0-9-amd64", "6.1.0-10-amd64", "6.1.0-10-arm64"];
        assert_eq!(versions, sorted);
        assert_eq!(natural_order("1.00", "1.0"), Ordering::Equal);
    }

    #[test]
    fn the_order_is_one() {
        let mut words = vec![String::new()];
        for length in 0..4 {
            let longer = words.iter().filter(|word| word.len() == length);
            let longer: Vec<_> =
                longer.flat_map(|word| ["a", "1", "0", ".", "~"].map(|c| format!("{word}{c}"))).collect();
            words.extend(longer);
        }
        for left in &words {
            for right in &words {
                assert_eq!(natural_order(left, right), natural_order(right, left).reverse(), "{left} {right}");
            }
        }
        // A total order sorts, and sorting twice changes nothing.
        words.sort_by(|left, right| natural_order(left, right));
        assert!(words.is_sorted_by(|left, right| natural_order(left, right).is_le()));
    }
}
