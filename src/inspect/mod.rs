//! What is installed in a guest.
#![deny(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::as_conversions)]
#![cfg_attr(test, allow(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::as_conversions))]

mod guest;
pub mod packages;

pub use guest::Guest;
pub use packages::{Package, PackageFormat, PackageList, packages};
