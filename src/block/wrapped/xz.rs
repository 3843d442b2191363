//! xz: *The .xz File Format*, version 1.2.1. Integers are little-endian, `vli` is 7 bits a byte, the lowest first.
//!
//! | stream | size | field | accepted |
//! |---|---:|---|---|
//! | header | 6 | magic | `fd 37 7a 58 5a 00` |
//! | | 2, 4 | Stream Flags, their CRC32 | `00`, and the check: 0 none, 1 CRC32, 4 CRC64, 10 SHA-256 |
//! | blocks | | see below | multiples of 4 bytes |
//! | index | 1 | Index Indicator | 0 |
//! | | vli | Number of Records | |
//! | | vli, vli | Unpadded Size, Uncompressed Size | one pair for each block |
//! | | 0 to 3, 4 | padding, CRC32 | |
//! | footer | 4 | CRC32 of the next two fields | |
//! | | 4, 2 | Backward Size, Stream Flags | bytes of the index / 4 - 1; the header's |
//! | | 2 | magic | `YZ` |
//!
//! | block | size | field | accepted |
//! |---|---:|---|---|
//! | header | 1 | Block Header Size | bytes / 4 - 1, not 0 |
//! | | 1 | Block Flags | one filter; bits 6 and 7: the two sizes are there |
//! | | vli, vli | Compressed Size, Uncompressed Size | those of the index |
//! | | vli, vli, 1 | Filter ID, Size of Properties, Filter Properties | 21 LZMA2, 1, dictionary size |
//! | | …, 4 | padding, CRC32 | |
//! | data | | LZMA2 | |
//! | end | 0 to 3 | Block Padding | zeroes |
//! | | 0 to 32 | Check | of the unpacked data |
//!
//! Streams may follow one another, with zeroes in multiples of 4 bytes behind each. They are found from the end of the file
//! on. LZMA2 is decoded by `lzma-rust2`, without its unsafe parts: its window grows with what was decoded and is held
//! against the block's size here. Refused by name: filters but LZMA2 (BCJ, delta), other checks.

use std::io::{BufReader, Read};

use lzma_rust2::Lzma2Reader;
use sha2::Digest;

use super::{Block, Container, Index};
use crate::block::{BlockDevice, read_vec};
use crate::bytes::{Record, escape, round_up, to_u64, to_usize};
use crate::error::{Error, Result};
use crate::limits;

const FORMAT: &str = "xz";
pub(super) const MAGIC: &[u8] = b"\xfd7zXZ\0";
const LZMA2: u64 = 0x21;
/// Bytes of a stream's header and of its footer.
const END: u64 = 12;
/// The largest of the format's multibyte integers.
const VLI_BYTES: usize = 9;

static CRC64: crc::Crc<u64, crc::Table<16>> = crc::Crc::<u64, crc::Table<16>>::new(&crc::CRC_64_XZ);

/// One stream's index.
struct Stream {
    /// The first block.
    start: u64,
    check: u8,
    /// Unpadded and uncompressed size of each block.
    records: Vec<(u64, u64)>,
}

pub(super) fn index(file: &dyn BlockDevice) -> Result<Index> {
    let mut streams = Vec::new();
    let (mut end, mut blocks) = (file.size(), 0u64);
    while end > 0 {
        let stream = read_stream(file, without_padding(file, end)?)?;
        blocks = blocks.saturating_add(to_u64(stream.records.len()));
        limits::check("wrapped blocks", blocks.saturating_add(to_u64(streams.len())), limits::WRAPPED_BLOCKS)?;
        end = stream.start.saturating_sub(END);
        streams.push(stream);
    }
    let mut index = Index::new(Container::Xz);
    for stream in streams.into_iter().rev() {
        let mut at = stream.start;
        for (unpadded, unpacked) in stream.records {
            index.push(at, unpadded, unpacked, stream.check)?;
            at = at.saturating_add(padded(unpadded));
        }
    }
    Ok(index)
}

