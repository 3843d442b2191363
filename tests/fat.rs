//! FAT volumes made by mkfs.vfat and mtools, read by guestctl and compared with mtools, fsck.vfat, blkid and the kernel.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use guestctl::block::{BlockDevice, HostFile, Memory, read_vec};
use guestctl::fs::{self, FileType, Filesystem, FsKind, Inode, Metadata, fat::Fat};
use support::{have, root, shell};

/// What a variant of mkfs.vfat is given, and the size of the volume.
/// mtools takes FAT32 with few clusters for FAT16, so each FAT32 here has more than 65,525.
const VARIANTS: [(&str, &str); 9] = [
    ("-F 12", "1440K"),
    ("-F 12 -S 1024 -s 2 -f 1", "6M"),
    ("-F 16", "20M"),
    ("-F 16 -s 1 -r 1024", "12M"),
    ("-F 16 -S 4096", "200M"),
    ("-F 32 -s 1", "36M"),
    ("-F 32", "34M"),
    ("-F 32 -S 4096 -s 1", "300M"),
    ("-F 32 -s 64 -a", "3G"),
];

fn tools() -> bool {
    ["mkfs.vfat", "fsck.vfat", "mcopy", "mdir", "blkid"].into_iter().all(have)
}

/// Fills `v.img` through mtools: names of all sorts, files of all sizes, fragments, a directory of several clusters.
const FILL: &str = r#"
    export LC_ALL=C.UTF-8 TZ=UTC MTOOLSRC=/dev/null MTOOLS_SKIP_CHECK=1
    i="-i v.img"
    put() { mcopy -o -m $i "$1" "$2"; }
    head -c 100 /dev/urandom > small; head -c 70001 /dev/urandom > middle; : > empty
    head -c 4096 /dev/urandom > exact; head -c 20000 /dev/urandom > piece
    touch -d '2001-02-03 04:05:06' small; touch -d '1999-12-31 23:59:58' middle; touch -d '2024-02-29 12:00:00' exact
    mmd $i ::/EFI ::/EFI/BOOT ::/many "::/a directory with a rather long name" ::/Überraschung
    put small ::/EFI/BOOT/BOOTX64.EFI
    put small ::/readme.txt
    put small ::/README2.TXT
    put small ::/Mixed.Case
    put small "::/a long name that needs more than one slot.configuration"
    put small "::/Überraschung/Grüße aus Köln.txt"
    put small "::/Überraschung/ЖЗИ.ТХТ"
    put small "::/Überraschung/日本語のファイル.txt"
    put small "::/Überraschung/MÜLL.TXT"
    put small "::/exactly 26 characters long"
    put small "::/.hidden"
    put small "::/two.dots.txt"
    put empty ::/empty
    put exact ::/exact.bin
    n=0; while [ $n -lt 12 ]; do put piece ::/piece$n; n=$((n + 1)); done
    n=0; while [ $n -lt 12 ]; do mdel $i ::/piece$n; n=$((n + 2)); done
    put middle ::/fragmented.bin
    n=0; while [ $n -lt 90 ]; do
        echo ::/many; n=$((n + 1)); cp small "file with a number $n"
    done > /dev/null
    mcopy -m $i "file with a number"* ::/many
    mdel $i "::/many/file with a number 7" "::/many/file with a number 50"
    put middle "::/a directory with a rather long name/middle"
    mattrib +r $i ::/readme.txt
    mattrib +h +s $i ::/exact.bin
"#;

fn build(directory: &Path, options: &str, size: &str) {
    let script = format!(
        "rm -rf *; truncate -s {size} v.img; mkfs.vfat {options} -n GUESTCTL -i 1234abcd v.img >&2; {FILL}
         mdir -b -a -/ -i v.img :: > list; mkdir out; mcopy -s -n -m -i v.img '::/*' out; fsck.vfat -n v.img > check"
    );
    shell(directory, &script);
}

