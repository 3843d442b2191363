//! All that inspection tells of one operating system.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::assemble::Assembled;
use super::candidate::Candidate;
use super::devices::Devices;
use super::reader::{Notes, Reader};
use super::*;
use crate::error::Result;
use crate::fs::{GuestPath, MountTable};

/// One filesystem that a guest uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestFilesystem {
    /// Its name: `/dev/sda1`.
    pub mountable: String,
    /// blkid's name for its kind: `ext4`, `swap`.
    pub fs_type: String,
    /// The label.
    pub label: Option<String>,
    /// The UUID.
    pub uuid: Option<String>,
    /// Where the guest mounts it; empty for swap space.
    pub mountpoints: Vec<String>,
}

/// One installed operating system.
///
/// It serializes to JSON with these field names, which are stable; lists are complete and in the order described with
/// their types. The namespace itself is left out.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OperatingSystem {
    /// The root filesystem's name.
    pub root: String,
    /// `linux`.
    pub os_type: String,
    /// The distribution: libguestfs's word, or the os-release ID where it has none.
    pub distro: Option<Sourced<String>>,
    /// What the system calls itself: `Debian GNU/Linux 12 (bookworm)`.
    pub product_name: Option<Sourced<String>>,
    /// The edition: `Server Edition`.
    pub product_variant: Option<Sourced<String>>,
    /// Major and minor version; `None` for a rolling release.
    pub version: Option<Sourced<Version>>,
    /// `bookworm`.
    pub codename: Option<Sourced<String>>,
    /// The build, for systems that are released as images.
    pub build_id: Option<Sourced<String>>,
    /// Every field of os-release.
    pub os_release: Option<Sourced<BTreeMap<String, String>>>,
    /// libosinfo's short identifier as libguestfs makes it up; `unknown` when it cannot be.
    pub osinfo: String,
    /// The architecture of the programs, in libguestfs's words: `x86_64`, `aarch64`, `i386`.
    pub arch: Option<Sourced<String>>,
    /// The configured host name.
    pub hostname: Option<Sourced<String>>,
    /// `deb`, `rpm`, `apk`, `pacman` …
    pub package_format: Option<String>,
    /// `apt`, `dnf`, `zypper` …
    pub package_management: Option<String>,
    /// What is mounted where, in mount order. Only filesystems that are on the guest's disks; the others are noted.
    #[serde(serialize_with = "mountpoints_as_text", deserialize_with = "mountpoints_from_text")]
    pub mountpoints: BTreeMap<GuestPath, String>,
    /// The filesystems in the order of their first mountpoints, then swap space.
    pub filesystems: Vec<GuestFilesystem>,
    /// Installed kernels, oldest first.
    pub kernels: Vec<Kernel>,
    /// The default kernel's command line.
    pub kernel_command_line: Option<Sourced<String>>,
    /// Configured boot loaders.
    pub bootloaders: Vec<Bootloader>,
    /// The firmware that can start the guest: `bios`, `uefi` or both.
    pub firmware: Vec<Sourced<Firmware>>,
    /// The program that runs as process 1.
    pub init_system: Option<Sourced<InitSystem>>,
    /// Enabled and masked services, sorted by name.
    pub services: Vec<Service>,
    /// Users, in the order of passwd.
    pub users: Option<Sourced<Vec<User>>>,
    /// Groups, in the order of group.
    pub groups: Option<Sourced<Vec<Group>>>,
    /// `Europe/Berlin`.
    pub timezone: Option<Sourced<String>>,
    /// `de_DE.UTF-8`.
    pub locale: Option<Sourced<String>>,
    /// `de`.
    pub keymap: Option<Sourced<String>>,
    /// SSH host keys, sorted by type.
    pub ssh_host_keys: Vec<SshHostKey>,
    /// How cloud-init is set up; `None` when it is not installed.
    pub cloud_init: Option<CloudInit>,
    /// Network configuration files.
    pub network_files: Vec<NetworkFile>,
    /// Whether the image carries a machine identifier.
    pub machine_id: Sourced<MachineId>,
    /// The SELinux mode of the next boot.
    pub selinux: Option<Sourced<String>>,
    /// What had to be done so that the filesystems' contents are true, per device.
    pub recovery: Vec<String>,
    /// What could not be read or found.
    pub notes: Vec<String>,
    /// The guest's filesystems, mounted at its own mountpoints; none in what comes from JSON.
    #[serde(skip)]
    pub mounts: MountTable,
}

