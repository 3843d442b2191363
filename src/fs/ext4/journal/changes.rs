//! What fast commits change: inodes, their blocks, and names.
//!
//! The records are applied to the filesystem as it is after the log was replayed, in their order, as Linux 6.18 does:
//!
//! | record | name in the parent | inode |
//! |---|---|---|
//! | INODE | | its fields are written (below) |
//! | CREAT | added unless there is one | i_links_count becomes 1; a directory becomes empty |
//! | LINK | added unless there is one | i_links_count + 1 |
//! | UNLINK | taken away if it leads to this inode | i_links_count - 1; at 0 the inode is freed with its blocks |
//! | ADD_RANGE, DEL_RANGE | | blocks are mapped or unmapped |
//!
//! INODE writes bytes 0x00 to 0x28 (before i_block) and from 0x64 (i_generation) to its own end, which is 0x80 +
//! i_extra_isize. The inode keeps the rest: attributes behind the extra fields, and i_block with the root of its extents.
//! Only if the inode has inline data is i_block written too, and if it has extents but i_block does not begin with an
//! extent header, an empty one is made. i_size is the record's. i_blocks is not: the kernel counts mapped blocks anew.
//! i_checksum is the record's and wrong.
//!
//! All but INODE passes over an inode that is free (i_links_count 0). The kernel also sets the times of directories whose
//! names change to the time of recovery; here they stay as they were.

use std::collections::BTreeMap;

use super::superblock::FORMAT;
use crate::bytes::low_u32;
use crate::error::{Error, Result};

const MODE: usize = 0x00;
const LINKS_COUNT: usize = 0x1a;
const FLAGS: usize = 0x20;
const BLOCK: usize = 0x28;
const GENERATION: usize = 0x64;

const DIRECTORY: u16 = 0x4000;
const EXTENTS: u32 = 0x8_0000;
const INLINE_DATA: u32 = 0x1000_0000;

/// eh_magic, eh_entries 0, eh_max 4, eh_depth 0, eh_generation 0.
const EMPTY_EXTENT_HEADER: [u8; 12] = [0x0a, 0xf3, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0];

/// One record of a fast commit.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Change {
    /// Where the record lies in the journal.
    pub offset: u64,
    pub inode: u32,
    pub operation: Operation,
}

/// What happens to the inode.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Write(Vec<u8>),
    Create { parent: u32, name: Vec<u8> },
    Link { parent: u32, name: Vec<u8> },
    Unlink { parent: u32, name: Vec<u8> },
    Range(RangeChange),
}

/// A change to the map from a file's blocks to the filesystem's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::fs::ext4) enum RangeChange {
    /// `len` blocks from `logical` on now lie at `physical`; they read as zeroes when `unwritten`.
    Add { logical: u32, len: u32, physical: u64, unwritten: bool },
    /// `len` blocks from `logical` on are now a hole.
    Delete { logical: u32, len: u32 },
}

/// All changes of all finished fast commits.
#[derive(Debug, Default)]
pub(in crate::fs::ext4) struct FastCommit {
    pub(super) inodes: BTreeMap<u32, Vec<InodeChange>>,
    pub(super) names: BTreeMap<u32, BTreeMap<Vec<u8>, Vec<NameChange>>>,
}

#[derive(Debug)]
pub(super) enum InodeChange {
    Write(Vec<u8>),
    Create { parent: u32 },
    Link,
    Unlink,
    Range(RangeChange),
}

#[derive(Debug)]
pub(super) struct NameChange {
    inode: u32,
    added: bool,
}

/// An inode as it is after recovery.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::fs::ext4) struct RecoveredInode {
    /// Its bytes. i_checksum is not right, and i_blocks is to be counted anew when `recount`.
    pub bytes: Vec<u8>,
    /// Changes to the map of blocks that i_block describes: sorted by `logical`, never overlapping.
    pub ranges: Vec<RangeChange>,
    /// The directory above, when this is a directory that a fast commit made: it is empty but for names in
    /// [`FastCommit`], whatever its blocks hold.
    pub made_in: Option<u32>,
    /// Whether i_blocks must be the number of blocks that are mapped after `ranges`, those of the extent tree included,
    /// in units of 512 bytes.
    pub recount: bool,
}

