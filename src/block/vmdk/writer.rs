//! New VMDK images.

use crate::block::{ImageWriter, NewImage};
use crate::error::{Error, Result};

/// A writer for a new image.
pub(crate) fn writer(_new: &NewImage, _name: &str) -> Result<Box<dyn ImageWriter>> {
    Err(Error::unsupported(super::FORMAT, "writing"))
}
