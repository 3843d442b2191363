//! `cache top` and `cache bench`: numbers of what happened, and of what could.

use std::io::BufRead;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::program::{Ran, guestctl, program};
use super::support::shell;

fn cache(dir: &Path, line: &str) -> Ran {
    let store = dir.join("store");
    guestctl(["cache", "--cache-dir", store.to_str().unwrap()].into_iter().chain(line.split(' ')))
}

fn target<'a>(report: &'a Value, name: &str) -> &'a Value {
    report["targets"].as_array().unwrap().iter().find(|target| target["name"] == name).unwrap()
}

#[test]
fn top_counts_hits_and_misses_and_holds_them_against_targets() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    cache(dir, "init --json").json();
    let empty = cache(dir, "top --once --json").json();
    assert_eq!((&empty["operations"], target(&empty, "hit-rate")), (&serde_json::json!({}), &empty["targets"][0]));
    assert!(empty["targets"].as_array().unwrap().iter().all(|target| target["status"] == "unknown"), "{empty}");
    let demo = concat!(env!("CARGO_MANIFEST_DIR"), "/images/demo.qcow2");
    for name in ["a", "b", "c"] {
        cache(dir, &format!("add -q --json --name {name} {demo}")).json();
    }
    let out = dir.join("out");
    cache(dir, &format!("restore -q a {}", out.display())).text();
    let report = cache(dir, "top --once --json").json();
    let tree = &report["operations"]["tree"];
    assert_eq!(
        (tree["hits"].as_u64(), tree["misses"].as_u64(), report["restores"].as_u64()),
        (Some(2), Some(1), Some(1))
    );
    for (time, rank) in [("hit_time", "median_ns"), ("hit_time", "p95_ns"), ("miss_time", "median_ns")] {
        assert!(tree[time][rank].as_u64() > Some(0), "{time} {rank}: {report}");
    }
    assert!(tree["saved_ns"].as_u64() > Some(0) && tree["saved_bytes"].as_u64() > Some(0), "{report}");
    assert!(report["stored_bytes"].as_u64() > Some(0) && report["since_seconds"] == 86400, "{report}");
    let rate = target(&report, "hit-rate");
    assert!((rate["found"].as_f64().unwrap() - 200.0 / 3.0).abs() < 0.01 && rate["status"] == "missed", "{rate}");
    for name in ["hit-latency", "delivered"] {
        let target = target(&report, name);
        assert!(target["found"].as_f64() > Some(0.0) && target["status"] != "unknown", "{target}");
    }
    let text = cache(dir, "top --once").text();
    let lines: Vec<_> = text.lines().collect();
    assert!(lines[2].starts_with("OPERATION") && lines[3].starts_with("tree "), "{text}");
    assert!(text.contains("\nhit rate ") && text.contains("> 90 percent  missed"), "{text}");
    // Of what happened before the window nothing is counted.
    shell(dir, "sed -i 's/\"at\":[0-9]*/\"at\":1000000000/' store/events/*");
    assert_eq!(cache(dir, "top --once --json --since 1h").json()["operations"], serde_json::json!({}));
}

#[test]
fn top_goes_on_until_it_is_interrupted() {
    let dir = tempfile::tempdir().unwrap();
    cache(dir.path(), "init --json").json();
    let mut command = program();
    command.args(["cache", "--cache-dir"]).arg(dir.path().join("store")).args(["top", "--json", "--interval", "50ms"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
    let at = |line: String| serde_json::from_str::<Value>(&line).unwrap()["at"].as_i64().unwrap();
    let times: Vec<_> = (0..3).map(|_| at(lines.next().unwrap().unwrap())).collect();
    assert!(times.is_sorted(), "{times:?}");
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn bench_measures_each_strategy_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    assert_eq!(cache(dir, "bench").code, 2);
    cache(dir, "init --json").json();
    let report = cache(dir, "bench --json --files 100").json();
    let rows = report["rows"].as_array().unwrap();
    let strategies: Vec<_> = rows.iter().map(|row| row["strategy"].as_str().unwrap()).collect();
    for strategy in ["auto", "hardlink", "pack"] {
        assert!(strategies.contains(&strategy), "{report}");
    }
    for row in rows {
        assert_eq!((row["files"].as_u64(), row["target"]["target"].as_f64()), (Some(100), Some(0.02)), "{row}");
        assert!(row["restore_ns"].as_u64() > Some(0) && row["bare_ns"].as_u64() > Some(0), "{row}");
        let met = row["restore_ns"].as_u64() < Some(20_000_000);
        assert_eq!(row["target"]["status"] == "met", met, "{row}");
        assert!(row["restore_files_per_second"].as_f64() > Some(0.0), "{row}");
    }
    assert_eq!(std::fs::read_dir(dir.join("store/staging")).unwrap().count(), 0);
    shell(dir, "mkdir elsewhere");
    let elsewhere = dir.join("elsewhere");
    let text = cache(dir, &format!("bench --files 7 --dir {}", elsewhere.display())).text();
    assert!(text.starts_with("FILES  STRATEGY") && text.contains("\n    7  auto "), "{text}");
    assert_eq!(std::fs::read_dir(elsewhere).unwrap().count(), 0);
}
