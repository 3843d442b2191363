//! Header extensions: QEMU `docs/interop/qcow2.txt`, sections "Header extensions" and "Feature name table". They follow
//! the header one after another, each padded to 8 bytes, up to an end mark, the backing file's name or the end of the
//! first cluster.
//!
//! | byte | size | field | accepted |
//! |---|---|---|---|
//! | 0 | 4 | type | 0 end; those below; all others are passed over |
//! | 4 | 4 | length | bytes; within the area |
//! | 8 | length | data | |
//!
//! | type | data |
//! |---|---|
//! | 0xe2792aca | the backing file's format, at most 15 bytes |
//! | 0x0537be77 | the encryption header's offset and length, 8 bytes each |
//! | 0x23852875 | bitmaps, see [`bitmaps`](super::bitmaps) |
//! | 0x44415441 | the external data file's name, at most [`limits::PATH_BYTES`] |
//! | 0x6803f857 | feature names: 1 byte kind (0 incompatible), 1 byte bit, 46 bytes name, repeated |

use super::FORMAT;
use crate::bytes::{Record, fixed_text, round_up, to_u64, to_usize};
use crate::error::{Error, Result};
use crate::limits;

const END: u32 = 0;
const BACKING_FORMAT: u32 = 0xe279_2aca;
const DATA_FILE: u32 = 0x4441_5441;
const FEATURE_NAMES: u32 = 0x6803_f857;
const ENCRYPTION: u32 = 0x0537_be77;
const BITMAPS: u32 = 0x2385_2875;

const FEATURE_NAME_BYTES: usize = 48;

/// The extensions that reading needs, as they stand in the header.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extensions<'a> {
    pub backing_format: Option<&'a [u8]>,
    pub data_file: Option<&'a [u8]>,
    /// Offset and length of the encryption header.
    pub encryption: Option<(u64, u64)>,
    pub bitmaps: Option<&'a [u8]>,
    feature_names: &'a [u8],
}

impl<'a> Extensions<'a> {
    /// Parses the area from the header's end to the latest end of the extensions; a file that ends early ends it too.
    pub(super) fn parse(area: &Record<'a>) -> Result<Self> {
        let mut found = Self::default();
        let mut at = 0usize;
        while at.saturating_add(8) <= area.len() {
            let (kind, len) = (area.be32(at)?, u64::from(area.be32(at.saturating_add(4))?));
            if kind == END {
                break;
            }
            let start = at.saturating_add(8);
            let room = to_u64(area.len().saturating_sub(start));
            let most = if kind == BACKING_FORMAT { room.min(15) } else { room };
            if len > most {
                let at = at.saturating_add(4);
                return Err(area.corrupt("header extension length", at, len, format!("at most {most}")));
            }
            let data = area.slice(start, to_usize(len))?;
            match kind {
                BACKING_FORMAT => found.backing_format = Some(data),
                DATA_FILE => {
                    limits::check("data file name bytes", len, to_u64(limits::PATH_BYTES))?;
                    found.data_file = Some(data);
                }
                FEATURE_NAMES => found.feature_names = data,
                BITMAPS => found.bitmaps = Some(data),
                ENCRYPTION if data.len() >= 16 => {
                    found.encryption = Some((area.be64(start)?, area.be64(start.saturating_add(8))?));
                }
                _ => {}
            }
            at = start.saturating_add(to_usize(round_up(len, 8).unwrap_or(len)));
        }
        Ok(found)
    }

    /// The same, or the error that names the incompatible features `unknown` as far as the extensions can.
    pub(super) fn parse_known(area: &Record<'a>, unknown: u64) -> Result<Self> {
        let extensions = Self::parse(area);
        if unknown == 0 { extensions } else { Err(extensions.unwrap_or_default().unsupported(unknown)) }
    }

    /// The error for the incompatible features `bits`: by name as far as the image gives names, else by number.
    pub(super) fn unsupported(&self, bits: u64) -> Error {
        let names = (0..64u8).filter(|&bit| bits.checked_shr(bit.into()).unwrap_or(0) & 1 == 1).map(|bit| {
            let named = self.incompatible_name(bit).filter(|name| !name.is_empty());
            named.unwrap_or_else(|| format!("incompatible feature bit {bit}"))
        });
        Error::unsupported(FORMAT, names.collect::<Vec<_>>().join(", "))
    }

