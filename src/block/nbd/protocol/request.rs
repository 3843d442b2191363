//! Requests of the transmission phase.
//!
//! | compact | bytes | extended | bytes |
//! |---|---|---|---|
//! | magic 0x25609513 | 4 | magic 0x21e41c71 | 4 |
//! | flags | 2 | flags | 2 |
//! | command | 2 | command | 2 |
//! | cookie | 8 | cookie | 8 |
//! | offset | 8 | offset | 8 |
//! | length | 4 | length | 8 |

use super::{EXTENDED_REQUEST_MAGIC, Fields, REQUEST_MAGIC, wrong_magic};
use crate::bytes::low_u32;
use crate::error::Result;

/// Bytes of a compact request before its data.
pub const COMPACT: usize = 28;
/// Bytes of an extended request before its payload.
pub const EXTENDED: usize = 32;

/// A request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// See [`super::command_flag`].
    pub flags: u16,
    /// See [`super::command`].
    pub command: u16,
    /// What the replies will bear.
    pub cookie: u64,
    /// First byte.
    pub offset: u64,
    /// Bytes that it is about; or of its payload, with [`super::command_flag::PAYLOAD_LEN`]. Compact requests send the
    /// low 32 bits.
    pub len: u64,
}

impl Request {
    /// The 28 bytes of a compact request.
    #[must_use]
    pub fn encode_compact(&self) -> [u8; COMPACT] {
        self.bytes(REQUEST_MAGIC, &low_u32(self.len).to_be_bytes())
    }

    /// The 32 bytes of an extended request.
    #[must_use]
    pub fn encode_extended(&self) -> [u8; EXTENDED] {
        self.bytes(EXTENDED_REQUEST_MAGIC, &self.len.to_be_bytes())
    }

    fn bytes<const N: usize>(&self, magic: u32, len: &[u8]) -> [u8; N] {
        let mut bytes = [0; N];
        let parts: [&[u8]; 6] = [
            &magic.to_be_bytes(),
            &self.flags.to_be_bytes(),
            &self.command.to_be_bytes(),
            &self.cookie.to_be_bytes(),
            &self.offset.to_be_bytes(),
            len,
        ];
        for (to, from) in bytes.iter_mut().zip(parts.into_iter().flatten()) {
            *to = *from;
        }
        bytes
    }

    /// A compact request.
    pub fn parse_compact(bytes: &[u8; COMPACT]) -> Result<Self> {
        Self::parse(bytes, REQUEST_MAGIC, |fields| Ok(fields.u32()?.into()))
    }

    /// An extended request.
    pub fn parse_extended(bytes: &[u8; EXTENDED]) -> Result<Self> {
        Self::parse(bytes, EXTENDED_REQUEST_MAGIC, |fields| fields.u64())
    }

    fn parse(bytes: &[u8], magic: u32, len: fn(&mut Fields<'_>) -> Result<u64>) -> Result<Self> {
        let mut fields = Fields::of(bytes);
        let found = fields.u32()?;
        if found != magic {
            return Err(wrong_magic(found.into(), &format!("{magic:#x} of a request")));
        }
        let (flags, command) = (fields.u16()?, fields.u16()?);
        Ok(Self { flags, command, cookie: fields.u64()?, offset: fields.u64()?, len: len(&mut fields)? })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{command, command_flag};
    use super::*;

    #[test]
    fn requests_have_the_bytes_of_the_specification() {
        let request =
            Request { flags: command_flag::DF, command: command::READ, cookie: 1, offset: 0x1000, len: 0x200 };
        let compact = request.encode_compact();
        assert_eq!(compact[..8], [0x25, 0x60, 0x95, 0x13, 0, 4, 0, 0]);
        assert_eq!(compact[24..], [0, 0, 2, 0]);
        assert_eq!(Request::parse_compact(&compact).unwrap(), request);
        let long = Request { len: 1 << 40, ..request };
        assert_eq!(long.encode_extended()[..4], [0x21, 0xe4, 0x1c, 0x71]);
        assert_eq!(Request::parse_extended(&long.encode_extended()).unwrap(), long);
        assert!(Request::parse_compact(&[0; COMPACT]).is_err());
        assert!(Request::parse_extended(&[0; EXTENDED]).is_err());
    }
}
