//! Checked integers from untrusted bytes: the only place where bytes become numbers.
//!
//! A [`Record`] is one on-disk structure that has been read into memory: it knows its format's name and where on the
//! device it began, so that every complaint about it carries an absolute byte offset. Fields are read by their offset in
//! the structure, as the specification's tables give them. Reading past the end is a [`Corrupt`](crate::ErrorKind)
//! error, never a panic.

use crate::error::{Error, Result};

#[cfg(not(target_pointer_width = "64"))]
compile_error!("guestctl needs a 64-bit target: disk offsets are kept in usize when they index memory");

/// `u64` as an index into memory; lossless on the 64-bit targets this crate builds for.
#[must_use]
pub const fn to_usize(value: u64) -> usize {
    value as usize
}

/// A length in memory as `u64`; lossless on every target.
#[must_use]
pub const fn to_u64(value: usize) -> u64 {
    value as u64
}

/// The low 32 bits.
#[must_use]
pub const fn low_u32(value: u64) -> u32 {
    (value & 0xffff_ffff) as u32
}

/// The low 16 bits.
#[must_use]
pub const fn low_u16(value: u32) -> u16 {
    (value & 0xffff) as u16
}

/// Two 32-bit halves, the high one first.
#[must_use]
pub const fn join_u64(high: u32, low: u32) -> u64 {
    ((high as u64) << 32) | low as u64
}

/// The two's-complement reading of 32 bits.
#[must_use]
pub const fn to_i32(value: u32) -> i32 {
    value as i32
}

/// `value` rounded up to a multiple of `unit`, or `None` past `u64::MAX` or for a zero unit.
#[must_use]
pub const fn round_up(value: u64, unit: u64) -> Option<u64> {
    value.checked_next_multiple_of(unit)
}

/// How many whole units are in `value`, and what is left over; nothing is in a unit of zero.
#[must_use]
pub const fn div_rem(value: u64, unit: u64) -> (u64, u64) {
    match (value.checked_div(unit), value.checked_rem(unit)) {
        (Some(quotient), Some(rest)) => (quotient, rest),
        _ => (0, 0),
    }
}

/// One on-disk structure in memory; see the [module head](self).
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    /// The format's name, as it appears in errors.
    pub format: &'static str,
    /// The structure's bytes.
    pub bytes: &'a [u8],
    /// Where the first of them lies on the device.
    pub offset: u64,
}

macro_rules! integers {
    ($($(#[$doc:meta])* $name:ident: $int:ty, $from:ident;)*) => {
        impl Record<'_> {
            $($(#[$doc])*
            #[inline]
            pub fn $name(&self, at: usize) -> Result<$int> {
                Ok(<$int>::$from(*self.array(at)?))
            })*
        }
    };
}

integers! {
    /// Little-endian 16 bits at byte `at` of the structure.
    le16: u16, from_le_bytes;
    /// Little-endian 32 bits at byte `at` of the structure.
    le32: u32, from_le_bytes;
    /// Little-endian 64 bits at byte `at` of the structure.
    le64: u64, from_le_bytes;
    /// Big-endian 16 bits at byte `at` of the structure.
    be16: u16, from_be_bytes;
    /// Big-endian 32 bits at byte `at` of the structure.
    be32: u32, from_be_bytes;
    /// Big-endian 64 bits at byte `at` of the structure.
    be64: u64, from_be_bytes;
    /// One byte at byte `at` of the structure.
    u8: u8, from_le_bytes;
}

impl<'a> Record<'a> {
    /// A structure of `format` whose first byte lies at `offset` of its device.
    #[must_use]
    pub const fn new(format: &'static str, bytes: &'a [u8], offset: u64) -> Self {
        Self { format, bytes, offset }
    }

    /// Its length in bytes.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether it has no bytes.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// `N` bytes at byte `at` of the structure.
    #[inline]
    pub fn array<const N: usize>(&self, at: usize) -> Result<&'a [u8; N]> {
        match self.bytes.get(at..).and_then(|rest| rest.first_chunk::<N>()) {
            Some(array) => Ok(array),
            None => Err(self.short(at, N)),
        }
    }

    /// `len` bytes at byte `at` of the structure.
    #[inline]
    pub fn slice(&self, at: usize, len: usize) -> Result<&'a [u8]> {
        match self.bytes.get(at..).and_then(|rest| rest.get(..len)) {
            Some(slice) => Ok(slice),
            None => Err(self.short(at, len)),
        }
    }

    /// The part of the structure from byte `at` on, `len` bytes long, as a structure of its own.
    pub fn sub(&self, at: usize, len: usize) -> Result<Record<'a>> {
        Ok(Record { format: self.format, bytes: self.slice(at, len)?, offset: self.position(at) })
    }

    /// The absolute byte offset of byte `at` of the structure.
    #[must_use]
    pub const fn position(&self, at: usize) -> u64 {
        self.offset.saturating_add(at as u64)
    }

    /// The error for a field at byte `at` whose value breaks a rule.
    #[must_use]
    pub fn corrupt(
        &self,
        field: &'static str,
        at: usize,
        found: impl std::fmt::Display,
        expected: impl std::fmt::Display,
    ) -> Error {
        Error::corrupt(self.format, field, self.position(at), found, expected)
    }

    #[cold]
    fn short(&self, at: usize, len: usize) -> Error {
        let found = format!("a structure of {} bytes", self.bytes.len());
        let expected = format!("{len} bytes at byte {at} of it");
        self.corrupt("length", at, found, expected)
    }
}

