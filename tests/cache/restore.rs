//! A directory goes in and comes out the same, by every way.

use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use guestctl::cache::{RestoreOptions, Rewrite, Strategy};
use guestctl::progress::Silent;

use super::support::{root, shell};
use super::trees::{bring_back, options, ordinary, seed, store, witness};

#[test]
fn a_directory_comes_back_by_every_strategy() {
    let dir = tempfile::tempdir().unwrap();
    ordinary(dir.path());
    let source = dir.path().join("tree");
    let store = store(dir.path());
    let tree = seed(&store, &source, "tree").unwrap();
    let expected = witness(&source, true);
    for strategy in [Strategy::Auto, Strategy::Copy, Strategy::Pack] {
        let target = dir.path().join(format!("{strategy:?}"));
        let options = RestoreOptions { strategy, ..options() };
        let report = store.restore(&tree, &target, &options, &Silent).unwrap();
        assert_eq!(witness(&target, true), expected, "{strategy:?}");
        assert_eq!((report.files, report.symlinks, report.links), (12, 2, 2), "{report:?}");
        assert_eq!((report.inline_files, report.empty_files, report.packed_files), (4, 2, 4), "{report:?}");
        // Holes are holes again.
        let sparse = std::fs::metadata(target.join("var/sparse")).unwrap();
        assert!(sparse.blocks() * 512 < 100_000 && sparse.len() == 3 << 20, "{sparse:?}");
    }
    // The same tree again is the same tree.
    assert_eq!(seed(&store, &source, "again").unwrap(), tree);
    assert_eq!(seed(&store, &dir.path().join("Auto"), "restored").unwrap(), tree);
}

#[test]
fn read_only_trees_are_names_of_the_store() {
    let dir = tempfile::tempdir().unwrap();
    ordinary(dir.path());
    let source = dir.path().join("tree");
    let store = store(dir.path());
    let tree = seed(&store, &source, "tree").unwrap();
    let refused = store.restore(
        &tree,
        &dir.path().join("x"),
        &RestoreOptions { strategy: Strategy::Hardlink, ..options() },
        &Silent,
    );
    assert_eq!(refused.unwrap_err().exit_code(), 2);
    let hard = RestoreOptions { strategy: Strategy::Hardlink, read_only: true, ..options() };
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    for target in [&one, &two] {
        let report = store.restore(&tree, target, &hard, &Silent).unwrap();
        assert!(report.hardlinked_files == 6, "{report:?}");
    }
    let inode = |path: &std::path::Path| std::fs::metadata(path.join("usr/bin/large")).unwrap().ino();
    assert_eq!(inode(&one), inode(&two));
    let without_links = |text: String| text.lines().map(|line| line.replace(" 4 ", " ")).collect::<Vec<_>>().len();
    assert_eq!(without_links(witness(&one, true)), without_links(witness(&source, true)));
    shell(dir.path(), "diff -r --no-dereference -x fifo tree one");
}

#[test]
fn parts_copies_and_replaced_strings() {
    let dir = tempfile::tempdir().unwrap();
    ordinary(dir.path());
    let source = dir.path().join("tree");
    shell(
        &source,
        "printf '#!/old/bin/sh\necho /old/lib\n' > usr/bin/script; (cat usr/bin/small; printf '/old/x') > usr/bin/program",
    );
    let store = store(dir.path());
    let tree = seed(&store, &source, "tree").unwrap();
    // A part, whose first name of a file lies outside.
    let part = dir.path().join("part");
    store.restore(&tree, &part, &RestoreOptions { below: b"var".to_vec(), ..options() }, &Silent).unwrap();
    shell(dir.path(), "diff -r --no-dereference -x fifo tree/var part && test -p part/fifo");
    let missing = RestoreOptions { below: b"var/none".to_vec(), ..options() };
    assert_eq!(store.restore(&tree, &dir.path().join("y"), &missing, &Silent).unwrap_err().exit_code(), 9);
    let rewrite = Rewrite {
        pairs: vec![(b"/old".to_vec(), b"/new".to_vec())],
        files: Arc::new(|path| path.starts_with(b"usr/bin/")),
    };
    let rewritten = dir.path().join("rewritten");
    let report =
        store.restore(&tree, &rewritten, &RestoreOptions { rewrite: Some(rewrite), ..options() }, &Silent).unwrap();
    assert_eq!(report.rewritten_files, 2);
    shell(dir.path(), "sed 's,/old,/new,g' tree/usr/bin/script | cmp - rewritten/usr/bin/script");
    shell(
        dir.path(),
        "sed 's,/old,/new,g' tree/usr/bin/program | cmp - rewritten/usr/bin/program; cmp tree/usr/bin/large rewritten/usr/bin/large",
    );
    // Nothing of that reached the store.
    let clean = dir.path().join("clean");
    bring_back(&store, &tree, &clean).unwrap();
    assert_eq!(witness(&clean, true), witness(&source, true));
}

