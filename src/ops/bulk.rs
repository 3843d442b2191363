//! Many files at once: the engine below copying out, digesting, searching and importing.
//!
//! A walk is cut into batches in its own order. One thread at a time walks: it reads metadata and finds out where the contents
//! lie. All threads then read, each a batch, small files together in the order of the disk (`gather`), and do what the
//! operation is about. Results are delivered in the order of the walk. So a batch is a unit of work, of memory and of
//! order; how many threads there are does not show.

use std::ops::Range;
use std::sync::Arc;
use std::sync::Mutex;

use super::filter::Verdict;
use super::gather::{Gather, Unread, next_run};
use super::links::{HardLinks, Link};
use super::ordered::{lock, ordered};
use super::problems::{Problem, Problems};
use super::walk::{Step, Visited, Walk};
use crate::block::BlockDevice;
use crate::cache::{Origin, Origins};
use crate::error::Result;
use crate::fs::{FileType, Location, Metadata, MountTable, Xattr};
use crate::progress::Progress;

/// Bytes of small files in one batch, about.
const BATCH_BYTES: usize = 1 << 20;
/// Entries in one batch.
const BATCH_MEMBERS: usize = 512;
/// Bytes of large files after which a batch ends: they are read by whoever works on it.
const BATCH_LARGE: u64 = 4 << 20;
/// Results that may wait for their turn. They are small, and batches with large files take long.
const RESULTS_AHEAD: usize = 64;
/// Files up to this size have their bytes in the batch.
const SMALL: u64 = 256 << 10;

/// What a batch holds of its members beside their metadata.
#[derive(Debug, Clone, Copy)]
pub struct Wants<'a> {
    /// Contents of regular files.
    pub contents: bool,
    /// The contents of further names of a file, too.
    pub links: bool,
    /// Extended attributes.
    pub xattrs: bool,
    /// What is known of contents by where they lie: those are not read.
    pub origins: Option<&'a Origins>,
}

/// One entry of the walk.
#[derive(Debug)]
pub struct Member {
    /// Where it is and which inode it is.
    pub location: Location,
    /// Its path below the start of the walk, without a leading `/`; empty for the start.
    pub relative: Vec<u8>,
    /// What `lstat(2)` would tell.
    pub metadata: Metadata,
    /// A symbolic link's target.
    pub target: Option<Vec<u8>>,
    /// Extended attributes, when they are wanted.
    pub xattrs: Vec<Xattr>,
    /// The relative path of the first name of the same file, when this is a further one.
    pub hard_link: Option<Vec<u8>>,
    held: Held,
    /// The bytes of a small file that could not be read and are zero.
    pub unread: Vec<Range<u64>>,
    /// Where the content lies, when that was asked for; a known one is not held.
    pub origin: Option<Origin>,
}

#[derive(Debug)]
enum Held {
    Nothing,
    Bytes(Range<usize>),
    Device(Arc<dyn BlockDevice>),
}

