//! Drives in a process of their own.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use guestctl::block::{DenyAll, Gated, OpenGate, OpenOptions, Reference, SameDirectory, read_vec};
use guestctl::{DriveOptions, Guestfs};

use super::support::{have, shell};
use super::{GUESTCTL, make_disks};

#[test]
fn a_drive_reads_the_same_through_a_worker() {
    if !(have("qemu-img") && have("mke2fs")) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    shell(
        directory.path(),
        "mkdir tree; echo hello >tree/greeting; mke2fs -q -t ext4 -d tree fs.raw 16M
         qemu-img convert -q -O qcow2 fs.raw fs.qcow2",
    );
    let g = Guestfs::new().unwrap();
    let options = DriveOptions { out_of_process: true, worker: Some(GUESTCTL.into()), ..DriveOptions::default() };
    g.add_drive_with(directory.path().join("fs.qcow2"), options).unwrap();
    g.launch().unwrap();
    g.mount_ro("/dev/sda", "/").unwrap();
    assert_eq!(g.cat("/greeting").unwrap(), "hello\n");
    let cat = |isolate: bool| {
        let mut command = Command::new(GUESTCTL);
        command.args(["cat", "fs.qcow2", "/greeting"]).current_dir(directory.path());
        command.args(isolate.then_some("--isolate")).output().unwrap()
    };
    assert_eq!(cat(true).stdout, b"hello\n");
    assert_eq!(cat(true).stdout, cat(false).stdout);
}

#[test]
fn errors_come_back_as_they_are() {
    if !have("qemu-img") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    make_disks(directory);
    shell(
        directory,
        "qemu-img create -q -f qcow2 -b disk.qcow2 -F qcow2 top.qcow2
         cp disk.qcow2 broken.qcow2; printf '\\377' | dd of=broken.qcow2 bs=1 seek=23 conv=notrunc status=none",
    );
    for name in ["missing", "top.qcow2", "broken.qcow2", "disk.raw#one"] {
        let path = directory.join(name);
        let options = OpenOptions::default();
        let here = guestctl::block::open(&path, &options).unwrap_err();
        let there = guestctl::worker::open(&path, &options, Some(GUESTCTL.as_ref())).unwrap_err();
        assert_eq!(there.to_string(), here.to_string());
        assert_eq!((there.exit_code(), there.hint(), there.place()), (here.exit_code(), here.hint(), here.place()));
        assert_eq!(there.as_corrupt(), here.as_corrupt());
    }
    let options = OpenOptions { gate: Arc::new(SameDirectory), ..OpenOptions::default() };
    let image = guestctl::worker::open(&directory.join("top.qcow2"), &options, Some(GUESTCTL.as_ref())).unwrap();
    assert_eq!(read_vec(&*image.device, 0, 8 << 20).unwrap(), std::fs::read(directory.join("dense.raw")).unwrap());
    assert_eq!(image.info.backing_filename.as_deref(), Some("disk.qcow2"));
}

#[test]
fn without_a_worker_nothing_is_started() {
    let options = OpenOptions { gate: Arc::new(DenyAll), ..OpenOptions::default() };
    let path = PathBuf::from(GUESTCTL);
    let error = guestctl::worker::open(&path, &options, None).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(error.hint().unwrap().contains("run_if_asked"));

    #[derive(Debug)]
    struct Own;
    impl OpenGate for Own {
        fn open(&self, image: &std::path::Path, reference: &Reference) -> guestctl::Result<Gated> {
            DenyAll.open(image, reference)
        }
    }
    let options = OpenOptions { gate: Arc::new(Own), ..OpenOptions::default() };
    assert_eq!(guestctl::worker::open(&path, &options, Some(GUESTCTL.as_ref())).unwrap_err().exit_code(), 2);
}

#[test]
fn a_worker_that_dies_is_told_of_and_reaped() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk.raw");
    std::fs::write(&path, vec![1; 1 << 20]).unwrap();
    for program in ["/bin/true", "/bin/false"] {
        let error = guestctl::worker::open(&path, &OpenOptions::default(), Some(program.as_ref())).unwrap_err();
        assert!(error.to_string().contains("it has ended with code"), "{error}");
    }
    let image = guestctl::worker::open(&path, &OpenOptions::default(), Some(GUESTCTL.as_ref())).unwrap();
    assert_eq!(read_vec(&*image.device, 0, 10).unwrap(), [1; 10]);
    let mine = |directory: &std::path::Path| {
        let found = shell(directory, &format!("pgrep -P {} -f '^guestctl-worker ' || true", std::process::id()));
        String::from_utf8(found.stdout).unwrap()
    };
    // Other tests of this program have workers too: this one is known by its file.
    let workers = mine(directory.path());
    let ours = workers.lines().find(|pid| {
        let files = std::fs::read_dir(format!("/proc/{pid}/fd"));
        files.into_iter().flatten().flatten().any(|file| std::fs::read_link(file.path()).is_ok_and(|to| to == path))
    });
    let pid = ours.unwrap().to_owned();
    shell(directory.path(), &format!("kill -KILL {pid}"));
    let error = read_vec(&*image.device, 4096, 10).unwrap_err();
    assert!(error.to_string().contains("signal 9"), "{error}");
    drop(image);
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "no zombie is left");
}

#[test]
fn whole_disks_are_converted_and_compared_through_workers() {
    if !have("qemu-img") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    make_disks(directory);
    shell(
        directory,
        &format!(
            "{GUESTCTL} convert -q --isolate packed.qcow2 there.raw
             cmp there.raw dense.raw
             {GUESTCTL} convert -q -O qcow2 packed.qcow2 here.qcow2
             {GUESTCTL} convert -q --isolate -O qcow2 packed.qcow2 there.qcow2
             cmp here.qcow2 there.qcow2
             {GUESTCTL} compare --isolate packed.qcow2 disk.qcow2 | grep -qx 'Images are identical.'
             printf x | dd of=there.raw bs=1 seek=1500000 conv=notrunc status=none
             r=0; {GUESTCTL} compare -q --isolate there.raw packed.qcow2 || r=$?; [ $r = 1 ]"
        ),
    );
}

/// The parent sees no tables, so the child must hold them against the file.
#[test]
fn a_small_file_of_terabytes_is_refused_by_the_worker() {
    let directory = tempfile::tempdir().unwrap();
    // Two L1 entries, one L2 table.
    let mut bytes = vec![0u8; 4 << 16];
    bytes[..4].copy_from_slice(b"QFI\xfb");
    let mut put = |at: usize, value: u64| bytes[at..at + 8].copy_from_slice(&value.to_be_bytes());
    put(0, 0x5146_49fb_0000_0003);
    put(16, 16);
    put(24, 1 << 30);
    put(32, 2);
    put(40, 1 << 16);
    put(48, 3 << 16);
    put(56, 1 << 32);
    put(96, 4 << 32 | 104);
    put(1 << 16, 2 << 16);
    put((1 << 16) + 8, 2 << 16);
    let path = directory.path().join("image");
    std::fs::write(&path, bytes).unwrap();
    let options = OpenOptions::default();
    let worker = Some(GUESTCTL.as_ref());
    let whole = guestctl::worker::open_whole(&path, &options, worker).unwrap_err();
    let corrupt = whole.as_corrupt().unwrap();
    assert_eq!((corrupt.field, corrupt.offset), ("L1 table entry", (1 << 16) + 8));
    // Who reads a few files of it is served.
    assert_eq!(read_vec(&*guestctl::worker::open(&path, &options, worker).unwrap().device, 9, 3).unwrap(), [0; 3]);
}
