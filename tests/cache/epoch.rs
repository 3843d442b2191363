//! What was published without waiting for the disk, after the machine went down.

use std::path::{Path, PathBuf};

use guestctl::cache::{Digest, Durability, ImportOptions, Ref, Store, VerifyOptions};
use guestctl::ops::{CacheAddOptions, cache_seed};
use guestctl::progress::Silent;

use super::program::guestctl;
use super::support::shell;
use super::trees::{bring_back, ordinary, seed, store, witness};

fn seed_unsynced(store: &Store, directory: &Path, name: &str) -> Digest {
    let mut options = CacheAddOptions::default();
    options.import = ImportOptions { durability: Durability::None, keep_times: false };
    options.reference = Some(Ref::new("trees", name, Digest::of(b"")).unwrap());
    cache_seed(store, directory, &options, &Silent).unwrap().imported.tree
}

fn records(store: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(store.join("epochs")).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// As if the machine had been started anew since.
pub fn restart(store: &Path) {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let (other, prefix) = ("0badb007-0000-4000-8000-000000000000", boot.get(..8).unwrap());
    for record in records(store) {
        let text = std::fs::read_to_string(&record).unwrap().replace(boot.trim(), other);
        std::fs::remove_file(&record).unwrap();
        let name = record.file_name().unwrap().to_str().unwrap().replace(prefix, "0badb007");
        std::fs::write(record.with_file_name(name), text).unwrap();
    }
}

/// As a power cut leaves it: name, size, mode and times are right, bytes are not.
fn zero(path: &Path) {
    let script = "touch -r F looks; chmod u+w F; size=$(stat -c %s F); truncate -s 20 F; truncate -s $size F; chmod 0444 F; touch -r looks F; rm looks";
    shell(path.parent().unwrap(), &script.replace('F', path.file_name().unwrap().to_str().unwrap()));
}

fn object(store: &Path, content: &Path) -> PathBuf {
    let hex = Digest::of(&std::fs::read(content).unwrap()).hex();
    store.join("objects").join(&hex[..2]).join(&hex[2..])
}

fn names(store: &Store) -> Vec<String> {
    store.refs().unwrap().into_iter().map(|found| found.name).collect()
}

#[test]
fn objects_in_doubt_are_looked_at_and_lost_ones_go_with_their_trees() {
    let dir = tempfile::tempdir().unwrap();
    ordinary(dir.path());
    let source = dir.path().join("tree");
    shell(
        dir.path(),
        "mkdir safe more; head -c 200000 /dev/urandom > safe/large; head -c 900 /dev/urandom > safe/small",
    );
    let kept = store(dir.path());
    let path = kept.path().to_owned();
    let safe = seed(&kept, &dir.path().join("safe"), "safe").unwrap();
    type Damage = fn(&Path, &Path);
    let damages: [(&str, Damage, bool); 7] = [
        ("nothing", |_, _| {}, false),
        ("an object's bytes", |store, tree| zero(&object(store, &tree.join("usr/bin/large"))), true),
        ("an object", |store, tree| std::fs::remove_file(object(store, &tree.join("usr/bin/large"))).unwrap(), true),
        (
            "packs' bytes",
            |store, _| {
                let packs = std::fs::read_dir(store.join("packs")).unwrap().map(|entry| entry.unwrap().path());
                packs.filter(|path| path.extension().unwrap() == "pack").for_each(|path| zero(&path));
            },
            true,
        ),
        ("packs' names", |store, _| drop(shell(store, "rm packs/*")), true),
        ("a tree", |store, _| drop(shell(store, "rm trees/*/*.tree")), true),
        (
            "a tree's bytes",
            |store, _| drop(shell(store, "for f in trees/*/*.tree; do chmod u+w $f; : > $f; done")),
            true,
        ),
    ];
    for (what, damage, is_lost) in damages {
        let other = dir.path().join("other");
        let _ = std::fs::remove_dir_all(&other);
        std::fs::create_dir(&other).unwrap();
        let lost = store(&other);
        let tree = seed_unsynced(&lost, &source, "doubtful");
        assert_eq!(records(lost.path()).len(), 1, "{what}");
        // Of this boot it is no matter.
        drop(Store::open(lost.path()).unwrap());
        assert_eq!((records(lost.path()).len(), names(&lost)), (1, vec!["doubtful".to_owned()]));
        restart(lost.path());
        damage(lost.path(), &source);
        // Two at once.
        let opened = std::thread::scope(|scope| {
            let both = [scope.spawn(|| Store::open(lost.path())), scope.spawn(|| Store::open(lost.path()))];
            both.map(|thread| thread.join().unwrap().unwrap())
        });
        assert_eq!(records(lost.path()).len(), 0, "{what}");
        for store in &opened {
            let left = names(store);
            assert_eq!(left.is_empty(), is_lost, "{what}: {left:?}");
            assert_eq!(store.trees().unwrap().is_empty(), is_lost, "{what}");
            assert_eq!(store.verify(&VerifyOptions::default(), &Silent).unwrap().damage, [], "{what}");
        }
        // Again it is right.
        assert_eq!(seed(&opened[0], &source, "again").unwrap(), tree);
        let target = other.join("target");
        bring_back(&opened[1], &tree, &target).unwrap();
        assert_eq!(witness(&target, true), witness(&source, true), "{what}");
    }
    // What a safe tree needs stays, also what it shares with a lost one.
    shell(dir.path(), "cp safe/large more/large; cp tree/usr/bin/large more/lost");
    seed_unsynced(&kept, &dir.path().join("more"), "more");
    restart(&path);
    zero(&object(&path, &source.join("usr/bin/large")));
    let opened = Store::open(&path).unwrap();
    assert_eq!(names(&opened), ["safe"]);
    let target = dir.path().join("target");
    bring_back(&opened, &safe, &target).unwrap();
    assert_eq!(witness(&target, true), witness(&dir.path().join("safe"), true));
}

#[test]
fn an_image_whose_tree_was_lost_is_added_again() {
    let dir = tempfile::tempdir().unwrap();
    let image = Path::new(env!("CARGO_MANIFEST_DIR")).join("images/demo.qcow2");
    let path = dir.path().join("store");
    let cache = |arguments: &[&std::ffi::OsStr]| {
        let store = ["cache".as_ref(), "--cache-dir".as_ref(), path.as_os_str()];
        let ran = guestctl(store.iter().chain(arguments));
        assert_eq!(ran.code, 0, "{}", ran.err);
    };
    let add = "add -q --durability none --name demo".split(' ').map(std::ffi::OsStr::new);
    cache(&add.chain([image.as_os_str()]).collect::<Vec<_>>());
    let before = dir.path().join("before");
    // By its name: naming the tree again, as restoring an image does, would wait for the disk.
    cache(&["restore".as_ref(), "-q".as_ref(), "demo".as_ref(), before.as_os_str()]);
    assert_eq!(records(&path).len(), 1);
    restart(&path);
    shell(&path, "for pack in packs/*.pack; do chmod u+w $pack; truncate -s 100 $pack; done; rm -f objects/*/*");
    let after = dir.path().join("after");
    cache(&["restore".as_ref(), "-q".as_ref(), image.as_os_str(), after.as_os_str()]);
    assert_eq!(witness(&after, true), witness(&before, true));
    assert_eq!(records(&path).len(), 0);
}

#[test]
fn a_store_that_is_only_read_does_not_deliver_what_is_in_doubt_unseen() {
    let dir = tempfile::tempdir().unwrap();
    ordinary(dir.path());
    let source = dir.path().join("tree");
    let path = store(dir.path()).path().to_owned();
    let tree = seed_unsynced(&Store::open(&path).unwrap(), &source, "tree");
    restart(&path);
    shell(&path, "sed -i 's/\"ro_compat\": \\[\\]/\"ro_compat\": [\"later\"]/' VERSION.json");
    let target = |name: &str| dir.path().join(name);
    bring_back(&Store::open(&path).unwrap(), &tree, &target("sound")).unwrap();
    assert_eq!(witness(&target("sound"), true), witness(&source, true));
    zero(&object(&path, &source.join("usr/bin/large")));
    let error = bring_back(&Store::open(&path).unwrap(), &tree, &target("damaged")).unwrap_err();
    assert_eq!(error.exit_code(), 8, "{error}");
    assert_eq!(records(&path).len(), 1);
}

#[test]
fn a_record_goes_when_its_objects_are_on_the_disk_and_not_before() {
    let dir = tempfile::tempdir().unwrap();
    ordinary(dir.path());
    let source = dir.path().join("tree");
    let store = store(dir.path());
    let tree = seed_unsynced(&store, &source, "tree");
    // An import that goes on may publish after the next one's sync.
    let record = records(store.path()).remove(0);
    let lease = std::fs::File::create(store.path().join("leases").join(record.file_name().unwrap())).unwrap();
    rustix::fs::flock(&lease, rustix::fs::FlockOperation::LockExclusive).unwrap();
    shell(dir.path(), "mkdir more; head -c 20000 /dev/urandom > more/file");
    seed(&store, &dir.path().join("more"), "more").unwrap();
    assert_eq!(records(store.path()), [record]);
    drop(lease);
    // Whoever names the tree for good waits for it.
    store.set_ref(&Ref::new("trees", "second", tree).unwrap()).unwrap();
    assert_eq!(records(store.path()).len(), 0);
    seed_unsynced(&store, &source, "tree");
    assert_eq!(records(store.path()).len(), 1);
    seed(&store, &dir.path().join("more"), "more").unwrap();
    assert_eq!(records(store.path()).len(), 0);
}
