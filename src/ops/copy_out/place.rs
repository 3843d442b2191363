//! Making a batch's entries, on any thread: directories open to their owner alone, files with contents and attributes,
//! links and nodes. What needs an order is left to [`finish`](super::finish).

use std::borrow::Cow;
use std::cell::RefCell;
use std::io::ErrorKind as IoKind;
use std::ops::Range;

use super::super::bulk::{Batch, Content, Member};
use super::super::problems::Problem;
use super::names::Names;
use super::{CopiedEntries, CopyOutOptions, Manifest, record};
use crate::bytes::escape;
use crate::error::{Error, ErrorKind, Result};
use crate::fs::{FileType, Metadata, Xattr};
use crate::host::{Attributes, Existing, Fact, NewFile, Transfer, Tree};
use crate::progress::Progress;

/// Zeroes of this length make a small file be asked for its holes.
const HOLE: usize = 1_024;

thread_local! {
    /// Scratch space of contents that are read in parts.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Where and how entries are made.
pub(super) struct Place<'a> {
    pub(super) tree: &'a Tree,
    pub(super) names: &'a Names,
    pub(super) transfer: &'a Transfer,
    /// The name of the start, when it is no directory.
    pub(super) single: Option<&'a [u8]>,
    pub(super) options: &'a CopyOutOptions,
    pub(super) progress: &'a dyn Progress,
}

/// A batch whose entries are made.
#[derive(Debug, Default)]
pub(super) struct Placed {
    /// The manifest's lines.
    pub(super) lines: Vec<u8>,
    /// Members, made or not.
    pub(super) count: u64,
    pub(super) entries: CopiedEntries,
    pub(super) problems: Vec<Problem>,
    /// What is to be done in order.
    pub(super) later: Vec<Later>,
    /// The host's path of the last entry.
    pub(super) last: Vec<u8>,
    pub(super) left: Left,
}

/// Work that needs an order.
#[derive(Debug)]
pub(super) enum Later {
    /// A directory gets its attributes when everything in it is made.
    Directory { path: Vec<u8>, metadata: Metadata, xattrs: Vec<Xattr> },
    /// A further name of a file, when the first one is there.
    Link { first: Vec<u8>, path: Vec<u8>, member: Box<LinkMember> },
}

/// What a link needs to become a copy where the host has no link.
#[derive(Debug)]
pub(super) struct LinkMember {
    pub(super) location: crate::fs::Location,
    pub(super) metadata: Metadata,
    pub(super) target: Option<Vec<u8>>,
    pub(super) xattrs: Vec<Xattr>,
}

/// Facts that were not to be preserved.
#[derive(Debug, Default)]
pub(super) struct Left([u64; Fact::ALL.len()]);

impl Left {
    fn note(&mut self, fact: Fact) {
        if let Some(count) = self.0.get_mut(fact as usize) {
            *count += 1;
        }
    }

    pub(super) fn add(&mut self, more: &Self) {
        self.0.iter_mut().zip(more.0).for_each(|(to, more)| *to += more);
    }

    pub(super) fn counts(&self) -> Vec<(Fact, u64)> {
        Fact::ALL.into_iter().zip(self.0).filter(|(_, count)| *count > 0).collect()
    }
}

