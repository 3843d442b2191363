//! Which image is begun next: the first of the list whose device and whose memory there is room for.
//!
//! Images wait in one queue for each device of the host. As an image that must wait does not hold up those of other
//! devices, a slow disk full of images leaves the fast one at work. An image during which the run died once waits until
//! nothing else is left, and is then worked on alone: if it takes the run down again, nobody else is suspected.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How often a waiting worker looks whether the run is to stop.
const LOOK: Duration = Duration::from_millis(100);

/// A device of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Device {
    /// By its number.
    Host(u64),
    /// An address, or a file that is not there.
    Elsewhere,
}

impl Device {
    /// Where an image lies.
    pub(super) fn of(image: &Path) -> Self {
        let metadata = image.metadata().or_else(|error| {
            // `disk.qcow2#snapshot`
            let text = image.to_str().and_then(|text| text.rsplit_once('#'));
            text.map_or(Err(error), |(file, _)| Path::new(file).metadata())
        });
        metadata.map_or(Self::Elsewhere, |metadata| {
            Self::Host(if metadata.file_type().is_block_device() { metadata.rdev() } else { metadata.dev() })
        })
    }
}

/// What there is room for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    pub(super) io_depth: usize,
    pub(super) memory: u64,
    pub(super) memory_per_image: u64,
}

/// The images that wait.
#[derive(Debug)]
pub(super) struct Queue {
    room: Room,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: BTreeMap<Device, VecDeque<usize>>,
    /// To be worked on alone.
    suspects: VecDeque<usize>,
    at_work: HashMap<Device, usize>,
    at_work_in_all: usize,
    suspect_at_work: bool,
}

/// An image that was begun; its room is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Begun<'a> {
    queue: &'a Queue,
    pub(super) index: usize,
    device: Device,
    is_suspect: bool,
}

impl Queue {
    pub(super) fn new(room: Room) -> Self {
        Self { room, state: Mutex::default(), changed: Condvar::new() }
    }

    /// Adds an image; to be called in the order of the list.
    pub(super) fn push(&self, index: usize, device: Device, is_suspect: bool) {
        let mut state = self.lock();
        if is_suspect {
            state.suspects.push_back(index);
        } else {
            state.waiting.entry(device).or_default().push_back(index);
        }
    }

    /// The next image, as soon as there is room for one. `None` when none is left or the run is to stop.
    pub(super) fn next(&self, stop: &dyn Fn() -> bool) -> Option<Begun<'_>> {
        let mut state = self.lock();
        loop {
            if stop() || (state.waiting.is_empty() && state.suspects.is_empty()) {
                return None;
            }
            if let Some((index, device, is_suspect)) = state.take(self.room) {
                return Some(Begun { queue: self, index, device, is_suspect });
            }
            state = self.changed.wait_timeout(state, LOOK).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn take(&mut self, room: Room) -> Option<(usize, Device, bool)> {
        let idle = self.at_work_in_all == 0;
        let memory = (self.at_work_in_all as u64 + 1).saturating_mul(room.memory_per_image);
        if self.suspect_at_work || (!idle && memory > room.memory) {
            return None;
        }
        if self.waiting.is_empty() {
            let index = if idle { self.suspects.pop_front()? } else { return None };
            self.suspect_at_work = true;
            self.begin(Device::Elsewhere);
            return Some((index, Device::Elsewhere, true));
        }
        let has_room = |device: &Device| match device {
            Device::Elsewhere => true,
            device => self.at_work.get(device).is_none_or(|count| *count < room.io_depth),
        };
        let heads = self.waiting.iter().filter(|(device, _)| has_room(device));
        let device = heads.min_by_key(|(_, queue)| queue.front().copied()).map(|(device, _)| *device)?;
        let queue = self.waiting.get_mut(&device)?;
        let index = queue.pop_front()?;
        if queue.is_empty() {
            self.waiting.remove(&device);
        }
        self.begin(device);
        Some((index, device, false))
    }

    fn begin(&mut self, device: Device) {
        *self.at_work.entry(device).or_default() += 1;
        self.at_work_in_all += 1;
    }
}

impl Begun<'_> {
    /// Whether an earlier run died while it worked on this image.
    pub(super) fn is_suspect(&self) -> bool {
        self.is_suspect
    }
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        let mut state = self.queue.lock();
        if let Some(count) = state.at_work.get_mut(&self.device) {
            *count -= 1;
        }
        state.at_work_in_all -= 1;
        if self.is_suspect {
            state.suspect_at_work = false;
        }
        drop(state);
        self.queue.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Device = Device::Host(1);
    const B: Device = Device::Host(2);

