//! The store: made, opened, and shared by threads and processes.

use std::collections::HashSet;
use std::fs::{DirEntry, File};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use rayon::prelude::*;
use rustix::fs::{Access, FlockOperation};

use super::manifest::Manifest;
use super::objects::Verify;
use super::pack::Catalog;
use super::proof::Proofs;
use super::version::{Compression, FORMAT, Features, Version};
use super::{Digest, Lease, calibrate, epoch, record, trash};
use crate::error::{Error, Result};
use crate::limits;

/// The directories of a store.
const DIRECTORIES: &[&str] = &[
    "objects",
    "packs",
    "trees",
    "actions",
    "refs",
    "leases",
    "staging",
    "epochs",
    "trash",
    "events",
    "quarantine",
    "variants",
    "proven",
];

/// A content-addressed store of extracted trees, open for any number of threads. Other processes may use it at the same
/// time: import, restore and gc take turns where they must.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    version: Version,
    writable: bool,
    verify: Verify,
    catalog: RwLock<Option<Arc<Catalog>>>,
    /// Condemned packs, as they were when the last import began.
    condemned: RwLock<Arc<Catalog>>,
    /// Contents that were looked at, so that they are not looked at again.
    proofs: Proofs,
    /// Packs that look as they should: their files stay open.
    packs_looked_at: Mutex<HashSet<Digest>>,
    /// Objects and packs that a power cut may have damaged, and that nobody could look at: the store is read only.
    doubtful: HashSet<Digest>,
}

/// What to choose when a store is made.
#[derive(Debug, Clone, Default)]
pub struct InitOptions {
    /// Blobs of fewer bytes go into packs; measured when it is not given.
    pub pack_threshold: Option<u64>,
    /// Whether objects are compressed.
    pub compression: Compression,
}

