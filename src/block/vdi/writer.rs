//! New VDI images, dynamic and static, in blocks of 1 MiB, the only size that QEMU reads. Blocks begin at a multiple of
//! 1 MiB, as VirtualBox has them. Identifiers come from the disk's size and block map, so that the same input gives the
//! same file.

use std::fs::File;
use std::ops::Range;

use super::FORMAT;
use super::header::{DYNAMIC, HEADER, SIGNATURE, STATIC, VERSION};
use crate::block::blocks::{self, Placement, Structure};
use crate::block::writer::{refuse, refuse_qcow2_options};
use crate::block::{ImageWriter, NewImage, Placed, Preallocation};
use crate::bytes::low_u32;
use crate::error::{Error, Result};

const BLOCK: u64 = 1 << 20;
const UNIT: u64 = 4096;
/// So many entries that the data behind them begins below 4 GiB, where the header can say so; QEMU has one block more.
const BLOCKS: u64 = 0x3fff_0000;
const MAP: u64 = 512;
const NOWHERE: u32 = u32::MAX;

#[derive(Debug)]
struct VdiWriter {
    name: String,
    image_type: u32,
    placement: Placement,
}

/// A writer for a new image.
pub(crate) fn writer(new: &NewImage, name: &str) -> Result<Box<dyn ImageWriter>> {
    refuse_qcow2_options(FORMAT, new)?;
    refuse(FORMAT, &[("compression", new.compression.is_some()), ("backing_file", new.backing.is_some())])?;
    let image_type = match new.subformat.as_deref() {
        None | Some("dynamic") => DYNAMIC,
        Some("static") => STATIC,
        Some(other) => return Err(Error::invalid(format!("vdi has no subformat '{other}', but dynamic and static"))),
    };
    if let Some(other) = new.cluster_size.filter(|&size| size != BLOCK) {
        return Err(Error::invalid(format!("blocks of vdi have 1048576 bytes, not {other}")));
    }
    let size = new.size.checked_next_multiple_of(512).filter(|size| *size <= BLOCKS.saturating_mul(BLOCK));
    let size = size.ok_or_else(|| Error::invalid("vdi holds less than 1 PiB"))?;
    let start = blocks::table_end(MAP, size, BLOCK, 4, BLOCK);
    let all = image_type == STATIC || new.preallocation != Preallocation::Off;
    let placement = Placement::new(size, BLOCK, start, BLOCK, all);
    Ok(Box::new(VdiWriter { name: name.to_owned(), image_type, placement }))
}

impl VdiWriter {
    fn header(&self, map: &blake3::Hash) -> Vec<u8> {
        let placement = &self.placement;
        let mut header = Structure::new(HEADER);
        header.put(0, b"<<< guestctl VirtualBox Disk Image >>>\n");
        for (at, field) in [
            (64, SIGNATURE),
            (68, VERSION),
            (72, 0x180),
            (76, self.image_type),
            (340, low_u32(MAP)),
            (344, low_u32(placement.start)),
            (360, 512),
            (376, low_u32(BLOCK)),
            (384, low_u32(placement.blocks())),
            (388, low_u32(placement.count())),
        ] {
            header.put(at, &field.to_le_bytes());
        }
        header.put(368, &placement.size.to_le_bytes());
        // The first three groups of these are little-endian.
        header.put(392, &blocks::mixed_endian(blocks::identifier("vdi image", placement.size, map)));
        header.put(408, &blocks::mixed_endian(blocks::identifier("vdi modification", placement.size, map)));
        header.bytes
    }
}

impl ImageWriter for VdiWriter {
    fn unit(&self) -> u64 {
        UNIT
    }

    fn place(&mut self, run: Range<u64>) -> Result<Placed> {
        self.placement.place(run)
    }

    fn finish(&mut self, files: &[File]) -> Result<()> {
        for file in files {
            file.set_len(self.placement.end()).map_err(|error| Error::io("grow", &self.name, error))?;
            let entry = |place: Option<u64>| place.map_or(NOWHERE, low_u32).to_le_bytes();
            let map = blocks::write_table(file, &self.name, MAP, self.placement.table().map(entry))?;
            blocks::write_at(file, &self.name, &self.header(&map), 0)?;
        }
        Ok(())
    }

    fn file_names(&self) -> Vec<String> {
        vec![self.name.clone()]
    }
}
