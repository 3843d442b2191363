//! Inspection: `inspect_os` and the `inspect_get_*` calls, which read what it found.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use super::{Guestfs, Launched};
use crate::error::{Error, ErrorKind, Result};
use crate::fs::{FsKind, GuestPath};
use crate::inspect::{self, Candidate, OperatingSystem, Package, PackageList, Sourced};
use crate::volume::PartitionType;

impl Guestfs {
    /// Finds operating systems and returns their root filesystems; an empty list is no error, several are multi-boot.
    /// What is mounted stays mounted. The findings are kept: `inspect_get_*` and later calls answer from them.
    pub fn inspect_os(&self) -> Result<Vec<String>> {
        self.systems(|systems| Ok(systems.map(|system| system.root.clone()).collect()))
    }

    /// The roots of an earlier [`inspect_os`](Self::inspect_os), or of a new one.
    pub fn inspect_get_roots(&self) -> Result<Vec<String>> {
        self.inspect_os()
    }

    /// Everything that inspection finds in the images, packages apart, with the guests' filesystems mounted.
    pub fn operating_systems(&self) -> Result<Arc<Vec<OperatingSystem>>> {
        let launched = self.launched()?;
        if let Some(found) = &*launched.inspected.read().unwrap_or_else(PoisonError::into_inner) {
            return Ok(found.clone());
        }
        let found = Arc::new(launched.inspect().map_err(|error| launched.in_image(error))?);
        *launched.inspected.write().unwrap_or_else(PoisonError::into_inner) = Some(found.clone());
        Ok(found)
    }

    /// Mounts everything that the guest with this root would have mounted, and nothing else.
    pub fn mount_inspected(&self, root: &str) -> Result<()> {
        let mounts = find(self.operating_systems()?.iter(), root)?.mounts.clone();
        self.launched()?.change_mounts(|table| {
            *table = mounts;
            Ok(())
        })
    }

    /// `linux`.
    pub fn inspect_get_type(&self, root: &str) -> Result<String> {
        self.system(root, |system| system.os_type.clone())
    }

    /// `debian`, `fedora`, `rhel` …; `unknown` when it cannot be told.
    pub fn inspect_get_distro(&self, root: &str) -> Result<String> {
        self.word(root, |system| system.distro.as_ref())
    }

    /// `x86_64`, `aarch64` …; `unknown` when it cannot be told.
    pub fn inspect_get_arch(&self, root: &str) -> Result<String> {
        self.word(root, |system| system.arch.as_ref())
    }

    /// What the system calls itself; `unknown` when it does not say.
    pub fn inspect_get_product_name(&self, root: &str) -> Result<String> {
        self.word(root, |system| system.product_name.as_ref())
    }

    /// The edition; `unknown` when there is none.
    pub fn inspect_get_product_variant(&self, root: &str) -> Result<String> {
        self.word(root, |system| system.product_variant.as_ref())
    }

    /// The build, for systems released as images; `unknown` for others.
    pub fn inspect_get_build_id(&self, root: &str) -> Result<String> {
        self.word(root, |system| system.build_id.as_ref())
    }

    /// The configured host name; `unknown` when there is none.
    pub fn inspect_get_hostname(&self, root: &str) -> Result<String> {
        self.word(root, |system| system.hostname.as_ref())
    }

    /// libosinfo's short identifier: `debian12`.
    pub fn inspect_get_osinfo(&self, root: &str) -> Result<String> {
        self.system(root, |system| system.osinfo.clone())
    }

    /// The first number of the version; 0 when there is none.
    pub fn inspect_get_major_version(&self, root: &str) -> Result<u32> {
        self.system(root, OperatingSystem::major_version)
    }

    /// The second number of the version; 0 when there is none.
    pub fn inspect_get_minor_version(&self, root: &str) -> Result<u32> {
        self.system(root, OperatingSystem::minor_version)
    }

    /// `deb`, `rpm`, `apk`, `pacman`; `unknown` when it cannot be told.
    pub fn inspect_get_package_format(&self, root: &str) -> Result<String> {
        self.system(root, |system| system.package_format.clone().unwrap_or_else(unknown))
    }

    /// `apt`, `dnf`, `zypper` …; `unknown` when it cannot be told.
    pub fn inspect_get_package_management(&self, root: &str) -> Result<String> {
        self.system(root, |system| system.package_management.clone().unwrap_or_else(unknown))
    }

