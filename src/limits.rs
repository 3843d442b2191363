//! Named budgets for untrusted input. Each length, depth and count that an image states is held against one of these
//! before anything is allocated or followed. Whose limit it is stands with each: the specification's, the kernel's or
//! ours.

use crate::error::{Error, Result};

/// Images below an image, the image itself not counted. Ours; qemu-img itself sets none, 200 is past every real chain.
pub const BACKING_CHAIN_DEPTH: u64 = 200;

/// Bytes of one table that must be read whole (a qcow2 L1 table, a grain directory). QEMU's limit for the L1 table.
pub const TABLE_BYTES: u64 = 32 << 20;

/// Bytes of a text descriptor inside an image (VMDK, OVF). Ours; QEMU allows 1 MiB for VMDK.
pub const DESCRIPTOR_BYTES: u64 = 1 << 20;

/// Internal snapshots of one qcow2 image. QEMU's limit.
pub const SNAPSHOTS: u64 = 65_536;

/// Extents of one multi-extent VMDK. Ours.
pub const VMDK_EXTENTS: u64 = 4_096;

/// Entries of one partition table, and logical partitions in one chain. Ours; GPT tables hold 128, Linux names 256.
pub const PARTITIONS: u64 = 1_024;

/// Bytes of LVM2 text metadata. Ours; real groups stay below 1 MiB.
pub const LVM_METADATA_BYTES: u64 = 16 << 20;

/// Segments of all logical volumes together. Ours.
pub const LVM_SEGMENTS: u64 = 100_000;

/// Symbolic links followed in one path resolution. The kernel's MAXSYMLINKS.
pub const SYMLINKS: u32 = 40;

/// Bytes of one path. The kernel's PATH_MAX.
pub const PATH_BYTES: usize = 4_096;

/// Components looked up in one path resolution, those of links included. Ours; the kernel allows 40 links of 2048 each.
pub const PATH_STEPS: u64 = 8_192;

/// Directories below one another in a walk; deeper is a cycle or an attack. Ours; PATH_MAX allows 2048.
pub const DIRECTORY_DEPTH: usize = 4_096;

/// Bytes of one symbolic link's target. Ext4 keeps at most one block, which is at most 64 KiB.
pub const SYMLINK_BYTES: u64 = 65_536;

/// Bytes of one extended-attribute value. The kernel's XATTR_SIZE_MAX.
pub const XATTR_BYTES: u64 = 65_536;

/// Bytes of one guest file that inspection reads whole (os-release, fstab, unit files).
pub const INSPECT_FILE_BYTES: u64 = 4 << 20;

/// Entries of one list that inspection makes: names in a directory, users, enabled services. Ours.
pub const INSPECT_ENTRIES: usize = 65_536;

/// Lines of one guest's fstab that are looked at. Ours.
pub const FSTAB_ENTRIES: usize = 4_096;

/// Filesystems mounted into one guest's namespace by inspection. Ours.
pub const INSPECT_MOUNTS: usize = 256;

/// Path components looked up in one inspection of all guests. Ours; a Debian guest needs some 2,000.
pub const INSPECT_TOTAL_STEPS: u64 = 200_000;

/// Bytes of all files read in one inspection. Ours; a Debian guest needs some 100 KB.
pub const INSPECT_TOTAL_BYTES: u64 = 16 << 20;

/// Entries of all lists of one inspection. Ours.
pub const INSPECT_TOTAL_ENTRIES: u64 = 262_144;

/// Notes kept about one guest. Ours; more say the same again.
pub const INSPECT_NOTES: usize = 100;

/// Bytes of one record of a package database (an RPM header blob, a dpkg stanza). RPM's own limit is 256 MiB; ours.
pub const PACKAGE_RECORD_BYTES: u64 = 16 << 20;

/// Packages of one guest. Ours; the whole of Debian is about 100,000.
pub const PACKAGES: u64 = 1_000_000;

/// `found` if it is within `limit`, else the [`Limit`](crate::ErrorKind::Limit) error that names it.
pub fn check(what: &'static str, found: u64, limit: u64) -> Result<u64> {
    if found <= limit { Ok(found) } else { Err(Error::limit(what, limit, found)) }
}
