//! One entry's headers: ustar, and pax records for what does not fit.
//!
//! | offset | size | field | in pax when |
//! |---|---|---|---|
//! | 0, 345 | 100, 155 | name, prefix | it cannot be split in two that fit: `path` |
//! | 100 | 8 | mode | |
//! | 108, 116 | 8 | uid, gid | above 2²¹ − 1 |
//! | 124 | 12 | size | 8 GiB and more |
//! | 136 | 12 | mtime | not a whole second from 1970 to 2242 |
//! | 156 | 1 | typeflag: 0 file, 1 hard link, 2 symbolic link, 3 and 4 devices, 5 directory, 6 FIFO | |
//! | 157 | 100 | linkname | longer: `linkpath` |
//! | 265, 297 | 32 | uname, gname | longer |
//! | 329, 337 | 8 | devmajor, devminor | |
//!
//! Source: POSIX.1-2017, pax, "ustar Interchange Format". Extended attributes are `SCHILY.xattr.NAME`, ACLs
//! `SCHILY.acl.access` and `.default` in text, an SELinux label `RHT.security.selinux` too, as GNU tar and libarchive read
//! them.

use tar::{EntryType, Header};

use super::acl;
use super::pax::{Records, seconds};
use crate::error::{Error, Result};
use crate::fs::{FileType, Metadata, Timestamp, Xattr};
use crate::ops::Owners;

const NAME: usize = 100;
const PREFIX: usize = 155;
const OWNER: usize = 32;
/// The largest number in 7 and in 11 octal digits.
const SEVEN: u64 = 0o777_7777;
const ELEVEN: u64 = 0o777_7777_7777;

/// What kinds of metadata become records.
#[derive(Debug, Clone, Copy)]
pub(super) struct Carry {
    pub xattrs: bool,
    pub acls: bool,
    pub selinux: bool,
    pub names: bool,
    pub all_times: bool,
}

/// What an entry's body is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Body<'a> {
    /// None: a directory, link, device or FIFO.
    Nothing,
    /// A further name of the file at this path of the archive.
    Link(&'a [u8]),
    /// All of a file's bytes.
    Plain,
    /// A sparse file's map and data, this many bytes together.
    Sparse(u64),
}

/// Writes entries' headers, with buffers kept from one to the next.
#[derive(Debug)]
pub(super) struct Headers {
    carry: Carry,
    owners: Owners,
    records: Records,
}

impl Headers {
    pub(super) fn new(carry: Carry, owners: Owners) -> Self {
        Self { carry, owners, records: Records::default() }
    }

    /// The headers of the entry `path`, which ends in `/` for a directory, given to `put` in pieces.
    pub(super) fn write(
        &mut self,
        path: &[u8],
        metadata: &Metadata,
        target: Option<&[u8]>,
        xattrs: &[Xattr],
        body: Body<'_>,
        put: &mut dyn FnMut(&[u8]),
    ) -> Result<()> {
        self.records.clear();
        let mut header = Header::new_ustar();
        header.set_mode(metadata.permissions);
        self.name(&mut header, path, body);
        let link = match body {
            Body::Link(first) => Some(first),
            _ => target,
        };
        if let Some(link) = link {
            self.text(&mut header, "linkpath", 157..157 + NAME, link);
        }
        self.number("uid", metadata.uid.into(), SEVEN, |uid| header.set_uid(uid));
        self.number("gid", metadata.gid.into(), SEVEN, |gid| header.set_gid(gid));
        if self.carry.names {
            self.owner_names(&mut header, metadata);
        }
        let size = match body {
            Body::Plain => metadata.size,
            Body::Sparse(stored) => stored,
            Body::Nothing | Body::Link(_) => 0,
        };
        self.number("size", size, ELEVEN, |size| header.set_size(size));
        self.times(&mut header, metadata);
        if let Body::Sparse(_) = body {
            self.records.push("GNU.sparse.major", "1");
            self.records.push("GNU.sparse.minor", "0");
            self.records.push("GNU.sparse.name", path);
            self.records.push("GNU.sparse.realsize", metadata.size.to_string());
        }
        if !matches!(body, Body::Link(_)) {
            self.attributes(xattrs);
        }
        header.set_entry_type(entry_type(metadata.file_type, body)?);
        if let Some(device) = metadata.rdev {
            for (set, value) in [
                (Header::set_device_major as fn(&mut _, _) -> _, device.major),
                (Header::set_device_minor, device.minor),
            ] {
                set(&mut header, value).map_err(|error| Error::io("write", "a device number", error))?;
            }
        }
        header.set_cksum();
        if !self.records.is_empty() {
            self.extended(path, &header, put);
        }
        put(header.as_bytes());
        Ok(())
    }

