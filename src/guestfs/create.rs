//! Making new disk images.

use std::path::Path;

use super::Guestfs;
use crate::block::ImageFormat;
use crate::error::{Error, Result};
use crate::ops;

impl Guestfs {
    /// Makes an empty disk image of `size` bytes that the host stores sparsely. It appears under its name complete, in
    /// place of a file that was there. Needs no launch. The format is `raw`; no other can be written yet.
    pub fn disk_create(&self, filename: impl AsRef<Path>, format: &str, size: u64) -> Result<()> {
        match format.parse()? {
            ImageFormat::Raw => ops::create_raw(filename.as_ref(), size),
            other => Err(Error::unsupported(other.name(), "creating images")),
        }
    }
}
