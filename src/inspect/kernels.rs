//! Installed kernels: images in `/boot`, in `/usr/lib/modules/<version>/vmlinuz`, of boot entries, and unified images in
//! `EFI/Linux`.
//!
//! The version is what follows the name's first hyphen (`vmlinuz-6.1.0-18-amd64`) when it begins with a digit. Otherwise
//! (`vmlinuz-virt`, `vmlinuz-linux`, `vmlinuz`) it is read from the image (x86 boot protocol):
//!
//! | offset | size | field | accepted |
//! |---|---|---|---|
//! | 0x202 | 4 | `header` | `HdrS` |
//! | 0x20e | 2 | `kernel_version` | offset of the text, less 0x200 |

use serde::{Deserialize, Serialize};

use super::bls;
use super::bootloader::DefaultKernel;
use super::reader::Reader;
use super::version::natural_order;
use crate::bytes::{Record, fixed_text};
use crate::error::Result;

/// How a kernel is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KernelKind {
    /// A kernel image.
    Image,
    /// A unified kernel image: kernel, initrd and command line in one EFI program.
    Uki,
}

/// One installed kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kernel {
    /// `6.1.0-18-amd64`; of a unified image, its name.
    pub version: String,
    /// How it is packed.
    pub kind: KernelKind,
    /// Its guest path.
    pub path: String,
    /// Its size.
    pub size_bytes: u64,
    /// The initial RAM disk's guest path.
    pub initrd: Option<String>,
    /// The directory of its modules.
    pub modules: Option<String>,
    /// Whether the boot loader starts it unless told otherwise; the newest, when the boot loader does not say.
    pub default: bool,
}

const PREFIXES: [&str; 6] = ["vmlinuz", "vmlinux", "kernel", "Image", "bzImage", "zImage"];

/// Kernels listed for one guest. Ours.
const KERNELS: usize = 512;

/// The kernels, oldest version first.
pub(super) fn kernels(
    reader: &Reader<'_>,
    entries: &[bls::Entry],
    default: Option<&DefaultKernel>,
) -> Result<Vec<Kernel>> {
    let boot = reader.names("/boot")?;
    let modules_parent = if reader.is_dir("/usr/lib/modules")? { "/usr/lib/modules" } else { "/lib/modules" };
    let modules = reader.names(modules_parent)?;
    let mut kernels = Vec::new();
    let names = boot.iter().filter_map(|name| suffix(name).map(|suffix| (name, suffix)));
    for (name, suffix) in names.take(KERNELS) {
        let path = format!("/boot/{name}");
        let Some(size_bytes) = reader.size(&path)? else { continue };
        let version = if suffix.starts_with(|c: char| c.is_ascii_digit()) {
            suffix.to_owned()
        } else {
            image_version(reader, &path)?.unwrap_or_else(|| if suffix.is_empty() { name } else { suffix }.to_owned())
        };
        let initrd = initrd_names(suffix).into_iter().find(|name| boot.contains(name));
        add(&mut kernels, version, path, size_bytes, initrd.map(|name| format!("/boot/{name}")));
    }
    from_entries(reader, entries, &mut kernels)?;
    for version in modules.iter().take(KERNELS) {
        let directory = format!("{modules_parent}/{version}");
        if !kernels.iter().any(|kernel: &Kernel| kernel.version == *version) {
            let path = format!("{directory}/vmlinuz");
            if let Some(size_bytes) = reader.size(&path)? {
                let initrd = format!("{directory}/initramfs.img");
                let initrd = reader.is_file(&initrd)?.then_some(initrd);
                add(&mut kernels, version.clone(), path, size_bytes, initrd);
            }
        }
        for kernel in kernels.iter_mut().filter(|kernel| kernel.version == *version) {
            kernel.modules = Some(directory.clone());
        }
    }
    nixos(reader, &mut kernels)?;
    unified(reader, &mut kernels)?;
    kernels.sort_by(|left, right| natural_order(&left.version, &right.version));
    mark_default(&mut kernels, default);
    Ok(kernels)
}

/// What follows a kernel's name; `None` for other files.
fn suffix(name: &str) -> Option<&str> {
    let rest = PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix))?;
    let suffix = if rest.is_empty() { rest } else { rest.strip_prefix('-')? };
    let is_other = [".hmac", ".sig", ".gz", ".xz", ".efi.signed"].iter().any(|end| suffix.ends_with(end));
    (!is_other).then_some(suffix)
}

/// How distributions name the initial RAM disk of a kernel with this suffix.
fn initrd_names(suffix: &str) -> Vec<String> {
    if suffix.is_empty() {
        return ["initrd.img", "initrd", "initramfs.img"].map(str::to_owned).to_vec();
    }
    vec![
        format!("initrd.img-{suffix}"),
        format!("initramfs-{suffix}.img"),
        format!("initrd-{suffix}"),
        format!("initrd-{suffix}.img"),
        format!("initramfs-{suffix}"),
    ]
}

fn add(kernels: &mut Vec<Kernel>, version: String, path: String, size_bytes: u64, initrd: Option<String>) {
    if !kernels.iter().any(|kernel| kernel.version == version) && kernels.len() < KERNELS {
        let kind = KernelKind::Image;
        kernels.push(Kernel { version, kind, path, size_bytes, initrd, modules: None, default: false });
    }
}

