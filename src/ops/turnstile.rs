//! A turnstile: threads pass it one at a time, in the order of their tickets.

use std::sync::{Condvar, Mutex, PoisonError};

use super::ordered::lock;
use crate::error::Result;

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
