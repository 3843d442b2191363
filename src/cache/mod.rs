//! cache
mod digest;
pub mod manifest;
pub use digest::Digest;
