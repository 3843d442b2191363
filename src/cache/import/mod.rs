//! Adding a tree: entries in walk order, contents hashed and stored from several threads.
//!
//! Everything is born in `staging/<lease>/` on the store's filesystem, and gets its name at the end, in the order in which
//! one thing relies on another:
//!
//! ```text
//! blobs and packs written → syncfs → renamed → directories synced → manifest (lease, rename, sync) → ref
//! ```
//!
//! The renames are one turn in which gc condemns nothing, and in which every blob that was not stored because it was
//! there is looked for again, and brought back when gc has condemned it meanwhile. So nobody ever sees a reference to what
//! is not on the disk, and nothing is lost that was reported stored.

mod content;
mod publish;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

pub use content::{Prepared, Source};

use super::manifest::{Builder, NewContent, NewEntry};
use super::pack::{FULL, Finished, Writer};
use super::store::Store;
use super::{Digest, Lease, trash};
use crate::error::{Error, Result};
use crate::fs::{FileType, Metadata, Timestamp, Xattr};

/// How to add a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImportOptions {
    /// What is waited for before a tree is reported stored.
    pub durability: Durability,
    /// Whether atime, ctime and crtime are kept, for information.
    pub keep_times: bool,
}

impl Default for ImportOptions {
    fn default() -> Self {
        Self { durability: Durability::Batch, keep_times: true }
    }
}

/// What is waited for before a tree is reported stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// Nothing. After a power cut the objects are looked at before they are used, and may be gone.
    None,
    /// The disk, once for all.
    #[default]
    Batch,
    /// The disk, for each file.
    Full,
}

/// What an import did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct ImportReport {
    /// Entries of the tree.
    pub entries: u64,
    /// Regular files among them.
    pub files: u64,
    /// Bytes of those, holes included.
    pub file_bytes: u64,
    /// Files whose content is in the manifest itself.
    pub inline_files: u64,
    /// Blobs that were not there before.
    pub new_blobs: u64,
    /// Their bytes.
    pub new_bytes: u64,
    /// Files whose blob was there already.
    pub deduplicated_files: u64,
    /// Their bytes.
    pub deduplicated_bytes: u64,
    /// New blobs that went into packs.
    pub packed_blobs: u64,
    /// New blobs all of whose bytes were cloned and none written.
    pub cloned_blobs: u64,
    /// Bytes that were cloned.
    pub cloned_bytes: u64,
    /// Bytes of blobs that were written.
    pub written_bytes: u64,
}

#[derive(Debug, Default)]
struct Counters {
    files: AtomicU64,
    file_bytes: AtomicU64,
    inline_files: AtomicU64,
    new_blobs: AtomicU64,
    new_bytes: AtomicU64,
    deduplicated_files: AtomicU64,
    deduplicated_bytes: AtomicU64,
    packed_blobs: AtomicU64,
    cloned_blobs: AtomicU64,
    cloned_bytes: AtomicU64,
    written_bytes: AtomicU64,
}

fn add(counter: &AtomicU64, value: u64) {
    counter.fetch_add(value, Ordering::Relaxed);
}

/// A tree that was added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Imported {
    /// Its id.
    pub tree: Digest,
    /// The digest of what lies below its root, whatever its times.
    pub subtree: Digest,
    /// Whether the store had it before.
    pub known: bool,
    /// What was done.
    #[serde(flatten)]
    pub report: ImportReport,
}

/// An import that is going on; nothing of it remains unless it is finished.
#[derive(Debug)]
pub struct Import<'a> {
    store: &'a Store,
    options: ImportOptions,
    lease: Lease,
    /// The staging directory.
    staging: PathBuf,
    tree: Mutex<Tree>,
    /// Blobs of this import that will be files of their own: where they are now, and their length.
    loose: Mutex<HashMap<Digest, Loose>>,
    /// Whether the image's blocks can be cloned into the store, as far as is known.
    can_clone: AtomicBool,
    /// Packs that were looked for, and whether they are there.
    packs_there: Mutex<HashMap<Digest, bool>>,
    /// Names of objects that were in the trash when this began.
    condemned: HashSet<String>,
    counters: Counters,
}

#[derive(Debug)]
struct Loose {
    path: PathBuf,
    len: u64,
    compressed: bool,
}

#[derive(Debug)]
struct Tree {
    builder: Builder,
    pack: Option<Writer>,
    packs: Vec<Finished>,
    packed: HashSet<Digest>,
}

/// What is known of an entry beside its content.
#[derive(Debug, Clone)]
pub struct Described {
    /// Its path from the tree's root, without a leading `/`; empty for the root.
    pub path: Vec<u8>,
    /// What `lstat(2)` would tell.
    pub metadata: Metadata,
    /// Extended attributes.
    pub xattrs: Vec<Xattr>,
    /// The same number for all names of one file.
    pub link: Option<u64>,
}

