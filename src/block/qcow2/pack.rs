//! Clusters made smaller, the opposite of [`compressed`](super::compressed).
//!
//! Deflate's default level is chosen by measurement: on a Debian root disk libdeflate's level 2 is the fastest whose
//! output is no larger than what qemu-img makes with zlib's level 6 and a window of 4 KiB. RFC 1951 lets matches reach
//! back 32 KiB, and a cluster is unpacked in one call with all of its output at hand, so readers need no window at all.

use std::cell::RefCell;

use crate::block::{Compression, CompressionKind, Pack};
use crate::bytes::{to_u64, to_usize};
use crate::error::{Error, Result};

const DEFLATE_LEVEL: u8 = 2;
const ZSTD_LEVEL: u8 = 3;

/// Packs clusters of one size in one way.
#[derive(Debug)]
pub(super) struct Packer {
    kind: CompressionKind,
    level: u8,
    cluster_size: u64,
}

thread_local! {
    /// A thread's encoders with their levels; making one costs more than a small cluster does.
    static DEFLATE: RefCell<Option<(u8, libdeflater::Compressor)>> = const { RefCell::new(None) };
    static ZSTD: RefCell<Option<(u8, zstd::bulk::Compressor<'static>)>> = const { RefCell::new(None) };
}

impl Packer {
    pub(super) fn new(compression: Compression, cluster_size: u64) -> Result<Self> {
        let (default, most) = match compression.kind {
            CompressionKind::Zlib => (DEFLATE_LEVEL, 12),
            CompressionKind::Zstd => (ZSTD_LEVEL, 19),
        };
        let level = compression.level.unwrap_or(default);
        if !(1..=most).contains(&level) {
            return Err(Error::invalid(format!("the compression level is {level}; there are 1 to {most}")));
        }
        Ok(Self { kind: compression.kind, level, cluster_size })
    }

    fn compress(&self, cluster: &[u8]) -> Result<Option<Vec<u8>>> {
        // What does not become smaller is stored as it is.
        let mut packed = vec![0; cluster.len().saturating_sub(1)];
        let len = match self.kind {
            CompressionKind::Zlib => DEFLATE.with_borrow_mut(|slot| {
                let (_, deflate) = match slot.take() {
                    Some(kept) if kept.0 == self.level => slot.insert(kept),
                    _ => {
                        let level = libdeflater::CompressionLvl::new(self.level.into()).unwrap_or_default();
                        slot.insert((self.level, libdeflater::Compressor::new(level)))
                    }
                };
                deflate.deflate_compress(cluster, &mut packed).ok()
            }),
            CompressionKind::Zstd => ZSTD.with_borrow_mut(|slot| {
                let (_, zstd) = match slot.take() {
                    Some(kept) if kept.0 == self.level => slot.insert(kept),
                    _ => {
                        let made = zstd::bulk::Compressor::new(self.level.into());
                        let made = made.map_err(|error| Error::io("set up", "the zstd encoder", error))?;
                        slot.insert((self.level, made))
                    }
                };
                // The only thing that can go wrong is that the room is too small.
                Ok::<_, Error>(zstd.compress_to_buffer(cluster, &mut packed).ok())
            })?,
        };
        Ok(len.map(|len| {
            packed.truncate(len);
            packed
        }))
    }
}

impl Pack for Packer {
    fn pack(&self, _guest: u64, unit: &[u8]) -> Result<Option<Vec<u8>>> {
        if to_u64(unit.len()) == self.cluster_size {
            return self.compress(unit);
        }
        // The disk's last cluster is stored whole.
        let mut cluster = unit.to_vec();
        cluster.resize(to_usize(self.cluster_size), 0);
        match self.compress(&cluster) {
            Ok(Some(packed)) if packed.len() >= unit.len() => Ok(None),
            packed => packed,
        }
    }
}
