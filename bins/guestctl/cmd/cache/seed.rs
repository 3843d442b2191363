//! `guestctl cache seed`

use std::path::PathBuf;

use clap::Args;
use guestctl::ops;

use super::add::AddArgs;
use crate::args::BulkArgs;
use crate::context::Context;
use crate::exit::Outcome;
use crate::jobs;

/// Add a directory of the host, such as a tree that was extracted before.
#[derive(Debug, Args)]
pub struct Seed {
    /// The directory; patterns mean paths below it.
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    #[command(flatten)]
    store: AddArgs,
    #[command(flatten)]
    bulk: BulkArgs,
}

impl Seed {
    pub fn run(self, context: &Context) -> Outcome {
        let mut options = self.store.options(&self.bulk, &self.directory)?;
        // The host's own times say nothing of a guest.
        options.import.keep_times = false;
        let store = context.open_or_init()?;
        self.store.classify(&store, &mut options)?;
        let progress = self.store.progress();
        let added = jobs::install(context.jobs(self.bulk.jobs), || {
            ops::cache_seed(&store, &self.directory, &options, &progress)
        })??;
        drop(progress);
        self.store.report(&added)
    }
}
