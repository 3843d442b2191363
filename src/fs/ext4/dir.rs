//! Directories: blocks of entries, hash-tree nodes among them, or entries inside the inode.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 4 | inode, 0 = unused |
//! | 4 | 2 | rec_len, bytes, a multiple of 4, within the block |
//! | 6 | 1 | name_len (2 bytes without the filetype feature) |
//! | 7 | 1 | file_type; 0xde marks the checksum tail |
//! | 8 | name_len | name |
//!
//! A hash tree (dir_index) hides its nodes in unused entries, so reading all blocks in order finds every name without
//! it. Each leaf ends in a 12-byte tail with the crc32c of the block, each tree node in an 8-byte tail (metadata_csum).
//! Source: kernel documentation, section "Directory Entries".

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64_URL;
use sha2::Digest;

use super::Ext4;
use super::checksum::extend;
use super::features::INCOMPAT_FILETYPE;
use super::inode::{FLAG_CASEFOLD, FLAG_ENCRYPT, FLAG_INDEX, FLAG_INLINE_DATA, RawInode};
use crate::bytes::{Record, div_rem, escape, to_usize};
use crate::error::{Error, Result};
use crate::fs::{DirEntry, FileType};

/// Directories above this size in bytes are searched through an index.
const INDEXED: u64 = 8 << 10;

const TAIL: usize = 12;
const TAIL_TYPE: u8 = 0xde;

/// What a visitor of entries answers.
pub(super) type Visit<'a> = &'a mut dyn FnMut(DirEntry) -> Result<ControlFlow<()>>;

impl Ext4 {
    /// Calls `visit` with each entry of a directory, `.` and `..` left out, until it breaks.
    pub(super) fn for_each_entry(&self, inode: &RawInode, visit: Visit<'_>) -> Result<()> {
        if inode.file_type()? != FileType::Dir {
            let problem = crate::PathProblem::NotADirectory;
            return Err(Error::path(format!("inode {}", inode.number).as_bytes(), problem));
        }
        let encrypted = inode.has(FLAG_ENCRYPT)?;
        let changed: BTreeSet<&[u8]> = self.fast_commit.names(inode.number).collect();
        let mut before = BTreeMap::new();
        let mut visit_true = |mut entry: DirEntry| {
            if let Some(&name) = changed.get(entry.name.as_slice()) {
                before.insert(name, u32::try_from(entry.inode).unwrap_or(0));
                return Ok(ControlFlow::Continue(()));
            }
            if encrypted {
                entry.name = no_key_name(&entry.name);
            }
            visit(entry)
        };
        if !inode.made_empty && self.for_each_stored(inode, &mut visit_true)?.is_break() {
            return Ok(());
        }
        for name in changed {
            if let Some(number) = self.fast_commit.lookup(inode.number, name, before.get(name).copied()) {
                let file_type = self.inode(number)?.file_type().ok();
                if visit(DirEntry { name: name.to_vec(), inode: u64::from(number), file_type })?.is_break() {
                    break;
                }
            }
        }
        Ok(())
    }

