//! Boot loaders, the default command line, and which firmware can start the guest.

use serde::{Deserialize, Serialize};

use super::candidate::Candidate;
use super::discoverable::{BIOS_BOOT, Purpose, purpose};
use super::reader::{Reader, Sourced, first_line};
use super::{assignments, bls, grub};
use crate::error::Result;

/// Which boot loader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "each is a program's proper name")]
pub enum BootloaderKind {
    Grub2,
    /// GRUB 2 on the EFI system partition, with a configuration of its own there.
    Grub2Efi,
    /// GRUB 0.97.
    GrubLegacy,
    SystemdBoot,
    Extlinux,
    Syslinux,
    Lilo,
    Zipl,
    UBoot,
    Limine,
    Raspberrypi,
}

/// One configured boot loader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bootloader {
    /// Which.
    pub kind: BootloaderKind,
    /// Its configuration's guest path.
    pub config: String,
}

/// What starts the boot loader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Firmware {
    /// PC BIOS.
    Bios,
    /// UEFI.
    Uefi,
}

/// The kernel that boots unless someone chooses.
#[derive(Debug)]
pub(super) struct DefaultKernel {
    /// Its path as the boot loader sees it.
    pub(super) linux: String,
    pub(super) version: Option<String>,
}

/// All about booting but the kernels.
#[derive(Debug)]
pub(super) struct Boot {
    pub(super) bootloaders: Vec<Bootloader>,
    pub(super) command_line: Option<Sourced<String>>,
    pub(super) default: Option<DefaultKernel>,
    pub(super) entries: Vec<bls::Entry>,
    pub(super) firmware: Vec<Sourced<Firmware>>,
}

use BootloaderKind as Kind;

/// Configuration files; the first of each kind counts.
const CONFIGS: [(Kind, &str); 20] = [
    (Kind::Grub2, "/boot/grub/grub.cfg"),
    (Kind::Grub2, "/boot/grub2/grub.cfg"),
    (Kind::GrubLegacy, "/boot/grub/menu.lst"),
    (Kind::GrubLegacy, "/boot/grub/grub.conf"),
    (Kind::SystemdBoot, "/efi/loader/loader.conf"),
    (Kind::SystemdBoot, "/boot/efi/loader/loader.conf"),
    (Kind::SystemdBoot, "/boot/loader/loader.conf"),
    (Kind::Extlinux, "/boot/extlinux/extlinux.conf"),
    (Kind::Extlinux, "/boot/extlinux.conf"),
    (Kind::Syslinux, "/boot/syslinux/syslinux.cfg"),
    (Kind::Syslinux, "/boot/syslinux.cfg"),
    (Kind::Lilo, "/etc/lilo.conf"),
    (Kind::Zipl, "/etc/zipl.conf"),
    (Kind::UBoot, "/boot/boot.scr"),
    (Kind::UBoot, "/boot/uEnv.txt"),
    (Kind::Limine, "/boot/limine.conf"),
    (Kind::Limine, "/boot/limine/limine.conf"),
    (Kind::Limine, "/boot/limine.cfg"),
    (Kind::Raspberrypi, "/boot/firmware/config.txt"),
    (Kind::Raspberrypi, "/boot/config.txt"),
];

/// Examines booting; `neighbours` are the candidates on the root's disk.
pub(super) fn boot(reader: &Reader<'_>, neighbours: &[&Candidate]) -> Result<Boot> {
    let bootloaders = bootloaders(reader)?;
    let mut entries = Vec::new();
    for base in ["/boot", "/efi", "/boot/efi"] {
        entries.extend(bls::read(reader.guest(), &format!("{base}/loader/entries"), reader.notes())?);
    }
    bls::sort(&mut entries);
    let (default, command_line) = match default_entry(reader, &bootloaders, &entries)? {
        Some((default, options)) => (Some(default), Some(options)),
        None => (None, configured_command_line(reader)?),
    };
    let firmware = firmware(reader, &bootloaders, neighbours)?;
    Ok(Boot { bootloaders, command_line, default, entries, firmware })
}

fn bootloaders(reader: &Reader<'_>) -> Result<Vec<Bootloader>> {
    let top = reader.names("/boot")?;
    let mut found: Vec<Bootloader> = Vec::new();
    for (kind, config) in CONFIGS {
        let first = config.strip_prefix("/boot/").map(|rest| rest.split('/').next().unwrap_or(rest));
        let is_absent = first.is_some_and(|first| !top.iter().any(|name| name == first));
        if !is_absent && !found.iter().any(|known| known.kind == kind) && reader.is_file(config)? {
            found.push(Bootloader { kind, config: config.to_owned() });
        }
    }
    for base in ["/boot/efi/EFI", "/efi/EFI", "/boot/EFI"] {
        for vendor in reader.names(base)?.into_iter().take(64) {
            let config = format!("{base}/{vendor}/grub.cfg");
            if reader.is_file(&config)? {
                found.push(Bootloader { kind: Kind::Grub2Efi, config });
            }
        }
    }
    Ok(found)
}

