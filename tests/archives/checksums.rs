//! Digests of trees and devices, checked by the programs that made their formats.

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;

use guestctl::Guestfs;

use super::guest::guest;
use super::program::{guestctl, program};
use super::support::{have, shell};

/// Files of terabytes, which a digest would read for hours.
const SMALL: [&str; 2] = ["--exclude=/giant", "--exclude=/archives/sparse"];

#[test]
fn own_programs_accept_every_line_on_the_kernels_mount() {
    let Some(guest) = guest() else { return };
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    let kernel = guest.mounted();
    let top = kernel.path();
    let files = shell(&top, "find . -path ./giant -prune -o -path ./archives/sparse -prune -o -type f -print0").stdout;
    let files = files.iter().filter(|byte| **byte == 0).count();
    assert!(files > 800, "{files}");
    for (algorithm, check) in [
        ("md5", "md5sum"),
        ("sha1", "sha1sum"),
        ("sha224", "sha224sum"),
        ("sha256", "sha256sum"),
        ("sha384", "sha384sum"),
        ("sha512", "sha512sum"),
        ("blake3", "b3sum"),
    ] {
        // b3sum is in no Debian release before 12, and is not asked for.
        if (algorithm == "blake3" && Command::new(check).arg("--version").output().is_err()) || !have(check) {
            continue;
        }
        let output = program()
            .args(["checksum", "-q", "-m", "/dev/sda", "-A", algorithm])
            .args(SMALL)
            .arg(&guest.image)
            .output()
            .unwrap();
        assert!(output.status.success(), "{algorithm}");
        let mut lines: Vec<&[u8]> = output.stdout.split_inclusive(|&byte| byte == b'\n').collect();
        // b3sum checks no file that holds a name which is not UTF-8.
        lines.retain(|line| check != "b3sum" || std::str::from_utf8(line).is_ok());
        let left_out = output.stdout.split_inclusive(|&byte| byte == b'\n').count() - lines.len();
        assert!(left_out <= 3, "{algorithm}: {left_out}");
        std::fs::write(at.join("sums"), lines.concat()).unwrap();
        let strict = if check == "b3sum" { "" } else { "--strict" };
        let checked = shell(&top, &format!("{check} -c {strict} {}", at.join("sums").display()));
        let accepted = checked.stdout.split(|&byte| byte == b'\n').filter(|line| line.ends_with(b": OK")).count();
        assert_eq!(accepted, files - left_out, "{algorithm}");
    }
    // cksum checks the tagged form of several at once, and its own CRC has no check.
    let output = program()
        .args(["checksum", "-q", "-m", "/dev/sda", "-A", "sha256", "-A", "md5", "-A", "sha512"])
        .args(SMALL)
        .arg(&guest.image)
        .output()
        .unwrap();
    std::fs::write(at.join("sums"), &output.stdout).unwrap();
    let version = shell(at, "cksum --version | head -n 1");
    let version =
        String::from_utf8_lossy(&version.stdout).trim().rsplit(' ').next().unwrap().parse::<f64>().unwrap_or(0.0);
    if version >= 9.0 {
        let checked = shell(&top, &format!("cksum -c {}", at.join("sums").display()));
        let accepted = checked.stdout.split(|&byte| byte == b'\n').filter(|line| line.ends_with(b": OK")).count();
        assert_eq!(accepted, 3 * files);
    } else {
        super::support::skipped("needs coreutils 9 for cksum -c");
    }
}

#[test]
fn crc_is_what_cksum_prints() {
    let Some(guest) = guest() else { return };
    let ours =
        guestctl(["checksum", "-q", "-m", "/dev/sda", "-A", "crc", guest.image.to_str().unwrap(), "/corners/sizes"]);
    let kernel = guest.mounted();
    let theirs = shell(&kernel.path().join("corners/sizes"), "cksum ./*").stdout;
    assert_eq!(ours.text(), String::from_utf8(theirs).unwrap());
}

