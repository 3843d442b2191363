//! One filesystem in every image format and on every kind of volume: what is listed, digests and all, is the same to the
//! byte. No root is needed but for the logical volume.

use std::path::Path;
use std::process::Command;

use super::corners::pattern;
use super::program::guestctl;
use super::support::{have, root, shell};

/// `fs.raw`, with as much as can be made without root.
fn build(directory: &Path) {
    let tree = directory.join("tree");
    std::fs::create_dir_all(tree.join("a/b/c")).unwrap();
    for len in [0, 1, 4095, 4096, 4097, 70_000, 3 << 20] {
        std::fs::write(tree.join(format!("a/{len}")), pattern(len, 1)).unwrap();
    }
    std::fs::write(tree.join("a/text"), "compressible ".repeat(100_000)).unwrap();
    std::fs::write(tree.join("a/zeroes"), vec![0; 1 << 20]).unwrap();
    std::os::unix::fs::symlink("../text", tree.join("a/b/link")).unwrap();
    shell(
        directory,
        "truncate -s 5M tree/a/hole; echo end >> tree/a/hole
         mke2fs -q -F -t ext4 -L same -d tree fs.raw 40M
         cp -r tree older; echo older > older/a/text; rm older/a/4097; mke2fs -q -F -t ext4 -d older older.raw 40M",
    );
}

fn list(directory: &Path, image: &str, device: &str) -> Vec<u8> {
    let image = directory.join(image);
    let image = image.to_str().unwrap();
    guestctl(["ls", "-R", "--json", "--checksum", "sha256", "--allow-same-dir", image, "/", "-m", device]).bytes()
}

#[track_caller]
fn same(directory: &Path, image: &str, device: &str) {
    let raw = list(directory, "fs.raw", "/dev/sda");
    assert!(raw.len() > 2000);
    assert!(list(directory, image, device) == raw, "{image} {device}");
}

#[test]
fn every_image_format_gives_the_same() {
    if !have("mke2fs") || !have("qemu-img") || !have("qemu-io") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    build(directory);
    shell(
        directory,
        "convert() { qemu-img convert -f raw \"$@\"; }
         convert -O qcow2 fs.raw plain.qcow2
         convert -O qcow2 -o compat=0.10 fs.raw old.qcow2
         convert -O qcow2 -c fs.raw zlib.qcow2
         convert -O qcow2 -c -o compression_type=zstd fs.raw zstd.qcow2
         convert -O qcow2 -o cluster_size=512 fs.raw 512.qcow2
         convert -O qcow2 -o cluster_size=2M fs.raw 2M.qcow2
         convert -O qcow2 -o extended_l2=on,cluster_size=32k fs.raw subclusters.qcow2
         convert -O qcow2 -o data_file=data.bin,data_file_raw=on fs.raw external.qcow2
         convert -O qcow2 older.raw base.qcow2
         convert -O qcow2 -B base.qcow2 -F qcow2 fs.raw top.qcow2
         qemu-img create -q -f qcow2 -b top.qcow2 -F qcow2 over.qcow2
         cp older.raw base.raw; convert -O qcow2 -B base.raw -F raw fs.raw over-raw.qcow2
         cp plain.qcow2 snapped.qcow2; qemu-img snapshot -c kept snapped.qcow2
         qemu-io -f qcow2 -c 'write -q -P 0x55 0 40M' snapped.qcow2
         for kind in monolithicSparse monolithicFlat twoGbMaxExtentSparse twoGbMaxExtentFlat streamOptimized; do
             convert -O vmdk -o subformat=$kind fs.raw $kind.vmdk
         done
         convert -O vmdk -o zeroed_grain=on fs.raw zeroed.vmdk",
    );
    let images = [
        "plain.qcow2",
        "old.qcow2",
        "zlib.qcow2",
        "zstd.qcow2",
        "512.qcow2",
        "2M.qcow2",
        "subclusters.qcow2",
        "external.qcow2",
        "top.qcow2",
        "over.qcow2",
        "over-raw.qcow2",
        "snapped.qcow2#kept",
        "monolithicSparse.vmdk",
        "monolithicFlat.vmdk",
        "twoGbMaxExtentSparse.vmdk",
        "twoGbMaxExtentFlat.vmdk",
        "streamOptimized.vmdk",
        "zeroed.vmdk",
    ];
    for image in images {
        same(directory, image, "/dev/sda");
    }
    assert!(list(directory, "base.qcow2", "/dev/sda") != list(directory, "fs.raw", "/dev/sda"));
}

#[test]
fn every_partition_table_gives_the_same() {
    if !have("mke2fs") || !have("sgdisk") || !have("sfdisk") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    build(directory);
    shell(
        directory,
        "truncate -s 60M gpt.raw; sgdisk -n 1:2048:+1M -n 7:10M:+40M gpt.raw >/dev/null
         dd if=fs.raw of=gpt.raw bs=1M seek=10 conv=notrunc,sparse status=none
         truncate -s 100M mbr.raw
         printf '%s\\n' 'label: dos' '2048,81920,83' '83968,-,0f' '86016,8192,83' '98304,81920,83' | sfdisk -q mbr.raw
         dd if=fs.raw of=mbr.raw bs=512 seek=2048 conv=notrunc,sparse status=none
         dd if=fs.raw of=mbr.raw bs=512 seek=98304 conv=notrunc,sparse status=none",
    );
    for (image, device) in
        [("gpt.raw", "/dev/sda7"), ("mbr.raw", "/dev/sda1"), ("mbr.raw", "/dev/sda6"), ("mbr.raw", "/dev/vda6")]
    {
        same(directory, image, device);
    }
}

#[test]
fn a_logical_volume_gives_the_same() {
    if !have("mke2fs") || !have("lvm") || !have("losetup") || !root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    build(directory);
    // Two segments in the wrong order: extents 20–39 first, then 0–19. The data goes where lvm2 says they lie.
    let created = Command::new("bash")
        .current_dir(directory)
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .args([
            "-euc",
            r#"
        truncate -s 64M lvm.raw
        pv=$(losetup -f --show lvm.raw); trap 'losetup -d $pv' EXIT
        cfg="devices{filter=[\"a|^$pv\$|\",\"r|.*|\"] use_devicesfile=0} global{use_lvmlockd=0 use_lvmpolld=0} \
             backup{backup=0 archive=0} activation{udev_sync=0 udev_rules=0 monitoring=0 verify_udev_operations=0}"
        run() { lvm "$@" --driverloaded n --config "$cfg" -qq; }
        run pvcreate -ff -y $pv; run vgcreate -s 1M group $pv
        run lvcreate -an -Zn -Wn -L 20M -n volume group $pv:20-39
        run lvextend -L +20M group/volume $pv:0-19
        start=$(lvm pvs --driverloaded n --config "$cfg" --noheadings --nosuffix --units b -o pe_start $pv)
        sync
        dd if=fs.raw of=lvm.raw bs=1M count=20 seek=$((start + (20 << 20)))B conv=notrunc status=none
        dd if=fs.raw of=lvm.raw bs=1M skip=20 seek=${start// /}B conv=notrunc status=none
    "#,
        ])
        .output()
        .unwrap();
    assert!(created.status.success(), "{}", String::from_utf8_lossy(&created.stderr));
    same(directory, "lvm.raw", "/dev/group/volume");
    same(directory, "lvm.raw", "/dev/mapper/group-volume");
}
