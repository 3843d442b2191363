//! What cannot be read is named, and everything else is there.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde_json::Value;

use super::corners::pattern;
use super::program::{Ran, guestctl, program};
use super::read_back::by_python;
use super::support::{have, shell};

fn run(at: &Path, arguments: &[&str]) -> Ran {
    let output = program().args(arguments).current_dir(at).output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    Ran { code: output.status.code().unwrap(), out: output.stdout, err }
}

/// Bytes that do not repeat and that any compression makes smaller.
fn text(len: usize, seed: u64) -> Vec<u8> {
    pattern(len, seed).into_iter().map(|byte| byte & 7).collect()
}

/// A filesystem of some files; `None` without the tools for it.
fn image(at: &Path) -> Option<()> {
    if !["mke2fs", "debugfs", "qemu-img"].into_iter().all(have) {
        return None;
    }
    std::fs::create_dir(at.join("tree")).unwrap();
    for name in ["a", "b", "c"] {
        std::fs::write(at.join("tree").join(name), text(400_000, u64::from(name.as_bytes()[0]))).unwrap();
    }
    for index in 0..20_u64 {
        std::fs::write(at.join(format!("tree/small {index}")), text(3000, index)).unwrap();
    }
    let holes = File::create(at.join("tree/d")).unwrap();
    holes.write_all_at(&text(10_000, 4), 0).unwrap();
    holes.set_len(100_000).unwrap();
    for name in ["c", "d"] {
        std::fs::hard_link(at.join("tree").join(name), at.join(format!("tree/{name} again"))).unwrap();
    }
    shell(at, "mke2fs -q -F -t ext4 -b 4096 -O ^metadata_csum,^inline_data -d tree fs.raw 16M");
    Some(())
}

/// Where a block of a file lies in the image.
fn block_of(at: &Path, path: &str, index: u64) -> u64 {
    let output = shell(at, &format!("debugfs -R 'bmap \"{path}\" {index}' fs.raw 2>/dev/null"));
    String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
}

/// Where an inode lies in the image, in bytes.
fn inode_of(at: &Path, path: &str) -> u64 {
    let output = shell(at, &format!("debugfs -R 'imap \"{path}\"' fs.raw 2>/dev/null"));
    let text = String::from_utf8(output.stdout).unwrap();
    let field = |name: &str| {
        let rest = text.split_once(name).unwrap().1.trim_start();
        rest.split([',', '\n', ' ']).next().unwrap().to_owned()
    };
    let block: u64 = field("located at block").parse().unwrap();
    let offset = u64::from_str_radix(field("offset").trim_start_matches("0x"), 16).unwrap();
    block * 4096 + offset
}

