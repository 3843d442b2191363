//! Results that are remembered: with a cache a command says what it says without one, the first time and the second, and
//! whatever became of the image and the store in between.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use guestctl::cache::{EventKind, Store};

use super::program::{Ran, program};
use super::support::{have, root, shell};

/// A directory with images and a cache.
pub(super) struct Yard {
    dir: tempfile::TempDir,
}

impl Yard {
    /// With what the script makes.
    pub(super) fn new(script: &str) -> Self {
        let yard = Self { dir: tempfile::tempdir().unwrap() };
        shell(yard.dir.path(), script);
        yard
    }

    /// With the demo guest.
    pub(super) fn demo() -> Self {
        let demo = concat!(env!("CARGO_MANIFEST_DIR"), "/images/demo.qcow2");
        Self::new(&format!("cp {demo} a.qcow2"))
    }

    pub(super) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(super) fn shell(&self, script: &str) {
        shell(self.dir.path(), script);
    }

    pub(super) fn command(&self, line: &str) -> std::process::Command {
        let mut command = program();
        command.current_dir(self.dir.path()).env("GUESTCTL_CACHE_DIR", self.path("cache"));
        command.args(line.split(' ')).stdin(Stdio::null());
        command
    }

    /// Runs a line with the cache.
    pub(super) fn run(&self, line: &str) -> Ran {
        let output = self.command(line).output().unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        Ran { code: output.status.code().unwrap(), out: output.stdout, err }
    }

    /// Runs it without.
    pub(super) fn plain(&self, line: &str) -> Ran {
        self.run(&format!("{line} --no-cache"))
    }

    pub(super) fn store(&self) -> Store {
        Store::open(self.path("cache")).unwrap()
    }

    /// Hits and misses of the line's command so far.
    pub(super) fn counts(&self, line: &str) -> (usize, usize) {
        let operation = line.split(' ').next().unwrap();
        if !self.path("cache/VERSION.json").exists() {
            return (0, 0);
        }
        let events = self.store().events(0).unwrap();
        let count = |kind| events.iter().filter(|event| event.event == kind && event.operation == operation).count();
        (count(EventKind::Hit), count(EventKind::Miss))
    }

    /// Runs a line, which must go well in silence, say what it says without a cache, and be a hit or a miss.
    #[track_caller]
    pub(super) fn asks(&self, line: &str, expected: EventKind) {
        let before = self.counts(line);
        let ran = self.run(line);
        let after = self.counts(line);
        let (hits, misses) = (after.0 - before.0, after.1 - before.1);
        let is_hit = expected == EventKind::Hit;
        assert_eq!((hits, misses), (usize::from(is_hit), usize::from(!is_hit)), "{line}: {}", ran.err);
        let plain = self.plain(line);
        assert_eq!((plain.code, plain.err.as_str()), (0, ""), "{line}");
        assert!(ran == plain, "{line}: {} bytes for {}, {}", ran.out.len(), plain.out.len(), ran.err);
    }

    #[track_caller]
    pub(super) fn hit(&self, line: &str) {
        self.asks(line, EventKind::Hit);
    }

    #[track_caller]
    pub(super) fn miss(&self, line: &str) {
        self.asks(line, EventKind::Miss);
    }

    /// Runs a line that must say what it says without a cache, and one warning beside it.
    #[track_caller]
    pub(super) fn warned(&self, line: &str) -> String {
        let ran = self.run(line);
        let plain = self.plain(line);
        assert_eq!((ran.code, plain.code), (0, 0), "{line}: {}", ran.err);
        assert!(ran.out == plain.out, "{line}: {}", ran.err);
        assert!(warnings(&ran.err) >= 1, "{line}: no warning: {:?}", ran.err);
        ran.err
    }

    /// The one file below a directory of the store, locks apart.
    #[track_caller]
    pub(super) fn only(&self, directory: &str) -> PathBuf {
        let mut found = Vec::new();
        let mut pending = vec![self.path("cache").join(directory)];
        while let Some(directory) = pending.pop() {
            for entry in std::fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    pending.push(path);
                } else if path.extension().is_none_or(|extension| extension != "lock") {
                    found.push(path);
                }
            }
        }
        assert_eq!(found.len(), 1, "{directory}: {found:?}");
        found.remove(0)
    }
}

