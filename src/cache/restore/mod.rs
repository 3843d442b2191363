//! Bringing a tree back: directories first, level by level, then files on all threads, each by the cheapest rung that is
//! open to it, then further names of files, then the directories' own attributes.
//!
//! ```text
//! link, node            made                      in a pack           read and written
//! empty, inline         made and written          loose, hard link    only read-only trees: a name of a variant
//! to be rewritten       cloned and patched,       loose, reflink      FICLONE, FICLONERANGE for holes
//!                       or written                loose, copy         copy_file_range, else read and written
//! ```
//!
//! On btrfs a whole tree can come back as a snapshot of a hot one (`snapshot`).
//!
//! What a pair of filesystems cannot do is found out once and not tried for each file. The tree appears under its name when
//! it is complete; the first error ends the work and nothing remains. Names come from a manifest that may come from
//! anywhere: they are made in directories that are held open, see [`crate::host`].

mod content;
mod rewrite;
mod snapshot;
mod update;
mod variant;

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

pub use rewrite::Rewrite;

use super::manifest::{Content, Entry, Manifest};
use super::objects::Verify;
use super::store::Store;
use super::{Digest, Lease};
use crate::bytes::to_u64;
use crate::error::{Error, ErrorKind, PathProblem, Result};
use crate::fs::{FileType, Xattr};
use crate::host::{Attributes, Fact, Preserve, StagedTree, Tree};
use crate::progress::Progress;
pub(super) use content::{Contents, Scratch};

/// How contents of files of their own come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Strategy {
    /// Reflink where that is possible, else copy; hard links for read-only trees.
    #[default]
    Auto,
    /// Reflink; a filesystem that cannot is an error.
    Reflink,
    /// Names of files in the store. Only for trees that nobody writes to.
    Hardlink,
    /// The kernel copies; on some filesystems it shares storage for it.
    Copy,
    /// Read and written, sharing nothing.
    Pack,
    /// The tree is a snapshot of a subvolume of btrfs, which the first one makes and the store keeps. For trees that come
    /// back often; the result is a subvolume itself, so that nothing else chooses this.
    Snapshot,
}

/// A choice of paths in the tree, without a leading `/`.
pub type Chosen = Arc<dyn Fn(&[u8]) -> bool + Send + Sync>;

/// How to bring a tree back.
#[derive(Clone, Default)]
pub struct RestoreOptions {
    /// How contents come back.
    pub strategy: Strategy,
    /// The tree will not be written to, so that files may be names of the store's.
    pub read_only: bool,
    /// Which facts of the guest's files are given to the host's.
    pub preserve: Preserve,
    /// Files that are copied whatever the strategy: those that programs write into.
    pub copy: Option<Chosen>,
    /// Strings that are replaced in some files.
    pub rewrite: Option<Rewrite>,
    /// Only what lies below this directory of the tree; its path, without a leading `/`.
    pub below: Vec<u8>,
    /// Whether to wait until the tree is on the disk.
    pub sync: bool,
}

impl std::fmt::Debug for RestoreOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { strategy, read_only, preserve, below, sync, .. } = self;
        write!(f, "RestoreOptions({strategy:?}, read only {read_only}, {preserve:?}, {below:?}, sync {sync})")
    }
}

macro_rules! counts {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What a restore did, file by file.
        #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default)]
        pub struct RestoreReport {
            $($(#[$doc])* pub $name: u64,)*
            /// Facts that the host did not take, and how often.
            pub refused: std::collections::BTreeMap<String, u64>,
            /// How contents were looked at.
            pub verified: Verify,
        }

        #[derive(Debug, Default)]
        struct Counts {
            $($name: AtomicU64,)*
        }

        impl Counts {
            fn report(&self) -> RestoreReport {
                RestoreReport {
                    $($name: self.$name.load(Ordering::Relaxed),)*
                    ..RestoreReport::default()
                }
            }
        }
    };
}

counts! {
    /// Directories made.
    directories,
    /// Regular files, further names not counted.
    files,
    /// Bytes of those, holes included.
    file_bytes,
    /// Symbolic links made.
    symlinks,
    /// Devices, pipes and sockets made.
    nodes,
    /// Nodes that the host refused or that were not asked for.
    nodes_left_out,
    /// Files without stored bytes.
    empty_files,
    /// Files written from the manifest.
    inline_files,
    /// Files written from packs.
    packed_files,
    /// Files that are names of the store's.
    hardlinked_files,
    /// Files that share their storage with the store.
    reflinked_files,
    /// Files that the kernel copied.
    copied_files,
    /// Files that were read and written.
    written_files,
    /// Files with replaced strings.
    rewritten_files,
    /// Further names of files.
    links,
    /// Trees that are a snapshot: then the files came with it.
    snapshots,
    /// Bytes that share their storage with the store.
    reflinked_bytes,
    /// Bytes that were copied or written.
    written_bytes,
    /// Entries that were as they should be: only when a tree is updated.
    unchanged,
    /// Entries that were replaced.
    replaced,
    /// Entries that were removed.
    removed,
}

fn add(counter: &AtomicU64, value: u64) {
    counter.fetch_add(value, Ordering::Relaxed);
}

/// One restore while it goes on.
struct Restore<'a> {
    store: &'a Store,
    manifest: &'a Manifest,
    tree: &'a Tree,
    options: &'a RestoreOptions,
    contents: Contents<'a>,
    /// Extended attributes by set.
    xattrs: Mutex<HashMap<u32, Arc<Vec<Xattr>>>>,
    progress: &'a dyn Progress,
}

