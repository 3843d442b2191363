//! How time and memory grow with the number of things: `cargo test --release --test archives -- --ignored --nocapture scaling`
//! as root prints a row for each; memory is held against its limit.
#![allow(clippy::print_stdout, reason = "the table of results")]

use std::fs::{File, create_dir, hard_link, write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::XattrFlags;

use super::mounted::{Mounted, can_mount};
use super::support::{have, shell};

const KINDS: [&str; 4] = ["names", "links", "extents", "xattrs"];
const COUNTS: [u64; 4] = [1_000, 10_000, 100_000, 1_000_000];

/// Names for one inode; ext4 counts to 65,000.
const NAMES: u64 = 60_000;

fn fill(top: &Path, kind: &str, count: u64) {
    let at = top.join("d");
    create_dir(&at).unwrap();
    let file = File::create(at.join("file")).unwrap();
    for index in 0..count {
        let path = at.join(format!("entry {index}"));
        match kind {
            "names" => write(path, "").unwrap(),
            "links" => {
                let first = at.join(format!("first {}", index / NAMES));
                if index % NAMES == 0 {
                    write(&first, "").unwrap();
                }
                hard_link(first, path).unwrap();
            }
            "extents" => file.write_all_at(b"data", index * 2048).unwrap(),
            _ => {
                write(&path, "").unwrap();
                let value = format!("value {index}");
                rustix::fs::setxattr(&path, "user.n", value.as_bytes(), XattrFlags::empty()).unwrap();
            }
        }
    }
}

#[test]
#[ignore = "takes minutes and gigabytes"]
fn scaling() {
    if !can_mount() || !have("mke2fs") || !Path::new("/usr/bin/time").exists() {
        return;
    }
    for kind in KINDS {
        for count in COUNTS {
            let directory = tempfile::tempdir().unwrap();
            let at = directory.path();
            let inodes = if matches!(kind, "names" | "xattrs") { count + 1000 } else { 2000 };
            let size = 64 + count / 400;
            let options = "-t ext4 -b 1024 -O large_dir,^has_journal -I 256";
            shell(at, &format!("mke2fs -q -F {options} -N {inodes} fs.raw {size}M"));
            let mounted = Mounted::new(&at.join("fs.raw"), "noatime").unwrap();
            fill(&mounted.path(), kind, count);
            drop(mounted);
            for command in ["tar-out", "checksum"] {
                let output = Command::new("/usr/bin/time")
                    .args(["-f", "%U %S %M", "-o", "time", env!("CARGO_BIN_EXE_guestctl")])
                    .args([command, "-q", "-m", "/dev/sda", "fs.raw", "/"])
                    .current_dir(at)
                    .stdout(Stdio::null())
                    .status();
                assert!(output.unwrap().success());
                let text = std::fs::read_to_string(at.join("time")).unwrap();
                let numbers: Vec<f64> = text.split_whitespace().map(|number| number.parse().unwrap()).collect();
                let [user, system, memory] = numbers[..] else { panic!("{text}") };
                let each = (user + system) * 1e6 / count as f64;
                println!("{command:<9} {kind:<8} {count:>8} {each:>8.2} µs each {:>6.1} MiB", memory / 1024.0);
                assert!(memory <= 128.0 * 1024.0, "{command} {kind} {count}: {memory} KiB");
            }
        }
    }
}
