//! gzip: RFC 1952; BGZF: *Sequence Alignment/Map Format Specification*, section 4.1. Integers are little-endian.
//!
//! | offset | size | field | accepted |
//! |---:|---:|---|---|
//! | 0 | 2 | ID1, ID2 | 1f 8b |
//! | 2 | 1 | CM | 8 deflate |
//! | 3 | 1 | FLG | bit 2 FEXTRA: there are extra fields |
//! | 10 | 2 | XLEN | bytes of extra fields |
//! | 12 | XLEN | extra fields: SI1, SI2 (1 each), LEN (2), data | `BC`, 2 bytes: the member's size less one |
//! | end - 8 | 4 | CRC32 | of the data |
//! | end - 4 | 4 | ISIZE | bytes of data, modulo 2³² |
//!
//! A member without `BC` can be the only one and small.

use std::cell::RefCell;

use libdeflater::{DecompressionError, Decompressor};

use super::{Block, Container, Index};
use crate::block::{BlockDevice, read_vec};
use crate::bytes::{Record, to_u64, to_usize};
use crate::error::{Error, Result};
use crate::limits;

const FORMAT: &str = "gzip";
const FEXTRA: u8 = 1 << 2;
/// The least that a member takes: header, an empty deflate stream, trailer.
const MEMBER_MIN: u64 = 20;

pub(super) fn index(file: &dyn BlockDevice) -> Result<Index> {
    let mut index = Index::new(Container::Gzip);
    let (mut at, mut members) = (0, 0u64);
    while at < file.size() {
        members = limits::check("gzip members", members.saturating_add(1), limits::WRAPPED_BLOCKS)?;
        let packed = match member_size(file, at)? {
            Some(packed) => packed,
            None if at == 0 => file.size(),
            None => return Err(Container::Gzip.unseekable("members without their size")),
        };
        let end = at.checked_add(packed).filter(|&end| packed >= MEMBER_MIN && end <= file.size());
        let end = end.ok_or_else(|| {
            let expected = format!("{MEMBER_MIN} to {}, the rest of the file", file.size().saturating_sub(at));
            Error::corrupt(FORMAT, "member size", at, packed, expected)
        })?;
        let trailer = read_vec(file, end.saturating_sub(4), 4)?;
        let unpacked = u64::from(Record::new(FORMAT, &trailer, end.saturating_sub(4)).le32(0)?);
        if packed > limits::WRAPPED_BYTES {
            return Err(Container::Gzip.unseekable(format!("a member of {packed} bytes")));
        }
        index.push(at, packed, unpacked, 0)?;
        at = end;
    }
    Ok(index)
}

/// The size of the member at `at`, if it has it in its header.
fn member_size(file: &dyn BlockDevice, at: u64) -> Result<Option<u64>> {
    let rest = file.size().saturating_sub(at);
    let head = read_vec(file, at, to_usize(rest.min(18)))?;
    let header = Record::new(FORMAT, &head, at);
    let magic = header.array::<3>(0)?;
    if magic != &[0x1f, 0x8b, 8] {
        return Err(header.corrupt("ID1", 0, format!("{magic:02x?}"), "1f 8b 08"));
    }
    if header.u8(3)? & FEXTRA == 0 {
        return Ok(None);
    }
    let extra_len = u64::from(header.le16(10)?);
    let long;
    let fields = if extra_len <= 6 {
        header.sub(12, to_usize(extra_len))?
    } else {
        long = read_vec(file, at.saturating_add(12), to_usize(extra_len.min(rest.saturating_sub(12))))?;
        Record::new(FORMAT, &long, at.saturating_add(12))
    };
    let mut field = 0usize;
    while field < fields.len() {
        let (name, len) = (fields.array::<2>(field)?, fields.le16(field.saturating_add(2))?);
        let data = field.saturating_add(4);
        if name == b"BC" && len == 2 {
            return Ok(Some(u64::from(fields.le16(data)?).saturating_add(1)));
        }
        field = data.saturating_add(usize::from(len));
    }
    Ok(None)
}

thread_local! {
    static DECOMPRESSOR: RefCell<Option<Decompressor>> = const { RefCell::new(None) };
}

pub(super) fn unpack(file: &dyn BlockDevice, block: &Block, out: &mut [u8]) -> Result<()> {
    let data = read_vec(file, block.at, to_usize(u64::from(block.packed)))?;
    DECOMPRESSOR.with_borrow_mut(|decompressor| {
        let decompressor = decompressor.get_or_insert_with(Decompressor::new);
        let unpacked = decompressor.gzip_decompress(&data, out);
        // A member that does not state its size may be followed by others, and the size at the end be that of the last.
        let alone = to_u64(data.len()) == file.size();
        let mut whole_before_its_end =
            || data.split_last().is_some_and(|(_, shorter)| decompressor.gzip_decompress(shorter, out).is_ok());
        let several = alone
            && match unpacked {
                Ok(_) => whole_before_its_end(),
                Err(DecompressionError::InsufficientSpace) => true,
                Err(DecompressionError::BadData) => false,
            };
        let found = match unpacked {
            _ if several => return Err(Container::Gzip.unseekable("members without their size")),
            Ok(len) if len == out.len() => return Ok(()),
            Ok(len) => format!("{len} bytes"),
            Err(DecompressionError::InsufficientSpace) => "more bytes".to_owned(),
            Err(DecompressionError::BadData) => "broken data, or another checksum".to_owned(),
        };
        Err(Error::corrupt(FORMAT, "member", block.at, found, format!("{} bytes", out.len())))
    })
}
