//! The program: what it prints, its exit codes, its refusals.

use std::path::Path;
use std::process::Stdio;

use serde_json::Value;

use super::program::{guestctl, program};
use super::support::{have, shell};

fn demo() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("images/demo.qcow2").to_str().unwrap().to_owned()
}

/// Two images of directories that `script` makes as `old` and `new`; all times in them are the same.
fn images(script: &str, options: &str) -> Option<(tempfile::TempDir, String, String)> {
    if !have("mke2fs") || !have("debugfs") {
        return None;
    }
    let directory = tempfile::tempdir().unwrap();
    let chown = if super::support::root() { "" } else { "-E root_owner=$(id -u):$(id -g)" };
    let script = format!(
        "mkdir old new; {script}; find old new -exec touch -h -d @1700000000 {{}} +
         for s in old new; do E2FSPROGS_FAKE_TIME=1700000000 mke2fs -q -F {options} {chown} -d $s $s.raw 16M; done"
    );
    shell(directory.path(), &script);
    let image = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (old, new) = (image("old.raw"), image("new.raw"));
    Some((directory, old, new))
}

#[test]
fn the_same_guest_is_the_same() {
    let demo = demo();
    for arguments in [&[][..], &["--semantic"], &["--content"], &["--json"], &["--patch"], &["--checksum", "sha256"]] {
        let ran = guestctl([&["diff", &demo, &demo], arguments].concat());
        assert_eq!((ran.code, ran.out, ran.err.as_str()), (0, Vec::new(), ""), "{arguments:?}");
    }
    let ran = guestctl(["diff", "--semantic", "--json", &demo, &demo]).json();
    assert_eq!((&ran["schema"], &ran["schema_version"]), (&Value::from("guestctl/diff"), &Value::from(1)));
    assert_eq!((&ran["old"]["root"], &ran["packages"]), (&Value::from("/dev/sda2"), &Value::Array(Vec::new())));
}

