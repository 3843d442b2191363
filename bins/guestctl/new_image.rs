//! What a new image shall be, from qemu-img's `-o name=value,…` and our own options.

use clap::{Args, ValueEnum};
use guestctl::block::{Compression, CompressionKind, ImageFormat, NewImage, Preallocation};
use guestctl::{Error, Result};

use crate::size;

/// The options of new images.
#[derive(Debug, Clone, Args)]
pub struct NewImageArgs {
    /// Options of the format, as in qemu-img: compat, cluster_size, compression_type, extended_l2, lazy_refcounts,
    /// refcount_bits, subformat, preallocation, backing_file, backing_fmt; repeatable.
    #[arg(short = 'o', value_name = "NAME=VALUE,…")]
    options: Vec<String>,
    /// How much to allocate beforehand.
    #[arg(long = "preallocate", value_enum, value_name = "HOW")]
    preallocation: Option<Preallocate>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Preallocate {
    Off,
    Metadata,
    Falloc,
    Full,
}

impl From<Preallocate> for Preallocation {
    fn from(how: Preallocate) -> Self {
        match how {
            Preallocate::Off => Self::Off,
            Preallocate::Metadata => Self::Metadata,
            Preallocate::Falloc => Self::Falloc,
            Preallocate::Full => Self::Full,
        }
    }
}

/// The compression that a user may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CompressionName {
    Zlib,
    Zstd,
}

impl From<CompressionName> for CompressionKind {
    fn from(name: CompressionName) -> Self {
        match name {
            CompressionName::Zlib => Self::Zlib,
            CompressionName::Zstd => Self::Zstd,
        }
    }
}

impl NewImageArgs {
    /// The image of `size` bytes in `format` that the options describe.
    pub fn new_image(&self, format: ImageFormat, size: u64) -> Result<NewImage> {
        let mut new = NewImage::new(format, size);
        let mut backing_format = None;
        for option in self.options.iter().flat_map(|list| list.split(',')).filter(|option| !option.is_empty()) {
            let (name, value) = option.split_once('=').unwrap_or((option, "on"));
            match name {
                "backing_fmt" => backing_format = Some(value.parse()?),
                "backing_file" => new.backing = Some((value.to_owned(), ImageFormat::Raw)),
                _ => apply(&mut new, name, value)?,
            }
        }
        if let Some(how) = self.preallocation {
            new.preallocation = how.into();
        }
        match (&mut new.backing, backing_format) {
            (Some((_, format)), Some(stated)) => *format = stated,
            (Some(_), None) => return Err(needs_format()),
            (None, Some(_)) => return Err(Error::invalid("backing_fmt needs backing_file")),
            (None, None) => {}
        }
        Ok(new)
    }
}

/// A backing file without a format would be probed by every later reader, and its guest decides what it looks like.
pub fn needs_format() -> Error {
    Error::invalid("the backing file's format is not stated").with_hint("state it: -F qcow2 (or raw, …)")
}

fn apply(new: &mut NewImage, name: &str, value: &str) -> Result<()> {
    let wrong = || Error::invalid(format!("{name} cannot be '{value}'"));
    let on_off = || match value {
        "on" | "true" | "yes" => Ok(true),
        "off" | "false" | "no" => Ok(false),
        _ => Err(wrong()),
    };
    match name {
        "compat" | "version" => {
            new.version = Some(match value {
                "0.10" | "v2" | "2" => 2,
                "1.1" | "v3" | "3" => 3,
                _ => return Err(wrong()),
            });
        }
        "cluster_size" | "block_size" => new.cluster_size = Some(size::parse(value).map_err(Error::invalid)?),
        "compression_type" => {
            new.compression_type = Some(CompressionName::from_str(value, false).map_err(|_| wrong())?.into());
        }
        "extended_l2" => new.extended_l2 = on_off()?,
        "lazy_refcounts" => new.lazy_refcounts = on_off()?,
        "refcount_bits" => new.refcount_bits = Some(value.parse().map_err(|_| wrong())?),
        "subformat" => new.subformat = Some(value.to_owned()),
        "static" => new.subformat = on_off()?.then(|| "static".to_owned()),
        "preallocation" => {
            new.preallocation = Preallocate::from_str(value, false).map_err(|_| wrong())?.into();
        }
        _ => return Err(Error::invalid(format!("there is no option '{name}'"))),
    }
    Ok(())
}

/// Compresses clusters, in the kind that was asked for, that `-o` names, or that all readers know.
pub fn compress(new: &mut NewImage, kind: Option<CompressionKind>, level: Option<u8>) {
    let kind = kind.or(new.compression_type).unwrap_or(CompressionKind::Zlib);
    new.compression = Some(Compression { kind, level });
}