    /// The extended header that goes before `header`.
    fn extended(&self, path: &[u8], header: &Header, put: &mut dyn FnMut(&[u8])) {
        let records = self.records.bytes();
        let mut extended = Header::new_ustar();
        let last = path.strip_suffix(b"/").unwrap_or(path).rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        let name = [b"./PaxHeaders/", &last[..last.len().min(NAME - 13)]].concat();
        extended.as_mut_bytes()[..name.len()].copy_from_slice(&name);
        extended.set_mode(0o644);
        extended.set_uid(0);
        extended.set_gid(0);
        extended.set_size(records.len() as u64);
        extended.set_mtime(header.mtime().unwrap_or(0));
        extended.set_entry_type(EntryType::XHeader);
        extended.set_cksum();
        put(extended.as_bytes());
        put(records);
        put(&[0; 512][..padding(records.len() as u64)]);
    }

    fn name(&mut self, header: &mut Header, path: &[u8], body: Body<'_>) {
        if let Body::Sparse(_) = body {
            // Who does not know sparse files finds their maps and data under a name that says so.
            let at = path.iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1);
            let name = [&path[..at], b"GNUSparseFile.0/", &path[at..]].concat();
            let cut = &name[..name.len().min(NAME)];
            header.as_mut_bytes()[..cut.len()].copy_from_slice(cut);
            self.mark_binary(path);
            return;
        }
        if path.len() > NAME
            && let Some(at) = split(path)
        {
            header.as_mut_bytes()[345..345 + at].copy_from_slice(&path[..at]);
            let rest = &path[at + 1..];
            header.as_mut_bytes()[..rest.len()].copy_from_slice(rest);
            return;
        }
        self.text(header, "path", 0..NAME, path);
    }

    /// Bytes in a field of the header; when they are longer, cut there and whole in a record.
    fn text(&mut self, header: &mut Header, keyword: &str, field: std::ops::Range<usize>, value: &[u8]) {
        let cut = &value[..value.len().min(field.len())];
        header.as_mut_bytes()[field.start..field.start + cut.len()].copy_from_slice(cut);
        if cut.len() < value.len() {
            self.mark_binary(value);
            self.records.push(keyword, value);
        }
    }

    /// Says that names are bytes, when this one is not UTF-8. It must stand before the names.
    fn mark_binary(&mut self, value: &[u8]) {
        if std::str::from_utf8(value).is_err() {
            self.records.push("hdrcharset", "BINARY");
        }
    }

    fn number(&mut self, keyword: &str, value: u64, most: u64, mut set: impl FnMut(u64)) {
        if value <= most {
            set(value);
        } else {
            set(0);
            self.records.push(keyword, value.to_string());
        }
    }

    fn owner_names(&mut self, header: &mut Header, metadata: &Metadata) {
        let names = [
            ("uname", 265, self.owners.user_name(metadata.uid).map(str::to_owned)),
            ("gname", 297, self.owners.group_name(metadata.gid).map(str::to_owned)),
        ];
        for (keyword, at, name) in names {
            if let Some(name) = name {
                // One byte of the field is for the NUL.
                self.text(header, keyword, at..at + OWNER - 1, name.as_bytes());
            }
        }
    }

    fn times(&mut self, header: &mut Header, metadata: &Metadata) {
        let Timestamp { seconds: whole, nanoseconds } = metadata.mtime;
        let fits = u64::try_from(whole).ok().filter(|seconds| *seconds <= ELEVEN);
        header.set_mtime(fits.unwrap_or(0));
        if fits.is_none() || nanoseconds != 0 {
            self.records.push("mtime", seconds(metadata.mtime));
        }
        if self.carry.all_times {
            self.records.push("atime", seconds(metadata.atime));
            self.records.push("ctime", seconds(metadata.ctime));
            if let Some(created) = metadata.crtime {
                self.records.push("LIBARCHIVE.creationtime", seconds(created));
            }
        }
    }

    fn attributes(&mut self, xattrs: &[Xattr]) {
        for Xattr { name, value } in xattrs {
            let acl = match &name[..] {
                b"system.posix_acl_access" => Some("SCHILY.acl.access"),
                b"system.posix_acl_default" => Some("SCHILY.acl.default"),
                _ => None,
            };
            if let Some(keyword) = acl {
                match acl::text(value) {
                    _ if !self.carry.acls => continue,
                    Some(text) => {
                        self.records.push(keyword, text);
                        continue;
                    }
                    // No ACL that anyone could read is still an attribute.
                    None => {}
                }
            }
            let is_label = name == b"security.selinux";
            if is_label && self.carry.selinux {
                self.records.push("RHT.security.selinux", value.strip_suffix(&[0]).unwrap_or(value));
            }
            if if is_label { self.carry.selinux } else { self.carry.xattrs } {
                self.records.push([b"SCHILY.xattr.", &keyword(name)[..]].concat(), value);
            }
        }
    }
}