#[test]
fn text_and_json_tell_the_facts() {
    let script = "echo 1 >old/a; echo 2 >new/a; mkdir new/dir; echo n >new/dir/n; chmod 600 old/a
                  echo t >old/t; mkdir new/t; echo h >old/h; ln old/h old/h2; echo h >new/h; echo h >new/h2; echo z >old/z
                  chmod 644 new/* new/dir/n old/h old/t old/z; chmod 755 new/t new/dir; ln -s x old/l; ln -s y new/l";
    let Some((directory, old, new)) = images(script, "-t ext4") else { return };
    let owner = directory.path().metadata().unwrap();
    let owner =
        format!("{}:{}", std::os::unix::fs::MetadataExt::uid(&owner), std::os::unix::fs::MetadataExt::gid(&owner));
    let ran = guestctl(["diff", "--checksum", "md5", &old, &new]);
    let expected = "~ /a: mode 0600 -> 0644, content from byte 0
    - md5 b026324c6904b2a9cb4b88d6d61c81d1
    + md5 26ab0db90d72e28ad0ba1e22ee510510
+ d0755 OWNER 1024 /dir
+ -0644 OWNER 2 /dir/n
    + md5 50ec5d8b5b4bb3b8b4bd8ab0ed3bb0e1
~ /h: hard_links 2 -> 1
    - md5 4b5b0a2ee5b8ed6ca5d4b4ad4a0c4ed1
    + md5 4b5b0a2ee5b8ed6ca5d4b4ad4a0c4ed1
~ /h2: hard_links 2 = /h -> 1
    - md5 4b5b0a2ee5b8ed6ca5d4b4ad4a0c4ed1
    + md5 4b5b0a2ee5b8ed6ca5d4b4ad4a0c4ed1
~ /l: target x -> y
~ /t: type file -> dir, mode 0644 -> 0755
    - md5 TTT
- -0644 OWNER 2 /z
    - md5 ZZZ
";
    let sum = |text: &str| {
        let said = shell(directory.path(), &format!("echo {text} | md5sum")).stdout;
        String::from_utf8(said).unwrap()[..32].to_owned()
    };
    let expected = expected
        .replace("OWNER", &owner)
        .replace("50ec5d8b5b4bb3b8b4bd8ab0ed3bb0e1", &sum("n"))
        .replace("4b5b0a2ee5b8ed6ca5d4b4ad4a0c4ed1", &sum("h"))
        .replace("TTT", &sum("t"))
        .replace("ZZZ", &sum("z"));
    assert_eq!((ran.code, String::from_utf8(ran.out).unwrap(), ran.err.as_str()), (1, expected, ""));

    let ran = guestctl(["diff", "--json", "--checksum", "sha256", "--content", &old, &new, "/a"]);
    let line: Value = serde_json::from_slice(&ran.out).unwrap();
    assert_eq!((&line["change"], &line["path"]), (&Value::from("changed"), &Value::from("/a")));
    assert_eq!(line["facts"], serde_json::json!(["mode", "content"]));
    assert_eq!((&line["old"]["mode"], &line["new"]["mode"]), (&Value::from("0600"), &Value::from("0644")));
    assert_eq!(line["new"]["sha256"], "53c234e5e8472b6ac51c1ae1cab3fe06fad053beb8ebfd8977b010655bfdd3c3");
    assert_eq!((&line["first_difference"], &line["content"]), (&Value::from(0), &Value::from("text")));
    assert!(line["diff"].as_str().unwrap().ends_with("@@ -1 +1 @@\n-1\n+2\n"), "{line}");

    let quiet = guestctl(["diff", "-q", &old, &new]);
    assert_eq!((quiet.code, quiet.out, quiet.err.as_str()), (1, Vec::new(), ""));
}

#[test]
fn an_unreadable_file_is_told_and_the_rest_is_compared() {
    let script = "head -c 40000 /dev/urandom >old/broken; cp old/broken new/broken; echo 1 >old/z; echo 2 >new/z";
    let Some((directory, old, new)) = images(script, "-t ext2") else { return };
    shell(directory.path(), "debugfs -w -R 'sif /broken block[3] 99999999' new.raw 2>/dev/null");
    let ran = guestctl(["diff", &old, &new]);
    assert_eq!(ran.code, 3, "{}", ran.err);
    assert_eq!(String::from_utf8(ran.out).unwrap(), "~ /z: content from byte 0\n");
    assert!(ran.err.contains("new.raw: /broken: corrupt ext"), "{}", ran.err);
    assert!(
        ran.err.ends_with("guestctl: error: some parts could not be read: 1 problem listed above\n"),
        "{}",
        ran.err
    );
    let ran = guestctl(["diff", "--json", &old, &new]);
    let first: Value = serde_json::from_slice(ran.out.split(|byte| *byte == b'\n').next().unwrap()).unwrap();
    assert_eq!((&first["change"], &first["side"]), (&Value::from("unreadable"), &Value::from("new")));
    assert_eq!((&first["path"], &first["offset"]), (&Value::from("/broken"), &Value::from(3072)), "the fourth block");
}

#[test]
fn failures_have_codes_above_one() {
    let demo = demo();
    let missing = guestctl(["diff", &demo, "/nonexistent/image"]);
    assert_eq!(missing.code, 2, "{}", missing.err);
    assert!(missing.err.starts_with("guestctl: error: cannot open /nonexistent/image:"), "{}", missing.err);
    assert_eq!(guestctl(["diff", &demo]).code, 2);
    assert_eq!(guestctl(["diff", "--semantic", "--content", &demo, &demo]).code, 2);
    assert_eq!(guestctl(["diff", "--jobs", "0", &demo, &demo]).code, 2);
    assert_eq!(guestctl(["diff", "--text-limit", "2000000", "--content", &demo, &demo]).code, 4);
    assert_eq!(guestctl(["diff", "-M", "/dev/sdz", &demo, &demo]).code, 9);
    assert_eq!(guestctl(["diff", "--exclude", "[", &demo, &demo]).code, 2);
    // Each side has its own mounts.
    let ran = guestctl(["diff", "-m", "/dev/sda2", "-M", "/dev/sda1", &demo, &demo]);
    let out = String::from_utf8(ran.out).unwrap();
    assert_eq!(ran.code, 1);
    assert!(out.contains("+ d") && out.lines().any(|line| line.ends_with(" /EFI")), "{out}");
    assert!(out.lines().any(|line| line.starts_with("- ") && line.ends_with(" /etc/hostname")), "{out}");
}

#[test]
fn a_reader_that_goes_away_is_told_that_there_are_differences() {
    let script = "for n in $(seq 3000); do echo $n >new/a-rather-long-name-to-fill-the-pipe-$n; done";
    let Some((_directory, old, new)) = images(script, "-t ext4 -N 8192") else { return };
    let mut child = program().args(["diff", &old, &new]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8(output.stderr).unwrap().as_str()), (Some(1), ""));
}
