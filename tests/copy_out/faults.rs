//! Whatever ends a copy, nothing half-made has the final name; what cannot be read costs itself and nothing else.

use std::fs::read_dir;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use guestctl::block::{BlockDevice, Extent, ExtentKind};
use guestctl::fs::GuestPath;
use guestctl::ops::{self, CopyOutOptions, Filter, Manifest};
use guestctl::progress::Silent;
use guestctl::{Error, Result};

use super::program::program;
use super::support::{have, root, shell};
use super::tree_fs::TreeFs;

const FILES: usize = 2_000;

/// A guest of many small files in `at/guest.raw`.
fn guest(at: &Path) {
    let script = format!(
        "mkdir t; for d in $(seq 20); do mkdir t/$d; for f in $(seq {}); do echo $d $f >t/$d/$f; done; done
         head -c 30000000 /dev/zero | tr '\\0' x >t/large
         mke2fs -q -t ext4 -N 4096 -d t guest.raw 64M; rm -r t",
        FILES / 20
    );
    shell(at, &script);
}

fn copy(at: &Path, to: &str) -> Command {
    let mut command = program();
    command.args(["copy-out", "-q", "-m", "/dev/sda", "guest.raw", "/", to]).current_dir(at);
    command
}

fn count(directory: &Path) -> usize {
    let inside = |entry: std::fs::DirEntry| if entry.path().is_dir() { count(&entry.path()) } else { 1 };
    read_dir(directory).unwrap().map(|entry| inside(entry.unwrap())).sum()
}

#[test]
fn a_kill_at_any_point_leaves_nothing_or_all() {
    if !have("mke2fs") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    guest(at);
    let (mut killed, mut finished) = (0, 0);
    for round in 0..40u64 {
        let mut child = copy(at, "out").stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_micros(round * 4_000));
        let _ = child.kill();
        child.wait().unwrap();
        if at.join("out").exists() {
            assert_eq!(count(&at.join("out")), FILES + 1);
            assert!(at.join("out.guestctl-manifest.jsonl").exists());
            std::fs::remove_dir_all(at.join("out")).unwrap();
            finished += 1;
        } else {
            killed += 1;
        }
    }
    assert!(killed > 0, "no kill came in time; {finished} finished");
    // The next one clears away what the killed ones left.
    assert!(copy(at, "out").status().unwrap().success());
    let mut names: Vec<_> = read_dir(at).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["guest.raw", "out", "out.guestctl-manifest.jsonl"]);
}

#[test]
fn an_interrupt_cleans_up_and_ends_with_130() {
    if !have("mke2fs") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    guest(at);
    let mut interrupted = 0;
    for round in 1..40u64 {
        let mut child = copy(at, "out").stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(5 * round));
        let _ = Command::new("kill").args(["-INT", &child.id().to_string()]).stderr(Stdio::null()).status();
        match child.wait().unwrap().code() {
            Some(130) => {
                assert_eq!(read_dir(at).unwrap().count(), 1, "only the image is there");
                interrupted += 1;
            }
            None | Some(0) => drop(shell(at, "rm -rf out out.guestctl-manifest.jsonl .out*")),
            other => panic!("{other:?}"),
        }
        if interrupted > 2 {
            return;
        }
    }
    assert!(interrupted > 0);
}

#[test]
fn a_full_filesystem_leaves_nothing() {
    if !root() || !have("mke2fs") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    guest(at);
    shell(at, "mkdir bytes inodes; mount -t tmpfs -o size=8M none bytes; mount -t tmpfs -o nr_inodes=500 none inodes");
    let ran = ["bytes", "inodes"].map(|small| {
        let output = copy(at, &format!("{small}/out")).output().unwrap();
        (output.status.code(), read_dir(at.join(small)).unwrap().count(), output.stderr)
    });
    shell(at, "umount bytes inodes");
    for (code, left, complaint) in ran {
        assert_eq!((code, left), (Some(4), 0), "{}", String::from_utf8_lossy(&complaint));
    }
}

