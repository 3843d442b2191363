//! The pool of threads that parallel work runs on.

use guestctl::{Error, Result};

/// Runs `work` on `jobs` threads, as many as there are processors without a number.
pub fn install<T: Send>(jobs: Option<usize>, work: impl FnOnce() -> T + Send) -> Result<T> {
    if jobs == Some(0) {
        return Err(Error::invalid("there must be one thread at least"));
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(jobs.unwrap_or(0)).build();
    let pool = pool.map_err(|error| Error::io("start", "threads", std::io::Error::other(error)))?;
    Ok(pool.install(work))
}

/// Processors that this program may use.
pub fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Threads for an image that a server reads: while some wait for it others write. In four runs by hand
/// twice the processors was faster than as many as processors, and four times was not.
pub fn for_servers() -> usize {
    processors() * 2
}
