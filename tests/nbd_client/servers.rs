//! qemu-nbd and nbdkit.

use std::path::Path;
use std::sync::Arc;

use guestctl::block::nbd::client::list_exports;
use guestctl::block::nbd::{Client, NbdOptions};
use guestctl::block::{BlockDevice, BlockWrite, ExtentKind, ImageFormat, OpenOptions, for_each_extent, open};

use crate::support::{have, shell};
use crate::{Server, noise, quick};

const SIZE: usize = 8 << 20;

fn all(client: &dyn BlockDevice) -> Vec<u8> {
    let mut bytes = vec![0xaa; client.size() as usize];
    client.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

/// A disk with data and holes.
fn sparse() -> Vec<u8> {
    let mut bytes = vec![0; SIZE];
    bytes[..1 << 20].copy_from_slice(&noise(1 << 20, 1));
    bytes[5 << 20..6 << 20].copy_from_slice(&noise(1 << 20, 2));
    bytes
}

fn runs(client: &dyn BlockDevice) -> Vec<(u64, u64, ExtentKind)> {
    let mut runs = Vec::new();
    for_each_extent(client, 0..client.size(), &mut |run, kind| {
        runs.push((run.start, run.end, kind));
        Ok(())
    })
    .unwrap();
    runs
}

#[test]
fn qemu_nbd_serves_its_formats() {
    if !have("qemu-nbd") || !have("qemu-img") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let disk = sparse();
    std::fs::write(directory.path().join("disk.raw"), &disk).unwrap();
    for format in ["raw", "qcow2", "vmdk", "vdi"] {
        shell(directory.path(), &format!("qemu-img convert -f raw -O {format} disk.raw disk.{format}x"));
        let server = Server::start(
            directory.path(),
            &format!("qemu-nbd -r -t -e 8 -f {format} -x name -D 'a disk' -k SOCKET disk.{format}x"),
        );
        let uri = server.uri().with_export("name");
        let client = Client::connect(&uri, &quick()).unwrap();
        assert_eq!(client.size(), SIZE as u64, "{format}");
        assert_eq!(client.export().description.as_deref(), Some("a disk"));
        assert!(client.export().is_read_only() && client.export().can_multi_conn());
        assert!(client.server().structured && client.server().fixed && !client.server().tls);
        assert!(all(&client) == disk, "{format}");
        let zero: u64 =
            runs(&client).iter().filter(|run| run.2 != ExtentKind::Data).map(|(start, end, _)| end - start).sum();
        assert_eq!(zero, 6 << 20, "{format}: {:?}", runs(&client));
        assert_eq!(client.write_all_at(&[0], 0).unwrap_err().exit_code(), 1);
        let unknown = Client::connect(&uri.with_export("other"), &quick()).unwrap_err();
        assert!(unknown.to_string().contains("ERR_UNKNOWN"), "{unknown}");
    }
}

#[test]
fn many_threads_read_over_several_connections() {
    if !have("qemu-nbd") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let disk = noise(SIZE, 3);
    std::fs::write(directory.path().join("disk.raw"), &disk).unwrap();
    for (connections, limit) in [(1, 8), (4, 8), (4, 2)] {
        let server = Server::start(directory.path(), &format!("qemu-nbd -r -t -e {limit} -f raw -k SOCKET disk.raw"));
        let options = NbdOptions { connections, request_bytes: 16 << 10, ..quick() };
        let client = Client::connect(&server.uri(), &options).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..8u64 {
                let (client, disk) = (&client, &disk);
                scope.spawn(move || {
                    for round in 0..40u64 {
                        let at = (thread * 1_234_567 + round * 987_653) as usize % (SIZE - 300_000);
                        let len = 1 + (round as usize * 7_919) % 300_000;
                        let mut buf = vec![0; len];
                        client.read_exact_at(&mut buf, at as u64).unwrap();
                        assert!(buf == disk[at..at + len], "{len} bytes at {at}");
                    }
                });
            }
        });
        assert!(client.connections() <= connections.min(limit));
        assert!(client.connections() > 1 || connections == 1);
    }
}

