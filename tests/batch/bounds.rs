//! Time, memory and devices: what one image may take, and how many are at work at once.

use std::collections::BTreeSet;

use serde_json::json;

use crate::{ENDLESS, Yard, commands_of, wait_until};

#[test]
fn an_image_without_an_end_is_ended() {
    let yard = Yard::of(3);
    // For the second image only; the others have no such directory, and are done at once.
    yard.write("script", "serve --socket {out}/{name}/socket {image}\n");
    std::fs::create_dir_all(yard.path("out/01")).unwrap();
    let batch = yard.batch("--script script *.qcow2 -o out --timeout 3s -q");
    assert_eq!(batch.code, Some(3));
    assert_eq!(batch.all("status"), ["failed", "timeout", "failed"]);
    let ended = &batch.results[1];
    assert_eq!(
        (&ended["error_kind"], &ended["exit_code"], &ended["attempts"]),
        (&json!("timeout"), &json!(null), &json!(1))
    );
    assert!(ended["seconds"].as_f64().unwrap() >= 3.0);
    // It was asked to end, and took its socket away.
    assert!(!yard.path("out/01/socket").exists());
}

#[test]
fn memory_of_a_command_is_limited() {
    let yard = Yard::of(2);
    let batch = yard.batch("--op inspect *.qcow2 --memory-limit 1M -q");
    assert_eq!(batch.code, Some(3));
    for result in &batch.results {
        assert_ne!(result["status"], "ok", "{result}");
    }
    assert_eq!(yard.batch("--op inspect *.qcow2 --memory-limit 16G -q").code, Some(0));
}

/// How many images are at work once as many are as there is room for.
fn at_work(options: &str, expected: usize) {
    let yard = Yard::of(5);
    yard.write("script", ENDLESS);
    std::fs::create_dir(yard.path("out")).unwrap();
    let batch = yard.start(&format!("--script script *.qcow2 -o out --timeout 0 -q {options}"));
    let pid = batch.pid();
    wait_until("enough to be at work", || commands_of(pid).len() >= expected);
    // One too many would come at once; where it does not, it has two seconds to be seen in.
    for _ in 0..40 {
        assert!(commands_of(pid).len() <= expected, "{options}");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let first: BTreeSet<_> = commands_of(pid).into_iter().collect();
    // As one ends another takes its place.
    let ended = first.iter().next().unwrap();
    assert!(std::process::Command::new("kill").arg("-9").arg(ended.to_string()).status().unwrap().success());
    wait_until("the next to be at work", || {
        let now: BTreeSet<_> = commands_of(pid).into_iter().collect();
        assert!(now.len() <= expected, "{options}");
        now.len() == expected && now.difference(&first).count() == 1
    });
    batch.signal("TERM");
    let batch = batch.end();
    assert_eq!(batch.code, Some(143));
    assert_eq!(batch.all("status"), vec!["cancelled"; expected], "{batch:?}");
}

#[test]
fn devices_and_memory_bound_what_is_at_work() {
    at_work("-j 4 --io-depth 2", 2);
    at_work("-j 4 --memory 700M --memory-per-image 256M", 2);
    at_work("-j 3 --io-depth 9", 3);
}

#[test]
fn the_first_failure_stops_a_run_that_is_to_fail_fast() {
    let yard = Yard::of(5);
    // All but the third have a directory to serve in, and would do so for ever.
    yard.write("script", "serve --socket {out}/{name}/socket {image}\n");
    for name in ["00", "01", "03", "04"] {
        std::fs::create_dir_all(yard.path("out").join(name)).unwrap();
    }
    let batch = yard.batch("--script script *.qcow2 -o out -j 3 --timeout 0 --fail-fast --summary -");
    assert_eq!(batch.code, Some(3));
    assert_eq!(batch.all("status")[..3], ["cancelled", "cancelled", "failed"]);
    let summary = &batch.results[3]["summary"];
    assert_eq!((&summary["stopped"], &summary["not_started"]), (&json!(true), &json!(2)));
}

#[test]
fn what_can_go_away_is_tried_again() {
    let yard = Yard::of(1);
    // A socket on which nobody listens.
    drop(std::os::unix::net::UnixListener::bind(yard.path("socket")).unwrap());
    yard.write("script", "ls {image} /etc/apt\ninfo 'nbd+unix:///?socket=socket'\n");
    let batch = yard.batch("--script script *.qcow2 --attempts 2 --run run -q");
    let result = &batch.results[0];
    assert_eq!((&result["error_kind"], &result["attempts"]), (&json!("temporary"), &json!(2)), "{result}");
    assert_eq!(batch.code, Some(75));
    // A resumed run tries again, and now there is nothing at all.
    std::fs::remove_file(yard.path("socket")).unwrap();
    let batch = yard.batch("--script script *.qcow2 --attempts 2 --run run -q");
    assert_eq!((batch.code, &batch.results[0]["error_kind"]), (Some(3), &json!("io")));
}
