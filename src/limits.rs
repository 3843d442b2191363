//! Named budgets for untrusted input. Each length, depth and count that an image states is held against one of these
//! before anything is allocated or followed. Whose limit it is stands with each: the specification's, the kernel's or
//! ours.

use crate::error::{Error, Result};

/// Images below an image, the image itself not counted. Ours; qemu-img itself sets none, 200 is past every real chain.
pub const BACKING_CHAIN_DEPTH: u64 = 200;

/// Bytes of one table that must be read whole (a qcow2 L1 table). QEMU's limit for the L1 table.
pub const TABLE_BYTES: u64 = 32 << 20;

/// Bytes of the grain directories of one VMDK, which are kept in memory. Ours; those of 128 TiB in grains of 64 KiB, and
/// VMware's largest disk has half of that.
pub const VMDK_DIRECTORY_BYTES: u64 = 16 << 20;

/// Bytes of the L1 table, and of the refcount table, of a qcow2 image that is changed in place: both are kept in memory
/// with a set of the clusters they name. Ours; 4 MiB stand for 256 TiB in clusters of 64 KiB.
pub const QCOW2_WRITE_TABLE_BYTES: u64 = 4 << 20;

/// L1 table entries of a qcow2 image and its snapshots that a check looks at. Ours; QEMU's largest table has twice as many.
pub const CHECK_L1_ENTRIES: u64 = 2 << 20;

/// Bytes of the refcount table of a qcow2 image that is checked. QEMU's limit.
pub const CHECK_REFCOUNT_TABLE_BYTES: u64 = 8 << 20;

/// Bytes of memory for the references that a check counts: one for each cluster. Ours; 2 TiB of stored clusters of 64 KiB.
pub const CHECK_COUNT_BYTES: u64 = 32 << 20;

/// Clusters with 255 references and more. Ours; compressed clusters share one, snapshots share all.
pub const CHECK_LARGE_COUNTS: u64 = 1 << 18;

/// Blocks of a VDI or VHDX image, or grains of a VMDK, that a check holds against one another. Ours; they take 32 MiB, and
/// are 512 GiB in grains of 64 KiB.
pub const CHECK_BLOCKS: u64 = 8 << 20;

/// Entries of all bitmap tables of a qcow2 image. Ours; one stands for 32 GiB of disk by default.
pub const CHECK_BITMAP_ENTRIES: u64 = 1 << 18;

/// Compressed clusters of a qcow2 image that are told apart before it is read whole. Ours; they take 32 MiB, and stand for
/// 256 GiB in clusters of 64 KiB. Of an image with more only their number is held against the file.
pub const AUDIT_COMPRESSED_CLUSTERS: u64 = 1 << 22;

/// Bytes of a text descriptor inside an image (VMDK, OVF). Ours; QEMU allows 1 MiB for VMDK.
pub const DESCRIPTOR_BYTES: u64 = 1 << 20;

/// Internal snapshots of one qcow2 image. QEMU's limit.
pub const SNAPSHOTS: u64 = 65_536;

/// Bytes of the table that describes them. Ours; 65,536 ordinary entries take 6 MiB, QEMU allows 64 MiB.
pub const SNAPSHOT_TABLE_BYTES: u64 = 8 << 20;

/// Extents of one multi-extent VMDK. Ours.
pub const VMDK_EXTENTS: u64 = 4_096;

/// Bytes of a VHDX log that was not emptied. Ours; Hyper-V and QEMU make it 1 MiB.
pub const VHDX_LOG_BYTES: u64 = 64 << 20;

/// Changes in a VHDX log. Ours; a log of 1 MiB holds about 250 changed sectors.
pub const VHDX_LOG_DESCRIPTORS: u64 = 1 << 17;

/// Headers in the tar of one OVA. Ours; real ones hold a description, a manifest and a few disks.
pub const OVA_MEMBERS: u64 = 4_096;

/// Blocks, frames or members of one wrapped image (gzip, xz, zstd). Ours; at xz's 24 MiB each they make 12 TiB.
pub const WRAPPED_BLOCKS: u64 = 1 << 19;

/// Bytes of one of them, unpacked. What `xz -T0` makes by default.
pub const WRAPPED_BLOCK_BYTES: u64 = 24 << 20;

