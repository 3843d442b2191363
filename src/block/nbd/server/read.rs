//! `READ`: holes as holes, and data by the shortest way from where they lie to the socket.

use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::PoisonError;

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::SendFlags;

use super::Mode;
use super::transmit::{Connection, HEAD, Refusal, fail, room};
use crate::block::nbd::protocol::command_flag;
use crate::block::nbd::protocol::reply::{self, SimpleReply, chunk};
use crate::block::nbd::protocol::request::Request;
use crate::block::{ExtentKind, HostRange, range_len};
use crate::bytes::{low_u32, to_u64, to_usize};
use crate::error::{Error, Result};

/// Data bytes in one chunk that are read into memory first.
const PIECE: u64 = 1 << 20;

/// Data of fewer bytes are copied: sendfile(2) costs more than it saves.
const WORTH: u64 = 32 << 10;

/// Runs in host files that one chunk is put together from; more are read into memory instead.
const RUNS: usize = 64;

impl Connection<'_> {
    pub(super) fn answer_read(&self, request: &Request, buffer: &mut Vec<u8>) -> Result<()> {
        let range = request.offset..request.offset.saturating_add(request.len);
        let whole = self.mode == Mode::Simple || request.flags & command_flag::DF != 0;
        if range.is_empty() {
            return self.write(&self.success(request));
        }
        if whole {
            return self.send_data(request, range, true, buffer).and_then(|refused| self.finish(request, refused));
        }
        let mut at = range.start;
        while at < range.end {
            let (kind, end) = match self.run(at..range.end) {
                Ok(run) => run,
                Err(error) => return self.refuse(request, &Refusal { offset: Some(at), ..error.into() }),
            };
            let last = end == range.end;
            if kind != ExtentKind::Data {
                self.send_hole(request, at..end, last)?;
            } else if let Some(refusal) = self.send_data(request, at..end, last, buffer)? {
                return self.refuse(request, &refusal);
            }
            at = end;
        }
        Ok(())
    }

    fn finish(&self, request: &Request, refused: Option<Refusal>) -> Result<()> {
        refused.map_or(Ok(()), |refusal| self.refuse(request, &refusal))
    }

    /// The kind of what `range` begins with, all zeroes being alike, and where it ends. Data that must pass through
    /// memory end after a piece.
    fn run(&self, range: Range<u64>) -> Result<(ExtentKind, u64)> {
        let device = self.export.disk.device();
        let first = device.next_extent(range.clone())?;
        let mut at = range.start.saturating_add(first.len.max(1)).min(range.end);
        while at < range.end {
            let next = device.next_extent(at..range.end)?;
            if (next.kind == ExtentKind::Data) != (first.kind == ExtentKind::Data) {
                break;
            }
            at = at.saturating_add(next.len.max(1)).min(range.end);
        }
        let piece = range.start.saturating_add(PIECE);
        if first.kind == ExtentKind::Data && at > piece && self.host_runs(range.start..at).is_none() {
            at = piece;
        }
        Ok((first.kind, at))
    }

    fn send_hole(&self, request: &Request, range: Range<u64>, last: bool) -> Result<()> {
        let payload = reply::hole(range.start, low_u32(range_len(&range)));
        let mut bytes = self.chunk(request, done(last), chunk::OFFSET_HOLE, to_u64(payload.len()));
        bytes.extend(payload);
        self.write(&bytes)
    }

    /// Sends all of `range` as one chunk or simple reply. What cannot be read is refused before anything of it was sent,
    /// or else ends the connection.
    fn send_data(
        &self,
        request: &Request,
        range: Range<u64>,
        last: bool,
        buffer: &mut Vec<u8>,
    ) -> Result<Option<Refusal>> {
        let head = self.data_head(request, &range, last);
        if let Some(runs) = self.host_runs(range.clone()) {
            return self.send_files(&head, &runs).map(|()| None);
        }
        let data = room(buffer, to_usize(range_len(&range)));
        if let Err(error) = self.export.disk.device().read_exact_at(data, range.start) {
            return Ok(Some(Refusal { offset: Some(range.start), ..error.into() }));
        }
        let end = HEAD.saturating_add(data.len());
        let start = HEAD.saturating_sub(head.len());
        if let Some(to) = buffer.get_mut(start..HEAD) {
            to.copy_from_slice(&head);
        }
        self.write(buffer.get(start..end).unwrap_or_default()).map(|()| None)
    }

    fn data_head(&self, request: &Request, range: &Range<u64>, last: bool) -> Vec<u8> {
        if self.mode == Mode::Simple {
            return SimpleReply { error: 0, cookie: request.cookie }.encode().to_vec();
        }
        let len = range_len(range).saturating_add(to_u64(reply::DATA_OFFSET));
        let mut head = self.chunk(request, done(last), chunk::OFFSET_DATA, len);
        head.extend(range.start.to_be_bytes());
        head
    }

    /// The runs of host files that `range` consists of, if it does and if sending them from there is worth it.
    fn host_runs(&self, range: Range<u64>) -> Option<Vec<HostRange<'_>>> {
        self.stream.plain()?;
        if range_len(&range) < WORTH {
            return None;
        }
        let device = self.export.disk.device();
        let mut runs = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let run = device.host_range(at..range.end).filter(|run| run.len > 0)?;
            if runs.len() >= RUNS {
                return None;
            }
            at = at.saturating_add(run.len);
            runs.push(run);
        }
        Some(runs)
    }

    /// Sends `head` and then the runs, which the kernel takes from its page cache.
    fn send_files(&self, mut head: &[u8], runs: &[HostRange<'_>]) -> Result<()> {
        let Some(socket) = self.stream.plain() else { return Err(Error::invalid("the connection is in TLS")) };
        let _turn = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        let deadline = self.deadline();
        let wait = || self.stream.wait(PollFlags::OUT, deadline).map_err(|error| fail("write to", error));
        while !head.is_empty() {
            match rustix::net::send(socket, head, SendFlags::MORE | SendFlags::NOSIGNAL) {
                Ok(len) => head = head.get(len..).unwrap_or_default(),
                Err(Errno::AGAIN) => wait()?,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(fail("write to", errno.into())),
            }
        }
        for run in runs {
            let mut offset = run.offset;
            let end = run.offset.saturating_add(run.len);
            while offset < end {
                let count = to_usize(end.saturating_sub(offset));
                match rustix::fs::sendfile(socket, run.file.as_fd(), Some(&mut offset), count) {
                    Ok(0) => return Err(fail("send the image to", std::io::ErrorKind::UnexpectedEof.into())),
                    Ok(_) | Err(Errno::INTR) => {}
                    Err(Errno::AGAIN) => wait()?,
                    Err(errno) => return Err(fail("send the image to", errno.into())),
                }
            }
        }
        Ok(())
    }
}

fn done(last: bool) -> u16 {
    if last { reply::DONE } else { 0 }
}
