//! Compressed grains of a stream-optimized extent: VMware, *Virtual Disk Format 5.0*, "Grain Marker".
//!
//! | offset | size | field | unit, accepted |
//! |---:|---:|---|---|
//! | 0 | 8 | lba | sectors: the grain's place on the extent's disk |
//! | 8 | 4 | size | bytes of data; 1 to two grains |
//! | 12 | size | data | a zlib stream (RFC 1950) |

use std::sync::{Mutex, PoisonError};

use libdeflater::Decompressor;

use super::FORMAT;
use super::header::SECTOR;
use crate::block::{BlockDevice, read_vec};
use crate::bytes::{Record, to_u64, to_usize};
use crate::error::Result;

/// Decompressors that are not in use, one for each thread that ever needed one at the same time.
#[derive(Default)]
pub(super) struct Inflaters(Mutex<Vec<Decompressor>>);

impl std::fmt::Debug for Inflaters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Inflaters")
    }
}

impl Inflaters {
    fn inflate(&self, data: &[u8], out: &mut [u8]) -> Result<usize, libdeflater::DecompressionError> {
        let free = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut decompressor = free.unwrap_or_default();
        let result = decompressor.zlib_decompress(data, out);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(decompressor);
        result
    }

    /// Unpacks the grain whose marker is at byte `at` of `file` into `out`, a whole grain. Its place on the disk must be
    /// byte `guest`, and it must have at least `needed` bytes; what it lacks to a whole grain becomes zero.
    pub(super) fn read(&self, file: &dyn BlockDevice, at: u64, guest: u64, needed: u64, out: &mut [u8]) -> Result<()> {
        let head = read_vec(file, at, to_usize(file.size().saturating_sub(at).min(SECTOR)))?;
        let marker = Record::new(FORMAT, &head, at);
        let (lba, size) = (marker.le64(0)?, marker.le32(8)?);
        if lba.checked_mul(SECTOR) != Some(guest) {
            return Err(marker.corrupt("grain marker lba", 0, lba, guest.checked_div(SECTOR).unwrap_or(0)));
        }
        let largest = to_u64(out.len()).saturating_mul(2);
        let available = file.size().saturating_sub(at).saturating_sub(12);
        if size == 0 || u64::from(size) > largest || u64::from(size) > available {
            let expected = format!("1 to {largest}, inside the file");
            return Err(marker.corrupt("grain marker size", 8, size, expected));
        }
        let size = to_usize(u64::from(size));
        let rest;
        let data = match head.get(12..).and_then(|data| data.get(..size)) {
            Some(data) => data,
            None => {
                rest = read_vec(file, at.saturating_add(12), size)?;
                &rest
            }
        };
        let unpacked = self.inflate(data, out).map_err(|error| {
            let found = match error {
                libdeflater::DecompressionError::InsufficientSpace => "more than a grain",
                libdeflater::DecompressionError::BadData => "no valid stream",
            };
            marker.corrupt("compressed grain", 12, found, "a zlib stream of one grain")
        })?;
        if to_u64(unpacked) < needed {
            return Err(marker.corrupt("compressed grain", 12, format!("{unpacked} bytes"), format!("{needed} bytes")));
        }
        if let Some(tail) = out.get_mut(unpacked..) {
            tail.fill(0);
        }
        Ok(())
    }
}
