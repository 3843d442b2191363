//! Initial RAM disks beside cpio(1) and lsinitramfs(8).

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use guestctl::block::{BlockDevice, Memory};
use guestctl::ops::{Packing, initrd_cat, initrd_each, initrd_list};

use super::program::guestctl;
use super::support::{have, root, shell};

/// `early.cpio` with microcode, `main.cpio` with everything a file can be.
const PARTS: &str = r#"
mkdir -p early/kernel/x86/microcode main/etc main/bin main/dev main/usr/lib
head -c 5001 /dev/urandom >early/kernel/x86/microcode/GenuineIntel.bin
printf 'root / ext4\n' >main/etc/fstab; head -c 300000 /dev/urandom >main/usr/lib/blob
head -c 20M /dev/zero >main/usr/lib/zeroes
printf program >main/bin/busybox; ln main/bin/busybox main/bin/ls; ln main/bin/busybox main/bin/sh
ln -s ../bin/busybox main/etc/link; : >main/etc/empty; chmod 4755 main/bin/busybox
[ "$(id -u)" = 0 ] && mknod main/dev/console c 5 1
(cd early && find . | sort | cpio -o -H newc --quiet) >early.cpio
(cd main && find . | sort | cpio -o -H newc --quiet) >main.cpio
mkdir more; echo later >more/motd; mkdir more/etc; printf 'new / xfs\n' >more/etc/fstab
(cd more && find . | sort | cpio -o -H crc --quiet) >more.cpio
"#;

fn parts() -> Option<tempfile::TempDir> {
    if !have("cpio") {
        return None;
    }
    let directory = tempfile::tempdir().unwrap();
    shell(directory.path(), PARTS);
    Some(directory)
}

fn image(path: &Path) -> Arc<dyn BlockDevice> {
    Arc::new(Memory::new(std::fs::read(path).unwrap()))
}

fn names(image: &Arc<dyn BlockDevice>) -> Vec<String> {
    initrd_list(image).unwrap().into_iter().map(|entry| String::from_utf8(entry.name).unwrap()).collect()
}

#[test]
fn every_packing_is_read_behind_microcode_and_before_more() {
    let Some(directory) = parts() else { return };
    let run = |script: &str| String::from_utf8(shell(directory.path(), script).stdout).unwrap();
    let expected = run("for part in early main more; do cpio -t --quiet <$part.cpio; done");
    let expected: Vec<_> = expected.lines().collect();
    for (tool, packing) in [
        ("cat", Packing::None),
        ("gzip", Packing::Gzip),
        ("xz --check=crc32", Packing::Xz),
        ("xz -T2 --block-size=1MiB", Packing::Xz),
        ("zstd -q -19 --long=27", Packing::Zstd),
        ("bzip2", Packing::Bzip2),
        ("lz4 -q -l", Packing::Lz4Legacy),
        ("lz4 -q", Packing::Lz4),
    ] {
        if !have(tool.split(' ').next().unwrap()) {
            continue;
        }
        run(&format!(
            "{tool} <main.cpio >packed; {{ cat early.cpio; head -c 512 /dev/zero; cat packed; head -c 36 /dev/zero; cat more.cpio; }} >initrd"
        ));
        let initrd = image(&directory.path().join("initrd"));
        assert_eq!(names(&initrd), expected, "{tool}");
        let entries = initrd_list(&initrd).unwrap();
        assert_eq!((entries[0].packing, entries.last().unwrap().packing), (Packing::None, Packing::None));
        let busybox = entries.iter().find(|entry| entry.name == b"bin/busybox").unwrap();
        assert_eq!(
            (busybox.packing, busybox.mode, busybox.links, busybox.archive),
            (packing, 0o104_755, 3, 1),
            "{tool}"
        );
        let link = entries.iter().find(|entry| entry.name == b"etc/link").unwrap();
        assert_eq!(link.target.as_deref(), Some(&b"../bin/busybox"[..]));
        if root() {
            let console = entries.iter().find(|entry| entry.name == b"dev/console").unwrap();
            assert_eq!((console.mode & 0o170_000, console.rdev), (0o020_000, (5, 1)));
        }
        let read = |name: &str| std::fs::read(directory.path().join(name)).unwrap();
        for (name, file) in [
            ("usr/lib/blob", "main/usr/lib/blob"),
            ("usr/lib/zeroes", "main/usr/lib/zeroes"),
            ("kernel/x86/microcode/GenuineIntel.bin", "early/kernel/x86/microcode/GenuineIntel.bin"),
            ("/bin/busybox", "main/bin/busybox"),
            ("./bin/ls", "main/bin/busybox"),
            ("bin/sh", "main/bin/busybox"),
            ("etc/empty", "main/etc/empty"),
            ("etc/fstab", "more/etc/fstab"),
        ] {
            assert!(initrd_cat(&initrd, name.as_bytes()).unwrap() == read(file), "{tool} {name}");
        }
        for name in ["etc", "etc/link", "nope"] {
            assert_eq!(initrd_cat(&initrd, name.as_bytes()).unwrap_err().exit_code(), 9, "{name}");
        }
        // Two streams of the same kind that are one archive.
        if tool != "cat" && !tool.starts_with("lz4 -q -l") {
            run(&format!("head -c 100000 main.cpio | {tool} >two; tail -c +100001 main.cpio | {tool} >>two"));
            assert_eq!(
                names(&image(&directory.path().join("two"))),
                names(&image(&directory.path().join("main.cpio")))
            );
        }
    }
}

