//! TLS, with the servers' GnuTLS at the other end.

use std::path::Path;
use std::time::{Duration, Instant};

use guestctl::block::BlockDevice;
use guestctl::block::nbd::client::list_exports;
use guestctl::block::nbd::tls::{self, ClientTls, PreSharedKey, ServerTls};
use guestctl::block::nbd::{Client, Stream, Uri};

use crate::support::{have, shell};
use crate::{Server, log, noise, quick};

/// An authority, and certificates of a server called localhost and of a client.
fn certificates(directory: &Path) {
    let new = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -quiet";
    let one = |role: &str, usage: &str| {
        format!(
            "printf 'subjectAltName=DNS:localhost\\nextendedKeyUsage={usage}\\nkeyUsage=digitalSignature\\n' > {role}.ext
             openssl req -newkey rsa:2048 -nodes -quiet -keyout {role}-key.pem -out {role}.csr -subj /CN={role}
             openssl x509 -req -days 2 -in {role}.csr -CA ca-cert.pem -CAkey ca-key.pem -CAcreateserial \
               -extfile {role}.ext -out {role}-cert.pem 2>/dev/null"
        )
    };
    let script = format!(
        "mkdir -p pki && cd pki
         {new} -keyout ca-key.pem -out ca-cert.pem -subj /CN=authority -addext keyUsage=keyCertSign,cRLSign
         {}
         {}
         mkdir ../other && cd ../other && {new} -keyout ca-key.pem -out ca-cert.pem -subj /CN=other",
        one("server", "serverAuth"),
        one("client", "clientAuth")
    )
    .replace(" -quiet", "");
    shell(directory, &format!("({script}) 2>openssl.log || {{ cat openssl.log >&2; exit 1; }}"));
}

fn read(uri: &str, disk: &[u8]) -> guestctl::Result<()> {
    let client = Client::connect(&uri.parse::<Uri>().unwrap(), &quick())?;
    assert!(client.server().tls);
    let mut bytes = vec![0; disk.len()];
    client.read_exact_at(&mut bytes, 0)?;
    assert!(bytes == disk);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let client = &client;
            scope.spawn(move || {
                let (at, mut buf) = (thread * 100_000 + 7, vec![0; 500_000]);
                client.read_exact_at(&mut buf, at as u64).unwrap();
                assert!(buf == disk[at..at + buf.len()]);
            });
        }
    });
    assert!(list_exports(&uri.parse().unwrap(), true, &quick())?.server.tls);
    Ok(())
}

#[test]
fn servers_prove_themselves_by_certificates() {
    if !have("openssl") || !have("nbdkit") || !have("qemu-nbd") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    certificates(directory.path());
    let disk = noise(2 << 20, 9);
    std::fs::write(directory.path().join("disk.raw"), &disk).unwrap();
    for command in [
        "nbdkit -f -r -U SOCKET --tls=require --tls-certificates=pki --tls-verify-peer file disk.raw",
        "qemu-nbd -r -t -e 8 -f raw -k SOCKET --object tls-creds-x509,id=t,endpoint=server,dir=DIR/pki,verify-peer=on \
         --tls-creds t disk.raw",
    ] {
        let server = Server::start(directory.path(), command);
        let socket = server.socket.display();
        let pki = directory.path().join("pki").display().to_string();
        let other = directory.path().join("other").display().to_string();
        let uri = |query: &str| format!("nbds+unix:///?socket={socket}&{query}");
        read(&uri(&format!("tls-certificates={pki}")), &disk)
            .unwrap_or_else(|error| panic!("{command}: {error}: {}", log(directory.path())));
        let code = |query: &str| read(&uri(query), &disk).unwrap_err().exit_code();
        assert_eq!(code(&format!("tls-certificates={pki}&tls-hostname=example.com")), 5, "not its name");
        assert_eq!(code(&format!("tls-certificates={other}")), 5, "not its authority");
        assert_eq!(code("x=y"), 5, "not one of the system's");
        let plain = Client::connect(&server.uri(), &quick()).unwrap_err();
        assert_eq!((plain.exit_code(), plain.hint()), (5, Some("use nbds://")), "{plain}");
    }
}

