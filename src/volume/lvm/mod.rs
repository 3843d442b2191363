//! LVM2 volume groups: physical volumes on any drive, the text metadata they carry, and logical volumes as devices.
//!
//! Read are linear and striped volumes, over any number of segments and physical volumes. Other kinds (thin, raid, cache,
//! snapshot …) are listed by name and kind. Metadata of format 1 (LVM1) is not read.

mod config;
mod device;
mod label;
mod metadata;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::block::BlockDevice;
use crate::bytes::to_u64;
use crate::error::{Error, Result};
use crate::limits;

use device::{Mapped, Mapping};
use metadata::{Group, Segment, Segments};

/// A group of physical volumes and the logical volumes on them.
#[derive(Debug, Clone)]
pub struct VolumeGroup {
    /// Its name.
    pub name: String,
    /// Its UUID, in LVM's groups of letters and digits.
    pub uuid: String,
    /// Bytes of an extent, the unit in which space is given out.
    pub extent_size: u64,
    /// All physical volumes, those that were not found too.
    pub physical_volumes: Vec<PhysicalVolume>,
    /// The logical volumes that can be read, in the order of the metadata.
    pub logical_volumes: Vec<LogicalVolume>,
    /// Visible logical volumes that cannot be read: (name, kind of the first segment that is not supported).
    pub unsupported: Vec<(String, String)>,
    /// What was left out or worked around, as sentences for the user.
    pub notes: Vec<String>,
}

/// A member of a volume group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PhysicalVolume {
    /// Its UUID.
    pub uuid: String,
    /// The candidate it was found on, `None` if it is missing.
    pub device: Option<String>,
    /// Bytes given out in extents.
    pub size: u64,
}

/// A logical volume.
#[derive(Debug, Clone)]
pub struct LogicalVolume {
    /// The volume group's name.
    pub group: String,
    /// Its name.
    pub name: String,
    /// Its UUID.
    pub uuid: String,
    /// Its tags.
    pub tags: Vec<String>,
    /// Whether the metadata lets it be written.
    pub writable: bool,
    /// Its bytes.
    pub device: Arc<dyn BlockDevice>,
}

impl LogicalVolume {
    /// `/dev/GROUP/NAME`.
    #[must_use]
    pub fn device_path(&self) -> String {
        format!("/dev/{}/{}", self.group, self.name)
    }

    /// `/dev/mapper/GROUP-NAME`, dashes in either name doubled.
    #[must_use]
    pub fn mapper_path(&self) -> String {
        format!("/dev/mapper/{}-{}", self.group.replace('-', "--"), self.name.replace('-', "--"))
    }
}

/// A candidate that is a physical volume.
struct Member<'a> {
    name: &'a str,
    device: &'a Arc<dyn BlockDevice>,
}

/// Finds the volume groups on `candidates`, (name, device) of every disk and partition of a guest; sorted by name.
///
/// Where copies of the metadata disagree, the highest sequence number counts. A logical volume that needs a missing
/// physical volume is left out with a note. A physical volume whose own metadata is damaged still serves a group that
/// another one describes; if no group at all is found, its error is returned, otherwise it is a note of the first group.
pub fn scan(candidates: &[(String, Arc<dyn BlockDevice>)]) -> Result<Vec<VolumeGroup>> {
    let mut scan = Scan::default();
    for (name, device) in candidates {
        if let Err(error) = scan.add(name, device) {
            scan.problems.push(error.on_device(name));
        }
    }
    scan.finish()
}

#[derive(Default)]
struct Scan<'a> {
    /// By UUID without dashes.
    members: HashMap<String, Member<'a>>,
    /// The newest description of each group, by the group's UUID.
    groups: HashMap<String, Group>,
    /// (checksum, size) of texts that were read.
    seen: HashSet<(u32, u64)>,
    /// Bytes of those; all of them together stay within the limit for one.
    bytes: u64,
    problems: Vec<Error>,
    /// Further candidates with the label of one in `members`, by its UUID.
    duplicates: HashMap<String, Vec<&'a str>>,
}

impl<'a> Scan<'a> {
    fn add(&mut self, name: &'a str, device: &'a Arc<dyn BlockDevice>) -> Result<()> {
        let Some(volume) = label::read(device)? else { return Ok(()) };
        if self.members.contains_key(&volume.uuid) {
            self.duplicates.entry(volume.uuid).or_default().push(name);
            return Ok(());
        }
        self.members.insert(volume.uuid, Member { name, device });
        let mut problem = None;
        let mut read_one = false;
        for (start, _) in volume.areas {
            match self.add_area(device, start) {
                Ok(found) => read_one |= found,
                Err(error) => problem = Some(error),
            }
        }
        // One good copy of the metadata is enough.
        match problem {
            Some(error) if !read_one => Err(error),
            _ => Ok(()),
        }
    }

