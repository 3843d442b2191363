//! One file's content, by the first rung that holds.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;

use super::super::manifest::{Content, Entry, Manifest, Run};
use super::super::objects::{Object, read_all};
use super::super::pack::Window;
use super::super::store::Store;
use super::{Counts, Restore, Strategy, add};
use crate::bytes::{escape, to_u64, to_usize};
use crate::error::{Error, Result};
use crate::host::Attributes;

/// What this pair of filesystems cannot do, as far as that was found out.
#[derive(Debug, Default)]
pub(super) struct Able {
    pub(super) no_reflink: AtomicBool,
    pub(super) no_copy: AtomicBool,
    pub(super) no_link: AtomicBool,
}

impl Able {
    pub(super) fn may(flag: &AtomicBool) -> bool {
        !flag.load(Ordering::Relaxed)
    }
}

/// What one thread reads through.
#[derive(Debug)]
pub(in super::super) struct Scratch {
    buffer: Vec<u8>,
    window: Window,
}

impl Scratch {
    pub(in super::super) fn new() -> Self {
        Self { buffer: Vec::new(), window: Window::in_order() }
    }
}

impl Restore<'_> {
    /// Makes a regular file.
    pub(super) fn file(
        &self,
        entry: &Entry<'_>,
        path: &[u8],
        attributes: &Attributes<'_>,
        scratch: &mut Scratch,
    ) -> Result<()> {
        let rewrite = self.options.rewrite.as_ref().filter(|rewrite| rewrite.takes(path));
        let copies = self.options.copy.as_ref().is_some_and(|copy| copy(path));
        if rewrite.is_none() && !copies && self.links_to_store() && self.link_variant(entry, path, attributes)? {
            return Ok(());
        }
        let new = self.tree.create_file(path, attributes)?;
        if let Some(rewrite) = rewrite
            && self.rewritten(entry, rewrite, &new.file, path)?
        {
            add(&self.contents.counts.rewritten_files, 1);
        } else {
            self.contents.fill(entry, &new.file, path, copies, scratch)?;
        }
        self.tree.finish(path, &new, attributes)
    }

    fn links_to_store(&self) -> bool {
        let wanted = match self.options.strategy {
            Strategy::Hardlink => true,
            Strategy::Auto => self.options.read_only,
            _ => false,
        };
        wanted && self.store.is_writable() && Able::may(&self.contents.able.no_link)
    }
}

/// Contents of one tree's files on their way out.
pub(in super::super) struct Contents<'a> {
    pub(super) store: &'a Store,
    pub(super) manifest: &'a Manifest,
    pub(super) strategy: Strategy,
    pub(super) able: Able,
    pub(super) counts: Counts,
}

impl<'a> Contents<'a> {
    pub(in super::super) fn new(store: &'a Store, manifest: &'a Manifest, strategy: Strategy) -> Self {
        let (able, counts) = Default::default();
        Self { store, manifest, strategy, able, counts }
    }

