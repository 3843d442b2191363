//! Public samples, many of them damaged on purpose, in the directory that `GUESTCTL_CORPUS` names.

use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::run;

const COMMANDS: &[&str] = &[
    "info --json IMAGE",
    "inspect --json IMAGE",
    "filesystems --json IMAGE",
    "ls -R --json IMAGE /",
    "ls -R --json -m /dev/sda IMAGE /",
];

#[test]
fn public_samples() {
    let Some(directory) = std::env::var_os("GUESTCTL_CORPUS") else {
        crate::support::skipped(format_args!("GUESTCTL_CORPUS names no directory"));
        return;
    };
    let mut files = Vec::new();
    find(Path::new(&directory), &mut files);
    files.sort();
    assert!(!files.is_empty(), "{} holds no files", directory.display());
    let scratch = tempfile::tempdir().unwrap();
    let judged: Vec<_> = files
        .par_iter()
        .enumerate()
        .map(|(number, file)| {
            // A directory of its own: outputs lie beside the image, and the corpus may be read-only.
            let home = scratch.path().join(number.to_string());
            std::fs::create_dir(&home).unwrap();
            let link = home.join("image");
            std::os::unix::fs::symlink(std::fs::canonicalize(file).unwrap(), &link).unwrap();
            run::judge(&link, COMMANDS)
        })
        .collect();
    let refused = judged.iter().filter(|verdict| verdict.refused).count();
    let cpu = judged.iter().map(|verdict| verdict.cpu_ms).max().unwrap_or(0);
    let memory = judged.iter().map(|verdict| verdict.memory_kib).max().unwrap_or(0);
    println!("corpus: {} files, {refused} refused, at most {cpu} ms and {} KiB", files.len(), memory);
    let failures: Vec<String> = (files.iter().zip(&judged))
        .flat_map(|(file, verdict)| verdict.failures.iter().map(move |text| format!("{}: {text}", file.display())))
        .collect();
    assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures.join("\n"));
}

pub fn find(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap().map(Result::unwrap) {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            find(&entry.path(), files);
        } else if kind.is_file() {
            files.push(entry.path());
        }
    }
}
