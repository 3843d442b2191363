//! What can differ between two files beside their being there.

use serde::Serialize;

use super::{DiffEntry, DiffOptions};
use crate::fs::FileType;

/// One fact that differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DiffFact {
    /// The file type; then nothing else is compared but mode, owners and times.
    Type,
    /// Permission, set-id and sticky bits.
    Mode,
    /// The owner.
    Uid,
    /// The group.
    Gid,
    /// The size of a regular file.
    Size,
    /// When the content was changed.
    Mtime,
    /// When it was last read.
    Atime,
    /// Which device a device node stands for.
    Rdev,
    /// Where a symbolic link leads.
    Target,
    /// Extended attributes, ACLs and labels included.
    Xattrs,
    /// How many names it has, or which other name it shares its file with.
    HardLinks,
    /// The content of a regular file.
    Content,
}

impl DiffFact {
    /// The stable name that JSON and texts use.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Type => "type",
            Self::Mode => "mode",
            Self::Uid => "uid",
            Self::Gid => "gid",
            Self::Size => "size",
            Self::Mtime => "mtime",
            Self::Atime => "atime",
            Self::Rdev => "rdev",
            Self::Target => "target",
            Self::Xattrs => "xattrs",
            Self::HardLinks => "hard_links",
            Self::Content => "content",
        }
    }
}

/// Facts that do not count; by default all but access times do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiffIgnore {
    /// Modification times.
    pub times: bool,
    /// Modification times of directories, which every new or removed name changes.
    pub directory_times: bool,
    /// Owners and groups.
    pub owners: bool,
    /// Extended attributes.
    pub xattrs: bool,
    /// Which names lead to one file.
    pub hard_links: bool,
}

/// The facts that differ, in order; of contents only what their sizes tell.
pub(super) fn differences(old: &DiffEntry, new: &DiffEntry, options: &DiffOptions) -> Vec<DiffFact> {
    let (left, right) = (&old.metadata, &new.metadata);
    let ignore = options.ignore;
    let same_type = left.file_type == right.file_type;
    let both = |kind: FileType| left.file_type == kind && right.file_type == kind;
    let times = !(ignore.times || ignore.directory_times && both(FileType::Dir));
    let resized = both(FileType::File) && left.size != right.size;
    let links = !ignore.hard_links && same_type && !both(FileType::Dir);
    let known = old.links_known && new.links_known;
    let linked = left.nlink != right.nlink || known && old.hard_link_to != new.hard_link_to;
    let checks = [
        (DiffFact::Type, !same_type),
        (DiffFact::Mode, left.permissions != right.permissions),
        (DiffFact::Uid, !ignore.owners && left.uid != right.uid),
        (DiffFact::Gid, !ignore.owners && left.gid != right.gid),
        (DiffFact::Size, resized),
        (DiffFact::Mtime, times && left.mtime != right.mtime),
        (DiffFact::Atime, options.atime && left.atime != right.atime),
        (DiffFact::Rdev, same_type && left.rdev != right.rdev),
        (DiffFact::Target, same_type && old.target != new.target),
        (DiffFact::Xattrs, !ignore.xattrs && old.xattrs != new.xattrs),
        (DiffFact::HardLinks, links && linked),
        (DiffFact::Content, resized),
    ];
    checks.into_iter().filter(|(_, differs)| *differs).map(|(fact, _)| fact).collect()
}
