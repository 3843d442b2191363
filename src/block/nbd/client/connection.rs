//! One connection in its transmission phase, shared by any number of threads, with many requests under way.
//!
//! There is no thread for replies. A thread that waits for one becomes the *leader* when nobody else is: it takes reply
//! heads from the socket, fills in the answers of everyone, and when data comes that another thread asked for, it hands
//! the lead to that thread, so that data goes from the socket to the buffer it is for. A thread sends only while nothing
//! that it must read itself is under way; so whoever is to be handed the lead is waiting for it, and never stuck in a
//! send that the server does not take because it is stuck in its own.
//!
//! Whatever breaks the protocol, a deadline or the connection ends the connection for everyone on it.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::super::protocol::reply::{self, Chunk, ChunkError, Descriptor, SimpleReply, chunk};
use super::super::protocol::request::Request;
use super::super::protocol::{FORMAT, SIMPLE_REPLY_MAGIC, command, errno};
use super::super::stream::Stream;
use super::handshake::Negotiated;
use super::info::{ExportInfo, ServerInfo};
use crate::bytes::{escape, to_usize};
use crate::error::{Error, Result};
use crate::limits;

/// Time for the goodbye.
const GOODBYE: Duration = Duration::from_millis(100);

/// A connection.
#[derive(Debug)]
pub(super) struct Connection {
    stream: Stream,
    pub(super) server: ServerInfo,
    pub(super) export: ExportInfo,
    /// Contexts by the numbers that replies give them.
    pub(super) contexts: Vec<(u32, String)>,
    /// The next cookie. Held while requests are written.
    sending: Mutex<u64>,
    state: Mutex<State>,
    changed: Condvar,
    /// Reads and writes that use it now.
    pub(super) users: AtomicUsize,
}

#[derive(Debug, Default)]
pub(super) struct State {
    /// What has been asked for, by cookie.
    pending: HashMap<u64, Pending>,
    lead: Lead,
    lost: Option<Lost>,
}

/// Who takes the next bytes from the socket.
#[derive(Debug, Default)]
enum Lead {
    /// The first who asks.
    #[default]
    Free,
    /// A thread does.
    Taken,
    /// The thread of this call does, beginning with what follows this head.
    Handed(u64, Head),
}

#[derive(Debug)]
enum Pending {
    /// Data, which the thread of this call must read itself.
    Data { call: u64 },
    /// An answer that any thread can take in.
    Answer(Answer),
}

/// The answer to a request without data in its reply.
#[derive(Debug, Default)]
pub(super) struct Answer {
    done: bool,
    /// The server's error.
    pub(super) refusal: Option<ChunkError>,
    /// Descriptors of each context.
    pub(super) status: Vec<(u32, Vec<Descriptor>)>,
}

/// The beginning of a reply or of one chunk.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head {
    pub(super) cookie: u64,
    pub(super) kind: HeadKind,
    /// Nothing of this request comes after this.
    pub(super) last: bool,
    /// Bytes of payload; those of a simple reply are not counted.
    pub(super) len: u64,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum HeadKind {
    /// A simple reply and its error.
    Simple(u32),
    /// A chunk and its type.
    Chunk(u16),
}

/// Why a request came to nothing.
#[derive(Debug)]
pub(super) enum Failure {
    /// The connection is no more; another one may do better.
    Lost(Lost),
    /// That is the result.
    Final(Error),
}

/// How a connection ended.
#[derive(Debug, Clone)]
pub(super) struct Lost {
    kind: io::ErrorKind,
    words: String,
}

impl From<io::Error> for Lost {
    fn from(error: io::Error) -> Self {
        Self { kind: error.kind(), words: error.to_string() }
    }
}

impl From<Lost> for io::Error {
    fn from(lost: Lost) -> Self {
        Self::new(lost.kind, lost.words)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Lost(error.into())
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Final(error)
    }
}

/// The deadlines of one call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    /// The end of all patience.
    pub(super) total: Instant,
    /// Patience without progress.
    pub(super) request: Duration,
    progress: Instant,
}

impl Clock {
    pub(super) fn new(total: Instant, request: Duration) -> Self {
        Self { total, request, progress: Instant::now() }
    }

    pub(super) fn restart(&mut self) {
        self.progress = Instant::now();
    }