impl Change {
    /// Holds what only counts once the commit is finished against the rules of the filesystem.
    pub(super) fn check(&self, blocks_count: u64) -> Result<()> {
        let corrupt = |field, at, found: String, expected: &str| {
            Err(Error::corrupt(FORMAT, field, self.offset.saturating_add(at), found, expected))
        };
        match &self.operation {
            Operation::Write(_) => Ok(()),
            Operation::Create { name, .. } | Operation::Link { name, .. } | Operation::Unlink { name, .. } => {
                if name == b"." || name == b".." || name.iter().any(|&byte| byte == 0 || byte == b'/') {
                    return corrupt("fc_dname", 12, crate::bytes::escape(name), "a file name");
                }
                Ok(())
            }
            Operation::Range(range) => {
                if range.end() > 1 << 32 {
                    return corrupt("fc_lblk", 8, range.end().to_string(), "blocks below 4294967296");
                }
                if let RangeChange::Add { len, physical, .. } = range
                    && physical.saturating_add(u64::from(*len)) > blocks_count
                {
                    return corrupt("ee_start", 14, physical.to_string(), &format!("blocks below {blocks_count}"));
                }
                Ok(())
            }
        }
    }
}

impl FastCommit {
    /// Sorts checked changes by what they change.
    pub(super) fn new(changes: Vec<Change>) -> Self {
        let mut sorted = Self::default();
        for Change { inode, operation, .. } in changes {
            let (change, name) = match operation {
                Operation::Write(bytes) => (InodeChange::Write(bytes), None),
                Operation::Range(range) => (InodeChange::Range(range), None),
                Operation::Create { parent, name } => (InodeChange::Create { parent }, Some((parent, name, true))),
                Operation::Link { parent, name } => (InodeChange::Link, Some((parent, name, true))),
                Operation::Unlink { parent, name } => (InodeChange::Unlink, Some((parent, name, false))),
            };
            sorted.inodes.entry(inode).or_default().push(change);
            if let Some((parent, name, added)) = name {
                let changes = sorted.names.entry(parent).or_default().entry(name).or_default();
                changes.push(NameChange { inode, added });
            }
        }
        sorted
    }

    /// Whether nothing is changed.
    pub(in crate::fs::ext4) fn is_empty(&self) -> bool {
        self.inodes.is_empty() && self.names.is_empty()
    }

    /// The names in the directory `parent` that change, sorted. What each of them leads to says [`Self::lookup`].
    pub(in crate::fs::ext4) fn names(&self, parent: u32) -> impl Iterator<Item = &[u8]> {
        self.names.get(&parent).into_iter().flat_map(BTreeMap::keys).map(Vec::as_slice)
    }

    /// What `name` in the directory `parent` leads to, when it led to `before` on the disk.
    pub(in crate::fs::ext4) fn lookup(&self, parent: u32, name: &[u8], before: Option<u32>) -> Option<u32> {
        let changes = self.names.get(&parent).and_then(|names| names.get(name));
        changes.into_iter().flatten().fold(before, |now, change| match now {
            None if change.added => Some(change.inode),
            Some(inode) if !change.added && inode == change.inode => None,
            now => now,
        })
    }

    /// The inode `number` after recovery, when `on_disk` are its bytes before; `None` if nothing changes it.
    pub(in crate::fs::ext4) fn inode(&self, number: u32, on_disk: &[u8]) -> Option<RecoveredInode> {
        let mut inode = RecoveredInode { bytes: on_disk.to_vec(), ranges: Vec::new(), made_in: None, recount: false };
        let mut ranges = BTreeMap::new();
        for change in self.inodes.get(&number)? {
            match change {
                InodeChange::Write(record) => inode.write(record),
                _ if inode.links() == 0 => {}
                InodeChange::Create { parent } => {
                    inode.set_links(1);
                    inode.made_in = inode.is_directory().then_some(*parent);
                }
                InodeChange::Link => inode.set_links(inode.links().saturating_add(1)),
                InodeChange::Unlink => {
                    inode.set_links(inode.links().saturating_sub(1));
                    if inode.links() == 0 {
                        inode.put(BLOCK, &[0; GENERATION.saturating_sub(BLOCK)]);
                        inode.made_in = None;
                        ranges.clear();
                    }
                }
                InodeChange::Range(range) => range.put(&mut ranges),
            }
        }
        inode.ranges = ranges.into_values().collect();
        Some(inode)
    }
}

