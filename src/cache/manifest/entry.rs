//! What a manifest says of one file.

use crate::fs::{DeviceNumber, FileType, Metadata, Timestamp};

/// One file, directory, link or node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Its number in the manifest.
    pub index: u32,
    /// Its name: empty for the root alone, never `.` or `..`, no `/`, no NUL.
    pub name: &'a [u8],
    /// The type.
    pub file_type: FileType,
    /// Permission, set-id and sticky bits: at most 0o7777.
    pub permissions: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last change of the content.
    pub mtime: Timestamp,
    /// Bytes of a file or of a link's target; 0 for others.
    pub size: u64,
    /// Where the content is.
    pub content: Content<'a>,
    /// The first entry of those that are hard links of one file; itself when it is the first.
    pub leader: Option<u32>,
    /// Its set of extended attributes.
    pub xattrs: Option<u32>,
    /// Its map of data runs, when there are holes.
    pub sparse: Option<u32>,
}

/// Where a file's content is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content<'a> {
    /// There is none: an empty file, one of holes only, a pipe, a socket.
    None,
    /// Here.
    Inline(&'a [u8]),
    /// In the blob with this number.
    Blob(u32),
    /// A symbolic link's target.
    Target(&'a [u8]),
    /// It is the directory with this number.
    Directory(u32),
    /// It is this device.
    Device(DeviceNumber),
}

/// One directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Directory {
    /// The directory that it lies in; the root lies in itself.
    pub parent: u32,
    /// Its own entry.
    pub entry: u32,
    /// The entry of its first child.
    pub first: u32,
    /// Children.
    pub count: u32,
    /// The digest of all that lies below it.
    pub subtree: super::super::Digest,
}

impl Directory {
    /// The entries of its children.
    #[must_use]
    pub fn children(&self) -> std::ops::Range<u32> {
        self.first..self.first.saturating_add(self.count)
    }
}

/// Times that are kept for information.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Times {
    /// Last access.
    pub atime: Timestamp,
    /// Last change of the inode.
    pub ctime: Timestamp,
    /// Creation, where the guest's filesystem keeps it.
    pub crtime: Option<Timestamp>,
}

impl From<&Metadata> for Times {
    fn from(metadata: &Metadata) -> Self {
        Self { atime: metadata.atime, ctime: metadata.ctime, crtime: metadata.crtime }
    }
}

/// The type's number in the file.
pub(super) fn type_number(file_type: FileType) -> u8 {
    match file_type {
        FileType::File => 0,
        FileType::Dir => 1,
        FileType::Symlink => 2,
        FileType::Char => 3,
        FileType::Block => 4,
        FileType::Fifo => 5,
        FileType::Socket => 6,
    }
}

pub(super) fn type_of(number: u8) -> Option<FileType> {
    Some(match number {
        0 => FileType::File,
        1 => FileType::Dir,
        2 => FileType::Symlink,
        3 => FileType::Char,
        4 => FileType::Block,
        5 => FileType::Fifo,
        6 => FileType::Socket,
        _ => return None,
    })
}
