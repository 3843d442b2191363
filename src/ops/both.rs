//! What is known of two devices from one offset on, before either is read: zeroes on both sides, or bytes that both keep in
//! the same place of the same host file, are equal.

use std::fs::File;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;

use super::zero::is_zero;
use crate::block::{BlockDevice, ExtentKind, Survey};
use crate::error::{Error, Result};

/// Bytes that a thread reads from each side at a time.
pub(super) const PIECE: u64 = 1 << 20;

/// What is known of both sides of one range.
#[derive(Debug, Clone)]
pub(super) struct Both {
    pub(super) range: Range<u64>,
    pub(super) left: ExtentKind,
    pub(super) right: ExtentKind,
    /// Whether both keep all of it in the same place of the same host file.
    pub(super) shared: bool,
}

impl Both {
    /// Whether the bytes are equal without being read.
    pub(super) fn is_equal(&self) -> bool {
        self.shared || (self.left != ExtentKind::Data && self.right != ExtentKind::Data)
    }

    /// Sides that must be read to compare them.
    pub(super) fn sides_read(&self) -> u64 {
        let data = [self.left, self.right].into_iter().filter(|kind| *kind == ExtentKind::Data).count();
        if self.shared { 0 } else { data as u64 }
    }
}

/// What both sides are at `at`, as far as that goes and, when it must be read, at most a piece. Past the end of the
/// shorter side is a hole that goes on to `end`.
pub(super) fn known(left: &mut Survey<'_>, right: &mut Survey<'_>, at: u64, end: u64) -> Result<Both> {
    let side = |survey: &mut Survey<'_>| {
        if at >= survey.device().size() {
            return Ok((end - at, ExtentKind::Hole));
        }
        let extent = survey.extent(at)?;
        Ok::<_, Error>((extent.len, extent.kind))
    };
    let ((left_len, left_kind), (right_len, right_kind)) = (side(left)?, side(right)?);
    let len = left_len.min(right_len).min(end - at);
    let both = |len, shared| Both { range: at..at + len, left: left_kind, right: right_kind, shared };
    if left_kind == ExtentKind::Data && right_kind == ExtentKind::Data {
        return Ok(match place(left.device(), right.device(), at..at + len) {
            (true, shared) => both(shared, true),
            (false, apart) => both(apart.min(PIECE), false),
        });
    }
    let is_zero = left_kind != ExtentKind::Data && right_kind != ExtentKind::Data;
    Ok(both(if is_zero { len } else { len.min(PIECE) }, false))
}

/// Whether both sides keep the beginning of `range` in the same place of the same host file, and how far that goes. When
/// they do not, but are in one file, what follows a side's run in it may be shared again.
fn place(left: &dyn BlockDevice, right: &dyn BlockDevice, range: Range<u64>) -> (bool, u64) {
    let len = range.end - range.start;
    let (Some(left), Some(right)) = (left.host_range(range.clone()), right.host_range(range)) else {
        return (false, len);
    };
    if !same_file(left.file, right.file) {
        return (false, len);
    }
    (left.offset == right.offset, left.len.min(right.len).min(len).max(1))
}

fn same_file(left: &File, right: &File) -> bool {
    let identity = |file: &File| file.metadata().ok().map(|metadata| (metadata.dev(), metadata.ino()));
    left.as_raw_fd() == right.as_raw_fd() || identity(left).is_some_and(|left| identity(right) == Some(left))
}

/// What was read of both sides.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    left: Vec<u8>,
    right: Vec<u8>,
}

impl Buffers {
    /// The first difference in a piece that must be read.
    pub(super) fn compare(
        &mut self,
        left: &dyn BlockDevice,
        right: &dyn BlockDevice,
        piece: &Both,
    ) -> Result<Option<u64>> {
        let range = piece.range.clone();
        let len = (range.end - range.start) as usize;
        let read = |device: &dyn BlockDevice, buffer: &mut Vec<u8>| {
            buffer.resize(len, 0);
            device.read_exact_at(buffer, range.start)
        };
        let first_data = |bytes: &[u8]| if is_zero(bytes) { None } else { bytes.iter().position(|byte| *byte != 0) };
        let Self { left: left_bytes, right: right_bytes } = self;
        let found = match (piece.left, piece.right) {
            (ExtentKind::Data, ExtentKind::Data) => {
                read(left, left_bytes)?;
                read(right, right_bytes)?;
                if left_bytes == right_bytes {
                    None
                } else {
                    left_bytes.iter().zip(&*right_bytes).position(|(left, right)| left != right)
                }
            }
            (ExtentKind::Data, _) => {
                read(left, left_bytes)?;
                first_data(left_bytes)
            }
            (_, ExtentKind::Data) => {
                read(right, right_bytes)?;
                first_data(right_bytes)
            }
            _ => None,
        };
        Ok(found.map(|at| range.start + at as u64))
    }
}