/// The first word of the version text in an x86 kernel image.
fn image_version(reader: &Reader<'_>, path: &str) -> Result<Option<String>> {
    let Some(head) = reader.head(path, 0x1_0200)? else { return Ok(None) };
    let record = Record::new("bzImage", &head, 0);
    let text = record.array::<4>(0x202).ok().filter(|magic| *magic == b"HdrS").and_then(|_| {
        let at = usize::from(record.le16(0x20e).ok()?).checked_add(0x200)?;
        let text = head.get(at..)?;
        fixed_text(text.get(..128).unwrap_or(text)).split_whitespace().next().map(str::to_owned)
    });
    Ok(text)
}

/// Kernels that only a boot entry names, as kernel-install lays them out: `/<machine-id>/<version>/linux`.
fn from_entries(reader: &Reader<'_>, entries: &[bls::Entry], kernels: &mut Vec<Kernel>) -> Result<()> {
    for entry in entries {
        let Some(linux) = &entry.linux else { continue };
        let in_guest = |path: &str| -> Result<Option<String>> {
            for base in ["/boot", "/efi", "/boot/efi", ""] {
                let path = format!("{base}{path}");
                if reader.is_file(&path)? {
                    return Ok(Some(path));
                }
            }
            Ok(None)
        };
        let version = entry.version.clone().unwrap_or_else(|| linux.rsplit('/').nth(1).unwrap_or_default().to_owned());
        let name = linux.rsplit('/').next().unwrap_or_default();
        let is_known = |kernel: &Kernel| kernel.version == version || kernel.path.ends_with(name) && name != "linux";
        if !linux.starts_with('/') || kernels.iter().any(is_known) {
            continue;
        }
        if let Some(path) = in_guest(linux)?
            && let Some(size_bytes) = reader.size(&path)?
        {
            let initrd =
                entry.initrd.as_deref().filter(|path| path.starts_with('/')).map(in_guest).transpose()?.flatten();
            add(kernels, version, path, size_bytes, initrd);
        }
    }
    Ok(())
}

/// The kernel of NixOS's system profile, whose boot entries name copies of it.
fn nixos(reader: &Reader<'_>, kernels: &mut Vec<Kernel>) -> Result<()> {
    let path = format!("{}/kernel", super::NIXOS_PROFILE);
    let Some(size_bytes) = reader.size(&path)? else { return Ok(()) };
    let modules = format!("{}/kernel-modules/lib/modules", super::NIXOS_PROFILE);
    let Some(version) = reader.names(&modules)?.pop() else { return Ok(()) };
    let initrd = format!("{}/initrd", super::NIXOS_PROFILE);
    let initrd = reader.is_file(&initrd)?.then_some(initrd);
    kernels.retain(|kernel| kernel.version != version);
    add(kernels, version.clone(), path, size_bytes, initrd);
    for kernel in kernels.iter_mut().filter(|kernel| kernel.version == version) {
        kernel.modules = Some(format!("{modules}/{version}"));
    }
    Ok(())
}

fn unified(reader: &Reader<'_>, kernels: &mut Vec<Kernel>) -> Result<()> {
    for base in ["/efi", "/boot/efi", "/boot"] {
        let directory = format!("{base}/EFI/Linux");
        for name in reader.names(&directory)?.into_iter().take(KERNELS) {
            let Some(version) = name.strip_suffix(".efi").map(str::to_owned) else { continue };
            let path = format!("{directory}/{name}");
            let Some(size_bytes) = reader.size(&path)? else { continue };
            let kind = KernelKind::Uki;
            if kernels.len() < KERNELS {
                kernels.push(Kernel { version, kind, path, size_bytes, initrd: None, modules: None, default: false });
            }
        }
    }
    Ok(())
}

fn mark_default(kernels: &mut [Kernel], default: Option<&DefaultKernel>) {
    let chosen = default.and_then(|default| {
        let name = default.linux.rsplit('/').next().unwrap_or_default();
        kernels.iter().position(|kernel| {
            kernel.path.ends_with(&default.linux) && default.linux.starts_with('/')
                || default.version.as_deref() == Some(&kernel.version)
                || kernel.path.rsplit('/').next() == Some(name)
        })
    });
    let newest = || kernels.iter().rposition(|kernel| !kernel.version.contains("rescue"));
    if let Some(kernel) = chosen.or_else(newest).and_then(|index| kernels.get_mut(index)) {
        kernel.default = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_told_from_their_neighbours() {
        for (name, expected) in [
            ("vmlinuz-6.1.0-18-amd64", Some("6.1.0-18-amd64")),
            ("vmlinuz-virt", Some("virt")),
            ("vmlinuz", Some("")),
            ("kernel-6.1.67-gentoo", Some("6.1.67-gentoo")),
            ("Image-6.4.0", Some("6.4.0")),
            (".vmlinuz-6.5.6.hmac", None),
            ("vmlinuz-6.5.6.hmac", None),
            ("vmlinux-6.4.0-default.gz", None),
            ("initrd.img-6.1.0-18-amd64", None),
            ("kernel7.img", None),
            ("config-6.1.0-18-amd64", None),
        ] {
            assert_eq!(suffix(name), expected, "{name}");
        }
    }
}
