//! `guestctl convert`: the guide's words and qemu-img's letters.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use guestctl::block::nbd::Uri;
use guestctl::block::{self, BlockDevice, FormatSpecific, ImageFormat, ImageInfo, OpenOptions};
use guestctl::cache::{ActionKey, Effort, Memo, Recording};
use guestctl::ops::{self, ConvertOptions, Converted, WithoutFree};
use guestctl::{Error, Result};

use crate::args::{Isolation, OpenArgs, format};
use crate::context::Context;
use crate::exit::Outcome;
use crate::new_image::{CompressionName, NewImageArgs, compress, needs_format};
use crate::progress::Shown;
use crate::{jobs, json, print, size};

/// Without reflinks an output is kept when its input takes no more than this part of the cache's free room.
const ROOM: u64 = 4;

/// Convert an image into another format: complete under its name or not at all.
///
/// What is known to be zero is skipped, what the host's filesystem can share is cloned, the rest is copied on all
/// processors. Backing files are merged into the output unless one is stated with -B.
#[derive(Debug, Args)]
pub struct Convert {
    /// The image.
    #[arg(value_name = "IN")]
    input: PathBuf,
    /// The new image, unless --output names it.
    #[arg(value_name = "OUT", required_unless_present = "output")]
    out: Option<PathBuf>,
    /// The new image.
    #[arg(long, value_name = "OUT", conflicts_with = "out")]
    output: Option<PathBuf>,
    /// The new image's format; without it the name's extension decides, else raw.
    #[arg(short = 'O', long, value_name = "FORMAT", value_parser = format)]
    format: Option<ImageFormat>,
    #[command(flatten)]
    open: OpenArgs,
    #[command(flatten)]
    isolation: Isolation,
    #[command(flatten)]
    new: NewImageArgs,
    /// Compress clusters.
    #[arg(short = 'c', long)]
    compress: bool,
    /// The kind of compression; implies --compress.
    #[arg(long, value_enum, value_name = "KIND")]
    compression: Option<CompressionName>,
    /// How hard to compress; implies --compress.
    #[arg(long, value_name = "LEVEL")]
    compression_level: Option<u8>,
    /// Merge backing files into the output. It is what happens without -B.
    #[arg(long, conflicts_with = "backing")]
    flatten: bool,
    /// Make an overlay on this image: only what differs from it is stored. The name is written as it is given.
    #[arg(short = 'B', value_name = "FILE")]
    backing: Option<String>,
    /// The backing file's format.
    #[arg(short = 'F', value_name = "FORMAT", value_parser = format, requires = "backing")]
    backing_format: Option<ImageFormat>,
    /// Convert this internal snapshot, by name or id.
    #[arg(short = 'l', long, value_name = "NAME")]
    snapshot: Option<String>,
    /// Leave out what the guest's filesystems say is free; its bytes read as zeroes afterwards.
    #[arg(long)]
    skip_free: bool,
    /// Find zeroes in data and leave them out; 0 stores them. Other sizes only say that zeroes shall be found.
    #[arg(short = 'S', long, value_name = "SIZE", default_value = "4k", value_parser = size::parse)]
    sparse: u64,
    /// Copy bytes even where the host's filesystem could share them.
    #[arg(long)]
    no_clone: bool,
    /// Write into OUT, which exists: a block device, an NBD export, an image. Its data is lost.
    #[arg(short = 'n', long, conflicts_with_all = ["backing", "compress", "compression", "verify"])]
    no_create: bool,
    /// Read the output back from storage and compare it before it gets its name.
    #[arg(long)]
    verify: bool,
    /// Threads; all processors without it.
    #[arg(short = 'm', long, value_name = "N")]
    jobs: Option<usize>,
    /// Show no progress.
    #[arg(short, long)]
    quiet: bool,
    /// Accepted for qemu-img's users: progress is shown on a terminal, and writes are never in order.
    #[arg(short = 'p', hide = true)]
    progress: bool,
    #[arg(short = 'W', hide = true)]
    out_of_order: bool,
    /// Print what was done as JSON.
    #[arg(long)]
    json: bool,
}

impl Convert {
    pub fn run(self, context: &Context) -> Outcome {
        let output = self.output.clone().or_else(|| self.out.clone()).unwrap_or_default();
        let jobs = context.jobs(self.jobs).or_else(|| Uri::is_uri(&self.input).then(jobs::for_servers));
        let report = jobs::install(jobs, || self.through_cache(&output, context))??;
        if self.json {
            let mut out = print::stdout()?;
            out.write_all(report.as_bytes())?;
            out.flush()?;
        }
        Ok(())
    }

    /// Converts, or makes the output from the cache; what was done, as JSON.
    fn through_cache(&self, output: &Path, context: &Context) -> Result<String> {
        let recording = match self.memo(output, context)? {
            Memo::Known(known) => return Ok(String::from_utf8_lossy(&known.bytes).into_owned()),
            Memo::New(recording) => *recording,
        };
        let mut report = Vec::new();
        let failed = |error| Error::io("write", "the report", error);
        json::pretty(&mut report, &self.convert(output)?).map_err(failed)?;
        let report = String::from_utf8_lossy(&report).into_owned();
        if recording.is_kept() && is_one_file(output, self.new_format(output))? {
            recording.keep_file(output, &report);
        }
        Ok(report)
    }