    /// Takes in the metadata in the area at `start`; false if there is none.
    fn add_area(&mut self, device: &dyn BlockDevice, start: u64) -> Result<bool> {
        let Some(location) = label::read_area(device, start)? else { return Ok(false) };
        if self.seen.contains(&(location.checksum, location.size)) {
            return Ok(true);
        }
        self.bytes = self.bytes.saturating_add(location.size);
        limits::check("LVM metadata bytes", self.bytes, limits::LVM_METADATA_BYTES)?;
        let text = label::read_text(device, &location)?;
        let group = metadata::parse(&text, location.position())?;
        self.seen.insert((location.checksum, location.size));
        if self.groups.get(&group.uuid).is_none_or(|known| known.seqno < group.seqno) {
            self.groups.insert(group.uuid.clone(), group);
        }
        Ok(true)
    }

    fn finish(mut self) -> Result<Vec<VolumeGroup>> {
        let problems = std::mem::take(&mut self.problems);
        let mut groups: Vec<VolumeGroup> = self.groups.values().map(|group| self.assemble(group)).collect();
        groups.sort_by(|a, b| (&a.name, &a.uuid).cmp(&(&b.name, &b.uuid)));
        match groups.first_mut() {
            Some(first) => first.notes.extend(problems.iter().map(Error::to_string)),
            None => problems.into_iter().next().map_or(Ok(()), Err)?,
        }
        Ok(groups)
    }

    /// The group with its devices.
    fn assemble(&self, group: &Group) -> VolumeGroup {
        let members: Vec<_> = group.physical.iter().map(|volume| self.members.get(&bare(&volume.uuid))).collect();
        let mut out = VolumeGroup {
            name: group.name.clone(),
            uuid: group.uuid.clone(),
            extent_size: group.extent_size,
            physical_volumes: Vec::new(),
            logical_volumes: Vec::new(),
            unsupported: Vec::new(),
            notes: Vec::new(),
        };
        if group.exported {
            out.notes.push("the volume group is exported".to_owned());
        }
        for (volume, member) in group.physical.iter().zip(&members) {
            if member.is_none() {
                out.notes.push(format!("physical volume {} is missing", volume.uuid));
            }
            for name in self.duplicates.get(&bare(&volume.uuid)).into_iter().flatten() {
                out.notes.push(format!("{name} is a copy of physical volume {} and is not used", volume.uuid));
            }
            out.physical_volumes.push(PhysicalVolume {
                uuid: volume.uuid.clone(),
                device: member.map(|member| member.name.to_owned()),
                size: volume.extents.saturating_mul(group.extent_size),
            });
        }
        for volume in &group.logical {
            let segments = match &volume.segments {
                Segments::Striped(segments) => segments,
                Segments::Unsupported(kind) => {
                    out.unsupported.push((volume.name.clone(), kind.clone()));
                    continue;
                }
            };
            match map(group, &members, segments) {
                Ok(device) => out.logical_volumes.push(LogicalVolume {
                    group: group.name.clone(),
                    name: volume.name.clone(),
                    uuid: volume.uuid.clone(),
                    tags: volume.tags.clone(),
                    writable: volume.writable,
                    device: Arc::new(device),
                }),
                Err(why) => out.notes.push(format!("logical volume {} is left out: {why}", volume.name)),
            }
        }
        out
    }
}

/// The device over `segments`, or why there is none.
fn map(group: &Group, members: &[Option<&Member<'_>>], segments: &[Segment]) -> Result<Mapped, String> {
    let mut mappings = Vec::with_capacity(segments.len());
    let mut start = 0u64;
    for segment in segments {
        let size = segment.extents.saturating_mul(group.extent_size);
        let per_stripe = size.checked_div(to_u64(segment.stripes.len())).unwrap_or(0);
        let mut stripes = Vec::with_capacity(segment.stripes.len());
        for &(index, first_extent) in &segment.stripes {
            let (Some(volume), Some(member)) = (group.physical.get(index), members.get(index).copied().flatten())
            else {
                return Err("it needs a missing physical volume".to_owned());
            };
            let first = first_extent.checked_mul(group.extent_size).and_then(|first| first.checked_add(volume.start));
            let end = first.and_then(|first| first.checked_add(per_stripe));
            match (first, end) {
                (Some(first), Some(end)) if end <= member.device.size() => stripes.push((member.device.clone(), first)),
                _ => return Err(format!("it reaches past the end of {}", member.name)),
            }
        }
        mappings.push(Mapping { start, size, stripe_size: segment.stripe_size.unwrap_or(size), stripes });
        start = start.saturating_add(size);
    }
    Ok(Mapped::new(mappings))
}

/// A UUID without its dashes, as the label has it.
fn bare(uuid: &str) -> String {
    uuid.replace('-', "")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Memory;

    #[test]
    fn paths_double_the_dashes() {
        let volume = LogicalVolume {
            group: "debian-guest-vg".to_owned(),
            name: "swap-1".to_owned(),
            uuid: String::new(),
            tags: Vec::new(),
            writable: true,
            device: Arc::new(Memory::new(Vec::new())),
        };
        assert_eq!(volume.device_path(), "/dev/debian-guest-vg/swap-1");
        assert_eq!(volume.mapper_path(), "/dev/mapper/debian--guest--vg-swap--1");
    }

    #[test]
    fn disks_without_labels_have_no_groups() {
        let disk: Arc<dyn BlockDevice> = Arc::new(Memory::new(vec![0; 4096]));
        assert!(scan(&[("/dev/sda".to_owned(), disk)]).unwrap().is_empty());
        assert!(scan(&[]).unwrap().is_empty());
    }
}