/// An attribute's name as a keyword: what would end it early is escaped, as GNU tar does.
fn keyword(name: &[u8]) -> Vec<u8> {
    let mut keyword = Vec::with_capacity(name.len());
    for &byte in name {
        match byte {
            b'=' => keyword.extend_from_slice(b"%3D"),
            b'%' => keyword.extend_from_slice(b"%25"),
            byte => keyword.push(byte),
        }
    }
    keyword
}

/// Where `path` can be cut into prefix and name: the first `/` after which the rest fits, if what is before it fits too.
fn split(path: &[u8]) -> Option<usize> {
    let from = path.len().saturating_sub(NAME + 1);
    let at = from + path[from..].iter().position(|byte| *byte == b'/')?;
    (at > 0 && at <= PREFIX && at + 1 < path.len()).then_some(at)
}

fn entry_type(kind: FileType, body: Body<'_>) -> Result<EntryType> {
    if let Body::Link(_) = body {
        return Ok(EntryType::Link);
    }
    Ok(match kind {
        FileType::File => EntryType::Regular,
        FileType::Dir => EntryType::Directory,
        FileType::Symlink => EntryType::Symlink,
        FileType::Char => EntryType::Char,
        FileType::Block => EntryType::Block,
        FileType::Fifo => EntryType::Fifo,
        FileType::Socket => return Err(Error::unsupported("tar", "a socket")),
    })
}

/// Bytes from `len` to the next whole block.
pub(super) fn padding(len: u64) -> usize {
    (len.next_multiple_of(512) - len) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_are_split_where_both_parts_fit() {
        let of = |parts: &[usize]| parts.iter().map(|&len| "n".repeat(len)).collect::<Vec<_>>().join("/").into_bytes();
        assert_eq!(split(&of(&[50, 60])), Some(50));
        assert_eq!(split(&of(&[155, 100])), Some(155));
        assert_eq!(split(&of(&[156, 100])), None);
        assert_eq!(split(&of(&[100, 101])), None);
        assert_eq!(split(&of(&[60, 60, 60])), Some(121));
        assert_eq!(split(&[&of(&[120])[..], b"/"].concat()), None, "a directory's own name does not fit");
    }
}
