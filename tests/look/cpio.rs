//! `guestctl cpio-out` read back by cpio(1) and bsdtar.

use super::guest::{Guest, shown, text};
use super::program::guestctl;
use super::support::{have, root, shell};

/// What is known of each path in the current directory; names of one file share a number, fractions of seconds are gone.
const FACTS: &str = r#"LC_ALL=C find . -mindepth 1 -path ./lost+found -prune -o -mindepth 1 -printf '%P\t%y %m %U %G %n %l %T@\n' \
 | sed 's/\.[0-9]*$//' | sort"#;

#[test]
fn archives_are_read_back_whole() {
    let Some(guest) = Guest::new("") else { return };
    if !have("cpio") || !guest.is_mounted() {
        return;
    }
    let (image, out) = (guest.image(), tempfile::tempdir().unwrap());
    let archive = out.path().join("out.cpio");
    let written = guestctl(["cpio-out", "-q", "--json", text(&image), "/", text(&archive)]);
    // Times before 1970 and after 2106 do not fit.
    let script = "find . -newermt @4294967295 -printf x -o ! -newermt @-1 -printf x";
    let clamped = guest.kernel(script).len() as u64;
    assert!(clamped > 0 && written.err.contains(&format!("{clamped} times outside 1970 to 2106")), "{}", written.err);
    assert_eq!(written.code, 0);
    let written: serde_json::Value = serde_json::from_slice(&written.out).unwrap();
    let bytes = archive.metadata().unwrap().len();
    assert_eq!(
        (written["bytes"].as_u64(), written["clamped_times"].as_u64(), bytes % 512),
        (Some(bytes), Some(clamped), 0)
    );

    let listed = |script: &str| {
        let mut lines: Vec<_> =
            shell(out.path(), script).stdout.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect::<Vec<_>>();
        lines.retain(|line| !line.is_empty());
        lines
    };
    // Names are those of the walk, the start first.
    let mut expected = vec![b".".to_vec()];
    expected.extend(
        guest
            .kernel(
                "export LC_ALL=C; find . -mindepth 1 -printf '%P\\0' | tr '/\\0' '\\1\\n' | sort | tr '\\1\\n' '/\\0'",
            )
            .split(|byte| *byte == 0)
            .filter(|name| !name.is_empty())
            .map(<[u8]>::to_vec),
    );
    let show = |names: &[Vec<u8>]| names.iter().map(|name| shown(name)).collect::<Vec<_>>();
    assert_eq!(show(&listed("cpio -t --quiet -0 <out.cpio 2>/dev/null | tr '\\n' '\\0'")), show(&expected));
    assert_eq!(written["entries"].as_u64(), Some(expected.len() as u64));
    if have("bsdtar") {
        let names = listed("LC_ALL=C.UTF-8 bsdtar -tf out.cpio | wc -l");
        assert_eq!(String::from_utf8_lossy(&names[0]).trim(), expected.len().to_string());
    }
    if root() {
        let mut readers = vec![("cpio", "cpio -idm --quiet --no-absolute-filenames")];
        if have("bsdtar") {
            readers.push(("bsdtar", "bsdtar -xpf -"));
        }
        for (name, reader) in readers {
            shell(out.path(), &format!("mkdir {name}; cd {name}; {reader} <../out.cpio"));
            let tree = guest.tree();
            let facts =
                |directory: &std::path::Path| String::from_utf8_lossy(&shell(directory, FACTS).stdout).into_owned();
            let there = facts(&out.path().join(name));
            let fits = |line: &&str| !line.starts_with("old\t") && !line.starts_with("a-b/other\t");
            let (there, here) = (there, facts(&tree));
            // cpio(1) gives symbolic links no times, and directories none again after it has put files into them.
            let known = |line: &str| match line.rsplit_once(' ') {
                Some((facts, _)) if name == "cpio" && (facts.contains("\td ") || facts.contains("\tl ")) => {
                    facts.to_owned()
                }
                _ => line.to_owned(),
            };
            let there: Vec<_> = there.lines().filter(fits).map(known).collect();
            let here: Vec<_> = here.lines().filter(fits).map(known).collect();
            assert_eq!(there, here, "{name}");
            shell(
                out.path(),
                &format!("diff -r --no-dereference -x lost+found -x fifo -x null -x loop '{}' {name}", tree.display()),
            );
            let inodes = "stat -c %i links/one links/two links/three | sort -u | wc -l; stat -c %i links/big links/big2 | sort -u | wc -l";
            assert_eq!(shell(&out.path().join(name), inodes).stdout, b"1\n1\n", "{name}");
        }
    }
    // The same bytes on any number of threads, and on standard output.
    let again = guestctl(["cpio-out", "-q", "-j", "1", text(&image), "/", "-"]);
    assert!(again.out == std::fs::read(&archive).unwrap());
}

#[test]
fn what_does_not_fit_is_refused_and_leaves_nothing() {
    let Some(guest) = Guest::new("truncate -s 5G tree/sizes/huge") else { return };
    let (image, out) = (guest.image(), tempfile::tempdir().unwrap());
    let archive = out.path().join("out.cpio");
    let ran = guestctl(["cpio-out", "-q", text(&image), "/", text(&archive)]);
    assert_eq!(ran.code, 7);
    assert!(
        ran.err.contains("/sizes/huge: cpio newc: a file of 5368709120 bytes (4 GiB and more) is not supported"),
        "{}",
        ran.err
    );
    assert_eq!(out.path().read_dir().unwrap().count(), 0);
    let ran = guestctl(["cpio-out", "-q", text(&image), "/a", text(&archive)]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    let ran = guestctl([
        "cpio-out",
        "-q",
        text(&image),
        "/",
        text(&archive),
        "--exclude",
        "/sizes/huge",
        "--exclude",
        "old",
        "--exclude",
        "other",
    ]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    assert_eq!(guestctl(["cpio-out", "-q", text(&image), "/etc/passwd", text(&archive)]).code, 9);
}
