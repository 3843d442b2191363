//! A row of an SQLite table, as its b-tree keeps it: a record.
//!
//! | field | size | |
//! |---|---|---|
//! | header length | varint | bytes of the header, this number included |
//! | serial types | varint each | one for each column, to the end of the header |
//! | values | by serial type | one for each column |
//!
//! | serial type | bytes | value |
//! |---:|---:|---|
//! | 0 | 0 | NULL |
//! | 1 to 6 | 1, 2, 3, 4, 6, 8 | a big-endian integer |
//! | 7 | 8 | a float |
//! | 8, 9 | 0 | the integers 0 and 1 |
//! | 10, 11 | | refused |
//! | 12 and more | (n - 12) / 2 | a blob when even, a text when odd |
//!
//! See "Database File Format", section 2.1, on sqlite.org.

use crate::bytes::{Record, to_u64, to_usize};
use crate::error::Result;

/// One column of a record.
pub(super) struct Column<'a> {
    /// The serial type: 0 NULL, 1 to 6 integers, 7 a float, 8 and 9 the integers 0 and 1, from 12 blobs (even) and texts.
    pub(super) kind: u64,
    /// Its bytes.
    pub(super) record: Record<'a>,
}

impl<'a> Column<'a> {
    /// Column `number` of `row`, counted from 0.
    pub(super) fn of(row: &Record<'a>, number: usize) -> Result<Self> {
        let (header_len, mut at) = varint(row, 0)?;
        let mut body = to_usize(header_len);
        for column in 0usize.. {
            if to_u64(at) >= header_len {
                break;
            }
            let (kind, next) = varint(row, at)?;
            let len =
                to_usize(serial_len(kind).ok_or_else(|| row.corrupt("serial type", at, kind, "0 to 9, 12 or more"))?);
            if column == number {
                return Ok(Self { kind, record: row.sub(body, len)? });
            }
            body = body.saturating_add(len);
            at = next;
        }
        Err(row.corrupt(
            "record header",
            0,
            format!("{header_len} bytes, no column {number}"),
            "all of the table's columns",
        ))
    }
}

/// Bytes of a value of a serial type.
fn serial_len(kind: u64) -> Option<u64> {
    Some(match kind {
        0 | 8 | 9 => 0,
        1..=4 => kind,
        5 => 6,
        6 | 7 => 8,
        10 | 11 => return None,
        _ => kind.saturating_sub(12) >> 1,
    })
}

/// The variable-length integer at byte `at`, and where it ends: 7 bits a byte while the high bit is set, at most 9 bytes
/// of which the last one counts whole.
pub(super) fn varint(record: &Record<'_>, at: usize) -> Result<(u64, usize)> {
    let mut value = 0u64;
    let mut at = at;
    for _ in 0..8 {
        let byte = record.u8(at)?;
        at = at.saturating_add(1);
        value = (value << 7) | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            return Ok((value, at));
        }
    }
    Ok(((value << 8) | u64::from(record.u8(at)?), at.saturating_add(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_are_read_to_their_ninth_byte() {
        for (bytes, value, len) in [
            (&[0x7f][..], 0x7f, 1),
            (&[0x81, 0x00], 0x80, 2),
            (&[0xff, 0x7f], 0x3fff, 2),
            (&[0xff; 9], u64::MAX, 9),
            (&[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01, 0x55], 1, 9),
        ] {
            assert_eq!(varint(&Record::new("test", bytes, 0), 0).unwrap(), (value, len), "{bytes:?}");
        }
        assert!(varint(&Record::new("test", &[0x80], 0), 0).is_err());
    }

    #[test]
    fn columns_are_found_behind_others_of_all_lengths() {
        // NULL, 1, 2, 3, 4, 6 and 8 bytes, 0, 1, a blob of two and a text of three bytes.
        let kinds = [0, 1, 2, 3, 4, 5, 6, 8, 9, 16, 19];
        let row = [&[12][..], &kinds, &[7; 1 + 2 + 3 + 4 + 6 + 8], b"\x01\x02", b"abc"].concat();
        let row = Record::new("test", &row, 0);
        let lens: Vec<usize> = (0..kinds.len()).map(|column| Column::of(&row, column).unwrap().record.len()).collect();
        assert_eq!(lens, [0, 1, 2, 3, 4, 6, 8, 0, 0, 2, 3]);
        assert_eq!(Column::of(&row, 9).unwrap().record.bytes, b"\x01\x02");
        assert_eq!(Column::of(&row, 10).unwrap().record.bytes, b"abc");
        assert_eq!(Column::of(&row, 11).err().unwrap().as_corrupt().unwrap().field, "record header");
    }
}