/// A regular file's content, as a batch has it.
#[derive(Debug, Clone, Copy)]
pub enum Content<'a> {
    /// No regular file, or its content is not wanted.
    Nothing,
    /// All of its bytes.
    Bytes(&'a [u8]),
    /// A large file, to be read in parts.
    Device(&'a Arc<dyn BlockDevice>),
}

/// Some consecutive entries of a walk.
#[derive(Debug, Default)]
pub struct Batch {
    /// In the order of the walk.
    pub members: Vec<Member>,
    /// What could not be read, in that order; entries that are missing for it are not among the members.
    pub problems: Vec<Problem>,
    bytes: Vec<u8>,
    filled: usize,
    /// Bytes of the large files.
    large: u64,
    gather: Gather,
}

impl Batch {
    /// The content of one of this batch's members.
    #[must_use]
    pub fn content<'a>(&'a self, member: &'a Member) -> Content<'a> {
        match &member.held {
            Held::Nothing => Content::Nothing,
            Held::Bytes(range) => Content::Bytes(self.bytes.get(range.clone()).unwrap_or_default()),
            Held::Device(device) => Content::Device(device),
        }
    }

    fn is_full(&self) -> bool {
        self.filled >= BATCH_BYTES || self.large >= BATCH_LARGE || self.members.len() >= BATCH_MEMBERS
    }

    /// Makes room for a small file's bytes and asks for those that are data.
    fn plan(&mut self, content: &Arc<dyn BlockDevice>) -> Result<Held> {
        let (start, size) = (self.filled, content.size() as usize);
        let end = start + size;
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        // All runs before any is asked for: reads for a file that is left out would land in the next one's bytes.
        let mut runs = Vec::new();
        let mut known = 0;
        while let Some(run) = next_run(content, known)? {
            known = run.range.end;
            runs.push(run);
        }
        known = 0;
        let owner = self.members.len();
        for run in runs {
            self.bytes[start + known as usize..start + run.range.start as usize].fill(0);
            known = run.range.end;
            self.gather.add(owner, &run, (run.range.end - run.range.start) as usize, start + run.range.start as usize);
        }
        self.bytes[start + known as usize..end].fill(0);
        self.filled = end;
        Ok(Held::Bytes(start..end))
    }

    /// Reads what was planned.
    fn read(&mut self, scratch: &mut Vec<u8>) {
        let gather = std::mem::take(&mut self.gather);
        for Unread { owner, range, error } in gather.read(&mut self.bytes, scratch) {
            let Some(member) = self.members.get_mut(owner) else { continue };
            self.problems.push(Problem::unread(member.location.path.as_bytes(), range.clone(), &error));
            member.unread.push(range);
        }
    }
}

/// The directories of `ways` that lead to `relative`, which are needed now; those that lead elsewhere are forgotten.
pub(super) fn ways_to(ways: &mut Vec<Visited>, relative: &[u8]) -> Vec<Visited> {
    let leads = |way: &Visited| {
        let rest = relative.strip_prefix(&way.relative[..]);
        way.relative.is_empty() || rest.is_some_and(|rest| rest.first() == Some(&b'/'))
    };
    let mut ways = std::mem::take(ways);
    ways.retain(leads);
    ways
}

/// The walk, batch by batch.
struct Batches<'a> {
    walk: Walk<'a>,
    wants: Wants<'a>,
    keep: &'a (dyn Fn(&Visited) -> Verdict + Sync),
    /// Directories on the way to something that may be taken, outermost first.
    ways: Vec<Visited>,
    links: HardLinks,
}

impl Batches<'_> {
    fn next(&mut self, bytes: Vec<u8>) -> Result<Option<Batch>> {
        let mut batch = Batch { bytes, ..Batch::default() };
        while !batch.is_full() {
            match self.walk.step()? {
                None if batch.members.is_empty() && batch.problems.is_empty() => return Ok(None),
                None => break,
                Some(Step::Problem(path, error)) => batch.problems.push(Problem::new(path.as_bytes(), &error)),
                Some(Step::Entry(visited)) => match (self.keep)(&visited) {
                    Verdict::Take => {
                        for way in ways_to(&mut self.ways, &visited.relative) {
                            self.add(&mut batch, way);
                        }
                        self.add(&mut batch, visited);
                    }
                    Verdict::Enter => self.ways.push(visited),
                    Verdict::Skip => self.walk.skip(),
                },
            }
        }
        Ok(Some(batch))
    }

    fn add(&mut self, batch: &mut Batch, visited: Visited) {
        let location = visited.location.clone();
        match self.member(batch, visited) {
            Ok(member) => batch.members.push(member),
            Err(error) => {
                self.links.forget(&location);
                batch.problems.push(Problem::new(location.path.as_bytes(), &error));
            }
        }
    }

    fn member(&mut self, batch: &mut Batch, visited: Visited) -> Result<Member> {
        let entry = visited.entry();
        let target = entry.read_link()?;
        let xattrs = if self.wants.xattrs { entry.xattrs()? } else { Vec::new() };
        let hard_link = match self.links.see(&visited.location, &visited.metadata, &visited.relative) {
            Link::First | Link::Unknown => None,
            Link::Of(first) => Some(first),
        };
        let wanted = self.wants.contents
            && visited.metadata.file_type == FileType::File
            && (hard_link.is_none() || self.wants.links);
        let mut origin = None;
        let held = if wanted {
            let content = entry.open()?;
            origin = self.wants.origins.and_then(|origins| origins.of(&content));
            if self.wants.origins.zip(origin).is_some_and(|(origins, origin)| origins.known(&origin).is_some()) {
                Held::Nothing
            } else if content.size() <= SMALL {
                batch.plan(&content)?
            } else {
                batch.large = batch.large.saturating_add(content.size());
                Held::Device(content)
            }
        } else {
            Held::Nothing
        };
        let Visited { location, relative, metadata } = visited;
        Ok(Member { location, relative, metadata, target, xattrs, hard_link, held, unread: Vec::new(), origin })
    }
}

