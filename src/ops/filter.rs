//! Which guest paths a bulk operation takes: gitignore(5)'s patterns, on absolute guest paths.
//!
//! A pattern means the same wherever the operation starts: `/etc/shadow` is the guest's, `*.log` is any of that name,
//! `cache/` only a directory. Later excludes win over earlier ones, and `!pattern` takes something back, as in a
//! `.gitignore`. Excluding a directory leaves out what is below it. Where there are includes only what matches one is
//! taken, with what is below it; excludes decide among that.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};

use crate::bytes::escape;
use crate::error::{Error, Result};

/// What becomes of one entry of a walk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is taken, and the walk goes on below it.
    Take,
    /// A directory that is not asked for, but something below it may be; it is made when something is.
    Enter,
    /// It is left out with everything below it.
    Skip,
}

/// Exclude and include patterns, ready to be matched by any number of threads.
#[derive(Debug, Clone)]
pub struct Filter {
    excludes: Gitignore,
    includes: Option<Includes>,
}

#[derive(Debug, Clone)]
struct Includes {
    patterns: Gitignore,
    /// Of each pattern the leading components without wildcards, which say what can lead to a match; empty for a
    /// pattern that matches anywhere.
    stems: Vec<Vec<Vec<u8>>>,
}

impl Default for Filter {
    /// Takes everything.
    fn default() -> Self {
        Self { excludes: Gitignore::empty(), includes: None }
    }
}

impl Filter {
    /// A filter of patterns in gitignore's syntax. A blank one, a comment and one that does not parse are refused, because
    /// they would match nothing in silence.
    pub fn new<E: AsRef<str>, I: AsRef<str>>(
        excludes: impl IntoIterator<Item = E>,
        includes: impl IntoIterator<Item = I>,
    ) -> Result<Self> {
        let excludes = patterns(excludes.into_iter(), &mut |_| {})?;
        let mut stems = Vec::new();
        let includes = patterns(includes.into_iter(), &mut |pattern| stems.extend(stem(pattern)))?;
        let includes = (!includes.is_empty()).then_some(Includes { patterns: includes, stems });
        Ok(Self { excludes, includes })
    }

    /// Whether everything is taken.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.excludes.is_empty() && self.includes.is_none()
    }

    /// What becomes of the absolute guest path `path`, in a walk that did not skip a directory above it.
    #[must_use]
    pub fn matches(&self, path: &[u8], is_dir: bool) -> Verdict {
        let relative = path.strip_prefix(b"/").unwrap_or(path);
        if relative.is_empty() {
            // The guest's root: no pattern of gitignore can mean it.
            return if self.includes.is_some() { Verdict::Enter } else { Verdict::Take };
        }
        let as_path = Path::new(OsStr::from_bytes(relative));
        if self.excludes.matched(as_path, is_dir).is_ignore() {
            return Verdict::Skip;
        }
        match &self.includes {
            None => Verdict::Take,
            Some(includes) if includes.take(as_path, is_dir) => Verdict::Take,
            Some(includes) if is_dir && includes.may_lead(relative) => Verdict::Enter,
            Some(_) => Verdict::Skip,
        }
    }
}

impl Includes {
    fn take(&self, path: &Path, is_dir: bool) -> bool {
        matches!(self.patterns.matched_path_or_any_parents(path, is_dir), Match::Ignore(_))
    }

    /// Whether something below the directory may match. That it lies below a match is known to be false here.
    fn may_lead(&self, directory: &[u8]) -> bool {
        let mut compatible = self.stems.iter().map(|stem| {
            let pairs = stem.iter().zip(directory.split(|byte| *byte == b'/'));
            pairs.into_iter().all(|(wanted, found)| wanted == found)
        });
        compatible.any(|compatible| compatible)
    }
}

fn patterns<P: AsRef<str>>(given: impl Iterator<Item = P>, each: &mut dyn FnMut(&str)) -> Result<Gitignore> {
    // Matched paths are relative already, so there is no root to be stripped.
    let mut builder = GitignoreBuilder::new("");
    builder.allow_unclosed_class(false);
    for pattern in given {
        let pattern = pattern.as_ref();
        let refused = |why: &str| Error::invalid(format!("pattern '{}' {why}", escape(pattern.as_bytes())));
        if pattern.trim().is_empty() || pattern.trim_matches('/').is_empty() {
            return Err(refused("matches nothing"));
        }
        if pattern.starts_with('#') {
            return Err(refused("is a comment").with_hint("write \\# for a name that begins with #"));
        }
        builder.add_line(None, pattern).map_err(|error| refused(&format!("is not one of gitignore's: {error}")))?;
        each(pattern);
    }
    builder.build().map_err(|error| Error::invalid(format!("the patterns are too much together: {error}")))
}