impl Place<'_> {
    /// Makes a batch's entries. An error of the host that stands against all of them ends the copy.
    pub(super) fn batch(&self, batch: &Batch) -> Result<Placed> {
        let mut placed = Placed::default();
        let user = rustix::process::geteuid().as_raw();
        for member in &batch.members {
            let path = self.host_path(&member.relative);
            let mut unreadable = member.unread.clone();
            let made = self.member(batch, member, &path, &mut placed, &mut unreadable);
            let is_there = match made {
                Ok(is_there) => is_there,
                Err(error) => {
                    self.tolerate(&member.location.path, error, &mut placed.problems)?;
                    false
                }
            };
            self.note_left(member, user, &mut placed.left);
            placed.count += 1;
            if self.options.manifest != Manifest::None {
                let host = (*path != *member.relative && self.single.is_none()).then_some(&*path);
                record::entry(member, host, &unreadable, !is_there, &mut placed.lines)?;
            }
            placed.last = path.into_owned();
        }
        Ok(placed)
    }

    fn host_path<'a>(&'a self, relative: &'a [u8]) -> Cow<'a, [u8]> {
        match self.single {
            Some(name) => Cow::Borrowed(name),
            None => self.names.host_path(relative),
        }
    }

    /// Notes an error of one entry; one that every other would meet as well is returned.
    pub(super) fn tolerate(
        &self,
        path: &crate::fs::GuestPath,
        error: Error,
        problems: &mut Vec<Problem>,
    ) -> Result<()> {
        if stands_against_all(&error) {
            return Err(error);
        }
        problems.push(Problem::new(path.as_bytes(), &error));
        Ok(())
    }

    /// Makes one entry; false when the manifest alone has it.
    fn member(
        &self,
        batch: &Batch,
        member: &Member,
        path: &[u8],
        placed: &mut Placed,
        unreadable: &mut Vec<Range<u64>>,
    ) -> Result<bool> {
        let Member { metadata, xattrs, .. } = member;
        let attributes = Attributes::of(metadata, xattrs);
        if let Some(first) = &member.hard_link {
            if is_device(metadata.file_type) && !self.options.preserve.devices {
                placed.entries.missing += 1;
                return Ok(false);
            }
            let member = LinkMember {
                location: member.location.clone(),
                metadata: metadata.clone(),
                target: member.target.clone(),
                xattrs: xattrs.clone(),
            };
            let first = self.host_path(first).into_owned();
            placed.later.push(Later::Link { first, path: path.to_vec(), member: Box::new(member) });
            return Ok(true);
        }
        match metadata.file_type {
            FileType::Dir => {
                let made = path.is_empty() || self.with_parents(path, || self.tree.create_dir(path))?;
                let is_callers = path.is_empty() && self.options.into;
                if !is_callers && (made || self.options.existing == Existing::Replace) {
                    let (metadata, xattrs) = (metadata.clone(), xattrs.clone());
                    placed.later.push(Later::Directory { path: path.to_vec(), metadata, xattrs });
                }
                placed.entries.directories += 1;
                Ok(true)
            }
            FileType::File => {
                let found = self.file(path, &attributes, |new| match batch.content(member) {
                    Content::Bytes(bytes) if !self.should_open(bytes) || !member.unread.is_empty() => {
                        let written = self.transfer.write(bytes, &new.file, self.progress);
                        let shown = escape(path);
                        written.map(|()| Vec::new()).map_err(|error| Error::io("write", shown, error))
                    }
                    Content::Device(device) => self.content(&**device, path, new),
                    Content::Bytes(_) | Content::Nothing => {
                        let location = &member.location;
                        let content = location.fs.open(location.inode);
                        let content = content.map_err(|error| error.at_path(location.path.as_bytes()))?;
                        self.content(&*content, path, new)
                    }
                })?;
                for lost in found {
                    let range = lost.range.clone();
                    placed.problems.push(Problem::unread(member.location.path.as_bytes(), range.clone(), &lost.error));
                    unreadable.push(range);
                }
                placed.entries.files += 1;
                Ok(true)
            }
            FileType::Symlink => {
                let target = member.target.as_deref().unwrap_or_default();
                self.with_parents(path, || self.tree.symlink(path, target, &attributes))?;
                placed.entries.symlinks += 1;
                Ok(true)
            }
            kind => {
                let made = self.with_parents(path, || self.tree.node(path, kind, metadata.rdev, &attributes))?;
                *if made { &mut placed.entries.nodes } else { &mut placed.entries.missing } += 1;
                Ok(made)
            }
        }
    }

    /// Makes a file, has it written, and gives it its attributes; one that cannot be completed is taken away.
    pub(super) fn file<T>(
        &self,
        path: &[u8],
        attributes: &Attributes<'_>,
        write: impl FnOnce(&NewFile) -> Result<T>,
    ) -> Result<T> {
        let new = self.with_parents(path, || self.tree.create_file(path, attributes))?;
        let done = write(&new).and_then(|done| self.tree.finish(path, &new, attributes).map(|()| done));
        if done.is_err() {
            self.tree.discard(path);
        }
        done
    }

    pub(super) fn content(
        &self,
        content: &dyn crate::block::BlockDevice,
        path: &[u8],
        new: &NewFile,
    ) -> Result<Vec<crate::host::Unreadable>> {
        BUFFER.with_borrow_mut(|buffer| self.transfer.copy(content, &new.file, &escape(path), buffer, self.progress))
    }

    /// Whether a small file is opened again though its bytes are here: to share it with the image, or to keep its holes.
    fn should_open(&self, bytes: &[u8]) -> bool {
        self.transfer.may_share(bytes.len() as u64)
            || bytes.chunks(HOLE).any(|chunk| chunk.first() == Some(&0) && chunk.iter().all(|byte| *byte == 0))
    }

    /// Makes an entry whose directories another thread may not have made yet.
    fn with_parents<T>(&self, path: &[u8], make: impl Fn() -> Result<T>) -> Result<T> {
        match make() {
            // No directory can also be something that exists and is to be replaced by one.
            Err(error) if has_no_directory(&error) => {
                self.tree.ensure_parents(path)?;
                make()
            }
            made => made,
        }
    }

    fn note_left(&self, member: &Member, user: u32, left: &mut Left) {
        let preserve = self.options.preserve;
        let metadata = &member.metadata;
        let mut has = |fact, has: bool| {
            if has && !preserve.wants(fact) {
                left.note(fact);
            }
        };
        has(Fact::Owner, metadata.uid != user);
        has(Fact::Setid, metadata.permissions & 0o6000 != 0);
        has(Fact::Devices, is_device(metadata.file_type));
        for xattr in &member.xattrs {
            if let Some(fact) = Fact::of_xattr(&xattr.name) {
                has(fact, true);
            }
        }
    }
}

