//! The text descriptor: VMware, *Virtual Disk Format 5.0*, "The Descriptor File".
//!
//! ```text
//! # Disk DescriptorFile
//! version=1
//! CID=76a8bace                      content id, hexadecimal; changes when the disk is written
//! parentCID=ffffffff                ffffffff: no parent
//! createType="twoGbMaxExtentSparse"
//! parentFileNameHint="base.vmdk"
//! RW 4194304 SPARSE "disk-s001.vmdk"
//! RW 4194304 FLAT "disk-f002.vmdk" 0
//! ACCESS SECTORS TYPE ["FILE" [OFFSET IN SECTORS]]
//! ddb.adapterType = "ide"           the disk data base: ignored
//! ```
//!
//! Access is RW or RDONLY; types are SPARSE, FLAT, VMFS (flat on an ESX server) and ZERO. Refused by name: NOACCESS,
//! VMFSSPARSE, SESPARSE, raw devices, encryption. Keys are matched whatever their case.

use super::FORMAT;
use super::header::SECTOR;
use crate::bytes::{escape, to_u64};
use crate::error::{Error, Result};
use crate::limits;

pub(super) const SIGNATURE: &str = "# Disk DescriptorFile";
/// The parentCID of a disk without one.
pub(super) const NO_PARENT: u32 = 0xffff_ffff;

/// What a descriptor says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Descriptor {
    pub(super) cid: u32,
    pub(super) parent_cid: u32,
    pub(super) create_type: String,
    pub(super) parent_hint: Option<String>,
    pub(super) extents: Vec<ExtentLine>,
}

impl Default for Descriptor {
    /// What holds for a sparse extent without a descriptor.
    fn default() -> Self {
        Self { cid: 0, parent_cid: NO_PARENT, create_type: String::new(), parent_hint: None, extents: Vec::new() }
    }
}

/// One extent line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ExtentLine {
    /// Bytes.
    pub(super) size: u64,
    pub(super) kind: ExtentType,
    /// The file's name; empty for ZERO.
    pub(super) file: String,
    /// Bytes into the file where a flat extent begins.
    pub(super) offset: u64,
    /// Where the line begins in the descriptor's device.
    pub(super) position: u64,
}

/// The kinds of extent that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ExtentType {
    Sparse,
    Flat,
    Vmfs,
    Zero,
}

impl ExtentType {
    /// The word in the descriptor.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Sparse => "SPARSE",
            Self::Flat => "FLAT",
            Self::Vmfs => "VMFS",
            Self::Zero => "ZERO",
        }
    }
}

/// Parses a descriptor that was read from byte `offset`. NULs pad an embedded one.
pub(super) fn parse(bytes: &[u8], offset: u64) -> Result<Descriptor> {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    let text = String::from_utf8_lossy(bytes.get(..end).unwrap_or_default());
    if !text.starts_with(SIGNATURE) {
        let start: String = text.chars().take(SIGNATURE.len()).collect();
        return Err(Error::corrupt(FORMAT, "descriptor", offset, format!("'{}'", escape(start.as_bytes())), SIGNATURE));
    }
    let mut descriptor = Descriptor::default();
    let mut position = offset;
    for line in text.split_inclusive('\n') {
        parse_line(&mut descriptor, line.trim(), position)?;
        position = position.saturating_add(to_u64(line.len()));
    }
    Ok(descriptor)
}

fn parse_line(descriptor: &mut Descriptor, line: &str, position: u64) -> Result<()> {
    if line.is_empty() || line.starts_with('#') {
        return Ok(());
    }
    let word = line.split_ascii_whitespace().next().unwrap_or_default();
    if matches!(word, "RW" | "RDONLY" | "NOACCESS") {
        limits::check("vmdk extents", to_u64(descriptor.extents.len()).saturating_add(1), limits::VMDK_EXTENTS)?;
        descriptor.extents.push(parse_extent(line, position)?);
        return Ok(());
    }
    let Some((key, value)) = line.split_once('=') else { return Ok(()) };
    let (key, value) = (key.trim().to_ascii_lowercase(), value.trim().trim_matches('"'));
    let hexadecimal = |field| {
        u32::from_str_radix(value, 16).map_err(|_| {
            Error::corrupt(FORMAT, field, position, format!("'{}'", escape(value.as_bytes())), "a hexadecimal number")
        })
    };
    match key.as_str() {
        "version" if !matches!(value, "1" | "2" | "3") => {
            return Err(Error::unsupported(FORMAT, format!("descriptor version '{}'", escape(value.as_bytes()))));
        }
        "cid" => descriptor.cid = hexadecimal("CID")?,
        "parentcid" => descriptor.parent_cid = hexadecimal("parentCID")?,
        "createtype" => descriptor.create_type = value.to_owned(),
        "parentfilenamehint" => descriptor.parent_hint = Some(value.to_owned()),
        _ if key.starts_with("encryption") => return Err(Error::unsupported(FORMAT, "encryption")),
        _ => {}
    }
    Ok(())
}

