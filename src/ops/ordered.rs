//! Work on all threads, delivered in order: the shape of every bulk operation.
//!
//! Each thread takes the next job, works on it beside the others, waits for its turn and delivers. The thread with the
//! lowest ticket never waits, so this ends on any number of threads, and as deliveries come in the order of the jobs, what
//! comes out does not depend on how many there are. At most one job for each thread is in memory.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::error::{Error, ErrorKind, Result};
use crate::progress::Progress;

/// Takes jobs from `next` until there are none, gives each to `work` on some thread of the caller's pool, and what that
/// makes to `deliver`, in order. The first error ends it.
///
/// `work` must not start parallel work of its own: a thread that waits for it could take up another of these jobs, whose
/// turn comes after the one that it is held up in.
pub(super) fn ordered<J: Send, T: Send>(
    next: impl FnMut() -> Result<Option<J>> + Send,
    work: impl Fn(J) -> Result<T> + Sync,
    deliver: impl FnMut(T) -> Result<()> + Send,
    progress: &dyn Progress,
) -> Result<()> {
    let source = Mutex::new((0u64, next));
    let deliver = Mutex::new(deliver);
    let turnstile = Turnstile::default();
    let failure: Mutex<Option<Error>> = Mutex::new(None);
    let one_thread = || -> Result<()> {
        loop {
            if progress.cancelled() {
                return Err(ErrorKind::Cancelled.into());
            }
            let (ticket, job) = {
                let mut source = lock(&source);
                if turnstile.closed() {
                    return Ok(());
                }
                let Some(job) = source.1()? else { return Ok(()) };
                source.0 += 1;
                (source.0 - 1, job)
            };
            let made = work(job)?;
            if turnstile.pass(ticket, || lock(&deliver)(made))?.is_none() {
                return Ok(());
            }
        }
    };
    rayon::scope(|scope| {
        for _ in 0..rayon::current_num_threads() {
            scope.spawn(|_| {
                if let Err(error) = one_thread() {
                    let mut failure = lock(&failure);
                    // Those who were sent away because another failed have nothing to add.
                    if failure.is_none() {
                        *failure = Some(error);
                    }
                    turnstile.close();
                }
            });
        }
    });
    failure.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

/// The lock, whatever happened to its last holder.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lets threads pass one at a time in the order of their tickets.
#[derive(Debug, Default)]
pub(super) struct Turnstile {
    state: Mutex<Turn>,
    moved: Condvar,
}

#[derive(Debug, Default)]
struct Turn {
    next: u64,
    closed: bool,
}

impl Turnstile {
    /// Waits until it is `ticket`'s turn and does `work`; `None` when the turnstile was closed before.
    pub(super) fn pass<T>(&self, ticket: u64, work: impl FnOnce() -> Result<T>) -> Result<Option<T>> {
        let mut turn = lock(&self.state);
        while turn.next != ticket && !turn.closed {
            turn = self.moved.wait(turn).unwrap_or_else(PoisonError::into_inner);
        }
        if turn.closed {
            return Ok(None);
        }
        // Nobody else passes meanwhile, so the lock need not be kept.
        drop(turn);
        let done = work()?;
        lock(&self.state).next = ticket + 1;
        self.moved.notify_all();
        Ok(Some(done))
    }

    /// Nobody passes any more.
    pub(super) fn close(&self) {
        lock(&self.state).closed = true;
        self.moved.notify_all();
    }

    /// Whether nobody passes any more.
    pub(super) fn closed(&self) -> bool {
        lock(&self.state).closed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;

    fn run(threads: usize, fail_at: Option<u64>) -> (Result<()>, Vec<u64>) {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let (mut given, mut delivered) = (0u64, Vec::new());
        let next = || {
            given += 1;
            Ok((given <= 500).then_some(given))
        };
        let work = |job: u64| {
            // Later jobs are done sooner.
            std::thread::sleep(std::time::Duration::from_micros((500 - job) % 37));
            if Some(job) == fail_at { Err(Error::invalid(format!("job {job}"))) } else { Ok(job) }
        };
        let deliver = |job| {
            delivered.push(job);
            Ok(())
        };
        (pool.install(|| ordered(next, work, deliver, &Silent)), delivered)
    }

    #[test]
    fn deliveries_come_in_order_on_any_number_of_threads() {
        for threads in [1, 2, 7] {
            let (done, delivered) = run(threads, None);
            done.unwrap();
            assert_eq!(delivered, (1..=500).collect::<Vec<_>>(), "{threads} threads");
        }
    }

    #[test]
    fn the_first_failure_ends_it_and_nothing_behind_it_is_delivered() {
        for threads in [1, 2, 7] {
            let (done, delivered) = run(threads, Some(100));
            assert!(done.unwrap_err().to_string().contains("job 100"));
            assert!(delivered.len() < 100 && delivered.iter().copied().eq(1..=delivered.len() as u64), "{delivered:?}");
        }
    }
}
