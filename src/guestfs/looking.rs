//! Looking at many files at once: the calls that count, search, list and archive.

use std::ops::ControlFlow;
use std::path::Path;

use super::files::Stat;
use super::{Guestfs, text};
use crate::block::Slice;
use crate::error::{Error, PathProblem, Result};
use crate::fs::{FileType, Follow, GuestPath, Location, MountTable, Timestamp, Xattr};
use crate::limits;
use crate::ops::{
    self, CpioOptions, CpioWritten, DuLine, DuOptions, DuSink, Entry, EntrySink, Flow, GrepOptions, Pattern, Syntax,
};
use crate::progress::{Progress, Silent};

/// How [`Guestfs::grep_lines_opts`] searches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GrepFlags {
    /// The expression is an extended one, and not a basic one.
    pub extended: bool,
    /// It is the text itself; wins over `extended`.
    pub fixed: bool,
    /// Letters match in either case.
    pub insensitive: bool,
    /// A file that gzip has packed is searched unpacked.
    pub compressed: bool,
}

/// One name in a directory, as `readdir` tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dirent {
    /// The inode number.
    pub ino: u64,
    /// `b`, `c`, `d`, `f` (FIFO), `l`, `r` (regular), `s`, or `u` when the directory does not say.
    pub ftyp: char,
    /// The name; one that is not UTF-8 is escaped.
    pub name: String,
}

/// One file of a filesystem, under the names that libguestfs gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TskDirent {
    /// The inode number.
    pub tsk_inode: u64,
    /// `b`, `c`, `d`, `f` (FIFO), `l`, `r` (regular), `s`.
    pub tsk_type: char,
    /// Bytes.
    pub tsk_size: u64,
    /// The path below the filesystem's root, without a leading `/`; one that is not UTF-8 is escaped.
    pub tsk_name: String,
    /// 1: allocated. Files that were deleted are not listed.
    pub tsk_flags: u32,
    /// Last access.
    pub tsk_atime: Timestamp,
    /// Last change of the content.
    pub tsk_mtime: Timestamp,
    /// Last change of the inode.
    pub tsk_ctime: Timestamp,
    /// Creation, where the filesystem keeps it.
    pub tsk_crtime: Option<Timestamp>,
    /// Hard links.
    pub tsk_nlink: u64,
    /// A symbolic link's target; empty for anything else.
    pub tsk_link: String,
}

impl Guestfs {
    /// The space that everything below a path takes in KiB, as `du -s` counts it.
    pub fn du(&self, path: impl AsRef<[u8]>) -> Result<u64> {
        self.du_with(path, &Silent)
    }

    /// The same, watched.
    pub fn du_with(&self, path: impl AsRef<[u8]>, progress: &dyn Progress) -> Result<u64> {
        struct Nothing;
        impl DuSink for Nothing {
            fn line(&mut self, _line: &DuLine<'_>) -> Result<()> {
                Ok(())
            }
        }
        let mounts = self.mounted()?;
        let start = mounts.resolve(&GuestPath::parse(path)?, Follow::NotLast)?;
        let usage = ops::du(&mounts, &[start], &DuOptions::default(), &mut Nothing, progress)?;
        Ok(usage.allocated_bytes.div_ceil(1024))
    }

    /// The lines of a file that match a POSIX basic regular expression, without their ends.
    pub fn grep_lines(&self, regex: &str, path: impl AsRef<[u8]>) -> Result<Vec<String>> {
        self.grep_lines_opts(regex, path, GrepFlags::default())
    }

    /// The same with libguestfs's options of `grep`. Every file is text; lines that are not UTF-8 are escaped. More than
    /// [`limits::CALL_BYTES`] of them are refused.
    pub fn grep_lines_opts(&self, regex: &str, path: impl AsRef<[u8]>, flags: GrepFlags) -> Result<Vec<String>> {
        let path = path.as_ref();
        let syntax = match flags {
            GrepFlags { fixed: true, .. } => Syntax::Fixed,
            GrepFlags { extended: true, .. } => Syntax::Extended,
            _ => Syntax::Basic,
        };
        let pattern = Pattern {
            alternatives: vec![regex.to_owned()],
            syntax,
            ignore_case: flags.insensitive,
            ..Pattern::default()
        };
        let options = GrepOptions { pattern, text: true, gunzip: flags.compressed, ..GrepOptions::default() };
        let (mut lines, mut bytes) = (Vec::new(), 0);
        let content = self.open_content(path)?;
        let found = ops::grep_content(
            path,
            &content,
            &options,
            &mut |line| {
                bytes += (line.len() + size_of::<String>()) as u64;
                limits::check("bytes returned by one call", bytes, limits::CALL_BYTES)?;
                lines.push(text(line.to_vec()));
                Ok(())
            },
            &Silent,
        );
        found.map_err(|error| error.at_path(path))?;
        Ok(lines)
    }