/// Bytes of memory for all that are being unpacked at once: what comes out, and the window or what goes in. Ours; one
/// block of `xz -T0` by default.
pub const WRAPPED_BYTES: u64 = 32 << 20;

/// Bytes of one index of an xz file. Ours; 300,000 ordinary records.
pub const XZ_INDEX_BYTES: u64 = 4 << 20;

/// Bytes of zeroes behind the streams of an xz file. Ours; tapes are padded to less.
pub const XZ_PADDING_BYTES: u64 = 1 << 20;

/// Frames and blocks of a zstd file that are visited to find where frames begin. Ours; 128 GiB of full blocks.
pub const ZSTD_BLOCKS: u64 = 1 << 20;

/// Runs of free space of one disk that are remembered; past this the shortest are forgotten. Ours; they take 16 MiB.
pub const FREE_RUNS: usize = 1 << 20;

/// Runs of free space of one disk that are looked at. Ours; what lies behind them is copied.
pub const FREE_VISITS: u64 = 1 << 22;

/// Bytes read from one disk to learn what is free. Ours; the bitmaps of 16 TiB of ext4 in blocks of 4 KiB.
pub const FREE_READ_BYTES: u64 = 512 << 20;

/// Damaged block groups of one ext4 before nothing more is taken for free there. Ours.
pub const FREE_DAMAGED_GROUPS: u64 = 256;

/// Entries of one partition table, and logical partitions in one chain. Ours; GPT tables hold 128, Linux names 256.
pub const PARTITIONS: u64 = 1_024;

/// Bytes of LVM2 text metadata. Ours; real groups stay below 1 MiB.
pub const LVM_METADATA_BYTES: u64 = 16 << 20;

/// Segments of all logical volumes together. Ours.
pub const LVM_SEGMENTS: u64 = 100_000;

/// Blocks of the log of a journal that was not emptied. Ours; the default of the largest filesystems is 262,144.
pub const JOURNAL_BLOCKS: u64 = 1 << 20;

/// Bytes of fast commits in a journal. Ours; mke2fs reserves a 64th of the journal, which is 1 GiB at most.
pub const FAST_COMMIT_BYTES: u64 = 16 << 20;

/// Records of all fast commits in a journal. Ours; a created file takes four.
pub const FAST_COMMIT_RECORDS: u64 = 1 << 17;

/// Symbolic links followed in one path resolution. The kernel's MAXSYMLINKS.
pub const SYMLINKS: u32 = 40;

/// Bytes of one path. The kernel's PATH_MAX.
pub const PATH_BYTES: usize = 4_096;

/// Components looked up in one path resolution, those of links included. Ours; the kernel allows 40 links of 2048 each.
pub const PATH_STEPS: u64 = 8_192;

/// Directories below one another in a walk; deeper is a cycle or an attack. Ours; PATH_MAX allows 2048.
pub const DIRECTORY_DEPTH: usize = 4_096;

/// Bytes of the names in the directories that a walk is in at once, with 16 for each. Ours; a million names of
/// 20 bytes.
pub const LISTING_BYTES: u64 = 36 << 20;

/// Names of one directory that paths lead through, and of all such directories that are remembered. Ours; an index of
/// them takes 16 MiB.
pub const DIRECTORY_INDEX_NAMES: u64 = 1 << 20;

/// Inodes with several names, and directories, that one count or archive remembers. Ours; they take some 200 MiB, and a
/// filesystem has tens of thousands.
pub const LINKED_INODES: u64 = 4 << 20;

/// Runs of blocks that are remembered to tell which ones files share. Ours; they take some 64 MiB.
pub const SHARED_RUNS: u64 = 1 << 21;

/// Bytes of one line that is searched, with the lines before it that are shown as its context. Ours; a dump of a database
/// may have lines of several megabytes.
pub const GREP_LINE_BYTES: u64 = 16 << 20;

/// Bytes of what is printed of one file that is searched beside others. Ours; a file that gives more is searched again when
/// its turn comes, and what it gives is not kept.
pub const GREP_OUTPUT_BYTES: usize = 4 << 20;

/// Bytes that an initial RAM disk unpacks to. Ours; the largest of distributions have some 500 MB.
pub const INITRD_BYTES: u64 = 2 << 30;

