//! `guestctl cache top`

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Args;
use guestctl::cache::{Activity, Operation, Store, Times};
use guestctl::fs::Timestamp;
use serde::Serialize;

use super::target::Target;
use crate::context::Context;
use crate::exit::Outcome;
use crate::{duration, interrupt, json, print};

/// Show what is asked of the cache and how fast it answers, until it is interrupted.
#[derive(Debug, Args)]
pub struct Top {
    /// Look at so much time.
    #[arg(long, value_name = "TIME", default_value = "1d", value_parser = duration::parse)]
    since: Duration,
    /// Time between two tables.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration::parse)]
    interval: Duration,
    /// One table, and no more.
    #[arg(long)]
    once: bool,
    /// Print a line of JSON each time.
    #[arg(long)]
    json: bool,
}

/// Counting what is in a store takes longer than reading what happened.
const COUNT_EVERY: Duration = Duration::from_secs(10);

#[derive(Debug, Serialize)]
struct Line<'a> {
    /// Seconds since 1970.
    at: i64,
    directory: String,
    since_seconds: u64,
    stored_bytes: u64,
    operations: &'a BTreeMap<String, Operation>,
    restores: u64,
    restored_bytes: u64,
    targets: Vec<Target>,
}

impl Top {
    pub fn run(self, context: &Context) -> Outcome {
        let store = context.open()?;
        let mut counted = (store.stored_bytes()?, Instant::now());
        loop {
            let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let at = i64::try_from(at.as_secs()).unwrap_or(i64::MAX);
            let since = at.saturating_sub_unsigned(self.since.as_secs());
            if counted.1.elapsed() > COUNT_EVERY {
                counted = (store.stored_bytes()?, Instant::now());
            }
            let activity = store.activity(since)?;
            self.print(&store, at, counted.0, &activity)?;
            if self.once || self.wait() {
                return Ok(());
            }
        }
    }

    /// Waits for the next turn; true when there is none, because the user has seen enough.
    fn wait(&self) -> bool {
        let until = Instant::now() + self.interval;
        while !interrupt::wanted() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            std::thread::sleep(left.min(Duration::from_millis(100)));
        }
        true
    }

    fn print(&self, store: &Store, at: i64, stored_bytes: u64, activity: &Activity) -> Outcome {
        let directory = store.path().display().to_string();
        let targets = targets(activity);
        let mut out = print::stdout()?;
        if self.json {
            let (since_seconds, operations) = (self.since.as_secs(), &activity.operations);
            let Activity { restores, restored_bytes, .. } = *activity;
            let line =
                Line { at, directory, since_seconds, stored_bytes, operations, restores, restored_bytes, targets };
            json::line(&mut out, &line)?;
            return Ok(out.flush()?);
        }
        if !self.once && std::io::stdout().is_terminal() {
            // Clears the screen and begins at its top.
            write!(out, "\x1b[H\x1b[2J")?;
        }
        let now = Timestamp { seconds: at, nanoseconds: 0 }.minute();
        writeln!(out, "{directory}: {} stored, {now}\n", print::human(stored_bytes))?;
        out.flush()?;
        let rows: Vec<_> = activity.operations.iter().map(|(name, operation)| row(name, operation)).collect();
        let head = ["OPERATION", "HITS", "MISSES", "RATE", "HIT", "95%", "MISS", "95%", "TIME SAVED", "BYTES SAVED"];
        let mut right = [true; 10];
        right[0] = false;
        print::table(&head, &right, &rows)?;
        writeln!(out)?;
        out.flush()?;
        let rows: Vec<_> = targets.iter().map(target_row).collect();
        print::table(&["TARGET", "FOUND", "WANTED", "STATUS"], &[false, true, true, false], &rows)?;
        if !self.once {
            writeln!(out)?;
            out.flush()?;
        }
        Ok(())
    }
}

/// What a cache shall do: answer nine times of ten, at once, and deliver as fast as disks do.
fn targets(activity: &Activity) -> Vec<Target> {
    let sum = |count: &dyn Fn(&Operation) -> u64| activity.operations.values().map(count).sum::<u64>() as f64;
    let (hits, misses) = (sum(&|operation| operation.hits), sum(&|operation| operation.misses));
    let rate = (hits + misses > 0.0).then(|| hits * 100.0 / (hits + misses));
    let latency = activity.hit_time.map(|time| time.median_ns as f64 / 1e6);
    let delivered =
        (activity.restored_ns > 0).then(|| activity.restored_bytes as f64 / 1e6 / (activity.restored_ns as f64 / 1e9));
    vec![
        Target::above("hit-rate", "percent", 90.0, rate),
        Target::below("hit-latency", "ms", 100.0, latency),
        Target::above("delivered", "MB/s", 50.0, delivered),
    ]
}

fn row(name: &str, operation: &Operation) -> Vec<String> {
    let time = |times: Option<Times>, which: fn(Times) -> u64| {
        times.map_or("-".to_owned(), |times| milliseconds(which(times)))
    };
    vec![
        name.to_owned(),
        operation.hits.to_string(),
        operation.misses.to_string(),
        format!("{:.1}%", operation.hit_rate_percent),
        time(operation.hit_time, |times| times.median_ns),
        time(operation.hit_time, |times| times.p95_ns),
        time(operation.miss_time, |times| times.median_ns),
        time(operation.miss_time, |times| times.p95_ns),
        format!("{:.1} s", operation.saved_ns as f64 / 1e9),
        print::human(operation.saved_bytes),
    ]
}

fn milliseconds(nanoseconds: u64) -> String {
    format!("{:.1} ms", nanoseconds as f64 / 1e6)
}

fn target_row(target: &Target) -> Vec<String> {
    let sign = if target.wanted == "above" { ">" } else { "<" };
    vec![
        target.name.replace('-', " "),
        target.found.map_or("-".to_owned(), |found| format!("{found:.1} {}", target.unit)),
        format!("{sign} {} {}", target.target, target.unit),
        target.status.to_owned(),
    ]
}
