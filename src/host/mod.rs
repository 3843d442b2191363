//! Writing into the host's filesystem: files that appear complete or not at all, and trees that nothing in an image can
//! lead out of.

mod staged;

pub(crate) use staged::{Staged, publish_all};
