//! Real guests: a whole Debian in every format, each file held against the kernel's mount. By hand: `GUESTCTL_GUESTS` names
//! the directory of `debian-*.{raw,qcow2,vmdk}`.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::facts::{Contents, Tree, listed, mounted, same};
use super::mounted::{Mounted, can_mount};
use super::program::guestctl;
use super::support::{have, shell};

fn guests() -> Option<PathBuf> {
    let named = std::env::var_os("GUESTCTL_GUESTS").map(PathBuf::from);
    if named.is_none() {
        super::support::skipped(format_args!("GUESTCTL_GUESTS names no directory with guests"));
    }
    named.filter(|_| can_mount() && have("qemu-img") && have("sfdisk"))
}

/// The root filesystem's device, by inspection.
fn root_of(image: &str) -> String {
    let report = guestctl(["inspect", "--json", "--no-applications", "--allow-same-dir", image]).json();
    report["operating_systems"][0]["root"].as_str().unwrap().to_owned()
}

fn ours(image: &Path) -> Tree {
    let image = image.to_str().unwrap();
    let root = root_of(image);
    let arguments = ["ls", "-R", "--json", "--checksum", "sha256", "--allow-same-dir", image, "/", "-m", &root];
    listed(&guestctl(arguments).bytes())
}

/// The kernel's reading of the last and largest partition of a raw disk.
fn kernels(raw: &Path) -> Tree {
    let table = shell(Path::new("/"), &format!("sfdisk -J '{}' 2>/dev/null", raw.display()));
    let table: Value = serde_json::from_slice(&table.stdout).unwrap();
    let partitions = table["partitiontable"]["partitions"].as_array().unwrap();
    let root = partitions.iter().max_by_key(|partition| partition["size"].as_u64()).unwrap();
    let bytes = |key: &str| root[key].as_u64().unwrap() * 512;
    let mount = Mounted::new(raw, &format!("ro,offset={},sizelimit={}", bytes("start"), bytes("size"))).unwrap();
    mounted(&mount.path(), "/", Contents::Digested)
}

#[test]
fn real_guests_read_as_the_kernel_reads_them() {
    let Some(directory) = guests() else { return };
    let mut names: Vec<_> =
        directory.read_dir().unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    let kernel = kernels(&directory.join("debian-ext4.raw"));
    println!("{} paths", kernel.len());
    let temporary = tempfile::tempdir_in(std::env::var_os("TMPDIR").unwrap_or_else(|| "/var/tmp".into())).unwrap();
    for name in names {
        let is_image = [".raw", ".qcow2", ".vmdk"].iter().any(|extension| name.ends_with(extension));
        let is_other = ["xfs", "btrfs", "-s00", "-flat", "lvm", "mbr"].iter().any(|other| name.contains(other));
        if !is_image || is_other || !name.starts_with("debian-") {
            continue;
        }
        let image = directory.join(&name);
        if name.contains("snap") {
            let mut snapshots = vec![(String::new(), String::new())];
            if name.contains("intsnap") {
                snapshots.extend(
                    ["clean", "after-one"].map(|name| (format!("#{name}"), format!("-l snapshot.name={name}"))),
                );
            }
            for (suffix, option) in snapshots {
                let raw = temporary.path().join("converted.raw");
                shell(
                    Path::new("/"),
                    &format!("qemu-img convert -O raw {option} '{}' '{}'", image.display(), raw.display()),
                );
                let read = ours(&directory.join(format!("{name}{suffix}")));
                same(&format!("{name}{suffix}"), &kernels(&raw), &read);
                std::fs::remove_file(raw).unwrap();
                println!("{name}{suffix}: {} paths are the same", read.len());
            }
            continue;
        }
        same(&name, &kernel, &ours(&image));
        println!("{name}: the same");
    }
    let mbr = directory.join("debian-mbr.raw");
    if mbr.is_file() {
        same("debian-mbr.raw", &kernels(&mbr), &ours(&mbr));
        println!("debian-mbr.raw: the same");
    }
    let lvm = directory.join("debian-lvm.raw");
    if lvm.is_file() {
        // The kernel would need the device mapper for it. Its files are those of the others, but for these.
        let mut read = ours(&lvm);
        read.retain(|path, facts| {
            let own = [&b"/boot"[..], b"/etc", b"/var/tail-marker"].iter().any(|other| path.starts_with(other));
            facts.kind == "file" && !own
        });
        assert!(read.len() > 10_000, "{}", read.len());
        let expected = kernel.into_iter().filter(|(path, _)| read.contains_key(path)).collect();
        same("debian-lvm.raw", &expected, &read);
        println!("debian-lvm.raw: {} files are the same", read.len());
    }
}
