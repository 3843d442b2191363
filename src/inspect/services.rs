//! The init system and what it starts.
//!
//! | init system | told by | enabled means |
//! |---|---|---|
//! | systemd | `/sbin/init` → systemd | a link in `/etc/systemd/system/*.{wants,requires}`; presets and `/usr/lib` are not evaluated |
//! | openrc | `/etc/runlevels` | a link in `/etc/runlevels/<level>` |
//! | runit | `/etc/runit` | a link in `/etc/runit/runsvdir/default` or `/etc/service` |
//! | sysvinit | `/etc/inittab` | a link `S??name` in `/etc/rc?.d` |
//! | upstart | `/sbin/initctl` | a job in `/etc/init` |
//! | busybox | `/sbin/init` → busybox | a script `S??name` in `/etc/init.d` |

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::reader::{Reader, Sourced};
use crate::error::Result;
use crate::limits;

/// The program that runs as process 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "each is a program's proper name")]
pub enum InitSystem {
    Systemd,
    OpenRc,
    Runit,
    Sysvinit,
    Upstart,
    Busybox,
    Dinit,
    S6,
}

/// How a service is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServiceState {
    /// Something starts it.
    Enabled,
    /// A link to `/dev/null` keeps everything from starting it.
    Masked,
}

/// A unit, service or job that is enabled or masked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// `ssh.service`, `sshd`.
    pub name: String,
    /// How it is set.
    pub state: ServiceState,
    /// The targets or run levels that start it.
    pub wanted_by: Vec<String>,
    /// The first link that says so.
    pub source: String,
}

/// The init system of the guest.
pub(super) fn init_system(reader: &Reader<'_>) -> Result<Option<Sourced<InitSystem>>> {
    let is_openrc = reader.is_dir("/etc/runlevels")?;
    if let Some(link) = reader.link("/sbin/init")? {
        let name = link.value.rsplit('/').next().unwrap_or_default();
        let found = match name {
            "systemd" => Some(InitSystem::Systemd),
            "openrc-init" => Some(InitSystem::OpenRc),
            "busybox" if !is_openrc => Some(InitSystem::Busybox),
            "runit-init" | "runit" => Some(InitSystem::Runit),
            "dinit" => Some(InitSystem::Dinit),
            "upstart" => Some(InitSystem::Upstart),
            name if name.starts_with("s6-") => Some(InitSystem::S6),
            _ => None,
        };
        if let Some(found) = found {
            return Ok(Some(Sourced::new(found, link.source)));
        }
    }
    if is_openrc {
        return Ok(Some(Sourced::new(InitSystem::OpenRc, "/etc/runlevels")));
    }
    for (path, found) in [
        ("/sbin/initctl", InitSystem::Upstart),
        ("/etc/runit/2", InitSystem::Runit),
        ("/etc/inittab", InitSystem::Sysvinit),
        ("/usr/lib/systemd/systemd", InitSystem::Systemd),
        ("/lib/systemd/systemd", InitSystem::Systemd),
    ] {
        if reader.is_file(path)? {
            return Ok(Some(Sourced::new(found, path)));
        }
    }
    let profile = format!("{}/systemd", super::NIXOS_PROFILE);
    Ok(reader.is_dir(&profile)?.then(|| Sourced::new(InitSystem::Systemd, profile)))
}

/// What `init` starts, sorted by name.
pub(super) fn services(reader: &Reader<'_>, init: InitSystem) -> Result<Vec<Service>> {
    let mut found = Found::default();
    match init {
        InitSystem::Systemd => systemd(reader, &mut found)?,
        InitSystem::OpenRc => {
            for level in reader.names("/etc/runlevels")? {
                found.directory(reader, &format!("/etc/runlevels/{level}"), &level, |name| Some(name))?;
            }
        }
        InitSystem::Runit => {
            for directory in ["/etc/runit/runsvdir/default", "/etc/service"] {
                found.directory(reader, directory, "default", |name| Some(name))?;
            }
        }
        InitSystem::Sysvinit => sysvinit(reader, &mut found)?,
        InitSystem::Upstart => {
            found.directory(reader, "/etc/init", "init", |name| name.strip_suffix(".conf"))?;
            sysvinit(reader, &mut found)?;
        }
        InitSystem::Busybox => found.directory(reader, "/etc/init.d", "boot", start_script)?,
        InitSystem::Dinit => found.directory(reader, "/etc/dinit.d/boot.d", "boot", |name| Some(name))?,
        InitSystem::S6 => {}
    }
    Ok(found.0.into_values().collect())
}

/// The services found so far, by name.
#[derive(Debug, Default)]
struct Found(BTreeMap<String, Service>);

impl Found {
    fn add(&mut self, name: &str, state: ServiceState, wanted_by: Option<&str>, source: String) {
        if self.0.len() >= limits::INSPECT_ENTRIES {
            return;
        }
        let service = self.0.entry(name.to_owned()).or_insert_with(|| Service {
            name: name.to_owned(),
            state,
            wanted_by: Vec::new(),
            source,
        });
        if state == ServiceState::Masked {
            service.state = state;
        }
        let wanted_by = wanted_by.filter(|level| !service.wanted_by.iter().any(|known| known == level));
        service.wanted_by.extend(wanted_by.map(str::to_owned));
    }

    /// Every name in `directory` of which `service` makes one.
    fn directory(
        &mut self,
        reader: &Reader<'_>,
        directory: &str,
        level: &str,
        service: impl Fn(&str) -> Option<&str>,
    ) -> Result<()> {
        for name in reader.names(directory)? {
            if let Some(service) = service(&name) {
                self.add(service, ServiceState::Enabled, Some(level), format!("{directory}/{name}"));
            }
        }
        Ok(())
    }
}

fn systemd(reader: &Reader<'_>, found: &mut Found) -> Result<()> {
    const UNITS: &str = "/etc/systemd/system";
    const TYPES: [&str; 8] = [".service", ".socket", ".timer", ".target", ".path", ".mount", ".automount", ".swap"];
    let is_unit = |name: &str| TYPES.iter().any(|suffix| name.ends_with(suffix));
    for name in reader.names(UNITS)? {
        let path = format!("{UNITS}/{name}");
        if let Some(target) = name.strip_suffix(".wants").or_else(|| name.strip_suffix(".requires")) {
            found.directory(reader, &path, target, |name| is_unit(name).then_some(name))?;
        } else if is_unit(&name) && reader.link(&path)?.is_some_and(|link| link.value == "/dev/null") {
            found.add(&name, ServiceState::Masked, None, path);
        }
    }
    Ok(())
}

/// The links of rc directories: Debian keeps them in `/etc`, Red Hat and SUSE below `rc.d` and `init.d`.
fn sysvinit(reader: &Reader<'_>, found: &mut Found) -> Result<()> {
    for level in ["S", "1", "2", "3", "4", "5"] {
        for parent in ["/etc", "/etc/rc.d", "/etc/init.d"] {
            found.directory(reader, &format!("{parent}/rc{level}.d"), level, start_script)?;
        }
    }
    Ok(())
}

/// `ssh` of `S02ssh`.
fn start_script(name: &str) -> Option<&str> {
    let (digits, name) = name.strip_prefix('S')?.split_at_checked(2)?;
    (digits.bytes().all(|byte| byte.is_ascii_digit()) && !name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_links_are_told_from_others() {
        for (name, expected) in
            [("S02ssh", Some("ssh")), ("K02ssh", None), ("S2ssh", None), ("S02", None), ("README", None)]
        {
            assert_eq!(start_script(name), expected, "{name}");
        }
    }
}
