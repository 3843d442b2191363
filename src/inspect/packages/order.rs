//! Which of two versions is newer, by the rule of the package manager.
//!
//! | format | rule |
//! |---|---|
//! | deb | deb-version(7): runs of other characters by letters before others and `~` before all, runs of digits by value |
//! | rpm | rpm-version(7): runs of digits by value, runs of letters by byte, a number above letters, `~` below all, `^` above the end |
//! | apk | as rpm, once `_alpha`, `_beta`, `_pre`, `_rc` are written with `~` and other suffixes with `^` |
//! | pacman | vercmp(8): as rpm, but letters behind the end of the other version make it older |

use std::cmp::Ordering;

use super::{Package, PackageFormat};

/// Whether `old` is older than `new`, which are of one format: by epoch, version and release.
#[must_use]
pub fn version_order(format: PackageFormat, old: &Package, new: &Package) -> Ordering {
    let order = |left: &str, right: &str| match format {
        PackageFormat::Deb => deb(left.as_bytes(), right.as_bytes()),
        PackageFormat::Rpm => segments(left, right, false),
        PackageFormat::Apk => segments(&apk(left), &apk(right), false),
        PackageFormat::Pacman => segments(left, right, true),
    };
    let release = |package: &Package| package.release.trim_start_matches('r').to_owned();
    let by_release = || match format {
        PackageFormat::Apk => order(&release(old), &release(new)),
        _ => order(&old.release, &new.release),
    };
    old.epoch.cmp(&new.epoch).then_with(|| order(&old.version, &new.version)).then_with(by_release)
}

impl Package {
    /// Epoch, version and release in one: `1:2.3-4`; without those parts that are not there.
    #[must_use]
    pub fn full_version(&self) -> String {
        let epoch = if self.epoch > 0 { format!("{}:", self.epoch) } else { String::new() };
        let release = if self.release.is_empty() { String::new() } else { format!("-{}", self.release) };
        format!("{epoch}{}{release}", self.version)
    }
}

/// What `bytes` begin with as far as `matches` goes, and the rest.
fn split(bytes: &[u8], matches: impl Fn(&u8) -> bool) -> (&[u8], &[u8]) {
    let end = bytes.iter().position(|byte| !matches(byte)).unwrap_or(bytes.len());
    bytes.split_at_checked(end).unwrap_or((bytes, &[]))
}

/// Runs of digits by their values, whatever they begin with zeroes.
fn numbers(left: &[u8], right: &[u8]) -> Ordering {
    let significant = |digits| split(digits, |byte| *byte == b'0').1;
    let (left, right): (&[u8], &[u8]) = (significant(left), significant(right));
    left.len().cmp(&right.len()).then_with(|| left.cmp(right))
}

fn deb(mut left: &[u8], mut right: &[u8]) -> Ordering {
    // A tilde before the end, the end (and digits) before letters, letters before everything else.
    let weight = |byte: Option<&u8>| match byte {
        Some(b'~') => -1,
        None => 0,
        Some(byte) if byte.is_ascii_digit() => 0,
        Some(byte) if byte.is_ascii_alphabetic() => i32::from(*byte),
        Some(byte) => i32::from(*byte).saturating_add(256),
    };
    while !left.is_empty() || !right.is_empty() {
        let (left_text, left_rest) = split(left, |byte| !byte.is_ascii_digit());
        let (right_text, right_rest) = split(right, |byte| !byte.is_ascii_digit());
        for at in 0..left_text.len().max(right_text.len()) {
            let order = weight(left_text.get(at)).cmp(&weight(right_text.get(at)));
            if order != Ordering::Equal {
                return order;
            }
        }
        let (left_digits, left_rest) = split(left_rest, u8::is_ascii_digit);
        let (right_digits, right_rest) = split(right_rest, u8::is_ascii_digit);
        let order = numbers(left_digits, right_digits);
        if order != Ordering::Equal {
            return order;
        }
        (left, right) = (left_rest, right_rest);
    }
    Ordering::Equal
}

