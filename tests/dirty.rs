//! Ext4 filesystems that need recovery: the kernel makes them, and its own recovery of a copy says how they must read.
//!
//! Each image is copied while it is mounted, at several points of a workload whose steps are made durable one by one.
//! Needs root, loop devices and mke2fs.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

mod support;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::ops::ControlFlow;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use guestctl::block::{BlockDevice, HostFile, read_vec};
use guestctl::fs::{FileType, Filesystem, Timestamp};
use support::{have, root, shell};

/// Everything that is compared about one file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    inode: u64,
    mode: u32,
    owner: (u32, u32),
    links: u64,
    size: u64,
    blocks: u64,
    device: Option<(u32, u32)>,
    modified: Timestamp,
    changed: Timestamp,
    /// A digest of a regular file's content, a symbolic link's target.
    content: Vec<u8>,
    /// Names and digests of values.
    attributes: Vec<(Vec<u8>, Vec<u8>)>,
}

type Tree = BTreeMap<Vec<u8>, Entry>;

/// The tree as guestctl reads it.
fn read_image(image: &Path) -> (Tree, Vec<String>) {
    let fs = guestctl::fs::open(Arc::new(HostFile::open(image).unwrap())).unwrap();
    let mut tree = Tree::new();
    let mut directories = vec![(b".".to_vec(), fs.root())];
    tree.insert(b".".to_vec(), read_entry(&*fs, fs.root()));
    while let Some((path, directory)) = directories.pop() {
        fs.read_dir(directory, &mut |entry| {
            let path = [&path[..], b"/", &entry.name].concat();
            let read = read_entry(&*fs, entry.inode);
            let kind = FileType::from_mode(read.mode).unwrap();
            assert_eq!(entry.file_type.unwrap_or(kind), kind, "{}", path.escape_ascii());
            assert_eq!(fs.lookup(directory, &entry.name).unwrap(), Some(entry.inode), "{}", path.escape_ascii());
            if kind == FileType::Dir {
                directories.push((path.clone(), entry.inode));
            }
            assert!(tree.insert(path, read).is_none(), "a name occurs twice");
            Ok(ControlFlow::Continue(()))
        })
        .unwrap();
    }
    (tree, fs.recovery())
}

fn read_entry(fs: &dyn Filesystem, inode: u64) -> Entry {
    let metadata = fs.metadata(inode).unwrap();
    let content = match metadata.file_type {
        FileType::File => {
            let file = fs.open(inode).unwrap();
            assert_eq!(file.size(), metadata.size);
            digest(&read_vec(&file, 0, file.size() as usize).unwrap())
        }
        FileType::Symlink => fs.read_link(inode).unwrap(),
        _ => Vec::new(),
    };
    Entry {
        inode,
        mode: metadata.mode(),
        owner: (metadata.uid, metadata.gid),
        links: metadata.nlink,
        size: metadata.size,
        blocks: metadata.blocks,
        device: metadata.rdev.map(|device| (device.major, device.minor)),
        modified: metadata.mtime,
        changed: metadata.ctime,
        content,
        attributes: fs.xattrs(inode).unwrap().into_iter().map(|xattr| (xattr.name, digest(&xattr.value))).collect(),
    }
}

fn digest(bytes: &[u8]) -> Vec<u8> {
    blake3::hash(bytes).as_bytes().to_vec()
}

/// The tree as the kernel shows it.
fn read_mounted(mountpoint: &Path) -> Tree {
    let mut tree = Tree::new();
    let mut pending = vec![(b".".to_vec(), mountpoint.to_owned())];
    while let Some((path, place)) = pending.pop() {
        let metadata = fs::symlink_metadata(&place).unwrap();
        let kind = metadata.file_type();
        let mut content = Vec::new();
        if kind.is_dir() {
            for entry in fs::read_dir(&place).unwrap() {
                let entry = entry.unwrap();
                pending.push(([&path[..], b"/", entry.file_name().as_bytes()].concat(), entry.path()));
            }
        } else if kind.is_file() {
            content = digest(&fs::read(&place).unwrap());
        } else if kind.is_symlink() {
            content = fs::read_link(&place).unwrap().into_os_string().into_vec();
        }
        let number = (rustix::fs::major(metadata.rdev()), rustix::fs::minor(metadata.rdev()));
        let time = |seconds, nanoseconds: i64| Timestamp { seconds, nanoseconds: nanoseconds as u32 };
        let entry = Entry {
            inode: metadata.ino(),
            mode: metadata.mode(),
            owner: (metadata.uid(), metadata.gid()),
            links: metadata.nlink(),
            size: metadata.size(),
            blocks: metadata.blocks(),
            device: (kind.is_char_device() || kind.is_block_device()).then_some(number),
            modified: time(metadata.mtime(), metadata.mtime_nsec()),
            changed: time(metadata.ctime(), metadata.ctime_nsec()),
            content,
            attributes: attributes(&place),
        };
        tree.insert(path, entry);
    }
    tree
}

