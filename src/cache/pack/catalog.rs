//! All packs of a store, and which blob lies in which.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use super::super::{Digest, trash};
use super::{Index, Place, RECORD_HEADER, unpack};
use crate::bytes::{Record, to_u64, to_usize};
use crate::error::{Error, Result};

/// One pack.
#[derive(Debug)]
pub(crate) struct Pack {
    pub(crate) id: Digest,
    pub(crate) index: Index,
    path: PathBuf,
    file: OnceLock<File>,
}

/// The packs of a store at one time.
#[derive(Debug, Default)]
pub(crate) struct Catalog {
    packs: Vec<Arc<Pack>>,
    /// Blobs that were found damaged in a pack.
    damaged: HashSet<(Digest, Digest)>,
}

impl Pack {
    /// The open file, which stays what it is when the pack is condemned.
    pub(crate) fn file(&self) -> Result<&File> {
        if let Some(file) = self.file.get() {
            return Ok(file);
        }
        let opened = match File::open(&self.path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                // Moved to the trash, or back, since the catalog was read.
                let root = self.path.ancestors().find(|above| above.join("VERSION.json").exists());
                let place = root.unwrap_or(Path::new(".")).join("packs").join(format!("{}.pack", self.id));
                let found = root.and_then(|root| trash::find(root, &trash::pack_name(&self.id)));
                found.map(File::open).unwrap_or_else(|| File::open(place).map_err(|_| error))
            }
            opened => opened,
        };
        let opened = opened.map_err(|error| Error::io("open", self.path.display(), error))?;
        Ok(self.file.get_or_init(|| opened))
    }

    /// A blob's bytes; the record must be that of this digest. Its content is not held against the digest. What is read is
    /// a window of the pack: a blob that lies in the last one costs no call.
    pub(crate) fn read<'w>(&self, digest: &Digest, place: &Place, window: &'w mut Window) -> Result<Cow<'w, [u8]>> {
        let start = place.offset.saturating_sub(RECORD_HEADER);
        let end = place.offset.saturating_add(u64::from(place.stored));
        if window.pack != Some(self.id) || start < window.start || end > window.end() {
            let until = end.max(start.saturating_add(window.ahead)).min(self.index.pack_len().max(end));
            (window.pack, window.start) = (None, start);
            window.bytes.resize(to_usize(until.saturating_sub(start)), 0);
            let read = self.file()?.read_exact_at(&mut window.bytes, start);
            read.map_err(|error| Error::io("read", self.path.display(), error))?;
            window.pack = Some(self.id);
        }
        let from = to_usize(start.saturating_sub(window.start));
        let record = Record::new("pack", window.bytes.get(from..).unwrap_or_default(), start);
        if record.array::<32>(0)? != digest.as_bytes() {
            return Err(record.corrupt("record", 0, Digest::from_bytes(*record.array(0)?), digest));
        }
        unpack(record.slice(to_usize(RECORD_HEADER), to_usize(u64::from(place.stored)))?, place)
    }
}

/// The part of a pack that was read last.
#[derive(Debug, Default)]
pub(crate) struct Window {
    pack: Option<Digest>,
    start: u64,
    bytes: Vec<u8>,
    /// Bytes that are read when a blob is.
    ahead: u64,
}

impl Window {
    /// One for blobs that are read in the order of the pack.
    pub(crate) fn in_order() -> Self {
        Self { ahead: 512 << 10, ..Self::default() }
    }

    fn end(&self) -> u64 {
        self.start.saturating_add(to_u64(self.bytes.len()))
    }
}

impl Catalog {
    /// Reads what is new in `packs/`; what was known is kept.
    pub(crate) fn refreshed(&self, root: &Path) -> Result<Self> {
        let directory = root.join("packs");
        let failed = |error| Error::io("list", directory.display(), error);
        let mut packs = Vec::new();
        for entry in std::fs::read_dir(&directory).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            // The index appears last.
            if path.extension().is_none_or(|extension| extension != "idx") {
                continue;
            }
            let name = path.file_stem().and_then(std::ffi::OsStr::to_str).unwrap_or_default();
            let Ok(id) = name.parse::<Digest>() else { continue };
            if let Some(pack) = self.pack(&id) {
                packs.push(pack.clone());
                continue;
            }
            let pack = path.with_extension("pack");
            match Index::load(&path, &pack, &id) {
                Ok(index) => packs.push(Arc::new(Pack { id, index, path: pack, file: OnceLock::new() })),
                // Condemned meanwhile, or damaged altogether: its blobs are missing, which is said when they are needed.
                Err(error) => log::debug!("{}: {error}", path.display()),
            }
        }
        packs.sort_unstable_by_key(|pack| pack.id);
        Ok(Self { packs, damaged: damaged(root) })
    }

    /// The packs that gc has condemned and that can still be brought back.
    pub(crate) fn condemned(root: &Path) -> Self {
        let mut packs = Vec::new();
        for epoch in trash::epochs(root) {
            let directory = trash::directory(root, epoch);
            for entry in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
                let name = entry.file_name();
                let id = name.to_str().and_then(|name| name.strip_prefix("index-")?.parse::<Digest>().ok());
                let Some(id) = id else { continue };
                let path = directory.join(trash::pack_name(&id));
                if let Ok(index) = Index::load(&entry.path(), &path, &id) {
                    packs.push(Arc::new(Pack { id, index, path, file: OnceLock::new() }));
                }
            }
        }
        packs.sort_unstable_by_key(|pack| pack.id);
        Self { packs, damaged: damaged(root) }
    }

    /// The pack that a blob lies in.
    pub(crate) fn find(&self, digest: &Digest) -> Option<(Arc<Pack>, Place)> {
        self.packs.iter().find_map(|pack| {
            let place = pack.index.find(digest)?;
            let sound = self.damaged.is_empty() || !self.damaged.contains(&(*digest, pack.id));
            sound.then(|| (pack.clone(), place))
        })
    }

    /// The pack of this id.
    pub(crate) fn pack(&self, id: &Digest) -> Option<&Arc<Pack>> {
        let at = self.packs.binary_search_by_key(id, |pack| pack.id).ok()?;
        self.packs.get(at)
    }

    /// All packs, by id.
    pub(crate) fn packs(&self) -> &[Arc<Pack>] {
        &self.packs
    }
}

/// The marks `packed-<digest>-<pack>` in `quarantine/`.
fn damaged(root: &Path) -> HashSet<(Digest, Digest)> {
    let Ok(entries) = std::fs::read_dir(root.join("quarantine")) else { return HashSet::new() };
    let parse = |name: &str| {
        let (digest, pack) = name.strip_prefix("packed-")?.split_once('-')?;
        Some((digest.parse().ok()?, pack.parse().ok()?))
    };
    entries.flatten().filter_map(|entry| parse(entry.file_name().to_str()?)).collect()
}
