//! FAT12, FAT16 and FAT32 with long names (vfat).
//!
//! Specification: "FAT32 File System Specification" 1.03 (Microsoft, 2000); ECMA-107 for FAT12 and FAT16.
//!
//! ```text
//!   boot sector, FSInfo … │ FAT │ FAT … │ root directory (FAT12/16) │ cluster 2 │ cluster 3 │ …
//! ```
//!
//! | file | is about |
//! |---|---|
//! | `boot` | the boot sector: where everything lies |
//! | `table` | the file allocation table: chains of clusters |
//! | `directory` | slots, short entries, long names |
//! | `name`, `time` | what bytes mean |
//! | `file` | a file's content as a device |
//!
//! FAT knows no owners, modes or links. What is shown in their place is what Linux shows for `mount -t vfat` by root with
//! umask 022: everything belongs to 0:0, modes are 0755, without the write bits for read-only files; a directory's links
//! are 2 and one for each subdirectory, its size is that of its clusters; `st_blksize` is the cluster. The root has no
//! times. The inode's change time is its modification time. An inode number is the byte offset of the short entry / 32,
//! the root is 1.
//!
//! Names are looked up without regard to case, by long or short name; an exact match wins.
//!
//! Refused: chains that are broken, too short, or meet themselves; exFAT is another format.

mod boot;
mod directory;
mod file;
mod name;
mod table;
mod time;

use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use boot::{BootSector, FORMAT, FatType, Root, claims_fat};
use directory::{Named, SLOT, ShortEntry};
use table::{Chain, Table};

use super::name_index::NameIndexes;
use super::probe::fat_serial;
use super::{DirEntry, FileType, Filesystem, FsKind, Identity, Inode, Metadata, StatFs, Timestamp, Xattr};
use crate::block::{BlockDevice, Cached, Lru, read_vec};
use crate::bytes::{Record, low_u32, to_usize};
use crate::error::{Error, PathProblem, Result};
use crate::limits;

/// The root directory, which has no entry of its own.
const ROOT: Inode = 1;

/// Bytes of table and directories kept in memory.
const CACHE_BYTES: usize = 2 << 20;

/// A directory in which a look-up passed more names than this is searched through an index from then on.
const INDEXED: usize = 256;

/// Directories whose facts are kept in memory.
const CACHED_DIRECTORIES: usize = 16_384;

/// Bytes of a long name in UTF-8 at most, as statvfs(3) reports them: 255 units, six bytes each.
const NAME_MAX: u64 = 1_530;

/// A FAT filesystem.
#[derive(Debug)]
pub struct Fat {
    device: Arc<dyn BlockDevice>,
    cached: Cached,
    indexes: NameIndexes,
    boot: BootSector,
    identity: Identity,
    dirty: bool,
    /// (size, links) of directories by their first cluster, `None` for the root: path resolution asks for them at every
    /// step, and they cost a scan, which a hostile volume could make countless entries share.
    facts: Lru<Option<u32>, (u64, u64)>,
}

/// Label and serial number when `head` (the device's first bytes) begins with a FAT boot sector. The label is that of the
/// root directory; the boot sector's copy counts when there is none.
pub(super) fn identify(device: &dyn BlockDevice, head: &[u8]) -> Result<Option<(Option<String>, Option<u32>)>> {
    if !claims_fat(head) {
        return Ok(None);
    }
    let Ok(boot) = BootSector::parse(&Record::new(FORMAT, head, 0)) else { return Ok(None) };
    // A broken root directory makes the volume no less FAT.
    let found = root_regions(device, &boot).and_then(|root| directory::find_label(device, &root, boot.fat_type));
    let label = found.ok().flatten().or(boot.label);
    Ok(Some((label.and_then(|label| name::label(&label)), boot.serial)))
}

fn root_regions(device: &dyn BlockDevice, boot: &BootSector) -> Result<Vec<Range<u64>>> {
    match &boot.root {
        Root::Fixed(range) => Ok(vec![range.clone()]),
        Root::Chain(cluster) if boot.has_cluster(*cluster) => directory_regions(device, boot, *cluster),
        Root::Chain(cluster) => {
            let expected = format!("a cluster from 2 to {}", boot.clusters.saturating_add(1));
            Err(Error::corrupt(FORMAT, "BPB_RootClus", 44, cluster, expected))
        }
    }
}