#[test]
fn bitmaps_and_allocation_depth() {
    if !have("qemu-nbd") || !have("qemu-img") || !have("qemu-io") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    shell(
        directory.path(),
        "qemu-img create -q -f qcow2 base.qcow2 8M; qemu-io -c 'write 0 1M' base.qcow2 >/dev/null;
         qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 top.qcow2; qemu-img bitmap --add --enable top.qcow2 b0;
         qemu-io -c 'write 2M 64k' top.qcow2 >/dev/null",
    );
    let server = Server::start(directory.path(), "qemu-nbd -r -t -e 8 -A -B b0 -f qcow2 -k SOCKET top.qcow2");
    let name = "qemu:dirty-bitmap:b0";
    let options = NbdOptions { contexts: vec![name.to_owned()], ..quick() };
    let client = Client::connect(&server.uri(), &options).unwrap();
    let dirty = |at: u64| client.meta_extent(name, at..client.size()).unwrap().unwrap();
    assert_eq!((dirty(0).status, dirty(0).len), (0, 2 << 20));
    assert_eq!((dirty(2 << 20).status, dirty(2 << 20).len), (1, 64 << 10));
    let status = |at: u64| client.status(at..client.size()).unwrap();
    let found: Vec<_> = [0, 1 << 20, 2 << 20].map(|at| (status(at).depth, status(at).allocated, status(at).len)).into();
    assert_eq!(found, [(1, true, 1 << 20), (0, false, 1 << 20), (0, true, 64 << 10)]);
    assert_eq!(client.meta_extent("qemu:dirty-bitmap:none", 0..1).unwrap(), None);
    assert_eq!(list_exports(&server.uri(), false, &options).unwrap().exports[0].contexts.len(), 3);
}

#[test]
fn what_is_written_is_read_by_others() {
    if !have("qemu-nbd") || !have("nbdkit") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let blocks = "nbdkit -f -U SOCKET --filter=blocksize-policy file disk.raw blocksize-minimum=4096 \
                  blocksize-preferred=65536 blocksize-maximum=1M blocksize-error-policy=error";
    for command in ["qemu-nbd -t -f raw --discard=unmap -k SOCKET disk.raw", blocks] {
        let mut disk = noise(SIZE, 4);
        std::fs::write(directory.path().join("disk.raw"), &disk).unwrap();
        let server = Server::start(directory.path(), command);
        let client = server.client();
        let data = noise(3 << 20, 5);
        for (at, len) in [(0, 1), (511, 2), (4096, 4096), (4095, 8193), (1 << 20, 3 << 20), (SIZE - 1, 1)] {
            client.write_all_at(&data[..len], at as u64).unwrap();
            disk[at..at + len].copy_from_slice(&data[..len]);
        }
        for (start, end) in [(5u64 << 20, 6 << 20), (100, 200), (4_000, 70_000)] {
            client.write_zeroes(start..end).unwrap();
            disk[start as usize..end as usize].fill(0);
        }
        client.flush().unwrap();
        assert_ne!(client.next_extent(5 << 20..6 << 20).unwrap().kind, ExtentKind::Data);
        client.write_all_at(b"x", (5 << 20) + 7).unwrap();
        disk[(5 << 20) + 7] = b'x';
        assert_eq!(client.next_extent(5 << 20..6 << 20).unwrap().kind, ExtentKind::Data, "what was known is forgotten");
        client.discard(6 << 20..7 << 20).unwrap();
        let mut buf = [0; 3];
        client.read_exact_at(&mut buf, (5 << 20) + 6).unwrap();
        assert_eq!(&buf, b"\0x\0");
        assert!(client.write_all_at(b"xy", SIZE as u64 - 1).is_err());
        client.flush().unwrap();
        drop(client);
        drop(server);
        let written = std::fs::read(directory.path().join("disk.raw")).unwrap();
        assert!(written[..6 << 20] == disk[..6 << 20], "{command}");
        assert!(written[7 << 20..] == disk[7 << 20..], "{command}");
    }
}

