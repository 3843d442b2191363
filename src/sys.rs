//! System calls that no library wraps. The only place where `unsafe` is allowed.

#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::io::Errno;
use rustix::ioctl::{Getter, Opcode, Setter, ioctl, opcode};

/// `struct file_clone_range` of ioctl_ficlonerange(2).
#[repr(C)]
struct FileCloneRange {
    src_fd: i64,
    src_offset: u64,
    src_length: u64,
    dest_offset: u64,
}

/// Makes `len` bytes at `to_offset` of `to` share the storage of those at `from_offset` of `from`: ioctl FICLONERANGE.
/// Offsets must be multiples of the filesystem's block, the length too unless the range ends where `from` does.
///
/// `EOPNOTSUPP`, `EXDEV`, `EINVAL`, `ENOTTY`: this filesystem, pair of files or range cannot be shared; nothing changed.
pub(crate) fn clone_range(from: &File, from_offset: u64, len: u64, to: &File, to_offset: u64) -> Result<(), Errno> {
    const FICLONERANGE: rustix::ioctl::Opcode = opcode::write::<FileCloneRange>(0x94, 13);
    let argument = FileCloneRange {
        src_fd: i64::from(from.as_raw_fd()),
        src_offset: from_offset,
        src_length: len,
        dest_offset: to_offset,
    };
    // SAFETY: FICLONERANGE reads one `file_clone_range`, which `argument` is, and writes to no memory of this process.
    // `src_fd` is open for the whole call because `from` is borrowed.
    unsafe { ioctl(to, Setter::<FICLONERANGE, FileCloneRange>::new(argument)) }
}

/// The magic number of btrfs' ioctls; numbers and structs are those of the kernel's `include/uapi/linux/btrfs.h`.
const BTRFS: u8 = 0x94;

const BTRFS_SUBVOL_NAME_MAX: usize = 4039;

/// `struct btrfs_ioctl_vol_args_v2`, with a name.
#[repr(C)]
struct VolArgsV2 {
    fd: i64,
    transid: u64,
    flags: u64,
    unused: [u64; 4],
    /// Ends with a zero byte.
    name: [u8; 4040],
}

impl VolArgsV2 {
    fn new(name: &[u8], fd: i64) -> Result<Self, Errno> {
        let mut args = Self { fd, transid: 0, flags: 0, unused: [0; 4], name: [0; 4040] };
        let place = args.name.get_mut(..name.len()).filter(|place| place.len() <= BTRFS_SUBVOL_NAME_MAX);
        place.ok_or(Errno::NAMETOOLONG)?.copy_from_slice(name);
        Ok(args)
    }
}

/// `struct btrfs_ioctl_timespec`.
#[repr(C)]
#[derive(Clone, Copy)]
struct BtrfsTimespec {
    sec: u64,
    nsec: u32,
}

/// `struct btrfs_ioctl_get_subvol_info_args`.
#[repr(C)]
#[derive(Clone, Copy)]
struct GetSubvolInfoArgs {
    treeid: u64,
    name: [u8; 256],
    parent_id: u64,
    dirid: u64,
    generation: u64,
    flags: u64,
    uuid: [u8; 16],
    parent_uuid: [u8; 16],
    received_uuid: [u8; 16],
    ctransid: u64,
    otransid: u64,
    stransid: u64,
    rtransid: u64,
    ctime: BtrfsTimespec,
    otime: BtrfsTimespec,
    stime: BtrfsTimespec,
    rtime: BtrfsTimespec,
    reserved: [u64; 8],
}

/// `struct btrfs_ioctl_fs_info_args`, of which the first fields are named.
#[repr(C)]
#[derive(Clone, Copy)]
struct FsInfoArgs {
    max_id: u64,
    num_devices: u64,
    fsid: [u8; 16],
    rest: [u8; 992],
}

/// What btrfs says of a subvolume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SubvolumeInfo {
    pub(crate) read_only: bool,
    pub(crate) uuid: [u8; 16],
    /// The transaction of the last change to anything in it.
    pub(crate) ctransid: u64,
    /// When that was: seconds and nanoseconds since 1970.
    pub(crate) ctime: (u64, u32),
}

