//! The archive, piece by piece: headers as bytes, contents as reads that are still to be done.
//!
//! One thread at a time asks for the next piece, so this only lays out: it walks, writes headers and finds out where contents lie.
//! A piece ends once it is long enough, in the middle of a file too, so a piece is a unit of memory whatever the guest
//! holds, and where pieces end depends on the archive alone.

use std::ops::Range;
use std::sync::Arc;

use super::super::bulk::ways_to;
use super::super::filter::Verdict;
use super::super::gather::{Gather, Unread, next_run};
use super::super::links::{HardLinks, Link};
use super::super::problems::Problem;
use super::super::walk::{Step, Visited, Walk};
use super::header::{Body, Headers, padding};
use super::sparse::{self, SparseMap};
use super::{Tally, TarOptions};
use crate::block::BlockDevice;
use crate::error::{Error, Result};
use crate::fs::{FileType, GuestPath, Location, MountTable};

/// A piece of the archive.
#[derive(Debug, Default)]
pub(super) struct Piece {
    /// The first `filled` bytes count; those that are still to be read hold anything.
    pub bytes: Vec<u8>,
    pub filled: usize,
    gather: Gather,
    /// Whose contents are in it.
    owners: Vec<GuestPath>,
    pub problems: Vec<Problem>,
    pub tally: Tally,
}

impl Piece {
    /// An empty one over used memory.
    fn over(bytes: Vec<u8>) -> Self {
        Self { bytes, ..Self::default() }
    }

    /// Room for `len` bytes more.
    fn room(&mut self, len: usize) -> Range<usize> {
        let range = self.filled..self.filled + len;
        if self.bytes.len() < range.end {
            self.bytes.resize(range.end, 0);
        }
        self.filled = range.end;
        range
    }

    fn put(&mut self, bytes: &[u8]) {
        let range = self.room(bytes.len());
        self.bytes[range].copy_from_slice(bytes);
    }

    fn zeroes(&mut self, len: usize) {
        let range = self.room(len);
        self.bytes[range].fill(0);
    }

    fn owner(&mut self, path: &GuestPath) -> usize {
        if self.owners.last() != Some(path) {
            self.owners.push(path.clone());
        }
        self.owners.len() - 1
    }

    /// The bytes `range` of a content: holes as zeroes, the rest as reads.
    fn content(&mut self, path: &GuestPath, content: &Arc<dyn BlockDevice>, range: Range<u64>) {
        let room = self.room((range.end - range.start) as usize);
        let owner = self.owner(path);
        let place = |at: u64| room.start + (at - range.start) as usize;
        let mut known = range.start;
        while known < range.end {
            let run = match next_run(content, known) {
                Ok(Some(run)) if run.range.start < range.end => run,
                Ok(_) => break,
                Err(error) => {
                    self.problems.push(Problem::unread(path.as_bytes(), known..range.end, &error));
                    break;
                }
            };
            self.bytes[place(known)..place(run.range.start)].fill(0);
            known = run.range.end.min(range.end);
            self.gather.add(owner, &run, (known - run.range.start) as usize, place(run.range.start));
        }
        self.bytes[place(known)..room.end].fill(0);
    }

    /// Does the reads.
    pub(super) fn read(&mut self, scratch: &mut Vec<u8>) {
        let gather = std::mem::take(&mut self.gather);
        for Unread { owner, range, error } in gather.read(&mut self.bytes, scratch) {
            let path = self.owners.get(owner).map(GuestPath::as_bytes).unwrap_or_default();
            self.problems.push(Problem::unread(path, range, &error));
        }
    }
}

/// A file whose content is being laid out.
#[derive(Debug)]
struct Current {
    path: GuestPath,
    content: Arc<dyn BlockDevice>,
    /// What is still to come, the next run last.
    runs: Vec<Range<u64>>,
    /// Zeroes behind it.
    padding: usize,
}

/// Lays out the archive of one tree.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    walk: Walk<'a>,
    options: &'a TarOptions,
    headers: Headers,
    links: HardLinks,
    /// Directories on the way to something that may be taken, outermost first.
    ways: Vec<Visited>,
    current: Option<Current>,
    piece: usize,
    ended: bool,
}

impl<'a> Plan<'a> {
    pub(super) fn new(
        mounts: &'a MountTable,
        start: Location,
        options: &'a TarOptions,
        headers: Headers,
        piece: usize,
    ) -> Self {
        let (walk, links) = (Walk::new(mounts, start), HardLinks::default());
        Self { walk, options, headers, links, ways: Vec::new(), current: None, piece, ended: false }
    }

    /// The next piece over used memory; `None` behind the last.
    pub(super) fn next(&mut self, bytes: Vec<u8>) -> Result<Option<Piece>> {
        if self.ended {
            return Ok(None);
        }
        let mut piece = Piece::over(bytes);
        while piece.filled < self.piece {
            if let Some(current) = self.current.take() {
                self.current = continue_with(current, &mut piece, self.piece);
                continue;
            }
            match self.walk.step()? {
                None => {
                    piece.zeroes(1024);
                    self.ended = true;
                    break;
                }
                Some(Step::Problem(path, error)) => piece.problems.push(Problem::new(path.as_bytes(), &error)),
                Some(Step::Entry(visited)) => self.entry(visited, &mut piece),
            }
        }
        Ok(Some(piece))
    }

