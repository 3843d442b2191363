//! Writing a pack.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use super::super::{Digest, random};
use super::{Index, PACK_HEADER, PACK_MAGIC, Place, RECORD_HEADER, VERSION};
use crate::bytes::{low_u32, to_u64};
use crate::error::{Error, Result};

/// A pack that is being written in a staging directory.
#[derive(Debug)]
pub(crate) struct Writer {
    out: BufWriter<File>,
    path: PathBuf,
    hasher: blake3::Hasher,
    places: Vec<(Digest, Place)>,
    len: u64,
}

/// A pack and its index under temporary names.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) id: Digest,
    pub(crate) pack: PathBuf,
    pub(crate) index: PathBuf,
    pub(crate) blobs: Vec<Digest>,
}

impl Writer {
    /// A new pack in `staging`.
    pub(crate) fn create(staging: &Path) -> Result<Self> {
        let path = staging.join(format!("pack-{}", random()));
        let file = File::options().write(true).create_new(true).open(&path);
        let file = file.map_err(|error| Error::io("create", path.display(), error))?;
        let out = BufWriter::with_capacity(1 << 20, file);
        let mut pack = Self { out, path, hasher: blake3::Hasher::new(), places: Vec::new(), len: 0 };
        let header = [&PACK_MAGIC[..], &VERSION.to_le_bytes(), &[0; 4]].concat();
        pack.write(&header)?;
        debug_assert_eq!(pack.len, PACK_HEADER);
        Ok(pack)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.hasher.update(bytes);
        self.len = self.len.saturating_add(to_u64(bytes.len()));
        self.out.write_all(bytes).map_err(|error| Error::io("write", self.path.display(), error))
    }

    /// Bytes so far.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Adds a blob that is not in it yet.
    pub(crate) fn add(&mut self, digest: Digest, blob: &[u8], compress: bool) -> Result<()> {
        let packed = if compress { zstd::bulk::compress(blob, 3).ok() } else { None };
        let stored = packed.as_deref().filter(|packed| packed.len() < blob.len()).unwrap_or(blob);
        let (stored_len, len) = (low_u32(to_u64(stored.len())), low_u32(to_u64(blob.len())));
        let offset = self.len.saturating_add(RECORD_HEADER);
        self.write(digest.as_bytes())?;
        self.write(&stored_len.to_le_bytes())?;
        self.write(&len.to_le_bytes())?;
        self.write(stored)?;
        self.places.push((digest, Place { offset, stored: stored_len, len }));
        Ok(())
    }

    /// Closes it and writes its index beside it.
    pub(crate) fn finish(self) -> Result<Finished> {
        let Self { out, path, hasher, places, len } = self;
        let file = out.into_inner().map_err(|error| Error::io("write", path.display(), error.into_error()))?;
        let id = Digest::from(hasher.finalize());
        super::super::seal(&file, &path, &id)?;
        let blobs = places.iter().map(|(digest, _)| *digest).collect();
        let index = path.with_extension("idx");
        let written = File::options().write(true).create_new(true).open(&index).and_then(|mut file| {
            file.write_all(Index::build(&id, len, places).as_bytes())?;
            Ok(file)
        });
        let file = written.map_err(|error| Error::io("write", index.display(), error))?;
        super::super::seal(&file, &index, &id)?;
        Ok(Finished { id, pack: path, index, blobs })
    }
}
