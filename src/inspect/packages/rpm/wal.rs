//! An SQLite write-ahead log: pages that are newer than the database file's.
//!
//! All integers are big-endian. The log's header:
//!
//! | offset | size | field | accepted |
//! |---:|---:|---|---|
//! | 0 | 4 | magic | 0x377f0682 (checksums over little-endian words) or 0x377f0683 (big-endian) |
//! | 4 | 4 | format version | 3007000 |
//! | 8 | 4 | page size | the database's |
//! | 16 | 8 | salt-1, salt-2 | |
//! | 24 | 8 | checksum of the first 24 bytes | |
//!
//! Frames follow, each a header and a page:
//!
//! | offset | size | field |
//! |---:|---:|---|
//! | 0 | 4 | page number |
//! | 4 | 4 | pages of the database after the commit; 0 in a frame that commits nothing |
//! | 8 | 8 | salt-1, salt-2: the log header's |
//! | 16 | 8 | checksum, of this frame's first 8 bytes and its page, going on from the frame before |
//! | 24 | | the page |
//!
//! The first frame whose salts or checksum do not fit ends the log: what follows is left from an earlier use. Only
//! frames up to the last commit count. A log whose header does not fit holds nothing, as SQLite treats it. See "Database
//! File Format", section 4, on sqlite.org.

use std::collections::HashMap;

use super::pages::Window;
use crate::block::BlockDevice;
use crate::bytes::{Record, to_u64, to_usize};
use crate::error::{Error, Result};
use crate::limits;

const FORMAT: &str = "rpmdb.sqlite-wal";
const MAGIC_LITTLE_ENDIAN: u32 = 0x377f_0682;
const MAGIC_BIG_ENDIAN: u32 = 0x377f_0683;
const VERSION: u32 = 3_007_000;
const HEADER: usize = 32;
const FRAME_HEADER: usize = 24;

/// The committed pages of a log.
pub(super) struct Wal<'a> {
    window: Window<'a>,
    page_size: usize,
    /// Where the newest page of each number lies.
    pages: HashMap<u32, u64>,
    /// Pages of the database after the last commit; 0 when nothing was committed.
    page_count: u32,
}

impl<'a> Wal<'a> {
    /// Reads which pages of a database with pages of `page_size` bytes are in `device`.
    pub(super) fn open(device: &'a dyn BlockDevice, page_size: usize) -> Result<Self> {
        limits::check("bytes of a write-ahead log", device.size(), limits::PACKAGE_WAL_BYTES)?;
        let mut wal = Self { window: Window::new(device), page_size, pages: HashMap::new(), page_count: 0 };
        if let Some(log) = wal.header()? {
            wal.index(log)?;
        }
        Ok(wal)
    }

    /// Pages of the database, when the log has a say in it.
    pub(super) fn page_count(&self) -> Option<u32> {
        (self.page_count > 0).then_some(self.page_count)
    }

    /// The newest committed page `number`; its offset is the one in the log.
    pub(super) fn page(&mut self, number: u32) -> Result<Option<Record<'_>>> {
        let Some(&offset) = self.pages.get(&number) else { return Ok(None) };
        Ok(Some(Record::new(FORMAT, self.window.read(offset, self.page_size)?, offset)))
    }

    /// The state in which the frames begin; `None` for a log that holds nothing.
    fn header(&mut self) -> Result<Option<Log>> {
        if self.window.size() < to_u64(HEADER) {
            return Ok(None);
        }
        let header = Record::new(FORMAT, self.window.read(0, HEADER)?, 0);
        let big_endian = match header.be32(0)? {
            MAGIC_LITTLE_ENDIAN => false,
            MAGIC_BIG_ENDIAN => true,
            _ => return Ok(None),
        };
        let mut log = Log { big_endian, salts: *header.array(16)?, sums: (0, 0) };
        log.add(header.slice(0, 24)?);
        if log.sums != (header.be32(24)?, header.be32(28)?) {
            return Ok(None);
        }
        if header.be32(4)? != VERSION {
            return Err(Error::unsupported(FORMAT, format!("version {}", header.be32(4)?)));
        }
        let page_size = header.be32(8)?;
        if to_usize(u64::from(page_size)) != self.page_size {
            return Err(header.corrupt("page size", 8, page_size, format!("the database's, {}", self.page_size)));
        }
        Ok(Some(log))
    }

    fn index(&mut self, mut log: Log) -> Result<()> {
        let frame_len = self.page_size.saturating_add(FRAME_HEADER);
        let mut uncommitted = Vec::new();
        let mut at = to_u64(HEADER);
        while at.checked_add(to_u64(frame_len)).is_some_and(|end| end <= self.window.size()) {
            let frame = Record::new(FORMAT, self.window.read(at, frame_len)?, at);
            let (number, commit) = (frame.be32(0)?, frame.be32(4)?);
            if number == 0 || *frame.array::<8>(8)? != log.salts {
                break;
            }
            log.add(frame.slice(0, 8)?);
            log.add(frame.slice(FRAME_HEADER, self.page_size)?);
            if log.sums != (frame.be32(16)?, frame.be32(20)?) {
                break;
            }
            uncommitted.push((number, frame.position(FRAME_HEADER)));
            if commit != 0 {
                self.pages.extend(uncommitted.drain(..));
                self.page_count = commit;
            }
            at = at.saturating_add(to_u64(frame_len));
        }
        Ok(())
    }
}

/// What each frame's checksum and salts are held against.
struct Log {
    big_endian: bool,
    salts: [u8; 8],
    sums: (u32, u32),
}

impl Log {
    /// Goes on with the checksum over `bytes`.
    fn add(&mut self, bytes: &[u8]) {
        self.sums = match self.big_endian {
            true => checksum(self.sums, bytes, u32::from_be_bytes),
            false => checksum(self.sums, bytes, u32::from_le_bytes),
        };
    }
}

/// The two sums after more `bytes`, taken as pairs of 32-bit words.
fn checksum((mut s0, mut s1): (u32, u32), bytes: &[u8], word: impl Fn([u8; 4]) -> u32) -> (u32, u32) {
    for &[a, b, c, d, e, f, g, h] in bytes.as_chunks::<8>().0 {
        s0 = s0.wrapping_add(word([a, b, c, d])).wrapping_add(s1);
        s1 = s1.wrapping_add(word([e, f, g, h])).wrapping_add(s0);
    }
    (s0, s1)
}
