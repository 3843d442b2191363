//! The client's side of the negotiation: fixed newstyle, TLS, what the transmission can do, one export.
//!
//! What a server says before transmission is bounded: each reply's length, how many replies an option gets, and the time
//! of all of it. Nothing is read ahead, so bytes that arrive before the TLS handshake is done become part of it and
//! break it.

use std::io;
use std::time::Instant;

use super::super::protocol::option::{self, Info, InfoRequest, MetaContext, MetaQueries, ServerEntry, info, rep};
use super::super::protocol::{FORMAT, handshake};
use super::super::stream::Stream;
use super::super::tls::{self, ClientTls};
use super::info::{BlockSizes, ExportInfo, ServerInfo};
use crate::bytes::{escape, to_u64, to_usize};
use crate::error::{Error, Result};
use crate::limits;

/// A connection between its greeting and the transmission.
#[derive(Debug)]
pub(super) struct Handshake {
    stream: Stream,
    deadline: Instant,
    server: ServerInfo,
    no_zeroes: bool,
}

/// A connection whose transmission has begun, and what was agreed on.
#[derive(Debug)]
pub(super) struct Negotiated {
    pub(super) stream: Stream,
    pub(super) server: ServerInfo,
    pub(super) export: ExportInfo,
    /// Contexts by the numbers that replies give them.
    pub(super) contexts: Vec<(u32, String)>,
}

/// A reply to an option.
struct Reply {
    kind: u32,
    payload: Vec<u8>,
}

impl Reply {
    fn is_error(&self) -> bool {
        self.kind & rep::ERROR != 0
    }

    /// The error's name and the server's words.
    fn explain(&self) -> String {
        let name = match self.kind {
            rep::ERR_UNSUP => "ERR_UNSUP",
            rep::ERR_POLICY => "ERR_POLICY",
            rep::ERR_INVALID => "ERR_INVALID",
            rep::ERR_PLATFORM => "ERR_PLATFORM",
            rep::ERR_TLS_REQD => "ERR_TLS_REQD",
            rep::ERR_UNKNOWN => "ERR_UNKNOWN",
            rep::ERR_SHUTDOWN => "ERR_SHUTDOWN",
            rep::ERR_BLOCK_SIZE_REQD => "ERR_BLOCK_SIZE_REQD",
            rep::ERR_TOO_BIG => "ERR_TOO_BIG",
            rep::ERR_EXT_HEADER_REQD => "ERR_EXT_HEADER_REQD",
            _ => "an unknown error",
        };
        if self.payload.is_empty() { name.to_owned() } else { format!("{name}: {}", escape(&self.payload)) }
    }

    fn refusal(&self, option: u32, name: &str) -> Error {
        let words = self.explain();
        let kind = match self.kind {
            rep::ERR_TLS_REQD => {
                return Error::denied(format!("the NBD server demands TLS ({words})")).with_hint("use nbds://");
            }
            rep::ERR_UNKNOWN => io::ErrorKind::NotFound,
            rep::ERR_POLICY => io::ErrorKind::PermissionDenied,
            _ => return Error::io("negotiate", format!("NBD option {option}"), io::Error::other(words)),
        };
        Error::io("open", format!("the NBD export '{}'", escape(name.as_bytes())), io::Error::new(kind, words))
    }
}

impl Handshake {
    /// Greets the server, turns TLS on where `tls` says so, and agrees on the form of requests and replies.
    pub(super) fn begin(stream: Stream, tls: Option<&ClientTls>, deadline: Instant) -> Result<Self> {
        let mut handshake = Self { stream, deadline, server: ServerInfo::default(), no_zeroes: false };
        handshake.greet()?;
        if let Some(tls) = tls {
            handshake = handshake.start_tls(tls)?;
        }
        if handshake.server.fixed {
            handshake.server.extended = handshake.agreed(option::EXTENDED_HEADERS)?;
            handshake.server.structured = handshake.server.extended || handshake.agreed(option::STRUCTURED_REPLY)?;
        }
        Ok(handshake)
    }

    pub(super) fn server(&self) -> ServerInfo {
        self.server
    }

    fn greet(&mut self) -> Result<()> {
        let flags = option::parse_greeting(&self.array()?)?;
        self.server.fixed = flags & handshake::FIXED_NEWSTYLE != 0;
        self.no_zeroes = flags & handshake::NO_ZEROES != 0;
        let known = flags & (handshake::FIXED_NEWSTYLE | handshake::NO_ZEROES);
        self.write(&u32::from(known).to_be_bytes())
    }

