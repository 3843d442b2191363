//! A content-addressed store of extracted trees: a guest's files are read out of an image once and brought back by reflink,
//! link or copy, as often as they are needed.
//!
//! # On disk
//!
//! This layout is a contract: tests pin its bytes. Everything has its final name only when it is complete and durable.
//!
//! ```text
//! <cache>/VERSION.json         format, hash, uuid, pack threshold, compression, features     (`version`)
//!        /objects/aa/<62 hex>  a blob: raw bytes, mode 0444, mtime told by its name; .zst in a compressed store
//!        /packs/<id>.pack .idx small blobs, in the order of the walk                          (`pack`)
//!        /trees/aa/<62>.tree   a tree's manifest: all metadata, the blobs by digest           ([`manifest`])
//!        /actions/aa/<62 hex>  a result that was computed once                                (`action`)
//!        /refs/<ns>/<name>     named roots                                                    (`refs`)
//!        /leases/<name>        locked by who uses something now                               (`lease`)
//!        /staging/<name>/      where everything is born; the name is its lease's
//!        /epochs/<name>        what was published without waiting for the disk                (`epoch`)
//!        /trash/<epoch>/       condemned by gc, found and brought back until the grace is over (`trash`)
//!        /quarantine/          damaged objects, never delivered
//!        /variants/aa/<62 hex> blobs with a guest's mode, owner and times, for hard links     (`restore`)
//!        /subvolumes/<64 hex>  hot trees as subvolumes of btrfs; losing one loses nothing      (`subvolume`)
//!        /proven/<64 hex>      of a tree: contents that were looked at; losing it loses nothing (`proof`)
//!        /events/<day>.jsonl   what happened, a line each                                     (`events`)
//!        /index/aa/<62 hex>    derived: digests of image files by what stat(2) tells; losing it loses nothing  (`identity`)
//!        /origins/<64 hex>     derived: which blobs lie where in a host file                        (`origins`)
//!        /gc.lock              turns: publishing shares it, condemning has it alone
//! ```
//!
//! # Rules
//!
//! * Blobs are on the disk before the manifest that names them has its name, and that before its ref.
//! * Objects never change. One that exists is used and not written again.
//! * Readers take no lock. gc moves what nothing refers to into the trash, from where a reader still gets it; it is deleted
//!   when its grace is over and no lease is older.
//! * What is damaged is put aside and named, and never delivered; see [`Verify`] for how closely is looked.
//! * `unsafe` and clocks take no part in what is right: times only tell what is old.
mod action;
mod activity;
mod archive;
mod bench;
mod calibrate;
mod diff;
mod digest;
mod epoch;
mod events;
mod explain;
mod gc;
mod identity;
mod import;
mod lease;
pub mod manifest;
mod memo;
mod objects;
mod origins;
mod pack;
mod proof;
mod record;
mod refs;
mod restore;
mod stats;
mod store;
mod subvolume;
mod trash;
mod tree_fs;
mod verify;
mod version;

use std::fs::File;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

pub use action::{Action, ActionKey, Flight};
pub use activity::{Activity, Operation, Times};
pub use archive::Exported;
pub use bench::{BENCH_FILE_BYTES, Benchmark, Calls, benchmark};
pub use calibrate::{Calibration, measure};
pub use diff::{Change, ChangeKind, diff};
pub use digest::Digest;
pub use events::{Event, EventKind, nanoseconds_since};
pub use explain::Cause;
pub use gc::{GcOptions, GcReport, Lifetimes};
pub use identity::{Effort, ImageId};
pub use import::{Described, Durability, Import, ImportOptions, ImportReport, Imported, Prepared, Source};
pub use lease::Lease;
pub use memo::{Known, Memo, Recording, Tee};
pub use objects::Verify;
pub use origins::{Origin, Origins};
pub use refs::{Class, Ref, name_from};
pub use restore::{Chosen, RestoreOptions, RestoreReport, Rewrite, Strategy};
pub use stats::Stats;
pub use store::{InitOptions, Store};
pub use tree_fs::StoredTree;
pub use verify::{Damage, VerifyOptions, VerifyReport};
pub use version::{Compression, Features, Version};

use crate::error::{Error, Result};
use crate::fs::Timestamp;

/// Sixteen hexadecimal digits that no other name has.
fn random() -> String {
    use std::hash::{BuildHasher, Hasher, RandomState};
    use std::sync::atomic::{AtomicU64, Ordering};
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u64(COUNT.fetch_add(1, Ordering::Relaxed));
    hasher.write_u32(std::process::id());
    format!("{:016x}", hasher.finish())
}

fn new_uuid() -> String {
    let text = random() + &random();
    let mut bytes = [0; 16];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = text.get(at * 2..at * 2 + 2).and_then(|digits| u8::from_str_radix(digits, 16).ok()).unwrap_or(0);
    }
    // Version 4, variant 1 (RFC 9562).
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    crate::bytes::uuid_text(&bytes)
}

/// Which start of the machine this is.
fn boot_id() -> String {
    let read = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    read.map(|text| text.trim().to_owned()).unwrap_or_else(|_| "unknown-boot".to_owned())
}

/// Seconds since 1970.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

fn set_mtime(file: &File, time: Timestamp) -> std::io::Result<()> {
    let time = rustix::fs::Timespec { tv_sec: time.seconds, tv_nsec: time.nanoseconds.into() };
    let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
    rustix::fs::futimens(file, &times).map_err(Into::into)
}

/// Gives a finished file of the store its mode, and the time that its name tells.
fn seal(file: &File, path: &Path, name: &Digest) -> Result<()> {
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o444);
    let sealed = file.set_permissions(mode).and_then(|()| set_mtime(file, name.sentinel()));
    sealed.map_err(|error| Error::io("seal", path.display(), error))
}