impl OperatingSystem {
    /// The guest with its own mountpoints.
    #[must_use]
    pub fn guest(&self) -> Guest<'_> {
        Guest::new(&self.mounts)
    }

    /// The first number of the version; 0 when there is none, as in libguestfs.
    #[must_use]
    pub fn major_version(&self) -> u32 {
        self.version.as_ref().map_or(0, |version| version.value.major)
    }

    /// The second number of the version; 0 when there is none, as in libguestfs.
    #[must_use]
    pub fn minor_version(&self) -> u32 {
        self.version.as_ref().map_or(0, |version| version.value.minor)
    }

    /// Reads everything from the assembled guest.
    pub(super) fn examine(
        devices: &Devices<'_>,
        root: &Candidate,
        assembled: Assembled<'_>,
        notes: Notes<'_>,
    ) -> Result<Self> {
        let filesystems = filesystems(&assembled);
        let mountpoints = assembled.mountpoints.iter();
        let mountpoints = mountpoints.map(|(path, candidate)| (path.clone(), candidate.mountable.clone())).collect();
        let mounts = assembled.mounts;
        let recovery = recovery(&mounts);
        let reader = Reader::new(notes.guest(&mounts), &notes)?;

        let identity = release_files::identify(&reader)?;
        let distro = identity.distro.as_ref().map_or("unknown", |distro| distro.value.as_str());
        let version = identity.version.as_ref().map(|version| &version.value);
        let osinfo = distro::osinfo(distro, version);
        let (package_format, package_management) = packaging(&reader, distro, &identity.like, version)?;

        let boot = bootloader::boot(&reader, &devices.neighbours(root))?;
        let init_system = services::init_system(&reader)?;
        let services = match &init_system {
            Some(init) => services::services(&reader, init.value)?,
            None => Vec::new(),
        };
        let mut system = Self {
            root: root.mountable.clone(),
            os_type: "linux".to_owned(),
            osinfo,
            arch: arch::architecture(&reader)?,
            hostname: hostname::hostname(&reader)?,
            package_format,
            package_management,
            mountpoints,
            filesystems,
            kernels: kernels::kernels(&reader, &boot.entries, boot.default.as_ref())?,
            kernel_command_line: boot.command_line,
            bootloaders: boot.bootloaders,
            firmware: boot.firmware,
            init_system,
            services,
            users: users::users(&reader)?,
            groups: users::groups(&reader)?,
            timezone: locale::timezone(&reader)?,
            locale: locale::locale(&reader)?,
            keymap: locale::keymap(&reader)?,
            ssh_host_keys: ssh::host_keys(&reader)?,
            cloud_init: cloud_init::cloud_init(&reader)?,
            network_files: network::network_files(&reader)?,
            machine_id: machine_id::machine_id(&reader)?,
            selinux: locale::selinux(&reader)?,
            recovery,
            notes: Vec::new(),
            mounts: MountTable::default(),
            distro: identity.distro,
            product_name: identity.product_name,
            product_variant: identity.product_variant,
            version: identity.version,
            codename: identity.codename,
            build_id: identity.build_id,
            os_release: identity.os_release,
        };
        system.notes = notes.into_inner();
        system.mounts = mounts;
        Ok(system)
    }
}

fn packaging(
    reader: &Reader<'_>,
    distro: &str,
    like: &[String],
    version: Option<&Version>,
) -> Result<(Option<String>, Option<String>)> {
    let has_dnf = reader.is_file("/usr/bin/dnf")?;
    let has_opkg = reader.is_file("/var/lib/opkg/status")? || reader.is_file("/usr/lib/opkg/status")?;
    let major = version.map_or(0, |version| version.major);
    let packaging = distro::packaging(distro, like, major, has_dnf, has_opkg);
    let format = packaging.map(|(format, _)| format.to_owned());
    Ok((format, packaging.and_then(|(_, management)| management).map(str::to_owned)))
}

fn filesystems(assembled: &Assembled<'_>) -> Vec<GuestFilesystem> {
    let mut filesystems: Vec<GuestFilesystem> = Vec::new();
    let mounted = assembled.mountpoints.iter().map(|(path, candidate)| (*candidate, Some(path.to_string())));
    for (candidate, mountpoint) in mounted.chain(assembled.swaps.iter().map(|swap| (*swap, None))) {
        if let Some(known) = filesystems.iter_mut().find(|known| known.mountable == candidate.mountable) {
            known.mountpoints.extend(mountpoint);
            continue;
        }
        let identity = candidate.identity.clone();
        filesystems.push(GuestFilesystem {
            mountable: candidate.mountable.clone(),
            fs_type: identity.kind.name().to_owned(),
            label: identity.label,
            uuid: identity.uuid,
            mountpoints: mountpoint.into_iter().collect(),
        });
    }
    filesystems
}

fn recovery(mounts: &MountTable) -> Vec<String> {
    let mut lines = Vec::new();
    for mount in mounts.mounts() {
        for line in mount.fs.recovery() {
            let line = format!("{}: {line}", mount.mountable);
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
    }
    lines
}

fn mountpoints_as_text<S: Serializer>(
    mountpoints: &BTreeMap<GuestPath, String>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(mountpoints.iter().map(|(path, mountable)| (path.to_string(), mountable)))
}

fn mountpoints_from_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<GuestPath, String>, D::Error> {
    let mountpoints = BTreeMap::<String, String>::deserialize(deserializer)?.into_iter();
    let parse = |(path, mountable): (String, String)| Ok((GuestPath::parse(&path)?, mountable));
    mountpoints.map(parse).collect::<crate::Result<_>>().map_err(serde::de::Error::custom)
}
