//! Subtree digests: one number for all that lies below a directory, whatever tree it is part of.
//!
//! BLAKE3 with the context `guestctl subtree v1`, over the children in order. Of each: name length (4) and name, type (1),
//! permissions (4), uid (4), gid (4), mtime (8 and 4), size (8), whether it has other names (1), content tag (1) and
//! content (length (4) and bytes inline or target, 32 bytes of blob or subtree digest, two device numbers), attributes
//! (length (4) and their record), data runs (length (4) and their record). Two directories with one digest restore to the
//! same.

use super::super::Digest;
use super::entry::{Content, Entry, type_number};
use super::read::Manifest;
use crate::bytes::{low_u32, to_u64, to_usize};
use crate::error::Result;

const CONTEXT: &str = "guestctl subtree v1";

/// The digest of each directory. Children have larger numbers than their parents, so that the last come first.
pub(super) fn digests(manifest: &Manifest) -> Result<Vec<Digest>> {
    let count = manifest.directories();
    let mut digests = vec![Digest::from_bytes([0; 32]); to_usize(u64::from(count))];
    let mut bytes = Vec::new();
    for index in (0..count).rev() {
        bytes.clear();
        for child in manifest.directory(index)?.children() {
            add(&mut bytes, manifest, &manifest.entry(child)?, &digests)?;
        }
        let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
        hasher.update(&bytes);
        if let Some(digest) = digests.get_mut(to_usize(u64::from(index))) {
            *digest = hasher.finalize().into();
        }
    }
    Ok(digests)
}

fn add(out: &mut Vec<u8>, manifest: &Manifest, entry: &Entry<'_>, digests: &[Digest]) -> Result<()> {
    let sized = |out: &mut Vec<u8>, bytes: &[u8]| {
        out.extend_from_slice(&low_u32(to_u64(bytes.len())).to_le_bytes());
        out.extend_from_slice(bytes);
    };
    sized(out, entry.name);
    out.push(type_number(entry.file_type));
    for number in [entry.permissions, entry.uid, entry.gid] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.extend_from_slice(&entry.mtime.seconds.to_le_bytes());
    out.extend_from_slice(&entry.mtime.nanoseconds.to_le_bytes());
    out.extend_from_slice(&entry.size.to_le_bytes());
    out.push(u8::from(entry.leader.is_some()));
    match entry.content {
        Content::None => out.push(0),
        Content::Inline(bytes) => {
            out.push(1);
            sized(out, bytes);
        }
        Content::Blob(blob) => {
            out.push(2);
            out.extend_from_slice(manifest.blob(blob)?.0.as_bytes());
        }
        Content::Target(target) => {
            out.push(3);
            sized(out, target);
        }
        Content::Directory(directory) => {
            out.push(4);
            let digest = digests.get(to_usize(u64::from(directory)));
            out.extend_from_slice(digest.map_or(&[0; 32], Digest::as_bytes).as_slice());
        }
        Content::Device(device) => {
            out.push(5);
            out.extend_from_slice(&device.major.to_le_bytes());
            out.extend_from_slice(&device.minor.to_le_bytes());
        }
    }
    sized(out, entry.xattrs.map(|set| manifest.list(false, set)).transpose()?.map_or(&[], |record| record.bytes));
    sized(out, entry.sparse.map(|map| manifest.list(true, map)).transpose()?.map_or(&[], |record| record.bytes));
    Ok(())
}
