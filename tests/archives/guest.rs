//! A filesystem with everything that an archive has to carry, filled by the kernel.

use std::fs::{File, create_dir, create_dir_all, hard_link, write};
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::XattrFlags;

use super::corners::{self, pattern};
use super::mounted::{Mounted, can_mount};
use super::support::{have, shell};

/// The filesystem's image.
pub struct Guest {
    directory: tempfile::TempDir,
    pub image: PathBuf,
}

/// The guest, made once; `None` where images cannot be mounted.
pub fn guest() -> Option<&'static Guest> {
    static GUEST: OnceLock<Option<Guest>> = OnceLock::new();
    let make = || {
        if !can_mount() || !have("mke2fs") || !have("setcap") {
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("guest.raw");
        shell(directory.path(), "mke2fs -q -F -t ext4 -b 4096 -I 512 -N 16384 -O ea_inode guest.raw 256M");
        let mounted = Mounted::new(&image, "noatime").unwrap();
        fill(&mounted.path());
        drop(mounted);
        Some(Guest { directory, image })
    };
    GUEST.get_or_init(make).as_ref()
}

impl Guest {
    /// A directory for what tests make of it.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The kernel's own mount of it.
    pub fn mounted(&self) -> Mounted {
        Mounted::new(&self.image, "ro").unwrap()
    }
}

/// An empty filesystem that can hold everything of the guest, to extract into.
pub fn empty(at: &Path) -> Mounted {
    shell(at, "mke2fs -q -F -t ext4 -b 4096 -I 512 -N 16384 -O ea_inode empty.raw 1G");
    Mounted::new(&at.join("empty.raw"), "noatime").unwrap()
}

fn fill(top: &Path) {
    corners::fill(top, 500);
    let at = top.join("archives");
    create_dir(&at).unwrap();
    long_paths(top, &at);
    sparse(&at.join("sparse"));
    attributes(&at.join("attributes"));
    links(&at.join("links"));
    create_dir_all(top.join("etc")).unwrap();
    let long = "n".repeat(40);
    write(top.join("etc/passwd"), format!("root:x:0:0::/:\nsomeone:x:1000:1000::/:\n{long}:x:1:1::/:\n")).unwrap();
    write(top.join("etc/group"), "root:x:0:\nsome group:x:1000:\nJosé:x:1:\n").unwrap();
}

/// Lengths of paths in the archive, its `./` and a directory's `/` included, around where fields end.
pub const LENGTHS: [usize; 19] =
    [98, 99, 100, 101, 102, 153, 154, 155, 156, 157, 158, 254, 255, 256, 257, 258, 1000, 2048, 4050];

/// Files, directories, links and targets of paths of every length, cut into components in two ways.
fn long_paths(top: &Path, at: &Path) {
    for component in [97, 255] {
        let parent = at.join(format!("{component}"));
        create_dir(&parent).unwrap();
        for len in LENGTHS {
            // In the archive a path begins with `./`.
            let room = |path: &Path| (len + 1).checked_sub(path.as_os_str().len() - top.as_os_str().len() + 2);
            let mut directory = parent.clone();
            while let Some(rest) = room(&directory).filter(|rest| *rest > 255) {
                directory.push("d".repeat(component.min(rest - 2)));
            }
            create_dir_all(&directory).unwrap();
            let Some(rest) = room(&directory).filter(|rest| *rest > 2) else { continue };
            let named = |letter: &str| directory.join(letter.repeat(rest - 1));
            write(named("f"), format!("a path of {len}")).unwrap();
            hard_link(named("f"), named("h")).unwrap();
            symlink("t".repeat(len), named("s")).unwrap();
            // With its slash the same length, and one more.
            create_dir(named("e")).unwrap();
            create_dir(directory.join("g".repeat(rest - 2))).unwrap();
            let holes = File::create(named("z")).unwrap();
            holes.write_all_at(b"data", 100_000).unwrap();
            holes.set_len(200_000).unwrap();
        }
    }
}

/// Sizes at which a size no longer fits in a header's field, with data at every side of it.
fn sparse(at: &Path) {
    create_dir(at).unwrap();
    const EIGHT: u64 = 8 << 30;
    for (name, size, data) in [
        ("hole to 8G less 1", EIGHT - 1, vec![]),
        ("hole to 8G", EIGHT, vec![]),
        ("hole to 8G and 1", EIGHT + 1, vec![]),
        ("data up to 8G less 1", EIGHT - 1, vec![EIGHT - 701]),
        ("data up to 8G", EIGHT, vec![EIGHT - 700]),
        ("data across 8G", EIGHT + 5000, vec![EIGHT - 100]),
        ("data before, within and behind", EIGHT + (1 << 20), vec![0, 1 << 30, EIGHT - 1, EIGHT + 300_000]),
    ] {
        let file = File::create(at.join(name)).unwrap();
        for offset in data {
            file.write_all_at(&pattern(700, offset), offset).unwrap();
        }
        file.set_len(size).unwrap();
    }
    // As many runs as make the map longer than a piece of the archive.
    let many = File::create(at.join("3000 runs")).unwrap();
    for index in 0..3000 {
        many.write_all_at(&pattern(100, index), index * 12_288).unwrap();
    }
    // Longer than several pieces, and no hole in it.
    write(at.join("no hole"), pattern(5_000_003, 77)).unwrap();
}

fn attributes(at: &Path) {
    create_dir(at).unwrap();
    let set = |name: &str, value: &[u8]| {
        rustix::fs::lsetxattr(at.join("all"), name, value, XattrFlags::empty()).unwrap();
    };
    write(at.join("all"), "all").unwrap();
    set("security.selinux", b"system_u:object_r:etc_t:s0\0");
    set("user.lines", b"one\ntwo\n\n17 path=elsewhere\n");
    set("user.not text", b"\xff\0\xfe\0");
    set("user.100%", b"percent");
    set("user.a=b", b"equals");
    set("trusted.empty", b"");
    shell(
        at,
        "cp all capable; setcap cap_net_raw,cap_net_bind_service=ep capable
         cp all rooted; setcap -n 100000 cap_sys_admin=ep rooted || :
         mkdir labelled; setfattr -n security.selinux -v 'system_u:object_r:usr_t:s0\\000' labelled
         setfattr -n trusted.on.directory -v x labelled
         ln -s all link; setfattr -h -n security.selinux -v 'system_u:object_r:lnk_t:s0\\000' link",
    );
}

fn links(at: &Path) {
    create_dir(at).unwrap();
    shell(
        at,
        "printf file >file; ln -s nowhere symlink; mkfifo fifo; mknod device c 7 11; mknod block b 7 12
         for kind in file symlink fifo device block; do ln -P $kind \"$kind 2\"; ln -P $kind \"a $kind\"; done
         setfattr -n user.linked -v 'on all names' file",
    );
}
