//! Looking at files: the calls that take a guest path.

use std::path::Path;
use std::sync::Arc;

use super::{Guestfs, text};
use crate::block::{BlockDevice, read_vec};
use crate::bytes::escape;
use crate::error::{Error, PathProblem, Result};
use crate::fs::{FileType, Follow, GuestPath, Listing, Location, MountTable, StatFs, Xattr};
use crate::limits;
use crate::ops::{self, Algorithm};
use crate::progress::{Progress, Silent};

/// What `stat(2)` tells, times with nanoseconds: libguestfs's `stat` and `statns` in one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    /// Which mounted filesystem it is on: the number of its mount.
    pub dev: u64,
    /// The fields of `stat(2)`.
    pub metadata: crate::fs::Metadata,
}

impl std::ops::Deref for Stat {
    type Target = crate::fs::Metadata;

    fn deref(&self) -> &Self::Target {
        &self.metadata
    }
}

impl Guestfs {
    /// The names in a directory, sorted, without `.` and `..`. A name that is not UTF-8 is escaped; `find0` has bytes.
    pub fn ls(&self, directory: impl AsRef<[u8]>) -> Result<Vec<String>> {
        let names = Listing::read(&self.directory(&*self.mounted()?, directory.as_ref())?)?;
        Ok(names.iter().map(|(name, _)| text(name.to_vec())).collect())
    }

    /// What `ls -la` prints of a directory. For people; it is not meant to be parsed.
    pub fn ll(&self, directory: impl AsRef<[u8]>) -> Result<String> {
        let mounts = self.mounted()?;
        let location = self.directory(&mounts, directory.as_ref())?;
        let owners = ops::Owners::read(&mounts);
        let mut rows = Vec::new();
        for (name, inode) in Listing::read(&location)?.iter() {
            let path = location.path.join(name);
            let child = mounts.cross(Location { inode, path, ..location.clone() });
            rows.push(ops::long_row(&child, &child.metadata()?, &owners, &escape(name))?);
        }
        Ok(ops::long_listing(&rows))
    }

    /// Every path below a directory, files and directories, relative, sorted, without a leading `/`.
    pub fn find(&self, directory: impl AsRef<[u8]>) -> Result<Vec<String>> {
        ops::find(&*self.mounted()?, &GuestPath::parse(directory)?)
    }

    /// The same as bytes.
    pub fn find0(&self, directory: impl AsRef<[u8]>) -> Result<Vec<Vec<u8>>> {
        ops::find0(&*self.mounted()?, &GuestPath::parse(directory)?)
    }

    /// The paths that match a pattern with `*`, `?` and `[…]`, sorted.
    pub fn glob_expand(&self, pattern: impl AsRef<[u8]>) -> Result<Vec<String>> {
        let found = ops::glob_expand(&*self.mounted()?, &GuestPath::parse(pattern)?)?;
        Ok(found.into_iter().map(text).collect())
    }

    /// What `stat(2)` tells; links are followed.
    pub fn stat(&self, path: impl AsRef<[u8]>) -> Result<Stat> {
        self.stat_at(path.as_ref(), Follow::Links)
    }

    /// What `lstat(2)` tells; a link at the end is not followed.
    pub fn lstat(&self, path: impl AsRef<[u8]>) -> Result<Stat> {
        self.stat_at(path.as_ref(), Follow::NotLast)
    }

    /// [`stat`](Self::stat) under the name that libguestfs gives the call with nanoseconds.
    pub fn statns(&self, path: impl AsRef<[u8]>) -> Result<Stat> {
        self.stat(path)
    }

    /// [`lstat`](Self::lstat) under the name that libguestfs gives the call with nanoseconds.
    pub fn lstatns(&self, path: impl AsRef<[u8]>) -> Result<Stat> {
        self.lstat(path)
    }

    /// Whether a path leads to anything; links are followed.
    pub fn exists(&self, path: impl AsRef<[u8]>) -> Result<bool> {
        Ok(self.type_at(path.as_ref(), Follow::Links)?.is_some())
    }

    /// Whether a path is a regular file; a link is none, as in libguestfs.
    pub fn is_file(&self, path: impl AsRef<[u8]>) -> Result<bool> {
        Ok(self.type_at(path.as_ref(), Follow::NotLast)? == Some(FileType::File))
    }

    /// Whether a path is a directory; a link is none, as in libguestfs.
    pub fn is_dir(&self, path: impl AsRef<[u8]>) -> Result<bool> {
        Ok(self.type_at(path.as_ref(), Follow::NotLast)? == Some(FileType::Dir))
    }

    /// Whether a path is a symbolic link.
    pub fn is_symlink(&self, path: impl AsRef<[u8]>) -> Result<bool> {
        Ok(self.type_at(path.as_ref(), Follow::NotLast)? == Some(FileType::Symlink))
    }

