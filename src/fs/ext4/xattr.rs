//! Extended attributes: behind the inode's extra fields, in one block of their own, and large values in inodes of their
//! own (ea_inode).
//!
//! | where | offset | size | field |
//! |---|---|---|---|
//! | inode | 0 | 4 | h_magic = 0xea020000, then entries; values from the first entry's byte |
//! | block | 0 | 4 | h_magic; then h_refcount, h_blocks (1), h_hash, h_checksum at 0x10; entries from 0x20 |
//! | entry | 0 | 1 | e_name_len |
//! | | 1 | 1 | e_name_index: the name's prefix |
//! | | 2 | 2 | e_value_offs, bytes |
//! | | 4 | 4 | e_value_inum, 0 = here |
//! | | 8 | 4 | e_value_size, bytes |
//! | | 12 | 4 | e_hash |
//! | | 16 | … | name, padded to 4 |
//!
//! Four zero bytes end the entries. Source: kernel documentation, section "Extended Attributes". ACLs are kept in a
//! shorter form than the one `getxattr(2)` gives; they are translated.

use std::ops::Range;

use super::Ext4;
use super::checksum::extend;
use super::inode::{FLAG_EA_INODE, RawInode};
use crate::block::{BlockDevice, read_vec};
use crate::bytes::{Record, to_u64, to_usize};
use crate::error::Result;
use crate::fs::Xattr;
use crate::limits;

const MAGIC: u32 = 0xea02_0000;
const BLOCK_HEADER: usize = 0x20;

/// e_name_index 7 with the name `data`: the rest of inline data, not an attribute of the user's.
const SYSTEM: u8 = 7;
/// e_name_index 9: the encryption context, not shown by listxattr either.
const ENCRYPTION: u8 = 9;

/// Called with an attribute's e_name_index, name and stored value.
type Visit<'a> = &'a mut dyn FnMut(u8, &[u8], &[u8]) -> Result<()>;

/// One attribute as stored.
struct Entry<'a> {
    index: u8,
    name: &'a [u8],
    /// Where the entry stands.
    at: usize,
    value: Value,
}

enum Value {
    /// A range of the same record.
    Here(Range<usize>),
    /// In an inode of its own.
    Inode { number: u32, size: u64 },
}

impl Ext4 {
    /// All attributes that `listxattr(2)` shows to root, sorted by name.
    pub(super) fn read_xattrs(&self, inode: &RawInode) -> Result<Vec<Xattr>> {
        let mut found = Vec::new();
        self.for_each_xattr(inode, &mut |index, name, value| {
            if !(index == SYSTEM && name == b"data" || index == ENCRYPTION) {
                found.push(translate(index, name, value)?);
            }
            Ok(())
        })?;
        found.sort();
        Ok(found)
    }

    /// inline_data: what does not fit i_block; `None` when the attribute is missing.
    pub(super) fn inline_tail(&self, inode: &RawInode) -> Result<Option<Vec<u8>>> {
        let mut tail = None;
        self.for_each_xattr(inode, &mut |index, name, value| {
            if index == SYSTEM && name == b"data" {
                tail = Some(value.to_vec());
            }
            Ok(())
        })?;
        Ok(tail)
    }

    fn for_each_xattr(&self, inode: &RawInode, visit: Visit<'_>) -> Result<()> {
        let space = inode.xattr_space()?;
        if space.len() >= 8 && space.le32(0)? == MAGIC {
            let entries = space.sub(4, space.len().saturating_sub(4))?;
            self.visit_entries(&entries, 0, visit)?;
        }
        let block = inode.file_acl()?;
        if block != 0 {
            let offset = self.superblock.block_offset(block, "i_file_acl", inode.offset.saturating_add(0x68))?;
            let bytes = read_vec(&self.metadata, offset, to_usize(u64::from(self.superblock.block_size)))?;
            let record = Record::new("ext4", &bytes, offset);
            self.check_block(&record, block)?;
            self.visit_entries(&record, BLOCK_HEADER, visit)?;
        }
        Ok(())
    }

    fn check_block(&self, record: &Record<'_>, block: u64) -> Result<()> {
        let magic = record.le32(0)?;
        if magic != MAGIC {
            return Err(record.corrupt("h_magic", 0, format!("{magic:#x}"), "0xea020000"));
        }
        if record.le32(8)? != 1 {
            return Err(record.corrupt("h_blocks", 8, record.le32(8)?, 1));
        }
        if self.superblock.features.metadata_csum() {
            let seed = extend(extend(self.superblock.checksum_seed, &block.to_le_bytes()), record.slice(0, 0x10)?);
            let computed = extend(extend(seed, &[0; 4]), record.slice(0x14, record.len().saturating_sub(0x14))?);
            let stored = record.le32(0x10)?;
            if stored != computed {
                return Err(record.corrupt("h_checksum", 0x10, format!("{stored:#x}"), format!("{computed:#x}")));
            }
        }
        Ok(())
    }

