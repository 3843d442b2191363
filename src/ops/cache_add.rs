//! A guest's tree into the cache: walked, hashed and stored in one pass on all cores.
//!
//! Contents that lie unchanged in the image's file are cloned into the store where the host can share storage: hashed, and
//! not copied.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use serde::Serialize;

use super::bulk::{Batch, Content, Member, Wants, for_each_batch};
use super::cache_profile::{Matcher, Profile, Skipped};
use super::filter::{Filter, Verdict};
use super::problems::{Problem, Problems};
use super::walk::{Entry, EntrySink, Flow, Visited, walk};
use crate::cache::{
    Action, ActionKey, Class, Described, Digest, Event, EventKind, ImageId, Import, ImportOptions, ImportReport,
    Imported, Origins, Prepared, Ref, Source, Store, nanoseconds_since,
};
use crate::error::{Error, ErrorKind, PathProblem, Result};
use crate::fs::{FileType, Follow, GuestPath, Location, MountTable};
use crate::progress::Progress;

/// What goes into the cache.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct CacheAddOptions {
    /// Which entries.
    pub filter: Filter,
    /// What is left out beside that.
    pub profiles: Vec<Profile>,
    /// How the tree is stored.
    pub import: ImportOptions,
    /// Its name in the cache; without one it goes with the next gc.
    pub reference: Option<Ref>,
    /// What decides the tree, when that is known: the same key gives the same tree without looking at the guest.
    pub key: Option<ActionKey>,
    /// The images of the key: when one changes while it is read, nobody is told that this tree is that key's.
    pub images: Vec<ImageId>,
}

/// What was added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CacheAdded {
    /// The tree, and what storing it took.
    #[serde(flatten)]
    pub imported: Imported,
    /// Whether the guest was not looked at, because the image and all that decides were the same before.
    pub hit: bool,
    /// What each profile left out.
    pub skipped: Vec<Skipped>,
    /// What could not be read and is missing in the tree.
    pub problems: Problems,
}

/// Counts what one profile leaves out.
struct Counted {
    matcher: Matcher,
    files: AtomicU64,
    bytes: AtomicU64,
}

/// The revision of what [`cache_add`] makes of the same guest; part of keys.
pub const CACHE_ADD_REVISION: u32 = 1;

/// Names the tree that the same image and options gave before. `None` when there is none; the event log then has the cause.
/// `asked` is when the caller began to look, which is more than this: the image's id may have taken longer.
pub fn cache_known(
    store: &Store,
    options: &CacheAddOptions,
    subject: &str,
    asked: Instant,
) -> Result<Option<CacheAdded>> {
    let Some(key) = &options.key else { return Ok(None) };
    let found = store.action(key)?;
    let known = found.as_ref().and_then(|action| {
        let tree = action.trees.first()?;
        match named(store, tree, options) {
            Ok(known) => Some(known),
            // What is damaged or gone is made again.
            Err(error) => {
                log::warn!("{error}: the tree is made again");
                None
            }
        }
    });
    let mut event = Event::new(if known.is_some() { EventKind::Hit } else { EventKind::Miss }, &key.operation);
    (event.key, event.subject) = (key.digest().hex(), subject.to_owned());
    match (&known, found) {
        (Some(known), Some(action)) => {
            (event.duration_ns, event.bytes) = (action.duration_ns, store.tree_bytes(&known.imported.tree)?);
            event.took_ns = nanoseconds_since(asked);
        }
        (_, Some(_)) => "damaged".clone_into(&mut event.cause),
        _ => store.explain(key)?.cause.clone_into(&mut event.cause),
    }
    store.note(&event);
    Ok(known)
}

/// The tree under its new name.
fn named(store: &Store, tree: &Digest, options: &CacheAddOptions) -> Result<CacheAdded> {
    let manifest = store.tree(tree)?;
    if let Some(reference) = &options.reference {
        store.set_ref(&Ref { tree: *tree, ..reference.clone() })?;
        if let Some(key) = &options.key {
            store.set_action_class(key, reference.class)?;
        }
    }
    let report = ImportReport { entries: u64::from(manifest.len()), ..ImportReport::default() };
    let imported = Imported { tree: *tree, subtree: manifest.directory(0)?.subtree, known: true, report };
    Ok(CacheAdded { imported, hit: true, skipped: Vec::new(), problems: Problems::default() })
}