/// The clusters of a directory as ranges of the device.
fn directory_regions(device: &dyn BlockDevice, boot: &BootSector, first: u32) -> Result<Vec<Range<u64>>> {
    let most = limits::FAT_DIRECTORY_BYTES.checked_div(boot.cluster_size).unwrap_or(1).max(1);
    let mut table = Table::new(device, boot);
    let chain = table.chain(first, low_u32(most))?;
    if !chain.ended {
        let found = u64::from(chain.len).saturating_add(1).saturating_mul(boot.cluster_size);
        return Err(Error::limit("bytes of a FAT directory", limits::FAT_DIRECTORY_BYTES, found));
    }
    let region = |run: &table::Run| {
        let start = boot.cluster_offset(run.cluster);
        start..start.saturating_add(u64::from(run.len).saturating_mul(boot.cluster_size))
    };
    Ok(chain.runs.iter().map(region).collect())
}

impl Fat {
    /// Opens the filesystem whose boot sector is the first sector of `device`.
    pub fn open(device: Arc<dyn BlockDevice>) -> Result<Self> {
        let cached = Cached::new(device.clone(), CACHE_BYTES);
        let head = read_vec(&cached, 0, 512)?;
        let boot = BootSector::parse(&Record::new(FORMAT, &head, 0))?;
        let (label, serial) = identify(&cached, &head)?.unwrap_or_default();
        let identity = Identity { kind: FsKind::Vfat, label, uuid: serial.map(fat_serial) };
        if boot.fat.end > device.size() || boot.data > device.size() {
            let found = format!("{} bytes before the data", boot.data);
            return Err(Error::corrupt(FORMAT, "BPB_FATSz", 22, found, format!("a device of {} bytes", device.size())));
        }
        // Windows clears a bit of entry 1 while a volume is mounted, Linux sets one in the boot sector.
        let clean = match boot.fat_type {
            FatType::Fat12 => 0,
            FatType::Fat16 => 0x8000,
            FatType::Fat32 => 0x0800_0000,
        };
        let dirty = boot.dirty || Table::new(&cached, &boot).value(1)? & clean != clean;
        let facts = Lru::new(CACHED_DIRECTORIES);
        Ok(Self { device, cached, indexes: NameIndexes::default(), boot, identity, dirty, facts })
    }

    /// The short entry that an inode number stands for.
    fn entry(&self, inode: Inode) -> Result<(u64, ShortEntry)> {
        let unknown = || Error::invalid(format!("no FAT directory entry has the inode number {inode}"));
        let position = inode.checked_mul(SLOT).ok_or_else(unknown)?;
        let first = match &self.boot.root {
            Root::Fixed(range) => range.start,
            Root::Chain(_) => self.boot.data,
        };
        if position < first || position.saturating_add(SLOT) > self.device.size() {
            return Err(unknown());
        }
        let bytes = read_vec(&self.cached, position, to_usize(SLOT))?;
        let entry = ShortEntry::parse(&Record::new(FORMAT, &bytes, position), self.boot.fat_type)?;
        if entry.is_file_or_directory() { Ok((position, entry)) } else { Err(unknown()) }
    }

    /// Where a directory's slots lie.
    fn regions(&self, directory: Inode) -> Result<Vec<Range<u64>>> {
        if directory == ROOT {
            return root_regions(&self.cached, &self.boot);
        }
        let (position, entry) = self.entry(directory)?;
        if !entry.is_directory() {
            return Err(Error::path(format!("inode {directory}").as_bytes(), PathProblem::NotADirectory));
        }
        let is_root = self.boot.root == Root::Chain(entry.cluster);
        if is_root || !self.boot.has_cluster(entry.cluster) {
            return Err(self.bad_cluster(position, entry.cluster));
        }
        directory_regions(&self.cached, &self.boot, entry.cluster)
    }

    fn bad_cluster(&self, position: u64, cluster: u32) -> Error {
        let expected = format!("a cluster from 2 to {}, not the root's", self.boot.clusters.saturating_add(1));
        Error::corrupt(FORMAT, "DIR_FstClus", position.saturating_add(26), cluster, expected)
    }

    fn for_each(&self, directory: Inode, visit: &mut dyn FnMut(Named) -> Result<ControlFlow<()>>) -> Result<()> {
        directory::for_each_entry(&self.cached, &self.regions(directory)?, &self.boot, visit)
    }

