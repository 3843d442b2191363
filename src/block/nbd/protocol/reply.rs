//! Replies of the transmission phase.
//!
//! | simple | bytes | structured chunk | bytes | extended chunk | bytes |
//! |---|---|---|---|---|---|
//! | magic 0x67446698 | 4 | magic 0x668e33ef | 4 | magic 0x6e8a278c | 4 |
//! | error | 4 | flags | 2 | flags | 2 |
//! | cookie | 8 | type | 2 | type | 2 |
//! | data of a read | | cookie | 8 | cookie | 8 |
//! | | | length of payload | 4 | offset of the request | 8 |
//! | | | payload | | length of payload | 8 |
//! | | | | | payload | |

use super::{EXTENDED_REPLY_MAGIC, Fields, SIMPLE_REPLY_MAGIC, STRING_BYTES, STRUCTURED_REPLY_MAGIC, wrong_magic};
use crate::bytes::low_u32;
use crate::error::Result;

/// Bytes of a simple reply before its data.
pub const SIMPLE: usize = 16;
/// Bytes of a structured reply chunk before its payload.
pub const STRUCTURED: usize = 20;
/// Bytes of an extended reply chunk before its payload.
pub const EXTENDED: usize = 32;
/// Bytes of an [`OFFSET_DATA`](chunk::OFFSET_DATA) chunk's payload before the data: their offset.
pub const DATA_OFFSET: usize = 8;
/// Bytes of an [`OFFSET_HOLE`](chunk::OFFSET_HOLE) chunk's payload.
pub const HOLE_PAYLOAD: usize = 12;

/// Flag of a chunk: it is the request's last.
pub const DONE: u16 = 1;

/// Types of chunks.
pub mod chunk {
    /// Nothing; with [`DONE`](super::DONE) it ends a reply.
    pub const NONE: u16 = 0;
    /// Offset (8) and data.
    pub const OFFSET_DATA: u16 = 1;
    /// Offset (8) and length (4) of zeroes.
    pub const OFFSET_HOLE: u16 = 2;
    /// Context (4) and descriptors of 32 bits.
    pub const BLOCK_STATUS: u16 = 5;
    /// Context (4), number of descriptors (4), and these of 64 bits.
    pub const BLOCK_STATUS_EXT: u16 = 6;
    /// Set in every type that is an error.
    pub const ERROR_BIT: u16 = 1 << 15;
    /// Error (4), length of the message (2), message.
    pub const ERROR: u16 = ERROR_BIT | 1;
    /// The same and an offset (8).
    pub const ERROR_OFFSET: u16 = ERROR_BIT | 2;
}

/// A simple reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SimpleReply {
    /// See [`super::errno`]; 0 is success.
    pub error: u32,
    /// The request's.
    pub cookie: u64,
}

impl SimpleReply {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; SIMPLE] {
        join([&SIMPLE_REPLY_MAGIC.to_be_bytes(), &self.error.to_be_bytes(), &self.cookie.to_be_bytes()])
    }

    /// From its bytes.
    pub fn parse(bytes: &[u8; SIMPLE]) -> Result<Self> {
        let mut fields = Fields::of(bytes);
        magic(&mut fields, SIMPLE_REPLY_MAGIC)?;
        Ok(Self { error: fields.u32()?, cookie: fields.u64()? })
    }
}

/// The beginning of a structured or extended reply chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// [`DONE`] or nothing.
    pub flags: u16,
    /// See [`chunk`].
    pub kind: u16,
    /// The request's.
    pub cookie: u64,
    /// The request's offset, in extended chunks; 0 in structured ones.
    pub offset: u64,
    /// Bytes of payload.
    pub len: u64,
}

impl Chunk {
    /// The 20 bytes of a structured chunk.
    #[must_use]
    pub fn encode_structured(&self) -> [u8; STRUCTURED] {
        join([
            &STRUCTURED_REPLY_MAGIC.to_be_bytes(),
            &self.flags.to_be_bytes(),
            &self.kind.to_be_bytes(),
            &self.cookie.to_be_bytes(),
            &low_u32(self.len).to_be_bytes(),
        ])
    }

    /// The 32 bytes of an extended chunk.
    #[must_use]
    pub fn encode_extended(&self) -> [u8; EXTENDED] {
        join([
            &EXTENDED_REPLY_MAGIC.to_be_bytes(),
            &self.flags.to_be_bytes(),
            &self.kind.to_be_bytes(),
            &self.cookie.to_be_bytes(),
            &self.offset.to_be_bytes(),
            &self.len.to_be_bytes(),
        ])
    }

    /// A structured chunk.
    pub fn parse_structured(bytes: &[u8; STRUCTURED]) -> Result<Self> {
        let mut fields = Fields::of(bytes);
        magic(&mut fields, STRUCTURED_REPLY_MAGIC)?;
        let (flags, kind, cookie) = (fields.u16()?, fields.u16()?, fields.u64()?);
        Ok(Self { flags, kind, cookie, offset: 0, len: fields.u32()?.into() })
    }

