//! What an entry of a guest's tree is given on the host, and what is not.
//!
//! A guest's facts are not the host's: an owner's number means another user here, a set-user-ID bit would run a stranger's
//! program, a device node would open the host's device. So the default takes over what cannot hurt, and each of the rest
//! is asked for by name.

use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::fs::{Metadata, Timestamp, Xattr};

/// Which facts of a guest's entries are given to host files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preserve {
    /// Permission bits and the sticky bit. Without it files get what the host's umask leaves of 0666, or 0777 where the
    /// guest's can be executed.
    pub mode: bool,
    /// Times of last access and change, in nanoseconds.
    pub times: bool,
    /// Attributes in `user.`, where the host can hold them.
    pub user_xattrs: bool,
    /// Set-user-ID and set-group-ID bits.
    pub setid: bool,
    /// Owner and group, by number.
    pub owner: bool,
    /// POSIX ACLs, whose users and groups are the guest's numbers.
    pub acls: bool,
    /// Attributes in `security.`: SELinux labels, file capabilities.
    pub security: bool,
    /// Attributes in `trusted.`.
    pub trusted: bool,
    /// Character and block devices.
    pub devices: bool,
}

impl Default for Preserve {
    /// Permissions, times and `user.` attributes.
    fn default() -> Self {
        Self { mode: true, times: true, user_xattrs: true, ..Self::nothing() }
    }
}

impl Preserve {
    /// Contents, names and links alone.
    #[must_use]
    pub fn nothing() -> Self {
        Self {
            mode: false,
            times: false,
            user_xattrs: false,
            setid: false,
            owner: false,
            acls: false,
            security: false,
            trusted: false,
            devices: false,
        }
    }

    /// Everything that the host's filesystem can hold; most of it takes privileges.
    #[must_use]
    pub fn all() -> Self {
        Self {
            mode: true,
            times: true,
            user_xattrs: true,
            setid: true,
            owner: true,
            acls: true,
            security: true,
            trusted: true,
            devices: true,
        }
    }

    /// The permission bits that a file shall have at last; `None` leaves them to the umask.
    fn permissions(self, permissions: u32) -> Option<u32> {
        let mask = if self.setid { 0o7777 } else { 0o1777 };
        self.mode.then_some(permissions & mask)
    }

    /// What an attribute of this name is, when it is to be given.
    fn takes(self, name: &[u8]) -> Option<Fact> {
        Fact::of_xattr(name).filter(|fact| self.wants(*fact))
    }

    /// Whether facts of this kind are given.
    #[must_use]
    pub fn wants(self, fact: Fact) -> bool {
        match fact {
            Fact::Mode => self.mode,
            Fact::Times => self.times,
            Fact::UserXattrs => self.user_xattrs,
            Fact::Setid => self.setid,
            Fact::Owner => self.owner,
            Fact::Acls => self.acls,
            Fact::Security => self.security,
            Fact::Trusted => self.trusted,
            Fact::Devices => self.devices,
            Fact::Nodes | Fact::Links => true,
        }
    }
}

impl FromStr for Preserve {
    type Err = Error;

    /// Names with commas between them, added to the default; `none` and `all` set everything, so they stand first.
    fn from_str(text: &str) -> Result<Self> {
        let mut preserve = Self::default();
        for word in text.split(',') {
            match word {
                "none" => preserve = Self::nothing(),
                "default" => preserve = Self::default(),
                "all" => preserve = Self::all(),
                "mode" => preserve.mode = true,
                "times" | "timestamps" => preserve.times = true,
                "xattrs" | "xattr" => preserve.user_xattrs = true,
                "setid" => preserve.setid = true,
                "owner" | "ownership" => preserve.owner = true,
                "acls" | "acl" => preserve.acls = true,
                "security" | "context" => preserve.security = true,
                "trusted" => preserve.trusted = true,
                "devices" => preserve.devices = true,
                _ => {
                    return Err(Error::invalid(format!("'{word}' is nothing that can be preserved")).with_hint(
                        "known: none, default, all, mode, times, xattrs, setid, owner, acls, security, trusted, devices",
                    ));
                }
            }
        }
        Ok(preserve)
    }
}