/// A directory of the tree that is restored, and its path there.
struct Place {
    directory: u32,
    path: Vec<u8>,
}

/// Directories that are equally deep, those with the shortest way first.
fn levels(places: &[Place]) -> impl Iterator<Item = &[Place]> {
    let depth = |place: &Place| match &place.path[..] {
        [] => 0,
        path => 1 + path.iter().filter(|byte| **byte == b'/').count(),
    };
    places.chunk_by(move |one, next| depth(one) == depth(next))
}

/// Files of one directory that one thread makes.
struct Task {
    place: usize,
    children: std::ops::Range<u32>,
}

/// What is to be made.
#[derive(Default)]
struct Work {
    tasks: Vec<Task>,
    /// Further names of files: where the first is, and where they shall be.
    links: Vec<(Vec<u8>, Vec<u8>)>,
    /// Their entries.
    further: HashSet<u32>,
    /// Bytes of all files.
    bytes: u64,
}

/// Files of one task: enough to be worth a thread's while, few enough to be dealt out evenly.
const TASK: u32 = 256;

impl Store {
    /// Says that a tree is in use, so that gc leaves it, and reads it.
    pub fn use_tree(&self, id: &Digest) -> Result<(Manifest, Option<Lease>)> {
        let lease = if self.is_writable() { Some(self.lease()?) } else { None };
        if let Some(lease) = &lease {
            lease.add(id)?;
        }
        let manifest = self.tree(id)?;
        self.load_proofs(&manifest)?;
        self.touch(id);
        Ok((manifest, lease))
    }

    /// Makes the tree as the directory `target`, which must not exist, on the rayon pool that the caller is in.
    pub fn restore(
        &self,
        id: &Digest,
        target: &Path,
        options: &RestoreOptions,
        progress: &dyn Progress,
    ) -> Result<RestoreReport> {
        if options.strategy == Strategy::Snapshot {
            return self.restore_snapshot(id, target, options, progress);
        }
        let (manifest, _lease) = self.use_tree(id)?;
        if options.strategy == Strategy::Hardlink && !options.read_only {
            return Err(Error::invalid("hard links to the store are only for trees that nobody writes to")
                .with_hint("add --read-only, or take another strategy"));
        }
        let start = start(&manifest, &options.below)?;
        let staged = StagedTree::create(target, options.preserve)?;
        let restore = Restore::new(self, &manifest, &staged.tree, options, progress);
        let made = restore.all(start);
        self.save_proofs(id);
        made?;
        let report = restore.report();
        staged.publish(options.sync, None, || Ok(()))?;
        Ok(report)
    }
}

impl<'a> Restore<'a> {
    fn new(
        store: &'a Store,
        manifest: &'a Manifest,
        tree: &'a Tree,
        options: &'a RestoreOptions,
        progress: &'a dyn Progress,
    ) -> Self {
        let contents = Contents::new(store, manifest, options.strategy);
        Self { store, manifest, tree, options, contents, xattrs: Mutex::default(), progress }
    }

    fn report(&self) -> RestoreReport {
        let refused =
            self.tree.refused().into_iter().map(|(fact, count): (Fact, u64)| (fact.name().to_owned(), count)).collect();
        RestoreReport { refused, verified: self.store.verification(), ..self.contents.counts.report() }
    }

    /// Everything below a directory of the manifest, into the tree's root.
    fn all(&self, start: u32) -> Result<()> {
        let places = self.places(start)?;
        let work = self.work(&places)?;
        self.progress.set_total(work.bytes);
        for level in levels(&places).skip(1) {
            level.par_iter().try_for_each(|place| self.tree.create_new_dir(&place.path))?;
        }
        add(&self.contents.counts.directories, to_u64(places.len().saturating_sub(1)));
        work.tasks
            .par_iter()
            .try_for_each_init(Scratch::new, |scratch, task| self.task(&places, &work, task, scratch))?;
        for (first, path) in &work.links {
            self.link(first, path)?;
        }
        self.seal(&places)
    }

    /// Gives the directories their attributes.
    fn seal(&self, places: &[Place]) -> Result<()> {
        let seal = |place: &Place| {
            let entry = self.manifest.entry(self.manifest.directory(place.directory)?.entry)?;
            let xattrs = self.xattrs(&entry)?;
            self.tree.seal(&place.path, &self.attributes(&entry, &xattrs)?)
        };
        // A directory that may not be entered is sealed after those in it.
        let levels: Vec<_> = levels(places).collect();
        levels.into_iter().rev().try_for_each(|level| level.par_iter().try_for_each(seal))
    }

