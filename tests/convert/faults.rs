//! Whatever ends a conversion, nothing half-written has the final name.

use std::process::Stdio;
use std::time::Duration;

use super::layout::sparse;
use super::{guestctl, run};
use crate::program::program;
use crate::support::{have, root, shell};

/// Kills conversions at many points; the name is then free, or holds a whole image.
#[test]
fn a_kill_at_any_point_leaves_nothing_or_all() {
    if !have("qemu-img") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    sparse(&at.join("source"), 21, 64 << 20, 300);
    let (mut killed, mut finished) = (0, 0);
    for round in 0..60u64 {
        let _ = std::fs::remove_file(at.join("out"));
        let compress = if round % 2 == 0 { "-c" } else { "-q" };
        let mut child = program()
            .args(["convert", "-f", "raw", "-O", "qcow2", compress, "source", "out"])
            .current_dir(at)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_micros(round * 3_000));
        let _ = child.kill();
        let ended = child.wait().unwrap();
        if at.join("out").exists() {
            let compared = shell(at, "qemu-img compare -f raw -F qcow2 source out; qemu-img check -q out");
            assert_eq!(compared.stdout, b"Images are identical.\n");
            finished += 1;
        } else {
            assert!(!ended.success());
            killed += 1;
        }
    }
    assert!(killed > 0, "no kill came in time; {finished} finished");
    // The next conversion clears away what the killed ones left.
    guestctl(at, "convert -f raw -O qcow2 source out");
    let mut names: Vec<_> = std::fs::read_dir(at).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["out", "source"]);
}

#[test]
fn an_interrupt_cleans_up_and_ends_with_130() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    sparse(&at.join("source"), 22, 256 << 20, 1500);
    let mut interrupted = 0;
    for round in 1..20u64 {
        let mut child = program()
            .args(["convert", "-O", "qcow2", "-c", "--compression-level", "9", "source", "out"])
            .current_dir(at)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(20 * round));
        let id = child.id().to_string();
        let _ = std::process::Command::new("kill").args(["-INT", &id]).stderr(Stdio::null()).status();
        let code = child.wait().unwrap().code();
        let names = std::fs::read_dir(at).unwrap().count();
        match code {
            Some(130) => {
                assert_eq!(names, 1, "only the source is there");
                interrupted += 1;
            }
            // Before it listened, or after it was done.
            None | Some(0) => {}
            other => panic!("{other:?}"),
        }
        for entry in std::fs::read_dir(at).unwrap().map(|entry| entry.unwrap()) {
            if entry.file_name() != "source" {
                std::fs::remove_file(entry.path()).unwrap();
            }
        }
        if interrupted > 2 {
            return;
        }
    }
    assert!(interrupted > 0);
}

#[test]
fn a_full_filesystem_leaves_nothing() {
    if !root() || !have("mkfs.ext4") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    sparse(&at.join("source"), 23, 64 << 20, 900);
    shell(at, "mkdir small; mount -t tmpfs -o size=2M none small");
    let ran = run(at, "convert -f raw -O raw source small/out");
    let names = std::fs::read_dir(at.join("small")).unwrap().count();
    shell(at, "umount small");
    assert_eq!((ran.status.code(), names), (Some(4), 0), "{}", String::from_utf8_lossy(&ran.stderr));
}

#[test]
fn a_source_that_cannot_be_read_leaves_an_old_file_alone() {
    if !have("qemu-img") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    sparse(&at.join("source"), 24, 8 << 20, 50);
    // The last compressed cluster is damaged.
    shell(at, "qemu-img convert -c -O qcow2 source damaged; printf old >out");
    let len = std::fs::metadata(at.join("damaged")).unwrap().len();
    let file = std::fs::File::options().write(true).open(at.join("damaged")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[0xff; 40_000], (len - 40_000) / 512 * 512).unwrap();
    let ran = run(at, "convert -O raw damaged out");
    assert_eq!(ran.status.code(), Some(8), "{}", String::from_utf8_lossy(&ran.stderr));
    assert_eq!(std::fs::read(at.join("out")).unwrap(), b"old");
    assert_eq!(std::fs::read_dir(at).unwrap().count(), 3);
}
