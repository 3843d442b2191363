//! What a program does that a batch starts: it ends when the batch does, however that ends, and bounds its own memory.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::{Resource, Rlimit, Signal, getppid, set_parent_process_death_signal, setrlimit};

/// The environment variable with the number of the batch's process.
pub(super) const PARENT: &str = "GUESTCTL_BATCH_PARENT";

/// The environment variable with the bytes of address space that a command may have. The batch sets the limit too, but the
/// command may be at work by then.
pub(super) const MEMORY: &str = "GUESTCTL_BATCH_MEMORY";

/// Whether this program can be started by a batch.
static KNOWS: AtomicBool = AtomicBool::new(false);

/// To be called first in `main` by a program that a batch may start. If one has, this process will be killed when that
/// process ends, even by SIGKILL, so that nothing works on images behind the back of a resumed run. Gives an exit code if it
/// has ended already.
#[must_use]
pub fn enter_if_asked() -> Option<ExitCode> {
    KNOWS.store(true, Ordering::Relaxed);
    let parent: i32 = std::env::var(PARENT).ok()?.parse().ok()?;
    if let Some(bytes) = std::env::var(MEMORY).ok().and_then(|bytes| bytes.parse().ok()) {
        // The batch sees to it that it is set.
        let _ = setrlimit(Resource::As, Rlimit { current: Some(bytes), maximum: Some(bytes) });
    }
    // Without it the process ends later; that does no harm but to the resumed run's speed.
    let _ = set_parent_process_death_signal(Some(Signal::KILL));
    let is_there = getppid().is_some_and(|pid| pid.as_raw_nonzero().get() == parent);
    (!is_there).then(|| ExitCode::from(130))
}

/// Whether this program called [`enter_if_asked`].
pub(super) fn is_known() -> bool {
    KNOWS.load(Ordering::Relaxed)
}