fn parse_extent(line: &str, position: u64) -> Result<ExtentLine> {
    let corrupt = |expected: &str| Error::corrupt(FORMAT, "extent", position, escape(line.as_bytes()), expected);
    // The quoted name may hold blanks, so it is cut out first.
    let (words, name, rest) = match line.split_once('"') {
        Some((words, quoted)) => {
            let (name, rest) = quoted.rsplit_once('"').ok_or_else(|| corrupt("a quoted file name"))?;
            (words, Some(name), rest.trim())
        }
        None => (line, None, ""),
    };
    let mut words = words.split_ascii_whitespace();
    let (access, sectors, kind) = (words.next(), words.next(), words.next());
    if access == Some("NOACCESS") {
        return Err(Error::unsupported(FORMAT, "an extent without access (NOACCESS)"));
    }
    let bytes = |text: &str| text.parse::<u64>().ok().and_then(|sectors| sectors.checked_mul(SECTOR));
    let size = sectors.and_then(bytes).ok_or_else(|| corrupt("a size in sectors"))?;
    let kind = match kind {
        Some("SPARSE") => ExtentType::Sparse,
        Some("FLAT") => ExtentType::Flat,
        Some("VMFS") => ExtentType::Vmfs,
        Some("ZERO") => ExtentType::Zero,
        Some(other) => {
            return Err(Error::unsupported(FORMAT, format!("extent type {}", escape(other.as_bytes()))));
        }
        None => return Err(corrupt("an extent type")),
    };
    let file = match name {
        Some(name) if kind != ExtentType::Zero && !name.is_empty() => name.to_owned(),
        None if kind == ExtentType::Zero => String::new(),
        _ => return Err(corrupt("a file name, but for ZERO")),
    };
    let offset = match rest.split_ascii_whitespace().next() {
        Some(text) => bytes(text).ok_or_else(|| corrupt("an offset in sectors"))?,
        None => 0,
    };
    Ok(ExtentLine { size, kind, file, offset, position })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(lines: &str) -> Result<Descriptor> {
        parse(format!("{SIGNATURE}\nversion=1\n{lines}").as_bytes(), 512)
    }

    #[test]
    fn a_descriptor_with_every_kind_of_line() {
        let text = "CID=76a8bace\r\nparentCID = DEB1a12b\ncreateType=\"custom\"\nparentFileNameHint=\"a = b.vmdk\"\n\
                    # comment\nRW 2048 SPARSE \"my \"disk\".vmdk\"\nRDONLY 63 FLAT \"f\" 10\nRW 1 VMFS \"v\"\nRW 5 ZERO\n\
                    ddb.uuid = \"60 00\"\n\0garbage RW";
        let descriptor = with(text).unwrap();
        assert_eq!((descriptor.cid, descriptor.parent_cid), (0x76a8_bace, 0xdeb1_a12b));
        assert_eq!(
            (descriptor.create_type.as_str(), descriptor.parent_hint.as_deref()),
            ("custom", Some("a = b.vmdk"))
        );
        let lines: Vec<_> =
            descriptor.extents.iter().map(|e| (e.size, e.kind.name(), e.file.as_str(), e.offset)).collect();
        let expected = [
            (2048 * 512, "SPARSE", "my \"disk\".vmdk", 0),
            (63 * 512, "FLAT", "f", 5120),
            (512, "VMFS", "v", 0),
            (5 * 512, "ZERO", "", 0),
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn broken_lines_name_their_field_and_place() {
        for (lines, field) in [
            ("CID=xyz", "CID"),
            ("parentCID=100000000", "parentCID"),
            ("RW", "extent"),
            ("RW 10", "extent"),
            ("RW ten FLAT \"f\" 0", "extent"),
            ("RW -1 FLAT \"f\" 0", "extent"),
            ("RW 99999999999999999999 FLAT \"f\" 0", "extent"),
            ("RW 36028797018963968 FLAT \"f\" 0", "extent"),
            ("RW 10 FLAT f 0", "extent"),
            ("RW 10 FLAT \"f 0", "extent"),
            ("RW 10 FLAT \"\" 0", "extent"),
            ("RW 10 FLAT \"f\" x", "extent"),
            ("RW 10 ZERO \"f\"", "extent"),
        ] {
            let error = with(lines).unwrap_err();
            let corrupt = error.as_corrupt().unwrap_or_else(|| panic!("{lines}: {error}"));
            assert_eq!((corrupt.field, corrupt.offset), (field, 512 + 32), "{lines}: {error}");
        }
        assert_eq!(parse(b"nothing", 0).unwrap_err().as_corrupt().unwrap().field, "descriptor");
    }

    #[test]
    fn what_is_not_read_is_refused_by_name() {
        for (lines, feature) in [
            ("version=4", "descriptor version '4'"),
            ("NOACCESS 63 ZERO", "an extent without access (NOACCESS)"),
            ("RW 63 VMFSSPARSE \"f\"", "extent type VMFSSPARSE"),
            ("RW 63 SESPARSE \"f\"", "extent type SESPARSE"),
            ("RW 63 VMFSRDM \"f\"", "extent type VMFSRDM"),
            ("encryption.keySafe = \"vmware:key/list\"", "encryption"),
        ] {
            assert_eq!(with(lines).unwrap_err().to_string(), format!("vmdk: {feature} is not supported"));
        }
        assert_eq!(with(&"RW 1 ZERO\n".repeat(4097)).unwrap_err().exit_code(), 4);
    }
}
