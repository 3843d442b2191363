//! `guestctl create`

use std::path::PathBuf;

use clap::Args;
use guestctl::block::{self, ImageFormat, OpenOptions};
use guestctl::{Error, ops};

use crate::args::{OpenArgs, format};
use crate::exit::Outcome;
use crate::new_image::{NewImageArgs, needs_format};
use crate::size;

/// Make a new, empty image, or an overlay on a backing file.
#[derive(Debug, Args)]
pub struct Create {
    /// The new image's format.
    #[arg(short = 'f', short_alias = 'O', long, value_name = "FORMAT", value_parser = format, default_value = "raw")]
    format: ImageFormat,
    #[command(flatten)]
    new: NewImageArgs,
    /// Make an overlay on this image. The name is written as it is given, and seen from the new image's directory.
    #[arg(short = 'b', value_name = "FILE")]
    backing: Option<String>,
    /// The backing file's format.
    #[arg(short = 'F', value_name = "FORMAT", value_parser = format)]
    backing_format: Option<ImageFormat>,
    /// Do not open the backing file; SIZE must be stated.
    #[arg(short = 'u', requires = "size")]
    unsafe_backing: bool,
    /// The new image.
    #[arg(value_name = "IMAGE")]
    image: PathBuf,
    /// Bytes of the disk, with k, M, G or T; that of the backing file without it.
    #[arg(value_name = "SIZE", value_parser = size::parse)]
    size: Option<u64>,
    /// Open files that the backing file names if they lie in or below this directory; repeatable.
    #[arg(long, value_name = "DIR")]
    allow_backing: Vec<PathBuf>,
    /// Open files that the backing file names if they lie in its own directory.
    #[arg(long, conflicts_with = "allow_backing")]
    allow_same_dir: bool,
    /// Say nothing; there is nothing to say.
    #[arg(short, long, hide = true)]
    quiet: bool,
}

impl Create {
    pub fn run(self) -> Outcome {
        let mut new = self.new.new_image(self.format, 0)?;
        if let Some(backing) = &self.backing {
            new.backing = Some((backing.clone(), self.backing_format.ok_or_else(needs_format)?));
        }
        new.size = match (self.size, &new.backing) {
            (Some(size), None) => size,
            (Some(size), Some(_)) if self.unsafe_backing => size,
            (size, Some((name, format))) => {
                let open = OpenArgs {
                    format: Some(*format),
                    allow_backing: self.allow_backing.clone(),
                    allow_same_dir: self.allow_same_dir,
                    nbd_timeout: None,
                };
                let options = OpenOptions { format: Some(*format), ..open.options()? };
                // Opened even where the size is stated: an overlay on nothing is a mistake.
                let below = block::open(&self.image.with_file_name(name), &options)?.device;
                size.unwrap_or(below.size())
            }
            (None, None) => return Err(Error::invalid("the disk's size is not stated").into()),
        };
        Ok(ops::create(&self.image, &new)?)
    }
}
