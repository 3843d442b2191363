//! What is installed in a guest.
//!
//! [`inspect`] takes the filesystems that were found on a guest's disks ([`Candidate`]) and returns its operating systems,
//! each with its namespace put together ([`OperatingSystem::mounts`]). The words are libguestfs's; every value names the
//! guest file that it was read from ([`Sourced`]).
//!
//! A guest's files are hostile: each is read up to a limit, lists are cut at a limit, and a file that is broken becomes a
//! note and counts as missing. Only trouble with the image itself (an I/O error) or a cancelled run is an error.
//!
//! | question | module |
//! |---|---|
//! | which filesystem is a root | `candidate` |
//! | what is mounted where | `assemble` with [`fstab`], `devices`, `discoverable`, `ostree` |
//! | which distribution is it | `release_files` with [`os_release`] and [`distro`], `arch`, `hostname` |
//! | how does it boot | `bootloader`, `kernels`, `grub`, `bls` |
//! | what runs in it, who uses it | `services`, `users`, `ssh`, `cloud_init`, `network`, `locale`, `machine_id` |
//! | how do two systems differ | `differences` with `authorized_keys`, `sysctl` |
#![deny(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::as_conversions)]
#![cfg_attr(test, allow(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::as_conversions))]

mod arch;
mod assemble;
pub mod assignments;
mod authorized_keys;
mod bls;
mod bootloader;
mod budget;
mod candidate;
mod cloud_init;
mod devices;
mod differences;
mod discoverable;
pub mod distro;
pub mod fstab;
mod grub;
mod guest;
mod hostname;
mod kernels;
mod locale;
mod machine_id;
mod network;
mod operating_system;
pub mod os_release;
mod ostree;
pub mod packages;
mod reader;
mod release_files;
mod services;
mod ssh;
mod sysctl;
mod users;
mod version;

pub use bootloader::{Bootloader, BootloaderKind, Firmware};
pub use candidate::Candidate;
pub use cloud_init::CloudInit;
pub use differences::{Difference, DifferenceKind, Differences, FieldChange, Topic, differences};
pub use guest::Guest;
pub use kernels::{Kernel, KernelKind};
pub use machine_id::MachineId;
pub use network::{NetworkFile, NetworkKind};
pub use operating_system::{GuestFilesystem, OperatingSystem};
pub use packages::{Package, PackageFormat, PackageList, packages};
pub use reader::Sourced;
pub use services::{InitSystem, Service, ServiceState};
pub use ssh::SshHostKey;
pub use users::{Group, Password, User};
pub use version::{Version, natural_order};

use budget::Budget;
use candidate::Role;
use devices::Devices;
use reader::Notes;

use crate::error::{ErrorKind, Result};

/// NixOS's current system, from which `/etc` is made at boot.
const NIXOS_PROFILE: &str = "/nix/var/nix/profiles/system";

/// The operating systems on these filesystems, sorted by their roots' names; none is no error. A filesystem whose top
/// directories are broken holds no system that can be found; that is an error when there is no other.
pub fn inspect(candidates: &[Candidate]) -> Result<Vec<OperatingSystem>> {
    let budget = Budget::new();
    let mut broken = None;
    let mut roles = Vec::new();
    for candidate in candidates {
        roles.push(match candidate::role(candidate, &budget) {
            Err(error) if !matches!(error.kind(), ErrorKind::Io { .. } | ErrorKind::Cancelled) => {
                log::debug!("{}: {error}", candidate.mountable);
                broken.get_or_insert(error.on_device(&candidate.mountable));
                Role::Other
            }
            role => role?,
        });
    }
    let devices = Devices::new(candidates);
    let mut systems = Vec::new();
    for (root, role) in candidates.iter().zip(&roles) {
        if !matches!(role, Role::Root | Role::Ostree) {
            continue;
        }
        let notes = Notes::new(&budget);
        if let Some(assembled) = assemble::assemble(&devices, &roles, root, *role, &notes)? {
            systems.push(OperatingSystem::examine(&devices, root, assembled, notes)?);
        }
    }
    systems.sort_by(|left, right| natural_order(&left.root, &right.root).then_with(|| left.root.cmp(&right.root)));
    match broken {
        Some(error) if systems.is_empty() => Err(error),
        _ => Ok(systems),
    }
}
