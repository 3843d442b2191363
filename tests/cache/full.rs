//! A disk without room, and a store that nobody may write to.

use std::process::Command;

use guestctl::cache::{Store, Verify, VerifyOptions};
use guestctl::progress::Silent;

use super::support::{root, shell};
use super::trees::{bring_back, ordinary, seed, store, witness};

struct Tmpfs<'a>(&'a std::path::Path);

impl Drop for Tmpfs<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0).status();
    }
}

#[test]
fn a_full_disk_stores_nothing_by_halves_and_a_read_only_one_is_read() {
    if !root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    ordinary(dir.path());
    let mount = dir.path().join("m");
    shell(
        dir.path(),
        "mkdir m big; mount -t tmpfs -o size=8m none m; head -c 20000000 /dev/urandom > big/file; head -c 9000 /dev/urandom > big/small",
    );
    let _mounted = Tmpfs(&mount);
    let store = store(&mount);
    let tree = seed(&store, &dir.path().join("tree"), "tree").unwrap();
    let error = seed(&store, &dir.path().join("big"), "big").unwrap_err();
    assert_eq!(error.exit_code(), 4, "{error}");
    for left in ["staging", "leases"] {
        assert_eq!(std::fs::read_dir(store.path().join(left)).unwrap().count(), 0, "{left}");
    }
    assert!(store.get_ref("trees", "big").unwrap().is_none());
    assert_eq!(store.verify(&VerifyOptions::default(), &Silent).unwrap().damage, []);
    shell(dir.path(), "mount -o remount,ro m");
    let store = Store::open(store.path()).unwrap().with_verification(Verify::Always);
    assert!(!store.is_writable());
    let target = dir.path().join("target");
    bring_back(&store, &tree, &target).unwrap();
    assert_eq!(witness(&target, true), witness(&dir.path().join("tree"), true));
    assert_eq!(seed(&store, &dir.path().join("tree"), "x").unwrap_err().exit_code(), 1);
    shell(dir.path(), "mount -o remount,rw m");
}