    /// The conversion from the cache, which makes the output, or a place for it. It has none when the output is no new file
    /// or hangs together with another, when it would take too much of the cache's room, and when the user asks for more than
    /// the output: that it is read back, that bytes are copied, that the image is opened elsewhere.
    fn memo(&self, output: &Path, context: &Context) -> Result<Memo> {
        let nowhere = || Ok(Memo::New(Box::new(Recording::nowhere())));
        let is_new_file = !output.exists() || output.is_file();
        let is_more = self.verify || self.no_clone || self.isolation.isolate;
        if self.no_create || self.backing.is_some() || !is_new_file || is_more {
            return nowhere();
        }
        let Some(store) = context.store().map(Arc::new) else { return nowhere() };
        let options = OpenOptions { snapshot: self.snapshot.clone(), ..self.open.options()? };
        // What is wrong with the image the conversion says.
        let Ok(Some(image)) = store.image_id(&self.input, &options, Effort::Whole) else { return nowhere() };
        if !store.version().reflink && image.allocated_bytes() > store.free_bytes().unwrap_or(0) / ROOM {
            return nowhere();
        }
        let format = self.new_format(output);
        let how = (self.compress, self.compression, self.compression_level, self.skip_free, self.sparse);
        // A VMDK's descriptor names its extent, which is the file itself.
        let name = output.file_name().filter(|_| format == ImageFormat::Vmdk);
        let parts = [
            ("image", image.digest().hex()),
            ("format", self.open.format.map_or("probed", ImageFormat::name).to_owned()),
            ("program", env!("CARGO_PKG_VERSION").to_owned()),
            ("arguments", format!("{} {name:?} {:?} {how:?}", format.name(), self.new)),
        ];
        let key = ActionKey::new("convert", 1, parts);
        let memo = store.memo_file(key, vec![image], &self.input.display().to_string(), output);
        memo.map_err(|error| error.in_image(self.input.display()))
    }

    /// What the new image shall be.
    fn new_format(&self, output: &Path) -> ImageFormat {
        self.format.or_else(|| by_extension(output)).unwrap_or(ImageFormat::Raw)
    }

    fn convert(&self, output: &Path) -> Result<Converted> {
        let options = OpenOptions { snapshot: self.snapshot.clone(), ..self.open.options()? };
        let image = self.isolation.open(&self.input, &options)?;
        let source = self.source(image.device)?;
        let progress = Shown::new("convert").quiet(self.quiet);
        let named = |error: Error| error.in_image(self.input.display());
        if self.no_create {
            let options = OpenOptions { format: self.format, ..self.open.options()? };
            let target = block::open_writable(output, &options)?;
            return ops::convert_into(&*source, &*target, &progress).map_err(named);
        }
        let format = self.new_format(output);
        let mut new = self.new.new_image(format, source.size())?;
        if self.compress || self.compression.is_some() || self.compression_level.is_some() {
            compress(&mut new, self.compression.map(Into::into), self.compression_level);
        }
        if let Some(backing) = &self.backing {
            new.backing = Some((backing.clone(), self.backing_format.ok_or_else(needs_format)?));
        }
        let mut convert = ConvertOptions::new(new);
        if let Some((name, format)) = &convert.new.backing {
            // The user named it, so it is opened; what it names itself goes through the gate.
            let path = output.with_file_name(name);
            let options = OpenOptions { format: Some(*format), ..self.open.options()? };
            convert.below = Some(self.isolation.open(&path, &options)?.device);
        }
        convert.detect_zeroes = self.sparse > 0;
        convert.clone = !self.no_clone;
        convert.verify = self.verify;
        convert.gate = self.open.gate()?;
        ops::convert(&*source, output, &convert, &progress).map_err(named)
    }

    /// The disk to convert: without what is free, if that is asked for.
    fn source(&self, device: std::sync::Arc<dyn BlockDevice>) -> Result<std::sync::Arc<dyn BlockDevice>> {
        Ok(if self.skip_free { std::sync::Arc::new(WithoutFree::new(device)?) } else { device })
    }
}

/// Whether the image needs no other file.
fn is_one_file(path: &Path, format: ImageFormat) -> Result<bool> {
    if format != ImageFormat::Vmdk {
        return Ok(true);
    }
    let info = ImageInfo::read(path, &OpenOptions { format: Some(format), ..OpenOptions::default() })?;
    Ok(matches!(info.format_specific, Some(FormatSpecific::Vmdk { create_type, .. })
        if matches!(&create_type[..], "monolithicSparse" | "streamOptimized")))
}

/// The format that a name's extension stands for.
fn by_extension(path: &Path) -> Option<ImageFormat> {
    match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
        "raw" | "img" | "dd" => Some(ImageFormat::Raw),
        extension => extension.parse().ok().filter(|format| *format != ImageFormat::Ova),
    }
}
