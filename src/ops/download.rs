//! One content into one host file: complete under its name or not there at all, with its holes, and shared with the image
//! where the host can do that.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use crate::block::{BlockDevice, ExtentKind, Sweep, for_each_extent};
use crate::error::{Error, Result};
use crate::host::{Staged, Transfer, publish_all};
use crate::progress::Progress;

const CHUNK: u64 = 1 << 20;

/// Copies all of `device` to the host path `path`. A regular file appears there complete, by rename; what is there
/// already and is no regular file (a pipe, a device) is written into.
pub fn download(device: &dyn BlockDevice, path: &Path, progress: &dyn Progress) -> Result<()> {
    progress.set_total(device.size());
    if std::fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
        let mut file =
            File::options().write(true).open(path).map_err(|error| Error::io("open", path.display(), error))?;
        return write_to(device, &mut file, progress);
    }
    let staged = Staged::create(path)?;
    to_file(device, &staged.file, path, progress)?;
    staged.publish()
}

/// Copies several contents to host paths in one directory: all of the files appear, or none.
pub fn download_all(copies: &[(Arc<dyn BlockDevice>, &Path)], progress: &dyn Progress) -> Result<()> {
    progress.set_total(copies.iter().map(|(device, _)| device.size()).fold(0, u64::saturating_add));
    let mut staged = Vec::new();
    for (device, path) in copies {
        let file = Staged::create(path)?;
        to_file(device, &file.file, path, progress)?;
        staged.push(file);
    }
    publish_all(staged)
}

fn copy(
    device: &dyn BlockDevice,
    progress: &dyn Progress,
    mut put: impl FnMut(u64, Option<&[u8]>, u64) -> Result<()>,
) -> Result<()> {
    device.audit(Sweep::Read)?;
    let mut buffer = Vec::new();
    for_each_extent(device, 0..device.size(), &mut |run, kind| {
        let mut at = run.start;
        while at < run.end {
            if progress.cancelled() {
                return Err(crate::ErrorKind::Cancelled.into());
            }
            let len = (run.end - at).min(CHUNK);
            if kind == ExtentKind::Data {
                buffer.resize(len as usize, 0);
                device.read_exact_at(&mut buffer, at)?;
                put(at, Some(&buffer), len)?;
            } else {
                put(at, None, len)?;
            }
            progress.advance(len);
            at += len;
        }
        Ok(())
    })
}

/// Copies all of `device` into an open stream; holes are written as zeroes.
pub fn write_to(device: &dyn BlockDevice, stream: &mut dyn Write, progress: &dyn Progress) -> Result<()> {
    let zeroes = vec![0; CHUNK as usize];
    let failed = |error| Error::io("write", "the output", error);
    copy(device, progress, |_, bytes, len| stream.write_all(bytes.unwrap_or(&zeroes[..len as usize])).map_err(failed))?;
    stream.flush().map_err(failed)
}

fn to_file(device: &dyn BlockDevice, file: &File, path: &Path, progress: &dyn Progress) -> Result<()> {
    // One content is asked for, so nothing less is given.
    Transfer::new(true).copy_whole(device, file, &path.display(), progress)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Memory;
    use crate::progress::Silent;

    #[derive(Debug)]
    struct Failing;
    impl BlockDevice for Failing {
        fn size(&self) -> u64 {
            3 << 20
        }
        fn read_exact_at(&self, _buf: &mut [u8], offset: u64) -> Result<()> {
            if offset > 0 { Err(Error::invalid("broken")) } else { Ok(()) }
        }
        fn next_extent(&self, range: std::ops::Range<u64>) -> Result<crate::block::Extent> {
            Ok(crate::block::Extent { kind: ExtentKind::Data, len: range.end - range.start })
        }
    }

    #[test]
    fn a_failed_download_leaves_nothing_and_an_old_file_alone() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("out");
        std::fs::write(&target, b"old").unwrap();
        download(&Failing, &target, &Silent).unwrap_err();
        assert_eq!(std::fs::read(&target).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        download(&Memory::new(b"new".to_vec()), &target, &Silent).unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"new");
    }
}
