//! qcow2
use super::open::OpenContext;
use super::{BlockDevice, Extent, ImageInfo};
use crate::error::{Error, Result};
use std::ops::Range;
use std::sync::Arc;
/// A qcow2 image.
#[derive(Debug)]
pub struct Qcow2;
impl Qcow2 {
    pub(crate) fn open(_file: Arc<dyn BlockDevice>, _context: &OpenContext<'_>) -> Result<Self> {
        Err(Error::unsupported("qcow2", "reading"))
    }
    pub(crate) fn info(&self, filename: String) -> ImageInfo {
        ImageInfo::new(filename, super::ImageFormat::Qcow2, 0)
    }
}
impl BlockDevice for Qcow2 {
    fn size(&self) -> u64 {
        0
    }
    fn read_exact_at(&self, _buf: &mut [u8], _offset: u64) -> Result<()> {
        Err(Error::unsupported("qcow2", "reading"))
    }
    fn next_extent(&self, _range: Range<u64>) -> Result<Extent> {
        Err(Error::unsupported("qcow2", "reading"))
    }
}
