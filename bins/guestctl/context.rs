//! What every subcommand is given beside its own arguments: the settings, and the store that they name.

use std::ffi::OsString;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use guestctl::cache::Store;
use guestctl::{Error, Result};

use crate::args::Everywhere;
use crate::exit;
use crate::settings::{Origin, Settings};

/// The settings, and the store that they name. Nothing is opened before it is asked for.
#[derive(Debug)]
pub struct Context {
    pub settings: Settings,
    warned: AtomicBool,
}

impl Context {
    /// Reads the environment and the settings file.
    pub fn new(everywhere: &Everywhere) -> Result<Self> {
        Ok(Self { settings: Settings::new(everywhere)?, warned: AtomicBool::new(false) })
    }

    /// The store's directory.
    pub fn directory(&self) -> Result<&Path> {
        let directory = self.settings.cache_dir.value.as_deref();
        directory
            .ok_or_else(|| Error::invalid("there is no directory for the cache").with_hint("name one with --cache-dir"))
    }

    /// Whether the command line says that the cache is to be left alone.
    pub fn is_without_cache(&self) -> bool {
        let enabled = &self.settings.cache_enabled;
        !enabled.value && enabled.origin == Origin::Flag
    }

    /// The store, for commands that are about it; it must be there.
    pub fn open(&self) -> Result<Store> {
        Ok(Store::open(self.directory()?)?.with_verification(self.settings.cache_verify.value.into()))
    }

    /// The same; it is made if need be.
    pub fn open_or_init(&self) -> Result<Store> {
        Ok(Store::open_or_init(self.directory()?)?.with_verification(self.settings.cache_verify.value.into()))
    }

    /// The store, for commands that are faster with one: `None` when it is switched off, or when none was named and there is
    /// none in the default place. One that was named is made when it is not there. When it cannot be opened or made the user
    /// is told so once, and the command does without.
    ///
    /// A store that can only be read is given, too: ask [`Store::is_writable`] before anything is kept.
    #[allow(dead_code, reason = "commands that keep what they find use it, and none does yet")]
    pub fn store(&self) -> Option<Store> {
        let Settings { cache_enabled, cache_dir, .. } = &self.settings;
        let directory = cache_dir.value.as_deref().filter(|_| cache_enabled.value)?;
        let is_named = cache_dir.origin != Origin::Default;
        if !is_named && !directory.join("VERSION.json").exists() {
            return None;
        }
        let opened = if is_named { self.open_or_init() } else { self.open() };
        opened.map_err(|error| self.do_without(&error)).ok()
    }

    /// Says, once, that the command does without the cache, and why.
    pub fn do_without(&self, why: &Error) {
        if !self.warned.swap(true, Ordering::Relaxed) {
            let directory = self.settings.cache_dir.value.as_deref().unwrap_or(Path::new("")).display();
            exit::say(&format!("warning: going on without the cache {directory}: {why}"));
        }
    }

    /// Threads: as a command's own option says, else as the environment or the file does; `None` is one for each processor.
    pub fn jobs(&self, option: Option<usize>) -> Option<usize> {
        option.or(self.settings.jobs.value)
    }

    /// The options of the command line that every subcommand takes, for another guestctl that this one starts.
    pub fn arguments(&self) -> Vec<OsString> {
        let Settings { cache_dir, cache_verify, .. } = &self.settings;
        let mut arguments = Vec::new();
        if self.is_without_cache() {
            arguments.push("--no-cache".into());
        }
        if let (Origin::Flag, Some(directory)) = (cache_dir.origin, &cache_dir.value) {
            arguments.extend(["--cache-dir".into(), directory.into()]);
        }
        if cache_verify.origin == Origin::Flag {
            arguments.extend(["--verify-level".into(), cache_verify.value.name().into()]);
        }
        arguments
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(everywhere: Everywhere, variables: &[(&str, &Path)]) -> Context {
        let known = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).into());
        let settings = Settings::within(&everywhere, &known).unwrap();
        Context { settings, warned: AtomicBool::new(false) }
    }

    fn nothing() -> Everywhere {
        Everywhere { verbose: false, no_cache: false, cache_dir: None, verify_level: None }
    }

    #[test]
    fn a_named_store_is_made_and_one_that_nobody_named_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let (named, other) = (dir.path().join("named"), dir.path().join("other"));
        let flag = Everywhere { cache_dir: Some(named.clone()), ..nothing() };
        assert!(context(Everywhere { no_cache: true, ..flag }, &[]).store().is_none());
        assert!(!named.exists());
        let flag = Everywhere { cache_dir: Some(named.clone()), ..nothing() };
        assert_eq!(context(flag, &[("GUESTCTL_CACHE_DIR", &other)]).store().unwrap().path(), named);
        assert!(context(nothing(), &[("GUESTCTL_CACHE_DIR", &other)]).store().is_some());
        let config = dir.path().join("config.toml");
        let set = |text: String| std::fs::write(&config, text).unwrap();
        let from_file = || context(nothing(), &[("GUESTCTL_CONFIG", &config)]).store();
        set(format!("[cache]\ndir = '{}'\n", dir.path().join("third").display()));
        assert!(from_file().is_some() && dir.path().join("third/VERSION.json").exists());
        set(format!("[cache]\nenabled = false\ndir = '{}'\n", dir.path().join("third").display()));
        assert!(from_file().is_none());
    }

    #[test]
    fn a_store_that_cannot_be_opened_is_done_without() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("VERSION.json"), "{").unwrap();
        let context = context(nothing(), &[("GUESTCTL_CACHE_DIR", dir.path())]);
        assert!(context.store().is_none() && context.store().is_none());
        assert!(context.warned.load(Ordering::Relaxed));
        let file = dir.path().join("VERSION.json/below");
        let below = super::tests::context(nothing(), &[("GUESTCTL_CACHE_DIR", &file)]);
        assert!(below.store().is_none() && below.warned.load(Ordering::Relaxed));
    }

    #[test]
    fn options_are_handed_on_and_nothing_else() {
        let variables = [("GUESTCTL_CACHE_DIR", Path::new("/a"))];
        assert!(context(nothing(), &variables).arguments().is_empty());
        let level = Some(crate::args::VerifyLevel::FirstUse);
        let all = Everywhere { verbose: true, no_cache: true, cache_dir: Some("/b".into()), verify_level: level };
        let expected = ["--no-cache", "--cache-dir", "/b", "--verify-level", "first-use"];
        assert_eq!(context(all, &variables).arguments(), expected);
    }
}
