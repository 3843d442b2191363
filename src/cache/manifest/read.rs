//! Reading a manifest, as little of it as is asked for.

use std::ops::Range;

use super::super::Digest;
use super::entry::{Content, Directory, Entry, Times, type_of};
use super::{BLOB, DIR, ENTRY, FORMAT, HEADER, INLINE_BYTES, MAGIC, SECTIONS, Section, TIMES, VERSION};
use crate::bytes::{Record, escape, low_u32, to_u64, to_usize};
use crate::error::{Error, Result};
use crate::fs::{DeviceNumber, FileType, Timestamp, Xattr};
use crate::limits;

/// A manifest in memory. Nothing is parsed before it is asked for, and everything that is touched is checked.
#[derive(Clone)]
pub struct Manifest {
    bytes: Vec<u8>,
    sections: [Range<usize>; 7],
    id: Digest,
}

impl std::fmt::Debug for Manifest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Manifest({}, {} entries)", self.id, self.len())
    }
}

impl Manifest {
    /// Takes a manifest's bytes: its header is checked, and its id is computed.
    pub fn new(bytes: Vec<u8>) -> Result<Self> {
        limits::check("bytes of a tree manifest", to_u64(bytes.len()), limits::CACHE_MANIFEST_BYTES)?;
        let header = Record::new(FORMAT, &bytes, 0);
        if header.array::<8>(0)? != MAGIC {
            return Err(header.corrupt("magic", 0, escape(header.slice(0, 8)?), "GCTLTREE"));
        }
        if header.le32(8)? != VERSION {
            return Err(Error::unsupported(FORMAT, format!("version {}", header.le32(8)?)));
        }
        if header.le32(12)? != 0 {
            return Err(Error::unsupported(FORMAT, format!("features {:#x}", header.le32(12)?)));
        }
        let mut end = to_u64(HEADER);
        let mut sections: [Range<usize>; 7] = Default::default();
        for (index, (range, (_, name))) in sections.iter_mut().zip(SECTIONS).enumerate() {
            let at = 16usize.saturating_add(index.saturating_mul(16));
            let (start, len) = (header.le64(at)?, header.le64(at.saturating_add(8))?);
            let expected = end.checked_next_multiple_of(8).unwrap_or(u64::MAX);
            if start != expected {
                return Err(header.corrupt("section offset", at, format!("{start} for {name}"), expected));
            }
            let gap = header.slice(to_usize(end), to_usize(start.saturating_sub(end)))?;
            if gap.iter().any(|byte| *byte != 0) {
                return Err(header.corrupt("gap", to_usize(end), "bytes", "zeroes"));
            }
            end = start.checked_add(len).filter(|end| *end <= to_u64(bytes.len())).ok_or_else(|| {
                header.corrupt("section length", at.saturating_add(8), format!("{len} for {name}"), "one in the file")
            })?;
            *range = to_usize(start)..to_usize(end);
        }
        if end != to_u64(bytes.len()) {
            return Err(header.corrupt("length", 0, bytes.len(), end));
        }
        let id = Digest::of(&bytes);
        let manifest = Self { bytes, sections, id };
        manifest.check_counts()?;
        Ok(manifest)
    }

    /// Takes the bytes of the tree `id`; other bytes are corrupt.
    pub fn verified(bytes: Vec<u8>, id: &Digest) -> Result<Self> {
        let found = Digest::of(&bytes);
        if found != *id {
            return Err(Error::corrupt(FORMAT, "digest", 0, found, id));
        }
        Self::new(bytes)
    }

    fn check_counts(&self) -> Result<()> {
        let units = [(Section::Dirs, DIR), (Section::Entries, ENTRY), (Section::Times, TIMES), (Section::Blobs, BLOB)];
        for (section, unit) in units {
            let record = self.section(section);
            if !record.len().is_multiple_of(unit)
                || record.len().checked_div(unit).unwrap_or_default() >= to_usize(u64::from(u32::MAX))
            {
                let expected = format!("a multiple of {unit} that 32 bits can count");
                return Err(record.corrupt("section length", 0, record.len(), expected));
            }
        }
        let (dirs, times) = (self.directories(), self.count(Section::Times, TIMES));
        if self.is_empty() || dirs == 0 || dirs > self.len() || (times != 0 && times != self.len()) {
            let found = format!("{dirs} directories, {} entries, {times} times", self.len());
            return Err(self.section(Section::Dirs).corrupt("counts", 0, found, "a root, and times for all or none"));
        }
        Ok(())
    }

