//! On a filesystem that shares storage no file bytes move.

use std::os::unix::fs::FileExt;
use std::path::Path;

use serde_json::Value;

use super::corners::pattern;
use super::host::tree;
use super::mounted::{Mounted, can_mount};
use super::program::program;
use super::support::{have, shell};

fn used(at: &Path) -> u64 {
    let stat = rustix::fs::statvfs(at).unwrap();
    (stat.f_blocks - stat.f_bfree) * stat.f_frsize
}

#[test]
fn contents_are_shared_with_the_image_and_not_copied() {
    if !can_mount() || !have("mkfs.xfs") || !have("mke2fs") || !have("qemu-img") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    shell(at, "truncate -s 600M fs; mkfs.xfs -q -m reflink=1 fs; mkdir t");
    let sizes = [100, 65_535, 65_536, 65_537, 100_000, 1 << 20, (1 << 20) + 1, 3_000_000, 20 << 20];
    for (index, size) in sizes.into_iter().enumerate() {
        std::fs::write(at.join(format!("t/{size}")), pattern(size, index as u64)).unwrap();
    }
    let holes = std::fs::File::create(at.join("t/holes")).unwrap();
    for offset in [0, 1 << 20, 30 << 20] {
        holes.write_all_at(&pattern(200_000, offset), offset).unwrap();
    }
    let expected = tree(&at.join("t"));
    let host = Mounted::new(&at.join("fs"), "noatime").unwrap();
    let inside = host.path();
    let options = "-t ext4 -b 4096 -O ^metadata_csum -E root_owner";
    shell(at, &format!("mke2fs -q -F {options} -d t '{}' 80M", inside.join("guest.raw").display()));
    shell(&inside, "qemu-img convert -O qcow2 guest.raw guest.qcow2; sync");
    for image in ["guest.raw", "guest.qcow2"] {
        let before = used(&inside);
        let mut command = program();
        command.args(["copy-out", "--json", "-m", "/dev/sda"]).arg(inside.join(image)).arg("/").arg(inside.join("out"));
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let report = &report["copies"][0];
        let number = |key: &str| report[key].as_u64().unwrap();
        // All but the smallest file, which is below a block.
        assert_eq!((number("copied_bytes"), number("cloned_files")), (100, 9), "{image}: {report}");
        let taken = used(&inside).saturating_sub(before);
        assert!(taken < 2 << 20, "{image}: {taken} bytes of the host's filesystem are used");
        let mut ours = tree(&inside.join("out"));
        ours.remove(&b"lost+found"[..]);
        let contents = |tree: &super::host::Tree| {
            tree.iter().map(|(path, facts)| (path.clone(), facts.size, facts.content)).collect::<Vec<_>>()
        };
        assert_eq!(contents(&ours), contents(&expected), "{image}");
        shell(&inside, "rm -r out out.guestctl-manifest.jsonl; sync");
    }
    let mut command = program();
    command.args(["copy-out", "--json", "--no-clone", "-m", "/dev/sda"]);
    let output = command.arg(inside.join("guest.raw")).arg("/").arg(inside.join("out")).output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["copies"][0]["cloned_bytes"], 0);
    // One file and a whole device are shared, too.
    for (remote, to) in [("/20971520", "one"), ("/dev/sda", "all")] {
        let before = used(&inside);
        let mut command = program();
        command.args(["download", "-m", "/dev/sda"]).arg(inside.join("guest.raw")).arg(remote).arg(inside.join(to));
        assert!(command.status().unwrap().success());
        shell(&inside, "sync");
        assert!(used(&inside).saturating_sub(before) < 2 << 20, "{remote}");
    }
    shell(&inside, "cmp all guest.raw; cmp one out/20971520");
}
