//! gc removes what nothing refers to, and nothing else.

use std::path::Path;
use std::time::Duration;

use guestctl::cache::{Class, GcOptions, Ref, Store};
use guestctl::progress::Silent;

use super::support::shell;
use super::trees::{bring_back, ordinary, seed, store, witness};

fn files(path: &Path) -> usize {
    let below = |path: std::path::PathBuf| if path.is_dir() { files(&path) } else { 1 };
    std::fs::read_dir(path).unwrap().map(|entry| below(entry.unwrap().path())).sum()
}

fn now() -> GcOptions {
    GcOptions { grace: Duration::ZERO, ..GcOptions::default() }
}

#[test]
fn what_is_condemned_is_there_until_its_grace_is_over() {
    let dir = tempfile::tempdir().unwrap();
    ordinary(dir.path());
    let source = dir.path().join("tree");
    let store = store(dir.path());
    let tree = seed(&store, &source, "tree").unwrap();
    let nothing = store.gc(&now()).unwrap();
    assert_eq!((nothing.condemned_bytes, nothing.live_trees), (0, 1));
    store.remove_ref("trees", "tree").unwrap();
    let dry = store.gc(&GcOptions { dry_run: true, ..now() }).unwrap();
    assert_eq!((dry.condemned_trees, dry.condemned_objects, dry.condemned_packs), (1, 1, 1), "{dry:?}");
    assert_eq!(files(&store.path().join("trash")), 0);
    let report = store.gc(&GcOptions::default()).unwrap();
    assert_eq!((report.condemned_trees, report.deleted_epochs), (1, 0), "{report:?}");
    assert_eq!((files(&store.path().join("objects")), files(&store.path().join("packs"))), (0, 0));
    // Readers find it in the trash, those too that opened the store before.
    let target = dir.path().join("target");
    bring_back(&store, &tree, &target).unwrap();
    assert_eq!(witness(&target, true), witness(&source, true));
    std::fs::remove_dir_all(&target).unwrap();
    // Added again, nothing is stored anew.
    let fresh = Store::open(store.path()).unwrap();
    assert_eq!(seed(&fresh, &source, "tree").unwrap(), tree);
    assert_eq!(files(&store.path().join("trash")), 0);
    fresh.gc(&now()).unwrap();
    bring_back(&fresh, &tree, &target).unwrap();
    // Now for good.
    fresh.remove_ref("trees", "tree").unwrap();
    let report = fresh.gc(&now()).unwrap();
    assert!(report.deleted_epochs == 1 && report.deleted_bytes > 300_000, "{report:?}");
    for directory in ["objects", "packs", "trees", "trash", "staging", "leases"] {
        assert_eq!(files(&store.path().join(directory)), 0, "{directory}");
    }
}

#[test]
fn pins_stay_and_the_least_recently_used_goes_first() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    for name in ["old", "pinned", "used", "new"] {
        shell(dir.path(), &format!("mkdir {name}; head -c 1000000 /dev/urandom > {name}/file"));
        let tree = seed(&store, &dir.path().join(name), name).unwrap();
        if name == "pinned" {
            store.set_ref(&Ref { class: Class::Pinned, ..Ref::new("pins", name, tree).unwrap() }).unwrap();
        }
    }
    let path = |name: &str| {
        let hex = store.get_ref("trees", name).unwrap().unwrap().tree.hex();
        store.path().join("trees").join(&hex[..2]).join(format!("{}.tree", &hex[2..]))
    };
    // Use is the time of the tree; names are as old as the test.
    let later = std::time::SystemTime::now() + Duration::from_secs(1000);
    for (name, seconds) in [("used", 20), ("new", 10), ("pinned", 0), ("old", 0)] {
        let file = std::fs::File::open(path(name)).unwrap();
        file.set_modified(later + Duration::from_secs(seconds)).unwrap();
    }
    let report = store.gc(&GcOptions { max_size: Some(3_500_000), low_water: 90, ..now() }).unwrap();
    let names: Vec<_> =
        store.refs().unwrap().into_iter().map(|found| format!("{}/{}", found.namespace, found.name)).collect();
    assert_eq!(names, ["pins/pinned", "trees/new", "trees/pinned", "trees/used"], "{report:?}");
    assert_eq!((report.expired_refs, report.condemned_objects, report.deleted_epochs), (1, 1, 1), "{report:?}");
    // Days: all but the pinned tree are too old when nothing may be older than tomorrow.
    let old = std::time::SystemTime::now() - Duration::from_secs(10 * 24 * 3600);
    for name in ["used", "pinned", "new"] {
        std::fs::File::open(path(name)).unwrap().set_modified(old).unwrap();
    }
    let report = store.gc(&GcOptions { days: Some(5), ..now() }).unwrap();
    // Their names were made today.
    assert_eq!(report.expired_refs, 0, "{report:?}");
}

#[test]
fn packs_that_are_mostly_dead_are_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    shell(
        dir.path(),
        "mkdir -p big small; n=0; while [ $n -lt 40 ]; do head -c 3000 /dev/urandom > big/$n; n=$((n + 1)); done; cp big/1* small",
    );
    seed(&store, &dir.path().join("big"), "big").unwrap();
    let small = seed(&store, &dir.path().join("small"), "small").unwrap();
    let expected = witness(&dir.path().join("small"), true);
    store.remove_ref("trees", "big").unwrap();
    let report = store.gc(&now()).unwrap();
    assert_eq!((report.compacted_packs, report.condemned_packs), (1, 1), "{report:?}");
    let packs =
        std::fs::read_dir(store.path().join("packs")).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len());
    assert!(packs.sum::<u64>() < 40_000);
    let fresh = Store::open(store.path()).unwrap();
    assert_eq!(fresh.verify(&guestctl::cache::VerifyOptions::default(), &Silent).unwrap().damage, []);
    for (store, name) in [(&store, "old"), (&fresh, "fresh")] {
        let target = dir.path().join(name);
        bring_back(store, &small, &target).unwrap();
        assert_eq!(witness(&target, true), expected);
    }
}

#[test]
fn what_is_in_use_stays() {
    let dir = tempfile::tempdir().unwrap();
    ordinary(dir.path());
    let store = store(dir.path());
    let tree = seed(&store, &dir.path().join("tree"), "tree").unwrap();
    let (manifest, lease) = store.use_tree(&tree).unwrap();
    store.remove_ref("trees", "tree").unwrap();
    let report = store.gc(&now()).unwrap();
    assert_eq!((report.condemned_bytes, report.live_trees), (0, 1), "{report:?}");
    drop((manifest, lease));
    assert!(store.gc(&now()).unwrap().deleted_bytes > 0);
    assert_eq!(
        store.restore(&tree, &dir.path().join("x"), &super::trees::options(), &Silent).unwrap_err().exit_code(),
        2
    );
}
