//! Negotiation: what the client wants, until it enters transmission or leaves.

use std::time::Instant;

use super::status::Context;
use super::transmit::Connection;
use super::{Export, Exports, Mode, ServerOptions, flags};
use crate::block::nbd::protocol::option::{self, Info, InfoRequest, MetaContext, MetaQueries, ServerEntry, info, rep};
use crate::block::nbd::protocol::{FORMAT, handshake};
use crate::block::nbd::{Stream, tls};
use crate::bytes::to_usize;
use crate::error::{Error, Result};

/// Bytes of an option's data that are looked at. Ours; the longest that makes sense has a name and a few contexts.
const OPTION_BYTES: u32 = 64 << 10;

/// Bytes of an option's data that are read only to be thrown away. Ours; who sends more is disconnected.
const SKIPPED_BYTES: u32 = 1 << 20;

/// Negotiates with the client on `stream`. `None` when it leaves in peace; everything that breaks the protocol or takes
/// longer than [`ServerOptions::handshake`] is an error, after which the connection is to be dropped.
pub fn negotiate<'a>(
    stream: Stream,
    exports: &'a Exports,
    options: &'a ServerOptions,
) -> Result<Option<Connection<'a>>> {
    let deadline = Instant::now().checked_add(options.handshake).unwrap_or_else(Instant::now);
    let mut negotiation =
        Negotiation { stream, exports, options, deadline, mode: Mode::Simple, zeroes: true, chosen: None };
    negotiation.greet()?;
    loop {
        let Some((option, data)) = negotiation.next_option()? else { continue };
        if negotiation.needs_tls() && !matches!(option, option::STARTTLS | option::ABORT | option::EXPORT_NAME) {
            negotiation.refuse(option, rep::ERR_TLS_REQD, "TLS is required")?;
            continue;
        }
        match option {
            option::ABORT => {
                // The client need not wait for the answer.
                let _ = negotiation.reply(option, rep::ACK, &[]);
                return Ok(None);
            }
            option::EXPORT_NAME => {
                let export = negotiation.export_name(&data)?;
                return Ok(Some(negotiation.transmit(export)));
            }
            option::GO => {
                if let Some(export) = negotiation.info(option, &data)? {
                    return Ok(Some(negotiation.transmit(export)));
                }
            }
            option::STARTTLS => negotiation = negotiation.start_tls(&data)?,
            _ => negotiation.answer(option, &data)?,
        }
    }
}

struct Negotiation<'a> {
    stream: Stream,
    exports: &'a Exports,
    options: &'a ServerOptions,
    deadline: Instant,
    mode: Mode,
    /// Whether the client expects 124 zeroes after the answer to `EXPORT_NAME`.
    zeroes: bool,
    /// The export for which metadata contexts were chosen, and these.
    chosen: Option<(&'a str, Vec<Context>)>,
}

impl<'a> Negotiation<'a> {
    fn greet(&mut self) -> Result<()> {
        let ours = handshake::FIXED_NEWSTYLE | handshake::NO_ZEROES;
        self.write(&option::greeting(ours))?;
        let mut theirs = [0; 4];
        self.read(&mut theirs)?;
        let theirs = u32::from_be_bytes(theirs);
        self.zeroes = theirs & u32::from(handshake::NO_ZEROES) == 0;
        if theirs & !u32::from(ours) == 0 {
            Ok(())
        } else {
            Err(Error::corrupt(FORMAT, "client flags", 0, format!("{theirs:#x}"), format!("no bits beside {ours:#x}")))
        }
    }

    /// The next option and its data; `None` when it was too long and refused for that.
    fn next_option(&mut self) -> Result<Option<(u32, Vec<u8>)>> {
        let mut head = [0; option::OPTION];
        self.read(&mut head)?;
        let (option, len) = option::parse_option(&head)?;
        if len > SKIPPED_BYTES {
            return Err(Error::limit("bytes of an option's data", SKIPPED_BYTES.into(), len.into()));
        }
        let mut data = vec![0; to_usize(len.into())];
        self.read(&mut data)?;
        if len <= OPTION_BYTES {
            return Ok(Some((option, data)));
        }
        self.refuse(option, rep::ERR_TOO_BIG, "the option's data is too long")?;
        Ok(None)
    }

    fn needs_tls(&self) -> bool {
        self.options.tls.is_some() && !self.stream.is_tls()
    }

    fn start_tls(self, data: &[u8]) -> Result<Self> {
        match &self.options.tls {
            _ if !data.is_empty() => self.refuse(option::STARTTLS, rep::ERR_INVALID, "STARTTLS has no data")?,
            _ if self.stream.is_tls() => self.refuse(option::STARTTLS, rep::ERR_INVALID, "TLS is on already")?,
            None => self.refuse(option::STARTTLS, rep::ERR_POLICY, "this server has no TLS")?,
            Some(server) => {
                self.reply(option::STARTTLS, rep::ACK, &[])?;
                let stream = tls::accept(self.stream, server, self.deadline)?;
                return Ok(Self { stream, ..self });
            }
        }
        Ok(self)
    }

