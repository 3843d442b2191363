//! The files at the corners of ext2, ext3 and ext4, made through the kernel. What a format or a kernel refuses is left
//! out; the oracle is what the kernel reads back.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions, create_dir, create_dir_all, hard_link, write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, lchown, symlink};
use std::path::Path;

use rustix::fs::{CWD, FallocateFlags, FileType, Mode, Timespec, Timestamps, XattrFlags};

const GIB: u64 = 1 << 30;

/// Offsets at which the giant files hold data.
pub const GIANTS: [(&str, &[u64]); 5] = [
    ("sparse to 3T", &[0, GIB, 3 << 40]),
    ("sparse to 1T", &[0, GIB, 1 << 40]),
    ("sparse to 15G", &[0, GIB, 15 * GIB]),
    // Of 1 KiB blocks, 12 are mapped directly, 256 singly, 65,536 doubly; of 4 KiB blocks 12, 1,024, 1,048,576.
    ("indirect 1k", &[0, 11 << 10, 12 << 10, 267 << 10, 268 << 10, 65_803 << 10, 65_804 << 10, 300_000 << 10]),
    (
        "indirect 4k",
        &[0, 11 << 12, 12 << 12, 1035 << 12, 1036 << 12, 1_049_611 << 12, 1_049_612 << 12, 1_500_000 << 12],
    ),
];

/// Bytes that do not repeat every block.
pub fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..len).map(next).collect()
}

/// Fills `top` with everything; `names` is how many entries the huge directory gets.
pub fn fill(top: &Path, names: usize) {
    let corners = top.join("corners");
    create_dir(&corners).unwrap();
    sizes(&corners.join("sizes"));
    runs(&corners.join("runs"));
    links(&corners.join("links"));
    nodes(&corners.join("nodes"));
    odd_names(&corners.join("names"));
    attributes(&corners.join("attributes"));
    times(&corners.join("times"));
    owners(&corners.join("owners"));
    directories(&corners.join("directories"), names);
    giants(&top.join("giant"));
}

fn sizes(at: &Path) {
    create_dir(at).unwrap();
    for len in [0, 1, 59, 60, 61, 127, 128, 160, 255, 1023, 1024, 1025, 4095, 4096, 4097, 65_537, 8 << 20] {
        write(at.join(format!("{len} bytes")), pattern(len, len as u64)).unwrap();
    }
}

fn runs(at: &Path) {
    create_dir(at).unwrap();
    let holes = File::create(at.join("1200 fragments")).unwrap();
    for index in 0..1200_u64 {
        holes.write_all_at(&pattern(4096, index), index * 8192).unwrap();
    }
    let few = File::create(at.join("9 fragments")).unwrap();
    for index in 0..9_u64 {
        few.write_all_at(&pattern(5000, index), index * 150_000).unwrap();
    }
    let tail = File::create(at.join("hole at the end")).unwrap();
    tail.write_all_at(b"data", 10_000).unwrap();
    tail.set_len(3_000_001).unwrap();
    File::create(at.join("only a hole")).unwrap().set_len(1_000_000).unwrap();
    let unwritten = File::create(at.join("unwritten")).unwrap();
    if rustix::fs::fallocate(&unwritten, FallocateFlags::empty(), 0, 400_000).is_ok() {
        unwritten.write_all_at(&pattern(10_000, 1), 100_000).unwrap();
        unwritten.write_all_at(&pattern(7, 2), 300_001).unwrap();
        let beyond = File::create(at.join("allocated beyond its end")).unwrap();
        beyond.write_all_at(&pattern(5000, 3), 0).unwrap();
        rustix::fs::fallocate(&beyond, FallocateFlags::KEEP_SIZE, 0, 500_000).unwrap();
    }
    // Two files that grow in turns and reach the disk in turns lie in pieces.
    let [one, other] = ["in turns, one", "in turns, other"].map(|name| File::create(at.join(name)).unwrap());
    for index in 0..12_u64 {
        one.write_all_at(&pattern(70_000, index), index * 70_000).unwrap();
        other.write_all_at(&pattern(30_000, index), index * 30_000).unwrap();
        one.sync_data().unwrap();
        other.sync_data().unwrap();
    }
    let cut = File::create(at.join("cut")).unwrap();
    cut.write_all_at(&pattern(200_000, 4), 0).unwrap();
    cut.set_len(70_001).unwrap();
    cut.set_len(150_000).unwrap();
}

