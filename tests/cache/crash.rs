//! Killed anywhere, or cut off from power: nothing is lost that was reported stored, and what is left is whole.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use guestctl::cache::{GcOptions, Store, Verify, VerifyOptions};
use guestctl::progress::Silent;

use super::program::{guestctl, program};
use super::support::{have, root, shell};
use super::trees::{bring_back, ordinary, seed, store, witness};

fn seed_command(store: &Path, tree: &Path, name: &str) -> Command {
    let mut command = program();
    command.args(["cache", "--cache-dir"]).arg(store).args(["seed", "-q", "--json", "--name", name]).arg(tree);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

fn whole(store: &Path) -> Store {
    let store = Store::open(store).unwrap().with_verification(Verify::Always);
    let report = store.verify(&VerifyOptions::default(), &Silent).unwrap();
    assert_eq!(report.damage, []);
    store
}

#[test]
fn a_killed_import_leaves_a_whole_store_and_the_next_one_succeeds() {
    let dir = tempfile::tempdir().unwrap();
    ordinary(dir.path());
    let tree = dir.path().join("tree");
    shell(
        &tree,
        "mkdir many; n=0; while [ $n -lt 300 ]; do head -c $((n * 90)) /dev/urandom > many/$n; n=$((n + 1)); done",
    );
    let kept = store(dir.path());
    let first = seed(&kept, &tree, "first").unwrap();
    let expected = witness(&tree, true);
    let path = kept.path().to_owned();
    // How long one takes decides where it is killed.
    shell(&tree, "head -c 200000 /dev/urandom > new");
    let started = Instant::now();
    assert!(seed_command(&path, &tree, "timed").status().unwrap().success());
    let whole_run = started.elapsed();
    let points = 40u32;
    for point in 0..points {
        shell(&tree, "head -c 200000 /dev/urandom > new; head -c 900 /dev/urandom > many/new");
        let mut child = seed_command(&path, &tree, &format!("killed-{point}")).spawn().unwrap();
        std::thread::sleep(whole_run * point / points);
        child.kill().unwrap();
        let ended = child.wait().unwrap();
        let store = whole(&path);
        let named = store.get_ref("trees", &format!("killed-{point}")).unwrap();
        assert!(named.is_some() || !ended.success(), "reported stored, and is not");
        if let Some(named) = named {
            let target = dir.path().join("killed");
            bring_back(&store, &named.tree, &target).unwrap();
            assert_eq!(witness(&target, true), witness(&tree, true));
            std::fs::remove_dir_all(&target).unwrap();
        }
    }
    // What is left of the dead goes with the next gc, and the living stays.
    let store = Store::open(&path).unwrap();
    let options = GcOptions { grace: Duration::ZERO, ..GcOptions::default() };
    store.gc(&options).unwrap();
    for left in ["staging", "leases"] {
        // A file that was to become a record has nobody's name; it goes when it is old.
        let names = std::fs::read_dir(path.join(left)).unwrap().map(|entry| entry.unwrap().file_name());
        let names: Vec<_> = names.filter(|name| !name.to_string_lossy().starts_with("record-")).collect();
        assert!(names.is_empty(), "{left}: {names:?}");
    }
    let store = whole(&path);
    let target = dir.path().join("target");
    bring_back(&store, &first, &target).unwrap();
    assert_eq!(witness(&target, true), expected);
}

#[test]
fn a_killed_gc_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = store(dir.path()).path().to_owned();
    let mut trees = Vec::new();
    for number in 0..12 {
        shell(
            dir.path(),
            &format!(
                "mkdir t{number}; cd t{number}; n=0; while [ $n -lt 30 ]; do head -c $((200 + n * 900)) /dev/urandom > $n; n=$((n + 1)); done"
            ),
        );
        let store = Store::open(&path).unwrap();
        trees.push(seed(&store, &dir.path().join(format!("t{number}")), &format!("t{number}")).unwrap());
    }
    for round in 0..12u64 {
        let store = Store::open(&path).unwrap();
        let number = round as usize;
        if number % 2 == 1 {
            store.remove_ref("trees", &format!("t{number}")).unwrap();
        }
        let mut command = program();
        command.args(["cache", "--cache-dir"]).arg(&path).args(["gc", "--grace", "0"]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(round));
        child.kill().unwrap();
        child.wait().unwrap();
        let store = whole(&path);
        for (number, tree) in trees.iter().enumerate().filter(|(other, _)| other % 2 == 0 || *other > number) {
            let target = dir.path().join("back");
            bring_back(&store, tree, &target).unwrap_or_else(|error| panic!("t{number} after round {round}: {error}"));
            assert_eq!(witness(&target, false), witness(&dir.path().join(format!("t{number}")), false));
            std::fs::remove_dir_all(&target).unwrap();
        }
    }
}

