//! Digests of contents, over devices and files alike. Reading and digesting take turns on two buffers, so that with a
//! second core the one hides behind the other.

use std::str::FromStr;

use digest::Digest;

use crate::block::BlockDevice;
use crate::error::{Error, Result};
use crate::progress::Progress;

const CHUNK: usize = 1 << 20;

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

/// The digest of all of `device`, in lower-case hexadecimal (`crc`: decimal).
pub fn checksum(device: &dyn BlockDevice, algorithm: Algorithm, progress: &dyn Progress) -> Result<String> {
    match algorithm {
        Algorithm::Crc => {
            static CKSUM: crc::Crc<u32> = crc::Crc::<u32>::new(&crc::CRC_32_CKSUM);
            let mut digest = CKSUM.digest();
            feed(device, progress, |bytes| digest.update(bytes))?;
            // POSIX appends the length, least significant byte first, without leading zero bytes.
            let length = device.size().to_le_bytes();
            let significant = length.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
            digest.update(&length[..significant]);
            Ok(digest.finalize().to_string())
        }
        Algorithm::Md5 => hex_of::<md5::Md5>(device, progress),
        Algorithm::Sha1 => hex_of::<sha1::Sha1>(device, progress),
        Algorithm::Sha224 => hex_of::<sha2::Sha224>(device, progress),
        Algorithm::Sha256 => hex_of::<sha2::Sha256>(device, progress),
        Algorithm::Sha384 => hex_of::<sha2::Sha384>(device, progress),
        Algorithm::Sha512 => hex_of::<sha2::Sha512>(device, progress),
        Algorithm::Blake3 => {
            let mut hasher = blake3::Hasher::new();
            feed(device, progress, |bytes| {
                hasher.update(bytes);
            })?;
            Ok(hasher.finalize().to_hex().to_string())
        }
        Algorithm::Xxh3 => {
            let mut hasher = xxhash_rust::xxh3::Xxh3::new();
            feed(device, progress, |bytes| hasher.update(bytes))?;
            Ok(format!("{:016x}", hasher.digest()))
        }
    }
}

fn hex_of<D: Digest + Send>(device: &dyn BlockDevice, progress: &dyn Progress) -> Result<String> {
    let mut hasher = D::new();
    feed(device, progress, |bytes| hasher.update(bytes))?;
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Gives all bytes to `update`, in order.
fn feed(device: &dyn BlockDevice, progress: &dyn Progress, mut update: impl FnMut(&[u8]) + Send) -> Result<()> {
    let size = device.size();
    progress.set_total(size);
    let chunk_at = |offset: u64| (size - offset).min(CHUNK as u64) as usize;
    let mut current = vec![0u8; chunk_at(0)];
    device.read_exact_at(&mut current, 0)?;
    let mut next = Vec::new();
    let mut offset = current.len() as u64;
    while !current.is_empty() {
        if progress.cancelled() {
            return Err(crate::ErrorKind::Cancelled.into());
        }
        next.resize(chunk_at(offset), 0);
        if next.is_empty() {
            update(&current);
        } else {
            let (read, ()) = rayon::join(|| device.read_exact_at(&mut next, offset), || update(&current));
            read?;
        }
        progress.advance(current.len() as u64);
        offset += next.len() as u64;
        std::mem::swap(&mut current, &mut next);
        next.clear();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Memory;
    use crate::progress::Silent;

    #[test]
    fn published_check_values() {
        let of =
            |name: &str, bytes: &[u8]| checksum(&Memory::new(bytes.to_vec()), name.parse().unwrap(), &Silent).unwrap();
        assert_eq!(of("crc", b"123456789"), "930766865");
        assert_eq!(of("crc", b""), "4294967295");
        assert_eq!(of("MD5", b""), "d41d8cd98f00b204e9800998ecf8427e");
        assert_eq!(of("sha1", b"abc"), "a9993e364706816aba3e25717850c26c9cd0d89d");
        assert_eq!(of("sha256", b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(of("blake3", b""), "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262");
        assert_eq!(of("xxh3", b""), "2d06800538d394c2");
        assert!("gost".parse::<Algorithm>().unwrap_err().hint().unwrap().contains("sha256"));
    }

    #[test]
    fn chunks_join_without_a_seam() {
        let bytes: Vec<u8> = (0..CHUNK * 2 + 5).map(|n| (n % 251) as u8).collect();
        let expected = blake3::hash(&bytes).to_hex().to_string();
        assert_eq!(checksum(&Memory::new(bytes), Algorithm::Blake3, &Silent).unwrap(), expected);
    }
}
