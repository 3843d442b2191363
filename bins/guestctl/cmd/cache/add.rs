//! `guestctl cache add`

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::{Args, FromArgMatches};
use guestctl::cache::{
    ActionKey, Class, Digest, Durability, Effort, Event, EventKind, ImageId, Ref, Store, name_from, nanoseconds_since,
};
use guestctl::fs::GuestPath;
use guestctl::ops::{self, CacheAddOptions, CacheAdded, Profile};
use guestctl::{Error, Guestfs, Result};

use crate::args::{BulkArgs, GuestArgs};
use crate::context::Context;
use crate::exit::{self, Outcome};
use crate::progress::Shown;
use crate::{jobs, print};

/// Add a guest's tree: walked, hashed and stored in one pass; contents are cloned out of the image where the host can.
#[derive(Debug, Args)]
pub struct Add {
    #[command(flatten)]
    guest: GuestArgs,
    /// The guest directory.
    #[arg(long, default_value = "/", value_name = "DIRECTORY")]
    directory: String,
    /// Look at the guest, whatever is known of the image.
    #[arg(long)]
    no_memo: bool,
    #[command(flatten)]
    store: AddArgs,
    #[command(flatten)]
    bulk: BulkArgs,
}

/// What adding takes from wherever.
#[derive(Debug, Args)]
pub struct AddArgs {
    /// The tree's name in the cache; without it the image's.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Leave out what this set names: logs, pkg-cache, docs, locales, tmp, swap, bytecode, build-artifacts; repeatable.
    #[arg(long, value_name = "SET")]
    profile: Vec<Profile>,
    /// Leave out what matches the patterns in this file; ./.guestctlignore when it exists.
    #[arg(long, value_name = "FILE")]
    ignore_file: Option<PathBuf>,
    /// How long the tree lives: normal as long as gc's days and size allow; short a day, or what the settings say; pinned for
    /// ever. Without it as what had the name, else normal.
    #[arg(long, value_enum, value_name = "CLASS")]
    class: Option<Lives>,
    /// What to wait for: none, batch, full.
    #[arg(long, value_enum, default_value_t = Wait::Batch)]
    durability: Wait,
    /// Print what was done as JSON.
    #[arg(long)]
    json: bool,
    /// Show no progress.
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Wait {
    None,
    Batch,
    Full,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Lives {
    Normal,
    Short,
    Pinned,
}

impl AddArgs {
    /// The library's options; `source` names the tree when nothing else does.
    pub fn options(&self, bulk: &BulkArgs, source: &Path) -> Result<CacheAddOptions> {
        let mut bulk = bulk.clone();
        bulk.entries.exclude.splice(0..0, self.ignored()?);
        let mut options = CacheAddOptions::default();
        options.filter = bulk.filter()?;
        options.profiles.clone_from(&self.profile);
        options.profiles.sort_unstable();
        options.profiles.dedup();
        options.import.durability = match self.durability {
            Wait::None => Durability::None,
            Wait::Batch => Durability::Batch,
            Wait::Full => Durability::Full,
        };
        let name = match &self.name {
            Some(name) => name.clone(),
            None => name_from(&source.file_name().unwrap_or(source.as_os_str()).to_string_lossy()),
        };
        let mut reference = Ref::new("trees", &name, Digest::of(b""))?;
        reference.source.insert("source".to_owned(), source.display().to_string());
        let excludes = bulk.entries.exclude.iter().map(|pattern| format!("exclude {pattern}"));
        let rules: Vec<String> =
            excludes.chain(bulk.entries.include.iter().map(|pattern| format!("include {pattern}"))).collect();
        if !rules.is_empty() {
            reference.source.insert("rules".to_owned(), rules.join("\n"));
        }
        if !options.profiles.is_empty() {
            let names: Vec<_> = options.profiles.iter().map(|profile| profile.name()).collect();
            reference.source.insert("profiles".to_owned(), names.join(","));
        }
        options.reference = Some(reference);
        Ok(options)
    }

    /// Decides the class of the tree's name.
    pub fn classify(&self, store: &Store, options: &mut CacheAddOptions) -> Result<()> {
        let Some(reference) = &mut options.reference else { return Ok(()) };
        reference.class = match self.class {
            Some(Lives::Normal) => Class::Normal,
            Some(Lives::Short) => Class::Short,
            Some(Lives::Pinned) => Class::Pinned,
            None => {
                let before = store.get_ref(&reference.namespace, &reference.name)?;
                before.map_or(Class::Normal, |before| before.class)
            }
        };
        Ok(())
    }

    /// The patterns of the ignore file.
    fn ignored(&self) -> Result<Vec<String>> {
        let path = self.ignore_file.clone().unwrap_or_else(|| PathBuf::from(".guestctlignore"));
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if self.ignore_file.is_none() && error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(Error::io("read", path.display(), error)),
        };
        let lines = text.lines().map(str::trim_end).filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
        Ok(lines.map(str::to_owned).collect())
    }

    pub fn progress(&self) -> Shown {
        Shown::new("cache add").quiet(self.quiet)
    }

    /// Says what was added.
    pub fn report(&self, added: &CacheAdded) -> Outcome {
        if self.json {
            print::json(added)?;
            return exit::partial(&added.problems);
        }
        let report = &added.imported.report;
        let count = |count: u64, bytes: u64| format!("{count} ({})", print::human(bytes));
        let mut rows = vec![
            ("tree", added.imported.tree.to_string()),
            ("entries", report.entries.to_string()),
            ("files", count(report.files, report.file_bytes)),
            ("new", count(report.new_blobs, report.new_bytes)),
            ("known", count(report.deduplicated_files, report.deduplicated_bytes)),
            ("cloned", count(report.cloned_blobs, report.cloned_bytes)),
            ("packed", report.packed_blobs.to_string()),
            ("inline", report.inline_files.to_string()),
        ];
        if added.hit {
            rows.truncate(2);
            rows.push(("image", "as before: the guest was not looked at".to_owned()));
        }
        for skipped in &added.skipped {
            rows.push(("left out", format!("{}: {}", skipped.profile, count(skipped.files, skipped.bytes))));
        }
        let rows: Vec<_> = rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect();
        print::table(&["ADDED", ""], &[false, false], &rows)?;
        exit::partial(&added.problems)
    }
}

impl Add {
    pub fn run(self, context: &Context) -> Outcome {
        let store = context.open_or_init()?;
        let added = self.added(&store, context)?;
        self.store.report(&added)
    }

