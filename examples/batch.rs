//! Inspects many images in parallel, one handle each: `cargo run --example batch -- *.qcow2`.

use guestctl::{Guestfs, Result};
use rayon::prelude::*;

/// Host name and number of packages of the first operating system in an image.
fn summary(path: &str) -> Result<String> {
    let g = Guestfs::new()?;
    g.add_drive_ro(path)?;
    g.launch()?;
    let line = match g.inspect_os()?.first() {
        Some(root) => {
            let packages = g.inspect_list_applications2(root)?.len();
            format!("{path}: {}, {packages} packages", g.inspect_get_hostname(root)?)
        }
        None => format!("{path}: no operating system"),
    };
    g.shutdown()?;
    Ok(line)
}

fn main() -> Result<()> {
    let images: Vec<String> = std::env::args().skip(1).collect();
    images.par_iter().try_for_each(|path| {
        println!("{}", summary(path)?);
        Ok(())
    })
}
