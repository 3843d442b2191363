//! The legacy format of LZ4, which the kernel takes and `lz4 -l` makes: after four bytes of magic (02 21 4c 18) blocks of
//! 8 MiB, each with its packed size before it (4 bytes, little-endian). It has no end mark: a size that no block can have is
//! something else that follows.

use std::io::{self, BufRead, Read};

use crate::bytes::Record;
use crate::ops::stream::DeviceStream;

const BLOCK: usize = 8 << 20;
/// The longest that a block of bytes which cannot be packed becomes.
const PACKED: u32 = 8_421_520;
const MAGIC: u32 = 0x184c_2102;

/// What comes out of one such stream.
pub(super) struct Lz4Legacy {
    input: DeviceStream,
    block: Vec<u8>,
    taken: usize,
    begun: bool,
    ended: bool,
}

impl Lz4Legacy {
    pub(super) fn new(input: DeviceStream) -> Self {
        Self { input, block: Vec::new(), taken: 0, begun: false, ended: false }
    }

    /// A stream that has ended.
    pub(super) fn ended(input: DeviceStream) -> Self {
        Self { ended: true, ..Self::new(input) }
    }

    pub(super) fn into_inner(self) -> DeviceStream {
        self.input
    }

    /// Unpacks the next block; whether there was one.
    fn next(&mut self) -> io::Result<bool> {
        let head = self.input.peek::<4>().map_err(io::Error::other)?;
        let size = Record::new("lz4", &head, self.input.position()).le32(0).unwrap_or(0);
        if size == MAGIC && !self.begun {
            self.begun = true;
            self.consume_exactly(4)?;
            return Ok(true);
        }
        if size == 0 || size > PACKED {
            self.ended = true;
            return Ok(false);
        }
        self.consume_exactly(4)?;
        let mut packed = vec![0; size as usize];
        self.input.read_exact(&mut packed)?;
        self.block.resize(BLOCK, 0);
        let len = lz4_flex::block::decompress_into(&packed, &mut self.block)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
        self.block.truncate(len);
        self.taken = 0;
        Ok(true)
    }

    fn consume_exactly(&mut self, len: usize) -> io::Result<()> {
        let mut rest = len;
        while rest > 0 {
            let ready = self.input.fill_buf()?.len().min(rest);
            if ready == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.input.consume(ready);
            rest -= ready;
        }
        Ok(())
    }
}

impl Read for Lz4Legacy {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.taken == self.block.len() {
            if self.ended || !self.next()? {
                return Ok(0);
            }
        }
        let len = (self.block.len() - self.taken).min(buf.len());
        buf[..len].copy_from_slice(&self.block[self.taken..self.taken + len]);
        self.taken += len;
        Ok(len)
    }
}
