//! Kernels: which one is the newest, and copying it out with what belongs to it; initial RAM disks.

use std::path::{Path, PathBuf};

use super::{Guestfs, text};
use crate::error::{Error, Result};
use crate::inspect::KernelKind;
use crate::ops;
use crate::progress::Progress;

/// How a kernel is copied out.
#[derive(Debug, Clone, Default)]
pub struct GetKernelOptions {
    /// Into which host directory.
    pub directory: PathBuf,
    /// Whether the files have no version in their names: `vmlinuz`, `initrd.img`.
    pub unversioned_names: bool,
    /// Put before the files' names, with a `-` behind it.
    pub prefix: Option<String>,
}

/// A guest's newest kernel and what belongs to it; the JSON field names are stable.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct GuestKernel {
    /// The operating system's root.
    pub root: String,
    /// Its version.
    pub version: String,
    /// How it is packed.
    pub kind: KernelKind,
    /// Whether it is the one that boots unless someone chooses.
    pub default: bool,
    /// The command line of the default kernel; others have the same as a rule.
    pub command_line: Option<String>,
    /// Kernel, initial RAM disk and command line, those of them that there are.
    pub files: Vec<KernelFile>,
}

/// One file of them.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct KernelFile {
    /// `kernel`, `initrd`, `cmdline`.
    pub role: &'static str,
    /// Its guest path; the command line has none.
    pub guest_path: Option<String>,
    /// Where it is copied to.
    pub host_path: PathBuf,
    /// Its size.
    pub size_bytes: u64,
}

impl Guestfs {
    /// The newest kernel of the operating system with this root, and what would be copied out with it.
    pub fn newest_kernel(&self, root: &str, options: &GetKernelOptions) -> Result<GuestKernel> {
        let systems = self.operating_systems()?;
        let system = systems.iter().find(|system| system.root == root);
        let system = system.ok_or_else(|| Error::invalid(format!("{root} is not the root of an operating system")))?;
        let is_rescue = |version: &str| version.contains("rescue");
        let newest = system.kernels.iter().rfind(|kernel| !is_rescue(&kernel.version)).or(system.kernels.last());
        let kernel = newest.ok_or_else(|| Error::invalid(format!("{root}: the guest has no kernel installed")))?;
        let command_line = system.kernel_command_line.as_ref().map(|line| line.value.clone());
        let mut files = vec![KernelFile {
            role: "kernel",
            guest_path: Some(kernel.path.clone()),
            host_path: options.path_of(&kernel.path),
            size_bytes: kernel.size_bytes,
        }];
        if let Some(initrd) = &kernel.initrd {
            let guest = system.mounts.resolve(&crate::fs::GuestPath::parse(initrd)?, crate::fs::Follow::Links)?;
            files.push(KernelFile {
                role: "initrd",
                guest_path: Some(initrd.clone()),
                host_path: options.path_of(initrd),
                size_bytes: guest.metadata()?.size,
            });
        }
        if let Some(line) = &command_line {
            files.push(KernelFile {
                role: "cmdline",
                guest_path: None,
                host_path: options.path_of(&format!("cmdline-{}", kernel.version)),
                size_bytes: line.len() as u64 + 1,
            });
        }
        let (root, version) = (root.to_owned(), kernel.version.clone());
        Ok(GuestKernel { root, version, kind: kernel.kind, default: kernel.default, command_line, files })
    }

    /// Copies the newest kernel, its initial RAM disk and its command line (a line of text) out: all of them or none.
    pub fn get_kernel(&self, root: &str, options: &GetKernelOptions, progress: &dyn Progress) -> Result<GuestKernel> {
        let kernel = self.newest_kernel(root, options)?;
        let systems = self.operating_systems()?;
        let system = systems.iter().find(|system| system.root == root);
        let mounts = &system.ok_or_else(|| Error::invalid(format!("{root} is gone")))?.mounts;
        let mut copies: Vec<(std::sync::Arc<dyn crate::block::BlockDevice>, &Path)> = Vec::new();
        for file in &kernel.files {
            let content: std::sync::Arc<dyn crate::block::BlockDevice> = match &file.guest_path {
                Some(path) => {
                    let guest = mounts.resolve(&crate::fs::GuestPath::parse(path)?, crate::fs::Follow::Links)?;
                    guest.fs.open(guest.inode).map_err(|error| error.at_path(path.as_bytes()))?
                }
                None => {
                    let line = format!("{}\n", kernel.command_line.as_deref().unwrap_or_default());
                    std::sync::Arc::new(crate::block::Memory::new(line.into_bytes()))
                }
            };
            copies.push((content, &file.host_path));
        }
        ops::download_all(&copies, progress)?;
        Ok(kernel)
    }

    /// The names of the files in the initial RAM disk at a guest path, in the order of its archives. A name that is not UTF-8
    /// is escaped; [`ops::initrd_each`](crate::ops::initrd_each) has bytes.
    pub fn initrd_list(&self, path: impl AsRef<[u8]>) -> Result<Vec<String>> {
        let image = self.open_content(path.as_ref())?;
        let entries = ops::initrd_list(&image).map_err(|error| error.at_path(path.as_ref()))?;
        Ok(entries.into_iter().map(|entry| text(entry.name)).collect())
    }

    /// The content of a file in the initial RAM disk at a guest path; its name has no `/` before it.
    pub fn initrd_cat(&self, initrdpath: impl AsRef<[u8]>, filename: impl AsRef<[u8]>) -> Result<Vec<u8>> {
        let image = self.open_content(initrdpath.as_ref())?;
        ops::initrd_cat(&image, filename.as_ref()).map_err(|error| error.at_path(initrdpath.as_ref()))
    }
}

impl GetKernelOptions {
    /// Where the guest file goes: its own last name, which is never `..`, as the options change it.
    fn path_of(&self, guest_path: &str) -> PathBuf {
        let mut name = guest_path.rsplit('/').next().unwrap_or_default();
        if self.unversioned_names {
            name = name.split('-').next().unwrap_or(name);
        }
        let name = match &self.prefix {
            Some(prefix) => format!("{prefix}-{name}"),
            None => name.to_owned(),
        };
        self.directory.join(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_virt_get_kernel() {
        let name = |path: &str, unversioned_names, prefix: Option<&str>| {
            let options =
                GetKernelOptions { directory: "out".into(), unversioned_names, prefix: prefix.map(str::to_owned) };
            options.path_of(path).to_string_lossy().into_owned()
        };
        assert_eq!(name("/boot/vmlinuz-3.19.0-20-generic", false, None), "out/vmlinuz-3.19.0-20-generic");
        assert_eq!(name("/boot/initrd.img-3.19.0-20-generic", true, None), "out/initrd.img");
        assert_eq!(name("/boot/vmlinuz-3.19.0", false, Some("fedora")), "out/fedora-vmlinuz-3.19.0");
        assert_eq!(name("/boot/vmlinuz-3.19.0", true, Some("a")), "out/a-vmlinuz");
    }
}
