//! Which filesystem is mounted where: the guest's namespace.

use std::sync::Arc;

use super::path::GuestPath;
use super::resolve::{Follow, Location};
use super::{FileType, Filesystem, Inode};
use crate::error::{Error, PathProblem, Result};

/// One mounted filesystem.
#[derive(Debug, Clone)]
pub struct Mount {
    /// What was mounted: `/dev/sda1`.
    pub mountable: String,
    /// Where, without links.
    pub mountpoint: GuestPath,
    /// The filesystem.
    pub fs: Arc<dyn Filesystem>,
    /// The directory it covers: (mount, inode); `None` for the root.
    covers: Option<(usize, Inode)>,
}

/// A guest's mounted filesystems. Cheap to clone; a change makes a new table, so that readers are never disturbed.
#[derive(Debug, Clone, Default)]
pub struct MountTable {
    mounts: Vec<Mount>,
}

impl MountTable {
    /// A table with one filesystem, mounted at the root.
    #[must_use]
    pub fn with_root(mountable: impl Into<String>, fs: Arc<dyn Filesystem>) -> Self {
        let root = Mount { mountable: mountable.into(), mountpoint: GuestPath::root(), fs, covers: None };
        Self { mounts: vec![root] }
    }

    /// Mounts `fs` at `mountpoint`, which must be an existing directory, or the root when nothing is mounted yet.
    pub fn mount(&mut self, mountable: &str, mountpoint: &GuestPath, fs: Arc<dyn Filesystem>) -> Result<()> {
        if self.mounts.is_empty() {
            if *mountpoint != GuestPath::root() {
                return Err(not_mounted());
            }
            *self = Self::with_root(mountable, fs);
            return Ok(());
        }
        let location = self.resolve(mountpoint, Follow::Links)?;
        if location.metadata()?.file_type != FileType::Dir {
            return Err(Error::path(mountpoint.as_bytes(), PathProblem::NotADirectory)
                .with_hint("a mount point is a directory"));
        }
        let covers = Some((location.mount, location.inode));
        self.mounts.push(Mount { mountable: mountable.to_owned(), mountpoint: location.path, fs, covers });
        Ok(())
    }

    /// Takes away the filesystem that is mounted at, or from, `name`. One that holds another mountpoint is busy.
    pub fn umount(&mut self, name: &str) -> Result<()> {
        let matches = |mount: &Mount| mount.mountable == name || mount.mountpoint.as_bytes() == name.as_bytes();
        let Some(index) = self.mounts.iter().rposition(matches) else {
            return Err(Error::invalid(format!("{name} is not mounted")));
        };
        if self.mounts.iter().any(|mount| mount.covers.is_some_and(|(below, _)| below == index)) {
            return Err(Error::invalid(format!("{name} is busy: another filesystem is mounted on it"))
                .with_hint("unmount the longest path first, or umount_all"));
        }
        self.mounts.remove(index);
        for mount in &mut self.mounts {
            if let Some((below, _)) = &mut mount.covers
                && *below > index
            {
                *below = below.saturating_sub(1);
            }
        }
        Ok(())
    }

    /// The mounts in the order they were made.
    #[must_use]
    pub fn mounts(&self) -> &[Mount] {
        &self.mounts
    }

    /// The guest's root directory.
    pub fn root(&self) -> Result<Location> {
        let mount = self.mounts.first().ok_or_else(not_mounted)?;
        let location = Location { fs: mount.fs.clone(), mount: 0, inode: mount.fs.root(), path: GuestPath::root() };
        Ok(self.cross(location))
    }

    /// The root of what is mounted on `location`, or `location` itself.
    #[must_use]
    pub fn cross(&self, mut location: Location) -> Location {
        // A later mount covers an earlier one, and may itself be covered by one later still.
        for (index, mount) in self.mounts.iter().enumerate() {
            if mount.covers == Some((location.mount, location.inode)) {
                location = Location { fs: mount.fs.clone(), mount: index, inode: mount.fs.root(), path: location.path };
            }
        }
        location
    }
}

fn not_mounted() -> Error {
    Error::invalid("nothing is mounted at the guest's root").with_hint("mount the root filesystem at / first")
}