    /// The names in a directory in its own order, with `.` and `..`, as libguestfs's `readdir`.
    pub fn readdir(&self, directory: impl AsRef<[u8]>) -> Result<Vec<Dirent>> {
        let directory = directory.as_ref();
        let mounts = self.mounted()?;
        let location = self.directory(&mounts, directory)?;
        let parent = mounts.resolve(&location.path.join(b".."), Follow::Links)?;
        let dots = |name: &str, ino| Dirent { ino, ftyp: 'd', name: name.to_owned() };
        let mut entries = vec![dots(".", location.inode), dots("..", parent.inode)];
        let mut bytes = 0;
        let read = location.fs.read_dir(location.inode, &mut |entry| {
            bytes += (entry.name.len() + size_of::<Dirent>()) as u64;
            limits::check("bytes of a directory's names", bytes, limits::CALL_BYTES)?;
            let ftyp = entry.file_type.map_or('u', type_letter);
            entries.push(Dirent { ino: entry.inode, ftyp, name: text(entry.name) });
            Ok(ControlFlow::Continue(()))
        });
        read.map_err(|error| error.at_path(directory))?;
        Ok(entries)
    }

    /// [`lstatns`](Self::lstatns) of several names in a directory, in their order; `None` where there is none.
    pub fn lstatns_list<N: AsRef<[u8]>>(&self, directory: impl AsRef<[u8]>, names: &[N]) -> Result<Vec<Option<Stat>>> {
        let mounts = self.mounted()?;
        let location = self.directory(&mounts, directory.as_ref())?;
        let stat = |name: &N| {
            let Some(child) = child(&mounts, &location, name.as_ref())? else { return Ok(None) };
            Ok(Some(Stat { dev: child.mount as u64, metadata: child.metadata()? }))
        };
        names.iter().map(stat).collect()
    }

    /// [`lgetxattrs`](Self::lgetxattrs) of several names in a directory, in their order; `None` where there is none.
    pub fn lxattrlist<N: AsRef<[u8]>>(
        &self,
        directory: impl AsRef<[u8]>,
        names: &[N],
    ) -> Result<Vec<Option<Vec<Xattr>>>> {
        let mounts = self.mounted()?;
        let location = self.directory(&mounts, directory.as_ref())?;
        let xattrs = |name: &N| {
            let Some(child) = child(&mounts, &location, name.as_ref())? else { return Ok(None) };
            let xattrs = child.fs.xattrs(child.inode);
            xattrs.map(Some).map_err(|error| error.at_path(child.path.as_bytes()))
        };
        names.iter().map(xattrs).collect()
    }

    /// The value of one extended attribute; links are followed.
    pub fn getxattr(&self, path: impl AsRef<[u8]>, name: &str) -> Result<Vec<u8>> {
        one_xattr(self.getxattrs(path.as_ref())?, path.as_ref(), name)
    }

    /// The value of one extended attribute of a link itself.
    pub fn lgetxattr(&self, path: impl AsRef<[u8]>, name: &str) -> Result<Vec<u8>> {
        one_xattr(self.lgetxattrs(path.as_ref())?, path.as_ref(), name)
    }

    /// Copies `size` bytes of a guest file or device from `offset` on to a host path: complete or not at all. Fewer bytes
    /// are an error.
    pub fn download_offset(
        &self,
        remote: impl AsRef<[u8]>,
        local: impl AsRef<Path>,
        offset: u64,
        size: u64,
    ) -> Result<()> {
        self.download_offset_with(remote, local, offset, size, &Silent)
    }

    /// The same, watched.
    pub fn download_offset_with(
        &self,
        remote: impl AsRef<[u8]>,
        local: impl AsRef<Path>,
        offset: u64,
        size: u64,
        progress: &dyn Progress,
    ) -> Result<()> {
        let remote = remote.as_ref();
        let content = self.open_content(remote)?;
        if offset.checked_add(size).is_none_or(|end| end > content.size()) {
            let message =
                format!("{size} bytes from byte {offset} on are more than the {} that there are", content.size());
            return Err(Error::invalid(message).at_path(remote));
        }
        let part = Slice::new(content, offset, size).map_err(|error| error.at_path(remote))?;
        ops::download(&part, local.as_ref(), progress).map_err(|error| error.at_path(remote))
    }