    /// Adds the guest, or finds that it is there.
    pub fn added(&self, store: &Store, context: &Context) -> Result<CacheAdded> {
        let asked = Instant::now();
        let mut options = self.store.options(&self.bulk, self.guest.image())?;
        self.store.classify(store, &mut options)?;
        if !self.no_memo
            && let Some((key, images)) = self.key(store, &options, context)?
        {
            (options.key, options.images) = (Some(key), images);
        }
        let subject = self.guest.image().display().to_string();
        // Of several that want the same tree at once one makes it.
        let _flight = options.key.as_ref().map(|key| store.flight(key));
        if let Some(known) = ops::cache_known(store, &options, &subject, asked)? {
            return Ok(known);
        }
        let started = Instant::now();
        let mounts = self.guest.mounted()?.mount_table()?;
        let directory = GuestPath::parse(&self.directory)?;
        let progress = self.store.progress();
        let added = jobs::install(context.jobs(self.bulk.jobs), || {
            ops::cache_add(store, &mounts, &directory, &options, &progress)
        })??;
        drop(progress);
        let mut event = Event::new(EventKind::Add, "tree");
        event.key = added.imported.tree.to_string();
        event.subject = subject;
        event.bytes = added.imported.report.file_bytes;
        event.duration_ns = nanoseconds_since(started);
        store.note(&event);
        Ok(added)
    }

    /// The tree that the same image and options gave before. Nothing is written for it.
    pub fn known(&self, store: &Store, context: &Context) -> Result<Option<Digest>> {
        let Some((key, _)) = self.key(store, &self.options()?, context)? else { return Ok(None) };
        Ok(store.action(&key)?.and_then(|action| action.trees.first().copied()))
    }

    /// The guest.
    pub fn mounted(&self) -> Result<Guestfs> {
        self.guest.mounted()
    }

    /// The command for an image alone, all else as by default.
    pub fn of_image(image: &std::ffi::OsStr) -> Result<Self> {
        let command = Self::augment_args(clap::Command::new("add"));
        let arguments = ["add".as_ref(), "--quiet".as_ref(), "--".as_ref(), image];
        let matches = command.try_get_matches_from(arguments);
        let add = matches.and_then(|mut matches| Self::from_arg_matches_mut(&mut matches));
        add.map_err(|error| Error::invalid(error.to_string()))
    }

    /// The library's options.
    pub fn options(&self) -> Result<CacheAddOptions> {
        self.store.options(&self.bulk, self.guest.image())
    }

    /// What decides the tree. `None` when an image has no id.
    pub fn key(
        &self,
        store: &Store,
        options: &CacheAddOptions,
        context: &Context,
    ) -> Result<Option<(ActionKey, Vec<ImageId>)>> {
        let images = &self.guest.images;
        let open = images.open.options()?;
        let mut ids = Vec::new();
        for image in std::iter::once(&images.image).chain(&images.more) {
            let id = jobs::install(context.jobs(self.bulk.jobs), || store.image_id(image, &open, Effort::Whole))??;
            let Some(id) = id else { return Ok(None) };
            ids.push(id);
        }
        let reference = options.reference.as_ref();
        let source = |name: &str| reference.and_then(|found| found.source.get(name)).cloned().unwrap_or_default();
        let parts = [
            ("image", ids.iter().map(|id| id.digest().hex()).collect::<Vec<_>>().join(",")),
            ("format", images.open.format.map_or("probed", guestctl::block::ImageFormat::name).to_owned()),
            ("mounts", self.guest.mount.join("\n")),
            ("directory", self.directory.clone()),
            ("rules", source("rules")),
            ("profiles", source("profiles")),
        ];
        Ok(Some((ActionKey::new("tree", ops::CACHE_ADD_REVISION, parts), ids)))
    }
}
