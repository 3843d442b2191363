//! `guestctl cache pin`

use clap::Args;
use guestctl::cache::{Class, Digest, Ref};
use serde::Serialize;

use crate::context::Context;
use crate::exit::Outcome;
use crate::print;

/// Keep a tree, however old it is and however full the cache.
#[derive(Debug, Args)]
pub struct Pin {
    /// The tree.
    #[arg(value_name = "TREE")]
    tree: String,
    /// Do not keep it any more; its other names stay.
    #[arg(long)]
    remove: bool,
    /// Print what was done as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    tree: Digest,
    pinned: bool,
    /// Whether that was not so before.
    changed: bool,
}

impl Pin {
    pub fn run(self, context: &Context) -> Outcome {
        let store = context.open()?;
        let tree = store.resolve(&self.tree)?;
        let changed = if self.remove {
            store.remove_ref("pins", &tree.hex())?
        } else {
            let before = store.get_ref("pins", &tree.hex())?;
            store.set_ref(&Ref { class: Class::Pinned, ..Ref::new("pins", &tree.hex(), tree)? })?;
            before.is_none()
        };
        if self.json {
            print::json(&Report { tree, pinned: !self.remove, changed })?;
        }
        Ok(())
    }
}