#[test]
fn a_damaged_cluster_is_named_and_zeroes_stand_for_it() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    if image(at).is_none() {
        return;
    }
    shell(at, "qemu-img convert -f raw -O qcow2 -c fs.raw damaged.qcow2");
    // The guest cluster that lies in the middle of b is the one that cannot be unpacked.
    let cluster = block_of(at, "b", 40) * 4096 / 65_536;
    let map = shell(at, "qemu-img map --output=json damaged.qcow2");
    let map: Value = serde_json::from_slice(&map.stdout).unwrap();
    assert!(map.as_array().unwrap().iter().any(|run| run["compressed"] == true));
    damage_compressed(&at.join("damaged.qcow2"), cluster);
    let whole = run(at, &["tar-out", "-q", "-m", "/dev/sda", "fs.raw", "/"]).bytes();
    let report = run(at, &["tar-out", "-q", "-m", "/dev/sda", "damaged.qcow2", "/", "--json", "archive"]);
    assert_eq!(report.code, 3, "{}", report.err);
    assert!(report.err.contains("everything else is there"), "{}", report.err);
    let json: Value = serde_json::from_slice(&report.out).unwrap();
    let found = std::fs::read(at.join("archive")).unwrap();
    assert_eq!(found.len(), whole.len());
    // What differs is zero, lies within the damaged cluster's files, and is what the report names.
    let mut differing = std::collections::BTreeSet::new();
    for (index, (found, whole)) in found.iter().zip(&whole).enumerate() {
        if found != whole {
            assert_eq!(*found, 0, "at {index}");
            differing.insert(index / 4096);
        }
    }
    assert!(!differing.is_empty());
    let listed = json["problems"]["listed"].as_array().unwrap();
    assert_eq!(json["problems"]["count"], listed.len());
    let mut lost = 0;
    for problem in listed {
        let (path, range) = (problem["path"].as_str().unwrap(), &problem["range"]);
        let (start, end) = (range["start"].as_u64().unwrap(), range["end"].as_u64().unwrap());
        lost += end - start;
        assert!(report.err.contains(&format!("{path}: {} bytes at byte {start:#x}: ", end - start)), "{}", report.err);
        // Every block that is named lies in the cluster.
        for at_byte in (start..end).step_by(4096) {
            assert_eq!(block_of(at, path, at_byte / 4096) * 4096 / 65_536, cluster, "{path} {at_byte}");
        }
        // And its bytes are zero in the archive.
        if path == "/b" {
            let content = &text(400_000, u64::from(b'b'))[..512];
            let begins = whole.windows(512).position(|window| window == content).unwrap();
            let bytes = &found[begins + start as usize..begins + end as usize];
            assert!(bytes.iter().all(|byte| *byte == 0));
        }
    }
    assert!(listed.iter().any(|problem| problem["path"] == "/b") && lost > 4096 && lost <= 65_536, "{listed:?}");
    let all = differing.len() as u64 * 4096;
    assert!(all + 8192 >= lost, "{lost} bytes are named, {all} differ");

    // Digests: none for what is lost, the others as ever.
    let sums = run(at, &["checksum", "-q", "-m", "/dev/sda", "damaged.qcow2", "/"]);
    assert_eq!(sums.code, 3, "{}", sums.err);
    let whole = run(at, &["checksum", "-q", "-m", "/dev/sda", "fs.raw", "/"]).text();
    let found = String::from_utf8(sums.out).unwrap();
    let lost: Vec<&str> = whole.lines().filter(|line| !found.lines().any(|other| other == *line)).collect();
    let named: std::collections::BTreeSet<&str> =
        listed.iter().map(|problem| problem["path"].as_str().unwrap()).collect();
    let lost: std::collections::BTreeSet<&str> = lost.iter().map(|line| line.split_once("  .").unwrap().1).collect();
    let first_names: std::collections::BTreeSet<&str> =
        lost.iter().copied().filter(|path| !path.ends_with(" again")).collect();
    assert_eq!(first_names, named);
    assert!(found.lines().all(|line| whole.lines().any(|other| other == line)));
}

/// Overwrites the compressed data of a guest cluster.
fn damage_compressed(image: &Path, cluster: u64) {
    let file = File::options().read(true).write(true).open(image).unwrap();
    let number = |offset| {
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, offset).unwrap();
        u64::from_be_bytes(bytes)
    };
    let l2 = number(number(40) + cluster / 8192 * 8) & 0x00ff_ffff_ffff_fe00;
    let entry = number(l2 + cluster % 8192 * 8);
    assert!(entry & 1 << 62 != 0, "cluster {cluster} is not compressed: {entry:#x}");
    file.write_all_at(&[0xff; 64], entry & ((1 << 54) - 1)).unwrap();
}