impl Described {
    /// An entry that is in no guest: root's, with one time for all.
    pub(super) fn made_up(path: &[u8], file_type: FileType, size: u64, time: Timestamp) -> Self {
        let metadata = Metadata {
            inode: 0,
            file_type,
            permissions: if file_type == FileType::Dir { 0o755 } else { 0o644 },
            uid: 0,
            gid: 0,
            nlink: 1,
            size,
            blocks: size.div_ceil(512),
            block_size: 4096,
            rdev: None,
            atime: time,
            mtime: time,
            ctime: time,
            crtime: None,
            encrypted: false,
        };
        Self { path: path.to_vec(), metadata, xattrs: Vec::new(), link: None }
    }
}

impl Store {
    /// Begins to add a tree.
    pub fn import(&self, options: ImportOptions) -> Result<Import<'_>> {
        self.check_writable()?;
        let lease = self.lease()?;
        let staging = self.staging().join(lease.name());
        std::fs::create_dir(&staging).map_err(|error| Error::io("make", staging.display(), error))?;
        self.refresh()?;
        self.refresh_condemned();
        let builder = Builder::new(options.keep_times);
        let tree = Mutex::new(Tree { builder, pack: None, packs: Vec::new(), packed: HashSet::new() });
        let can_clone = AtomicBool::new(self.version().reflink);
        let condemned = trash::objects(self.path());
        let (loose, packs_there, counters) = Default::default();
        Ok(Import { store: self, options, lease, staging, tree, loose, can_clone, packs_there, condemned, counters })
    }
}

impl Import<'_> {
    /// Takes an entry whose content was [prepared](Self::prepare). Called in the order of the walk, by one thread at a
    /// time: a directory comes before what lies in it, and blobs are packed in this order.
    pub fn push(&self, described: Described, prepared: Prepared) -> Result<()> {
        let Described { path, metadata, xattrs, link } = described;
        let mut tree = self.tree.lock().unwrap_or_else(PoisonError::into_inner);
        if metadata.file_type == FileType::File {
            add(&self.counters.files, 1);
            add(&self.counters.file_bytes, metadata.size);
        }
        if let NewContent::Inline(_) = prepared.content {
            add(&self.counters.inline_files, 1);
        }
        if let (NewContent::Blob(digest, _), Some(bytes)) = (&prepared.content, &prepared.to_pack) {
            self.pack(&mut tree, *digest, bytes)?;
        }
        let Prepared { content, sparse, .. } = prepared;
        tree.builder.push(NewEntry { path, metadata, xattrs, content, link, sparse })
    }

    /// Whether the directory that `path` lies in was pushed.
    #[must_use]
    pub fn has_parent(&self, path: &[u8]) -> bool {
        self.tree.lock().unwrap_or_else(PoisonError::into_inner).builder.has_parent(path)
    }

    /// The store that is added to.
    #[must_use]
    pub fn store(&self) -> &Store {
        self.store
    }

    /// Adds a small blob to the pack, unless it is in one.
    fn pack(&self, tree: &mut Tree, digest: Digest, bytes: &[u8]) -> Result<()> {
        let len = bytes.len() as u64;
        if !tree.packed.insert(digest) {
            return self.deduplicated(len);
        }
        let mut pack = match tree.pack.take() {
            Some(pack) => pack,
            None => Writer::create(&self.staging)?,
        };
        pack.add(digest, bytes, self.store.version().compression == super::Compression::Zstd)?;
        for (counter, value) in [
            (&self.counters.new_blobs, 1),
            (&self.counters.packed_blobs, 1),
            (&self.counters.new_bytes, len),
            (&self.counters.written_bytes, len),
        ] {
            add(counter, value);
        }
        if pack.len() >= FULL {
            tree.packs.push(pack.finish()?);
        } else {
            tree.pack = Some(pack);
        }
        Ok(())
    }

    fn deduplicated(&self, len: u64) -> Result<()> {
        add(&self.counters.deduplicated_files, 1);
        add(&self.counters.deduplicated_bytes, len);
        Ok(())
    }

    fn report(&self, entries: u64) -> ImportReport {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let c = &self.counters;
        ImportReport {
            entries,
            files: get(&c.files),
            file_bytes: get(&c.file_bytes),
            inline_files: get(&c.inline_files),
            new_blobs: get(&c.new_blobs),
            new_bytes: get(&c.new_bytes),
            deduplicated_files: get(&c.deduplicated_files),
            deduplicated_bytes: get(&c.deduplicated_bytes),
            packed_blobs: get(&c.packed_blobs),
            cloned_blobs: get(&c.cloned_blobs),
            cloned_bytes: get(&c.cloned_bytes),
            written_bytes: get(&c.written_bytes),
        }
    }
}

impl Drop for Import<'_> {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.staging);
    }
}
