//! Seeded random damage against the readers, in this process: a panic, a broken promise or an endless run fails. The
//! fuzz targets (`tests/fuzz`) do the same without an end; this is what every `cargo test` can afford.
//!
//! Checksums are switched off in what is damaged, so that damage is not caught at the door; `tests/hostile` repairs them
//! instead.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "a test says how much it did")]

#[path = "support/look.rs"]
mod look;
#[path = "support/repair.rs"]
mod repair;
mod support;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use guestctl::block::{BlockDevice, ImageFormat, Memory, open_device, read_vec};
use guestctl::volume::{lvm, scan};
use look::{look_at_bytes, look_at_files};
use support::{have, shell};

/// Damaged images of each kind.
const ROUNDS: usize = 1_500;
const SEED: u64 = 0x5eed_0f5e_ed0f_5eed;
/// What one image may take; generous, for builds without optimization on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// A generator of numbers that are random enough (xorshift64*).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % bound as u64) as usize
    }

    /// Changes up to eight places of `bytes`, most of them where something is.
    fn damage(&mut self, bytes: &mut [u8], used: &[usize]) {
        for _ in 0..=self.below(8) {
            let at = if self.below(8) == 0 { self.below(bytes.len()) } else { used[self.below(used.len())] };
            let at = at.min(bytes.len() - 8);
            match self.below(6) {
                0 => bytes[at] = self.below(256) as u8,
                1 => bytes[at] ^= 1 << self.below(8),
                2 => bytes[at..at + 4].fill(0xff),
                3 => bytes[at..at + 4].fill(0),
                4 => bytes[at..at + 8].copy_from_slice(&(1u64 << self.below(64)).to_le_bytes()),
                _ => {
                    let from = used[self.below(used.len())].min(bytes.len() - 8);
                    bytes.copy_within(from..from + 4, at);
                }
            }
        }
    }
}

/// Damages what `script` leaves in the file `disk` again and again, and shows it to `look`.
fn mutate(name: &str, tools: &[&str], script: &str, look: impl Fn(Arc<dyn BlockDevice>)) {
    if !tools.iter().all(|tool| have(tool)) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    shell(dir.path(), script);
    let base = std::fs::read(dir.path().join("disk")).unwrap();
    let used: Vec<usize> = (0..base.len()).filter(|at| base[*at] != 0).collect();
    look(Arc::new(Memory::new(base.clone())));
    let mut random = Random(SEED);
    let mut slowest = Duration::ZERO;
    for round in 0..ROUNDS {
        let mut bytes = base.clone();
        random.damage(&mut bytes, &used);
        let started = Instant::now();
        look(Arc::new(Memory::new(bytes)));
        let took = started.elapsed();
        assert!(took < PATIENCE, "{name}: round {round} of seed {SEED:#x} took {took:?}");
        slowest = slowest.max(took);
    }
    println!("{name}: {ROUNDS} damaged images, the slowest took {slowest:?}");
}

const TREE: &str =
    "mkdir -p t/dir/below; for n in $(seq 40); do echo $n >t/dir/a-long-name-$n; done; ln -s dir/below t/link
    ln -s $(printf 'a/%.0s' $(seq 60)) t/slow; head -c 9000 /dev/urandom >t/dir/below/noise; truncate -s 100k t/holes
    for n in $(seq 2 9 90); do printf x | dd of=t/holes bs=1k seek=$n conv=notrunc status=none; done";

#[test]
fn ext4() {
    let script = format!("{TREE}; mke2fs -q -t ext4 -b 1024 -N 64 -O ^metadata_csum,^has_journal -d t disk 512k");
    mutate("ext4", &["mke2fs"], &script, look_at_files);
    let script = format!(
        "{TREE}; mke2fs -q -t ext4 -b 1024 -I 256 -N 64 -O ^metadata_csum,inline_data -d t disk 3M
        printf 'jo\\njw -b 1500-1510 /dev/zero\\njc\\n' | debugfs -w -f - disk >log 2>&1"
    );
    mutate("ext4 with a journal and inline data", &["mke2fs", "debugfs"], &script, look_at_files);
    let script = format!("{TREE}; mke2fs -q -t ext2 -b 1024 -N 64 -d t disk 512k");
    mutate("ext2", &["mke2fs"], &script, look_at_files);
}

