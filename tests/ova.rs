//! OVA packages made by GNU tar around disks made by qemu-img.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::path::Path;

use guestctl::block::{self, ImageInfo, OpenOptions, read_vec};
use support::{have, shell};

fn bytes(path: &Path) -> Vec<u8> {
    let device = block::open(path, &OpenOptions::default()).unwrap().device;
    read_vec(&device, 0, device.size() as usize).unwrap()
}

#[test]
fn disks_are_read_in_place() {
    if !have("qemu-img") || !have("tar") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut one: Vec<u8> = (0..3 << 20).map(|n: u32| (n.wrapping_mul(n) >> 9) as u8).collect();
    one[1 << 20..2 << 20].fill(0);
    let two: Vec<u8> = one.iter().rev().copied().collect();
    std::fs::write(dir.path().join("one.raw"), &one).unwrap();
    std::fs::write(dir.path().join("two.raw"), &two).unwrap();
    let long = format!("{}.qcow2", "n".repeat(120));
    let ovf = format!(
        r#"<Envelope><References><File ovf:href="{long}" ovf:id="f2"/><File ovf:href="m-disk1.vmdk" ovf:id="f1"/>
        </References><DiskSection><Disk ovf:diskId="vmdisk1" ovf:fileRef="f1"/><Disk ovf:diskId="vmdisk2"
        ovf:fileRef="f2"/></DiskSection></Envelope>"#
    );
    std::fs::write(dir.path().join("m.ovf"), ovf).unwrap();
    let convert = "qemu-img convert -f raw -O vmdk -o subformat=streamOptimized one.raw m-disk1.vmdk; cp two.raw";
    shell(dir.path(), &format!("{convert} {long}"));
    for format in ["ustar", "gnu", "posix"] {
        let name = if format == "ustar" { "m-disk1.vmdk" } else { long.as_str() };
        let ova = dir.path().join(format!("{format}.ova"));
        shell(dir.path(), &format!("tar --format={format} -cf {format}.ova m.ovf m-disk1.vmdk ./{name}"));
        assert!(bytes(&ova) == one, "{format}");
        if format != "ustar" {
            assert!(bytes(&dir.path().join(format!("{format}.ova#vmdisk2"))) == two, "{format}");
            assert!(bytes(&dir.path().join(format!("{format}.ova#{long}"))) == two, "{format}");
        }
        let info = ImageInfo::read(&ova, &OpenOptions::default()).unwrap();
        assert_eq!((info.format.name(), info.virtual_size, info.probed), ("ova", 3 << 20, true));
    }
}

#[test]
fn a_disk_in_an_ova_names_no_file_outside() {
    if !have("qemu-img") || !have("tar") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let script = "qemu-img create -q -f vmdk -o subformat=monolithicFlat flat.vmdk 1M; tar -cf m.ova flat.vmdk";
    shell(dir.path(), script);
    let options = OpenOptions { gate: std::sync::Arc::new(block::SameDirectory), ..OpenOptions::default() };
    assert_eq!(block::open(&dir.path().join("m.ova"), &options).unwrap_err().exit_code(), 5);
}
