//! All rules of the format at once: for a manifest that comes from elsewhere.

use super::entry::{Content, Entry};
use super::read::Manifest;
use super::{FORMAT, subtree};
use crate::bytes::escape;
use crate::error::{Error, Result};

impl Manifest {
    /// Checks every record, the order of names and blobs, that each directory has one parent, that hard links agree, and
    /// the subtree digests. What passes can be restored, and is what its digests say.
    pub fn validate(&self) -> Result<()> {
        let rule =
            |field, found: String, expected: &'static str| Err(Error::corrupt(FORMAT, field, 0, found, expected));
        let mut directory = 0u32;
        let mut next_child = 1u32;
        for index in 0..self.len() {
            let entry = self.entry(index)?;
            self.times(index)?;
            entry.xattrs.map(|set| self.xattrs(set)).transpose()?;
            if let Content::Directory(number) = entry.content {
                let record = self.directory(number)?;
                if number != directory || record.entry != index || record.first != next_child {
                    return rule(
                        "directory",
                        format!("{number} for entry {index}"),
                        "directories in the order of entries",
                    );
                }
                if record.parent != self.parent(index)? {
                    return rule("parent", record.parent.to_string(), "the directory that holds its entry");
                }
                directory = directory.saturating_add(1);
                next_child = next_child.saturating_add(record.count);
                self.check_names(record.children())?;
            } else if index == 0 {
                return rule("root", entry.file_type.name().to_owned(), "a directory");
            }
            if let Some(leader) = entry.leader {
                self.check_link(&entry, &self.entry(leader)?)?;
            }
        }
        if directory != self.directories() || next_child != self.len() {
            return rule("counts", format!("{directory} directories, {next_child} entries"), "those of the header");
        }
        self.check_blobs()?;
        self.check_lists()?;
        for (index, digest) in subtree::digests(self)?.into_iter().enumerate() {
            let index = u32::try_from(index).unwrap_or(u32::MAX);
            let stored = self.directory(index)?.subtree;
            if stored != digest {
                return rule("subtree digest", stored.hex(), "that of what lies below");
            }
        }
        Ok(())
    }

    fn check_names(&self, children: std::ops::Range<u32>) -> Result<()> {
        let mut last: &[u8] = b"";
        for child in children {
            let name = self.entry(child)?.name;
            if last >= name {
                return Err(Error::corrupt(FORMAT, "name", 0, escape(name), "names in order, each once"));
            }
            last = name;
        }
        Ok(())
    }

    fn check_link(&self, entry: &Entry<'_>, leader: &Entry<'_>) -> Result<()> {
        let as_leader = Entry { index: leader.index, name: leader.name, content: leader.content, ..*entry };
        let content = match (entry.content, leader.content) {
            (Content::Inline(a), Content::Inline(b)) | (Content::Target(a), Content::Target(b)) => a == b,
            (a, b) => a == b,
        };
        if as_leader == *leader && content {
            return Ok(());
        }
        let found = format!("entries {} and {} that differ", entry.index, leader.index);
        Err(Error::corrupt(FORMAT, "hard links", 0, found, "names of one file"))
    }

    fn check_blobs(&self) -> Result<()> {
        let mut last = None;
        for index in 0..self.blobs() {
            let (digest, _) = self.blob(index)?;
            if last >= Some(digest) {
                return Err(Error::corrupt(FORMAT, "blobs", 0, digest, "digests in order, each once"));
            }
            last = Some(digest);
        }
        Ok(())
    }

    fn check_lists(&self) -> Result<()> {
        (0..self.lists(false)?).try_for_each(|set| self.xattrs(set).map(drop))?;
        (0..self.lists(true)?).try_for_each(|map| self.sparse(map).map(drop))
    }
}
