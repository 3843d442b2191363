//! Where the bytes of a search come from: memory, a device, or what gzip has packed in either.

use std::io::{BufRead, Read};
use std::sync::Arc;

use flate2::bufread::MultiGzDecoder;

use super::search::Source;
use crate::block::{BlockDevice, ExtentKind};
use crate::error::{Error, Result};
use crate::ops::bulk::Content;
use crate::ops::stream::{DeviceStream, error_of};

/// Calls `search` with the bytes of `content`; unpacked, when that is asked for and it is packed.
pub(super) fn with(
    content: Content<'_>,
    gunzip: bool,
    search: &mut dyn FnMut(&mut dyn Source) -> Result<u64>,
) -> Result<u64> {
    match content {
        Content::Nothing => search(&mut &b""[..]),
        Content::Bytes(bytes) if gunzip && bytes.starts_with(&MAGIC) => search(&mut Gunzip(MultiGzDecoder::new(bytes))),
        Content::Bytes(bytes) => search(&mut &*bytes),
        Content::Device(device) => {
            if gunzip {
                let stream = DeviceStream::new(device.clone());
                if stream.peek::<2>()? == MAGIC {
                    return search(&mut Gunzip(MultiGzDecoder::new(stream)));
                }
            }
            search(&mut Device { device, at: 0 })
        }
    }
}

const MAGIC: [u8; 2] = [0x1f, 0x8b];

struct Device<'a> {
    device: &'a Arc<dyn BlockDevice>,
    at: u64,
}

impl Source for Device<'_> {
    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        let len = self.device.size().saturating_sub(self.at).min(buf.len() as u64) as usize;
        self.device.read_exact_at(&mut buf[..len], self.at)?;
        self.at += len as u64;
        Ok(len)
    }

    fn skip_zeroes(&mut self, at_least: u64) -> Result<u64> {
        let left = self.device.size().saturating_sub(self.at);
        if left < at_least {
            return Ok(0);
        }
        let extent = self.device.next_extent(self.at..self.at + left)?;
        if extent.kind == ExtentKind::Data || extent.len < at_least {
            return Ok(0);
        }
        self.at += extent.len;
        Ok(extent.len)
    }
}

struct Gunzip<R>(MultiGzDecoder<R>);

impl<R: BufRead> Source for Gunzip<R> {
    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        self.0.read(buf).map_err(|error| {
            error_of(error, |error| Error::corrupt("gzip", "stream", 0, error, "deflated data and its checksum"))
        })
    }
}
