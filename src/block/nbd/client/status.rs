//! Block status: which extents are holes and zeroes, how deep in a chain they lie, what a bitmap says of them.
//!
//! One question covers a large range, and all contexts at once; the answers are kept. A server may answer for less than
//! it was asked, but for one byte at least, and its last extent may pass the range's end.

use std::ops::Range;

use super::super::protocol::reply::Descriptor;
use super::super::protocol::{FORMAT, command, context};
use super::connection::{Ask, Clock, Connection, Failure, refused};
use super::{Client, Extents};
use crate::block::{BlockDevice, ExtentKind, Status, check_range, range_len};
use crate::bytes::{div_rem, to_usize};
use crate::error::{Error, Result};

/// Bytes asked about at once. Servers walk all of it before they answer.
const WINDOW: u64 = 1 << 30;

/// An extent and its value in one metadata context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MetaExtent {
    /// Its length in bytes, not zero.
    pub len: u64,
    /// The context's value: see [`context`](super::super::protocol::context).
    pub status: u64,
}

impl Client {
    /// The extent that begins at `range.start` in the metadata context `name`, at most `range` long; `None` when that
    /// context was not negotiated, or the server refuses to tell of it now.
    pub fn meta_extent(&self, name: &str, range: Range<u64>) -> Result<Option<MetaExtent>> {
        check_range(self.size(), range.start, to_usize(range_len(&range)))?;
        if range.is_empty() {
            return Err(Error::invalid("an empty range has no extent"));
        }
        let Some((_, known)) = self.known.iter().find(|(context, _)| context == name) else { return Ok(None) };
        let found = match known.get(range.start) {
            Some(found) => Some(found),
            None => self.ask_status(range.start, name)?,
        };
        Ok(found.map(|(end, status)| MetaExtent { len: end.min(range.end).saturating_sub(range.start), status }))
    }

    /// `base:allocation`, and `qemu:allocation-depth` where there is such. Everything is data to a server that does not
    /// tell.
    pub(super) fn allocation(&self, range: &Range<u64>) -> Result<Status> {
        let offset = Some(range.start);
        let Some(base) = self.meta_extent(context::BASE_ALLOCATION, range.clone())? else {
            let (len, kind) = (range_len(range), ExtentKind::Data);
            return Ok(Status { len, kind, depth: 0, allocated: true, compressed: false, offset });
        };
        let kind = match (base.status & context::HOLE != 0, base.status & context::ZERO != 0) {
            (true, true) => ExtentKind::Hole,
            (false, true) => ExtentKind::Zero,
            (_, false) => ExtentKind::Data,
        };
        let known = Status { len: base.len, kind, depth: 0, allocated: true, compressed: false, offset };
        let range = range.start..range.start.saturating_add(base.len);
        Ok(match self.meta_extent(context::QEMU_ALLOCATION_DEPTH, range)? {
            Some(MetaExtent { len, status: 0 }) => Status { len, allocated: false, offset: None, ..known },
            Some(MetaExtent { len, status }) => {
                Status { len, depth: u32::try_from(status.saturating_sub(1)).unwrap_or(u32::MAX), ..known }
            }
            None => known,
        })
    }

    /// Asks about `at` and what follows, in all contexts; the end and the value around `at` in the context `name`.
    fn ask_status(&self, at: u64, name: &str) -> Result<Option<(u64, u64)>> {
        let minimum = u64::from(self.sizes.minimum);
        let (_, rest) = div_rem(at, minimum);
        let start = at.saturating_sub(rest);
        let left = self.size().saturating_sub(start);
        let range = start..start.saturating_add(left.min(WINDOW));
        let generations: Vec<_> = self.known.iter().map(|(_, known)| known.generation()).collect();
        let answers =
            self.retrying(self.options().retries, |connection, clock| connection.status(&range, minimum, clock))?;
        let mut around = None;
        for ((context, known), generation) in self.known.iter().zip(generations) {
            let Some((_, runs)) = answers.iter().find(|(answered, _)| answered == context) else { continue };
            known.insert(generation, start, runs);
            if context == name {
                // Whole blocks, so the first run covers `at`.
                around = runs.first().map(|&(len, value)| (start.saturating_add(len), value));
            }
        }
        Ok(around.filter(|(end, _)| *end > at))
    }

    /// What was known of extents is so no more.
    pub(super) fn forget_extents(&self) {
        self.known.iter().map(|(_, known)| known).for_each(Extents::forget);
    }
}

/// Pairs of length and value.
type Runs = Vec<(u64, u64)>;

impl Connection {
    /// What the server says about `range`, by the contexts' names; nothing when it refuses.
    fn status(&self, range: &Range<u64>, minimum: u64, clock: &mut Clock) -> Result<Vec<(String, Runs)>, Failure> {
        let ask =
            Ask { command: command::BLOCK_STATUS, flags: 0, offset: range.start, len: range_len(range), data: &[] };
        let call = self.ask(&[ask], clock)?;
        let answer = self.answers(call, 1, clock)?.pop().unwrap_or_default();
        if let Some(refusal) = &answer.refusal {
            // Servers need not tell.
            log::debug!("{}", refused("read", format!("the block status of bytes {range:?}"), refusal));
            return Ok(Vec::new());
        }
        let mut found = Vec::new();
        for (id, name) in &self.contexts {
            let descriptors = answer.status.iter().find(|(context, _)| context == id);
            let (_, descriptors) = descriptors.ok_or_else(|| {
                Error::corrupt(FORMAT, "metadata context", 0, "no answer", format!("one about context {id}"))
            })?;
            found.push((name.clone(), runs(descriptors, range, minimum)?));
        }
        Ok(found)
    }
}

/// The runs of a range, held against the protocol: none is empty, all but the last end inside the range.
fn runs(descriptors: &[Descriptor], range: &Range<u64>, minimum: u64) -> Result<Runs> {
    let wanted = range_len(range);
    let mut sum = 0u64;
    let mut runs = Vec::new();
    for &Descriptor { len, status } in descriptors {
        let (_, rest) = div_rem(len, minimum);
        if len == 0 {
            return Err(Error::corrupt(FORMAT, "extent length", 0, 0, "at least one byte"));
        }
        if sum >= wanted {
            let found = format!("an extent after {sum} bytes");
            return Err(Error::corrupt(FORMAT, "extent length", 0, found, format!("{wanted} bytes at most")));
        }
        let left = wanted.saturating_sub(sum);
        if rest != 0 && len < left {
            return Err(Error::corrupt(FORMAT, "extent length", 0, len, format!("a multiple of {minimum}")));
        }
        // What the last one says beyond the range is true too, but need not be inside the disk.
        runs.push((len.min(left), status));
        sum = sum.saturating_add(len);
    }
    if runs.is_empty() {
        return Err(Error::corrupt(FORMAT, "extents", 0, "none", "at least one"));
    }
    Ok(runs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_are_held_against_the_protocol() {
        let of = |lens: &[u64]| {
            let descriptors: Vec<_> = lens.iter().map(|&len| Descriptor { len, status: 3 }).collect();
            runs(&descriptors, &(4096..8192), 512)
        };
        assert_eq!(of(&[512, 512]).unwrap(), [(512, 3), (512, 3)], "less than was asked for");
        assert_eq!(of(&[512, 1 << 40]).unwrap(), [(512, 3), (3584, 3)], "the last may pass the end");
        for lens in [&[][..], &[0], &[512, 0], &[4096, 512], &[100, 412], &[u64::MAX, u64::MAX]] {
            assert!(of(lens).is_err(), "{lens:?}");
        }
    }
}
