//! `guestctl cache explain`

use clap::Args;

use super::add::Add;
use crate::context::Context;
use crate::exit::Outcome;
use crate::print;

/// Say whether a guest's tree is there, and if not why: which part of its key differs from the nearest one. Takes the
/// arguments of `cache add`.
#[derive(Debug, Args)]
pub struct Explain {
    #[command(flatten)]
    add: Add,
}

impl Explain {
    pub fn run(self, context: &Context) -> Outcome {
        let store = context.open()?;
        let options = self.add.options()?;
        let Some((key, _)) = self.add.key(&store, &options, context)? else {
            let report = serde_json::json!({"hit": false, "cause": "no-image-id", "differs": [], "fix": "this format has no id: convert the image"});
            return Ok(print::json(&report)?);
        };
        let report = match store.action(&key)? {
            Some(action) => {
                serde_json::json!({"hit": true, "key": key.digest(), "trees": action.trees, "made": action.created})
            }
            None => {
                let cause = store.explain(&key)?;
                serde_json::json!({"hit": false, "key": key.digest(), "cause": cause.cause, "differs": cause.differs, "fix": cause.fix})
            }
        };
        Ok(print::json(&report)?)
    }
}