    fn section(&self, section: Section) -> Record<'_> {
        let index = SECTIONS.iter().position(|(each, _)| *each == section).unwrap_or_default();
        let range = self.sections.get(index).cloned().unwrap_or_default();
        let offset = to_u64(range.start);
        Record::new(FORMAT, self.bytes.get(range).unwrap_or_default(), offset)
    }

    fn count(&self, section: Section, unit: usize) -> u32 {
        low_u32(to_u64(self.section(section).len().checked_div(unit).unwrap_or_default()))
    }

    fn record(&self, section: Section, index: u32, unit: usize) -> Result<Record<'_>> {
        self.section(section).sub(to_usize(u64::from(index)).saturating_mul(unit), unit)
    }

    /// The tree's id: the digest of the file.
    #[must_use]
    pub fn id(&self) -> Digest {
        self.id
    }

    /// The whole file, to be changed.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// The whole file.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Entries, the root among them.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.count(Section::Entries, ENTRY)
    }

    /// Whether there are none; a manifest that was accepted has one.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Directories, the root among them.
    #[must_use]
    pub fn directories(&self) -> u32 {
        self.count(Section::Dirs, DIR)
    }

    /// Blobs that the tree needs.
    #[must_use]
    pub fn blobs(&self) -> u32 {
        self.count(Section::Blobs, BLOB)
    }

    /// The entry with this number.
    pub fn entry(&self, index: u32) -> Result<Entry<'_>> {
        let record = self.record(Section::Entries, index, ENTRY)?;
        let number = record.u8(6)?;
        let file_type = type_of(number).ok_or_else(|| record.corrupt("type", 6, number, "0 to 6"))?;
        let permissions = u32::from(record.le16(8)?);
        if permissions > 0o7777 {
            return Err(record.corrupt("permissions", 8, format!("{permissions:o}"), "12 bits"));
        }
        if record.le16(10)? != 0 || record.le32(60)? != 0 {
            return Err(record.corrupt("reserved", 10, "bits", "zeroes"));
        }
        let nanoseconds = record.le32(20)?;
        if nanoseconds >= 1_000_000_000 {
            return Err(record.corrupt("mtime nanoseconds", 20, nanoseconds, "less than a second"));
        }
        let seconds = i64::from_le_bytes(*record.array(24)?);
        let entry = Entry {
            index,
            name: self.name(&record, index)?,
            file_type,
            permissions,
            uid: record.le32(12)?,
            gid: record.le32(16)?,
            mtime: Timestamp { seconds, nanoseconds },
            size: record.le64(32)?,
            content: self.content(&record, file_type)?,
            leader: record.le32(48)?.checked_sub(1),
            xattrs: record.le32(52)?.checked_sub(1),
            sparse: record.le32(56)?.checked_sub(1),
        };
        self.check_entry(&record, &entry)?;
        Ok(entry)
    }

    fn name(&self, record: &Record<'_>, index: u32) -> Result<&[u8]> {
        let name = self.string(record.le32(0)?, u32::from(record.le16(4)?))?;
        let legal = if index == 0 {
            name.is_empty()
        } else {
            !matches!(name, b"" | b"." | b"..")
                && name.len() <= limits::CACHE_NAME_BYTES
                && !name.iter().any(|byte| matches!(byte, 0 | b'/'))
        };
        if legal { Ok(name) } else { Err(record.corrupt("name", 0, escape(name), "a name of one file")) }
    }

    fn content(&self, record: &Record<'_>, file_type: FileType) -> Result<Content<'_>> {
        let (kind, a, b) = (record.u8(7)?, record.le32(40)?, record.le32(44)?);
        Ok(match (kind, file_type, b) {
            (0, FileType::File | FileType::Fifo | FileType::Socket, 0) if a == 0 => Content::None,
            (1, FileType::File, _) => Content::Inline(self.string(a, b)?),
            (2, FileType::File, 0) if a < self.blobs() => Content::Blob(a),
            (3, FileType::Symlink, _) => Content::Target(self.string(a, b)?),
            (4, FileType::Dir, 0) if a < self.directories() => Content::Directory(a),
            (5, FileType::Char | FileType::Block, _) => Content::Device(DeviceNumber { major: a, minor: b }),
            _ => {
                let found = format!("kind {kind} ({a}, {b}) for a {}", file_type.name());
                return Err(record.corrupt("content", 7, found, "content of its type"));
            }
        })
    }

    /// Sizes agree with contents, and references lead somewhere.
    fn check_entry(&self, record: &Record<'_>, entry: &Entry<'_>) -> Result<()> {
        let stored = match entry.sparse {
            Some(map) => self.sparse(map)?.iter().try_fold(0u64, |sum, run| sum.checked_add(run.len)),
            None => Some(entry.size),
        };
        let fits = match entry.content {
            Content::None if entry.file_type == FileType::File => stored == Some(0),
            Content::None | Content::Directory(_) | Content::Device(_) => entry.size == 0 && entry.sparse.is_none(),
            Content::Inline(bytes) => {
                stored == Some(to_u64(bytes.len())) && !bytes.is_empty() && to_u64(bytes.len()) <= INLINE_BYTES
            }
            Content::Blob(blob) => stored == Some(self.blob(blob)?.1) && stored > Some(INLINE_BYTES),
            Content::Target(target) => {
                let legal = !target.is_empty() && !target.contains(&0) && to_u64(target.len()) <= limits::SYMLINK_BYTES;
                legal && to_u64(target.len()) == entry.size && entry.sparse.is_none()
            }
        };
        if !fits {
            return Err(record.corrupt("size", 32, entry.size, "the size of its content"));
        }
        if let (Some(map), size) = (entry.sparse, entry.size)
            && self.sparse(map)?.last().is_some_and(|run| run.offset.saturating_add(run.len) > size)
        {
            return Err(record.corrupt("sparse", 56, "data past the end", "data inside the file"));
        }
        let leads = entry.leader.is_none_or(|leader| leader <= entry.index && entry.file_type != FileType::Dir);
        if !leads {
            return Err(record.corrupt("hard links", 48, "a later entry", "an earlier one that is no directory"));
        }
        Ok(())
    }

    fn string(&self, offset: u32, len: u32) -> Result<&[u8]> {
        self.section(Section::Strings).slice(to_usize(u64::from(offset)), to_usize(u64::from(len)))
    }

    /// The directory with this number.
    pub fn directory(&self, index: u32) -> Result<Directory> {
        let record = self.record(Section::Dirs, index, DIR)?;
        let directory = Directory {
            parent: record.le32(0)?,
            entry: record.le32(4)?,
            first: record.le32(8)?,
            count: record.le32(12)?,
            subtree: Digest::from_bytes(*record.array(16)?),
        };
        if directory.parent >= index.max(1) {
            return Err(record.corrupt("parent", 0, directory.parent, "a directory before it"));
        }
        let end = directory.first.checked_add(directory.count).filter(|end| *end <= self.len());
        if end.is_none() || directory.first <= directory.entry || directory.entry >= self.len() {
            return Err(record.corrupt("children", 8, directory.first, "entries of the tree behind its own"));
        }
        Ok(directory)
    }

    /// The digest and size of the blob with this number.
    pub fn blob(&self, index: u32) -> Result<(Digest, u64)> {
        let record = self.record(Section::Blobs, index, BLOB)?;
        Ok((Digest::from_bytes(*record.array(0)?), record.le64(32)?))
    }

    /// The times of an entry that are kept for information; `None` when the tree has none.
    pub fn times(&self, index: u32) -> Result<Option<Times>> {
        if self.section(Section::Times).is_empty() {
            return Ok(None);
        }
        let record = self.record(Section::Times, index, TIMES)?;
        let time = |seconds: usize, nanoseconds: usize| -> Result<Timestamp> {
            let nanoseconds = record.le32(nanoseconds)?;
            if nanoseconds >= 1_000_000_000 {
                return Err(record.corrupt("nanoseconds", 24, nanoseconds, "less than a second"));
            }
            Ok(Timestamp { seconds: i64::from_le_bytes(*record.array(seconds)?), nanoseconds })
        };
        let crtime = match (record.le32(36)?, time(16, 32)?) {
            (1, time) => Some(time),
            (0, Timestamp { seconds: 0, nanoseconds: 0 }) => None,
            (flag, _) => return Err(record.corrupt("crtime", 36, flag, "0 without a time or 1")),
        };
        Ok(Some(Times { atime: time(0, 24)?, ctime: time(8, 28)?, crtime }))
    }

    /// The list with this number in a list of lists.
    pub(super) fn list(&self, sparse: bool, index: u32) -> Result<Record<'_>> {
        let section = self.section(if sparse { Section::Sparse } else { Section::Xattrs });
        let count = if section.is_empty() { 0 } else { section.le32(0)? };
        let table = 8u64.saturating_add(u64::from(count).saturating_mul(4));
        if index >= count || table > to_u64(section.len()) {
            return Err(section.corrupt("list", 0, index, format!("less than {count}")));
        }
        let at = to_usize(4u64.saturating_add(u64::from(index).saturating_mul(4)));
        let (start, end) = (u64::from(section.le32(at)?), u64::from(section.le32(at.saturating_add(4))?));
        let len = end.checked_sub(start).ok_or_else(|| section.corrupt("list", at, start, "at most its end"))?;
        section.sub(to_usize(table.saturating_add(start)), to_usize(len))
    }

    /// How many lists there are.
    pub(super) fn lists(&self, sparse: bool) -> Result<u32> {
        let section = self.section(if sparse { Section::Sparse } else { Section::Xattrs });
        if section.is_empty() { Ok(0) } else { section.le32(0) }
    }

    /// A set of extended attributes.
    pub fn xattrs(&self, set: u32) -> Result<Vec<Xattr>> {
        let record = self.list(false, set)?;
        let mut xattrs: Vec<Xattr> = Vec::new();
        let mut at = 0usize;
        while at < record.len() {
            let name_len = usize::from(record.le16(at)?);
            let value_len = to_usize(u64::from(record.le32(at.saturating_add(2))?));
            let name = record.slice(at.saturating_add(6), name_len)?.to_vec();
            let start = at.saturating_add(6).saturating_add(name_len);
            let value = record.slice(start, value_len)?.to_vec();
            limits::check("bytes of an extended attribute", to_u64(value_len), limits::XATTR_BYTES)?;
            let sorted = xattrs.last().is_none_or(|last| last.name < name);
            if name.is_empty() || name_len > limits::CACHE_XATTR_NAME_BYTES || name.contains(&0) || !sorted {
                return Err(record.corrupt("xattr name", at, escape(&name), "sorted names of at most 255 bytes"));
            }
            at = start.saturating_add(value_len);
            xattrs.push(Xattr { name, value });
        }
        if xattrs.is_empty() {
            return Err(record.corrupt("xattr set", 0, "no attributes", "one at least"));
        }
        Ok(xattrs)
    }

    /// A map of data runs: ascending, apart from one another, none empty.
    pub fn sparse(&self, map: u32) -> Result<Vec<Run>> {
        let record = self.list(true, map)?;
        let mut runs: Vec<Run> = Vec::with_capacity(record.len() / 16);
        for at in (0..record.len()).step_by(16) {
            let run = Run { offset: record.le64(at)?, len: record.le64(at.saturating_add(8))? };
            let apart = runs.last().is_none_or(|last| last.offset.saturating_add(last.len) < run.offset);
            if run.len == 0 || run.offset.checked_add(run.len).is_none() || !apart {
                return Err(record.corrupt("data run", at, format!("{run:?}"), "runs in order with holes between"));
            }
            runs.push(run);
        }
        Ok(runs)
    }

    /// The entry under a path: components between `/`, none for the root.
    pub fn lookup(&self, path: &[u8]) -> Result<Option<Entry<'_>>> {
        let mut entry = self.entry(0)?;
        for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
            let Content::Directory(directory) = entry.content else { return Ok(None) };
            match self.child(directory, name)? {
                Some(child) => entry = child,
                None => return Ok(None),
            }
        }
        Ok(Some(entry))
    }

    /// The child of this name.
    pub fn child(&self, directory: u32, name: &[u8]) -> Result<Option<Entry<'_>>> {
        let Range { mut start, mut end } = self.directory(directory)?.children();
        while start < end {
            let middle = start.midpoint(end);
            let entry = self.entry(middle)?;
            match entry.name.cmp(name) {
                std::cmp::Ordering::Less => start = middle.saturating_add(1),
                std::cmp::Ordering::Greater => end = middle,
                std::cmp::Ordering::Equal => return Ok(Some(entry)),
            }
        }
        Ok(None)
    }

    /// The directory that an entry lies in; the root lies in itself.
    pub fn parent(&self, entry: u32) -> Result<u32> {
        if entry == 0 {
            return Ok(0);
        }
        let (mut start, mut end) = (0, self.directories());
        while start < end {
            let middle = start.midpoint(end);
            let children = self.directory(middle)?.children();
            if children.end <= entry {
                start = middle.saturating_add(1);
            } else if children.start > entry {
                end = middle;
            } else {
                return Ok(middle);
            }
        }
        Err(self.section(Section::Dirs).corrupt("children", 0, format!("entry {entry} in none"), "a parent"))
    }

    /// The path of an entry from the root, without a leading `/`.
    pub fn path(&self, entry: u32) -> Result<Vec<u8>> {
        let mut names = vec![self.entry(entry)?.name];
        let mut directory = self.parent(entry)?;
        while directory != 0 {
            let Directory { entry, parent, .. } = self.directory(directory)?;
            names.push(self.entry(entry)?.name);
            directory = parent;
        }
        names.reverse();
        Ok(names.join(&b'/'))
    }
}

/// A run of data in a sparse file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Where it begins in the file.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
}