    /// The same, as the directory itself has it: names as stored, fast commits not applied.
    fn for_each_stored(&self, inode: &RawInode, visit: Visit<'_>) -> Result<ControlFlow<()>> {
        if inode.has(FLAG_INLINE_DATA)? {
            return self.for_each_inline(inode, visit);
        }
        let block_size = u64::from(self.superblock.block_size);
        let size = inode.size(&self.superblock)?;
        let (blocks, _) = div_rem(size, block_size);
        let mut block = vec![0; to_usize(block_size)];
        let mut logical = 0;
        while logical < blocks {
            let mapping = self.map_block(inode, logical)?;
            let run_end = logical.saturating_add(mapping.len).min(blocks);
            let Some(physical) = mapping.physical.filter(|_| !mapping.unwritten) else {
                // The kernel warns of a hole in a directory and goes on behind it.
                logical = run_end;
                continue;
            };
            let first = logical;
            while logical < run_end {
                let number = physical.saturating_add(logical.saturating_sub(first));
                let offset = self.superblock.block_offset(number, "directory block", inode.offset)?;
                crate::block::BlockDevice::read_exact_at(&self.metadata, &mut block, offset)?;
                let record = Record::new("ext4", &block, offset);
                if self.superblock.features.metadata_csum() {
                    verify_block(&record, inode.checksum_seed, logical == 0 && inode.has(FLAG_INDEX)?)?;
                }
                if self.for_each_in(&record, visit)?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
                logical = logical.saturating_add(1);
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// inline_data: i_block holds the parent's number and the first entries, the attribute `system.data` the others.
    fn for_each_inline(&self, inode: &RawInode, visit: Visit<'_>) -> Result<ControlFlow<()>> {
        let entries = inode.record().sub(0x2c, 56)?;
        if self.for_each_in(&entries, visit)?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
        match self.inline_tail(inode)? {
            Some(tail) if !tail.is_empty() => self.for_each_in(&Record::new("ext4", &tail, inode.offset), visit),
            _ => Ok(ControlFlow::Continue(())),
        }
    }

    /// Walks the entries of one block.
    fn for_each_in(&self, record: &Record<'_>, visit: Visit<'_>) -> Result<ControlFlow<()>> {
        let mut at = 0usize;
        while at.saturating_add(8) <= record.len() {
            let number = record.le32(at)?;
            let rec_len = rec_len(record, at)?;
            let (name_len, kind) = if self.superblock.features.incompat(INCOMPAT_FILETYPE) {
                (usize::from(record.u8(at.saturating_add(6))?), record.u8(at.saturating_add(7))?)
            } else {
                (usize::from(record.le16(at.saturating_add(6))?), 0)
            };
            if number != 0 {
                if name_len.saturating_add(8) > rec_len {
                    return Err(record.corrupt(
                        "name_len",
                        at.saturating_add(6),
                        name_len,
                        format!("at most {}", rec_len.saturating_sub(8)),
                    ));
                }
                let name = record.slice(at.saturating_add(8), name_len)?;
                if name != b"." && name != b".." {
                    let entry = self.entry(record, at, number, name, kind)?;
                    if visit(entry)?.is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                }
            }
            at = at.saturating_add(rec_len);
        }
        Ok(ControlFlow::Continue(()))
    }

    fn entry(&self, record: &Record<'_>, at: usize, number: u32, name: &[u8], kind: u8) -> Result<DirEntry> {
        let name_at = at.saturating_add(8);
        if name.is_empty() || name.len() > 255 || name.iter().any(|byte| matches!(byte, 0 | b'/')) {
            return Err(record.corrupt(
                "name",
                name_at,
                format!("'{}'", escape(name)),
                "1 to 255 bytes without '/' and NUL",
            ));
        }
        if number > self.superblock.inodes_count {
            return Err(record.corrupt("inode", at, number, format!("at most {}", self.superblock.inodes_count)));
        }
        let file_type = match kind {
            1 => Some(FileType::File),
            2 => Some(FileType::Dir),
            3 => Some(FileType::Char),
            4 => Some(FileType::Block),
            5 => Some(FileType::Fifo),
            6 => Some(FileType::Socket),
            7 => Some(FileType::Symlink),
            _ => None,
        };
        Ok(DirEntry { name: name.to_vec(), inode: u64::from(number), file_type })
    }

    /// The inode under `name`: bytes equal, or in a casefold directory equal once folded.
    pub(super) fn find_entry(&self, directory: &RawInode, name: &[u8]) -> Result<Option<u32>> {
        let casefold = directory.has(FLAG_CASEFOLD)?;
        let folded = if casefold { fold(name) } else { None };
        let is_large = directory.size(&self.superblock)? > INDEXED;
        if is_large || self.fast_commit.names(directory.number).next().is_some() {
            let number = u64::from(directory.number);
            let folded = folded.as_deref().map(str::as_bytes);
            let found = self.indexes.find(number, name, folded, |names| {
                self.for_each_entry(directory, &mut |entry| {
                    let folded = if casefold { fold(&entry.name) } else { None };
                    let more = names.add(&entry.name, entry.inode)
                        && folded.is_none_or(|folded| names.add_folded(folded.as_bytes(), entry.inode));
                    Ok(if more { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
                })
            })?;
            return Ok(found.and_then(|number| u32::try_from(number).ok()));
        }
        let (mut exact, mut alike) = (None, None);
        self.for_each_entry(directory, &mut |entry| {
            if entry.name == name {
                exact = Some(entry.inode);
                return Ok(ControlFlow::Break(()));
            }
            if alike.is_none() && folded.is_some() && fold(&entry.name) == folded {
                alike = Some(entry.inode);
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(exact.or(alike).and_then(|number| u32::try_from(number).ok()))
    }
}

/// rec_len, checked. In blocks of 64 KiB the value 65535 (or 0) stands for the whole block.
fn rec_len(record: &Record<'_>, at: usize) -> Result<usize> {
    let stored = record.le16(at.saturating_add(4))?;
    let len = match stored {
        0 | 0xffff if record.len() == 65_536 => 65_536,
        len => usize::from(len),
    };
    let left = record.len().saturating_sub(at);
    if len < 8 || len % 4 != 0 || len > left {
        return Err(record.corrupt("rec_len", at.saturating_add(4), len, format!("a multiple of 4 from 8 to {left}")));
    }
    Ok(len)
}

/// Checks the crc32c of a directory block: of a leaf in its tail, of a hash-tree node behind its entries.
fn verify_block(record: &Record<'_>, seed: u32, is_tree_root: bool) -> Result<()> {
    let whole = record.len();
    let first_rec_len = rec_len(record, 0)?;
    // A node below the root is one unused entry over the whole block.
    let count_at = if is_tree_root && first_rec_len == 12 {
        Some(32usize)
    } else if record.le32(0)? == 0 && first_rec_len == whole {
        Some(8)
    } else {
        None
    };
    if let Some(count_at) = count_at {
        let (limit, count) =
            (usize::from(record.le16(count_at)?), usize::from(record.le16(count_at.saturating_add(2))?));
        let tail = count_at.saturating_add(limit.saturating_mul(8));
        if count > limit || tail.saturating_add(8) > whole {
            return Err(record.corrupt(
                "limit",
                count_at,
                format!("{count} of {limit}"),
                "a tree node that fits its block",
            ));
        }
        let covered = record.slice(0, count_at.saturating_add(count.saturating_mul(8)))?;
        let computed = extend(extend(extend(seed, covered), record.slice(tail, 4)?), &[0; 4]);
        return compare(record, "dt_checksum", tail.saturating_add(4), computed);
    }
    let tail = whole.saturating_sub(TAIL);
    if record.le32(tail)? != 0
        || record.le16(tail.saturating_add(4))? != 12
        || record.u8(tail.saturating_add(7))? != TAIL_TYPE
    {
        return Err(record.corrupt("det_reserved_ft", tail, "no checksum tail", "a tail of type 0xde"));
    }
    compare(record, "det_checksum", tail.saturating_add(8), extend(seed, record.slice(0, tail)?))
}

fn compare(record: &Record<'_>, field: &'static str, at: usize, computed: u32) -> Result<()> {
    let stored = record.le32(at)?;
    if stored == computed {
        Ok(())
    } else {
        Err(record.corrupt(field, at, format!("{stored:#x}"), format!("{computed:#x}")))
    }
}

/// A name as casefold directories compare it: canonical decomposition and full case folding, as the kernel's utf8
/// module does for its NFDICF tables. Bytes that are not UTF-8 compare as they are.
fn fold(name: &[u8]) -> Option<String> {
    use unicode_normalization::UnicodeNormalization;
    let text = std::str::from_utf8(name).ok()?;
    Some(caseless::default_case_fold_str(&text.nfd().collect::<String>()).nfd().collect())
}

/// How the kernel shows an encrypted name without its key: base64url of a hash (zero here: unindexed) and the bytes,
/// long names cut and completed by their SHA-256. Source: kernel documentation, "Filesystem-level encryption (fscrypt)".
fn no_key_name(stored: &[u8]) -> Vec<u8> {
    const SHOWN: usize = 149;
    let mut bytes = vec![0; 8];
    bytes.extend_from_slice(stored.get(..SHOWN).unwrap_or(stored));
    if let Some(rest) = stored.get(SHOWN..)
        && !rest.is_empty()
    {
        bytes.extend_from_slice(&sha2::Sha256::digest(rest));
    }
    BASE64_URL.encode(bytes).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folding_ignores_case_and_composition() {
        assert_eq!(fold("ÉCOLE".as_bytes()), fold("e\u{301}cole".as_bytes()));
        assert_ne!(fold(b"a"), fold(b"b"));
        assert_eq!(fold(b"\xff"), None);
    }

    #[test]
    fn base64url_without_padding() {
        assert_eq!(no_key_name(b"\xfb\xff"), b"AAAAAAAAAAD7_w");
    }
}
