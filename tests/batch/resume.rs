//! Runs that are stopped and killed go on where they were, and no image is lost or done twice.

use std::io::Write;

use serde_json::{Value, json};

use crate::{Batch, Started, Yard, commands_of, wait_until};

/// Images of which the last, `z`, has no end as long as there is a directory for it.
fn endless_at_last(count: usize) -> Yard {
    let yard = Yard::of(count);
    yard.add("z.qcow2");
    yard.write("script", "ls --json {image} /etc/apt\nserve --socket {out}/{name}/socket {image}\n");
    yard
}

const RUN: &str = "--script script *.qcow2 -o out --timeout 0 --run run -j 2";

fn start(yard: &Yard) -> Started {
    std::fs::create_dir_all(yard.path("out/z")).unwrap();
    yard.start(RUN)
}

/// Whether the endless image is at work and all others are done.
fn is_at_last(yard: &Yard, count: usize) -> bool {
    yard.path("out/z/socket").exists() && yard.lines("run/results.jsonl").len() >= count
}

#[test]
fn a_killed_run_goes_on_and_every_image_is_there_once() {
    let yard = Yard::of(60);
    let list: String = (0..60).map(|at| format!("{at:02}.qcow2\n")).collect();
    yard.write("list", list);
    let options = "--op inspect --list list --run run -j 2";
    let mut left = Vec::new();
    // Killed twice. What was at work the first time waits for all others, so it is not at work the second time.
    for enough in [2, 12] {
        let batch = yard.start(options);
        let pid = batch.pid();
        wait_until("some results", || {
            let gone = std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "));
            gone || yard.lines("run/results.jsonl").len() >= enough
        });
        batch.kill();
        left.push(yard.lines("run/results.jsonl").len());
        // As if the kill had come in the middle of a line.
        for (file, torn) in [("run/results.jsonl", "{\"image\":\"03.qc"), ("run/attempts.jsonl", "{\"ind")] {
            let mut file = std::fs::OpenOptions::new().append(true).open(yard.path(file)).unwrap();
            file.write_all(torn.as_bytes()).unwrap();
        }
    }
    assert!(left.is_sorted() && left[0] >= 2, "{left:?}");
    let batch = yard.batch(options);
    assert_eq!(batch.code, Some(0), "{}", batch.err);
    assert_eq!(batch.indices(), (0..60).collect::<Vec<_>>());
    for result in &batch.results {
        let alone = yard.alone(&["inspect", "--json", result["image"].as_str().unwrap()]);
        assert_eq!(result["output"], serde_json::from_slice::<Value>(&alone).unwrap());
    }
    // Nothing that was recorded was done again.
    let mut indices: Vec<_> =
        yard.lines("run/results.jsonl").iter().map(|line| line["index"].as_u64().unwrap()).collect();
    indices.sort_unstable();
    assert_eq!(indices, (0..60).collect::<Vec<_>>());
    let summary: Value = serde_json::from_slice(&std::fs::read(yard.path("run/summary.json")).unwrap()).unwrap();
    assert_eq!(summary["resumed"], left[1]);
    // Once more there is nothing to do.
    let again = yard.batch(options);
    assert_eq!(again.results, batch.results);
}

#[test]
fn an_image_that_takes_the_run_down_twice_is_put_aside() {
    let yard = endless_at_last(4);
    for _ in 0..2 {
        let batch = start(&yard);
        wait_until("the endless image", || is_at_last(&yard, 4));
        batch.kill();
        std::fs::remove_file(yard.path("out/z/socket")).unwrap();
    }
    let batch = yard.batch(RUN);
    assert_eq!((batch.code, batch.indices()), (Some(3), vec![0, 1, 2, 3, 4]));
    let last = &batch.results[4];
    assert_eq!((&last["status"], &last["error_kind"]), (&json!("crashed"), &json!("quarantined")));
    assert!(!yard.path("out/z/socket").exists());
    // It is tried again when that is asked for.
    std::fs::remove_dir(yard.path("out/z")).unwrap();
    let batch = yard.batch(&format!("{RUN} --retry-failed"));
    assert_eq!((&batch.results[4]["status"], &batch.results[4]["attempts"]), (&json!("failed"), &json!(1)));
}

fn stopped_by(signal: &str, code: i32) {
    let yard = endless_at_last(4);
    // The others fail at once: they have no directory to serve in.
    let batch = start(&yard);
    let pid = batch.pid();
    wait_until("the endless image", || is_at_last(&yard, 4));
    batch.signal(signal);
    let batch: Batch = batch.end();
    assert_eq!(batch.code, Some(code), "{batch:?}");
    assert_eq!(batch.indices(), [0, 1, 2, 3, 4]);
    assert_eq!(batch.all("status")[4], "cancelled");
    assert!(commands_of(pid).is_empty());
    assert!(batch.err.ends_with("hint: the same command goes on where this one stopped\n"), "{}", batch.err);
    // The command was asked to end, and cleared up.
    assert!(!yard.path("out/z/socket").exists());
    assert_eq!(yard.lines("run/results.jsonl").len(), 4);
    // To be stopped is no death: it is begun as often as one likes.
    for _ in 0..2 {
        let batch = start(&yard);
        wait_until("the endless image", || is_at_last(&yard, 4));
        batch.signal(signal);
        assert_eq!(batch.end().code, Some(code));
    }
    std::fs::remove_dir(yard.path("out/z")).unwrap();
    assert_eq!(yard.batch(RUN).all("status")[4], "failed");
}

#[test]
fn a_run_can_be_stopped_and_goes_on() {
    stopped_by("INT", 130);
    stopped_by("TERM", 143);
}

#[test]
fn two_runs_do_not_share_a_directory_and_plans_are_not_mixed() {
    let yard = endless_at_last(1);
    let batch = start(&yard);
    wait_until("the endless image", || is_at_last(&yard, 1));
    let other = yard.batch(RUN);
    assert_eq!((other.code, other.results.len()), (Some(75), 0));
    assert!(other.err.contains("hint: another run uses this directory"), "{}", other.err);
    batch.signal("TERM");
    batch.end();
    for other in ["00.qcow2 -o out --script script --run run", "*.qcow2 --op inspect --run run"] {
        let other = yard.batch(other);
        assert_eq!(other.code, Some(2));
        let said = "guestctl: error: run is the run of another plan\nhint: resume with the same images and the same commands, \
                    or take a new directory\n";
        assert_eq!(other.err, said);
    }
}
