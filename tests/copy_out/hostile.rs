//! Trees that want to lead out of the target. Each is copied in every way, and what lies around the target is what it was.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::program::program;
use super::support::{have, root, shell};

/// An image in `at/guest.raw` made from a shell script that fills `t`; then each name is overwritten by another of the same
/// length wherever a directory has it.
fn build(at: &Path, script: &str, more: &str, renames: &[(&[u8], &[u8])]) {
    let options = "-t ext4 -b 1024 -O ^metadata_csum,^dir_index,^inline_data,^has_journal";
    shell(at, &format!("mkdir t; {script}; mke2fs -q {options} -d t guest.raw 8M; rm -rf t; {more}"));
    let image = at.join("guest.raw");
    let mut bytes = std::fs::read(&image).unwrap();
    for (old, new) in renames {
        assert_eq!(old.len(), new.len());
        // As a directory entry has it: the length and some type before the name.
        let places: Vec<_> = (2..bytes.len() - old.len())
            .filter(|at| bytes[*at..].starts_with(old) && bytes[at - 2] == old.len() as u8 && bytes[at - 1] < 8)
            .collect();
        assert!(!places.is_empty(), "{}", String::from_utf8_lossy(old));
        for place in places {
            bytes[place..place + new.len()].copy_from_slice(new);
        }
    }
    std::fs::write(image, bytes).unwrap();
}

/// Everything below a directory but what is at or below `except`, with what it is, when it was changed, and its content.
fn around(top: &Path, except: &[&str]) -> BTreeMap<PathBuf, (u32, u64, i64, i64, Option<String>)> {
    let mut found = BTreeMap::new();
    let mut rest = vec![top.to_owned()];
    while let Some(path) = rest.pop() {
        let relative = path.strip_prefix(top).unwrap();
        if except.iter().any(|except| relative.starts_with(except)) {
            continue;
        }
        let metadata = path.symlink_metadata().unwrap();
        if metadata.is_dir() {
            rest.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        let content = metadata.is_file().then(|| blake3::hash(&std::fs::read(&path).unwrap()).to_hex().to_string());
        // The top's own change when the target is made.
        let (links, seconds, nanoseconds) =
            if path == top { (0, 0, 0) } else { (metadata.nlink(), metadata.ctime(), metadata.ctime_nsec()) };
        found.insert(relative.to_owned(), (metadata.mode(), links, seconds, nanoseconds, content));
    }
    found
}

struct Case {
    name: &'static str,
    script: &'static str,
    more: &'static str,
    renames: &'static [(&'static [u8], &'static [u8])],
    /// What must be there after a plain copy, and what must not.
    there: &'static [&'static str],
}

