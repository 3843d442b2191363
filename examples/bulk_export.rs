//! Exports many images' trees as compressed tar archives, one image on each thread:
//! `cargo run --release --example bulk_export -- DIR *.qcow2`.
//!
//! An image that cannot be exported is reported and does not stop the others. (`guestctl batch --op tar` does the same in a
//! process for each image, with deadlines, and can be resumed.)

use std::path::{Path, PathBuf};

use guestctl::{Error, ErrorKind, Guestfs, Result};
use rayon::prelude::*;

/// Writes the archive of an image's first operating system, and says how many bytes it has.
fn export(image: &Path, directory: &Path) -> Result<(PathBuf, u64)> {
    let g = Guestfs::new()?;
    g.add_drive_ro(image)?;
    g.launch()?;
    let roots = g.inspect_os()?;
    let root = roots.first().ok_or_else(|| Error::invalid("no operating system").in_image(image.display()))?;
    g.mount_inspected(root)?;
    let mut name = image.file_name().unwrap_or_default().to_owned();
    name.push(".tar.zst");
    let archive = directory.join(name);
    // Complete under its name or not there.
    g.tar_out_opts("/", &archive, Some("zstd"))?;
    g.shutdown()?;
    let size = std::fs::metadata(&archive).map_err(|error| Error::io("read", archive.display(), error))?.len();
    Ok((archive, size))
}

fn main() -> Result<()> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let directory = arguments.next().ok_or_else(|| Error::invalid("usage: bulk_export DIR IMAGE..."))?;
    std::fs::create_dir_all(&directory).map_err(|error| Error::io("make", directory.display(), error))?;
    let images: Vec<PathBuf> = arguments.collect();
    // Results come in the order of the arguments, whoever is done first.
    let done: Vec<Result<(PathBuf, u64)>> = images.par_iter().map(|image| export(image, &directory)).collect();
    let mut failed = 0;
    for (image, done) in images.iter().zip(done) {
        match done {
            Ok((archive, size)) => println!("{}: {} with {size} bytes", image.display(), archive.display()),
            Err(error) => {
                failed += 1;
                eprintln!("{error}");
            }
        }
    }
    match failed {
        0 => Ok(()),
        failed => Err(ErrorKind::Partial(format!("{failed} of {} images", images.len())).into()),
    }
}
