//! Raw images: the disk's bytes and nothing else.

use std::fs::File;
use std::ops::Range;

use super::writer::{refuse, refuse_qcow2_options};
use super::{ImageWriter, NewImage, Placed, Preallocation, range_len};
use crate::error::{Error, Result};

/// The granularity at which zeroes become holes: `qemu-img convert -S 4k`, and the block of every host filesystem.
const UNIT: u64 = 4096;

/// Every byte has its place from the beginning.
#[derive(Debug)]
struct RawWriter {
    name: String,
    size: u64,
}

pub(crate) fn writer(new: &NewImage, name: &str) -> Result<Box<dyn ImageWriter>> {
    refuse_qcow2_options("raw", new)?;
    refuse(
        "raw",
        &[
            ("subformat", new.subformat.is_some()),
            ("cluster_size", new.cluster_size.is_some()),
            ("compression", new.compression.is_some()),
            ("backing_file", new.backing.is_some()),
            ("preallocation=metadata", new.preallocation == Preallocation::Metadata),
        ],
    )?;
    Ok(Box::new(RawWriter { name: name.to_owned(), size: new.size }))
}

impl ImageWriter for RawWriter {
    fn unit(&self) -> u64 {
        UNIT
    }

    fn place(&mut self, run: Range<u64>) -> Result<Placed> {
        Ok(Placed { file: 0, offset: run.start, len: range_len(&run) })
    }

    fn finish(&mut self, files: &[File]) -> Result<()> {
        files.iter().try_for_each(|file| file.set_len(self.size)).map_err(|error| Error::io("grow", &self.name, error))
    }

    fn file_names(&self) -> Vec<String> {
        vec![self.name.clone()]
    }
}
