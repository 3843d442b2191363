//! Images wrapped in gzip, xz or zstd, read at any offset where the container allows it.
//!
//! | container | can be read anywhere when | made by |
//! |---|---|---|
//! | gzip (RFC 1952) | every member states its size in an extra field `BC` | bgzip |
//! | xz (*The .xz File Format* 1.2) | it has several blocks, which the index lists | `xz -T0`, `xz --block-size` |
//! | zstd (RFC 8878) | it has a seek table, or several frames that state their size | t2sz, zeekstd; `cat` of frames |
//!
//! A file of one small member, block or frame is read too. Whatever stands alone is a *block* here; one is unpacked whole,
//! its checksum verified before any byte is handed out, and kept as long as there is room. Refused by name: blocks
//! larger than [`limits::WRAPPED_BLOCK_BYTES`], as every read inside would unpack all that is before it.
//!
//! A block is unpacked by one thread while others that want it wait for that, and all that are unpacked at once share
//! [`limits::WRAPPED_BYTES`]. No lock is held meanwhile.

mod gzip;
mod turns;
mod xz;
mod zstd;

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use super::{BlockDevice, Extent, ExtentKind, Lru, check_range, range_len, read_vec};
use crate::bytes::{to_u64, to_usize};
use crate::error::{Corrupt, Error, ErrorKind, Result};
use crate::limits;
use turns::Turns;

/// Bytes of unpacked blocks that are kept; one is kept always.
const KEPT_BYTES: u64 = 24 << 20;

/// What an image can be wrapped in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Container {
    /// Members of deflate, RFC 1952.
    Gzip,
    /// Blocks of LZMA2.
    Xz,
    /// Frames of Zstandard, RFC 8878.
    Zstd,
}

impl Container {
    /// The name that errors and JSON use.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Xz => "xz",
            Self::Zstd => "zstd",
        }
    }

    /// The container whose signature stands at the beginning of `file`.
    pub(super) fn probe(file: &dyn BlockDevice) -> Result<Option<Self>> {
        let head = read_vec(file, 0, to_usize(file.size().min(8)))?;
        let skippable = head.get(1..4) == Some(&[0x2a, 0x4d, 0x18]) && head.first().is_some_and(|byte| byte >> 4 == 5);
        Ok(if head.starts_with(&[0x1f, 0x8b, 8]) {
            Some(Self::Gzip)
        } else if head.starts_with(xz::MAGIC) {
            Some(Self::Xz)
        } else if head.starts_with(&zstd::MAGIC.to_le_bytes()) || skippable {
            Some(Self::Zstd)
        } else {
            None
        })
    }

    /// Whether `path` ends as files in this container do.
    pub(super) fn names(self, path: &Path) -> bool {
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        let known: &[&str] = match self {
            Self::Gzip => &["gz", "bgz"],
            Self::Xz => &["xz"],
            Self::Zstd => &["zst", "zstd"],
        };
        known.iter().any(|known| extension.eq_ignore_ascii_case(known))
    }

    /// What to do with one that cannot be read anywhere.
    fn hint(self) -> &'static str {
        match self {
            Self::Gzip => "unpack it (gzip -dc), or pack it with bgzip, so that it can be read at any offset",
            Self::Xz => {
                "unpack it (xz -dc), or pack it with xz -T0 --block-size=8MiB, so that it can be read at any offset"
            }
            Self::Zstd => {
                "unpack it (zstd -dc), or pack it with a seek table (t2sz), bgzip or xz -T0, so that it can be read at any offset"
            }
        }
    }

    /// The error that this file cannot be read anywhere because of `feature`.
    fn unseekable(self, feature: impl Into<String>) -> Error {
        Error::unsupported(self.name(), feature).with_hint(self.hint())
    }

    fn index(self, file: &dyn BlockDevice) -> Result<Index> {
        match self {
            Self::Gzip => gzip::index(file),
            Self::Xz => xz::index(file),
            Self::Zstd => zstd::index(file),
        }
    }

    fn unpack(self, file: &dyn BlockDevice, block: &Block, out: &mut [u8]) -> Result<()> {
        match self {
            Self::Gzip => gzip::unpack(file, block, out),
            Self::Xz => xz::unpack(file, block, out),
            Self::Zstd => zstd::unpack(file, block, out),
        }
    }
}

/// What is unpacked as a whole.
#[derive(Debug, Clone, Copy)]
struct Block {
    /// Its first byte, in the file and in the image.
    at: u64,
    start: u64,
    /// Its bytes in the file.
    packed: u32,
    /// xz: the kind of its checksum.
    check: u8,
}

/// All blocks in order, without empty ones.
#[derive(Debug)]
struct Index {
    container: Container,
    blocks: Vec<Block>,
    /// Bytes of the image.
    size: u64,
    largest: u64,
}

impl Index {
    fn new(container: Container) -> Self {
        Self { container, blocks: Vec::new(), size: 0, largest: 0 }
    }

