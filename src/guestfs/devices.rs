//! Drives, partitions and logical volumes by name.

use std::sync::{Arc, OnceLock};

use super::drive::OpenDrive;
use crate::block::BlockDevice;
use crate::error::{Error, PathProblem, Result};
use crate::fs::{FsKind, Identity, probe};
use crate::volume::lvm::{self, VolumeGroup};
use crate::volume::{Partition, PartitionKind, PartitionType};

/// GPT types that hold no filesystem: Microsoft reserved, LDM metadata, LDM data.
const NO_FILESYSTEM: [&str; 3] = [
    "e3c9e316-0b5c-4db8-817d-f92df00215ae",
    "5808c8aa-7e8f-42e0-85d2-e1e90434cfb3",
    "af9b60a0-1431-4f62-bc68-3311714a69ad",
];

/// All drives, and what was found on them at the first question.
#[derive(Debug)]
pub(super) struct Devices {
    drives: Vec<OpenDrive>,
    groups: OnceLock<Vec<VolumeGroup>>,
}

/// A device that may hold a filesystem.
#[derive(Debug)]
pub(super) struct Mountable<'a> {
    /// `/dev/sda1`, `/dev/VG/LV`.
    pub name: String,
    /// Its bytes.
    pub device: Arc<dyn BlockDevice>,
    /// The partition's entry, if it is one.
    pub partition: Option<&'a Partition>,
    /// Further names.
    pub aliases: Vec<String>,
}

impl Devices {
    pub(super) fn new(drives: Vec<OpenDrive>) -> Self {
        Self { drives, groups: OnceLock::new() }
    }

    pub(super) fn drives(&self) -> &[OpenDrive] {
        &self.drives
    }

    /// The drive called `name`, by any of the names disks go by (`/dev/vda` is `/dev/sda`).
    fn drive(&self, name: &str) -> Option<&OpenDrive> {
        let name = canonical(name);
        self.drives.iter().find(|drive| drive.name == name)
    }

    /// The device called `name`: a drive, a partition or a logical volume.
    pub(super) fn find(&self, name: &str) -> Result<Arc<dyn BlockDevice>> {
        if let Some(drive) = self.drive(name) {
            return Ok(drive.disk.clone());
        }
        let digits = name.len() - name.trim_end_matches(|c: char| c.is_ascii_digit()).len();
        let (disk, number) = name.split_at(name.len() - digits);
        if let (Some(drive), Ok(number)) = (self.drive(disk), number.parse::<u32>()) {
            let found =
                drive.table()?.and_then(|table| table.partitions.iter().find(|partition| partition.number == number));
            if let Some(partition) = found {
                return partition.device(&drive.disk).map_err(|error| drive.name_in(error));
            }
        } else {
            let volumes = self.groups()?.iter().flat_map(|group| &group.logical_volumes);
            if let Some(volume) =
                volumes.into_iter().find(|volume| volume.device_path() == name || volume.mapper_path() == name)
            {
                return Ok(volume.device.clone());
            }
        }
        Err(Error::path(name.as_bytes(), PathProblem::NoSuchDevice)
            .with_hint("list_filesystems (guestctl filesystems) shows what there is"))
    }

    /// Partitions of all drives, with the drive each lies on.
    pub(super) fn partitions(&self) -> Result<Vec<(&OpenDrive, &Partition)>> {
        let mut found = Vec::new();
        for drive in &self.drives {
            let partitions = drive.table()?.into_iter().flat_map(|table| &table.partitions);
            found.extend(partitions.map(|partition| (drive, partition)));
        }
        Ok(found)
    }

    /// Volume groups over all drives.
    pub(super) fn groups(&self) -> Result<&[VolumeGroup]> {
        if let Some(groups) = self.groups.get() {
            return Ok(groups);
        }
        let mut candidates = Vec::new();
        for drive in &self.drives {
            match drive.table()? {
                Some(table) if !table.partitions.is_empty() => {
                    for partition in
                        table.partitions.iter().filter(|partition| partition.kind != PartitionKind::Extended)
                    {
                        let device = partition.device(&drive.disk).map_err(|error| drive.name_in(error))?;
                        candidates.push((format!("{}{}", drive.name, partition.number), device));
                    }
                }
                _ => candidates.push((drive.name.clone(), drive.disk.clone())),
            }
        }
        let groups = lvm::scan(&candidates)?;
        for group in &groups {
            for note in &group.notes {
                log::warn!("volume group {}: {note}", group.name);
            }
        }
        Ok(self.groups.get_or_init(|| groups))
    }

    /// Everything that can hold a filesystem, in libguestfs's order: drives without partitions, partitions, logical
    /// volumes.
    pub(super) fn mountables(&self) -> Result<Vec<Mountable<'_>>> {
        let bare = |name: String, device| Mountable { name, device, partition: None, aliases: Vec::new() };
        let mut found = Vec::new();
        for drive in &self.drives {
            if drive.table()?.is_none_or(|table| table.partitions.is_empty()) {
                found.push(bare(drive.name.clone(), drive.disk.clone()));
            }
        }
        for (drive, partition) in self.partitions()? {
            let reserved =
                matches!(&partition.type_id, PartitionType::Gpt(kind) if NO_FILESYSTEM.contains(&kind.as_str()));
            if partition.kind != PartitionKind::Extended && !reserved {
                let device = partition.device(&drive.disk).map_err(|error| drive.name_in(error))?;
                let name = format!("{}{}", drive.name, partition.number);
                found.push(Mountable { partition: Some(partition), ..bare(name, device) });
            }
        }
        for volume in self.groups()?.iter().flat_map(|group| &group.logical_volumes) {
            let aliases = vec![volume.mapper_path()];
            found.push(Mountable { aliases, ..bare(volume.device_path(), volume.device.clone()) });
        }
        Ok(found)
    }

    /// The mountables that hold a filesystem, swap space or nothing known; parts of something else are left out.
    pub(super) fn filesystems(&self) -> Result<Vec<(Mountable<'_>, Identity)>> {
        let mut found = Vec::new();
        for mountable in self.mountables()? {
            // What breaks one filesystem's own header is for `mount` to say; a listing names what it sees.
            let identity = probe(&*mountable.device).unwrap_or_else(|error| {
                log::warn!("{}: {error}", mountable.name);
                Identity { kind: FsKind::Unknown, label: None, uuid: None }
            });
            if !identity.kind.is_container() {
                found.push((mountable, identity));
            }
        }
        Ok(found)
    }
}

/// The name under which drives are kept, for the names that other disk drivers give them.
fn canonical(name: &str) -> String {
    for other in ["/dev/vd", "/dev/hd", "/dev/xvd"] {
        if let Some(letters) = name.strip_prefix(other) {
            return format!("/dev/sd{letters}");
        }
    }
    name.to_owned()
}