    /// (size, links) of a directory.
    fn directory_facts(&self, directory: Inode) -> Result<(u64, u64)> {
        let regions = self.regions(directory)?;
        let size = regions.iter().fold(0u64, |sum, range| {
            let len = range.end.saturating_sub(range.start);
            sum.saturating_add(len)
        });
        let links = directory::count_subdirectories(&self.cached, &regions)?.saturating_add(2);
        Ok((size, links))
    }

    /// 512-byte units of the clusters that hold `size` bytes.
    fn blocks(&self, size: u64) -> u64 {
        size.checked_next_multiple_of(self.boot.cluster_size).unwrap_or(size) >> 9
    }

    /// The count in the FSInfo sector, when that sector is one and the volume was left clean.
    ///
    /// | byte | size | field | accepted |
    /// |---|---|---|---|
    /// | 0 | 4 | FSI_LeadSig | `RRaA` |
    /// | 484 | 4 | FSI_StrucSig | `rrAa` |
    /// | 488 | 4 | FSI_Free_Count | at most the count of clusters; ffffffff is unknown |
    fn stated_free(&self) -> Option<u64> {
        let at = self.boot.fs_info.filter(|_| !self.dirty)?;
        let bytes = read_vec(&self.cached, at, 512).ok()?;
        let info = Record::new(FORMAT, &bytes, at);
        let is_info = info.slice(0, 4).ok()? == b"RRaA" && info.slice(484, 4).ok()? == b"rrAa";
        let free = info.le32(488).ok()?;
        (is_info && free <= self.boot.clusters).then(|| u64::from(free))
    }
}

impl Fat {
    /// The entry under `name`, or else under `folded`, by the directory's index.
    fn find_indexed(&self, directory: Inode, name: &[u8], folded: &[u8]) -> Result<Option<Inode>> {
        let folded = Some(folded).filter(|folded| !folded.is_empty());
        self.indexes.find(directory, name, folded, |names| {
            self.for_each(directory, &mut |named| {
                let inode = named.position.checked_div(SLOT).unwrap_or(0);
                names.add(&named.name, inode);
                for name in std::iter::once(&named.name).chain(&named.alias) {
                    names.add_folded(&name::fold(name), inode);
                }
                Ok(ControlFlow::Continue(()))
            })
        })
    }
}

impl Filesystem for Fat {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn root(&self) -> Inode {
        ROOT
    }

    fn metadata(&self, inode: Inode) -> Result<Metadata> {
        let epoch = Timestamp::default();
        let mut metadata = Metadata {
            inode,
            file_type: FileType::Dir,
            permissions: 0o755,
            uid: 0,
            gid: 0,
            nlink: 1,
            size: 0,
            blocks: 0,
            block_size: low_u32(self.boot.cluster_size),
            rdev: None,
            atime: epoch,
            mtime: epoch,
            ctime: epoch,
            crtime: None,
            encrypted: false,
        };
        let mut first_cluster = None;
        if inode != ROOT {
            let (_, entry) = self.entry(inode)?;
            first_cluster = Some(entry.cluster);
            let (date, time) = entry.modified;
            let (created_date, created_time, hundredths) = entry.created;
            metadata.mtime = time::timestamp(date, time, 0);
            metadata.ctime = metadata.mtime;
            metadata.atime = time::timestamp(entry.accessed, 0, 0);
            metadata.crtime = Some(time::timestamp(created_date, created_time, hundredths));
            if !entry.is_directory() {
                metadata.file_type = FileType::File;
                metadata.size = u64::from(entry.size);
                if entry.attributes & directory::READ_ONLY != 0 {
                    metadata.permissions = 0o555;
                }
            }
        }
        if metadata.file_type == FileType::Dir {
            (metadata.size, metadata.nlink) = self.facts.get_or_read(first_cluster, || self.directory_facts(inode))?;
        }
        metadata.blocks = self.blocks(metadata.size);
        Ok(metadata)
    }