impl Store {
    /// Makes a store in `root`, which is created if need be and must be empty. A store that is there already is opened.
    pub fn init(root: impl AsRef<Path>, options: &InitOptions) -> Result<Self> {
        let root = root.as_ref();
        let failed = |error| Error::io("make the cache", root.display(), error);
        std::fs::create_dir_all(root).map_err(failed)?;
        if root.join("VERSION.json").exists() {
            return Self::open(root);
        }
        for entry in std::fs::read_dir(root).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            if !DIRECTORIES.iter().any(|known| name == *known) && name != "gc.lock" {
                let message = format!("{} holds {} and is no cache", root.display(), name.display());
                return Err(Error::invalid(message).with_hint("a new cache needs an empty directory"));
            }
        }
        for directory in DIRECTORIES {
            make_directory(&root.join(directory))?;
        }
        for sharded in ["objects", "trees", "actions", "variants"] {
            for shard in 0..=u8::MAX {
                make_directory(&root.join(sharded).join(format!("{shard:02x}")))?;
            }
        }
        // Contents of guests are secrets of their owners.
        let _ = std::fs::set_permissions(root, std::os::unix::fs::PermissionsExt::from_mode(0o700));
        let lock = File::options().create(true).truncate(false).write(true).open(root.join("gc.lock"));
        lock.map_err(failed)?;
        let staging = root.join("staging");
        let measured = calibrate::measure(&staging)?;
        let mut features = Features::default();
        if options.compression == Compression::Zstd {
            features.incompat.insert("zstd-objects".to_owned());
        }
        let pack_threshold_bytes = options.pack_threshold.unwrap_or(measured.pack_threshold);
        limits::check("bytes of a packed blob", pack_threshold_bytes, limits::CACHE_PACK_BYTES / 8)?;
        let version = Version {
            format: FORMAT,
            hash: "blake3".to_owned(),
            uuid: super::new_uuid(),
            pack_threshold_bytes,
            compression: options.compression,
            reflink: measured.reflink,
            mtime_step_ns: measured.mtime_step_ns,
            features,
        };
        record::sync_filesystem(root)?;
        // Of two that make it at once, one does.
        record::create(&staging, &root.join("VERSION.json"), &version.text()?)?;
        Self::open(root)
    }

    /// Opens the store in `root`. One that this process may not write to, or that has features it does not know, can still
    /// be read if its format allows.
    pub fn open(root: impl AsRef<Path>) -> Result<Self> {
        let root = root.as_ref();
        let version = Version::read(root)?;
        let unknown = version.read_only_for().map(|word| log::warn!("the cache has the feature {word}: only reading"));
        let writable = unknown.is_none() && rustix::fs::access(root.join("staging"), Access::WRITE_OK).is_ok();
        let (verify, catalog, condemned, proofs, packs_looked_at, doubtful) = Default::default();
        let root = root.to_owned();
        let mut store = Self { root, version, writable, verify, catalog, condemned, proofs, packs_looked_at, doubtful };
        if writable {
            epoch::recover(&store)?;
        } else {
            store.doubtful = epoch::in_doubt(&store);
        }
        Ok(store)
    }

    /// Opens the store in `root`, and makes it when there is none.
    pub fn open_or_init(root: impl AsRef<Path>) -> Result<Self> {
        let root = root.as_ref();
        if root.join("VERSION.json").exists() { Self::open(root) } else { Self::init(root, &InitOptions::default()) }
    }

    /// Where a user's store is when nothing else is said: `$XDG_CACHE_HOME/guestctl` or `~/.cache/guestctl`.
    #[must_use]
    pub fn default_directory() -> Option<PathBuf> {
        let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let base = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
        Some(base.join("guestctl"))
    }

    /// The same store with another level of verification.
    #[must_use]
    pub fn with_verification(mut self, verify: Verify) -> Self {
        self.verify = verify;
        self
    }

    /// How much of an object is looked at before it is delivered.
    #[must_use]
    pub fn verification(&self) -> Verify {
        self.verify
    }

    /// The store's directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// What `VERSION.json` says.
    #[must_use]
    pub fn version(&self) -> &Version {
        &self.version
    }

    /// Adds a word to the features that are for information.
    pub(super) fn add_compat(&self, word: &str) -> Result<()> {
        // Of two that add at once both look at the file in their turn.
        let _turn = self.turn(true)?;
        let mut version = Version::read(&self.root)?;
        if version.features.compat.insert(word.to_owned()) {
            record::replace(&self.staging(), &self.root.join("VERSION.json"), &version.text()?)?;
        }
        Ok(())
    }

    /// Whether anything can be added.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.writable
    }

    /// Free bytes of the store's filesystem, for this user.
    pub fn free_bytes(&self) -> Result<u64> {
        let found =
            rustix::fs::statvfs(&self.root).map_err(|errno| Error::io("look at", self.root.display(), errno))?;
        Ok(found.f_bavail.saturating_mul(found.f_frsize))
    }

    pub(super) fn proofs(&self) -> &Proofs {
        &self.proofs
    }

    pub(super) fn packs_looked_at(&self) -> &Mutex<HashSet<Digest>> {
        &self.packs_looked_at
    }

    /// Whether the content decides, whatever the level.
    pub(super) fn is_doubtful(&self, digest: &Digest) -> bool {
        self.doubtful.contains(digest)
    }

    pub(super) fn check_writable(&self) -> Result<()> {
        if self.writable {
            return Ok(());
        }
        Err(Error::io("write to", self.root.display(), std::io::ErrorKind::ReadOnlyFilesystem))
    }

    pub(super) fn staging(&self) -> PathBuf {
        self.root.join("staging")
    }

    /// The packs as they were last seen.
    pub(super) fn catalog(&self) -> Arc<Catalog> {
        if let Some(catalog) = &*self.catalog.read().unwrap_or_else(PoisonError::into_inner) {
            return catalog.clone();
        }
        self.refresh().unwrap_or_default()
    }

    /// Looks at `packs/` again.
    pub(super) fn refresh(&self) -> Result<Arc<Catalog>> {
        let mut catalog = self.catalog.write().unwrap_or_else(PoisonError::into_inner);
        let known = catalog.clone().unwrap_or_default();
        let fresh = Arc::new(known.refreshed(&self.root)?);
        *catalog = Some(fresh.clone());
        Ok(fresh)
    }

    /// The condemned packs as they were when the last import began.
    pub(super) fn condemned(&self) -> Arc<Catalog> {
        self.condemned.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Looks for condemned packs again.
    pub(super) fn refresh_condemned(&self) {
        let fresh = Arc::new(Catalog::condemned(&self.root));
        *self.condemned.write().unwrap_or_else(PoisonError::into_inner) = fresh;
    }

    /// Takes the turn of one that publishes (shared) or condemns (exclusive). On a filesystem without locks there are no
    /// turns; leases and grace are what protects there.
    pub(super) fn turn(&self, exclusive: bool) -> Result<Turn> {
        let path = self.root.join("gc.lock");
        let file = File::options().write(true).open(&path).map_err(|error| Error::io("open", path.display(), error))?;
        let operation = if exclusive { FlockOperation::LockExclusive } else { FlockOperation::LockShared };
        let _ = rustix::io::retry_on_intr(|| rustix::fs::flock(&file, operation));
        Ok(Turn { _file: file })
    }

    /// A lease on nothing yet.
    pub(super) fn lease(&self) -> Result<Lease> {
        Lease::new(&self.root, || trash::epochs(&self.root).last().copied().unwrap_or(0))
    }

    pub(super) fn tree_path(&self, id: &Digest) -> PathBuf {
        self.root.join("trees").join(format!("{}.tree", id.shard()))
    }

    /// The tree with this id.
    pub fn tree(&self, id: &Digest) -> Result<Manifest> {
        let path = self.tree_path(id);
        let limit = limits::CACHE_MANIFEST_BYTES;
        let mut bytes = record::read_within(&path, limit)?;
        if bytes.is_none()
            && let Some(condemned) = trash::find(&self.root, &trash::tree_name(id))
        {
            bytes = record::read_within(&condemned, limit)?;
        }
        if bytes.is_none() {
            bytes = record::read_within(&path, limit)?;
        }
        let Some(bytes) = bytes else {
            return Err(Error::invalid(format!("there is no tree {id} in the cache")).with_hint("guestctl cache ls"));
        };
        if self.verify == Verify::Never {
            return Manifest::new(bytes);
        }
        Manifest::verified(bytes, id).map_err(|error| {
            let to = self.root.join("quarantine").join(trash::tree_name(id));
            if self.writable && std::fs::rename(&path, to).is_ok() {
                log::warn!("the tree {id} is damaged and was put aside");
            }
            error.in_image(path.display()).with_hint("it was put aside; add the image again to store it anew")
        })
    }

    /// Says that a tree was used now: what was not used for long goes first.
    pub(super) fn touch(&self, id: &Digest) {
        if self.writable
            && let Ok(file) = File::open(self.tree_path(id))
        {
            let _ = file.set_modified(std::time::SystemTime::now());
        }
    }

    /// The ids of all trees, sorted.
    pub fn trees(&self) -> Result<Vec<Digest>> {
        list_sharded(&self.root.join("trees"), ".tree")
    }

    /// The digests of all blobs that are files of their own and whether they are compressed, sorted.
    pub(super) fn loose(&self) -> Result<Vec<(Digest, bool)>> {
        let mut loose =
            pick_sharded(&self.root.join("objects"), &|digest, end, _| Some((digest, is_compressed(end)?)))?;
        loose.sort_unstable();
        Ok(loose)
    }

    /// The same with the bytes that the filesystem holds for each.
    pub(super) fn loose_with_bytes(&self) -> Result<Vec<(Digest, bool, u64)>> {
        use std::os::unix::fs::MetadataExt;
        let mut loose = pick_sharded(&self.root.join("objects"), &|digest, end, entry| {
            let bytes = entry.metadata().map_or(0, |metadata| metadata.blocks() * 512);
            Some((digest, is_compressed(end)?, bytes))
        })?;
        loose.sort_unstable();
        Ok(loose)
    }

    /// Whether there is such a tree; one that is condemned is brought back.
    pub(super) fn has_tree(&self, id: &Digest) -> Result<bool> {
        let path = self.tree_path(id);
        Ok(path.exists()
            || (self.writable && trash::bring_back(&self.root, &trash::tree_name(id), &path)?)
            || path.exists())
    }
}