#[test]
fn servers_prove_themselves_by_a_shared_key() {
    if !have("nbdkit") || !have("qemu-nbd") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let disk = noise(2 << 20, 10);
    std::fs::write(directory.path().join("disk.raw"), &disk).unwrap();
    let key = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
    shell(
        directory.path(),
        &format!("mkdir psk; echo alice:{key} > psk/keys.psk; printf 'alice:ffff\\nbob:{key}\\n' > wrong.psk"),
    );
    for command in [
        "nbdkit -f -r -U SOCKET --tls=require --tls-psk=psk/keys.psk file disk.raw",
        "qemu-nbd -r -t -e 8 -f raw -k SOCKET --object tls-creds-psk,id=t,endpoint=server,dir=DIR/psk --tls-creds t disk.raw",
    ] {
        let psk = directory.path().join("psk").join("keys.psk");
        let server = Server::start(directory.path(), command);
        let uri = |user: &str, file: &Path| {
            format!("nbds+unix://{user}/?socket={}&tls-psk-file={}", server.socket.display(), file.display())
        };
        read(&uri("alice@", &psk), &disk)
            .unwrap_or_else(|error| panic!("{command}: {error}: {}", log(directory.path())));
        read(&uri("", &psk), &disk).unwrap();
        let wrong = directory.path().join("wrong.psk");
        for user in ["alice@", "bob@"] {
            assert_eq!(read(&uri(user, &wrong), &disk).unwrap_err().exit_code(), 1, "{user}");
        }
    }
}

/// Both ends of a handshake over a socket pair.
fn both(client: &ClientTls, server: &ServerTls) -> (guestctl::Result<Stream>, guestctl::Result<Stream>) {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    std::thread::scope(|scope| {
        let accepted = scope.spawn(move || tls::accept(Stream::try_from(theirs).unwrap(), server, deadline));
        let connected = tls::connect(Stream::try_from(ours).unwrap(), client, deadline);
        if connected.is_err() {
            drop(connected);
            return (Err(guestctl::Error::invalid("no connection")), accepted.join().unwrap());
        }
        (connected, accepted.join().unwrap())
    })
}

#[test]
fn our_own_server_side_agrees() {
    let key = |identity: &str, byte: u8| PreSharedKey { identity: identity.to_owned(), key: vec![byte; 32] };
    let server = ServerTls::Psk(vec![key("alice", 1), key("bob", 2)]);
    let (client, accepted) = both(&ClientTls::Psk(key("bob", 2)), &server);
    let (client, accepted) = (client.unwrap(), accepted.unwrap());
    let deadline = Instant::now() + Duration::from_secs(20);
    let sent = noise(3 << 20, 11);
    std::thread::scope(|scope| {
        // Both directions at once, more than any buffer holds.
        scope.spawn(|| client.write_all(&sent, deadline).unwrap());
        scope.spawn(|| accepted.write_all(&sent, deadline).unwrap());
        for end in [&client, &accepted] {
            let sent = &sent;
            scope.spawn(move || {
                let mut got = vec![0; sent.len()];
                end.read_exact(&mut got, deadline).unwrap();
                assert!(got == *sent);
            });
        }
    });
    for wrong in [key("bob", 1), key("eve", 2)] {
        let (client, accepted) = both(&ClientTls::Psk(wrong), &server);
        assert!(client.is_err() && accepted.is_err());
    }
}

#[test]
fn our_own_server_side_agrees_on_certificates() {
    if !have("openssl") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    certificates(directory.path());
    let pki = directory.path().join("pki");
    let client = |directory: &Path, hostname: &str, verify_peer| ClientTls::Certificates {
        directory: Some(directory.to_owned()),
        hostname: hostname.to_owned(),
        verify_peer,
    };
    let server = |verify_peer| ServerTls::Certificates { directory: pki.clone(), verify_peer };
    assert!(both(&client(&pki, "localhost", true), &server(true)).1.is_ok());
    assert!(both(&client(&pki, "other.example", true), &server(true)).0.is_err());
    assert!(both(&client(&pki, "other.example", false), &server(true)).0.is_ok());
    let other = directory.path().join("other");
    assert!(both(&client(&other, "localhost", true), &server(false)).0.is_err());
    assert!(both(&client(&other, "localhost", false), &server(true)).1.is_err(), "a client without a certificate");
    let key = PreSharedKey { identity: "alice".to_owned(), key: vec![1; 32] };
    assert!(both(&ClientTls::Psk(key), &server(false)).0.is_err(), "a certificate is no knowledge of the key");
}
