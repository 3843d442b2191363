//! Reading through one connection: a range in several requests under way at once, each filled by the chunks of its
//! reply, in whatever order they come.

use std::ops::Range;
use std::time::Instant;

use super::super::protocol::reply::{ChunkError, DATA_OFFSET, HOLE_PAYLOAD, chunk, parse_hole};
use super::super::protocol::{FORMAT, command};
use super::super::stream::Stream;
use super::connection::{
    Ask, Clock, Connection, Failure, Head, HeadKind, State, Waiting, error_chunk, payload, refused,
};
use crate::bytes::{to_u64, to_usize};
use crate::error::{Error, Result};
use crate::limits;

/// One request of a read, and what has come of it.
#[derive(Debug)]
struct Piece {
    /// The range of the disk.
    range: Range<u64>,
    /// Ranges that chunks have filled; in order, and neighbours are one.
    filled: Vec<Range<u64>>,
    refusal: Option<ChunkError>,
}

impl Piece {
    /// Notes that a chunk fills `run`: inside the request, not filled before.
    fn fill(&mut self, run: Range<u64>) -> Result<()> {
        if run.is_empty() || run.start < self.range.start || run.end > self.range.end {
            let found = format!("bytes {run:?}");
            return Err(Error::corrupt(FORMAT, "chunk offset", 0, found, format!("bytes inside {:?}", self.range)));
        }
        let at = self.filled.partition_point(|filled| filled.start < run.start);
        let before = at.checked_sub(1).and_then(|before| self.filled.get(before));
        if before.is_some_and(|before| before.end > run.start)
            || self.filled.get(at).is_some_and(|after| after.start < run.end)
        {
            return Err(Error::corrupt(FORMAT, "chunk offset", 0, format!("bytes {run:?} twice"), "each byte once"));
        }
        match self.filled.get_mut(at.wrapping_sub(1)).filter(|before| before.end == run.start) {
            Some(before) => before.end = run.end,
            None => self.filled.insert(at, run),
        }
        limits::check("chunks of an NBD reply", to_u64(self.filled.len()), to_u64(limits::NBD_REPLY_CHUNKS))?;
        Ok(())
    }

    /// The reply is complete: nothing may be missing, unless the server said that it failed.
    fn complete(&self) -> Result<()> {
        let filled = self.filled.iter().fold(0u64, |sum, run| sum.saturating_add(run.end.saturating_sub(run.start)));
        let wanted = self.range.end.saturating_sub(self.range.start);
        if self.refusal.is_none() && filled != wanted {
            return Err(Error::corrupt(
                FORMAT,
                "reply length",
                0,
                format!("{filled} bytes"),
                format!("{wanted} bytes"),
            ));
        }
        Ok(())
    }
}

/// A read under way.
#[derive(Debug)]
struct Reading<'a> {
    call: u64,
    buf: &'a mut [u8],
    start: u64,
    pieces: Vec<Piece>,
    left: usize,
    structured: bool,
}

impl Reading<'_> {
    /// The part of the buffer for a range of the disk.
    fn part(&mut self, run: &Range<u64>) -> &mut [u8] {
        let at = |offset: u64| to_usize(offset.saturating_sub(self.start));
        let (from, to) = (at(run.start), at(run.end));
        self.buf.get_mut(from..to).unwrap_or_default()
    }
}

impl Waiting for Reading<'_> {
    fn finished(&self, _state: &State) -> bool {
        self.left == 0
    }

    fn take(&mut self, head: &Head, stream: &Stream, deadline: Instant) -> Result<bool, Failure> {
        let index = to_usize(head.cookie.wrapping_sub(self.call));
        let structured = self.structured;
        let Some(piece) = self.pieces.get_mut(index) else { return Ok(true) };
        match head.kind {
            HeadKind::Simple(0) if structured => {
                let expected = "a structured reply to a read";
                return Err(Error::corrupt(FORMAT, "reply magic", 0, "a simple reply", expected).into());
            }
            HeadKind::Simple(0) => {
                let run = piece.range.clone();
                piece.fill(run.clone())?;
                stream.read_exact(self.part(&run), deadline)?;
            }
            HeadKind::Simple(errno) => {
                piece.refusal = Some(ChunkError { errno, message: String::new(), offset: None });
            }
            HeadKind::Chunk(chunk::NONE) => {}
            HeadKind::Chunk(chunk::OFFSET_DATA) => {
                let mut offset = [0; DATA_OFFSET];
                let len = head.len.checked_sub(to_u64(DATA_OFFSET)).ok_or_else(|| short(head))?;
                stream.read_exact(&mut offset, deadline)?;
                let start = u64::from_be_bytes(offset);
                let run = start..start.saturating_add(len);
                piece.fill(run.clone())?;
                stream.read_exact(self.part(&run), deadline)?;
            }
            HeadKind::Chunk(chunk::OFFSET_HOLE) => {
                let mut bytes = [0; HOLE_PAYLOAD];
                if head.len != to_u64(HOLE_PAYLOAD) {
                    return Err(short(head).into());
                }
                stream.read_exact(&mut bytes, deadline)?;
                let (start, len) = parse_hole(&bytes)?;
                let run = start..start.saturating_add(len.into());
                piece.fill(run.clone())?;
                self.part(&run).fill(0);
            }
            HeadKind::Chunk(kind) => {
                let refusal = error_chunk(kind, &payload(head, stream, deadline)?)?;
                piece.refusal.get_or_insert(refusal);
            }
        }
        if head.last {
            if let Some(piece) = self.pieces.get(index) {
                piece.complete()?;
            }
            self.left = self.left.saturating_sub(1);
        }
        Ok(head.last)
    }
}

fn short(head: &Head) -> Error {
    Error::corrupt(FORMAT, "chunk length", 16, head.len, "offset and data, or offset and length")
}

impl Connection {
    /// Fills `buf` from `offset`, which keep to the export's block sizes, with requests of `unit` bytes.
    pub(super) fn read(&self, buf: &mut [u8], offset: u64, unit: u64, clock: &mut Clock) -> Result<(), Failure> {
        let end = offset.saturating_add(to_u64(buf.len()));
        let mut pieces = Vec::new();
        let mut at = offset;
        while at < end {
            let range = at..at.saturating_add(unit.max(1)).min(end);
            at = range.end;
            pieces.push(Piece { range, filled: Vec::new(), refusal: None });
        }
        let ask = |Piece { range, .. }: &Piece| {
            let len = range.end.saturating_sub(range.start);
            Ask { command: command::READ, flags: 0, offset: range.start, len, data: &[] }
        };
        let asks: Vec<_> = pieces.iter().map(ask).collect();
        let call = self.ask(&asks, clock)?;
        let structured = self.server.structured;
        let mut reading = Reading { call, buf, start: offset, left: pieces.len(), pieces, structured };
        self.wait(call, &mut reading, clock)?;
        for Piece { range, refusal, .. } in &reading.pieces {
            if let Some(refusal) = refusal {
                let subject = format!("bytes {range:?} of the NBD export");
                return Err(refused("read", subject, refusal).into());
            }
        }
        Ok(())
    }
}
