//! `guestctl cache tar-out`

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use guestctl::cache::StoredTree;
use guestctl::fs::{GuestPath, MountTable};
use guestctl::ops::{self, StreamCompression, TarOptions};

use crate::args::BulkArgs;
use crate::context::Context;
use crate::exit::{self, Outcome};
use crate::progress::Shown;
use crate::{jobs, print};

/// Write a tree as a tar archive, with all that is known of the guest's files, whatever the host can hold.
#[derive(Debug, Args)]
pub struct TarOut {
    /// The tree.
    #[arg(value_name = "TREE")]
    tree: String,
    /// The archive: complete under its name or not there at all.
    #[arg(value_name = "TARFILE")]
    archive: PathBuf,
    /// The tree's directory.
    #[arg(long, value_name = "PATH", default_value = "/")]
    below: String,
    /// none, gzip, bzip2, xz, zstd or lz4; without it the archive's name decides.
    #[arg(short = 'c', long, value_name = "COMPRESSION")]
    compress: Option<StreamCompression>,
    #[command(flatten)]
    bulk: BulkArgs,
    /// Print what was done as JSON.
    #[arg(long)]
    json: bool,
    /// Show no progress.
    #[arg(short, long)]
    quiet: bool,
}

impl TarOut {
    pub fn run(self, context: &Context) -> Outcome {
        let store = Arc::new(context.open()?);
        let tree = store.resolve(&self.tree)?;
        let mounts = MountTable::with_root("tree", Arc::new(StoredTree::open(store, &tree)?));
        let mut options = TarOptions::default();
        options.compression = self.compress.unwrap_or_else(|| StreamCompression::of_path(&self.archive));
        options.filter = self.bulk.filter()?;
        let directory = GuestPath::parse(&self.below)?;
        let progress = Shown::new("tar-out").quiet(self.quiet);
        let report = jobs::install(context.jobs(self.bulk.jobs), || {
            ops::tar_out_file(&mounts, &directory, &self.archive, &options, &progress)
        })??;
        drop(progress);
        if self.json {
            print::json(&report)?;
        }
        exit::partial(&report.problems)
    }
}
