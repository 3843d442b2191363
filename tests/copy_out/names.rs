//! Names that other hosts do not take.

use serde_json::Value;

use super::program::program;
use super::support::{have, shell};

#[test]
fn names_of_other_hosts_are_reported_refused_or_changed() {
    if !have("mke2fs") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    shell(
        at,
        "mkdir -p t/Case t/case t/fine; echo 1 >t/Case/x; echo 2 >t/case/x; echo 3 >t/a:b; echo 4 >t/NUL.txt; echo 5 >'t/dot.'
         mke2fs -q -t ext4 -d t guest.raw 8M; rm -r t",
    );
    let run = |what: &str, code: i32| -> Value {
        let mut command = program();
        command.args(["copy-out", "--json", "-m", "/dev/sda", "--foreign-names", what, "guest.raw", "/", what]);
        let output = command.current_dir(at).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{what}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let told = |report: &Value| -> Vec<(String, String)> {
        let listed = report["copies"][0]["foreign_names"]["listed"].as_array().unwrap().clone();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        listed.iter().map(|found| (text(&found["path"]), text(&found["clash"]))).collect()
    };
    let expected = [("NUL.txt", "reserved"), ("a:b", "character"), ("case", "twin"), ("dot.", "trailing-dot-or-space")]
        .map(|(path, clash)| (path.to_owned(), clash.to_owned()));
    assert_eq!(told(&run("report", 0)), expected);
    shell(at, "test -f report/a:b; cmp report/case/x - <<.\n2\n.\n");
    assert_eq!(told(&run("ignore", 0)), []);
    let refused = run("refuse", 3);
    assert_eq!((told(&refused), &refused["copies"][0]["problems"]["count"]), (expected.to_vec(), &4.into()));
    shell(at, "test $(ls -A refuse | wc -l) = 3; test -f refuse/Case/x");
    assert_eq!(told(&run("rename", 0)), expected);
    shell(
        at,
        "cd rename; cat Case/x case~2/x a%3Ab %4EUL.txt dot%2E | cmp - <<.\n1\n2\n3\n4\n5\n.
         test $(ls -A | wc -l) = 7; grep -q '\"path\":\"case/x\",\"host_path\":\"case~2/x\"' ../rename.guestctl-manifest.jsonl",
    );
}
