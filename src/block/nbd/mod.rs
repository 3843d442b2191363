//! Disks behind the NBD protocol.

pub mod client;
pub mod protocol;
pub mod server;
mod stream;
pub mod tls;
mod uri;

pub use client::{Client, NbdOptions};
pub use stream::Stream;
pub use uri::{Address, PORT, Uri};