    fn entry(&mut self, visited: Visited, piece: &mut Piece) {
        let is_dir = visited.metadata.file_type == FileType::Dir;
        match self.options.filter.matches(visited.location.path.as_bytes(), is_dir) {
            Verdict::Take => {
                for way in ways_to(&mut self.ways, &visited.relative) {
                    self.take(&way, piece);
                }
                self.take(&visited, piece);
            }
            // The directory that was asked for is always there.
            Verdict::Enter if visited.relative.is_empty() => self.take(&visited, piece),
            Verdict::Enter => self.ways.push(visited),
            Verdict::Skip => {
                self.walk.skip();
                piece.tally.filtered += 1;
            }
        }
    }

    fn take(&mut self, visited: &Visited, piece: &mut Piece) {
        if visited.metadata.file_type == FileType::Socket {
            piece.tally.sockets += 1;
        } else if let Err(error) = self.add(visited, piece) {
            piece.problems.push(Problem::new(visited.location.path.as_bytes(), &error));
        }
    }

    /// Lays out an entry; an error leaves nothing of it, and no other name of it will be a link to it.
    fn add(&mut self, visited: &Visited, piece: &mut Piece) -> Result<()> {
        let added = self.lay_out(visited, piece);
        if added.is_err() {
            self.links.forget(&visited.location);
        }
        added
    }

    fn lay_out(&mut self, visited: &Visited, piece: &mut Piece) -> Result<()> {
        let Visited { location, relative, metadata } = visited;
        let entry = visited.entry();
        let mut path = [b"./", &relative[..]].concat();
        if metadata.file_type == FileType::Dir && !relative.is_empty() {
            path.push(b'/');
        }
        let mut put = |bytes: &[u8]| piece.put(bytes);
        match self.links.see(location, metadata, &path) {
            Link::Of(first) => {
                self.headers.write(&path, metadata, None, &[], Body::Link(&first), &mut put)?;
                piece.tally.links += 1;
                return Ok(());
            }
            Link::Unknown if metadata.file_type == FileType::File => {
                let error = Error::limit(
                    "memory for hard links",
                    crate::limits::HARD_LINK_BYTES,
                    crate::limits::HARD_LINK_BYTES + 1,
                );
                piece.problems.push(Problem::new(location.path.as_bytes(), &error));
            }
            Link::First | Link::Unknown => {}
        }
        let target = entry.read_link()?;
        let wants_xattrs = self.options.xattrs || self.options.acls || self.options.selinux;
        let xattrs = match wants_xattrs.then(|| entry.xattrs()).transpose() {
            Ok(xattrs) => xattrs.unwrap_or_default(),
            // A file without its attributes is more than no file.
            Err(error) => {
                piece.problems.push(Problem::new(location.path.as_bytes(), &error));
                Vec::new()
            }
        };
        let mut put = |bytes: &[u8]| piece.put(bytes);
        if metadata.file_type != FileType::File {
            self.headers.write(&path, metadata, target.as_deref(), &xattrs, Body::Nothing, &mut put)?;
            piece.tally.others += 1;
            return Ok(());
        }
        let content = entry.open()?;
        // As GNU tar finds sparse files: fewer blocks than the size needs.
        let is_sparse = self.options.sparse && metadata.blocks.saturating_mul(512) < metadata.size;
        let map = if is_sparse { sparse::map(&content)? } else { None };
        let (runs, stored) = match map {
            Some(SparseMap { mut runs, text, data }) => {
                let stored = text.len() as u64 + data;
                self.headers.write(&path, metadata, None, &xattrs, Body::Sparse(stored), &mut put)?;
                put(&text);
                piece.tally.sparse += 1;
                runs.reverse();
                (runs, stored)
            }
            None => {
                self.headers.write(&path, metadata, None, &xattrs, Body::Plain, &mut put)?;
                (std::iter::once(0..metadata.size).collect(), metadata.size)
            }
        };
        piece.tally.files += 1;
        self.current = Some(Current { path: location.path.clone(), content, runs, padding: padding(stored) });
        Ok(())
    }
}

/// Lays out more of a file until the piece is full; what is left of the file.
fn continue_with(mut current: Current, piece: &mut Piece, full: usize) -> Option<Current> {
    while let Some(mut run) = current.runs.pop() {
        let room = full.saturating_sub(piece.filled).max(1) as u64;
        let now = run.start..run.end.min(run.start.saturating_add(room));
        run.start = now.end;
        piece.tally.bytes += now.end - now.start;
        piece.content(&current.path, &current.content, now);
        if !run.is_empty() {
            current.runs.push(run);
        }
        if piece.filled >= full && !current.runs.is_empty() {
            return Some(current);
        }
    }
    piece.zeroes(current.padding);
    None
}
