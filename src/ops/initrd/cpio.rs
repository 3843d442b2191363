//! Reading cpio archives in the "new ASCII" format (`newc`, and `crc` with sums, which are not checked, as by the kernel).
//! All numbers are eight hexadecimal digits.
//!
//! | offset | size | field | accepted |
//! |---:|---:|---|---|
//! | 0 | 6 | c_magic | 070701, 070702 |
//! | 6 | 8 | c_ino | |
//! | 14 | 8 | c_mode | type and permissions |
//! | 22, 30 | 8+8 | c_uid, c_gid | |
//! | 38 | 8 | c_nlink | above 1: the content is with the last of the names |
//! | 46 | 8 | c_mtime | seconds |
//! | 54 | 8 | c_filesize | |
//! | 62, 70 | 8+8 | c_maj, c_min | the device it lay on |
//! | 78, 86 | 8+8 | c_rmaj, c_rmin | the device a node stands for |
//! | 94 | 8 | c_namesize | with its NUL byte, at most PATH_MAX |
//! | 102 | 8 | c_chksum | |
//! | 110 | c_namesize | name, and zeroes up to a multiple of four | |
//! | | c_filesize | content, and zeroes up to a multiple of four | |
//!
//! The last entry is called `TRAILER!!!`. Any number of zeroes may follow.

use std::io::{BufRead, Read};
use std::ops::ControlFlow;

use super::{InitrdVisitor, Packing, of_stream};
use crate::error::{Error, Result};
use crate::limits;
use crate::ops::stream::error_of;

const HEADER: usize = 110;
const TRAILER: &[u8] = b"TRAILER!!!";

/// One entry of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InitrdEntry {
    /// Its name as it is stored.
    pub name: Vec<u8>,
    /// Type and permissions.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Names of the same file.
    pub links: u32,
    /// Bytes of its content; of a file with several names, all but the last have none.
    pub size: u64,
    /// Last change, in seconds since 1970.
    pub mtime: u32,
    /// The inode number, which tells files of one archive apart.
    pub inode: u32,
    /// Major and minor number of the device that the file lay on.
    pub device: (u32, u32),
    /// Major and minor number of what a device node stands for.
    pub rdev: (u32, u32),
    /// A symbolic link's target.
    pub target: Option<Vec<u8>>,
    /// Which of the archives it is in, counted from 0.
    pub archive: usize,
    /// How that one is packed.
    pub packing: Packing,
}

impl InitrdEntry {
    /// Whether it is a regular file.
    #[must_use]
    pub fn is_file(&self) -> bool {
        self.mode & 0o170_000 == 0o100_000
    }
}

/// The budget for all archives of one image, and how much of it is used.
#[derive(Debug)]
pub(super) struct Reading {
    limit: u64,
    bytes: u64,
    entries: u64,
    pub archives: usize,
}

impl Reading {
    /// At most `limit` bytes may come out.
    pub(super) fn new(limit: u64) -> Self {
        Self { limit, bytes: 0, entries: 0, archives: 0 }
    }

    /// Reads archives up to something that is neither one nor zeroes, or to the end.
    pub(super) fn archives(
        &mut self,
        input: &mut dyn BufRead,
        packing: Packing,
        visit: &mut InitrdVisitor<'_>,
    ) -> Result<ControlFlow<()>> {
        loop {
            match self.skip_zeroes(input)? {
                Some(b'0') => {
                    let archives = self.archives as u64 + 1;
                    limits::check("archives in an initial RAM disk", archives, limits::INITRD_SEGMENTS)?;
                    if self.archive(input, packing, visit)?.is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                    self.archives += 1;
                }
                _ => return Ok(ControlFlow::Continue(())),
            }
        }
    }

    /// The first byte that is not zero, which is not taken.
    fn skip_zeroes(&mut self, input: &mut dyn BufRead) -> Result<Option<u8>> {
        loop {
            let buffer = input.fill_buf().map_err(|error| error_of(error, of_stream))?;
            let zeroes = buffer.iter().take_while(|byte| **byte == 0).count();
            let first = buffer.get(zeroes).copied();
            let is_end = buffer.is_empty();
            input.consume(zeroes);
            self.count(zeroes as u64)?;
            if first.is_some() || is_end {
                return Ok(first);
            }
        }
    }

    fn count(&mut self, bytes: u64) -> Result<()> {
        self.bytes = self.bytes.saturating_add(bytes);
        limits::check("bytes of an unpacked initial RAM disk", self.bytes, self.limit)?;
        Ok(())
    }