/// A NUL-terminated or full-length fixed field as text, invalid UTF-8 replaced, outer blanks cut.
#[must_use]
pub fn fixed_text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).trim().to_owned()
}

/// Sixteen bytes in big-endian (RFC 9562) order as the usual 8-4-4-4-12 lower-case text.
#[must_use]
pub fn uuid_text(bytes: &[u8; 16]) -> String {
    let mut text = String::with_capacity(36);
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

/// Guest bytes for a person: valid UTF-8 stays, control, bidirectional-override and invalid bytes become `\xNN` (or
/// `\u{NN}` for a character), a backslash becomes `\\`, so that the text is lossless and cannot steer a terminal.
#[must_use]
pub fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\\' => text.push_str("\\\\"),
                '\n' => text.push_str("\\n"),
                '\t' => text.push_str("\\t"),
                c if c.is_ascii_control() => text.push_str(&format!("\\x{:02x}", u32::from(c))),
                c if is_steering(c) => text.push_str(&format!("\\u{{{:x}}}", u32::from(c))),
                c => text.push(c),
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

/// Characters that change how later text is shown: C1 controls, line separators and bidirectional overrides.
#[must_use]
pub fn is_steering(character: char) -> bool {
    matches!(u32::from(character), 0x80..=0x9f | 0x61c | 0x200e | 0x200f | 0x2028..=0x202e | 0x2066..=0x2069 | 0xfeff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_read_at_their_offset_and_never_past_the_end() {
        let record = Record::new("test", &[1, 2, 3, 4, 5, 6, 7, 8], 100);
        assert_eq!(record.le16(1).unwrap(), 0x0302);
        assert_eq!(record.be32(0).unwrap(), 0x0102_0304);
        assert_eq!(record.le64(0).unwrap(), 0x0807_0605_0403_0201);
        let error = record.le32(6).unwrap_err();
        assert_eq!(error.as_corrupt().unwrap().offset, 106);
        assert!(record.slice(usize::MAX, 2).is_err());
    }

    #[test]
    fn escape_is_lossless_and_inert() {
        assert_eq!(escape(b"plain \xc3\xa9"), "plain é");
        assert_eq!(escape(b"a\x1b[31m\\\xff"), "a\\x1b[31m\\\\\\xff");
        assert_eq!(escape("x\u{202e}y".as_bytes()), "x\\u{202e}y");
    }

    #[test]
    fn uuid_text_has_the_usual_groups() {
        assert_eq!(uuid_text(&[0x6f; 16]), "6f6f6f6f-6f6f-6f6f-6f6f-6f6f6f6f6f6f");
    }
}
