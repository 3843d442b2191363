//! The `Guestfs` handle: its states, its mounts, and every call that reads, on the demo guest.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use guestctl::block::{AllowDirectories, ImageFormat, SameDirectory};
use guestctl::fs::{DeviceNumber, FileType, StatFs, Timestamp, Xattr};
use guestctl::progress::Progress;
use guestctl::{DriveOptions, Error, ErrorKind, Guestfs, PathProblem, Result};
use rayon::prelude::*;
use support::{have, shell};

fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("images/demo.qcow2")
}

fn launched(images: &[&Path]) -> Guestfs {
    let g = Guestfs::new().unwrap();
    images.iter().for_each(|image| g.add_drive_ro(image).unwrap());
    g.launch().unwrap();
    g
}

/// The demo guest with everything mounted.
fn mounted() -> Guestfs {
    let g = launched(&[&demo()]);
    g.mount_inspected("/dev/sda2").unwrap();
    g
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T>, message: &str) -> Error {
    let error = result.unwrap_err();
    let image = format!("{}: ", demo().display());
    assert_eq!(error.to_string().replace(&image, ""), message);
    error
}

#[track_caller]
fn problem<T: std::fmt::Debug>(result: Result<T>, expected: PathProblem) {
    match result.unwrap_err().kind() {
        ErrorKind::Path { problem, .. } => assert_eq!(*problem, expected),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_handle_goes_through_its_states_once() {
    let g = Guestfs::new().unwrap();
    let error = refused(g.launch(), "there is no drive to launch with");
    assert_eq!((error.exit_code(), error.hint()), (2, Some("add one with add_drive_ro")));
    let error = refused(g.list_devices(), "the handle is not launched");
    assert_eq!(error.hint(), Some("call launch first"));
    refused(g.mount_ro("/dev/sda2", "/"), "the handle is not launched");
    refused(g.umount_all(), "the handle is not launched");
    refused(g.inspect_os(), "the handle is not launched");
    refused(g.cat("/etc/hostname"), "the handle is not launched");
    let missing = g.add_drive_ro("/nonexistent/disk.raw");
    refused(missing, "cannot open /nonexistent/disk.raw: No such file or directory (os error 2)");
    g.add_drive_ro(demo()).unwrap();
    g.launch().unwrap();
    refused(g.launch(), "the handle is launched already");
    refused(g.add_drive_ro(demo()), "drives are added before launch");
    refused(g.cat("/etc/hostname"), "nothing is mounted at the guest's root");
    assert_eq!(g.mounts().unwrap(), [""; 0]);
    g.umount_all().unwrap();
    g.shutdown().unwrap();
    g.shutdown().unwrap();
    refused(g.list_devices(), "the handle is shut down");
    refused(g.launch(), "the handle is shut down");
    refused(g.ls("/"), "the handle is shut down");
    assert!(g.add_drive_ro(demo()).is_err());
}

#[test]
fn a_failed_launch_can_be_tried_again() {
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("disk.qcow2");
    std::fs::write(&image, b"QFI\xfb\0\0\0\x63").unwrap();
    let g = Guestfs::new().unwrap();
    g.add_drive_opts(&image, Some("qcow2"), true).unwrap();
    assert!(matches!(g.launch().unwrap_err().exit_code(), 7 | 8));
    std::fs::copy(demo(), &image).unwrap();
    g.launch().unwrap();
    assert_eq!(g.list_devices().unwrap(), ["/dev/sda"]);
}

#[test]
fn drives_are_added_with_options() {
    let g = Guestfs::new().unwrap();
    refused(g.add_drive_opts(demo(), Some("qed"), true), "image: format 'qed' is not supported");
    g.add_drive_opts(demo(), Some("raw"), true).unwrap();
    g.add_drive_opts(demo(), None, false).unwrap();
    g.add_drive_with(demo(), DriveOptions { gate: Arc::new(SameDirectory), ..DriveOptions::default() }).unwrap();
    g.launch().unwrap();
    let infos = g.image_info().unwrap();
    let facts: Vec<_> = infos.iter().map(|info| (info.format, info.probed, info.virtual_size)).collect();
    assert_eq!(
        facts,
        [
            (ImageFormat::Raw, false, 131_072),
            (ImageFormat::Qcow2, true, 88 << 20),
            (ImageFormat::Qcow2, true, 88 << 20)
        ]
    );
    assert_eq!(g.list_devices().unwrap(), ["/dev/sda", "/dev/sdb", "/dev/sdc"]);
    assert!(AllowDirectories::new(["/nonexistent".into()]).is_err());
    g.set_verbose(true);
    assert!(g.get_verbose());
}

#[test]
fn devices_are_listed_and_described() {
    let g = launched(&[&demo()]);
    assert_eq!(g.list_devices().unwrap(), ["/dev/sda"]);
    assert_eq!(g.list_partitions().unwrap(), ["/dev/sda1", "/dev/sda2"]);
    assert_eq!(g.lvs().unwrap(), [""; 0]);
    let pair = |device: &str, kind: &str| (device.to_owned(), kind.to_owned());
    assert_eq!(g.list_filesystems().unwrap(), [pair("/dev/sda1", "vfat"), pair("/dev/sda2", "ext4")]);
    let long = g.list_filesystems_long().unwrap();
    assert_eq!((long[1].label.as_deref(), long[1].size), (Some("demo-root"), 50 << 20));
    assert_eq!(long[1].partition_uuid.as_deref(), Some("d0d0d0d0-0001-4000-8000-000000000002"));
    assert_eq!(g.vfs_type("/dev/sda2").unwrap(), "ext4");
    assert_eq!(g.vfs_label("/dev/sda1").unwrap(), "ESP");
    assert_eq!(g.vfs_uuid("/dev/sda1").unwrap(), "D0D0-1E51");
    assert_eq!(g.vfs_type("/dev/sda").unwrap(), "unknown");
    assert_eq!(g.blockdev_getsize64("/dev/sda").unwrap(), 88 << 20);
    assert_eq!(g.blockdev_getsize64("/dev/vda1").unwrap(), 36 << 20);
    assert_eq!(g.part_get_parttype("/dev/sda").unwrap(), "gpt");
    problem(g.part_get_parttype("/dev/sdb"), PathProblem::NoSuchDevice);
    problem(g.vfs_type("/dev/sda3"), PathProblem::NoSuchDevice);
    problem(g.vfs_type("/dev/group/volume"), PathProblem::NoSuchDevice);
    problem(g.blockdev_getsize64(""), PathProblem::NoSuchDevice);
    assert_eq!(g.pread_device("/dev/sda", 8, 512).unwrap(), b"EFI PART");
    assert_eq!(g.pread_device("/dev/sda2", 2, 0x438).unwrap(), [0x53, 0xef]);
    assert_eq!(g.pread_device("/dev/sda", 100, (88 << 20) - 5).unwrap().len(), 5);
    assert_eq!(g.pread_device("/dev/sda", 100, u64::MAX).unwrap(), [0; 0]);
    assert_eq!(g.pread_device("/dev/sda", u64::MAX, 0).unwrap().len(), 88 << 20);
    let seen = Counted::default();
    let sum = g.checksum_device("sha256", "/dev/sda1", &seen).unwrap();
    assert_eq!((sum.len(), seen.0.load(Ordering::Relaxed)), (64, 36 << 20));
    assert_eq!(g.recovery_notes("/dev/sda2").unwrap(), [""; 0]);
}

#[derive(Debug, Default)]
struct Counted(AtomicU64);

impl Progress for Counted {
    fn advance(&self, bytes: u64) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }
}

#[test]
fn filesystems_are_mounted_in_order_and_unmounted_in_reverse() {
    let g = launched(&[&demo()]);
    let error = refused(g.mount_ro("/dev/sda1", "/boot/efi"), "nothing is mounted at the guest's root");
    assert_eq!(error.hint(), Some("mount the root filesystem at / first"));
    problem(g.mount_ro("/dev/sda9", "/"), PathProblem::NoSuchDevice);
    g.mount_ro("/dev/sda2", "/").unwrap();
    problem(g.mount_ro("/dev/sda1", "/nothing"), PathProblem::NotFound);
    problem(g.mount_ro("/dev/sda1", "/etc/hostname"), PathProblem::NotADirectory);
    assert_eq!(g.mount_ro("/dev/sda1", "boot").unwrap_err().exit_code(), 2);
    assert_eq!(g.ls("/boot/efi").unwrap(), [""; 0]);
    g.mount("/dev/sda1", "/boot/efi").unwrap();
    assert_eq!(g.ls("/boot/efi").unwrap(), ["EFI"]);
    assert_eq!(g.mounts().unwrap(), ["/dev/sda2", "/dev/sda1"]);
    let mountpoints: Vec<_> = g.mountpoints().unwrap().into_iter().collect();
    let pair = |device: &str, at: &str| (device.to_owned(), at.to_owned());
    assert_eq!(mountpoints, [pair("/dev/sda1", "/boot/efi"), pair("/dev/sda2", "/")]);
    assert_ne!(g.stat("/boot").unwrap().dev, g.stat("/boot/efi").unwrap().dev);

    let error = refused(g.umount("/"), "/ is busy: another filesystem is mounted on it");
    assert_eq!(error.hint(), Some("unmount the longest path first, or umount_all"));
    assert!(g.umount("/dev/sda2").is_err());
    refused(g.umount("/boot"), "/boot is not mounted");
    g.umount("/dev/sda1").unwrap();
    refused(g.umount("/dev/sda1"), "/dev/sda1 is not mounted");
    g.mount_ro("/dev/sda1", "/boot/../boot/efi/").unwrap();
    g.umount("/boot/efi").unwrap();
    // The same filesystem twice, and one over another.
    g.mount_ro("/dev/sda1", "/mnt").unwrap();
    g.mount_ro("/dev/sda1", "/boot/efi").unwrap();
    g.mount_ro("/dev/sda2", "/mnt").unwrap();
    assert_eq!(g.cat("/mnt/etc/hostname").unwrap(), "demo\n");
    assert_eq!(g.realpath("/mnt/etc/../..").unwrap(), "/");
    g.umount("/mnt").unwrap();
    assert_eq!(g.ls("/mnt").unwrap(), ["EFI"]);
    g.umount("/mnt").unwrap();
    assert_eq!(g.ls("/mnt").unwrap(), [""; 0]);
    assert_eq!(g.ls("/boot/efi").unwrap(), ["EFI"], "the mount that was made later still stands");
    g.umount("/boot/efi").unwrap();
    g.umount("/").unwrap();
    assert_eq!(g.mounts().unwrap(), [""; 0]);
    g.mount_inspected("/dev/sda2").unwrap();
    assert_eq!(g.mounts().unwrap(), ["/dev/sda2", "/dev/sda1"]);
    g.umount_all().unwrap();
    g.umount_all().unwrap();
    refused(g.ls("/"), "nothing is mounted at the guest's root");
}

#[test]
fn directories_are_listed() {
    let g = mounted();
    assert_eq!(g.ls("/home/demo").unwrap(), [".bashrc", ".ssh", "notes.txt"]);
    assert_eq!(g.ls("/bin/../../boot/efi/EFI").unwrap(), ["BOOT", "debian"]);
    problem(g.ls("/etc/hostname"), PathProblem::NotADirectory);
    problem(g.ls("/nothing"), PathProblem::NotFound);
    assert_eq!(
        g.ll("/home/demo").unwrap(),
        "-rw-r--r-- 1 demo demo   17 2025-01-01 00:00 .bashrc\n\
         drwx------ 2 demo demo 4096 2025-01-01 00:00 .ssh\n\
         -rw-r--r-- 1 demo demo   22 2025-01-01 00:00 notes.txt\n"
    );
    assert_eq!(
        g.find("/home").unwrap(),
        ["demo", "demo/.bashrc", "demo/.ssh", "demo/.ssh/authorized_keys", "demo/notes.txt"]
    );
    assert_eq!(g.find0("/home/demo/.ssh").unwrap(), [b"authorized_keys".to_vec()]);
    assert_eq!(g.find("/mnt").unwrap(), [""; 0]);
    assert!(g.find("/").unwrap().contains(&"boot/efi/EFI/debian/grub.cfg".to_owned()));
    problem(g.find("/etc/hostname"), PathProblem::NotADirectory);
    assert_eq!(g.glob_expand("/etc/host*").unwrap(), ["/etc/hostname", "/etc/hosts"]);
    assert_eq!(g.glob_expand("/*/ef?/EFI/[A-Z]*").unwrap(), ["/boot/efi/EFI/BOOT"]);
    assert_eq!(g.glob_expand("/home/demo/*").unwrap(), ["/home/demo/notes.txt"], "a dot is asked for");
    assert_eq!(g.glob_expand("/home/demo/.[!s]*").unwrap(), ["/home/demo/.bashrc"]);
    assert_eq!(g.glob_expand("/etc/hostname").unwrap(), ["/etc/hostname"]);
    assert_eq!(g.glob_expand("/etc/os-release").unwrap(), ["/etc/os-release"], "a link stays itself");
    assert_eq!(g.glob_expand("/none*/x").unwrap(), [""; 0]);
    assert_eq!(g.glob_expand("/etc/hostname/*").unwrap(), [""; 0]);
}

#[test]
fn paths_are_described() {
    let g = mounted();
    let notes = g.stat("/home/demo/notes.txt").unwrap();
    assert_eq!((notes.file_type, notes.mode(), notes.size, notes.nlink), (FileType::File, 0o100_644, 22, 1));
    assert_eq!((notes.uid, notes.gid, notes.inode, notes.rdev), (1000, 1000, 74, None));
    assert_eq!(notes.mtime, Timestamp { seconds: 1_735_689_600, nanoseconds: 0 });
    assert_eq!(g.statns("/home/demo/notes.txt").unwrap(), notes);
    assert_eq!(g.stat("/etc/os-release").unwrap(), g.stat("/usr/lib/os-release").unwrap());
    assert_eq!(g.lstat("/etc/os-release").unwrap().file_type, FileType::Symlink);
    assert_eq!(g.lstatns("/etc/os-release").unwrap().size, 21);
    assert_eq!(g.lstat("/bin/bash").unwrap().file_type, FileType::File, "links before the last are followed");
    problem(g.stat("/nothing"), PathProblem::NotFound);
    for (path, exists, file, directory, link) in [
        ("/etc", true, false, true, false),
        ("/etc/hostname", true, true, false, false),
        ("/etc/os-release", true, false, false, true),
        ("/bin", true, false, false, true),
        ("/etc/systemd/system/cron.service", false, false, false, true),
        ("/nothing", false, false, false, false),
        ("/etc/hostname/x", false, false, false, false),
        ("/", true, false, true, false),
    ] {
        assert_eq!(g.exists(path).unwrap(), exists, "{path}");
        assert_eq!(g.is_file(path).unwrap(), file, "{path}");
        assert_eq!(g.is_dir(path).unwrap(), directory, "{path}");
        assert_eq!(g.is_symlink(path).unwrap(), link, "{path}");
    }
    assert_eq!(g.exists("relative").unwrap_err().exit_code(), 2);
    assert_eq!(g.readlink("/bin").unwrap(), "usr/bin");
    problem(g.readlink("/etc/hostname"), PathProblem::NotASymlink);
    assert_eq!(g.realpath("/etc/../bin/./../lib/os-release").unwrap(), "/usr/lib/os-release");
    assert_eq!(g.realpath("/../../..").unwrap(), "/");
    assert_eq!(g.realpath("/etc/localtime").unwrap(), "/usr/share/zoneinfo/Europe/Berlin");
    let colour = Xattr { name: b"user.colour".to_vec(), value: b"blue".to_vec() };
    assert_eq!(g.getxattrs("/home/demo/notes.txt").unwrap(), std::slice::from_ref(&colour));
    assert_eq!(g.lgetxattrs("/home/demo/notes.txt").unwrap(), [colour]);
    assert_eq!(g.lgetxattrs("/etc/os-release").unwrap(), []);
    let root = StatFs {
        block_size: 4096,
        blocks: 11_702,
        blocks_free: 11_591,
        blocks_available: 10_695,
        files: 1024,
        files_free: 894,
        name_max: 255,
    };
    assert_eq!(g.statvfs("/etc").unwrap(), root);
    let df = g.df().unwrap();
    assert_eq!(df[0], ("/dev/sda2".to_owned(), "/".to_owned(), root));
    assert_eq!(df[1].1, "/boot/efi");
    assert_eq!(g.statvfs("/boot/efi/EFI").unwrap(), df[1].2);
    assert_eq!(g.mount_table().unwrap().mounts().len(), 2);
}

#[test]
fn files_are_read() {
    let g = mounted();
    assert_eq!(g.cat("/etc/hostname").unwrap(), "demo\n");
    assert_eq!(g.read_file("/etc/os-release").unwrap(), g.cat("/usr/lib/os-release").unwrap().as_bytes());
    assert_eq!(
        g.read_lines("/etc/hosts").unwrap(),
        ["127.0.0.1\tlocalhost", "127.0.1.1\tdemo.example.org\tdemo", "::1\t\tlocalhost ip6-localhost ip6-loopback"]
    );
    problem(g.cat("/etc"), PathProblem::IsADirectory);
    problem(g.cat("/nothing"), PathProblem::NotFound);
    problem(g.cat("/etc/hostname/x"), PathProblem::NotADirectory);

    let status = g.read_lines("/var/lib/dpkg/status").unwrap();
    assert!(status.len() > 200);
    let path = "/var/lib/dpkg/status";
    assert_eq!(g.head(path).unwrap(), status[..10]);
    assert_eq!(g.tail(path).unwrap(), status[status.len() - 10..]);
    for count in [0, 1, 11, status.len(), usize::MAX] {
        let count_there = count.min(status.len());
        assert_eq!(g.head_n(count, path).unwrap(), status[..count_there], "{count}");
        assert_eq!(g.tail_n(count, path).unwrap(), status[status.len() - count_there..], "{count}");
    }

    assert_eq!(g.pread("/etc/hostname", 3, 1).unwrap(), b"emo");
    assert_eq!(g.pread("/etc/hostname", 100, 3).unwrap(), b"o\n");
    assert_eq!(g.pread("/etc/hostname", 100, 5).unwrap(), b"");
    assert_eq!(g.pread("/etc/hostname", u64::MAX, u64::MAX).unwrap(), b"");
    assert_eq!(g.checksum("md5", "/etc/hostname").unwrap(), md5("demo\n"));
    assert_eq!(g.checksum("sha3", "/etc/hostname").unwrap_err().exit_code(), 2);
    assert_eq!(g.open_content("/etc/hostname").unwrap().size(), 5);
    assert_eq!(g.open_content("/dev/sda1").unwrap().size(), 36 << 20);
    problem(g.open_content("/dev/sda7"), PathProblem::NotFound);

    let directory = tempfile::tempdir().unwrap();
    let local = directory.path().join("local");
    g.download("/etc/hostname", &local).unwrap();
    assert_eq!(std::fs::read(&local).unwrap(), b"demo\n");
    let seen = Counted::default();
    g.download_with("/dev/sda1", &local, &seen).unwrap();
    assert_eq!(std::fs::metadata(&local).unwrap().len(), 36 << 20);
    assert_eq!(seen.0.load(Ordering::Relaxed), 36 << 20);
    problem(g.download("/nothing", &local), PathProblem::NotFound);
    assert_eq!(directory.path().read_dir().unwrap().count(), 1);
}

fn md5(text: &str) -> String {
    use md5::Digest;
    md5::Md5::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn guests_are_inspected() {
    let g = launched(&[&demo()]);
    assert_eq!(g.inspect_os().unwrap(), ["/dev/sda2"]);
    assert_eq!(g.inspect_get_roots().unwrap(), ["/dev/sda2"]);
    assert_eq!(g.mounts().unwrap(), [""; 0], "inspection mounts nothing");
    let root = "/dev/sda2";
    let words = [
        (g.inspect_get_type(root), "linux"),
        (g.inspect_get_distro(root), "debian"),
        (g.inspect_get_arch(root), "x86_64"),
        (g.inspect_get_product_name(root), "Debian GNU/Linux 12 (bookworm)"),
        (g.inspect_get_product_variant(root), "unknown"),
        (g.inspect_get_build_id(root), "unknown"),
        (g.inspect_get_hostname(root), "demo"),
        (g.inspect_get_osinfo(root), "debian12"),
        (g.inspect_get_package_format(root), "deb"),
        (g.inspect_get_package_management(root), "apt"),
    ];
    for (word, expected) in words {
        assert_eq!(word.unwrap(), expected);
    }
    assert_eq!(g.inspect_get_major_version(root).unwrap(), 12);
    assert_eq!(g.inspect_get_minor_version(root).unwrap(), 7);
    let pair = |at: &str, device: &str| (at.to_owned(), device.to_owned());
    let mountpoints: Vec<_> = g.inspect_get_mountpoints(root).unwrap().into_iter().collect();
    assert_eq!(mountpoints, [pair("/", "/dev/sda2"), pair("/boot/efi", "/dev/sda1")]);
    assert_eq!(g.inspect_get_filesystems(root).unwrap(), ["/dev/sda2", "/dev/sda1"]);
    let packages = g.inspect_list_applications2(root).unwrap();
    let bash = packages.iter().find(|package| package.name == "bash").unwrap();
    assert_eq!((packages.len(), bash.version.as_str(), bash.release.as_str()), (26, "5.2.15", "2+b7"));
    assert_eq!(g.inspect_packages(root).unwrap()[0].source, "/var/lib/dpkg/status");
    assert_eq!(g.operating_systems().unwrap()[0].guest().mounts().mounts().len(), 2);
    let error = refused(g.inspect_get_distro("/dev/sda1"), "/dev/sda1 is not the root of an operating system");
    assert_eq!(error.hint(), Some("inspect_os lists them"));
}

/// A small filesystem of links, special files and a file of terabytes.
fn links() -> Option<tempfile::TempDir> {
    if !have("mke2fs") || !have("debugfs") {
        return None;
    }
    let directory = tempfile::tempdir().unwrap();
    shell(
        directory.path(),
        r#"mkdir -p tree/etc tree/a/b/c; cd tree; echo guest > etc/hostname
           ln -s loop loop; ln -s two one; ln -s one two; ln -s /etc/hostname absolute
           ln -s ../../../../../../../../etc/hostname out; ln -s a/b dir; ln -s nowhere dangling
           ln -s /absolute chain0; for i in $(seq 1 41); do ln -s chain$((i - 1)) chain$i; done
           mkfifo fifo; printf 'no newline' > etc/line; printf '\377\000\n' > etc/binary; printf 'a\r\nb\n\nc' > etc/crlf
           cd ..; mke2fs -q -F -t ext4 -b 4096 -d tree fs.raw 8M
           printf 'write /dev/null giant\nsif giant size 3298534883328\n' | debugfs -w fs.raw 2>/dev/null"#,
    );
    Some(directory)
}

#[test]
fn links_stay_inside_the_guest_and_end() {
    let Some(directory) = links() else { return };
    let g = launched(&[&directory.path().join("fs.raw")]);
    g.mount_ro("/dev/sda", "/").unwrap();
    for path in ["/loop", "/one", "/two", "/loop/x", "/chain40", "/chain41"] {
        problem(g.stat(path), PathProblem::TooManySymlinks);
        assert!(!g.exists(path).unwrap());
    }
    assert_eq!(g.cat("/chain38").unwrap(), "guest\n", "40 links are followed");
    assert!(g.lstat("/loop").is_ok());
    problem(g.stat("/dangling"), PathProblem::NotFound);
    for path in ["/absolute", "/out", "/dir/../../etc/hostname", "/a/../../../etc/hostname"] {
        assert_eq!(g.realpath(path).unwrap(), "/etc/hostname");
        assert_eq!(g.cat(path).unwrap(), "guest\n");
    }
    assert_eq!(g.realpath("/dir/..").unwrap(), "/a", "what .. means is decided behind the link");
    problem(g.read_file("/fifo"), PathProblem::NotARegularFile);
    problem(g.stat(["/".as_bytes(), &[b'n'; 256]].concat()), PathProblem::NotFound);
    problem(g.stat("/n".repeat(3000)), PathProblem::TooLong);
    let error = refused(g.cat("/etc/binary"), "/etc/binary: the file is not UTF-8 text");
    assert_eq!((error.hint(), error.exit_code()), (Some("read its bytes with read_file or download"), 2));
    assert_eq!(g.read_file("/etc/binary").unwrap(), [0xff, 0, b'\n']);
    assert_eq!(g.read_lines("/etc/crlf").unwrap(), ["a", "b", "", "c"]);
    assert_eq!(g.tail_n(1, "/etc/line").unwrap(), ["no newline"]);
    assert_eq!(g.stat("/fifo").unwrap().rdev, None::<DeviceNumber>);
}

#[test]
fn no_file_is_too_large_for_memory() {
    let Some(directory) = links() else { return };
    let g = launched(&[&directory.path().join("fs.raw")]);
    g.mount_ro("/dev/sda", "/").unwrap();
    assert_eq!(g.stat("/giant").unwrap().size, 3 << 40);
    assert_eq!(g.pread("/giant", 10, (3 << 40) - 4).unwrap(), [0; 4]);
    let results = [
        g.read_file("/giant").err(),
        g.cat("/giant").err(),
        g.pread("/giant", 3 << 40, 0).err(),
        g.head("/giant").err(),
        g.tail("/giant").err(),
    ];
    for error in results {
        let error = error.unwrap();
        assert_eq!(error.exit_code(), 4);
        assert_eq!(error.hint(), Some("download it, or read it in parts with pread"));
        assert_eq!(error.place().path.as_deref(), Some("/giant"));
    }
}

#[test]
fn errors_cross_threads_and_images_are_read_in_parallel() {
    fn crosses<T: Send + Sync + 'static>() {}
    crosses::<Error>();
    crosses::<Guestfs>();

    let directory = tempfile::tempdir().unwrap();
    let images: Vec<_> = (0..6).map(|index| directory.path().join(format!("{index}.qcow2"))).collect();
    for image in &images {
        std::fs::copy(demo(), image).unwrap();
    }
    let hostname = |image: &PathBuf| -> Result<()> {
        let g = Guestfs::new()?;
        g.add_drive_ro(image)?;
        g.launch()?;
        for root in g.inspect_os()? {
            g.mount_inspected(&root)?;
            assert_eq!(g.cat("/etc/hostname")?, "demo\n");
        }
        g.shutdown()
    };
    images.par_iter().try_for_each(hostname).unwrap();
    std::fs::write(&images[3], b"QFI\xfbbroken").unwrap();
    let error: Box<dyn std::error::Error + Send + Sync> = images.par_iter().try_for_each(hostname).unwrap_err().into();
    assert!(error.to_string().contains("3.qcow2"), "{error}");

    // One handle for all.
    let g = mounted();
    let paths = g.find("/").unwrap();
    paths.par_iter().try_for_each(|path| g.lstat(format!("/{path}")).map(drop)).unwrap();
}

#[test]
fn eight_threads_read_what_one_reads() {
    let g = mounted();
    let read = |g: &Guestfs| -> Vec<(String, String)> {
        let files = g.find("/").unwrap().into_iter().map(|path| format!("/{path}"));
        files.filter(|path| g.is_file(path).unwrap()).map(|path| (g.checksum("sha256", &path).unwrap(), path)).collect()
    };
    let serial = read(&g);
    assert!(serial.len() > 50);
    let fresh = mounted();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    // Inspection at the same time, too: the findings are shared.
                    fresh.inspect_os().unwrap();
                    read(&fresh)
                })
            })
            .collect();
        for thread in threads {
            assert!(thread.join().unwrap() == serial);
        }
    });
    let table = fresh.mount_table().unwrap();
    fresh.umount_all().unwrap();
    assert_eq!(table.mounts().len(), 2, "a call under way keeps the mounts it began with");
}