    /// An extended chunk.
    pub fn parse_extended(bytes: &[u8; EXTENDED]) -> Result<Self> {
        let mut fields = Fields::of(bytes);
        magic(&mut fields, EXTENDED_REPLY_MAGIC)?;
        let (flags, kind, cookie) = (fields.u16()?, fields.u16()?, fields.u64()?);
        Ok(Self { flags, kind, cookie, offset: fields.u64()?, len: fields.u64()? })
    }
}

/// The payload of an [`OFFSET_HOLE`](chunk::OFFSET_HOLE) chunk.
#[must_use]
pub fn hole(offset: u64, len: u32) -> [u8; HOLE_PAYLOAD] {
    join([&offset.to_be_bytes(), &len.to_be_bytes()])
}

/// Offset and length of an [`OFFSET_HOLE`](chunk::OFFSET_HOLE) chunk.
pub fn parse_hole(bytes: &[u8; HOLE_PAYLOAD]) -> Result<(u64, u32)> {
    let mut fields = Fields::of(bytes);
    Ok((fields.u64()?, fields.u32()?))
}

/// The payload of an [`ERROR`](chunk::ERROR) chunk. The message is cut to what a string may have.
#[must_use]
pub fn error(errno: u32, message: &str) -> Vec<u8> {
    let message = (0..=STRING_BYTES).rev().find_map(|end| message.get(..end.min(message.len()))).unwrap_or_default();
    let len = u16::try_from(message.len()).unwrap_or(0);
    [&errno.to_be_bytes()[..], &len.to_be_bytes(), message.as_bytes()].concat()
}

/// The payload of an [`ERROR_OFFSET`](chunk::ERROR_OFFSET) chunk.
#[must_use]
pub fn error_offset(errno: u32, message: &str, offset: u64) -> Vec<u8> {
    [&error(errno, message)[..], &offset.to_be_bytes()].concat()
}

/// What the payload of an error chunk of type `kind` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkError {
    /// See [`super::errno`].
    pub errno: u32,
    /// For a person; may be empty.
    pub message: String,
    /// Where it happened, in an [`ERROR_OFFSET`](chunk::ERROR_OFFSET) chunk.
    pub offset: Option<u64>,
}

impl ChunkError {
    /// From the payload of a chunk of type `kind`. Error types without a name are read as [`ERROR`](chunk::ERROR) with
    /// anything after it.
    pub fn parse(kind: u16, bytes: &[u8]) -> Result<Self> {
        let mut fields = Fields::of(bytes);
        let errno = fields.u32()?;
        let len = fields.u16()?;
        let message = String::from_utf8_lossy(fields.bytes(len.into())?).into_owned();
        let offset = if kind == chunk::ERROR_OFFSET { Some(fields.u64()?) } else { None };
        if kind == chunk::ERROR || kind == chunk::ERROR_OFFSET {
            fields.end()?;
        }
        Ok(Self { errno, message, offset })
    }
}

/// An extent as `BLOCK_STATUS` tells of it: length and status, 4 bytes each, or 8 in extended chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptor {
    /// Bytes, not zero.
    pub len: u64,
    /// What it is, by context: see [`super::context`].
    pub status: u64,
}

/// The payload of a [`BLOCK_STATUS`](chunk::BLOCK_STATUS) chunk; lengths and statuses must fit 32 bits.
#[must_use]
pub fn block_status(context: u32, descriptors: &[Descriptor]) -> Vec<u8> {
    let mut bytes = context.to_be_bytes().to_vec();
    for Descriptor { len, status } in descriptors {
        bytes.extend(low_u32(*len).to_be_bytes());
        bytes.extend(low_u32(*status).to_be_bytes());
    }
    bytes
}

/// The payload of a [`BLOCK_STATUS_EXT`](chunk::BLOCK_STATUS_EXT) chunk.
#[must_use]
pub fn block_status_ext(context: u32, descriptors: &[Descriptor]) -> Vec<u8> {
    let mut bytes = context.to_be_bytes().to_vec();
    bytes.extend(u32::try_from(descriptors.len()).unwrap_or(u32::MAX).to_be_bytes());
    for Descriptor { len, status } in descriptors {
        bytes.extend(len.to_be_bytes());
        bytes.extend(status.to_be_bytes());
    }
    bytes
}

/// Context and descriptors of a [`BLOCK_STATUS`](chunk::BLOCK_STATUS) chunk.
pub fn parse_block_status(bytes: &[u8]) -> Result<(u32, Vec<Descriptor>)> {
    let mut fields = Fields::of(bytes);
    let context = fields.u32()?;
    let mut descriptors = Vec::new();
    while fields.left() > 0 {
        descriptors.push(Descriptor { len: fields.u32()?.into(), status: fields.u32()?.into() });
    }
    Ok((context, descriptors))
}

