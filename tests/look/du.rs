//! `guestctl du` beside du(1).

use std::collections::BTreeMap;

use super::guest::{Guest, replaced, shown, text};
use super::program::guestctl;
use super::support::have;

/// Path to size; the kernel's paths begin with `.`.
fn sizes(lines: &[u8]) -> BTreeMap<String, u64> {
    let mut sizes = BTreeMap::new();
    for line in lines.split(|byte| *byte == 0).filter(|line| !line.is_empty()) {
        let tab = line.iter().position(|byte| *byte == b'\t').unwrap();
        let size = std::str::from_utf8(&line[..tab]).unwrap().parse().unwrap();
        let path = match &line[tab + 1..] {
            b"." => b"/",
            path => path.strip_prefix(b".").unwrap_or(path),
        };
        assert!(sizes.insert(shown(path), size).is_none(), "{} comes twice", shown(path));
    }
    sizes
}

#[test]
fn sums_are_those_of_du() {
    let Some(guest) = Guest::new("mkdir tree/a/b/far; ln tree/links/big tree/a/b/far/big3") else { return };
    if !have("du") || !guest.is_mounted() {
        return;
    }
    let image = guest.image();
    for (options, is_exact) in [
        ("-B 1", true),
        ("-B 1 -l --all", true),
        ("-B 1024 -l", true),
        ("-B 1 -l -d 1", true),
        ("-B 1 -s -c", true),
        ("-B 1M -l", true),
        ("-l --inodes --all", true),
        ("-B 1 --exclude=sizes", true),
    ] {
        // Which of a file's names du counts depends on the order in which it meets them: the sums over all do not.
        let only_top = !options.contains("-l") && !options.contains("-s");
        let theirs = options.replace("--all", "-a");
        let mut expected = sizes(&guest.kernel(&format!("du -0 {theirs} .")));
        let mut arguments = vec!["du", "-0", text(&image)];
        arguments.extend(options.split_whitespace());
        let mut ours = sizes(&guestctl(&arguments).bytes());
        if only_top {
            let holds_links = |path: &str| ["/a/b/far", "/a/b", "/a", "/links"].contains(&path);
            expected.retain(|path, _| !holds_links(path));
            ours.retain(|path, _| !holds_links(path));
        }
        assert_eq!(ours, expected, "{options}");
        assert!(is_exact && !ours.is_empty());
    }
}

#[test]
fn sizes_of_files_and_links_are_counted_once() {
    let Some(guest) = Guest::new("") else { return };
    let image = guest.image();
    let script = "find . \\( -type f -o -type l \\) -printf '%i %s\\n' | sort -u | awk '{sum += $2} END {print sum}'";
    let expected: u64 = String::from_utf8(guest.kernel(script)).unwrap().trim().parse().unwrap();
    let line = guestctl(["du", "-s", "-b", text(&image)]).text();
    assert_eq!(line, format!("{expected}\t/\n"));
    let json = guestctl(["du", "-s", "--json", text(&image)]).json();
    assert_eq!((json["apparent_bytes"].as_u64(), json["shared_bytes"].as_u64()), (Some(expected), Some(0)));
    let both = guestctl(["du", "-s", "-c", text(&image), "/links", "/links/one", "/a"]).bytes();
    let both = String::from_utf8(replaced(&both, "\t", " ")).unwrap();
    let paths: Vec<_> = both.lines().map(|line| line.split_once(' ').unwrap().1).collect();
    assert_eq!(paths, ["/links", "/a", "total"], "a file that was counted has no second line");
}

#[test]
fn the_demo_guest_is_counted() {
    let demo = concat!(env!("CARGO_MANIFEST_DIR"), "/images/demo.qcow2");
    assert_eq!(
        guestctl(["du", "--all", demo, "/home/demo"]).text(),
        "4\t/home/demo/.bashrc\n4\t/home/demo/.ssh/authorized_keys\n8\t/home/demo/.ssh\n4\t/home/demo/notes.txt\n\
         20\t/home/demo\n"
    );
    assert_eq!(
        guestctl(["du", "-s", "--json", demo, "/home/demo/.ssh"]).json(),
        serde_json::json!({"path": "/home/demo/.ssh", "type": "dir", "depth": 0, "allocated_bytes": 8192,
            "apparent_bytes": 90, "shared_bytes": 0, "inodes": 2})
    );
    assert_eq!(guestctl(["du", "-s", "-H", demo, "/home"]).text(), "24.0 KiB\t/home\n");
    assert_eq!(guestctl(["du", demo, "/nope"]).code, 9);
    let (with, without) = (guestctl(["du", "-s", demo, "/"]).text(), guestctl(["du", "-s", "-x", demo, "/"]).text());
    assert_ne!(with, without, "the EFI system partition");
}
