//! The algorithms, by name.

use std::str::FromStr;

use crate::error::{Error, Result};

/// The algorithms, by their libguestfs names; `blake3` and `xxh3` are ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is an algorithm's proper name")]
#[non_exhaustive]
pub enum Algorithm {
    /// POSIX `cksum`: CRC-32 over the content and its length, printed in decimal.
    Crc,
    Md5,
    Sha1,
    Sha224,
    Sha256,
    Sha384,
    Sha512,
    Blake3,
    Xxh3,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Crc,
        Self::Md5,
        Self::Sha1,
        Self::Sha224,
        Self::Sha256,
        Self::Sha384,
        Self::Sha512,
        Self::Blake3,
        Self::Xxh3,
    ];

    /// The name that the command line, JSON and libguestfs use.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Crc => "crc",
            Self::Md5 => "md5",
            Self::Sha1 => "sha1",
            Self::Sha224 => "sha224",
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
            Self::Blake3 => "blake3",
            Self::Xxh3 => "xxh3",
        }
    }
}

impl FromStr for Algorithm {
    type Err = Error;

    /// By name, in any case.
    fn from_str(name: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|algorithm| algorithm.name().eq_ignore_ascii_case(name));
        found.ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            let name = crate::bytes::escape(name.as_bytes());
            Error::invalid(format!("'{name}' is no checksum type")).with_hint(format!("one of: {names}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_in_any_case_and_others_refused_with_a_list() {
        assert_eq!("SHA256".parse::<Algorithm>().unwrap(), Algorithm::Sha256);
        assert!("gost".parse::<Algorithm>().unwrap_err().hint().unwrap().contains("sha256"));
    }
}
