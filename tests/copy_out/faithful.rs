//! The same as the kernel's mount: everything as root, and as an ordinary user what such a user can have, with the rest in the
//! manifest.

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use guestctl::fs::FileType;
use serde_json::Value;

use super::corners::fill;
use super::host::{Tree, same, tree};
use super::mounted::{Mounted, can_mount};
use super::program::program;
use super::support::{have, root, shell};

/// A guest with the corners of ext4, in `directory/guest.raw`, as the kernel shows it.
fn guest(directory: &Path, options: &str) -> Tree {
    shell(directory, &format!("mke2fs -q -F -b 4096 -N 8192 {options} guest.raw 96M"));
    let image = directory.join("guest.raw");
    fill(&Mounted::new(&image, "noatime").unwrap().path(), 1_000);
    tree(&Mounted::new(&image, "ro,noatime").unwrap().path())
}

/// Runs a copy and answers with its report.
fn copy(command: &mut Command) -> Value {
    let output = command.output().unwrap();
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{complaints}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["copies"][0]["problems"]["count"], 0, "{report}");
    report["copies"][0].clone()
}

fn manifest(path: &Path) -> BTreeMap<Vec<u8>, Value> {
    let text = std::fs::read_to_string(path).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (head, rest) = lines.split_first().unwrap();
    let (tail, entries) = rest.split_last().unwrap();
    assert_eq!((&head["guestctl_manifest"], &tail["complete"]), (&1.into(), &true.into()));
    assert_eq!(tail["entries"], entries.len());
    entries.iter().map(|line| (bytes(line, "path").unwrap(), line.clone())).collect()
}

fn bytes(line: &Value, key: &str) -> Option<Vec<u8>> {
    match line[format!("{key}_b64")].as_str() {
        Some(text) => Some(BASE64.decode(text).unwrap()),
        None => line[key].as_str().map(|text| text.as_bytes().to_vec()),
    }
}

/// A manifest says all that the kernel says, but for contents.
fn manifest_is_true(what: &str, kernel: &Tree, manifest: &BTreeMap<Vec<u8>, Value>) {
    assert_eq!(manifest.keys().collect::<Vec<_>>(), kernel.keys().collect::<Vec<_>>(), "{what}");
    for (path, facts) in kernel {
        let line = &manifest[path];
        let number = |key: &str| line[key].as_number().unwrap().as_i128().unwrap();
        let rdev = facts.rdev.map(|(major, minor)| format!("{major}:{minor}"));
        let xattrs = line["xattrs"].as_array().cloned().unwrap_or_default();
        let xattrs: BTreeMap<_, _> = xattrs
            .iter()
            .map(|xattr| (bytes(xattr, "name").unwrap(), BASE64.decode(xattr["value_b64"].as_str().unwrap()).unwrap()))
            .collect();
        let found = (
            (line["type"].as_str().unwrap(), u32::from_str_radix(line["mode"].as_str().unwrap(), 8).unwrap()),
            (number("uid"), number("gid")),
            (number("mtime_ns"), number("atime_ns")),
            (bytes(line, "target"), line["rdev"].as_str().map(str::to_owned)),
            (bytes(line, "hard_link").unwrap_or_else(|| path.clone()), xattrs),
        );
        let expected = (
            (facts.kind.name(), facts.mode),
            (facts.owner.0.into(), facts.owner.1.into()),
            (facts.mtime, facts.atime),
            (facts.target.clone(), rdev),
            (facts.same_as.clone(), facts.xattrs.clone()),
        );
        assert_eq!(found, expected, "{what}: {}", guestctl::bytes::escape(path));
        if facts.kind != FileType::Dir {
            assert_eq!(number("size"), i128::from(facts.size), "{what}: {}", guestctl::bytes::escape(path));
        }
    }
}

