//! What servers say about themselves and their exports.

use super::super::protocol::{FORMAT, PAYLOAD_BYTES, transmission};
use crate::error::{Error, Result};

/// What was negotiated with a server for all its exports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ServerInfo {
    /// Fixed newstyle: options can be refused without ending the connection.
    pub fixed: bool,
    /// Everything goes through TLS.
    pub tls: bool,
    /// Replies come in chunks that say what they are.
    pub structured: bool,
    /// Requests and replies carry 64-bit lengths.
    pub extended: bool,
}

/// The block sizes that a server states; requests keep to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockSizes {
    /// Offsets and lengths are multiples of this, a power of two.
    pub minimum: u32,
    /// What reads and writes best.
    pub preferred: u32,
    /// Bytes of one read or write at most.
    pub maximum: u32,
}

/// An export: a disk that a server offers.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExportInfo {
    /// Its name; the empty one is the default export.
    pub name: String,
    /// The server's words for people.
    pub description: Option<String>,
    /// Bytes of the disk.
    pub size: u64,
    /// The protocol's transmission flags; the methods below name them.
    pub flags: u16,
    /// Block sizes, where the server states them.
    pub block_sizes: Option<BlockSizes>,
    /// Names of the metadata contexts: those negotiated, or all that there are when exports are listed.
    pub contexts: Vec<String>,
}

macro_rules! flags {
    ($($(#[$doc:meta])* $name:ident: $flag:expr;)*) => {
        impl ExportInfo {
            $($(#[$doc])*
            #[must_use]
            pub fn $name(&self) -> bool {
                self.flags & $flag != 0
            })*
        }
    };
}

flags! {
    /// Writing is refused.
    is_read_only: transmission::READ_ONLY;
    /// The disk is one whose heads move.
    is_rotational: transmission::ROTATIONAL;
    /// There is a flush command.
    can_flush: transmission::SEND_FLUSH;
    /// Single commands can be made durable.
    can_fua: transmission::SEND_FUA;
    /// There is a trim command.
    can_trim: transmission::SEND_TRIM;
    /// There is a command that writes zeroes.
    can_zero: transmission::SEND_WRITE_ZEROES;
    /// Reads can be asked to come in one chunk.
    can_df: transmission::SEND_DF;
    /// Several connections see the same disk.
    can_multi_conn: transmission::CAN_MULTI_CONN;
    /// There is a command that fills the server's cache.
    can_cache: transmission::SEND_CACHE;
    /// Writing zeroes can be asked to fail rather than be slow.
    can_fast_zero: transmission::SEND_FAST_ZERO;
}

impl ExportInfo {
    pub(super) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), description: None, size: 0, flags: 0, block_sizes: None, contexts: Vec::new() }
    }
}

impl BlockSizes {
    /// What holds when a server says nothing (protocol, "Block size constraints").
    pub(super) const UNSTATED: Self = Self { minimum: 1, preferred: 4096, maximum: PAYLOAD_BYTES };

    /// Only if they are what the protocol allows.
    pub(super) fn checked(self) -> Result<Self> {
        let Self { minimum, preferred, maximum } = self;
        let wrong = |field, found: u32, expected: &str| Error::corrupt(FORMAT, field, 0, found, expected);
        if !minimum.is_power_of_two() || minimum > 65_536 {
            return Err(wrong("minimum block size", minimum, "a power of two up to 65536"));
        }
        if preferred < minimum || !preferred.is_power_of_two() {
            return Err(wrong("preferred block size", preferred, "a power of two, not below the minimum"));
        }
        if maximum < minimum || (maximum != u32::MAX && maximum.checked_rem(minimum) != Some(0)) {
            return Err(wrong("maximum block size", maximum, "a multiple of the minimum, or 4294967295"));
        }
        Ok(self)
    }
}
