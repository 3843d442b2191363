//! The bytes of the NBD protocol (nbd.git `doc/proto.md`), both directions, without any I/O. All integers are big-endian.
//!
//! | message | bytes | from | module |
//! |---|---|---|---|
//! | greeting | 18 | server | [`option`] |
//! | option and its data | 16 + length | client | [`option`] |
//! | option reply and its data | 20 + length | server | [`option`] |
//! | compact or extended request | 28 or 32, + data | client | [`request`] |
//! | simple reply | 16, + data | server | [`reply`] |
//! | structured or extended reply chunk | 20 or 32, + payload | server | [`reply`] |
//!
//! Refused: the oldstyle handshake, and messages whose lengths contradict one another. Numbers that this module has no
//! name for (options, flags, chunk types) are left to the caller, who must answer or ignore them as the specification
//! says.

pub mod option;
pub mod reply;
pub mod request;

use crate::bytes::Record;
use crate::error::{Error, Result};

/// The format's name in errors.
pub(super) const FORMAT: &str = "nbd";

/// Bytes of any string: an export's name, a description, a context's name. The specification's limit.
pub const STRING_BYTES: usize = 4096;

/// Bytes of a request's data that any server must accept and no client may exceed without being told more.
pub const PAYLOAD_BYTES: u32 = 32 << 20;

/// `NBDMAGIC`: the first eight bytes of a server.
pub const GREETING_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// `IHAVEOPT`: the next eight, and the first of each option.
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// The first bytes of an option's reply.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// The first bytes of a compact request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// The first bytes of an extended request.
pub const EXTENDED_REQUEST_MAGIC: u32 = 0x21e4_1c71;
/// The first bytes of a simple reply.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// The first bytes of a structured reply chunk.
pub const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;
/// The first bytes of an extended reply chunk.
pub const EXTENDED_REPLY_MAGIC: u32 = 0x6e8a_278c;

/// Handshake flags: the server's 16 bits in the greeting; the client answers with the same bits in 32.
pub mod handshake {
    /// The server answers options it does not know.
    pub const FIXED_NEWSTYLE: u16 = 1;
    /// No 124 zeroes after the answer to `EXPORT_NAME`.
    pub const NO_ZEROES: u16 = 1 << 1;
}

/// Transmission flags: what an export can do.
pub mod transmission {
    /// Always set.
    pub const HAS_FLAGS: u16 = 1;
    /// Writes are refused.
    pub const READ_ONLY: u16 = 1 << 1;
    /// `FLUSH` is known.
    pub const SEND_FLUSH: u16 = 1 << 2;
    /// The flag `FUA` is known.
    pub const SEND_FUA: u16 = 1 << 3;
    /// A disk that turns.
    pub const ROTATIONAL: u16 = 1 << 4;
    /// `TRIM` is known.
    pub const SEND_TRIM: u16 = 1 << 5;
    /// `WRITE_ZEROES` is known.
    pub const SEND_WRITE_ZEROES: u16 = 1 << 6;
    /// The flag `DF` is known.
    pub const SEND_DF: u16 = 1 << 7;
    /// What one connection has flushed is seen by all.
    pub const CAN_MULTI_CONN: u16 = 1 << 8;
    /// `RESIZE` is known (an experimental extension).
    pub const SEND_RESIZE: u16 = 1 << 9;
    /// `CACHE` is known.
    pub const SEND_CACHE: u16 = 1 << 10;
    /// The flag `FAST_ZERO` is known.
    pub const SEND_FAST_ZERO: u16 = 1 << 11;
    /// `BLOCK_STATUS` may carry a payload that chooses contexts.
    pub const BLOCK_STATUS_PAYLOAD: u16 = 1 << 12;
}

/// Requests of the transmission phase.
pub mod command {
    /// Read bytes.
    pub const READ: u16 = 0;
    /// Write the bytes that follow.
    pub const WRITE: u16 = 1;
    /// Goodbye; has no reply.
    pub const DISC: u16 = 2;
    /// Make what was written durable.
    pub const FLUSH: u16 = 3;
    /// Nobody needs these bytes.
    pub const TRIM: u16 = 4;
    /// These bytes will be read soon.
    pub const CACHE: u16 = 5;
    /// Make these bytes zero.
    pub const WRITE_ZEROES: u16 = 6;
    /// Tell about extents.
    pub const BLOCK_STATUS: u16 = 7;
}