#[test]
fn as_root_with_everything_preserved_a_copy_is_what_the_kernel_shows() {
    if !can_mount() || !have("mke2fs") {
        return;
    }
    for options in ["-t ext4 -O ea_inode", "-t ext4 -O inline_data -I 512", "-t ext3", "-t ext2"] {
        let directory = tempfile::tempdir().unwrap();
        let kernel = guest(directory.path(), options);
        assert!(kernel.len() > 1_500, "{}", kernel.len());
        // A filesystem that can hold all of it.
        shell(directory.path(), "mke2fs -q -F -t ext4 -b 4096 -I 256 -N 8192 -O ea_inode host.raw 256M");
        let host = Mounted::new(&directory.path().join("host.raw"), "noatime").unwrap();
        let out = host.path().join("out");
        let mut command = program();
        command.args(["copy-out", "--json", "--preserve", "all", "-m", "/dev/sda"]);
        let report = copy(command.arg(directory.path().join("guest.raw")).arg("/").arg(&out));
        assert_eq!((&report["refused"], &report["missing"]), (&Value::Array(Vec::new()), &0.into()), "{report}");
        same(options, &kernel, &tree(&out));
        manifest_is_true(options, &kernel, &manifest(&host.path().join("out.guestctl-manifest.jsonl")));
        let names = std::fs::read_dir(host.path()).unwrap().count();
        assert_eq!(names, 3, "lost+found, out, out.guestctl-manifest.jsonl");
    }
}

/// What is left of a guest's tree for files of an ordinary user.
fn for_a_user(kernel: &Tree, user: (u32, u32)) -> Tree {
    let mut tree = kernel.clone();
    tree.retain(|_, facts| !matches!(facts.kind, FileType::Char | FileType::Block));
    for facts in tree.values_mut() {
        facts.owner = user;
        facts.mode &= 0o1777;
        facts.xattrs.retain(|name, _| name.starts_with(b"user."));
    }
    tree
}

#[test]
fn as_an_ordinary_user_contents_modes_times_and_links_are_exact_and_the_manifest_has_the_rest() {
    if !can_mount() || !have("mke2fs") || !have("setpriv") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let kernel = guest(directory.path(), "-t ext4 -O ea_inode");
    shell(directory.path(), "mke2fs -q -F -t ext4 -b 4096 -I 256 -N 8192 -O ea_inode host.raw 256M");
    let host = Mounted::new(&directory.path().join("host.raw"), "noatime").unwrap();
    let (mine, user) = (host.path().join("mine"), (65_534, 65_534));
    std::fs::create_dir(&mine).unwrap();
    chown(&mine, Some(user.0), Some(user.1)).unwrap();
    for path in [directory.path(), &host.path()] {
        std::fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
    }
    // The program may lie where only root comes.
    let own = directory.path().join("guestctl");
    std::fs::copy(env!("CARGO_BIN_EXE_guestctl"), &own).unwrap();
    let run = |preserve: &str, umask: &str, to: &str| {
        let script = format!("umask {umask}; exec \"$@\"");
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c", &script, "sh"]).arg(&own);
        command.args(["copy-out", "--json", "--preserve", preserve, "-m", "/dev/sda"]);
        command.arg(directory.path().join("guest.raw")).arg("/").arg(mine.join(to));
        command
    };
    for (to, umask) in [("out", "022"), ("masked", "077"), ("unmasked", "0")] {
        let report = copy(&mut run("default", umask, to));
        let out = mine.join(to);
        same(to, &for_a_user(&kernel, user), &tree(&out));
        manifest_is_true(to, &kernel, &manifest(&mine.join(format!("{to}.guestctl-manifest.jsonl"))));
        assert!(report["missing"].as_u64().unwrap() >= 20, "{report}");
        assert_eq!(report["refused"], Value::Array(Vec::new()), "{report}");
    }
    // What was asked for and cannot be had is told, and everything else is there.
    let output = run("all", "022", "asked").output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let refused: Vec<_> = report["copies"][0]["refused"].as_array().unwrap().iter().map(|fact| &fact["fact"]).collect();
    assert!(["owner", "devices", "security", "trusted"].iter().all(|fact| refused.contains(&&Value::from(*fact))));
    // But for what may or may not have been taken.
    let bare = |mut tree: Tree| {
        // Anybody may make the device 0:0, which no driver has.
        tree.remove(&b"corners/nodes/char 0 0"[..]);
        tree.values_mut().for_each(|facts| (facts.mode, facts.xattrs) = (0, BTreeMap::new()));
        tree
    };
    same("asked", &bare(for_a_user(&kernel, user)), &bare(tree(&mine.join("asked"))));
}

#[test]
fn by_default_root_gets_nothing_that_could_hurt() {
    if !can_mount() || !have("mke2fs") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let kernel = guest(directory.path(), "-t ext4");
    shell(directory.path(), "mke2fs -q -F -t ext4 -b 4096 -N 8192 host.raw 256M");
    let host = Mounted::new(&directory.path().join("host.raw"), "noatime").unwrap();
    let mut command = program();
    command.args(["copy-out", "--json", "-m", "/dev/sda"]).arg(directory.path().join("guest.raw"));
    copy(command.arg("/").arg(host.path().join("out")));
    same("by default", &for_a_user(&kernel, (0, 0)), &tree(&host.path().join("out")));
}

