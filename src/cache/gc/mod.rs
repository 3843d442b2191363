//! Removing what nothing refers to, while everybody goes on.
//!
//! ```text
//! expire    refs and results that are too old, or too many for the store's size, the least recently used first
//! mark      trees from refs, results and leases; blobs from their manifests
//! condemn   the rest into trash/<epoch>/, in slices; between two slices publishers have their turn
//! compact   packs that are mostly dead: what lives is packed anew
//! sweep     hot trees whose trees were condemned, or that were not used for long
//! delete    epochs whose grace is over, and that are older than every living lease
//! ```
//!
//! A slice has the turn alone, and looks at roots and leases again first: what was published since the mark lives. What a
//! publisher relies on and finds condemned it brings back, in its own turn. Readers find what is condemned in the trash.
//! So nothing waits for gc longer than a slice, and readers not at all. Interrupted anywhere, the next gc goes on.

mod compact;
mod mark;

use std::path::Path;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::events::{Event, EventKind, nanoseconds_since};
use super::refs::Class;
use super::store::Store;
use super::{Digest, Lease, lease, trash};
use crate::error::{Error, Result};
use mark::Live;

/// What gc may remove.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GcOptions {
    /// Refs and results that were not used for so many days go.
    pub days: Option<u32>,
    /// When the store has more bytes than this, the least recently used go until it has at most `low_water` of it.
    pub max_size: Option<u64>,
    /// In percent of `max_size`.
    pub low_water: u8,
    /// How long refs and results live, used or not.
    pub lifetimes: Lifetimes,
    /// How long what was condemned can still be brought back.
    pub grace: Duration,
    /// Only tell.
    pub dry_run: bool,
}

impl Default for GcOptions {
    fn default() -> Self {
        let grace = Duration::from_secs(24 * 3600);
        Self { days: None, max_size: None, low_water: 80, lifetimes: Lifetimes::default(), grace, dry_run: false }
    }
}

/// How long what has a [`Class`] lives after it was made. What is pinned lives for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetimes {
    /// Of the class normal; `None` is for ever.
    pub normal: Option<Duration>,
    /// Of the class short.
    pub short: Duration,
}

impl Default for Lifetimes {
    fn default() -> Self {
        Self { normal: None, short: Duration::from_secs(24 * 3600) }
    }
}

impl Lifetimes {
    /// Whether what was made then, in seconds since 1970, has outlived its class.
    fn are_over(&self, class: Class, created: i64) -> bool {
        let lifetime = match class {
            Class::Normal => self.normal,
            Class::Short => Some(self.short),
            Class::Pinned => None,
        };
        let age = u64::try_from(super::now().saturating_sub(created)).unwrap_or(0);
        lifetime.is_some_and(|lifetime| Duration::from_secs(age) > lifetime)
    }
}

/// What gc did, or would do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct GcReport {
    /// Bytes of objects, packs, trees and hot trees before.
    pub store_bytes: u64,
    /// Refs that expired.
    pub expired_refs: u64,
    /// Results that expired.
    pub expired_actions: u64,
    /// Trees that are in use.
    pub live_trees: u64,
    /// Blobs that are in use.
    pub live_blobs: u64,
    /// Trees that were condemned.
    pub condemned_trees: u64,
    /// Objects that were condemned.
    pub condemned_objects: u64,
    /// Packs that were condemned.
    pub condemned_packs: u64,
    /// Bytes of all of those.
    pub condemned_bytes: u64,
    /// Packs that were made anew from what lived in condemned ones.
    pub compacted_packs: u64,
    /// Epochs of the trash that were deleted.
    pub deleted_epochs: u64,
    /// Their bytes.
    pub deleted_bytes: u64,
    /// Staging directories of programs that died.
    pub abandoned_stagings: u64,
    /// Variants that no tree uses.
    pub removed_variants: u64,
    /// Hot trees that were removed.
    pub removed_subvolumes: u64,
    /// The longest time that a publisher could have waited.
    pub longest_slice_ns: u64,
}

/// How long a turn may last.
const SLICE_TIME: Duration = Duration::from_millis(40);
/// How long there is none between two, so that who waits for his has it.
const PAUSE: Duration = Duration::from_millis(1);
/// A record or variant of this age is nobody's work any more.
const STALE: Duration = Duration::from_secs(3600);

/// Something to be condemned.
#[derive(Debug, Clone, Copy)]
enum Candidate {
    Tree(Digest),
    Object(Digest, bool),
    Pack(Digest),
}

