//! Converts images to compressed qcow2, one after another, each on all processors:
//! `cargo run --release --example convert -- DIR *.raw`.

use std::path::Path;

use guestctl::block::{self, Compression, CompressionKind, ImageFormat, NewImage, OpenOptions};
use guestctl::ops::{self, ConvertOptions};
use guestctl::progress::Silent;

fn main() -> guestctl::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().unwrap_or_else(|| ".".to_owned());
    for image in arguments {
        let source = block::open(Path::new(&image), &OpenOptions::default())?.device;
        let mut new = NewImage::new(ImageFormat::Qcow2, source.size());
        new.compression = Some(Compression { kind: CompressionKind::Zstd, level: None });
        let name = Path::new(&image).with_extension("qcow2");
        let target = Path::new(&directory).join(name.file_name().unwrap_or_default());
        let options = ConvertOptions { verify: true, ..ConvertOptions::new(new) };
        let done = ops::convert(&source, &target, &options, &Silent)?;
        println!(
            "{image}: {} of {} bytes in {}",
            done.packed_stored + done.stored,
            done.virtual_size,
            target.display()
        );
    }
    Ok(())
}
