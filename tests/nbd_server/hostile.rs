//! Clients that break the protocol lose their connection, soon, and nobody else notices.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use guestctl::block::nbd::protocol::option::{self, InfoRequest, MetaQueries, rep};
use guestctl::block::nbd::protocol::reply::{Chunk, ChunkError, SimpleReply};
use guestctl::block::nbd::protocol::request::Request;
use guestctl::block::nbd::protocol::{command, command_flag, errno};
use guestctl::block::nbd::server::{Disk, Export, Exports, ServerOptions, negotiate};
use guestctl::block::nbd::{Client, NbdOptions, Stream};
use guestctl::block::{BlockDevice, BlockWrite, Memory, Overlay, read_vec};
use guestctl::{Error, Result};

const SIZE: u64 = 1 << 20;

fn bytes() -> Vec<u8> {
    (0..SIZE).map(|at| (at % 251) as u8).collect()
}

/// A server of one connection to a writable disk in memory; what it has to say at the end.
fn connect(options: ServerOptions) -> (UnixStream, JoinHandle<Result<()>>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let server = std::thread::spawn(move || {
        let overlay = Overlay::new(Arc::new(Memory::new(bytes())), 64 << 20, &std::env::temp_dir());
        let disk = Disk::Writable(Arc::new(overlay));
        let exports = Exports::new(vec![Export { name: "disk".into(), description: String::new(), disk }])?;
        match negotiate(Stream::try_from(theirs).unwrap(), &exports, &options)? {
            Some(connection) => connection.serve(),
            None => Ok(()),
        }
    });
    (ours, server)
}

fn read<const N: usize>(stream: &mut UnixStream) -> [u8; N] {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

fn greeted() -> (UnixStream, JoinHandle<Result<()>>) {
    let (mut stream, server) = connect(ServerOptions::default());
    assert_eq!(option::parse_greeting(&read(&mut stream)).unwrap(), 3);
    stream.write_all(&3u32.to_be_bytes()).unwrap();
    (stream, server)
}

/// The type of the reply to an option, its data thrown away.
fn ask(stream: &mut UnixStream, option: u32, data: &[u8]) -> u32 {
    stream.write_all(&option::option(option, data)).unwrap();
    let reply = option::OptionReply::parse(&read(stream)).unwrap();
    assert_eq!(reply.option, option);
    stream.read_exact(&mut vec![0; reply.len as usize]).unwrap();
    reply.kind
}

/// In transmission, with simple or structured replies.
fn entered(structured: bool) -> (UnixStream, JoinHandle<Result<()>>) {
    let (mut stream, server) = greeted();
    if structured {
        assert_eq!(ask(&mut stream, option::STRUCTURED_REPLY, &[]), rep::ACK);
    }
    let request = InfoRequest { name: "disk".into(), wanted: Vec::new() }.encode();
    assert_eq!(ask(&mut stream, option::GO, &request), rep::INFO);
    let ack = option::OptionReply::parse(&read(&mut stream)).unwrap();
    assert_eq!(ack.kind, rep::ACK);
    (stream, server)
}

fn ended(stream: &mut UnixStream) {
    assert_eq!(stream.read(&mut [0; 1]).unwrap_or(0), 0, "the connection is closed");
}

fn error(server: JoinHandle<Result<()>>) -> Error {
    server.join().expect("no panic").unwrap_err()
}

#[test]
fn negotiation_answers_or_hangs_up() {
    let (mut stream, server) = greeted();
    let long = vec![0; 100_000];
    for (option, data, kind) in [
        (99, &b"what"[..], rep::ERR_UNSUP),
        (option::STARTTLS, b"", rep::ERR_POLICY),
        (option::STARTTLS, b"x", rep::ERR_INVALID),
        (option::LIST, b"x", rep::ERR_INVALID),
        (option::GO, b"\0\0\0\x09disk", rep::ERR_INVALID),
        (option::GO, b"\0\0\0\x02no\0\0", rep::ERR_UNKNOWN),
        (option::GO, &long, rep::ERR_TOO_BIG),
        (option::SET_META_CONTEXT, b"\0\0\0\0\0\0\0\0", rep::ERR_INVALID),
        (option::STRUCTURED_REPLY, b"", rep::ACK),
        (option::STRUCTURED_REPLY, b"", rep::ERR_INVALID),
        (option::SET_META_CONTEXT, b"\0\0\0\0\xff\xff\xff\xff", rep::ERR_INVALID),
        (
            option::SET_META_CONTEXT,
            &MetaQueries { export: "disk".into(), queries: vec!["base:".into()] }.encode(),
            rep::ACK,
        ),
        (option::EXTENDED_HEADERS, b"", rep::ACK),
        (option::STRUCTURED_REPLY, b"", rep::ERR_EXT_HEADER_REQD),
    ] {
        assert_eq!(ask(&mut stream, option, data), kind, "{option} {:?}", data.get(..20).unwrap_or(data));
    }
    assert_eq!(ask(&mut stream, option::ABORT, b""), rep::ACK);
    ended(&mut stream);
    server.join().unwrap().unwrap();

    for (bytes, code) in [
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), 8),
        (8u32.to_be_bytes().to_vec(), 8),
        ([&3u32.to_be_bytes()[..], b"IHAVEOPX\0\0\0\x07\0\0\0\0"].concat(), 8),
        ([&3u32.to_be_bytes()[..], b"IHAVEOPT\0\0\0\x07\xff\xff\xff\xff"].concat(), 4),
        ([&3u32.to_be_bytes()[..], &option::option(option::EXPORT_NAME, b"nothing")].concat(), 2),
    ] {
        let (mut stream, server) = connect(ServerOptions::default());
        let _: [u8; 18] = read(&mut stream);
        stream.write_all(&bytes).unwrap();
        assert_eq!(error(server).exit_code(), code);
        ended(&mut stream);
    }
}

