use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::*;
use crate::fs::{Timestamp, Xattr};

const TIMES: Timestamp = Timestamp { seconds: 1_000_000_000, nanoseconds: 123_456_789 };

fn plain(permissions: u32, xattrs: &[Xattr]) -> Attributes<'_> {
    Attributes { permissions, uid: 0, gid: 0, atime: TIMES, mtime: TIMES, xattrs }
}

fn write(tree: &Tree, path: &str, bytes: &[u8]) -> Result<()> {
    use std::io::Write;
    let mut new = tree.create_file(path.as_bytes(), &plain(0o640, &[]))?;
    new.file.write_all(bytes).unwrap();
    tree.finish(path.as_bytes(), &new, &plain(0o640, &[]))
}

#[test]
fn a_tree_of_everything_appears_with_its_attributes() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("out");
    let staged = StagedTree::create(&target, Preserve::default()).unwrap();
    let tree = &staged.tree;
    tree.create_dir(b"d").unwrap();
    tree.create_dir(b"d/e").unwrap();
    write(tree, "d/e/file", b"content").unwrap();
    tree.symlink(b"d/link", b"../../../etc/passwd", &plain(0o777, &[])).unwrap();
    assert!(tree.link(b"d/e/file", b"d/hard").unwrap());
    assert!(tree.link(b"d/link", b"d/hardlink").unwrap());
    assert!(tree.node(b"d/fifo", FileType::Fifo, None, &plain(0o666, &[])).unwrap());
    assert!(tree.node(b"d/socket", FileType::Socket, None, &plain(0o755, &[])).unwrap());
    let null = Some(DeviceNumber { major: 1, minor: 3 });
    assert!(!tree.node(b"d/null", FileType::Char, null, &plain(0o666, &[])).unwrap(), "not asked for");
    for (path, mode) in [(&b"d/e"[..], 0o555), (b"d", 0o700), (b"", 0o7755)] {
        tree.seal(path, &plain(mode, &[])).unwrap();
    }
    assert!(!target.exists());
    staged.publish(true, None, || Ok(())).unwrap();
    let stat = |path: &str| target.join(path).symlink_metadata().unwrap();
    for (path, mode) in
        [("", 0o1755), ("d", 0o700), ("d/e", 0o555), ("d/e/file", 0o640), ("d/fifo", 0o666), ("d/socket", 0o755)]
    {
        let stat = stat(path);
        assert_eq!(stat.permissions().mode() & 0o7777, mode, "{path}");
        assert_eq!((stat.mtime(), stat.mtime_nsec()), (1_000_000_000, 123_456_789), "{path}");
    }
    assert_eq!((stat("d/link").mtime_nsec(), stat("d/link").is_symlink()), (123_456_789, true));
    assert_eq!((stat("d/hard").ino(), stat("d/hard").nlink()), (stat("d/e/file").ino(), 2));
    assert_eq!(stat("d/hardlink").ino(), stat("d/link").ino());
    assert!(stat("d/fifo").file_type().is_fifo() && stat("d/socket").file_type().is_socket());
    assert_eq!(std::fs::read(target.join("d/hard")).unwrap(), b"content");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    std::fs::set_permissions(target.join("d/e"), std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn attributes_of_a_file_that_nobody_may_write_are_set() {
    let dir = tempfile::tempdir().unwrap();
    let tree = Tree::open(dir.path(), Preserve::default(), Existing::Refuse).unwrap();
    let xattrs = [
        Xattr { name: b"user.colour".to_vec(), value: b"red".to_vec() },
        Xattr { name: b"security.other".to_vec(), value: b"x".to_vec() },
    ];
    let attributes = plain(0o444, &xattrs);
    let new = tree.create_file(b"f", &attributes).unwrap();
    tree.finish(b"f", &new, &attributes).unwrap();
    let stat = dir.path().join("f").metadata().unwrap();
    assert_eq!((stat.permissions().mode() & 0o7777, stat.mtime_nsec()), (0o444, 123_456_789));
    let mut buffer = [0; 64];
    match rustix::fs::lgetxattr(dir.path().join("f"), "user.colour", &mut buffer[..]) {
        Ok(len) => assert_eq!(&buffer[..len], b"red"),
        Err(_) => assert_eq!(tree.refused(), [(Fact::UserXattrs, 1)], "this filesystem holds none"),
    }
    rustix::fs::lgetxattr(dir.path().join("f"), "security.other", &mut buffer[..]).unwrap_err();
}

#[test]
fn nothing_that_exists_is_written_into() {
    let dir = tempfile::tempdir().unwrap();
    let outside = dir.path().join("outside");
    std::fs::write(&outside, b"old").unwrap();
    let target = dir.path().join("target");
    std::fs::create_dir_all(target.join("d")).unwrap();
    std::fs::create_dir(dir.path().join("elsewhere")).unwrap();
    let fill = || {
        for name in ["link", "hard", "linked"] {
            let _ = std::fs::remove_file(target.join(name));
        }
        symlink(&outside, target.join("link")).unwrap();
        std::fs::hard_link(&outside, target.join("hard")).unwrap();
        symlink(dir.path().join("elsewhere"), target.join("linked")).unwrap();
    };
    fill();
    let refusing = Tree::open(&target, Preserve::default(), Existing::Refuse).unwrap();
    for name in ["link", "hard", "d"] {
        write(&refusing, name, b"new").unwrap_err();
        refusing.symlink(name.as_bytes(), b"x", &plain(0o777, &[])).unwrap_err();
    }
    refusing.create_dir(b"linked").unwrap_err();
    write(&refusing, "linked/x", b"new").unwrap_err();
    refusing.create_dir(b"d").unwrap();
    write(&refusing, "d/x", b"new").unwrap();

    let replacing = Tree::open(&target, Preserve::default(), Existing::Replace).unwrap();
    for name in ["link", "hard", "d/x"] {
        write(&replacing, name, b"new").unwrap();
        assert_eq!(std::fs::read(target.join(name)).unwrap(), b"new");
    }
    write(&replacing, "d", b"new").unwrap_err();
    write(&replacing, "linked/x", b"new").unwrap_err();
    replacing.create_dir(b"linked").unwrap();
    write(&replacing, "linked/x", b"new").unwrap();
    assert_eq!(std::fs::read(&outside).unwrap(), b"old");
    assert_eq!(std::fs::read_dir(dir.path().join("elsewhere")).unwrap().count(), 0);
}

#[test]
fn names_that_are_none_make_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("target");
    std::fs::create_dir(&target).unwrap();
    let tree = Tree::open(&target, Preserve::default(), Existing::Replace).unwrap();
    for name in ["", ".", "..", "../x", "/x", "a/../../x", "a\0b", "a//b", &"x".repeat(256)] {
        write(&tree, name, b"x").unwrap_err();
        tree.create_dir(name.as_bytes()).unwrap_err();
        tree.symlink(name.as_bytes(), b"t", &plain(0, &[])).unwrap_err();
        tree.node(name.as_bytes(), FileType::Fifo, None, &plain(0, &[])).unwrap_err();
        tree.link(name.as_bytes(), b"y").unwrap_err();
    }
    for target in [&b""[..], b"a\0b", &[b'x'; 70_000]] {
        tree.symlink(b"link", target, &plain(0, &[])).unwrap_err();
    }
    assert_eq!(std::fs::read_dir(&target).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_tree_is_removed_unless_it_is_published_and_stale_ones_go() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("out");
    let stale = dir.path().join(".out.4194304-0.part");
    std::fs::create_dir_all(stale.join("a/b")).unwrap();
    std::fs::create_dir(dir.path().join(".out.mine.part")).unwrap();
    let first = StagedTree::create(&target, Preserve::default()).unwrap();
    assert!(!stale.exists());
    let second = StagedTree::create(&target, Preserve::default()).unwrap();
    first.tree.create_dir(b"a").unwrap();
    write(&first.tree, "a/f", b"x").unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 3);
    drop(first);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    second.publish(true, None, || Ok(())).unwrap();
    StagedTree::create(&target, Preserve::default()).unwrap_err();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
}

