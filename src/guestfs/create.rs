//! Making new disk images.

use std::path::Path;

use super::Guestfs;
use crate::block::NewImage;
use crate::error::Result;
use crate::ops;

impl Guestfs {
    /// Makes an empty disk image of `size` bytes in `format` ("raw", "qcow2", "vmdk", "vdi", "vpc", "vhdx"), which the
    /// host stores sparsely. It appears under its name complete, in place of a file that was there. Needs no launch.
    pub fn disk_create(&self, filename: impl AsRef<Path>, format: &str, size: u64) -> Result<()> {
        self.disk_create_opts(filename, &NewImage::new(format.parse()?, size))
    }

    /// The same with everything that can be chosen: backing file, cluster size, preallocation …
    pub fn disk_create_opts(&self, filename: impl AsRef<Path>, new: &NewImage) -> Result<()> {
        ops::create(filename.as_ref(), new)
    }
}