pub(super) fn is_device(kind: FileType) -> bool {
    matches!(kind, FileType::Char | FileType::Block)
}

/// The operating system's answer, when it is one.
pub(super) fn io_kind(error: &Error) -> Option<IoKind> {
    match error.kind() {
        ErrorKind::Io { source, .. } => Some(source.kind()),
        _ => None,
    }
}

/// Whether the directory of an entry may not have been made yet.
fn has_no_directory(error: &Error) -> bool {
    match error.kind() {
        ErrorKind::Io { source, .. } => {
            matches!(source.kind(), IoKind::NotFound | IoKind::NotADirectory)
                || source.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error())
        }
        _ => false,
    }
}

/// Whether an error is none of one entry: the host's disk is full or broken, or the user wants to stop.
fn stands_against_all(error: &Error) -> bool {
    match error.kind() {
        ErrorKind::Cancelled => true,
        ErrorKind::Io { action, source, .. } => {
            let about_reading = *action == "read";
            let about_one = matches!(
                source.kind(),
                IoKind::AlreadyExists
                    | IoKind::NotFound
                    | IoKind::InvalidFilename
                    | IoKind::InvalidInput
                    | IoKind::FileTooLarge
                    | IoKind::NotADirectory
                    | IoKind::IsADirectory
                    | IoKind::PermissionDenied
                    | IoKind::TooManyLinks
                    | IoKind::CrossesDevices
                    | IoKind::StaleNetworkFileHandle
                    | IoKind::Unsupported
            );
            let names = [rustix::io::Errno::LOOP, rustix::io::Errno::ILSEQ].map(rustix::io::Errno::raw_os_error);
            !about_reading && !about_one && !source.raw_os_error().is_some_and(|errno| names.contains(&errno))
        }
        _ => false,
    }
}