/// One kind of fact, for counting what the host refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fact {
    /// Permission bits.
    Mode,
    /// Times.
    Times,
    /// Attributes in `user.`.
    UserXattrs,
    /// Set-user-ID and set-group-ID bits.
    Setid,
    /// Owner and group.
    Owner,
    /// POSIX ACLs.
    Acls,
    /// Attributes in `security.`.
    Security,
    /// Attributes in `trusted.`.
    Trusted,
    /// Device nodes.
    Devices,
    /// FIFOs and sockets.
    Nodes,
    /// Hard links.
    Links,
}

impl Fact {
    /// What an extended attribute of this name is; `None` for one that only its filesystem understands.
    #[must_use]
    pub fn of_xattr(name: &[u8]) -> Option<Self> {
        let kinds: [(&[u8], Self); 4] = [
            (b"user.", Self::UserXattrs),
            (b"system.posix_acl_", Self::Acls),
            (b"security.", Self::Security),
            (b"trusted.", Self::Trusted),
        ];
        kinds.into_iter().find(|(prefix, _)| name.starts_with(prefix)).map(|(_, fact)| fact)
    }

    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Mode,
        Self::Times,
        Self::UserXattrs,
        Self::Setid,
        Self::Owner,
        Self::Acls,
        Self::Security,
        Self::Trusted,
        Self::Devices,
        Self::Nodes,
        Self::Links,
    ];

    /// Its stable name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Mode => "mode",
            Self::Times => "times",
            Self::UserXattrs => "xattrs",
            Self::Setid => "setid",
            Self::Owner => "owner",
            Self::Acls => "acls",
            Self::Security => "security",
            Self::Trusted => "trusted",
            Self::Devices => "devices",
            Self::Nodes => "nodes",
            Self::Links => "links",
        }
    }
}

impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How often the host did not take a fact that was to be preserved.
#[derive(Debug, Default)]
pub(crate) struct Refusals([AtomicU64; Fact::ALL.len()]);

impl Refusals {
    pub(crate) fn add(&self, fact: Fact) {
        if let Some(count) = self.0.get(fact as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The facts that were refused, and how often.
    pub(crate) fn counts(&self) -> Vec<(Fact, u64)> {
        let counts = Fact::ALL.into_iter().zip(&self.0).map(|(fact, count)| (fact, count.load(Ordering::Relaxed)));
        counts.filter(|(_, count)| *count > 0).collect()
    }

    /// `Ok` when the host's answer means that it cannot hold the fact, which is counted; other errors are the caller's.
    pub(crate) fn note(&self, fact: Fact, answer: Result<(), Errno>) -> Result<(), Errno> {
        match answer {
            // A full attribute block of ext4 is ENOSPC too; where the disk is full the next write says so again.
            Err(
                Errno::PERM
                | Errno::ACCESS
                | Errno::OPNOTSUPP
                | Errno::NOSYS
                | Errno::INVAL
                | Errno::RANGE
                | Errno::TOOBIG
                | Errno::OVERFLOW,
            ) => {
                self.add(fact);
                Ok(())
            }
            Err(Errno::NOSPC) if !matches!(fact, Fact::Nodes | Fact::Devices | Fact::Links) => {
                self.add(fact);
                Ok(())
            }
            answer => answer,
        }
    }
}

/// What is given to an entry.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attributes<'a> {
    /// Permission, set-id and sticky bits.
    pub(crate) permissions: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) atime: Timestamp,
    pub(crate) mtime: Timestamp,
    pub(crate) xattrs: &'a [Xattr],
}

impl<'a> Attributes<'a> {
    pub(crate) fn of(metadata: &Metadata, xattrs: &'a [Xattr]) -> Self {
        Self {
            permissions: metadata.permissions,
            uid: metadata.uid,
            gid: metadata.gid,
            atime: metadata.atime,
            mtime: metadata.mtime,
            xattrs,
        }
    }

    fn times(&self) -> Timestamps {
        // The largest values of nanoseconds mean "now" and "leave it" to the kernel; an image can hold them.
        let time = |at: Timestamp| Timespec { tv_sec: at.seconds, tv_nsec: i64::from(at.nanoseconds.min(999_999_999)) };
        Timestamps { last_access: time(self.atime), last_modification: time(self.mtime) }
    }
}