    /// Adds the block of `packed` bytes at byte `at` of the file, `unpacked` bytes of the image.
    fn push(&mut self, at: u64, packed: u64, unpacked: u64, check: u8) -> Result<()> {
        if unpacked == 0 {
            return Ok(());
        }
        let container = self.container;
        if unpacked > limits::WRAPPED_BLOCK_BYTES {
            return Err(container.unseekable(format!("a block of {unpacked} bytes")));
        }
        // Only xz is read as it is unpacked; the others' packed bytes stand in memory too.
        let memory = if container == Container::Xz { unpacked } else { unpacked.saturating_add(packed) };
        if memory > limits::WRAPPED_BYTES || u32::try_from(packed).is_err() {
            return Err(container.unseekable(format!("a block of {unpacked} bytes in {packed}")));
        }
        limits::check("wrapped blocks", to_u64(self.blocks.len()).saturating_add(1), limits::WRAPPED_BLOCKS)?;
        let end = self.size.checked_add(unpacked).filter(|&end| end <= u64::MAX >> 1);
        let end = end.ok_or_else(|| {
            Error::corrupt(container.name(), "uncompressed size", at, unpacked, "less than 8 EiB in all")
        })?;
        self.blocks.push(Block { at, start: self.size, packed: crate::bytes::low_u32(packed), check });
        self.size = end;
        self.largest = self.largest.max(unpacked);
        Ok(())
    }

    /// The block that holds byte `offset` of the image, and its range there.
    fn find(&self, offset: u64) -> Result<(usize, &Block, Range<u64>)> {
        let number = self.blocks.partition_point(|block| block.start <= offset).saturating_sub(1);
        let found = self.blocks.get(number).filter(|_| offset < self.size);
        let block = found.ok_or_else(|| {
            Error::corrupt(self.container.name(), "offset", offset, "no block there", format!("below {}", self.size))
        })?;
        let next = self.blocks.get(number.saturating_add(1)).map_or(self.size, |next| next.start);
        Ok((number, block, block.start..next))
    }
}

/// An unpacked block, or why it is none.
type Unpacked = Result<Arc<Vec<u8>>, Corrupt>;

/// The image in a container.
#[derive(Debug)]
struct Wrapped {
    file: Arc<dyn BlockDevice>,
    index: Index,
    kept: Lru<usize, Unpacked>,
    turns: Turns,
}

/// The image in `container`, which `file` is.
pub(super) fn open(file: Arc<dyn BlockDevice>, container: Container) -> Result<Arc<dyn BlockDevice>> {
    let index = container.index(&file)?;
    log::debug!("{}: {} blocks of at most {} bytes", container.name(), index.blocks.len(), index.largest);
    let kept = Lru::new(to_usize(KEPT_BYTES.checked_div(index.largest).unwrap_or(1)));
    Ok(Arc::new(Wrapped { file, index, kept, turns: Turns::default() }))
}

impl Wrapped {
    /// Bytes of memory to unpack `block`, which has `len`.
    fn cost(&self, block: &Block, len: u64) -> u64 {
        match self.index.container {
            // The window is no larger than the block.
            Container::Xz => len.saturating_mul(2).min(limits::WRAPPED_BYTES),
            _ => len.saturating_add(u64::from(block.packed)),
        }
    }

    /// The whole block, of `len` bytes, unpacked now or before.
    fn block(&self, number: usize, block: &Block, len: u64) -> Result<Arc<Vec<u8>>> {
        let known = match self.kept.get(&number) {
            Some(known) => known,
            None => {
                let _turn = self.turns.take(number, self.cost(block, len));
                match self.kept.get(&number) {
                    Some(known) => known,
                    None => self.unpack(number, block, len)?,
                }
            }
        };
        known.map_err(|corrupt| ErrorKind::Corrupt(corrupt).into())
    }

    /// Unpacks and keeps a block. That it is broken is kept too, so that it is not found out again and again.
    fn unpack(&self, number: usize, block: &Block, len: u64) -> Result<Unpacked> {
        let mut bytes = vec![0; to_usize(len)];
        let unpacked = match self.index.container.unpack(&self.file, block, &mut bytes) {
            Ok(()) => Ok(Arc::new(bytes)),
            Err(error) => Err(error.as_corrupt().cloned().ok_or(error)?),
        };
        self.kept.insert(number, unpacked.clone());
        Ok(unpacked)
    }

    /// Reads the beginning of `buf` and tells how many bytes it was.
    fn read_some(&self, buf: &mut [u8], offset: u64) -> Result<usize> {
        let (number, block, range) = self.index.find(offset)?;
        let within = to_usize(offset.saturating_sub(range.start));
        let whole = to_usize(range_len(&range));
        if within == 0
            && let Some(buf) = buf.get_mut(..whole)
            && self.kept.get(&number).is_none()
        {
            // A reader that takes the whole block goes through the image: it will not come back.
            let _turn = self.turns.take(number, self.cost(block, to_u64(whole)));
            self.index.container.unpack(&self.file, block, buf)?;
            return Ok(whole);
        }
        let bytes = self.block(number, block, range_len(&range))?;
        let len = whole.saturating_sub(within).min(buf.len());
        match (buf.get_mut(..len), bytes.get(within..).and_then(|rest| rest.get(..len))) {
            (Some(to), Some(from)) => to.copy_from_slice(from),
            _ => return Err(Error::corrupt(self.index.container.name(), "block", block.at, bytes.len(), whole)),
        }
        Ok(len)
    }
}

impl BlockDevice for Wrapped {
    fn size(&self) -> u64 {
        self.index.size
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        check_range(self.index.size, offset, buf.len())?;
        let (mut rest, mut at) = (buf, offset);
        while !rest.is_empty() {
            let done = self.read_some(rest, at)?.max(1);
            at = at.saturating_add(to_u64(done));
            rest = rest.get_mut(done..).unwrap_or_default();
        }
        Ok(())
    }

    /// No container knows holes.
    fn next_extent(&self, range: Range<u64>) -> Result<Extent> {
        check_range(self.index.size, range.start, to_usize(range_len(&range)))?;
        Ok(Extent { kind: ExtentKind::Data, len: range_len(&range) })
    }
}
