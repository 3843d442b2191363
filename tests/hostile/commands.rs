//! The commands that read whole images, make new ones or change one in place, over a sample of every format's damaged
//! images.

use crate::disk::Disk;
use crate::fat::tiny;
use crate::support::have;
use crate::{Suite, qcow2, vdi_vhd_vhdx, vmdk};

/// What reads an image, and writes another one at most.
pub const READ: &[&str] = &[
    "convert -q -O raw IMAGE OUT",
    "convert -q -O qcow2 --compress --skip-free IMAGE OUT",
    "convert -q -O vmdk --verify IMAGE OUT",
    "compare IMAGE IMAGE",
    "map --json IMAGE",
    "measure --json -O qcow2 IMAGE",
    "check --json IMAGE",
    "info --backing-chain --json --allow-same-dir IMAGE",
    "snapshot -l IMAGE",
];

/// The same for formats without a consistency check and snapshots.
const READ_OTHERS: &[&str] = READ.split_at(6).0;

/// What reads all that is in a filesystem.
pub const TREE: &[&str] = &[
    "tar-out -q -m /dev/sda IMAGE / OUT",
    "tar-out -q --json --no-sparse --all-times -j 3 -m /dev/sda IMAGE / OUT",
    "tar-out -q --compress zstd --exclude=*.log --include=/* -m /dev/sda IMAGE / OUT",
    "checksum -q -m /dev/sda IMAGE /",
    "checksum -q --json -A md5 -A blake3 -j 3 -m /dev/sda IMAGE /",
];

/// What changes an overlay.
const CHANGE: &[&str] = &[
    "check --json IMAGE",
    "info --backing-chain --json --allow-same-dir IMAGE",
    "map --json --allow-same-dir IMAGE",
    "convert -q -O raw --allow-same-dir IMAGE OUT",
    "snapshot -c made IMAGE",
    "resize --allow-same-dir IMAGE +1M",
    "snapshot -d made IMAGE",
    "commit --allow-same-dir IMAGE",
    "check --repair all --json IMAGE",
    "rebase --allow-same-dir -b  IMAGE",
];

fn sample(mut suite: Suite, name: &'static str, count: usize, refused: usize) {
    let step = suite.cases.len().div_ceil(count);
    suite.cases = suite.cases.into_iter().step_by(step).collect();
    let commands = if suite.extension == "qcow2" { READ } else { READ_OTHERS };
    (suite.name, suite.commands, suite.refused) = (name, commands, refused);
    suite.run();
}

#[test]
fn qcow2_is_converted_and_compared() {
    sample(qcow2::damaged("", qcow2::clean(), READ), "qcow2, all commands", 60, 30);
}

#[test]
fn vdi_vhd_and_vhdx_are_converted_and_compared() {
    if !have("qemu-img") {
        return;
    }
    sample(vdi_vhd_vhdx::vdi(), "vdi, all commands", 30, 30);
    sample(vdi_vhd_vhdx::vhd(), "vhd, all commands", 30, 30);
    sample(vdi_vhd_vhdx::vhdx(), "vhdx, all commands", 30, 30);
    sample(vdi_vhd_vhdx::vhdx_logs(), "vhdx log, all commands", 20, 30);
}

#[test]
fn vmdk_is_converted_and_compared() {
    if !have("qemu-img") {
        return;
    }
    sample(vmdk::sparse(), "vmdk, all commands", 30, 30);
    sample(vmdk::stream(), "vmdk stream, all commands", 30, 30);
}

#[test]
fn overlays_are_changed() {
    let mut base = qcow2::clean();
    base.be(8, 8, 512);
    base.be(16, 4, 8);
    base.put(512, b"base.raw");
    // The format of what is below.
    base.be(104, 4, 0xe279_2aca);
    base.be(108, 4, 3);
    base.put(112, b"raw");
    let mut suite = qcow2::damaged("overlay, all commands", base, CHANGE);
    suite.cases = suite.cases.into_iter().step_by(5).collect();
    let mut below = Disk::from(tiny());
    below.resize(1 << 20);
    suite.beside = Some(below);
    suite.refused = 30;
    suite.run();
}
