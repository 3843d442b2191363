//! Split files: `disk.raw.001`, `disk.raw.002` … read as one, as split(1) and archivers leave them.
//!
//! Only the user's own path starts this, and only names made from it, in its directory, are opened. The first part is
//! `.000` or `.001`, the others count up without a gap; a first part alone is the file that it is. Parts may have any size.
//! Refused: parts that are no regular files, a part behind a gap, more than [`PARTS`].

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{BlockDevice, Extent, HostFile, HostRange, Status, check_range};
use crate::bytes::{to_u64, to_usize};
use crate::error::{Error, Result};
use crate::limits;

/// Parts of one file. Ours: what three digits count; each is kept open.
const PARTS: u64 = 1_000;

/// Files one behind the other.
#[derive(Debug)]
struct Split {
    /// Each with its first byte.
    parts: Vec<(u64, HostFile)>,
    size: u64,
}

/// The file that begins with `first`, opened from `path`, and the bytes that the host has allocated for it.
pub(super) fn join(path: &Path, first: HostFile) -> Result<(Arc<dyn BlockDevice>, u64)> {
    let mut allocated = first.allocated()?;
    let Some((stem, first_number)) =
        first_of(path).filter(|_| first.file().metadata().is_ok_and(|file| file.is_file()))
    else {
        return Ok((Arc::new(first), allocated));
    };
    let name = |number: u64| PathBuf::from(format!("{stem}.{number:03}"));
    let mut size = first.size();
    let mut parts = vec![(0, first)];
    let mut number = first_number;
    loop {
        number = number.saturating_add(1);
        let path = name(number);
        if !path.try_exists().map_err(|error| Error::io("look for", path.display(), error))? {
            break;
        }
        limits::check("split parts", to_u64(parts.len()).saturating_add(1), PARTS)?;
        let part = HostFile::open(&path)?;
        if !part.file().metadata().is_ok_and(|file| file.is_file()) {
            return Err(Error::invalid(format!("{} is a part of a file, but no regular file", path.display())));
        }
        let end = size.checked_add(part.size()).filter(|&end| end <= u64::MAX >> 1);
        let end = end.ok_or_else(|| Error::invalid("the parts make more than 8 EiB"))?;
        allocated = allocated.saturating_add(part.allocated()?);
        parts.push((size, part));
        size = end;
    }
    if parts.len() > 1 && first_number == 1 && name(0).exists() {
        return Err(Error::invalid(format!("the first part is {}", name(0).display())));
    }
    refuse_gap(&stem, number)?;
    if parts.len() > 1 {
        return Ok((Arc::new(Split { parts, size }), allocated));
    }
    match parts.pop() {
        Some((_, first)) => Ok((Arc::new(first), allocated)),
        None => Err(Error::invalid("a split file without parts")),
    }
}

/// Whether the file may be the first of several, by its name.
pub(crate) fn may_be_split(path: &Path) -> bool {
    first_of(path).is_some()
}

/// The name without its number, when it is a first part's.
fn first_of(path: &Path) -> Option<(String, u64)> {
    let (stem, number) = path.to_str()?.rsplit_once('.')?;
    let number = match number {
        "000" => 0,
        "001" => 1,
        _ => return None,
    };
    (!stem.is_empty() && !stem.ends_with('/')).then(|| (stem.to_owned(), number))
}

/// Refuses a part whose number is past `missing`: what was joined would end too early and nothing would say so.
fn refuse_gap(stem: &str, missing: u64) -> Result<()> {
    let stem = Path::new(stem);
    let directory = stem.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let Some(prefix) = stem.file_name().and_then(|name| name.to_str()) else { return Ok(()) };
    // A directory that may not be listed hides no part from its owner.
    let Ok(entries) = directory.read_dir() else { return Ok(()) };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(prefix)?.strip_prefix('.'));
        let number = number.filter(|number| number.len() >= 3 && number.bytes().all(|byte| byte.is_ascii_digit()));
        if number.and_then(|number| number.parse::<u64>().ok()).is_some_and(|number| number > missing) {
            let gap = format!("{}.{missing:03}", stem.display());
            return Err(Error::invalid(format!("part {gap} is missing, but there is {}", name.to_string_lossy())));
        }
    }
    Ok(())
}

