//! `guestctl cache gc`

use std::time::Duration;

use clap::Args;
use guestctl::cache::{GcOptions, Lifetimes};

use crate::context::Context;
use crate::exit::Outcome;
use crate::{duration, print, size};

/// Remove what nothing refers to. Runs beside everything else; what it condemns can be brought back until the grace is over.
#[derive(Debug, Args)]
pub struct Gc {
    /// Names and results that were not used for so many days go first. Without it the settings file's days, if any.
    #[arg(long, value_name = "N")]
    days: Option<u32>,
    /// When there is more than this, what was not used for longest goes, until --low-water percent of it are left. Without it
    /// the settings file's max_size, if any.
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    max_size: Option<u64>,
    /// In percent of --max-size.
    #[arg(long, value_name = "PERCENT", default_value_t = 80, value_parser = clap::value_parser!(u8).range(0..=100))]
    low_water: u8,
    /// How long what is of the class normal lives after it was made: 90m, 24h, 30d. Without it the settings file's, else for
    /// ever.
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    ttl_normal: Option<Duration>,
    /// The same of the class short. Without it the settings file's, else a day.
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    ttl_short: Option<Duration>,
    /// Hours until what was condemned is deleted.
    #[arg(long, value_name = "HOURS", default_value_t = 24)]
    grace: u64,
    /// Only say what would go.
    #[arg(long)]
    dry_run: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Gc {
    pub fn run(self, context: &Context) -> Outcome {
        let store = context.open()?;
        let grace = Duration::from_secs(self.grace.saturating_mul(3600));
        let settings = &context.settings;
        let lifetimes = Lifetimes {
            normal: self.ttl_normal.or(settings.ttl_normal.value),
            short: self.ttl_short.unwrap_or(settings.ttl_short.value),
        };
        let days = self.days.or(settings.cache_days.value);
        let max_size = self.max_size.or(settings.cache_max_size.value);
        let (low_water, dry_run) = (self.low_water, self.dry_run);
        let report = store.gc(&GcOptions { days, max_size, low_water, lifetimes, grace, dry_run })?;
        if self.json {
            return Ok(print::json(&report)?);
        }
        let rows = [
            ("in the cache", print::human(report.store_bytes)),
            ("names expired", report.expired_refs.to_string()),
            ("results expired", report.expired_actions.to_string()),
            ("trees in use", report.live_trees.to_string()),
            ("trees condemned", report.condemned_trees.to_string()),
            ("objects condemned", report.condemned_objects.to_string()),
            ("packs condemned", report.condemned_packs.to_string()),
            ("packs made anew", report.compacted_packs.to_string()),
            ("hot trees removed", report.removed_subvolumes.to_string()),
            ("condemned", print::human(report.condemned_bytes)),
            ("deleted", print::human(report.deleted_bytes)),
            ("left by killed programs", report.abandoned_stagings.to_string()),
        ];
        let rows: Vec<_> = rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect();
        Ok(print::table(&[if self.dry_run { "WOULD GO" } else { "GC" }, ""], &[false, true], &rows)?)
    }
}
