//! New VMDK images: VMware, *Virtual Disk Format 5.0*.
//!
//! | subformat | files | holes |
//! |---|---|---|
//! | monolithicSparse (default) | one: header, descriptor, tables, grains | left out |
//! | streamOptimized | one: compressed grains, tables after them, a footer | left out |
//! | monolithicFlat | descriptor, `-flat`: the disk's bytes | in the file |
//! | twoGbMaxExtentSparse | descriptor, `-s001` …: sparse extents | left out |
//! | twoGbMaxExtentFlat | descriptor, `-f001` …: the disk's bytes | in the files |
//!
//! Sizes are rounded up to sectors. Refused: empty disks, which no reader opens, grains that are no power of two from 4 KiB
//! to 1 MiB, names that a descriptor cannot hold, extents past [`limits::VMDK_EXTENTS`](crate::limits::VMDK_EXTENTS).

mod descriptor;
mod flat;
mod sparse;
mod stream;

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::FORMAT;
use super::header::SECTOR;
use crate::block::writer::{refuse, refuse_qcow2_options};
use crate::block::{CompressionKind, ImageWriter, NewImage, Preallocation};
use crate::bytes::round_up;
use crate::error::{Error, Result};

/// VMware's own, and what every reader is tested with.
const GRAIN: u64 = 64 << 10;
const GRAINS: std::ops::RangeInclusive<u64> = 4096..=1 << 20;

/// What all kinds have in common.
#[derive(Debug, Clone)]
struct Disk {
    /// The name of the descriptor's file.
    name: String,
    /// Bytes, whole sectors.
    size: u64,
    /// Bytes of a grain.
    grain: u64,
}

/// A writer for a new image.
pub(crate) fn writer(new: &NewImage, name: &str) -> Result<Box<dyn ImageWriter>> {
    refuse_qcow2_options(FORMAT, new)?;
    refuse(
        FORMAT,
        &[("backing_file", new.backing.is_some()), ("preallocation", new.preallocation != Preallocation::Off)],
    )?;
    let default = if new.compression.is_some() { "streamOptimized" } else { "monolithicSparse" };
    let subformat = new.subformat.as_deref().unwrap_or(default);
    let is = |kind: &str| subformat.eq_ignore_ascii_case(kind);
    if let Some(compression) = new.compression {
        if !is("streamOptimized") {
            return Err(Error::invalid(format!("vmdk subformat '{subformat}' has no compression"))
                .with_hint("streamOptimized has"));
        }
        if compression.kind != CompressionKind::Zlib {
            return Err(Error::invalid("vmdk knows no compression but zlib"));
        }
    }
    if is("monolithicFlat") || is("twoGbMaxExtentFlat") {
        refuse("flat vmdk", &[("cluster_size", new.cluster_size.is_some())])?;
    }
    let disk = disk(new, name)?;
    if is("monolithicSparse") {
        return sparse::monolithic(disk);
    }
    if is("streamOptimized") {
        return stream::writer(disk, new.compression.and_then(|compression| compression.level));
    }
    if is("twoGbMaxExtentSparse") {
        return sparse::split(disk);
    }
    if is("monolithicFlat") {
        return flat::monolithic(disk);
    }
    if is("twoGbMaxExtentFlat") {
        return flat::split(disk);
    }
    Err(Error::unsupported(FORMAT, format!("writing subformat '{}'", crate::bytes::escape(subformat.as_bytes()))))
}

fn disk(new: &NewImage, name: &str) -> Result<Disk> {
    if name.contains(|character: char| character == '"' || character == '/' || character.is_control()) {
        let name = crate::bytes::escape(name.as_bytes());
        return Err(Error::invalid(format!("a vmdk cannot be called '{name}': its descriptor could not hold that")));
    }
    let grain = new.cluster_size.unwrap_or(GRAIN);
    if !grain.is_power_of_two() || !GRAINS.contains(&grain) {
        return Err(Error::invalid(format!("vmdk grains are a power of two from 4 KiB to 1 MiB, not {grain} bytes")));
    }
    if new.size == 0 {
        return Err(Error::unsupported(FORMAT, "an empty disk"));
    }
    let size = round_up(new.size, SECTOR).filter(|&size| size <= u64::MAX >> 1);
    let size = size.ok_or_else(|| Error::invalid("a disk of more than 8 EiB"))?;
    Ok(Disk { name: name.to_owned(), size, grain })
}

