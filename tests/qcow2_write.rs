//! qcow2 images changed in place, judged by QEMU's tools.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test program, and it says what it skips")]

mod support;

use std::path::Path;
use std::sync::Arc;

use guestctl::block::{self, BlockWrite, ExtentKind, ImageFormat, OpenOptions, SameDirectory, for_each_extent};
use support::{have, shell};

fn tools() -> bool {
    have("qemu-img") && have("qemu-io")
}

fn options() -> OpenOptions {
    OpenOptions { format: Some(ImageFormat::Qcow2), gate: Arc::new(SameDirectory), ..OpenOptions::default() }
}

fn writable(path: &Path) -> Arc<dyn BlockWrite> {
    block::open_writable(path, &options()).unwrap_or_else(|error| panic!("{error}"))
}

/// Numbers that repeat.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end
    }
}

const SIZE: usize = (3 << 20) + 5 * 512;

/// A directory where `raw` lies, partly text, partly zeroes and noise, and `script` has run.
fn built(script: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let mut raw = vec![0u8; SIZE];
    let mut random = Random(1);
    for (index, byte) in raw.iter_mut().enumerate() {
        *byte = match index >> 16 {
            5..20 => 0,
            30..34 => random.below(256) as u8,
            _ => b'a' + (index / 13 % 23) as u8,
        };
    }
    std::fs::write(directory.path().join("raw"), raw).unwrap();
    let functions = "img() { qemu-img \"$@\" >/dev/null; }\n\
        io() { file=$1; shift; for c in \"$@\"; do qemu-io -f qcow2 -c \"$c\" \"$file\" >/dev/null; done; }\n";
    shell(directory.path(), &format!("{functions}{script}"));
    directory
}

/// Random changes of `disk` and of `model` alike.
fn change(disk: &dyn BlockWrite, model: &mut [u8], random: &mut Random, rounds: usize) {
    for round in 0..rounds {
        let at = random.below(model.len());
        let most = [600, 5_000, 70_000, 400_000][random.below(4)];
        let mut at = at;
        let mut len = random.below(most.min(model.len() - at)).max(1);
        if random.below(3) == 0 {
            // Aligned, as guests do it.
            at &= !4095;
            len = len.next_multiple_of(4096).min(model.len() - at);
        }
        match random.below(10) {
            0..6 => {
                let bytes: Vec<u8> = (0..len).map(|n| (n / 3 + round) as u8 | 1).collect();
                disk.write_all_at(&bytes, at as u64).unwrap();
                model[at..at + len].copy_from_slice(&bytes);
            }
            6..8 => {
                disk.write_zeroes(at as u64..(at + len) as u64).unwrap();
                model[at..at + len].fill(0);
            }
            8 => {
                disk.discard(at as u64..(at + len) as u64).unwrap();
                // As before or zero.
                let now = block::read_vec(disk, at as u64, len).unwrap();
                for (now, before) in now.iter().zip(&mut model[at..at + len]) {
                    assert!(*now == 0 || now == before, "a discard made {now} out of {before}");
                    *before = *now;
                }
            }
            _ if random.below(4) == 0 => disk.flush().unwrap(),
            _ => {
                let bytes = block::read_vec(disk, at as u64, len).unwrap();
                assert!(bytes == model[at..at + len], "bytes {at}..{}", at + len);
            }
        }
    }
}

/// Makes `disk` by `script`, changes it at random in several sessions, and lets QEMU judge what it has become. `after`
/// runs at the end.
fn changes(script: &str, after: &str) {
    let directory = built(script);
    let path = directory.path();
    shell(path, "qemu-img convert -f qcow2 -O raw disk model");
    let mut model = std::fs::read(path.join("model")).unwrap();
    let mut random = Random(script.len() as u64);
    for _ in 0..3 {
        let disk = writable(&path.join("disk"));
        change(&*disk, &mut model, &mut random, 300);
        assert!(block::read_vec(&*disk, 0, model.len()).unwrap() == model, "{script}: read back");
        for_each_extent(&*disk, 0..disk.size(), &mut |run, kind| {
            let bytes = &model[run.start as usize..run.end as usize];
            assert!(kind == ExtentKind::Data || bytes.iter().all(|&byte| byte == 0), "{script}: {run:?}");
            Ok(())
        })
        .unwrap();
        disk.flush().unwrap();
        drop(disk);
        std::fs::write(path.join("model"), &model).unwrap();
        shell(path, "qemu-img compare -f qcow2 -F raw disk model >/dev/null");
        shell(path, "qemu-img check -f qcow2 disk >checked 2>&1 || { cat checked >&2; exit 1; }");
    }
    // And QEMU writes on where we ended.
    shell(path, "qemu-io -f qcow2 -c 'write -P 77 100k 300k' disk >/dev/null; qemu-img check -f qcow2 disk >/dev/null");
    shell(path, after);
}

