//! What is set once and holds for every subcommand: options on the command line win over environment variables, those over
//! the settings file, and that over what the program does by itself.
//!
//! ```toml
//! jobs = 4                              # threads
//!
//! [cache]
//! dir = "/var/cache/guestctl"           # the store; absolute
//! enabled = true                        # whether commands use and fill it
//! verify = "trusted"                    # never, trusted, first-use, always
//! max_size = "50G"                      # for gc
//! days = 30                             # for gc
//!
//! [restore]
//! strategy = "auto"                     # auto, reflink, hardlink, copy, pack
//! copy_patterns = ["*.db", "/var/log/**"]
//!
//! [ttl]                                 # for gc
//! normal = "30d"
//! short = "24h"
//! ```

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use guestctl::cache::Store;
use guestctl::{Error, Result};
use serde::{Deserialize, Deserializer, Serialize};
use toml::de::{DeTable, DeValue};

use crate::args::{Everywhere, VerifyLevel};
use crate::cmd::cache::How;
use crate::{duration, size};

/// Where a setting comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// An option of the command line.
    Flag,
    /// This environment variable.
    Environment(&'static str),
    /// The settings file.
    File,
    /// Nobody said anything.
    Default,
}

impl Origin {
    /// The word for it in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Flag => "flag",
            Self::Environment(_) => "environment",
            Self::File => "file",
            Self::Default => "default",
        }
    }
}

/// A value, and who said it.
#[derive(Debug, Clone)]
pub struct Setting<T> {
    pub value: T,
    pub origin: Origin,
}

impl<T> Setting<T> {
    /// The first that somebody gave.
    fn first(given: impl IntoIterator<Item = (Origin, Option<T>)>, default: T) -> Self {
        let found = given.into_iter().find_map(|(origin, value)| Some(Self { value: value?, origin }));
        found.unwrap_or(Self { value: default, origin: Origin::Default })
    }

    fn from_file(value: Option<T>, default: T) -> Self {
        Self::first([(Origin::File, value)], default)
    }
}

impl<T> Setting<Option<T>> {
    fn optional(given: impl IntoIterator<Item = (Origin, Option<T>)>) -> Self {
        Self::first(given.into_iter().map(|(origin, value)| (origin, value.map(Some))), None)
    }
}

/// All settings.
#[derive(Debug)]
pub struct Settings {
    /// The file that was read.
    pub file: Option<PathBuf>,
    /// The store's directory; `None` where there is no home directory for one.
    pub cache_dir: Setting<Option<PathBuf>>,
    /// Whether commands use and fill the store.
    pub cache_enabled: Setting<bool>,
    /// What of an object is looked at before it is delivered.
    pub cache_verify: Setting<VerifyLevel>,
    /// Bytes that gc leaves in the store.
    pub cache_max_size: Setting<Option<u64>>,
    /// Days after which gc removes what was not used.
    pub cache_days: Setting<Option<u32>>,
    /// How contents come back.
    pub restore_strategy: Setting<How>,
    /// Files that are copied whatever the strategy.
    pub restore_copy_patterns: Setting<Vec<String>>,
    /// Threads; `None` is as many as there are processors.
    pub jobs: Setting<Option<usize>>,
    /// How long what is of the class normal lives.
    pub ttl_normal: Setting<Option<Duration>>,
    /// The same of the class short.
    pub ttl_short: Setting<Duration>,
}

impl Settings {
    /// Reads the environment, in which a variable without a value is none, and the file.
    pub fn new(everywhere: &Everywhere) -> Result<Self> {
        Self::within(everywhere, &|name| std::env::var_os(name).filter(|value| !value.is_empty()))
    }

    /// The same in any environment.
    pub fn within(everywhere: &Everywhere, variable: Environment<'_>) -> Result<Self> {
        let path = file_path(variable);
        let file = path.as_deref().map(File::read).transpose()?.unwrap_or_default();
        let (cache, restore, ttl) = (file.cache, file.restore, file.ttl);
        let mut cache_dir = Setting::optional([
            (Origin::Flag, everywhere.cache_dir.clone()),
            (Origin::Environment("GUESTCTL_CACHE_DIR"), variable("GUESTCTL_CACHE_DIR").map(PathBuf::from)),
            (Origin::File, cache.dir),
        ]);
        if cache_dir.origin == Origin::Default {
            cache_dir.value = Store::default_directory();
        }
        // rayon's own variable is read as rayon reads it: what is no number is nothing.
        let rayons =
            variable("RAYON_NUM_THREADS").and_then(|text| text.to_str()?.parse().ok()).filter(|jobs| *jobs > 0);
        Ok(Self {
            file: path,
            cache_dir,
            cache_enabled: Setting::first(
                [(Origin::Flag, everywhere.no_cache.then_some(false)), (Origin::File, cache.enabled)],
                true,
            ),
            cache_verify: Setting::first(
                [(Origin::Flag, everywhere.verify_level), (Origin::File, cache.verify)],
                VerifyLevel::default(),
            ),
            cache_max_size: Setting::optional([(Origin::File, cache.max_size)]),
            cache_days: Setting::optional([(Origin::File, cache.days)]),
            restore_strategy: Setting::from_file(restore.strategy, How::default()),
            restore_copy_patterns: Setting::from_file(restore.copy_patterns, Vec::new()),
            jobs: Setting::optional([
                (Origin::Environment("GUESTCTL_JOBS"), jobs_variable(variable)?),
                (Origin::Environment("RAYON_NUM_THREADS"), rayons),
                (Origin::File, file.jobs.map(NonZeroUsize::get)),
            ]),
            ttl_normal: Setting::optional([(Origin::File, ttl.normal)]),
            ttl_short: Setting::from_file(ttl.short, DAY),
        })
    }
}