fn device(path: &Path) -> Arc<dyn BlockDevice> {
    Arc::new(HostFile::open(path).unwrap())
}

type Tree = BTreeMap<String, Metadata>;

fn walk(fs: &dyn Filesystem, directory: Inode, path: &str, tree: &mut Tree) {
    let mut entries = Vec::new();
    fs.read_dir(directory, &mut |entry| {
        entries.push(entry);
        Ok(ControlFlow::Continue(()))
    })
    .unwrap();
    for entry in entries {
        let metadata = fs.metadata(entry.inode).unwrap();
        assert_eq!(Some(metadata.file_type), entry.file_type);
        assert_eq!(fs.lookup(directory, &entry.name).unwrap(), Some(entry.inode));
        let path = format!("{path}/{}", String::from_utf8(entry.name).unwrap());
        if metadata.file_type == FileType::Dir {
            walk(fs, entry.inode, &path, tree);
        }
        assert!(tree.insert(path, metadata).is_none());
    }
}

fn tree(fs: &dyn Filesystem) -> Tree {
    let mut tree = Tree::new();
    walk(fs, fs.root(), "", &mut tree);
    tree
}

fn content(fs: &dyn Filesystem, inode: Inode) -> Vec<u8> {
    let file = fs.open(inode).unwrap();
    read_vec(&file, 0, usize::try_from(file.size()).unwrap()).unwrap()
}

fn find(fs: &dyn Filesystem, path: &str) -> Option<Inode> {
    path.split('/')
        .filter(|name| !name.is_empty())
        .try_fold(fs.root(), |directory, name| fs.lookup(directory, name.as_bytes()).unwrap())
}

#[test]
fn every_variant_reads_as_mtools_reads_it() {
    if !tools() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    for (options, size) in VARIANTS {
        build(directory.path(), options, size);
        let fs = fs::open(device(&directory.path().join("v.img"))).unwrap();
        let tree = tree(&*fs);

        let list = std::fs::read_to_string(directory.path().join("list")).unwrap();
        let mut theirs: Vec<&str> =
            list.lines().map(|line| line.trim_start_matches("::").trim_end_matches('/')).collect();
        theirs.sort_unstable();
        assert_eq!(tree.keys().map(String::as_str).collect::<Vec<_>>(), theirs, "{options}");
        assert!(tree.len() > 110, "{options}: {}", tree.len());

        for (path, metadata) in &tree {
            let copied = directory.path().join("out").join(&path[1..]);
            let host = std::fs::symlink_metadata(&copied).unwrap();
            assert_eq!(host.is_dir(), metadata.file_type == FileType::Dir, "{options} {path}");
            if host.is_dir() {
                assert!(metadata.size > 0 && metadata.size.is_multiple_of(u64::from(metadata.block_size)));
                continue;
            }
            assert_eq!(content(&*fs, metadata.inode), std::fs::read(&copied).unwrap(), "{options} {path}");
            let modified = host.modified().unwrap().duration_since(std::time::UNIX_EPOCH).unwrap();
            assert_eq!(metadata.mtime.seconds, i64::try_from(modified.as_secs()).unwrap(), "{options} {path}");
            assert_eq!(metadata.size, host.len());
            assert_eq!(metadata.blocks, host.len().next_multiple_of(u64::from(metadata.block_size)) / 512);
            let read_only = path == "/readme.txt";
            assert_eq!(metadata.mode(), if read_only { 0o100_555 } else { 0o100_755 }, "{options} {path}");
        }
        assert_eq!(fs.metadata(fs.root()).unwrap().nlink, 2 + 4, "{options}");
        assert_eq!(tree["/EFI"].nlink, 3);
        assert_eq!(tree["/exact.bin"].mtime.seconds, 1_709_208_000);

        // "v.img: 116 files, 500/2847 clusters"
        let check = std::fs::read_to_string(directory.path().join("check")).unwrap();
        let counts = check.lines().last().unwrap().split_whitespace().rev().nth(1).unwrap().split_once('/').unwrap();
        let (used, all): (u64, u64) = (counts.0.parse().unwrap(), counts.1.parse().unwrap());
        let statfs = fs.statfs().unwrap();
        assert_eq!((statfs.blocks, statfs.blocks_free), (all, all - used), "{options}");
        assert!(fs.recovery().is_empty(), "{options}");
    }
}