impl Disk {
    /// `disk.vmdk` as `disk-s001.vmdk`.
    fn beside(&self, suffix: &str) -> String {
        match self.name.rfind('.').and_then(|dot| self.name.split_at_checked(dot)) {
            Some((stem, extension)) => format!("{stem}{suffix}{extension}"),
            None => format!("{}{suffix}", self.name),
        }
    }

    /// The sizes of extents of at most `largest` bytes each, held against the limit.
    fn parts(&self, largest: u64) -> Result<Vec<u64>> {
        let count = self.size.div_ceil(largest);
        crate::limits::check("vmdk extents", count, crate::limits::VMDK_EXTENTS)?;
        let mut rest = self.size;
        Ok((0..count)
            .map(|_| {
                let part = rest.min(largest);
                rest = rest.saturating_sub(part);
                part
            })
            .collect())
    }
}

/// The content id: it must change when the disk does, and be the same for the same disk.
fn content_id(hasher: &blake3::Hasher) -> u32 {
    let hash = hasher.finalize();
    let id = hash.as_bytes().first_chunk().map_or(0, |four| u32::from_le_bytes(*four));
    // All ones means that there is no such disk.
    if id == super::NO_PARENT { 0 } else { id }
}

fn write(file: &File, name: &str, bytes: &[u8], at: u64) -> Result<()> {
    file.write_all_at(bytes, at)
        .map_err(|error| Error::io("write", format!("{} bytes at byte {at:#x} of {name}", bytes.len()), error))
}

fn set_len(file: &File, name: &str, len: u64) -> Result<()> {
    file.set_len(len).map_err(|error| Error::io("set the length of", name, error))
}

/// The file of `files` that `name` stands for.
fn nth<'a>(files: &'a [File], index: usize, name: &str) -> Result<&'a File> {
    files.get(index).ok_or_else(|| Error::invalid(format!("no file was given for {name}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::{Compression, ImageFormat};

    fn code(change: impl FnOnce(&mut NewImage), name: &str) -> u8 {
        let mut new = NewImage::new(ImageFormat::Vmdk, 1 << 20);
        change(&mut new);
        writer(&new, name).map_or_else(|error| error.exit_code(), |_| 0)
    }

    #[test]
    fn options_that_vmdk_does_not_have_are_refused() {
        let deflate = Compression { kind: CompressionKind::Zlib, level: None };
        assert_eq!(code(|_| (), "disk.vmdk"), 0);
        assert_eq!(code(|new| new.compression = Some(deflate), "disk.vmdk"), 0);
        for name in ["a\"b", "a\nb", "a/b"] {
            assert_eq!(code(|_| (), name), 2, "{name}");
        }
        let flat = |new: &mut NewImage| new.subformat = Some("monolithicFlat".to_owned());
        let cases: [(fn(&mut NewImage), u8); 7] = [
            (|new| new.size = 0, 7),
            (|new| new.cluster_size = Some(2048), 2),
            (|new| new.cluster_size = Some(65_537), 2),
            (|new| new.extended_l2 = true, 2),
            (|new| new.preallocation = Preallocation::Full, 2),
            (|new| new.subformat = Some("vmfs".to_owned()), 7),
            (|new| new.size = u64::MAX, 2),
        ];
        for (number, (change, expected)) in cases.into_iter().enumerate() {
            assert_eq!(code(change, "disk"), expected, "case {number}");
        }
        assert_eq!(code(|new| (flat(new), new.compression = Some(deflate)).1, "disk"), 2);
        assert_eq!(code(|new| (flat(new), new.cluster_size = Some(4096)).1, "disk"), 2);
        let split = |new: &mut NewImage| new.subformat = Some("twoGbMaxExtentSparse".to_owned());
        assert_eq!(code(|new| (split(new), new.size = 1 << 50).1, "disk"), 4);
    }

    #[test]
    fn extents_are_named_as_qemu_names_them() {
        let named = |name: &str| Disk { name: name.to_owned(), size: 1, grain: 1 }.beside("-s001");
        assert_eq!(named("disk.vmdk"), "disk-s001.vmdk");
        assert_eq!(named("a.b.img"), "a.b-s001.img");
        assert_eq!(named("disk"), "disk-s001");
    }
}
