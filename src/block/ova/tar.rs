//! Where the members of a tar lie: POSIX.1-2024 pax, "ustar Interchange Format" and "pax Extended Header", with GNU tar's
//! long names and base-256 sizes. Only headers are read; contents stay where they are.
//!
//! | offset | size | field | accepted |
//! |---:|---:|---|---|
//! | 0 | 100 | name | any bytes |
//! | 124 | 12 | size | octal, or base-256 |
//! | 148 | 8 | chksum | octal: the sum of the header's bytes, these taken as blanks |
//! | 156 | 1 | typeflag | 0, NUL, 7 file; x pax header; L long name; others are passed over |
//! | 345 | 155 | prefix | any bytes |
//!
//! The tar ends with a block of zeroes or with the file.

use super::FORMAT;
use crate::block::{BlockDevice, read_vec};
use crate::bytes::{escape, round_up, to_u64, to_usize};
use crate::error::{Error, Result};
use crate::limits;

const BLOCK: u64 = 512;

/// A regular file in the tar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    /// As in the header, `./` in front cut off.
    pub(super) name: String,
    pub(super) offset: u64,
    pub(super) size: u64,
}

/// What extension headers say about the next member.
#[derive(Default)]
struct Extensions {
    name: Option<Vec<u8>>,
    size: Option<u64>,
}

/// The regular files of the tar, in order.
pub(super) fn members(file: &dyn BlockDevice) -> Result<Vec<Member>> {
    let mut members = Vec::new();
    let mut extensions = Extensions::default();
    let mut at = 0u64;
    let mut headers = 0u64;
    while at.checked_add(BLOCK).is_some_and(|end| end <= file.size()) {
        let block = read_vec(file, at, to_usize(BLOCK))?;
        if block.iter().all(|&byte| byte == 0) {
            break;
        }
        headers = headers.saturating_add(1);
        limits::check("members of an ova", headers, limits::OVA_MEMBERS)?;
        let header = tar::Header::from_byte_slice(&block);
        check_sum(header, &block, at)?;
        let stated = header
            .entry_size()
            .map_err(|error| Error::corrupt(FORMAT, "size", at.saturating_add(124), error, "a number"))?;
        let kind = header.entry_type();
        let is_file = kind.is_file() || kind.is_contiguous();
        let size = extensions.size.filter(|_| is_file).unwrap_or(stated);
        let offset = at.saturating_add(BLOCK);
        let end = offset.checked_add(size).filter(|&end| end <= file.size());
        let end = end.ok_or_else(|| {
            let expected = format!("no more than the {} bytes of the file", file.size());
            Error::corrupt(FORMAT, "size", at.saturating_add(124), size, expected)
        })?;
        if kind.is_pax_local_extensions() || kind.is_gnu_longname() {
            limits::check("bytes of a tar extension header", size, limits::DESCRIPTOR_BYTES)?;
            extensions.take_in(&read_vec(file, offset, to_usize(size))?, kind.is_gnu_longname());
        } else if !kind.is_gnu_longlink() && !kind.is_pax_global_extensions() {
            let name = std::mem::take(&mut extensions).name.unwrap_or_else(|| header.path_bytes().into_owned());
            limits::check("bytes of a tar member's name", to_u64(name.len()), to_u64(limits::PATH_BYTES))?;
            if is_file {
                let name = name.strip_prefix(b"./").unwrap_or(&name);
                members.push(Member { name: String::from_utf8_lossy(name).into_owned(), offset, size });
            }
        }
        at = round_up(end, BLOCK).unwrap_or(u64::MAX);
    }
    Ok(members)
}

impl Extensions {
    fn take_in(&mut self, data: &[u8], is_long_name: bool) {
        if is_long_name {
            let end = data.iter().position(|&byte| byte == 0).unwrap_or(data.len());
            self.name = data.get(..end).map(<[u8]>::to_vec);
            return;
        }
        // A record that does not parse says nothing; the header's own fields then hold, and are checked.
        for record in tar::PaxExtensions::new(data).flatten() {
            match record.key_bytes() {
                b"path" => self.name = Some(record.value_bytes().to_vec()),
                b"size" => self.size = record.value().ok().and_then(|value| value.parse().ok()),
                _ => {}
            }
        }
    }
}

fn check_sum(header: &tar::Header, block: &[u8], at: u64) -> Result<()> {
    let sum = |sum: u32, byte: &u8| sum.wrapping_add(u32::from(*byte));
    let fields = [block.get(..148), Some(&[b' '; 8][..]), block.get(156..)];
    let computed = fields.into_iter().flatten().flatten().fold(0, sum);
    match header.cksum() {
        Ok(stated) if stated == computed => Ok(()),
        _ => {
            let found = escape(block.get(148..156).unwrap_or_default());
            Err(Error::corrupt(FORMAT, "chksum", at.saturating_add(148), format!("'{found}'"), format!("{computed:o}")))
        }
    }
}

/// The members' names for a message.
pub(super) fn names<'a>(members: impl IntoIterator<Item = &'a Member>) -> String {
    let names: Vec<_> = members.into_iter().take(20).map(|member| escape(member.name.as_bytes())).collect();
    names.join(", ")
}

/// The whole contents of a small member.
pub(super) fn contents(file: &dyn BlockDevice, member: &Member) -> Result<Vec<u8>> {
    limits::check("descriptor bytes", member.size, limits::DESCRIPTOR_BYTES)?;
    read_vec(file, member.offset, to_usize(member.size))
}