#[test]
fn a_cache_changes_nothing_of_what_is_found_and_read() {
    use guestctl::cache::{EventKind, InitOptions, Store};
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cache");
    let store = || Arc::new(Store::open(&path).unwrap());
    Store::init(&path, &InitOptions::default()).unwrap();
    let say = |cache: Option<Arc<Store>>| {
        let g = launched(&[&demo()]);
        g.set_cache(cache);
        let roots = g.inspect_os().unwrap();
        let root = &roots[0];
        let systems = [
            g.inspect_get_type(root).unwrap(),
            g.inspect_get_distro(root).unwrap(),
            g.inspect_get_arch(root).unwrap(),
            g.inspect_get_product_name(root).unwrap(),
            g.inspect_get_hostname(root).unwrap(),
            g.inspect_get_package_format(root).unwrap(),
            g.inspect_get_package_management(root).unwrap(),
            g.inspect_get_osinfo(root).unwrap(),
        ];
        let versions = (g.inspect_get_major_version(root).unwrap(), g.inspect_get_minor_version(root).unwrap());
        let mountpoints = (g.inspect_get_mountpoints(root).unwrap(), g.inspect_get_filesystems(root).unwrap());
        let packages = format!("{:?}", g.inspect_packages(root).unwrap());
        assert_eq!(g.inspect_get_roots().unwrap(), roots);
        g.mount_inspected(root).unwrap();
        let mounts = g.mounts().unwrap();
        let read = (g.cat("/etc/hostname").unwrap(), g.ls("/boot/efi").unwrap(), g.find("/etc").unwrap());
        let found = serde_json::to_string(&*g.inspection(true).unwrap()).unwrap();
        g.umount_all().unwrap();
        format!("{roots:?} {systems:?} {versions:?} {mountpoints:?} {packages} {mounts:?} {read:?} {found}")
    };
    let none = say(None);
    let count = |kind| store().events(0).unwrap().iter().filter(|event| event.event == kind).count();
    assert_eq!(say(Some(store())), none, "empty");
    let misses = count(EventKind::Miss);
    assert!(misses > 0);
    let hits = count(EventKind::Hit);
    assert_eq!(say(Some(store())), none, "filled");
    assert_eq!(count(EventKind::Miss), misses);
    assert!(count(EventKind::Hit) > hits);
    // Taken away again, and one that is damaged.
    let g = launched(&[&demo()]);
    g.set_cache(Some(store()));
    g.set_cache(None);
    g.inspect_os().unwrap();
    assert_eq!(count(EventKind::Miss), misses);
    std::fs::remove_dir_all(path.join("actions")).unwrap();
    assert_eq!(say(Some(store())), none, "broken");
}
