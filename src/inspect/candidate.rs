//! Filesystems that may hold an operating system, and what each looks like.
//!
//! A filesystem is a Linux root when it has `/etc`, a `/bin` (or `/bin` → `usr/bin`) and an fstab or hosts file, as in
//! libguestfs; or a `/bin` and an os-release; or is a NixOS, Container Linux, `/usr`-only or discoverable root. It is an
//! ostree root when it has `/ostree/deploy` and is none of those.

use std::sync::Arc;

use super::budget::Budget;
use super::discoverable::{Purpose, purpose};
use super::{Guest, NIXOS_PROFILE};
use crate::error::Result;
use crate::fs::{Filesystem, Identity, MountTable};

/// One filesystem that may hold an operating system or a part of one.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// Its name: `/dev/sda1`, `/dev/VG/LV`.
    pub mountable: String,
    /// The filesystem; `None` for swap space and what cannot be read.
    pub fs: Option<Arc<dyn Filesystem>>,
    /// Its kind, label and UUID.
    pub identity: Identity,
    /// The GPT partition UUID, or the MBR's disk identifier and number as `0badcafe-01`.
    pub partuuid: Option<String>,
    /// The GPT partition name.
    pub partlabel: Option<String>,
    /// The GPT type UUID in lower case, or the MBR type as `0x83`.
    pub partition_type: Option<String>,
    /// Other names that the guest may use: `/dev/mapper/VG-LV`, `/dev/dm-0`, `/dev/md/0`.
    pub aliases: Vec<String>,
}

impl Candidate {
    /// A candidate that lies on no partition and has no other names.
    #[must_use]
    pub fn new(mountable: impl Into<String>, fs: Option<Arc<dyn Filesystem>>, identity: Identity) -> Self {
        let mountable = mountable.into();
        Self { mountable, fs, identity, partuuid: None, partlabel: None, partition_type: None, aliases: Vec::new() }
    }

    pub(super) fn purpose(&self) -> Option<Purpose> {
        self.partition_type.as_deref().and_then(purpose)
    }

    /// The disk that its partition lies on; `None` for a logical volume.
    pub(super) fn disk(&self) -> Option<&str> {
        let name = self.mountable.strip_prefix("/dev/").filter(|name| !name.contains('/'))?;
        let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
        let stem = match stem.strip_suffix('p') {
            Some(disk) if disk.ends_with(|c: char| c.is_ascii_digit()) => disk,
            _ if stem.starts_with("nvme") || stem.starts_with("mmcblk") => name,
            _ => stem,
        };
        self.mountable.get(.."/dev/".len().saturating_add(stem.len()))
    }
}

/// What a filesystem looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// The root of a Linux system.
    Root,
    /// The physical root of an ostree system; the systems are its deployments.
    Ostree,
    /// A `/usr` of its own.
    Usr,
    /// Anything else.
    Other,
}

/// What the filesystem of `candidate` looks like.
pub(super) fn role(candidate: &Candidate, budget: &Budget) -> Result<Role> {
    let Some(fs) = candidate.fs.clone() else { return Ok(Role::Other) };
    let mounts = MountTable::with_root(&candidate.mountable, fs);
    let guest = Guest::within(&mounts, budget);
    let top = guest.list("/")?;
    let has = |name: &str| top.iter().any(|entry| entry == name);
    if has("etc") && is_other_unix(guest)? {
        return Ok(Role::Other);
    }
    if has("etc") && guest.is_dir("/etc")? && is_etc_root(guest)? {
        return Ok(Role::Root);
    }
    if has("nix") && guest.read_link(NIXOS_PROFILE)?.is_some() {
        return Ok(Role::Root);
    }
    if has("ostree") && guest.is_dir("/ostree/deploy")? {
        return Ok(Role::Ostree);
    }
    if has("usr") && guest.is_dir("/usr/bin")? && guest.is_file("/usr/lib/os-release")? {
        return Ok(Role::Root);
    }
    if candidate.purpose() == Some(Purpose::Root) && (has("etc") || has("usr")) {
        return Ok(Role::Root);
    }
    let is_usr = has("bin") && has("lib") && (has("share") || guest.is_file("/lib/os-release")?) && !has("usr");
    Ok(if is_usr { Role::Usr } else { Role::Other })
}

fn is_etc_root(guest: Guest<'_>) -> Result<bool> {
    let merged = guest.read_link("/bin")?.is_some_and(|target| matches!(&target[..], b"usr/bin" | b"/usr/bin"));
    if merged || guest.is_dir("/bin")? {
        let named = guest.is_file("/etc/fstab")? || guest.is_file("/etc/hosts")?;
        // A dangling os-release counts: the file it leads to may lie on a /usr of its own.
        if named || guest.is_file("/usr/lib/os-release")? || has_entry(guest, "/etc/os-release")? {
            return Ok(true);
        }
    }
    Ok(guest.is_file("/etc/NIXOS")?
        || guest.is_file("/etc/coreos/update.conf")?
        || guest.is_file("/etc/flatcar/update.conf")?)
}

fn has_entry(guest: Guest<'_>, path: &str) -> Result<bool> {
    Ok(guest.is_file(path)? || guest.read_link(path)?.is_some())
}

/// Unix systems that have a root like Linux, told apart by the same files as in libguestfs. They are not inspected yet.
fn is_other_unix(guest: Guest<'_>) -> Result<bool> {
    Ok(guest.is_file("/etc/freebsd-update.conf")?
        || guest.is_file("/netbsd")?
        || guest.is_file("/bsd")?
        || guest.is_file("/hurd/console")?
        || guest.is_file("/service/vm")?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::FsKind;

    #[test]
    fn the_disk_of_a_partition_is_found_by_name() {
        for (mountable, disk) in [
            ("/dev/sda1", Some("/dev/sda")),
            ("/dev/sdaa", Some("/dev/sdaa")),
            ("/dev/nvme0n1p2", Some("/dev/nvme0n1")),
            ("/dev/nvme0n1", Some("/dev/nvme0n1")),
            ("/dev/vg/root", None),
        ] {
            let identity = Identity { kind: FsKind::Ext4, label: None, uuid: None };
            assert_eq!(Candidate::new(mountable, None, identity).disk(), disk, "{mountable}");
        }
    }
}
