//! What is done in the order of the walk: further names of files, when the first is there, and the attributes of
//! directories, when everything in them is.

use super::super::problems::Problem;
use super::place::{Later, LinkMember, Place, Placed, io_kind, is_device};
use crate::error::Result;
use crate::fs::{FileType, Metadata, Xattr};
use crate::host::{Attributes, Tree};
use crate::limits;

/// A directory that has its entries and waits for its attributes.
#[derive(Debug)]
struct Directory {
    path: Vec<u8>,
    metadata: Metadata,
    xattrs: Vec<Xattr>,
}

/// The directories that the walk is in.
pub(super) struct Finish<'a> {
    tree: &'a Tree,
    /// The outermost first.
    open: Vec<Directory>,
    /// Directories that their owner may not search or read at last: links to what is in them are still to be made.
    closed: Vec<Directory>,
    problems: Vec<Problem>,
}

impl<'a> Finish<'a> {
    pub(super) fn new(tree: &'a Tree) -> Self {
        Self { tree, open: Vec::new(), closed: Vec::new(), problems: Vec::new() }
    }

    /// Does what a batch left to be done. Batches come in order.
    pub(super) fn batch(&mut self, placed: &mut Placed, place: &Place<'_>) -> Result<()> {
        for later in std::mem::take(&mut placed.later) {
            match later {
                Later::Directory { path, metadata, xattrs } => {
                    self.leave(&path)?;
                    self.open.push(Directory { path, metadata, xattrs });
                }
                Later::Link { first, path, member } => {
                    if let Err(error) = link(place, &first, &path, &member, placed) {
                        place.tolerate(&member.location.path, error, &mut placed.problems)?;
                    }
                }
            }
        }
        // A batch of problems alone says nothing of where the walk is.
        if placed.count > 0 {
            self.leave(&placed.last)?;
        }
        placed.problems.append(&mut self.problems);
        Ok(())
    }

    /// Everything is made.
    pub(super) fn end(mut self) -> Result<Vec<Problem>> {
        while let Some(directory) = self.open.pop() {
            self.seal_or_keep(directory)?;
        }
        for directory in std::mem::take(&mut self.closed) {
            self.seal(directory)?;
        }
        Ok(self.problems)
    }

    /// Seals the directories that are not above `path`.
    fn leave(&mut self, path: &[u8]) -> Result<()> {
        let is_above = |directory: &Directory| {
            let above = &directory.path;
            above.is_empty()
                || path.strip_prefix(&above[..]).is_some_and(|rest| rest.is_empty() || rest.first() == Some(&b'/'))
        };
        while let Some(directory) = self.open.pop_if(|directory| !is_above(directory)) {
            self.seal_or_keep(directory)?;
        }
        Ok(())
    }

    fn seal_or_keep(&mut self, directory: Directory) -> Result<()> {
        let is_closed = directory.metadata.permissions & 0o500 != 0o500;
        if is_closed && self.closed.len() < limits::CLOSED_DIRECTORIES {
            self.closed.push(directory);
            return Ok(());
        }
        self.seal(directory)
    }

    fn seal(&mut self, directory: Directory) -> Result<()> {
        let Directory { path, metadata, xattrs } = &directory;
        let sealed = self.tree.seal(path, &Attributes::of(metadata, xattrs));
        match sealed {
            Err(error) if io_kind(&error) != Some(std::io::ErrorKind::StorageFull) => {
                self.problems.push(Problem::new(&[b"/", &path[..]].concat(), &error));
                Ok(())
            }
            sealed => sealed,
        }
    }
}

/// Makes a further name of a file; where the host cannot, or has no first one, a copy.
fn link(place: &Place<'_>, first: &[u8], path: &[u8], member: &LinkMember, placed: &mut Placed) -> Result<()> {
    let linked = match place.tree.link(first, path) {
        Err(error) if io_kind(&error) == Some(std::io::ErrorKind::NotFound) => {
            place.tree.ensure_parents(path)?;
            place.tree.link(first, path).or_else(|error| match io_kind(&error) {
                Some(std::io::ErrorKind::NotFound) => Ok(false),
                _ => Err(error),
            })
        }
        linked => linked,
    };
    if linked? {
        placed.entries.hard_links += 1;
        return Ok(());
    }
    let LinkMember { location, metadata, target, xattrs } = member;
    let attributes = Attributes::of(metadata, xattrs);
    match metadata.file_type {
        FileType::File => {
            let content = location.fs.open(location.inode);
            let content = content.map_err(|error| error.at_path(location.path.as_bytes()))?;
            let lost = place.file(path, &attributes, |new| place.content(&*content, path, new))?;
            for lost in lost {
                placed.problems.push(Problem::unread(location.path.as_bytes(), lost.range, &lost.error));
            }
            placed.entries.files += 1;
        }
        FileType::Symlink => {
            place.tree.symlink(path, target.as_deref().unwrap_or_default(), &attributes)?;
            placed.entries.symlinks += 1;
        }
        FileType::Dir => {}
        kind => {
            let made = place.tree.node(path, kind, metadata.rdev, &attributes)?;
            *if made || !is_device(kind) { &mut placed.entries.nodes } else { &mut placed.entries.missing } += 1;
        }
    }
    Ok(())
}