#[test]
fn identity_is_what_blkid_tells() {
    if !tools() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("v.img");
    for options in ["-F 12 -s 128 -n 'A B'", "-F 16", "-F 32 -n EFI", "-F 32 -S 4096 -n ESP -i 00000001"] {
        shell(directory.path(), &format!("rm -f v.img; truncate -s 200M v.img; mkfs.vfat {options} v.img >&2"));
        let tag = |tag: &str| {
            let output = shell(directory.path(), &format!("blkid -p -s {tag} -o value v.img"));
            Some(String::from_utf8(output.stdout).unwrap().trim_end_matches('\n').to_owned())
                .filter(|text| !text.is_empty())
        };
        let identity = fs::probe(&*device(&path)).unwrap();
        assert_eq!(Some(identity.kind.name().to_owned()), tag("TYPE"), "{options}");
        assert_eq!(identity.label, tag("LABEL"), "{options}");
        assert_eq!(identity.uuid, tag("UUID"), "{options}");
        assert_eq!(fs::open(device(&path)).unwrap().identity(), &identity);
    }
}

#[test]
fn what_is_not_fat_is_not_taken_for_it() {
    let tools = ["sfdisk", "mkfs.ntfs", "mke2fs"];
    let directory = tempfile::tempdir().unwrap();
    let scripts = ["echo ,,c | sfdisk -q v.img", "mkfs.ntfs -q -F v.img 2>/dev/null", "mke2fs -q v.img"];
    for (tool, script) in tools.into_iter().zip(scripts) {
        if have(tool) {
            shell(directory.path(), &format!("rm -f v.img; truncate -s 20M v.img; {script}"));
            let identity = fs::probe(&*device(&directory.path().join("v.img"))).unwrap();
            assert_ne!(identity.kind, FsKind::Vfat, "{tool}");
        }
    }
}

#[test]
fn names_are_found_without_regard_to_case_and_by_their_short_name() {
    if !tools() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    build(directory.path(), "-F 16", "20M");
    let fs = fs::open(device(&directory.path().join("v.img"))).unwrap();
    let same = [
        ("/EFI/BOOT/BOOTX64.EFI", "/efi/boot/bootx64.efi"),
        ("/readme.txt", "/README.TXT"),
        ("/Mixed.Case", "/mixed.cASE."),
        ("/a long name that needs more than one slot.configuration", "/ALONGN~1.CON"),
        ("/Überraschung/Grüße aus Köln.txt", "/überraschung/GRÜßE AUS KÖLN.TXT"),
        ("/Überraschung/ЖЗИ.ТХТ", "/Überraschung/жзи.тхт"),
    ];
    for (name, other) in same {
        let inode = find(&*fs, name).unwrap();
        assert_eq!(find(&*fs, other), Some(inode), "{other}");
    }
    for missing in ["/readme", "/EFI/none", "/Überraschung/GRÜSSE AUS KÖLN.TXT", "/..", "/."] {
        assert_eq!(find(&*fs, missing), None, "{missing}");
    }
}

#[test]
fn free_clusters_are_counted_when_the_volume_does_not_say() {
    if !tools() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    shell(
        directory.path(),
        "truncate -s 64G v.img; mkfs.vfat -F 32 -s 128 v.img >&2; head -c 5000000 /dev/zero > a; mcopy -i v.img a ::",
    );
    let path = directory.path().join("v.img");
    let stated = fs::open(device(&path)).unwrap().statfs().unwrap();
    // Neither sign, nor its backup, and the volume is marked as mounted.
    shell(directory.path(), "printf '\\1' | dd of=v.img bs=1 seek=65 conv=notrunc 2>/dev/null");
    let fs = fs::open(device(&path)).unwrap();
    assert_eq!(fs.statfs().unwrap(), stated);
    assert_eq!(fs.recovery().len(), 1);
    assert!(fs.recovery()[0].contains("not unmounted cleanly"));
}

