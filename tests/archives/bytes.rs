//! The same guest gives the same bytes: on any number of threads, from any format of its image.

use std::path::Path;

use sha2::{Digest, Sha256};

use super::program::program;
use super::support::{have, shell};

/// SHA-256 of the archive of the demo guest's root filesystem. It changes with the form of archives and with nothing else.
const DEMO: &str = "b42964f367844981f18178ce12bfe4f589c7d3ee451c5a55a0efc4ca11fddce4";

fn archive(image: &Path, more: &[&str]) -> Vec<u8> {
    let output = program().args(["tar-out", "-q", "-m", "/dev/sda2"]).args(more).arg(image).arg("/").output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(0), ""));
    output.stdout
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn the_demos_archive_is_the_one_that_it_always_was() {
    assert_eq!(digest(&archive(&super::demo(), &[])), DEMO);
}

#[test]
fn on_any_number_of_threads() {
    for more in [&[][..], &["--all-times", "--no-sparse"]] {
        let with = |jobs| archive(&super::demo(), &[more, &["-j", jobs]].concat());
        let one = with("1");
        assert!(with("2") == one && with("7") == one);
    }
}

#[test]
fn from_any_format() {
    if !have("qemu-img") || !have("mke2fs") || !have("sfdisk") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    // A guest of several pieces, with allocated zeroes, which every format is free to store or not.
    let tree = at.join("tree");
    std::fs::create_dir(&tree).unwrap();
    std::fs::write(tree.join("random"), super::corners::pattern(5_000_000, 3)).unwrap();
    std::fs::write(tree.join("zeroes"), vec![0xa5; 3_000_000]).unwrap();
    std::fs::write(tree.join("some zeroes"), [vec![1; 70_000], vec![0xa5; 300_000], vec![2; 70_000]].concat()).unwrap();
    for index in 0..300_u64 {
        std::fs::write(tree.join(format!("small {index}")), super::corners::pattern(index as usize * 7, index))
            .unwrap();
    }
    shell(
        at,
        "truncate -s 3G tree/holes; printf x >>tree/holes
         mke2fs -q -F -t ext4 -b 4096 -d tree fs.raw 48M",
    );
    // What mke2fs would leave out as a hole is there, and zero.
    let mut bytes = std::fs::read(at.join("fs.raw")).unwrap();
    bytes.chunks_mut(4096).filter(|block| block.iter().all(|byte| *byte == 0xa5)).for_each(|block| block.fill(0));
    std::fs::write(at.join("fs.raw"), bytes).unwrap();
    shell(
        at,
        "truncate -s 64M disk.raw
         printf 'label: gpt\nstart=2048,size=2048\nstart=4096,size=98304\n' | sfdisk -q disk.raw
         dd if=fs.raw of=disk.raw bs=1M seek=2 conv=notrunc 2>/dev/null
         dd if=disk.raw of=full.raw bs=1M 2>/dev/null; cp --sparse=always full.raw holes.raw
         qemu-img convert -f raw -O qcow2 disk.raw plain.qcow2
         qemu-img convert -f raw -O qcow2 -S 0 disk.raw full.qcow2
         qemu-img convert -f raw -O qcow2 -c disk.raw zlib.qcow2
         qemu-img convert -f raw -O qcow2 -c -o compression_type=zstd disk.raw zstd.qcow2
         qemu-img convert -f raw -O vmdk disk.raw sparse.vmdk
         qemu-img convert -f raw -O vmdk -o subformat=streamOptimized disk.raw stream.vmdk
         qemu-img convert -f raw -O vdi disk.raw disk.vdi",
    );
    let first = archive(&at.join("disk.raw"), &[]);
    assert!(first.len() > 8_000_000 && first.len() < 12_000_000, "{}", first.len());
    for image in [
        "full.raw",
        "holes.raw",
        "plain.qcow2",
        "full.qcow2",
        "zlib.qcow2",
        "zstd.qcow2",
        "sparse.vmdk",
        "stream.vmdk",
        "disk.vdi",
    ] {
        assert!(archive(&at.join(image), &["-j", "3"]) == first, "{image}");
    }
}