/// An ext4 disk whose tree has more to say than a record holds.
const MANY: &str =
    "mkdir -p t/d; n=0; while [ $n -lt 900 ]; do echo $n > t/d/a-file-with-a-rather-long-name-$n; n=$((n + 1)); done
    echo one > t/one; mke2fs -q -t ext4 -d t disk.raw 24M";

/// Warnings among what a run said: of the program, and of the library's log.
pub(super) fn warnings(err: &str) -> usize {
    err.lines().filter(|line| line.starts_with("guestctl: warning: ") || line.starts_with("[WARN ")).count()
}

/// Damages a file in a way: mode and time are as they were.
pub(super) fn harm(path: &Path, how: &str) {
    let dir = path.parent().unwrap();
    let name = path.file_name().unwrap().to_str().unwrap();
    let change = match how {
        "gone" => "rm -f $f",
        "short" => "truncate -s $(($(stat -c %s $f) / 2)) $f",
        "flipped" => {
            "at=$(($(stat -c %s $f) * 2 / 3)); b=$(dd if=$f bs=1 skip=$at count=1 2>/dev/null | od -An -tu1)
            printf \"\\\\$(printf %03o $((b ^ 1)))\" | dd of=$f bs=1 seek=$at conv=notrunc 2>/dev/null"
        }
        how => panic!("{how}"),
    };
    let script = format!(
        "f={name}; touch -r $f .ref; m=$(stat -c %a $f); chmod 644 $f; {change}
        if [ -e $f ]; then chmod $m $f; touch -r .ref $f; fi; rm .ref"
    );
    shell(dir, &script);
}

#[test]
fn what_is_printed_is_the_same_with_and_without_a_cache() {
    let yard = Yard::demo();
    let lines = [
        "checksum -q a.qcow2",
        "checksum -q -A md5 -A sha256 a.qcow2 /etc /usr",
        "checksum -q --json -A blake3 a.qcow2 /etc",
        "checksum -q --exclude *.conf --exclude /var a.qcow2 /",
        "checksum -q --include *.conf a.qcow2 /",
        "checksum -q --tag a.qcow2 /etc/hostname",
        "checksum -q a.qcow2 /dev/sda1",
        "ls -R a.qcow2",
        "ls -R a.qcow2 /etc",
        "ls -lR a.qcow2",
        "ls -lR --json a.qcow2",
        "ls --json --checksum sha256 a.qcow2 /etc",
        "ls --json --checksum md5 a.qcow2 /etc",
    ];
    for line in lines {
        yard.miss(line);
    }
    for line in lines {
        yard.hit(line);
    }
    // The forms of inspection are of one result.
    yard.shell("rm -r cache");
    yard.miss("inspect a.qcow2");
    for line in ["inspect a.qcow2", "inspect --json a.qcow2", "inspect --yaml a.qcow2", "inspect --xml a.qcow2"] {
        yard.hit(line);
    }
    yard.miss("inspect --no-applications a.qcow2");
    yard.hit("inspect --no-applications --json a.qcow2");
    // The image under another name.
    yard.shell("mkdir other; cp a.qcow2 other/b.qcow2");
    yard.hit("inspect --json other/b.qcow2");
    yard.miss("ls -R a.qcow2");
    yard.hit("ls -R other/b.qcow2");
    // A format that is named is another question.
    yard.miss("ls -R -f qcow2 a.qcow2");
    yard.miss("ls -R -m /dev/sda2 a.qcow2");
    // What fails is not remembered.
    for _ in 0..2 {
        let (ran, plain) = (yard.run("checksum -q a.qcow2 /none"), yard.plain("checksum -q a.qcow2 /none"));
        assert_eq!(ran, plain);
        assert_ne!(ran.code, 0);
    }
}

#[test]
fn a_changed_image_is_looked_at_again() {
    if !have("mke2fs") {
        return;
    }
    let yard = Yard::new(
        "mkdir t; echo one > t/one; mke2fs -q -t ext4 -d t 1.raw 8M; echo two > t/one; mke2fs -q -t ext4 -d t 2.raw 8M
        touch -d '2020-01-01' ref; cp 1.raw disk.raw; touch -r ref disk.raw",
    );
    let line = "checksum -q -m /dev/sda disk.raw /one";
    let say = |line: &str| yard.run(line).out;
    yard.miss(line);
    yard.hit(line);
    let first = say(line);
    // At once, in place, with its time put back.
    yard.shell("cat 2.raw > disk.raw; touch -r ref disk.raw");
    yard.miss(line);
    assert_ne!(say(line), first);
    // What it was before is known.
    yard.shell("cat 1.raw > disk.raw; touch -r ref disk.raw");
    yard.hit(line);
    assert_eq!(say(line), first);
}