/// A FAT16 volume in memory with one fragmented file and a directory.
struct Victim {
    bytes: Vec<u8>,
    fat: usize,
    file: usize,
    directory: usize,
}

impl Victim {
    fn new(bytes: &[u8], file: &str, directory: &str) -> Self {
        let fs = open(bytes).unwrap();
        let position = |path| usize::try_from(find(&fs, path).unwrap()).unwrap() * 32;
        let fat = usize::from(u16::from_le_bytes([bytes[14], bytes[15]])) * 512;
        Self { bytes: bytes.to_vec(), fat, file: position(file), directory: position(directory) }
    }

    fn first_cluster(&self, entry: usize) -> usize {
        usize::from(u16::from_le_bytes([self.bytes[entry + 26], self.bytes[entry + 27]]))
    }

    fn next_cluster(&self, cluster: usize) -> usize {
        let at = self.fat + cluster * 2;
        usize::from(u16::from_le_bytes([self.bytes[at], self.bytes[at + 1]]))
    }

    fn set_next(&mut self, cluster: usize, value: usize) {
        let at = self.fat + cluster * 2;
        self.set16(at, value);
    }

    fn set16(&mut self, at: usize, value: usize) {
        self.bytes[at..at + 2].copy_from_slice(&u16::try_from(value).unwrap().to_le_bytes());
    }
}

fn open(bytes: &[u8]) -> guestctl::Result<Fat> {
    Fat::open(Arc::new(Memory::new(bytes.to_vec())))
}

/// A change to a volume that breaks it.
type Change = fn(&mut Victim);

#[test]
fn what_is_broken_is_named() {
    if !tools() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    build(directory.path(), "-F 16 -s 4", "20M");
    let good = std::fs::read(directory.path().join("v.img")).unwrap();
    let cases: [(&str, &str, Change); 12] = [
        ("BPB_BytsPerSec", "a volume without sectors", |v| v.set16(11, 0)),
        ("BPB_FATSz", "tables beyond the device", |v| v.bytes.truncate(4096)),
        ("DIR_FstClus", "content without a cluster", |v| v.set16(v.file + 26, 0)),
        ("DIR_FstClus", "content outside the volume", |v| v.set16(v.file + 26, 0xfff0)),
        ("FAT chain", "a chain shorter than the size", |v| v.set_next(v.first_cluster(v.file), 0xffff)),
        ("FAT chain", "a size beyond the chain", |v| v.set16(v.file + 30, 0x100)),
        ("FAT entry", "a chain into a free cluster", |v| v.set_next(v.first_cluster(v.file), 0)),
        ("FAT entry", "a chain into a bad cluster", |v| v.set_next(v.first_cluster(v.file), 0xfff7)),
        ("FAT chain", "a chain into itself", |v| {
            let first = v.first_cluster(v.file);
            v.set_next(v.next_cluster(first), first);
        }),
        ("DIR_FstClus", "a directory without a cluster", |v| v.set16(v.directory + 26, 0)),
        ("FAT chain", "a directory without end", |v| {
            let first = v.first_cluster(v.directory);
            v.set_next(v.next_cluster(first), first);
        }),
        ("LDIR_Name", "a name that leads elsewhere", |v| {
            // The long entry right before the file's short one: "f" becomes "/".
            v.bytes[v.file - 32 + 1] = b'/';
        }),
    ];
    for (field, what, change) in cases {
        let mut victim = Victim::new(&good, "/fragmented.bin", "/many");
        change(&mut victim);
        let result = open(&victim.bytes).and_then(|fs| {
            fs.read_dir(fs.root(), &mut |_| Ok(ControlFlow::Continue(())))?;
            fs.open(u64::try_from(victim.file / 32).unwrap())?;
            fs.metadata(u64::try_from(victim.directory / 32).unwrap())
        });
        let error = result.expect_err(what);
        assert_eq!(error.as_corrupt().unwrap_or_else(|| panic!("{what}: {error}")).field, field, "{what}: {error}");
    }
    let mut longer = Victim::new(&good, "/fragmented.bin", "/many");
    let at = longer.file + 28;
    longer.set16(at, 4096);
    longer.set16(at + 2, 0);
    assert_eq!(
        open(&longer.bytes).unwrap().open((longer.file / 32) as u64).unwrap().size(),
        4096,
        "the rest is not looked at"
    );
}

