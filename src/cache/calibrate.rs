//! What the store's filesystem is good at, measured on itself.
//!
//! A reflink costs about as much as making a small file, so small blobs are better packed; below which size depends on the
//! filesystem. Without reflinks a file is written in any case, and a pack saves opening the source.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::{Digest, random};
use crate::error::{Error, Result};
use crate::fs::Timestamp;

/// What was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Calibration {
    /// Whether files of this filesystem can share blocks.
    pub reflink: bool,
    /// Blobs of fewer bytes are better packed.
    pub pack_threshold: u64,
    /// The step in which modification times are kept.
    pub mtime_step_ns: u64,
    /// Files of 4 KiB written in a second.
    pub small_files_written_per_second: u64,
    /// Files of 64 KiB reflinked in a second; 0 when none can be.
    pub files_reflinked_per_second: u64,
}

const SIZES: [usize; 4] = [4 << 10, 8 << 10, 16 << 10, 32 << 10];
const FILES: u32 = 48;
const ROUNDS: u32 = 3;
const WITHOUT_REFLINKS: u64 = 32 << 10;

/// Measures in a directory of its own below `directory`.
pub fn measure(directory: &Path) -> Result<Calibration> {
    let scratch = directory.join(format!("calibrate-{}", random()));
    let failed = |error| Error::io("measure in", scratch.display(), error);
    std::fs::create_dir(&scratch).map_err(failed)?;
    let measured = measure_in(&scratch);
    let removed = std::fs::remove_dir_all(&scratch).map_err(failed);
    let measured = measured.map_err(failed)?;
    removed.map(|()| measured)
}

fn measure_in(scratch: &Path) -> std::io::Result<Calibration> {
    let mtime_step_ns = mtime_step(scratch)?;
    let source = scratch.join("source");
    std::fs::write(&source, vec![0x5a; 64 << 10])?;
    let source = File::open(&source)?;
    source.sync_all()?;
    let reflink = File::create(scratch.join("probe")).is_ok_and(|to| rustix::fs::ioctl_ficlone(&to, &source).is_ok());
    let best = |work: &dyn Fn(&mut File) -> std::io::Result<()>| -> std::io::Result<Duration> {
        let mut best = Duration::MAX;
        for round in 0..ROUNDS {
            let directory = scratch.join(format!("round-{round}"));
            std::fs::create_dir(&directory)?;
            let started = Instant::now();
            for file in 0..FILES {
                work(&mut File::create(directory.join(file.to_string()))?)?;
            }
            best = best.min(started.elapsed());
            std::fs::remove_dir_all(&directory)?;
        }
        Ok(best)
    };
    let write = |len: usize| {
        let bytes = vec![0xa5; len];
        best(&move |file| file.write_all(&bytes))
    };
    let per_second = |took: Duration| (f64::from(FILES) / took.as_secs_f64().max(1e-9)) as u64;
    let small_files_written_per_second = per_second(write(4 << 10)?);
    if !reflink {
        let pack_threshold = WITHOUT_REFLINKS;
        let files_reflinked_per_second = 0;
        return Ok(Calibration {
            reflink,
            pack_threshold,
            mtime_step_ns,
            small_files_written_per_second,
            files_reflinked_per_second,
        });
    }
    let cloned = best(&|file| rustix::fs::ioctl_ficlone(&*file, &source).map_err(Into::into))?;
    let mut pack_threshold = 2 << 10;
    for len in SIZES {
        // What is written must also be written back some day: a reflink wins where it is nearly as fast.
        if write(len)?.mul_f64(1.25) < cloned {
            pack_threshold = len as u64;
        }
    }
    let files_reflinked_per_second = per_second(cloned);
    Ok(Calibration {
        reflink,
        pack_threshold,
        mtime_step_ns,
        small_files_written_per_second,
        files_reflinked_per_second,
    })
}

/// 1 ns, 100 ns, 1 µs … 2 s: the first that keeps what was set.
fn mtime_step(scratch: &Path) -> std::io::Result<u64> {
    let file = File::create(scratch.join("time"))?;
    let Timestamp { seconds, .. } = Digest::of(b"time").sentinel();
    super::set_mtime(&file, Timestamp { seconds: seconds | 1, nanoseconds: 123_456_789 })?;
    let nanoseconds = std::os::unix::fs::MetadataExt::mtime_nsec(&file.metadata()?);
    let steps = [1u64, 100, 1_000, 1_000_000, 1_000_000_000];
    let kept = |step: &&u64| Ok(nanoseconds) == i64::try_from(123_456_789 / **step * **step);
    Ok(steps.iter().find(kept).copied().unwrap_or(2_000_000_000))
}
