//! Zstandard: RFC 8878, section 3; the seekable format: `contrib/seekable_format/zstd_seekable_compression_format.md` of
//! zstd. Integers are little-endian.
//!
//! | frame | size | field | accepted |
//! |---|---:|---|---|
//! | any | 4 | Magic_Number | fd2fb528; 184d2a50 … 5f: skippable, passed over |
//! | zstd | 1 | Frame_Header_Descriptor | bit 3 is 0; no dictionary |
//! | | 0, 1 | Window_Descriptor | absent with bit 5, Single_Segment_flag |
//! | | 0 to 4 | Dictionary_ID | absent, or 0 |
//! | | 1 to 8 | Frame_Content_Size | must be there |
//! | | 3 | Block_Header | bit 0 last, bits 1 and 2 type (raw, RLE, compressed), then the size |
//! | | 0, 4 | Content_Checksum | with bit 2 |
//!
//! | the end of the seek table, a skippable frame 5e | size | accepted |
//! |---|---:|---|
//! | an entry for each frame: compressed size, size | 4, 4 | all frames together are what is before the table |
//! | its checksum, with bit 7 of the descriptor | 4 | not looked at, as frames have their own |
//! | Number_Of_Frames, Seek_Table_Descriptor | 4, 1 | bits 2 to 6 are 0 |
//! | Seekable_Magic_Number | 4 | 8f92eab1 |

use std::cell::RefCell;

use zstd::zstd_safe::DCtx;

use super::{Block, Container, Index};
use crate::block::{BlockDevice, read_vec};
use crate::bytes::{Record, to_u64, to_usize};
use crate::error::{Error, Result};
use crate::limits;

const FORMAT: &str = "zstd";
pub(super) const MAGIC: u32 = 0xfd2f_b528;
const SKIPPABLE: std::ops::RangeInclusive<u32> = 0x184d_2a50..=0x184d_2a5f;
const SEEK_TABLE: u32 = 0x184d_2a5e;
const SEEKABLE: u32 = 0x8f92_eab1;
/// Bytes read at once while headers are visited.
const STEP: u64 = 4096;

pub(super) fn index(file: &dyn BlockDevice) -> Result<Index> {
    match seek_table(file)? {
        Some(index) => Ok(index),
        None => walk(file),
    }
}

/// What the seek table at the end of `file` says, if there is one.
fn seek_table(file: &dyn BlockDevice) -> Result<Option<Index>> {
    let Some(foot_at) = file.size().checked_sub(9) else { return Ok(None) };
    let foot = read_vec(file, foot_at, 9)?;
    let foot = Record::new(FORMAT, &foot, foot_at);
    if foot.le32(5)? != SEEKABLE {
        return Ok(None);
    }
    let (count, descriptor) = (foot.le32(0)?, foot.u8(4)?);
    if descriptor & 0x7c != 0 {
        return Err(foot.corrupt("Seek_Table_Descriptor", 4, descriptor, "no reserved bits"));
    }
    limits::check("wrapped blocks", u64::from(count), limits::WRAPPED_BLOCKS)?;
    let entry = if descriptor & 0x80 == 0 { 8 } else { 12 };
    let len = u64::from(count).saturating_mul(entry);
    let start = foot_at.checked_sub(len).and_then(|start| start.checked_sub(8));
    let start = start.ok_or_else(|| foot.corrupt("Number_Of_Frames", 0, count, "a table inside the file"))?;
    let bytes = read_vec(file, start, to_usize(len.saturating_add(8)))?;
    let table = Record::new(FORMAT, &bytes, start);
    let head = (table.le32(0)?, u64::from(table.le32(4)?));
    let expected = (SEEK_TABLE, len.saturating_add(9));
    if head != expected {
        return Err(table.corrupt("Skippable_Magic_Number", 0, format!("{head:x?}"), format!("{expected:x?}")));
    }
    let mut index = Index::new(Container::Zstd);
    let mut at = 0u64;
    for number in 0..u64::from(count) {
        let here = to_usize(number.saturating_mul(entry).saturating_add(8));
        let (packed, unpacked) = (u64::from(table.le32(here)?), u64::from(table.le32(here.saturating_add(4))?));
        let end = at.saturating_add(packed);
        if end > start {
            return Err(table.corrupt("Compressed_Size", here, packed, format!("frames that end at byte {start}")));
        }
        index.push(at, packed, unpacked, 0)?;
        at = end;
    }
    if at != start {
        return Err(table.corrupt("Compressed_Size", 8, format!("{at} bytes in all"), start));
    }
    Ok(Some(index))
}

/// The beginning of something in the file, read a step at a time.
struct Headers<'a> {
    file: &'a dyn BlockDevice,
    start: u64,
    bytes: Vec<u8>,
}

impl Headers<'_> {
    /// The `len` bytes at `at`, or fewer at the end of the file.
    fn at(&mut self, at: u64, len: u64) -> Result<Record<'_>> {
        let end = at.saturating_add(len).min(self.file.size());
        if at < self.start || end > self.start.saturating_add(to_u64(self.bytes.len())) {
            let step = STEP.min(self.file.size().saturating_sub(at));
            self.bytes = read_vec(self.file, at, to_usize(step))?;
            self.start = at;
        }
        let from = to_usize(at.saturating_sub(self.start));
        let rest = self.bytes.get(from..).unwrap_or_default();
        Ok(Record::new(FORMAT, rest.get(..to_usize(len)).unwrap_or(rest), at))
    }
}