impl Store {
    /// Removes what nothing refers to.
    pub fn gc(&self, options: &GcOptions) -> Result<GcReport> {
        self.check_writable()?;
        let mut report = GcReport::default();
        let newest = || trash::epochs(self.path()).last().copied().unwrap_or(0);
        let lease = if options.dry_run { None } else { Some(Lease::for_gc(self.path(), newest)?) };
        self.remove_abandoned(options, &mut report)?;
        let candidates = self.candidates(&mut report)?;
        let expired = mark::expire(self, options, &mut report)?;
        if !options.dry_run {
            // Before anything that they name is condemned: a gc that is killed leaves no ref to what may be deleted.
            mark::remove_expired(self, &expired, &mut report)?;
        }
        let mut live = Live::mark(self, &expired)?;
        (report.live_trees, report.live_blobs) = (live.trees.len() as u64, live.blobs.len() as u64);
        let epoch = if options.dry_run { newest() } else { trash::begin(self.path())? };
        let directory = trash::directory(self.path(), epoch);
        // What lives now goes on living; the turns are for the rest.
        let candidates: Vec<_> = candidates.into_iter().filter(|(candidate, _)| !live.has(self, candidate)).collect();
        let condemn = |live: &mut Live, (candidate, bytes): &(Candidate, u64), report: &mut GcReport| {
            if live.has(self, candidate) {
                Ok(())
            } else {
                self.condemn(candidate, *bytes, &directory, options, report)
            }
        };
        if options.dry_run {
            candidates.iter().try_for_each(|candidate| condemn(&mut live, candidate, &mut report))?;
        } else {
            let mark = |live: &mut Live| live.mark_new(self, &expired);
            self.in_turns(&candidates, &mut live, &mut report, mark, condemn)?;
        }
        live.mark_new(self, &expired)?;
        let keeps = |name: &str, tree: &Digest| live.trees.contains(tree) && !expired.has_subvolume(name);
        report.removed_subvolumes = self.sweep_subvolumes(&keeps, options.dry_run)?;
        if !options.dry_run {
            self.sweep_proofs(&live.trees)?;
            self.forget_origins();
        }
        compact::compact(self, &mut live, &expired, &directory, options, &mut report)?;
        self.delete(options, lease.as_ref(), &mut report)?;
        if report.condemned_bytes + report.deleted_bytes > 0 && !options.dry_run {
            let mut event = Event::new(EventKind::Evict, "gc");
            event.bytes = report.deleted_bytes;
            event.cause = format!("{} refs and {} results expired", report.expired_refs, report.expired_actions);
            self.note(&event);
        }
        Ok(report)
    }

    /// Does something to each of many, in turns that are short, with pauses for who waits for his; `begin` comes first in
    /// each.
    fn in_turns<T, S>(
        &self,
        mut rest: &[T],
        state: &mut S,
        report: &mut GcReport,
        begin: impl Fn(&mut S) -> Result<()>,
        each: impl Fn(&mut S, &T, &mut GcReport) -> Result<()>,
    ) -> Result<()> {
        while !rest.is_empty() {
            let turn = self.turn(true)?;
            let started = std::time::Instant::now();
            begin(state)?;
            let begun = std::time::Instant::now();
            while let Some((first, others)) = rest.split_first()
                && begun.elapsed() < SLICE_TIME
            {
                each(state, first, report)?;
                rest = others;
            }
            report.longest_slice_ns = report.longest_slice_ns.max(nanoseconds_since(started));
            drop(turn);
            if !rest.is_empty() {
                std::thread::sleep(PAUSE);
            }
        }
        Ok(())
    }

    /// Bytes that objects, packs, trees and hot trees take on the disk.
    pub fn stored_bytes(&self) -> Result<u64> {
        let mut report = GcReport::default();
        self.candidates(&mut report)?;
        Ok(report.store_bytes)
    }

