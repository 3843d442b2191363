//! Unified diffs, judged by patch(1): the old tree patched is the new one.

use std::path::Path;
use std::process::{Command, Stdio};

use super::program::guestctl;
use super::support::{have, shell};
use super::trees::Random;

fn image(directory: &Path, side: &str) -> String {
    shell(directory, &format!("E2FSPROGS_FAKE_TIME=1700000000 mke2fs -q -F -t ext4 -d {side} {side}.raw 16M"));
    directory.join(format!("{side}.raw")).to_str().unwrap().to_owned()
}

/// Lines of few words, so that equal lines are many.
fn text(random: &mut Random) -> Vec<Vec<u8>> {
    let line = |random: &mut Random| -> Vec<u8> {
        match random.below(12) {
            0 => b"}\n".to_vec(),
            1 => b"\n".to_vec(),
            2 => b"-- dashes\n".to_vec(),
            3 => b"+++ b/x\n".to_vec(),
            4 => b"\\ backslash\r\n".to_vec(),
            5 => b"latin \xe9\xff\n".to_vec(),
            6 => b"@@ -1 +1 @@\n".to_vec(),
            _ => format!("line {}\n", random.below(30)).into_bytes(),
        }
    };
    (0..random.below(200)).map(|_| line(random)).collect()
}

fn edited(lines: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut bytes = Vec::new();
    for line in lines {
        match random.below(15) {
            0 => {}
            1 => bytes.extend_from_slice(b"inserted\n"),
            2 => bytes.extend(format!("changed {}\n", random.below(5)).into_bytes()),
            _ => bytes.extend_from_slice(line),
        }
    }
    if random.below(3) == 0 {
        bytes.extend_from_slice(b"no newline at the end");
    }
    bytes
}

#[test]
fn patch_makes_the_new_tree_of_the_old_one() {
    if !have("mke2fs") || !have("patch") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let at = |side: &str, name: &str| directory.path().join(side).join(name);
    shell(directory.path(), "mkdir -p old/d new/d");
    let mut random = Random::new(5);
    let names = ["plain", "with blank", "d/é", "d/quote\"d", "d/back\\slash", "d/tab\there", "#odd"];
    for (index, name) in names.iter().cycle().take(60).enumerate() {
        let name = format!("{name}{index}");
        let lines = text(&mut random);
        if index % 7 != 0 {
            std::fs::write(at("old", &name), lines.concat()).unwrap();
        }
        let new = edited(&lines, &mut random);
        // An empty file has no line that a hunk could add or take away.
        if index % 5 != 0 || index % 7 == 0 {
            std::fs::write(at("new", &name), if new.is_empty() { b"x\n".to_vec() } else { new }).unwrap();
        }
    }
    for context in ["0", "1", "3", "10"] {
        let (old, new) = (image(directory.path(), "old"), image(directory.path(), "new"));
        let ran = guestctl(["diff", "--patch", "-U", context, &old, &new]);
        assert_eq!((ran.code, ran.err.as_str()), (1, ""));
        shell(directory.path(), "rm -rf patched; cp -a old patched");
        let mut patch = Command::new("patch")
            .args(["-p1", "--fuzz=0", "--binary", "--no-backup-if-mismatch", "-d"])
            .arg(directory.path().join("patched"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut patch.stdin.take().unwrap(), &ran.out).unwrap();
        let output = patch.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "context {context}: {said}");
        assert!(!said.contains("offset"), "hunks are where they say: {said}");
        shell(directory.path(), "diff -r patched new");
    }
}

#[test]
fn what_is_shown_to_people_is_the_patch_or_says_that_it_is_not() {
    if !have("mke2fs") || !have("diff") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    shell(
        directory.path(),
        "mkdir old new; printf 'a\\nb\\nc\\n' >old/text; printf 'a\\nB\\nc\\n' >new/text
         printf 'x\\0y' >old/binary; printf 'x\\0z' >new/binary; printf '\\033[2J\\\\\\n' >old/evil; echo >new/evil
         head -c 70000 /dev/zero | tr '\\0' q >old/large; echo >new/large; echo new >new/added; echo old >old/gone
         touch -h -d @1700000000 old/* new/*",
    );
    let (old, new) = (image(directory.path(), "old"), image(directory.path(), "new"));
    let run = |arguments: &[&str]| {
        let ran = guestctl([&["diff", "--content", "--text-limit", "50000", &old, &new], arguments].concat());
        assert_eq!((ran.code, ran.err.as_str()), (1, ""));
        String::from_utf8(ran.out).unwrap()
    };
    let time = "2023-11-14 22:13:20.000000000 +0000";
    let expected = format!(
        "+ -0644 0:0 4 /added
~ /binary: content from byte 2
Binary files /binary differ
~ /evil: size 6 -> 1, content
Shown escaped, which is not a patch:
@@ -1 +1 @@
-\\x1b[2J\\\\
+
- -0644 0:0 4 /gone
~ /large: size 70000 -> 1, content
Files /large differ; of 70000 bytes they are not shown
~ /text: content from byte 2
--- a/text\t{time}
+++ b/text\t{time}
@@ -1,3 +1,3 @@
 a
-b
+B
 c
"
    );
    let owner = std::os::unix::fs::MetadataExt::uid(&directory.path().metadata().unwrap());
    let group = std::os::unix::fs::MetadataExt::gid(&directory.path().metadata().unwrap());
    assert_eq!(run(&[]), expected.replace(" 0:0 ", &format!(" {owner}:{group} ")));
    let whole = run(&["-N"]);
    assert!(whole.contains("--- /dev/null\t1970-01-01 00:00:00.000000000 +0000\n+++ b/added\t"), "{whole}");
    assert!(whole.contains("@@ -0,0 +1 @@\n+new\n") && whole.contains("@@ -1 +0,0 @@\n-old\n"), "{whole}");
    // GNU diff's own words for the hunk.
    let gnu = Command::new("diff").args(["-u", "old/text", "new/text"]).current_dir(directory.path()).output().unwrap();
    let hunk = |text: &str| text.split_once("@@").unwrap().1.to_owned();
    assert!(expected.ends_with(&hunk(std::str::from_utf8(&gnu.stdout).unwrap())));
}
