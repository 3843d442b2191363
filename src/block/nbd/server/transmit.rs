//! Transmission: requests are read one after another and answered in any order by the threads that call
//! [`Connection::serve`].

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::status::Context;
use super::{Export, Mode, ServerOptions};
use crate::block::nbd::Stream;
use crate::block::nbd::protocol::reply::{self, Chunk, SimpleReply, chunk};
use crate::block::nbd::protocol::request::{self, Request};
use crate::block::nbd::protocol::{FORMAT, command, command_flag, errno};
use crate::block::{BlockWrite, ExtentKind};
use crate::bytes::{to_u64, to_usize};
use crate::error::{Error, ErrorKind, Result};

/// Bytes that are read ahead: many requests that arrive together cost one system call.
const INPUT: usize = 8 << 10;

/// For ever, for a clock that must be able to show it.
const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// Room before the data of a reply for its header.
pub(super) const HEAD: usize = 64;

/// Bytes of a thread's buffer that are kept from one request to the next.
const KEPT: usize = 2 << 20;

/// Bytes of zeroes written at once where a hole is not allowed.
const ZEROES: usize = 1 << 20;

/// A connection whose client has entered an export.
#[derive(Debug)]
pub struct Connection<'a> {
    pub(super) stream: Stream,
    pub(super) export: &'a Export,
    pub(super) mode: Mode,
    contexts: Vec<Context>,
    options: &'a ServerOptions,
    input: Mutex<Input>,
    /// Held while one reply, or one chunk of it, is written.
    pub(super) output: Mutex<()>,
    /// No more requests are read.
    ended: AtomicBool,
}

#[derive(Debug)]
struct Input {
    bytes: Box<[u8; INPUT]>,
    start: usize,
    end: usize,
}

/// Why a request was not done: what the client is told.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) errno: u32,
    pub(super) message: String,
    /// Where in the disk it went wrong.
    pub(super) offset: Option<u64>,
}

impl Refusal {
    fn new(errno: u32, message: &str) -> Self {
        Self { errno, message: message.to_owned(), offset: None }
    }
}

impl From<Error> for Refusal {
    /// Host paths are none of the client's business.
    fn from(error: Error) -> Self {
        let errno = match error.kind() {
            ErrorKind::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => errno::ENOSPC,
            ErrorKind::InvalidArgument(_) => errno::EINVAL,
            ErrorKind::Denied(_) => errno::EPERM,
            ErrorKind::Unsupported { .. } => errno::ENOTSUP,
            _ => errno::EIO,
        };
        let message = match error.kind() {
            ErrorKind::Io { action, source, .. } => format!("cannot {action} the image: {source}"),
            kind => kind.to_string(),
        };
        Self { errno, message, offset: None }
    }
}

impl<'a> Connection<'a> {
    pub(super) fn new(
        stream: Stream,
        export: &'a Export,
        mode: Mode,
        contexts: Vec<Context>,
        options: &'a ServerOptions,
    ) -> Self {
        let input = Input { bytes: Box::new([0; INPUT]), start: 0, end: 0 };
        let (input, output) = (Mutex::new(input), Mutex::new(()));
        Self { stream, export, mode, contexts, options, input, output, ended: AtomicBool::new(false) }
    }

