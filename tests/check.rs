//! `check` of VDI, VHDX and VMDK beside qemu-img: the same JSON and exit code for sound images, QEMU's and ours; for
//! damaged ones the same verdict, and a verdict where QEMU looks away.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use support::{have, shell};

const GUESTCTL: &str = env!("CARGO_BIN_EXE_guestctl");

/// Exit code, and what is on standard output as JSON.
fn check(tool: &str, directory: &Path, arguments: &str) -> (i32, Value) {
    let output = Command::new(tool).args(arguments.split(' ')).current_dir(directory).output().unwrap();
    (output.status.code().unwrap(), serde_json::from_slice(&output.stdout).unwrap_or_default())
}

/// Format, options and extension of images that qemu-img makes too.
const KINDS: [(&str, &str); 9] = [
    ("vdi", "static=off"),
    ("vdi", "static=on"),
    ("vhdx", "subformat=dynamic,block_size=1M"),
    ("vhdx", "subformat=fixed"),
    ("vhdx", "subformat=dynamic"),
    ("vmdk", "subformat=monolithicSparse"),
    ("vmdk", "subformat=streamOptimized"),
    ("vmdk", "subformat=twoGbMaxExtentSparse"),
    ("vmdk", "subformat=monolithicFlat"),
];

/// A disk with data in many places.
const DISK: &str = "truncate -s 40M disk.raw
    for at in 0 1 5 9 17 18 39; do head -c 700000 /dev/urandom | dd of=disk.raw bs=1M seek=$at conv=notrunc status=none; done
    truncate -s 40M disk.raw;";

#[test]
fn sound_images_are_sound() {
    if !have("qemu-img") {
        return;
    }
    for (format, options) in KINDS {
        let dir = tempfile::tempdir().unwrap();
        shell(
            dir.path(),
            &format!(
                "{DISK} mkdir theirs ours
                qemu-img convert -f raw -O {format} -o {options} disk.raw theirs/image
                {GUESTCTL} convert -q -f raw -O {format} -o {options} disk.raw ours/image"
            ),
        );
        for image in ["theirs/image", "ours/image"] {
            let ours = check(GUESTCTL, dir.path(), &format!("check --allow-same-dir --output=json {image}"));
            let theirs = check("qemu-img", dir.path(), &format!("check --output=json {image}"));
            assert_eq!(ours, theirs, "{format} {options} {image}");
            assert_eq!(ours.0, 0);
            let text = format!("check --allow-same-dir {image}");
            let output = Command::new(GUESTCTL).args(text.split(' ')).current_dir(dir.path()).output().unwrap();
            assert_eq!(output.stdout, b"No errors were found on the image.\n");
            // Nothing of these is repaired.
            let repair = check(GUESTCTL, dir.path(), &format!("check -r all {image}"));
            assert_eq!(repair.0, 63);
        }
    }
    let dir = tempfile::tempdir().unwrap();
    shell(dir.path(), &format!("{DISK} qemu-img convert -f raw -O vpc disk.raw image"));
    assert_eq!(check(GUESTCTL, dir.path(), "check image").0, 63);
    assert_eq!(check("qemu-img", dir.path(), "check image").0, 63);
}

/// Little-endian words of an image that is damaged.
struct Damaged {
    directory: tempfile::TempDir,
    bytes: Vec<u8>,
}

impl Damaged {
    fn new(format: &str, options: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let convert = format!("qemu-img convert -f raw -O {format} -o {options} disk.raw image");
        shell(directory.path(), &format!("{DISK} {convert}"));
        let bytes = std::fs::read(directory.path().join("image")).unwrap();
        Self { directory, bytes }
    }

    fn get(&self, at: usize, len: usize) -> u64 {
        self.bytes[at..at + len].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
    }

    fn put(&mut self, at: usize, len: usize, value: u64) {
        self.bytes[at..at + len].copy_from_slice(&value.to_le_bytes()[..len]);
    }

    /// Exit code and corruptions by us, and by QEMU.
    fn verdicts(&self) -> [(i32, u64); 2] {
        std::fs::write(self.directory.path().join("image"), &self.bytes).unwrap();
        [GUESTCTL, "qemu-img"].map(|tool| {
            let (code, found) = check(tool, self.directory.path(), "check --output=json image");
            (code, found["corruptions"].as_u64().unwrap_or(0))
        })
    }
}