    /// A symbolic link's target.
    pub fn readlink(&self, path: impl AsRef<[u8]>) -> Result<String> {
        let path = path.as_ref();
        let location = self.resolve(path, Follow::NotLast)?;
        if location.metadata()?.file_type != FileType::Symlink {
            return Err(Error::path(path, PathProblem::NotASymlink));
        }
        location.fs.read_link(location.inode).map(text).map_err(|error| error.at_path(path))
    }

    /// The path without links, `.` and `..`.
    pub fn realpath(&self, path: impl AsRef<[u8]>) -> Result<String> {
        Ok(text(self.resolve(path.as_ref(), Follow::Links)?.path.as_bytes().to_vec()))
    }

    /// A whole file as text; one that is not UTF-8 is refused.
    pub fn cat(&self, path: impl AsRef<[u8]>) -> Result<String> {
        let path = path.as_ref();
        String::from_utf8(self.read_file(path)?).map_err(|_| {
            Error::invalid(format!("{}: the file is not UTF-8 text", escape(path)))
                .with_hint("read its bytes with read_file or download")
        })
    }

    /// A whole file as bytes; one larger than [`limits::CALL_BYTES`] is refused.
    pub fn read_file(&self, path: impl AsRef<[u8]>) -> Result<Vec<u8>> {
        let file = self.open(path.as_ref())?;
        bounded(file.size()).and_then(|size| read_vec(&file, 0, size)).map_err(|error| error.at_path(path.as_ref()))
    }

    /// A file's lines without their ends (`\n` or `\r\n`).
    pub fn read_lines(&self, path: impl AsRef<[u8]>) -> Result<Vec<String>> {
        Ok(self.cat(path)?.lines().map(str::to_owned).collect())
    }

    /// The first ten lines.
    pub fn head(&self, path: impl AsRef<[u8]>) -> Result<Vec<String>> {
        self.head_n(10, path)
    }

    /// The first `count` lines. Reads no further than it must, and not past [`limits::CALL_BYTES`].
    pub fn head_n(&self, count: usize, path: impl AsRef<[u8]>) -> Result<Vec<String>> {
        let file = self.open(path.as_ref())?;
        let mut bytes = Vec::new();
        let mut newlines = 0;
        while newlines < count && (bytes.len() as u64) < file.size() {
            let chunk = (file.size() - bytes.len() as u64).min(64 << 10) as usize;
            bounded((bytes.len() + chunk) as u64).map_err(|error| error.at_path(path.as_ref()))?;
            let chunk = read_vec(&file, bytes.len() as u64, chunk).map_err(|error| error.at_path(path.as_ref()))?;
            newlines += chunk.iter().filter(|&&byte| byte == b'\n').count();
            bytes.extend(chunk);
        }
        Ok(lines(&bytes).into_iter().take(count).collect())
    }

    /// The last ten lines.
    pub fn tail(&self, path: impl AsRef<[u8]>) -> Result<Vec<String>> {
        self.tail_n(10, path)
    }

    /// The last `count` lines. Reads backwards, no further than it must, and not past [`limits::CALL_BYTES`].
    pub fn tail_n(&self, count: usize, path: impl AsRef<[u8]>) -> Result<Vec<String>> {
        let file = self.open(path.as_ref())?;
        let mut start = file.size();
        let mut chunks = Vec::new();
        let mut newlines = 0;
        while newlines <= count && start > 0 {
            let len = start.min(64 << 10);
            start -= len;
            bounded(file.size() - start).map_err(|error| error.at_path(path.as_ref()))?;
            let chunk = read_vec(&file, start, len as usize).map_err(|error| error.at_path(path.as_ref()))?;
            newlines += chunk.iter().filter(|&&byte| byte == b'\n').count();
            chunks.push(chunk);
        }
        chunks.reverse();
        let all = lines(&chunks.concat());
        Ok(all[all.len().saturating_sub(count)..].to_vec())
    }

    /// Up to `count` bytes of a file from `offset`; fewer at its end. More than [`limits::CALL_BYTES`] are refused.
    pub fn pread(&self, path: impl AsRef<[u8]>, count: u64, offset: u64) -> Result<Vec<u8>> {
        let file = self.open(path.as_ref())?;
        pread(&file, count, offset).map_err(|error| error.at_path(path.as_ref()))
    }

    /// Copies a guest file, or a whole device, to a host path: complete or not at all, holes kept.
    pub fn download(&self, remote: impl AsRef<[u8]>, local: impl AsRef<Path>) -> Result<()> {
        self.download_with(remote, local, &Silent)
    }

    /// The same, watched.
    pub fn download_with(
        &self,
        remote: impl AsRef<[u8]>,
        local: impl AsRef<Path>,
        progress: &dyn Progress,
    ) -> Result<()> {
        let content = self.open_content(remote.as_ref())?;
        ops::download(&content, local.as_ref(), progress).map_err(|error| error.at_path(remote.as_ref()))
    }