    fn visit_entries(&self, record: &Record<'_>, first: usize, visit: Visit<'_>) -> Result<()> {
        let mut at = first;
        while let Some((entry, next)) = parse_entry(record, at)? {
            match entry.value {
                Value::Here(range) => {
                    visit(entry.index, entry.name, record.slice(range.start, range.end.saturating_sub(range.start))?)?;
                }
                Value::Inode { number, size } => {
                    let value = self.value_inode(record, entry.at, number, size)?;
                    visit(entry.index, entry.name, &value)?;
                }
            }
            at = next;
        }
        Ok(())
    }

    /// A value in an inode of its own.
    fn value_inode(&self, record: &Record<'_>, at: usize, number: u32, size: u64) -> Result<Vec<u8>> {
        let inode = self.inode(number)?;
        if !inode.has(FLAG_EA_INODE)? {
            return Err(record.corrupt(
                "e_value_inum",
                at.saturating_add(4),
                number,
                "an inode with the ea_inode flag",
            ));
        }
        let stored = inode.size(&self.superblock)?;
        if stored != size {
            return Err(record.corrupt(
                "e_value_size",
                at.saturating_add(8),
                size,
                format!("the inode's size, {stored}"),
            ));
        }
        let block_size = u64::from(self.superblock.block_size);
        let mut value = vec![0u8; to_usize(size)];
        for (logical, chunk) in value.chunks_mut(to_usize(block_size)).enumerate() {
            if let Some(block) = self.map_block(&inode, to_u64(logical))?.physical {
                let offset = self.superblock.block_offset(block, "ee_start", inode.offset)?;
                self.metadata.read_exact_at(chunk, offset)?;
            }
        }
        Ok(value)
    }
}

/// The entry at byte `at` and where the next one stands; `None` at the end.
fn parse_entry<'a>(record: &Record<'a>, at: usize) -> Result<Option<(Entry<'a>, usize)>> {
    // The kernel takes four zero bytes, or the end of the space, for the end of the entries.
    if at.saturating_add(4) > record.len() || record.le32(at)? == 0 {
        return Ok(None);
    }
    let name_len = usize::from(record.u8(at)?);
    let index = record.u8(at.saturating_add(1))?;
    let name = record.slice(at.saturating_add(16), name_len)?;
    let (offset, inum) = (usize::from(record.le16(at.saturating_add(2))?), record.le32(at.saturating_add(4))?);
    let size = u64::from(record.le32(at.saturating_add(8))?);
    limits::check("extended attribute bytes", size, limits::XATTR_BYTES)?;
    let value = if inum == 0 {
        let end = offset.saturating_add(to_usize(size));
        if end > record.len() {
            let found = format!("{size} bytes at {offset}");
            return Err(record.corrupt(
                "e_value_offs",
                at.saturating_add(2),
                found,
                format!("within {} bytes", record.len()),
            ));
        }
        Value::Here(offset..end)
    } else {
        Value::Inode { number: inum, size }
    };
    let next = at.saturating_add(16).saturating_add(name_len.next_multiple_of(4));
    Ok(Some((Entry { index, name, at, value }, next)))
}

/// The attribute as `getxattr(2)` gives it.
fn translate(index: u8, name: &[u8], value: &[u8]) -> Result<Xattr> {
    let prefix: &[u8] = match index {
        0 => b"",
        1 => b"user.",
        2 => b"system.posix_acl_access",
        3 => b"system.posix_acl_default",
        4 => b"trusted.",
        6 => b"security.",
        SYSTEM => b"system.",
        8 => b"system.richacl",
        10 => b"gnu.",
        index => return Err(crate::Error::unsupported("ext4", format!("extended attribute namespace {index}"))),
    };
    let value = if matches!(index, 2 | 3) { acl(value)? } else { value.to_vec() };
    Ok(Xattr { name: [prefix, name].concat(), value })
}

/// A POSIX ACL from the disk's form (version 1: entries without an id where the tag needs none) to the kernel's exchange
/// form (version 2: every entry 8 bytes, id −1 where there is none).
fn acl(stored: &[u8]) -> Result<Vec<u8>> {
    let record = Record::new("ext4", stored, 0);
    if record.le32(0)? != 1 {
        return Err(record.corrupt("a_version", 0, record.le32(0)?, 1));
    }
    let mut value = 2u32.to_le_bytes().to_vec();
    let mut at = 4usize;
    while at < stored.len() {
        value.extend_from_slice(record.slice(at, 4)?);
        // ACL_USER and ACL_GROUP name somebody.
        let named = matches!(record.le16(at)?, 0x02 | 0x08);
        let id = if named { record.le32(at.saturating_add(4))? } else { u32::MAX };
        value.extend_from_slice(&id.to_le_bytes());
        at = at.saturating_add(if named { 8 } else { 4 });
    }
    Ok(value)
}
