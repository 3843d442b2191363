//! A server that follows a script and breaks the rules: each time a typed failure before the deadline, and no data.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::{Duration, Instant};

use guestctl::block::nbd::client::list_exports;
use guestctl::block::nbd::protocol::option::{self, Info, MetaContext, rep};
use guestctl::block::nbd::protocol::reply::{self, Chunk, Descriptor, SimpleReply, chunk};
use guestctl::block::nbd::protocol::request::{self, Request};
use guestctl::block::nbd::protocol::{command, handshake, transmission};
use guestctl::block::nbd::{Client, NbdOptions, Uri};
use guestctl::block::{BlockDevice, BlockWrite};
use guestctl::{Error, ErrorKind, Result};

const SIZE: u64 = 1 << 20;

type Socket = std::os::unix::net::UnixStream;

/// What a server does with a connection.
type Script = dyn Fn(&mut Socket) -> std::io::Result<()> + Sync;

/// Runs `work` with the URI of a server that treats each connection as `script` says.
fn with_server<T>(script: &Script, work: impl FnOnce(&Uri) -> T) -> T {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    std::thread::scope(|scope| {
        let server = scope.spawn(|| {
            while let Ok((mut socket, _)) = listener.accept() {
                let mut first = [0; 1];
                if !path.exists() {
                    return;
                }
                // A script ends when the client has gone.
                socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
                socket.set_write_timeout(Some(Duration::from_secs(10))).unwrap();
                let _ = script(&mut socket).and_then(|()| socket.read(&mut first));
            }
        });
        let result = work(&Uri::unix(&path));
        std::fs::remove_file(directory.path().join("s")).unwrap();
        // The listener is woken through its own file, which is gone: by the descriptor's shutdown.
        rustix_shutdown(&listener);
        server.join().unwrap();
        result
    })
}

fn rustix_shutdown(listener: &UnixListener) {
    rustix::net::shutdown(listener, rustix::net::Shutdown::Both).unwrap();
}

fn options() -> NbdOptions {
    let second = Duration::from_secs(1);
    NbdOptions {
        connect_timeout: second,
        request_timeout: second,
        total_timeout: second * 2,
        retries: 1,
        ..NbdOptions::default()
    }
}

/// The time in which any failure must come.
const DEADLINE: Duration = Duration::from_secs(8);

fn greet(socket: &mut Socket) -> std::io::Result<()> {
    socket.write_all(&option::greeting(handshake::FIXED_NEWSTYLE | handshake::NO_ZEROES))?;
    socket.read_exact(&mut [0; 4])
}

fn next_option(socket: &mut Socket) -> std::io::Result<u32> {
    let mut head = [0; option::OPTION];
    socket.read_exact(&mut head)?;
    let (option, len) = option::parse_option(&head).map_err(std::io::Error::other)?;
    socket.read_exact(&mut vec![0; len as usize])?;
    Ok(option)
}

fn answer(socket: &mut Socket, option: u32, kind: u32, data: &[u8]) -> std::io::Result<()> {
    socket.write_all(&option::option_reply(option, kind, data))
}

/// Negotiates honestly: structured replies unless `simple`, one context.
fn negotiate(socket: &mut Socket, simple: bool) -> std::io::Result<()> {
    greet(socket)?;
    loop {
        match next_option(socket)? {
            option::STRUCTURED_REPLY if !simple => answer(socket, option::STRUCTURED_REPLY, rep::ACK, &[])?,
            option::SET_META_CONTEXT => {
                let context = MetaContext { id: 7, name: "base:allocation".to_owned() };
                answer(socket, option::SET_META_CONTEXT, rep::META_CONTEXT, &context.encode())?;
                answer(socket, option::SET_META_CONTEXT, rep::ACK, &[])?;
            }
            option::GO => {
                let flags = transmission::HAS_FLAGS | transmission::SEND_FLUSH;
                answer(socket, option::GO, rep::INFO, &Info::Export { size: SIZE, flags }.encode())?;
                return answer(socket, option::GO, rep::ACK, &[]);
            }
            other => answer(socket, other, rep::ERR_UNSUP, &[])?,
        }
    }
}