/// Context and descriptors of a [`BLOCK_STATUS_EXT`](chunk::BLOCK_STATUS_EXT) chunk.
pub fn parse_block_status_ext(bytes: &[u8]) -> Result<(u32, Vec<Descriptor>)> {
    let mut fields = Fields::of(bytes);
    let context = fields.u32()?;
    let count = fields.u32()?;
    let mut descriptors = Vec::new();
    for _ in 0..count {
        descriptors.push(Descriptor { len: fields.u64()?, status: fields.u64()? });
    }
    fields.end()?;
    Ok((context, descriptors))
}

/// The payload of an extended `BLOCK_STATUS` request that chooses contexts: effect length (8), ids (4 each).
pub fn parse_status_filter(bytes: &[u8]) -> Result<(u64, Vec<u32>)> {
    let mut fields = Fields::of(bytes);
    let len = fields.u64()?;
    let mut ids = Vec::new();
    while fields.left() > 0 {
        ids.push(fields.u32()?);
    }
    Ok((len, ids))
}

/// The bytes of [`parse_status_filter`].
#[must_use]
pub fn status_filter(len: u64, contexts: &[u32]) -> Vec<u8> {
    len.to_be_bytes().into_iter().chain(contexts.iter().flat_map(|id| id.to_be_bytes())).collect()
}

fn magic(fields: &mut Fields<'_>, expected: u32) -> Result<()> {
    let found = fields.u32()?;
    if found == expected { Ok(()) } else { Err(wrong_magic(found.into(), &format!("{expected:#x} of a reply"))) }
}

/// The parts one after another; they have `N` bytes together.
fn join<const N: usize, const PARTS: usize>(parts: [&[u8]; PARTS]) -> [u8; N] {
    let mut bytes = [0; N];
    for (to, from) in bytes.iter_mut().zip(parts.into_iter().flatten()) {
        *to = *from;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_have_the_bytes_of_the_specification() {
        let simple = SimpleReply { error: 5, cookie: 0x0102 };
        assert_eq!(simple.encode(), [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(SimpleReply::parse(&simple.encode()).unwrap(), simple);
        let chunk = Chunk { flags: DONE, kind: chunk::OFFSET_DATA, cookie: 9, offset: 0, len: 0x1008 };
        let bytes = chunk.encode_structured();
        assert_eq!(bytes[..8], [0x66, 0x8e, 0x33, 0xef, 0, 1, 0, 1]);
        assert_eq!(bytes[16..], [0, 0, 0x10, 8]);
        assert_eq!(Chunk::parse_structured(&bytes).unwrap(), chunk);
        let chunk = Chunk { offset: 0x4000, len: 1 << 33, ..chunk };
        assert_eq!(chunk.encode_extended()[..4], [0x6e, 0x8a, 0x27, 0x8c]);
        assert_eq!(Chunk::parse_extended(&chunk.encode_extended()).unwrap(), chunk);
        assert!(Chunk::parse_structured(&[0; STRUCTURED]).is_err());
    }

    #[test]
    fn payloads_are_parsed_as_encoded() {
        assert_eq!(parse_hole(&hole(77, 4096)).unwrap(), (77, 4096));
        let plain = ChunkError { errno: 5, message: "bad".to_owned(), offset: None };
        assert_eq!(ChunkError::parse(chunk::ERROR, &error(5, "bad")).unwrap(), plain);
        let at = ChunkError { offset: Some(9), ..plain };
        assert_eq!(ChunkError::parse(chunk::ERROR_OFFSET, &error_offset(5, "bad", 9)).unwrap(), at);
        let long = ChunkError::parse(chunk::ERROR, &error(5, &"é".repeat(5000))).unwrap();
        assert_eq!(long.message.len(), STRING_BYTES);
        let descriptors = [Descriptor { len: 4096, status: 3 }, Descriptor { len: 512, status: 0 }];
        assert_eq!(parse_block_status(&block_status(1, &descriptors)).unwrap(), (1, descriptors.to_vec()));
        assert_eq!(parse_block_status_ext(&block_status_ext(1, &descriptors)).unwrap(), (1, descriptors.to_vec()));
        assert_eq!(parse_status_filter(&status_filter(7, &[1, 2])).unwrap(), (7, vec![1, 2]));
    }

    #[test]
    fn lengths_that_contradict_one_another_are_refused() {
        assert!(parse_block_status(&[0, 0, 0, 1, 0]).is_err());
        assert!(parse_block_status_ext(&[0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff]).is_err());
        assert!(parse_block_status_ext(&[0, 0, 0, 1, 0, 0, 0, 0, 9]).is_err());
        assert!(ChunkError::parse(chunk::ERROR, &[0, 0, 0, 5, 0, 9, b'x']).is_err());
        assert!(ChunkError::parse(chunk::ERROR, &[0, 0, 0, 5, 0, 0, b'x']).is_err());
    }
}