fn padded(unpadded: u64) -> u64 {
    round_up(unpadded, 4).unwrap_or(u64::MAX)
}

/// Where the last stream before `end` ends.
fn without_padding(file: &dyn BlockDevice, end: u64) -> Result<u64> {
    let mut at = end;
    loop {
        let start = at.saturating_sub(4096);
        let bytes = read_vec(file, start, to_usize(at.saturating_sub(start)))?;
        if let Some(last) = bytes.iter().rposition(|&byte| byte != 0) {
            let stop = start.saturating_add(to_u64(last)).saturating_add(1);
            // The footer ends in a letter, and padding is whole words.
            let padding = end.saturating_sub(stop);
            return match padding.checked_rem(4) {
                Some(0) => Ok(stop),
                _ => Err(Error::corrupt(FORMAT, "Stream Padding", stop, padding, "a multiple of 4 bytes")),
            };
        }
        limits::check("xz stream padding bytes", end.saturating_sub(start), limits::XZ_PADDING_BYTES)?;
        if start == 0 {
            return Err(Error::corrupt(FORMAT, "Stream Padding", 0, "padding alone", "a stream before it"));
        }
        at = start;
    }
}

/// The stream that ends at `end`.
fn read_stream(file: &dyn BlockDevice, end: u64) -> Result<Stream> {
    let short = || Error::corrupt(FORMAT, "Stream Footer", end, "the beginning of the file", "a stream before it");
    let footer_at = end.checked_sub(END).ok_or_else(short)?;
    let bytes = read_vec(file, footer_at, to_usize(END))?;
    let footer = Record::new(FORMAT, &bytes, footer_at);
    if footer.slice(10, 2)? != b"YZ" {
        return Err(footer.corrupt("Footer Magic Bytes", 10, escape(footer.slice(10, 2)?), "YZ"));
    }
    crc32(&footer, 4, 6, 0)?;
    let index_len = u64::from(footer.le32(4)?).saturating_add(1).saturating_mul(4);
    limits::check("xz index bytes", index_len, limits::XZ_INDEX_BYTES)?;
    let index_at = footer_at.checked_sub(index_len).ok_or_else(short)?;
    let records = parse_index(&Record::new(FORMAT, &read_vec(file, index_at, to_usize(index_len))?, index_at))?;
    let blocks = records.iter().fold(0u64, |sum, (unpadded, _)| sum.saturating_add(padded(*unpadded)));
    let header_at = blocks.checked_add(END).and_then(|len| index_at.checked_sub(len)).ok_or_else(|| {
        Error::corrupt(FORMAT, "Unpadded Size", index_at, format!("{blocks} bytes in all"), "blocks before the index")
    })?;
    let bytes = read_vec(file, header_at, to_usize(END))?;
    let header = Record::new(FORMAT, &bytes, header_at);
    if header.slice(0, 6)? != MAGIC {
        return Err(header.corrupt("Header Magic Bytes", 0, escape(header.slice(0, 6)?), escape(MAGIC)));
    }
    crc32(&header, 6, 2, 8)?;
    let flags = header.array::<2>(6)?;
    if flags != footer.array::<2>(8)? {
        return Err(footer.corrupt(
            "Stream Flags",
            8,
            format!("{:02x?}", footer.slice(8, 2)?),
            format!("{flags:02x?}"),
        ));
    }
    match flags {
        [0, check @ (0 | 1 | 4 | 10)] => Ok(Stream { start: header_at.saturating_add(END), check: *check, records }),
        [0, check @ 0..=15] => Err(Error::unsupported(FORMAT, format!("check {check}"))),
        _ => Err(Error::unsupported(FORMAT, format!("Stream Flags {flags:02x?}"))),
    }
}

/// Holds `len` bytes at `at` against their CRC32 at `sum`.
fn crc32(record: &Record<'_>, at: usize, len: usize, sum: usize) -> Result<()> {
    let (found, expected) = (record.le32(sum)?, crc32fast::hash(record.slice(at, len)?));
    if found == expected {
        return Ok(());
    }
    Err(record.corrupt("CRC32", sum, format!("{found:#010x}"), format!("{expected:#010x}")))
}

