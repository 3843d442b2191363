//! `guestctl cache verify`

use clap::Args;
use guestctl::cache::VerifyOptions;

use crate::context::Context;
use crate::exit::{Failure, Outcome};
use crate::progress::Shown;
use crate::{jobs, print};

/// Hold everything that is stored against its digests; exit code 8 when something is damaged.
#[derive(Debug, Args)]
pub struct Verify {
    /// Only so many percent of the objects, others each time.
    #[arg(long, value_name = "PERCENT", num_args = 0..=1, default_missing_value = "1", default_value_t = 100.0)]
    sample: f64,
    /// Put aside what is damaged, so that the next add stores it anew.
    #[arg(long)]
    repair: bool,
    /// Threads; without a number as many as there are processors.
    #[arg(short = 'j', long, value_name = "N")]
    jobs: Option<usize>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Verify {
    pub fn run(self, context: &Context) -> Outcome {
        let store = context.open()?;
        let options = VerifyOptions { sample: self.sample, repair: self.repair };
        let progress = Shown::new("verify").quiet(true);
        let report = jobs::install(context.jobs(self.jobs), || store.verify(&options, &progress))??;
        if self.json {
            print::json(&report)?;
        } else {
            let cells = |damage: &guestctl::cache::Damage| {
                let done = if damage.repaired { "put aside" } else { "" };
                vec![damage.kind.to_owned(), damage.name.clone(), damage.message.clone(), done.to_owned()]
            };
            let rows: Vec<_> = report.damage.iter().map(cells).collect();
            if rows.is_empty() {
                let row = vec![
                    report.trees.to_string(),
                    report.objects.to_string(),
                    report.packed_blobs.to_string(),
                    print::human(report.bytes),
                ];
                print::table(&["TREES", "OBJECTS", "PACKED", "READ"], &[true; 4], &[row])?;
            } else {
                print::table(&["DAMAGED", "NAME", "HOW", ""], &[false; 4], &rows)?;
            }
        }
        if report.damage.is_empty() { Ok(()) } else { Err(Failure::Answer(8)) }
    }
}
