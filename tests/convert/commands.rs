//! The commands around convert: the same answers and exit codes as qemu-img.

use serde_json::Value;

use super::layout::sparse;
use super::{guestctl, run};
use crate::support::{have, shell};

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

#[test]
fn map_is_qemus() {
    if !have("qemu-img") || !have("qemu-io") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    sparse(&at.join("source"), 41, 30 << 20, 40);
    shell(
        at,
        "qemu-img convert -O qcow2 source plain; qemu-img convert -c -O qcow2 source packed
         qemu-img convert -O vmdk source sparse.vmdk; qemu-img convert -O vmdk -o subformat=streamOptimized source stream.vmdk
         qemu-img create -q -f qcow2 -b plain -F qcow2 middle 40M; qemu-io -c 'write -P 1 3M 100k' -c 'write -z 5M 1M' middle >o
         qemu-img create -q -f qcow2 -b middle -F qcow2 top; qemu-io -c 'write -P 1 4M 100k' -c 'write -P 2 35M 64k' top >o
         qemu-img create -q -f qcow2 -o extended_l2=on,cluster_size=64k -b middle -F qcow2 sub
         qemu-io -c 'write -P 1 4M 6k' -c 'write -z 6M 4k' -c 'write -P 3 7M 200k' sub >o
         qemu-img create -q -f qcow2 -o preallocation=metadata meta 3M; qemu-img create -q -f qcow2 empty 1G",
    );
    for image in ["source", "plain", "packed", "sparse.vmdk", "stream.vmdk", "top", "sub", "meta", "empty"] {
        let ours = json(&guestctl(at, &format!("map --json --allow-same-dir {image}")));
        let theirs = json(&shell(at, &format!("qemu-img map --output=json {image}")).stdout);
        for (ours, theirs) in ours.as_array().unwrap().iter().zip(theirs.as_array().unwrap()) {
            assert_eq!(ours, theirs, "{image}");
        }
        assert_eq!(ours.as_array().unwrap().len(), theirs.as_array().unwrap().len(), "{image}");
    }
}

#[test]
fn measure_is_qemus() {
    if !have("qemu-img") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    sparse(&at.join("source"), 42, (30 << 20) + 512, 40);
    for arguments in [
        "-O raw source",
        "-O qcow2 source",
        "-O qcow2 -o cluster_size=4k source",
        "-O qcow2 -o extended_l2=on,cluster_size=2M source",
        "-O qcow2 -o refcount_bits=1 source",
        "-O qcow2 -o preallocation=full source",
        "-O qcow2 --size 6G",
        "-O qcow2 --size 1P -o cluster_size=2M",
        "-O raw --size 1000",
    ] {
        let ours = json(&guestctl(at, &format!("measure --json {arguments}")));
        let theirs = json(&shell(at, &format!("qemu-img measure --output=json {arguments}")).stdout);
        for key in ["required", "fully-allocated"] {
            assert_eq!(ours[key], theirs[key], "{arguments}: {key}");
        }
    }
}

#[test]
fn compare_ends_as_qemus_does() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    sparse(&at.join("a"), 43, 20 << 20, 60);
    std::fs::copy(at.join("a"), at.join("b")).unwrap();
    let codes = |arguments: &str| run(at, arguments).status.code();
    assert_eq!(codes("compare a b"), Some(0));
    assert_eq!(codes("compare a missing"), Some(2));
    assert_eq!(codes("compare -s a b"), Some(0));
    let b = std::fs::File::options().write(true).open(at.join("b")).unwrap();
    b.set_len(25 << 20).unwrap();
    assert_eq!((codes("compare a b"), codes("compare -s a b")), (Some(0), Some(1)));
    // The first difference is the one that is named, on any number of threads.
    for offset in [24 << 20, (13 << 20) + 77, 4095, 0] {
        let mut byte = [0u8];
        std::os::unix::fs::FileExt::read_exact_at(&std::fs::File::open(at.join("b")).unwrap(), &mut byte, offset)
            .unwrap();
        std::os::unix::fs::FileExt::write_all_at(&b, &[byte[0] ^ 0x55], offset).unwrap();
        for jobs in [1, 4] {
            let ran = run(at, &format!("compare --json -m {jobs} a b"));
            assert_eq!(ran.status.code(), Some(1));
            assert_eq!(json(&ran.stdout)["first-difference"], offset, "{jobs} threads");
        }
    }
}

#[test]
fn create_makes_what_qemu_reads() {
    if !have("qemu-img") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    guestctl(at, "create -f qcow2 base.qcow2 1G");
    guestctl(at, "create -f qcow2 -b base.qcow2 -F qcow2 top.qcow2");
    guestctl(at, "create -f qcow2 -b base.qcow2 -F qcow2 -o cluster_size=4k larger.qcow2 2G");
    guestctl(at, "create -f qcow2 -o preallocation=metadata meta.qcow2 64M");
    guestctl(at, "create -f qcow2 -o compat=v2 old.qcow2 1T");
    guestctl(at, "create -f raw -o preallocation=falloc full.raw 1M");
    for (image, size) in
        [("base", 1u64 << 30), ("top", 1 << 30), ("larger", 2 << 30), ("meta", 64 << 20), ("old", 1 << 40)]
    {
        let shown = shell(at, &format!("qemu-img check -q {image}.qcow2; qemu-img info --output=json {image}.qcow2"));
        assert_eq!(json(&shown.stdout)["virtual-size"], size, "{image}");
    }
    let chain = json(&guestctl(at, "info --backing-chain --json --allow-same-dir top.qcow2"));
    let theirs = json(&shell(at, "qemu-img info --backing-chain --output=json top.qcow2").stdout);
    for (ours, theirs) in chain.as_array().unwrap().iter().zip(theirs.as_array().unwrap()) {
        for key in ["filename", "format", "virtual-size", "backing-filename", "full-backing-filename", "cluster-size"] {
            assert_eq!(ours[key], theirs[key], "{key}");
        }
    }
    assert_eq!(chain.as_array().unwrap().len(), 2);
    let allocated = shell(at, "stat -c '%s %b' full.raw").stdout;
    assert_eq!(allocated, b"1048576 2048\n");
    for (arguments, code) in [
        ("create -f qcow2 x", 2),
        ("create -f qcow2 -o cluster_size=1000 x 1M", 2),
        ("create -f qcow2 -o compat=v2,extended_l2=on x 1M", 2),
        ("create -f raw -o cluster_size=4k x 1M", 2),
        ("create -f qcow2 -b missing -F raw x", 1),
        ("create -f qcow2 -b base.qcow2 x", 2),
        ("create -f ova x 1M", 7),
        ("create -f qcow2 -o cluster_size=512 x 1E", 4),
    ] {
        let ran = run(at, arguments);
        assert_eq!((ran.status.code(), at.join("x").exists()), (Some(code), false), "{arguments}");
    }
}
