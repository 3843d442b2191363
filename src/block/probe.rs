//! Which image format a file is in, by its first bytes.
//!
//! Probing is a guess about data a guest may have written: a raw disk whose guest wrote a qcow2 header at its start
//! probes as qcow2 (CVE-2010-3851). So a stated format is never probed, what was probed is reported, and whatever the
//! guess, files that the image names stay closed unless the caller's gate opens them.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use super::{BlockDevice, read_vec};
use crate::bytes::to_usize;
use crate::error::{Error, Result};

/// The image formats that can be opened; the names are QEMU's where QEMU has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ImageFormat {
    /// The disk's bytes and nothing else.
    Raw,
    /// QEMU copy-on-write, versions 2 and 3.
    Qcow2,
    /// VMware virtual disk: a descriptor, sparse extents, or both in one file.
    Vmdk,
    /// A tar with an OVF description and disks, as OVF 1.x defines.
    Ova,
    /// VirtualBox disk image.
    Vdi,
    /// Virtual hard disk of Connectix and Microsoft, which QEMU calls vpc.
    #[serde(rename = "vpc")]
    Vhd,
    /// Virtual hard disk version 2 of Microsoft.
    Vhdx,
}

impl ImageFormat {
    /// All of them, in the order they are probed.
    pub const ALL: [Self; 7] = [Self::Qcow2, Self::Vmdk, Self::Vdi, Self::Vhd, Self::Vhdx, Self::Ova, Self::Raw];

    /// The name that the command line and JSON use.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vmdk => "vmdk",
            Self::Ova => "ova",
            Self::Vdi => "vdi",
            Self::Vhd => "vpc",
            Self::Vhdx => "vhdx",
        }
    }
}

impl fmt::Display for ImageFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for ImageFormat {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        // Everyone but QEMU says vhd.
        let name = if name.eq_ignore_ascii_case("vhd") { "vpc" } else { name };
        let found = Self::ALL.into_iter().find(|format| format.name().eq_ignore_ascii_case(name));
        found.ok_or_else(|| Error::unsupported("image", format!("format '{}'", crate::bytes::escape(name.as_bytes()))))
    }
}

/// The format whose signature stands at the beginning of `file`; [`ImageFormat::Raw`] when there is none. Known formats
/// that cannot be read are refused by name rather than taken for raw.
///
/// A fixed VHD has its signature at the end alone. It counts when the whole footer is right, checksum and type included,
/// and states exactly the size of the rest of the file. (QEMU takes such a file for raw, whose last sector is the footer.)
pub fn probe(file: &dyn BlockDevice) -> Result<ImageFormat> {
    let head = read_vec(file, 0, to_usize(file.size().min(1024)))?;
    let starts = |magic: &[u8]| head.starts_with(magic);
    if starts(b"QFI\xfb") {
        return Ok(ImageFormat::Qcow2);
    }
    if starts(b"KDMV") || starts(b"# Disk DescriptorFile") {
        return Ok(ImageFormat::Vmdk);
    }
    if head.get(257..262) == Some(b"ustar") {
        return Ok(ImageFormat::Ova);
    }
    if head.get(64..).is_some_and(|rest| rest.starts_with(b"\x7f\x10\xda\xbe")) {
        return Ok(ImageFormat::Vdi);
    }
    if starts(b"vhdxfile") {
        return Ok(ImageFormat::Vhdx);
    }
    if starts(b"conectix") {
        return Ok(ImageFormat::Vhd);
    }
    let foreign: [(&[u8], usize, &str); 6] = [
        (b"COWD", 0, "vmdk ESX server sparse extents (COWD)"),
        (b"QED\0", 0, "qed"),
        (b"WithoutFreeSpace", 0, "parallels"),
        (b"WithouFreSpacExt", 0, "parallels"),
        (b"Bochs Virtual HD Image\0", 0, "bochs"),
        (b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop", 0, "cloop"),
    ];
    for (magic, at, name) in foreign {
        if head.get(at..).is_some_and(|rest| rest.starts_with(magic)) {
            return Err(foreign_format(name));
        }
    }
    if is_dmg(file)? {
        return Err(foreign_format("dmg"));
    }
    Ok(if super::vhd::is_fixed(file)? { ImageFormat::Vhd } else { ImageFormat::Raw })
}

fn foreign_format(name: &str) -> Error {
    Error::unsupported("image", name)
        .with_hint("if the disk is raw and its guest wrote that signature, state the format (-f raw)")
}

/// Whether the last sector is a trailer of Apple's UDIF: its signature, version 4, and its own length. (QEMU goes by the
/// file's name.)
fn is_dmg(file: &dyn BlockDevice) -> Result<bool> {
    let Some(end) = file.size().checked_sub(512) else { return Ok(false) };
    Ok(read_vec(file, end, 12)? == *b"koly\0\0\0\x04\0\0\x02\0")
}

#[cfg(test)]
mod tests {
    use super::super::Memory;
    use super::*;

    #[test]
    fn signatures_are_told_apart_and_short_files_are_raw() {
        let probed = |bytes: &[u8]| probe(&Memory::new(bytes.to_vec()));
        assert_eq!(probed(b"QFI\xfb\0\0\0\x03").unwrap(), ImageFormat::Qcow2);
        assert_eq!(probed(b"KDMV").unwrap(), ImageFormat::Vmdk);
        assert_eq!(probed(b"").unwrap(), ImageFormat::Raw);
        assert_eq!(probed(b"vhdxfile").unwrap(), ImageFormat::Vhdx);
        assert_eq!(probed(b"conectix").unwrap(), ImageFormat::Vhd);
        assert_eq!(probed(&[&[0; 64][..], b"\x7f\x10\xda\xbe"].concat()).unwrap(), ImageFormat::Vdi);
        assert_eq!(probed(b"QED\0").unwrap_err().exit_code(), 7);
        assert_eq!(probed(b"Bochs Virtual HD Image\0").unwrap_err().exit_code(), 7);
        assert_eq!(probed(b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0").unwrap_err().exit_code(), 7);
        let dmg = |version| [&[0; 100][..], b"koly\0\0\0", &[version], b"\0\0\x02\0", &[0; 500]].concat();
        assert_eq!(probed(&dmg(4)).unwrap_err().exit_code(), 7);
        assert_eq!(probed(&dmg(5)).unwrap(), ImageFormat::Raw);
        assert_eq!("vhd".parse::<ImageFormat>().unwrap(), ImageFormat::Vhd);
        assert_eq!("QCOW2".parse::<ImageFormat>().unwrap(), ImageFormat::Qcow2);
        assert!("bogus".parse::<ImageFormat>().is_err());
    }
}
