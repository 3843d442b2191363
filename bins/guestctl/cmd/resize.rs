//! `guestctl resize`

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use guestctl::block::Preallocation;
use guestctl::ops::{self, NewSize, ResizeOptions};

use crate::args::OpenArgs;
use crate::exit::Outcome;
use crate::size;

/// Give the disk in an image another size. What is added reads as zeroes; partitions and filesystems stay as they are.
#[derive(Debug, Args)]
pub struct Resize {
    /// The image: raw or qcow2.
    #[arg(value_name = "IMAGE")]
    image: PathBuf,
    /// The new size in bytes, or with k, M, G, T; +SIZE and -SIZE count from the old one.
    #[arg(value_name = "[+|-]SIZE", value_parser = new_size, allow_hyphen_values = true)]
    size: NewSize,
    /// Let the disk become smaller. What lies past its new end is lost.
    #[arg(long)]
    shrink: bool,
    /// How much of what is added is allocated.
    #[arg(long, value_enum, default_value_t = Allocate::Off)]
    preallocation: Allocate,
    #[command(flatten)]
    open: OpenArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Allocate {
    Off,
    Falloc,
    Full,
}

fn new_size(text: &str) -> Result<NewSize, String> {
    match text.split_at_checked(1) {
        Some(("+", more)) => size::parse(more).map(NewSize::Grow),
        Some(("-", less)) => size::parse(less).map(NewSize::Shrink),
        _ => size::parse(text).map(NewSize::To),
    }
}

impl Resize {
    pub fn run(self) -> Outcome {
        let preallocation = match self.preallocation {
            Allocate::Off => Preallocation::Off,
            Allocate::Falloc => Preallocation::Falloc,
            Allocate::Full => Preallocation::Full,
        };
        let options =
            ResizeOptions { format: self.open.format, gate: self.open.gate()?, shrink: self.shrink, preallocation };
        ops::resize(&self.image, self.size, &options)?;
        Ok(())
    }
}
