//! `guestctl grep` beside GNU grep.

use super::guest::{Guest, replaced, shown, text};
use super::program::guestctl;
use super::support::{have, shell};

/// Sources, a binary image, and corners: no line end at the end, empty lines, bytes that are no UTF-8, a binary file whose
/// NUL byte comes late, long lines.
const CORPUS: &str = r#"
mkdir tree; cp -r "$CORPUS"/src "$CORPUS"/Cargo.lock tree/; mkdir tree/bin
cp "$CORPUS"/images/demo.qcow2 tree/bin/; cd tree
printf 'fn last line' >noend; printf '\n\n\nfn a\n\n' >empties; : >empty; printf '\n' >newline
printf 'fn \377\376 bytes\nplain fn\n' >latin
{ yes 'plain before' | head -n 40000; printf 'a\0fn b\n'; echo fn after; } >bin/late
head -c 3000000 /dev/zero | tr '\0' x >long; printf ' fn in a long line\nfn next\n' >>long
truncate -s 8M bin/holes; printf 'fn at the end\n' >>bin/holes
printf 'one\r\nfn two\r\n' >dos; seq 1 3000 >numbers
mkdir -p b; echo fn >b-c; echo fn >b/z
"#;

fn corpus() -> Option<Guest> {
    if !have("grep") || !have("mke2fs") {
        return None;
    }
    let directory = tempfile::tempdir().unwrap();
    shell(directory.path(), &format!("CORPUS='{}'\n{CORPUS}", env!("CARGO_MANIFEST_DIR")));
    Some(Guest::of(directory))
}

/// Options, both programs' but for `-a` and `-m`, and the pattern.
const SEARCHES: &[(&str, &str)] = &[
    ("-E", "fn [a-z_]+\\("),
    ("-E -n", "fn [a-z_]+\\("),
    ("-E -c", "fn"),
    ("-E -l", "Result"),
    ("-E -L", "fn"),
    ("-F -i -n", "TODO"),
    ("-F -n", "a[0]"),
    ("-E -o -b", "[a-z]+_[a-z]+"),
    ("-E -o -n", "fn [a-z]+"),
    ("-E -b", "^use"),
    ("-E -v -c", "[a-z]"),
    ("-E -v -n", "[ a-z]"),
    ("-E -w -n", "fn|use"),
    ("-E -x -n", "fn"),
    ("-E -x -c", ""),
    ("-E -c", "^$"),
    ("-E -n", "^$"),
    ("-E -n -C 2", "unsafe|#\\[test"),
    ("-E -n -A 3", "^mod "),
    ("-E -n -B 5", "^}$"),
    ("-E -n -A 1 -B 1", "1[0-9]*7$"),
    ("-E -a -n", "fn"),
    ("-E -a -c", "fn"),
    ("-E -i -c", "ERROR|warn"),
    ("-E -m 3 -n", "fn"),
    ("-E -m 2 -A 3 -n", "use"),
    ("-E -n", "(a|b)[[:space:]]*[{]"),
    ("-E -n", "[[:upper:]]{3,}[^[:alnum:]_]"),
    ("-G -n", "fn *\\(a\\|b\\)[a-z]\\{2,4\\}("),
    ("-G -n", "a+b*c?$"),
    ("-G -c", "\\<let\\>"),
    ("-E -n", "two\r$"),
    ("-E -c -v", "fn"),
    ("-E -n", "x fn"),
    ("-E -n", "\\bmod\\b.*;$"),
];

#[test]
fn lines_are_those_of_grep() {
    let Some(guest) = corpus() else { return };
    let image = guest.image();
    let mut total = 0;
    for (options, pattern) in SEARCHES {
        // In the order of the walk: a directory's own name sorts it, not what follows it in the path.
        let script = format!(
            "export LC_ALL=C; find . -path ./lost+found -prune -o -type f -print0 | tr '/\\0' '\\1\\n' | sort | tr '\\1\\n' '/\\0' \
             | xargs -0 -x -n 100000 grep -H {options} -e '{pattern}' || test $? = 123"
        );
        let grep = shell(&guest.tree(), &script);
        let expected = replaced(&grep.stdout, "./", "/");
        let said = String::from_utf8(grep.stderr).unwrap().replace("grep: ./", "guestctl: /");
        let mut arguments = vec!["grep", text(&image), "/"];
        let words = options.split_whitespace().map(|word| match word {
            "-a" => "--text",
            "-m" => "--max-count",
            word => word,
        });
        arguments.extend(words);
        arguments.extend(["-e", pattern]);
        let ran = guestctl(&arguments);
        let code = i32::from(expected.is_empty() && said.is_empty());
        assert_eq!((ran.err.as_str(), ran.code), (said.as_str(), code), "{options} {pattern}");
        let ours = replaced(&ran.out, "./", "/");
        if ours != expected {
            let at = ours.split(|b| *b == b'\n').zip(expected.split(|b| *b == b'\n')).find(|(a, b)| a != b);
            let (a, b) = at.unwrap_or((b"", b""));
            panic!(
                "{options} {pattern}\n  ours {}\n  grep {}\n{} and {} bytes",
                shown(a),
                shown(b),
                ours.len(),
                expected.len()
            );
        }
        total += ours.len();
        if options.contains("-n") {
            arguments.extend(["-j", "1"]);
            assert_eq!(ran, guestctl(&arguments), "one thread gives the same");
        }
    }
    assert!(total > 1_000_000, "{total}");
}