#[test]
fn an_inode_that_cannot_be_read_is_left_out_and_so_is_a_link_to_it() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    if image(at).is_none() {
        return;
    }
    let file = File::options().write(true).open(at.join("fs.raw")).unwrap();
    // A type that there is not.
    file.write_all_at(&[0xff, 0xff], inode_of(at, "b")).unwrap();
    // Extent trees that do not begin as one.
    for path in ["c", "d"] {
        file.write_all_at(&[0; 12], inode_of(at, path) + 40).unwrap();
    }
    let ran = run(at, &["tar-out", "-q", "-m", "/dev/sda", "fs.raw", "/", "archive"]);
    assert_eq!(ran.code, 3, "{}", ran.err);
    for path in ["/b", "/c", "/d", "/d again"] {
        let line = ran.err.lines().find(|line| line.contains(&format!("{path}: ")));
        assert!(line.is_some_and(|line| line.contains("corrupt ext4")), "{path}: {}", ran.err);
    }
    let Some(members) = by_python(&at.join("archive")) else { return };
    let names: Vec<_> = members.iter().map(|member| String::from_utf8_lossy(&member.path).into_owned()).collect();
    let has = |name: &str| names.iter().any(|found| found == name);
    assert!(has("./a") && has("./small 19") && !has("./b"), "{names:?}");
    // Of c the size is known, so zeroes stand for it, and a link to them is a link; where d's holes are nobody knows.
    assert!(has("./c") && has("./c again") && !has("./d") && !has("./d again"), "{names:?}");
    assert!(ran.err.contains("/c: 400000 bytes at byte 0x0: "), "{}", ran.err);
}

#[test]
fn a_file_whose_attributes_cannot_be_read_is_there_without_them() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    if image(at).is_none() {
        return;
    }
    std::fs::write(at.join("value"), pattern(900, 1)).unwrap();
    shell(at, "debugfs -w -R 'ea_set -f value a user.large' fs.raw 2>/dev/null");
    let output = shell(at, "debugfs -R 'stat a' fs.raw 2>/dev/null");
    let text = String::from_utf8(output.stdout).unwrap();
    let block: u64 = text.split_once("File ACL: ").unwrap().1.lines().next().unwrap().trim().parse().unwrap();
    assert!(block > 0, "{text}");
    let file = File::options().write(true).open(at.join("fs.raw")).unwrap();
    file.write_all_at(&[0xff; 64], block * 4096).unwrap();
    let ran = run(at, &["tar-out", "-q", "-m", "/dev/sda", "fs.raw", "/", "archive"]);
    assert_eq!(ran.code, 3, "{}", ran.err);
    assert!(ran.err.contains("/a: corrupt ext4"), "{}", ran.err);
    let unpacked = shell(at, "mkdir out; tar -xf archive -C out; cmp out/a tree/a; cmp out/b tree/b; ls out");
    assert!(String::from_utf8(unpacked.stdout).unwrap().contains("small 19"));
}

#[test]
fn what_is_no_directory_is_said() {
    let demo = super::demo();
    let demo = demo.to_str().unwrap();
    let ran = guestctl(["tar-out", "-q", demo, "/etc/hostname"]);
    assert_eq!((ran.code, ran.out.len()), (9, 0), "{}", ran.err);
    let ran = guestctl(["tar-out", "-q", demo, "/nowhere"]);
    assert_eq!((ran.code, ran.out.len()), (9, 0), "{}", ran.err);
}

/// A symbolic link and a directory of one name: who unpacked both would write where the link leads.
#[test]
fn of_a_name_that_is_there_twice_only_the_first_is_taken() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    if image(at).is_none() {
        return;
    }
    shell(
        at,
        "mkdir t t/real; echo mine >t/real/passwd; ln -s /outside t/trap; mke2fs -q -F -t ext4 -O ^metadata_csum -d t twice.raw 8M
         debugfs -w -R 'ln real trbp' twice.raw 2>/dev/null",
    );
    let mut bytes = std::fs::read(at.join("twice.raw")).unwrap();
    let other = bytes.windows(4).position(|window| window == b"trbp").unwrap();
    bytes[other..other + 4].copy_from_slice(b"trap");
    std::fs::write(at.join("twice.raw"), bytes).unwrap();
    let ran = run(at, &["tar-out", "-q", "-m", "/dev/sda", "twice.raw", "/", "archive"]);
    assert_eq!(ran.code, 3, "{}", ran.err);
    assert!(ran.err.contains("/trap: ") && ran.err.contains("a second entry"), "{}", ran.err);
    let listed = shell(at, "tar -tvf archive");
    let listed = String::from_utf8(listed.stdout).unwrap();
    let traps: Vec<&str> = listed.lines().filter(|line| line.contains("trap")).collect();
    assert!(traps.len() == 1 && traps[0].ends_with("./trap -> /outside"), "{listed}");
}
