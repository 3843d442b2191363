//! A directory of the host into the cache: a tree that was extracted before, or made by anything else.
//!
//! The directory is the user's, and nobody else may change it meanwhile. Symbolic links are entries and are not followed.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::cache_add::{CacheAddOptions, CacheAdded};
use super::cache_profile::{Matcher, Skipped};
use super::filter::Verdict;
use super::problems::Problems;
use crate::block::HostFile;
use crate::cache::{Described, Import, Prepared, Source, Store};
use crate::error::{Error, ErrorKind, Result};
use crate::fs::{DeviceNumber, FileType, Metadata, Timestamp, Xattr};
use crate::limits;
use crate::progress::Progress;

/// Entries that are read and hashed together.
const BATCH: usize = 512;

struct Found {
    path: PathBuf,
    relative: Vec<u8>,
    metadata: Metadata,
    first: bool,
    link: Option<u64>,
}

/// Adds the host directory `directory` to the store, on all threads of the caller's pool. Patterns mean paths below it.
pub fn cache_seed(
    store: &Store,
    directory: &Path,
    options: &CacheAddOptions,
    progress: &dyn Progress,
) -> Result<CacheAdded> {
    let import = store.import(options.import)?;
    let matchers = options.profiles.iter().map(|profile| Matcher::new(*profile)).collect::<Result<Vec<_>>>()?;
    let mut skipped: Vec<Skipped> =
        options.profiles.iter().map(|profile| Skipped { profile: *profile, files: 0, bytes: 0 }).collect();
    let found = list(directory, options, &matchers, &mut skipped)?;
    progress.set_total(found.iter().map(|found| found.metadata.size).sum());
    for batch in found.chunks(BATCH) {
        if progress.cancelled() {
            return Err(ErrorKind::Cancelled.into());
        }
        let ready: Vec<_> = batch.par_iter().map(|found| ready(&import, found, progress)).collect::<Result<_>>()?;
        for (described, prepared) in ready {
            import.push(described, prepared)?;
        }
    }
    let imported = import.finish(options.reference.as_ref())?;
    Ok(CacheAdded { imported, hit: false, skipped, problems: Problems::default() })
}

/// All that is to be added, a directory before what is in it.
fn list(
    directory: &Path,
    options: &CacheAddOptions,
    matchers: &[Matcher],
    skipped: &mut [Skipped],
) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    let mut links: HashMap<(u64, u64), u64> = HashMap::new();
    let mut pending = vec![(directory.to_owned(), Vec::new())];
    while let Some((path, relative)) = pending.pop() {
        let stat = if relative.is_empty() { std::fs::metadata(&path) } else { std::fs::symlink_metadata(&path) };
        let stat = stat.map_err(|error| Error::io("stat", path.display(), error))?;
        let metadata = metadata_of(&stat);
        let is_dir = metadata.file_type == FileType::Dir;
        if relative.is_empty() && !is_dir {
            return Err(Error::invalid(format!("{} is no directory", path.display())));
        }
        let guest = [b"/", &relative[..]].concat();
        if !relative.is_empty() {
            if options.filter.matches(&guest, is_dir) == Verdict::Skip {
                continue;
            }
            if let Some(at) = matchers.iter().position(|matcher| matcher.leaves_out(&guest, is_dir)) {
                if let Some(skipped) = skipped.get_mut(at) {
                    tally(&path, skipped);
                }
                continue;
            }
        }
        let (mut link, mut first) = (None, true);
        if !is_dir && stat.nlink() > 1 {
            let next = links.len() as u64;
            first = !links.contains_key(&(stat.dev(), stat.ino()));
            link = Some(*links.entry((stat.dev(), stat.ino())).or_insert(next));
        }
        limits::check("entries of one tree", found.len() as u64, limits::CACHE_ENTRIES)?;
        found.push(Found { path: path.clone(), relative: relative.clone(), metadata, first, link });
        if is_dir {
            let failed = |error| Error::io("list", path.display(), error);
            let mut names = std::fs::read_dir(&path)
                .map_err(failed)?
                .map(|entry| entry.map(|entry| entry.file_name()).map_err(failed))
                .collect::<Result<Vec<_>>>()?;
            names.sort_unstable();
            // The last is taken first.
            for name in names.into_iter().rev() {
                let mut below = relative.clone();
                if !below.is_empty() {
                    below.push(b'/');
                }
                below.extend_from_slice(name.as_bytes());
                pending.push((path.join(&name), below));
            }
        }
    }
    Ok(found)
}