impl RecoveredInode {
    /// Writes an INODE record; see the module head.
    fn write(&mut self, record: &[u8]) {
        self.put(0, record.get(..BLOCK).unwrap_or_default());
        self.put(GENERATION, record.get(GENERATION..).unwrap_or_default());
        let flags = u32::from_le_bytes(self.get(FLAGS));
        if flags & EXTENTS != 0 {
            if !EMPTY_EXTENT_HEADER.starts_with(&self.get::<2>(BLOCK)) {
                self.put(BLOCK, &EMPTY_EXTENT_HEADER);
            }
        } else if flags & INLINE_DATA != 0 {
            self.put(BLOCK, record.get(BLOCK..GENERATION).unwrap_or_default());
        }
        self.recount = flags & INLINE_DATA == 0;
    }

    fn is_directory(&self) -> bool {
        u16::from_le_bytes(self.get(MODE)) & 0xf000 == DIRECTORY
    }

    fn links(&self) -> u16 {
        u16::from_le_bytes(self.get(LINKS_COUNT))
    }

    fn set_links(&mut self, links: u16) {
        self.put(LINKS_COUNT, &links.to_le_bytes());
    }

    /// `N` bytes at `at`; zeroes past the end.
    fn get<const N: usize>(&self, at: usize) -> [u8; N] {
        self.bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
    }

    /// Puts as much of `bytes` at `at` as the inode is long.
    fn put(&mut self, at: usize, bytes: &[u8]) {
        let rest = self.bytes.get_mut(at..).unwrap_or_default();
        rest.iter_mut().zip(bytes).for_each(|(old, new)| *old = *new);
    }
}

impl RangeChange {
    /// The first block of the file that changes.
    pub(in crate::fs::ext4) fn logical(&self) -> u32 {
        match *self {
            Self::Add { logical, .. } | Self::Delete { logical, .. } => logical,
        }
    }

    /// The block of the file after the last one that changes.
    pub(in crate::fs::ext4) fn end(&self) -> u64 {
        match *self {
            Self::Add { logical, len, .. } | Self::Delete { logical, len } => {
                u64::from(logical).saturating_add(u64::from(len))
            }
        }
    }

    /// The part from `start` to `end`, if there is any.
    fn part(&self, start: u64, end: u64) -> Option<Self> {
        let start = start.max(u64::from(self.logical()));
        let len = end.min(self.end()).checked_sub(start).filter(|&len| len > 0)?;
        let (first, len) = (low_u32(start), low_u32(len));
        Some(match *self {
            Self::Add { logical, physical, unwritten, .. } => {
                let physical = physical.saturating_add(start.saturating_sub(u64::from(logical)));
                Self::Add { logical: first, len, physical, unwritten }
            }
            Self::Delete { .. } => Self::Delete { logical: first, len },
        })
    }

