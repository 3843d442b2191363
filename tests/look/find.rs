//! `guestctl find` beside find(1).

use super::guest::{Guest, pieces, shown, text};
use super::program::guestctl;
use super::support::have;

/// The same tests in both programs' words; one word where they are the same.
const TESTS: &[(&str, &str)] = &[
    ("", ""),
    ("-name *.txt", ""),
    ("-iname *.TXT", ""),
    ("-name .*", ""),
    ("-name [[:upper:]]*", ""),
    ("-name [!a-z]*", ""),
    ("-name star\\*", ""),
    ("-name back\\\\*", ""),
    ("-name *", ""),
    ("-name ?", ""),
    ("-path /a/*", "-path ./a/*"),
    ("-path */c/*", ""),
    ("-ipath /A/*.TXT", "-ipath ./A/*.TXT"),
    (r"-regex /a/.*\.txt", r"-regextype posix-extended -regex \./a/.*\.txt"),
    (r"-regex .*/(one|two)", r"-regextype posix-extended -regex .*/(one|two)"),
    (r"-iregex .*UPPER.*", ""),
    ("-type f", ""),
    ("-type d", ""),
    ("-type l,p", ""),
    ("-type c,b", ""),
    ("-size 0", ""),
    ("-size 1", ""),
    ("-size +1", ""),
    ("-size -2", ""),
    ("-size 513c", ""),
    ("-size -513c", ""),
    ("-size +1024c", ""),
    ("-size 1k", ""),
    ("-size +1k", ""),
    ("-size 256w", ""),
    ("-size -1M", ""),
    ("-size 1M", ""),
    ("-size +1M", ""),
    ("-size 2b", ""),
    ("-perm 644", ""),
    ("-perm 0", ""),
    ("-perm -111", ""),
    ("-perm /6000", ""),
    ("-perm -4000", ""),
    ("-perm -u+s,g+s", ""),
    ("-perm u=rw,go=r", ""),
    ("-perm /o+t", ""),
    ("-perm /000", ""),
    ("-perm -a+x", ""),
    ("-links +1", ""),
    ("-links 3", ""),
    ("-links -2", ""),
    ("-empty", ""),
    ("-user alice", "-uid 1000"),
    ("-user 12345", "-uid 12345"),
    ("-group staff", "-gid 50"),
    ("-group 54321", "-gid 54321"),
    ("-mindepth 2 -maxdepth 3", ""),
    ("-maxdepth 1", ""),
    ("-maxdepth 0", "-maxdepth 0"),
    ("-type f -size +0 -name f1*", ""),
    ("-type f -name *.txt -name l*", ""),
    ("-not name=*.txt", "! -name *.txt"),
    ("-type f -not empty -not size=+1k", "-type f ! -empty ! -size +1k"),
    ("-newer /old/x", "-newer ./old/x"),
    ("-newermt @1559390400.25", "-newermt @1559390400.25"),
    ("-newermt 2019-06-01T12:00", "-newermt 2019-06-01T12:00Z"),
    ("-mtime +0", ""),
    ("-mtime 10", ""),
    ("-mtime -11", ""),
    ("-mtime +400", ""),
    ("-atime +400", ""),
    ("-anewer /old/x", "-anewer ./old/x"),
    ("-cnewer /old/x", "-cnewer ./old/x"),
    ("-ctime 0", ""),
];

#[test]
fn tests_find_what_find_finds() {
    let Some(guest) = Guest::new("") else { return };
    if !have("find") {
        return;
    }
    let image = guest.image();
    let mut found = 0;
    for (ours, theirs) in TESTS {
        let about_times = ["time", "newer"].iter().any(|word| ours.contains(word));
        if about_times && !guest.is_mounted() {
            continue;
        }
        let theirs = if theirs.is_empty() { ours } else { theirs };
        let quoted: Vec<_> = theirs.split_whitespace().map(|word| format!("'{word}'")).collect();
        // Options that hold for all of the line come first, or find complains.
        let depth = if ours.contains("depth") { "" } else { "-mindepth 1" };
        let script = format!("find . {depth} {} -printf '%P\\0'", quoted.join(" "));
        let mut expected = pieces(&guest.kernel(&script));
        expected.sort();
        let mut arguments = vec!["find", "-0", text(&image), "/"];
        arguments.extend(ours.split_whitespace());
        let listed = pieces(&guestctl(&arguments).bytes());
        let show = |paths: &[Vec<u8>]| paths.iter().map(|path| shown(path)).collect::<Vec<_>>();
        assert_eq!(show(&listed), show(&expected), "{ours}");
        found += listed.len();
    }
    assert!(found > 500, "{found}");
}

#[test]
fn attributes_are_tested() {
    let Some(guest) = Guest::new("") else { return };
    let image = guest.image();
    let run = |test: &str| guestctl(["find", text(&image), "/", "--xattr", test]).text();
    if guestctl(["find", text(&image), "/", "--xattr", "*"]).text().is_empty() {
        super::support::skipped("the temporary directory keeps no attributes");
        return;
    }
    assert_eq!(run("user.colour"), "names/lower.txt\n");
    assert_eq!(run("user.*"), "a\nnames/lower.txt\n");
    assert_eq!(run("user.*=blue"), "names/lower.txt\n");
    assert_eq!(run("user.colour=red"), "");
}

#[test]
fn lists_are_long_or_json_and_filters_cut() {
    let demo = concat!(env!("CARGO_MANIFEST_DIR"), "/images/demo.qcow2");
    assert_eq!(
        guestctl(["find", "-l", demo, "/home", "-type", "f"]).text(),
        "-rw-r--r-- 1 demo demo 17 2025-01-01 00:00 demo/.bashrc\n\
         -rw------- 1 demo demo 90 2025-01-01 00:00 demo/.ssh/authorized_keys\n\
         -rw-r--r-- 1 demo demo 22 2025-01-01 00:00 demo/notes.txt\n"
    );
    let line = guestctl(["find", "--long", "--json", demo, "/home", "-name", "notes*"]).json();
    assert_eq!(line["path"], "/home/demo/notes.txt");
    assert_eq!(line["xattrs"]["user.colour"], "Ymx1ZQ==");
    assert_eq!(guestctl(["find", demo, "/home", "--exclude", ".*"]).text(), "demo\ndemo/notes.txt\n");
    assert_eq!(guestctl(["find", demo, "/home", "--include", "*.txt"]).text(), "demo/notes.txt\n");
    assert!(!guestctl(["find", "-x", demo, "/boot"]).text().contains("efi/EFI"), "another filesystem");
    for (test, hint) in [
        (["-size", "12q"], "a number and c, w, b, k, M, G or T: bytes, words, blocks of 512, KiB …"),
        (["-type", "z"], "f, d, l, c, b, p, s; several are joined with commas"),
        (["-user", "nobody9"], "a name or a number"),
        (["-perm", "u+q"], "octal or symbolic, as 644, -u+s, /022: exactly, all of, any of these bits"),
        (["-mtime", "x"], "n, +n or -n: exactly, more, less"),
    ] {
        let ran = guestctl(["find", demo, "/", test[0], test[1]]);
        assert_eq!(ran.code, 2, "{test:?}");
        assert!(ran.err.ends_with(&format!("hint: {hint}\n")), "{}", ran.err);
    }
    assert_eq!(guestctl(["find", demo, "/", "-regex", "("]).code, 2);
    assert_eq!(guestctl(["find", demo, "/", "-newer", "/nope"]).code, 9);
    assert_eq!(guestctl(["find", demo, "/etc/hostname"]).code, 9);
}