/// Adds the guest directory `directory` to the store, on all threads of the caller's pool. What cannot be read is left out
/// and reported; an error is about everything else, and adds nothing.
pub fn cache_add(
    store: &Store,
    mounts: &MountTable,
    directory: &GuestPath,
    options: &CacheAddOptions,
    progress: &dyn Progress,
) -> Result<CacheAdded> {
    let start = mounts.resolve(directory, Follow::Links)?;
    if start.metadata()?.file_type != FileType::Dir {
        return Err(Error::path(directory.as_bytes(), PathProblem::NotADirectory));
    }
    if let Ok(statfs) = mounts.root()?.fs.statfs() {
        // An estimate: what is in use on the root filesystem.
        progress.set_total(statfs.blocks.saturating_sub(statfs.blocks_free).saturating_mul(statfs.block_size));
    }
    let count = |profile: &Profile| {
        Ok(Counted { matcher: Matcher::new(*profile)?, files: AtomicU64::new(0), bytes: AtomicU64::new(0) })
    };
    let profiles = options.profiles.iter().map(count).collect::<Result<Vec<Counted>>>()?;
    let started = Instant::now();
    let import = store.import(options.import)?;
    let keep = |visited: &Visited| verdict(mounts, visited, options, &profiles);
    let mut more = Problems::default();
    let mut links = Links::default();
    let deliver = |prepared: Vec<Ready>| {
        for ready in prepared {
            push(&import, ready, &mut links, &mut more)?;
        }
        Ok(())
    };
    let origins = store.origins(&options.images);
    let work =
        |batch: &Batch| batch.members.iter().map(|member| ready(&import, &origins, batch, member, progress)).collect();
    let wants = Wants { contents: true, links: false, xattrs: true, origins: Some(&origins) };
    let mut problems = for_each_batch(mounts, &start, wants, &keep, work, deliver, progress)?;
    problems.listed.extend(more.listed);
    problems.count += more.count;
    let imported = import.finish(options.reference.as_ref())?;
    store.keep_origins(&origins, &options.images);
    let skipped = profiles.iter().map(|counted| Skipped {
        profile: counted.matcher.profile,
        files: counted.files.load(Ordering::Relaxed),
        bytes: counted.bytes.load(Ordering::Relaxed),
    });
    let unchanged = options.images.iter().all(ImageId::is_unchanged);
    if let Some(key) = options.key.clone().filter(|_| problems.is_empty() && unchanged) {
        let (duration_ns, trees) = (nanoseconds_since(started), vec![imported.tree]);
        let class = options.reference.as_ref().map_or(Class::Normal, |reference| reference.class);
        let action = Action { class, ..Action::new(key, trees, String::new(), duration_ns) };
        store.keep_action(&action)?;
    }
    Ok(CacheAdded { imported, hit: false, skipped: skipped.collect(), problems })
}

fn verdict(mounts: &MountTable, visited: &Visited, options: &CacheAddOptions, profiles: &[Counted]) -> Verdict {
    let path = visited.location.path.as_bytes();
    let is_dir = visited.metadata.file_type == FileType::Dir;
    let verdict = options.filter.matches(path, is_dir);
    if verdict == Verdict::Skip || visited.relative.is_empty() {
        return verdict;
    }
    match profiles.iter().find(|counted| counted.matcher.leaves_out(path, is_dir)) {
        Some(counted) => {
            let mut tally = Tally::default();
            // What is in a directory that is left out is counted by its metadata; what cannot be read is not.
            let _ = walk(mounts, &visited.location, &mut tally);
            counted.files.fetch_add(tally.files, Ordering::Relaxed);
            counted.bytes.fetch_add(tally.bytes, Ordering::Relaxed);
            Verdict::Skip
        }
        None => verdict,
    }
}

#[derive(Default)]
struct Tally {
    files: u64,
    bytes: u64,
}

impl EntrySink for Tally {
    fn entry(&mut self, entry: &Entry<'_>) -> Result<Flow> {
        if entry.metadata.file_type == FileType::File {
            self.files += 1;
            self.bytes = self.bytes.saturating_add(entry.metadata.size);
        }
        Ok(Flow::Continue)
    }

    fn problem(&mut self, _path: &GuestPath, _error: Error) -> Result<()> {
        Ok(())
    }
}

/// One entry with its content, or why there is none.
struct Ready {
    described: Described,
    first: Option<Vec<u8>>,
    prepared: Result<Prepared, Problem>,
}

