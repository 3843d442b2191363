//! Disks behind the NBD protocol.

pub mod protocol;
mod stream;
pub mod tls;
mod uri;

pub use stream::Stream;
pub use uri::{Address, PORT, Uri};
