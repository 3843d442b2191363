//! System calls that no library wraps. The only place where `unsafe` is allowed.

#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::AsRawFd;

use rustix::io::Errno;
use rustix::ioctl::{Setter, ioctl, opcode};

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
