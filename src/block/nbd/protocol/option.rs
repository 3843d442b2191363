//! Negotiation: greeting, options and their replies.
//!
//! | greeting | bytes | option | bytes | option reply | bytes |
//! |---|---|---|---|---|---|
//! | `NBDMAGIC` | 8 | `IHAVEOPT` | 8 | magic 0x3e889045565a9 | 8 |
//! | `IHAVEOPT` | 8 | option | 4 | option | 4 |
//! | handshake flags | 2 | length of data | 4 | reply type | 4 |
//! | | | data | | length of data | 4 |
//! | | | | | data | |

use super::{Fields, GREETING_MAGIC, OPTION_MAGIC, OPTION_REPLY_MAGIC, len32, wrong_magic};
use crate::error::Result;

/// Enter transmission with an export, without a way to say no.
pub const EXPORT_NAME: u32 = 1;
/// Goodbye.
pub const ABORT: u32 = 2;
/// List the exports.
pub const LIST: u32 = 3;
/// Go on inside TLS.
pub const STARTTLS: u32 = 5;
/// Tell about an export.
pub const INFO: u32 = 6;
/// Tell about an export and enter transmission.
pub const GO: u32 = 7;
/// Use structured replies.
pub const STRUCTURED_REPLY: u32 = 8;
/// List the metadata contexts of an export.
pub const LIST_META_CONTEXT: u32 = 9;
/// Choose metadata contexts for an export.
pub const SET_META_CONTEXT: u32 = 10;
/// Use extended headers.
pub const EXTENDED_HEADERS: u32 = 11;

/// Reply types.
pub mod rep {
    /// Done.
    pub const ACK: u32 = 1;
    /// An export.
    pub const SERVER: u32 = 2;
    /// Information about an export.
    pub const INFO: u32 = 3;
    /// A metadata context.
    pub const META_CONTEXT: u32 = 4;
    /// Set in every type that is an error; its data is a message for a person.
    pub const ERROR: u32 = 1 << 31;
    /// Unknown option.
    pub const ERR_UNSUP: u32 = ERROR | 1;
    /// Forbidden.
    pub const ERR_POLICY: u32 = ERROR | 2;
    /// Malformed.
    pub const ERR_INVALID: u32 = ERROR | 3;
    /// Not on this platform.
    pub const ERR_PLATFORM: u32 = ERROR | 4;
    /// Only inside TLS.
    pub const ERR_TLS_REQD: u32 = ERROR | 5;
    /// No such export.
    pub const ERR_UNKNOWN: u32 = ERROR | 6;
    /// The server is going away.
    pub const ERR_SHUTDOWN: u32 = ERROR | 7;
    /// The client must ask for block sizes.
    pub const ERR_BLOCK_SIZE_REQD: u32 = ERROR | 8;
    /// Too large.
    pub const ERR_TOO_BIG: u32 = ERROR | 9;
    /// Only with extended headers.
    pub const ERR_EXT_HEADER_REQD: u32 = ERROR | 10;
}

/// Types of information.
pub mod info {
    /// Size and transmission flags.
    pub const EXPORT: u16 = 0;
    /// The export's canonical name.
    pub const NAME: u16 = 1;
    /// A description for a person.
    pub const DESCRIPTION: u16 = 2;
    /// Smallest, preferred and largest size of a request.
    pub const BLOCK_SIZE: u16 = 3;
}

/// Bytes of the greeting.
pub const GREETING: usize = 18;
/// Bytes of an option before its data.
pub const OPTION: usize = 16;
/// Bytes of an option reply before its data.
pub const OPTION_REPLY: usize = 20;
/// Zeroes after the answer to `EXPORT_NAME`, unless both sides know `NO_ZEROES`.
pub const EXPORT_ZEROES: usize = 124;

/// The server's first bytes.
#[must_use]
pub fn greeting(flags: u16) -> Vec<u8> {
    let parts: [&[u8]; 3] = [&GREETING_MAGIC.to_be_bytes(), &OPTION_MAGIC.to_be_bytes(), &flags.to_be_bytes()];
    parts.concat()
}