    /// The export that the client has entered.
    #[must_use]
    pub fn export(&self) -> &'a Export {
        self.export
    }

    /// Answers requests until the client leaves; to be called by each thread that shall do so. An error is the
    /// connection's end for all of them.
    pub fn serve(&self) -> Result<()> {
        let served = self.serve_requests();
        if served.is_err() {
            self.ended.store(true, Ordering::Relaxed);
            self.stream.close();
        }
        served
    }

    fn serve_requests(&self) -> Result<()> {
        let mut buffer = vec![0; HEAD];
        while let Some(request) = self.next_request(&mut buffer)? {
            self.answer(&request, &mut buffer)?;
            if buffer.len() > HEAD.saturating_add(KEPT) {
                buffer = vec![0; HEAD];
            }
        }
        Ok(())
    }

    /// The next request, its payload in `buffer` from [`HEAD`] on; `None` when there will be no more.
    fn next_request(&self, buffer: &mut Vec<u8>) -> Result<Option<Request>> {
        let mut input = self.input.lock().unwrap_or_else(PoisonError::into_inner);
        if self.ended.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let request = if self.mode == Mode::Extended {
            let mut head = [0; request::EXTENDED];
            if self.read_head(&mut input, &mut head)? { Some(Request::parse_extended(&head)?) } else { None }
        } else {
            let mut head = [0; request::COMPACT];
            if self.read_head(&mut input, &mut head)? { Some(Request::parse_compact(&head)?) } else { None }
        };
        let Some(request) = request.filter(|request| request.command != command::DISC) else {
            self.ended.store(true, Ordering::Relaxed);
            return Ok(None);
        };
        let len = self.payload_len(&request);
        if len > 0 {
            crate::limits::check("bytes of an NBD request's data", len, self.options.payload.into())?;
            self.read(&mut input, room(buffer, to_usize(len)))?;
        }
        Ok(Some(request))
    }

    /// Bytes that follow the request. A `WRITE` always has them; with extended headers so has whatever says it has.
    fn payload_len(&self, request: &Request) -> u64 {
        let stated = self.mode == Mode::Extended && request.flags & command_flag::PAYLOAD_LEN != 0;
        if request.command == command::WRITE || stated { request.len } else { 0 }
    }

    pub(super) fn deadline(&self) -> Instant {
        let now = Instant::now();
        now.checked_add(self.options.idle.unwrap_or(FOR_EVER)).unwrap_or(now)
    }

    /// Fills `head`; false when the client has hung up before its first byte.
    fn read_head(&self, input: &mut Input, head: &mut [u8]) -> Result<bool> {
        if input.start == input.end && self.fill(input)? == 0 {
            return Ok(false);
        }
        self.read(input, head).map(|()| true)
    }

    /// Fills `buf`, from what was read ahead first.
    fn read(&self, input: &mut Input, mut buf: &mut [u8]) -> Result<()> {
        loop {
            let ahead = input.bytes.get(input.start..input.end).unwrap_or_default();
            let len = ahead.len().min(buf.len());
            let (head, rest) = buf.split_at_mut(len);
            head.copy_from_slice(ahead.get(..len).unwrap_or_default());
            input.start = input.start.saturating_add(len);
            buf = rest;
            if buf.is_empty() {
                return Ok(());
            }
            if buf.len() >= INPUT {
                return self.stream.read_exact(buf, self.deadline()).map_err(|error| fail("read from", error));
            }
            if self.fill(input)? == 0 {
                return Err(fail("read from", io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    fn fill(&self, input: &mut Input) -> Result<usize> {
        let len =
            self.stream.read_once(&mut input.bytes[..], self.deadline()).map_err(|error| fail("read from", error))?;
        (input.start, input.end) = (0, len);
        Ok(len)
    }

    fn answer(&self, request: &Request, buffer: &mut Vec<u8>) -> Result<()> {
        let done = match self.check(request) {
            Err(refusal) => Err(refusal),
            Ok(()) => match request.command {
                command::READ => return self.answer_read(request, buffer),
                command::BLOCK_STATUS => match self.block_status(request, buffer) {
                    Ok(reply) => return self.write(&reply),
                    Err(refusal) => Err(refusal),
                },
                command::CACHE => {
                    self.cache(request);
                    Ok(())
                }
                _ => self.change(request, buffer).map_err(Refusal::from),
            },
        };
        match done {
            Ok(()) => self.write(&self.success(request)),
            Err(refusal) => self.refuse(request, &refusal),
        }
    }

    /// Whether the request makes sense and is allowed.
    fn check(&self, request: &Request) -> Result<(), Refusal> {
        let Request { flags, command, offset, len, .. } = *request;
        let invalid = |message| Err(Refusal::new(errno::EINVAL, message));
        let allowed = match command {
            command::READ => command_flag::DF | command_flag::FUA,
            command::WRITE => command_flag::FUA | command_flag::PAYLOAD_LEN,
            command::WRITE_ZEROES => command_flag::FUA | command_flag::NO_HOLE,
            command::BLOCK_STATUS => command_flag::REQ_ONE | command_flag::PAYLOAD_LEN,
            command::TRIM | command::CACHE | command::FLUSH => command_flag::FUA,
            _ => return invalid("unknown command"),
        };
        let changes = matches!(command, command::WRITE | command::WRITE_ZEROES | command::TRIM);
        if changes && self.export.disk.writable().is_none() {
            return Err(Refusal::new(errno::EPERM, "the export is read-only"));
        }
        if flags & !allowed != 0 || (flags & command_flag::DF != 0 && self.mode == Mode::Simple) {
            return invalid("a flag that does not belong there");
        }
        if command == command::READ && len > self.options.payload.into() {
            return invalid("more bytes than one request may have");
        }
        // The offset of a flush means nothing; the length of a status request with a payload is the payload's.
        if command == command::FLUSH || flags & command_flag::PAYLOAD_LEN != 0 && command == command::BLOCK_STATUS {
            return Ok(());
        }
        match offset.checked_add(len) {
            Some(end) if end <= self.export.disk.device().size() => Ok(()),
            _ if changes && command != command::TRIM => Err(Refusal::new(errno::ENOSPC, "past the end of the disk")),
            _ => invalid("past the end of the disk"),
        }
    }

    /// Writing, zeroing, trimming, flushing; the range has been checked.
    fn change(&self, request: &Request, buffer: &[u8]) -> Result<()> {
        let Some(disk) = self.export.disk.writable() else { return Ok(()) };
        let Request { flags, command, offset, len, .. } = *request;
        let range = offset..offset.saturating_add(len);
        match command {
            command::WRITE if len > 0 => {
                let end = HEAD.saturating_add(to_usize(len));
                disk.write_all_at(buffer.get(HEAD..end).unwrap_or_default(), offset)?;
            }
            command::WRITE_ZEROES if len > 0 && flags & command_flag::NO_HOLE != 0 => {
                write_allocated_zeroes(disk, offset, len)?;
            }
            command::WRITE_ZEROES if len > 0 => disk.write_zeroes(range)?,
            command::TRIM if len > 0 => disk.discard(range)?,
            _ => {}
        }
        if command == command::FLUSH || flags & command_flag::FUA != 0 { disk.flush() } else { Ok(()) }
    }

    /// Asks the kernel to read what lies in host files; advice, so failing is nothing.
    fn cache(&self, request: &Request) {
        let device = self.export.disk.device();
        let end = request.offset.saturating_add(request.len);
        let mut at = request.offset;
        while at < end {
            let Ok(extent) = device.next_extent(at..end) else { return };
            let next = at.saturating_add(extent.len.max(1)).min(end);
            if extent.kind == ExtentKind::Data
                && let Some(host) = device.host_range(at..next)
            {
                let len = std::num::NonZeroU64::new(host.len);
                let _ = rustix::fs::fadvise(host.file, host.offset, len, rustix::fs::Advice::WillNeed);
            }
            at = next;
        }
    }

    fn block_status(&self, request: &Request, payload: &[u8]) -> Result<Vec<u8>, Refusal> {
        let Request { flags, offset, mut len, .. } = *request;
        let mut contexts = self.contexts.clone();
        if flags & command_flag::PAYLOAD_LEN != 0 {
            let end = HEAD.saturating_add(to_usize(len));
            let (effect, ids) = reply::parse_status_filter(payload.get(HEAD..end).unwrap_or_default())
                .map_err(|_| Refusal::new(errno::EINVAL, "malformed payload"))?;
            let known = |id: &u32| contexts.iter().any(|context| context.id() == *id);
            if !ids.iter().all(known) {
                return Err(Refusal::new(errno::EINVAL, "a context that was not chosen"));
            }
            contexts.retain(|context| ids.contains(&context.id()));
            len = effect;
        }
        let device = self.export.disk.device();
        let end = offset.checked_add(len).filter(|end| *end <= device.size());
        let (Some(end), Some(last), true) = (end, contexts.last().copied(), len > 0) else {
            return Err(Refusal::new(errno::EINVAL, "no context was chosen, or no bytes of the disk"));
        };
        let mut bytes = Vec::new();
        for context in contexts {
            let extents = context.extents(device, offset..end, flags & command_flag::REQ_ONE != 0)?;
            let done = if context == last { reply::DONE } else { 0 };
            let (kind, payload) = if self.mode == Mode::Extended {
                (chunk::BLOCK_STATUS_EXT, reply::block_status_ext(context.id(), &extents))
            } else {
                (chunk::BLOCK_STATUS, reply::block_status(context.id(), &extents))
            };
            bytes.extend(self.chunk(request, done, kind, to_u64(payload.len())));
            bytes.extend(payload);
        }
        Ok(bytes)
    }

    /// The header of a chunk.
    pub(super) fn chunk(&self, request: &Request, flags: u16, kind: u16, len: u64) -> Vec<u8> {
        let chunk = Chunk { flags, kind, cookie: request.cookie, offset: request.offset, len };
        match self.mode {
            Mode::Extended => chunk.encode_extended().to_vec(),
            _ => chunk.encode_structured().to_vec(),
        }
    }

    /// The reply that has nothing to say.
    pub(super) fn success(&self, request: &Request) -> Vec<u8> {
        match self.mode {
            Mode::Simple => SimpleReply { error: 0, cookie: request.cookie }.encode().to_vec(),
            _ => self.chunk(request, reply::DONE, chunk::NONE, 0),
        }
    }

    pub(super) fn refuse(&self, request: &Request, refusal: &Refusal) -> Result<()> {
        let Refusal { errno, message, offset } = refusal;
        log::debug!("nbd: {FORMAT} request {} at {:#x}: {message}", request.command, request.offset);
        if self.mode == Mode::Simple {
            return self.write(&SimpleReply { error: *errno, cookie: request.cookie }.encode());
        }
        let (kind, payload) = match offset {
            Some(offset) => (chunk::ERROR_OFFSET, reply::error_offset(*errno, message, *offset)),
            None => (chunk::ERROR, reply::error(*errno, message)),
        };
        let head = self.chunk(request, reply::DONE, kind, to_u64(payload.len()));
        self.write(&[head, payload].concat())
    }

    /// Writes a whole reply, or a whole chunk of one.
    pub(super) fn write(&self, bytes: &[u8]) -> Result<()> {
        let _turn = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        self.stream.write_all(bytes, self.deadline()).map_err(|error| fail("write to", error))
    }
}

/// `len` bytes of `buffer` from [`HEAD`] on.
pub(super) fn room(buffer: &mut Vec<u8>, len: usize) -> &mut [u8] {
    let end = HEAD.saturating_add(len);
    if buffer.len() < end {
        buffer.resize(end, 0);
    }
    buffer.get_mut(HEAD..end).unwrap_or_default()
}

fn write_allocated_zeroes(disk: &dyn BlockWrite, offset: u64, len: u64) -> Result<()> {
    let zeroes = vec![0; ZEROES.min(to_usize(len))];
    let mut done = 0;
    while done < len {
        let here = zeroes.get(..to_usize(len.saturating_sub(done)).min(zeroes.len())).unwrap_or_default();
        disk.write_all_at(here, offset.saturating_add(done))?;
        done = done.saturating_add(to_u64(here.len()));
    }
    Ok(())
}

pub(super) fn fail(action: &'static str, error: io::Error) -> Error {
    Error::io(action, "the NBD client", error)
}