/// Flags of a request.
pub mod command_flag {
    /// Reply when the effect is durable.
    pub const FUA: u16 = 1;
    /// Zeroes must be allocated.
    pub const NO_HOLE: u16 = 1 << 1;
    /// One chunk of data or an error.
    pub const DF: u16 = 1 << 2;
    /// One extent for each context.
    pub const REQ_ONE: u16 = 1 << 3;
    /// Fail unless zeroing is faster than writing.
    pub const FAST_ZERO: u16 = 1 << 4;
    /// The length is that of a payload that follows (extended requests).
    pub const PAYLOAD_LEN: u16 = 1 << 5;
}

/// Error numbers of replies.
pub mod errno {
    /// Not permitted.
    pub const EPERM: u32 = 1;
    /// Input or output failed.
    pub const EIO: u32 = 5;
    /// Not enough memory.
    pub const ENOMEM: u32 = 12;
    /// Makes no sense.
    pub const EINVAL: u32 = 22;
    /// No space left; a write past the end.
    pub const ENOSPC: u32 = 28;
    /// Too large for one reply.
    pub const EOVERFLOW: u32 = 75;
    /// Not supported.
    pub const ENOTSUP: u32 = 95;
    /// The server is going away.
    pub const ESHUTDOWN: u32 = 108;
}

/// Metadata contexts that servers are known to have.
pub mod context {
    /// Holes and zeroes: [`HOLE`] and [`ZERO`].
    pub const BASE_ALLOCATION: &str = "base:allocation";
    /// How deep in a chain the bytes are: 0 unallocated, 1 the image itself, 2 its backing file …
    pub const QEMU_ALLOCATION_DEPTH: &str = "qemu:allocation-depth";
    /// The prefix of a dirty bitmap's context: [`DIRTY`].
    pub const QEMU_DIRTY_BITMAP: &str = "qemu:dirty-bitmap:";
    /// `base:allocation`: nothing is allocated there.
    pub const HOLE: u64 = 1;
    /// `base:allocation`: reads as zeroes.
    pub const ZERO: u64 = 2;
    /// `qemu:dirty-bitmap`: changed since the bitmap was cleared.
    pub const DIRTY: u64 = 1;
}

/// What is left of a message's bytes, taken from the front.
struct Fields<'a> {
    record: Record<'a>,
    at: usize,
}

impl<'a> Fields<'a> {
    fn of(bytes: &'a [u8]) -> Self {
        Self { record: Record::new(FORMAT, bytes, 0), at: 0 }
    }

    fn bytes(&mut self, len: usize) -> Result<&'a [u8]> {
        let bytes = self.record.slice(self.at, len)?;
        self.at = self.at.saturating_add(len);
        Ok(bytes)
    }

    fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_be_bytes(*self.array()?))
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_be_bytes(*self.array()?))
    }

    fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_be_bytes(*self.array()?))
    }

    fn array<const N: usize>(&mut self) -> Result<&'a [u8; N]> {
        let array = self.record.array(self.at)?;
        self.at = self.at.saturating_add(N);
        Ok(array)
    }

    /// A string of `len` bytes.
    fn string(&mut self, field: &'static str, len: u32) -> Result<String> {
        let (at, len) = (self.at, crate::bytes::to_usize(len.into()));
        if len > STRING_BYTES {
            return Err(self.record.corrupt(field, at, format!("{len} bytes"), format!("at most {STRING_BYTES}")));
        }
        let bytes = self.bytes(len)?;
        String::from_utf8(bytes.to_vec())
            .map_err(|_| self.record.corrupt(field, at, crate::bytes::escape(bytes), "valid UTF-8"))
    }

    /// All that is left, as a string.
    fn rest(&mut self, field: &'static str) -> Result<String> {
        let len = u32::try_from(self.left()).unwrap_or(u32::MAX);
        self.string(field, len)
    }

    fn left(&self) -> usize {
        self.record.len().saturating_sub(self.at)
    }

    /// Nothing may be left.
    fn end(&self) -> Result<()> {
        match self.left() {
            0 => Ok(()),
            left => Err(self.record.corrupt("length", self.at, format!("{left} more bytes"), "the end of the message")),
        }
    }
}

fn wrong_magic(found: u64, expected: &str) -> Error {
    Error::corrupt(FORMAT, "magic", 0, format!("{found:#x}"), expected)
}

/// A length in memory as the protocol's 32 bits; what is longer cannot be sent and is cut off by the peer's check.
fn len32(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}
