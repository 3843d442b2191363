//! ext2, ext3 and ext4, read as the kernel would read them after its own recovery.
//!
//! Layout, from the kernel documentation "ext4 Data Structures and Algorithms":
//!
//! ```text
//! byte 1024        superblock                                            superblock.rs
//! next block(s)    group descriptors (or spread out: meta_bg)            group.rs
//! per group        bitmaps, inode table                                  free.rs, inode.rs
//! inode            extent tree or block map, inline data                 block_map.rs, content.rs
//! directory block  entries, hash-tree nodes among them                   dir.rs
//! xattr block      and the space behind an inode's fields                xattr.rs
//! inode 8          the journal, replayed in memory when it is needed     journal/
//! ```
//!
//! Everything but the journal is little-endian. Metadata checksums are verified wherever the filesystem has them. All
//! incompatible features of today are read but compression, external journals and Lustre's dirdata, which are refused by
//! name; encrypted files are reported and not opened. Nothing is ever written: a filesystem that was in use when its
//! image was copied is read through a view in which journalled blocks come from the journal.

mod block_map;
mod checksum;
mod content;
mod dir;
mod features;
mod free;
mod group;
mod inode;
mod journal;
mod orphan;
mod superblock;
mod xattr;

use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use content::Content;
use features::{COMPAT_HAS_JOURNAL, INCOMPAT_EXTENTS, INCOMPAT_RECOVER};
use group::GroupDescriptor;
use inode::{FLAG_ENCRYPT, FLAG_INLINE_DATA, RawInode};
use journal::{FastCommit, JournalInput, RangeChange, Replay, Replayed};
use orphan::Orphans;
use superblock::Superblock;

use crate::PathProblem;
use crate::block::{BlockDevice, Cached, Lru, Memory, read_vec};
use crate::bytes::{div_rem, low_u32, to_usize};
use crate::error::{Error, Result};
use crate::fs::name_index::NameIndexes;
use crate::fs::{DirEntry, FileType, Filesystem, Identity, Inode, Metadata, StatFs, Xattr, probe};
use crate::limits;

const ROOT: u32 = 2;

/// Memory for metadata pages.
const CACHE_BYTES: usize = 16 << 20;
/// Extent-tree nodes and indirect blocks kept after their check.
const CACHED_NODES: usize = 1024;
/// Group descriptors kept after their check.
const CACHED_GROUPS: usize = 4096;
/// Inodes kept after their check, and after fast commits were applied: one is asked for its metadata, attributes and
/// content in turn.
const CACHED_INODES: usize = 1024;
/// The same in bytes, for filesystems with large inodes.
const CACHED_INODE_BYTES: u64 = 4 << 20;

/// Opens the ext2, ext3 or ext4 filesystem on `device`, replaying its journal in memory when it has to be.
pub fn open(device: Arc<dyn BlockDevice>) -> Result<Arc<dyn Filesystem>> {
    let identity = probe(&*device)?;
    let mut fs = Ext4::new(device.clone(), FastCommit::default())?;
    let mut recovery = Vec::new();
    if fs.superblock.features.incompat(INCOMPAT_RECOVER) {
        let block_size = fs.superblock.block_size;
        let (replay, journal) = Arc::new(fs).replay_journal()?;
        recovery = replay.notes;
        let replayed = Replayed::new(device, journal, block_size, replay.blocks);
        // The superblock itself may be among the replayed blocks.
        fs = Ext4::new(Arc::new(replayed), replay.fast_commit)?;
    }
    fs.orphans = fs.find_orphans().unwrap_or_else(|error| {
        recovery.push(format!("orphaned inodes could not be listed: {error}"));
        Orphans::default()
    });
    let Orphans { deleted, truncated, .. } = fs.orphans;
    if deleted > 0 || truncated > 0 {
        recovery.push(format!("{deleted} deleted and {truncated} truncated inodes were still to be cleaned up"));
    }
    Ok(Arc::new(Mounted { fs: Arc::new(fs), identity, recovery }))
}

