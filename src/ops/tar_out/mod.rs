//! A guest's tree as a tar archive, with nothing lost: owners by number and by the guest's own names, extended attributes, ACLs,
//! labels and capabilities, hard links, devices, holes, times in nanoseconds.
//!
//! ```text
//! plan      one thread at a time: walk, headers, where contents lie      plan.rs, header.rs, pax.rs, acl.rs, sparse.rs
//! read      all threads: the contents of a piece, in disk order          ../gather.rs
//! compress  the same threads: a piece is a member of its own             ../compress.rs
//! write     in the archive's order                                       ../ordered.rs
//! ```
//!
//! The archive is in the pax interchange format (POSIX.1-2017): entries `./…` in the order of the walk, a directory before what
//! is in it. The same guest and options give the same bytes, on any number of threads and from any format of its image.
//! What cannot be read becomes zeroes of the same length, and what cannot be opened is left out; both are reported and the rest goes on. A
//! socket has no form in tar, as GNU tar says too; it is counted.

mod acl;
mod header;
mod pax;
mod plan;
mod sparse;

use std::io::Write;
use std::path::Path;
use std::sync::Mutex;

use serde::Serialize;

use super::Owners;
use super::compress::{Packer, StreamCompression};
use super::filter::Filter;
use super::ordered::{lock, ordered};
use super::problems::Problems;
use crate::error::{Error, PathProblem, Result};
use crate::fs::{FileType, Follow, GuestPath, MountTable};
use crate::host::Staged;
use crate::progress::Progress;
use header::{Carry, Headers};
use plan::{Piece, Plan};

/// What goes into an archive, and how it is compressed.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TarOptions {
    /// How the archive is compressed.
    pub compression: StreamCompression,
    /// The compression's level; `None` takes its usual one.
    pub level: Option<i32>,
    /// Which entries.
    pub filter: Filter,
    /// Extended attributes, capabilities included.
    pub xattrs: bool,
    /// POSIX ACLs.
    pub acls: bool,
    /// SELinux labels.
    pub selinux: bool,
    /// The guest's names of owners beside their numbers.
    pub owner_names: bool,
    /// Sparse files with a map and without their holes; otherwise holes are zeroes.
    pub sparse: bool,
    /// Times of last access, change and creation beside that of modification.
    pub all_times: bool,
}

impl Default for TarOptions {
    /// Everything that tar has a place for but access, change and creation times; not compressed.
    fn default() -> Self {
        Self {
            compression: StreamCompression::None,
            level: None,
            filter: Filter::default(),
            xattrs: true,
            acls: true,
            selinux: true,
            owner_names: true,
            sparse: true,
            all_times: false,
        }
    }
}

/// How many entries of each kind an archive has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Regular files with a content of their own.
    pub files: u64,
    /// Of these, sparse ones.
    pub sparse: u64,
    /// Further names of files.
    pub links: u64,
    /// Directories, symbolic links, devices and FIFOs.
    pub others: u64,
    /// Sockets, which are not in the archive.
    pub sockets: u64,
    /// Entries that were filtered out; what is below a directory among them is not counted.
    pub filtered: u64,
    /// Bytes of contents, holes of sparse files not counted.
    #[serde(rename = "content_bytes")]
    pub bytes: u64,
}

impl Tally {
    fn add(&mut self, more: &Self) {
        self.files += more.files;
        self.sparse += more.sparse;
        self.links += more.links;
        self.others += more.others;
        self.sockets += more.sockets;
        self.filtered += more.filtered;
        self.bytes += more.bytes;
    }
}

/// What became of an archive.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct TarReport {
    /// What is in it.
    #[serde(flatten)]
    pub tally: Tally,
    /// Bytes that were written.
    pub archive_bytes: u64,
    /// What could not be read.
    pub problems: Problems,
}

/// A thread's memory, used again from piece to piece.
#[derive(Default)]
struct Lane {
    bytes: Vec<u8>,
    scratch: Vec<u8>,
    packed: Vec<u8>,
    packer: Option<Packer>,
}

/// Writes the archive of the guest directory `directory` to `out`, on all threads of the caller's pool. The report tells what
/// could not be read; an error is about everything else, and leaves `out` incomplete.
pub fn tar_out(
    mounts: &MountTable,
    directory: &GuestPath,
    out: &mut (dyn Write + Send),
    options: &TarOptions,
    progress: &dyn Progress,
) -> Result<TarReport> {
    let start = mounts.resolve(directory, Follow::Links)?;
    if start.metadata()?.file_type != FileType::Dir {
        return Err(Error::path(directory.as_bytes(), PathProblem::NotADirectory));
    }
    let level = options.compression.checked_level(options.level)?;
    let TarOptions { xattrs, acls, selinux, owner_names, all_times, .. } = *options;
    let owners = if owner_names { Owners::read(mounts) } else { Owners::default() };
    let headers = Headers::new(Carry { xattrs, acls, selinux, names: owner_names, all_times }, owners);
    let mut plan = Plan::new(mounts, start, options, headers, options.compression.piece());
    if let Ok(statfs) = mounts.root()?.fs.statfs() {
        // An estimate: what is in use on the root filesystem.
        progress.set_total(statfs.blocks.saturating_sub(statfs.blocks_free).saturating_mul(statfs.block_size));
    }
    let lanes: Mutex<Vec<Lane>> = Mutex::default();
    let mut report = TarReport::default();
    ordered(
        rayon::current_num_threads(),
        || {
            let mut lane = lock(&lanes).pop().unwrap_or_default();
            Ok(plan.next(std::mem::take(&mut lane.bytes))?.map(|piece| (piece, lane)))
        },
        |(mut piece, mut lane): (Piece, Lane)| {
            piece.read(&mut lane.scratch);
            if lane.packer.is_none() {
                lane.packer = Packer::new(options.compression, level)?;
            }
            if let Some(packer) = &mut lane.packer {
                packer.pack(&piece.bytes[..piece.filled], &mut lane.packed)?;
            }
            Ok((piece, lane))
        },
        |(piece, mut lane)| {
            let bytes = if lane.packer.is_some() { &lane.packed[..] } else { &piece.bytes[..piece.filled] };
            out.write_all(bytes).map_err(|error| Error::io("write", "the archive", error))?;
            report.archive_bytes += bytes.len() as u64;
            report.tally.add(&piece.tally);
            report.problems.extend(piece.problems);
            progress.advance(piece.tally.bytes);
            lane.bytes = piece.bytes;
            lock(&lanes).push(lane);
            Ok(())
        },
        progress,
    )?;
    out.flush().map_err(|error| Error::io("write", "the archive", error))?;
    Ok(report)
}

/// The same into the host file `path`, which appears complete or not at all; what is there and no regular file (a pipe, a
/// device) is written into.
pub fn tar_out_file(
    mounts: &MountTable,
    directory: &GuestPath,
    path: &Path,
    options: &TarOptions,
    progress: &dyn Progress,
) -> Result<TarReport> {
    if std::fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
        let file = std::fs::File::options().write(true).open(path);
        let mut file = file.map_err(|error| Error::io("open", path.display(), error))?;
        return tar_out(mounts, directory, &mut file, options, progress);
    }
    let mut staged = Staged::create(path)?;
    let report = tar_out(mounts, directory, &mut staged.file, options, progress)?;
    staged.publish()?;
    Ok(report)
}
