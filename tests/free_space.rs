//! Free space as filesystems tell it: all of it is overwritten with junk in a copy, then the system's own checkers and
//! readers must find everything as it was, and the sum must be theirs.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fs::OpenOptions;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use guestctl::block::{BlockDevice, HostFile};
use guestctl::ops::free_ranges;
use support::{have, root, shell};

/// A tree with files of all sizes, and what fragments it.
const TREE: &str = "mkdir -p tree/a/b tree/many; n=0
    while [ $n -lt 150 ]; do head -c $((n * 331)) /dev/urandom > tree/many/$n; n=$((n + 1)); done
    head -c 3000000 /dev/urandom > tree/a/large; head -c 70001 /dev/urandom > tree/a/b/middle; : > tree/empty
    truncate -s 5M tree/sparse; printf x >> tree/sparse";

fn ranges(image: &Path) -> Vec<Range<u64>> {
    let disk: Arc<dyn BlockDevice> = Arc::new(HostFile::open(image).unwrap());
    let free = free_ranges(&disk).unwrap();
    let mut end = 0;
    for range in &free {
        assert!(range.start >= end && range.end > range.start && range.end <= disk.size(), "{range:?}");
        end = range.end;
    }
    free
}

fn sum(ranges: &[Range<u64>]) -> u64 {
    ranges.iter().map(|range| range.end - range.start).sum()
}

/// Overwrites `ranges` of the image with what no filesystem would mistake for its own.
fn junk(image: &Path, ranges: &[Range<u64>]) {
    let file = OpenOptions::new().write(true).open(image).unwrap();
    let bytes = vec![0xa5; 1 << 20];
    for range in ranges {
        let mut at = range.start;
        while at < range.end {
            let len = (range.end - at).min(1 << 20);
            file.write_all_at(&bytes[..len as usize], at).unwrap();
            at += len;
        }
    }
}

/// The number in the output of `script`.
fn number(directory: &Path, script: &str) -> u64 {
    String::from_utf8(shell(directory, script).stdout).unwrap().trim().parse().unwrap()
}

const EXT_FREE: &str =
    "dumpe2fs -h image 2>/dev/null | awk '/^Free blocks:/{f=$3} /^Block size:/{b=$3} END{print f*b}'";
const EXT_CHECK: &str =
    "e2fsck -fn image > /dev/null && rm -rf out && mkdir out && debugfs -R 'rdump / out' image 2>/dev/null
    rm -rf out/lost+found && diff -r tree out";

#[test]
fn ext_filesystems_of_all_features_keep_their_files() {
    if !have("mke2fs") || !have("debugfs") || !have("e2fsck") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    shell(dir.path(), TREE);
    for (options, size) in [
        ("-t ext2", "24M"),
        ("-t ext2 -b 1024 -r 0 -O none", "24M"),
        ("-t ext3 -b 1024", "70M"),
        ("-t ext4", "600M"),
        ("-t ext4 -b 1024", "100M"),
        ("-t ext4 -b 2048 -O ^flex_bg,^metadata_csum", "300M"),
        ("-t ext4 -O ^metadata_csum,uninit_bg -E lazy_itable_init=1", "600M"),
        ("-t ext4 -O ^64bit,^flex_bg", "600M"),
        ("-t ext4 -O meta_bg,^resize_inode -b 1024", "200M"),
        ("-t ext4 -O sparse_super2", "600M"),
        ("-t ext4 -O bigalloc -C 16384", "600M"),
        ("-t ext4 -O bigalloc -b 1024 -C 4096", "200M"),
        ("-t ext4 -O bigalloc,^64bit -C 65536", "1G"),
        ("-t ext4 -E packed_meta_blocks=1", "600M"),
        ("-t ext4 -G 64 -b 1024", "300M"),
    ] {
        let make = format!(
            "rm -f image; truncate -s {size} image; mke2fs -Fq {options} -d tree image
            for n in 3 40 41 42 90 149; do debugfs -w -R \"rm /many/$n\" image 2>/dev/null; rm -f tree/many/$n; done"
        );
        shell(dir.path(), &make);
        let image = dir.path().join("image");
        let free = ranges(&image);
        assert_eq!(sum(&free), number(dir.path(), EXT_FREE), "{options}");
        junk(&image, &free);
        shell(dir.path(), &format!(": {options}; {EXT_CHECK}"));
        assert_eq!(ranges(&image), free, "{options}");
    }
}

