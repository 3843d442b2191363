//! A raw disk of any bytes through the whole library, as `guestctl inspect` goes: partitions, volumes, filesystems,
//! inspection, packages.
#![no_main]

use guestctl::{DriveOptions, Guestfs};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let path = std::env::temp_dir().join(format!("guestctl-fuzz-{}", std::process::id()));
    std::fs::write(&path, bytes).expect("the temporary directory takes a file");
    let g = Guestfs::new().expect("a handle needs nothing");
    g.add_drive_with(&path, DriveOptions { format: Some("raw".parse().expect("a format")), ..DriveOptions::default() })
        .expect("the file is there");
    if g.launch().is_err() {
        return;
    }
    let _ = g.list_filesystems_long();
    let _ = g.lvs();
    for root in g.inspect_os().unwrap_or_default() {
        let _ = g.inspect_packages(&root);
        for (mountpoint, device) in g.inspect_get_mountpoints(&root).unwrap_or_default() {
            let _ = g.mount_ro(&device, &mountpoint);
        }
        let _ = (g.df(), g.ls("/"), g.cat("/etc/hostname"));
        let _ = g.umount_all();
    }
});
