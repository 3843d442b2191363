//! `guestctl cache pin`

use clap::Args;
use guestctl::cache::{Class, Ref};

use crate::context::Context;
use crate::exit::Outcome;

/// Keep a tree, however old it is and however full the cache.
#[derive(Debug, Args)]
pub struct Pin {
    /// The tree.
    #[arg(value_name = "TREE")]
    tree: String,
    /// Do not keep it any more; its other names stay.
    #[arg(long)]
    remove: bool,
}

impl Pin {
    pub fn run(self, context: &Context) -> Outcome {
        let store = context.open()?;
        let tree = store.resolve(&self.tree)?;
        if self.remove {
            store.remove_ref("pins", &tree.hex())?;
            return Ok(());
        }
        Ok(store.set_ref(&Ref { class: Class::Pinned, ..Ref::new("pins", &tree.hex(), tree)? })?)
    }
}
