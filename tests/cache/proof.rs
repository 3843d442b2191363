//! "First use" holds across processes, and a file that changed is looked at again.

use std::path::Path;
use std::time::Duration;

use guestctl::cache::{Digest, GcOptions, Store, Verify};

use super::support::shell;
use super::trees::{bring_back, ordinary, seed, store, witness};

/// Opened as another process would.
fn again(store: &Store) -> Store {
    Store::open(store.path()).unwrap().with_verification(Verify::FirstUse)
}

/// Proofs that are kept of a tree; each is a line of 32 bytes.
fn proofs(store: &Store, tree: &Digest) -> Vec<[u8; 32]> {
    let bytes = std::fs::read(store.path().join("proven").join(tree.hex())).unwrap_or_default();
    bytes.chunks_exact(32).map(|proof| proof.try_into().unwrap()).collect()
}

/// The file of the large object.
fn object(store: &Store, large: &Path) -> std::path::PathBuf {
    let hex = Digest::of(&std::fs::read(large).unwrap()).hex();
    store.path().join("objects").join(&hex[..2]).join(&hex[2..])
}

#[test]
fn what_was_looked_at_is_not_looked_at_again_until_it_changes() {
    let dir = tempfile::tempdir().unwrap();
    ordinary(dir.path());
    let source = dir.path().join("tree");
    let store = store(dir.path());
    let tree = seed(&store, &source, "tree").unwrap();
    let expected = witness(&source, true);
    let targets = std::cell::Cell::new(0);
    let restore = |store: &Store| {
        targets.set(targets.get() + 1);
        let target = dir.path().join(format!("target-{}", targets.get()));
        let restored = bring_back(store, &tree, &target);
        if restored.is_ok() {
            assert_eq!(witness(&target, true), expected);
        }
        restored
    };
    // Files that changed just now may change again without its showing.
    restore(&again(&store)).unwrap();
    assert_eq!(proofs(&store, &tree).len(), 0);
    std::thread::sleep(Duration::from_millis(3_100));
    // Levels that do not look prove nothing.
    restore(&store).unwrap();
    assert_eq!(proofs(&store, &tree).len(), 0);
    let blobs = {
        let first = again(&store);
        restore(&first).unwrap();
        let blobs = proofs(&store, &tree).len();
        restore(&first).unwrap();
        blobs
    };
    // The large one, small, packed and the sparse one's data; each content once.
    assert!((4..=6).contains(&blobs), "{blobs}");
    for _ in 0..2 {
        restore(&again(&store)).unwrap();
        assert_eq!(proofs(&store, &tree).len(), blobs, "looked at again");
    }
    // Anything that stat tells.
    let object = object(&store, &source.join("usr/bin/large"));
    std::thread::sleep(Duration::from_millis(20));
    shell(dir.path(), &format!("chmod 0600 {0}; chmod 0444 {0}", object.display()));
    std::thread::sleep(Duration::from_millis(3_100));
    restore(&again(&store)).unwrap();
    assert_eq!(proofs(&store, &tree).len(), blobs + 1, "not looked at again");
    // Lost, torn or overwritten, it costs a look and nothing else.
    let file = store.path().join("proven").join(tree.hex());
    for script in [
        "rm @",
        "truncate -s -5 @",
        "head -c 1000 /dev/urandom > @",
        "rm @ && rmdir $(dirname @)",
        "head -c 100000 /dev/zero > @",
    ] {
        shell(dir.path(), &script.replace('@', file.to_str().unwrap()));
        restore(&again(&store)).unwrap();
        restore(&again(&store)).unwrap();
        assert!(proofs(&store, &tree).len() >= blobs, "{script}");
    }
    // Other bytes, in a file that looks as it did to `trusted`.
    shell(
        dir.path(),
        &format!(
            "touch -r {0} looks; chmod u+w {0}; printf evil | dd of={0} conv=notrunc 2>/dev/null; chmod 0444 {0}; touch -r looks {0}",
            object.display()
        ),
    );
    assert_eq!(restore(&again(&store)).unwrap_err().exit_code(), 8);
    // They go with their tree.
    store.remove_ref("trees", "tree").unwrap();
    store.gc(&GcOptions { grace: Duration::ZERO, ..GcOptions::default() }).unwrap();
    assert!(!file.exists());
}