/// An open filesystem below the trait: what every part of this folder works on.
#[derive(Debug)]
struct Ext4 {
    superblock: Superblock,
    /// The device as it reads after recovery.
    device: Arc<dyn BlockDevice>,
    /// The same behind a cache.
    metadata: Cached,
    /// Checked nodes by (inode, block); indirect blocks, which belong to no checksum, under inode 0.
    extent_nodes: Lru<(u32, u64), Arc<[u8]>>,
    groups: Lru<u32, GroupDescriptor>,
    inodes: Lru<u32, Arc<RawInode>>,
    /// What was counted for those whose i_blocks is not known.
    units: Lru<u32, u64>,
    /// Of directories that take more than a few blocks.
    indexes: NameIndexes,
    fast_commit: FastCommit,
    orphans: Orphans,
}

impl Ext4 {
    fn new(device: Arc<dyn BlockDevice>, fast_commit: FastCommit) -> Result<Self> {
        let metadata = Cached::new(device.clone(), CACHE_BYTES);
        let superblock = Superblock::read(&metadata)?;
        let (extent_nodes, groups) = (Lru::new(CACHED_NODES), Lru::new(CACHED_GROUPS));
        let inodes = div_rem(CACHED_INODE_BYTES, u64::from(superblock.inode_size)).0;
        let inodes = to_usize(inodes).min(CACHED_INODES);
        Ok(Self {
            superblock,
            device,
            metadata,
            extent_nodes,
            groups,
            inodes: Lru::new(inodes),
            units: Lru::new(CACHED_INODES),
            indexes: NameIndexes::default(),
            fast_commit,
            orphans: Orphans::default(),
        })
    }

    /// Reads the journal and works out what it changes.
    fn replay_journal(self: Arc<Self>) -> Result<(Replay, Arc<dyn BlockDevice>)> {
        let superblock = &self.superblock;
        if !superblock.features.compat(COMPAT_HAS_JOURNAL) {
            return Err(Error::corrupt(
                "ext4",
                "s_feature_compat",
                1024 + 0x5c,
                "needs_recovery without a journal",
                "has_journal",
            ));
        }
        if superblock.journal_inum == 0 {
            let device = superblock.journal_dev;
            return Err(Error::unsupported("ext4", format!("recovery from an external journal (device {device:#x})")));
        }
        let inode = self.inode(superblock.journal_inum)?;
        if inode.file_type()? != FileType::File || inode.links_count()? == 0 {
            return Err(inode.record().corrupt("s_journal_inum", 0, "no regular file", "the journal's inode"));
        }
        let size = inode.size(superblock)?;
        let journal: Arc<dyn BlockDevice> = Arc::new(Content::new(self.clone(), inode, size));
        let input = JournalInput {
            journal: &*journal,
            block_size: superblock.block_size,
            blocks_count: superblock.blocks_count,
            inode_size: u32::from(superblock.inode_size),
        };
        Ok((journal::replay(&input)?, journal.clone()))
    }

    /// An inode, checked; one that fast commits have changed is as they left it.
    fn inode(&self, number: u32) -> Result<Arc<RawInode>> {
        self.inodes.get_or_read(number, || self.read_inode(number).map(Arc::new))
    }

    /// Where an inode lies on the device.
    fn inode_offset(&self, number: u32) -> Result<u64> {
        let superblock = &self.superblock;
        let Some(index) = number.checked_sub(1).filter(|_| number <= superblock.inodes_count) else {
            let expected = format!("1 to {}", superblock.inodes_count);
            return Err(Error::corrupt("ext4", "inode number", 1024, number, expected));
        };
        let (group, index) = div_rem(u64::from(index), u64::from(superblock.inodes_per_group));
        let group = low_u32(group);
        let descriptor = self.groups.get_or_read(group, || GroupDescriptor::read(&self.metadata, superblock, group))?;
        let table = superblock.block_offset(descriptor.inode_table, "bg_inode_table", descriptor.offset)?;
        let within = index.saturating_mul(u64::from(superblock.inode_size));
        Ok(table.saturating_add(within))
    }

    fn read_inode(&self, number: u32) -> Result<RawInode> {
        let superblock = &self.superblock;
        let offset = self.inode_offset(number)?;
        let bytes = read_vec(&self.metadata, offset, usize::from(superblock.inode_size))?;
        match self.fast_commit.inode(number, &bytes) {
            Some(recovered) => RawInode::recovered(number, offset, recovered, superblock),
            None => RawInode::new(number, offset, bytes, superblock),
        }
    }

