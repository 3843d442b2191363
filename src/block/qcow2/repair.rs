//! Repair.
use crate::block::writable::Resizable;
use crate::error::{Error, Result};
use std::sync::Arc;

/// Counts references again in an image whose counts may be behind.
pub(super) fn dirty(_file: &Arc<dyn Resizable>) -> Result<()> {
    Err(Error::unsupported(super::FORMAT, "writing images that were not closed"))
}