#[test]
fn lsinitramfs_lists_the_same() {
    let Some(directory) = parts() else { return };
    if !have("lsinitramfs") || !have("zstd") {
        return;
    }
    let script = "{ cat early.cpio; zstd -q <main.cpio; } >initrd; lsinitramfs initrd";
    let mut expected: Vec<_> =
        String::from_utf8(shell(directory.path(), script).stdout).unwrap().lines().map(str::to_owned).collect();
    let mut ours = names(&image(&directory.path().join("initrd")));
    ours.sort();
    expected.sort();
    assert_eq!(ours, expected);
}

#[test]
fn the_program_lists_and_prints() {
    let Some(directory) = parts() else { return };
    if !have("mke2fs") || !have("gzip") {
        return;
    }
    let script = "mkdir -p tree/boot; { cat early.cpio; gzip <main.cpio; } >tree/boot/initrd; mke2fs -q -t ext4 -d tree g.raw 64M";
    shell(directory.path(), script);
    let guest = directory.path().join("g.raw");
    let run =
        |command: &str, rest: &[&str]| guestctl([&[command, guest.to_str().unwrap(), "/boot/initrd"], rest].concat());
    assert_eq!(run("initrd-cat", &["etc/fstab", "bin/sh"]).text(), "root / ext4\nprogram");
    assert!(run("initrd-list", &[]).text().contains("\nkernel/x86/microcode/GenuineIntel.bin\n"));
    assert!(run("initrd-list", &["-l"]).text().contains(" etc/link -> ../bin/busybox\n"));
    let line = run("initrd-list", &["--json"]).text();
    let line: serde_json::Value = line
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .find(|line: &serde_json::Value| line["path"] == "etc/fstab")
        .unwrap();
    assert_eq!((&line["type"], &line["mode"], &line["size"]), (&"file".into(), &"0644".into(), &12.into()));
    assert_eq!((&line["archive"], &line["packing"]), (&1.into(), &"gzip".into()));
    assert_eq!(run("initrd-cat", &["nope"]).code, 9);
    assert_eq!(guestctl(["initrd-list", guest.to_str().unwrap(), "/boot/none"]).code, 9);
}

#[test]
fn what_is_hostile_is_named_and_bounded() {
    let Some(directory) = parts() else { return };
    let early = std::fs::read(directory.path().join("early.cpio")).unwrap();
    let list = |bytes: Vec<u8>| {
        let image: Arc<dyn BlockDevice> = Arc::new(Memory::new(bytes));
        initrd_list(&image).unwrap_err().to_string()
    };
    let changed = |at: usize, text: &[u8]| {
        let mut bytes = early.clone();
        bytes[at..at + text.len()].copy_from_slice(text);
        list(bytes)
    };
    assert!(list(Vec::new()).contains("no archive"));
    assert!(list(b"not an archive".to_vec()).contains("corrupt initrd: magic"));
    assert!(list(vec![0x5d, 0, 0, 0x80, 0, 0xff]).contains("LZMA compression is not supported"));
    assert!(list(b"\x89LZO\0\r\n".to_vec()).contains("LZO compression is not supported"));
    assert!(list(early[..early.len() / 2].to_vec()).contains("its end within an entry"));
    assert!(changed(0, b"070707").contains("c_magic"));
    assert!(changed(94, b"FFFFFFFF").contains("c_namesize at byte"));
    assert!(changed(94, b"00000000").contains("c_namesize at byte"));
    assert!(changed(14, b"0000G1ED").contains("c_mode at byte"));
    assert!(changed(14, b"+00041ED").contains("c_mode at byte"));
    assert!(changed(54, b"FFFFFFFF").contains("bytes of an unpacked initial RAM disk is limited"));
    for (tool, what) in [("gzip", "gzip"), ("xz", "xz"), ("zstd -q", "zstd"), ("bzip2", "bzip2")] {
        if !have(what) {
            continue;
        }
        // A bomb of zeroes, and each packing cut short and damaged.
        shell(directory.path(), &format!("head -c 300M /dev/zero | {tool} >bomb; {tool} <main.cpio >packed"));
        let read = |name: &str| std::fs::read(directory.path().join(name)).unwrap();
        assert!(list(read("bomb")).contains("bytes of an unpacked initial RAM disk is limited"), "{tool}");
        let packed = read("packed");
        let cut = list(packed[..packed.len() / 2].to_vec());
        assert!(cut.contains("corrupt initrd") || cut.contains("corrupt cpio"), "{tool}: {cut}");
        let mut damaged = packed;
        let middle = damaged.len() / 2;
        damaged[middle..middle + 64].fill(0xa5);
        let image: Arc<dyn BlockDevice> = Arc::new(Memory::new(damaged));
        let mut seen = 0;
        let ended = initrd_each(&image, &mut |_, _| {
            seen += 1;
            Ok(ControlFlow::Continue(()))
        });
        assert!(ended.is_err() && seen < 100, "{tool}");
    }
}
