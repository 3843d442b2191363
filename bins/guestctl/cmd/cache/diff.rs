//! `guestctl cache diff`

use std::io::Write;

use clap::Args;
use guestctl::bytes::escape;
use guestctl::cache::{Change, ChangeKind};
use serde::Serialize;

use crate::context::Context;
use crate::exit::{Failure, Outcome};
use crate::{json, print};

/// Say what differs between two trees; exit code 1 when something does.
#[derive(Debug, Args)]
pub struct Diff {
    /// The first tree.
    #[arg(value_name = "TREE")]
    a: String,
    /// The second.
    #[arg(value_name = "TREE")]
    b: String,
    /// Print a JSON line for each difference.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Line<'a> {
    path: String,
    #[serde(flatten)]
    change: &'a Change,
}

impl Diff {
    pub fn run(self, context: &Context) -> Outcome {
        let store = context.open()?;
        let (a, b) = (store.tree(&store.resolve(&self.a)?)?, store.tree(&store.resolve(&self.b)?)?);
        let mut changes = Vec::new();
        guestctl::cache::diff(&a, &b, &mut |change| {
            changes.push(change);
            Ok(())
        })?;
        let mut out = print::stdout()?;
        for change in &changes {
            let path = format!("/{}", escape(&change.path));
            if self.json {
                json::line(&mut out, &Line { path, change })?;
                continue;
            }
            match change.kind {
                ChangeKind::Added => writeln!(out, "+ {path}")?,
                ChangeKind::Removed => writeln!(out, "- {path}")?,
                ChangeKind::Changed => writeln!(out, "~ {path} ({})", change.fields.join(", "))?,
            }
        }
        out.flush()?;
        if changes.is_empty() { Ok(()) } else { Err(Failure::Answer(1)) }
    }
}
