//! `guestctl cache rm`

use clap::Args;
use guestctl::Error;

use crate::context::Context;
use crate::exit::Outcome;

/// Take names away; what they named goes with the next gc, unless something else names it.
#[derive(Debug, Args)]
pub struct Rm {
    /// A tree's name, or namespace/name; repeatable.
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
}

impl Rm {
    pub fn run(self, context: &Context) -> Outcome {
        let store = context.open()?;
        for name in &self.names {
            let (namespace, word) = name.split_once('/').unwrap_or(("trees", name));
            let named = store.get_ref(namespace, word)?;
            if !store.remove_ref(namespace, word)? {
                return Err(Error::invalid(format!("there is no tree of the name {name}"))
                    .with_hint("guestctl cache ls lists them")
                    .into());
            }
            // Without another name the tree is not wanted for the sake of a known image either.
            if let Some(tree) = named.map(|named| named.tree)
                && !store.refs()?.iter().any(|other| other.tree == tree)
            {
                store.forget(&tree)?;
            }
        }
        Ok(())
    }
}
