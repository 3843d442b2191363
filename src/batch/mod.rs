//! Many images, one plan: each image in processes of its own, results in the order of the list, and a record from which a
//! run goes on after whatever stopped it.
//!
//! ```text
//!   Plan: images × command lines        queue ──► worker ──► guestctl inspect a.qcow2      (a process group
//!                                         │       worker ──► guestctl inspect b.qcow2       with a deadline)
//!                                         │          │
//!                    room for memory, for each device    record ──► results, in order
//! ```
//!
//! What is done with an image is a list of command lines of the program itself, with placeholders; no shell reads them. A
//! process for each is what makes a deadline, a limit of memory, and a crash that is nobody else's problem possible; it
//! costs a millisecond.
//!
//! | what happens | what comes of it |
//! |---|---|
//! | an image is corrupt, unsupported, not there | its result says so; it is not tried again |
//! | what is in the way can go away (exit code 75, EAGAIN, ESTALE, ECONNREFUSED …) | tried [`attempts`](RunOptions::attempts) times, and again by a resumed run |
//! | its command dies of a signal or a panic | tried once more, then [`Status::Crashed`] |
//! | its time is up | its process group is ended: [`Status::Timeout`] |
//! | the run is stopped | what is at work is ended, [`Status::Cancelled`], and begun again by a resumed run |
//! | the run dies (SIGKILL, power) | its commands die with it; a resumed run does what has no result. An image that was at work is worked on alone; if the run dies again it is [`Status::Crashed`] |
//!
//! Work is done on a pool of [`jobs`](RunOptions::jobs) threads that only wait for processes. Commands get so many threads
//! of their own that all together are as many as processors.
//!
//! A plan holds the whole list, and names and digest do not depend on who works on which part of it.

mod child;
mod images;
mod memory;
mod options;
mod output;
mod parent;
mod plan;
mod queue;
mod record;
mod result;
mod run;
mod summary;
mod template;
mod verdict;
mod words;
mod work;

pub use images::{expand_images, parse_list};
pub use options::RunOptions;
pub use output::Encoding;
pub use parent::enter_if_asked;
pub use plan::{Item, Plan};
pub use result::{ItemResult, Status};
pub use run::{Watch, run};
pub use summary::{Counts, Summary};
pub use words::parse_script;