fn parse_index(index: &Record<'_>) -> Result<Vec<(u64, u64)>> {
    let body = index.len().saturating_sub(4);
    crc32(index, 0, body, body)?;
    if index.u8(0)? != 0 {
        return Err(index.corrupt("Index Indicator", 0, index.u8(0)?, 0));
    }
    let mut at = 1usize;
    let count = vli(index, &mut at)?;
    limits::check("wrapped blocks", count, limits::WRAPPED_BLOCKS)?;
    // A record takes two bytes at least.
    if count > to_u64(body) >> 1 {
        return Err(index.corrupt("Number of Records", 1, count, format!("what fits in {body} bytes")));
    }
    let mut records = Vec::with_capacity(to_usize(count));
    for _ in 0..count {
        let here = at;
        let unpadded = vli(index, &mut at)?;
        if unpadded < 5 {
            return Err(index.corrupt("Unpadded Size", here, unpadded, "at least 5"));
        }
        records.push((unpadded, vli(index, &mut at)?));
    }
    let padding = index.slice(at, body.saturating_sub(at))?;
    if at > body || padding.len() > 3 || padding.iter().any(|&byte| byte != 0) {
        return Err(index.corrupt("Index Padding", at, format!("{} bytes", padding.len()), "0 to 3 zeroes"));
    }
    Ok(records)
}

/// The multibyte integer at `at`, which moves behind it.
fn vli(record: &Record<'_>, at: &mut usize) -> Result<u64> {
    let start = *at;
    let mut value = 0;
    for shift in (0u32..).step_by(7).take(VLI_BYTES) {
        let byte = record.u8(*at)?;
        *at = at.saturating_add(1);
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            // One way to write each number: no byte of zero at the end.
            if byte == 0 && shift > 0 {
                break;
            }
            return Ok(value);
        }
    }
    Err(record.corrupt("multibyte integer", start, "too many bytes", "the shortest form, at most 9"))
}

/// What a block's header says: its length and the dictionary's size.
fn block_header(file: &dyn BlockDevice, block: &Block, unpacked: u64) -> Result<(u64, u64)> {
    let packed = u64::from(block.packed);
    let bytes = read_vec(file, block.at, to_usize(packed.min(1024)))?;
    let all = Record::new(FORMAT, &bytes, block.at);
    let len = usize::from(all.u8(0)?).saturating_add(1).saturating_mul(4);
    if len < 8 {
        return Err(all.corrupt("Block Header Size", 0, all.u8(0)?, "at least 1"));
    }
    let header = all.sub(0, len)?;
    let body = len.saturating_sub(4);
    crc32(&header, 0, body, body)?;
    let flags = header.u8(1)?;
    if flags & 0x3c != 0 {
        return Err(Error::unsupported(FORMAT, format!("Block Flags {flags:#x}")));
    }
    let mut at = 2usize;
    let ends = to_u64(len).saturating_add(check_len(block.check));
    let sizes = [("Compressed Size", 0x40, packed.saturating_sub(ends)), ("Uncompressed Size", 0x80, unpacked)];
    for (field, bit, expected) in sizes {
        let here = at;
        if flags & bit != 0 {
            let found = vli(&header, &mut at)?;
            if found != expected {
                return Err(header.corrupt(field, here, found, format!("{expected}, as in the index")));
            }
        }
    }
    let here = at;
    let (id, properties) = (vli(&header, &mut at)?, vli(&header, &mut at)?);
    if flags & 3 != 0 || id != LZMA2 {
        return Err(Container::Xz.unseekable(format!("filter {id:#x}")));
    }
    let bits = header.u8(at)?;
    if properties != 1 || bits > 40 {
        return Err(header.corrupt(
            "Filter Properties",
            here,
            format!("{properties} bytes, {bits}"),
            "1 byte, 0 to 40",
        ));
    }
    let dictionary = u64::from(2 | bits & 1) << (u32::from(bits >> 1).saturating_add(11));
    Ok((to_u64(len), dictionary))
}

