//! New, empty disk images.

use std::path::Path;

use super::convert::NewFiles;
use crate::block::{NewImage, Preallocation};
use crate::error::Result;

/// Makes the image that `new` describes at `path`, in place of a file that was there. With a backing file its disk shows
/// what the backing file holds; else it is all zeroes. With
/// [`preallocation`](NewImage::preallocation) every guest byte gets its place now.
pub fn create(path: &Path, new: &NewImage) -> Result<()> {
    let files = NewFiles::create(path, new)?;
    if new.preallocation != Preallocation::Off {
        super::convert::fill(&files, new.size, new.preallocation)?;
    }
    files.finish(new.preallocation)?;
    files.publish()
}
