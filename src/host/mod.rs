//! Writing into the host's filesystem: files that appear complete or not at all, and trees that nothing in an image can
//! lead out of.

mod staged;
mod transfer;
mod tree;

pub(crate) use staged::{Staged, publish_all};
pub use transfer::Transferred;
pub(crate) use transfer::{Transfer, Unreadable};
pub(crate) use tree::{Attributes, NewFile, StagedTree, Tree, remove_tree, remove_unheld, umask};
pub use tree::{Existing, Fact, Preserve};
