//! Things users ask for: each one file, one entry function, one options struct where there is something to choose.
//!
//! There is one walk ([`walk()`]); whatever looks at many files is an [`EntrySink`]. Parallel work starts here and above,
//! never below, on the rayon pool that the caller is in; what comes out never depends on the number of threads.

mod check;
mod checksum;
mod compare;
mod convert;
mod create;
mod download;
mod find;
mod glob;
mod long;
mod map;
mod measure;
mod serve;
mod staged;
mod walk;
mod zero;

pub use check::{CheckOptions, CheckReport, Repair, check};
pub use checksum::{Algorithm, checksum};
pub use compare::{CompareOptions, Comparison, compare};
pub use convert::{ConvertOptions, Converted, convert, convert_into};
pub use create::create;
pub use download::{download, write_to};
pub use find::{find, find_each, find0};
pub use glob::glob_expand;
pub use long::{Owners, Row, long_listing, long_row};
pub use map::{MapEntry, map};
pub use measure::{Measured, measure};
pub use serve::{Listener, ServeOptions, SocketFile, Stop, serve};
pub use walk::{Entry, EntrySink, Flow, walk};