    /// The digest of a file; the type comes first: crc, md5, sha1, sha224, sha256, sha384, sha512, blake3, xxh3.
    pub fn checksum(&self, csumtype: &str, path: impl AsRef<[u8]>) -> Result<String> {
        let algorithm: Algorithm = csumtype.parse()?;
        let file = self.open(path.as_ref())?;
        ops::checksum(&file, algorithm, &Silent).map_err(|error| error.at_path(path.as_ref()))
    }

    /// Extended attributes with ACLs and labels, sorted by name; links are followed.
    pub fn getxattrs(&self, path: impl AsRef<[u8]>) -> Result<Vec<Xattr>> {
        let location = self.resolve(path.as_ref(), Follow::Links)?;
        location.fs.xattrs(location.inode).map_err(|error| error.at_path(path.as_ref()))
    }

    /// Extended attributes of a link itself.
    pub fn lgetxattrs(&self, path: impl AsRef<[u8]>) -> Result<Vec<Xattr>> {
        let location = self.resolve(path.as_ref(), Follow::NotLast)?;
        location.fs.xattrs(location.inode).map_err(|error| error.at_path(path.as_ref()))
    }

    /// Sizes and free space of the filesystem that holds a path.
    pub fn statvfs(&self, path: impl AsRef<[u8]>) -> Result<StatFs> {
        let location = self.resolve(path.as_ref(), Follow::Links)?;
        location.fs.statfs().map_err(|error| error.at_path(path.as_ref()))
    }

    /// (mountable, mountpoint, sizes and free space) of each mounted filesystem, in mount order.
    pub fn df(&self) -> Result<Vec<(String, String, StatFs)>> {
        let mounted = self.mounted()?;
        let row = |mount: &crate::fs::Mount| {
            let statfs = mount.fs.statfs().map_err(|error| error.on_device(&mount.mountable))?;
            Ok((mount.mountable.clone(), mount.mountpoint.to_string(), statfs))
        };
        mounted.mounts().iter().map(row).collect()
    }

    /// The guest's mounted filesystems, for the functions of [`ops`](crate::ops).
    pub fn mount_table(&self) -> Result<Arc<MountTable>> {
        self.mounted()
    }

    /// A guest file's content, or a device, to be read in parts.
    pub fn open_content(&self, remote: impl AsRef<[u8]>) -> Result<Arc<dyn BlockDevice>> {
        let remote = remote.as_ref();
        // Devices have names under /dev; a guest's own /dev on disk is empty or holds nodes, never contents.
        if let Some(device) = std::str::from_utf8(remote).ok().filter(|name| name.starts_with("/dev/"))
            && let Ok(device) = self.launched()?.devices.find(device)
        {
            return Ok(device);
        }
        self.open(remote)
    }

    fn open(&self, path: &[u8]) -> Result<Arc<dyn BlockDevice>> {
        let location = self.resolve(path, Follow::Links)?;
        match location.metadata()?.file_type {
            FileType::File => location.fs.open(location.inode).map_err(|error| error.at_path(path)),
            FileType::Dir => Err(Error::path(path, PathProblem::IsADirectory)),
            _ => Err(Error::path(path, PathProblem::NotARegularFile)),
        }
    }

    fn resolve(&self, path: &[u8], follow: Follow) -> Result<Location> {
        let launched = self.launched()?;
        launched.mounts().resolve(&GuestPath::parse(path)?, follow).map_err(|error| launched.in_image(error))
    }

    pub(super) fn directory(&self, mounts: &MountTable, path: &[u8]) -> Result<Location> {
        let location = mounts.resolve(&GuestPath::parse(path)?, Follow::Links)?;
        match location.metadata()?.file_type {
            FileType::Dir => Ok(location),
            _ => Err(Error::path(path, PathProblem::NotADirectory)),
        }
    }

    fn stat_at(&self, path: &[u8], follow: Follow) -> Result<Stat> {
        let location = self.resolve(path, follow)?;
        Ok(Stat { dev: location.mount as u64, metadata: location.metadata()? })
    }

    fn type_at(&self, path: &[u8], follow: Follow) -> Result<Option<FileType>> {
        match self.resolve(path, follow) {
            Ok(location) => Ok(Some(location.metadata()?.file_type)),
            Err(error) if error.is_path_problem() => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Up to `count` bytes from `offset`; fewer at the end.
pub(super) fn pread(content: &dyn BlockDevice, count: u64, offset: u64) -> Result<Vec<u8>> {
    let count = count.min(content.size().saturating_sub(offset));
    read_vec(content, offset.min(content.size()), bounded(count)?)
}

/// A length that one call may return.
fn bounded(bytes: u64) -> Result<usize> {
    let within = limits::check("bytes returned by one call", bytes, limits::CALL_BYTES);
    within.map(|bytes| bytes as usize).map_err(|error| error.with_hint("download it, or read it in parts with pread"))
}

/// Lines without their ends, what is not UTF-8 replaced.
fn lines(bytes: &[u8]) -> Vec<String> {
    String::from_utf8_lossy(bytes).lines().map(str::to_owned).collect()
}
