//! Filesystems that were not unmounted: a copy of a mounted image, changes still in the journal, files deleted but open.
//! What guestctl shows without writing is what the kernel shows after it has recovered another copy.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;

use super::corners::{fill, pattern};
use super::facts::{Contents, listed, mounted, same, space};
use super::mounted::{Mounted, can_mount};
use super::program::guestctl;
use super::support::{have, shell};

/// Arguments of mke2fs, and options of the mount that leaves the image dirty.
const KINDS: [(&str, &str); 7] = [
    ("-t ext3", "noatime"),
    ("-t ext3 -b 1024", "noatime,data=journal"),
    ("-t ext4", "noatime"),
    ("-t ext4 -b 1024", "noatime,data=journal"),
    ("-t ext4 -O ^metadata_csum,^64bit", "noatime,journal_checksum"),
    ("-t ext4 -O orphan_file", "noatime"),
    ("-t ext4 -O fast_commit", "noatime"),
];

/// Changes on top of what is synchronised; returns the deleted files that are still open.
fn change(top: &Path) -> Vec<File> {
    let corners = top.join("corners");
    let sizes = corners.join("sizes");
    let open = |name: &str| OpenOptions::new().read(true).write(true).open(sizes.join(name)).unwrap();
    let deleted: Vec<_> = ["4097 bytes", "8388608 bytes", "0 bytes", "60 bytes"].map(open).into();
    for name in ["4097 bytes", "8388608 bytes", "0 bytes", "60 bytes", "61 bytes"] {
        std::fs::remove_file(sizes.join(name)).unwrap();
    }
    open("65537 bytes").set_len(1000).unwrap();
    open("4096 bytes").set_len(1 << 20).unwrap();
    std::fs::rename(sizes.join("1 bytes"), corners.join("names/moved")).unwrap();
    std::fs::rename(corners.join("links"), corners.join("directories/links moved")).unwrap();
    std::fs::remove_dir_all(corners.join("directories/deep/level 0/level 1")).unwrap();
    for index in 0..300 {
        std::fs::write(corners.join(format!("directories/empty/new {index}")), pattern(index, 5)).unwrap();
    }
    for index in 0..100 {
        std::fs::remove_file(corners.join(format!("directories/huge/entry {index} of a huge directory"))).unwrap();
    }
    rustix::fs::lsetxattr(corners.join("attributes/small"), "user.colour", b"red", rustix::fs::XattrFlags::empty())
        .unwrap();
    rustix::fs::lremovexattr(corners.join("attributes/in a block"), "user.big").unwrap();
    let mut appended = OpenOptions::new().append(true).open(corners.join("runs/cut")).unwrap();
    appended.write_all(&pattern(100_000, 6)).unwrap();
    appended.sync_all().unwrap();
    // Not in a finished transaction; with fast commits, in one of those.
    for index in 0..20 {
        let path = corners.join(format!("sizes/late {index}"));
        std::fs::write(&path, pattern(3000, index)).unwrap();
        if index % 2 == 0 {
            File::open(path).unwrap().sync_all().unwrap();
        }
    }
    deleted
}

#[test]
fn what_recovery_would_do_is_seen_without_it() {
    if !can_mount() || !have("mke2fs") {
        return;
    }
    for (arguments, options) in KINDS {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        shell(directory.path(), &format!("mke2fs -q -F -b 4096 -N 8192 {arguments} live.raw 96M"));
        {
            let live = match Mounted::new(&path("live.raw"), options) {
                Ok(live) => live,
                Err(refusal) => {
                    super::support::skipped(format_args!(
                        "this kernel does not mount {arguments} with {options}: {refusal}"
                    ));
                    continue;
                }
            };
            fill(&live.path(), 500);
            shell(&live.path(), "sync -f .");
            let deleted = change(&live.path());
            shell(
                directory.path(),
                "cp --sparse=always live.raw dirty.raw; cp --sparse=always dirty.raw recovered.raw",
            );
            drop(deleted);
        }
        let before = std::fs::read(path("dirty.raw")).unwrap();
        let dirty = path("dirty.raw").into_os_string().into_string().unwrap();
        let list = ["ls", "-R", "--json", "--checksum", "sha256", &dirty, "/corners", "-m", "/dev/sda"];
        let mut ours = listed(&guestctl(list).bytes());
        assert!(std::fs::read(path("dirty.raw")).unwrap() == before, "the image is as it was");
        let recovered = match Mounted::new(&path("recovered.raw"), "noatime") {
            Ok(recovered) => recovered,
            Err(refusal) => panic!("{arguments}: {refusal}"),
        };
        let mut kernel = mounted(&recovered.path().join("corners"), "/corners", Contents::Digested);
        assert!(!kernel.contains_key(&b"/corners/sizes/4097 bytes"[..]));
        if arguments.contains("fast_commit") {
            // A directory that a fast commit adds a name to gets the time of its recovery, which is not known before.
            let directory = &b"/corners/sizes"[..];
            for tree in [&mut kernel, &mut ours] {
                tree.get_mut(directory).unwrap().mtime = 0;
            }
        }
        same(&format!("{arguments} {options}"), &kernel, &ours);
        if arguments.contains("fast_commit") {
            // What fast commits allocate is not counted: no group's numbers say it.
            continue;
        }
        let ours = guestctl(["df", "--json", &dirty, "-m", "/dev/sda"]).json();
        assert_eq!(ours, space(&recovered.path()), "{arguments} {options}");
    }
}