fn next_request(socket: &mut Socket) -> std::io::Result<Request> {
    let mut bytes = [0; request::COMPACT];
    socket.read_exact(&mut bytes)?;
    let request = Request::parse_compact(&bytes).map_err(std::io::Error::other)?;
    if request.command == command::WRITE {
        socket.read_exact(&mut vec![0; request.len as usize])?;
    }
    Ok(request)
}

/// A chunk with its payload.
fn send(socket: &mut Socket, cookie: u64, flags: u16, kind: u16, payload: &[u8]) -> std::io::Result<()> {
    let chunk = Chunk { flags, kind, cookie, offset: 0, len: payload.len() as u64 };
    socket.write_all(&chunk.encode_structured())?;
    socket.write_all(payload)
}

fn data(offset: u64, len: usize) -> Vec<u8> {
    [&offset.to_be_bytes()[..], &vec![0xdd; len]].concat()
}

/// What went wrong, in one word: the corrupt field, or the kind of error.
fn word(error: &Error) -> &str {
    match error.kind() {
        ErrorKind::Corrupt(corrupt) => corrupt.field,
        ErrorKind::Io { source, .. } if source.kind() == std::io::ErrorKind::TimedOut => "timeout",
        kind => kind.name(),
    }
}

/// The client fails with `expected`, in time.
fn fails(name: &str, expected: &str, script: &Script, work: impl FnOnce(&Uri) -> Result<()>) {
    let begun = Instant::now();
    let error = with_server(script, |uri| work(uri).unwrap_err());
    assert_eq!(word(&error), expected, "{name}: {error}");
    assert!(begun.elapsed() < DEADLINE, "{name}: {:?}", begun.elapsed());
}

fn connect(uri: &Uri) -> Result<()> {
    Client::connect(uri, &options()).map(drop)
}

fn read(uri: &Uri) -> Result<()> {
    let client = Client::connect(uri, &options())?;
    client.read_exact_at(&mut [0; 4096], 8192)
}

fn status(uri: &Uri) -> Result<()> {
    Client::connect(uri, &options())?.next_extent(0..SIZE).map(drop)
}

