//! VHDX, the virtual hard disk version 2 of Microsoft.

use std::sync::Arc;

use super::open::OpenContext;
use super::{BlockDevice, ImageInfo, ImageWriter, NewImage};
use crate::error::{Error, Result};

const FORMAT: &str = "vhdx";

/// Opens the disk in `file`.
pub(crate) fn open(
    _file: Arc<dyn BlockDevice>,
    _context: &OpenContext<'_>,
    _filename: String,
) -> Result<(Arc<dyn BlockDevice>, ImageInfo)> {
    Err(Error::unsupported(FORMAT, "reading"))
}

/// A writer for a new image.
pub(crate) fn writer(_new: &NewImage, _name: &str) -> Result<Box<dyn ImageWriter>> {
    Err(Error::unsupported(FORMAT, "writing"))
}