    /// Writes the tree below a directory as a cpio archive (newc) to a host path: complete or not at all.
    pub fn cpio_out(&self, directory: impl AsRef<[u8]>, cpiofile: impl AsRef<Path>) -> Result<()> {
        let written = self.cpio_out_opts(directory, cpiofile, None, &CpioOptions::default(), &Silent)?;
        written.problems.complete()
    }

    /// The same with a format, `newc` or none, options, and a watch. What could not be read is in the answer.
    pub fn cpio_out_opts(
        &self,
        directory: impl AsRef<[u8]>,
        cpiofile: impl AsRef<Path>,
        format: Option<&str>,
        options: &CpioOptions,
        progress: &dyn Progress,
    ) -> Result<CpioWritten> {
        if let Some(other) = format.filter(|format| *format != "newc") {
            let feature = format!("the format {}", crate::bytes::escape(other.as_bytes()));
            return Err(Error::unsupported("cpio", feature).with_hint("newc is written"));
        }
        ops::cpio_out(&*self.mounted()?, &GuestPath::parse(directory)?, cpiofile.as_ref(), options, progress)
    }

    /// All files of a filesystem, which need not be mounted, in the order of a walk. Unlike libguestfs's call it lists no
    /// files that were deleted.
    pub fn filesystem_walk(&self, device: &str) -> Result<Vec<TskDirent>> {
        self.filesystem_walk_with(device, &Silent)
    }

    /// The same, watched.
    pub fn filesystem_walk_with(&self, device: &str, progress: &dyn Progress) -> Result<Vec<TskDirent>> {
        let mounts = MountTable::with_root(device, self.launched()?.filesystem(device)?);
        let mut walked = Walked { files: Vec::new(), bytes: 0, progress };
        ops::walk(&mounts, &mounts.root()?, &mut walked).map_err(|error| error.on_device(device))?;
        Ok(walked.files)
    }
}

struct Walked<'a> {
    files: Vec<TskDirent>,
    bytes: u64,
    progress: &'a dyn Progress,
}

impl EntrySink for Walked<'_> {
    fn entry(&mut self, entry: &Entry<'_>) -> Result<Flow> {
        if self.progress.cancelled() {
            return Err(crate::ErrorKind::Cancelled.into());
        }
        if entry.relative.is_empty() {
            return Ok(Flow::Continue);
        }
        let metadata = entry.metadata;
        let tsk_link = entry.read_link()?.map(text).unwrap_or_default();
        self.bytes += (entry.relative.len() + tsk_link.len() + size_of::<TskDirent>()) as u64;
        limits::check("bytes returned by one call", self.bytes, limits::CALL_BYTES)?;
        self.files.push(TskDirent {
            tsk_inode: entry.location.inode,
            tsk_type: type_letter(metadata.file_type),
            tsk_size: metadata.size,
            tsk_name: text(entry.relative.to_vec()),
            tsk_flags: 1,
            tsk_atime: metadata.atime,
            tsk_mtime: metadata.mtime,
            tsk_ctime: metadata.ctime,
            tsk_crtime: metadata.crtime,
            tsk_nlink: metadata.nlink,
            tsk_link,
        });
        Ok(Flow::Continue)
    }
}

/// libguestfs's letter for a type: a FIFO is `f` and a regular file `r`.
fn type_letter(file_type: FileType) -> char {
    match file_type {
        FileType::File => 'r',
        FileType::Fifo => 'f',
        other => other.letter(),
    }
}

/// What a name in a directory leads to.
fn child(mounts: &MountTable, directory: &Location, name: &[u8]) -> Result<Option<Location>> {
    if name.is_empty() || name.contains(&b'/') {
        let message = format!("'{}' is not the name of a directory entry", crate::bytes::escape(name));
        return Err(Error::invalid(message));
    }
    match mounts.resolve(&GuestPath::parse(directory.path.join(name))?, Follow::NotLast) {
        Ok(location) => Ok(Some(location)),
        Err(error) if error.is_path_problem() => Ok(None),
        Err(error) => Err(error),
    }
}

fn one_xattr(xattrs: Vec<Xattr>, path: &[u8], name: &str) -> Result<Vec<u8>> {
    let found = xattrs.into_iter().find(|xattr| xattr.name == name.as_bytes());
    found.map(|xattr| xattr.value).ok_or_else(|| {
        let attribute = crate::bytes::escape(name.as_bytes());
        Error::path(path, PathProblem::NotFound).with_hint(format!("it has no attribute {attribute}"))
    })
}
