//! What the settings file says of the cache, and how long what is in it lives.

use std::path::Path;
use std::time::Duration;

use guestctl::cache::{Action, ActionKey, Class, GcOptions, Lifetimes, Ref, Store};

use super::program::{Ran, program};
use super::support::shell;
use super::trees::{ordinary, seed, store};

/// Runs `guestctl cache` with the settings file of `dir` and the store that it names.
fn cache(dir: &Path, line: &str) -> Ran {
    let mut command = program();
    command.current_dir(dir).env("GUESTCTL_CONFIG", dir.join("config.toml"));
    let output = command.arg("cache").args(line.split(' ')).output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    Ran { code: output.status.code().unwrap(), out: output.stdout, err }
}

fn config(dir: &Path, more: &str) {
    let text = format!("[cache]\ndir = '{}'\n{more}", dir.join("store").display());
    std::fs::write(dir.join("config.toml"), text).unwrap();
}

/// Makes a ref older.
fn age(store: &Store, name: &str, by: Duration) {
    let found = store.get_ref("trees", name).unwrap().unwrap();
    store.set_ref(&Ref { created: found.created - by.as_secs() as i64, ..found }).unwrap();
}

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn classes_have_their_lifetimes() {
    let dir = tempfile::tempdir().unwrap();
    ordinary(dir.path());
    let store = store(dir.path());
    let tree = seed(&store, &dir.path().join("tree"), "normal").unwrap();
    for (name, class) in [("short", Class::Short), ("pinned", Class::Pinned)] {
        store.set_ref(&Ref { class, ..Ref::new("trees", name, tree).unwrap() }).unwrap();
    }
    let key = |class: Class| ActionKey::new("test", 1, [("class", class.name().to_owned())]);
    let made = |class, hours: i64| {
        let action = Action::new(key(class), vec![tree], String::new(), 1);
        store.keep_action(&Action { class, created: action.created - hours * 3600, ..action }).unwrap();
        // Use is the record's time.
        let hex = key(class).digest().hex();
        let path = store.path().join("actions").join(&hex[..2]).join(&hex[2..]);
        std::fs::File::open(path).unwrap().set_modified(std::time::SystemTime::now()).unwrap();
    };
    for class in [Class::Normal, Class::Short, Class::Pinned] {
        made(class, 30);
        age(&store, class.name(), 30 * HOUR);
    }
    let left = |lifetimes: Lifetimes| {
        store.gc(&GcOptions { lifetimes, ..GcOptions::default() }).unwrap();
        let refs = store.refs().unwrap().into_iter().map(|found| found.name);
        let actions = store.actions().unwrap().into_iter().map(|(_, action)| action.class.name().to_owned());
        let mut actions: Vec<_> = actions.collect();
        actions.sort_unstable();
        (refs.collect::<Vec<_>>(), actions)
    };
    let both = |names: &[&str]| {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        (names.clone(), names)
    };
    let longer = Lifetimes { short: 31 * HOUR, ..Lifetimes::default() };
    assert_eq!(left(longer), both(&["normal", "pinned", "short"]));
    assert_eq!(left(Lifetimes::default()), both(&["normal", "pinned"]));
    assert_eq!(left(Lifetimes { normal: Some(31 * HOUR), ..longer }), both(&["normal", "pinned"]));
    assert_eq!(left(Lifetimes { normal: Some(29 * HOUR), ..longer }), both(&["pinned"]));
}