/// The default entry and its command line, from the first boot loader whose configuration tells.
fn default_entry(
    reader: &Reader<'_>,
    bootloaders: &[Bootloader],
    entries: &[bls::Entry],
) -> Result<Option<(DefaultKernel, Sourced<String>)>> {
    for bootloader in bootloaders {
        let Some(text) = (match bootloader.kind {
            Kind::Grub2 | Kind::Grub2Efi | Kind::GrubLegacy | Kind::Extlinux | Kind::Syslinux | Kind::SystemdBoot => {
                reader.text(&bootloader.config)?
            }
            _ => None,
        }) else {
            continue;
        };
        let environment = grub_environment(reader, &bootloader.config)?;
        let saved = assignments::find(&environment, "saved_entry");
        let config = match bootloader.kind {
            Kind::SystemdBoot => {
                let chosen = text.value.lines().find_map(|line| line.strip_prefix("default ")).map(str::trim);
                if let Some(found) = bls_default(entries, chosen, "") {
                    return Ok(Some(found));
                }
                continue;
            }
            Kind::GrubLegacy => grub::parse_legacy(&text.value),
            Kind::Extlinux | Kind::Syslinux => grub::parse_syslinux(&text.value),
            _ => grub::parse(&text.value),
        };
        if config.blscfg
            && let Some(found) = bls_default(entries, saved.as_deref(), &environment)
        {
            return Ok(Some(found));
        }
        if let Some(entry) = config.default_entry(saved.as_deref()) {
            let default = DefaultKernel { linux: entry.linux.clone().unwrap_or_default(), version: None };
            return Ok(Some((default, Sourced::new(entry.options.clone(), bootloader.config.clone()))));
        }
    }
    // A boot loader that reads only the specification's entries has no configuration of its own.
    Ok(bls_default(entries, None, ""))
}

fn grub_environment(reader: &Reader<'_>, config: &str) -> Result<String> {
    let directory = config.rsplit_once('/').map_or("", |(directory, _)| directory);
    for path in [format!("{directory}/grubenv"), "/boot/grub2/grubenv".to_owned()] {
        if let Some(text) = reader.text(&path)? {
            return Ok(text.value);
        }
    }
    Ok(String::new())
}

/// The entry called `chosen` (a file name with or without `.conf`, possibly with a trailing `*`), else the last.
fn bls_default(
    entries: &[bls::Entry],
    chosen: Option<&str>,
    environment: &str,
) -> Option<(DefaultKernel, Sourced<String>)> {
    let name = |entry: &bls::Entry| entry.file.rsplit('/').next().unwrap_or_default().to_owned();
    let is_chosen = |entry: &&bls::Entry| {
        let (name, chosen) = (name(entry), chosen.unwrap_or_default());
        match chosen.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => name == chosen || name.strip_suffix(".conf") == Some(chosen),
        }
    };
    let entry = entries.iter().rfind(is_chosen).or_else(|| entries.iter().rfind(|entry| entry.linux.is_some()))?;
    let words = entry.options.split_ascii_whitespace().map(|word| match word.strip_prefix('$') {
        Some(variable) => assignments_value(environment, variable),
        None => word.to_owned(),
    });
    let options = words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
    let default = DefaultKernel { linux: entry.linux.clone()?, version: entry.version.clone() };
    Some((default, Sourced::new(options, entry.file.clone())))
}

/// A variable's whole value in grubenv, which has no quotes.
fn assignments_value(environment: &str, variable: &str) -> String {
    let value = environment.lines().find_map(|line| line.strip_prefix(variable)?.strip_prefix('='));
    value.unwrap_or_default().to_owned()
}

/// The command line where only the tools' own configuration has it.
fn configured_command_line(reader: &Reader<'_>) -> Result<Option<Sourced<String>>> {
    if let Some(text) = reader.text("/etc/default/grub")? {
        let get = |key| assignments::find(&text.value, key);
        let parts = [get("GRUB_CMDLINE_LINUX"), get("GRUB_CMDLINE_LINUX_DEFAULT")];
        let line = parts.into_iter().flatten().collect::<Vec<_>>().join(" ");
        if !line.is_empty() {
            return Ok(Some(Sourced::new(line, text.source)));
        }
    }
    reader.first(&["/etc/kernel/cmdline", "/boot/firmware/cmdline.txt", "/boot/cmdline.txt"], first_line)
}

fn firmware(
    reader: &Reader<'_>,
    bootloaders: &[Bootloader],
    neighbours: &[&Candidate],
) -> Result<Vec<Sourced<Firmware>>> {
    let mut found = Vec::new();
    let bios_modules = ["/boot/grub/i386-pc", "/boot/grub2/i386-pc"];
    let mut bios = None;
    for path in bios_modules {
        if bios.is_none() && reader.is_dir(path)? {
            bios = Some(path.to_owned());
        }
    }
    let is_bios = |kind| matches!(kind, Kind::Extlinux | Kind::Syslinux | Kind::Lilo | Kind::GrubLegacy);
    let by_loader = || bootloaders.iter().find(|loader| is_bios(loader.kind)).map(|loader| loader.config.clone());
    let typed = |matches: &dyn Fn(&str) -> bool| {
        let mut found = neighbours.iter().filter(|candidate| candidate.partition_type.as_deref().is_some_and(matches));
        found.next().map(|candidate| candidate.mountable.clone())
    };
    let esp = typed(&|partition_type| partition_type == "0xef" || purpose(partition_type) == Some(Purpose::Esp));
    // An MBR without an EFI system partition leaves only the BIOS.
    let by_partition = || {
        let by_mbr = || typed(&|partition_type| partition_type.starts_with("0x")).filter(|_| esp.is_none());
        typed(&|partition_type| partition_type == BIOS_BOOT).or_else(by_mbr)
    };
    found.extend(bios.or_else(by_loader).or_else(by_partition).map(|source| Sourced::new(Firmware::Bios, source)));

    let mut uefi = None;
    for path in ["/boot/efi/EFI", "/efi/EFI", "/boot/EFI"] {
        if uefi.is_none() && !reader.names(path)?.is_empty() {
            uefi = Some(path.to_owned());
        }
    }
    found.extend(uefi.or(esp).map(|source| Sourced::new(Firmware::Uefi, source)));
    Ok(found)
}
