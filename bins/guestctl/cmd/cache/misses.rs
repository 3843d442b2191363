//! `guestctl cache misses`

use clap::Args;
use guestctl::cache::{Event, EventKind};
use guestctl::fs::Timestamp;

use super::since;
use crate::context::Context;
use crate::exit::Outcome;
use crate::print;

/// List results that had to be made, with the cause of each.
#[derive(Debug, Args)]
pub struct Misses {
    /// Look at events of so many days.
    #[arg(long, value_name = "N", default_value_t = 7)]
    days: u32,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Misses {
    pub fn run(self, context: &Context) -> Outcome {
        let mut events = context.open()?.events(since(self.days))?;
        events.retain(|event| event.event == EventKind::Miss);
        if self.json {
            return Ok(print::json(&events)?);
        }
        let cells = |event: &Event| {
            let at = Timestamp { seconds: event.at, nanoseconds: 0 }.minute();
            vec![at, event.operation.clone(), event.cause.clone(), event.subject.clone()]
        };
        let rows: Vec<_> = events.iter().map(cells).collect();
        Ok(print::table(&["AT", "OPERATION", "CAUSE", "SUBJECT"], &[false; 4], &rows)?)
    }
}