    /// All that could be condemned with its bytes, as it is now: what is published later is none.
    fn candidates(&self, report: &mut GcReport) -> Result<Vec<(Candidate, u64)>> {
        self.refresh()?;
        let mut candidates: Vec<Candidate> = self.trees()?.into_iter().map(Candidate::Tree).collect();
        let packs = self.path().join("packs");
        let failed = |error| Error::io("list", packs.display(), error);
        for entry in std::fs::read_dir(&packs).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.extension().is_some_and(|extension| extension == "pack") {
                let name = path.file_stem().and_then(std::ffi::OsStr::to_str).unwrap_or_default();
                candidates.extend(name.parse().ok().map(Candidate::Pack));
            }
        }
        let mut candidates: Vec<_> =
            candidates.into_iter().map(|candidate| (candidate, self.bytes_of(&candidate))).collect();
        let loose = self.loose_with_bytes()?.into_iter();
        candidates.extend(loose.map(|(digest, compressed, bytes)| (Candidate::Object(digest, compressed), bytes)));
        let hot = self.hot_trees()?.iter().map(|hot| hot.bytes).sum::<u64>();
        report.store_bytes = candidates.iter().map(|(_, bytes)| bytes).sum::<u64>() + hot;
        Ok(candidates)
    }

    fn path_of(&self, candidate: &Candidate) -> std::path::PathBuf {
        match candidate {
            Candidate::Tree(id) => self.tree_path(id),
            Candidate::Object(digest, compressed) => self.object_path(digest, *compressed),
            Candidate::Pack(id) => self.pack_path(id, "pack"),
        }
    }

    fn bytes_of(&self, candidate: &Candidate) -> u64 {
        use std::os::unix::fs::MetadataExt;
        std::fs::symlink_metadata(self.path_of(candidate)).map_or(0, |metadata| metadata.blocks() * 512)
    }

    /// Moves a dead candidate into the trash.
    fn condemn(
        &self,
        candidate: &Candidate,
        bytes: u64,
        directory: &Path,
        options: &GcOptions,
        report: &mut GcReport,
    ) -> Result<()> {
        let name = match candidate {
            Candidate::Tree(id) => trash::tree_name(id),
            Candidate::Object(digest, compressed) => trash::object_name(digest, *compressed),
            Candidate::Pack(id) => trash::pack_name(id),
        };
        if !options.dry_run {
            if let Candidate::Pack(id) = candidate {
                // The index first: a pack counts as long as it has one.
                move_to(&self.pack_path(id, "idx"), &directory.join(trash::index_name(id)))?;
            }
            if !move_to(&self.path_of(candidate), &directory.join(name))? {
                return Ok(());
            }
        }
        report.condemned_bytes += bytes;
        match candidate {
            Candidate::Tree(_) => report.condemned_trees += 1,
            Candidate::Object(..) => report.condemned_objects += 1,
            Candidate::Pack(_) => report.condemned_packs += 1,
        }
        Ok(())
    }

    /// Deletes epochs whose grace is over and that no lease holds back but this gc's own.
    fn delete(&self, options: &GcOptions, own: Option<&Lease>, report: &mut GcReport) -> Result<()> {
        for epoch in trash::epochs(self.path()) {
            let is_other = |name: &str| own.is_none_or(|own| own.name() != name);
            let held = lease::held_by(self.path(), !options.dry_run, &is_other)?;
            let directory = trash::directory(self.path(), epoch);
            let changed = std::fs::metadata(&directory).and_then(|metadata| metadata.modified());
            // Another gc may have deleted it.
            let Ok(changed) = changed else { continue };
            let age = SystemTime::now().duration_since(changed).unwrap_or_default();
            if held.epoch.is_some_and(|least| epoch >= least) || age < options.grace {
                continue;
            }
            let bytes = bytes_below(&directory);
            if options.dry_run {
                report.deleted_epochs += u64::from(bytes > 0);
                report.deleted_bytes += bytes;
                continue;
            }
            match trash::delete(self.path(), epoch) {
                Ok(true) => {
                    report.deleted_epochs += 1;
                    report.deleted_bytes += bytes;
                }
                Ok(false) => {}
                Err(_) if !directory.exists() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// What programs left that were killed: staging directories without a lease, old records, unused variants, locks.
    fn remove_abandoned(&self, options: &GcOptions, report: &mut GcReport) -> Result<()> {
        // The directories first: each that is seen has a lease that is older.
        let staging = self.staging();
        let failed = |error| Error::io("list", staging.display(), error);
        let found: Vec<_> = std::fs::read_dir(&staging).map_err(failed)?.flatten().collect();
        let held = lease::held(self.path(), !options.dry_run)?;
        for entry in found {
            let name = entry.file_name();
            let is_named_by_lease =
                !name.to_string_lossy().starts_with("record-") && !name.to_string_lossy().starts_with("calibrate-");
            let abandoned = if is_named_by_lease { !held.names.contains(&name) } else { is_stale(&entry.path()) };
            if !abandoned {
                continue;
            }
            report.abandoned_stagings += 1;
            if !options.dry_run {
                let path = entry.path();
                let _ = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
            }
        }
        let variants = self.path().join("variants");
        for shard in std::fs::read_dir(&variants).map_err(failed)?.flatten() {
            for variant in std::fs::read_dir(shard.path()).map_err(failed)?.flatten() {
                use std::os::unix::fs::MetadataExt;
                let unused = variant.metadata().is_ok_and(|metadata| metadata.nlink() == 1);
                if unused && changed_long_ago(&variant.path()) {
                    report.removed_variants += 1;
                    if !options.dry_run {
                        let _ = std::fs::remove_file(variant.path());
                    }
                }
            }
        }
        Ok(())
    }
}

pub(super) fn is_stale(path: &Path) -> bool {
    let modified = std::fs::symlink_metadata(path).and_then(|metadata| metadata.modified());
    modified.is_ok_and(|time| time.elapsed().is_ok_and(|age| age > STALE))
}

/// A variant has a guest's times: when its inode changed says when it was made or last linked.
fn changed_long_ago(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let stale = i64::try_from(STALE.as_secs()).unwrap_or(i64::MAX);
    std::fs::symlink_metadata(path).is_ok_and(|metadata| super::now() - metadata.ctime() > stale)
}

/// False when there is no such file.
fn move_to(from: &Path, to: &Path) -> Result<bool> {
    match std::fs::rename(from, to) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Error::io("condemn", from.display(), error)),
    }
}

pub(super) fn bytes_below(directory: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.blocks() * 512).sum()
}
