//! `VERSION.json`: what a store is, and who may use it.
//!
//! Features are words in three sets. A program that does not know a word of `incompat` must not open the store, one that
//! does not know a word of `ro_compat` must not change it, `compat` is for information: `subvolumes` says that the store
//! has had hot trees, which a program that does not know them leaves where they are.

use std::collections::BTreeSet;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::record;
use crate::error::{Error, Result};

/// The format that this program writes.
pub(super) const FORMAT: u32 = 1;

/// What `VERSION.json` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// The layout's number.
    pub format: u32,
    /// How objects are named: `blake3`.
    pub hash: String,
    /// The store's own name, never used twice.
    pub uuid: String,
    /// Blobs of fewer bytes lie in packs.
    pub pack_threshold_bytes: u64,
    /// `none`, or `zstd` for a store whose objects are compressed and cannot be reflinked.
    pub compression: Compression,
    /// Whether files of the store's filesystem can share blocks.
    pub reflink: bool,
    /// The step in which the filesystem keeps modification times.
    pub mtime_step_ns: u64,
    /// Who may use the store.
    pub features: Features,
}

/// How objects are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// As they are, so that they can be reflinked.
    #[default]
    None,
    /// As zstd frames, where that is smaller: an archive.
    Zstd,
}

/// The three sets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Features {
    /// For information.
    #[serde(default)]
    pub compat: BTreeSet<String>,
    /// Needed to change the store.
    #[serde(default)]
    pub ro_compat: BTreeSet<String>,
    /// Needed to read it.
    #[serde(default)]
    pub incompat: BTreeSet<String>,
}

/// Words of `incompat` that this program knows.
const INCOMPAT: &[&str] = &["zstd-objects"];
/// Words of `ro_compat` that this program knows.
const RO_COMPAT: &[&str] = &[];

impl Version {
    /// Reads the file in the store `root`.
    pub(super) fn read(root: &Path) -> Result<Self> {
        let path = root.join("VERSION.json");
        let Some(bytes) = record::read(&path)? else {
            return Err(Error::invalid(format!("{} is no cache", root.display()))
                .with_hint("make one with guestctl cache init"));
        };
        let corrupt = |error: serde_json::Error| {
            Error::corrupt("cache", "VERSION.json", 0, error, "a store's description").in_image(path.display())
        };
        // A later format may have other fields: its number comes first.
        #[derive(Deserialize)]
        struct Number {
            format: u32,
        }
        let Number { format } = serde_json::from_slice(&bytes).map_err(corrupt)?;
        if format != FORMAT {
            return Err(Error::unsupported("cache", format!("format {format}")).in_image(root.display()));
        }
        let version: Self = serde_json::from_slice(&bytes).map_err(corrupt)?;
        if version.hash != "blake3" {
            return Err(Error::unsupported("cache", format!("the hash {}", version.hash)));
        }
        if let Some(word) = version.features.incompat.iter().find(|word| !INCOMPAT.contains(&word.as_str())) {
            return Err(Error::unsupported("cache", format!("the feature {word}")).in_image(root.display()));
        }
        Ok(version)
    }

    /// The file's text.
    pub(super) fn text(&self) -> Result<Vec<u8>> {
        let mut text = serde_json::to_vec_pretty(self).map_err(|error| Error::invalid(error.to_string()))?;
        text.push(b'\n');
        Ok(text)
    }

    /// A feature without which the store must not be changed, and which this program does not know.
    pub(super) fn read_only_for(&self) -> Option<&str> {
        self.features.ro_compat.iter().map(String::as_str).find(|word| !RO_COMPAT.contains(word))
    }
}
