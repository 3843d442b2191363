//! Every feature of ext2, ext3 and ext4 that changes what is on the disk.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use guestctl::Guestfs;
use guestctl::bytes::escape;

use super::corners::{GIANTS, fill};
use super::facts::{Contents, listed, mounted, same};
use super::mounted::{Mounted, can_mount};
use super::program::guestctl;
use super::support::{have, shell};

/// How a filesystem is made: mke2fs's arguments, what is done to it when it is full, and the names in its huge directory.
#[derive(Debug, Clone, Copy)]
struct Variant {
    name: &'static str,
    arguments: &'static str,
    after: &'static str,
    /// Mount it once more after that and fill a second tree.
    refill: bool,
    names: usize,
}

const fn variant(name: &'static str, arguments: &'static str) -> Variant {
    Variant { name, arguments, after: "true", refill: false, names: 2000 }
}

const VARIANTS: [Variant; 43] = [
    variant("ext2", "-t ext2"),
    variant("ext2, blocks of 1k", "-t ext2 -b 1024"),
    variant("ext2, blocks of 2k", "-t ext2 -b 2048"),
    variant("ext2, inodes of 128", "-t ext2 -I 128"),
    variant("ext2 without filetype", "-t ext2 -O ^filetype,^dir_index,^sparse_super,^large_file"),
    variant("ext2, revision 0", "-t ext2 -r 0 -I 128"),
    variant("ext3", "-t ext3"),
    variant("ext3, blocks of 1k", "-t ext3 -b 1024"),
    variant("ext3, inodes of 128", "-t ext3 -I 128"),
    variant("ext4", "-t ext4"),
    variant("ext4, blocks of 1k", "-t ext4 -b 1024"),
    variant("ext4, blocks of 2k", "-t ext4 -b 2048"),
    variant("ext4, inodes of 128", "-t ext4 -I 128 -O ^metadata_csum"),
    variant("ext4, inodes of 512", "-t ext4 -I 512"),
    variant("ext4, inodes of 1024", "-t ext4 -I 1024"),
    variant("^64bit", "-t ext4 -O ^64bit"),
    variant("^metadata_csum,uninit_bg", "-t ext4 -O ^metadata_csum,uninit_bg"),
    variant("^metadata_csum,^uninit_bg", "-t ext4 -O ^metadata_csum,^uninit_bg"),
    variant("metadata_csum_seed", "-t ext4 -O metadata_csum_seed"),
    Variant {
        after: "tune2fs -U random @",
        ..variant("metadata_csum_seed, new UUID", "-t ext4 -O metadata_csum_seed")
    },
    variant("inline_data", "-t ext4 -O inline_data"),
    variant("inline_data, inodes of 512", "-t ext4 -O inline_data -I 512"),
    variant("inline_data, inodes of 1024, blocks of 1k", "-t ext4 -O inline_data -I 1024 -b 1024"),
    variant("casefold", "-t ext4 -O casefold -E encoding=utf8"),
    variant("ea_inode", "-t ext4 -O ea_inode"),
    variant("ea_inode, inline_data", "-t ext4 -O ea_inode,inline_data -I 512"),
    Variant { names: 30_000, ..variant("large_dir", "-t ext4 -b 1024 -O large_dir") },
    variant("orphan_file", "-t ext4 -O orphan_file"),
    variant("bigalloc, clusters of 16k", "-t ext4 -O bigalloc -C 16384"),
    variant("bigalloc, clusters of 64k", "-t ext4 -O bigalloc -C 65536"),
    variant("^flex_bg", "-t ext4 -b 1024 -O ^flex_bg"),
    variant("meta_bg,^resize_inode", "-t ext4 -b 1024 -O meta_bg,^resize_inode"),
    variant("sparse_super2", "-t ext4 -b 1024 -O sparse_super2,^resize_inode"),
    Variant { names: 20_000, ..variant("huge directory", "-t ext4") },
    Variant { names: 20_000, ..variant("^dir_index, huge directory", "-t ext4 -O ^dir_index") },
    variant("^extents", "-t ext4 -O ^extents,^64bit"),
    Variant { after: "tune2fs -O extents @", refill: true, ..variant("some extents", "-t ext4 -O ^extents,^64bit") },
    Variant { after: "tune2fs -O quota @", ..variant("quota", "-t ext4") },
    Variant { after: "tune2fs -O project,quota -Q prjquota @", ..variant("project", "-t ext4") },
    variant("verity", "-t ext4 -O verity"),
    Variant { after: "tune2fs -O mmp @", ..variant("mmp", "-t ext4") },
    variant("encrypt", "-t ext4 -O encrypt"),
    variant("^has_journal", "-t ext4 -O ^has_journal"),
];