    pub(super) fn deadline(&self) -> Instant {
        self.progress.checked_add(self.request).map_or(self.total, |deadline| deadline.min(self.total))
    }
}

/// A request before it has a cookie.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ask<'a> {
    pub(super) command: u16,
    pub(super) flags: u16,
    pub(super) offset: u64,
    pub(super) len: u64,
    pub(super) data: &'a [u8],
}

/// A call whose replies are being waited for.
pub(super) trait Waiting {
    /// Whether everything has come.
    fn finished(&self, state: &State) -> bool;

    /// Reads what follows `head`, data that this call asked for. True when that was the last of its request.
    fn take(&mut self, head: &Head, stream: &Stream, deadline: Instant) -> Result<bool, Failure>;
}

impl Connection {
    pub(super) fn new(negotiated: Negotiated) -> Self {
        let Negotiated { stream, server, export, contexts } = negotiated;
        Self {
            stream,
            server,
            export,
            contexts,
            sending: Mutex::new(1),
            state: Mutex::default(),
            changed: Condvar::new(),
            users: AtomicUsize::new(0),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_lost(&self) -> bool {
        self.state().lost.is_some()
    }

    /// Ends the connection; everyone who waits fails with `lost` unless it had ended before.
    pub(super) fn end(&self, lost: Lost) {
        let mut state = self.state();
        log::debug!("nbd: the connection ends: {}", lost.words);
        state.lost.get_or_insert(lost);
        state.lead = Lead::Free;
        self.stream.close();
        self.changed.notify_all();
    }

    /// Sends requests; the first one's cookie, which also names the call. The others' follow it one by one.
    pub(super) fn ask(&self, asks: &[Ask<'_>], clock: &Clock) -> Result<u64, Failure> {
        let mut cookie = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
        let call = *cookie;
        let mut state = self.state();
        if let Some(lost) = &state.lost {
            return Err(Failure::Lost(lost.clone()));
        }
        for (ask, cookie) in asks.iter().zip(call..) {
            let data = ask.command == command::READ;
            let pending = if data { Pending::Data { call } } else { Pending::Answer(Answer::default()) };
            state.pending.insert(cookie, pending);
        }
        drop(state);
        let mut heads = Vec::new();
        for ask in asks {
            let Ask { command, flags, offset, len, data } = *ask;
            let request = Request { flags, command, cookie: *cookie, offset, len };
            match self.server.extended {
                true => heads.extend(request.encode_extended()),
                false => heads.extend(request.encode_compact()),
            }
            *cookie = cookie.wrapping_add(1);
            if !data.is_empty() {
                self.write(&heads, clock)?;
                self.write(data, clock)?;
                heads.clear();
            }
        }
        self.write(&heads, clock)?;
        Ok(call)
    }

    fn write(&self, bytes: &[u8], clock: &Clock) -> Result<(), Failure> {
        self.stream.write_all(bytes, clock.deadline()).map_err(|error| {
            let lost = Lost::from(error);
            self.end(lost.clone());
            Failure::Lost(lost)
        })
    }

    /// Waits until everything that `call` asked for has come.
    pub(super) fn wait(&self, call: u64, waiting: &mut dyn Waiting, clock: &mut Clock) -> Result<(), Failure> {
        let result = self.follow(call, waiting, clock);
        match &result {
            Ok(()) => {}
            Err(Failure::Lost(lost)) => self.end(lost.clone()),
            Err(Failure::Final(error)) => {
                self.end(Lost { kind: io::ErrorKind::InvalidData, words: error.to_string() });
            }
        }
        result
    }

    /// Answers of the `count` requests of `call`, waited for.
    pub(super) fn answers(&self, call: u64, count: usize, clock: &mut Clock) -> Result<Vec<Answer>, Failure> {
        let cookies: Vec<u64> = (call..).take(count).collect();
        self.wait(call, &mut Answers(&cookies), clock)?;
        let mut state = self.state();
        let taken = cookies.iter().filter_map(|cookie| match state.pending.remove(cookie) {
            Some(Pending::Answer(answer)) => Some(answer),
            _ => None,
        });
        Ok(taken.collect())
    }

    fn follow(&self, call: u64, waiting: &mut dyn Waiting, clock: &mut Clock) -> Result<(), Failure> {
        while let Some(handed) = self.turn(call, waiting, clock)? {
            if self.lead(call, handed, waiting, clock)? {
                break;
            }
        }
        Ok(())
    }

    /// Waits for the lead. `None`: `waiting` has finished, others did all the work.
    fn turn(&self, call: u64, waiting: &dyn Waiting, clock: &Clock) -> Result<Option<Option<Head>>, Failure> {
        let mut state = self.state();
        loop {
            if let Some(lost) = &state.lost {
                return Err(Failure::Lost(lost.clone()));
            }
            if waiting.finished(&state) {
                return Ok(None);
            }
            let handed = match &state.lead {
                Lead::Free => Some(None),
                Lead::Handed(whose, head) if *whose == call => Some(Some(*head)),
                _ => None,
            };
            if handed.is_some() {
                state.lead = Lead::Taken;
                return Ok(handed);
            }
            let left = clock.deadline().saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::Error::from(rustix::io::Errno::TIMEDOUT).into());
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Leads until `waiting` has finished (true) or someone else's data comes (false).
    fn lead(
        &self,
        call: u64,
        mut handed: Option<Head>,
        waiting: &mut dyn Waiting,
        clock: &mut Clock,
    ) -> Result<bool, Failure> {
        loop {
            let head = match handed.take() {
                Some(head) => head,
                None => self.head(clock)?,
            };
            let mut state = self.state();
            match state.pending.get(&head.cookie) {
                Some(Pending::Data { call: whose }) if *whose == call => {
                    drop(state);
                    if waiting.take(&head, &self.stream, clock.deadline())? {
                        self.state().pending.remove(&head.cookie);
                        clock.restart();
                    }
                }
                Some(Pending::Data { call: whose }) => {
                    state.lead = Lead::Handed(*whose, head);
                    self.changed.notify_all();
                    return Ok(false);
                }
                Some(Pending::Answer(answer)) if !answer.done => {
                    drop(state);
                    self.answer(&head, clock)?;
                }
                _ => {
                    let expected = "that of a request under way";
                    return Err(Error::corrupt(FORMAT, "cookie", 8, format!("{:#x}", head.cookie), expected).into());
                }
            }
            let mut state = self.state();
            if waiting.finished(&state) {
                state.lead = Lead::Free;
                self.changed.notify_all();
                return Ok(true);
            }
        }
    }

    fn head(&self, clock: &Clock) -> Result<Head, Failure> {
        let deadline = clock.deadline();
        if Instant::now() >= deadline {
            return Err(io::Error::from(rustix::io::Errno::TIMEDOUT).into());
        }
        let chunk = if self.server.extended {
            let mut bytes = [0; reply::EXTENDED];
            self.stream.read_exact(&mut bytes, deadline)?;
            Chunk::parse_extended(&bytes)?
        } else {
            let mut bytes = [0; reply::STRUCTURED];
            let (simple, rest) = bytes.split_at_mut(reply::SIMPLE);
            self.stream.read_exact(simple, deadline)?;
            if let Some(simple) = simple.first_chunk()
                && (!self.server.structured || simple.starts_with(&SIMPLE_REPLY_MAGIC.to_be_bytes()))
            {
                let SimpleReply { error, cookie } = SimpleReply::parse(simple)?;
                return Ok(Head { cookie, kind: HeadKind::Simple(error), last: true, len: 0 });
            }
            self.stream.read_exact(rest, deadline)?;
            Chunk::parse_structured(&bytes)?
        };
        let Chunk { flags, kind, cookie, len, .. } = chunk;
        let last = flags & reply::DONE != 0;
        if kind == chunk::NONE && (len != 0 || !last) {
            let found = format!("type NONE, flags {flags:#x}, length {len}");
            return Err(Error::corrupt(FORMAT, "reply chunk", 4, found, "the flag DONE and no payload").into());
        }
        Ok(Head { cookie, kind: HeadKind::Chunk(kind), last, len })
    }

    /// Takes in what follows `head`, a part of an answer without data, whoever asked for it.
    fn answer(&self, head: &Head, clock: &Clock) -> Result<(), Failure> {
        let mut refusal = None;
        let mut status = None;
        match head.kind {
            HeadKind::Simple(0) | HeadKind::Chunk(chunk::NONE) => {}
            HeadKind::Simple(errno) => refusal = Some(ChunkError { errno, message: String::new(), offset: None }),
            HeadKind::Chunk(kind) => {
                let payload = payload(head, &self.stream, clock.deadline())?;
                match kind {
                    chunk::BLOCK_STATUS if !self.server.extended => status = Some(reply::parse_block_status(&payload)?),
                    chunk::BLOCK_STATUS_EXT if self.server.extended => {
                        status = Some(reply::parse_block_status_ext(&payload)?);
                    }
                    kind => refusal = Some(error_chunk(kind, &payload)?),
                }
            }
        }
        let mut state = self.state();
        if let Some(Pending::Answer(answer)) = state.pending.get_mut(&head.cookie) {
            if let Some((context, descriptors)) = status {
                if answer.status.iter().any(|(known, _)| *known == context)
                    || !self.contexts.iter().any(|(known, _)| *known == context)
                {
                    let expected = "each negotiated context once";
                    return Err(Error::corrupt(FORMAT, "metadata context", 20, context, expected).into());
                }
                answer.status.push((context, descriptors));
            }
            answer.refusal = answer.refusal.take().or(refusal);
            answer.done = head.last;
        }
        if head.last {
            self.changed.notify_all();
        }
        Ok(())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.is_lost() {
            return;
        }
        let now = Instant::now();
        let clock = Clock::new(now.checked_add(GOODBYE).unwrap_or(now), GOODBYE);
        let goodbye = Ask { command: command::DISC, flags: 0, offset: 0, len: 0, data: &[] };
        // A courtesy: the server sees the end of the connection anyhow.
        let _ = self.ask(&[goodbye], &clock);
        self.stream.close();
    }
}

/// Requests of one call whose answers any thread takes in.
struct Answers<'a>(&'a [u64]);

impl Waiting for Answers<'_> {
    fn finished(&self, state: &State) -> bool {
        self.0.iter().all(|cookie| match state.pending.get(cookie) {
            Some(Pending::Answer(answer)) => answer.done,
            _ => true,
        })
    }

    fn take(&mut self, _head: &Head, _stream: &Stream, _deadline: Instant) -> Result<bool, Failure> {
        Ok(true)
    }
}

/// The payload of a chunk without data.
pub(super) fn payload(head: &Head, stream: &Stream, deadline: Instant) -> Result<Vec<u8>, Failure> {
    let len = limits::check("bytes of an NBD reply without data", head.len, limits::NBD_REPLY_BYTES)?;
    let mut bytes = vec![0; to_usize(len)];
    stream.read_exact(&mut bytes, deadline)?;
    Ok(bytes)
}

/// What an error chunk says; other types are not expected here.
pub(super) fn error_chunk(kind: u16, payload: &[u8]) -> Result<ChunkError> {
    if kind & chunk::ERROR_BIT == 0 {
        return Err(Error::corrupt(FORMAT, "reply chunk type", 6, kind, "a type that answers the request"));
    }
    let error = ChunkError::parse(kind, payload)?;
    if error.errno == 0 {
        return Err(Error::corrupt(FORMAT, "reply error", 0, 0, "an error number"));
    }
    Ok(error)
}

/// The server's refusal as an error, by the protocol's name.
pub(super) fn refused(action: &'static str, subject: impl std::fmt::Display, refusal: &ChunkError) -> Error {
    let name = match refusal.errno {
        errno::EPERM => "EPERM",
        errno::EIO => "EIO",
        errno::ENOMEM => "ENOMEM",
        errno::EINVAL => "EINVAL",
        errno::ENOSPC => "ENOSPC",
        errno::EOVERFLOW => "EOVERFLOW",
        errno::ENOTSUP => "ENOTSUP",
        errno::ESHUTDOWN => "ESHUTDOWN",
        _ => "an unknown error",
    };
    // The protocol's numbers are Linux's.
    let kind =
        i32::try_from(refusal.errno).map_or(io::ErrorKind::Other, |code| io::Error::from_raw_os_error(code).kind());
    let words = match &*refusal.message {
        "" => format!("the NBD server says {name}"),
        message => format!("the NBD server says {name}: {}", escape(message.as_bytes())),
    };
    Error::io(action, subject, io::Error::new(kind, words))
}

impl Connection {
    pub(super) fn users(&self) -> usize {
        self.users.load(Ordering::Relaxed)
    }
}