    fn queue(io_depth: usize, memory: u64, images: &[(Device, bool)]) -> Queue {
        let queue = Queue::new(Room { io_depth, memory, memory_per_image: 10 });
        for (index, (device, is_suspect)) in images.iter().enumerate() {
            queue.push(index, *device, *is_suspect);
        }
        queue
    }

    /// What can be begun at once.
    fn all<'a>(queue: &'a Queue, held: &mut Vec<Begun<'a>>) -> Vec<usize> {
        let before = held.len();
        while let Some((index, device, is_suspect)) = queue.lock().take(queue.room) {
            held.push(Begun { queue, index, device, is_suspect });
        }
        held[before..].iter().map(|begun| begun.index).collect()
    }

    #[test]
    fn a_full_device_does_not_hold_up_another() {
        let queue =
            queue(2, 1000, &[(A, false), (A, false), (A, false), (B, false), (A, false), (Device::Elsewhere, false)]);
        let mut held = Vec::new();
        assert_eq!(all(&queue, &mut held), [0, 1, 3, 5]);
        // The room of an image of another device is no room for these.
        held.retain(|begun| begun.index != 3);
        assert!(all(&queue, &mut held).is_empty());
        held.retain(|begun| begun.index != 1);
        assert_eq!(all(&queue, &mut held), [2]);
        held.clear();
        assert_eq!(all(&queue, &mut held), [4]);
        assert!(queue.next(&|| false).is_none());
    }

    #[test]
    fn memory_is_shared_out_and_one_image_always_goes() {
        let elsewhere = [(Device::Elsewhere, false); 6];
        let (wide, narrow) = (queue(1, 35, &elsewhere), queue(1, 1, &elsewhere));
        assert_eq!(all(&wide, &mut Vec::new()), [0, 1, 2]);
        assert_eq!(all(&narrow, &mut Vec::new()), [0]);
    }

    #[test]
    fn suspects_wait_for_the_others_and_are_alone() {
        let queue = queue(9, 1000, &[(A, true), (A, false), (B, true), (B, false)]);
        let mut held = Vec::new();
        assert_eq!(all(&queue, &mut held), [1, 3]);
        held.pop();
        assert!(all(&queue, &mut held).is_empty());
        held.clear();
        assert_eq!(all(&queue, &mut held), [0]);
        held.clear();
        assert_eq!(all(&queue, &mut held), [2]);
    }

    #[test]
    fn those_who_wait_go_on_when_there_is_room_or_the_run_stops() {
        let queue = queue(1, 1000, &[(A, false), (A, false), (A, false)]);
        let first = queue.next(&|| false).unwrap();
        std::thread::scope(|scope| {
            let second = scope.spawn(|| queue.next(&|| false).map(|begun| begun.index));
            drop(first);
            assert_eq!(second.join().unwrap(), Some(1));
        });
        let _third = queue.next(&|| false).unwrap();
        queue.push(3, A, false);
        assert!(queue.next(&|| true).is_none());
    }

    #[test]
    fn images_of_one_filesystem_are_on_one_device() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("a"), "").unwrap();
        let device = Device::of(&directory.path().join("a"));
        assert!(matches!(device, Device::Host(_)));
        assert_eq!(Device::of(&directory.path().join("a#snapshot")), device);
        assert_eq!(Device::of(&directory.path().join("b")), Device::Elsewhere);
        assert_eq!(Device::of(Path::new("nbd://host/x")), Device::Elsewhere);
    }
}
