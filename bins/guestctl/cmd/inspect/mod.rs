//! `guestctl inspect`: what is installed, as text for people, JSON (schema beside this file), YAML or virt-inspector's
//! XML.

mod report;
mod text;
mod xml;

use std::io::Write;

use clap::Args;
use report::Report;

use crate::args::ImageArgs;
use crate::context::Context;
use crate::exit::Outcome;
use crate::print;

/// The JSON Schema of `inspect --json`.
pub const SCHEMA: &str = include_str!("schema.json");

/// Say what is installed in a guest: system, hostname, mountpoints, kernels, services, users, packages.
#[derive(Debug, Args)]
pub struct Inspect {
    #[command(flatten)]
    images: ImageArgs,
    /// Print JSON; `guestctl schema` prints its JSON Schema.
    #[arg(long, group = "form")]
    json: bool,
    /// Print XML in virt-inspector's schema.
    #[arg(long, group = "form")]
    xml: bool,
    /// Print YAML with the fields of the JSON.
    #[arg(long, group = "form")]
    yaml: bool,
    /// Leave the installed packages out.
    #[arg(long)]
    no_applications: bool,
}

impl Inspect {
    pub fn run(self, context: &Context) -> Outcome {
        let g = self.images.launch_cached(context)?;
        let found = g.inspection(!self.no_applications)?;
        let report = Report::new(&self.images.image, &g.image_info()?, &found);
        if self.json {
            return Ok(print::json(&report)?);
        }
        let mut out = print::stdout()?;
        if self.xml {
            xml::write(&mut out, &report)?;
        } else if self.yaml {
            // As text first: its errors do not tell a closed pipe from others.
            out.write_all(serde_norway::to_string(&report).map_err(std::io::Error::other)?.as_bytes())?;
        } else {
            text::write(&mut out, &report)?;
        }
        Ok(out.flush()?)
    }
}
