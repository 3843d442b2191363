//! How a plan is run.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// How a plan is run. None of it changes what comes out for an image that is well.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RunOptions {
    /// Images at work at once; without a number as many as there are processors. The processors are shared out among their
    /// commands.
    pub jobs: Option<usize>,
    /// Images of one device of the host (`st_dev`) at work at once. Images that are not files have no such limit.
    pub io_depth: usize,
    /// Bytes of memory for all commands at work; without a number three quarters of what this system and the control groups
    /// of this process leave. One image is always admitted.
    pub memory_budget: Option<u64>,
    /// Bytes of memory that one image's command is taken to use.
    pub memory_per_image: u64,
    /// Bytes of address space that a command may have; a command that asks for more fails.
    pub memory_limit: Option<u64>,
    /// How long one attempt may take, all command lines together.
    pub timeout: Option<Duration>,
    /// How long a command may take to end when it is asked to (SIGTERM), before it is made to (SIGKILL).
    pub grace: Duration,
    /// How often an image is tried in all when what is in the way can go away.
    pub attempts: u32,
    /// The time before the second attempt; each further one waits four times as long, a minute at most.
    pub backoff: Duration,
    /// Stop at the first image that does not succeed, and end what is at work.
    pub fail_fast: bool,
    /// Where the run is recorded, so that it can be resumed: module [`batch`](super).
    pub run_directory: Option<PathBuf>,
    /// In a resumed run, try again what did not succeed.
    pub retry_failed: bool,
    /// Write what the commands print into files of this directory, `NAME.out`, and not into results.
    pub output_directory: Option<PathBuf>,
    /// Arguments before each command line, such as which cache to use: what holds for all of them and is no part of the plan.
    pub leading_arguments: Vec<OsString>,
    /// The program whose subcommands the lines are; without one this program again, which must have called
    /// [`enter_if_asked`](super::enter_if_asked).
    pub program: Option<PathBuf>,
}

impl Default for RunOptions {
    fn default() -> Self {
        Self {
            jobs: None,
            io_depth: 4,
            memory_budget: None,
            memory_per_image: 256 << 20,
            memory_limit: None,
            timeout: Some(Duration::from_secs(3600)),
            grace: Duration::from_secs(2),
            attempts: 3,
            backoff: Duration::from_millis(250),
            fail_fast: false,
            run_directory: None,
            retry_failed: false,
            output_directory: None,
            leading_arguments: Vec::new(),
            program: None,
        }
    }
}