#[test]
fn one_entry_of_a_tree_can_be_published_alone() {
    let dir = tempfile::tempdir().unwrap();
    for (name, taken) in [("file", false), ("taken", true)] {
        let target = dir.path().join(name);
        let staged = StagedTree::create(&target, Preserve::default()).unwrap();
        write(&staged.tree, "one", b"x").unwrap();
        if taken {
            std::fs::write(&target, b"old").unwrap();
        }
        assert_eq!(staged.publish(true, Some(b"one"), || Ok(())).is_err(), taken);
        assert_eq!(std::fs::read(&target).unwrap(), if taken { b"old".to_vec() } else { b"x".to_vec() });
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
}

#[test]
fn directories_made_before_their_turn_are_new_at_their_turn() {
    let dir = tempfile::tempdir().unwrap();
    let staged = StagedTree::create(&dir.path().join("out"), Preserve::default()).unwrap();
    write(&staged.tree, "a/b/f", b"x").unwrap_err();
    staged.tree.ensure_parents(b"a/b/f").unwrap();
    write(&staged.tree, "a/b/f", b"x").unwrap();
    staged.tree.ensure_parents(b"a/b/f").unwrap();
    assert!(staged.tree.create_dir(b"a").unwrap() && staged.tree.create_dir(b"a/b").unwrap());
    staged.tree.create_dir(b"a/b").unwrap_err();
    staged.tree.ensure_parents(b"../x/y").unwrap_err();
    let into = Tree::open(dir.path(), Preserve::default(), Existing::Refuse).unwrap();
    assert_eq!((into.create_dir(b"new").unwrap(), into.create_dir(b"new").unwrap()), (true, false));
}

#[test]
fn a_target_that_appeared_meanwhile_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("out");
    let staged = StagedTree::create(&target, Preserve::default()).unwrap();
    std::fs::create_dir(&target).unwrap();
    staged.publish(true, None, || Ok(())).unwrap_err();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    let other = dir.path().join("other");
    let staged = StagedTree::create(&other, Preserve::default()).unwrap();
    staged.publish(true, None, || Err(Error::invalid("the manifest"))).unwrap_err();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

/// Directories are swapped for links to a directory outside as fast as it goes, while files are made in them.
#[test]
fn swapping_directories_for_links_leads_nowhere() {
    let dir = tempfile::tempdir().unwrap();
    let outside = dir.path().join("outside");
    std::fs::create_dir_all(outside.join("b/c")).unwrap();
    let target = dir.path().join("target");
    std::fs::create_dir_all(target.join("a/b/c")).unwrap();
    let away = dir.path().join("away");
    let (stop, swaps) = (AtomicBool::new(false), AtomicU64::new(0));
    let wanted = if std::env::var_os("CI").is_some() { 10_000 } else { 100_000 };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                std::fs::rename(target.join("a"), &away).unwrap();
                symlink(&outside, target.join("a")).unwrap();
                std::fs::remove_file(target.join("a")).unwrap();
                std::fs::rename(&away, target.join("a")).unwrap();
                swaps.fetch_add(1, Ordering::Relaxed);
            }
        });
        let mut made = 0;
        while swaps.load(Ordering::Relaxed) < wanted {
            // A new tree each time, so that no directory is open already.
            for beneath in [Beneath::new(), Beneath::walking()] {
                let tree = Tree { beneath, ..Tree::open(&target, Preserve::default(), Existing::Replace).unwrap() };
                made += u32::from(write(&tree, "a/b/c/file", b"x").is_ok());
                made += u32::from(write(&tree, "a/file", b"x").is_ok());
                made += u32::from(tree.create_dir(b"a/b/dir").is_ok());
            }
        }
        stop.store(true, Ordering::Relaxed);
        assert!(made > 0);
    });
    let found = |path: &Path| std::fs::read_dir(path).unwrap().count();
    assert_eq!((found(&outside), found(&outside.join("b")), found(&outside.join("b/c"))), (1, 1, 0));
}