fn compare(at: usize, of: usize) {
    if !can_mount() || !have("mke2fs") || !have("tune2fs") {
        return;
    }
    for variant in VARIANTS.iter().skip(at).step_by(of) {
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("fs.raw");
        shell(directory.path(), &format!("mke2fs -q -F -N 8192 {} fs.raw 96M", variant.arguments));
        let filled = match Mounted::new(&image, "noatime") {
            Ok(mounted) => {
                fill(&mounted.path(), variant.names);
                true
            }
            // A kernel without the feature may read it still; mke2fs fills it then.
            Err(refusal) => {
                println!("{}: this kernel does not fill it: {refusal}", variant.name);
                false
            }
        };
        if !filled {
            without_the_kernel(variant, directory.path());
            continue;
        }
        shell(directory.path(), &variant.after.replace('@', "fs.raw"));
        if variant.refill {
            let mounted = Mounted::new(&image, "noatime").unwrap();
            std::fs::rename(mounted.path().join("corners"), mounted.path().join("before")).unwrap();
            std::fs::rename(mounted.path().join("giant"), mounted.path().join("giant before")).unwrap();
            fill(&mounted.path(), 100);
        }
        match Mounted::new(&image, "ro") {
            Ok(mounted) => equal(variant.name, &mounted.path(), &image),
            Err(refusal) => println!("skipped: this kernel does not mount {}: {refusal}", variant.name),
        }
    }
}

/// Holds everything against the mount at `top`.
fn equal(name: &str, top: &Path, image: &Path) {
    let run = |arguments: &[&str]| {
        let image = image.to_str().unwrap();
        guestctl(arguments.iter().map(|argument| if *argument == "@" { image } else { argument }))
    };
    let whole = listed(&run(&["ls", "-R", "--json", "@", "/", "-m", "/dev/sda"]).bytes());
    same(name, &mounted(top, "/", Contents::Left), &whole);
    let digested = ["ls", "-R", "--json", "--checksum", "sha256", "@", "/corners", "-m", "/dev/sda"];
    let ours = listed(&run(&digested).bytes());
    assert!(ours.len() > 2000, "{name}: {} paths", ours.len());
    same(name, &mounted(&top.join("corners"), "/corners", Contents::Digested), &ours);
    giants_equal(name, top, image);

    let kernel = rustix::fs::statvfs(top).unwrap();
    let ours = run(&["df", "--json", "@", "-m", "/dev/sda"]).json();
    let expected = serde_json::json!([{
        "device": "/dev/sda",
        "mountpoint": "/",
        "size_bytes": kernel.f_blocks * kernel.f_frsize,
        "used_bytes": (kernel.f_blocks - kernel.f_bfree) * kernel.f_frsize,
        "available_bytes": kernel.f_bavail * kernel.f_frsize,
        "inodes": kernel.f_files,
        "inodes_free": kernel.f_ffree,
    }]);
    assert_eq!(ours, expected, "{name}: statvfs");
}

/// Files too large to be read whole are the same around their data and where they have none.
fn giants_equal(name: &str, top: &Path, image: &Path) {
    let g = Guestfs::new().unwrap();
    g.add_drive_opts(image, Some("raw"), true).unwrap();
    g.launch().unwrap();
    g.mount_ro("/dev/sda", "/").unwrap();
    let mut seen = 0;
    for (file, offsets) in GIANTS {
        let Ok(kernel) = File::open(top.join("giant").join(file)) else { continue };
        seen += 1;
        for start in offsets.iter().flat_map(|&offset| [offset.saturating_sub(5000), offset + 350, offset + 60_000]) {
            let mut expected = vec![0; 6000];
            let mut len = 0;
            while let Ok(read @ 1..) = kernel.read_at(&mut expected[len..], start + len as u64) {
                len += read;
            }
            let ours = g.pread(format!("/giant/{file}"), 6000, start).unwrap();
            assert!(ours == expected[..len], "{name}: {file} at {start}");
        }
    }
    assert!(seen >= 1, "{name}: no giant");
}

/// Where the kernel cannot fill a filesystem, mke2fs does, and its source is the oracle.
fn without_the_kernel(variant: &Variant, directory: &Path) {
    let tree = directory.join("tree");
    std::fs::create_dir(&tree).unwrap();
    fill(&tree, 500);
    std::fs::remove_dir_all(tree.join("giant")).unwrap();
    shell(directory, &format!("mke2fs -q -F -N 8192 -d tree {} fs.raw 96M", variant.arguments));
    let image = directory.join("fs.raw");
    let arguments =
        ["ls", "-R", "--json", "--checksum", "sha256", image.to_str().unwrap(), "/corners", "-m", "/dev/sda"];
    let mut ours = listed(&guestctl(arguments).bytes());
    let mut source = mounted(&tree.join("corners"), "/corners", Contents::Digested);
    for (path, facts) in ours.iter_mut().chain(&mut source) {
        // mke2fs rounds times to seconds of 32 bits, and a directory's size is the filesystem's own affair.
        facts.mtime = 0;
        if facts.kind == "dir" {
            facts.size = 0;
        }
        // Numbers and ACLs that mke2fs -d does not carry over.
        if escape(path).contains("/owners/") || escape(path).contains("/attributes/") {
            facts.owner = (0, 0);
            facts.xattrs.clear();
            facts.mode = 0;
        }
    }
    same(variant.name, &source, &ours);
}

#[test]
fn every_variant_reads_as_the_kernel_reads_it_first_half() {
    compare(0, 2);
}

#[test]
fn every_variant_reads_as_the_kernel_reads_it_second_half() {
    compare(1, 2);
}
