//! Says what is installed in an image and reads a file from it: `cargo run --example inspect -- images/demo.qcow2`.

use guestctl::{Guestfs, Result};

fn main() -> Result<()> {
    let path = std::env::args().nth(1).unwrap_or_else(|| "images/demo.qcow2".to_owned());
    let g = Guestfs::new()?;
    g.add_drive_ro(&path)?;
    g.launch()?;
    for root in g.inspect_os()? {
        println!("{root}: {} on {}", g.inspect_get_product_name(&root)?, g.inspect_get_arch(&root)?);
        for (mountpoint, device) in g.inspect_get_mountpoints(&root)? {
            g.mount_ro(&device, &mountpoint)?;
        }
        println!("{} packages", g.inspect_list_applications2(&root)?.len());
        println!("/etc/hostname: {}", g.cat("/etc/hostname")?.trim_end());
        g.umount_all()?;
    }
    g.shutdown()
}
