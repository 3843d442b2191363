//! Where the guest's filesystems lie: partition tables and logical volumes.
//!
//! [`scan`] reads a disk's partition table, MBR or GPT; [`lvm::scan`] takes disks and partitions together and finds the
//! volume groups that are spread over them. Both hand out [`BlockDevice`](crate::block::BlockDevice)s that know holes
//! and host ranges like the disks below.
#![deny(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::as_conversions)]
#![cfg_attr(test, allow(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::as_conversions))]

mod gpt;
pub mod lvm;
mod mbr;
mod table;

pub use table::{Partition, PartitionKind, PartitionTable, PartitionType, TableKind, scan};
