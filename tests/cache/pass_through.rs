//! An image's tree arrives, whatever is wrong with the cache.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::program::{Ran, program};
use super::support::{root, shell};
use super::trees::witness;

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/images/demo.qcow2");

/// Runs `guestctl` in `dir`, where the store is `m/store`.
fn run(dir: &Path, line: &str) -> Ran {
    let mut command = program();
    command.current_dir(dir).env("GUESTCTL_CACHE_DIR", dir.join("m/store")).args(line.split(' '));
    let output = command.output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    Ran { code: output.status.code().unwrap(), out: output.stdout, err }
}

/// Restores the demo image to `target`: the report, and what was said.
fn restore(dir: &Path, options: &str, target: &str) -> (Value, String) {
    let ran = run(dir, &format!("cache restore --json -q {options}{DEMO} {target}"));
    assert_eq!(ran.code, 0, "{}", ran.err);
    (serde_json::from_slice(&ran.out).unwrap(), ran.err)
}

/// One warning that names the store and what is wrong with it.
#[track_caller]
fn warned(dir: &Path, said: &str, why: &str) {
    let begin = format!("guestctl: warning: going on without the cache {}: ", dir.join("m/store").display());
    assert!(said.starts_with(&begin) && said.contains(why) && said.lines().count() == 1, "{said}");
}

#[test]
fn without_a_cache_the_tree_is_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    shell(dir, "mkdir m; echo /home/demo/.ssh > .guestctlignore");
    let (report, said) = restore(dir, "--no-cache ", "straight");
    assert_eq!((report["cached"].as_bool(), said.as_str()), (Some(false), ""));
    assert!(!dir.join("m/store").exists(), "the cache was left alone");
    let (cached, said) = restore(dir, "", "cached");
    assert_eq!((cached["cached"].as_bool(), said.as_str()), (Some(true), ""));
    assert_eq!(witness(&dir.join("straight"), true), witness(&dir.join("cached"), true));
    assert!(!dir.join("straight/home/demo/.ssh").exists() && dir.join("straight/home/demo/notes.txt").exists());
    for name in ["directories", "files", "symlinks", "links", "nodes", "nodes_left_out", "file_bytes"] {
        assert_eq!(report[name], cached[name], "{name}");
    }
    let (part, _) = restore(dir, "--no-cache --below /etc/ssh --preserve none ", "part");
    assert_eq!(part["cached"], false);
    shell(dir, "diff -r part cached/etc/ssh");
    // What only the cache can do is refused, and what is no image is a mistake.
    for option in ["--update", "--read-only", "--strategy hardlink", "--rewrite a=b --rewrite-in /etc"] {
        let ran = run(dir, &format!("cache restore --no-cache {option} {DEMO} other"));
        assert_eq!((ran.code, ran.err.contains(" without a cache is not supported")), (7, true), "{}", ran.err);
    }
    run(dir, "cache restore --no-cache demo.qcow2 other")
        .fails(2, "guestctl: error: demo.qcow2 is no image, and --no-cache leaves the cache alone\n");
    assert_eq!(run(dir, &format!("cache restore --no-cache --below /etc/hostname {DEMO} other")).code, 9);
    assert!(!dir.join("other").exists());
}

#[test]
fn a_store_that_cannot_be_opened_or_made_costs_a_warning() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    shell(dir, "mkdir -p m/store; echo '{' > m/store/VERSION.json");
    let (report, said) = restore(dir, "", "damaged");
    warned(dir, &said, "corrupt cache: VERSION.json");
    assert_eq!(report["cached"], false);
    shell(dir, "rm -r m; touch m");
    let (report, said) = restore(dir, "", "not-made");
    warned(dir, &said, "Not a directory");
    assert_eq!(report["cached"], false);
    shell(dir, "rm m; mkdir m");
    let (report, said) = restore(dir, "", "cached");
    assert_eq!((report["cached"].as_bool(), said.as_str()), (Some(true), ""));
    for name in ["damaged", "not-made"] {
        assert_eq!(witness(&dir.join(name), true), witness(&dir.join("cached"), true), "{name}");
    }
    // A target that is there is nobody's fault but the user's, and nothing is tried twice.
    let ran = run(dir, &format!("cache restore -q {DEMO} cached"));
    assert!(ran.code != 0 && !ran.err.contains("warning"), "{}", ran.err);
    if !rustix::process::geteuid().is_root() {
        // Nobody but root can write there.
        shell(dir, "chmod -R a-w m/store/staging m/store/leases m/store/refs");
        let (report, said) = restore(dir, "", "known");
        assert_eq!((report["cached"].as_bool(), said.as_str()), (Some(true), ""));
        shell(dir, "chmod -R u+w m");
    }
}

struct Tmpfs<'a>(&'a Path);

impl Drop for Tmpfs<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0).status();
    }
}

#[test]
fn a_full_or_read_only_store_costs_a_warning() {
    if !root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    shell(dir, "mkdir m; mount -t tmpfs -o size=8m none m");
    let mount = dir.join("m");
    let _mounted = Tmpfs(&mount);
    run(dir, "cache init --json").json();
    // A few blocks are left: enough to begin, too few to end.
    shell(dir, "cat /dev/zero > m/fill 2> /dev/null || true; truncate -s -16K m/fill");
    let (report, said) = restore(dir, "", "full");
    warned(dir, &said, "No space left on device");
    assert_eq!(report["cached"], false);
    for left in ["staging", "leases"] {
        assert_eq!(std::fs::read_dir(mount.join("store").join(left)).unwrap().count(), 0, "{left}");
    }
    shell(dir, "mount -o remount,ro m");
    let (report, said) = restore(dir, "", "read-only");
    warned(dir, &said, "ead-only file");
    assert_eq!(report["cached"], false);
    shell(dir, "mount -o remount,rw m; rm m/fill");
    let (report, said) = restore(dir, "", "cached");
    assert_eq!((report["cached"].as_bool(), said.as_str()), (Some(true), ""));
    for name in ["full", "read-only"] {
        assert_eq!(witness(&dir.join(name), true), witness(&dir.join("cached"), true), "{name}");
    }
    // What is known comes out of a store that can only be read.
    shell(dir, "mount -o remount,ro m");
    let (report, said) = restore(dir, "", "known");
    assert_eq!((report["cached"].as_bool(), said.as_str()), (Some(true), ""));
    shell(dir, "mount -o remount,rw m");
}
