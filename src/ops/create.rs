//! New, empty disk images.

use std::path::Path;

use super::staged::Staged;
use crate::error::{Error, Result};

/// Makes a raw image of `size` bytes, all of them a hole.
pub fn create_raw(path: &Path, size: u64) -> Result<()> {
    let staged = Staged::create(path)?;
    staged.file.set_len(size).map_err(|error| Error::io("set the size of", path.display(), error))?;
    staged.publish(path)
}
