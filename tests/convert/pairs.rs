//! Every format into every other, and every shape of qcow2.

use std::path::Path;

use super::layout::sparse;
use super::{guestctl, run};
use crate::support::{have, shell};

/// Formats as our command line and QEMU's name them, with options for each kind.
const KINDS: &[(&str, &str, &str)] = &[
    ("raw", "raw", ""),
    ("qcow2", "qcow2", ""),
    ("qcow2-v2", "qcow2", "-o compat=0.10"),
    ("qcow2-zlib", "qcow2", "-c"),
    ("qcow2-zstd", "qcow2", "--compression zstd"),
    ("qcow2-512", "qcow2", "-o cluster_size=512"),
    ("qcow2-2M", "qcow2", "-o cluster_size=2M"),
    ("qcow2-2M-zlib", "qcow2", "-c -o cluster_size=2M"),
    ("qcow2-4k-zstd", "qcow2", "-c -o cluster_size=4k,compression_type=zstd"),
    ("qcow2-512-zlib", "qcow2", "-c -o cluster_size=512"),
    ("qcow2-extl2", "qcow2", "-o extended_l2=on"),
    ("qcow2-extl2-zlib", "qcow2", "-c -o extended_l2=on,cluster_size=128k"),
    ("qcow2-refcount1", "qcow2", "-o refcount_bits=1"),
    ("qcow2-refcount1-zlib", "qcow2", "-c -o refcount_bits=1"),
    ("qcow2-refcount2-zlib", "qcow2", "-c -o refcount_bits=2"),
    ("qcow2-refcount64", "qcow2", "-o refcount_bits=64,lazy_refcounts=on"),
    ("qcow2-metadata", "qcow2", "-o preallocation=metadata"),
    ("qcow2-extl2-metadata", "qcow2", "-o preallocation=metadata,extended_l2=on"),
    ("qcow2-full", "qcow2", "--preallocate full"),
    ("raw-falloc", "raw", "--preallocate falloc"),
];

fn kinds() -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    KINDS.iter().copied()
}

/// The bytes as qemu-img reads them are the source's, and qemu-img finds nothing wrong with the image.
fn assert_same(directory: &Path, source: &str, image: &str, format: &str, what: &str) {
    let compared = format!("qemu-img compare -f raw -F {format} {source} {image}");
    assert_eq!(shell(directory, &compared).stdout, b"Images are identical.\n", "{what}");
    if matches!(format, "qcow2" | "vdi" | "vhdx") {
        shell(directory, &format!("qemu-img check -f {format} {image}"));
    }
}

#[test]
fn every_kind_reads_the_same_for_qemu_and_on_any_number_of_threads() {
    if !have("qemu-img") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    for (seed, size) in [(1, 9 << 20), (2, (3 << 20) + 7 * 512), (3, 512), (4, 0), (5, (150 << 20) + 4096)] {
        sparse(&at.join("source"), seed, size, 40);
        for (name, format, options) in kinds() {
            let what = format!("{name} of {size} bytes");
            guestctl(at, &format!("convert -f raw -O {format} {options} --verify -m 1 source one"));
            assert_same(at, "source", "one", format, &what);
            guestctl(at, &format!("convert -f raw -O {format} {options} -m 5 source five"));
            assert!(
                std::fs::read(at.join("one")).unwrap() == std::fs::read(at.join("five")).unwrap(),
                "{what}: threads"
            );
            guestctl(at, &format!("convert -f {format} -O raw one back"));
            shell(at, "cmp source back");
            let compared = guestctl(at, &format!("compare -f raw -F {format} source one"));
            assert_eq!(compared, b"Images are identical.\n", "{what}");
        }
    }
    assert_eq!(std::fs::read_dir(at).unwrap().count(), 4, "no temporary files are left");
}

#[test]
fn what_qemu_makes_is_converted() {
    if !have("qemu-img") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    sparse(&at.join("source"), 7, (20 << 20) + 512, 60);
    for (format, options) in [
        ("qcow2", ""),
        ("qcow2", "-c"),
        ("qcow2", "-c -o compression_type=zstd"),
        ("qcow2", "-o cluster_size=4k,extended_l2=off"),
        ("qcow2", "-o extended_l2=on,cluster_size=256k"),
        ("vmdk", ""),
        ("vmdk", "-o subformat=streamOptimized"),
    ] {
        shell(at, &format!("qemu-img convert -f raw -O {format} {options} source image"));
        for target in ["raw", "qcow2", "qcow2 -c"] {
            guestctl(at, &format!("convert -f {format} -O {target} image out"));
            assert_same(
                at,
                "source",
                "out",
                target.split(' ').next().unwrap(),
                &format!("{format} {options} to {target}"),
            );
        }
    }
}

#[test]
fn overlays_hold_what_differs_from_their_backing_file() {
    if !have("qemu-img") || !have("qemu-io") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    sparse(&at.join("base.raw"), 11, 12 << 20, 40);
    shell(
        at,
        "cp base.raw new.raw; truncate -s 14M new.raw
         dd if=/dev/urandom of=new.raw bs=64k count=3 seek=20 conv=notrunc status=none
         dd if=/dev/zero of=new.raw bs=4k count=7 seek=901 conv=notrunc status=none
         dd if=/dev/zero of=new.raw bs=64k count=9 seek=64 conv=notrunc status=none",
    );
    for options in ["", "-o compat=0.10", "-c", "-o extended_l2=on", "-o cluster_size=4k"] {
        guestctl(
            at,
            &format!("convert -f raw -O qcow2 {options} -B base.raw -F raw --allow-same-dir --verify new.raw top"),
        );
        let compared = shell(at, "qemu-img compare -f raw -F qcow2 new.raw top; qemu-img check top >check");
        assert_eq!(compared.stdout, b"Images are identical.\n", "{options}");
        let size = std::fs::metadata(at.join("top")).unwrap().len();
        assert!(size < 4 << 20, "{options}: {size} bytes for what differs");
        guestctl(at, "convert -f qcow2 -O raw --flatten --allow-same-dir top flat");
        shell(at, "cmp flat new.raw");
    }
    let refused = run(at, "convert -O qcow2 -B base.raw new.raw top2");
    assert_eq!((refused.status.code(), at.join("top2").exists()), (Some(2), false));
}

#[test]
fn a_snapshot_is_converted_as_it_was() {
    if !have("qemu-img") || !have("qemu-io") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    shell(
        at,
        "qemu-img create -q -f qcow2 disk 8M; qemu-io -c 'write -P 1 0 3M' disk >out
         qemu-img snapshot -c before disk; qemu-io -c 'write -P 2 1M 5M' disk >out
         qemu-img convert -l before -O raw disk expected",
    );
    guestctl(at, "convert --snapshot before -O raw disk got");
    guestctl(at, "convert -l 1 -O raw disk byid");
    shell(at, "cmp expected got; cmp expected byid");
}
