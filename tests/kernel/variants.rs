//! Every feature of ext2, ext3 and ext4 that changes what is on the disk.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use guestctl::Guestfs;

use super::corners::{GIANTS, fill};
use super::facts::{Contents, Tree, listed, mounted, same, space};
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

const VARIANTS: [Variant; 54] = [
    variant("ext2", "-t ext2"),
    variant("ext2, blocks of 1k", "-t ext2 -b 1024"),
    variant("ext2, blocks of 2k", "-t ext2 -b 2048"),
    variant("ext2, large_file on demand", "-t ext2 -O ^large_file"),
    variant("ext2, inodes of 128", "-t ext2 -I 128"),
    variant("ext2 without filetype", "-t ext2 -O ^filetype,^dir_index,^sparse_super,^resize_inode"),
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
    variant("ext2, many groups", "-t ext2 -g 1024"),
    variant("ext4, many groups", "-t ext4 -g 1024 -G 4"),
    variant("meta_bg, many groups", "-t ext4 -g 512 -O meta_bg,^resize_inode,^flex_bg"),
    // What the tools make of a filesystem in use.
    Variant { after: "truncate -s 300M @; resize2fs @ 2>/dev/null", ..variant("grown", "-t ext4 -g 2048") },
    Variant { after: "e2fsck -fp @ >/dev/null; resize2fs -M @ 2>/dev/null", ..variant("shrunk", "-t ext4 -g 1024") },
    Variant {
        after: "e2fsck -fyD @ >/dev/null 2>&1 || test $? = 1",
        ..variant("directories optimised", "-t ext4 -b 1024")
    },
    Variant { after: "tune2fs -I 256 @ >/dev/null", ..variant("inodes enlarged", "-t ext3 -I 128 -O ^resize_inode") },
    Variant {
        // A full directory block has no room for a checksum; tune2fs then asks for -D, and without it the kernel fails there too.
        after: "e2fsck -fp @ >/dev/null; if tune2fs -O metadata_csum @ | grep -q 'e2fsck -fD'; then e2fsck -fyD @ >/dev/null 2>&1 || test $? = 1; fi",
        ..variant("metadata_csum added", "-t ext4 -O ^metadata_csum")
    },
    Variant {
        after: "e2fsck -fp @ >/dev/null; tune2fs -O ^metadata_csum @ >/dev/null",
        ..variant("metadata_csum removed", "-t ext4")
    },
    Variant { after: "resize2fs -b @ 2>/dev/null", ..variant("64bit added", "-t ext4 -O ^64bit") },
];

fn compare(at: usize, of: usize) {
    if !can_mount() || !have("mke2fs") || !have("tune2fs") {
        return;
    }
    // One that fails keeps no other from being tried.
    let fails = |variant: &&Variant| std::panic::catch_unwind(|| compare_one(variant)).is_err();
    let failed: Vec<_> = VARIANTS.iter().skip(at).step_by(of).filter(fails).map(|variant| variant.name).collect();
    assert!(failed.is_empty(), "{failed:?}");
}

fn compare_one(variant: &Variant) {
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("fs.raw");
    shell(directory.path(), &format!("mke2fs -q -F -b 4096 -N 8192 {} fs.raw 96M", variant.arguments));
    match Mounted::new(&image, "noatime") {
        Ok(mounted) => fill(&mounted.path(), variant.names),
        Err(refusal) => {
            println!("{}: this kernel does not mount it, mke2fs must do: {refusal}", variant.name);
            return without_the_kernel(variant, directory.path());
        }
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
        Err(refusal) => super::support::skipped(format_args!("this kernel does not mount {}: {refusal}", variant.name)),
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
    assert!(ours.len() > 700, "{name}: {} paths", ours.len());
    same(name, &mounted(&top.join("corners"), "/corners", Contents::Digested), &ours);
    landmarks(name, &ours);
    giants_equal(name, top, image);
    if name == "casefold" {
        let path = "/corners/directories/case-insensitive/";
        for spelling in ["upper", "mixed", "\u{e4}\u{f6}u\u{308}"] {
            assert!(!run(&["cat", "@", &format!("{path}{spelling}"), "-m", "/dev/sda"]).bytes().is_empty());
        }
    }

    let ours = run(&["df", "--json", "@", "-m", "/dev/sda"]).json();
    assert_eq!(ours, space(top), "{name}: statvfs");
}

/// The corners that make a variant worth its name are there.
fn landmarks(name: &str, tree: &Tree) {
    let facts = |path: &str| &tree[format!("/corners/{path}").as_bytes()];
    let has_large = |len: u32| facts(&format!("attributes/value of {len}")).xattrs.contains_key("user.large");
    if name.starts_with("ea_inode") {
        assert!(has_large(40 << 10) && has_large(65_536), "{name}");
    }
    if name == "ext4" {
        assert!(facts("times/13569465600 999999999").mtime == 13_569_465_600_999_999_999);
        assert_eq!(facts("nodes/char 4095 1048575").rdev.as_deref(), Some("4095:1048575"));
        assert_eq!(facts("owners/2097157").owner, (2_097_157, 2_097_156));
        assert_eq!(facts("attributes/acl").xattrs.len(), 1);
        assert_eq!(facts("attributes/many").xattrs.len(), 31);
        assert_eq!(facts("attributes/every name space").xattrs.len(), 6);
        assert_eq!(facts("links/target of 4000").size, 4000);
    }
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
    assert!(seen >= if name.contains("ext2") { 2 } else { 3 }, "{name}: {seen} giants");
    assert!(name != "ext4" || seen == GIANTS.len());
}

/// Where the kernel cannot fill a filesystem, mke2fs does, and its source is the oracle.
fn without_the_kernel(variant: &Variant, directory: &Path) {
    let tree = directory.join("tree");
    std::fs::create_dir(&tree).unwrap();
    fill(&tree, 500);
    // mke2fs makes no holes and stores fewer attributes.
    std::fs::remove_dir_all(tree.join("giant")).unwrap();
    std::fs::remove_dir_all(tree.join("corners/attributes")).unwrap();
    shell(directory, &format!("mke2fs -q -F -b 4096 -N 8192 -d tree {} fs.raw 96M", variant.arguments));
    let image = directory.join("fs.raw");
    let arguments =
        ["ls", "-R", "--json", "--checksum", "sha256", image.to_str().unwrap(), "/corners", "-m", "/dev/sda"];
    let mut ours = listed(&guestctl(arguments).bytes());
    let mut source = mounted(&tree.join("corners"), "/corners", Contents::Digested);
    for facts in ours.values_mut().chain(source.values_mut()) {
        // mke2fs rounds times to seconds of 32 bits, and a directory's size is the filesystem's own affair.
        facts.mtime = 0;
        if facts.kind == "dir" {
            facts.size = 0;
        }
        // It makes two links of a link with two names.
        if facts.kind == "symlink" {
            facts.links = 1;
        }
    }
    same(variant.name, &source, &ours);
}

// In parts, for several cores.

#[test]
fn every_variant_reads_as_the_kernel_reads_it_1_of_3() {
    compare(0, 3);
}

#[test]
fn every_variant_reads_as_the_kernel_reads_it_2_of_3() {
    compare(1, 3);
}

#[test]
fn every_variant_reads_as_the_kernel_reads_it_3_of_3() {
    compare(2, 3);
}
