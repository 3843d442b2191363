//! Writing to an export. Nothing is tried again: a write whose connection broke may have happened or not, and the caller
//! hears of it. What was written before counts as unsure until the caller has been told by a flush that fails.

use std::io;
use std::ops::Range;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use super::super::protocol::command;
use super::Client;
use super::connection::{Ask, Clock, Connection, Failure, refused};
use crate::block::{BlockDevice, BlockWrite, check_range, range_len};
use crate::bytes::{to_u64, to_usize};
use crate::error::{Error, Result};

/// Bytes of one request that carries none: what a server does within a request's time.
const WITHOUT_DATA: u64 = 128 << 20;

/// Zeroes for servers that have no command for them.
static ZEROES: [u8; 64 << 10] = [0; 64 << 10];

impl Connection {
    /// Sends requests and waits for all answers.
    fn command(&self, action: &'static str, asks: &[Ask<'_>], clock: &mut Clock) -> Result<(), Failure> {
        let call = self.ask(asks, clock)?;
        clock.restart();
        let answers = self.answers(call, asks.len(), clock)?;
        for (ask, answer) in asks.iter().zip(answers) {
            if let Some(refusal) = &answer.refusal {
                let subject = format!("{} bytes at byte {:#x} of the NBD export", ask.len, ask.offset);
                return Err(refused(action, subject, refusal).into());
            }
        }
        Ok(())
    }
}

impl Client {
    fn writable(&self) -> Result<()> {
        if self.export().is_read_only() {
            let source = io::Error::from(rustix::io::Errno::ROFS);
            return Err(Error::io(
                "write to",
                format!("the NBD export '{}'", crate::bytes::escape(self.export().name.as_bytes())),
                source,
            )
            .in_image(self.pool.name()));
        }
        Ok(())
    }

    /// Runs commands that change the disk.
    fn change(&self, action: &'static str, asks: &[Ask<'_>]) -> Result<()> {
        self.unflushed.store(true, Ordering::SeqCst);
        let result = self.retrying(0, |connection, clock| connection.command(action, asks, clock));
        self.forget_extents();
        result
    }

    fn write_aligned(&self, bytes: &[u8], offset: u64) -> Result<()> {
        let unit = self.unit();
        let mut at = offset;
        for window in bytes.chunks(to_usize(self.window()).max(1)) {
            let mut asks = Vec::new();
            for data in window.chunks(to_usize(unit).max(1)) {
                asks.push(Ask { command: command::WRITE, flags: 0, offset: at, len: to_u64(data.len()), data });
                at = at.saturating_add(to_u64(data.len()));
            }
            self.change("write", &asks)?;
        }
        Ok(())
    }

    /// Writes what is no whole block: reads the blocks around it, and writes them with the change.
    fn write_within(&self, bytes: &[u8], offset: u64) -> Result<()> {
        let range = offset..offset.saturating_add(to_u64(bytes.len()));
        let blocks = self.aligned(&range);
        let _alone = self.partial.lock().unwrap_or_else(PoisonError::into_inner);
        let mut whole = vec![0; to_usize(range_len(&blocks))];
        self.read_exact_at(&mut whole, blocks.start)?;
        let from = to_usize(offset.saturating_sub(blocks.start));
        if let Some(part) = whole.get_mut(from..).and_then(|rest| rest.get_mut(..bytes.len())) {
            part.copy_from_slice(bytes);
        }
        self.write_aligned(&whole, blocks.start)
    }

    /// `range` as the part before its first whole block, its whole blocks, and what follows them.
    fn split(&self, range: &Range<u64>) -> [Range<u64>; 3] {
        let minimum = u64::from(self.sizes.minimum);
        let start = range.start.checked_next_multiple_of(minimum).unwrap_or(range.end).min(range.end);
        let (_, rest) = crate::bytes::div_rem(range.end, minimum);
        // The disk's last block may be short.
        let end = if range.end == self.size() { range.end } else { range.end.saturating_sub(rest).max(start) };
        [range.start..start, start..end, end..range.end]
    }

    /// Runs a command without data over whole blocks.
    fn over(&self, action: &'static str, command: u16, range: &Range<u64>) -> Result<()> {
        let mut at = range.start;
        while at < range.end {
            let len = WITHOUT_DATA.min(range.end.saturating_sub(at));
            self.change(action, &[Ask { command, flags: 0, offset: at, len, data: &[] }])?;
            at = at.saturating_add(len);
        }
        Ok(())
    }

    fn write_plain_zeroes(&self, range: &Range<u64>) -> Result<()> {
        let mut at = range.start;
        while at < range.end {
            let len = range.end.saturating_sub(at).min(to_u64(ZEROES.len()));
            self.write_all_at(ZEROES.get(..to_usize(len)).unwrap_or_default(), at)?;
            at = at.saturating_add(len);
        }
        Ok(())
    }
}

impl BlockWrite for Client {
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        self.writable()?;
        let end = check_range(self.size(), offset, bytes.len())?;
        let [first, middle, _] = self.split(&(offset..end));
        let (head, others) = bytes.split_at(to_usize(range_len(&first)));
        let (whole, tail) = others.split_at(to_usize(range_len(&middle)));
        if !head.is_empty() {
            self.write_within(head, first.start)?;
        }
        self.write_aligned(whole, middle.start)?;
        if !tail.is_empty() {
            self.write_within(tail, middle.end)?;
        }
        Ok(())
    }

    fn write_zeroes(&self, range: Range<u64>) -> Result<()> {
        self.writable()?;
        check_range(self.size(), range.start, to_usize(range_len(&range)))?;
        if !self.export().can_zero() {
            return self.write_plain_zeroes(&range);
        }
        // A hole is as good as zeroes that take room, so NO_HOLE is not set.
        let [first, middle, last] = self.split(&range);
        self.write_plain_zeroes(&first)?;
        self.over("write zeroes to", command::WRITE_ZEROES, &middle)?;
        self.write_plain_zeroes(&last)
    }

    fn discard(&self, range: Range<u64>) -> Result<()> {
        self.writable()?;
        check_range(self.size(), range.start, to_usize(range_len(&range)))?;
        if !self.export().can_trim() {
            return Ok(());
        }
        let [_, whole, _] = self.split(&range);
        self.over("discard", command::TRIM, &whole)
    }

    fn flush(&self) -> Result<()> {
        if !self.unflushed.load(Ordering::SeqCst) {
            return Ok(());
        }
        // Writes that begin from now on are not covered by this flush.
        self.unflushed.store(false, Ordering::SeqCst);
        let flushed = if self.export().can_flush() {
            let ask = Ask { command: command::FLUSH, flags: 0, offset: 0, len: 0, data: &[] };
            self.retrying(0, |connection, clock| connection.command("flush", &[ask], clock))
        } else {
            Ok(())
        };
        if flushed.is_err() {
            self.unflushed.store(true, Ordering::SeqCst);
        }
        if self.unsure.swap(false, Ordering::SeqCst) {
            let source = io::Error::other("a connection broke after a write, which may be lost");
            return flushed.and(Err(Error::io("flush", self.pool.name(), source)));
        }
        flushed
    }
}
