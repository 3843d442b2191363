//! Digests of contents: of one file or device, and of every file of a tree.

mod algorithm;
mod hasher;
mod tree;

pub use algorithm::Algorithm;
pub use tree::{ChecksumOptions, ChecksumReport, Digested, checksums_out, write_sum_line, write_sum_tag};

use rayon::prelude::*;

use crate::block::BlockDevice;
use crate::error::Result;
use crate::progress::Progress;
use hasher::Hasher;

const CHUNK: usize = 1 << 20;

/// The digest of all of `device`, in lower-case hexadecimal (`crc`: decimal).
pub fn checksum(device: &dyn BlockDevice, algorithm: Algorithm, progress: &dyn Progress) -> Result<String> {
    let mut hasher = Hasher::new(algorithm);
    feed(device, progress, |bytes| hasher.update(bytes))?;
    Ok(hasher.finish())
}

/// Several digests of all of `device` in one pass over it, on all threads of the caller's pool.
pub fn checksums(
    device: &dyn BlockDevice,
    algorithms: &[Algorithm],
    progress: &dyn Progress,
) -> Result<Vec<(Algorithm, String)>> {
    let mut hashers: Vec<Hasher> = algorithms.iter().copied().map(Hasher::new).collect();
    feed(device, progress, |bytes| hashers.par_iter_mut().for_each(|hasher| hasher.update(bytes)))?;
    Ok(algorithms.iter().copied().zip(hashers.into_iter().map(Hasher::finish)).collect())
}

/// Gives all bytes to `update`, in order. Reading and digesting take turns on two buffers, so that with a second core the
/// one hides behind the other.
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
    }

    #[test]
    fn chunks_join_without_a_seam_and_one_pass_gives_what_several_give() {
        let bytes: Vec<u8> = (0..CHUNK * 2 + 5).map(|n| (n % 251) as u8).collect();
        let expected = blake3::hash(&bytes).to_hex().to_string();
        let device = Memory::new(bytes);
        assert_eq!(checksum(&device, Algorithm::Blake3, &Silent).unwrap(), expected);
        for (algorithm, digest) in checksums(&device, &Algorithm::ALL, &Silent).unwrap() {
            assert_eq!(digest, checksum(&device, algorithm, &Silent).unwrap(), "{}", algorithm.name());
        }
    }
}
