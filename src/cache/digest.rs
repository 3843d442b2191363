//! The content address: BLAKE3, 256 bits.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::fs::Timestamp;

/// The BLAKE3 digest of some bytes. Objects, packs, trees and actions are named by one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// The digest of several byte strings under a context that no other use has. Each is preceded by its length, so that
    /// no two lists give the same bytes.
    #[must_use]
    pub fn derive<'a>(context: &str, parts: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(context);
        for part in parts {
            hasher.update(&crate::bytes::to_u64(part.len()).to_le_bytes());
            hasher.update(part);
        }
        Self::from(hasher.finalize())
    }

    /// 32 bytes that were stored as a digest.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// 64 hexadecimal digits.
    #[must_use]
    pub fn hex(&self) -> String {
        blake3::Hash::from_bytes(self.0).to_hex().to_string()
    }

    /// The names of its directory and file below a sharded directory.
    pub(super) fn shard(&self) -> String {
        let mut hex = self.hex();
        hex.insert(2, '/');
        hex
    }

    /// The modification time that an object of this name carries. It follows the file when names are exchanged, and a file
    /// that somebody wrote to has another one. Between 2001 and 2010, where no clock of today is.
    pub(super) fn sentinel(&self) -> Timestamp {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        let seconds = 1_000_000_000 + i64::from(u32::from_le_bytes([a, b, c, d]) >> 4);
        Timestamp { seconds, nanoseconds: u32::from_le_bytes([e, f, g, h]) % 1_000_000_000 }
    }
}

/// The place of a digest among `count` sorted ones. Digests are spread evenly over their range, so a few guesses where it
/// should be leave little to halve: 5 looks at 30,000 digests, not 15.
pub(super) fn position<'a>(count: usize, digest: &Digest, at: impl Fn(usize) -> Option<&'a [u8; 32]>) -> Option<usize> {
    const GUESSES: u32 = 4;
    let prefix = |bytes: &[u8; 32]| bytes.first_chunk().map_or(0, |first| u64::from_be_bytes(*first));
    let key = prefix(&digest.0);
    let (mut start, mut end) = (0, count);
    let (mut low, mut high) = (0, u64::MAX);
    for guess in 0.. {
        if start >= end {
            break;
        }
        let middle = if guess < GUESSES {
            let part = u128::from(key.clamp(low, high) - low) * (end - 1 - start) as u128;
            start + usize::try_from(part / u128::from(high - low).max(1)).unwrap_or(0)
        } else {
            start.midpoint(end)
        };
        let found = at(middle)?;
        match found.cmp(&digest.0) {
            std::cmp::Ordering::Less => (start, low) = (middle + 1, prefix(found)),
            std::cmp::Ordering::Greater => (end, high) = (middle, prefix(found)),
            std::cmp::Ordering::Equal => return Some(middle),
        }
    }
    None
}

impl From<blake3::Hash> for Digest {
    fn from(hash: blake3::Hash) -> Self {
        Self(*hash.as_bytes())
    }
}

impl FromStr for Digest {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match blake3::Hash::from_hex(text) {
            Ok(hash) if text.bytes().all(|byte| !byte.is_ascii_uppercase()) => Ok(Self(*hash.as_bytes())),
            _ => Err(Error::invalid(format!("'{}' is no digest", crate::bytes::escape(text.as_bytes())))
                .with_hint("a digest is 64 hexadecimal digits in lower case")),
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({})", self.hex())
    }
}

impl serde::Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.hex())
    }
}

impl<'de> serde::Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_those_of_b3sum_and_survive_their_text() {
        let empty = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";
        assert_eq!(Digest::of(b"").hex(), empty);
        assert_eq!(empty.parse::<Digest>().unwrap(), Digest::of(b""));
        assert_eq!(Digest::of(b"").shard(), format!("{}/{}", &empty[..2], &empty[2..]));
        assert!(empty.to_uppercase().parse::<Digest>().is_err());
        assert!(empty[1..].parse::<Digest>().is_err());
        let json = serde_json::to_string(&Digest::of(b"x")).unwrap();
        assert_eq!(serde_json::from_str::<Digest>(&json).unwrap(), Digest::of(b"x"));
    }

    #[test]
    fn lists_with_the_same_bytes_have_different_digests() {
        let derive = |parts: &[&[u8]]| Digest::derive("guestctl test", parts.iter().copied());
        assert_ne!(derive(&[b"ab", b"c"]), derive(&[b"a", b"bc"]));
        assert_ne!(derive(&[b"ab"]), Digest::of(b"ab"));
    }

    #[test]
    fn digests_are_found_where_they_lie_and_others_are_not() {
        for count in [0u32, 1, 2, 3, 50, 3000] {
            let mut sorted: Vec<Digest> = (0..count).map(|number| Digest::of(&number.to_le_bytes())).collect();
            // Some that are not spread at all.
            sorted.extend((0..count).map(|number| {
                let mut bytes = [7; 32];
                bytes[28..].copy_from_slice(&number.to_be_bytes());
                Digest(bytes)
            }));
            sorted.sort_unstable();
            let at = |index: usize| sorted.get(index).map(|digest| &digest.0);
            for (index, digest) in sorted.iter().enumerate() {
                assert_eq!(position(sorted.len(), digest, at), Some(index));
            }
            for other in [Digest([0; 32]), Digest([7; 32]), Digest([0xff; 32]), Digest::of(b"other")] {
                assert_eq!(position(sorted.len(), &other, at), sorted.binary_search(&other).ok());
            }
        }
    }

    #[test]
    fn the_sentinel_is_a_time_that_has_passed() {
        for text in ["", "a", "b", "c"] {
            let Timestamp { seconds, nanoseconds } = Digest::of(text.as_bytes()).sentinel();
            assert!((1_000_000_000..1_268_435_456).contains(&seconds) && nanoseconds < 1_000_000_000);
        }
    }
}
