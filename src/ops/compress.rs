//! Compressed streams on all cores: the stream is cut into pieces of a fixed length, and each becomes a complete member,
//! frame or stream of its own. One behind the other they are what their formats call one file, and how they are cut does
//! not depend on the number of threads, so neither do the bytes.
//!
//! | | a piece becomes | source |
//! |---|---|---|
//! | gzip | a member | RFC 1952, section 2.2 |
//! | bzip2 | a stream | as `pbzip2` writes it |
//! | xz | a stream | The .xz File Format, section 2 |
//! | zstd | a frame with its size and checksum | RFC 8878, section 3.1 |
//! | lz4 | a frame | LZ4 Frame Format, "multiple frames" |

use std::io::Write;
use std::path::Path;
use std::str::FromStr;

use crate::error::{Error, Result};

/// How a stream is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs, reason = "each is a format's proper name")]
#[non_exhaustive]
pub enum StreamCompression {
    #[default]
    None,
    Gzip,
    Bzip2,
    Xz,
    Zstd,
    Lz4,
}

impl StreamCompression {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::None, Self::Gzip, Self::Bzip2, Self::Xz, Self::Zstd, Self::Lz4];

    /// libguestfs's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Bzip2 => "bzip2",
            Self::Xz => "xz",
            Self::Zstd => "zstd",
            Self::Lz4 => "lz4",
        }
    }

    /// What a file name's ending says: `.tar.gz`, `.tgz`, `.tar.zst` …; `None` of these is [`StreamCompression::None`].
    #[must_use]
    pub fn of_path(path: &Path) -> Self {
        let name = path.file_name().map(|name| name.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
        match name.rsplit('.').next() {
            Some("gz" | "tgz") => Self::Gzip,
            Some("bz2" | "tbz2" | "tbz") => Self::Bzip2,
            Some("xz" | "txz") => Self::Xz,
            Some("zst" | "tzst" | "zstd") => Self::Zstd,
            Some("lz4") => Self::Lz4,
            _ => Self::None,
        }
    }

    /// The levels it has, and the one it takes by itself.
    #[must_use]
    pub fn levels(self) -> (std::ops::RangeInclusive<i32>, i32) {
        match self {
            Self::None => (0..=0, 0),
            Self::Gzip => (1..=12, 6),
            Self::Bzip2 => (1..=9, 9),
            Self::Xz => (0..=9, 6),
            Self::Zstd => (1..=19, 3),
            // The format's fast method has no levels.
            Self::Lz4 => (1..=1, 1),
        }
    }

    /// `level`, or the usual one; outside of what there is it is an error.
    pub(super) fn checked_level(self, level: Option<i32>) -> Result<i32> {
        let (levels, usual) = self.levels();
        match level {
            None => Ok(usual),
            Some(_) if self == Self::None => Err(Error::invalid("a level needs a compression")),
            Some(level) if levels.contains(&level) => Ok(level),
            Some(level) => {
                let (from, to) = (levels.start(), levels.end());
                Err(Error::invalid(format!("{} has no level {level}", self.name()))
                    .with_hint(format!("its levels are {from} to {to}")))
            }
        }
    }

    /// Bytes of one piece. Long enough that what a piece cannot refer back to costs less than a hundredth of the size.
    pub(super) fn piece(self) -> usize {
        match self {
            Self::None | Self::Gzip => 1 << 20,
            // A block of the format, so that no second one begins.
            Self::Bzip2 => 900_000 - 20,
            // What a thread holds of it, packed and unpacked, is all the memory that it takes.
            Self::Xz | Self::Lz4 | Self::Zstd => 4 << 20,
        }
    }
}

impl FromStr for StreamCompression {
    type Err = Error;

    /// By name, or by the name of its program's usual ending.
    fn from_str(name: &str) -> Result<Self> {
        let wanted = match name {
            "gz" => "gzip",
            "bz2" => "bzip2",
            "zst" => "zstd",
            other => other,
        };
        Self::ALL.into_iter().find(|kind| kind.name() == wanted).ok_or_else(|| match name {
            "compress" | "lzop" | "lzma" => Error::unsupported("tar", format!("{name} compression")),
            _ => {
                let names = Self::ALL.map(Self::name).join(", ");
                let name = crate::bytes::escape(name.as_bytes());
                Error::invalid(format!("'{name}' is no compression")).with_hint(format!("one of: {names}"))
            }
        })
    }
}

