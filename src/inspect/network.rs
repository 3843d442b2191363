//! Where a guest configures its network: the files, by the program that reads them.

use serde::{Deserialize, Serialize};

use super::reader::Reader;
use crate::error::Result;

/// Which program reads a network configuration file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkKind {
    /// Debian's and Alpine's `interfaces`.
    Ifupdown,
    /// Ubuntu's netplan.
    Netplan,
    /// NetworkManager's connection profiles.
    NetworkManager,
    /// systemd-networkd.
    SystemdNetworkd,
    /// The `ifcfg-*` files of Red Hat (network-scripts) and SUSE (wicked).
    Ifcfg,
    /// OpenRC's netifrc.
    Netifrc,
    /// dhcpcd.
    Dhcpcd,
    /// Connman.
    Connman,
}

/// One network configuration file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkFile {
    /// Which program reads it.
    pub kind: NetworkKind,
    /// Its guest path.
    pub path: String,
}

use NetworkKind as Kind;

const FILES: [(Kind, &str); 4] = [
    (Kind::Ifupdown, "/etc/network/interfaces"),
    (Kind::Netifrc, "/etc/conf.d/net"),
    (Kind::Dhcpcd, "/etc/dhcpcd.conf"),
    (Kind::Connman, "/etc/connman/main.conf"),
];

/// Directories, and how the names in them begin and end.
const DIRECTORIES: [(Kind, &str, &str, &str); 8] = [
    (Kind::Ifupdown, "/etc/network/interfaces.d", "", ""),
    (Kind::Netplan, "/etc/netplan", "", ".yaml"),
    (Kind::NetworkManager, "/etc/NetworkManager/system-connections", "", ""),
    (Kind::SystemdNetworkd, "/etc/systemd/network", "", ".network"),
    (Kind::SystemdNetworkd, "/etc/systemd/network", "", ".netdev"),
    (Kind::SystemdNetworkd, "/etc/systemd/network", "", ".link"),
    (Kind::Ifcfg, "/etc/sysconfig/network-scripts", "ifcfg-", ""),
    (Kind::Ifcfg, "/etc/sysconfig/network", "ifcfg-", ""),
];

/// The files that are there, sorted by kind and path. The loopback's ifcfg file and SUSE's template say nothing.
pub(super) fn network_files(reader: &Reader<'_>) -> Result<Vec<NetworkFile>> {
    let mut files = Vec::new();
    for (kind, path) in FILES {
        if reader.is_file(path)? {
            files.push(NetworkFile { kind, path: path.to_owned() });
        }
    }
    for (kind, directory, prefix, suffix) in DIRECTORIES {
        let names = reader.names(directory)?;
        let named = names.iter().filter(|name| name.starts_with(prefix) && name.ends_with(suffix));
        let telling = named.filter(|name| !matches!(name.as_str(), "ifcfg-lo" | "ifcfg.template"));
        files.extend(telling.map(|name| NetworkFile { kind, path: format!("{directory}/{name}") }));
    }
    files.sort_by(|left, right| (left.kind, &left.path).cmp(&(right.kind, &right.path)));
    Ok(files)
}