/// rpm's order; pacman's when `letters_are_older`.
fn segments(left: &str, right: &str, letters_are_older: bool) -> Ordering {
    let (mut left, mut right) = (left.as_bytes(), right.as_bytes());
    let is_separator = |byte: &u8| !byte.is_ascii_alphanumeric() && (letters_are_older || !matches!(byte, b'~' | b'^'));
    loop {
        if letters_are_older {
            // What goes on with a separator or a number is newer than what has ended, what goes on with a letter older.
            match (left.first(), right.first()) {
                (Some(next), None) => return ended(*next),
                (None, Some(next)) => return ended(*next).reverse(),
                _ => {}
            }
        }
        let (left_skipped, left_rest) = split(left, is_separator);
        let (right_skipped, right_rest) = split(right, is_separator);
        let after = |rest: &'_ [u8]| rest.get(1..).map(<[u8]>::to_vec).unwrap_or_default();
        match (left_rest.first(), right_rest.first()) {
            (Some(b'~'), Some(b'~')) | (Some(b'^'), Some(b'^')) => {
                return segments_of(&after(left_rest), &after(right_rest), letters_are_older);
            }
            (Some(b'~'), _) => return Ordering::Less,
            (_, Some(b'~')) => return Ordering::Greater,
            // Above the end, below everything else.
            (Some(b'^'), None) => return Ordering::Greater,
            (None, Some(b'^')) => return Ordering::Less,
            (Some(b'^'), Some(_)) => return Ordering::Less,
            (Some(_), Some(b'^')) => return Ordering::Greater,
            (None, None) => return Ordering::Equal,
            (left_next, right_next) if letters_are_older => {
                let separated = left_skipped.len().cmp(&right_skipped.len());
                match (left_next, right_next) {
                    (Some(_), Some(_)) if separated != Ordering::Equal => return separated,
                    (Some(_), Some(_)) => {}
                    (Some(next), None) => return ended(*next),
                    (None, Some(next)) => return ended(*next).reverse(),
                    (None, None) => return Ordering::Equal,
                }
            }
            (Some(_), None) => return Ordering::Greater,
            (None, Some(_)) => return Ordering::Less,
            (Some(_), Some(_)) => {}
        }
        let digits = left_rest.first().is_some_and(u8::is_ascii_digit);
        let in_run = |byte: &u8| if digits { byte.is_ascii_digit() } else { byte.is_ascii_alphabetic() };
        let (left_run, left_after) = split(left_rest, in_run);
        let (right_run, right_after) = split(right_rest, in_run);
        if right_run.is_empty() {
            // Of different kinds: the number is newer.
            return if digits { Ordering::Greater } else { Ordering::Less };
        }
        let order = if digits { numbers(left_run, right_run) } else { left_run.cmp(right_run) };
        if order != Ordering::Equal {
            return order;
        }
        (left, right) = (left_after, right_after);
    }
}

fn segments_of(left: &[u8], right: &[u8], letters_are_older: bool) -> Ordering {
    segments(&String::from_utf8_lossy(left), &String::from_utf8_lossy(right), letters_are_older)
}

/// How a version that goes on with `next` compares with one that has ended, for pacman.
fn ended(next: u8) -> Ordering {
    if next.is_ascii_alphabetic() { Ordering::Less } else { Ordering::Greater }
}

/// An apk version with its suffixes in rpm's signs.
fn apk(version: &str) -> String {
    let mut parts = version.split('_');
    let mut text = parts.next().unwrap_or_default().to_owned();
    const EARLY: [&str; 4] = ["alpha", "beta", "pre", "rc"];
    const LATE: [&str; 5] = ["cvs", "svn", "git", "hg", "p"];
    for part in parts {
        let name = part.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
        let number = part.strip_prefix(name).unwrap_or_default();
        let rank = |names: &[&str]| names.iter().position(|known| *known == name);
        match (rank(&EARLY), rank(&LATE)) {
            (Some(rank), _) => text.push_str(&format!("~{rank}.0{number}")),
            (_, Some(rank)) => text.push_str(&format!("^{rank}.0{number}")),
            _ => text.push_str(&format!(".{part}")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(format: PackageFormat, ascending: &[&str]) {
        let package = |version: &&str| Package { version: (*version).to_owned(), ..Package::default() };
        for (at, left) in ascending.iter().enumerate() {
            for (other, right) in ascending.iter().enumerate() {
                let order = version_order(format, &package(left), &package(right));
                assert_eq!(order, at.cmp(&other), "{format:?}: {left} and {right}");
            }
        }
    }

    #[test]
    fn versions_ascend_as_the_manuals_say() {
        check(
            PackageFormat::Deb,
            &["1.0~~", "1.0~~a", "1.0~", "1.0~rc1", "1.0", "1.0a", "1.0+b1", "1.0.1", "1.1", "1.10"],
        );
        check(PackageFormat::Rpm, &["1.0~rc1", "1.0", "1.0^git1", "1.0a", "1.0.1", "1.1", "1.9", "1.10"]);
        check(
            PackageFormat::Pacman,
            &["1.0a", "1.0alpha", "1.0b", "1.0beta", "1.0p", "1.0pre", "1.0rc", "1.0", "1.0.a", "1.0.1"],
        );
        check(
            PackageFormat::Apk,
            &[
                "1.0_alpha",
                "1.0_alpha2",
                "1.0_beta",
                "1.0_rc1",
                "1.0_rc2",
                "1.0",
                "1.0_git20240101",
                "1.0_p1",
                "1.0a",
                "1.0.1",
            ],
        );
    }

    #[test]
    fn epochs_and_releases_count() {
        let package = |epoch, version: &str, release: &str| Package {
            epoch,
            version: version.to_owned(),
            release: release.to_owned(),
            ..Package::default()
        };
        let less = |format, left, right| assert_eq!(version_order(format, &left, &right), Ordering::Less);
        less(PackageFormat::Deb, package(0, "9", "1"), package(1, "1", "1"));
        less(PackageFormat::Deb, package(0, "1", "1"), package(0, "1", "1+deb12u1"));
        less(PackageFormat::Apk, package(0, "1", "r9"), package(0, "1", "r10"));
        assert_eq!(package(1, "2.3", "4").full_version(), "1:2.3-4");
        assert_eq!(package(0, "2.3", "").full_version(), "2.3");
    }
}
