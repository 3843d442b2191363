//! How many bytes a new image needs, as `qemu-img measure` counts: an upper bound, from the disk's map alone.
//!
//! For qcow2 that is a file with tables for the whole disk, and the clusters that hold data. What [`convert`](super::convert()) writes
//! is smaller, as it makes no tables for holes.

use serde::Serialize;

use super::zero::round_up;
use crate::block::{BlockDevice, ExtentKind, ImageFormat, NewImage, Preallocation, Survey, Sweep};
use crate::error::{Error, Result};

/// Bytes of a new image's file, with the keys of `qemu-img measure --output=json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Measured {
    /// For the data that there is.
    pub required: u64,
    /// Were all of the disk data.
    pub fully_allocated: u64,
}

/// Measures the image that `new` describes for the data of `source`, or for an empty disk of its size without one.
pub fn measure(new: &NewImage, source: Option<&dyn BlockDevice>) -> Result<Measured> {
    let size = source.map_or(new.size, BlockDevice::size);
    match new.format {
        ImageFormat::Raw => {
            let size = round_up(size, 512);
            Ok(Measured { required: size, fully_allocated: size })
        }
        ImageFormat::Qcow2 => qcow2(new, size, source),
        other => Err(Error::unsupported(other.name(), "measuring")),
    }
}

fn qcow2(new: &NewImage, size: u64, source: Option<&dyn BlockDevice>) -> Result<Measured> {
    // Whether the options make an image at all.
    crate::block::new_image(&NewImage { size, ..new.clone() }, "measured")?;
    let cluster_size = new.cluster_size.unwrap_or(1 << 16);
    let virtual_size = round_up(round_up(size, 512), cluster_size);
    let fully_allocated = qcow2_size(new, virtual_size, cluster_size);
    let data = match source {
        _ if matches!(new.preallocation, Preallocation::Full | Preallocation::Falloc) => virtual_size,
        None => 0,
        Some(source) => clusters_with_data(source, cluster_size)?,
    };
    Ok(Measured { required: fully_allocated - virtual_size + data, fully_allocated })
}

/// The whole file: header, tables for every cluster, reference counts for every cluster, tables included, and data.
fn qcow2_size(new: &NewImage, virtual_size: u64, cluster_size: u64) -> u64 {
    let entry = if new.extended_l2 { 16 } else { 8 };
    let l2_bytes = round_up(virtual_size / cluster_size, cluster_size / entry) * entry;
    let l1_bytes = round_up(l2_bytes / cluster_size, cluster_size / 8) * 8;
    let before = cluster_size + l2_bytes + l1_bytes;
    let clusters = (before + virtual_size) / cluster_size;
    let per_block = cluster_size * 8 / u64::from(new.refcount_bits.unwrap_or(16));
    let (mut blocks, mut table) = (0, 0);
    loop {
        let more_blocks = (clusters + table + blocks).div_ceil(per_block);
        let more_table = more_blocks.div_ceil(cluster_size / 8);
        if (more_blocks, more_table) == (blocks, table) {
            return before + virtual_size + (blocks + table) * cluster_size;
        }
        (blocks, table) = (more_blocks, more_table);
    }
}

/// Bytes of the clusters that hold data.
fn clusters_with_data(source: &dyn BlockDevice, cluster_size: u64) -> Result<u64> {
    source.audit(Sweep::Map)?;
    let mut survey = Survey::new(source);
    let (mut bytes, mut at) = (0, 0);
    while at < source.size() {
        let extent = survey.extent(at)?;
        let mut end = at + extent.len.max(1);
        if extent.kind == ExtentKind::Data {
            end = round_up(end, cluster_size);
            bytes += end - at / cluster_size * cluster_size;
        }
        at = end;
    }
    Ok(bytes)
}