#[test]
fn block_sizes_are_kept_to() {
    if !have("nbdkit") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(
        directory.path(),
        "nbdkit -f -r -U SOCKET --filter=blocksize-policy pattern 1M blocksize-minimum=512 blocksize-preferred=4096 \
         blocksize-maximum=64K blocksize-error-policy=error",
    );
    let client = server.client();
    let sizes = client.export().block_sizes.unwrap();
    assert_eq!((sizes.minimum, sizes.preferred, sizes.maximum), (512, 4096, 65536));
    let pattern: Vec<u8> = (0..1u64 << 17).flat_map(|index| (index * 8).to_be_bytes()).collect();
    assert!(all(&client) == pattern);
    for (at, len) in [(1, 1), (510, 4), (512, 511), (1000, 200_000), ((1 << 20) - 3, 3), (513, 1023)] {
        let mut buf = vec![0; len];
        client.read_exact_at(&mut buf, at as u64).unwrap();
        assert!(buf == pattern[at..at + len], "{len} at {at}");
    }
    assert!(client.read_exact_at(&mut [0; 4], (1 << 20) - 3).is_err());
}

#[test]
fn old_and_plain_servers() {
    if !have("nbdkit") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let disk = noise(SIZE, 6);
    std::fs::write(directory.path().join("disk.raw"), &disk).unwrap();
    for (flag, structured) in [("--mask-handshake=0", false), ("--mask-handshake=1", true), ("--no-sr", false)] {
        let server = Server::start(directory.path(), &format!("nbdkit -f -r {flag} -U SOCKET file disk.raw"));
        let client = server.client();
        assert_eq!(client.server().structured, structured, "{flag}");
        assert!(all(&client) == disk, "{flag}");
    }
    let server = Server::start(directory.path(), "nbdkit -f -r -o -U SOCKET file disk.raw");
    let error = Client::connect(&server.uri(), &quick()).unwrap_err();
    assert_eq!(error.as_corrupt().map(|corrupt| corrupt.field), Some("magic"), "{error}");
}

#[test]
fn errors_of_the_server_are_errors() {
    if !have("nbdkit") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    for no_sr in ["", "--no-sr"] {
        for (code, words) in [("EIO", "EIO"), ("ENOSPC", "ENOSPC"), ("EPERM", "EPERM"), ("ENOMEM", "ENOMEM")] {
            let command = format!(
                "nbdkit -f {no_sr} -U SOCKET --filter=error memory 1M error-pread={code} error-pread-rate=100%"
            );
            let server = Server::start(directory.path(), &command);
            let client = server.client();
            let error = client.read_exact_at(&mut [0; 100], 0).unwrap_err();
            assert!(error.to_string().contains(words), "{error}");
            client.write_all_at(b"the connection goes on", 0).unwrap();
            assert_eq!(client.connections(), 1);
        }
    }
}

#[test]
fn a_broken_connection_is_opened_again() {
    if !have("nbdkit") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let disk = noise(SIZE, 7);
    std::fs::write(directory.path().join("disk.raw"), &disk).unwrap();
    let command = "nbdkit -f -r -U SOCKET file disk.raw";
    let server = Server::start(directory.path(), command);
    let client = Arc::new(server.client());
    assert!(all(&client) == disk);
    drop(server);
    let reader = std::thread::spawn({
        let client = client.clone();
        move || all(&client)
    });
    std::thread::sleep(std::time::Duration::from_millis(100));
    let server = Server::start(directory.path(), command);
    assert!(reader.join().unwrap() == disk);
    drop(server);
    let begun = std::time::Instant::now();
    assert_eq!(client.read_exact_at(&mut [0; 1], 0).unwrap_err().exit_code(), 1);
    assert!(begun.elapsed() < std::time::Duration::from_secs(20), "tries are bounded");
}

#[test]
fn a_slow_server_meets_the_deadline() {
    if !have("nbdkit") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path(), "nbdkit -f -U SOCKET --filter=delay memory 1M rdelay=30");
    let second = std::time::Duration::from_secs(1);
    let options = NbdOptions { request_timeout: second, total_timeout: second * 2, ..quick() };
    let client = Client::connect(&server.uri(), &options).unwrap();
    let begun = std::time::Instant::now();
    let error = client.read_exact_at(&mut [0; 100], 0).unwrap_err();
    assert!(begun.elapsed() < second * 6, "{:?}", begun.elapsed());
    assert!(error.to_string().contains("timed out"), "{error}");
}