/// How many times its packed size an initial RAM disk may unpack to, beside 64 MiB that it may in any case. Ours; deflate
/// reaches 1,032, real ones stay below 10.
pub const INITRD_RATIO: u64 = 256;

/// Entries of all archives in an initial RAM disk. Ours; distributions have some thousands.
pub const INITRD_ENTRIES: u64 = 1 << 18;

/// Bytes of one file in an initial RAM disk that is read whole. Ours; the largest are firmware of some 50 MB.
pub const INITRD_FILE_BYTES: u64 = 256 << 20;

/// Archives and compressed streams of one initial RAM disk. Ours; real ones have up to four.
pub const INITRD_SEGMENTS: u64 = 1_024;

/// Kibibytes of memory for the dictionary of an xz stream in an initial RAM disk. Ours; the kernel's own limit is the same.
pub const INITRD_XZ_KIB: u32 = 64 << 10;

/// The window of a zstd stream in an initial RAM disk, as a power of two. The kernel's limit.
pub const INITRD_ZSTD_WINDOW_LOG: u32 = 27;

/// Block groups of an ext4 whose free space is counted. Ours; with the usual 128 MiB in each they make 512 TiB.
pub const EXT4_GROUPS: u64 = 1 << 22;

/// Bytes of a file or device that one call returns in memory. Ours; a guest can make a file of terabytes out of nothing.
/// Copying and digesting have no limit.
pub const CALL_BYTES: u64 = 1 << 30;

/// Bytes of one symbolic link's target. Ext4 keeps at most one block, which is at most 64 KiB.
pub const SYMLINK_BYTES: u64 = 65_536;

/// Runs of neighbouring clusters of one file on FAT, whose table must be walked to find them. Ours; far past what years of
/// use leave behind.
pub const FAT_FRAGMENTS: u64 = 1 << 18;

/// Bytes of one directory on FAT. The specification's limit: 65,536 entries of 32 bytes.
pub const FAT_DIRECTORY_BYTES: u64 = 2 << 20;

/// Bytes of one extended-attribute value. The kernel's XATTR_SIZE_MAX.
pub const XATTR_BYTES: u64 = 65_536;

/// Bytes of one guest file that inspection reads whole (os-release, fstab, unit files).
pub const INSPECT_FILE_BYTES: u64 = 4 << 20;

/// Entries of one list that inspection makes: names in a directory, users, enabled services. Ours.
pub const INSPECT_ENTRIES: usize = 65_536;

/// Lines of one guest's fstab that are looked at. Ours.
pub const FSTAB_ENTRIES: usize = 4_096;

/// Filesystems mounted into one guest's namespace by inspection. Ours.
pub const INSPECT_MOUNTS: usize = 256;

/// Path components looked up in one inspection of all guests. Ours; a Debian guest needs some 300.
pub const INSPECT_TOTAL_STEPS: u64 = 200_000;

/// Bytes of all files read in one inspection. Ours; a Debian guest needs some 10 KB.
pub const INSPECT_TOTAL_BYTES: u64 = 16 << 20;

/// Entries of all lists of one inspection. Ours; a Debian guest needs some 500.
pub const INSPECT_TOTAL_ENTRIES: u64 = 262_144;

/// Notes kept about one guest. Ours; more say the same again.
pub const INSPECT_NOTES: usize = 100;

/// Bytes of one record of a package database (an RPM header blob, a dpkg stanza). RPM's own limit is 256 MiB; ours.
pub const PACKAGE_RECORD_BYTES: u64 = 16 << 20;

/// Bytes of one package database that is read in parts (rpmdb.sqlite, Packages.db, Packages), and of all its records
/// together. Ours; a desktop's is 300 MB.
pub const PACKAGE_DATABASE_BYTES: u64 = 1 << 30;

/// Bytes of an SQLite write-ahead log. Ours; RPM checkpoints at some megabytes.
pub const PACKAGE_WAL_BYTES: u64 = 256 << 20;

/// Bytes of package databases that are text (dpkg's status, apk's installed, all of pacman's together). Ours; Debian's
/// status takes 10 MB for several thousand packages.
pub const PACKAGE_TEXT_BYTES: u64 = 64 << 20;

/// Files of a package database with one for each package. Ours; the whole of Arch Linux is about 15,000 packages.
pub const PACKAGE_FILES: u64 = 100_000;

