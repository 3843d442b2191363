//! A host file or block device that is changed in place, under the image lock.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{FallocateFlags, SeekFrom as Whence};

use super::lock::Lock;
use super::{BlockDevice, BlockWrite, Extent, ExtentKind, HostRange, check_range, range_len};
use crate::bytes::{to_u64, to_usize};
use crate::error::{Error, Result};

/// What a driver changes an image through: a device that can become longer or shorter. Only its one owner does that, so
/// for everyone above the size does not change.
pub(crate) trait Resizable: BlockWrite {
    /// Makes it `size` bytes long. What is added reads as zeroes.
    fn resize(&self, size: u64) -> Result<()>;
}

/// A regular file or block device of the host, open for reading and writing.
#[derive(Debug)]
pub struct WritableFile {
    file: File,
    path: PathBuf,
    size: AtomicU64,
    regular: bool,
    /// Goes with the file.
    _lock: Option<Lock>,
}

impl WritableFile {
    /// Opens `path` and takes the image lock. Anything but a regular file or a block device is refused.
    pub fn open(path: &Path) -> Result<Self> {
        use rustix::fs::{Mode, OFlags};
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let descriptor = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|errno| Error::io("open for writing", path.display(), errno))?;
        Self::from_file(File::from(descriptor), path)
    }

    /// Opens for writing, and locks, what `file` has open for reading: the very file that a gate has let in, whatever its
    /// name leads to by now.
    pub fn reopen(file: &File, path: &Path) -> Result<Self> {
        let link = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        let opened = File::options().read(true).write(true).open(link);
        Self::from_file(opened.map_err(|error| Error::io("open for writing", path.display(), error))?, path)
    }

    fn from_file(mut file: File, path: &Path) -> Result<Self> {
        let metadata = file.metadata().map_err(|error| Error::io("stat", path.display(), error))?;
        let kind = metadata.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(Error::invalid(format!("{} is neither a regular file nor a block device", path.display())));
        }
        let lock = Some(Lock::exclusive(&file, path)?);
        let end =
            file.seek(SeekFrom::End(0)).map_err(|error| Error::io("seek to the end of", path.display(), error))?;
        let size = AtomicU64::new(end);
        Ok(Self { file, path: path.to_owned(), size, regular: kind.is_file(), _lock: lock })
    }

    /// The path it was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The open file.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    fn fail(&self, action: &'static str, range: &Range<u64>, error: impl Into<std::io::Error>) -> Error {
        let subject = format!("{} bytes at byte {:#x} of {}", range_len(range), range.start, self.path.display());
        Error::io(action, subject, error)
    }

    /// One of fallocate(2)'s ways to make zeroes; false if neither file nor device has it.
    fn fallocate(&self, flags: FallocateFlags, range: &Range<u64>) -> Result<bool> {
        match rustix::fs::fallocate(&self.file, flags, range.start, range_len(range)) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS | rustix::io::Errno::INVAL) => Ok(false),
            Err(errno) => Err(self.fail("zero", range, errno)),
        }
    }

    /// Makes `range` take up space without changing what it reads as.
    pub(crate) fn allocate(&self, range: &Range<u64>) -> Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        let done = rustix::fs::fallocate(&self.file, FallocateFlags::empty(), range.start, range_len(range));
        done.map_err(|errno| self.fail("allocate", range, errno))
    }
}

impl BlockDevice for WritableFile {
    fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let end = check_range(self.size(), offset, buf.len())?;
        self.file.read_exact_at(buf, offset).map_err(|error| self.fail("read", &(offset..end), error))
    }

    fn next_extent(&self, range: Range<u64>) -> Result<Extent> {
        let at = range.start;
        let (end, kind) = match rustix::fs::seek(&self.file, Whence::Data(at)) {
            Ok(data) if data > at => (data, ExtentKind::Hole),
            Ok(_) => match rustix::fs::seek(&self.file, Whence::Hole(at)) {
                Ok(hole) if hole > at => (hole, ExtentKind::Data),
                _ => (range.end, ExtentKind::Data),
            },
            Err(rustix::io::Errno::NXIO) => (range.end, ExtentKind::Hole),
            Err(_) => (range.end, ExtentKind::Data),
        };
        Ok(Extent { kind, len: end.min(range.end).saturating_sub(at).max(1) })
    }

    fn host_range(&self, range: Range<u64>) -> Option<HostRange<'_>> {
        (range.end <= self.size()).then(|| HostRange { file: &self.file, offset: range.start, len: range_len(&range) })
    }
}

impl BlockWrite for WritableFile {
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        let end = check_range(self.size(), offset, bytes.len())?;
        self.file.write_all_at(bytes, offset).map_err(|error| self.fail("write", &(offset..end), error))
    }

    fn write_zeroes(&self, range: Range<u64>) -> Result<()> {
        check_range(self.size(), range.start, to_usize(range_len(&range)))?;
        if range.is_empty() {
            return Ok(());
        }
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let zero = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
        if self.fallocate(punch, &range)? || self.fallocate(zero, &range)? {
            return Ok(());
        }
        let zeroes = vec![0u8; to_usize(range_len(&range).min(1 << 20))];
        let mut at = range.start;
        while at < range.end {
            let len = to_usize(range.end.saturating_sub(at)).min(zeroes.len());
            self.write_all_at(zeroes.get(..len).unwrap_or_default(), at)?;
            at = at.saturating_add(to_u64(len));
        }
        Ok(())
    }

    fn discard(&self, range: Range<u64>) -> Result<()> {
        check_range(self.size(), range.start, to_usize(range_len(&range)))?;
        if !range.is_empty() {
            self.fallocate(FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, &range)?;
        }
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        self.file.sync_data().map_err(|error| Error::io("sync", self.path.display(), error))
    }
}

impl Resizable for WritableFile {
    fn resize(&self, size: u64) -> Result<()> {
        if self.regular {
            self.file.set_len(size).map_err(|error| Error::io("set the size of", self.path.display(), error))?;
            self.size.store(size, Ordering::Release);
            return Ok(());
        }
        if size <= self.size() {
            return Ok(());
        }
        Err(Error::io("grow", self.path.display(), std::io::Error::from(std::io::ErrorKind::StorageFull)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::read_vec;

    #[test]
    fn what_is_written_zeroed_and_discarded_reads_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk");
        std::fs::write(&path, vec![7u8; 300_000]).unwrap();
        let file = WritableFile::open(&path).unwrap();
        file.write_all_at(b"here", 100_000).unwrap();
        file.write_zeroes(4096..8193).unwrap();
        file.discard(65_536..131_072).unwrap();
        assert!(file.write_all_at(b"past", 299_997).is_err());
        assert!(file.write_zeroes(299_999..300_001).is_err());
        let bytes = read_vec(&file, 0, 300_000).unwrap();
        assert_eq!(bytes[4095..8194].iter().map(|&byte| usize::from(byte)).sum::<usize>(), 14);
        assert!(bytes[65_536..131_072].iter().all(|&byte| byte == 0));
        file.resize(400_000).unwrap();
        assert_eq!(read_vec(&file, 299_999, 2).unwrap(), [7, 0]);
        file.flush().unwrap();
        assert_eq!(WritableFile::open(&path).unwrap_err().exit_code(), 5, "one at a time");
    }
}
