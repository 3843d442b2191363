//! Trees in one tar file, for places that a network does not reach.
//!
//! ```text
//! guestctl-cache.json     {"format": 1, "refs": [ … ]}
//! blobs/<64 hex>          what the next tree needs and no tree before it
//! trees/<64 hex>          its manifest
//! ```
//!
//! The same trees give the same bytes, however they are stored. What comes in is held against its name, and a manifest
//! against all rules, before anything is stored.

use std::collections::HashSet;
use std::io::{Read, Write};

use serde::{Deserialize, Serialize};

use super::Digest;
use super::import::{ImportOptions, Imported};
use super::manifest::Manifest;
use super::objects::{Object, read_all};
use super::pack::Window;
use super::refs::Ref;
use super::store::Store;
use crate::bytes::escape;
use crate::error::{Error, ErrorKind, Result};
use crate::limits;
use crate::progress::Progress;

/// The first member.
#[derive(Debug, Serialize, Deserialize)]
struct Head {
    format: u32,
    refs: Vec<Ref>,
}

const HEAD: &str = "guestctl-cache.json";
const FORMAT: u32 = 1;

/// What an archive holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Exported {
    /// Trees.
    pub trees: u64,
    /// Blobs.
    pub blobs: u64,
    /// Bytes of those.
    pub bytes: u64,
}

impl Store {
    /// Writes the trees that `refs` name, in this order, with all that they need. Every blob is held against its digest.
    pub fn export(&self, refs: &[Ref], out: &mut dyn Write, progress: &dyn Progress) -> Result<Exported> {
        let failed = |error| Error::io("write", "the archive", error);
        let mut archive = tar::Builder::new(out);
        let head = serde_json::to_vec_pretty(&Head { format: FORMAT, refs: refs.to_vec() });
        let head = head.map_err(|error| Error::invalid(error.to_string()))?;
        archive.append_data(&mut header(head.len() as u64), HEAD, &head[..]).map_err(failed)?;
        let (mut exported, mut known, mut window) = (Exported::default(), HashSet::new(), Window::in_order());
        for found in refs {
            if !known.insert(found.tree) {
                continue;
            }
            let (manifest, _lease) = self.use_tree(&found.tree)?;
            for index in 0..manifest.blobs() {
                let (digest, len) = manifest.blob(index)?;
                if progress.cancelled() {
                    return Err(ErrorKind::Cancelled.into());
                }
                if !known.insert(digest) {
                    continue;
                }
                let name = format!("blobs/{digest}");
                match self.object(&digest, len)? {
                    Object::Packed { pack, place } => {
                        let bytes = self.read_packed(&digest, &pack, &place, &mut window)?;
                        self.check(&digest, &bytes)?;
                        archive.append_data(&mut header(len), name, &bytes[..]).map_err(failed)?;
                    }
                    Object::Loose { file, path, compressed } => {
                        if super::objects::digest_of_file(&file, compressed, len)? != Some(digest) {
                            self.quarantine_object(&digest, compressed);
                            return Err(self.damaged(&digest));
                        }
                        let (reader, mut writer) = std::io::pipe().map_err(failed)?;
                        std::thread::scope(|scope| {
                            let fed = scope
                                .spawn(move || read_all(&file, compressed, len, &mut |part| writer.write_all(part)));
                            let appended = archive.append_data(&mut header(len), name, reader.take(len));
                            let fed = fed.join().unwrap_or_else(|_| Err(std::io::ErrorKind::Other.into()));
                            appended.map_err(failed)?;
                            fed.map_err(|error| Error::io("read", path.display(), error))
                        })?;
                    }
                }
                (exported.blobs, exported.bytes) = (exported.blobs + 1, exported.bytes + len);
                progress.advance(len);
            }
            let bytes = manifest.as_bytes();
            archive
                .append_data(&mut header(bytes.len() as u64), format!("trees/{}", found.tree), bytes)
                .map_err(failed)?;
            exported.trees += 1;
        }
        archive.finish().map_err(failed)?;
        Ok(exported)
    }