fn attributes(place: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut buffer = vec![0; 65536];
    let len = rustix::fs::llistxattr(place, &mut buffer[..]).unwrap();
    let names = buffer[..len].split(|&byte| byte == 0).filter(|name| !name.is_empty()).map(<[u8]>::to_vec);
    let value = |name: Vec<u8>| {
        let mut value = vec![0; 65536];
        let len = rustix::fs::lgetxattr(place, &name[..], &mut value[..]).unwrap();
        (name, digest(&value[..len]))
    };
    let mut attributes: Vec<_> = names.map(value).collect();
    attributes.sort();
    attributes
}

/// A mounted filesystem whose image is copied while it is in use.
struct Live {
    directory: tempfile::TempDir,
    mountpoint: PathBuf,
    copies: Vec<&'static str>,
}

impl Live {
    fn new(mke2fs: &str, mount: &str) -> Self {
        // Each of some two thousand fsyncs would wait for the disk elsewhere.
        let memory = Path::new("/dev/shm");
        let directory = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
        // No commit comes by itself while the image is copied.
        let script = format!(
            "truncate -s 48M live; mke2fs -q -F {mke2fs} live; mkdir mnt kernel; \
             mount -o loop,noatime,commit=300{mount} live mnt"
        );
        shell(directory.path(), &script);
        let mountpoint = directory.path().join("mnt");
        Self { directory, mountpoint, copies: Vec::new() }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.mountpoint.join(name)
    }

    /// Writes a file and makes it durable.
    fn write(&self, name: &str, bytes: &[u8]) {
        let mut file = File::options().create(true).append(true).open(self.at(name)).unwrap();
        file.write_all(bytes).unwrap();
        file.sync_all().unwrap();
    }

    /// Makes what happened before durable by writing to a file that nothing else touches.
    fn sync(&self) {
        self.write("witness", b"!");
    }

    fn copy(&mut self, name: &'static str) {
        shell(self.directory.path(), &format!("cp --sparse=always live {name}"));
        self.copies.push(name);
    }

    /// Reads each copy and holds it against the kernel, but for what `forget` takes out; the names of copies that the
    /// kernel did not mount.
    fn compare(self, case: &str, forget: fn(&mut Entry)) -> Vec<&'static str> {
        let at = self.directory.path().to_owned();
        shell(&at, "umount mnt");
        let mut refused = Vec::new();
        for &name in &self.copies {
            let image = at.join(name);
            let before = digest(&fs::read(&image).unwrap());
            let (mut ours, recovery) = read_image(&image);
            assert_eq!(digest(&fs::read(&image).unwrap()), before, "{case}, {name}: the image was changed");
            assert!(!recovery.is_empty(), "{case}, {name} needs no recovery");

            let script =
                format!("cp --sparse=always {name} recovered; mount -o loop,noatime recovered kernel || echo no");
            if shell(&at, &script).stdout == b"no\n" {
                refused.push(name);
                continue;
            }
            let mut theirs = read_mounted(&at.join("kernel"));
            shell(&at, "umount kernel");
            ours.values_mut().chain(theirs.values_mut()).for_each(forget);
            for (path, ours) in &ours {
                let path_text = path.escape_ascii();
                assert_eq!(Some(ours), theirs.get(path), "{case}, {name}: {path_text}, {recovery:?}");
            }
            let missing: Vec<_> = theirs.keys().filter(|path| !ours.contains_key(*path)).collect();
            assert!(missing.is_empty(), "{case}, {name}: missing {missing:?}, {recovery:?}");
        }
        refused
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        let script = "for at in mnt kernel; do if mountpoint -q $at; then umount $at; fi; done";
        shell(self.directory.path(), script);
    }
}

/// When the kernel recovers fast commits, it puts their names into directories: time, size and blocks are those of then. It
/// counts the blocks of a file anew, and not the one of its attributes.
fn forget_recovery(entry: &mut Entry) {
    if FileType::from_mode(entry.mode) == Some(FileType::Dir) {
        (entry.size, entry.blocks) = (0, 0);
        (entry.modified, entry.changed) = (Timestamp::default(), Timestamp::default());
    } else if !entry.attributes.is_empty() {
        entry.blocks = 0;
    }
}

/// What is there before anything is interesting: all types, attributes, a large and a sparse file.
fn furnish(live: &Live) {
    for directory in 0..4 {
        fs::create_dir_all(live.at(&format!("d{directory}/sub"))).unwrap();
        for file in 0..5 {
            fs::write(live.at(&format!("d{directory}/old{file}")), noise(file * 3000)).unwrap();
        }
    }
    fs::write(live.at("large"), noise(300_000)).unwrap();
    let sparse = File::create(live.at("sparse")).unwrap();
    sparse.set_len(5 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, &noise(5000), 3 << 20).unwrap();
    symlink("d0/old1", live.at("short-link")).unwrap();
    symlink(format!("/{}", "long/".repeat(60)), live.at("long-link")).unwrap();
    fs::hard_link(live.at("large"), live.at("large-too")).unwrap();
    for (name, kind) in [("null", rustix::fs::FileType::CharacterDevice), ("fifo", rustix::fs::FileType::Fifo)] {
        let device = rustix::fs::makedev(1, 3);
        rustix::fs::mknodat(rustix::fs::CWD, live.at(name), kind, rustix::fs::Mode::RUSR, device).unwrap();
    }
    for (name, len) in [("user.short", 5), ("user.long", 700)] {
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(live.at("large"), name, &noise(len), flags).unwrap();
    }
    rustix::fs::syncfs(File::open(&live.mountpoint).unwrap()).unwrap();
}