/// How long what is of the class short lives when nobody says.
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Gives a variable's value by its name.
type Environment<'a> = &'a dyn Fn(&str) -> Option<OsString>;

fn jobs_variable(variable: Environment<'_>) -> Result<Option<usize>> {
    let Some(value) = variable("GUESTCTL_JOBS") else { return Ok(None) };
    let jobs = value.to_str().and_then(|text| text.parse().ok()).filter(|jobs| *jobs > 0);
    let message = || format!("GUESTCTL_JOBS is '{}', expected a number of threads above 0", value.display());
    jobs.map(Some).ok_or_else(|| Error::invalid(message()))
}

/// The settings file: the one that is named, else the first that exists.
fn file_path(variable: Environment<'_>) -> Option<PathBuf> {
    if let Some(named) = variable("GUESTCTL_CONFIG") {
        return Some(named.into());
    }
    let absolute = |name| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let own = absolute("XDG_CONFIG_HOME").or_else(|| Some(absolute("HOME")?.join(".config")));
    let candidates = own.into_iter().chain([PathBuf::from("/etc")]).map(|base| base.join("guestctl/config.toml"));
    // One that is there and cannot be read is an error, not a reason to take the next.
    candidates.into_iter().find(|path| std::fs::symlink_metadata(path).is_ok())
}

/// The file's keys.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    jobs: Option<NonZeroUsize>,
    cache: CacheTable,
    restore: RestoreTable,
    ttl: TtlTable,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct CacheTable {
    #[serde(deserialize_with = "absolute")]
    dir: Option<PathBuf>,
    enabled: Option<bool>,
    verify: Option<VerifyLevel>,
    #[serde(deserialize_with = "bytes")]
    max_size: Option<u64>,
    days: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RestoreTable {
    strategy: Option<How>,
    copy_patterns: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct TtlTable {
    #[serde(deserialize_with = "time")]
    normal: Option<Duration>,
    #[serde(deserialize_with = "time")]
    short: Option<Duration>,
}

fn absolute<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
    let path = PathBuf::deserialize(deserializer)?;
    let message = format!("{} is no absolute path", path.display());
    if path.is_absolute() { Ok(Some(path)) } else { Err(serde::de::Error::custom(message)) }
}

fn bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a size is a number of bytes, or text such as \"50G\"")]
    enum Size {
        Bytes(u64),
        Text(String),
    }
    match Size::deserialize(deserializer)? {
        Size::Bytes(bytes) => Ok(Some(bytes)),
        Size::Text(text) => size::parse(&text).map(Some).map_err(serde::de::Error::custom),
    }
}

fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    duration::parse(&text).map(Some).map_err(serde::de::Error::custom)
}

impl File {
    fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path);
        let text = text.map_err(|error| {
            Error::invalid(format!("cannot read the settings file {}: {error}", path.display()))
                .with_hint("guestctl looks for the file that GUESTCTL_CONFIG names first")
        })?;
        Self::parse(&text).map_err(|(line, what)| {
            Error::invalid(format!("the settings file {}, line {line}: {what}", path.display()))
                .with_hint("guestctl settings --help lists the keys")
        })
    }

    /// What went wrong comes with the number of its line.
    fn parse(text: &str) -> Result<Self, (usize, String)> {
        toml::from_str(text).map_err(|error: toml::de::Error| {
            let at = error.span().map_or(0, |span| span.start);
            let line = text.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count() + 1;
            let key = DeTable::parse(text).ok().and_then(|table| key_at(table.get_ref(), at));
            let named = key.map_or(String::new(), |key| format!("{key}: "));
            (line, format!("{named}{}", error.message()))
        })
    }
}

/// The dotted name of the key that, or whose value, lies at this byte.
fn key_at(table: &DeTable<'_>, at: usize) -> Option<String> {
    let holds = |span: Range<usize>| span.contains(&at);
    table.iter().find_map(|(key, value)| {
        let name = key.get_ref().to_string();
        if let DeValue::Table(inner) = value.get_ref()
            && let Some(rest) = key_at(inner, at)
        {
            return Some(format!("{name}.{rest}"));
        }
        (holds(key.span()) || holds(value.span())).then_some(name)
    })
}

