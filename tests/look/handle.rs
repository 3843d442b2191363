//! The handle's calls, with libguestfs's names and meanings.

use guestctl::ops::CpioOptions;
use guestctl::progress::{Progress, Silent};
use guestctl::{ErrorKind, GrepFlags, Guestfs};

use super::guest::{Guest, text};
use super::support::have;

fn demo() -> Guestfs {
    let g = Guestfs::new().unwrap();
    g.add_drive_ro(concat!(env!("CARGO_MANIFEST_DIR"), "/images/demo.qcow2")).unwrap();
    g.launch().unwrap();
    g.mount_ro("/dev/sda2", "/").unwrap();
    g
}

/// Wants to stop from the beginning.
struct Stopped;

impl Progress for Stopped {
    fn advance(&self, _bytes: u64) {}
    fn cancelled(&self) -> bool {
        true
    }
}

#[test]
fn lines_are_searched_in_libguestfss_ways() {
    let g = demo();
    assert_eq!(g.grep_lines("^root", "/etc/passwd").unwrap().len(), 1);
    assert_eq!(g.grep_lines("ro+t", "/etc/passwd").unwrap(), Vec::<String>::new(), "a plus is a plus in a basic one");
    let flags = |extended, fixed, insensitive| GrepFlags { extended, fixed, insensitive, compressed: false };
    assert_eq!(g.grep_lines_opts("^ro+t:", "/etc/passwd", flags(true, false, false)).unwrap().len(), 1);
    assert_eq!(g.grep_lines_opts("^ROOT", "/etc/passwd", flags(false, false, true)).unwrap().len(), 1);
    assert_eq!(g.grep_lines_opts("^root", "/etc/passwd", flags(false, true, false)).unwrap().len(), 0);
    assert_eq!(g.grep_lines(r"\(x\)\1", "/etc/passwd").unwrap_err().exit_code(), 7);
    assert_eq!(g.grep_lines("x", "/etc").unwrap_err().exit_code(), 9);
}

#[test]
fn directories_and_attributes_are_listed() {
    let g = demo();
    let entries = g.readdir("/home/demo").unwrap();
    assert_eq!((entries[0].name.as_str(), entries[0].ftyp, entries[1].name.as_str()), (".", 'd', ".."));
    assert_eq!(entries[1].ino, g.stat("/home").unwrap().inode);
    let mut names: Vec<_> = entries[2..].iter().map(|entry| (entry.name.as_str(), entry.ftyp)).collect();
    names.sort();
    assert_eq!(names, [(".bashrc", 'r'), (".ssh", 'd'), ("notes.txt", 'r')]);
    assert_eq!(g.readdir("/").unwrap()[1].ino, g.stat("/").unwrap().inode);

    let stats = g.lstatns_list("/home/demo", &["notes.txt", "nope", ".ssh"]).unwrap();
    assert_eq!(stats[0], Some(g.lstatns("/home/demo/notes.txt").unwrap()));
    assert!(stats[1].is_none() && stats[2].is_some());
    assert_eq!(g.lstatns_list("/home", &["../etc"]).unwrap_err().exit_code(), 2);
    let xattrs = g.lxattrlist("/home/demo", &["notes.txt", ".bashrc", "nope"]).unwrap();
    assert_eq!(xattrs[0].as_deref().unwrap(), g.lgetxattrs("/home/demo/notes.txt").unwrap());
    assert_eq!((xattrs[1].as_deref(), xattrs[2].as_deref()), (Some(&[][..]), None));
    assert_eq!(g.getxattr("/home/demo/notes.txt", "user.colour").unwrap(), b"blue");
    assert_eq!(g.lgetxattr("/home/demo/notes.txt", "user.taste").unwrap_err().exit_code(), 9);
    assert_eq!(g.statvfs("/").unwrap().block_size, g.df().unwrap()[0].2.block_size);
}