    /// The export that the client enters; there is no way to say no but to hang up.
    fn export_name(&self, data: &[u8]) -> Result<&'a Export> {
        if self.needs_tls() {
            return Err(Error::denied("the client asked for an export without TLS"));
        }
        let found = std::str::from_utf8(data).ok().and_then(|name| self.exports.find(name));
        let export = found.ok_or_else(|| Error::invalid("the client asked for an export that does not exist"))?;
        let flags = flags(export, self.mode, self.options);
        self.write(&option::export_name_reply(export.disk.device().size(), flags, self.zeroes))?;
        Ok(export)
    }

    fn transmit(self, export: &'a Export) -> Connection<'a> {
        let contexts = match self.chosen {
            Some((name, contexts)) if name == export.name => contexts,
            _ => Vec::new(),
        };
        Connection::new(self.stream, export, self.mode, contexts, self.options)
    }

    fn answer(&mut self, option: u32, data: &[u8]) -> Result<()> {
        match option {
            option::LIST | option::STRUCTURED_REPLY | option::EXTENDED_HEADERS if !data.is_empty() => {
                self.refuse(option, rep::ERR_INVALID, "the option has no data")
            }
            option::LIST => {
                for Export { name, description, .. } in self.exports.all() {
                    let entry = ServerEntry { name: name.clone(), description: description.clone() };
                    self.reply(option, rep::SERVER, &entry.encode())?;
                }
                self.reply(option, rep::ACK, &[])
            }
            option::INFO => self.info(option, data).map(|_| ()),
            option::STRUCTURED_REPLY if self.mode == Mode::Extended => {
                self.refuse(option, rep::ERR_EXT_HEADER_REQD, "extended headers are on already")
            }
            option::STRUCTURED_REPLY => self.switch(option, Mode::Structured),
            option::EXTENDED_HEADERS => self.switch(option, Mode::Extended),
            option::LIST_META_CONTEXT | option::SET_META_CONTEXT => self.contexts(option, data),
            _ => self.refuse(option, rep::ERR_UNSUP, "the option is not known"),
        }
    }

    fn switch(&mut self, option: u32, mode: Mode) -> Result<()> {
        if self.mode >= mode {
            return self.refuse(option, rep::ERR_INVALID, "that is on already");
        }
        self.mode = mode;
        // Contexts were chosen for another kind of replies.
        self.chosen = None;
        self.reply(option, rep::ACK, &[])
    }

    /// Answers `INFO` and `GO`; the export when it exists.
    fn info(&self, option: u32, data: &[u8]) -> Result<Option<&'a Export>> {
        let Ok(request) = InfoRequest::parse(data) else {
            self.refuse(option, rep::ERR_INVALID, "malformed data")?;
            return Ok(None);
        };
        let Some(export) = self.exports.find(&request.name) else {
            self.refuse(option, rep::ERR_UNKNOWN, "there is no such export")?;
            return Ok(None);
        };
        let (size, flags) = (export.disk.device().size(), flags(export, self.mode, self.options));
        self.reply(option, rep::INFO, &Info::Export { size, flags }.encode())?;
        let has = |kind| request.wanted.contains(&kind);
        if has(info::NAME) {
            self.reply(option, rep::INFO, &Info::Name(export.name.clone()).encode())?;
        }
        if has(info::DESCRIPTION) && !export.description.is_empty() {
            self.reply(option, rep::INFO, &Info::Description(export.description.clone()).encode())?;
        }
        if has(info::BLOCK_SIZE) {
            let sizes = Info::BlockSize { minimum: 1, preferred: 4096, maximum: self.options.payload };
            self.reply(option, rep::INFO, &sizes.encode())?;
        }
        self.reply(option, rep::ACK, &[])?;
        Ok(Some(export))
    }

    /// Answers `LIST_META_CONTEXT` and `SET_META_CONTEXT`.
    fn contexts(&mut self, option: u32, data: &[u8]) -> Result<()> {
        let set = option == option::SET_META_CONTEXT;
        if set {
            self.chosen = None;
        }
        if self.mode == Mode::Simple {
            return self.refuse(option, rep::ERR_INVALID, "structured replies come first");
        }
        let Ok(request) = MetaQueries::parse(data) else {
            return self.refuse(option, rep::ERR_INVALID, "malformed data");
        };
        let Some(export) = self.exports.find(&request.export) else {
            return self.refuse(option, rep::ERR_UNKNOWN, "there is no such export");
        };
        let asked = |context: &Context| {
            let name = context.name();
            let namespace = |query: &String| query.ends_with(':') && name.starts_with(&**query);
            let all = !set && (request.queries.is_empty() || request.queries.iter().any(namespace));
            all || request.queries.iter().any(|query| query == name)
        };
        let contexts: Vec<_> = Context::ALL.into_iter().filter(asked).collect();
        for context in &contexts {
            let context = MetaContext { id: context.id(), name: context.name().to_owned() };
            self.reply(option, rep::META_CONTEXT, &context.encode())?;
        }
        if set {
            self.chosen = Some((&export.name, contexts));
        }
        self.reply(option, rep::ACK, &[])
    }

    fn refuse(&self, option: u32, kind: u32, message: &str) -> Result<()> {
        self.reply(option, kind, message.as_bytes())
    }

    fn reply(&self, option: u32, kind: u32, data: &[u8]) -> Result<()> {
        self.write(&option::option_reply(option, kind, data))
    }

    fn write(&self, bytes: &[u8]) -> Result<()> {
        self.stream
            .write_all(bytes, self.deadline)
            .map_err(|error| Error::io("negotiate with", "the NBD client", error))
    }

    fn read(&self, buf: &mut [u8]) -> Result<()> {
        self.stream.read_exact(buf, self.deadline).map_err(|error| Error::io("negotiate with", "the NBD client", error))
    }
}