#[test]
fn damaged_vdi() {
    if !have("qemu-img") {
        return;
    }
    let image = || Damaged::new("vdi", "static=off");
    let map = |image: &Damaged| image.get(340, 4) as usize;
    // One block for two entries.
    let mut shared = image();
    let at = map(&shared);
    let block = shared.get(at, 4);
    shared.put(at + 4, 4, block);
    assert_eq!(shared.verdicts(), [(2, 1); 2]);
    // Past the map's end; then the count is wrong too.
    let mut outside = image();
    outside.put(at, 4, 1000);
    assert_eq!(outside.verdicts(), [(2, 2); 2]);
    let mut count = image();
    count.put(388, 4, 3);
    assert_eq!(count.verdicts(), [(2, 1); 2]);
    // A block more than the header says.
    let mut more = image();
    let free = (0..40).find(|block| more.get(at + block * 4, 4) == 0xffff_ffff).unwrap();
    more.put(at + free * 4, 4, 39);
    let [ours, theirs] = more.verdicts();
    assert_eq!((ours, theirs), ((2, 2), (2, 1)), "it is past the end of the file, which QEMU does not look at");
    let mut cut = image();
    cut.bytes.truncate(cut.bytes.len() - (1 << 20));
    assert_eq!(cut.verdicts(), [(2, 1), (0, 0)]);
}

#[test]
fn damaged_vhdx() {
    if !have("qemu-img") {
        return;
    }
    let image = || Damaged::new("vhdx", "subformat=dynamic,block_size=1M");
    let bat = image().get((192 << 10) + 32, 8) as usize;
    let entry = |image: &Damaged, block: usize| image.get(bat + block * 8, 8);
    // Past the end of the file.
    let mut outside = image();
    outside.put(bat, 8, 500 << 20 | 6);
    assert_eq!(outside.verdicts(), [(2, 1); 2]);
    let mut cut = image();
    cut.bytes.truncate(cut.bytes.len() - (1 << 20));
    assert_eq!(cut.verdicts(), [(2, 1); 2]);
    // In the header, the log, the table and the metadata.
    let own = [0, image().get((64 << 10) + 72, 8), bat as u64, image().get((192 << 10) + 64, 8)];
    for place in own {
        let mut inside = image();
        inside.put(bat, 8, place >> 20 << 20 | 6);
        // QEMU passes over the first MiB.
        let theirs = if place == 0 { (0, 0) } else { (2, 1) };
        assert_eq!(inside.verdicts(), [(2, 1), theirs], "{place:#x}");
    }
    // One block for two entries: QEMU does not look.
    let mut shared = image();
    let first = entry(&shared, 0);
    shared.put(bat + 8, 8, first);
    assert_eq!(shared.verdicts(), [(2, 1), (0, 0)]);
    // Anything that is not there may say where it was.
    let mut absent = image();
    absent.put(bat, 8, 500 << 20);
    assert_eq!(absent.verdicts(), [(0, 0); 2]);
}

#[test]
fn damaged_vmdk() {
    if !have("qemu-img") {
        return;
    }
    for subformat in ["subformat=monolithicSparse", "subformat=streamOptimized"] {
        let image = || Damaged::new("vmdk", subformat);
        let footer = |image: &Damaged| match image.get(56, 8) {
            u64::MAX => image.bytes.len() - 1024,
            _ => 0,
        };
        let directory = |image: &Damaged| image.get(footer(image) + 56, 8) as usize * 512;
        let table = |image: &Damaged| image.get(directory(image), 4) as usize * 512;
        // A grain past the end of the file; QEMU says that the check failed.
        let mut outside = image();
        let at = table(&outside);
        outside.put(at, 4, 0x00ff_ffff);
        assert_eq!(outside.verdicts(), [(2, 1), (1, 0)], "{subformat}");
        // Two grains in one place.
        let mut shared = image();
        let first = shared.get(at, 4);
        shared.put(at + 4, 4, first);
        assert_eq!(shared.verdicts(), [(2, 1), (0, 0)], "{subformat}");
        // A table for two directory entries, and one past the end.
        let mut tables = image();
        let at = directory(&tables);
        let first = tables.get(at, 4);
        tables.put(at + 4, 4, first);
        assert_eq!(tables.verdicts()[0], (2, 1), "{subformat}");
        tables.put(at + 4, 4, 0x00ff_ffff);
        assert_eq!(tables.verdicts()[0], (2, 1), "{subformat}");
    }
}