    /// The same into a file, which is complete under its name or not there at all.
    pub fn export_file(&self, refs: &[Ref], path: &std::path::Path, progress: &dyn Progress) -> Result<Exported> {
        let staged = crate::host::Staged::create(path)?;
        let mut out = std::io::BufWriter::with_capacity(1 << 20, &staged.file);
        let exported = self.export(refs, &mut out, progress)?;
        out.flush().map_err(|error| Error::io("write", path.display(), error))?;
        drop(out);
        staged.publish()?;
        Ok(exported)
    }

    fn check(&self, digest: &Digest, bytes: &[u8]) -> Result<()> {
        if Digest::of(bytes) == *digest { Ok(()) } else { Err(self.damaged(digest)) }
    }

    /// Stores the trees of an archive, each with the names that it had there. The archive may come from anywhere.
    pub fn import_archive(&self, input: &mut dyn Read, progress: &dyn Progress) -> Result<Vec<Imported>> {
        let failed = |error| Error::io("read", "the archive", error);
        let mut archive = tar::Archive::new(input);
        let mut members = archive.entries().map_err(failed)?;
        let mut first = members.next().ok_or_else(|| Error::invalid("the archive is empty"))?.map_err(failed)?;
        if &*first.path_bytes() != HEAD.as_bytes() {
            return Err(Error::invalid(format!(
                "the archive begins with {} and not with {HEAD}",
                escape(&first.path_bytes())
            )));
        }
        let size = limits::check("bytes of an archive's head", first.size(), limits::CACHE_RECORD_BYTES)?;
        let mut text = Vec::new();
        (&mut first).take(size).read_to_end(&mut text).map_err(failed)?;
        let head: Head =
            serde_json::from_slice(&text).map_err(|error| Error::corrupt("cache archive", "head", 0, error, "refs"))?;
        if head.format != FORMAT {
            return Err(Error::unsupported("cache archive", format!("format {}", head.format)));
        }
        let mut imported = Vec::new();
        let mut import = self.import(ImportOptions::default())?;
        for member in members {
            if progress.cancelled() {
                return Err(ErrorKind::Cancelled.into());
            }
            let mut member = member.map_err(failed)?;
            let name = String::from_utf8_lossy(&member.path_bytes()).into_owned();
            let size = member.size();
            let refused = || Error::corrupt("cache archive", "member", 0, escape(name.as_bytes()), "a blob or tree");
            if !member.header().entry_type().is_file() {
                return Err(refused());
            }
            match name.split_once('/') {
                Some(("blobs", hex)) => {
                    let digest: Digest = hex.parse()?;
                    import.adopt(&digest, size, &mut member)?;
                    progress.advance(size);
                }
                Some(("trees", hex)) => {
                    let id: Digest = hex.parse()?;
                    limits::check("bytes of a tree manifest", size, limits::CACHE_MANIFEST_BYTES)?;
                    let mut bytes = Vec::new();
                    (&mut member).take(size).read_to_end(&mut bytes).map_err(failed)?;
                    let manifest = Manifest::verified(bytes, &id)?;
                    manifest.validate()?;
                    let mut refs = head.refs.iter().filter(|found| found.tree == id);
                    // Names are checked as those that a user gives.
                    let checked = |found: &Ref| {
                        Ref::new(&found.namespace, &found.name, id).map(|new| Ref {
                            class: found.class,
                            source: found.source.clone(),
                            ..new
                        })
                    };
                    let first = refs.next().map(checked).transpose()?;
                    imported.push(import.publish_as(manifest, first.as_ref())?);
                    for more in refs {
                        self.set_ref(&checked(more)?)?;
                    }
                    import = self.import(ImportOptions::default())?;
                }
                _ => return Err(refused()),
            }
        }
        Ok(imported)
    }
}

fn header(len: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_size(len);
    header.set_mode(0o444);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}
