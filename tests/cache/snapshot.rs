//! Hot trees on btrfs: what a snapshot brings is what a restore brings, and never what somebody wrote to.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use guestctl::cache::{Digest, GcOptions, RestoreOptions, RestoreReport, Rewrite, Store, Strategy, Verify};
use guestctl::progress::Silent;

use super::program::guestctl;
use super::support::{have, root, shell, skipped};
use super::trees::{bring_back, options, ordinary, seed, store, witness};

/// A btrfs in a file, mounted.
struct Btrfs {
    dir: tempfile::TempDir,
}

impl Btrfs {
    fn new() -> Option<Self> {
        if !root() || !have("mkfs.btrfs") || !have("btrfs") {
            return None;
        }
        if !std::fs::read_to_string("/proc/filesystems").is_ok_and(|all| all.contains("\tbtrfs\n")) {
            skipped("needs a kernel with btrfs");
            return None;
        }
        let made = Self { dir: tempfile::tempdir().unwrap() };
        shell(made.dir.path(), "truncate -s 400M disk; mkfs.btrfs -q disk; mkdir m; mount -o loop disk m");
        Some(made)
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("m")
    }
}

impl Drop for Btrfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.path()).stderr(Stdio::null()).status();
    }
}

fn hot() -> RestoreOptions {
    RestoreOptions { strategy: Strategy::Snapshot, ..options() }
}

fn snapshot(store: &Store, tree: &Digest, target: &Path) -> RestoreReport {
    let report = store.restore(tree, target, &hot(), &Silent).unwrap();
    assert_eq!(report.snapshots, 1, "{report:?}");
    // The root of a subvolume.
    assert_eq!(std::fs::metadata(target).unwrap().ino(), 256);
    report
}