/// Visits the headers of all frames and of their blocks.
fn walk(file: &dyn BlockDevice) -> Result<Index> {
    let mut headers = Headers { file, start: 0, bytes: Vec::new() };
    let mut index = Index::new(Container::Zstd);
    let (mut at, mut visited) = (0, 0u64);
    while at < file.size() {
        visited = limits::check("zstd blocks", visited.saturating_add(1), limits::ZSTD_BLOCKS)?;
        let head = headers.at(at, 18)?;
        let magic = head.le32(0)?;
        if SKIPPABLE.contains(&magic) {
            let end = at.saturating_add(8).saturating_add(u64::from(head.le32(4)?));
            if end > file.size() {
                return Err(head.corrupt("Frame_Size", 4, head.le32(4)?, "a frame inside the file"));
            }
            at = end;
            continue;
        }
        let (unpacked, first, checksum) = frame_header(&head)?;
        // Told before its blocks are visited, of which there may be many.
        if unpacked > limits::WRAPPED_BLOCK_BYTES {
            return Err(Container::Zstd.unseekable(format!("a frame of {unpacked} bytes")));
        }
        let mut end = at.saturating_add(first);
        let mut last = false;
        while !last {
            visited = limits::check("zstd blocks", visited.saturating_add(1), limits::ZSTD_BLOCKS)?;
            let bytes = headers.at(end, 3)?;
            let header = u32::from_le_bytes([bytes.u8(0)?, bytes.u8(1)?, bytes.u8(2)?, 0]);
            last = header & 1 != 0;
            let len = match header >> 1 & 3 {
                1 => 1,
                3 => return Err(bytes.corrupt("Block_Type", 0, 3, "0 to 2")),
                _ => u64::from(header >> 3),
            };
            end = end.saturating_add(3).saturating_add(len);
        }
        end = end.saturating_add(checksum);
        if end > file.size() {
            return Err(Error::corrupt(FORMAT, "frame", at, format!("an end at byte {end}"), file.size()));
        }
        index.push(at, end.saturating_sub(at), unpacked, 0)?;
        at = end;
    }
    Ok(index)
}

/// Bytes of content, of the header, and of the checksum.
fn frame_header(head: &Record<'_>) -> Result<(u64, u64, u64)> {
    let magic = head.le32(0)?;
    if magic != MAGIC {
        return Err(head.corrupt("Magic_Number", 0, format!("{magic:#x}"), format!("{MAGIC:#x}")));
    }
    let descriptor = head.u8(4)?;
    if descriptor & 0x08 != 0 {
        return Err(head.corrupt("Frame_Header_Descriptor", 4, format!("{descriptor:#x}"), "no reserved bit"));
    }
    let single = descriptor & 0x20 != 0;
    let dictionary = if single { 5usize } else { 6 };
    let (dictionary_len, id) = match descriptor & 3 {
        0 => (0usize, 0),
        1 => (1, u32::from(head.u8(dictionary)?)),
        2 => (2, u32::from(head.le16(dictionary)?)),
        _ => (4, head.le32(dictionary)?),
    };
    if id != 0 {
        return Err(Error::unsupported(FORMAT, "dictionaries"));
    }
    let at = dictionary.saturating_add(dictionary_len);
    let (size_len, size) = match descriptor >> 6 {
        0 if !single => return Err(Container::Zstd.unseekable("a frame without Frame_Content_Size")),
        0 => (1usize, u64::from(head.u8(at)?)),
        1 => (2, u64::from(head.le16(at)?).saturating_add(256)),
        2 => (4, u64::from(head.le32(at)?)),
        _ => (8, head.le64(at)?),
    };
    let checksum = if descriptor & 4 == 0 { 0 } else { 4 };
    Ok((size, to_u64(at.saturating_add(size_len)), checksum))
}

thread_local! {
    static DECODER: RefCell<Option<DCtx<'static>>> = const { RefCell::new(None) };
}

pub(super) fn unpack(file: &dyn BlockDevice, block: &Block, out: &mut [u8]) -> Result<()> {
    let data = read_vec(file, block.at, to_usize(u64::from(block.packed)))?;
    // The library also reads what was zstd before it was version 0.8; nothing here writes that.
    frame_header(&Record::new(FORMAT, &data, block.at))?;
    let len = out.len();
    match DECODER.with_borrow_mut(|decoder| decoder.get_or_insert_default().decompress(out, &data)) {
        Ok(made) if made == len => Ok(()),
        Ok(made) => Err(Error::corrupt(FORMAT, "frame", block.at, format!("{made} bytes"), len)),
        Err(code) => {
            let found = zstd::zstd_safe::get_error_name(code);
            Err(Error::corrupt(FORMAT, "frame", block.at, found, format!("a frame of {len} bytes")))
        }
    }
}
