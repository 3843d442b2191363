//! A host file or block device, read at any offset; holes come from `SEEK_DATA` and `SEEK_HOLE` (lseek(2)).
//!
//! Holes are asked for as they are met and answers are kept, because the kernel's answer costs two system calls: walks ask
//! for neighbouring ranges, and tables of hostile images for the same places again and again.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use rustix::fs::SeekFrom as Whence;

use super::{BlockDevice, Extent, ExtentKind, HostRange, Status, check_range, range_len};
use crate::error::{Error, Result};

/// A regular file or a block device of the host, opened read-only.
#[derive(Debug)]
pub struct HostFile {
    file: File,
    path: PathBuf,
    size: u64,
    /// Extents the kernel told us of, by where they end.
    known: Mutex<BTreeMap<u64, (u64, ExtentKind)>>,
}

/// Extents that are kept; then they are forgotten.
const KNOWN: usize = 4096;

impl HostFile {
    /// Opens `path` for reading. Anything but a regular file or a block device is refused; opening never blocks on a
    /// FIFO.
    pub fn open(path: &Path) -> Result<Self> {
        use rustix::fs::{Mode, OFlags};
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let descriptor =
            rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| Error::io("open", path.display(), errno))?;
        Self::from_file(File::from(descriptor), path)
    }

    /// Takes a file that is open for reading; `path` only names it in messages.
    pub fn from_file(mut file: File, path: &Path) -> Result<Self> {
        let metadata = file.metadata().map_err(|error| Error::io("stat", path.display(), error))?;
        let kind = metadata.file_type();
        let size = if kind.is_file() {
            metadata.len()
        } else if kind.is_block_device() {
            file.seek(SeekFrom::End(0)).map_err(|error| Error::io("seek to the end of", path.display(), error))?
        } else if kind.is_char_device() {
            // `/dev/null` is a legal empty disk; no other character device can be read at an offset.
            0
        } else {
            return Err(Error::invalid(format!("{} is neither a regular file nor a block device", path.display())));
        };
        Ok(Self { file, path: path.to_owned(), size, known: Mutex::default() })
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

    /// Bytes the host filesystem has allocated for it.
    pub fn allocated(&self) -> Result<u64> {
        use std::os::unix::fs::MetadataExt;
        let metadata = self.file.metadata().map_err(|error| Error::io("stat", self.path.display(), error))?;
        Ok(metadata.blocks().saturating_mul(512))
    }

    /// The run around `at` as the kernel sees it. A filesystem without hole support answers "all data".
    fn seek(&self, at: u64) -> (Range<u64>, ExtentKind) {
        let hole_to_end = (at..self.size, ExtentKind::Hole);
        match rustix::fs::seek(&self.file, Whence::Data(at)) {
            Ok(data) if data > at => (at..data.min(self.size), ExtentKind::Hole),
            Ok(_) => match rustix::fs::seek(&self.file, Whence::Hole(at)) {
                Ok(hole) if hole > at => (at..hole.min(self.size), ExtentKind::Data),
                _ => (at..self.size, ExtentKind::Data),
            },
            Err(rustix::io::Errno::NXIO) => hole_to_end,
            Err(_) => (at..self.size, ExtentKind::Data),
        }
    }
}

impl BlockDevice for HostFile {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self.size, offset, buf.len())?;
        self.file.read_exact_at(buf, offset).map_err(|error| {
            let subject = format!("{} bytes at byte {offset:#x} of {}", buf.len(), self.path.display());
            Error::io("read", subject, error)
        })
    }

    fn next_extent(&self, range: Range<u64>) -> Result<Extent> {
        let mut known = self.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let around =
            known.range(range.start.saturating_add(1)..).next().filter(|(_, (start, _))| *start <= range.start);
        let (end, kind) = match around {
            Some((end, (_, kind))) => (*end, *kind),
            None => {
                let (run, kind) = self.seek(range.start);
                if known.len() >= KNOWN {
                    known.clear();
                }
                known.insert(run.end, (run.start, kind));
                (run.end, kind)
            }
        };
        let len = end.min(range.end).saturating_sub(range.start).max(1);
        Ok(Extent { kind, len })
    }

    fn status(&self, range: Range<u64>) -> Result<Status> {
        let (start, Extent { kind, len }) = (range.start, self.next_extent(range)?);
        Ok(Status { len, kind, depth: 0, allocated: true, compressed: false, offset: Some(start) })
    }

    fn host_range(&self, range: Range<u64>) -> Option<HostRange<'_>> {
        (range.end <= self.size).then(|| HostRange { file: &self.file, offset: range.start, len: range_len(&range) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_and_data_of_a_sparse_file() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(3 << 20).unwrap();
        file.write_all_at(&[7; 4096], 1 << 20).unwrap();
        let device = HostFile::from_file(file, Path::new("sparse")).unwrap();
        let mut runs = Vec::new();
        crate::block::for_each_extent(&device, 0..device.size(), &mut |run, kind| {
            runs.push((run, kind));
            Ok(())
        })
        .unwrap();
        let data: Vec<_> = runs.iter().filter(|(_, kind)| *kind == ExtentKind::Data).collect();
        assert!(data.iter().any(|(run, _)| run.contains(&(1 << 20))));
        assert_eq!(runs.iter().map(|(run, _)| run.end - run.start).sum::<u64>(), 3 << 20);
    }

    #[test]
    fn reading_past_the_end_is_an_error() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(10).unwrap();
        let device = HostFile::from_file(file, Path::new("short")).unwrap();
        assert!(device.read_exact_at(&mut [0; 4], 7).is_err());
        assert!(device.read_exact_at(&mut [0; 4], u64::MAX).is_err());
    }

    #[test]
    fn a_directory_is_no_disk() {
        assert_eq!(HostFile::open(Path::new("/")).unwrap_err().exit_code(), 2);
    }
}