/// The handshake flags of a greeting. Oldstyle servers are refused by their magic.
pub fn parse_greeting(bytes: &[u8; GREETING]) -> Result<u16> {
    let mut fields = Fields::of(bytes);
    match fields.u64()? {
        GREETING_MAGIC => {}
        other => return Err(wrong_magic(other, "NBDMAGIC")),
    }
    match fields.u64()? {
        OPTION_MAGIC => fields.u16(),
        other => Err(wrong_magic(other, "IHAVEOPT (newstyle)")),
    }
}

/// An option as the client sends it.
#[must_use]
pub fn option(option: u32, data: &[u8]) -> Vec<u8> {
    [&OPTION_MAGIC.to_be_bytes()[..], &option.to_be_bytes(), &len32(data).to_be_bytes(), data].concat()
}

/// The beginning of an option: which, and how many bytes of data follow.
pub fn parse_option(bytes: &[u8; OPTION]) -> Result<(u32, u32)> {
    let mut fields = Fields::of(bytes);
    match fields.u64()? {
        OPTION_MAGIC => Ok((fields.u32()?, fields.u32()?)),
        other => Err(wrong_magic(other, "IHAVEOPT")),
    }
}

/// A reply to an option as the server sends it; see [`rep`] for `kind`.
#[must_use]
pub fn option_reply(option: u32, kind: u32, data: &[u8]) -> Vec<u8> {
    let (option, kind, len) = (option.to_be_bytes(), kind.to_be_bytes(), len32(data).to_be_bytes());
    [&OPTION_REPLY_MAGIC.to_be_bytes()[..], &option, &kind, &len, data].concat()
}

/// The beginning of an option's reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OptionReply {
    /// The option that is answered.
    pub option: u32,
    /// See [`rep`].
    pub kind: u32,
    /// Bytes of data that follow.
    pub len: u32,
}

impl OptionReply {
    /// From its bytes.
    pub fn parse(bytes: &[u8; OPTION_REPLY]) -> Result<Self> {
        let mut fields = Fields::of(bytes);
        match fields.u64()? {
            OPTION_REPLY_MAGIC => Ok(Self { option: fields.u32()?, kind: fields.u32()?, len: fields.u32()? }),
            other => Err(wrong_magic(other, "an option reply's")),
        }
    }
}

/// Data of `INFO` and `GO`: name length (4), name, number of requests (2), requests (2 each).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InfoRequest {
    /// The export; the empty name is the default one.
    pub name: String,
    /// Which information is wanted beside [`info::EXPORT`].
    pub wanted: Vec<u16>,
}

impl InfoRequest {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = string32(&self.name);
        bytes.extend(u16::try_from(self.wanted.len()).unwrap_or(u16::MAX).to_be_bytes());
        bytes.extend(self.wanted.iter().flat_map(|kind| kind.to_be_bytes()));
        bytes
    }

    /// From its bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let mut fields = Fields::of(bytes);
        let len = fields.u32()?;
        let name = fields.string("export name", len)?;
        let count = fields.u16()?;
        let wanted = (0..count).map(|_| fields.u16()).collect::<Result<_>>()?;
        fields.end()?;
        Ok(Self { name, wanted })
    }
}

/// Data of [`rep::INFO`]: type (2), then by type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Info {
    /// Size (8), transmission flags (2).
    Export {
        /// Bytes.
        size: u64,
        /// See [`super::transmission`].
        flags: u16,
    },
    /// The canonical name.
    Name(String),
    /// For a person.
    Description(String),
    /// Block sizes (4 each), in bytes.
    BlockSize {
        /// Requests must be multiples of this.
        minimum: u32,
        /// Requests should be multiples of this.
        preferred: u32,
        /// Requests with data must not be longer.
        maximum: u32,
    },
    /// A type that this module does not know.
    Other(u16),
}

