//! Mounting: the `mount*` and `umount*` calls.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use super::{Guestfs, Launched};
use crate::error::Result;
use crate::fs::{self, Filesystem, GuestPath, MountTable};

impl Guestfs {
    /// Mounts a filesystem at a directory of the guest, device first; `/` comes before all others. Read-write, as far as
    /// calls that write exist (none do yet): changes would stay in the drive's overlay.
    pub fn mount(&self, mountable: &str, mountpoint: impl AsRef<[u8]>) -> Result<()> {
        let launched = self.launched()?;
        let mountpoint = GuestPath::parse(mountpoint)?;
        let filesystem = launched.filesystem(mountable)?;
        launched.change_mounts(|table| table.mount(mountable, &mountpoint, filesystem))
    }

    /// Mounts a filesystem read-only. A journal is replayed in memory; nothing is written.
    pub fn mount_ro(&self, mountable: &str, mountpoint: impl AsRef<[u8]>) -> Result<()> {
        self.mount(mountable, mountpoint)
    }

    /// Unmounts by mountpoint or by mountable.
    pub fn umount(&self, path_or_device: &str) -> Result<()> {
        self.launched()?.change_mounts(|table| table.umount(path_or_device))
    }

    /// Unmounts everything. Not an error when nothing is mounted.
    pub fn umount_all(&self) -> Result<()> {
        self.launched()?.change_mounts(|table| {
            *table = MountTable::default();
            Ok(())
        })
    }

    /// The mounted mountables, in the order they were mounted.
    pub fn mounts(&self) -> Result<Vec<String>> {
        Ok(self.mounted()?.mounts().iter().map(|mount| mount.mountable.clone()).collect())
    }

    /// Mountable → mountpoint.
    pub fn mountpoints(&self) -> Result<BTreeMap<String, String>> {
        let mounted = self.mounted()?;
        let pair = |mount: &fs::Mount| (mount.mountable.clone(), mount.mountpoint.to_string());
        Ok(mounted.mounts().iter().map(pair).collect())
    }

    /// What had to be done in memory so that a filesystem reads true (journal transactions replayed, orphans found), in
    /// sentences; empty when it was clean.
    pub fn recovery_notes(&self, mountable: &str) -> Result<Vec<String>> {
        Ok(self.launched()?.filesystem(mountable)?.recovery())
    }
}

impl Launched {
    /// The filesystem on a mountable, opened at the first question.
    pub(super) fn filesystem(&self, mountable: &str) -> Result<Arc<dyn Filesystem>> {
        let kept = |launched: &Self| {
            launched.filesystems.lock().unwrap_or_else(PoisonError::into_inner).get(mountable).cloned()
        };
        if let Some(filesystem) = kept(self) {
            return Ok(filesystem);
        }
        let device = self.devices.find(mountable).map_err(|error| self.in_image(error))?;
        let filesystem = fs::open(device).map_err(|error| self.in_image(error.on_device(mountable)))?;
        for note in filesystem.recovery() {
            log::info!("{mountable}: {note}");
        }
        let mut filesystems = self.filesystems.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(filesystems.entry(mountable.to_owned()).or_insert(filesystem).clone())
    }

    /// Names the image in an error when there is only one it can be.
    pub(super) fn in_image(&self, error: crate::Error) -> crate::Error {
        match self.devices.drives() {
            [drive] => error.in_image(&drive.info.filename),
            _ => error,
        }
    }

    /// Changes a copy of the mount table and puts it in place: calls that are under way keep the one they have.
    pub(super) fn change_mounts(&self, change: impl FnOnce(&mut MountTable) -> Result<()>) -> Result<()> {
        let mut mounts = self.mounts.write().unwrap_or_else(PoisonError::into_inner);
        let mut table = (**mounts).clone();
        change(&mut table)?;
        *mounts = Arc::new(table);
        Ok(())
    }
}