#[test]
fn space_parts_and_filesystems() {
    let g = demo();
    assert_eq!(g.du("/home/demo").unwrap(), 20);
    assert_eq!(g.du("/home/demo/notes.txt").unwrap(), 4);
    assert_eq!(g.du("/nope").unwrap_err().exit_code(), 9);
    assert!(matches!(g.du_with("/", &Stopped).unwrap_err().kind(), ErrorKind::Cancelled));

    let out = tempfile::tempdir().unwrap();
    let local = out.path().join("part");
    g.download_offset("/home/demo/notes.txt", &local, 8, 4).unwrap();
    assert_eq!(std::fs::read(&local).unwrap(), b"here");
    g.download_offset("/dev/sda2", &local, 1024 + 56, 2).unwrap();
    assert_eq!(std::fs::read(&local).unwrap(), [0x53, 0xef], "ext4's magic");
    for (offset, size) in [(20, 3), (23, 0), (u64::MAX, 2)] {
        assert_eq!(g.download_offset("/home/demo/notes.txt", &local, offset, size).unwrap_err().exit_code(), 2);
    }

    let files = g.filesystem_walk("/dev/sda1").unwrap();
    let file = files.iter().find(|file| file.tsk_name == "EFI/BOOT/BOOTX64.EFI").unwrap();
    assert_eq!((file.tsk_type, file.tsk_size, file.tsk_flags), ('r', 1500, 1));
    let files = g.filesystem_walk("/dev/sda2").unwrap();
    let paths: Vec<_> = files.iter().map(|file| file.tsk_name.clone()).collect();
    let mut found = g.find("/").unwrap();
    found.sort_by(|a, b| a.split('/').cmp(b.split('/')));
    assert_eq!(paths, found);
    let link = files.iter().find(|file| file.tsk_name == "etc/os-release").unwrap();
    assert_eq!((link.tsk_type, link.tsk_link.as_str()), ('l', "../usr/lib/os-release"));
    assert!(matches!(g.filesystem_walk_with("/dev/sda2", &Stopped).unwrap_err().kind(), ErrorKind::Cancelled));
}

#[test]
fn archives_and_ram_disks() {
    let Some(guest) = Guest::new("rm -r tree/old tree/a-b") else { return };
    if !have("cpio") || !have("gzip") {
        return;
    }
    let g = Guestfs::new().unwrap();
    g.add_drive_ro(guest.image()).unwrap();
    g.launch().unwrap();
    g.mount_ro("/dev/sda", "/").unwrap();
    let out = tempfile::tempdir().unwrap();
    let archive = out.path().join("a.cpio");
    g.cpio_out("/a", &archive).unwrap();
    let names = super::support::shell(out.path(), "cpio -t --quiet <a.cpio").stdout;
    assert_eq!(String::from_utf8(names).unwrap(), ".\nb\nb/c\nb/c/d\nb/c/d/deep.txt\nb/mid.txt\n");
    let options = CpioOptions::default();
    assert_eq!(g.cpio_out_opts("/a", &archive, Some("crc"), &options, &Silent).unwrap_err().exit_code(), 7);
    let stopped = g.cpio_out_opts("/", out.path().join("b"), Some("newc"), &options, &Stopped);
    assert!(matches!(stopped.unwrap_err().kind(), ErrorKind::Cancelled));
    assert_eq!(out.path().read_dir().unwrap().count(), 1, "nothing is left");

    // What was written is read again, from within another guest.
    super::support::shell(out.path(), "mkdir tree; gzip <a.cpio >tree/initrd");
    let inner = Guest::of(out);
    let g = Guestfs::new().unwrap();
    g.add_drive_ro(text(&inner.image())).unwrap();
    g.launch().unwrap();
    g.mount_ro("/dev/sda", "/").unwrap();
    assert_eq!(g.initrd_list("/initrd").unwrap(), [".", "b", "b/c", "b/c/d", "b/c/d/deep.txt", "b/mid.txt"]);
    assert_eq!(g.initrd_cat("/initrd", "b/mid.txt").unwrap(), b"mid\n");
    assert_eq!(g.initrd_cat("/initrd", "b/none").unwrap_err().exit_code(), 9);
}
