//! Disks behind the NBD protocol.

pub mod protocol;
pub mod server;
mod stream;
pub mod tls;
mod uri;

pub use stream::Stream;
pub use uri::{Address, PORT, Uri};
