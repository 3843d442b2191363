//! OVA
use super::BlockDevice;
use super::open::{Image, OpenContext};
use crate::error::{Error, Result};
use std::sync::Arc;
pub(crate) fn open(_file: &Arc<dyn BlockDevice>, _context: &OpenContext<'_>) -> Result<Image> {
    Err(Error::unsupported("ova", "reading"))
}
