//! Whatever ends an archive before its time, nothing half-written has its name.

use std::io::Read;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use guestctl::Guestfs;
use guestctl::ops::TarOptions;
use guestctl::progress::Progress;

use super::corners::pattern;
use super::program::program;
use super::support::{have, root, shell};

/// An image with 120 MiB in it; `None` without the tool that makes it.
fn image(at: &Path) -> Option<()> {
    if !have("mke2fs") {
        return None;
    }
    std::fs::create_dir(at.join("tree")).unwrap();
    for index in 0..40 {
        std::fs::write(at.join(format!("tree/file {index}")), pattern(3 << 20, index)).unwrap();
    }
    shell(at, "mke2fs -q -F -t ext4 -d tree fs.raw 200M; rm -r tree; mkdir out");
    Some(())
}

fn start(at: &Path, archive: &str) -> Child {
    program()
        .args(["tar-out", "-q", "-m", "/dev/sda", "--compress", "gzip", "fs.raw", "/", archive])
        .current_dir(at)
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn names(at: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(at.join("out")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Waits until bytes have been written to the temporary file, or the child has ended.
fn begun(at: &Path, child: &mut Child) -> bool {
    let patience = Instant::now();
    while patience.elapsed() < Duration::from_secs(60) {
        let entries = std::fs::read_dir(at.join("out")).unwrap();
        if entries.filter_map(|entry| entry.ok()?.metadata().ok()).any(|metadata| metadata.len() > 0) {
            return true;
        }
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    false
}

#[test]
fn a_kill_at_any_point_leaves_no_name_and_the_next_run_clears_away() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    if image(at).is_none() {
        return;
    }
    let mut killed = 0;
    for round in 0..12u64 {
        let mut child = start(at, "out/archive");
        if round > 2 {
            begun(at, &mut child);
        }
        std::thread::sleep(Duration::from_millis(round * 20));
        let _ = child.kill();
        if !child.wait().unwrap().success() {
            assert!(!at.join("out/archive").exists());
            killed += 1;
        } else {
            std::fs::remove_file(at.join("out/archive")).unwrap();
        }
    }
    assert!(killed > 3, "{killed}");
    assert!(start(at, "out/archive").wait().unwrap().success());
    assert_eq!(names(at), ["archive"]);
    shell(at, "gzip -t <out/archive");
}

#[test]
fn an_interrupt_ends_with_130_and_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    if image(at).is_none() {
        return;
    }
    let mut interrupted = 0;
    for round in 0..8u64 {
        let mut child = start(at, "out/archive");
        if begun(at, &mut child) {
            std::thread::sleep(Duration::from_millis(round * 15));
            shell(at, &format!("kill -INT {} 2>/dev/null || :", child.id()));
        }
        match child.wait().unwrap().code() {
            Some(130) => {
                assert_eq!(names(at), [""; 0]);
                interrupted += 1;
            }
            Some(0) => std::fs::remove_file(at.join("out/archive")).unwrap(),
            other => panic!("{other:?}"),
        }
    }
    assert!(interrupted > 0);
}

#[test]
fn a_full_filesystem_is_exit_code_4_and_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    if !root() || image(at).is_none() {
        return;
    }
    shell(at, "mkdir small; mount -t tmpfs -o size=3M none small");
    let ran =
        program().args(["tar-out", "-q", "-m", "/dev/sda", "fs.raw", "/", "small/archive"]).current_dir(at).output();
    let left = std::fs::read_dir(at.join("small")).unwrap().count();
    shell(at, "umount small");
    let ran = ran.unwrap();
    let err = String::from_utf8_lossy(&ran.stderr);
    assert_eq!((ran.status.code(), left), (Some(4), 0), "{err}");
    assert!(err.contains("No space left"), "{err}");
}

#[test]
fn a_reader_that_leaves_is_no_failure() {
    for arguments in
        [&["tar-out", "-q", "-m", "/dev/sda2"][..], &["tar-out", "-q", "--compress", "zstd"], &["checksum", "-q"]]
    {
        let mut child = program()
            .args(arguments)
            .args([super::demo(), "/".into()])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut first = [0; 100];
        child.stdout.take().unwrap().read_exact(&mut first).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0), "{arguments:?}");
    }
}

/// Wants to stop once so many bytes are done.
#[derive(Debug, Default)]
struct Until(u64, AtomicU64);

impl Progress for Until {
    fn advance(&self, bytes: u64) {
        self.1.fetch_add(bytes, Ordering::Relaxed);
    }
    fn cancelled(&self) -> bool {
        self.1.load(Ordering::Relaxed) >= self.0
    }
}

#[test]
fn a_caller_that_wants_to_stop_is_heard() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    if image(at).is_none() {
        return;
    }
    let g = Guestfs::new().unwrap();
    g.add_drive_ro(at.join("fs.raw")).unwrap();
    g.launch().unwrap();
    g.mount_ro("/dev/sda", "/").unwrap();
    for bytes in [0, 1, 5 << 20, 60 << 20] {
        let archive = at.join("out/archive");
        let error =
            g.tar_out_with("/", &archive, &TarOptions::default(), &Until(bytes, AtomicU64::new(0))).unwrap_err();
        assert!(matches!(error.kind(), guestctl::ErrorKind::Cancelled), "{error}");
        assert_eq!(names(at), [""; 0]);
    }
    let until = Until(u64::MAX, AtomicU64::new(0));
    let report = g.tar_out_with("/", at.join("out/archive"), &TarOptions::default(), &until).unwrap();
    assert_eq!((report.tally.files, report.tally.bytes, until.1.into_inner()), (40, 120 << 20, 120 << 20));
    assert_eq!(report.archive_bytes, std::fs::metadata(at.join("out/archive")).unwrap().len());
}
