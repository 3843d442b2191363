//! A bounded map for caches inside devices and filesystems: sharded, so that threads seldom meet, and approximately
//! least-recently-used (a clock with one "used" bit per entry). A lock is held for a look-up or an insertion and never
//! across a read of the device below: the caller asks, reads on a miss, and offers what it read.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash};
use std::sync::Mutex;
use std::sync::PoisonError;

use foldhash::fast::RandomState;

/// Shards at most, and entries that make another one worth while.
const SHARDS: usize = 16;
const PER_SHARD: usize = 4;

/// A bounded, shared cache. Values should be cheap to clone (an `Arc`).
pub struct Lru<K, V> {
    shards: Vec<Mutex<Shard<K, V>>>,
    per_shard: usize,
    hasher: RandomState,
}

struct Shard<K, V> {
    index: HashMap<K, usize, RandomState>,
    slots: Vec<Slot<K, V>>,
    hand: usize,
}

struct Slot<K, V> {
    key: K,
    value: V,
    used: bool,
}

impl<K: Hash + Eq + Clone, V: Clone> Lru<K, V> {
    /// A cache of at most `capacity` entries, but always of one.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let shard = || Mutex::new(Shard { index: HashMap::default(), slots: Vec::new(), hand: 0 });
        // A shard of very few entries would evict one of two neighbours while others stand empty.
        let shards = (capacity / PER_SHARD).clamp(1, SHARDS);
        Self {
            shards: std::iter::repeat_with(shard).take(shards).collect(),
            per_shard: capacity.checked_div(shards).unwrap_or(0).max(1),
            hasher: RandomState::default(),
        }
    }

    fn shard(&self, key: &K) -> Option<std::sync::MutexGuard<'_, Shard<K, V>>> {
        let shard = crate::bytes::to_usize(self.hasher.hash_one(key)).checked_rem(self.shards.len())?;
        Some(self.shards.get(shard)?.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The value kept under `key`.
    pub fn get(&self, key: &K) -> Option<V> {
        let mut shard = self.shard(key)?;
        let at = *shard.index.get(key)?;
        let slot = shard.slots.get_mut(at)?;
        slot.used = true;
        Some(slot.value.clone())
    }

    /// Keeps `value` under `key`; another thread may have done so already, then the newer one stays.
    pub fn insert(&self, key: K, value: V) {
        let Some(mut guard) = self.shard(&key) else { return };
        let shard = &mut *guard;
        if let Some(slot) = shard.index.get(&key).and_then(|&at| shard.slots.get_mut(at)) {
            slot.value = value;
            return;
        }
        if shard.slots.len() < self.per_shard {
            shard.index.insert(key.clone(), shard.slots.len());
            shard.slots.push(Slot { key, value, used: false });
            return;
        }
        // One turn of the hand at most: every "used" bit it passes is cleared, so the second visit evicts.
        for _ in 0..=shard.slots.len() {
            let at = shard.hand;
            shard.hand = shard.hand.wrapping_add(1).checked_rem(shard.slots.len()).unwrap_or(0);
            let Some(slot) = shard.slots.get_mut(at) else { return };
            if slot.used {
                slot.used = false;
                continue;
            }
            shard.index.remove(&slot.key);
            shard.index.insert(key.clone(), at);
            *slot = Slot { key, value, used: false };
            return;
        }
    }

    /// The value under `key`, made by `read` on a miss. `read` runs without any lock, so two threads may both read.
    pub fn get_or_read<E>(&self, key: K, read: impl FnOnce() -> Result<V, E>) -> Result<V, E> {
        if let Some(value) = self.get(&key) {
            return Ok(value);
        }
        let value = read()?;
        self.insert(key, value.clone());
        Ok(value)
    }
}

impl<K, V> std::fmt::Debug for Lru<K, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Lru(at most {} entries)", self.per_shard.saturating_mul(self.shards.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_bounded_and_keeps_what_is_used() {
        let cache = Lru::new(64);
        cache.insert(0u64, 0u64);
        for key in 1..10_000u64 {
            assert_eq!(cache.get(&0), Some(0), "an entry that is used all the time is never evicted");
            cache.insert(key, key);
        }
        let kept = (0..10_000u64).filter(|key| cache.get(key).is_some()).count();
        assert!(kept <= 64, "{kept} entries");
    }

    #[test]
    fn a_small_cache_holds_as_many_as_it_says() {
        for capacity in [0usize, 1, 3, 4, 9] {
            let cache = Lru::new(capacity);
            for key in 0..100 {
                cache.insert(key, key);
            }
            let kept = (0..100).filter(|key| cache.get(key).is_some()).count();
            assert_eq!(kept, (capacity.max(1) / 4 * 4).max(capacity.clamp(1, 3)), "capacity {capacity}");
        }
    }

    #[test]
    fn a_miss_is_read_once_and_a_failure_is_not_kept() {
        let cache = Lru::new(4);
        assert_eq!(cache.get_or_read(1, || Err::<u32, _>("no")), Err("no"));
        assert_eq!(cache.get_or_read(1, || Ok::<_, ()>(5)), Ok(5));
        assert_eq!(cache.get_or_read(1, || Ok::<_, ()>(6)), Ok(5));
    }
}
