//! `guestctl cache ls`

use clap::Args;
use guestctl::cache::Ref;
use guestctl::fs::Timestamp;
use serde::Serialize;

use crate::context::Context;
use crate::exit::Outcome;
use crate::print;

/// List trees and what names them.
#[derive(Debug, Args)]
pub struct Ls {
    /// Trees without a name, too.
    #[arg(short, long)]
    all: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Row {
    tree: String,
    entries: u32,
    bytes: u64,
    #[serde(flatten)]
    reference: Option<Ref>,
}

impl Ls {
    pub fn run(self, context: &Context) -> Outcome {
        let store = context.open()?;
        let refs = store.refs()?;
        let mut rows = Vec::new();
        let unnamed = store.trees()?.into_iter().filter(|id| self.all && !refs.iter().any(|found| found.tree == *id));
        for (tree, reference) in
            refs.iter().map(|found| (found.tree, Some(found.clone()))).chain(unnamed.map(|id| (id, None)))
        {
            let entries = store.tree(&tree)?.len();
            rows.push(Row { tree: tree.to_string(), entries, bytes: store.tree_bytes(&tree)?, reference });
        }
        if self.json {
            return Ok(print::json(&rows)?);
        }
        let cells = |row: &Row| {
            let name = row.reference.as_ref().map_or(String::new(), |found| match found.namespace.as_str() {
                "trees" => found.name.clone(),
                other => format!("{other}/{}", found.name),
            });
            let made =
                row.reference.as_ref().map(|found| Timestamp { seconds: found.created, nanoseconds: 0 }.minute());
            let tree = row.tree.get(..12).unwrap_or_default().to_owned();
            let class = row.reference.as_ref().map_or("", |found| found.class.name()).to_owned();
            vec![name, tree, row.entries.to_string(), print::human(row.bytes), class, made.unwrap_or_default()]
        };
        let rows: Vec<_> = rows.iter().map(cells).collect();
        Ok(print::table(
            &["NAME", "TREE", "ENTRIES", "SIZE", "CLASS", "ADDED"],
            &[false, false, true, true, false, false],
            &rows,
        )?)
    }
}
