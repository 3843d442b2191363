//! What a handle costs, under the names of the performance guide that libguestfs users know.
//!
//! The image is raw, 64 MiB, with one ext4 filesystem that mke2fs fills; `inspect` and `find` run on the demo guest.
//! With `GUESTCTL_BENCH_IMAGE=disk.raw` they run on that image too. `cargo bench --bench guestctl`.

#![allow(missing_docs, clippy::print_stderr, reason = "a benchmark program")]

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::Command;

use criterion::{Criterion, criterion_group, criterion_main};
use guestctl::Guestfs;

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/images/demo.qcow2");

/// An ext4 image that holds `/file`, 1 MiB that does not repeat.
fn image(directory: &Path) -> Option<PathBuf> {
    let tree = directory.join("tree");
    std::fs::create_dir(&tree).ok()?;
    let bytes: Vec<u8> = (0..1u32 << 18).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    std::fs::write(tree.join("file"), bytes).ok()?;
    let image = directory.join("ext4.raw");
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let made = Command::new("mke2fs")
        .env("PATH", path)
        .args(["-q", "-t", "ext4", "-d"])
        .arg(&tree)
        .arg(&image)
        .arg("64M")
        .status();
    made.is_ok_and(|status| status.success()).then_some(image)
}

fn launched(image: &Path) -> Guestfs {
    let g = Guestfs::new().expect("a handle");
    g.add_drive_ro(image).expect("the image");
    g.launch().expect("launch");
    g
}

fn handle(c: &mut Criterion) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    c.bench_function("disk_creation", |b| {
        let g = Guestfs::new().expect("a handle");
        let path = directory.path().join("new.raw");
        b.iter(|| g.disk_create(&path, "raw", 100 << 20).expect("create"));
    });
    let Some(image) = image(directory.path()) else {
        eprintln!("skipped: launch_shutdown, mount_operation, file_read_1MB and checksum_1MB need mke2fs (e2fsprogs)");
        return;
    };
    c.bench_function("launch_shutdown", |b| {
        b.iter(|| launched(&image).shutdown().expect("shutdown"));
    });
    c.bench_function("mount_operation", |b| {
        b.iter_batched(
            || launched(&image),
            |g| g.mount_ro("/dev/sda", "/").expect("mount"),
            criterion::BatchSize::PerIteration,
        );
    });
    let g = launched(&image);
    g.mount_ro("/dev/sda", "/").expect("mount");
    c.bench_function("file_read_1MB", |b| b.iter(|| black_box(g.read_file("/file").expect("read"))));
    c.bench_function("checksum_1MB", |b| b.iter(|| black_box(g.checksum("sha256", "/file").expect("checksum"))));
}

fn guests(c: &mut Criterion) {
    let mut images = vec![("demo".to_owned(), PathBuf::from(DEMO))];
    images.extend(std::env::var_os("GUESTCTL_BENCH_IMAGE").map(|path| ("guest".to_owned(), PathBuf::from(path))));
    for (name, image) in images {
        c.bench_function(&format!("inspect/{name}"), |b| {
            b.iter(|| {
                let g = launched(&image);
                let roots = g.inspect_os().expect("inspect");
                black_box(
                    roots.iter().map(|root| g.inspect_list_applications2(root).expect("packages").len()).sum::<usize>(),
                )
            });
        });
        c.bench_function(&format!("find/{name}"), |b| {
            b.iter(|| {
                let g = launched(&image);
                g.mount_inspected(&g.inspect_os().expect("inspect")[0]).expect("mount");
                black_box(g.find0("/").expect("find").len())
            });
        });
    }
}

criterion_group!(benches, handle, guests);
criterion_main!(benches);
