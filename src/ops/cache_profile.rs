//! Named sets of what a copy of a guest seldom needs, for trees that are kept or compared.
//!
//! A set leaves out contents and keeps the directories that programs expect: `/var/log` stays, what is in it goes.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use super::filter::{Filter, Verdict};
use crate::error::{Error, Result};

/// A named set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// What services wrote down.
    Logs,
    /// Packages and lists that were fetched.
    PkgCache,
    /// Manuals and licences.
    Docs,
    /// Translations.
    Locales,
    /// Temporary directories.
    Tmp,
    /// Memory that was swapped out, of Windows too.
    Swap,
    /// Compiled Python.
    Bytecode,
    /// What compilers leave behind.
    BuildArtifacts,
}

/// What one set left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Skipped {
    /// The set.
    pub profile: Profile,
    /// Regular files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Profile {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Logs,
        Self::PkgCache,
        Self::Docs,
        Self::Locales,
        Self::Tmp,
        Self::Swap,
        Self::Bytecode,
        Self::BuildArtifacts,
    ];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Logs => "logs",
            Self::PkgCache => "pkg-cache",
            Self::Docs => "docs",
            Self::Locales => "locales",
            Self::Tmp => "tmp",
            Self::Swap => "swap",
            Self::Bytecode => "bytecode",
            Self::BuildArtifacts => "build-artifacts",
        }
    }

    /// Patterns of what is left out, and of what is left out when it is no directory.
    #[must_use]
    pub fn patterns(self) -> (&'static [&'static str], &'static [&'static str]) {
        match self {
            Self::Logs => (&["/var/log/*", "/var/lib/systemd/coredump/*", "/var/crash/*"], &[]),
            Self::PkgCache => (
                &[
                    "/var/cache/apt/*",
                    "/var/lib/apt/lists/*",
                    "/var/cache/dnf/*",
                    "/var/cache/yum/*",
                    "/var/cache/zypp/*",
                    "/var/cache/pacman/pkg/*",
                    "/var/cache/apk/*",
                    "/root/.cache/*",
                    "/home/*/.cache/*",
                ],
                &[],
            ),
            Self::Docs => (&["/usr/share/doc/*", "/usr/share/man/*", "/usr/share/info/*", "/usr/share/gtk-doc/*"], &[]),
            Self::Locales => (&["/usr/share/locale/*", "/usr/lib/locale/*", "/usr/share/i18n/*"], &[]),
            Self::Tmp => (&["/tmp/*", "/var/tmp/*", "/run/*"], &[]),
            Self::Swap => {
                (&["/swapfile", "/swap.img", "/swap/*", "/pagefile.sys", "/swapfile.sys", "/hiberfil.sys"], &[])
            }
            Self::Bytecode => (&["__pycache__/"], &["*.pyc", "*.pyo"]),
            Self::BuildArtifacts => (&["incremental/"], &["*.o", "*.d", "*.rmeta"]),
        }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Profile {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|profile| profile.name() == name).ok_or_else(|| {
            let known: Vec<_> = Self::ALL.iter().map(|profile| profile.name()).collect();
            Error::invalid(format!("there is no profile '{}'", crate::bytes::escape(name.as_bytes())))
                .with_hint(format!("known profiles: {}", known.join(", ")))
        })
    }
}

/// A set, ready to be matched.
#[derive(Debug)]
pub(super) struct Matcher {
    pub(super) profile: Profile,
    any: Filter,
    files: Filter,
}

impl Matcher {
    pub(super) fn new(profile: Profile) -> Result<Self> {
        let (any, files) = profile.patterns();
        let none: [&str; 0] = [];
        Ok(Self { profile, any: Filter::new(any, none)?, files: Filter::new(files, none)? })
    }

    pub(super) fn leaves_out(&self, path: &[u8], is_dir: bool) -> bool {
        self.any.matches(path, is_dir) == Verdict::Skip
            || (!is_dir && self.files.matches(path, is_dir) == Verdict::Skip)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_set_leaves_out_its_own_and_keeps_directories_that_programs_expect() {
        let takes =
            |profile: Profile, path: &str, is_dir| !Matcher::new(profile).unwrap().leaves_out(path.as_bytes(), is_dir);
        for (profile, out, kept) in [
            (Profile::Logs, "/var/log/syslog", "/var/log"),
            (Profile::PkgCache, "/var/cache/apt/archives", "/var/cache/apt"),
            (Profile::Docs, "/usr/share/doc/bash", "/usr/share/doc"),
            (Profile::Locales, "/usr/share/locale/de", "/usr/share/locale"),
            (Profile::Tmp, "/tmp/x", "/tmp"),
            (Profile::Swap, "/swapfile", "/srv/swapfile.d"),
            (Profile::Bytecode, "/usr/lib/python3/x/__pycache__", "/usr/lib/python3"),
            (Profile::BuildArtifacts, "/home/a/target/debug/incremental", "/etc/profile.d"),
        ] {
            assert!(!takes(profile, out, true), "{profile} {out}");
            assert!(takes(profile, kept, true), "{profile} {kept}");
            assert_eq!(profile.name().parse::<Profile>().unwrap(), profile);
        }
        assert!(!takes(Profile::BuildArtifacts, "/src/a.d", false));
        assert!("log".parse::<Profile>().is_err());
    }
}
