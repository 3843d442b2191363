//! Digests being computed.

use digest::Digest;

use super::Algorithm;

/// POSIX `cksum`'s CRC.
static CKSUM: crc::Crc<u32> = crc::Crc::<u32>::new(&crc::CRC_32_CKSUM);

/// One algorithm at work.
pub(super) enum Hasher {
    Crc(crc::Digest<'static, u32>, u64),
    Md5(md5::Md5),
    Sha1(sha1::Sha1),
    Sha224(sha2::Sha224),
    Sha256(sha2::Sha256),
    Sha384(sha2::Sha384),
    Sha512(sha2::Sha512),
    Blake3(Box<blake3::Hasher>),
    Xxh3(Box<xxhash_rust::xxh3::Xxh3>),
}

impl Hasher {
    pub(super) fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Crc => Self::Crc(CKSUM.digest(), 0),
            Algorithm::Md5 => Self::Md5(Digest::new()),
            Algorithm::Sha1 => Self::Sha1(Digest::new()),
            Algorithm::Sha224 => Self::Sha224(Digest::new()),
            Algorithm::Sha256 => Self::Sha256(Digest::new()),
            Algorithm::Sha384 => Self::Sha384(Digest::new()),
            Algorithm::Sha512 => Self::Sha512(Digest::new()),
            Algorithm::Blake3 => Self::Blake3(Box::default()),
            Algorithm::Xxh3 => Self::Xxh3(Box::default()),
        }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Crc(digest, len) => {
                digest.update(bytes);
                *len += bytes.len() as u64;
            }
            Self::Md5(hasher) => Digest::update(hasher, bytes),
            Self::Sha1(hasher) => Digest::update(hasher, bytes),
            Self::Sha224(hasher) => Digest::update(hasher, bytes),
            Self::Sha256(hasher) => Digest::update(hasher, bytes),
            Self::Sha384(hasher) => Digest::update(hasher, bytes),
            Self::Sha512(hasher) => Digest::update(hasher, bytes),
            Self::Blake3(hasher) => {
                hasher.update(bytes);
            }
            Self::Xxh3(hasher) => hasher.update(bytes),
        }
    }

    /// Lower-case hexadecimal; of `crc`, decimal.
    pub(super) fn finish(self) -> String {
        match self {
            Self::Crc(mut digest, len) => {
                // POSIX appends the length, least significant byte first, without leading zero bytes.
                let length = len.to_le_bytes();
                let significant = length.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
                digest.update(&length[..significant]);
                digest.finalize().to_string()
            }
            Self::Md5(hasher) => hex(&hasher.finalize()),
            Self::Sha1(hasher) => hex(&hasher.finalize()),
            Self::Sha224(hasher) => hex(&hasher.finalize()),
            Self::Sha256(hasher) => hex(&hasher.finalize()),
            Self::Sha384(hasher) => hex(&hasher.finalize()),
            Self::Sha512(hasher) => hex(&hasher.finalize()),
            Self::Blake3(hasher) => hasher.finalize().to_hex().to_string(),
            Self::Xxh3(hasher) => format!("{:016x}", hasher.digest()),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |value: u8| char::from(DIGITS[usize::from(value & 15)]);
    bytes.iter().flat_map(|&byte| [digit(byte >> 4), digit(byte)]).collect()
}