    fn start_tls(mut self, tls: &ClientTls) -> Result<Self> {
        let refused = || Error::denied("the NBD server does not offer TLS, and the URI demands it (nbds)");
        if !self.server.fixed {
            return Err(refused());
        }
        self.send(option::STARTTLS, &[])?;
        let reply = self.reply(option::STARTTLS)?;
        if reply.kind != rep::ACK {
            return Err(refused().with_hint(format!("it answers {}", reply.explain())));
        }
        let stream = tls::connect(self.stream, tls, self.deadline)?;
        let server = ServerInfo { tls: true, ..self.server };
        Ok(Self { stream, server, ..self })
    }

    /// Whether the server agrees to an option without data.
    fn agreed(&mut self, option: u32) -> Result<bool> {
        self.send(option, &[])?;
        let reply = self.reply(option)?;
        match reply.kind {
            rep::ACK => Ok(true),
            // A server that wants TLS first says so to whatever it is asked.
            rep::ERR_TLS_REQD | rep::ERR_SHUTDOWN => Err(reply.refusal(option, "")),
            _ if reply.is_error() => Ok(false),
            kind => Err(unexpected(option, kind)),
        }
    }

    /// Opens the export `name` with those of `contexts` that it has; the transmission begins.
    pub(super) fn go(mut self, name: &str, contexts: &[String]) -> Result<Negotiated> {
        let contexts = if self.server.structured { self.meta_contexts(name, contexts)? } else { Vec::new() };
        let described = if self.server.fixed { self.describe(option::GO, name)? } else { None };
        let mut export = match described {
            Some(export) => export,
            None => self.export_name(name)?,
        };
        export.contexts = contexts.iter().map(|(_, name)| name.clone()).collect();
        Ok(Negotiated { stream: self.stream, server: self.server, export, contexts })
    }

    /// `INFO` and `GO`; `None` when the server does not know them.
    pub(super) fn describe(&mut self, option: u32, name: &str) -> Result<Option<ExportInfo>> {
        let wanted = vec![info::DESCRIPTION, info::BLOCK_SIZE];
        self.send(option, &InfoRequest { name: name.to_owned(), wanted }.encode())?;
        let mut export = ExportInfo::new(name);
        let mut sized = false;
        let mut known = true;
        self.replies(option, |reply| {
            match reply.kind {
                rep::INFO => match Info::parse(&reply.payload)? {
                    Info::Export { size, flags } => (export.size, export.flags, sized) = (size, flags, true),
                    Info::Description(text) => export.description = Some(text),
                    Info::BlockSize { minimum, preferred, maximum } => {
                        export.block_sizes = Some(BlockSizes { minimum, preferred, maximum }.checked()?);
                    }
                    // The name is the one asked for; what a client does not know it ignores.
                    Info::Name(_) | Info::Other(_) => {}
                },
                rep::ERR_UNSUP => known = false,
                _ if reply.is_error() => return Err(reply.refusal(option, name)),
                kind => return Err(unexpected(option, kind)),
            }
            Ok(())
        })?;
        match (known, sized) {
            (false, _) => Ok(None),
            (true, true) => Ok(Some(export)),
            (true, false) => Err(Error::corrupt(FORMAT, "NBD_REP_ACK", 0, "no size before it", "NBD_INFO_EXPORT")),
        }
    }

    /// `EXPORT_NAME`: a server that does not have the export closes the connection.
    fn export_name(&mut self, name: &str) -> Result<ExportInfo> {
        self.send(option::EXPORT_NAME, name.as_bytes())?;
        let answer = self.array().map_err(|error| {
            error.with_hint("an old NBD server that closes the connection here does not have that export")
        })?;
        let (size, flags) = option::parse_export_name_reply(&answer)?;
        if !self.no_zeroes {
            self.read(option::EXPORT_ZEROES)?;
        }
        Ok(ExportInfo { size, flags, ..ExportInfo::new(name) })
    }