#[test]
fn a_killed_restore_leaves_no_half_tree_and_the_next_one_succeeds() {
    let dir = tempfile::tempdir().unwrap();
    ordinary(dir.path());
    let tree = dir.path().join("tree");
    shell(
        &tree,
        "mkdir many; n=0; while [ $n -lt 600 ]; do head -c $((n * 70)) /dev/urandom > many/$n; n=$((n + 1)); done",
    );
    let path = {
        let store = store(dir.path());
        seed(&store, &tree, "tree").unwrap();
        store.path().to_owned()
    };
    let expected = witness(&tree, false);
    let targets = dir.path().join("targets");
    std::fs::create_dir(&targets).unwrap();
    let target = targets.join("target");
    let command = |update: bool| {
        let mut command = program();
        command.args(["cache", "--cache-dir"]).arg(&path).args(["restore", "-q", "--preserve", "default,setid"]);
        command.args(update.then_some("--update")).arg("tree").arg(&target);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    let started = Instant::now();
    assert!(command(false).status().unwrap().success());
    let whole_run = started.elapsed();
    assert_eq!(witness(&target, false), expected);
    let points = 24u32;
    let mut halves = 0;
    for point in 0..points {
        // An update is no restore: what it leaves is a part, and the next one completes it.
        let update = point % 3 == 2;
        if update {
            shell(&targets, "mkdir -p target; rm -rf target/many/1* target/usr; echo more > target/more");
        } else {
            shell(&targets, "rm -rf target");
        }
        let mut child = command(update).spawn().unwrap();
        std::thread::sleep(whole_run * point / points);
        child.kill().unwrap();
        let ended = child.wait().unwrap();
        halves += u32::from(!ended.success());
        if !update {
            assert!(target.exists() || !ended.success());
        }
        if target.exists() && !update {
            assert_eq!(witness(&target, false), expected, "half a tree under its name");
        } else {
            assert!(command(update).status().unwrap().success());
            assert_eq!(witness(&target, false), expected, "after point {point}");
        }
        // What the dead left beside it is gone by the next one of that name.
        shell(&targets, "mv target kept");
        assert!(command(false).status().unwrap().success());
        let names: Vec<_> = std::fs::read_dir(&targets).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(names.len() == 2, "{names:?}");
        shell(&targets, "rm -rf kept");
        whole(&path);
    }
    assert!(halves > 0, "killed too late each time");
}

/// A filesystem in a file, that can be cut off.
struct Cut<'a> {
    dir: &'a Path,
}

impl Cut<'_> {
    fn mount(&self) {
        shell(self.dir, "mkdir -p m; mount -o loop disk m");
    }

    /// As a power cut: what is not on the disk never gets there.
    fn power(&self) {
        shell(self.dir, "xfs_io -x -c shutdown m; umount m");
    }
}

impl Drop for Cut<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.dir.join("m")).stderr(Stdio::null()).status();
    }
}

#[test]
fn a_power_cut_loses_nothing_that_was_reported_stored() {
    if !root() || !have("xfs_io") || !have("mkfs.xfs") || !have("mkfs.ext4") {
        return;
    }
    for mkfs in ["mkfs.xfs -q -f", "mkfs.ext4 -q -F"] {
        let dir = tempfile::tempdir().unwrap();
        ordinary(dir.path());
        let tree = dir.path().join("tree");
        shell(
            &tree,
            "mkdir many; n=0; while [ $n -lt 400 ]; do head -c $((n * 70)) /dev/urandom > many/$n; n=$((n + 1)); done",
        );
        let expected = witness(&tree, false);
        shell(dir.path(), &format!("truncate -s 400M disk; {mkfs} disk"));
        let cut = Cut { dir: dir.path() };
        cut.mount();
        let path = dir.path().join("m/store");
        let id = {
            let store = store(&dir.path().join("m"));
            seed(&store, &tree, "stored").unwrap()
        };
        cut.power();
        cut.mount();
        let store = whole(&path);
        assert_eq!(store.get_ref("trees", "stored").unwrap().unwrap().tree, id, "{mkfs}");
        let target = dir.path().join("target");
        bring_back(&store, &id, &target).unwrap();
        assert_eq!(witness(&target, false), expected, "{mkfs}");
        std::fs::remove_dir_all(&target).unwrap();
        drop(store);
        // Without waiting for the disk nothing is promised but that no wrong byte comes out.
        shell(&tree, "rm -r many/1*; head -c 3000000 /dev/urandom > unsynced");
        let ran = guestctl([
            "cache".as_ref(),
            "--cache-dir".as_ref(),
            path.as_os_str(),
            "seed".as_ref(),
            "--durability".as_ref(),
            "none".as_ref(),
            "-q".as_ref(),
            "--name".as_ref(),
            "doubtful".as_ref(),
            tree.as_os_str(),
        ]);
        assert_eq!(ran.code, 0, "{}", ran.err);
        cut.power();
        cut.mount();
        // The machine was not started anew in truth; with another boot the record has all of it looked at.
        super::epoch::restart(&path);
        let store = whole(&path);
        if let Ok(Some(named)) = store.get_ref("trees", "doubtful") {
            bring_back(&store, &named.tree, &target).unwrap();
            assert_eq!(witness(&target, false), witness(&tree, false), "{mkfs}");
            std::fs::remove_dir_all(&target).unwrap();
        }
        // Added again it is right, whatever was left of it.
        let again = seed(&store, &tree, "again").unwrap();
        bring_back(&store, &again, &target).unwrap();
        assert_eq!(witness(&target, false), witness(&tree, false), "{mkfs}");
        std::fs::remove_dir_all(&target).unwrap();
        bring_back(&store, &id, &target).unwrap();
        assert_eq!(witness(&target, false), expected, "{mkfs}");
        drop(store);
    }
}