/// The leading components of a pattern that hold no wildcard. A pattern that takes something back leads nowhere.
fn stem(pattern: &str) -> Option<Vec<Vec<u8>>> {
    if pattern.starts_with('!') {
        return None;
    }
    let inner = pattern.trim_end_matches('/');
    // Without a slash at its beginning or in its middle a pattern matches at any depth.
    let anchored = inner.contains('/') && !inner.starts_with("**/");
    let literal = |component: &&str| !component.contains(['*', '?', '[', '\\', '{']);
    let components = inner.trim_start_matches('/').split('/').take_while(literal);
    Some(if anchored { components.map(|component| component.as_bytes().to_vec()).collect() } else { Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(excludes: &[&str], includes: &[&str]) -> Filter {
        Filter::new(excludes, includes).unwrap()
    }

    #[test]
    fn excludes_are_gitignores() {
        let some = filter(&["*.log", "/tmp/*", "!/tmp/keep", "cache/", "/a/**/z", "\\#x"], &[]);
        for (path, is_dir, expected) in [
            ("/", true, Verdict::Take),
            ("/x.log", false, Verdict::Skip),
            ("/deep/er/x.log", true, Verdict::Skip),
            ("/tmp", true, Verdict::Take),
            ("/tmp/x", false, Verdict::Skip),
            ("/var/tmp/x", false, Verdict::Take),
            ("/tmp/keep", true, Verdict::Take),
            ("/var/cache", true, Verdict::Skip),
            ("/var/cache", false, Verdict::Take),
            ("/a/b/c/z", false, Verdict::Skip),
            ("/a/z", false, Verdict::Skip),
            ("/b/a/z", false, Verdict::Take),
            ("/#x", false, Verdict::Skip),
        ] {
            assert_eq!(some.matches(path.as_bytes(), is_dir), expected, "{path}");
        }
        assert_eq!(some.matches(b"/bad\xff\n.log", false), Verdict::Skip);
        assert_eq!(some.matches(b"/bad\xff\n.lo", false), Verdict::Take);
    }

    #[test]
    fn includes_take_what_matches_and_what_is_below_and_enter_what_may_lead_there() {
        let some = filter(&["*.bak"], &["/etc/ssh", "/usr/share/*/copyright", "!/etc/ssh/moduli"]);
        for (path, is_dir, expected) in [
            ("/", true, Verdict::Enter),
            ("/etc", true, Verdict::Enter),
            ("/etc", false, Verdict::Skip),
            ("/etc/ssh", true, Verdict::Take),
            ("/etc/ssh/sshd_config", false, Verdict::Take),
            ("/etc/ssh/a/b", true, Verdict::Take),
            ("/etc/ssh/moduli", false, Verdict::Skip),
            ("/etc/ssh/x.bak", false, Verdict::Skip),
            ("/etc/passwd", false, Verdict::Skip),
            ("/etc/ssl", true, Verdict::Skip),
            ("/usr/share", true, Verdict::Enter),
            ("/usr/share/doc", true, Verdict::Enter),
            ("/usr/share/doc/copyright", false, Verdict::Take),
            ("/usr/lib", true, Verdict::Skip),
            ("/var", true, Verdict::Skip),
        ] {
            assert_eq!(some.matches(path.as_bytes(), is_dir), expected, "{path}");
        }
        let anywhere = filter(&[], &["*.conf"]);
        assert_eq!(anywhere.matches(b"/a/b", true), Verdict::Enter);
        assert_eq!(anywhere.matches(b"/a/b/x.conf", false), Verdict::Take);
        assert!(Filter::default().is_empty() && !anywhere.is_empty());
        assert_eq!(Filter::default().matches(b"/x", false), Verdict::Take);
    }

    #[test]
    fn patterns_that_would_match_nothing_are_refused() {
        for pattern in ["", "  ", "/", "# x", "a[", "{a"] {
            Filter::new([pattern], [""; 0]).unwrap_err();
            Filter::new([""; 0], [pattern]).unwrap_err();
        }
    }
}
