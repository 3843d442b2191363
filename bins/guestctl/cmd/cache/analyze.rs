//! `guestctl cache analyze`

use clap::Args;
use serde::Serialize;

use super::since;
use crate::context::Context;
use crate::exit::Outcome;
use crate::print;

/// Say what the cache was good for, and what would make it better.
#[derive(Debug, Args)]
pub struct Analyze {
    /// Look at events of so many days.
    #[arg(long, value_name = "N", default_value_t = 7)]
    days: u32,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Exit with 1 when an operation's hit rate is below this.
    #[arg(long, value_name = "PERCENT")]
    fail_below: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Row {
    operation: String,
    hits: u64,
    misses: u64,
    hit_rate_percent: f64,
    saved_ns: u64,
    saved_bytes: u64,
    most_frequent_cause: Option<String>,
    advice: &'static str,
}

/// What the guide calls a good hit rate.
const GOOD: f64 = 90.0;

fn advice(cause: Option<&str>) -> &'static str {
    match cause {
        Some("never-seen") => "prewarm the cache with these images",
        Some("image-changed") => "the images change: keep what does not read-only, in a base image",
        Some("rules-changed" | "arguments-changed") => "use the same arguments everywhere",
        Some("evicted") => "give gc more room or days, or pin trees",
        Some("operation-revised") => "the next run has it",
        _ => "",
    }
}

impl Analyze {
    pub fn run(self, context: &Context) -> Outcome {
        let stats = context.open()?.stats(since(self.days))?;
        let rows: Vec<Row> = stats
            .operations
            .into_iter()
            .map(|(operation, found)| {
                let most = found.causes.iter().max_by_key(|(_, count)| **count).map(|(cause, _)| cause.clone());
                let good = found.hit_rate_percent >= GOOD;
                Row {
                    operation,
                    hits: found.hits,
                    misses: found.misses,
                    hit_rate_percent: found.hit_rate_percent,
                    saved_ns: found.saved_ns,
                    saved_bytes: found.saved_bytes,
                    advice: if good { "" } else { advice(most.as_deref()) },
                    most_frequent_cause: most,
                }
            })
            .collect();
        let low = self.fail_below.is_some_and(|least| rows.iter().any(|row| row.hit_rate_percent < least));
        if self.json {
            print::json(&rows)?;
        } else {
            let cells = |row: &Row| {
                vec![
                    row.operation.clone(),
                    format!("{:.1}%", row.hit_rate_percent),
                    format!("{:.1} s", row.saved_ns as f64 / 1e9),
                    print::human(row.saved_bytes),
                    row.most_frequent_cause.clone().unwrap_or_default(),
                    row.advice.to_owned(),
                ]
            };
            let rows: Vec<_> = rows.iter().map(cells).collect();
            let head = ["OPERATION", "HITS", "TIME SAVED", "BYTES SAVED", "MISSES", "ADVICE"];
            print::table(&head, &[false, true, true, true, false, false], &rows)?;
        }
        if low { Err(crate::exit::Failure::Answer(1)) } else { Ok(()) }
    }
}