    fn incompatible_name(&self, bit: u8) -> Option<String> {
        let entry = self.feature_names.chunks_exact(FEATURE_NAME_BYTES).find(|entry| entry.starts_with(&[0, bit]))?;
        Some(crate::bytes::escape(fixed_text(entry.get(2..)?).as_bytes()))
    }
}

/// The extensions of `area`, end mark included, with `format` as the backing file's format and all others as they are.
pub(super) fn with_backing_format(area: &Record<'_>, format: Option<&str>) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut put = |kind: u32, data: &[u8]| {
        bytes.extend(kind.to_be_bytes());
        bytes.extend(crate::bytes::low_u32(to_u64(data.len())).to_be_bytes());
        bytes.extend(data);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
    };
    if let Some(format) = format {
        put(BACKING_FORMAT, format.as_bytes());
    }
    let mut at = 0usize;
    while at.saturating_add(8) <= area.len() {
        let (kind, len) = (area.be32(at)?, to_usize(area.be32(at.saturating_add(4))?.into()));
        if kind == END {
            break;
        }
        let start = at.saturating_add(8);
        let data = area.slice(start, len)?;
        if kind != BACKING_FORMAT {
            put(kind, data);
        }
        at = start.saturating_add(to_usize(round_up(to_u64(len), 8).unwrap_or(u64::MAX)));
    }
    put(END, &[]);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extension(kind: u32, data: &[u8]) -> Vec<u8> {
        let mut bytes = [kind.to_be_bytes(), (data.len() as u32).to_be_bytes()].concat();
        bytes.extend(data);
        bytes.resize(bytes.len().next_multiple_of(8), 0xee);
        bytes
    }

    fn parse(bytes: &[u8]) -> Result<Extensions<'_>> {
        Extensions::parse(&Record::new(FORMAT, bytes, 104))
    }

    #[test]
    fn known_ones_are_found_between_unknown_ones_and_nothing_after_the_end_mark() {
        let bytes = [
            extension(0x1234_5678, b"unknown"),
            extension(BACKING_FORMAT, b"raw"),
            extension(DATA_FILE, b"disk.raw"),
            extension(END, b""),
            extension(BACKING_FORMAT, b"vmdk"),
        ]
        .concat();
        let found = parse(&bytes).unwrap();
        assert_eq!(found.backing_format, Some(&b"raw"[..]));
        assert_eq!(found.data_file, Some(&b"disk.raw"[..]));
        assert_eq!(parse(&bytes[..7]).unwrap(), Extensions::default(), "an area without room for one is empty");
    }

    #[test]
    fn lengths_are_held_against_the_area_and_the_field() {
        let mut bytes = extension(0x1234_5678, &[0; 16]);
        bytes[7] = 17;
        let error = parse(&bytes).unwrap_err();
        let corrupt = error.as_corrupt().unwrap();
        assert_eq!((corrupt.field, corrupt.offset), ("header extension length", 108));
        let bytes = extension(BACKING_FORMAT, &[b'x'; 16]);
        assert_eq!(parse(&bytes).unwrap_err().as_corrupt().unwrap().expected, "at most 15");
        let bytes = extension(DATA_FILE, &[b'x'; 5000]);
        assert_eq!(parse(&bytes).unwrap_err().exit_code(), 4);
    }

    #[test]
    fn unknown_features_are_named_by_the_image_or_numbered() {
        let mut table = vec![0u8; 96];
        table[..2].copy_from_slice(&[0, 5]);
        table[2..9].copy_from_slice(b"shining");
        table[48..50].copy_from_slice(&[1, 6]);
        table[50..53].copy_from_slice(b"not");
        let bytes = extension(FEATURE_NAMES, &table);
        let error = parse(&bytes).unwrap().unsupported((1 << 5) | (1 << 6) | (1 << 63));
        let expected = "shining, incompatible feature bit 6, incompatible feature bit 63";
        assert!(error.to_string().contains(expected), "{error}");
    }
}
