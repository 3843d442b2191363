//! A content as a stream, for decoders that take one; and the library's errors through them unharmed.

use std::io::{self, BufRead, Read};
use std::sync::Arc;

use crate::block::BlockDevice;
use crate::error::{Error, Result};

const CHUNK: u64 = 256 << 10;

/// All bytes of a device from the first on, in large reads.
pub(super) struct DeviceStream {
    device: Arc<dyn BlockDevice>,
    /// Where the buffer's bytes lie.
    offset: u64,
    buffer: Vec<u8>,
    /// How many of them were taken.
    taken: usize,
}

impl DeviceStream {
    pub(super) fn new(device: Arc<dyn BlockDevice>) -> Self {
        Self { device, offset: 0, buffer: Vec::new(), taken: 0 }
    }

    /// How many bytes were taken.
    pub(super) fn position(&self) -> u64 {
        self.offset + self.taken as u64
    }

    /// Up to `N` bytes that come next, which stay; fewer at the end.
    pub(super) fn peek<const N: usize>(&self) -> Result<Vec<u8>> {
        let left = self.device.size().saturating_sub(self.position());
        crate::block::read_vec(&*self.device, self.position(), left.min(N as u64) as usize)
    }
}

impl Read for DeviceStream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let ready = self.fill_buf()?;
        let len = ready.len().min(buf.len());
        buf[..len].copy_from_slice(&ready[..len]);
        self.consume(len);
        Ok(len)
    }
}

impl BufRead for DeviceStream {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.taken == self.buffer.len() {
            self.offset += self.taken as u64;
            self.taken = 0;
            let len = self.device.size().saturating_sub(self.offset).min(CHUNK);
            self.buffer.resize(len as usize, 0);
            if let Err(error) = self.device.read_exact_at(&mut self.buffer, self.offset) {
                self.buffer.clear();
                return Err(io::Error::other(error));
            }
        }
        Ok(&self.buffer[self.taken..])
    }

    fn consume(&mut self, amount: usize) {
        self.taken = (self.taken + amount).min(self.buffer.len());
    }
}

/// The library's error that a stream above a [`DeviceStream`] passed on; else what `otherwise` makes of the stream's own.
pub(super) fn error_of(error: io::Error, otherwise: impl FnOnce(io::Error) -> Error) -> Error {
    match error.downcast::<Error>() {
        Ok(own) => own,
        Err(error) => otherwise(error),
    }
}