    /// Allocated units of 512 bytes of an inode whose i_blocks fast commits left open: its mapped blocks, and a leaf when
    /// they do not fit the root of the extent tree.
    fn count_units(&self, inode: &RawInode) -> Result<u64> {
        let block_size = u64::from(self.superblock.block_size);
        let mut end = inode.size(&self.superblock)?.div_ceil(block_size);
        end = end.max(inode.ranges.last().map_or(0, RangeChange::end));
        let (mut at, mut blocks, mut extents) = (0u64, 0u64, 0u64);
        while at < end {
            let mapping = self.map_block(inode, at)?;
            if mapping.physical.is_some() {
                blocks = blocks.saturating_add(mapping.len);
                extents = extents.saturating_add(1);
            }
            at = at.saturating_add(mapping.len);
        }
        let leaf = if extents > 4 { 1 } else { 0 };
        let xattrs = if inode.file_acl()? != 0 { 1 } else { 0 };
        Ok(blocks.saturating_add(leaf).saturating_add(xattrs).saturating_mul(block_size / 512))
    }

    /// The inode behind a number from outside, which must be in use.
    fn used_inode(&self, number: Inode) -> Result<Arc<RawInode>> {
        let inode = self.inode(u32::try_from(number).unwrap_or(u32::MAX))?;
        if inode.mode()? == 0 || inode.links_count()? == 0 {
            return Err(inode.record().corrupt(
                "i_links_count",
                0x1a,
                format!("0 (inode {number})"),
                "an inode in use",
            ));
        }
        Ok(inode)
    }

    /// inline_data: the content from i_block and, past 60 bytes, from `system.data`; what a larger i_size adds reads as
    /// zeroes, as it does for the kernel. No inode can hold more than a block inline.
    fn inline_content(&self, inode: &RawInode) -> Result<Vec<u8>> {
        let size = inode.size(&self.superblock)?;
        let most = u64::from(self.superblock.block_size);
        if size > most {
            return Err(inode.record().corrupt("i_size", 0x4, size, format!("at most {most} for inline data")));
        }
        let mut bytes = inode.block()?.to_vec();
        if size > 60 {
            bytes.extend(self.inline_tail(inode)?.unwrap_or_default());
        }
        bytes.resize(to_usize(size), 0);
        Ok(bytes)
    }
}

/// The filesystem behind the trait. Contents keep it open.
#[derive(Debug)]
struct Mounted {
    fs: Arc<Ext4>,
    identity: Identity,
    recovery: Vec<String>,
}

fn wrong_type(inode: &RawInode, problem: PathProblem) -> Error {
    Error::path(format!("inode {}", inode.number).as_bytes(), problem)
}

impl Filesystem for Mounted {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn root(&self) -> Inode {
        Inode::from(ROOT)
    }

    fn metadata(&self, inode: Inode) -> Result<Metadata> {
        let inode = self.fs.used_inode(inode)?;
        let mut metadata = inode.metadata(&self.fs.superblock)?;
        if inode.recount {
            metadata.blocks = self.fs.units.get_or_read(inode.number, || self.fs.count_units(&inode))?;
        }
        if metadata.file_type == FileType::File && inode.has(FLAG_INLINE_DATA)? {
            // stat(2) counts what lies in the inode, so that a program does not take the file for one big hole.
            metadata.blocks = metadata.blocks.saturating_add(metadata.size.div_ceil(512));
        }
        Ok(metadata)
    }

    fn lookup(&self, directory: Inode, name: &[u8]) -> Result<Option<Inode>> {
        Ok(self.fs.find_entry(&*self.fs.used_inode(directory)?, name)?.map(Inode::from))
    }

    fn read_dir(&self, directory: Inode, visit: &mut dyn FnMut(DirEntry) -> Result<ControlFlow<()>>) -> Result<()> {
        self.fs.for_each_entry(&*self.fs.used_inode(directory)?, visit)
    }