#[test]
fn several_digests_at_once_are_those_of_each() {
    let demo = super::demo();
    let demo = demo.to_str().unwrap();
    let all = ["crc", "md5", "sha1", "sha224", "sha256", "sha384", "sha512", "blake3", "xxh3"];
    let mut arguments = vec!["checksum", "-q", "--json", demo];
    arguments.extend(all.iter().flat_map(|name| ["-A", *name]));
    let lines = guestctl(&arguments).text();
    let mut together = BTreeMap::new();
    for line in lines.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        assert!(line["size_bytes"].is_u64() && line.as_object().unwrap().len() == all.len() + 2, "{line}");
        together.insert(line["path"].as_str().unwrap().to_owned(), line);
    }
    assert!(together.len() > 30);
    for algorithm in all {
        for jobs in ["1", "5"] {
            let lines = guestctl(["checksum", "-q", "--json", "-A", algorithm, "-j", jobs, demo]).text();
            let mut count = 0;
            for line in lines.lines() {
                let line: Value = serde_json::from_str(line).unwrap();
                assert_eq!(line[algorithm], together[line["path"].as_str().unwrap()][algorithm]);
                count += 1;
            }
            assert_eq!(count, together.len());
        }
    }
}

#[test]
fn devices_and_partitions() {
    if !have("qemu-img") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    let demo = super::demo();
    shell(at, &format!("qemu-img convert -O raw {} demo.raw", demo.display()));
    let filesystems = guestctl(["filesystems", "--json", demo.to_str().unwrap()]);
    assert_eq!(filesystems.code, 0);
    let table = shell(at, "sfdisk -J demo.raw");
    let table: Value = serde_json::from_slice(&table.stdout).unwrap();
    for (number, partition) in table["partitiontable"]["partitions"].as_array().unwrap().iter().enumerate() {
        let (start, size) = (partition["start"].as_u64().unwrap(), partition["size"].as_u64().unwrap());
        let device = format!("/dev/sda{}", number + 1);
        let sum = shell(at, &format!("dd if=demo.raw bs=512 skip={start} count={size} 2>/dev/null | sha256sum"));
        let sum = String::from_utf8(sum.stdout).unwrap();
        let expected = format!("{}  {device}\n", sum.split(' ').next().unwrap());
        assert_eq!(guestctl(["checksum", "-q", demo.to_str().unwrap(), &device]).text(), expected);
    }
    let whole = shell(at, "sha512sum <demo.raw; md5sum <demo.raw");
    let whole = String::from_utf8(whole.stdout).unwrap();
    let [sha512, md5] = whole.lines().map(|line| line.split(' ').next().unwrap()).collect::<Vec<_>>()[..] else {
        panic!()
    };
    let ours = guestctl(["checksum", "-q", "-A", "sha512", "-A", "md5", demo.to_str().unwrap(), "/dev/sda"]).text();
    assert_eq!(ours, format!("SHA512 (/dev/sda) = {sha512}\nMD5 (/dev/sda) = {md5}\n"));
}

#[test]
fn the_handle_writes_the_programs_lines() {
    let directory = tempfile::tempdir().unwrap();
    let g = Guestfs::new().unwrap();
    g.add_drive_ro(super::demo()).unwrap();
    g.launch().unwrap();
    g.mount_ro("/dev/sda2", "/").unwrap();
    let sums = directory.path().join("sums");
    g.checksums_out("sha256", "/etc", &sums).unwrap();
    let printed = guestctl(["checksum", "-q", "-m", "/dev/sda2", super::demo().to_str().unwrap(), "/etc"]).bytes();
    assert!(printed.len() > 500 && std::fs::read(&sums).unwrap() == printed);
    assert_eq!(g.checksums_out("gost", "/etc", &sums).unwrap_err().exit_code(), 2);
    assert_eq!(g.checksums_out("md5", "/etc/hostname", directory.path().join("none")).unwrap_err().exit_code(), 9);
    assert!(!directory.path().join("none").exists());
    let archive = directory.path().join("etc.tar.gz");
    g.tar_out_opts("/etc", &archive, Some("gzip")).unwrap();
    assert_eq!(g.tar_out_opts("/etc", &archive, Some("lzop")).unwrap_err().exit_code(), 7);
    g.tar_out("/etc", directory.path().join("etc.tar")).unwrap();
    let plain = shell(directory.path(), "gzip -dc <etc.tar.gz").stdout;
    assert!(plain == std::fs::read(directory.path().join("etc.tar")).unwrap());
}