    /// `SET_META_CONTEXT`: the numbers of those contexts that the export has.
    fn meta_contexts(&mut self, name: &str, wanted: &[String]) -> Result<Vec<(u32, String)>> {
        let mut found: Vec<(u32, String)> = Vec::new();
        for MetaContext { id, name } in self.contexts(option::SET_META_CONTEXT, name, wanted)? {
            if !wanted.contains(&name) || found.iter().any(|(known, other)| *known == id || *other == name) {
                let found = format!("context {id} {}", escape(name.as_bytes()));
                return Err(Error::corrupt(FORMAT, "NBD_REP_META_CONTEXT", 0, found, "each context asked for, once"));
            }
            found.push((id, name));
        }
        Ok(found)
    }

    /// `LIST_META_CONTEXT`: the names of all contexts of an export.
    pub(super) fn list_contexts(&mut self, name: &str) -> Result<Vec<String>> {
        if !self.server.structured {
            return Ok(Vec::new());
        }
        let found = self.contexts(option::LIST_META_CONTEXT, name, &[])?;
        Ok(found.into_iter().map(|context| context.name).collect())
    }

    fn contexts(&mut self, option: u32, export: &str, queries: &[String]) -> Result<Vec<MetaContext>> {
        self.send(option, &MetaQueries { export: export.to_owned(), queries: queries.to_vec() }.encode())?;
        let mut found = Vec::new();
        self.replies(option, |reply| {
            match reply.kind {
                rep::META_CONTEXT => found.push(MetaContext::parse(&reply.payload)?),
                // No contexts, no such export, or a server that knows nothing of this: what follows tells.
                _ if reply.is_error() => found.clear(),
                kind => return Err(unexpected(option, kind)),
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// `LIST`: names and descriptions of all exports that the server shows.
    pub(super) fn list(&mut self) -> Result<Vec<ServerEntry>> {
        if !self.server.fixed {
            return Err(Error::unsupported(FORMAT, "listing the exports of a server before fixed newstyle"));
        }
        self.send(option::LIST, &[])?;
        let mut found = Vec::new();
        self.replies(option::LIST, |reply| {
            match reply.kind {
                rep::SERVER => found.push(ServerEntry::parse(&reply.payload)?),
                _ if reply.is_error() => return Err(reply.refusal(option::LIST, "")),
                kind => return Err(unexpected(option::LIST, kind)),
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// Leaves without opening an export.
    pub(super) fn abort(mut self) {
        if self.server.fixed && self.send(option::ABORT, &[]).is_ok() {
            // The server's answer is a courtesy.
            let _ = self.reply(option::ABORT);
        }
    }

    /// Calls `take` with each reply to `option` until ACK, or until it took an error.
    fn replies(&mut self, option: u32, mut take: impl FnMut(&Reply) -> Result<()>) -> Result<()> {
        for _ in 0..limits::NBD_OPTION_REPLIES {
            let reply = self.reply(option)?;
            if reply.kind == rep::ACK {
                return Ok(());
            }
            take(&reply)?;
            if reply.is_error() {
                return Ok(());
            }
        }
        let limit = to_u64(limits::NBD_OPTION_REPLIES);
        Err(Error::limit("replies to one NBD option", limit, limit.saturating_add(1)))
    }

    fn reply(&mut self, option: u32) -> Result<Reply> {
        let header = option::OptionReply::parse(&self.array()?)?;
        if header.option != option {
            return Err(Error::corrupt(FORMAT, "option", 8, header.option, option));
        }
        let len = limits::check("bytes of an NBD option reply", header.len.into(), limits::NBD_OPTION_REPLY_BYTES)?;
        Ok(Reply { kind: header.kind, payload: self.read(to_usize(len))? })
    }

    fn array<const N: usize>(&self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.stream.read_exact(&mut bytes, self.deadline).map_err(|error| lost("read from", error))?;
        Ok(bytes)
    }

    fn read(&self, len: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        self.stream.read_exact(&mut bytes, self.deadline).map_err(|error| lost("read from", error))?;
        Ok(bytes)
    }

    fn send(&self, option: u32, data: &[u8]) -> Result<()> {
        let bytes = option::option(option, data);
        self.stream.write_all(&bytes, self.deadline).map_err(|error| lost("write to", error))
    }

    fn write(&self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes, self.deadline).map_err(|error| lost("write to", error))
    }
}

fn lost(action: &'static str, error: io::Error) -> Error {
    Error::io(action, "the NBD server during negotiation", error)
}

fn unexpected(option: u32, kind: u32) -> Error {
    let expected = format!("a reply that belongs to option {option}");
    Error::corrupt(FORMAT, "option reply type", 12, format!("{kind:#x}"), expected)
}