/// One thread's compressor, kept from piece to piece.
pub(super) enum Packer {
    Gzip(Box<libdeflater::Compressor>),
    Bzip2(u32),
    Xz(u32),
    Zstd(Box<zstd::bulk::Compressor<'static>>),
    Lz4,
}

impl std::fmt::Debug for Packer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Packer")
    }
}

impl Packer {
    /// `None` where nothing is compressed. The level was checked.
    pub(super) fn new(kind: StreamCompression, level: i32) -> Result<Option<Self>> {
        Ok(Some(match kind {
            StreamCompression::None => return Ok(None),
            StreamCompression::Gzip => {
                let level = libdeflater::CompressionLvl::new(level);
                let level = level.map_err(|_| Error::invalid("gzip has no such level"))?;
                Self::Gzip(Box::new(libdeflater::Compressor::new(level)))
            }
            StreamCompression::Bzip2 => Self::Bzip2(level.unsigned_abs()),
            StreamCompression::Xz => Self::Xz(level.unsigned_abs()),
            StreamCompression::Zstd => {
                let made = zstd::bulk::Compressor::new(level).and_then(|mut compressor| {
                    compressor.include_checksum(true)?;
                    compressor.include_contentsize(true)?;
                    Ok(compressor)
                });
                Self::Zstd(Box::new(made.map_err(failed)?))
            }
            StreamCompression::Lz4 => Self::Lz4,
        }))
    }

    /// One piece, compressed into `out` from its beginning.
    pub(super) fn pack(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<()> {
        match self {
            Self::Gzip(compressor) => {
                out.resize(compressor.gzip_compress_bound(bytes.len()), 0);
                let len = compressor.gzip_compress(bytes, out);
                let len = len.map_err(|_| Error::invalid("gzip found no room for its output"))?;
                out.truncate(len);
            }
            Self::Bzip2(level) => {
                out.clear();
                let mut encoder = bzip2::write::BzEncoder::new(out, bzip2::Compression::new(*level));
                encoder.write_all(bytes).and_then(|()| encoder.finish().map(drop)).map_err(failed)?;
            }
            Self::Xz(level) => {
                out.clear();
                let mut options = lzma_rust2::XzOptions::with_preset(*level);
                // A dictionary larger than the piece would only cost memory.
                options.lzma_options.dict_size =
                    options.lzma_options.dict_size.min(StreamCompression::Xz.piece() as u32);
                let mut writer = lzma_rust2::XzWriter::new(out, options).map_err(failed)?;
                writer.write_all(bytes).and_then(|()| writer.finish().map(drop)).map_err(failed)?;
            }
            Self::Zstd(compressor) => {
                out.clear();
                out.reserve(zstd::zstd_safe::compress_bound(bytes.len()));
                compressor.compress_to_buffer(bytes, out).map_err(failed)?;
            }
            Self::Lz4 => {
                out.clear();
                let info = lz4_flex::frame::FrameInfo::new()
                    .block_size(lz4_flex::frame::BlockSize::Max4MB)
                    .content_checksum(true)
                    .content_size(Some(bytes.len() as u64));
                let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(info, out);
                encoder.write_all(bytes).map_err(failed)?;
                encoder.finish().map_err(|error| failed(std::io::Error::other(error)))?;
            }
        }
        Ok(())
    }
}

fn failed(error: std::io::Error) -> Error {
    Error::io("compress", "the stream", error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_endings_and_levels() {
        assert_eq!("zst".parse::<StreamCompression>().unwrap(), StreamCompression::Zstd);
        assert_eq!("lzop".parse::<StreamCompression>().unwrap_err().exit_code(), 7);
        assert!("zip".parse::<StreamCompression>().unwrap_err().hint().unwrap().contains("bzip2"));
        for (name, kind) in [("a.tar", "none"), ("a.TGZ", "gzip"), ("dir.gz/a", "none"), ("a.tar.zst", "zstd")] {
            assert_eq!(StreamCompression::of_path(Path::new(name)).name(), kind, "{name}");
        }
        assert!(StreamCompression::Gzip.checked_level(Some(13)).is_err());
        assert!(StreamCompression::None.checked_level(Some(1)).is_err());
        assert_eq!(StreamCompression::Zstd.checked_level(None).unwrap(), 3);
    }
}
