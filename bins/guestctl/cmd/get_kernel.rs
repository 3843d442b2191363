//! `guestctl get-kernel`

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use guestctl::bytes::escape;
use guestctl::{Error, GetKernelOptions};

use crate::args::ImageArgs;
use crate::exit::Outcome;
use crate::print;
use crate::progress::Shown;

/// Copy a guest's newest kernel, its initial RAM disk and its command line out: all of them or none.
#[derive(Debug, Args)]
#[command(after_help = JSON)]
pub struct GetKernel {
    #[command(flatten)]
    images: ImageArgs,
    /// Into this directory.
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    output: PathBuf,
    /// Without a version in their names: vmlinuz, initrd.img, cmdline.
    #[arg(long)]
    unversioned_names: bool,
    /// With this and a hyphen before their names.
    #[arg(long, value_name = "PREFIX")]
    prefix: Option<String>,
    /// The root of the operating system, where there are several.
    #[arg(long, value_name = "DEVICE")]
    root: Option<String>,
    /// Print what would be copied as JSON, and copy nothing.
    #[arg(long)]
    json: bool,
}

const JSON: &str = "JSON: root, version, kind (image or uki), default (whether it boots unless someone chooses), \
                    command_line, files: a list of role (kernel, initrd, cmdline), guest_path (null for the command line), \
                    host_path, size_bytes.";

impl GetKernel {
    pub fn run(self) -> Outcome {
        if self.prefix.as_deref().is_some_and(|prefix| prefix.contains('/')) {
            return Err(Error::invalid("a prefix of names holds no /").with_hint("-o chooses the directory").into());
        }
        let g = self.images.launch()?;
        let image = self.images.image.display();
        let roots = g.inspect_os()?;
        let root = match (&self.root, &roots[..]) {
            (Some(root), _) => root,
            (None, [root]) => root,
            (None, []) => {
                return Err(Error::invalid("there is no operating system on the disk").in_image(image).into());
            }
            (None, roots) => {
                let message = format!("there are {} operating systems: {}", roots.len(), roots.join(", "));
                return Err(Error::invalid(message).in_image(image).with_hint("choose one with --root").into());
            }
        };
        let options = GetKernelOptions {
            directory: self.output.clone(),
            unversioned_names: self.unversioned_names,
            prefix: self.prefix.clone(),
        };
        if self.json {
            return Ok(print::json(&g.newest_kernel(root, &options).map_err(|error| error.in_image(image))?)?);
        }
        let progress = Shown::new("get-kernel");
        let kernel = g.get_kernel(root, &options, &progress).map_err(|error| error.in_image(image))?;
        drop(progress);
        let mut out = print::stdout()?;
        for file in &kernel.files {
            let from = file.guest_path.as_deref().unwrap_or("command line");
            writeln!(out, "{} -> {}", escape(from.as_bytes()), file.host_path.display())?;
        }
        Ok(out.flush()?)
    }
}