/// How entries of one tree get their attributes.
#[derive(Debug)]
pub(crate) struct Giver {
    pub(crate) preserve: Preserve,
    /// Bits that a new file does not get from the call that makes it, where that is sure.
    pub(crate) umask: Option<u32>,
    /// Owner and group of what is made, where that is sure.
    pub(crate) made_as: Option<(u32, u32)>,
    pub(crate) refusals: Refusals,
}

/// The bits of `st_mode` that are not the type.
const ALL_BITS: u32 = 0o7777;

impl Giver {
    /// The mode to make a regular file with: no bit more than it has at last, but for its owner's write permission while
    /// attributes that need it are set.
    pub(crate) fn mode_at_creation(&self, attributes: &Attributes<'_>) -> u32 {
        match self.preserve.permissions(attributes.permissions) {
            Some(bits) if self.sets_user_xattrs(attributes) => bits & 0o777 | 0o200,
            Some(bits) => bits & 0o777,
            None if attributes.permissions & 0o111 != 0 => 0o777,
            None => 0o666,
        }
    }

    fn sets_user_xattrs(&self, attributes: &Attributes<'_>) -> bool {
        attributes.xattrs.iter().any(|xattr| self.preserve.takes(&xattr.name) == Some(Fact::UserXattrs))
    }

    /// Gives a file or directory everything, in the order in which nothing takes away what was given before: a change of
    /// owner clears set-id bits and capabilities, attributes of the user need write permission, all of them change times.
    /// `has` is the mode that it is sure to have.
    pub(crate) fn give(
        &self,
        file: BorrowedFd<'_>,
        has: Option<u32>,
        attributes: &Attributes<'_>,
    ) -> Result<(), Errno> {
        let set_xattrs = |user: bool| {
            for xattr in attributes.xattrs {
                if let Some(fact) = self.preserve.takes(&xattr.name).filter(|fact| (*fact == Fact::UserXattrs) == user)
                {
                    let set = rustix::fs::fsetxattr(file, &xattr.name[..], &xattr.value, XattrFlags::empty());
                    self.refusals.note(fact, set)?;
                }
            }
            Ok(())
        };
        let owned = self.give_owner(attributes, |owner, group| rustix::fs::fchown(file, owner, group))?;
        set_xattrs(true)?;
        if let Some(bits) = self.preserve.permissions(attributes.permissions)
            && (owned || has != Some(bits))
        {
            self.refusals.note(Fact::Mode, rustix::fs::fchmod(file, Mode::from_raw_mode(bits)))?;
        }
        set_xattrs(false)?;
        if self.preserve.times {
            self.refusals.note(Fact::Times, rustix::fs::futimens(file, &attributes.times()))?;
        }
        Ok(())
    }

    /// The same for a symbolic link, FIFO, socket or device, which cannot be opened: by its name in its directory, which is
    /// never followed. More than its times it gets through a descriptor that gives no access, when that shows what was
    /// made: somebody else may have put another file under the name meanwhile.
    pub(crate) fn give_named(
        &self,
        directory: BorrowedFd<'_>,
        name: &[u8],
        made: FileType,
        attributes: &Attributes<'_>,
    ) -> Result<(), Errno> {
        let bits = self.preserve.permissions(attributes.permissions).filter(|_| made != FileType::Symlink);
        let changes_owner = self.preserve.owner && self.made_as != Some((attributes.uid, attributes.gid));
        let sets_xattrs = attributes.xattrs.iter().any(|xattr| self.preserve.takes(&xattr.name).is_some());
        if bits.is_some() || changes_owner || sets_xattrs {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let entry = rustix::fs::openat(directory, name, flags, Mode::empty())?;
            self.give_handle(entry.as_fd(), made, bits, attributes)?;
        }
        if self.preserve.times {
            let set = rustix::fs::utimensat(directory, name, &attributes.times(), AtFlags::SYMLINK_NOFOLLOW);
            self.refusals.note(Fact::Times, set)?;
        }
        Ok(())
    }

