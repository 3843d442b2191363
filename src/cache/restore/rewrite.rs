//! Strings that are replaced while a tree comes back: paths that a build left in its files, names of machines.
//!
//! A file that holds the string is cloned and patched where both strings have the same length, and written anew otherwise.
//! It is never a link to the store.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::super::manifest::{Content, Entry};
use super::content::{Able, Scratch};
use super::{Chosen, Restore, add};
use crate::bytes::{escape, to_u64};
use crate::error::{Error, Result};
use crate::limits;

/// What is replaced, and in which files.
#[derive(Clone)]
pub struct Rewrite {
    /// Each string, and what comes in its place.
    pub pairs: Vec<(Vec<u8>, Vec<u8>)>,
    /// The files.
    pub files: Chosen,
}

impl std::fmt::Debug for Rewrite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Rewrite({} strings)", self.pairs.len())
    }
}

impl Rewrite {
    pub(super) fn takes(&self, path: &[u8]) -> bool {
        (self.files)(path)
    }

    /// The new content, and the places of patches when none changes a length; `None` when nothing is to be replaced.
    fn apply(&self, bytes: &[u8]) -> Option<(Vec<u8>, Vec<(usize, usize)>)> {
        let mut out = Vec::with_capacity(bytes.len());
        let mut places = Vec::new();
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            match self.pairs.iter().find(|(from, _)| !from.is_empty() && rest.starts_with(from)) {
                Some((from, to)) => {
                    places.push((at, to.len()));
                    out.extend_from_slice(to);
                    at += from.len();
                }
                None => {
                    out.extend(rest.first());
                    at += 1;
                }
            }
        }
        (!places.is_empty()).then_some((out, places))
    }

    fn keeps_lengths(&self) -> bool {
        self.pairs.iter().all(|(from, to)| from.len() == to.len())
    }
}

impl Restore<'_> {
    /// Makes the content with strings replaced; false when there is nothing to replace.
    pub(super) fn rewritten(&self, entry: &Entry<'_>, rewrite: &Rewrite, to: &File, path: &[u8]) -> Result<bool> {
        if entry.sparse.is_some() {
            return Ok(false);
        }
        let bytes = match entry.content {
            Content::Inline(bytes) => bytes.to_vec(),
            Content::Blob(blob) => {
                let (digest, len) = self.manifest.blob(blob)?;
                limits::check("bytes of a file with replaced strings", len, limits::CALL_BYTES)?;
                self.store.read_blob(&digest, len).map_err(|error| error.at_path(path))?
            }
            _ => return Ok(false),
        };
        let Some((new, places)) = rewrite.apply(&bytes) else { return Ok(false) };
        let failed = |error| Error::io("write", escape(path), error);
        let whole = matches!(entry.content, Content::Blob(_)) && Able::may(&self.contents.able.no_reflink);
        if whole && rewrite.keeps_lengths() {
            self.contents.fill(entry, to, path, false, &mut Scratch::new())?;
            for (at, len) in places {
                let part = new.get(at..at + len).unwrap_or_default();
                to.write_all_at(part, to_u64(at)).map_err(failed)?;
            }
            return Ok(true);
        }
        to.write_all_at(&new, 0).map_err(failed)?;
        add(&self.contents.counts.written_bytes, to_u64(new.len()));
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn strings_are_replaced_from_left_to_right() {
        let pair = |from: &str, to: &str| (from.as_bytes().to_vec(), to.as_bytes().to_vec());
        let pairs = vec![pair("/old", "/new"), pair("aa", "b")];
        let rewrite = Rewrite { pairs, files: Arc::new(|_| true) };
        let (new, places) = rewrite.apply(b"x/old/aaa/ol").unwrap();
        assert_eq!((&new[..], &places[..]), (&b"x/new/ba/ol"[..], &[(1, 4), (6, 1)][..]));
        assert!(rewrite.apply(b"nothing here").is_none());
        assert!(!rewrite.keeps_lengths());
    }
}