fn tally(path: &Path, skipped: &mut Skipped) {
    let Ok(stat) = std::fs::symlink_metadata(path) else { return };
    if stat.is_file() {
        skipped.files += 1;
        skipped.bytes += stat.len();
    }
    if stat.is_dir() {
        for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
            tally(&entry.path(), skipped);
        }
    }
}

fn metadata_of(stat: &std::fs::Metadata) -> Metadata {
    let kind = stat.file_type();
    let file_type = match kind {
        _ if kind.is_dir() => FileType::Dir,
        _ if kind.is_symlink() => FileType::Symlink,
        _ if kind.is_char_device() => FileType::Char,
        _ if kind.is_block_device() => FileType::Block,
        _ if kind.is_fifo() => FileType::Fifo,
        _ if kind.is_socket() => FileType::Socket,
        _ => FileType::File,
    };
    let time =
        |seconds: i64, nanoseconds: i64| Timestamp { seconds, nanoseconds: u32::try_from(nanoseconds).unwrap_or(0) };
    let rdev = matches!(file_type, FileType::Char | FileType::Block)
        .then(|| DeviceNumber { major: rustix::fs::major(stat.rdev()), minor: rustix::fs::minor(stat.rdev()) });
    Metadata {
        inode: stat.ino(),
        file_type,
        permissions: stat.mode() & 0o7777,
        uid: stat.uid(),
        gid: stat.gid(),
        nlink: stat.nlink(),
        size: stat.len(),
        blocks: stat.blocks(),
        block_size: 4096,
        rdev,
        atime: time(stat.atime(), stat.atime_nsec()),
        mtime: time(stat.mtime(), stat.mtime_nsec()),
        ctime: time(stat.ctime(), stat.ctime_nsec()),
        crtime: None,
        encrypted: false,
    }
}

fn ready(import: &Import<'_>, found: &Found, progress: &dyn Progress) -> Result<(Described, Prepared)> {
    let Found { path, relative, metadata, first, link } = found;
    let described =
        Described { path: relative.clone(), metadata: metadata.clone(), xattrs: xattrs(path)?, link: *link };
    let prepared = match metadata.file_type {
        _ if !first => Prepared::linked(),
        FileType::File if metadata.size > 0 => {
            let content = HostFile::open(path)?;
            let prepared = import.prepare(Source::Device(&content))?;
            progress.advance(metadata.size);
            prepared
        }
        FileType::Symlink => {
            let target = std::fs::read_link(path).map_err(|error| Error::io("read the link", path.display(), error))?;
            Prepared::target(target.as_os_str().as_bytes().to_vec())
        }
        _ => Prepared::nothing(),
    };
    Ok((described, prepared))
}

/// What can be read of a file's extended attributes; a filesystem without them has none.
fn xattrs(path: &Path) -> Result<Vec<Xattr>> {
    let mut names = Vec::with_capacity(1 << 10);
    let failed = |errno: rustix::io::Errno| Error::io("read the attributes of", path.display(), errno);
    let mut buffer = vec![0u8; 1 << 16];
    match rustix::fs::llistxattr(path, &mut buffer[..]) {
        Ok(len) => names.extend_from_slice(buffer.get(..len).unwrap_or_default()),
        Err(rustix::io::Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Err(errno) => return Err(failed(errno)),
    }
    let mut xattrs = Vec::new();
    for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        match rustix::fs::lgetxattr(path, name, &mut buffer[..]) {
            Ok(len) => {
                xattrs.push(Xattr { name: name.to_vec(), value: buffer.get(..len).unwrap_or_default().to_vec() });
            }
            Err(rustix::io::Errno::NODATA | rustix::io::Errno::ACCESS | rustix::io::Errno::PERM) => {}
            Err(errno) => return Err(failed(errno)),
        }
    }
    Ok(xattrs)
}
