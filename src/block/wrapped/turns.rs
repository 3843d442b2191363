//! Who unpacks what: no block by two threads at once, and no more at once than there is memory for.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::limits;

/// What is being unpacked.
#[derive(Debug, Default)]
struct Busy {
    blocks: Vec<usize>,
    bytes: u64,
}

/// Lets threads wait for their turn.
#[derive(Debug, Default)]
pub(super) struct Turns {
    busy: Mutex<Busy>,
    ended: Condvar,
}

/// The right to unpack one block, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    turns: &'a Turns,
    block: usize,
    bytes: u64,
}

impl Turns {
    fn busy(&self) -> MutexGuard<'_, Busy> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until nobody unpacks `block` and there are `bytes` of memory for it. A turn must not be taken while its
    /// thread has another.
    pub(super) fn take(&self, block: usize, bytes: u64) -> Turn<'_> {
        let must_wait = |busy: &mut Busy| {
            let full = busy.bytes.saturating_add(bytes) > limits::WRAPPED_BYTES;
            busy.blocks.contains(&block) || (full && !busy.blocks.is_empty())
        };
        let waited = self.ended.wait_while(self.busy(), must_wait);
        let mut busy = waited.unwrap_or_else(PoisonError::into_inner);
        busy.blocks.push(block);
        busy.bytes = busy.bytes.saturating_add(bytes);
        Turn { turns: self, block, bytes }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut busy = self.turns.busy();
        busy.blocks.retain(|block| *block != self.block);
        busy.bytes = busy.bytes.saturating_sub(self.bytes);
        drop(busy);
        self.turns.ended.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn memory_and_blocks_are_never_shared() {
        let (turns, used, most) = (Turns::default(), AtomicU64::new(0), AtomicU64::new(0));
        let holders: Vec<_> = (0..4).map(|_| AtomicU64::new(0)).collect();
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let (turns, used, most, holders) = (&turns, &used, &most, &holders);
                scope.spawn(move || {
                    for round in 0..200usize {
                        let (block, bytes) = ((round + thread) % 4, limits::WRAPPED_BYTES / 3);
                        let _turn = turns.take(block, bytes);
                        assert_eq!(holders[block].fetch_add(1, Ordering::SeqCst), 0);
                        most.fetch_max(used.fetch_add(bytes, Ordering::SeqCst) + bytes, Ordering::SeqCst);
                        std::thread::yield_now();
                        used.fetch_sub(bytes, Ordering::SeqCst);
                        holders[block].fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert!(most.load(Ordering::SeqCst) <= limits::WRAPPED_BYTES);
        // What is larger than everything still has its turn, alone.
        drop(turns.take(0, u64::MAX));
    }
}
