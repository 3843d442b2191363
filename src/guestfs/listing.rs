//! What devices and filesystems there are: the `list_*`, `vfs_*` and `blockdev_*` calls.

use super::Guestfs;
use crate::block::ImageInfo;
use crate::error::{Error, Result};
use crate::fs::probe;
use crate::ops::{self, Algorithm};
use crate::progress::Progress;

/// One filesystem, with what a table of them shows.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Listed {
    /// `/dev/sda1`, `/dev/VG/LV`.
    pub device: String,
    /// blkid's name; `unknown` when there is no known signature.
    pub fs_type: String,
    /// The label.
    pub label: Option<String>,
    /// The UUID or serial number.
    pub uuid: Option<String>,
    /// Bytes of the device.
    pub size: u64,
    /// GPT type UUID, or MBR type as two hexadecimal digits.
    pub partition_type: Option<String>,
    /// The GPT partition's name.
    pub partition_label: Option<String>,
    /// PARTUUID.
    pub partition_uuid: Option<String>,
}

impl Guestfs {
    /// The drives: `/dev/sda` …
    pub fn list_devices(&self) -> Result<Vec<String>> {
        Ok(self.launched()?.devices.drives().iter().map(|drive| drive.name.clone()).collect())
    }

    /// The partitions of all drives, extended ones included: `/dev/sda1` …
    pub fn list_partitions(&self) -> Result<Vec<String>> {
        let launched = self.launched()?;
        let partitions = launched.devices.partitions()?;
        Ok(partitions.iter().map(|(drive, partition)| format!("{}{}", drive.name, partition.number)).collect())
    }

    /// The logical volumes: `/dev/VG/LV` …
    pub fn lvs(&self) -> Result<Vec<String>> {
        let launched = self.launched()?;
        let volumes = launched.devices.groups()?.iter().flat_map(|group| &group.logical_volumes);
        Ok(volumes.map(crate::volume::lvm::LogicalVolume::device_path).collect())
    }

    /// Everything that can be mounted or is swap or empty, as (mountable, type), in libguestfs's order. Extended and
    /// reserved partitions and members of something else (LVM, RAID, LUKS) are left out; a device without a known
    /// signature has the type `unknown`.
    pub fn list_filesystems(&self) -> Result<Vec<(String, String)>> {
        let launched = self.launched()?;
        let found = launched.devices.filesystems()?;
        Ok(found.into_iter().map(|(mountable, identity)| (mountable.name, identity.kind.name().to_owned())).collect())
    }

    /// The same with labels, UUIDs, sizes and partition entries.
    pub fn list_filesystems_long(&self) -> Result<Vec<Listed>> {
        let launched = self.launched()?;
        let row = |(mountable, identity): (super::devices::Mountable<'_>, crate::fs::Identity)| Listed {
            device: mountable.name,
            fs_type: identity.kind.name().to_owned(),
            label: identity.label,
            uuid: identity.uuid,
            size: mountable.device.size(),
            partition_type: mountable.partition.map(|partition| partition.type_id.to_string()),
            partition_label: mountable.partition.and_then(|partition| partition.name.clone()),
            partition_uuid: mountable.partition.and_then(|partition| partition.uuid.clone()),
        };
        Ok(launched.devices.filesystems()?.into_iter().map(row).collect())
    }

    /// What lies on a device, by blkid's names: `ext4`, `swap`, `LVM2_member`; `unknown` without a known signature.
    pub fn vfs_type(&self, mountable: &str) -> Result<String> {
        Ok(self.identity(mountable)?.kind.name().to_owned())
    }

    /// The filesystem's label, empty when it has none.
    pub fn vfs_label(&self, mountable: &str) -> Result<String> {
        Ok(self.identity(mountable)?.label.unwrap_or_default())
    }

    /// The filesystem's UUID or serial number, empty when it has none.
    pub fn vfs_uuid(&self, mountable: &str) -> Result<String> {
        Ok(self.identity(mountable)?.uuid.unwrap_or_default())
    }

    /// Bytes of a device.
    pub fn blockdev_getsize64(&self, device: &str) -> Result<u64> {
        Ok(self.launched()?.devices.find(device)?.size())
    }

    /// `msdos` or `gpt`.
    pub fn part_get_parttype(&self, device: &str) -> Result<String> {
        let launched = self.launched()?;
        let drive = launched.devices.drives().iter().find(|drive| drive.name == device);
        let drive = drive.ok_or_else(|| Error::path(device.as_bytes(), crate::PathProblem::NoSuchDevice))?;
        match drive.table()? {
            Some(table) => Ok(table.kind.name().to_owned()),
            None => Err(drive.name_in(Error::invalid("there is no partition table"))),
        }
    }

    /// Up to `count` bytes of a device from `offset`; fewer at its end. More than [`limits::CALL_BYTES`](crate::limits::CALL_BYTES) are refused.
    pub fn pread_device(&self, device: &str, count: u64, offset: u64) -> Result<Vec<u8>> {
        let bytes = self.launched()?.devices.find(device)?;
        super::files::pread(&bytes, count, offset).map_err(|error| error.on_device(device))
    }

    /// The digest of a whole device.
    pub fn checksum_device(&self, csumtype: &str, device: &str, progress: &dyn Progress) -> Result<String> {
        let algorithm: Algorithm = csumtype.parse()?;
        let bytes = self.launched()?.devices.find(device)?;
        ops::checksum(&bytes, algorithm, progress).map_err(|error| error.on_device(device))
    }

    /// What is known of the drives' image files, in the order they were added.
    pub fn image_info(&self) -> Result<Vec<ImageInfo>> {
        Ok(self.launched()?.devices.drives().iter().map(|drive| drive.info.clone()).collect())
    }

    fn identity(&self, mountable: &str) -> Result<crate::fs::Identity> {
        let device = self.launched()?.devices.find(mountable)?;
        probe(&*device).map_err(|error| error.on_device(mountable))
    }
}