fn ready(
    import: &Import<'_>,
    origins: &Origins,
    batch: &Batch,
    member: &Member,
    progress: &dyn Progress,
) -> Result<Ready> {
    let described = Described {
        path: member.relative.clone(),
        metadata: member.metadata.clone(),
        xattrs: member.xattrs.clone(),
        link: None,
    };
    let prepared = through_origin(import, origins, batch, member);
    if member.metadata.file_type == FileType::File {
        progress.advance(member.metadata.size);
    }
    let prepared = match prepared {
        Ok(prepared) => Ok(prepared),
        // The host's trouble, the cache's among it, ends the work; the guest's costs the file.
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::Corrupt(_) | ErrorKind::Unsupported { .. } | ErrorKind::Path { .. }
            ) =>
        {
            Err(Problem::new(member.location.path.as_bytes(), &error))
        }
        Err(error) => return Err(error.at_path(member.location.path.as_bytes())),
    };
    Ok(Ready { described, first: member.hard_link.clone(), prepared })
}

/// The content as it is known by its place, else read, and then known.
fn through_origin(import: &Import<'_>, origins: &Origins, batch: &Batch, member: &Member) -> Result<Prepared> {
    let Some(origin) = &member.origin else { return prepare(import, batch, member) };
    if let Some((digest, len)) = origins.known(origin) {
        if len == member.metadata.size
            && let Some(prepared) = import.reuse(digest, len)?
        {
            return Ok(prepared);
        }
        // It is in no store any more: the batch has not read it.
        return import.prepare(Source::Device(&open(&member.location)?));
    }
    let prepared = prepare(import, batch, member)?;
    if let Some((digest, len)) = prepared.blob() {
        origins.learn(origin, digest, len);
    }
    Ok(prepared)
}

fn prepare(import: &Import<'_>, batch: &Batch, member: &Member) -> Result<Prepared> {
    if member.hard_link.is_some() {
        return Ok(Prepared::linked());
    }
    if let Some(target) = &member.target {
        return Ok(Prepared::target(target.clone()));
    }
    if member.metadata.encrypted && member.metadata.file_type == FileType::File {
        return Err(Error::path(member.location.path.as_bytes(), PathProblem::Encrypted));
    }
    let store = import.store();
    match batch.content(member) {
        Content::Nothing => Ok(Prepared::nothing()),
        Content::Bytes(_) if !member.unread.is_empty() => Err(Error::corrupt(
            "guest",
            "file content",
            0,
            "bytes that cannot be read",
            "a file that can be read whole",
        )),
        Content::Bytes(bytes) if has_holes(member, bytes) => import.prepare(Source::Device(&open(&member.location)?)),
        Content::Bytes(bytes)
            if bytes.len() as u64 >= store.version().pack_threshold_bytes && store.version().reflink =>
        {
            import.prepare(Source::Both(bytes, &open(&member.location)?))
        }
        Content::Bytes(bytes) => import.prepare(Source::Bytes(bytes)),
        Content::Device(device) => import.prepare(Source::Device(device)),
    }
}

fn open(location: &Location) -> Result<std::sync::Arc<dyn crate::block::BlockDevice>> {
    location.fs.open(location.inode)
}

/// Whether the guest has allocated less for a small file than it has bytes, in whole blocks.
fn has_holes(member: &Member, bytes: &[u8]) -> bool {
    let allocated = member.metadata.blocks.saturating_mul(512);
    bytes.len() > 4096 && allocated.saturating_add(4096) <= bytes.len() as u64
}

/// Numbers of files with several names, by the path of the first.
#[derive(Default)]
struct Links {
    numbers: HashMap<Vec<u8>, u64>,
    /// First names of files that were left out.
    lost: HashSet<Vec<u8>>,
}

fn push(import: &Import<'_>, ready: Ready, links: &mut Links, problems: &mut Problems) -> Result<()> {
    let Ready { mut described, first, prepared } = ready;
    let lost = |described: &Described, message: &str| {
        Problem::new(
            &[b"/", &described.path[..]].concat(),
            &Error::corrupt("guest", "entry", 0, message, "a whole tree"),
        )
    };
    if !import.has_parent(&described.path) {
        problems.push(lost(&described, "a directory that could not be read"));
        return Ok(());
    }
    let prepared = match prepared {
        Ok(prepared) => prepared,
        Err(problem) => {
            problems.push(problem);
            links.lost.insert(described.path);
            return Ok(());
        }
    };
    let several = described.metadata.nlink > 1 && described.metadata.file_type != FileType::Dir;
    if let Some(first) = first.as_ref().or(several.then_some(&described.path)) {
        if links.lost.contains(first) {
            problems.push(lost(&described, "another name of a file that could not be read"));
            return Ok(());
        }
        let next = links.numbers.len() as u64;
        described.link = Some(*links.numbers.entry(first.clone()).or_insert(next));
    }
    import.push(described, prepared)
}
