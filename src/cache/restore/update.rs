//! A directory made to be what a tree says, with what is there already left alone.
//!
//! An entry is as it should be when type, size, permissions, modification time and link target are; contents are not read.
//! Others are made again, what the tree does not have is removed.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::super::manifest::{Content, Entry};
use super::super::store::Store;
use super::content::Scratch;
use super::{Digest, Place, Restore, RestoreOptions, RestoreReport, Strategy, add, join};
use crate::error::{Error, Result};
use crate::fs::FileType;
use crate::host::{Existing, Tree};
use crate::progress::Progress;

impl Store {
    /// Makes the directory `target`, which exists, what the tree says. It is changed in place: an error leaves some of it done.
    pub fn update(
        &self,
        id: &Digest,
        target: &Path,
        options: &RestoreOptions,
        progress: &dyn Progress,
    ) -> Result<RestoreReport> {
        if options.strategy == Strategy::Snapshot {
            return Err(Error::invalid("a directory that exists is no snapshot").with_hint("take the strategy auto"));
        }
        let (manifest, _lease) = self.use_tree(id)?;
        let start = super::start(&manifest, &options.below)?;
        let tree = Tree::open(target, options.preserve, Existing::Replace)?;
        let restore = Restore::new(self, &manifest, &tree, options, progress);
        let made = restore.update(start, target);
        self.save_proofs(id);
        made?;
        if options.sync {
            tree.sync()?;
        }
        Ok(restore.report())
    }
}

impl Restore<'_> {
    fn update(&self, start: u32, target: &Path) -> Result<()> {
        let places = self.places(start)?;
        let work = self.work(&places)?;
        self.progress.set_total(work.bytes);
        for place in &places {
            self.clear(place, target)?;
        }
        let mut scratch = Scratch::new();
        for place in &places {
            for child in self.manifest.directory(place.directory)?.children() {
                if self.progress.cancelled() {
                    return Err(crate::ErrorKind::Cancelled.into());
                }
                let entry = self.manifest.entry(child)?;
                let path = join(&place.path, entry.name);
                if entry.file_type == FileType::Dir
                    || work.further.contains(&child)
                    || on_host(target, &path).exists_here()
                {
                    continue;
                }
                self.make(&entry, &path, &mut scratch)?;
            }
        }
        for (first, path) in &work.links {
            let inode = |path: &[u8]| on_host(target, path).symlink_metadata().ok().map(|m| (m.dev(), m.ino()));
            if inode(first).is_some() && inode(first) == inode(path) {
                continue;
            }
            if on_host(target, path).exists_here() {
                self.tree.remove(path)?;
                add(&self.contents.counts.replaced, 1);
            }
            self.link(first, path)?;
        }
        self.seal(&places)
    }

    /// Removes from one directory what should not be there or is not as it should be; makes the directory if need be.
    fn clear(&self, place: &Place, target: &Path) -> Result<()> {
        let directory = on_host(target, &place.path);
        if !place.path.is_empty() && !directory.exists_here() {
            self.tree.create_dir(&place.path)?;
            add(&self.contents.counts.directories, 1);
            return Ok(());
        }
        let failed = |error| Error::io("list", directory.display(), error);
        for found in std::fs::read_dir(&directory).map_err(failed)? {
            let found = found.map_err(failed)?;
            let name = found.file_name();
            let path = join(&place.path, name.as_bytes());
            let wanted = self.manifest.child(place.directory, name.as_bytes())?;
            let metadata = found.metadata().map_err(failed)?;
            match wanted {
                Some(entry) if self.is_as_it_should(&entry, &metadata, &found.path()) => {
                    add(&self.contents.counts.unchanged, 1);
                }
                wanted => {
                    self.tree.remove(&path)?;
                    add(
                        if wanted.is_some() { &self.contents.counts.replaced } else { &self.contents.counts.removed },
                        1,
                    );
                }
            }
        }
        Ok(())
    }

    fn is_as_it_should(&self, entry: &Entry<'_>, found: &std::fs::Metadata, path: &Path) -> bool {
        let kind = found.file_type();
        let same_type = match entry.file_type {
            FileType::File => kind.is_file(),
            FileType::Dir => kind.is_dir(),
            FileType::Symlink => kind.is_symlink(),
            FileType::Char => kind.is_char_device(),
            FileType::Block => kind.is_block_device(),
            FileType::Fifo => kind.is_fifo(),
            FileType::Socket => kind.is_socket(),
        };
        if !same_type || entry.file_type == FileType::Dir {
            return same_type;
        }
        if let Content::Target(target) = entry.content {
            return std::fs::read_link(path).is_ok_and(|found| found.as_os_str().as_bytes() == target);
        }
        let preserve = self.options.preserve;
        let mask = if preserve.setid { 0o7777 } else { 0o1777 };
        let mode = !preserve.mode || found.mode() & mask == entry.permissions & mask;
        let time = (found.mtime(), found.mtime_nsec()) == (entry.mtime.seconds, i64::from(entry.mtime.nanoseconds));
        let owner = !preserve.owner || (found.uid(), found.gid()) == (entry.uid, entry.gid);
        // Without times there is nothing that says whether somebody wrote to it.
        let content = entry.file_type != FileType::File || (preserve.times && time && found.len() == entry.size);
        mode && owner && content
    }
}

fn on_host(target: &Path, path: &[u8]) -> PathBuf {
    target.join(OsStr::from_bytes(path))
}

/// Whether there is something, a link that leads nowhere included.
trait ExistsHere {
    fn exists_here(&self) -> bool;
}

impl ExistsHere for PathBuf {
    fn exists_here(&self) -> bool {
        self.symlink_metadata().is_ok()
    }
}