#[test]
fn broken_bytes_never_panic() {
    if !tools() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    build(directory.path(), "-F 12", "1440K");
    let good = std::fs::read(directory.path().join("v.img")).unwrap();
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    for round in 0..400 {
        let mut bytes = good.clone();
        for _ in 0..1 + round % 30 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            // The boot sector, the tables and the first directories.
            let at = usize::try_from(state >> 8).unwrap() % 24_000;
            bytes[at] = state.to_le_bytes()[0];
        }
        let Ok(fs) = open(&bytes) else { continue };
        let mut directories = vec![fs.root()];
        let mut visits = 0;
        while let Some(directory) = directories.pop() {
            let _ = fs.read_dir(directory, &mut |entry| {
                visits += 1;
                let _ = fs.metadata(entry.inode);
                match entry.file_type {
                    Some(FileType::Dir) => directories.push(entry.inode),
                    _ => drop(fs.open(entry.inode).map(|file| read_vec(&file, 0, file.size().min(100_000) as usize))),
                }
                Ok(if visits < 1000 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
            });
            if visits >= 1000 {
                break;
            }
        }
        let _ = fs.statfs();
    }
}

#[test]
fn the_kernel_shows_the_same() {
    if !tools() || !have("mount") || !root() {
        return;
    }
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if !known.split_whitespace().any(|name| name == "vfat")
        && !std::process::Command::new("modprobe").arg("vfat").status().is_ok_and(|status| status.success())
    {
        support::skipped(format_args!("needs vfat in the kernel"));
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    for (options, size) in VARIANTS {
        // A loop device of 512-byte sectors cannot carry larger ones on old kernels.
        if options.contains("-S") {
            continue;
        }
        build(directory.path(), options, size);
        let script = "mkdir -p mnt; mount -o ro,loop,utf8,tz=UTC,umask=022 -t vfat v.img mnt
            (cd mnt; LC_ALL=C.UTF-8 find . -printf '%P|%y|%m|%n|%s|%b|%T@|%A@|%C@\\n' | sort > ../seen); umount mnt";
        shell(directory.path(), script);
        let fs = fs::open(device(&directory.path().join("v.img"))).unwrap();
        let mut ours = vec![line("", &fs.metadata(fs.root()).unwrap())];
        ours.extend(tree(&*fs).iter().map(|(path, metadata)| line(&path[1..], metadata)));
        ours.sort();
        let seen = std::fs::read_to_string(directory.path().join("seen")).unwrap();
        let mut theirs: Vec<&str> = seen.lines().collect();
        theirs.sort_unstable();
        assert_eq!(ours, theirs, "{options}");
    }
}

/// One line as the `find` above prints it.
fn line(path: &str, metadata: &Metadata) -> String {
    let kind = if metadata.file_type == FileType::Dir { 'd' } else { 'f' };
    let Metadata { permissions, nlink, size, blocks, mtime, atime, ctime, .. } = metadata;
    let [mtime, atime, ctime] = [mtime, atime, ctime].map(|time| format!("{}.{:09}0", time.seconds, time.nanoseconds));
    format!("{path}|{kind}|{permissions:o}|{nlink}|{size}|{blocks}|{mtime}|{atime}|{ctime}")
}