#[test]
fn commands_give_classes_and_show_them() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    ordinary(dir);
    config(dir, "[ttl]\nshort = '2h'\n");
    for class in ["normal", "short", "pinned"] {
        cache(dir, &format!("seed -q --json --class {class} --name {class} tree")).json();
    }
    let listed = cache(dir, "ls --json").json();
    let rows = listed.as_array().unwrap();
    assert_eq!(rows.len(), 3);
    assert!(rows.iter().all(|row| row["class"] == row["name"]), "{listed}");
    let text = cache(dir, "ls").text();
    assert!(text.lines().next().unwrap().contains("  CLASS "), "{text}");
    assert!(text.lines().any(|line| line.starts_with("short ") && line.contains("  short  ")), "{text}");
    // An image's result has the class of its tree, and gets that of a later name.
    let demo = concat!(env!("CARGO_MANIFEST_DIR"), "/images/demo.qcow2");
    let store = Store::open(dir.join("store")).unwrap();
    for class in ["short", "pinned", "normal"] {
        cache(dir, &format!("add -q --json --class {class} --name demo {demo}")).json();
        let actions = store.actions().unwrap();
        assert_eq!((actions.len(), actions[0].1.class.name()), (1, class));
    }
    // Without a class a name keeps its own, also when an image is restored.
    cache(dir, "seed -q --json --name short tree").json();
    assert_eq!(store.get_ref("trees", "short").unwrap().unwrap().class, Class::Short);
    cache(dir, &format!("add -q --json --class pinned {demo}")).json();
    cache(dir, &format!("restore -q {demo} restored")).text();
    assert_eq!(store.get_ref("trees", "demo.qcow2").unwrap().unwrap().class, Class::Pinned);
    store.remove_ref("trees", "demo.qcow2").unwrap();
    cache(dir, &format!("add -q --json --class normal --name demo {demo}")).json();
    // The settings file's lifetime, and the option's in its place.
    age(&store, "short", HOUR);
    assert_eq!(cache(dir, "gc --json").json()["expired_refs"], 0);
    assert_eq!(cache(dir, "gc --json --dry-run --ttl-short 30m").json()["expired_refs"], 1);
    age(&store, "short", 2 * HOUR);
    assert_eq!(cache(dir, "gc --json --dry-run --ttl-short 1d").json()["expired_refs"], 0);
    assert_eq!(cache(dir, "gc --json").json()["expired_refs"], 1);
    config(dir, "max_size = 1\n");
    // All names but the pinned one, and the result.
    let report = cache(dir, "gc --json --dry-run").json();
    assert_eq!((report["expired_refs"].as_u64(), report["expired_actions"].as_u64()), (Some(2), Some(1)), "{report}");
    assert_eq!(cache(dir, "gc --json --dry-run --max-size 1G").json()["expired_refs"], 0);
}

#[test]
fn restore_takes_strategy_and_patterns_from_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    ordinary(dir);
    config(dir, "[restore]\nstrategy = 'pack'\n");
    cache(dir, "seed -q --json --name tree tree").json();
    let written = |line: &str| cache(dir, &format!("restore -q --json {line}")).json();
    let by_file = written("tree one");
    assert!(by_file["written_files"].as_u64() > Some(0) && by_file["copied_files"] == 0, "{by_file}");
    assert_eq!(by_file["cached"], true);
    let by_option = written("--strategy copy tree two");
    assert_eq!(by_option["written_files"], 0, "{by_option}");
    // Hard links for all but what is to be copied.
    config(dir, "[restore]\nstrategy = 'hardlink'\ncopy_patterns = ['/usr/bin/*']\n");
    let some = written("--read-only tree three");
    let all = written("--read-only --copy-pattern /none tree four");
    assert!(some["hardlinked_files"].as_u64() < all["hardlinked_files"].as_u64(), "{some} {all}");
    config(dir, "verify = 'always'\n");
    assert_eq!(written("tree five")["verified"], "always");
    assert_eq!(written("--verify-level never tree six")["verified"], "never");
}

#[test]
fn rm_and_pin_say_what_they_did() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    shell(dir, "mkdir tree; echo text > tree/file");
    config(dir, "");
    let tree = cache(dir, "seed -q --json --name one tree").json()["tree"].clone();
    cache(dir, "seed -q --json --name two tree").json();
    let pin = |line: &str| {
        let report = cache(dir, line).json();
        assert_eq!(report["tree"], tree);
        (report["pinned"].as_bool().unwrap(), report["changed"].as_bool().unwrap())
    };
    assert_eq!(pin("pin --json one"), (true, true));
    assert_eq!(pin("pin --json one"), (true, false));
    assert_eq!(pin("pin --json --remove one"), (false, true));
    assert_eq!(pin("pin --json --remove one"), (false, false));
    let removed = cache(dir, "rm --json one trees/two").json();
    let expected = serde_json::json!([
        {"namespace": "trees", "name": "one", "tree": tree, "unnamed": false, "forgotten_results": 0},
        {"namespace": "trees", "name": "two", "tree": tree, "unnamed": true, "forgotten_results": 0},
    ]);
    assert_eq!(removed, expected);
    assert_eq!(cache(dir, "rm --json one").code, 2);
}