    /// Puts this change over earlier ones, of which what it does not touch stays.
    fn put(&self, ranges: &mut BTreeMap<u32, Self>) {
        let (start, end) = (u64::from(self.logical()), self.end());
        if start == end {
            return;
        }
        let before = ranges.range(..self.logical()).next_back().map(|(_, range)| *range);
        let mut touched: Vec<Self> = before.into_iter().filter(|range| range.end() > start).collect();
        let inside = ranges.range(self.logical()..).map(|(_, range)| *range);
        touched.extend(inside.take_while(|range| u64::from(range.logical()) < end));
        for old in touched {
            ranges.remove(&old.logical());
            for rest in [old.part(0, start), old.part(end, u64::MAX)].into_iter().flatten() {
                ranges.insert(rest.logical(), rest);
            }
        }
        ranges.insert(self.logical(), *self);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(logical: u32, len: u32, physical: u64) -> RangeChange {
        RangeChange::Add { logical, len, physical, unwritten: false }
    }

    fn change(inode: u32, operation: Operation) -> Change {
        Change { offset: 0, inode, operation }
    }

    fn link(inode: u32, name: &str) -> Change {
        change(inode, Operation::Link { parent: 2, name: name.into() })
    }

    fn unlink(inode: u32, name: &str) -> Change {
        change(inode, Operation::Unlink { parent: 2, name: name.into() })
    }

    /// An inode of 256 bytes with these links and flags, and `fill` everywhere else.
    fn inode(links: u16, flags: u32, fill: u8) -> Vec<u8> {
        let mut bytes = vec![fill; 256];
        bytes[..2].copy_from_slice(&0x81a4u16.to_le_bytes());
        bytes[LINKS_COUNT..LINKS_COUNT + 2].copy_from_slice(&links.to_le_bytes());
        bytes[FLAGS..FLAGS + 4].copy_from_slice(&flags.to_le_bytes());
        bytes
    }

    #[test]
    fn later_ranges_cut_earlier_ones() {
        let mut ranges = BTreeMap::new();
        for range in
            [add(0, 100, 1000), RangeChange::Delete { logical: 20, len: 10 }, add(25, 10, 5000), add(95, 10, 7)]
        {
            range.put(&mut ranges);
        }
        let expected = [
            add(0, 20, 1000),
            RangeChange::Delete { logical: 20, len: 5 },
            add(25, 10, 5000),
            add(35, 60, 1035),
            add(95, 10, 7),
        ];
        assert_eq!(ranges.values().copied().collect::<Vec<_>>(), expected);
        RangeChange::Delete { logical: 0, len: u32::MAX }.put(&mut ranges);
        assert_eq!(ranges.values().copied().collect::<Vec<_>>(), [RangeChange::Delete { logical: 0, len: u32::MAX }]);
    }

    /// Random changes against an array of blocks.
    #[test]
    fn ranges_behave_like_an_array() {
        let mut seed = 7u64;
        let mut random = move |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % below
        };
        let mut model: Vec<Option<Option<u64>>> = vec![None; 300];
        let mut ranges = BTreeMap::new();
        for round in 0..2000u64 {
            let logical = random(290) as u32;
            let len = random(u64::from(300 - logical).min(40)) as u32;
            let physical = round * 1000;
            let range = if round % 3 == 0 { RangeChange::Delete { logical, len } } else { add(logical, len, physical) };
            range.put(&mut ranges);
            for index in 0..len {
                let to = (round % 3 != 0).then_some(physical + u64::from(index));
                model[(logical + index) as usize] = Some(to);
            }
            let mut seen = vec![None; 300];
            for range in ranges.values() {
                for block in u64::from(range.logical())..range.end() {
                    let to = match *range {
                        RangeChange::Add { logical, physical, .. } => Some(physical + block - u64::from(logical)),
                        RangeChange::Delete { .. } => None,
                    };
                    assert!(seen[block as usize].replace(to).is_none(), "overlap at {block}");
                }
            }
            assert_eq!(seen, model);
        }
    }

    #[test]
    fn names_follow_their_records_only_where_the_kernel_would() {
        let renamed = FastCommit::new(vec![unlink(12, "b"), link(11, "b"), unlink(11, "a")]);
        assert_eq!(renamed.names(2).collect::<Vec<_>>(), [b"a", b"b"]);
        assert_eq!(renamed.lookup(2, b"a", Some(11)), None);
        assert_eq!(renamed.lookup(2, b"b", Some(12)), Some(11));
        assert_eq!(renamed.lookup(2, b"b", Some(11)), Some(11), "already recovered");
        assert_eq!(renamed.lookup(2, b"a", Some(99)), Some(99), "another file by now");
        assert_eq!(renamed.lookup(2, b"c", Some(5)), Some(5));
        assert_eq!(renamed.lookup(3, b"a", Some(11)), Some(11));
        assert_eq!(FastCommit::new(vec![link(11, "b")]).lookup(2, b"b", Some(12)), Some(12), "the name is taken");
    }

