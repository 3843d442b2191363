//! Things users ask for: each one file, one entry function, one options struct where there is something to choose.
//!
//! There is one walk ([`walk()`]); whatever looks at many files is an [`EntrySink`]. Parallel work starts here and above,
//! never below, on the rayon pool that the caller is in; what comes out never depends on the number of threads.

mod both;
pub mod bulk;
mod cache_add;
mod cache_profile;
mod cache_seed;
mod check;
mod checksum;
mod commit;
mod compare;
mod compress;
mod convert;
mod copy_out;
mod cpio;
mod create;
mod diff;
mod download;
mod du;
mod filter;
mod find;
mod free_space;
mod gather;
mod glob;
mod grep;
mod initrd;
mod links;
mod long;
mod map;
mod measure;
mod ordered;
mod problems;
mod rebase;
mod resize;
mod serve;
mod snapshot;
mod stream;
mod tar_out;
mod turnstile;
mod walk;
mod without_free;
mod zero;

pub use cache_add::{CACHE_ADD_REVISION, CacheAddOptions, CacheAdded, cache_add, cache_known};
pub use cache_profile::{Profile, Skipped};
pub use cache_seed::cache_seed;
pub use check::{CheckOptions, CheckReport, Repair, check};
pub use checksum::{
    Algorithm, ChecksumOptions, ChecksumReport, Digested, checksum, checksums, checksums_out, write_sum_line,
    write_sum_tag,
};
pub use commit::{CommitOptions, commit};
pub use compare::{CompareOptions, Comparison, compare};
pub use compress::StreamCompression;
pub use convert::{ConvertOptions, Converted, convert, convert_into};
pub use copy_out::{
    Clash, CopiedEntries, CopyOutOptions, CopyOutReport, FactCount, ForeignName, ForeignNames, ForeignNamesFound,
    Manifest, copy_out,
};
pub use cpio::{CpioOptions, CpioWritten, cpio_out, cpio_to};
pub use create::create;
pub use diff::{
    Change, ChangeKind, DiffEntry, DiffFact, DiffIgnore, DiffOptions, DiffProblem, DiffReport, DiffSide, DiffSink,
    TextChange, TextDiff, TextOptions, diff,
};
pub use download::{download, download_all, write_to};
pub use du::{DuLine, DuOptions, DuSink, Usage, du};
pub use filter::{Filter, Verdict};
pub use find::{
    Compare, Context as FindContext, FindOptions, FindTest, ModeTest, TimeField, find, find_each, find_with, find0,
    timestamp,
};
pub use free_space::free_ranges;
pub use glob::glob_expand;
pub use grep::{GrepEvent, GrepMode, GrepOptions, Grepped, MAX_CONTEXT, Pattern, Syntax, grep, grep_content};
pub use initrd::{InitrdEntry, InitrdVisitor, Packing, initrd_cat, initrd_each, initrd_list};
pub use long::{Owners, Row, long_listing, long_row};
pub use map::{MapEntry, map};
pub use measure::{Measured, measure};
pub use problems::{Problem, Problems};
pub use rebase::{RebaseOptions, rebase};
pub use resize::{NewSize, ResizeOptions, resize};
pub use serve::{Listener, ServeOptions, SocketFile, Stop, serve};
pub use snapshot::{SnapshotOptions, snapshot_apply, snapshot_create, snapshot_delete, snapshots};
pub use tar_out::{Tally, TarOptions, TarReport, tar_out, tar_out_file};
pub use walk::{Entry, EntrySink, Flow, Step, Visited, Walk, walk};
pub use without_free::WithoutFree;

pub(crate) use glob::matches;
pub(crate) use ordered::ordered;

pub use crate::host::{Existing, Fact, Preserve, Transferred};