#[test]
fn a_large_image_is_known_by_its_file_until_that_changes() {
    if !have("mke2fs") {
        return;
    }
    let yard = Yard::new(
        "mkdir t; head -c 80000000 /dev/urandom > t/large; echo needle > t/one; mke2fs -q -t ext4 -d t disk.raw 100M
        touch -d '2020-01-01' ref; touch -r ref disk.raw",
    );
    let line = "checksum -q -m /dev/sda disk.raw /one";
    std::thread::sleep(std::time::Duration::from_millis(2100));
    yard.miss(line);
    yard.hit(line);
    let first = yard.run(line).out;
    yard.shell(
        "at=$(grep -abo needle disk.raw | head -n 1 | cut -d: -f1); printf pin | dd of=disk.raw bs=1 seek=$at conv=notrunc 2>/dev/null
        touch -r ref disk.raw",
    );
    // It was changed right now: nothing is known of it, and nothing kept.
    for _ in 0..2 {
        let ran = yard.run(line);
        assert_eq!(ran, yard.plain(line));
        assert_ne!(ran.out, first);
    }
    std::thread::sleep(std::time::Duration::from_millis(2100));
    yard.miss(line);
    yard.hit(line);
}

#[test]
fn snapshots_backing_files_and_extents_are_part_of_the_question() {
    if !have("mke2fs") || !have("qemu-img") {
        return;
    }
    let yard = Yard::new(
        "mkdir t; echo one > t/one; mke2fs -q -t ext4 -d t 1.raw 8M; echo two > t/one; mke2fs -q -t ext4 -d t 2.raw 8M
        qemu-img convert -O qcow2 1.raw s.qcow2; qemu-img snapshot -c before s.qcow2
        qemu-img convert -n -O qcow2 2.raw s.qcow2; qemu-img snapshot -c after s.qcow2
        cp 1.raw base.raw; qemu-img create -q -f qcow2 -b base.raw -F raw over.qcow2
        qemu-img convert -O vmdk -o subformat=monolithicFlat 1.raw flat.vmdk",
    );
    let say = |line: &str| yard.run(line).out;
    let lines =
        ["s.qcow2", "s.qcow2#before", "s.qcow2#after"].map(|image| format!("checksum -q -m /dev/sda {image} /one"));
    for line in &lines {
        yard.miss(line);
    }
    for line in &lines {
        yard.hit(line);
    }
    assert_ne!(say(&lines[0]), say(&lines[1]));
    assert_eq!(say(&lines[0]), say(&lines[2]));
    for (image, below) in [("over.qcow2", "base.raw"), ("flat.vmdk", "flat-flat.vmdk")] {
        let line = format!("checksum -q --allow-same-dir -m /dev/sda {image} /one");
        yard.miss(&line);
        yard.hit(&line);
        let first = say(&line);
        yard.shell(&format!("touch -r {below} ref; cat 2.raw > {below}; touch -r ref {below}"));
        yard.miss(&line);
        assert_ne!(say(&line), first, "{image}");
        // What the gate does not let in is not known either.
        let closed = line.replace(" --allow-same-dir", "");
        let ran = yard.run(&closed);
        assert_eq!(ran, yard.plain(&closed));
        assert_ne!(ran.code, 0, "{image}");
    }
}

#[test]
fn a_damaged_result_is_computed_again() {
    if !have("mke2fs") {
        return;
    }
    let short = "checksum -q -m /dev/sda disk.raw /one";
    let long = "ls -lR --json -m /dev/sda disk.raw";
    let cases = [
        (short, "actions", "short"),
        (short, "actions", "flipped"),
        (long, "actions", "flipped"),
        (long, "objects", "gone"),
        (long, "objects", "short"),
        (long, "objects", "flipped"),
        (long, "trees", "short"),
        (long, "trees", "flipped"),
    ];
    for (line, directory, how) in cases {
        let yard = Yard::new(MANY);
        yard.miss(line);
        yard.hit(line);
        harm(&yard.only(directory), how);
        yard.warned(line);
        yard.hit(line);
    }
    // A tree that is gone took its result along.
    let yard = Yard::new(MANY);
    yard.miss(long);
    harm(&yard.only("trees"), "gone");
    yard.miss(long);
    yard.hit(long);
}

