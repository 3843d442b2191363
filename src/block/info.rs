//! What an image file says about itself, with the keys of `qemu-img info --output=json`.

use serde::Serialize;

use super::probe::ImageFormat;
use super::wrapped::Container;

/// The facts of one image file. Serialised, its keys are those of QEMU's `ImageInfo` (qapi/block-core.json), so that
/// scripts written for qemu-img read it; `probed` is ours.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct ImageInfo {
    /// The path as given.
    pub filename: String,
    /// The format.
    pub format: ImageFormat,
    /// Whether the format was guessed from the first bytes and not stated.
    pub probed: bool,
    /// What the image is wrapped in; ours, not in qemu-img's output.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compressed_container: Option<Container>,
    /// Bytes the guest saw.
    pub virtual_size: u64,
    /// Bytes the host has allocated for the file itself; unknown inside archives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actual_size: Option<u64>,
    /// Bytes of a cluster or grain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_size: Option<u64>,
    /// Present and true when the guest data is encrypted by the format.
    #[serde(skip_serializing_if = "is_false")]
    pub encrypted: bool,
    /// Present and true when clusters are always compressed (streamOptimized).
    #[serde(skip_serializing_if = "is_false")]
    pub compressed: bool,
    /// The image was not closed cleanly; false for formats that do not know. Always present in images, as in qemu-img.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dirty_flag: Option<bool>,
    /// The backing file's name, as it stands in the image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing_filename: Option<String>,
    /// The backing file's name, seen from where the image was named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub full_backing_filename: Option<String>,
    /// The format that the image states for its backing file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing_filename_format: Option<String>,
    /// Internal snapshots, in the table's order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub snapshots: Vec<SnapshotInfo>,
    /// What only this format has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format_specific: Option<FormatSpecific>,
}

impl ImageInfo {
    /// The least that can be said of an image.
    #[must_use]
    pub fn new(filename: String, format: ImageFormat, virtual_size: u64) -> Self {
        Self {
            filename,
            format,
            probed: false,
            compressed_container: None,
            virtual_size,
            actual_size: None,
            cluster_size: None,
            encrypted: false,
            compressed: false,
            dirty_flag: None,
            backing_filename: None,
            full_backing_filename: None,
            backing_filename_format: None,
            snapshots: Vec::new(),
            format_specific: None,
        }
    }
}

fn is_false(value: &bool) -> bool {
    !value
}

/// One internal snapshot, with the keys of QEMU's `SnapshotInfo`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct SnapshotInfo {
    /// The unique id, usually a number.
    pub id: String,
    /// The user's name for it.
    pub name: String,
    /// Bytes of saved machine state.
    pub vm_state_size: u64,
    /// When it was taken, seconds since 1970.
    pub date_sec: u64,
    /// and nanoseconds.
    pub date_nsec: u32,
    /// The guest's clock then, seconds
    pub vm_clock_sec: u64,
    /// and nanoseconds.
    pub vm_clock_nsec: u32,
    /// Instructions executed, with QEMU's record/replay.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icount: Option<u64>,
    /// The disk's size in bytes then; ours, not in qemu-img's output.
    #[serde(skip)]
    pub disk_size: u64,
}

/// What only one format has, with the keys of QEMU's `ImageInfoSpecific`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "type", content = "data", rename_all = "lowercase")]
#[non_exhaustive]
pub enum FormatSpecific {
    /// QEMU's `ImageInfoSpecificQCow2`.
    #[serde(rename_all = "kebab-case")]
    Qcow2 {
        /// "0.10" for version 2, "1.1" for version 3.
        compat: String,
        /// "zlib" or "zstd".
        compression_type: String,
        /// Version 3 only.
        #[serde(skip_serializing_if = "Option::is_none")]
        lazy_refcounts: Option<bool>,
        /// Bits of one reference count.
        refcount_bits: u32,
        /// Version 3 only: the corrupt bit.
        #[serde(skip_serializing_if = "Option::is_none")]
        corrupt: Option<bool>,
        /// Version 3 only: sub-cluster allocation.
        #[serde(skip_serializing_if = "Option::is_none")]
        extended_l2: Option<bool>,
        /// The external data file's name.
        #[serde(skip_serializing_if = "Option::is_none")]
        data_file: Option<String>,
        /// Whether the external data file reads as a raw disk on its own.
        #[serde(skip_serializing_if = "Option::is_none")]
        data_file_raw: Option<bool>,
    },
    /// QEMU's `ImageInfoSpecificVmdk`.
    #[serde(rename_all = "kebab-case")]
    Vmdk {
        /// The descriptor's createType.
        create_type: String,
        /// The descriptor's CID.
        cid: u32,
        /// The descriptor's parentCID.
        parent_cid: u32,
        /// One record per extent.
        extents: Vec<VmdkExtentInfo>,
    },
}

/// One extent of a VMDK, with the keys of QEMU's `VmdkExtentInfo`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct VmdkExtentInfo {
    /// The extent's file.
    pub filename: String,
    /// FLAT, SPARSE, ZERO …
    pub format: String,
    /// Bytes of guest data it covers.
    pub virtual_size: u64,
    /// Bytes of a grain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_size: Option<u64>,
    /// Whether its grains are compressed.
    #[serde(skip_serializing_if = "is_false")]
    pub compressed: bool,
}