fn links(at: &Path) {
    create_dir(at).unwrap();
    for len in [1, 58, 59, 60, 61, 123, 1000, 1023, 4000, 4095] {
        // Refused where a target does not fit in a block.
        let _ = symlink("t".repeat(len), at.join(format!("target of {len}")));
    }
    symlink(OsStr::from_bytes(b"bad \xff bytes"), at.join("not UTF-8")).unwrap();
    symlink("/../../etc/passwd", at.join("absolute")).unwrap();
    symlink("loop", at.join("loop")).unwrap();
    write(at.join("hard"), "three names").unwrap();
    hard_link(at.join("hard"), at.join("hard 2")).unwrap();
    create_dir(at.join("below")).unwrap();
    hard_link(at.join("hard"), at.join("below/hard 3")).unwrap();
    hard_link(at.join("absolute"), at.join("below/absolute 2")).unwrap();
}

fn nodes(at: &Path) {
    create_dir(at).unwrap();
    let numbers = [
        (1, 3),
        (0, 0),
        (255, 255),
        (256, 0),
        (0, 256),
        (8, 257),
        (511, 255),
        (4095, 1_048_575),
        (259, 65_536),
        (1, 1_048_575),
    ];
    for (major, minor) in numbers {
        for (kind, name) in [(FileType::CharacterDevice, "char"), (FileType::BlockDevice, "block")] {
            let path = at.join(format!("{name} {major} {minor}"));
            rustix::fs::mknodat(CWD, &path, kind, Mode::from_raw_mode(0o640), rustix::fs::makedev(major, minor))
                .unwrap();
        }
    }
    rustix::fs::mknodat(CWD, at.join("fifo"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    rustix::fs::mknodat(CWD, at.join("socket"), FileType::Socket, Mode::from_raw_mode(0o755), 0).unwrap();
}

fn odd_names(at: &Path) {
    create_dir(at).unwrap();
    let long = "n".repeat(255);
    let names: [&[u8]; 10] = [
        long.as_bytes(),
        b"\xff\xfe\x80",
        b"half \xc3",
        b"new\nline",
        b"tab\tand esc\x1b[1m",
        b" ",
        b"...",
        b"-",
        "g\u{308}e\u{301}o\u{202e}".as_bytes(),
        b"back\\slash",
    ];
    for name in names {
        write(at.join(OsStr::from_bytes(name)), name).unwrap();
    }
}

/// A POSIX ACL as the kernel takes it: version 2, then tag, permissions and number of each entry.
fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(permissions.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

fn set(path: &Path, name: &str, value: &[u8]) -> bool {
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()).is_ok()
}

fn attributes(at: &Path) {
    create_dir(at).unwrap();
    let file = |name: &str| {
        write(at.join(name), name).unwrap();
        at.join(name)
    };
    let (user, group, named, mask, other, nobody) = (1, 4, 2, 16, 32, u32::MAX);
    let access = acl(&[
        (user, 6, nobody),
        (named, 7, 1000),
        (named, 4, 3_000_000),
        (group, 4, nobody),
        (8, 5, 70_000),
        (mask, 7, nobody),
        (other, 0, nobody),
    ]);
    let default = acl(&[(user, 7, nobody), (group, 5, nobody), (other, 5, nobody)]);
    set(&file("small"), "user.colour", b"blue");
    set(&file("empty value"), "user.empty", b"");
    set(&file("acl"), "system.posix_acl_access", &access);
    set(&file("binary"), "user.binary", &pattern(200, 9));
    set(&file("in a block"), "user.big", &pattern(900, 10));
    let many = file("many");
    for index in 0..30 {
        set(&many, &format!("user.number {index}"), format!("value {index}").as_bytes());
    }
    set(&many, &format!("user.{}", "n".repeat(250)), b"the longest name");
    let spaces = file("every name space");
    for name in ["user.a", "trusted.b", "security.c", "trusted.overlay.opaque", "security.selinux"] {
        set(&spaces, name, name.as_bytes());
    }
    set(&spaces, "system.posix_acl_access", &access);
    // Refused without ea_inode.
    for len in [2000, 3900, 5000, 40 << 10, 65_536] {
        set(&file(&format!("value of {len}")), "user.large", &pattern(len, len as u64));
    }
    // The same block of attributes for several files.
    for index in 0..3 {
        set(&file(&format!("shared {index}")), "user.shared", &pattern(600, 11));
    }
    let directory = at.join("directory");
    create_dir(&directory).unwrap();
    set(&directory, "system.posix_acl_access", &access);
    set(&directory, "system.posix_acl_default", &default);
    write(directory.join("inherits"), "").unwrap();
    symlink("target", at.join("link")).unwrap();
    set(&at.join("link"), "trusted.link", b"on the link itself");
    rustix::fs::mknodat(
        CWD,
        at.join("node"),
        FileType::CharacterDevice,
        Mode::from_raw_mode(0o600),
        rustix::fs::makedev(5, 1),
    )
    .unwrap();
    set(&at.join("node"), "trusted.node", b"on a node");
}

fn times(at: &Path) {
    create_dir(at).unwrap();
    let times = [
        -2_147_483_648_i64,
        -315_619_200,
        -1,
        0,
        1,
        1_735_689_600,
        2_147_483_647,
        2_147_483_648,
        4_102_444_800,
        4_294_967_296,
        6_442_450_944,
        13_569_465_600,
        15_032_385_535,
    ];
    for seconds in times {
        for nanoseconds in [0, 1, 123_456_789, 999_999_999] {
            let path = at.join(format!("{seconds} {nanoseconds}"));
            write(&path, "").unwrap();
            let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
            let times = Timestamps { last_access: time, last_modification: time };
            rustix::fs::utimensat(CWD, &path, &times, rustix::fs::AtFlags::empty()).unwrap();
        }
    }
}

fn owners(at: &Path) {
    create_dir(at).unwrap();
    for id in [0, 1, 1000, 65_534, 65_535, 65_536, 70_000, (1 << 21) + 5, 0x7fff_ffff, 0xffff_fffe] {
        let path = at.join(format!("{id}"));
        write(&path, "").unwrap();
        lchown(&path, Some(id), Some(id ^ 1)).unwrap();
        symlink("target", at.join(format!("link {id}"))).unwrap();
        lchown(at.join(format!("link {id}")), Some(id), Some(id)).unwrap();
    }
    for mode in [0o4755, 0o2755, 0o1777, 0o7777, 0o0000, 0o0002] {
        let path = at.join(format!("mode {mode:o}"));
        write(&path, "").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let path = at.join(format!("directory {mode:o}"));
        create_dir(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
}

fn directories(at: &Path, names: usize) {
    create_dir(at).unwrap();
    let deep = (0..40).fold(at.join("deep"), |path, level| path.join(format!("level {level}")));
    create_dir_all(&deep).unwrap();
    write(deep.join("bottom"), "bottom").unwrap();
    create_dir(at.join("empty")).unwrap();
    let thinned = at.join("entries deleted");
    create_dir(&thinned).unwrap();
    for index in 0..600 {
        write(thinned.join(format!("a name of some length {index}")), "").unwrap();
    }
    for index in (0..600).filter(|index| index % 3 != 0) {
        std::fs::remove_file(thinned.join(format!("a name of some length {index}"))).unwrap();
    }
    let emptied = at.join("emptied");
    create_dir(&emptied).unwrap();
    for index in 0..300 {
        symlink("x", emptied.join(format!("{index}"))).unwrap();
    }
    for index in 0..300 {
        std::fs::remove_file(emptied.join(format!("{index}"))).unwrap();
    }
    let folded = at.join("case-insensitive");
    create_dir(&folded).unwrap();
    // Refused without casefold, and where the kernel has no Unicode tables.
    let _ = std::process::Command::new("chattr").arg("+F").arg(&folded).stderr(std::process::Stdio::null()).status();
    for name in ["UPPER", "MiXed", "\u{c4}\u{d6}\u{dc}"] {
        write(folded.join(name), name).unwrap();
    }
    let huge = at.join("huge");
    create_dir(&huge).unwrap();
    write(huge.join("first"), "one inode of many names").unwrap();
    for index in 0..names {
        // No more names for one inode than ext2 can count.
        let first = huge.join(if index < 30_000 { "first" } else { "entry 0 of a huge directory" });
        hard_link(first, huge.join(format!("entry {index} of a huge directory"))).unwrap();
    }
    let wide = at.join("many directories");
    create_dir(&wide).unwrap();
    for index in 0..200 {
        create_dir(wide.join(format!("{index}"))).unwrap();
    }
}

fn giants(at: &Path) {
    create_dir(at).unwrap();
    for (name, offsets) in GIANTS {
        let path = at.join(name);
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(&path).unwrap();
        let written = offsets.iter().try_for_each(|&offset| file.write_all_at(&pattern(700, offset), offset));
        if let Err(error) = written {
            assert_eq!(error.kind(), std::io::ErrorKind::FileTooLarge, "{name}: {error}");
            std::fs::remove_file(path).unwrap();
        }
    }
}
