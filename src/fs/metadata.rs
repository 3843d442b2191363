//! What is known of an inode: the fields of `stat(2)` and `statvfs(3)`, with times in nanoseconds.

use serde::Serialize;

use super::Inode;

/// The type of an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FileType {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink,
    /// A character device.
    Char,
    /// A block device.
    Block,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

impl FileType {
    /// The type in the `S_IFMT` bits of a Unix mode; `None` for a value that no Unix knows.
    #[must_use]
    pub fn from_mode(mode: u32) -> Option<Self> {
        Some(match mode & 0o170_000 {
            0o100_000 => Self::File,
            0o040_000 => Self::Dir,
            0o120_000 => Self::Symlink,
            0o020_000 => Self::Char,
            0o060_000 => Self::Block,
            0o010_000 => Self::Fifo,
            0o140_000 => Self::Socket,
            _ => return None,
        })
    }

    /// Its `S_IFMT` bits.
    #[must_use]
    pub fn mode_bits(self) -> u32 {
        match self {
            Self::File => 0o100_000,
            Self::Dir => 0o040_000,
            Self::Symlink => 0o120_000,
            Self::Char => 0o020_000,
            Self::Block => 0o060_000,
            Self::Fifo => 0o010_000,
            Self::Socket => 0o140_000,
        }
    }

    /// The stable name used in JSON and by `find -type`-like filters.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Dir => "dir",
            Self::Symlink => "symlink",
            Self::Char => "char",
            Self::Block => "block",
            Self::Fifo => "fifo",
            Self::Socket => "socket",
        }
    }

    /// The letter that `ls -l` shows first.
    #[must_use]
    pub fn letter(self) -> char {
        match self {
            Self::File => '-',
            Self::Dir => 'd',
            Self::Symlink => 'l',
            Self::Char => 'c',
            Self::Block => 'b',
            Self::Fifo => 'p',
            Self::Socket => 's',
        }
    }
}

/// A point in time: seconds since 1970, before it negative, and nanoseconds that always count forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Timestamp {
    /// Whole seconds.
    pub seconds: i64,
    /// 0 to 999,999,999.
    pub nanoseconds: u32,
}

impl Timestamp {
    /// Nanoseconds since 1970.
    #[must_use]
    pub fn total_nanoseconds(self) -> i128 {
        i128::from(self.seconds).saturating_mul(1_000_000_000).saturating_add(i128::from(self.nanoseconds))
    }

    /// `2026-01-31 23:59`, UTC.
    #[must_use]
    pub fn minute(self) -> String {
        let second = self.seconds.rem_euclid(86_400);
        format!("{} {:02}:{:02}", self.day(), second / 3600, second / 60 % 60)
    }

    /// `2026-01-31 23:59:58.000000001 +0000`, as `diff -u` and `stat` write it.
    #[must_use]
    pub fn precise(self) -> String {
        format!("{}:{:02}.{:09} +0000", self.minute(), self.seconds.rem_euclid(60), self.nanoseconds)
    }

    /// `2026-01-31`, UTC.
    fn day(self) -> String {
        let (year, month, day) = civil(self.seconds.div_euclid(86_400));
        format!("{year:04}-{month:02}-{day:02}")
    }
}

/// Year, month and day of a day counted from 1970-01-01, in the proleptic Gregorian calendar: years are taken to begin in
/// March, so that the leap day is the last, and 400 of them are 146,097 days.
fn civil(day: i64) -> (i64, i64, i64) {
    let shifted = day.saturating_add(719_468);
    let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let leap_days = (of_era / 1_460).saturating_sub(of_era / 36_524).saturating_add(of_era / 146_096);
    let year_of_era = of_era.saturating_sub(leap_days) / 365;
    let before = year_of_era.saturating_mul(365).saturating_add(year_of_era / 4).saturating_sub(year_of_era / 100);
    let day_of_year = of_era.saturating_sub(before);
    let from_march = day_of_year.saturating_mul(5).saturating_add(2) / 153;
    let day = day_of_year.saturating_sub(from_march.saturating_mul(153).saturating_add(2) / 5).saturating_add(1);
    let month = if from_march < 10 { from_march.saturating_add(3) } else { from_march.saturating_sub(9) };
    let year = year_of_era.saturating_add(era.saturating_mul(400)).saturating_add(i64::from(month <= 2));
    (year, month, day)
}

/// A device number as `stat(2)` splits it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DeviceNumber {
    /// Which driver.
    pub major: u32,
    /// Which of its devices.
    pub minor: u32,
}

/// What `stat(2)` would tell of an inode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    /// The inode number.
    pub inode: Inode,
    /// The type.
    pub file_type: FileType,
    /// Permission, set-id and sticky bits: at most 0o7777.
    pub permissions: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Hard links.
    pub nlink: u64,
    /// Bytes; of a symbolic link, its target's.
    pub size: u64,
    /// Allocated units of 512 bytes.
    pub blocks: u64,
    /// The filesystem's block size in bytes.
    pub block_size: u32,
    /// The device a device node stands for.
    pub rdev: Option<DeviceNumber>,
    /// Last access.
    pub atime: Timestamp,
    /// Last change of the content.
    pub mtime: Timestamp,
    /// Last change of the inode.
    pub ctime: Timestamp,
    /// Creation, where the filesystem keeps it.
    pub crtime: Option<Timestamp>,
    /// Whether contents and names are encrypted by the guest (fscrypt).
    pub encrypted: bool,
}

impl Metadata {
    /// Type and permissions as one `st_mode`.
    #[must_use]
    pub fn mode(&self) -> u32 {
        self.file_type.mode_bits() | self.permissions
    }
}

/// One extended attribute.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Xattr {
    /// The full name: `user.colour`, `security.capability`, `system.posix_acl_access`.
    pub name: Vec<u8>,
    /// The value as `getxattr(2)` gives it: POSIX ACLs in the kernel's exchange format, not the disk's.
    pub value: Vec<u8>,
}

/// What `statvfs(3)` would tell of a filesystem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatFs {
    /// Bytes of a block.
    pub block_size: u64,
    /// Blocks in all.
    pub blocks: u64,
    /// Free blocks.
    pub blocks_free: u64,
    /// Free blocks for users that are not root.
    pub blocks_available: u64,
    /// Inodes in all; 0 where there is no such number.
    pub files: u64,
    /// Free inodes.
    pub files_free: u64,
    /// The longest name in bytes.
    pub name_max: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_become_dates() {
        let minute = |seconds| Timestamp { seconds, nanoseconds: 0 }.minute();
        assert_eq!(minute(0), "1970-01-01 00:00");
        assert_eq!(minute(951_782_399), "2000-02-28 23:59");
        assert_eq!(minute(951_868_799), "2000-02-29 23:59");
        assert_eq!(minute(-1), "1969-12-31 23:59");
        assert_eq!(minute(4_102_444_800), "2100-01-01 00:00");
        assert_eq!(minute(-2_147_483_648), "1901-12-13 20:45");
        let precise = Timestamp { seconds: -1, nanoseconds: 7 }.precise();
        assert_eq!(precise, "1969-12-31 23:59:59.000000007 +0000");
    }
}