fn check_len(check: u8) -> u64 {
    match check {
        0 => 0,
        1 => 4,
        4 => 8,
        _ => 32,
    }
}

/// A run of the file, as a reader.
struct Run<'a> {
    file: &'a dyn BlockDevice,
    at: u64,
    end: u64,
    /// What went wrong below, which the decoder cannot carry.
    failed: Option<Error>,
}

impl Read for Run<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let len = to_u64(buf.len()).min(self.end.saturating_sub(self.at));
        let buf = buf.get_mut(..to_usize(len)).unwrap_or_default();
        if let Err(error) = self.file.read_exact_at(buf, self.at) {
            self.failed = Some(error);
            return Err(std::io::ErrorKind::Other.into());
        }
        self.at = self.at.saturating_add(len);
        Ok(buf.len())
    }
}

pub(super) fn unpack(file: &dyn BlockDevice, block: &Block, out: &mut [u8]) -> Result<()> {
    let unpacked = to_u64(out.len());
    let (header_len, dictionary) = block_header(file, block, unpacked)?;
    let window = dictionary.min(unpacked.max(4096));
    if window.saturating_add(unpacked) > limits::WRAPPED_BYTES {
        return Err(Container::Xz.unseekable(format!("a block of {unpacked} bytes with a window of {window}")));
    }
    let start = block.at.saturating_add(header_len);
    let data_len = u64::from(block.packed).checked_sub(header_len.saturating_add(check_len(block.check)));
    let end = start.saturating_add(data_len.ok_or_else(|| {
        Error::corrupt(FORMAT, "Unpadded Size", block.at, block.packed, format!("more than a header of {header_len}"))
    })?);
    decode(Run { file, at: start, end, failed: None }, window, out)?;
    let padding = read_vec(file, end, to_usize(padded(end).saturating_sub(end)))?;
    if padding.iter().any(|&byte| byte != 0) {
        return Err(Error::corrupt(FORMAT, "Block Padding", end, format!("{padding:02x?}"), "zeroes"));
    }
    verify(file, block.check, padded(end), out)
}

/// Fills `out` with what the LZMA2 data of `run` makes, which must be all of it.
fn decode(run: Run<'_>, window: u64, out: &mut [u8]) -> Result<()> {
    let start = run.at;
    let wrong = |found: String, len: usize| {
        Error::corrupt(FORMAT, "Compressed Data", start, found, format!("LZMA2 data of {len} bytes"))
    };
    let mut reader = Lzma2Reader::new(BufReader::with_capacity(64 << 10, run), crate::bytes::low_u32(window), None);
    // One byte more finds the end marker, or data that is too much.
    let done = reader.read_exact(out).and_then(|()| reader.read(&mut [0]));
    let rest = reader.inner().buffer().len();
    let run = reader.inner_mut().get_mut();
    if let Some(error) = run.failed.take() {
        return Err(error);
    }
    match done {
        Ok(0) if rest == 0 && run.at == run.end => Ok(()),
        Ok(0) => Err(wrong("an end before that of the block".to_owned(), out.len())),
        Ok(_) => Err(wrong("more data".to_owned(), out.len())),
        Err(error) => Err(wrong(error.to_string(), out.len())),
    }
}

/// Holds `out` against the check at `at`.
fn verify(file: &dyn BlockDevice, check: u8, at: u64, out: &[u8]) -> Result<()> {
    let stored = read_vec(file, at, to_usize(check_len(check)))?;
    let computed = match check {
        0 => Vec::new(),
        1 => crc32fast::hash(out).to_le_bytes().to_vec(),
        4 => CRC64.checksum(out).to_le_bytes().to_vec(),
        _ => sha2::Sha256::digest(out).to_vec(),
    };
    if stored == computed {
        return Ok(());
    }
    Err(Error::corrupt(FORMAT, "Check", at, format!("{stored:02x?}"), format!("{computed:02x?}")))
}
