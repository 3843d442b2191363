//! `guestctl cache export`

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use clap::Args;
use guestctl::Error;
use guestctl::cache::Ref;
use guestctl::progress::Silent;

use crate::context::Context;
use crate::exit::Outcome;
use crate::print;

/// Write trees with all that they need into one tar file.
#[derive(Debug, Args)]
pub struct Export {
    /// The trees.
    #[arg(value_name = "TREE", required = true)]
    trees: Vec<String>,
    /// The file, complete under its name or not there; - for standard output.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Print what was written as JSON.
    #[arg(long)]
    json: bool,
}

impl Export {
    pub fn run(self, context: &Context) -> Outcome {
        let store = context.open()?;
        let mut refs = Vec::new();
        for name in &self.trees {
            let tree = store.resolve(name)?;
            let named = store.refs()?.into_iter().filter(|found| found.tree == tree && found.namespace == "trees");
            let before = refs.len();
            refs.extend(named.filter(|found| found.name == *name || tree.hex().starts_with(name.as_str())));
            if refs.len() == before {
                refs.push(Ref::new("trees", &tree.hex(), tree)?);
            }
        }
        let exported = if self.output == Path::new("-") {
            let descriptor = io::stdout().as_fd().try_clone_to_owned()?;
            let mut out = BufWriter::with_capacity(1 << 20, File::from(descriptor));
            let exported = store.export(&refs, &mut out, &Silent)?;
            out.flush()?;
            exported
        } else {
            store.export_file(&refs, &self.output, &Silent)?
        };
        if self.json {
            if self.output == Path::new("-") {
                return Err(
                    Error::invalid("--json needs a file for the archive: both would go to standard output").into()
                );
            }
            print::json(&exported)?;
        }
        Ok(())
    }
}