#[test]
fn whoever_dawdles_is_dropped() {
    let options = ServerOptions { handshake: Duration::from_millis(300), ..ServerOptions::default() };
    let (mut stream, server) = connect(options);
    let begin = Instant::now();
    let dripping = std::thread::spawn(move || {
        for byte in 3u32.to_be_bytes().into_iter().chain(option::option(option::LIST, b"")) {
            if stream.write_all(&[byte]).is_err() {
                break;
            }
            std::thread::sleep(Duration::from_millis(60));
        }
    });
    assert_eq!(error(server).exit_code(), 1);
    assert!(begin.elapsed() < Duration::from_secs(2));
    dripping.join().unwrap();

    let options = ServerOptions { idle: Some(Duration::from_millis(200)), ..ServerOptions::default() };
    let (mut stream, server) = connect(options);
    let _: [u8; 18] = read(&mut stream);
    stream.write_all(&3u32.to_be_bytes()).unwrap();
    stream.write_all(&option::option(option::EXPORT_NAME, b"disk")).unwrap();
    let begin = Instant::now();
    assert_eq!(error(server).exit_code(), 1);
    assert!(begin.elapsed() < Duration::from_secs(2));
}

#[test]
fn requests_out_of_range_are_refused_and_the_connection_goes_on() {
    let request = |command, flags, offset, len| Request { flags, command, cookie: 7, offset, len };
    let cases = [
        (request(command::READ, 0, SIZE - 1, 2), errno::EINVAL),
        (request(command::READ, 0, u64::MAX, 2), errno::EINVAL),
        (request(command::READ, 0, 0, (32 << 20) + 1), errno::EINVAL),
        (request(command::READ, command_flag::REQ_ONE, 0, 1), errno::EINVAL),
        (request(command::TRIM, 0, SIZE, 1), errno::EINVAL),
        (request(command::WRITE_ZEROES, 0, SIZE - 5, 6), errno::ENOSPC),
        (request(command::WRITE_ZEROES, command_flag::FAST_ZERO, 0, 6), errno::EINVAL),
        (request(command::BLOCK_STATUS, 0, 0, 512), errno::EINVAL),
        (request(command::CACHE, 0, 0, u32::MAX.into()), errno::EINVAL),
        (request(77, 0, 0, 0), errno::EINVAL),
        (request(command::FLUSH, 0, 0, 0), 0),
        (request(command::WRITE, 0, 5, 0), 0),
    ];
    let (mut simple, first) = entered(false);
    let (mut structured, second) = entered(true);
    for (request, errno) in cases {
        simple.write_all(&request.encode_compact()).unwrap();
        assert_eq!(
            SimpleReply::parse(&read(&mut simple)).unwrap(),
            SimpleReply { error: errno, cookie: 7 },
            "{request:?}"
        );
        structured.write_all(&request.encode_compact()).unwrap();
        let chunk = Chunk::parse_structured(&read(&mut structured)).unwrap();
        let mut payload = vec![0; chunk.len as usize];
        structured.read_exact(&mut payload).unwrap();
        assert_eq!((chunk.flags, chunk.cookie), (1, 7));
        let found = if chunk.kind == 0 { 0 } else { ChunkError::parse(chunk.kind, &payload).unwrap().errno };
        assert_eq!(found, errno, "{request:?}");
    }
    // A write past the end is refused after its data.
    let mut bytes = request(command::WRITE, 0, SIZE - 1, 2).encode_compact().to_vec();
    bytes.extend([1, 2]);
    simple.write_all(&bytes).unwrap();
    assert_eq!(SimpleReply::parse(&read(&mut simple)).unwrap().error, errno::ENOSPC);
    // One that is too long is not waited for.
    simple.write_all(&request(command::WRITE, 0, 0, u32::MAX.into()).encode_compact()).unwrap();
    ended(&mut simple);
    assert_eq!(error(first).exit_code(), 4);
    structured.write_all(b"not a request, but as long as one").unwrap();
    ended(&mut structured);
    assert_eq!(error(second).exit_code(), 8);
    let (half, server) = entered(true);
    (&half).write_all(&[0x25, 0x60]).unwrap();
    drop(half);
    assert_eq!(error(server).exit_code(), 1);
    let (stream, server) = entered(true);
    drop(stream);
    server.join().unwrap().unwrap();
}

#[test]
fn our_client_reads_and_writes() {
    let (stream, server) = connect(ServerOptions::default());
    let client = Client::from_stream(Stream::try_from(stream).unwrap(), "disk", &NbdOptions::default()).unwrap();
    assert_eq!(read_vec(&client, 0, SIZE as usize).unwrap(), bytes());
    let mut expected = bytes();
    client.write_all_at(&[9; 5000], 70_001).unwrap();
    expected[70_001..75_001].fill(9);
    client.write_zeroes(200_000..500_000).unwrap();
    expected[200_000..500_000].fill(0);
    client.flush().unwrap();
    assert_eq!(read_vec(&client, 0, SIZE as usize).unwrap(), expected);
    let zero = client.next_extent(204_800..491_520).unwrap();
    assert_eq!((zero.kind, zero.len), (guestctl::block::ExtentKind::Zero, 286_720));
    drop(client);
    server.join().unwrap().unwrap();
}
