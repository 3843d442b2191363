//! Persistent bitmaps, as far as to know which clusters they use: QEMU `docs/interop/qcow2.txt`, sections "Bitmaps
//! extension" and "Bitmaps".
//!
//! | extension 0x23852875, byte | size | field | accepted |
//! |---|---|---|---|
//! | 0 | 4 | `nb_bitmaps` | 1 to 65,535 |
//! | 4 | 4 | reserved | any |
//! | 8 | 8 | `bitmap_directory_size` | bytes; at most 64 MiB by QEMU's limit, [`limits::TABLE_BYTES`] by ours |
//! | 16 | 8 | `bitmap_directory_offset` | a multiple of the cluster size |
//!
//! | directory entry, byte | size | field | accepted |
//! |---|---|---|---|
//! | 0 | 8 | `bitmap_table_offset` | a multiple of the cluster size |
//! | 8 | 4 | `bitmap_table_size` | entries |
//! | 12 | 4 | flags | any |
//! | 16 | 1 | type | any |
//! | 17 | 1 | `granularity_bits` | any |
//! | 18 | 2 | `name_size` | bytes |
//! | 20 | 4 | `extra_data_size` | bytes |
//! | 24 | | extra data, name, padding to 8 bytes | |
//!
//! A table entry has the offset of a cluster of bits in bits 9 to 55, or none.

use std::ops::Range;

use super::FORMAT;
use super::header::Header;
use crate::block::{BlockDevice, read_vec};
use crate::bytes::{Record, round_up, to_u64, to_usize};
use crate::error::{Error, Result};
use crate::limits;

const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;

/// The parts of the file that bitmaps use. `area` is the header extension's data.
pub(super) fn references(
    file: &dyn BlockDevice,
    area: &[u8],
    header: &Header,
    found: &mut Vec<Range<u64>>,
) -> Result<()> {
    let extension = Record::new(FORMAT, area, 0);
    let (count, size, offset) = (extension.be32(0)?, extension.be64(8)?, extension.be64(16)?);
    limits::check("bitmap directory bytes", size, limits::TABLE_BYTES)?;
    if !offset.is_multiple_of(header.cluster_size()) || offset.saturating_add(size) > file.size() {
        let expected = format!("a directory of {size} bytes within the file's {}", file.size());
        return Err(Error::corrupt(FORMAT, "bitmap_directory_offset", offset, format!("{offset:#x}"), expected));
    }
    found.push(offset..offset.saturating_add(size));
    let bytes = read_vec(file, offset, to_usize(size))?;
    let directory = Record::new(FORMAT, &bytes, offset);
    let mut at = 0usize;
    let mut entries = 0u64;
    for _ in 0..count {
        let entry = directory.sub(at, 24)?;
        let (table, len) = (entry.be64(0)?, u64::from(entry.be32(8)?));
        let rest = u64::from(entry.be16(18)?).saturating_add(entry.be32(20)?.into());
        at = at.saturating_add(to_usize(round_up(rest.saturating_add(24), 8).unwrap_or(u64::MAX)));
        entries = entries.saturating_add(len);
        limits::check("bitmap table entries", entries, limits::CHECK_BITMAP_ENTRIES)?;
        let table_bytes = len.saturating_mul(8);
        if !table.is_multiple_of(header.cluster_size()) || table.saturating_add(table_bytes) > file.size() {
            let expected = format!("a table of {table_bytes} bytes within the file's {}", file.size());
            return Err(entry.corrupt("bitmap_table_offset", 0, format!("{table:#x}"), expected));
        }
        found.push(table..table.saturating_add(table_bytes));
        let words = read_vec(file, table, to_usize(table_bytes))?;
        let (words, _) = words.as_chunks::<8>();
        for word in words {
            let cluster = u64::from_be_bytes(*word) & OFFSET;
            if cluster != 0 {
                found.push(cluster..cluster.saturating_add(header.cluster_size()));
            }
        }
    }
    limits::check("bitmap clusters", to_u64(found.len()), limits::CHECK_BITMAP_ENTRIES.saturating_mul(2))?;
    Ok(())
}