    fn read_link(&self, inode: Inode) -> Result<Vec<u8>> {
        let inode = self.fs.used_inode(inode)?;
        if inode.file_type()? != FileType::Symlink {
            return Err(wrong_type(&inode, PathProblem::NotASymlink));
        }
        if inode.has(FLAG_ENCRYPT)? {
            return Err(wrong_type(&inode, PathProblem::Encrypted));
        }
        let size = inode.size(&self.fs.superblock)?;
        if inode.has(FLAG_INLINE_DATA)? {
            return self.fs.inline_content(&inode);
        }
        if inode.is_fast_symlink(&self.fs.superblock)? {
            return Ok(inode.block()?.iter().copied().take(to_usize(size)).collect());
        }
        limits::check("symbolic link bytes", size, limits::SYMLINK_BYTES)?;
        read_vec(&Content::new(self.fs.clone(), inode, size), 0, to_usize(size))
    }

    fn open(&self, inode: Inode) -> Result<Arc<dyn BlockDevice>> {
        let inode = self.fs.used_inode(inode)?;
        match inode.file_type()? {
            FileType::File => {}
            FileType::Dir => return Err(wrong_type(&inode, PathProblem::IsADirectory)),
            _ => return Err(wrong_type(&inode, PathProblem::NotARegularFile)),
        }
        if inode.has(FLAG_ENCRYPT)? {
            return Err(wrong_type(&inode, PathProblem::Encrypted));
        }
        if inode.has(FLAG_INLINE_DATA)? {
            return Ok(Arc::new(Memory::new(self.fs.inline_content(&inode)?)));
        }
        let size = inode.size(&self.fs.superblock)?;
        Ok(Arc::new(Content::new(self.fs.clone(), inode, size)))
    }

    fn expect(&self, inodes: &mut dyn Iterator<Item = Inode>) {
        let numbers = inodes.filter_map(|inode| u32::try_from(inode).ok());
        self.fs.metadata.prefetch(numbers.filter_map(|number| self.fs.inode_offset(number).ok()));
    }

    fn xattrs(&self, inode: Inode) -> Result<Vec<Xattr>> {
        self.fs.read_xattrs(&*self.fs.used_inode(inode)?)
    }

    /// As the kernel counts: free space from the group descriptors, the total without the filesystem's own metadata, and
    /// what orphans would give back counted as free.
    fn statfs(&self) -> Result<StatFs> {
        let superblock = &self.fs.superblock;
        let ratio = u64::from(superblock.cluster_ratio);
        limits::check("ext4 block groups", u64::from(superblock.group_count), limits::EXT4_GROUPS)?;
        let (free_clusters, free_inodes) = group::count_free(&self.fs.metadata, superblock)?;
        let (orphaned_blocks, _) = div_rem(self.fs.orphans.deleted_units, u64::from(superblock.block_size / 512));
        let blocks_free = free_clusters.saturating_mul(ratio).saturating_add(orphaned_blocks);
        // The kernel keeps 2 % of the clusters, at most 4096, for delayed extent splits.
        let set_aside = if superblock.features.incompat(INCOMPAT_EXTENTS) {
            (div_rem(superblock.blocks_count, ratio).0 / 50).min(4096).saturating_mul(ratio)
        } else {
            0
        };
        // As in the kernel, the superblock's word is taken only with bigalloc, where counting would take long.
        let stored = u64::from(superblock.overhead_clusters).saturating_mul(ratio);
        let overhead = if ratio > 1 && (1..=superblock.blocks_count).contains(&stored) {
            stored
        } else {
            group::overhead_blocks(superblock, self.journal_bytes())
        };
        Ok(StatFs {
            block_size: u64::from(superblock.block_size),
            blocks: superblock.blocks_count.saturating_sub(overhead),
            blocks_free,
            blocks_available: blocks_free.saturating_sub(superblock.reserved_blocks.saturating_add(set_aside)),
            files: u64::from(superblock.inodes_count),
            files_free: free_inodes.saturating_add(self.fs.orphans.deleted),
            name_max: 255,
        })
    }

    fn free_extents(&self, visit: &mut dyn FnMut(Range<u64>) -> Result<()>) -> Result<()> {
        self.fs.free_extents(visit)
    }

    fn recovery(&self) -> Vec<String> {
        self.recovery.clone()
    }
}

impl Mounted {
    fn journal_bytes(&self) -> u64 {
        let superblock = &self.fs.superblock;
        let inode = Some(superblock.journal_inum).filter(|number| *number != 0);
        inode.and_then(|number| self.fs.inode(number).ok()?.size(superblock).ok()).unwrap_or(0)
    }
}