/// Walks `start` and everything below it in batches: `keep` chooses entries ([`Filter::matches`](super::Filter::matches) is made for it), `work` gets each batch on some thread of the
/// caller's pool, `deliver` gets what that makes in the order of the walk. Answers with what could not be read.
///
/// `work` must not start parallel work of its own, and tells of contents that it could not read itself through its result.
pub fn for_each_batch<T: Send>(
    mounts: &MountTable,
    start: &Location,
    wants: Wants<'_>,
    keep: &(dyn Fn(&Visited) -> Verdict + Sync),
    work: impl Fn(&Batch) -> Result<T> + Sync,
    mut deliver: impl FnMut(T) -> Result<()> + Send,
    progress: &dyn Progress,
) -> Result<Problems> {
    let mut batches =
        Batches { walk: Walk::new(mounts, start.clone()), wants, keep, ways: Vec::new(), links: HardLinks::default() };
    // Bytes of batches that are done, and of reads that are taken apart, to be used again: fresh memory costs a fault for each page.
    let spare: Mutex<Vec<(Vec<u8>, Vec<u8>)>> = Mutex::default();
    let mut problems = Problems::default();
    ordered(
        RESULTS_AHEAD,
        || {
            let (bytes, scratch) = lock(&spare).pop().unwrap_or_default();
            Ok(batches.next(bytes)?.map(|batch| (batch, scratch)))
        },
        |(mut batch, mut scratch)| {
            batch.read(&mut scratch);
            let made = work(&batch)?;
            let Batch { bytes, problems, .. } = batch;
            lock(&spare).push((bytes, scratch));
            Ok((made, problems))
        },
        |(made, found)| {
            problems.extend(found);
            deliver(made)
        },
        progress,
    )?;
    Ok(problems)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;

    /// The demo guest, walked on some number of threads: paths, sizes and digests.
    fn walked(threads: usize) -> Vec<(Vec<u8>, u64, Option<String>)> {
        let image = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("images/demo.qcow2");
        let image = crate::block::open(&image, &crate::block::OpenOptions::default()).unwrap();
        let table = crate::volume::scan(&image.device).unwrap().unwrap();
        let root = table.partitions.iter().find(|partition| partition.number == 2).unwrap();
        let fs = crate::fs::open(root.device(&image.device).unwrap()).unwrap();
        let mounts = MountTable::with_root("/dev/sda2", fs);
        let mut found = Vec::new();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let wants = Wants { contents: true, links: true, xattrs: true, origins: None };
        let digest = |batch: &Batch| {
            let of = |member: &Member| match batch.content(member) {
                Content::Bytes(bytes) => Some(blake3::hash(bytes).to_hex().to_string()),
                Content::Device(device) => {
                    Some(crate::ops::checksum(device, crate::ops::Algorithm::Blake3, &Silent).unwrap())
                }
                Content::Nothing => None,
            };
            Ok(batch.members.iter().map(|m| (m.relative.clone(), m.metadata.size, of(m))).collect::<Vec<_>>())
        };
        let start = mounts.root().unwrap();
        let deliver = |batch: Vec<_>| {
            found.extend(batch);
            Ok(())
        };
        let problems = pool
            .install(|| for_each_batch(&mounts, &start, wants, &|_| Verdict::Take, digest, deliver, &Silent))
            .unwrap();
        assert!(problems.is_empty());
        // Content by content through the filesystem itself.
        for (path, _, digest) in &found {
            let Some(digest) = digest else { continue };
            let path = crate::fs::GuestPath::parse([b"/", &path[..]].concat()).unwrap();
            let file = mounts.resolve(&path, crate::fs::Follow::NotLast).unwrap();
            let content = file.fs.open(file.inode).unwrap();
            let bytes = crate::block::read_vec(&content, 0, content.size() as usize).unwrap();
            assert_eq!(*digest, blake3::hash(&bytes).to_hex().to_string(), "{path}");
        }
        found
    }

    #[test]
    fn batches_hold_the_guests_files_whatever_the_number_of_threads() {
        let one = walked(1);
        assert!(one.len() > 50 && one.iter().filter(|(.., digest)| digest.is_some()).count() > 20);
        assert_eq!(one, walked(4));
    }
}
