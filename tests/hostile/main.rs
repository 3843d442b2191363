//! Damaged and hostile images against the real program: no panic, no hang, no flood of memory.
//!
//! Each suite starts from a valid image that is built at test time, damages one relation and repairs the checksums above
//! it, so that the damage is not caught at the door. Every damaged image goes through several commands in processes of
//! their own. The bar for each: an exit code that is documented, an error message that says what is wrong (for a corrupt
//! image: format, field, byte, found and expected), JSON that parses, at most two seconds of processor time, at most
//! 64 MiB of memory (128 MiB for whole trees, 192 for two guests). `cargo test --test hostile -- --nocapture` prints one row per suite.
//!
//! What is random comes from [`SEED`], so a failure repeats.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "the table of results")]

mod amplified;
mod commands;
mod corpus;
mod disk;
mod ext4;
mod ext4_journal;
mod ext4_trees;
mod fat;
mod guest;
mod lvm;
mod named;
mod ova;
mod qcow2;
mod run;
mod samples;
mod tables;
mod vdi_vhd_vhdx;
mod vmdk;
mod wrapped;

#[path = "../support/mod.rs"]
mod support;

use std::path::Path;

use rayon::prelude::*;

use disk::Disk;

/// Where random damage starts from.
pub const SEED: u64 = 0x6775_6573_7463_746c;

type Change = Box<dyn Fn(&mut Disk) + Send + Sync>;

/// One damaged image, made from its suite's base.
pub struct Case {
    pub name: String,
    pub change: Change,
}

/// Damaged images that have a base and a purpose in common.
pub struct Suite {
    /// The row in the table.
    pub name: &'static str,
    /// The file's extension: what the image is called must not matter, but errors show it.
    pub extension: &'static str,
    pub base: Disk,
    /// Commands, `IMAGE` standing for the image.
    pub commands: &'static [&'static str],
    pub cases: Vec<Case>,
    /// A file `base.raw` in the image's directory.
    pub beside: Option<Disk>,
    /// How many of a hundred images must be refused by a command at least: a reader that takes everything passes no
    /// suite.
    pub refused: usize,
}

/// The commands for images that hold one filesystem and no partition table.
pub const FILESYSTEM: &[&str] = &[
    "inspect --json IMAGE",
    "filesystems --json IMAGE",
    "ls -R --json -m /dev/sda IMAGE /",
    "find -m /dev/sda IMAGE /",
    "df --json -m /dev/sda IMAGE",
    "tar-out -q -m /dev/sda IMAGE / OUT",
    "diff --json -m /dev/sda IMAGE IMAGE",
];

/// The commands for everything else.
pub const DISK: &[&str] = &[
    "info --json IMAGE",
    "inspect --json IMAGE",
    "filesystems --json IMAGE",
    "ls -R --json IMAGE /",
    "find IMAGE /",
    "df --json IMAGE",
    "tar-out -q --json IMAGE / OUT",
];

impl Suite {
    pub fn new(name: &'static str, base: Disk, commands: &'static [&'static str]) -> Self {
        Self { name, extension: "raw", base, commands, cases: Vec::new(), beside: None, refused: 0 }
    }

    pub fn add(&mut self, name: impl Into<String>, change: impl Fn(&mut Disk) + Send + Sync + 'static) {
        self.cases.push(Case { name: name.into(), change: Box::new(change) });
    }

    /// Runs every case through every command and prints the row.
    pub fn run(self) {
        let dir = tempfile::tempdir().unwrap();
        let undamaged = self.judge(dir.path(), "undamaged", &self.base);
        assert_eq!(undamaged.failures, [] as [String; 0], "{}: the base itself", self.name);
        assert!(!undamaged.refused, "{}: the base itself is refused: {}", self.name, undamaged.message);

        let judged: Vec<_> = (0..self.cases.len())
            .into_par_iter()
            .map(|number| {
                let mut disk = self.base.clone();
                (self.cases[number].change)(&mut disk);
                self.judge(dir.path(), &number.to_string(), &disk)
            })
            .collect();
        let images = judged.len();
        let refused = judged.iter().filter(|verdict| verdict.refused).count();
        let cpu = judged.iter().map(|verdict| verdict.cpu_ms).max().unwrap_or(0);
        let memory = judged.iter().map(|verdict| verdict.memory_kib).max().unwrap_or(0);
        println!(
            "{:<28} {images:>4} images {refused:>4} refused {:>4} accepted {cpu:>5} ms {:>6.1} MiB",
            self.name,
            images - refused,
            memory as f64 / 1024.0
        );
        if std::env::var_os("HOSTILE_VERBOSE").is_some() {
            for (case, verdict) in self.cases.iter().zip(&judged) {
                println!(
                    "  {:<48} {:>5} ms {:>6} KiB  {}",
                    case.name, verdict.cpu_ms, verdict.memory_kib, verdict.message
                );
            }
        }
        let failures: Vec<String> = (self.cases.iter().zip(&judged))
            .flat_map(|(case, verdict)| {
                verdict.failures.iter().map(|text| format!("{}: {}: {text}", self.name, case.name))
            })
            .collect();
        assert!(failures.is_empty(), "{} failures, seed {SEED:#x}\n{}", failures.len(), failures.join("\n"));
        assert!(refused * 100 >= self.refused * images, "{}: only {refused} of {images} refused", self.name);
    }

    fn judge(&self, directory: &Path, name: &str, disk: &Disk) -> run::Verdict {
        let home = directory.join(name);
        std::fs::create_dir(&home).unwrap();
        let path = home.join(format!("image.{}", self.extension));
        disk.write(&path);
        if let Some(beside) = &self.beside {
            beside.write(&home.join("base.raw"));
        }
        let verdict = run::judge(&path, self.commands);
        std::fs::remove_dir_all(&home).unwrap();
        verdict
    }
}