/// Bytes without structure, the same each time.
fn noise(len: usize) -> Vec<u8> {
    let mut state = len as u64 | 1;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    })
    .take(len)
    .collect()
}

/// Files made, removed, renamed, grown and cut, with copies in between.
fn work(live: &mut Live) {
    for file in 0..200 {
        live.write(&format!("d{}/new{file}", file % 4), &noise(file * 37));
        match file {
            20 => live.copy("after-20"),
            90 => live.copy("after-90"),
            _ => {}
        }
    }
    live.copy("after-200");
    fs::remove_file(live.at("d0/new0")).unwrap();
    fs::remove_file(live.at("d1/old4")).unwrap();
    fs::rename(live.at("d2/new2"), live.at("d3/renamed")).unwrap();
    live.sync();
    live.copy("renamed");
    live.write("large", &noise(70_000));
    File::options().write(true).open(live.at("d0/old4")).unwrap().set_len(2500).unwrap();
    live.write("d0/old4", b"end");
    fs::rename(live.at("d2/new6"), live.at("d2/old1")).unwrap();
    fs::hard_link(live.at("d1/new1"), live.at("d1/again")).unwrap();
    live.write("d1/new1", b"twice");
    live.copy("grown");
    fs::remove_file(live.at("large")).unwrap();
    fs::remove_file(live.at("d3/old2")).unwrap();
    for file in 0..20 {
        live.write(&format!("d3/reused{file}"), &noise(1000));
    }
    live.copy("reused");
    fs::create_dir(live.at("made")).unwrap();
    live.write("made/file", &noise(4000));
    fs::remove_dir_all(live.at("d3/sub")).unwrap();
    live.sync();
    live.copy("directories");
    // Nothing says that this has to survive.
    for file in 0..50 {
        fs::write(live.at(&format!("d0/unsafe{file}")), noise(900)).unwrap();
    }
    fs::remove_file(live.at("d0/old1")).unwrap();
    live.copy("not-synced");
}

/// Held by each test: a child that another one just forked would keep its open files, and the mount, busy.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn ready() -> bool {
    root() && ["mke2fs", "losetup", "mount", "mountpoint"].into_iter().all(have)
}

#[test]
fn journalled_filesystems_read_as_the_kernel_recovers_them() {
    if !ready() {
        return;
    }
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let exact: fn(&mut Entry) = |_| {};
    for (mke2fs, mount, forget) in [
        ("-t ext4 -b 1024", "", exact),
        ("-t ext4 -b 4096", "", exact),
        ("-t ext4 -b 4096 -O ^64bit", ",data=journal", exact),
        ("-t ext4 -b 1024 -O ^metadata_csum,^64bit", "", exact),
        ("-t ext4 -b 1024 -O ^metadata_csum", ",journal_checksum", exact),
        ("-t ext4 -b 4096 -O bigalloc -C 16384", "", exact),
        ("-t ext4 -b 1024 -O orphan_file", "", exact),
        ("-t ext4 -b 2048 -O inline_data -I 512", "", exact),
        ("-t ext3 -b 1024", "", exact),
    ] {
        let mut live = Live::new(mke2fs, mount);
        furnish(&live);
        work(&mut live);
        // Removed but open: an orphan that recovery frees.
        let open = File::open(live.at("large-too")).unwrap();
        fs::remove_file(live.at("large-too")).unwrap();
        live.sync();
        live.copy("orphan");
        drop(open);
        let refused = live.compare(&format!("{mke2fs}{mount}"), forget);
        assert_eq!(refused, [""; 0], "the kernel mounts them all");
    }
}

#[test]
fn fast_commits_read_as_the_kernel_recovers_them() {
    if !ready() {
        return;
    }
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    for mke2fs in [
        "-t ext4 -b 1024 -O fast_commit",
        "-t ext4 -b 1024 -J fast_commit_size=700 -O fast_commit,^metadata_csum",
        "-t ext4 -b 4096 -J fast_commit_size=2048 -O fast_commit",
    ] {
        let mut live = Live::new(mke2fs, "");
        furnish(&live);
        work(&mut live);
        // A full fast-commit area is one block too long for the kernel, which then refuses the mount.
        let refused = live.compare(mke2fs, forget_recovery);
        assert!(refused.len() <= 1, "the kernel refuses {refused:?}");
    }
}