#[test]
fn negotiation_that_breaks_the_rules() {
    let cases: [(&str, &str, &Script); 11] = [
        ("nothing", "timeout", &|_| Ok(())),
        ("end", "io", &|socket| socket.shutdown(std::net::Shutdown::Both)),
        ("not NBD", "magic", &|socket| socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")),
        ("half a greeting", "timeout", &|socket| socket.write_all(b"NBDMAGICIHAVE")),
        ("another option's reply", "option", &|socket| {
            greet(socket)?;
            next_option(socket)?;
            answer(socket, option::LIST, rep::ACK, &[])
        }),
        ("a long reply", "limit", &|socket| {
            greet(socket)?;
            let option = next_option(socket)?;
            answer(socket, option, rep::ERR_UNSUP, &[0; 100_000])
        }),
        ("a reply of another kind", "option reply type", &|socket| {
            greet(socket)?;
            let option = next_option(socket)?;
            answer(socket, option, rep::SERVER, &[])
        }),
        ("no size", "NBD_REP_ACK", &|socket| {
            greet(socket)?;
            loop {
                match next_option(socket)? {
                    option::GO => return answer(socket, option::GO, rep::ACK, &[]),
                    other => answer(socket, other, rep::ERR_UNSUP, &[])?,
                }
            }
        }),
        ("block sizes", "minimum block size", &|socket| {
            greet(socket)?;
            loop {
                match next_option(socket)? {
                    option::GO => {
                        let info = Info::BlockSize { minimum: 3, preferred: 4096, maximum: 4096 };
                        return answer(socket, option::GO, rep::INFO, &info.encode());
                    }
                    other => answer(socket, other, rep::ERR_UNSUP, &[])?,
                }
            }
        }),
        ("a context that nobody asked for", "NBD_REP_META_CONTEXT", &|socket| {
            greet(socket)?;
            loop {
                match next_option(socket)? {
                    option::SET_META_CONTEXT => {
                        let context = MetaContext { id: 1, name: "evil:context".to_owned() };
                        answer(socket, option::SET_META_CONTEXT, rep::META_CONTEXT, &context.encode())?;
                        return answer(socket, option::SET_META_CONTEXT, rep::ACK, &[]);
                    }
                    option::EXTENDED_HEADERS => answer(socket, option::EXTENDED_HEADERS, rep::ERR_UNSUP, &[])?,
                    other => answer(socket, other, rep::ACK, &[])?,
                }
            }
        }),
        ("endless replies", "limit", &|socket| {
            greet(socket)?;
            loop {
                match next_option(socket)? {
                    option::GO => loop {
                        answer(socket, option::GO, rep::INFO, &Info::Other(99).encode())?;
                    },
                    other => answer(socket, other, rep::ERR_UNSUP, &[])?,
                }
            }
        }),
    ];
    for (name, expected, script) in cases {
        fails(name, expected, script, connect);
    }
    let endless: &Script = &|socket| {
        greet(socket)?;
        loop {
            match next_option(socket)? {
                option::LIST => loop {
                    answer(socket, option::LIST, rep::SERVER, b"\0\0\0\x01xdescription")?;
                },
                other => answer(socket, other, rep::ERR_UNSUP, &[])?,
            }
        }
    };
    fails("endless list", "limit", endless, |uri| list_exports(uri, false, &options()).map(drop));
}

#[test]
fn tls_is_not_given_up() {
    let psk = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(psk.path(), "alice:00112233445566778899aabbccddeeff\n").unwrap();
    let cases: [(&str, &str, &Script); 5] = [
        ("TLS is refused", "denied", &|socket| negotiate(socket, false)),
        ("old handshake", "denied", &|socket| socket.write_all(&option::greeting(0))),
        ("plain text goes on", "io", &|socket| {
            greet(socket)?;
            next_option(socket)?;
            answer(socket, option::STARTTLS, rep::ACK, &[])?;
            socket.write_all(&option::option_reply(option::STRUCTURED_REPLY, rep::ACK, &[]))
        }),
        ("plain text comes with the ACK", "io", &|socket| {
            greet(socket)?;
            next_option(socket)?;
            let ack = option::option_reply(option::STARTTLS, rep::ACK, &[]);
            let more = option::option_reply(option::STRUCTURED_REPLY, rep::ACK, &[]);
            socket.write_all(&[ack, more].concat())
        }),
        ("no handshake", "timeout", &|socket| {
            greet(socket)?;
            next_option(socket)?;
            answer(socket, option::STARTTLS, rep::ACK, &[])?;
            // Takes the client's hello and says nothing.
            let mut hello = [0; 4096];
            while socket.read(&mut hello)? > 0 {}
            Ok(())
        }),
    ];
    for (name, expected, script) in cases {
        fails(name, expected, script, |uri| {
            connect(&Uri { tls: true, tls_psk_file: Some(psk.path().to_owned()), ..uri.clone() })
        });
    }
}

#[test]
fn replies_that_break_the_rules() {
    let after = |simple: bool, reply: fn(&mut Socket, &Request) -> std::io::Result<()>| -> Box<Script> {
        Box::new(move |socket| {
            negotiate(socket, simple)?;
            loop {
                let request = next_request(socket)?;
                reply(socket, &request)?;
            }
        })
    };
    let cases: Vec<(&str, &str, Box<Script>)> = vec![
        ("silence", "timeout", after(false, |_, _| Ok(()))),
        ("drop", "io", after(false, |_, _| Err(std::io::ErrorKind::Other.into()))),
        (
            "drop amid data",
            "io",
            after(false, |socket, request| {
                let chunk = Chunk { flags: 1, kind: chunk::OFFSET_DATA, cookie: request.cookie, offset: 0, len: 4104 };
                socket.write_all(&chunk.encode_structured())?;
                socket.write_all(&data(8192, 1000))?;
                Err(std::io::ErrorKind::Other.into())
            }),
        ),
        (
            "drop amid a simple reply",
            "io",
            after(true, |socket, request| {
                socket.write_all(&SimpleReply { error: 0, cookie: request.cookie }.encode())?;
                socket.write_all(&[1; 1000])?;
                Err(std::io::ErrorKind::Other.into())
            }),
        ),
        (
            "wrong cookie",
            "cookie",
            after(false, |socket, request| send(socket, request.cookie + 1, 1, chunk::OFFSET_DATA, &data(8192, 4096))),
        ),
        ("wrong magic", "magic", after(false, |socket, _| socket.write_all(&[0xee; 20]))),
        (
            "a structured reply that was not agreed to",
            "magic",
            after(true, |socket, request| send(socket, request.cookie, 1, chunk::OFFSET_DATA, &data(8192, 4096))),
        ),
        (
            "a simple reply with data",
            "reply magic",
            after(false, |socket, request| {
                socket.write_all(&SimpleReply { error: 0, cookie: request.cookie }.encode())?;
                socket.write_all(&[1; 4096])
            }),
        ),
        (
            "too much data",
            "chunk offset",
            after(false, |socket, request| send(socket, request.cookie, 1, chunk::OFFSET_DATA, &data(8192, 4097))),
        ),
        (
            "a length of 4 GiB",
            "chunk offset",
            after(false, |socket, request| {
                let chunk =
                    Chunk { flags: 1, kind: chunk::OFFSET_DATA, cookie: request.cookie, offset: 0, len: 0xffff_ffff };
                socket.write_all(&chunk.encode_structured())?;
                socket.write_all(&data(8192, 4096))
            }),
        ),
        (
            "an error message of 4 GiB",
            "limit",
            after(false, |socket, request| {
                let chunk = Chunk { flags: 1, kind: chunk::ERROR, cookie: request.cookie, offset: 0, len: 0xffff_ffff };
                socket.write_all(&chunk.encode_structured())
            }),
        ),
        (
            "data of another place",
            "chunk offset",
            after(false, |socket, request| send(socket, request.cookie, 1, chunk::OFFSET_DATA, &data(0, 4096))),
        ),
        (
            "overlapping chunks",
            "chunk offset",
            after(false, |socket, request| {
                send(socket, request.cookie, 0, chunk::OFFSET_DATA, &data(8192, 2048))?;
                send(socket, request.cookie, 1, chunk::OFFSET_DATA, &data(8192 + 2047, 2049))
            }),
        ),
        (
            "a gap",
            "reply length",
            after(false, |socket, request| {
                send(socket, request.cookie, 0, chunk::OFFSET_DATA, &data(8192, 2048))?;
                send(socket, request.cookie, 1, chunk::OFFSET_HOLE, &reply::hole(8192 + 2049, 2047))
            }),
        ),
        (
            "nothing at all",
            "reply length",
            after(false, |socket, request| send(socket, request.cookie, 1, chunk::NONE, &[])),
        ),
        (
            "an endless reply",
            "reply chunk",
            after(false, |socket, request| send(socket, request.cookie, 0, chunk::NONE, &[])),
        ),
        (
            "an empty chunk",
            "chunk offset",
            after(false, |socket, request| send(socket, request.cookie, 1, chunk::OFFSET_DATA, &data(8192, 0))),
        ),
        (
            "a chunk without an offset",
            "chunk length",
            after(false, |socket, request| send(socket, request.cookie, 1, chunk::OFFSET_DATA, &[0; 4])),
        ),
        (
            "a chunk of unknown type",
            "reply chunk type",
            after(false, |socket, request| send(socket, request.cookie, 1, 99, &[0; 4])),
        ),
        (
            "an error amid the reply",
            "io",
            after(false, |socket, request| {
                send(socket, request.cookie, 0, chunk::OFFSET_DATA, &data(8192, 2048))?;
                send(socket, request.cookie, 1, chunk::ERROR_OFFSET, &reply::error_offset(5, "bad disk", 8192 + 2048))
            }),
        ),
        (
            "an error that is none",
            "reply error",
            after(false, |socket, request| send(socket, request.cookie, 1, chunk::ERROR, &reply::error(0, ""))),
        ),
        (
            "a reply after the last",
            "cookie",
            after(false, |socket, request| {
                send(socket, request.cookie, 1, chunk::ERROR, &reply::error(5, ""))?;
                send(socket, request.cookie - 1, 1, chunk::NONE, &[])
            }),
        ),
    ];
    for (name, expected, script) in &cases {
        fails(name, expected, &**script, |uri| {
            let client = Client::connect(uri, &options())?;
            if *name == "a reply after the last" {
                let _ = client.read_exact_at(&mut [0; 4096], 8192);
            }
            client.read_exact_at(&mut [0; 4096], 8192)
        });
    }
}

#[test]
fn a_trickle_is_no_progress() {
    let trickle: &Script = &|socket| {
        negotiate(socket, false)?;
        let request = next_request(socket)?;
        let chunk = Chunk { flags: 1, kind: chunk::OFFSET_DATA, cookie: request.cookie, offset: 0, len: 4104 };
        socket.write_all(&chunk.encode_structured())?;
        for byte in data(8192, 4096) {
            socket.write_all(&[byte])?;
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    };
    fails("trickle", "timeout", trickle, read);
}

#[test]
fn block_status_that_breaks_the_rules() {
    type Answer = (u32, Vec<Descriptor>);
    let script = |answers: Vec<Answer>| -> Box<Script> {
        Box::new(move |socket| {
            negotiate(socket, false)?;
            let request = next_request(socket)?;
            for (context, descriptors) in &answers {
                send(socket, request.cookie, 0, chunk::BLOCK_STATUS, &reply::block_status(*context, descriptors))?;
            }
            send(socket, request.cookie, 1, chunk::NONE, &[])
        })
    };
    let run = |len: u64| Descriptor { len, status: 3 };
    let cases = [
        ("no extents", "extents", vec![(7, vec![])]),
        ("zero length", "extent length", vec![(7, vec![run(0)])]),
        ("zero length later", "extent length", vec![(7, vec![run(4096), run(0), run(4096)])]),
        ("past the end", "extent length", vec![(7, vec![run(SIZE), run(4096)])]),
        ("another context", "metadata context", vec![(8, vec![run(4096)])]),
        ("twice", "metadata context", vec![(7, vec![run(4096)]), (7, vec![run(4096)])]),
        ("no context", "metadata context", vec![]),
    ];
    for (name, expected, answers) in cases {
        fails(name, expected, &*script(answers), status);
    }
    let many = vec![(7, vec![run(1); 1 << 20])];
    fails("a million extents", "limit", &*script(many), status);
}

#[test]
fn a_write_that_may_be_lost_is_told() {
    static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let script: &Script = &|socket| {
        negotiate(socket, false)?;
        let first = COUNT.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 0;
        loop {
            let request = next_request(socket)?;
            match request.command {
                command::READ if first => return socket.shutdown(std::net::Shutdown::Both),
                command::READ => {
                    send(socket, request.cookie, 1, chunk::OFFSET_DATA, &data(request.offset, request.len as usize))?;
                }
                _ => send(socket, request.cookie, 1, chunk::NONE, &[])?,
            }
        }
    };
    with_server(script, |uri| {
        let client = Client::connect(uri, &options()).unwrap();
        client.write_all_at(b"precious", 0).unwrap();
        client.read_exact_at(&mut [0; 10], 0).unwrap();
        let error = client.flush().unwrap_err();
        assert!(error.to_string().contains("may be lost"), "{error}");
        client.write_all_at(b"again", 0).unwrap();
        client.flush().unwrap();
    });
}

#[test]
fn a_missing_server_is_an_error() {
    let gone = Uri::unix(Path::new("/nonexistent/socket"));
    assert_eq!(Client::connect(&gone, &options()).unwrap_err().exit_code(), 1);
}

#[test]
fn the_command_line_says_how_long_a_silent_server_is_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("s");
    // It takes connections and says nothing.
    let _listener = UnixListener::bind(&socket).unwrap();
    let uri = format!("nbd+unix:///?socket={}", socket.display());
    let run = |arguments: &[&str]| {
        let begin = std::time::Instant::now();
        let output =
            std::process::Command::new(env!("CARGO_BIN_EXE_guestctl")).args(arguments).arg(&uri).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap(), begin.elapsed())
    };
    for command in ["info", "map", "convert -q --output /nonexistent/out", "ls --isolate"] {
        let words: Vec<_> = command.split(' ').chain(["--nbd-timeout", "0.3"]).collect();
        let (code, message, took) = run(&words);
        assert_eq!(code, Some(1), "{command}: {message}");
        assert!(message.contains("timed out"), "{command}: {message}");
        assert!(took < Duration::from_secs(8), "{command}: {took:?}");
    }
    for nonsense in ["0", "-1", "soon", "1e99"] {
        assert_eq!(run(&["info", &format!("--nbd-timeout={nonsense}")]).0, Some(2), "{nonsense}");
    }
}