    fn lookup(&self, directory: Inode, name: &[u8]) -> Result<Option<Inode>> {
        // Trailing dots say nothing in a DOS name.
        let kept = name.iter().rposition(|&byte| byte != b'.').map_or(0, |last| last.saturating_add(1));
        let folded = name::fold(name.get(..kept).unwrap_or_default());
        if self.indexes.has(directory) {
            return self.find_indexed(directory, name, &folded);
        }
        let mut found = None;
        let mut passed = 0usize;
        self.for_each(directory, &mut |named| {
            passed = passed.saturating_add(1);
            let inode = named.position.checked_div(SLOT);
            if named.name == name {
                found = inode;
                return Ok(ControlFlow::Break(()));
            }
            let mut names = std::iter::once(&named.name).chain(&named.alias);
            if found.is_none() && !folded.is_empty() && names.any(|name| name::fold(name) == folded) {
                found = inode;
            }
            Ok(ControlFlow::Continue(()))
        })?;
        if passed > INDEXED {
            self.find_indexed(directory, name, &folded)?;
        }
        Ok(found)
    }

    fn read_dir(&self, directory: Inode, visit: &mut dyn FnMut(DirEntry) -> Result<ControlFlow<()>>) -> Result<()> {
        self.for_each(directory, &mut |named| {
            let file_type = if named.entry.is_directory() { FileType::Dir } else { FileType::File };
            let inode = named.position.checked_div(SLOT).unwrap_or(0);
            visit(DirEntry { name: named.name, inode, file_type: Some(file_type) })
        })
    }

    fn read_link(&self, inode: Inode) -> Result<Vec<u8>> {
        Err(Error::path(format!("inode {inode}").as_bytes(), PathProblem::NotASymlink))
    }

    fn open(&self, inode: Inode) -> Result<Arc<dyn BlockDevice>> {
        let not_a_file = || Error::path(format!("inode {inode}").as_bytes(), PathProblem::NotARegularFile);
        if inode == ROOT {
            return Err(not_a_file());
        }
        let (position, entry) = self.entry(inode)?;
        if entry.is_directory() {
            return Err(not_a_file());
        }
        let size = u64::from(entry.size);
        let wanted = low_u32(size.div_ceil(self.boot.cluster_size));
        let mut chain = Chain { runs: Vec::new(), len: 0, ended: true };
        if wanted > 0 {
            if !self.boot.has_cluster(entry.cluster) {
                return Err(self.bad_cluster(position, entry.cluster));
            }
            let mut table = Table::new(&self.cached, &self.boot);
            chain = table.chain(entry.cluster, wanted)?;
            if chain.len < wanted {
                let last = chain.runs.last().map_or(entry.cluster, |run| {
                    let after = run.cluster.saturating_add(run.len);
                    after.saturating_sub(1)
                });
                let found = format!("the end after {} clusters", chain.len);
                return Err(table.corrupt("FAT chain", last, found, format!("{wanted} clusters for {size} bytes")));
            }
        }
        let (device, cluster_size) = (self.device.clone(), self.boot.cluster_size);
        Ok(Arc::new(file::Content { device, data: self.boot.data, cluster_size, runs: chain.runs, size }))
    }

    fn xattrs(&self, _inode: Inode) -> Result<Vec<Xattr>> {
        Ok(Vec::new())
    }

    fn statfs(&self) -> Result<StatFs> {
        let free = match self.stated_free() {
            Some(free) => free,
            None => table::count_free(&*self.device, &self.boot)?,
        };
        Ok(StatFs {
            block_size: self.boot.cluster_size,
            blocks: u64::from(self.boot.clusters),
            blocks_free: free,
            blocks_available: free,
            files: 0,
            files_free: 0,
            name_max: NAME_MAX,
        })
    }

    fn free_extents(&self, visit: &mut dyn FnMut(Range<u64>) -> Result<()>) -> Result<()> {
        if self.dirty {
            return Err(Error::unsupported("vfat", "free space of a volume that was not unmounted"));
        }
        let mut pending = 0..0u64;
        table::for_each_free(&*self.device, &self.boot, &mut |cluster| {
            let start = self.boot.cluster_offset(cluster);
            let end = start.saturating_add(self.boot.cluster_size);
            if start != pending.end && !pending.is_empty() {
                visit(pending.clone())?;
            }
            pending = if start == pending.end { pending.start..end } else { start..end };
            Ok(())
        })?;
        if pending.is_empty() { Ok(()) } else { visit(pending) }
    }

    fn recovery(&self) -> Vec<String> {
        let note =
            "the FAT volume was not unmounted cleanly; it has no journal, so it is shown as it stands on the disk";
        if self.dirty { vec![note.to_owned()] } else { Vec::new() }
    }
}