#[test]
fn versions_and_cluster_sizes() {
    if !tools() {
        return;
    }
    for options in [
        "compat=0.10",
        "compat=0.10,cluster_size=512",
        "compat=1.1",
        "cluster_size=512",
        "cluster_size=512,refcount_bits=1",
        "cluster_size=4k,refcount_bits=2",
        "cluster_size=4k,refcount_bits=8",
        "cluster_size=2M,refcount_bits=64",
        "cluster_size=512,refcount_bits=64",
        "lazy_refcounts=on",
        "preallocation=metadata",
        "preallocation=falloc",
    ] {
        changes(&format!("img create -f qcow2 -o {options} disk 3075k"), "true");
    }
}

#[test]
fn compressed_clusters() {
    if !tools() {
        return;
    }
    for options in ["compat=0.10", "cluster_size=512", "cluster_size=64k", "cluster_size=2M", "extended_l2=on"] {
        changes(&format!("img convert -c -f raw -O qcow2 -o {options} raw disk"), "true");
    }
    for size in ["4k", "64k"] {
        changes(
            &format!("img convert -c -f raw -O qcow2 -o compression_type=zstd,cluster_size={size} raw disk"),
            "true",
        );
    }
}

#[test]
fn extended_l2_entries() {
    if !tools() {
        return;
    }
    let subclusters = "'write -P 1 0 2k' 'write -P 2 6k 4k' 'write -z 8k 16k' 'write -P 3 126k 3k'";
    for size in ["16k", "64k", "2M"] {
        let options = format!("extended_l2=on,cluster_size={size}");
        changes(&format!("img create -f qcow2 -o {options} disk 3M; io disk {subclusters}"), "true");
        changes(&format!("img create -f qcow2 -o {options} -b raw -F raw disk; io disk {subclusters}"), "true");
    }
}

#[test]
fn backing_files() {
    if !tools() {
        return;
    }
    for options in ["compat=0.10", "cluster_size=512", "cluster_size=64k", "cluster_size=2M"] {
        for size in ["", "5M", "1M"] {
            changes(
                &format!("cp raw kept; img create -f qcow2 -o {options} -b raw -F raw disk {size}"),
                "cmp raw kept",
            );
        }
    }
    changes(
        "img convert -c -f raw -O qcow2 -o cluster_size=4k raw bottom; cp bottom kept
        img create -f qcow2 -o cluster_size=64k -b bottom -F qcow2 disk 4M",
        "cmp bottom kept",
    );
}

#[test]
fn internal_snapshots_keep_what_they_hold() {
    if !tools() {
        return;
    }
    for options in ["compat=0.10", "cluster_size=512", "cluster_size=4k,refcount_bits=2", "extended_l2=on"] {
        changes(
            &format!(
                "img create -f qcow2 -o {options} disk 3M; io disk 'write -P 1 0 1M' 'write -P 2 2M 100k'
                img snapshot -c first disk; qemu-img convert -l first -O raw disk first
                io disk 'write -P 3 500k 1M' 'write -z 2M 64k'
                img snapshot -c second disk; qemu-img convert -l second -O raw disk second"
            ),
            "for name in first second; do qemu-img convert -l $name -O raw disk now; cmp now $name; done
            for name in first second; do qemu-img snapshot -d $name disk; qemu-img check disk >/dev/null; done",
        );
    }
    changes(
        "img convert -c -f raw -O qcow2 raw disk; img snapshot -c first disk",
        "qemu-img convert -l first -O raw disk now; cmp now raw; qemu-img snapshot -d first disk; qemu-img check disk",
    );
}

#[test]
fn external_data_files() {
    if !tools() {
        return;
    }
    changes("img create -f qcow2 -o data_file=data disk 3075k", "true");
    changes("img create -f qcow2 -o data_file=data,extended_l2=on -b raw -F raw disk", "true");
    changes(
        "img create -f qcow2 -o data_file=data,data_file_raw=on disk 3075k",
        "qemu-img compare -f qcow2 -F raw disk data",
    );
}
