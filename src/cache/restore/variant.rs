//! Files of the store under a guest's own attributes, to be hard-linked into read-only trees.
//!
//! A hard link shares mode, owner, times and attributes with its file, and two guests' files with one content may differ in
//! those. So links lead to variants: `variants/aa/<62 hex>`, named by the digest of the blob and all that is given to the
//! file; itself a reflink or copy of the blob. Nothing refers to a variant, gc removes those that no tree uses.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::Ordering;

use super::super::manifest::{Content, Entry};
use super::super::{Digest, random, record};
use super::content::Scratch;
use super::{Restore, add};
use crate::error::Result;
use crate::host::{Attributes, Existing, Tree};

impl Restore<'_> {
    /// Makes the file as a name of a variant; false when it has to be made otherwise.
    pub(super) fn link_variant(&self, entry: &Entry<'_>, path: &[u8], attributes: &Attributes<'_>) -> Result<bool> {
        // A name of an empty or tiny file costs as much as the file.
        let Content::Blob(blob) = entry.content else { return Ok(false) };
        let (digest, len) = self.manifest.blob(blob)?;
        let key = self.variant_key(entry, &digest, attributes)?;
        let variant = self.store.path().join("variants").join(key.shard());
        if !is_sound(&variant, entry.size, attributes, self.options.preserve.times) {
            // Whatever is wrong with one that exists, it is not what is wanted.
            let _ = std::fs::remove_file(&variant);
            self.make_variant(entry, path, &variant, attributes)?;
        }
        if !self.tree.link_from(&variant, path)? {
            self.contents.able.no_link.store(true, Ordering::Relaxed);
            return Ok(false);
        }
        add(&self.contents.counts.hardlinked_files, 1);
        let _ = len;
        Ok(true)
    }

    fn variant_key(&self, entry: &Entry<'_>, digest: &Digest, attributes: &Attributes<'_>) -> Result<Digest> {
        let numbers = format!(
            "{} {} {} {} {:?} {:?} {:?}",
            attributes.permissions,
            attributes.uid,
            attributes.gid,
            entry.size,
            attributes.mtime,
            attributes.atime,
            self.options.preserve
        );
        let mut parts: Vec<Vec<u8>> = vec![digest.as_bytes().to_vec(), numbers.into_bytes()];
        let runs = entry.sparse.map(|map| self.manifest.sparse(map)).transpose()?.unwrap_or_default();
        parts.push(format!("{runs:?}").into_bytes());
        parts.extend(attributes.xattrs.iter().flat_map(|xattr| [xattr.name.clone(), xattr.value.clone()]));
        Ok(Digest::derive("guestctl variant v1", parts.iter().map(Vec::as_slice)))
    }

    fn make_variant(&self, entry: &Entry<'_>, path: &[u8], variant: &Path, attributes: &Attributes<'_>) -> Result<()> {
        let shard = variant.parent().unwrap_or(Path::new("."));
        let tree = Tree::open(shard, self.options.preserve, Existing::Refuse)?;
        let name = format!(".{}", random());
        let new = tree.create_file(name.as_bytes(), attributes)?;
        let made = self
            .contents
            .fill(entry, &new.file, path, false, &mut Scratch::new())
            .and_then(|()| tree.finish(name.as_bytes(), &new, attributes))
            // Another may have made the same meanwhile.
            .and_then(|()| record::rename_new(&shard.join(&name), variant));
        if made.is_err() {
            let _ = std::fs::remove_file(shard.join(&name));
        }
        made.map(drop)
    }
}

/// Whether a variant is as it was made: somebody may have written to a tree that was said to be read-only.
fn is_sound(variant: &Path, size: u64, attributes: &Attributes<'_>, with_times: bool) -> bool {
    std::fs::symlink_metadata(variant).is_ok_and(|metadata| {
        let nanoseconds = i64::from(attributes.mtime.nanoseconds);
        let time = metadata.mtime() == attributes.mtime.seconds && metadata.mtime_nsec() / 1000 == nanoseconds / 1000;
        metadata.is_file() && metadata.len() == size && (!with_times || time)
    })
}