#[test]
fn packed_files_and_limits() {
    if !have("gzip") || !have("mke2fs") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    shell(
        directory.path(),
        "mkdir tree; cd tree; seq 1 100000 >n; gzip -k n; cat n.gz n.gz >two.gz; head -c 100 n.gz >cut.gz
         head -c 17M /dev/zero | tr '\\0' x >line; echo needle 99 >small; truncate -s 40G hole",
    );
    let guest = Guest::of(directory);
    let image = guest.image();
    let grep = |arguments: &[&str]| guestctl([&["grep", text(&image)], arguments].concat());
    assert_eq!(grep(&["-z", "-c", "99$", "/n", "/n.gz", "/two.gz"]).text(), "/n:1000\n/n.gz:1000\n/two.gz:2000\n");
    assert_eq!(grep(&["-c", "99$", "/n.gz"]).code, 1);
    let cut = grep(&["-z", "-l", "needle", "/cut.gz", "/small"]);
    assert_eq!((cut.code, cut.out.as_slice()), (3, &b"/small\n"[..]), "{}", cut.err);
    assert!(cut.err.contains("corrupt gzip: stream"), "{}", cut.err);
    assert_eq!(grep(&["-c", "^$", "/hole"]).text(), format!("{}\n", 40u64 << 30));
    assert_eq!(grep(&["-v", "-l", "x", "/hole"]).text(), "/hole\n");
    // A line that is too long is told, and the rest is searched; 40 GiB of nothing take no time.
    let ran = grep(&["-l", "needle", "/"]);
    assert_eq!((ran.code, ran.out.as_slice()), (3, &b"/small\n"[..]));
    assert!(ran.err.contains("/line: bytes of one line and its context is limited to 16777216"), "{}", ran.err);
    assert_eq!(grep(&["-l", "--max-size", "1M", "needle", "/"]).text(), "/small\n");
    assert_eq!(grep(&["-q", "needle", "/small"]).text(), "");
    assert_eq!(grep(&["-q", "nowhere", "/small"]).code, 1);
    assert_eq!(grep(&["(", "/small"]).code, 2);
    assert_eq!(grep(&["-G", "\\(a\\)\\1", "/small"]).code, 7);
    assert_eq!(grep(&["a", "/nope"]).code, 9);
}

#[test]
fn lines_of_json_lose_nothing() {
    let Some(guest) = corpus() else { return };
    let image = guest.image();
    let lines = guestctl(["grep", "--json", text(&image), "fn", "/latin", "/bin/late", "/noend"]).text();
    let lines: Vec<serde_json::Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(
        lines[0],
        serde_json::json!({"kind": "match", "path": "/latin", "line_number": 1, "byte_offset": 0,
            "text": "fn \\xff\\xfe bytes", "text_b64": "Zm4g//4gYnl0ZXM=", "matches": [{"start": 0, "end": 2}]})
    );
    assert_eq!(lines[1]["matches"], serde_json::json!([{"start": 6, "end": 8}]));
    let binary = lines.iter().position(|line| line["kind"] == "binary").unwrap();
    assert_eq!(lines[binary], serde_json::json!({"kind": "binary", "path": "/bin/late"}));
    assert_eq!(lines[binary + 1]["text"], "fn last line");
    let count = guestctl(["grep", "--json", "-c", text(&image), "fn", "/noend"]).json();
    assert_eq!(count, serde_json::json!({"kind": "count", "path": "/noend", "count": 1}));
    let with = guestctl(["grep", "--json", "-A1", text(&image), "^10$", "/numbers"]).text();
    assert!(
        with.contains(r#""kind":"context","path":"/numbers","line_number":11,"byte_offset":21,"text":"11"}"#),
        "{with}"
    );
    let only = guestctl(["grep", text(&image), "fn", "--include", "/b/", "--exclude", "z"]);
    assert_eq!(only.code, 1);
    assert_eq!(guestctl(["grep", text(&image), "fn", "--include", "/b/"]).text(), "/b/z:fn\n");
}
