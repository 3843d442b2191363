//! Work on all threads, delivered in order: the shape of every bulk operation.
//!
//! Each thread takes the next job and works on it beside the others. What it made is put down, and whoever puts down the one
//! whose turn it is delivers it and those that wait behind it. As deliveries come in the order of the jobs, what comes out
//! does not depend on how many threads there are. A thread that gets too far ahead waits; the one with the lowest job never
//! does, so this ends on any number of threads.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::error::{Error, ErrorKind, Result};
use crate::progress::Progress;

/// What was made and is not delivered yet.
struct Shelf<T> {
    waiting: BTreeMap<u64, T>,
    /// The job that is delivered next.
    next: u64,
    delivering: bool,
    failure: Option<Error>,
    closed: bool,
}

/// Takes jobs from `next` until there are none, gives each to `work` on some thread of the caller's pool, and what that
/// makes to `deliver`, in order. At most `ahead` results wait for their turn. The first error ends it.
///
/// `work` must not start parallel work of its own: a thread that waits for it could take up another of these jobs, whose
/// turn comes after the one that it is held up in.
pub(crate) fn ordered<J: Send, T: Send>(
    ahead: usize,
    next: impl FnMut() -> Result<Option<J>> + Send,
    work: impl Fn(J) -> Result<T> + Sync,
    deliver: impl FnMut(T) -> Result<()> + Send,
    progress: &dyn Progress,
) -> Result<()> {
    let source = Mutex::new((0u64, next));
    let deliver = Mutex::new(deliver);
    let shelf =
        Mutex::new(Shelf { waiting: BTreeMap::new(), next: 0, delivering: false, failure: None, closed: false });
    let moved = Condvar::new();
    let one_thread = || -> Result<()> {
        loop {
            if progress.cancelled() {
                return Err(ErrorKind::Cancelled.into());
            }
            let (ticket, job) = {
                let mut source = lock(&source);
                if lock(&shelf).closed {
                    return Ok(());
                }
                let Some(job) = source.1()? else { return Ok(()) };
                source.0 += 1;
                (source.0 - 1, job)
            };
            let made = work(job)?;
            let mut held = lock(&shelf);
            held.waiting.insert(ticket, made);
            while !held.closed && !held.delivering {
                let turn = held.next;
                let Some(made) = held.waiting.remove(&turn) else { break };
                held.delivering = true;
                // Nobody else delivers meanwhile, so the shelf is free for the others.
                drop(held);
                let delivered = lock(&deliver)(made);
                held = lock(&shelf);
                held.delivering = false;
                held.next += 1;
                moved.notify_all();
                delivered?;
            }
            while !held.closed && held.waiting.len() > ahead {
                held = moved.wait(held).unwrap_or_else(PoisonError::into_inner);
            }
        }
    };
    rayon::scope(|scope| {
        for _ in 0..rayon::current_num_threads() {
            scope.spawn(|_| {
                let _guard = CloseOnPanic(&shelf, &moved);
                if let Err(error) = one_thread() {
                    let mut held = lock(&shelf);
                    // Those who were sent away because another failed have nothing to add.
                    held.failure.get_or_insert(error);
                    held.closed = true;
                    moved.notify_all();
                }
            });
        }
    });
    shelf.into_inner().unwrap_or_else(PoisonError::into_inner).failure.map_or(Ok(()), Err)
}

/// Sends everyone home when a thread panics: its turn would never come, and they would wait for it for ever.
struct CloseOnPanic<'a, T>(&'a Mutex<Shelf<T>>, &'a Condvar);

impl<T> Drop for CloseOnPanic<'_, T> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            lock(self.0).closed = true;
            self.1.notify_all();
        }
    }
}

/// The lock, whatever happened to its last holder.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;

    fn run(threads: usize, ahead: usize, fail_at: Option<u64>) -> (Result<()>, Vec<u64>) {
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
        (pool.install(|| ordered(ahead, next, work, deliver, &Silent)), delivered)
    }

    #[test]
    fn deliveries_come_in_order_on_any_number_of_threads() {
        for (threads, ahead) in [(1, 0), (2, 0), (2, 2), (7, 0), (7, 3), (7, 100)] {
            let (done, delivered) = run(threads, ahead, None);
            done.unwrap();
            assert_eq!(delivered, (1..=500).collect::<Vec<_>>(), "{threads} threads");
        }
    }

    #[test]
    fn a_panic_is_the_callers_and_nobody_waits_for_its_turn() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(4).build().unwrap();
        let mut given = 0u64;
        let next = || {
            given += 1;
            Ok((given <= 500).then_some(given))
        };
        let work = |job: u64| {
            assert!(job != 5, "job 5");
            Ok(job)
        };
        let run = || pool.install(|| ordered(0, next, work, |_| Ok(()), &Silent));
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).unwrap_err();
        assert_eq!(panicked.downcast_ref::<&str>(), Some(&"job 5"));
    }

    #[test]
    fn the_first_failure_ends_it_and_nothing_behind_it_is_delivered() {
        for threads in [1, 2, 7] {
            let (done, delivered) = run(threads, 4, Some(100));
            assert!(done.unwrap_err().to_string().contains("job 100"));
            assert!(delivered.len() < 100 && delivered.iter().copied().eq(1..=delivered.len() as u64), "{delivered:?}");
        }
    }
}