    fn give_handle(
        &self,
        entry: BorrowedFd<'_>,
        made: FileType,
        bits: Option<u32>,
        attributes: &Attributes<'_>,
    ) -> Result<(), Errno> {
        let stat = rustix::fs::fstat(entry)?;
        if FileType::from_raw_mode(stat.st_mode) != made || stat.st_nlink != 1 {
            return Err(Errno::STALE);
        }
        let owned = self.give_owner(attributes, |owner, group| {
            rustix::fs::chownat(entry, c"", owner, group, AtFlags::EMPTY_PATH)
        })?;
        // What takes no such descriptor takes its path, which leads to the entry itself even when that is a link.
        let path = format!("/proc/self/fd/{}", entry.as_raw_fd());
        let without_proc = |errno| if errno == Errno::NOENT { Errno::NOSYS } else { errno };
        if let Some(bits) = bits.filter(|bits| owned || stat.st_mode & ALL_BITS != *bits) {
            let set = rustix::fs::chmod(&path, Mode::from_raw_mode(bits));
            self.refusals.note(Fact::Mode, set.map_err(without_proc))?;
        }
        for xattr in attributes.xattrs {
            if let Some(fact) = self.preserve.takes(&xattr.name) {
                let set = rustix::fs::setxattr(&path, &xattr.name[..], &xattr.value, XattrFlags::empty());
                self.refusals.note(fact, set.map_err(without_proc))?;
            }
        }
        Ok(())
    }

    /// Whether the owner was changed.
    fn give_owner(
        &self,
        attributes: &Attributes<'_>,
        chown: impl FnOnce(Option<Uid>, Option<Gid>) -> Result<(), Errno>,
    ) -> Result<bool, Errno> {
        let Attributes { uid, gid, .. } = *attributes;
        if !self.preserve.owner || self.made_as == Some((uid, gid)) {
            return Ok(false);
        }
        if uid == u32::MAX || gid == u32::MAX {
            // To chown(2) this number means "leave it".
            self.refusals.add(Fact::Owner);
            return Ok(false);
        }
        let changed = chown(Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        let did = changed.is_ok();
        self.refusals.note(Fact::Owner, changed)?;
        Ok(did)
    }

    /// The mode that a file made with `mode` is sure to have.
    pub(crate) fn made_with(&self, mode: u32) -> Option<u32> {
        self.umask.map(|umask| mode & !umask)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_preserved_is_said_by_name() {
        assert_eq!("default".parse::<Preserve>().unwrap(), Preserve::default());
        assert_eq!("all".parse::<Preserve>().unwrap(), Preserve::all());
        assert_eq!("owner".parse::<Preserve>().unwrap(), Preserve { owner: true, ..Preserve::default() });
        let some = "none,times,acls".parse::<Preserve>().unwrap();
        assert_eq!(some, Preserve { times: true, acls: true, ..Preserve::nothing() });
        "owner,colour".parse::<Preserve>().unwrap_err();
        "".parse::<Preserve>().unwrap_err();
    }

    #[test]
    fn set_id_bits_and_foreign_attributes_are_only_taken_when_asked_for() {
        assert_eq!(Preserve::default().permissions(0o7755), Some(0o1755));
        assert_eq!(Preserve::all().permissions(0o7755), Some(0o7755));
        assert_eq!(Preserve::nothing().permissions(0o7755), None);
        let names: [&[u8]; 5] =
            [b"user.a", b"security.capability", b"trusted.x", b"system.posix_acl_access", b"system.ntfs_acl"];
        let taken = |preserve: Preserve| names.map(|name| preserve.takes(name).is_some());
        assert_eq!(taken(Preserve::default()), [true, false, false, false, false]);
        assert_eq!(taken(Preserve::all()), [true, true, true, true, false]);
    }

    #[test]
    fn times_that_mean_something_else_to_the_kernel_stay_times() {
        let odd = Timestamp { seconds: -5, nanoseconds: 0x3fff_ffff };
        let attributes = Attributes { permissions: 0, uid: 0, gid: 0, atime: odd, mtime: odd, xattrs: &[] };
        assert_eq!(attributes.times().last_modification, Timespec { tv_sec: -5, tv_nsec: 999_999_999 });
    }
}