#[test]
fn an_update_changes_what_differs() {
    let dir = tempfile::tempdir().unwrap();
    ordinary(dir.path());
    let source = dir.path().join("tree");
    let store = store(dir.path());
    let tree = seed(&store, &source, "tree").unwrap();
    let target = dir.path().join("target");
    bring_back(&store, &tree, &target).unwrap();
    let untouched = store.update(&tree, &target, &options(), &Silent).unwrap();
    assert_eq!((untouched.replaced, untouched.removed), (0, 0), "{untouched:?}");
    shell(
        &target,
        "rm -r etc/ssh usr/bin/large; printf changed > etc/hostname; mkdir -p more/than; touch more/than/before; rm usr/link
         ln -s elsewhere usr/link; chmod 0640 etc/packed; rm -r empty; printf file > empty; ln -s /etc outside",
    );
    let report = store.update(&tree, &target, &options(), &Silent).unwrap();
    assert_eq!(report.removed, 2, "{report:?}");
    assert_eq!(witness(&target, true), witness(&source, true));
}

#[test]
fn an_existing_target_is_left_alone_and_a_failed_restore_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    ordinary(dir.path());
    let store = store(dir.path());
    let tree = seed(&store, &dir.path().join("tree"), "tree").unwrap();
    let target = dir.path().join("target");
    std::fs::create_dir(&target).unwrap();
    std::fs::write(target.join("mine"), "mine").unwrap();
    bring_back(&store, &tree, &target).unwrap_err();
    assert_eq!(std::fs::read(target.join("mine")).unwrap(), b"mine");
    struct Stop;
    impl guestctl::progress::Progress for Stop {
        fn advance(&self, _: u64) {}
        fn cancelled(&self) -> bool {
            true
        }
    }
    let stopped = store.restore(&tree, &dir.path().join("stopped"), &options(), &Stop);
    assert_eq!(stopped.unwrap_err().exit_code(), 130);
    let names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(names.iter().all(|name| ["tree", "store", "target"].iter().any(|known| name == known)), "{names:?}");
}

#[test]
fn roots_own_facts_come_back() {
    if !root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    ordinary(dir.path());
    let source = dir.path().join("tree");
    shell(
        &source,
        "chown 1000:1001 etc/hostname usr/bin/large; chown -h 33:44 usr/link; mknod null c 1 3; mknod disk b 8 17; chmod 2755 usr/bin
         chown 5:5 usr/bin/small; chmod 6755 usr/bin/small; setfattr -n user.colour -v red etc/packed
         setfattr -n trusted.secret -v s etc; setfattr -n security.capability -v 0x0100000200200000000000000000000000000000 usr/bin/copy
         setfacl -m u:1234:r etc/hostname 2>/dev/null || true",
    );
    let store = store(dir.path());
    let tree = seed(&store, &source, "tree").unwrap();
    let target = dir.path().join("target");
    let report = bring_back(&store, &tree, &target).unwrap();
    assert_eq!((report.nodes, report.nodes_left_out, report.refused.len()), (3, 0, 0), "{report:?}");
    let facts = "find . -type b -o -type c | sort | xargs stat -c '%n %t:%T %a'; getfattr -Rhd -m - --absolute-names . 2>/dev/null | sort";
    let text = |path| String::from_utf8_lossy(&shell(path, facts).stdout).into_owned();
    assert_eq!(text(&target), text(&source));
    assert!(text(&source).contains("security.capability"), "{}", text(&source));
    assert_eq!(witness(&target, true), witness(&source, true));
}
