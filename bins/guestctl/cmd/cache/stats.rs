//! `guestctl cache stats`

use std::io::Write;

use clap::Args;

use super::since;
use crate::context::Context;
use crate::exit::Outcome;
use crate::print;

/// Show how much there is, and what was answered from it.
#[derive(Debug, Args)]
pub struct Stats {
    /// Look at events of so many days.
    #[arg(long, value_name = "N", default_value_t = 30)]
    days: u32,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Print the numbers as a textfile for Prometheus.
    #[arg(long, conflicts_with = "json")]
    prometheus: bool,
}

impl Stats {
    pub fn run(self, context: &Context) -> Outcome {
        let store = context.open()?;
        let stats = store.stats(since(self.days))?;
        if self.json {
            return Ok(print::json(&stats)?);
        }
        if self.prometheus {
            let mut out = print::stdout()?;
            out.write_all(stats.prometheus().as_bytes())?;
            return Ok(out.flush()?);
        }
        let count = |count: u64, bytes: u64| vec![count.to_string(), print::human(bytes)];
        let mut rows = vec![
            [vec!["trees".to_owned()], count(stats.trees, stats.tree_bytes)].concat(),
            [vec!["objects".to_owned()], count(stats.objects, stats.object_bytes)].concat(),
            [vec!["packed blobs".to_owned()], count(stats.packed_blobs, stats.pack_bytes)].concat(),
            [vec!["hot trees".to_owned()], count(stats.subvolumes, stats.subvolume_bytes)].concat(),
            vec!["results".to_owned(), stats.actions.to_string(), String::new()],
            vec!["names".to_owned(), stats.refs.to_string(), String::new()],
            vec!["in the trash".to_owned(), String::new(), print::human(stats.trash_bytes)],
            vec!["put aside".to_owned(), stats.quarantined.to_string(), String::new()],
            vec!["files of all trees".to_owned(), String::new(), print::human(stats.logical_bytes)],
        ];
        for (name, operation) in &stats.operations {
            let rate = format!("{:.1}%", operation.hit_rate_percent);
            rows.push(vec![
                format!("{name}: hits of {}", operation.hits + operation.misses),
                operation.hits.to_string(),
                rate,
            ]);
        }
        Ok(print::table(&["CACHE", "COUNT", "SIZE"], &[false, true, true], &rows)?)
    }
}
