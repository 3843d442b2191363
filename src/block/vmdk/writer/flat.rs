//! Flat images: the disk's bytes in files of their own, and a descriptor that names them.

use std::fs::File;
use std::ops::Range;

use super::super::descriptor::ExtentType;
use super::descriptor::{self, Line};
use super::{Disk, content_id, nth, set_len, write};
use crate::block::{ImageWriter, Placed, range_len};
use crate::bytes::{div_rem, to_u64, to_usize};
use crate::error::Result;

/// The granularity at which zeroes become holes of the host's filesystem.
const UNIT: u64 = 4096;
/// What VMware makes of "2 GB": 4,192,256 sectors, so that a file with tables stays below 2 GiB too.
pub(super) const SPLIT: u64 = 2047 << 20;

#[derive(Debug)]
struct Flat {
    disk: Disk,
    create_type: &'static str,
    /// The files' names and sizes; all but the last have `part` bytes.
    parts: Vec<(String, u64)>,
    part: u64,
    /// Data so far: all runs before the last, and the last.
    hasher: blake3::Hasher,
    last: Range<u64>,
}

pub(super) fn monolithic(disk: Disk) -> Result<Box<dyn ImageWriter>> {
    let parts = vec![(disk.beside("-flat"), disk.size)];
    let part = disk.size;
    Ok(flat(disk, "monolithicFlat", parts, part))
}

pub(super) fn split(disk: Disk) -> Result<Box<dyn ImageWriter>> {
    let sizes = disk.parts(SPLIT)?;
    let parts = (1..).zip(sizes).map(|(number, size): (u32, _)| (disk.beside(&format!("-f{number:03}")), size));
    let parts = parts.collect();
    Ok(flat(disk, "twoGbMaxExtentFlat", parts, SPLIT))
}

fn flat(disk: Disk, create_type: &'static str, parts: Vec<(String, u64)>, part: u64) -> Box<dyn ImageWriter> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(create_type.as_bytes()).update(&disk.size.to_le_bytes());
    Box::new(Flat { disk, create_type, parts, part, hasher, last: 0..0 })
}

impl Flat {
    /// Runs that follow one another count as one, however they were cut.
    fn note(&mut self, run: Range<u64>) {
        if run.start == self.last.end {
            self.last.end = run.end;
            return;
        }
        self.hasher.update(&self.last.start.to_le_bytes()).update(&self.last.end.to_le_bytes());
        self.last = run;
    }
}

impl ImageWriter for Flat {
    fn unit(&self) -> u64 {
        UNIT
    }

    fn place(&mut self, run: Range<u64>) -> Result<Placed> {
        let (index, offset) = div_rem(run.start, self.part);
        let len = range_len(&run).min(self.part.saturating_sub(offset));
        self.note(run.start..run.start.saturating_add(len));
        Ok(Placed { file: to_usize(index).saturating_add(1), offset, len })
    }

    fn finish(&mut self, files: &[File]) -> Result<()> {
        for (index, (name, size)) in self.parts.iter().enumerate() {
            set_len(nth(files, index.saturating_add(1), name)?, name, *size)?;
        }
        self.note(u64::MAX..u64::MAX);
        let lines = self.parts.iter().cloned();
        let lines: Vec<_> = lines.map(|(file, size)| Line { size, kind: ExtentType::Flat, file }).collect();
        let text = descriptor::text(self.create_type, content_id(&self.hasher), self.disk.size, &lines);
        let main = nth(files, 0, &self.disk.name)?;
        set_len(main, &self.disk.name, to_u64(text.len()))?;
        write(main, &self.disk.name, text.as_bytes(), 0)
    }

    fn file_names(&self) -> Vec<String> {
        std::iter::once(&self.disk.name).chain(self.parts.iter().map(|(name, _)| name)).cloned().collect()
    }
}
