//! What differs between two installed systems, in the words of their administrators: packages, users, services, keys and
//! settings instead of files.
//!
//! Each system is taken apart into items ([`Topic`], a name, fields), and items of one name are compared field by field.
//! What inspection knows is taken from the [`OperatingSystem`]; the rest is read here, within the budget of an inspection.

mod items;
mod packages;

use std::collections::BTreeMap;

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use super::OperatingSystem;
use crate::error::Result;

/// What items are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Topic {
    /// Distribution, version, host name, time zone, locale and their like; the field is `value`.
    System,
    /// Installed packages: `version`, `arch`, `format`.
    Packages,
    /// Installed kernels, by version.
    Kernels,
    /// The arguments of the default kernel's command line, by name.
    KernelArguments,
    /// Configured boot loaders.
    BootLoaders,
    /// Enabled and masked services.
    Services,
    /// Users; of passwords only that they are set, and set to another.
    Users,
    /// Groups and their members.
    Groups,
    /// The SSH host keys, by type and fingerprint.
    SshHostKeys,
    /// The keys that may log in, by user and fingerprint.
    AuthorizedKeys,
    /// Settings of cloud-init, its configuration files by digest, and the SSH keys in them.
    CloudInit,
    /// Lines of fstab and systemd's mount units, by mountpoint.
    Mounts,
    /// Kernel parameters that are set at boot.
    Sysctl,
    /// Files that configure the network, by digest.
    Network,
}

impl Topic {
    /// All of them, in the order of reports.
    pub const ALL: [Self; 14] = [
        Self::System,
        Self::Packages,
        Self::Kernels,
        Self::KernelArguments,
        Self::BootLoaders,
        Self::Services,
        Self::Users,
        Self::Groups,
        Self::SshHostKeys,
        Self::AuthorizedKeys,
        Self::CloudInit,
        Self::Mounts,
        Self::Sysctl,
        Self::Network,
    ];

    /// The stable name that JSON uses.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Packages => "packages",
            Self::Kernels => "kernels",
            Self::KernelArguments => "kernel_arguments",
            Self::BootLoaders => "boot_loaders",
            Self::Services => "services",
            Self::Users => "users",
            Self::Groups => "groups",
            Self::SshHostKeys => "ssh_host_keys",
            Self::AuthorizedKeys => "authorized_keys",
            Self::CloudInit => "cloud_init",
            Self::Mounts => "mounts",
            Self::Sysctl => "sysctl",
            Self::Network => "network",
        }
    }
}

/// How an item differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DifferenceKind {
    /// Only the new system has it.
    Added,
    /// Only the old system has it.
    Removed,
    /// A field is another.
    Changed,
    /// A package has a newer version, by its package manager's order.
    Upgraded,
    /// A package has an older version.
    Downgraded,
}

/// One item that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The item's name within its topic.
    pub name: String,
    /// How it differs.
    pub change: DifferenceKind,
    /// The fields that differ; all of an added or removed item.
    pub fields: BTreeMap<&'static str, FieldChange>,
}

/// Both values of a field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FieldChange {
    /// What it was; `None` when the item, or the field, was not there.
    pub old: Option<String>,
    /// What it is now.
    pub new: Option<String>,
}

/// All that differs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Differences {
    topics: BTreeMap<Topic, Vec<Difference>>,
    /// What could not be read in the old system, in sentences.
    pub old_notes: Vec<String>,
    /// What could not be read in the new system.
    pub new_notes: Vec<String>,
}

impl Differences {
    /// The differences of one topic, sorted by name.
    #[must_use]
    pub fn of(&self, topic: Topic) -> &[Difference] {
        self.topics.get(&topic).map_or(&[], Vec::as_slice)
    }

    /// Whether nothing differs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.topics.values().all(Vec::is_empty)
    }
}

impl Serialize for Differences {
    /// An object with an array for every topic, and the notes.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for topic in Topic::ALL {
            map.serialize_entry(topic.name(), self.of(topic))?;
        }
        map.serialize_entry("old_notes", &self.old_notes)?;
        map.serialize_entry("new_notes", &self.new_notes)?;
        map.end()
    }
}

/// What differs between two systems. Only the host's own trouble is an error; what a guest makes unreadable is noted.
pub fn differences(old: &OperatingSystem, new: &OperatingSystem) -> Result<Differences> {
    let (mut old_items, mut new_items) = (items::of(old)?, items::of(new)?);
    items::tell_passwords_apart(&old_items, &mut new_items);
    let mut topics: BTreeMap<Topic, Vec<Difference>> = BTreeMap::new();
    for topic in Topic::ALL {
        let (old, new) = (old_items.take(topic), new_items.take(topic));
        topics.insert(topic, compare(&old, &new));
    }
    let packages = packages::differences(&old_items.packages, &new_items.packages);
    topics.insert(Topic::Packages, packages);
    Ok(Differences { topics, old_notes: old_items.notes, new_notes: new_items.notes })
}

/// An item's fields.
type Fields = BTreeMap<&'static str, String>;

fn compare(old: &BTreeMap<String, Fields>, new: &BTreeMap<String, Fields>) -> Vec<Difference> {
    let added = new.keys().filter(|name| !old.contains_key(*name));
    let mut names: Vec<&String> = old.keys().chain(added).collect();
    names.sort_unstable();
    names.into_iter().filter_map(|name| difference(name, old.get(name), new.get(name))).collect()
}

/// How one item differs; `None` when it does not.
fn difference(name: &str, old: Option<&Fields>, new: Option<&Fields>) -> Option<Difference> {
    let change = match (old, new) {
        (None, Some(_)) => DifferenceKind::Added,
        (Some(_), None) => DifferenceKind::Removed,
        _ => DifferenceKind::Changed,
    };
    let mut fields = BTreeMap::new();
    for field in old.into_iter().chain(new).flat_map(BTreeMap::keys) {
        let value = |fields: Option<&Fields>| fields.and_then(|fields| fields.get(field)).cloned();
        let (old, new) = (value(old), value(new));
        if old != new {
            fields.insert(*field, FieldChange { old, new });
        }
    }
    let differs = !fields.is_empty() || change != DifferenceKind::Changed;
    differs.then(|| Difference { name: name.to_owned(), change, fields })
}