#[test]
fn damage_makes_less_free_and_never_more() {
    if !have("mke2fs") || !have("debugfs") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    shell(dir.path(), &format!("{TREE}; truncate -s 300M sound; mke2fs -Fq -t ext4 -b 4096 -d tree sound"));
    let sound = ranges(&dir.path().join("sound"));
    let sum_of = |script: &str| {
        shell(dir.path(), &format!("cp sound image; {script}"));
        let damaged = ranges(&dir.path().join("image"));
        for range in &damaged {
            assert!(sound.iter().any(|run| run.start <= range.start && range.end <= run.end), "{script}: {range:?}");
        }
        sum(&damaged)
    };
    let bitmap = "at=$(dumpe2fs image 2>/dev/null | sed -n 's/.*Block bitmap at \\([0-9]*\\).*/\\1/p' | sed -n 1p)";
    let all = sum(&sound);
    let without_one =
        sum_of(&format!("{bitmap}; printf '\\0' | dd of=image bs=1 seek=$((at * 4096)) conv=notrunc 2>/dev/null"));
    assert!(without_one < all && without_one > all - (129 << 20), "{without_one} of {all}");
    assert_eq!(sum_of("debugfs -w -R 'ssv state 2' image 2>/dev/null"), 0);
    assert_eq!(sum_of("printf '\\0' | dd of=image bs=1 seek=1080 conv=notrunc 2>/dev/null"), 0);
    // Without a journal, a filesystem in use says nothing that can be relied on.
    assert_eq!(sum_of("tune2fs -O ^has_journal image >/dev/null; debugfs -w -R 'ssv state 0' image 2>/dev/null"), 0);
}

#[test]
fn a_filesystem_in_use_keeps_what_its_journal_holds() {
    if !have("mke2fs") || !have("debugfs") || !have("e2fsck") || !root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for options in ["-b 4096", "-b 1024 -O ^metadata_csum", "-O bigalloc -C 16384"] {
        // The journal's commits come when they are asked for, and nothing is written back before the copy is made.
        let script = format!(
            "rm -rf tree; {TREE}; rm -f image; truncate -s 200M image; mke2fs -Fq -t ext4 {options} -d tree image; mkdir -p mnt
            mount -o loop,noatime,commit=300 image mnt; trap 'umount -q mnt || :' EXIT
            rm mnt/many/1* mnt/a/large; sync -f mnt
            head -c 5000000 /dev/urandom > mnt/new; cp -r mnt/many mnt/again; sync -f mnt
            rm -r mnt/again/2*; head -c 123456 /dev/urandom > mnt/last; sync mnt/last
            cp --sparse=always image copy; rm -rf tree; cp -a mnt tree; rm -rf tree/lost+found
            umount mnt; mv copy image; dumpe2fs -h image 2>/dev/null | grep -c needs_recovery"
        );
        assert_eq!(number(dir.path(), &script), 1, "{options}");
        let image = dir.path().join("image");
        let free = ranges(&image);
        assert!(sum(&free) > 50 << 20, "{options}");
        shell(dir.path(), "cp --sparse=always image untouched");
        junk(&image, &free);
        // Recovery gives back what orphans held, which changes only how much is free.
        shell(
            dir.path(),
            &format!("e2fsck -fy image > log || [ $? = 1 ] || {{ cat log; exit 1; }}; : {options}; {EXT_CHECK}"),
        );
    }
}

