//! Compressed clusters: QEMU `docs/interop/qcow2.txt`, section "Cluster mapping", "Compressed Clusters Descriptor".
//!
//! | `compression_type` | data |
//! |---|---|
//! | 0 zlib | one raw deflate stream (RFC 1951), without zlib's header and checksum |
//! | 1 zstd | one or more zstd frames (RFC 8878) |
//!
//! The data must make exactly one cluster. What follows it in its last sector belongs to others and is passed over. As
//! the output is never larger than the cluster it is for, no input makes it take more memory or much time.

use std::cell::RefCell;

use super::FORMAT;
use super::cluster::CompressedCluster;
use crate::block::BlockDevice;
use crate::bytes::to_usize;
use crate::error::{Error, Result};

/// How compressed clusters are compressed, one way for the whole image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    Zlib,
    Zstd,
}

impl Compression {
    /// QEMU's name for it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Zlib => "zlib",
            Self::Zstd => "zstd",
        }
    }

    /// Bytes that the data of a cluster of `size` bytes has at least. Deflate repeats at most 258 bytes with two bits; a zstd
    /// frame has 10 bytes, and 4 for each block of 128 KiB.
    pub(super) fn least(self, size: u64) -> u64 {
        match self {
            Self::Zlib => size.div_euclid(1032).max(2),
            Self::Zstd => size.wrapping_shr(17).saturating_mul(4).saturating_add(6),
        }
    }

    /// Reads the cluster's data from `file` and decompresses it into `cluster`, which is one cluster long.
    pub(super) fn read(self, file: &dyn BlockDevice, from: CompressedCluster, cluster: &mut [u8]) -> Result<()> {
        let len = from.len.min(file.size().saturating_sub(from.offset));
        let mut data = vec![0; to_usize(len)];
        file.read_exact_at(&mut data, from.offset)?;
        DECODERS.with_borrow_mut(|decoders| decoders.decompress(self, &data, cluster)).map_err(|found| {
            let expected = format!("{} data of a cluster of {} bytes", self.name(), cluster.len());
            Error::corrupt(FORMAT, "compressed cluster", from.offset, found, expected)
        })
    }
}

thread_local! {
    static DECODERS: RefCell<Decoders> = const { RefCell::new(Decoders { deflate: None, zstd: None }) };
}

/// A thread's decoders, made when first needed: making one costs more than a small cluster does.
struct Decoders {
    deflate: Option<libdeflater::Decompressor>,
    zstd: Option<zstd::zstd_safe::DCtx<'static>>,
}

impl Decoders {
    /// Fills `cluster`, or says what is wrong with the data.
    fn decompress(&mut self, compression: Compression, data: &[u8], cluster: &mut [u8]) -> Result<(), String> {
        let made = match compression {
            Compression::Zlib => {
                let deflate = self.deflate.get_or_insert_with(libdeflater::Decompressor::new);
                deflate.deflate_decompress(data, cluster).map_err(|error| match error {
                    libdeflater::DecompressionError::InsufficientSpace => "data of more than a cluster".to_owned(),
                    libdeflater::DecompressionError::BadData => "data that is no deflate stream".to_owned(),
                })?
            }
            Compression::Zstd => unpack_frames(self.zstd.get_or_insert_default(), data, cluster)?,
        };
        if made == cluster.len() { Ok(()) } else { Err(format!("data of {made} bytes")) }
    }
}

/// Decompresses frames until `cluster` is full and returns how many bytes they made. Frames of zstd's formats before 0.8
/// and skippable ones are refused: nothing writes them, and each is another decoder to trust.
fn unpack_frames(
    decoder: &mut zstd::zstd_safe::DCtx<'_>,
    mut data: &[u8],
    cluster: &mut [u8],
) -> Result<usize, String> {
    const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
    let name = |code| zstd::zstd_safe::get_error_name(code).to_owned();
    let mut made = 0usize;
    while made < cluster.len() {
        if !data.starts_with(&MAGIC) {
            return Err(format!("no zstd frame after {made} bytes"));
        }
        let len = zstd::zstd_safe::find_frame_compressed_size(data).map_err(name)?;
        let (frame, rest) = data.split_at_checked(len).ok_or("a frame past the end of the data")?;
        let room = cluster.get_mut(made..).unwrap_or_default();
        made = made.saturating_add(decoder.decompress(room, frame).map_err(name)?);
        data = rest;
    }
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Memory;

    fn cluster() -> Vec<u8> {
        (0..65_536u32).map(|n| (n / 7 % 251) as u8).collect()
    }

    fn deflated(bytes: &[u8]) -> Vec<u8> {
        let mut out = vec![0; bytes.len() + 1000];
        let mut compressor = libdeflater::Compressor::new(libdeflater::CompressionLvl::default());
        let len = compressor.deflate_compress(bytes, &mut out).unwrap();
        out.truncate(len);
        out
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        zstd::bulk::compress(bytes, 3).unwrap()
    }

    fn read(compression: Compression, data: &[u8]) -> Result<Vec<u8>> {
        let mut bytes = vec![0; 65_536];
        let from = CompressedCluster { offset: 3, len: 100_000 };
        let file = Memory::new([b"abc", data].concat());
        compression.read(&file, from, &mut bytes).map(|()| bytes)
    }

    #[test]
    fn what_follows_the_data_is_passed_over_and_the_file_may_end_with_it() {
        let cluster = cluster();
        let halves = [zstd(&cluster[..30_000]), zstd(&cluster[30_000..])].concat();
        for (compression, data) in
            [(Compression::Zlib, deflated(&cluster)), (Compression::Zstd, zstd(&cluster)), (Compression::Zstd, halves)]
        {
            for padding in [&b""[..], &[0; 500], &[0xff; 500]] {
                assert_eq!(read(compression, &[&data, padding].concat()).unwrap(), cluster);
            }
        }
    }

    #[test]
    fn data_that_makes_no_cluster_is_refused() {
        let cluster = cluster();
        let more = [&cluster[..], &[7]].concat();
        let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0][..], &zstd(&cluster)].concat();
        let bomb = vec![0; 64 << 20];
        for (compression, data) in [
            (Compression::Zlib, deflated(&cluster[1..])),
            (Compression::Zlib, deflated(&more)),
            (Compression::Zlib, deflated(&bomb)),
            (Compression::Zlib, deflated(&cluster)[..200].to_vec()),
            (Compression::Zlib, vec![0xff; 600]),
            (Compression::Zlib, zstd(&cluster)),
            (Compression::Zstd, zstd(&cluster[1..])),
            (Compression::Zstd, zstd(&more)),
            (Compression::Zstd, zstd(&bomb)),
            (Compression::Zstd, zstd(&cluster)[..200].to_vec()),
            (Compression::Zstd, deflated(&cluster)),
            (Compression::Zstd, vec![]),
            (Compression::Zstd, skippable),
        ] {
            let error = read(compression, &data).unwrap_err();
            let corrupt = error.as_corrupt().unwrap();
            assert_eq!((corrupt.field, corrupt.offset), ("compressed cluster", 3));
        }
    }
}
