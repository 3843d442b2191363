//! How archives in an initial RAM disk are packed, told by the first bytes, and unpacking them without reading past their
//! end: another archive may follow.
//!
//! | first bytes | |
//! |---|---|
//! | 1f 8b | gzip |
//! | fd 37 7a 58 5a 00 | xz |
//! | 28 b5 2f fd | zstd |
//! | 42 5a 68 | bzip2 |
//! | 02 21 4c 18 | LZ4, the legacy format that the kernel takes |
//! | 04 22 4d 18 | LZ4, frames |
//! | 5d 00 00 | LZMA: refused |
//! | 89 4c 5a 4f | LZO: refused |

use std::io::{self, Read};

use bzip2::bufread::BzDecoder;
use flate2::bufread::GzDecoder;
use lz4_flex::frame::FrameDecoder;
use lzma_rust2::XzReader;
use zstd::stream::read::Decoder as ZstdDecoder;

use super::lz4_legacy::Lz4Legacy;
use crate::bytes::escape;
use crate::error::{Error, Result};
use crate::limits;
use crate::ops::stream::{DeviceStream, error_of};

/// How an archive is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "each is a format's proper name")]
pub enum Packing {
    /// Not at all.
    None,
    Gzip,
    Xz,
    Zstd,
    Bzip2,
    /// The format of `lz4 -l`.
    #[serde(rename = "lz4-legacy")]
    Lz4Legacy,
    Lz4,
}

const MAGICS: [(Packing, &[u8]); 6] = [
    (Packing::Gzip, &[0x1f, 0x8b]),
    (Packing::Xz, b"\xfd7zXZ\0"),
    (Packing::Zstd, &[0x28, 0xb5, 0x2f, 0xfd]),
    (Packing::Bzip2, b"BZh"),
    (Packing::Lz4Legacy, &[0x02, 0x21, 0x4c, 0x18]),
    (Packing::Lz4, &[0x04, 0x22, 0x4d, 0x18]),
];

impl Packing {
    /// The stable name used in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Xz => "xz",
            Self::Zstd => "zstd",
            Self::Bzip2 => "bzip2",
            Self::Lz4Legacy => "lz4-legacy",
            Self::Lz4 => "lz4",
        }
    }

    /// What begins with these bytes at `at`.
    pub(super) fn of(head: &[u8], at: u64) -> Result<Self> {
        if let Some((packing, _)) = MAGICS.iter().find(|(_, magic)| head.starts_with(magic)) {
            return Ok(*packing);
        }
        if head.starts_with(&[0x5d, 0, 0]) {
            return Err(Error::unsupported("initrd", "LZMA compression"));
        }
        if head.starts_with(b"\x89LZO") {
            return Err(Error::unsupported("initrd", "LZO compression"));
        }
        let expected = "a cpio archive, or one packed with gzip, xz, zstd, bzip2 or lz4";
        Err(Error::corrupt("initrd", "magic", at, escape(head), expected))
    }

    fn magic(self) -> &'static [u8] {
        MAGICS.iter().find(|(packing, _)| *packing == self).map_or(&[], |(_, magic)| magic)
    }
}

enum Decoder {
    Gzip(Box<GzDecoder<DeviceStream>>),
    Xz(Box<XzReader<DeviceStream>>),
    Zstd(ZstdDecoder<'static, DeviceStream>),
    Bzip2(BzDecoder<DeviceStream>),
    Lz4Legacy(Lz4Legacy),
    Lz4(Box<FrameDecoder<DeviceStream>>),
}

impl Decoder {
    fn new(input: DeviceStream, packing: Packing) -> io::Result<Self> {
        Ok(match packing {
            Packing::Xz => Self::Xz(Box::new(XzReader::new_mem_limit(input, false, limits::INITRD_XZ_KIB))),
            Packing::Zstd => {
                let mut decoder = ZstdDecoder::with_buffer(input)?.single_frame();
                decoder.window_log_max(limits::INITRD_ZSTD_WINDOW_LOG)?;
                Self::Zstd(decoder)
            }
            Packing::Bzip2 => Self::Bzip2(BzDecoder::new(input)),
            Packing::Lz4Legacy => Self::Lz4Legacy(Lz4Legacy::new(input)),
            Packing::Lz4 => Self::Lz4(Box::new(FrameDecoder::new(input))),
            Packing::Gzip | Packing::None => Self::Gzip(Box::new(GzDecoder::new(input))),
        })
    }

    fn into_input(self) -> DeviceStream {
        match self {
            Self::Gzip(decoder) => decoder.into_inner(),
            Self::Xz(decoder) => decoder.into_inner(),
            Self::Zstd(decoder) => decoder.finish(),
            Self::Bzip2(decoder) => decoder.into_inner(),
            Self::Lz4Legacy(decoder) => decoder.into_inner(),
            Self::Lz4(decoder) => decoder.into_inner(),
        }
    }

    fn reader(&mut self) -> &mut dyn Read {
        match self {
            Self::Gzip(decoder) => decoder,
            Self::Xz(decoder) => decoder,
            Self::Zstd(decoder) => decoder,
            Self::Bzip2(decoder) => decoder,
            Self::Lz4Legacy(decoder) => decoder,
            Self::Lz4(decoder) => decoder,
        }
    }
}

/// What comes out of streams of one kind that follow each other without anything between.
pub(super) struct Unpacked {
    decoder: Option<Decoder>,
    packing: Packing,
    streams: u64,
}

impl Unpacked {
    pub(super) fn new(input: DeviceStream, packing: Packing, at: u64) -> Result<Self> {
        let decoder = Decoder::new(input, packing).map_err(|error| {
            error_of(error, |error| Error::corrupt("initrd", "packed archive", at, error, packing.name()))
        })?;
        Ok(Self { decoder: Some(decoder), packing, streams: 1 })
    }

    /// What follows the packed streams, when all was read.
    pub(super) fn into_input(self) -> Result<DeviceStream> {
        let decoder = self.decoder.ok_or_else(|| Error::invalid("the stream was given up"))?;
        Ok(decoder.into_input())
    }
}

impl Read for Unpacked {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            let Some(decoder) = &mut self.decoder else { return Ok(0) };
            let len = decoder.reader().read(buf)?;
            if len > 0 || buf.is_empty() {
                return Ok(len);
            }
            let Some(input) = self.decoder.take().map(Decoder::into_input) else { return Ok(0) };
            let another = input.peek::<6>().map_err(io::Error::other)?.starts_with(self.packing.magic());
            if !another {
                self.decoder = Some(Decoder::Lz4Legacy(Lz4Legacy::ended(input)));
                return Ok(0);
            }
            self.streams += 1;
            limits::check("packed streams in an initial RAM disk", self.streams, 64 * limits::INITRD_SEGMENTS)
                .map_err(io::Error::other)?;
            self.decoder = Some(Decoder::new(input, self.packing)?);
        }
    }
}