#[test]
fn fat_volumes_keep_their_files() {
    if !["mkfs.vfat", "fsck.vfat", "mcopy", "mdel"].into_iter().all(have) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    shell(dir.path(), &format!("{TREE}; rm tree/sparse"));
    for (options, size) in [
        ("-F 12 -s 16", "16M"),
        ("-F 16", "60M"),
        ("-F 16 -s 1 -f 1", "16M"),
        ("-F 32 -s 1", "40M"),
        ("-F 32 -S 4096 -s 1", "300M"),
    ] {
        let make = format!(
            "export MTOOLSRC=/dev/null MTOOLS_SKIP_CHECK=1; rm -f image; truncate -s {size} image
            mkfs.vfat {options} image > /dev/null; mcopy -s -i image tree/* ::
            for n in 5 50 51 120; do mdel -i image ::/many/$n || :; rm -f tree/many/$n; done"
        );
        shell(dir.path(), &format!("{make} 2>/dev/null"));
        let image = dir.path().join("image");
        let free = ranges(&image);
        // "image: 152 files, 3211/10000 clusters", of "4096 bytes per cluster".
        let theirs = "fsck.vfat -nv image | awk '/bytes per cluster/{b=$1} /clusters$/{split($(NF-1),c,\"/\"); print (c[2]-c[1])*b}'";
        assert_eq!(sum(&free), number(dir.path(), theirs), "{options}");
        junk(&image, &free);
        let check = "export MTOOLSRC=/dev/null MTOOLS_SKIP_CHECK=1; fsck.vfat -n image > log || { cat log; exit 1; }
            rm -rf out; mkdir out; mcopy -s -n -i image '::*' out; diff -r tree out";
        shell(dir.path(), &format!(": {options}; {check}"));
    }
}

#[test]
fn on_a_disk_everything_but_its_filesystems_is_kept() {
    if !["mke2fs", "mkfs.vfat", "sgdisk", "mkswap"].into_iter().all(have) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let script = format!(
        "{TREE}
        truncate -s 300M image; sgdisk -n 1:2048:+40M -n 2:+1M:+100M -n 3:+1M:+20M -n 4:+1M:+30M image > /dev/null
        part() {{ dd if=$1 of=image bs=1M seek=$2 conv=notrunc,sparse 2>/dev/null; }}
        truncate -s 40M fat; mkfs.vfat -F 32 -s 1 fat > /dev/null; part fat 1
        truncate -s 100M ext; mke2fs -Fq -t ext4 -d tree ext; part ext 42
        truncate -s 20M swap; mkswap swap > /dev/null; part swap 143
        truncate -s 30M xfs; printf XFSB | dd of=xfs conv=notrunc 2>/dev/null; part xfs 164"
    );
    shell(dir.path(), &script);
    let shifted = |name: &str, by: u64| {
        let runs = ranges(&dir.path().join(name)).into_iter();
        runs.map(move |range| range.start + by..range.end + by).collect::<Vec<_>>()
    };
    let expected = [shifted("fat", 1 << 20), shifted("ext", 42 << 20)].concat();
    assert!(sum(&expected) > 100 << 20);
    assert_eq!(ranges(&dir.path().join("image")), expected);

    // Two partitions that share bytes both keep all of theirs.
    shell(
        dir.path(),
        "sgdisk -Z image >/dev/null; printf '2048,81920\\n81920,208896\\n' | sfdisk -q --force --label dos image || :",
    );
    assert_eq!(ranges(&dir.path().join("image")), []);
}

#[test]
fn logical_volumes_are_followed_to_the_disk() {
    if !["mke2fs", "pvcreate", "losetup"].into_iter().all(have) || !root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    // One volume in two parts, another between them.
    let script = format!(
        "{TREE}; truncate -s 128M image; d=$(losetup -f --show image); trap 'losetup -d $d' EXIT
        cfg=\"devices{{filter=[\\\"a|^$d$|\\\",\\\"r|.*|\\\"] use_devicesfile=0}} global{{use_lvmlockd=0 use_lvmpolld=0}}
            backup{{backup=0 archive=0}} activation{{udev_sync=0 udev_rules=0 monitoring=0 verify_udev_operations=0}}\"
        l() {{ c=$1; shift; lvm $c -qq --driverloaded n --config \"$cfg\" \"$@\"; }}
        l pvcreate -ff -y $d; l vgcreate -s 1M g $d
        l lvcreate -an -Zn -Wn -L 30M -n a g; l lvcreate -an -Zn -Wn -L 20M -n b g; l lvextend -L +34M g/a; sync
        truncate -s 64M ext; mke2fs -Fq -t ext4 -d tree ext
        dd if=ext of=image bs=1M count=30 seek=1 conv=notrunc 2>/dev/null
        dd if=ext of=image bs=1M skip=30 seek=51 conv=notrunc 2>/dev/null"
    );
    shell(dir.path(), &script);
    let mut expected: Vec<Range<u64>> = Vec::new();
    for range in ranges(&dir.path().join("ext")) {
        let split = 30 << 20;
        let parts = [(range.start..range.end.min(split), 1 << 20), (range.start.max(split)..range.end, 21 << 20)];
        expected.extend(parts.into_iter().filter(|(part, _)| !part.is_empty()).map(|(p, by)| p.start + by..p.end + by));
    }
    assert!(sum(&expected) > 30 << 20);
    assert_eq!(ranges(&dir.path().join("image")), expected);
}