#[test]
fn what_exists_is_not_touched_unless_that_is_asked_for() {
    if !have("mke2fs") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    shell(
        at,
        "mkdir -p t/d; echo new >t/f; echo new >t/d/g; echo new >t/l; mke2fs -q -t ext4 -d t guest.raw 8M; rm -r t",
    );
    shell(at, "mkdir -p into/d; echo old >into/f; echo kept >into/d/other; chmod 711 into/d; echo outside >outside");
    symlink("../outside", at.join("into/l")).unwrap();
    let text = |path: &str| std::fs::read_to_string(at.join(path)).unwrap();
    let output = copy(at, "into/f").output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    let output = copy(at, "into").output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
    let output = copy(at, "into").arg("--into").output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(
        (text("into/f"), text("into/d/g"), text("outside")),
        ("old\n".into(), "new\n".into(), "outside\n".into())
    );
    use std::os::unix::fs::MetadataExt;
    assert_eq!(at.join("into/d").metadata().unwrap().mode() & 0o777, 0o711);
    std::fs::remove_file(at.join("into/d/g")).unwrap();
    let output = copy(at, "into").args(["--into", "--overwrite"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!((text("into/f"), text("into/l"), text("outside")), ("new\n".into(), "new\n".into(), "outside\n".into()));
    assert_eq!(text("into/d/other"), "kept\n");
    assert!(!at.join("into/l").is_symlink() && at.join("into.guestctl-manifest.jsonl").exists());
}

#[test]
fn files_and_single_directories_get_their_own_names_in_a_directory() {
    if !have("mke2fs") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    shell(at, "mkdir -p t/d; echo f >t/f; echo g >t/d/g; mke2fs -q -t ext4 -d t guest.raw 8M; rm -r t; mkdir here");
    let mut command = program();
    command.args(["copy-out", "-q", "-m", "/dev/sda", "guest.raw", "/f", "/d", "here"]).current_dir(at);
    assert!(command.status().unwrap().success());
    shell(at, "cat here/f here/d/g | cmp - <<.\nf\ng\n.\ntest $(ls -A here | wc -l) = 4");
    let mut command = program();
    command.args(["copy-out", "-q", "--no-manifest", "-m", "/dev/sda", "guest.raw", "/f", "named"]).current_dir(at);
    assert!(command.status().unwrap().success());
    shell(at, "test -f named; test $(ls -A | wc -l) = 3");
    let g = guestctl::Guestfs::new().unwrap();
    g.add_drive_ro(at.join("guest.raw")).unwrap();
    g.launch().unwrap();
    g.mount_ro("/dev/sda", "/").unwrap();
    std::fs::create_dir(at.join("handle")).unwrap();
    g.copy_out("/d", at.join("handle")).unwrap();
    assert_eq!(std::fs::read(at.join("handle/d/g")).unwrap(), b"g\n");
    g.copy_out("/d", at.join("handle")).unwrap_err();
    g.copy_out("/", at.join("handle")).unwrap_err();
    g.copy_out("/", at.join("here/d")).unwrap();
    assert_eq!(std::fs::read(at.join("here/d/d/g")).unwrap(), b"g\n");
}

/// 3 MiB of which some in the middle cannot be read.
#[derive(Debug)]
struct Damaged;

impl BlockDevice for Damaged {
    fn size(&self) -> u64 {
        3 << 20
    }
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        if offset < 1_500_001 && offset + buf.len() as u64 > 1_500_000 {
            return Err(Error::io("read", "the image", std::io::Error::other("a bad sector")));
        }
        buf.fill(7);
        Ok(())
    }
    fn next_extent(&self, range: std::ops::Range<u64>) -> Result<Extent> {
        Ok(Extent { kind: ExtentKind::Data, len: range.end - range.start })
    }
}

#[test]
fn what_cannot_be_read_is_told_with_its_place_and_the_rest_is_there() {
    let directory = tempfile::tempdir().unwrap();
    let fs = TreeFs::new()
        .file("/a", "a")
        .broken("/b")
        .device("/c", Arc::new(Damaged))
        .unreadable("/d/e")
        .file("/d/f", "f")
        .file("/z", "z");
    let mounts = fs.mounts();
    let out = directory.path().join("out");
    let report = ops::copy_out(&mounts, &GuestPath::root(), &out, &CopyOutOptions::default(), &Silent).unwrap();
    let told: Vec<_> = report.problems.listed.iter().map(|problem| (&*problem.path, problem.range.clone())).collect();
    let place = 1_499_136..1_503_232;
    for expected in [("/b", None), ("/c", Some(place.clone())), ("/d/e", None)] {
        assert!(told.contains(&expected), "{told:?}");
    }
    assert_eq!(told.len(), 3);
    assert_eq!(report.problems.complete().unwrap_err().exit_code(), 3);
    let bytes = std::fs::read(out.join("c")).unwrap();
    assert_eq!(bytes.len(), 3 << 20);
    assert!(bytes.iter().enumerate().all(|(at, byte)| *byte == if place.contains(&(at as u64)) { 0 } else { 7 }));
    for name in ["a", "d/f", "z"] {
        assert_eq!(std::fs::read(out.join(name)).unwrap(), name.as_bytes()[name.len() - 1..]);
    }
    let manifest = std::fs::read_to_string(directory.path().join("out.guestctl-manifest.jsonl")).unwrap();
    assert!(manifest.contains(r#""unreadable":[{"offset":1499136,"bytes":4096}]"#), "{manifest}");
    assert!(manifest.ends_with("\"problems\":3}\n"), "{manifest}");
}

#[test]
fn only_what_the_filter_takes_is_copied_with_the_directories_that_lead_there() {
    let directory = tempfile::tempdir().unwrap();
    let fs = TreeFs::new().file("/etc/ssh/a", "").file("/etc/ssh/b.log", "").file("/etc/x", "").file("/var/y", "");
    let mounts = fs.mounts();
    let mut options = CopyOutOptions::default();
    options.filter = Filter::new(["*.log"], ["/etc/ssh"]).unwrap();
    options.manifest = Manifest::None;
    let out = directory.path().join("out");
    let report = ops::copy_out(&mounts, &GuestPath::root(), &out, &options, &Silent).unwrap();
    assert_eq!((report.entries.files, report.entries.directories), (1, 3));
    assert_eq!(count(&out), 1);
    assert!(out.join("etc/ssh/a").is_file());
    assert_eq!(read_dir(directory.path()).unwrap().count(), 1);
}