#[test]
fn fat() {
    for (bits, size) in [(12, "512K"), (16, "5M")] {
        let script = format!(
            "{TREE}; truncate -s {size} disk; mkfs.vfat -F {bits} -s 1 disk >/dev/null; export MTOOLS_SKIP_CHECK=1
             mmd -i disk ::/dir ::/dir/below; mcopy -i disk t/dir/a-* ::/dir; mcopy -i disk t/dir/below/noise ::/dir/below"
        );
        mutate(&format!("fat{bits}"), &["mkfs.vfat", "mcopy"], &script, look_at_files);
    }
}

#[test]
fn images() {
    let raw = "head -c 300000 /dev/urandom >raw; truncate -s 4M raw";
    for (name, format, options) in [
        ("qcow2", ImageFormat::Qcow2, "-O qcow2 -o cluster_size=4k"),
        ("qcow2 compressed", ImageFormat::Qcow2, "-c -O qcow2 -o cluster_size=4k"),
        ("vmdk", ImageFormat::Vmdk, "-O vmdk"),
        ("vmdk stream", ImageFormat::Vmdk, "-O vmdk -o subformat=streamOptimized"),
    ] {
        mutate(name, &["qemu-img"], &format!("{raw}; qemu-img convert -f raw {options} raw disk"), |file| {
            if let Ok(image) = open_device(file, Path::new("disk"), Some(format)) {
                look_at_bytes(&image.device);
            }
        });
    }
}

/// Little data, so that most damage meets structures; checksums are repaired.
#[test]
fn images_of_blocks() {
    let raw =
        "yes guest | head -c 1000 >raw; truncate -s 3M raw; printf x | dd of=raw bs=1M seek=2 conv=notrunc status=none";
    let as_it_is: fn(&mut [u8]) = |_| ();
    for (name, format, repair, options) in [
        ("vdi", ImageFormat::Vdi, as_it_is, "-O vdi"),
        ("vhd", ImageFormat::Vhd, repair::vhd, "-O vpc"),
        ("vhdx", ImageFormat::Vhdx, repair::vhdx, "-O vhdx -o block_size=1M,block_state_zero=off"),
    ] {
        mutate(name, &["qemu-img"], &format!("{raw}; qemu-img convert -f raw {options} raw disk"), |file| {
            let mut bytes = read_vec(&file, 0, file.size() as usize).unwrap();
            repair(&mut bytes);
            if let Ok(image) = open_device(Arc::new(Memory::new(bytes)), Path::new("disk"), Some(format)) {
                look_at_bytes(&image.device);
            }
        });
    }
}

#[test]
fn partitions() {
    let mbr = "truncate -s 1M disk; printf 'label: dos\nstart=64, size=100, type=83\nstart=200, size=1500, type=5\nstart=300, \
               size=100, type=83\nstart=500, size=100, type=83\n' | sfdisk -q disk";
    let gpt = "truncate -s 1M disk; sgdisk -a 1 -n 1:64:127 -n 2:128:255 -c 1:name disk >/dev/null";
    for (name, tool, script) in [("mbr", "sfdisk", mbr), ("gpt", "sgdisk", gpt)] {
        mutate(name, &[tool], script, |disk| {
            if let Ok(Some(table)) = scan(&disk) {
                for partition in &table.partitions {
                    assert_eq!(partition.device(&disk).unwrap().size(), partition.size);
                }
            }
            let _ = lvm::scan(&[("/dev/sda".to_owned(), disk)]);
        });
    }
}