impl Split {
    /// The part that holds the beginning of `range`, and how much of it, in the part's own offsets.
    fn find(&self, range: &Range<u64>) -> Result<(&HostFile, Range<u64>)> {
        check_range(self.size, range.start, to_usize(super::range_len(range)))?;
        let index = self.parts.partition_point(|(start, _)| *start <= range.start).checked_sub(1);
        let (start, part) = index
            .and_then(|index| self.parts.get(index))
            .ok_or_else(|| Error::corrupt("split", "offset", range.start, "no part there", "one"))?;
        let within = range.start.saturating_sub(*start);
        Ok((part, within..range.end.saturating_sub(*start).min(part.size())))
    }
}

impl BlockDevice for Split {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let end = check_range(self.size, offset, buf.len())?;
        let (mut rest, mut at) = (buf, offset);
        while !rest.is_empty() {
            let (part, range) = self.find(&(at..end))?;
            let len = to_usize(super::range_len(&range)).max(1);
            let (head, tail) = rest.split_at_mut_checked(len).unwrap_or_default();
            part.read_exact_at(head, range.start)?;
            at = at.saturating_add(to_u64(len));
            rest = tail;
        }
        Ok(())
    }

    fn next_extent(&self, range: Range<u64>) -> Result<Extent> {
        let (part, range) = self.find(&range)?;
        part.next_extent(range)
    }

    fn host_range(&self, range: Range<u64>) -> Option<HostRange<'_>> {
        let (part, range) = self.find(&range).ok()?;
        part.host_range(range)
    }

    fn status(&self, range: Range<u64>) -> Result<Status> {
        let (part, range) = self.find(&range)?;
        part.status(range)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{for_each_extent, read_vec};
    use super::*;

    fn open(directory: &Path, name: &str) -> Result<Arc<dyn BlockDevice>> {
        let path = directory.join(name);
        Ok(join(&path, HostFile::open(&path)?)?.0)
    }

    #[test]
    fn parts_are_one_file_with_its_holes() {
        let dir = tempfile::tempdir().unwrap();
        let disk: Vec<u8> = (0..10_000u32).flat_map(u32::to_le_bytes).collect();
        for (number, part) in disk.chunks(9_001).enumerate() {
            std::fs::write(dir.path().join(format!("d.raw.{number:03}")), part).unwrap();
            std::fs::write(dir.path().join(format!("e.raw.{:03}", number + 1)), part).unwrap();
        }
        for name in ["d.raw.000", "e.raw.001"] {
            let device = open(dir.path(), name).unwrap();
            assert!(read_vec(&*device, 0, disk.len()).unwrap() == disk, "{name}");
            assert_eq!(read_vec(&*device, 8_999, 5).unwrap(), disk[8_999..9_004]);
            assert!(read_vec(&*device, 39_999, 2).is_err());
            let place = device.host_range(8_000..20_000).unwrap();
            assert_eq!((place.offset, place.len), (8_000, 1_001));
            assert_eq!(device.status(9_001..40_000).unwrap().len, 9_001);
            let mut end = 0;
            for_each_extent(&*device, 0..40_000, &mut |run, _| {
                assert_eq!(run.start, end);
                end = run.end;
                Ok(())
            })
            .unwrap();
            assert_eq!(end, 40_000);
        }
    }

    #[test]
    fn gaps_are_refused_and_single_files_are_themselves() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a.001", "a.003", "b.001", "b.002x", "c.002", "c.003", "d.001"] {
            std::fs::write(dir.path().join(name), b"xy").unwrap();
        }
        std::fs::create_dir(dir.path().join("d.002")).unwrap();
        let error = open(dir.path(), "a.001").unwrap_err();
        assert!(error.to_string().ends_with("a.002 is missing, but there is a.003"), "{error}");
        assert_eq!(open(dir.path(), "b.001").unwrap().size(), 2);
        assert_eq!(open(dir.path(), "c.002").unwrap().size(), 2);
        assert_eq!(open(dir.path(), "d.001").unwrap_err().exit_code(), 2);
        std::fs::write(dir.path().join("a.002"), b"xy").unwrap();
        assert_eq!(open(dir.path(), "a.001").unwrap().size(), 6);
        std::fs::write(dir.path().join("a.000"), b"xy").unwrap();
        assert_eq!(open(dir.path(), "a.000").unwrap().size(), 8);
        assert_eq!(open(dir.path(), "a.001").unwrap_err().exit_code(), 2);
    }
}
