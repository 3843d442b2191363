//! `guestctl info`: what `qemu-img info` says, with the same JSON keys.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use guestctl::block::nbd::Uri;
use guestctl::block::{FormatSpecific, ImageInfo};
use guestctl::bytes::escape;

use crate::args::{OpenArgs, Output};
use crate::exit::Outcome;
use crate::print;

/// Show what an image file says about itself, or an NBD server about its exports. Nothing that an image names is opened.
#[derive(Debug, Args)]
pub struct Info {
    /// The image.
    #[arg(value_name = "IMAGE")]
    image: PathBuf,
    #[command(flatten)]
    open: OpenArgs,
    /// Show the backing files too, one after another; those that the options let in.
    #[arg(long)]
    backing_chain: bool,
    /// Print JSON with the keys of qemu-img.
    #[arg(long)]
    json: bool,
    /// The same choice in qemu-img's words.
    #[arg(long, value_enum, default_value_t = Output::Human, conflicts_with = "json")]
    output: Output,
    /// Show all exports of an NBD server, and not only that of the URI.
    #[arg(long)]
    list: bool,
}

impl Info {
    pub fn run(self) -> Outcome {
        // An NBD URI is an image when that is what the options are about.
        let as_image = self.open.format.is_some() || self.backing_chain || self.output == Output::Json;
        if self.list || (Uri::is_uri(&self.image) && !as_image) {
            return super::exports::run(&self.image, self.list, self.json, &self.open.nbd());
        }
        let options = self.open.options()?;
        if self.backing_chain {
            let chain = ImageInfo::read_chain(&self.image, &options)?;
            if self.json || self.output == Output::Json {
                return Ok(print::json(&chain)?);
            }
            for (number, info) in chain.iter().enumerate() {
                if number > 0 {
                    writeln!(print::stdout()?)?;
                }
                show(info)?;
            }
            return Ok(());
        }
        let info = ImageInfo::read(&self.image, &options)?;
        if self.json || self.output == Output::Json { Ok(print::json(&info)?) } else { show(&info) }
    }
}

fn show(info: &ImageInfo) -> Outcome {
    let mut out = print::stdout()?;
    let probed = if info.probed { " (probed)" } else { "" };
    writeln!(out, "image: {}", escape(info.filename.as_bytes()))?;
    writeln!(out, "file format: {}{probed}", info.format)?;
    writeln!(out, "virtual size: {} ({} bytes)", print::human(info.virtual_size), info.virtual_size)?;
    if let Some(size) = info.actual_size {
        writeln!(out, "disk size: {}", print::human(size))?;
    }
    if info.encrypted {
        writeln!(out, "encrypted: yes")?;
    }
    if let Some(size) = info.cluster_size {
        writeln!(out, "cluster_size: {size}")?;
    }
    if let Some(name) = &info.backing_filename {
        writeln!(out, "backing file: {}", escape(name.as_bytes()))?;
    }
    if let Some(format) = &info.backing_filename_format {
        writeln!(out, "backing file format: {}", escape(format.as_bytes()))?;
    }
    if !info.snapshots.is_empty() {
        writeln!(out, "snapshots:")?;
        for snapshot in &info.snapshots {
            let taken = guestctl::fs::Timestamp { seconds: snapshot.date_sec as i64, nanoseconds: 0 }.minute();
            writeln!(out, "    {}  {}  {taken}", escape(snapshot.id.as_bytes()), escape(snapshot.name.as_bytes()))?;
        }
    }
    specific(&mut out, info)?;
    Ok(out.flush()?)
}

/// What only one format has, as indented lines.
fn specific(out: &mut impl Write, info: &ImageInfo) -> Outcome {
    match &info.format_specific {
        Some(FormatSpecific::Qcow2 {
            compat,
            compression_type,
            refcount_bits,
            corrupt,
            extended_l2,
            data_file,
            lazy_refcounts,
            ..
        }) => {
            writeln!(
                out,
                "format specific information:\n    compat: {compat}\n    compression type: {compression_type}"
            )?;
            writeln!(out, "    refcount bits: {refcount_bits}")?;
            for (name, value) in
                [("lazy refcounts", lazy_refcounts), ("corrupt", corrupt), ("extended l2", extended_l2)]
            {
                if let Some(value) = value {
                    writeln!(out, "    {name}: {value}")?;
                }
            }
            if let Some(name) = data_file {
                writeln!(out, "    data file: {}", escape(name.as_bytes()))?;
            }
        }
        Some(FormatSpecific::Vmdk { create_type, cid, parent_cid, extents }) => {
            writeln!(out, "format specific information:\n    cid: {cid}\n    parent cid: {parent_cid}")?;
            writeln!(out, "    create type: {}\n    extents:", escape(create_type.as_bytes()))?;
            for extent in extents {
                writeln!(
                    out,
                    "        {} {} {} bytes",
                    escape(extent.filename.as_bytes()),
                    extent.format,
                    extent.virtual_size
                )?;
            }
        }
        _ => {}
    }
    Ok(())
}
