//! Where the partitions lie, and the table that says so.
//!
//! Partitions follow one another from 1 MiB on, each on a whole MiB. Logical ones lie in the extended one, each a MiB behind
//! its own table.

use std::collections::BTreeMap;
use std::fs::File;

use gpt::partition::Partition as GptPartition;
use gpt::partition_types::{OperatingSystem, Type};
use mbrman::{BOOT_ACTIVE, BOOT_INACTIVE, CHS, MBR, MBRPartitionEntry};
use uuid::Uuid;

use crate::Result;
use crate::recipe::{Recipe, TableKind};

const SECTOR: u64 = 512;
const MIB: u64 = 1 << 20;

/// The names that recipes use for types: GPT and MBR.
const TYPES: [(&str, &str, u8); 9] = [
    ("linux", "0FC63DAF-8483-4772-8E79-3D69D8477DE4", 0x83),
    ("linux-root-x86-64", "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709", 0x83),
    ("linux-boot", "BC13C2FF-59E6-4262-A352-B275FD6F7172", 0x83),
    ("linux-home", "933AC7E1-2EB4-4F13-B844-0E14E2AEF915", 0x83),
    ("swap", "0657FD6D-A4AB-43C4-84E5-0933C84B4F4F", 0x82),
    ("esp", "C12A7328-F81F-11D2-BA4B-00A0C93EC93B", 0xef),
    ("bios-boot", "21686148-6449-6E6F-744E-656564454649", 0xda),
    ("data", "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7", 0x0c),
    ("extended", "", 0x05),
];

/// A partition's place on the disk, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// As the kernel counts: 0 for a disk without a table.
    pub(crate) number: u32,
    pub(crate) start: u64,
    pub(crate) size: u64,
}

/// Places the recipe's partitions, in its order.
pub(crate) fn place(recipe: &Recipe) -> Result<Vec<Place>> {
    let disk = recipe.image.size.0;
    if !disk.is_multiple_of(MIB) {
        return Err("the image's size is no whole number of MiB".into());
    }
    if recipe.image.table == TableKind::None {
        return match recipe.partitions[..] {
            [_] => Ok(vec![Place { number: 0, start: 0, size: disk }]),
            _ => Err("a disk without a table has exactly one filesystem".into()),
        };
    }
    let end = if recipe.image.table == TableKind::Gpt { disk - MIB } else { disk };
    let (mut at, mut extended) = (MIB, None);
    let (mut primary, mut logical) = (0, 4);
    let mut places = Vec::new();
    for (index, partition) in recipe.partitions.iter().enumerate() {
        let (start, limit) = match (partition.logical, &mut extended) {
            (false, _) => (at, end),
            (true, Some((next, limit))) => (*next + MIB, *limit),
            (true, None) => return Err("a logical partition needs an extended one before it".into()),
        };
        let size = partition.size.map_or(limit.saturating_sub(start) / MIB * MIB, |size| size.0);
        if size == 0 || !size.is_multiple_of(MIB) || start + size > limit {
            return Err(format!("partition {}: {size} bytes at {start} do not fit", index + 1).into());
        }
        let number = match (partition.logical, &mut extended) {
            (true, Some((next, _))) => {
                *next = start + size;
                logical += 1;
                logical
            }
            _ => {
                at = start + size;
                primary += 1;
                primary
            }
        };
        if partition.kind == "extended" {
            extended = Some((start, start + size));
        }
        places.push(Place { number, start, size });
    }
    Ok(places)
}

/// Writes the table.
pub(crate) fn write(recipe: &Recipe, places: &[Place], disk: &mut File) -> Result<()> {
    match recipe.image.table {
        TableKind::Gpt => write_gpt(recipe, places, disk),
        TableKind::Mbr => write_mbr(recipe, places, disk),
        TableKind::None => Ok(()),
    }
}

fn uuid(text: Option<&String>, what: &str) -> Result<Uuid> {
    let text = text.ok_or_else(|| format!("{what} needs a uuid"))?;
    Ok(Uuid::parse_str(text).map_err(|error| format!("{what}: {error}"))?)
}

/// The type's GUID.
pub(crate) fn gpt_type(kind: &str) -> Result<Uuid> {
    let known = TYPES.iter().find(|(name, guid, _)| *name == kind && !guid.is_empty());
    let guid = known.map_or(kind, |(_, guid, _)| guid);
    Ok(Uuid::parse_str(guid).map_err(|_| format!("'{kind}' is no known type of a GPT partition, nor a GUID"))?)
}

/// The type's byte.
pub(crate) fn mbr_type(kind: &str) -> Result<u8> {
    let hex = kind.strip_prefix("0x").and_then(|digits| u8::from_str_radix(digits, 16).ok());
    let known = TYPES.iter().find(|(name, ..)| *name == kind).map(|(_, _, byte)| *byte);
    hex.or(known).ok_or_else(|| format!("'{kind}' is no known type of an MBR partition, nor a byte like 0x83").into())
}

fn write_gpt(recipe: &Recipe, places: &[Place], disk: &mut File) -> Result<()> {
    let lba = |bytes: u64| bytes / SECTOR;
    let sectors = u32::try_from(lba(recipe.image.size.0) - 1).unwrap_or(u32::MAX);
    gpt::mbr::ProtectiveMBR::with_lb_size(sectors).overwrite_lba0(disk)?;
    let mut partitions = BTreeMap::new();
    for (partition, place) in recipe.partitions.iter().zip(places) {
        let entry = GptPartition {
            part_type_guid: Type { guid: gpt_type(&partition.kind)?, os: OperatingSystem::None },
            part_guid: uuid(partition.uuid.as_ref(), "each partition")?,
            first_lba: lba(place.start),
            last_lba: lba(place.start + place.size) - 1,
            flags: 0,
            name: partition.name.clone(),
        };
        partitions.insert(place.number, entry);
    }
    let guid = uuid(recipe.image.uuid.as_ref(), "the image")?;
    let mut table = gpt::GptConfig::new().writable(true).create_from_device(disk, Some(guid))?;
    table.update_partitions(partitions)?;
    table.write()?;
    Ok(())
}

fn write_mbr(recipe: &Recipe, places: &[Place], disk: &mut File) -> Result<()> {
    let mut table = MBR::new_from(disk, 512, recipe.image.signature.to_le_bytes())?;
    table.align = u32::try_from(MIB / SECTOR)?;
    for (partition, place) in recipe.partitions.iter().zip(places) {
        let (kind, boot) = (mbr_type(&partition.kind)?, if partition.boot { BOOT_ACTIVE } else { BOOT_INACTIVE });
        let (start, sectors) = (u32::try_from(place.start / SECTOR)?, u32::try_from(place.size / SECTOR)?);
        if partition.logical {
            let logical = table.push(kind, start - table.align, sectors + table.align)?;
            logical.partition.boot = boot;
            continue;
        }
        if place.number > 4 {
            return Err("an MBR has four primary partitions, the extended one counted".into());
        }
        table[place.number as usize] = MBRPartitionEntry {
            boot,
            first_chs: CHS::empty(),
            sys: kind,
            last_chs: CHS::empty(),
            starting_lba: start,
            sectors,
        };
    }
    table.write_into(disk)?;
    Ok(())
}
