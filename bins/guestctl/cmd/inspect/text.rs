//! The report for people: the answer first, where each fact comes from behind it, lists shortened.

use std::io::{self, Write};

use guestctl::bytes::escape;
use guestctl::inspect::{OperatingSystem, Service, ServiceState, Sourced};
use serde::Serialize;

use super::report::{Report, SystemReport};

/// How many names of a list are shown.
const SHOWN: usize = 8;

/// Writes the report.
pub fn write(out: &mut impl Write, report: &Report<'_>) -> io::Result<()> {
    writeln!(out, "{}", escape(report.image.as_bytes()))?;
    for drive in &report.drives {
        let probed = if drive.format_probed { ", probed" } else { "" };
        row(
            out,
            "image format",
            &format!("{}{probed}, {}", drive.format, crate::print::human(drive.virtual_size_bytes)),
            "",
        )?;
    }
    if report.operating_systems.is_empty() {
        writeln!(out, "no operating system found")?;
    }
    for system in &report.operating_systems {
        writeln!(out)?;
        write_system(out, system)?;
    }
    Ok(())
}

fn write_system(out: &mut impl Write, report: &SystemReport<'_>) -> io::Result<()> {
    let SystemReport { system, packages } = report;
    row(out, "root", &system.root, "")?;
    sourced(out, "system", &system.product_name)?;
    sourced(out, "variant", &system.product_variant)?;
    let version =
        format!("{} {}.{} ({})", system.os_type, system.major_version(), system.minor_version(), system.osinfo);
    row(out, "type", &version, "")?;
    sourced(out, "distribution", &system.distro)?;
    sourced(out, "architecture", &system.arch)?;
    sourced(out, "hostname", &system.hostname)?;
    row(out, "machine id", &word(&system.machine_id.value), &system.machine_id.source)?;
    sourced(out, "timezone", &system.timezone)?;
    sourced(out, "locale", &system.locale)?;
    for (mountpoint, device) in &system.mountpoints {
        row(out, "mount", &format!("{device} at {mountpoint}"), "")?;
    }
    for filesystem in system.filesystems.iter().filter(|filesystem| filesystem.mountpoints.is_empty()) {
        row(out, "not mounted", &format!("{} ({})", filesystem.mountable, filesystem.fs_type), "")?;
    }
    boot(out, system)?;
    services(out, &system.services)?;
    if let Some(users) = &system.users {
        let people = users.value.iter().filter(|user| user.uid == 0 || (1000..60_000).contains(&user.uid));
        let names: Vec<_> = people.map(|user| format!("{} ({})", user.name, user.uid)).collect();
        row(out, "users", &shortened(&names), &users.source)?;
    }
    for key in &system.ssh_host_keys {
        row(out, "ssh host key", &word(key), "")?;
    }
    if let Some(cloud_init) = &system.cloud_init {
        let sources = cloud_init
            .datasources
            .as_ref()
            .map(|sources| sources.value.join(", "))
            .unwrap_or_else(|| "default data sources".to_owned());
        let disabled = if cloud_init.disabled { "disabled, " } else { "" };
        row(out, "cloud-init", &format!("{disabled}{sources}"), &cloud_init.source)?;
    }
    for file in &system.network_files {
        row(out, "network", &word(&file.kind), &file.path)?;
    }
    for list in packages.iter().flat_map(|lists| lists.iter()) {
        row(out, "packages", &format!("{} {}", list.packages.len(), word(&list.format)), &list.source)?;
        list.notes.iter().try_for_each(|note| row(out, "note", note, ""))?;
    }
    system.recovery.iter().try_for_each(|note| row(out, "recovered", note, ""))?;
    system.notes.iter().try_for_each(|note| row(out, "note", note, ""))
}

fn boot(out: &mut impl Write, system: &OperatingSystem) -> io::Result<()> {
    for kernel in &system.kernels {
        let initrd = kernel.initrd.as_deref().map(|initrd| format!(", {initrd}")).unwrap_or_default();
        let default = if kernel.default { ", default" } else { "" };
        row(out, "kernel", &format!("{}{default}", kernel.version), &format!("{}{initrd}", kernel.path))?;
    }
    sourced(out, "kernel arguments", &system.kernel_command_line)?;
    for bootloader in &system.bootloaders {
        row(out, "boot loader", &word(&bootloader.kind), &bootloader.config)?;
    }
    for firmware in &system.firmware {
        row(out, "firmware", &word(&firmware.value), &firmware.source)?;
    }
    match &system.init_system {
        Some(init) => row(out, "init system", &word(&init.value), &init.source),
        None => Ok(()),
    }
}

fn services(out: &mut impl Write, services: &[Service]) -> io::Result<()> {
    let enabled: Vec<_> = services
        .iter()
        .filter(|service| service.state == ServiceState::Enabled)
        .map(|service| service.name.clone())
        .collect();
    if enabled.is_empty() { Ok(()) } else { row(out, "enabled services", &shortened(&enabled), "") }
}

/// The first names and how many more there are.
fn shortened(names: &[String]) -> String {
    let shown = names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

fn sourced(out: &mut impl Write, name: &str, field: &Option<Sourced<String>>) -> io::Result<()> {
    match field {
        Some(field) => row(out, name, &field.value, &field.source),
        None => Ok(()),
    }
}

fn row(out: &mut impl Write, name: &str, value: &str, source: &str) -> io::Result<()> {
    let source = if source.is_empty() { String::new() } else { format!("  [{}]", escape(source.as_bytes())) };
    writeln!(out, "  {name:<17} {}{source}", escape(value.as_bytes()))
}

/// The word that the JSON has for a value.
fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        Ok(serde_json::Value::Object(fields)) => {
            fields.values().filter_map(|field| field.as_str()).collect::<Vec<_>>().join("  ")
        }
        Ok(other) => other.to_string(),
        Err(_) => String::new(),
    }
}