const CASES: &[Case] = &[
    Case {
        name: "names that go up, that are the directory itself, that have slashes and NULs",
        script: "mkdir -p t/a/qq t/b/q t/c t/d t/e; echo x >t/a/qq/pwned; echo x >t/c/up2up2outside2pwned; echo x >t/d/n0l; \
                 mkdir t/e/q2abs; echo x >t/fine",
        more: "true",
        renames: &[
            (b"qq", b".."),
            (b"q", b"."),
            (b"up2up2outside2pwned", b"../../outside/pwned"),
            (b"n0l", b"n\0l"),
            (b"q2abs", b"/abs/"),
        ],
        there: &["fine"],
    },
    Case {
        name: "a link and a directory of the same name, in both orders",
        script: "mkdir -p t/a t/b; ln -s ../../outside t/a/lnk1; mkdir t/a/lnk2; echo x >t/a/lnk2/pwned; \
                 mkdir t/b/dup1; echo x >t/b/dup1/pwned; ln -s ../../outside t/b/dup2; echo x >t/fine",
        more: "true",
        renames: &[(b"lnk2", b"lnk1"), (b"dup2", b"dup1")],
        there: &["fine"],
    },
    Case {
        name: "a link and a file of the same name, a file twice",
        script: "mkdir t/a t/b; ln -s ../../outside/file t/a/lnk1; echo x >t/a/lnk2; echo 1 >t/b/dup1; echo 2 >t/b/dup2; echo x >t/fine",
        more: "true",
        renames: &[(b"lnk2", b"lnk1"), (b"dup2", b"dup1")],
        there: &["fine", "b/dup1"],
    },
    Case {
        name: "links to everywhere, and hard links to them",
        script: "mkdir t/a t/z; ln -s / t/a/root; ln -s ../../outside t/a/out; ln -s ../../outside/file t/a/file; \
                 ln -P t/a/file t/z/hard; ln -P t/a/out t/z/out; ln -s . t/a/self; ln -s \"$(printf 'x/%.0s' $(seq 400))\" t/a/long",
        more: "true",
        renames: &[],
        there: &["a/root", "z/hard", "z/out", "a/long"],
    },
    Case {
        name: "a directory that is in itself",
        script: "mkdir -p t/deep/a/b t/z; echo x >t/deep/a/b/file; echo x >t/fine",
        more: "debugfs -w -R 'link /deep/a /deep/a/b/again' guest.raw 2>/dev/null; \
               debugfs -w -R 'link /deep /z/twice' guest.raw 2>/dev/null",
        renames: &[],
        there: &["fine", "deep/a/b/file"],
    },
    Case {
        name: "names that differ in case",
        script: "mkdir t/Twin t/twin; echo 1 >t/Twin/x; echo 2 >t/twin/x; echo 1 >t/A; echo 2 >t/a",
        more: "true",
        renames: &[],
        there: &["Twin/x", "twin/x", "A", "a"],
    },
    Case {
        name: "a link whose target is as long as can be said",
        script: "mkdir t/a; ln -s \"$(printf 'x/%.0s' $(seq 400))\" t/a/long; echo x >t/fine",
        more: "debugfs -w -R 'set_inode_field /a/long size 65535' guest.raw 2>/dev/null",
        renames: &[],
        there: &["fine"],
    },
    Case {
        name: "a file that says it is larger than any host's, of holes",
        script: "truncate -s 1M t/holes; echo x >t/fine",
        more: "debugfs -w -R 'set_inode_field /holes size 9223372036854775807' guest.raw 2>/dev/null",
        renames: &[],
        there: &["fine"],
    },
    Case {
        name: "devices and set-user-ID programs",
        script: "cp /bin/true t/suid; chmod 6755 t/suid; mkfifo t/fifo",
        more: "debugfs -w -R 'mknod null c 1 3' guest.raw 2>/dev/null; debugfs -w -R 'mknod disk b 8 0' guest.raw 2>/dev/null",
        renames: &[],
        there: &["suid", "fifo"],
    },
];

#[test]
fn hostile_trees_change_nothing_outside_the_target() {
    if !have("mke2fs") || !have("debugfs") {
        return;
    }
    let ways: &[&[&str]] = &[&[], &["--preserve", "all"], &["--into"], &["--into", "--overwrite", "--preserve", "all"]];
    for case in CASES {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        build(at, case.script, case.more, case.renames);
        shell(at, "mkdir outside; echo kept >outside/file");
        for (number, way) in ways.iter().enumerate() {
            let out = format!("out{number}");
            let into = way.contains(&"--into");
            if into {
                // The directory is hostile, too.
                std::fs::create_dir(at.join(&out)).unwrap();
                for name in ["a", "b", "deep", "fine", "Twin", "suid", "lost+found"] {
                    symlink("../outside", at.join(&out).join(name)).unwrap();
                }
            }
            let manifest = format!("{out}.guestctl-manifest.jsonl");
            let except = [out.as_str(), manifest.as_str()];
            let before = around(at, &except);
            let mut command = program();
            command.args(["copy-out", "-q", "-m", "/dev/sda"]).args(*way).args(["guest.raw", "/", &out]);
            let output = command.current_dir(at).output().unwrap();
            let complaints = String::from_utf8_lossy(&output.stderr).into_owned();
            let code = output.status.code();
            assert!(matches!(code, Some(0 | 3)), "{} {way:?}: {code:?} {complaints}", case.name);
            assert_eq!(around(at, &except), before, "{} {way:?}", case.name);
            if !into {
                for path in case.there {
                    let found = at.join(&out).join(path).symlink_metadata();
                    assert!(found.is_ok(), "{} {way:?}: {path} is missing: {complaints}", case.name);
                }
            }
            if way.is_empty() {
                let odd = shell(at, &format!("find {out} -type b -o -type c -o -perm /6000"));
                assert_eq!(odd.stdout, b"", "{}", case.name);
            }
        }
    }
}