    fn archive(
        &mut self,
        input: &mut dyn BufRead,
        packing: Packing,
        visit: &mut InitrdVisitor<'_>,
    ) -> Result<ControlFlow<()>> {
        // Everything in an archive begins at a multiple of four from its first byte.
        loop {
            self.entries += 1;
            limits::check("entries of an initial RAM disk", self.entries, limits::INITRD_ENTRIES)?;
            let (mut entry, name_size) = self.header(input)?;
            entry.name = self.exactly(input, name_size)?;
            entry.packing = packing;
            if entry.name.pop() != Some(0) {
                return Err(self.corrupt("name", "no NUL byte at its end", "one"));
            }
            self.exactly(input, padding(HEADER + name_size))?;
            // A limit on what is to come keeps a bomb from being unpacked up to there.
            self.count(entry.size)?;
            if entry.name == TRAILER {
                skip(input, entry.size)?;
                return Ok(ControlFlow::Continue(()));
            }
            let mut content = input.take(entry.size);
            if entry.mode & 0o170_000 == 0o120_000 {
                if entry.size > limits::PATH_BYTES as u64 {
                    return Err(self.corrupt("c_filesize", entry.size, "a link's target of 4096 bytes at most"));
                }
                let mut target = Vec::new();
                content.read_to_end(&mut target).map_err(|error| error_of(error, of_stream))?;
                entry.target = Some(target);
            }
            let flow = visit(&entry, &mut content)?;
            if flow.is_break() {
                return Ok(flow);
            }
            let left = content.limit();
            skip(input, left)?;
            self.exactly(input, padding((entry.size % 4) as usize))?;
        }
    }

    fn header(&mut self, input: &mut dyn BufRead) -> Result<(InitrdEntry, usize)> {
        let bytes = self.exactly(input, HEADER)?;
        if &bytes[..6] != b"070701" && &bytes[..6] != b"070702" {
            return Err(self.corrupt("c_magic", crate::bytes::escape(&bytes[..6]), "070701 or 070702"));
        }
        let field = |index: usize, name: &'static str| {
            let digits = &bytes[6 + index * 8..14 + index * 8];
            let all_hex = digits.iter().all(u8::is_ascii_hexdigit);
            let value = std::str::from_utf8(digits)
                .ok()
                .filter(|_| all_hex)
                .and_then(|text| u32::from_str_radix(text, 16).ok());
            value.ok_or_else(|| self.corrupt(name, crate::bytes::escape(digits), "eight hexadecimal digits"))
        };
        let entry = InitrdEntry {
            name: Vec::new(),
            inode: field(0, "c_ino")?,
            mode: field(1, "c_mode")?,
            uid: field(2, "c_uid")?,
            gid: field(3, "c_gid")?,
            links: field(4, "c_nlink")?,
            mtime: field(5, "c_mtime")?,
            size: u64::from(field(6, "c_filesize")?),
            device: (field(7, "c_maj")?, field(8, "c_min")?),
            rdev: (field(9, "c_rmaj")?, field(10, "c_rmin")?),
            target: None,
            archive: self.archives,
            packing: Packing::None,
        };
        let name_size = field(11, "c_namesize")? as usize;
        if name_size == 0 || name_size > limits::PATH_BYTES {
            return Err(self.corrupt("c_namesize", name_size, "1 to 4096"));
        }
        Ok((entry, name_size))
    }

    /// So many bytes, which were held against a limit.
    fn exactly(&mut self, input: &mut dyn BufRead, len: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        input.read_exact(&mut bytes).map_err(|error| error_of(error, ended))?;
        self.count(len as u64)?;
        Ok(bytes)
    }

    /// Something wrong about where reading is, counted in unpacked bytes.
    fn corrupt(&self, field: &'static str, found: impl std::fmt::Display, expected: &str) -> Error {
        Error::corrupt("cpio", field, self.bytes, found, expected)
    }
}

fn skip(input: &mut dyn BufRead, len: u64) -> Result<()> {
    let skipped = std::io::copy(&mut input.take(len), &mut std::io::sink());
    match skipped.map_err(|error| error_of(error, of_stream))? {
        all if all == len => Ok(()),
        _ => Err(ended(std::io::ErrorKind::UnexpectedEof.into())),
    }
}

fn ended(error: std::io::Error) -> Error {
    if error.kind() == std::io::ErrorKind::UnexpectedEof {
        return Error::corrupt("cpio", "archive", 0, "its end within an entry", "an entry called TRAILER!!!");
    }
    of_stream(error)
}

/// Zeroes up to a multiple of four.
fn padding(len: usize) -> usize {
    len.next_multiple_of(4) - len
}
