//! Kernel parameters that are set at boot: sysctl.d(5) and sysctl.conf(5).
//!
//! Files are read in the order of their names, whichever directory they are in; of one name only the first directory's
//! counts, and there a link to `/dev/null` leaves it out. `/etc/sysctl.conf` comes last, as in procps (and as distributions
//! of systemd have it, by a link). A later line for one key wins. A line is `key = value`; `-` before the key ignores
//! errors, and a key whose first separator is `/` means `.` by it.

use std::collections::{BTreeMap, btree_map::Entry};

use super::reader::{Reader, Sourced};
use crate::error::Result;
use crate::limits;

/// From the strongest to the weakest.
const DIRECTORIES: [&str; 5] =
    ["/etc/sysctl.d", "/run/sysctl.d", "/usr/local/lib/sysctl.d", "/usr/lib/sysctl.d", "/lib/sysctl.d"];

/// The value of each key, and the file that sets it.
pub(super) fn settings(reader: &Reader<'_>) -> Result<BTreeMap<String, Sourced<String>>> {
    let mut files: BTreeMap<String, String> = BTreeMap::new();
    for directory in DIRECTORIES {
        for name in reader.names(directory)?.into_iter().filter(|name| name.ends_with(".conf")) {
            if let Entry::Vacant(entry) = files.entry(name) {
                let path = format!("{directory}/{}", entry.key());
                entry.insert(path);
            }
        }
    }
    let mut settings = BTreeMap::new();
    for path in files.into_values().chain(["/etc/sysctl.conf".to_owned()]) {
        let Some(text) = reader.text(&path)? else { continue };
        for (key, value) in text.value.lines().filter_map(setting) {
            if settings.len() < limits::INSPECT_ENTRIES || settings.contains_key(&key) {
                settings.insert(key, Sourced::new(value, text.source.clone()));
            }
        }
    }
    reader.notes().tolerate(reader.guest().spend_entries(settings.len()))?;
    Ok(settings)
}

fn setting(line: &str) -> Option<(String, String)> {
    let line = line.trim();
    if line.starts_with(['#', ';']) || line.len() > limits::PATH_BYTES {
        return None;
    }
    let (key, value) = line.split_once('=')?;
    let key = key.trim();
    let key = key.strip_prefix('-').unwrap_or(key).trim_start();
    let key = match key.find(['/', '.']).and_then(|at| key.get(at..)) {
        Some(rest) if rest.starts_with('/') => {
            let swap = |c| match c {
                '/' => '.',
                '.' => '/',
                c => c,
            };
            key.chars().map(swap).collect()
        }
        _ => key.to_owned(),
    };
    (!key.is_empty()).then(|| (key, value.split_ascii_whitespace().collect::<Vec<_>>().join(" ")))
}

#[cfg(test)]
mod tests {
    use super::setting;

    #[test]
    fn lines_are_read_as_sysctl_does() {
        let read = |line| setting(line).map(|(key, value)| format!("{key}={value}"));
        assert_eq!(read(" net.ipv4.ip_forward=1 ").unwrap(), "net.ipv4.ip_forward=1");
        assert_eq!(read("-kernel/core_pattern = |/usr/bin/x  %p").unwrap(), "kernel.core_pattern=|/usr/bin/x %p");
        assert_eq!(read("net/ipv4/conf/eth0.100/rp_filter = 2").unwrap(), "net.ipv4.conf.eth0/100.rp_filter=2");
        assert_eq!(read("net.ipv4.conf.eth0/100.rp_filter = 2").unwrap(), "net.ipv4.conf.eth0/100.rp_filter=2");
        assert_eq!(read("net.ipv4.tcp_rmem = 1\t2  3").unwrap(), "net.ipv4.tcp_rmem=1 2 3");
        assert_eq!(read("vm.overcommit_memory =").unwrap(), "vm.overcommit_memory=");
        for line in ["# a = b", "; a = b", "", "kernel.x", "= 1"] {
            assert_eq!(setting(line), None, "{line}");
        }
    }
}
