//! Generated pairs of trees on ext4 images: what is reported is what a comparison of the two directories finds, and what
//! GNU diff finds on the kernel's mounts.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, XattrFlags, utimensat};
use serde_json::Value;

use super::mounted::{Mounted, can_mount};
use super::program::guestctl;
use super::support::{have, root, shell, skipped};

/// A generator of the same numbers everywhere.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % end
    }
}

const BASE: i64 = 1_700_000_000;

/// Two directories and the images made of them.
struct Pair {
    directory: tempfile::TempDir,
}

impl Pair {
    fn tree(&self, side: &str) -> PathBuf {
        self.directory.path().join(side)
    }

    fn image(&self, side: &str) -> String {
        self.directory.path().join(format!("{side}.raw")).to_str().unwrap().to_owned()
    }

    fn build(&self) {
        for side in ["old", "new"] {
            let script = format!("E2FSPROGS_FAKE_TIME={BASE} mke2fs -q -F -t ext4 -I 256 -d {side} {side}.raw 128M");
            shell(self.directory.path(), &script);
        }
    }
}

fn set_time(path: &Path, seconds: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// Makes what `choice` says at `path`, and below it in a directory.
fn make(path: &Path, random: &mut Random, depth: u32) {
    match random.below(100) % 10 {
        0..=4 => {
            let len = [0, 1, 100, 4096, 70_000][random.below(5) as usize];
            let byte = random.below(256) as u8;
            let bytes: Vec<u8> = (0..len).map(|at: u32| byte.wrapping_add((at / 7) as u8)).collect();
            std::fs::write(path, bytes).unwrap();
            let mode = [0o644, 0o600, 0o4755][(random.below(300) % 3) as usize];
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        }
        5..=6 => symlink(format!("target {}", random.below(1000) % 5), path).unwrap(),
        7 => drop(Command::new("mkfifo").arg(path).status().unwrap()),
        _ if depth == 0 => std::fs::write(path, "leaf\n").unwrap(),
        _ => make_directory(path, random, depth),
    }
    set_time(path, BASE - (random.below(1 << 20) % 1000) as i64);
}

fn make_directory(path: &Path, random: &mut Random, depth: u32) {
    std::fs::create_dir(path).unwrap();
    // Names around `/` in byte order, where sorting by paths and by components differ.
    let names = ["a", "a-b", "a.b", "a b", "é", "z\u{fffd}", "sub", "sub-x", "Z", "10", "9"];
    for name in names.iter().take(3 + random.below(9) as usize) {
        make(&path.join(name), random, depth - 1);
    }
}

fn all_paths(tree: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut pending = vec![tree.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in directory.read_dir().unwrap() {
            let path = entry.unwrap().path();
            if path.symlink_metadata().unwrap().is_dir() {
                pending.push(path.clone());
            }
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Changes some of a tree, in every way that is told apart.
fn mutate(tree: &Path, random: &mut Random) {
    for path in all_paths(tree) {
        let Ok(metadata) = path.symlink_metadata() else { continue };
        let time = metadata.mtime();
        match random.below(1000) % 40 {
            0 if metadata.is_dir() => std::fs::remove_dir_all(&path).unwrap(),
            0 | 1 if !metadata.is_dir() => std::fs::remove_file(&path).unwrap(),
            2 if !metadata.is_dir() => {
                std::fs::remove_file(&path).unwrap();
                make(&path, random, 2);
            }
            3 => make(&path.with_file_name(format!("new {}", random.below(1 << 30))), random, 2),
            4 if metadata.is_file() && metadata.len() > 0 => {
                // The same size and time: only the content tells.
                let mut bytes = std::fs::read(&path).unwrap();
                let at = random.below(1 << 30) as usize % bytes.len();
                bytes[at] ^= 1;
                std::fs::write(&path, bytes).unwrap();
                set_time(&path, time);
            }
            5 if metadata.is_file() => {
                std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
            }
            6 => set_time(&path, time + 1),
            7 if metadata.is_file() => {
                rustix::fs::setxattr(&path, "user.colour", b"red", XattrFlags::empty()).unwrap();
                set_time(&path, time);
            }
            8 if metadata.is_file() => {
                std::fs::hard_link(&path, path.with_file_name(format!("link {}", random.below(1 << 30)))).unwrap();
            }
            9 if root() => std::os::unix::fs::lchown(&path, Some(70_000), Some(1)).unwrap(),
            10 if metadata.is_file() => {
                std::fs::write(&path, b"shorter or longer\n").unwrap();
            }
            _ => {}
        }
    }
}

fn generated(seed: u64) -> Pair {
    let pair = Pair { directory: tempfile::tempdir().unwrap() };
    let mut random = Random::new(seed);
    std::fs::create_dir(pair.tree("old")).unwrap();
    for name in ["etc", "usr", "usr-x", "var"] {
        make_directory(&pair.tree("old").join(name), &mut random, 2);
        set_time(&pair.tree("old").join(name), BASE);
    }
    // Large enough for all threads.
    std::fs::write(pair.tree("old").join("large"), vec![7; 5 << 20]).unwrap();
    set_time(&pair.tree("old").join("large"), BASE);
    for n in 0..3 {
        let at = |name: &str| pair.tree("old").join(name);
        std::fs::write(at(&format!("linked {n}")), format!("links {n}\n")).unwrap();
        std::fs::hard_link(at(&format!("linked {n}")), at(&format!("other {n}"))).unwrap();
    }
    shell(pair.directory.path(), "cp -a old new");
    // One pair of links becomes two files, another joins them.
    shell(&pair.tree("new"), "rm 'other 1'; cp -a 'linked 1' 'other 1'");
    mutate(&pair.tree("new"), &mut random);
    pair.build();
    pair
}

/// What one directory says of a path.
#[derive(Debug, PartialEq)]
struct Facts {
    kind: &'static str,
    values: BTreeMap<&'static str, Vec<u8>>,
}

/// The first name of each file with several, in the order of the walk.
fn facts(tree: &Path) -> BTreeMap<Vec<Vec<u8>>, Facts> {
    let mut all = BTreeMap::new();
    // By components, so that first names are those of the walk.
    let mut paths: Vec<(Vec<Vec<u8>>, PathBuf)> = Vec::new();
    for path in all_paths(tree) {
        let parts = path.strip_prefix(tree).unwrap().iter().map(|part| part.as_bytes().to_vec()).collect();
        paths.push((parts, path));
    }
    paths.sort();
    let mut first: BTreeMap<u64, Vec<Vec<u8>>> = BTreeMap::new();
    for (parts, path) in paths {
        let metadata = path.symlink_metadata().unwrap();
        let file_type = metadata.file_type();
        let kind = match () {
            () if file_type.is_dir() => "dir",
            () if file_type.is_file() => "file",
            () if file_type.is_symlink() => "symlink",
            () => "fifo",
        };
        let text = |value: String| value.into_bytes();
        let mut values = BTreeMap::from([
            ("type", text(kind.to_owned())),
            ("mode", text(format!("{:o}", metadata.mode() & 0o7777))),
            ("uid", text(metadata.uid().to_string())),
            ("gid", text(metadata.gid().to_string())),
            ("mtime", text(metadata.mtime().to_string())),
        ]);
        if kind != "dir" {
            let name = first.entry(metadata.ino()).or_insert_with(|| parts.clone());
            let link = if *name == parts { Vec::new() } else { name.join(&b'/') };
            values.insert("hard_links", [metadata.nlink().to_string().into_bytes(), link].join(&b' '));
        }
        match kind {
            "file" => {
                values.insert("size", text(metadata.len().to_string()));
                values.insert("content", std::fs::read(&path).unwrap());
                let mut buffer = [0; 64];
                let colour = rustix::fs::getxattr(&path, "user.colour", &mut buffer).ok();
                values.extend(colour.map(|len| ("xattrs", buffer[..len].to_vec())));
            }
            "symlink" => {
                values.insert("target", std::fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec());
            }
            _ => {}
        }
        all.insert(parts, Facts { kind, values });
    }
    all
}

/// Path, change and facts, in the order of the walk.
type Told = Vec<(Vec<u8>, String, BTreeSet<String>)>;

fn expected(old: &Path, new: &Path) -> Told {
    let (old, new) = (facts(old), facts(new));
    let paths: BTreeSet<_> = old.keys().chain(new.keys()).collect();
    let mut told = Vec::new();
    for path in paths {
        let bytes = [&b"/"[..], &path.join(&b'/')].concat();
        match (old.get(path), new.get(path)) {
            (Some(_), None) => told.push((bytes, "removed".to_owned(), BTreeSet::new())),
            (None, Some(_)) => told.push((bytes, "added".to_owned(), BTreeSet::new())),
            (Some(old), Some(new)) => {
                let names: BTreeSet<_> = old.values.keys().chain(new.values.keys()).collect();
                let differ = names.into_iter().filter(|name| old.values.get(*name) != new.values.get(*name));
                // Between files of two types these alone are compared.
                let common = ["type", "mode", "uid", "gid", "mtime", "xattrs"];
                let counts = |name: &&&str| old.kind == new.kind || common.contains(*name);
                let facts: BTreeSet<String> = differ.filter(counts).map(|name| (*name).to_string()).collect();
                if !facts.is_empty() {
                    told.push((bytes, "changed".to_owned(), facts));
                }
            }
            (None, None) => unreachable!(),
        }
    }
    told
}

/// The lines of `guestctl diff --json`, without what is mke2fs's own.
fn told(output: &[u8]) -> Told {
    let mut told = Vec::new();
    for line in output.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let line: Value = serde_json::from_slice(line).unwrap();
        let facts = line["facts"].as_array().unwrap().iter().map(|fact| fact.as_str().unwrap().to_owned()).collect();
        let path = line["path"].as_str().unwrap().as_bytes().to_vec();
        assert_eq!(line["old"].is_null(), line["change"] == "added");
        assert_eq!(line["new"].is_null(), line["change"] == "removed");
        told.push((path, line["change"].as_str().unwrap().to_owned(), facts));
    }
    told
}

#[test]
fn generated_trees_differ_as_their_directories_do() {
    if !have("mke2fs") {
        return;
    }
    for seed in 1..=6 {
        let pair = generated(seed);
        let expected = expected(&pair.tree("old"), &pair.tree("new"));
        assert!(expected.len() > 5, "seed {seed} changes something: {}", expected.len());
        let (old, new) = (pair.image("old"), pair.image("new"));
        let mut first = None;
        for jobs in ["1", "2", "5"] {
            let ran = guestctl(["diff", "--json", "--jobs", jobs, &old, &new]);
            assert_eq!((ran.code, ran.err.as_str()), (1, ""), "seed {seed}");
            let found = told(&ran.out);
            for (found, expected) in found.iter().zip(&expected) {
                assert_eq!(found, expected, "seed {seed}");
            }
            assert_eq!(found.len(), expected.len(), "seed {seed}");
            assert!(*first.get_or_insert_with(|| ran.out.clone()) == ran.out, "the bytes depend on the threads");
        }
        // The other way round what came went.
        let back = told(&guestctl(["diff", "--json", &new, &old]).out);
        let turned = |change: &str| {
            match change {
                "added" => "removed",
                "removed" => "added",
                other => other,
            }
            .to_owned()
        };
        let turned: Told = back.into_iter().map(|(path, change, facts)| (path, turned(&change), facts)).collect();
        assert_eq!(turned, expected, "seed {seed}");
        let same = guestctl(["diff", &old, &old]);
        assert_eq!((same.code, same.out, same.err.as_str()), (0, Vec::new(), ""));
    }
}

#[test]
fn what_is_ignored_does_not_count() {
    if !have("mke2fs") {
        return;
    }
    let pair = generated(11);
    let (old, new) = (pair.image("old"), pair.image("new"));
    let all = expected(&pair.tree("old"), &pair.tree("new"));
    let without = |ignored: &[&str]| -> Told {
        let rest = |(path, change, facts): &(Vec<u8>, String, BTreeSet<String>)| {
            let left: BTreeSet<String> =
                facts.iter().filter(|fact| !ignored.contains(&fact.as_str())).cloned().collect();
            (change != "changed" || !left.is_empty()).then(|| (path.clone(), change.clone(), left))
        };
        all.iter().filter_map(rest).collect()
    };
    for (ignore, facts) in [
        ("times", &["mtime"][..]),
        ("owners", &["uid", "gid"]),
        ("xattrs,hard-links", &["xattrs", "hard_links"]),
        ("times,owners,xattrs,hard-links", &["mtime", "uid", "gid", "xattrs", "hard_links"]),
    ] {
        let found = told(&guestctl(["diff", "--json", "--ignore", ignore, &old, &new]).out);
        assert_eq!(found, without(facts), "{ignore}");
    }
    // Fast takes files of one size and time for equal.
    let fast = told(&guestctl(["diff", "--json", "--fast", &old, &new]).out);
    let unseen = |facts: &BTreeSet<String>| !facts.contains("size") && !facts.contains("mtime");
    let expected: Told = all
        .iter()
        .filter_map(|(path, change, facts)| {
            let mut facts = facts.clone();
            if unseen(&facts) {
                facts.remove("content");
            }
            (change != "changed" || !facts.is_empty()).then(|| (path.clone(), change.clone(), facts))
        })
        .collect();
    assert_eq!(fast, expected);
    assert!(fast.len() < all.len() || !all.iter().any(|(.., facts)| facts.len() == 1 && facts.contains("content")));
}

#[test]
fn gnu_diff_finds_the_same_on_the_kernels_mounts() {
    if !have("mke2fs") || !have("diff") || !can_mount() {
        return;
    }
    for seed in 21..=23 {
        let pair = generated(seed);
        let (old, new) = (pair.image("old"), pair.image("new"));
        let mounts = [&old, &new].map(|image| Mounted::new(Path::new(image), "ro").unwrap());
        let [left, right] = mounts.each_ref().map(Mounted::path);
        // What GNU diff compares: types, contents, targets; a directory that one side has is one line.
        let script = "diff -rq --no-dereference \"$0\" \"$1\"";
        let output =
            Command::new("sh").env("LC_ALL", "C.UTF-8").args(["-c", script]).args([&left, &right]).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
        let lines = String::from_utf8(output.stdout).unwrap();
        let gnu: BTreeSet<String> = lines.lines().filter_map(|line| gnu_path(line, [&left, &right])).collect();
        let found = told(&guestctl(["diff", "--json", &old, &new]).out);
        let mut above: Option<Vec<u8>> = None;
        let mut ours = BTreeSet::new();
        for (path, change, facts) in &found {
            let is_below = above.as_ref().is_some_and(|above| path.starts_with(above));
            let told = ["type", "content", "target"].iter().any(|fact| facts.contains(*fact));
            if is_below || !(change != "changed" || told) {
                continue;
            }
            above = (change != "changed" || facts.contains("type")).then(|| [path, &b"/"[..]].concat());
            ours.insert(String::from_utf8(path.clone()).unwrap());
        }
        assert_eq!(ours, gnu, "seed {seed}\n{lines}");
        assert!(!gnu.is_empty());
    }
}

/// The guest path that a line of `diff -rq` is about. Named pipes it does not compare.
fn gnu_path(line: &str, [left, right]: [&Path; 2]) -> Option<String> {
    let prefixes = [left, right].map(|mount| mount.to_str().unwrap().to_owned());
    if let Some(rest) = line.strip_prefix("Only in ") {
        let (directory, name) = rest.split_once(": ").unwrap();
        let below = prefixes.iter().find_map(|prefix| directory.strip_prefix(prefix.as_str())).unwrap();
        return Some(format!("{below}/{name}"));
    }
    let start = line.find(prefixes[0].as_str()).unwrap() + prefixes[0].len();
    let ends = [" and /", " is a ", " is an ", " differ", " while "];
    let end = ends.iter().filter_map(|end| line[start..].find(end)).min().unwrap();
    let is_pipes = line.matches("fifo").count() == 2;
    (!is_pipes).then(|| line[start..start + end].to_owned())
}

#[test]
fn real_guests_differ_in_what_was_changed() {
    let Some(directory) = std::env::var_os("GUESTCTL_GUESTS").map(PathBuf::from) else {
        skipped(format_args!("GUESTCTL_GUESTS names no directory with guests"));
        return;
    };
    let image = |name: &str| directory.join(name).to_str().unwrap().to_owned();
    let allow = directory.to_str().unwrap();
    // A slow machine is told how far the work is.
    let said = |err: &str| err.lines().filter(|line| !line.starts_with("diff: ")).collect::<String>();
    let (base, overlay) = (image("debian-ext4.qcow2"), image("debian-snap1.qcow2"));
    let ran = guestctl(["diff", "--json", "--allow-backing", allow, &base, &overlay]);
    assert_eq!((ran.code, said(&ran.err).as_str()), (1, ""));
    let found = told(&ran.out);
    let facts = |path: &str| {
        let found = found.iter().find(|(found, ..)| found == path.as_bytes());
        found.map(|(_, _, facts)| facts.iter().cloned().collect::<Vec<_>>().join(" "))
    };
    assert_eq!(facts("/etc/hostname").unwrap(), "content mtime size");
    assert_eq!(facts("/etc/passwd"), None);
    let semantic = guestctl(["diff", "--semantic", "--json", "--allow-backing", allow, &base, &overlay]);
    assert_eq!((semantic.code, semantic.err.as_str()), (1, ""));
    let semantic: Value = serde_json::from_slice(&semantic.out).unwrap();
    assert_eq!(semantic["system"][0]["name"], "hostname");
    assert_eq!(semantic["packages"], Value::Array(Vec::new()));
    // Against itself in another container nothing differs, whether or not anything can be shared.
    let same = guestctl(["diff", &base, &image("debian-ext4.raw")]);
    assert_eq!((same.code, same.out, said(&same.err).as_str()), (0, Vec::new(), ""));
}

#[test]
fn paths_and_patterns_narrow_the_comparison() {
    if !have("mke2fs") {
        return;
    }
    let pair = Pair { directory: tempfile::tempdir().unwrap() };
    shell(
        pair.directory.path(),
        "mkdir -p old/etc/app old/var; echo 1 >old/etc/app/a.conf; echo 1 >old/etc/b.conf; echo 1 >old/var/c
         cp -a old new; for f in etc/app/a.conf etc/b.conf var/c etc/app/new; do echo 22 >new/$f; done; echo >old/var/gone",
    );
    pair.build();
    let (old, new) = (pair.image("old"), pair.image("new"));
    let paths = |arguments: &[&str]| {
        let arguments = [&["diff", "--json", "--ignore", "dir-times", &old, &new], arguments].concat();
        let found = told(&guestctl(arguments).out);
        found.into_iter().map(|(path, ..)| String::from_utf8(path).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(paths(&[]), ["/etc/app/a.conf", "/etc/app/new", "/etc/b.conf", "/var/c", "/var/gone"]);
    assert_eq!(paths(&["/etc/app"]), ["/etc/app/a.conf", "/etc/app/new"]);
    assert_eq!(paths(&["/etc/b.conf"]), ["/etc/b.conf"]);
    assert_eq!(paths(&["/var/gone"]), ["/var/gone"]);
    assert_eq!(paths(&["--exclude", "*.conf", "--exclude", "/var"]), ["/etc/app/new"]);
    assert_eq!(paths(&["--include", "/var", "--exclude", "gone"]), ["/var/c"]);
    guestctl(["diff", &old, &new, "/nowhere"])
        .fails(9, "guestctl: error: /nowhere: no such file or directory in the guest\n");
}
