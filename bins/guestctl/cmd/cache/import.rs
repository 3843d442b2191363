//! `guestctl cache import`

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use clap::Args;
use guestctl::Error;
use guestctl::progress::Silent;

use crate::context::Context;
use crate::exit::Outcome;
use crate::print;

/// Store the trees of an archive, each under the names that it had. The archive may come from anywhere.
#[derive(Debug, Args)]
pub struct Import {
    /// The archive; - for standard input.
    #[arg(value_name = "FILE")]
    input: PathBuf,
    /// Print what was stored as JSON.
    #[arg(long)]
    json: bool,
}

impl Import {
    pub fn run(self, context: &Context) -> Outcome {
        let store = context.open_or_init()?;
        let mut input: Box<dyn Read> = if self.input == Path::new("-") {
            Box::new(io::stdin().lock())
        } else {
            let file = File::open(&self.input).map_err(|error| Error::io("open", self.input.display(), error))?;
            Box::new(BufReader::with_capacity(1 << 20, file))
        };
        let imported = store.import_archive(&mut input, &Silent)?;
        if self.json {
            return Ok(print::json(&imported)?);
        }
        let cells = |imported: &guestctl::cache::Imported| {
            let report = &imported.report;
            let state = if imported.known { "known" } else { "added" };
            vec![
                imported.tree.to_string(),
                report.new_blobs.to_string(),
                print::human(report.new_bytes),
                state.to_owned(),
            ]
        };
        let rows: Vec<_> = imported.iter().map(cells).collect();
        Ok(print::table(&["TREE", "NEW", "SIZE", ""], &[false, true, true, false], &rows)?)
    }
}