#[test]
fn a_store_that_cannot_be_used_costs_one_warning() {
    let yard = Yard::demo();
    let lines = ["inspect a.qcow2", "checksum -q a.qcow2 /etc", "ls -R a.qcow2"];
    let one = |line: &str, what: &str| {
        let err = yard.warned(line);
        assert_eq!(warnings(&err), 1, "{what}: {line}: {err}");
    };
    yard.run(lines[2]).text();
    std::fs::write(yard.path("cache/VERSION.json"), "{").unwrap();
    for line in lines {
        one(line, "damaged");
    }
    yard.shell("rm -r cache; echo > cache");
    for line in lines {
        one(line, "a file");
    }
    yard.shell("rm cache");
    if root() {
        struct Mounted(PathBuf);
        impl Drop for Mounted {
            fn drop(&mut self) {
                let _ = std::process::Command::new("umount").arg(&self.0).status();
            }
        }
        yard.shell("mkdir cache; mount -t tmpfs -o size=8m none cache");
        let _mounted = Mounted(yard.path("cache"));
        yard.miss(lines[2]);
        yard.shell("mount -o remount,ro cache");
        one(lines[0], "read only");
        one(lines[1], "read only");
        // What is known is known.
        assert_eq!(yard.run(lines[2]), yard.plain(lines[2]));
        yard.shell("mount -o remount,rw cache; cat /dev/zero > cache/fill 2>/dev/null || true");
        one(lines[0], "full");
        one(lines[1], "full");
        yard.shell("rm cache/fill");
        yard.miss(lines[1]);
    } else {
        yard.miss(lines[2]);
        yard.shell("chmod -R a-w cache");
        one(lines[0], "read only");
        one(lines[1], "read only");
        assert_eq!(yard.run(lines[2]), yard.plain(lines[2]));
        yard.shell("chmod -R u+w cache");
    }
}

#[test]
fn no_cache_touches_nothing() {
    let yard = Yard::demo();
    yard.miss("ls -R a.qcow2");
    let look = || {
        let script =
            "find cache -printf '%P %y %m %s %T@ %C@\\n' | sort; find cache -type f -exec sha256sum {} + | sort";
        shell(yard.dir.path(), script).stdout
    };
    let before = look();
    for line in ["ls -R a.qcow2", "inspect a.qcow2", "checksum -q a.qcow2 /etc", "convert -q a.qcow2 out.raw"] {
        assert_eq!(yard.plain(line).code, 0);
    }
    assert_eq!(look(), before);
}

#[test]
fn what_many_ask_at_once_is_computed_once() {
    let yard = Yard::demo();
    yard.run("cache init").text();
    let line = "checksum -q -A sha512 a.qcow2 /";
    let expected = yard.plain(line).text();
    let start = || yard.command(line).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let started: Vec<_> = (0..8).map(|_| start()).collect();
    for child in started {
        let output = child.wait_with_output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        assert!(output.stdout == expected.as_bytes());
    }
    assert_eq!(yard.counts(line), (7, 1));
}

#[test]
fn whoever_waits_for_the_other_to_be_read_is_not_waited_for() {
    if !have("mke2fs") {
        return;
    }
    let yard = Yard::new(MANY);
    let line = "ls -lR --json -m /dev/sda disk.raw";
    let expected = yard.plain(line).bytes();
    assert!(expected.len() > 128 << 10);
    // Of the first nobody reads before the second has said all.
    let start = || yard.command(line).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let first = start();
    std::thread::sleep(std::time::Duration::from_millis(300));
    for child in [start(), first] {
        let output = child.wait_with_output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        assert!(output.stdout == expected);
    }
}

#[test]
fn gc_removes_results_and_they_are_computed_again() {
    let yard = Yard::demo();
    let lines =
        ["inspect a.qcow2", "checksum -q a.qcow2 /etc", "ls -lR --json a.qcow2", "convert -q --json a.qcow2 out.raw"];
    for line in lines {
        yard.miss(line);
        yard.hit(line);
    }
    // What a tree is mounted by is one more.
    assert_eq!(yard.store().actions().unwrap().len(), 5);
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let report = yard.run("cache gc --json --days 0 --grace 0").json();
    assert_eq!(report["expired_actions"], 5, "{report}");
    assert_eq!((report["live_trees"].as_u64(), yard.store().actions().unwrap().len()), (Some(0), 0), "{report}");
    for line in lines {
        yard.miss(line);
        yard.hit(line);
    }
}