/// A turn; it ends when it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    _file: File,
}

fn make_directory(path: &Path) -> Result<()> {
    match std::fs::create_dir(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(Error::io("make", path.display(), error))
        }
        _ => Ok(()),
    }
}

/// What the end of an object's name says; `None`: it is no object.
fn is_compressed(end: &str) -> Option<bool> {
    match end {
        "" => Some(false),
        ".zst" => Some(true),
        _ => None,
    }
}

/// The digests that files below a sharded directory are named by, sorted.
pub(super) fn list_sharded(directory: &Path, suffix: &str) -> Result<Vec<Digest>> {
    let mut digests = pick_sharded(directory, &|digest, end, _| (end == suffix).then_some(digest))?;
    digests.sort_unstable();
    Ok(digests)
}

/// What `pick` makes of each file below a sharded directory, in no order: it gets the digest that the file is named by, and
/// how its name ends after that. On the rayon pool that the caller is in.
fn pick_sharded<T: Send>(
    directory: &Path,
    pick: &(dyn Fn(Digest, &str, &DirEntry) -> Option<T> + Sync),
) -> Result<Vec<T>> {
    let failed = |error| Error::io("list", directory.display(), error);
    let shards: Vec<DirEntry> =
        std::fs::read_dir(directory).map_err(failed)?.collect::<Result<_, _>>().map_err(failed)?;
    let in_shard = |shard: &DirEntry| {
        let (mut picked, mut hex) = (Vec::new(), String::with_capacity(64));
        let name = shard.file_name();
        let Some(name) = name.to_str().filter(|name| name.len() == 2) else { return Ok(picked) };
        for entry in std::fs::read_dir(shard.path()).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let file = entry.file_name();
            let Some((rest, end)) = file.to_str().and_then(|file| file.split_at_checked(62)) else { continue };
            hex.clear();
            hex.extend([name, rest]);
            picked.extend(hex.parse().ok().and_then(|digest| pick(digest, end, &entry)));
        }
        Ok(picked)
    };
    let picked: Vec<Vec<T>> = shards.par_iter().map(in_shard).collect::<Result<_>>()?;
    Ok(picked.into_iter().flatten().collect())
}
