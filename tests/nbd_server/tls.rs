//! TLS with libnbd's and QEMU's clients, which use GnuTLS.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use guestctl::block::nbd::protocol::option::{self, OptionReply, rep};

use super::support::{have, shell};
use super::{Served, make_disks};

#[test]
fn keys_that_both_know() {
    if !(have("qemu-img") && have("nbdcopy")) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    make_disks(directory);
    shell(
        directory,
        "echo alice:00112233445566778899aabbccddeeff >keys; echo alice:ff112233445566778899aabbccddeeff >wrong
         mkdir client; cp keys client/keys.psk",
    );
    let _served = Served::start(directory, "--tls-psk keys disk.qcow2");
    shell(
        directory,
        "nbdcopy 'nbds+unix://alice@/?socket=s&tls-psk-file=keys' out; cmp out dense.raw
         ! nbdinfo 'nbds+unix://alice@/?socket=s&tls-psk-file=wrong' 2>/dev/null
         ! nbdinfo 'nbd+unix:///?socket=s' 2>/dev/null
         qemu-img compare -q --object tls-creds-psk,id=t,dir=client,username=alice,endpoint=client \
             --image-opts driver=nbd,server.type=unix,server.path=s,tls-creds=t driver=raw,file.filename=dense.raw",
    );

    // Without TLS there is nothing but the advice to use it.
    let mut stream = UnixStream::connect(directory.join("s")).unwrap();
    stream.read_exact(&mut [0; 18]).unwrap();
    stream.write_all(&3u32.to_be_bytes()).unwrap();
    for option in [option::LIST, option::STRUCTURED_REPLY, option::GO, 99] {
        stream.write_all(&option::option(option, b"")).unwrap();
        let mut head = [0; option::OPTION_REPLY];
        stream.read_exact(&mut head).unwrap();
        let reply = OptionReply::parse(&head).unwrap();
        assert_eq!(reply.kind, rep::ERR_TLS_REQD, "{option}");
        stream.read_exact(&mut vec![0; reply.len as usize]).unwrap();
    }
    stream.write_all(&option::option(option::EXPORT_NAME, b"")).unwrap();
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
    // What follows STARTTLS in the clear is no part of the handshake.
    let mut stream = UnixStream::connect(directory.join("s")).unwrap();
    stream.read_exact(&mut [0; 18]).unwrap();
    let injected = [option::option(option::STARTTLS, b""), option::option(option::LIST, b"")].concat();
    stream.write_all(&[&3u32.to_be_bytes()[..], &injected].concat()).unwrap();
    let mut head = [0; option::OPTION_REPLY];
    stream.read_exact(&mut head).unwrap();
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    assert!(!rest.windows(8).any(|bytes| bytes == [0, 3, 0xe8, 0x89, 4, 0x55, 0x65, 0xa9]), "no option is answered");
}

#[test]
fn certificates() {
    if !(have("qemu-img") && have("nbdcopy") && have("openssl")) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    make_disks(directory);
    shell(
        directory,
        "mkdir server client stranger
         openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=authority -days 2 \
             -keyout ca.key -out ca-cert.pem 2>/dev/null
         issue() {
             openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=localhost -keyout $1/$1-key.pem -out req 2>/dev/null
             printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=%sAuth\n' $1 >ext
             openssl x509 -req -in req -CA ca-cert.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out $1/$1-cert.pem 2>/dev/null
             cp ca-cert.pem $1/
         }
         issue server; issue client; cp ca-cert.pem stranger/",
    );
    let _served = Served::start(directory, "--tls-certificates server --tls-verify-peer disk.qcow2");
    let uri = |who: &str| format!("'nbds+unix:///?socket=s&tls-certificates={who}&tls-hostname=localhost'");
    shell(
        directory,
        &format!(
            "qemu-img compare -q --object tls-creds-x509,id=t,dir=client,endpoint=client \
                 --image-opts driver=nbd,server.type=unix,server.path=s,tls-creds=t,tls-hostname=localhost \
                 driver=raw,file.filename=dense.raw
             nbdcopy {} out; cmp out dense.raw
             ! nbdcopy {} out2 2>/dev/null",
            uri("client").replace("&tls-hostname=localhost", ""),
            uri("stranger").replace("&tls-hostname=localhost", "")
        ),
    );
}