    #[test]
    fn an_inode_record_leaves_block_map_and_attributes_alone() {
        let mut on_disk = inode(1, EXTENTS, 0xd1);
        on_disk[BLOCK..BLOCK + 12].copy_from_slice(&[0x0a, 0xf3, 1, 0, 4, 0, 0, 0, 0, 0, 0, 0]);
        let record = inode(3, EXTENTS, 0x77)[..160].to_vec();
        let changes = FastCommit::new(vec![change(20, Operation::Write(record.clone()))]);
        let after = changes.inode(20, &on_disk).unwrap();
        assert_eq!(after.bytes[..BLOCK], record[..BLOCK]);
        assert_eq!(after.bytes[BLOCK..GENERATION], on_disk[BLOCK..GENERATION]);
        assert_eq!(after.bytes[GENERATION..160], record[GENERATION..]);
        assert_eq!(after.bytes[160..], on_disk[160..]);
        assert!(after.recount && after.ranges.is_empty());
        assert!(changes.inode(21, &on_disk).is_none());
    }

    #[test]
    fn i_block_is_made_or_taken_where_it_must_be() {
        let extents = FastCommit::new(vec![change(20, Operation::Write(inode(1, EXTENTS, 0x77)))]);
        let after = extents.inode(20, &inode(1, 0, 0xd1)).unwrap();
        assert_eq!(after.bytes[BLOCK..BLOCK + 12], EMPTY_EXTENT_HEADER);
        assert_eq!(after.bytes[BLOCK + 12], 0xd1);
        let inline = FastCommit::new(vec![change(20, Operation::Write(inode(1, INLINE_DATA, 0x77)))]);
        let after = inline.inode(20, &inode(1, 0, 0xd1)).unwrap();
        assert_eq!(after.bytes[BLOCK..GENERATION], [0x77; 60]);
        assert!(!after.recount);
    }

    #[test]
    fn a_freed_inode_loses_its_blocks_and_starts_again() {
        let mut on_disk = inode(1, EXTENTS, 0xd1);
        on_disk[BLOCK..BLOCK + 2].copy_from_slice(&[0x0a, 0xf3]);
        let changes = vec![
            change(13, Operation::Range(add(0, 4, 100))),
            unlink(13, "old"),
            change(13, Operation::Range(add(8, 1, 300))),
            change(13, Operation::Write(inode(1, EXTENTS, 0x77))),
            change(13, Operation::Range(add(1, 1, 200))),
            change(13, Operation::Create { parent: 2, name: b"new".to_vec() }),
        ];
        let after = FastCommit::new(changes).inode(13, &on_disk).unwrap();
        assert_eq!(after.bytes[BLOCK..BLOCK + 12], EMPTY_EXTENT_HEADER);
        assert_eq!(after.ranges, [add(1, 1, 200)]);
        assert_eq!((after.links(), after.made_in), (1, None));
    }

    #[test]
    fn links_are_counted_and_a_made_directory_is_known() {
        let changes = FastCommit::new(vec![link(14, "x"), link(14, "y"), unlink(14, "a")]);
        assert_eq!(changes.inode(14, &inode(1, 0, 0)).unwrap().links(), 2);
        assert_eq!(changes.inode(14, &inode(0, 0, 0)).unwrap().links(), 0, "a free inode stays free");
        let mut directory = inode(2, EXTENTS, 0);
        directory[..2].copy_from_slice(&0x41edu16.to_le_bytes());
        let make = change(15, Operation::Create { parent: 2, name: b"d".to_vec() });
        let changes = FastCommit::new(vec![change(15, Operation::Write(directory)), make]);
        let after = changes.inode(15, &[0; 256]).unwrap();
        assert_eq!((after.links(), after.made_in), (1, Some(2)));
    }
}
