//! Why a result had to be made: the stored result whose key is nearest, and where it differs.

use serde::Serialize;

use super::action::ActionKey;
use super::store::{Store, list_sharded};
use crate::error::Result;

/// Why there was no result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cause {
    /// A stable word: `never-seen`, `image-changed`, `arguments-changed`, `rules-changed`, `operation-revised`, `evicted`.
    pub cause: &'static str,
    /// The parts of the key that differ from those of the nearest result.
    pub differs: Vec<String>,
    /// What can be done.
    pub fix: &'static str,
}

impl Store {
    /// Why there is no result under a key.
    pub fn explain(&self, key: &ActionKey) -> Result<Cause> {
        self.explain_among(key, usize::MAX)
    }

    /// The same with a look at no more than so many results: a miss must not cost more the more there are.
    pub(super) fn explain_among(&self, key: &ActionKey, most: usize) -> Result<Cause> {
        let mut nearest: Option<Vec<String>> = None;
        for digest in list_sharded(&self.path().join("actions"), "")?.into_iter().take(most) {
            let Some(action) = self.read_action(&digest)?.filter(|action| action.key.operation == key.operation) else {
                continue;
            };
            let mut differs: Vec<String> = key
                .parts
                .iter()
                .filter(|(name, value)| action.key.parts.get(*name) != Some(value))
                .map(|(name, _)| name.clone())
                .collect();
            differs.extend(action.key.parts.keys().filter(|name| !key.parts.contains_key(*name)).cloned());
            if action.key.revision != key.revision {
                differs.push("revision".to_owned());
            }
            if nearest.as_ref().is_none_or(|best| differs.len() < best.len()) {
                nearest = Some(differs);
            }
        }
        let Some(differs) = nearest else {
            let cause = Cause { cause: "never-seen", differs: Vec::new(), fix: "prewarm the cache with this image" };
            return Ok(cause);
        };
        let has = |name: &str| differs.iter().any(|differs| differs == name);
        let (cause, fix) = if differs.is_empty() {
            ("evicted", "give gc more room (--max-size) or days, or pin the tree")
        } else if has("image") && differs.len() == 1 {
            ("image-changed", "nothing: the content is another; keep images that do not change read-only")
        } else if has("revision") || has("program") {
            ("operation-revised", "nothing: this version computes something else")
        } else if has("rules") || has("profiles") {
            ("rules-changed", "use the same excludes, includes and profiles everywhere")
        } else if has("image") {
            ("never-seen", "prewarm the cache with this image")
        } else {
            ("arguments-changed", "use the same arguments everywhere")
        };
        Ok(Cause { cause, differs, fix })
    }
}