    /// Mountpoint → mountable, in an order in which they can be mounted: `/` before `/boot` before `/boot/efi`.
    pub fn inspect_get_mountpoints(&self, root: &str) -> Result<BTreeMap<String, String>> {
        let pair = |(mountpoint, mountable): (&GuestPath, &String)| (mountpoint.to_string(), mountable.clone());
        self.system(root, |system| system.mountpoints.iter().map(pair).collect())
    }

    /// The mountables that belong to the guest, swap space too.
    pub fn inspect_get_filesystems(&self, root: &str) -> Result<Vec<String>> {
        self.system(root, |system| system.filesystems.iter().map(|filesystem| filesystem.mountable.clone()).collect())
    }

    /// The installed packages, sorted by name.
    pub fn inspect_list_applications2(&self, root: &str) -> Result<Vec<Package>> {
        Ok(self.inspect_packages(root)?.into_iter().flat_map(|list| list.packages).collect())
    }

    /// The installed packages by database, with what could not be read in each.
    pub fn inspect_packages(&self, root: &str) -> Result<Vec<PackageList>> {
        if self.cache().is_some() {
            let inspection = self.inspection(true)?;
            let found = inspection.iter().find(|inspected| inspected.system.root == root);
            return Ok(found.ok_or_else(|| no_root(root))?.packages.clone().unwrap_or_default());
        }
        inspect::packages(&find(self.operating_systems()?.iter(), root)?.guest())
    }

    fn system<T>(&self, root: &str, field: impl FnOnce(&OperatingSystem) -> T) -> Result<T> {
        self.systems(|mut systems| find(&mut systems, root).map(field))
    }

    /// What was found, by looking or in the cache.
    fn systems<T>(&self, read: impl FnOnce(&mut dyn Iterator<Item = &OperatingSystem>) -> Result<T>) -> Result<T> {
        let looked = self.launched()?.inspected.read().unwrap_or_else(PoisonError::into_inner).clone();
        match looked {
            Some(systems) => read(&mut systems.iter()),
            None if self.cache().is_some() => read(&mut self.inspection(false)?.iter().map(|found| &found.system)),
            None => read(&mut self.operating_systems()?.iter()),
        }
    }

    fn word(&self, root: &str, field: impl FnOnce(&OperatingSystem) -> Option<&Sourced<String>>) -> Result<String> {
        self.system(root, |system| field(system).map_or_else(unknown, |word| word.value.clone()))
    }
}

fn unknown() -> String {
    "unknown".to_owned()
}

/// The system with this root.
pub(super) fn find<'a>(
    mut systems: impl Iterator<Item = &'a OperatingSystem>,
    root: &str,
) -> Result<&'a OperatingSystem> {
    systems.find(|system| system.root == root).ok_or_else(|| no_root(root))
}

fn no_root(root: &str) -> Error {
    Error::invalid(format!("{root} is not the root of an operating system")).with_hint("inspect_os lists them")
}

impl Launched {
    /// Inspects every filesystem there is. One that cannot be opened holds nothing that can be found; that is an error
    /// when nothing else is found either.
    fn inspect(&self) -> Result<Vec<OperatingSystem>> {
        let mut broken = None;
        let mut candidates = Vec::new();
        for (mountable, identity) in self.devices.filesystems()? {
            let fs = match self.filesystem(&mountable.name) {
                Ok(fs) => Some(fs),
                Err(error) if matches!(error.kind(), ErrorKind::Io { .. } | ErrorKind::Cancelled) => return Err(error),
                Err(error) => {
                    log::debug!("{error}");
                    if identity.kind != FsKind::Swap && identity.kind != FsKind::Unknown {
                        broken.get_or_insert(error);
                    }
                    None
                }
            };
            let mut candidate = Candidate::new(mountable.name, fs, identity);
            candidate.aliases = mountable.aliases;
            if let Some(partition) = mountable.partition {
                candidate.partuuid = partition.uuid.clone();
                candidate.partlabel = partition.name.clone();
                candidate.partition_type = Some(match &partition.type_id {
                    PartitionType::Mbr(byte) => format!("{byte:#04x}"),
                    PartitionType::Gpt(uuid) => uuid.clone(),
                });
            }
            candidates.push(candidate);
        }
        let systems = inspect::inspect(&candidates)?;
        match broken {
            Some(error) if systems.is_empty() => Err(error),
            _ => Ok(systems),
        }
    }
}