impl Info {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Export { size, flags } => {
                [&info::EXPORT.to_be_bytes()[..], &size.to_be_bytes(), &flags.to_be_bytes()].concat()
            }
            Self::Name(name) => [&info::NAME.to_be_bytes()[..], name.as_bytes()].concat(),
            Self::Description(text) => [&info::DESCRIPTION.to_be_bytes()[..], text.as_bytes()].concat(),
            Self::BlockSize { minimum, preferred, maximum } => {
                let sizes = [minimum, preferred, maximum].map(|size| size.to_be_bytes());
                [&info::BLOCK_SIZE.to_be_bytes()[..], sizes.as_flattened()].concat()
            }
            Self::Other(kind) => kind.to_be_bytes().to_vec(),
        }
    }

    /// From its bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let mut fields = Fields::of(bytes);
        let parsed = match fields.u16()? {
            info::EXPORT => Self::Export { size: fields.u64()?, flags: fields.u16()? },
            info::NAME => Self::Name(fields.rest("export name")?),
            info::DESCRIPTION => Self::Description(fields.rest("export description")?),
            info::BLOCK_SIZE => {
                Self::BlockSize { minimum: fields.u32()?, preferred: fields.u32()?, maximum: fields.u32()? }
            }
            other => return Ok(Self::Other(other)),
        };
        fields.end()?;
        Ok(parsed)
    }
}

/// Data of [`rep::SERVER`]: name length (4), name, description.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerEntry {
    /// The export's name.
    pub name: String,
    /// For a person; often empty.
    pub description: String,
}

impl ServerEntry {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        [&string32(&self.name)[..], self.description.as_bytes()].concat()
    }

    /// From its bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let mut fields = Fields::of(bytes);
        let len = fields.u32()?;
        Ok(Self { name: fields.string("export name", len)?, description: fields.rest("export description")? })
    }
}

/// Data of `LIST_META_CONTEXT` and `SET_META_CONTEXT`: name length (4), name, number of queries (4), and for each its
/// length (4) and text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetaQueries {
    /// The export.
    pub export: String,
    /// Names of contexts, or `NAMESPACE:` for all of a kind; none lists all.
    pub queries: Vec<String>,
}

impl MetaQueries {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = string32(&self.export);
        bytes.extend(u32::try_from(self.queries.len()).unwrap_or(u32::MAX).to_be_bytes());
        bytes.extend(self.queries.iter().flat_map(|query| string32(query)));
        bytes
    }

    /// From its bytes. What is allocated is no more than a small multiple of `bytes`.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let mut fields = Fields::of(bytes);
        let len = fields.u32()?;
        let export = fields.string("export name", len)?;
        let count = fields.u32()?;
        let mut queries = Vec::new();
        for _ in 0..count {
            let len = fields.u32()?;
            queries.push(fields.string("context query", len)?);
        }
        fields.end()?;
        Ok(Self { export, queries })
    }
}

/// Data of [`rep::META_CONTEXT`]: context id (4), name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetaContext {
    /// The number that `BLOCK_STATUS` replies bear; without meaning in a list.
    pub id: u32,
    /// Its name, `NAMESPACE:LEAF`.
    pub name: String,
}

impl MetaContext {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        [&self.id.to_be_bytes()[..], self.name.as_bytes()].concat()
    }

    /// From its bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let mut fields = Fields::of(bytes);
        Ok(Self { id: fields.u32()?, name: fields.rest("context name")? })
    }
}

/// The answer to `EXPORT_NAME`: size (8), transmission flags (2), and zeroes for a client that does not know
/// [`NO_ZEROES`](super::handshake::NO_ZEROES).
#[must_use]
pub fn export_name_reply(size: u64, flags: u16, zeroes: bool) -> Vec<u8> {
    let zeroes: &[u8] = if zeroes { &[0; EXPORT_ZEROES] } else { &[] };
    [&size.to_be_bytes()[..], &flags.to_be_bytes(), zeroes].concat()
}