    /// Writes the content into the empty file `to`.
    pub(in super::super) fn fill(
        &self,
        entry: &Entry<'_>,
        to: &File,
        path: &[u8],
        copies: bool,
        scratch: &mut Scratch,
    ) -> Result<()> {
        let runs = entry.sparse.map(|map| self.manifest.sparse(map)).transpose()?;
        let failed = |error: std::io::Error| Error::io("write", escape(path), error);
        match entry.content {
            Content::Inline(bytes) => {
                write_runs(to, bytes, runs.as_deref()).map_err(failed)?;
                add(&self.counts.inline_files, 1);
                add(&self.counts.written_bytes, to_u64(bytes.len()));
            }
            Content::Blob(blob) => {
                let (digest, len) = self.manifest.blob(blob)?;
                match self.store.object(&digest, len).map_err(|error| error.at_path(path))? {
                    Object::Packed { pack, place } => {
                        let bytes = self.store.read_packed(&digest, &pack, &place, &mut scratch.window);
                        let bytes = bytes.map_err(|error| error.at_path(path))?;
                        write_runs(to, &bytes, runs.as_deref()).map_err(failed)?;
                        add(&self.counts.packed_files, 1);
                        add(&self.counts.written_bytes, to_u64(bytes.len()));
                    }
                    Object::Loose { file, compressed: true, .. } => {
                        let mut out = Out { to, runs: runs.as_deref(), at: 0 };
                        read_all(&file, true, len, &mut |part| out.write(part)).map_err(failed)?;
                        add(&self.counts.written_files, 1);
                        add(&self.counts.written_bytes, len);
                    }
                    Object::Loose { file, .. } => {
                        let dense = [Run { offset: 0, len }];
                        let runs = runs.as_deref().unwrap_or(&dense);
                        self.loose(&file, to, runs, len, path, copies, &mut scratch.buffer)?;
                    }
                }
            }
            _ => add(&self.counts.empty_files, 1),
        }
        if runs.is_some() {
            to.set_len(entry.size).map_err(failed)?;
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments, reason = "one step of `fill`, which has them all")]
    fn loose(
        &self,
        from: &File,
        to: &File,
        runs: &[Run],
        len: u64,
        path: &[u8],
        copies: bool,
        buffer: &mut Vec<u8>,
    ) -> Result<()> {
        let failed = |error: std::io::Error| Error::io("write", escape(path), error);
        let strategy = if copies { Strategy::Pack } else { self.strategy };
        let may_reflink = matches!(strategy, Strategy::Auto | Strategy::Reflink | Strategy::Hardlink);
        if may_reflink && Able::may(&self.able.no_reflink) {
            match reflink(from, to, runs) {
                Ok(()) => {
                    add(&self.counts.reflinked_files, 1);
                    add(&self.counts.reflinked_bytes, len);
                    return Ok(());
                }
                Err(errno @ (Errno::NOSPC | Errno::DQUOT | Errno::IO)) => return Err(failed(errno.into())),
                // This file cannot be shared: its runs are no whole blocks.
                Err(Errno::INVAL) => {}
                Err(_) => self.able.no_reflink.store(true, Ordering::Relaxed),
            }
            to.set_len(0).map_err(failed)?;
        }
        if strategy == Strategy::Reflink && !Able::may(&self.able.no_reflink) {
            return Err(Error::unsupported("filesystem", "sharing storage between the cache and the target")
                .with_hint("restore to the filesystem of the cache, or take the strategy auto"));
        }
        if strategy != Strategy::Pack && Able::may(&self.able.no_copy) {
            match copy(from, to, runs) {
                Ok(()) => {
                    add(&self.counts.copied_files, 1);
                    add(&self.counts.written_bytes, len);
                    return Ok(());
                }
                Err(errno @ (Errno::NOSPC | Errno::DQUOT | Errno::IO | Errno::FBIG)) => {
                    return Err(failed(errno.into()));
                }
                Err(_) => self.able.no_copy.store(true, Ordering::Relaxed),
            }
            to.set_len(0).map_err(failed)?;
        }
        buffer.resize(256 << 10, 0);
        let mut at = 0;
        for run in runs {
            let (mut offset, end) = (run.offset, run.offset.saturating_add(run.len));
            while offset < end {
                let want = to_usize(end - offset).min(buffer.len());
                let part = buffer.get_mut(..want).unwrap_or_default();
                from.read_exact_at(part, at).and_then(|()| to.write_all_at(part, offset)).map_err(failed)?;
                (at, offset) = (at + to_u64(want), offset + to_u64(want));
            }
        }
        add(&self.counts.written_files, 1);
        add(&self.counts.written_bytes, len);
        Ok(())
    }
}

/// Shares the storage of the blob with the runs.
fn reflink(from: &File, to: &File, runs: &[Run]) -> Result<(), Errno> {
    if let [Run { offset: 0, .. }] = runs {
        return rustix::fs::ioctl_ficlone(to, from);
    }
    let mut at = 0;
    for run in runs {
        crate::sys::clone_range(from, at, run.len, to, run.offset)?;
        at = at.saturating_add(run.len);
    }
    Ok(())
}

/// Has the kernel copy the blob into the runs.
fn copy(from: &File, to: &File, runs: &[Run]) -> Result<(), Errno> {
    let mut at = 0u64;
    for run in runs {
        let (mut offset, mut left) = (run.offset, run.len);
        while left > 0 {
            let copied = rustix::fs::copy_file_range(from, Some(&mut at), to, Some(&mut offset), to_usize(left))?;
            if copied == 0 {
                return Err(Errno::INVAL);
            }
            left = left.saturating_sub(to_u64(copied));
        }
    }
    Ok(())
}

/// Writes the bytes to where the runs lie.
pub(super) fn write_runs(to: &File, bytes: &[u8], runs: Option<&[Run]>) -> std::io::Result<()> {
    Out { to, runs, at: 0 }.write(bytes)
}

/// Takes a blob's bytes one after another and writes them to where they belong.
struct Out<'a> {
    to: &'a File,
    runs: Option<&'a [Run]>,
    /// Bytes taken.
    at: u64,
}

impl Out<'_> {
    fn write(&mut self, mut bytes: &[u8]) -> std::io::Result<()> {
        let Some(runs) = self.runs else {
            self.to.write_all_at(bytes, self.at)?;
            self.at += to_u64(bytes.len());
            return Ok(());
        };
        let mut before = 0;
        for run in runs {
            if bytes.is_empty() {
                break;
            }
            let end = before + run.len;
            if self.at < end {
                let inside = self.at - before;
                let len = to_usize(run.len - inside).min(bytes.len());
                let (part, rest) = bytes.split_at(len);
                self.to.write_all_at(part, run.offset + inside)?;
                self.at += to_u64(len);
                bytes = rest;
            }
            before = end;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_any_size_land_in_their_runs() {
        let runs = [Run { offset: 2, len: 3 }, Run { offset: 8, len: 1 }, Run { offset: 10, len: 4 }];
        for size in 1..9 {
            let file = tempfile::tempfile().unwrap();
            let mut out = Out { to: &file, runs: Some(&runs), at: 0 };
            b"abcdefgh".chunks(size).for_each(|part| out.write(part).unwrap());
            let mut bytes = vec![0; 14];
            file.read_exact_at(&mut bytes, 0).unwrap();
            assert_eq!(&bytes, b"\0\0abc\0\0\0d\0efgh", "parts of {size}");
        }
    }
}