/// A setting as it is shown: its key in the file, its value with the unit in which JSON has it, and where it comes from.
#[derive(Debug, Serialize)]
pub struct Shown {
    pub name: &'static str,
    pub value: serde_json::Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<&'static str>,
    pub origin: &'static str,
    /// The variable, when it comes from the environment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variable: Option<&'static str>,
}

impl Settings {
    /// All of them, by their keys in the file.
    pub fn shown(&self) -> Vec<Shown> {
        let seconds = |time: Duration| time.as_secs();
        vec![
            shown("cache.dir", &self.cache_dir, |dir| dir.as_ref().map(|dir| dir.display().to_string()), None),
            shown("cache.enabled", &self.cache_enabled, |enabled| *enabled, None),
            shown("cache.verify", &self.cache_verify, |level| *level, None),
            shown("cache.max_size", &self.cache_max_size, |bytes| *bytes, Some("bytes")),
            shown("cache.days", &self.cache_days, |days| *days, Some("days")),
            shown("restore.strategy", &self.restore_strategy, |how| *how, None),
            shown("restore.copy_patterns", &self.restore_copy_patterns, Clone::clone, None),
            shown("jobs", &self.jobs, |jobs| jobs.unwrap_or_else(crate::jobs::processors), Some("threads")),
            shown("ttl.normal", &self.ttl_normal, |time| time.map(seconds), Some("seconds")),
            shown("ttl.short", &self.ttl_short, |time| seconds(*time), Some("seconds")),
        ]
    }
}

fn shown<T, V: Serialize>(
    name: &'static str,
    setting: &Setting<T>,
    value: impl Fn(&T) -> V,
    unit: Option<&'static str>,
) -> Shown {
    let variable = if let Origin::Environment(variable) = setting.origin { Some(variable) } else { None };
    let value = serde_json::to_value(value(&setting.value)).unwrap_or_default();
    Shown { name, value, unit, origin: setting.origin.name(), variable }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_read() {
        let text = "jobs = 3\n[cache]\ndir = '/c'\nenabled = false\nverify = 'first-use'\nmax_size = '1G'\ndays = 7\n\
                    [restore]\nstrategy = 'copy'\ncopy_patterns = ['*.db']\n[ttl]\nnormal = '30d'\nshort = '90m'\n";
        let file = File::parse(text).unwrap();
        assert_eq!((file.jobs.map(NonZeroUsize::get), file.cache.dir), (Some(3), Some("/c".into())));
        assert_eq!((file.cache.enabled, file.cache.verify), (Some(false), Some(VerifyLevel::FirstUse)));
        assert_eq!((file.cache.max_size, file.cache.days), (Some(1 << 30), Some(7)));
        assert_eq!((file.restore.strategy, file.restore.copy_patterns), (Some(How::Copy), Some(vec!["*.db".into()])));
        assert_eq!((file.ttl.normal, file.ttl.short), (Some(DAY * 30), Some(Duration::from_secs(5400))));
        assert_eq!(File::parse("[cache]\nmax_size = 5\n").unwrap().cache.max_size, Some(5));
        assert!(File::parse("").unwrap().cache.dir.is_none());
    }

    #[test]
    fn mistakes_name_line_and_key() {
        for (text, line, words) in [
            ("jobs = 0\n", 1, ["jobs: ", "nonzero"]),
            ("\n[cache]\nsize = 1\n", 3, ["cache.size: ", "unknown field `size`"]),
            ("[cash]\n", 1, ["cash: ", "unknown field `cash`"]),
            ("[cache]\nenabled = true\ndays = 'x'\n", 3, ["cache.days: ", "invalid type"]),
            ("[cache]\ndir = 'x'\n", 2, ["cache.dir: ", "no absolute path"]),
            ("[cache]\nmax_size = '5Q'\n", 2, ["cache.max_size: ", "a size is a number with"]),
            ("[cache]\nmax_size = []\n", 2, ["cache.max_size: ", "such as \"50G\""]),
            ("[ttl]\n\nshort = 'soon'\n", 3, ["ttl.short: ", "a time"]),
            ("[restore]\nstrategy = 'best'\n", 2, ["restore.strategy: ", "unknown variant `best`"]),
            ("[restore]\ncopy_patterns = [\n'a',\n1]\n", 4, ["restore.copy_patterns: ", "invalid type"]),
            ("jobs = 1\njobs = 2\n", 2, ["", "duplicate key"]),
            ("[cache\n", 1, ["", ""]),
        ] {
            let (at, what) = File::parse(text).unwrap_err();
            assert!(at == line && what.starts_with(words[0]) && what.contains(words[1]), "{text:?}: {at}: {what}");
        }
    }
}