/// Size and transmission flags of an answer to `EXPORT_NAME`, whose zeroes follow.
pub fn parse_export_name_reply(bytes: &[u8; 10]) -> Result<(u64, u16)> {
    let mut fields = Fields::of(bytes);
    Ok((fields.u64()?, fields.u16()?))
}

/// A length in 32 bits and the text.
fn string32(text: &str) -> Vec<u8> {
    [&len32(text.as_bytes()).to_be_bytes()[..], text.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_the_bytes_of_the_specification() {
        assert_eq!(greeting(3), b"NBDMAGICIHAVEOPT\0\x03");
        assert_eq!(parse_greeting(b"NBDMAGICIHAVEOPT\0\x03").unwrap(), 3);
        assert_eq!(option(GO, b"abc"), b"IHAVEOPT\0\0\0\x07\0\0\0\x03abc");
        assert_eq!(parse_option(b"IHAVEOPT\0\0\0\x07\0\0\0\x03").unwrap(), (7, 3));
        let reply = option_reply(GO, rep::ERR_UNKNOWN, b"no");
        assert_eq!(reply, b"\0\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x07\x80\0\0\x06\0\0\0\x02no");
        let parsed = OptionReply::parse(reply.first_chunk().unwrap()).unwrap();
        assert_eq!(parsed, OptionReply { option: GO, kind: rep::ERR_UNKNOWN, len: 2 });
        let request = InfoRequest { name: "a".to_owned(), wanted: vec![info::BLOCK_SIZE] };
        assert_eq!(request.encode(), b"\0\0\0\x01a\0\x01\0\x03");
    }

    #[test]
    fn what_is_encoded_is_parsed() {
        let request = InfoRequest { name: "disk é".to_owned(), wanted: vec![1, 2, 3] };
        assert_eq!(InfoRequest::parse(&request.encode()).unwrap(), request);
        for info in [
            Info::Export { size: 1 << 40, flags: 0x103 },
            Info::Name("x".to_owned()),
            Info::Description(String::new()),
            Info::BlockSize { minimum: 1, preferred: 4096, maximum: 32 << 20 },
            Info::Other(77),
        ] {
            assert_eq!(Info::parse(&info.encode()).unwrap(), info);
        }
        let entry = ServerEntry { name: "a".to_owned(), description: "the disk".to_owned() };
        assert_eq!(ServerEntry::parse(&entry.encode()).unwrap(), entry);
        let queries = MetaQueries { export: String::new(), queries: vec!["base:".to_owned(), "qemu:x".to_owned()] };
        assert_eq!(MetaQueries::parse(&queries.encode()).unwrap(), queries);
        let context = MetaContext { id: 7, name: "base:allocation".to_owned() };
        assert_eq!(MetaContext::parse(&context.encode()).unwrap(), context);
        let reply = export_name_reply(5, 1, true);
        assert_eq!(reply.len(), 134);
        assert_eq!(parse_export_name_reply(reply.first_chunk().unwrap()).unwrap(), (5, 1));
    }

    #[test]
    fn lengths_that_contradict_one_another_are_refused() {
        for bytes in [
            &b""[..],
            b"\0\0\0\x02a",
            b"\xff\xff\xff\xffa\0\0",
            b"\0\0\0\x01a\0\x02\0\x03",
            b"\0\0\0\x01a\0\0x",
            b"\0\0\0\x01\xff\0\0",
        ] {
            assert!(InfoRequest::parse(bytes).is_err(), "{bytes:?}");
        }
        let long = [&[0, 0, 0x10, 1][..], &[b'a'; 4097], &[0, 0]].concat();
        assert_eq!(InfoRequest::parse(&long).unwrap_err().as_corrupt().unwrap().field, "export name");
        assert!(MetaQueries::parse(b"\0\0\0\0\xff\xff\xff\xff").is_err());
        assert!(Info::parse(&[0, 0, 1]).is_err());
        assert!(parse_greeting(b"NBDMAGIC\0\0\x42\x02\x81\x86\x12\x53\0\0").is_err(), "oldstyle");
    }
}