/// The committed demo guest, by anyone, against what the program lists.
#[test]
fn the_demo_guest_is_copied_by_anyone() {
    let directory = tempfile::tempdir().unwrap();
    let image = Path::new(env!("CARGO_MANIFEST_DIR")).join("images/demo.qcow2");
    for (to, options) in [("one", ["-j", "1"]), ("four", ["-j", "4"])] {
        let mut command = program();
        command.args(["copy-out", "--json"]).args(options).arg(&image).arg("/").arg(directory.path().join(to));
        copy(&mut command);
    }
    let manifests = ["one", "four"].map(|to| directory.path().join(format!("{to}.guestctl-manifest.jsonl")));
    assert_eq!(std::fs::read(&manifests[0]).unwrap(), std::fs::read(&manifests[1]).unwrap());
    let (one, four) = (tree(&directory.path().join("one")), tree(&directory.path().join("four")));
    same("threads", &one, &four);
    let entries = manifest(&manifests[0]);
    let made: Vec<_> = entries.iter().filter(|(_, line)| line["missing"] != true).map(|(path, _)| path).collect();
    assert_eq!(made, one.keys().collect::<Vec<_>>());
    let mut files = 0;
    for (path, facts) in one.iter().filter(|(_, facts)| facts.kind == FileType::File) {
        let path = [b"/", &path[..]].concat();
        let path = String::from_utf8(path).unwrap();
        let listed = program().args(["cat"]).arg(&image).arg(&path).output().unwrap();
        assert_eq!(listed.stdout, std::fs::read(directory.path().join("one").join(&path[1..])).unwrap(), "{path}");
        assert_eq!(facts.size, listed.stdout.len() as u64);
        files += 1;
    }
    assert!(files > 20);
}

/// A whole Debian, where there is one: `GUESTCTL_GUESTS` names the directory of `debian-ext4.raw`.
#[test]
fn a_real_guest_is_copied_as_the_kernel_shows_it() {
    let Some(guests) = std::env::var_os("GUESTCTL_GUESTS") else {
        super::support::skipped("GUESTCTL_GUESTS names no directory with guests");
        return;
    };
    if !can_mount() || !root() || !have("sfdisk") {
        return;
    }
    let raw = Path::new(&guests).join("debian-ext4.raw");
    let table = shell(Path::new("/"), &format!("sfdisk -J '{}' 2>/dev/null", raw.display()));
    let table: Value = serde_json::from_slice(&table.stdout).unwrap();
    let partitions = table["partitiontable"]["partitions"].as_array().unwrap();
    let largest = partitions.iter().max_by_key(|partition| partition["size"].as_u64()).unwrap();
    let number = 1 + partitions.iter().position(|partition| partition == largest).unwrap();
    let part = |key: &str| largest[key].as_u64().unwrap() * 512;
    let options = format!("ro,noatime,offset={},sizelimit={}", part("start"), part("size"));
    let kernel = tree(&Mounted::new(&raw, &options).unwrap().path());
    let directory = tempfile::tempdir_in(std::env::var_os("TMPDIR").unwrap_or_else(|| "/var/tmp".into())).unwrap();
    shell(directory.path(), "mke2fs -q -F -t ext4 -b 4096 host.raw 6G");
    let host = Mounted::new(&directory.path().join("host.raw"), "noatime").unwrap();
    let out = host.path().join("out");
    let mut command = program();
    command.args(["copy-out", "--json", "--preserve", "all", "-m", &format!("/dev/sda{number}")]);
    let report = copy(command.arg(&raw).arg("/").arg(&out));
    println!("{report}");
    let mut ours = tree(&out);
    for (path, facts) in &mut ours {
        // Where the image's own file has a hole below a block of zeroes, the copy has one, too. Digests leave zeroes out.
        let Some(kernels) = kernel.get(path) else { continue };
        let inside = |run: &std::ops::Range<u64>| {
            kernels.data.iter().any(|outer| outer.start <= run.start && run.end <= outer.end)
        };
        assert!(facts.data.iter().all(inside), "{}", guestctl::bytes::escape(path));
        facts.data.clone_from(&kernels.data);
    }
    same("debian", &kernel, &ours);
    manifest_is_true("debian", &kernel, &manifest(&host.path().join("out.guestctl-manifest.jsonl")));
}