    /// The directories, a level after the other; the first is the start.
    fn places(&self, start: u32) -> Result<Vec<Place>> {
        let mut places = vec![Place { directory: start, path: Vec::new() }];
        let mut at = 0;
        while let Some(Place { directory, path }) = places.get(at) {
            let path = path.clone();
            for child in self.manifest.directory(*directory)?.children() {
                let entry = self.manifest.entry(child)?;
                if let Content::Directory(directory) = entry.content {
                    places.push(Place { directory, path: join(&path, entry.name) });
                }
            }
            at += 1;
        }
        Ok(places)
    }

    /// The work, in the order of the directories.
    fn work(&self, places: &[Place]) -> Result<Work> {
        let mut work = Work::default();
        let mut first: HashMap<u32, Vec<u8>> = HashMap::new();
        for (place, Place { directory, path }) in places.iter().enumerate() {
            let children = self.manifest.directory(*directory)?.children();
            for child in children.clone() {
                let entry = self.manifest.entry(child)?;
                if entry.file_type == FileType::File {
                    work.bytes = work.bytes.saturating_add(entry.size);
                }
                // The first name may lie outside of what is restored: then the first inside takes its part.
                let Some(leader) = entry.leader else { continue };
                let path = join(path, entry.name);
                match first.get(&leader) {
                    Some(first) => {
                        work.links.push((first.clone(), path));
                        work.further.insert(child);
                    }
                    None => drop(first.insert(leader, path)),
                }
            }
            let starts = children.clone().step_by(TASK as usize);
            let cut = |start: u32| Task { place, children: start..start.saturating_add(TASK).min(children.end) };
            work.tasks.extend(starts.map(cut));
        }
        Ok(work)
    }

    fn task(&self, places: &[Place], work: &Work, task: &Task, scratch: &mut Scratch) -> Result<()> {
        let Some(place) = places.get(task.place) else { return Ok(()) };
        for child in task.children.clone() {
            if self.progress.cancelled() {
                return Err(ErrorKind::Cancelled.into());
            }
            let entry = self.manifest.entry(child)?;
            if !work.further.contains(&child) {
                self.make(&entry, &join(&place.path, entry.name), scratch)?;
            }
        }
        Ok(())
    }

    /// Makes one entry that is no directory.
    fn make(&self, entry: &Entry<'_>, path: &[u8], scratch: &mut Scratch) -> Result<()> {
        if entry.file_type == FileType::Dir {
            return Ok(());
        }
        let xattrs = self.xattrs(entry)?;
        let attributes = self.attributes(entry, &xattrs)?;
        match entry.content {
            Content::Target(target) => {
                self.tree.symlink(path, target, &attributes)?;
                add(&self.contents.counts.symlinks, 1);
            }
            _ if entry.file_type != FileType::File => {
                let rdev = if let Content::Device(device) = entry.content { Some(device) } else { None };
                let made = self.tree.node(path, entry.file_type, rdev, &attributes)?;
                add(if made { &self.contents.counts.nodes } else { &self.contents.counts.nodes_left_out }, 1);
            }
            _ => {
                self.file(entry, path, &attributes, scratch)?;
                add(&self.contents.counts.files, 1);
                add(&self.contents.counts.file_bytes, entry.size);
                self.progress.advance(entry.size);
            }
        }
        Ok(())
    }

    /// A further name. Where the host cannot link, the file is made again.
    fn link(&self, first: &[u8], path: &[u8]) -> Result<()> {
        if self.tree.link(first, path)? {
            add(&self.contents.counts.links, 1);
            return Ok(());
        }
        let whole = if self.options.below.is_empty() { path.to_vec() } else { join(&self.options.below, path) };
        match self.manifest.lookup(&whole)? {
            Some(entry) => self.make(&entry, path, &mut Scratch::new()),
            None => Ok(()),
        }
    }

    fn xattrs(&self, entry: &Entry<'_>) -> Result<Arc<Vec<Xattr>>> {
        let Some(set) = entry.xattrs else { return Ok(Arc::default()) };
        let mut known = self.xattrs.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(xattrs) = known.get(&set) {
            return Ok(xattrs.clone());
        }
        let xattrs = Arc::new(self.manifest.xattrs(set)?);
        known.insert(set, xattrs.clone());
        Ok(xattrs)
    }

    fn attributes<'x>(&self, entry: &Entry<'_>, xattrs: &'x [Xattr]) -> Result<Attributes<'x>> {
        let atime = self.manifest.times(entry.index)?.map_or(entry.mtime, |times| times.atime);
        let Entry { permissions, uid, gid, mtime, .. } = *entry;
        Ok(Attributes { permissions, uid, gid, atime, mtime, xattrs })
    }
}

/// The directory of the manifest at a path.
fn start(manifest: &Manifest, below: &[u8]) -> Result<u32> {
    let entry = manifest.lookup(below)?.ok_or_else(|| Error::path(below, PathProblem::NotFound))?;
    match entry.content {
        Content::Directory(start) => Ok(start),
        _ => Err(Error::path(below, PathProblem::NotADirectory)),
    }
}

fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if directory.is_empty() { name.to_vec() } else { [directory, b"/", name].concat() }
}