/// Hot trees and their records, by name.
fn kept(store: &Store) -> Vec<String> {
    let entries = std::fs::read_dir(store.path().join("subvolumes")).into_iter().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn facts(path: &Path) -> String {
    let more = "find . \\( -type b -o -type c -o -type p \\) | sort | xargs stat -c '%n %t:%T %a'; find . -print0 | sort -z | xargs -0 getfattr -hd -m - --absolute-names 2>/dev/null";
    let more = String::from_utf8_lossy(&shell(path, more).stdout).into_owned();
    format!("{}{more}", witness(path, true))
}

#[test]
fn a_snapshot_is_what_a_restore_makes() {
    let Some(btrfs) = Btrfs::new() else { return };
    ordinary(&btrfs.path());
    let source = btrfs.path().join("tree");
    shell(
        &source,
        "chown 1000:1001 etc/hostname; mknod null c 1 3; setfattr -n user.colour -v red etc/packed; chmod 0711 .; setfattr -n trusted.root -v s .",
    );
    let store = store(&btrfs.path());
    let tree = seed(&store, &source, "tree").unwrap();
    let target = |name: &str| btrfs.path().join(name);
    let ordinary = bring_back(&store, &tree, &target("ordinary")).unwrap();
    let expected = facts(&target("ordinary"));
    assert_eq!(facts(&source), expected);
    let first = snapshot(&store, &tree, &target("first"));
    assert_eq!(facts(&target("first")), expected);
    assert_eq!(RestoreReport { snapshots: 0, ..first.clone() }, ordinary);
    // A store that was made before knows that it has hot trees now.
    let version = Store::open(store.path()).unwrap().version().features.clone();
    assert!(version.compat.contains("subvolumes") && version.incompat.is_empty() && version.ro_compat.is_empty());
    // The name is a part of the layout, as everything that decides the result is of the name.
    let rest = format!("{:?} 0 0 None", hot().preserve);
    let name = Digest::derive("guestctl subvolume v1", [&tree.as_bytes()[..], b"", rest.as_bytes()]).hex();
    assert_eq!(kept(&store), [name.clone(), format!("{name}.json")]);
    shell(store.path(), &format!("btrfs property get subvolumes/{name} ro | grep -qx ro=true"));
    // What happens to one snapshot is nothing to the next; the one that the store keeps stays what it is.
    shell(&target("first"), "rm -r usr; echo changed > etc/hostname");
    let (kept_inode, again) = (inode(&store, &name), snapshot(&store, &tree, &target("second")));
    assert_eq!(facts(&target("second")), expected);
    assert_eq!((again.files, again.file_bytes, again.links), (first.files, first.file_bytes, first.links));
    assert_eq!((again.written_bytes, again.reflinked_files, again.packed_files, again.inline_files), (0, 0, 0, 0));
    // Another process, a third.
    let ran = guestctl([
        "cache".as_ref(),
        "--cache-dir".as_ref(),
        store.path().as_os_str(),
        "restore".as_ref(),
        "--strategy".as_ref(),
        "snapshot".as_ref(),
        "--preserve".as_ref(),
        "all".as_ref(),
        "--json".as_ref(),
        "-q".as_ref(),
        "tree".as_ref(),
        target("third").as_os_str(),
    ]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let report: serde_json::Value = serde_json::from_slice(&ran.out).unwrap();
    assert_eq!((report["snapshots"].as_u64(), report["reflinked_files"].as_u64()), (Some(1), Some(0)), "{report}");
    assert_eq!(facts(&target("third")), expected);
    assert_eq!(inode(&store, &name), kept_inode, "made anew without need");
    // Others options, another subvolume.
    let part = RestoreOptions { below: b"usr".to_vec(), ..hot() };
    store.restore(&tree, &target("part"), &part, &Silent).unwrap();
    shell(&btrfs.path(), "diff -r --no-dereference tree/usr part");
    assert_eq!(kept(&store).len(), 4);
    assert_eq!(store.stats(0).unwrap().subvolumes, 2);
    // A directory that exists is left alone, and nothing else is beside the targets.
    let refused = store.restore(&tree, &target("second"), &hot(), &Silent).unwrap_err();
    assert_eq!(refused.exit_code(), 1, "{refused}");
    shell(&btrfs.path(), "test -z \"$(find . -name '*.part' | head -1)\"");
}

fn inode(store: &Store, name: &str) -> String {
    let shown = shell(store.path(), &format!("btrfs subvolume show subvolumes/{name} | grep -m1 -w UUID:"));
    String::from_utf8_lossy(&shown.stdout).into_owned()
}

#[test]
fn a_hot_tree_that_was_written_to_is_made_anew() {
    let Some(btrfs) = Btrfs::new() else { return };
    ordinary(&btrfs.path());
    let store = store(&btrfs.path());
    let tree = seed(&store, &btrfs.path().join("tree"), "tree").unwrap();
    let expected = facts(&btrfs.path().join("tree"));
    snapshot(&store, &tree, &btrfs.path().join("first"));
    let name = kept(&store).remove(0);
    let tampered = [
        // Made to look untouched again, as far as that goes.
        "btrfs property set S ro false; echo evil > S/etc/hostname; btrfs property set S ro true",
        "btrfs property set S ro false; touch -d @0 S/etc/packed; btrfs property set S ro true",
        "btrfs property set S ro false",
        "btrfs subvolume delete S >/dev/null; mkdir S; echo evil > S/evil",
        "btrfs subvolume delete S >/dev/null; btrfs subvolume create S >/dev/null; echo evil > S/evil",
        "btrfs subvolume delete S >/dev/null",
        "rm S.json",
        "echo '{' > S.json",
    ];
    for (at, script) in tampered.iter().enumerate() {
        let script = script.replace('S', &format!("subvolumes/{name}"));
        shell(store.path(), &script);
        let target = btrfs.path().join(format!("after-{at}"));
        let report = snapshot(&store, &tree, &target);
        assert_eq!(facts(&target), expected, "{script}");
        assert!(report.written_bytes > 0, "{script}: {report:?}");
        // And that one is kept.
        let report = snapshot(&store, &tree, &btrfs.path().join(format!("kept-{at}")));
        assert_eq!(report.written_bytes, 0, "{script}: {report:?}");
    }
    // What was looked at less closely than is asked for is looked at.
    let first_use = Store::open(store.path()).unwrap().with_verification(Verify::FirstUse);
    assert!(snapshot(&first_use, &tree, &btrfs.path().join("looked")).written_bytes > 0);
    assert_eq!(snapshot(&first_use, &tree, &btrfs.path().join("looked-2")).written_bytes, 0);
    assert_eq!(snapshot(&store, &tree, &btrfs.path().join("trusted")).verified, Verify::FirstUse);
    let always = Store::open(store.path()).unwrap().with_verification(Verify::Always);
    assert!(snapshot(&always, &tree, &btrfs.path().join("always")).written_bytes > 0);
}

#[test]
fn gc_takes_hot_trees_whose_trees_are_gone_or_that_are_old() {
    let Some(btrfs) = Btrfs::new() else { return };
    ordinary(&btrfs.path());
    let store = store(&btrfs.path());
    let tree = seed(&store, &btrfs.path().join("tree"), "tree").unwrap();
    let now = GcOptions { grace: Duration::ZERO, ..GcOptions::default() };
    snapshot(&store, &tree, &btrfs.path().join("first"));
    assert_eq!(store.gc(&now).unwrap().removed_subvolumes, 0);
    assert_eq!(kept(&store).len(), 2);
    // Not used for long.
    shell(store.path(), "touch -d '10 days ago' subvolumes/*.json");
    let days = GcOptions { days: Some(5), ..now };
    let dry = store.gc(&GcOptions { dry_run: true, ..days }).unwrap();
    assert_eq!((dry.removed_subvolumes, kept(&store).len()), (1, 2), "{dry:?}");
    let report = store.gc(&days).unwrap();
    assert_eq!((report.removed_subvolumes, report.expired_refs), (1, 0), "{report:?}");
    assert_eq!(kept(&store), [""; 0]);
    // Too many bytes: the one that was not used for longest goes before what was used later.
    snapshot(&store, &tree, &btrfs.path().join("second"));
    shell(store.path(), "touch -d '10 days ago' subvolumes/*.json");
    let manifest = store.tree(&tree).unwrap();
    let blobs = (0..manifest.blobs()).map(|index| manifest.blob(index).unwrap().1).sum::<u64>();
    // There is room for the tree alone.
    let room = (manifest.as_bytes().len() as u64 + blobs).next_multiple_of(100);
    let report = store.gc(&GcOptions { max_size: Some(room), low_water: 100, ..now }).unwrap();
    assert_eq!((report.removed_subvolumes, report.expired_refs, report.live_trees), (1, 0, 1), "{report:?}");
    // With its tree, and what a killed program left.
    snapshot(&store, &tree, &btrfs.path().join("third"));
    let left = format!(".{}.4194304-0.part", tree.hex());
    shell(store.path(), &format!("btrfs subvolume create subvolumes/{left} > /dev/null; touch subvolumes/{left}/file"));
    store.remove_ref("trees", "tree").unwrap();
    let report = store.gc(&now).unwrap();
    assert_eq!((report.removed_subvolumes, report.condemned_trees), (2, 1), "{report:?}");
    assert_eq!(kept(&store), [""; 0]);
    // What was brought back stays.
    assert_eq!(facts(&btrfs.path().join("third")), facts(&btrfs.path().join("tree")));
}

#[test]
fn what_is_no_snapshot_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    ordinary(dir.path());
    let ordinary_store = store(dir.path());
    let tree = seed(&ordinary_store, &dir.path().join("tree"), "tree").unwrap();
    let rewrite = Rewrite { pairs: vec![(b"a".to_vec(), b"b".to_vec())], files: std::sync::Arc::new(|_| true) };
    let target = dir.path().join("target");
    for options in [
        RestoreOptions { rewrite: Some(rewrite), ..hot() },
        RestoreOptions { copy: Some(std::sync::Arc::new(|_| true)), ..hot() },
    ] {
        let error = ordinary_store.restore(&tree, &target, &options, &Silent).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{error}");
    }
    std::fs::create_dir(dir.path().join("there")).unwrap();
    let error = ordinary_store.update(&tree, &dir.path().join("there"), &hot(), &Silent).unwrap_err();
    assert_eq!(error.exit_code(), 2, "{error}");
    // The store on another filesystem than the target, and the other way round.
    let Some(btrfs) = Btrfs::new() else { return };
    let refused = |store: &Store, target: &Path| {
        let error = store.restore(&tree, target, &hot(), &Silent).unwrap_err();
        assert_eq!((error.exit_code(), error.hint().is_some_and(|hint| hint.contains("auto"))), (7, true), "{error}");
        assert!(!target.exists() && kept(store).is_empty());
    };
    refused(&ordinary_store, &btrfs.path().join("target"));
    let other = store(&btrfs.path());
    seed(&other, &dir.path().join("tree"), "tree").unwrap();
    refused(&other, Path::new("/dev/shm/guestctl-no-such-target"));
    let Some(second) = Btrfs::new() else { return };
    refused(&other, &second.path().join("target"));
}

#[test]
fn an_ordinary_user_has_snapshots_too() {
    let Some(btrfs) = Btrfs::new() else { return };
    if !have("setpriv") {
        return;
    }
    let user = "setpriv --reuid 65534 --regid 65534 --clear-groups --";
    let program = env!("CARGO_BIN_EXE_guestctl");
    // The program may lie where only root comes.
    shell(&btrfs.path(), &format!("cp {program} program; chmod 0755 program . ..; mkdir u; chown 65534:65534 u"));
    ordinary(&btrfs.path().join("u"));
    shell(&btrfs.path(), "chown -R 65534:65534 u");
    let run = format!("{user} ../program cache --cache-dir store");
    shell(
        &btrfs.path().join("u"),
        &format!(
            "{run} seed -q --name tree tree > /dev/null; {run} restore -q --strategy snapshot tree one > /dev/null
            {run} restore -q --json --strategy snapshot tree two > report; grep -q '\"written_bytes\": 0' report
            {run} restore -q tree three > /dev/null; diff -r --no-dereference -x fifo one three
            diff -r --no-dereference -x fifo two three; echo more >> two/etc/hostname
            rm store/refs/trees/tree; {run} gc --grace 0 > /dev/null; test -z \"$(ls store/subvolumes)\""
        ),
    );
}