#[test]
fn several_exports_are_listed() {
    if !have("nbdkit") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    shell(directory.path(), "mkdir exports; truncate -s 1M exports/a; truncate -s 2M exports/b");
    let server = Server::start(directory.path(), "nbdkit -f -r -U SOCKET file dir=exports");
    let listing = list_exports(&server.uri(), false, &quick()).unwrap();
    let mut found: Vec<_> = listing.exports.iter().map(|export| (&*export.name, export.size)).collect();
    found.sort_unstable();
    assert_eq!(found, [("a", 1 << 20), ("b", 2 << 20)]);
    let only = list_exports(&server.uri().with_export("b"), true, &quick()).unwrap();
    assert_eq!((only.exports.len(), only.exports[0].size), (1, 2 << 20));
    assert_eq!(only.exports[0].contexts, ["base:allocation"]);
}

#[test]
fn a_server_is_started_for_one_client() {
    if !have("nbdkit") || !have("qemu-nbd") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let disk = noise(SIZE, 8);
    let path = directory.path().join("disk.raw");
    std::fs::write(&path, &disk).unwrap();
    let path = path.to_str().unwrap();
    for command in [&["nbdkit", "-f", "-r", "file", path][..], &["qemu-nbd", "-r", "-f", "raw", path]] {
        let (client, _server) = Client::spawn(command, "", &quick()).unwrap();
        assert!(all(&client) == disk, "{command:?}");
    }
}

#[test]
fn a_uri_is_an_image_like_others() {
    if !have("qemu-nbd") || !have("qemu-img") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let disk = sparse();
    std::fs::write(directory.path().join("disk.raw"), &disk).unwrap();
    shell(directory.path(), "qemu-img convert -f raw -O qcow2 disk.raw disk.qcow2");
    let server = Server::start(directory.path(), "qemu-nbd -r -t -e 8 -f raw -k SOCKET disk.qcow2");
    let uri = server.uri().to_string();
    let image = open(Path::new(&uri), &OpenOptions::default()).unwrap();
    assert_eq!((image.info.format, image.info.virtual_size), (ImageFormat::Qcow2, SIZE as u64));
    assert!(all(&image.device) == disk);
    let raw = OpenOptions { format: Some(ImageFormat::Raw), ..OpenOptions::default() };
    let image = open(Path::new(&uri), &raw).unwrap();
    assert!(all(&image.device) == std::fs::read(directory.path().join("disk.qcow2")).unwrap());
}

#[test]
fn info_says_what_nbdinfo_says() {
    if !have("qemu-nbd") || !have("nbdinfo") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("disk.raw"), sparse()).unwrap();
    let server = Server::start(directory.path(), "qemu-nbd -r -t -e 8 -f raw -x one -D words -k SOCKET disk.raw");
    let uri = server.uri().with_export("one").to_string();
    let text = |program: &str, arguments: &[&str]| {
        let output = std::process::Command::new(program).args(arguments).arg(&uri).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let ours = env!("CARGO_BIN_EXE_guestctl");
    let after_protocol = |text: String| text.split_once('\n').unwrap().1.to_owned();
    for arguments in [&[][..], &["--list"]] {
        let theirs = text("nbdinfo", &[&["--no-content"], arguments].concat());
        assert_eq!(after_protocol(text(ours, &[&["info"], arguments].concat())), after_protocol(theirs));
    }
    let json = |text: String| serde_json::from_str::<serde_json::Value>(&text).unwrap();
    let (mut mine, theirs) =
        (json(text(ours, &["info", "--json"])), json(text("nbdinfo", &["--no-content", "--json"])));
    // Ours; newer versions of nbdinfo have a key of their own.
    mine.as_object_mut().unwrap().remove("extended-headers");
    assert_eq!(mine, theirs);
}
