//! `guestctl cache rm`

use clap::Args;
use guestctl::Error;
use guestctl::cache::Digest;
use serde::Serialize;

use crate::context::Context;
use crate::exit::Outcome;
use crate::print;

/// Take names away; what they named goes with the next gc, unless something else names it.
#[derive(Debug, Args)]
pub struct Rm {
    /// A tree's name, or namespace/name; repeatable.
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
    /// Print what was taken away as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Removed {
    namespace: String,
    name: String,
    tree: Option<Digest>,
    /// Whether nothing names the tree any more.
    unnamed: bool,
    /// Results that went with its last name.
    forgotten_results: u64,
}

impl Rm {
    pub fn run(self, context: &Context) -> Outcome {
        let store = context.open()?;
        let mut removed = Vec::new();
        for name in &self.names {
            let (namespace, word) = name.split_once('/').unwrap_or(("trees", name));
            let named = store.get_ref(namespace, word)?;
            if !store.remove_ref(namespace, word)? {
                return Err(Error::invalid(format!("there is no tree of the name {name}"))
                    .with_hint("guestctl cache ls lists them")
                    .into());
            }
            let tree = named.map(|named| named.tree);
            let (mut unnamed, mut forgotten_results) = (false, 0);
            // Without another name the tree is not wanted for the sake of a known image either.
            if let Some(tree) = &tree
                && !store.refs()?.iter().any(|other| other.tree == *tree)
            {
                (unnamed, forgotten_results) = (true, store.forget(tree)?);
            }
            let (namespace, name) = (namespace.to_owned(), word.to_owned());
            removed.push(Removed { namespace, name, tree, unnamed, forgotten_results });
        }
        if self.json {
            print::json(&removed)?;
        }
        Ok(())
    }
}