/// Another process swaps directories of the target for links to a directory outside, all the while.
#[test]
fn swapping_directories_during_a_copy_leads_nowhere() {
    if !have("mke2fs") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    shell(
        at,
        "mkdir -p t/a/b outside/b; for n in $(seq 300); do echo $n >t/a/$n; echo $n >t/a/b/$n; done
         mke2fs -q -t ext4 -N 2048 -d t guest.raw 16M; rm -r t; echo kept >outside/file",
    );
    let before = around(&at.join("outside"), &[]);
    let stop = AtomicBool::new(false);
    let (out, away) = (at.join("into/a"), at.join("away"));
    std::fs::create_dir(at.join("into")).unwrap();
    let rounds = if std::env::var_os("CI").is_some() { 20 } else { 100 };
    let mut copied = 0;
    let swaps = std::thread::scope(|scope| {
        let swapper = scope.spawn(|| {
            let mut swaps = 0u64;
            while !stop.load(Ordering::Relaxed) {
                if std::fs::rename(&out, &away).is_ok() {
                    let _ = symlink("../outside", &out);
                    let _ = std::fs::remove_file(&out);
                    // What the copy has made there meanwhile goes first.
                    let _ = std::fs::remove_dir_all(&out);
                    let _ = std::fs::rename(&away, &out);
                    swaps += 1;
                }
            }
            swaps
        });
        for _ in 0..rounds {
            let mut command = program();
            command.args([
                "copy-out",
                "-q",
                "--no-sync",
                "--into",
                "--overwrite",
                "-m",
                "/dev/sda",
                "guest.raw",
                "/",
                "into",
            ]);
            let output = command.current_dir(at).output().unwrap();
            assert!(matches!(output.status.code(), Some(0 | 1 | 3)), "{}", String::from_utf8_lossy(&output.stderr));
            copied += u32::from(at.join("into").read_dir().unwrap().count() > 0);
        }
        stop.store(true, Ordering::Relaxed);
        swapper.join().unwrap()
    });
    assert!(swaps > 100 && copied > 0, "{swaps} swaps");
    assert_eq!(around(&at.join("outside"), &[]), before, "after {swaps} swaps");
}

/// A copy into a directory that hands down a default ACL and a group leaves the guest's modes as they are.
#[test]
fn what_the_directory_above_hands_down_does_not_come_through() {
    if !root() || !have("mke2fs") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    shell(
        at,
        "mkdir -p t/d; echo x >t/d/f; chmod 640 t/d/f; chmod 750 t/d; mke2fs -q -t ext4 -d t guest.raw 8M
         chown :1234 .; chmod 2777 .",
    );
    // Version 2; user, user 4321, group, mask, others: may do everything.
    let mut acl = vec![2, 0, 0, 0];
    for (tag, id) in [(1u16, u32::MAX), (2, 4321), (4, u32::MAX), (16, u32::MAX), (32, u32::MAX)] {
        acl.extend(tag.to_le_bytes());
        acl.extend(7u16.to_le_bytes());
        acl.extend(id.to_le_bytes());
    }
    let none = rustix::fs::XattrFlags::empty();
    if rustix::fs::setxattr(at, "system.posix_acl_default", &acl, none).is_err() {
        super::support::skipped("needs a filesystem with ACLs for temporary files");
        return;
    }
    let mut command = program();
    command.args(["copy-out", "-q", "-m", "/dev/sda", "guest.raw", "/", "out"]).current_dir(at);
    assert!(command.status().unwrap().success());
    let listed = shell(at, "stat -c '%a %u %g' out/d out/d/f");
    assert_eq!(String::from_utf8_lossy(&listed.stdout), "750 0 0\n640 0 0\n");
    for path in ["out", "out/d", "out/d/f"] {
        for name in ["system.posix_acl_access", "system.posix_acl_default"] {
            rustix::fs::lgetxattr(at.join(path), name, &mut [0u8; 256][..]).unwrap_err();
        }
    }
}