/// Bytes of memory for one list of packages. Ours; some 20,000 packages with their descriptions. Sorting and reporting take
/// about as much again.
pub const PACKAGE_LIST_BYTES: u64 = 22 << 20;

/// Damaged records of one package database that are passed over before it is given up. Ours.
pub const PACKAGE_DAMAGE: u64 = 10_000;

/// Packages of one guest. Ours; the whole of Debian is about 100,000.
pub const PACKAGES: u64 = 250_000;

/// Bytes of one reply to an NBD option. The protocol's longest: two strings of 4096 and a length.
pub const NBD_OPTION_REPLY_BYTES: u64 = 8_196;

/// Replies of an NBD server to one option: exports that it lists, metadata contexts of one. Ours.
pub const NBD_OPTION_REPLIES: usize = 4_096;

/// Bytes of one NBD reply that is not data: block status, an error and its message. Ours; QEMU sends up to 131,072
/// extents, of 16 bytes where lengths have 64 bits.
pub const NBD_REPLY_BYTES: u64 = 4 << 20;

/// Chunks of an NBD server's reply to one read. Ours; reads ask for 256 KiB, in blocks of 512 bytes at least.
pub const NBD_REPLY_CHUNKS: usize = 4_096;

/// Bytes of one tree's manifest, which is read whole. Ours; some four million entries.
pub const CACHE_MANIFEST_BYTES: u64 = 1 << 30;

/// Entries of one tree in the cache. Ours; a large server has some millions.
pub const CACHE_ENTRIES: u64 = 1 << 24;

/// Bytes of one name in a tree. Ours; Linux allows 255, 255 units of UTF-16 (NTFS) are at most 765.
pub const CACHE_NAME_BYTES: usize = 1_024;

/// Bytes of the name of an extended attribute. The kernel's XATTR_NAME_MAX.
pub const CACHE_XATTR_NAME_BYTES: usize = 255;

/// Runs of data of one sparse file in the cache. Ours; they take 16 MiB.
pub const CACHE_DATA_RUNS: u64 = 1 << 20;

/// Blobs of one pack. Ours; a pack of 32 MiB holds some 10,000.
pub const CACHE_PACK_BLOBS: u64 = 1 << 20;

/// Bytes of one pack. Ours; packs are closed at 32 MiB.
pub const CACHE_PACK_BYTES: u64 = 64 << 20;

/// Bytes of one record of the cache that is text (VERSION.json, refs, action results, leases). Ours.
pub const CACHE_RECORD_BYTES: u64 = 16 << 20;
/// Bytes of a text whose differences are shown line by line. Ours; configuration is smaller.
pub const DIFF_TEXT_BYTES: u64 = 1 << 20;

/// Bytes of memory for the inodes with several names whose names a walk has not all seen. Ours; some 200,000 at once.
pub const HARD_LINK_BYTES: u64 = 32 << 20;

/// Runs of data of one sparse file that an archive lists. Ours; what lies behind them is stored with its zeroes.
pub const SPARSE_RUNS: usize = 1 << 20;

/// Names that are changed because another host would not take them, which are all remembered. Ours.
pub const RENAMED_NAMES: u64 = 1 << 18;

/// Directories that their owner may not search, which get their modes when everything else is done. Ours; more get them
/// at once, and hard links to what is in them become copies.
pub const CLOSED_DIRECTORIES: usize = 1 << 14;

/// Things that could not be read of which a report tells; more are counted. Ours.
pub const REPORTED_PROBLEMS: usize = 10_000;

/// Bytes that one image of a batch may print when they are kept in its result. Ours; the digests of 100,000 files. What goes
/// into files has no limit.
pub const BATCH_OUTPUT_BYTES: usize = 16 << 20;

/// Bytes of messages of one image of a batch that are looked at, the last ones. Ours.
pub const BATCH_MESSAGE_BYTES: usize = 64 << 10;

/// Bytes of one line in the records of a batch. Ours; an output at its limit with every byte escaped.
pub const BATCH_LINE_BYTES: usize = 128 << 20;

/// `found` if it is within `limit`, else the [`Limit`](crate::ErrorKind::Limit) error that names it.
pub fn check(what: &'static str, found: u64, limit: u64) -> Result<u64> {
    if found <= limit { Ok(found) } else { Err(Error::limit(what, limit, found)) }
}