/// Makes the empty subvolume `name` in `parent`: BTRFS_IOC_SUBVOL_CREATE_V2.
pub(crate) fn create_subvolume(parent: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    const OPCODE: Opcode = opcode::write::<VolArgsV2>(BTRFS, 24);
    let args = VolArgsV2::new(name, 0)?;
    // SAFETY: the ioctl reads one `btrfs_ioctl_vol_args_v2`, whose flags ask for nothing that is a pointer.
    unsafe { ioctl(parent, Setter::<OPCODE, VolArgsV2>::new(args)) }
}

/// Makes the subvolume `name` in `parent` a snapshot of `source`, which can be written to: BTRFS_IOC_SNAP_CREATE_V2.
///
/// `EXDEV`: another filesystem. `ENOENT`: the source was deleted.
pub(crate) fn create_snapshot(source: BorrowedFd<'_>, parent: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    const OPCODE: Opcode = opcode::write::<VolArgsV2>(BTRFS, 23);
    let args = VolArgsV2::new(name, source.as_raw_fd().into())?;
    // SAFETY: as above; the source is open for the whole call because it is borrowed.
    unsafe { ioctl(parent, Setter::<OPCODE, VolArgsV2>::new(args)) }
}

/// Deletes the subvolume `name` in `parent` with all that is in it: BTRFS_IOC_SNAP_DESTROY_V2.
///
/// `ENOTTY`, `EINVAL`, `ENOTDIR`: no btrfs, no subvolume. `EPERM`: others may only when the mount allows it.
pub(crate) fn destroy_subvolume(parent: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    const OPCODE: Opcode = opcode::write::<VolArgsV2>(BTRFS, 63);
    let args = VolArgsV2::new(name, 0)?;
    // SAFETY: as above.
    unsafe { ioctl(parent, Setter::<OPCODE, VolArgsV2>::new(args)) }
}

/// Has a subvolume take changes or not: BTRFS_IOC_SUBVOL_SETFLAGS.
pub(crate) fn set_subvolume_read_only(subvolume: BorrowedFd<'_>, read_only: bool) -> Result<(), Errno> {
    const OPCODE: Opcode = opcode::write::<u64>(BTRFS, 26);
    const BTRFS_SUBVOL_RDONLY: u64 = 1 << 1;
    let flags = if read_only { BTRFS_SUBVOL_RDONLY } else { 0 };
    // SAFETY: the ioctl reads one `u64`.
    unsafe { ioctl(subvolume, Setter::<OPCODE, u64>::new(flags)) }
}

/// What is known of the subvolume that a file or directory is in: BTRFS_IOC_GET_SUBVOL_INFO.
pub(crate) fn subvolume_info(subvolume: impl AsFd) -> Result<SubvolumeInfo, Errno> {
    const OPCODE: Opcode = opcode::read::<GetSubvolInfoArgs>(BTRFS, 60);
    const BTRFS_ROOT_SUBVOL_RDONLY: u64 = 1 << 0;
    // SAFETY: the ioctl writes one `btrfs_ioctl_get_subvol_info_args`, all of whose bit patterns are valid.
    let found = unsafe { ioctl(subvolume, Getter::<OPCODE, GetSubvolInfoArgs>::new()) }?;
    let GetSubvolInfoArgs { flags, uuid, ctransid, ctime, .. } = found;
    let read_only = flags & BTRFS_ROOT_SUBVOL_RDONLY != 0;
    Ok(SubvolumeInfo { read_only, uuid, ctransid, ctime: (ctime.sec, ctime.nsec) })
}

/// The UUID of the btrfs that a file or directory is in: BTRFS_IOC_FS_INFO. `ENOTTY`: it is in no btrfs.
pub(crate) fn btrfs_uuid(file: impl AsFd) -> Result<[u8; 16], Errno> {
    const OPCODE: Opcode = opcode::read::<FsInfoArgs>(BTRFS, 31);
    // SAFETY: the ioctl writes one `btrfs_ioctl_fs_info_args`, all of whose bit patterns are valid.
    let found = unsafe { ioctl(file, Getter::<OPCODE, FsInfoArgs>::new()) }?;
    Ok(found.fsid)
}

// The kernel's sizes.
const _: () = assert!(size_of::<VolArgsV2>() == 4096);
const _: () = assert!(size_of::<GetSubvolInfoArgs>() == 504);
const _: () = assert!(size_of::<FsInfoArgs>() == 1024);
