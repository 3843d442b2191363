//! From arguments to a launched handle, with the guest's filesystems mounted where the command needs them.

use std::path::Path;
use std::sync::Arc;

use guestctl::block::nbd::NbdOptions;
use guestctl::block::{self, AllowDirectories, DenyAll, Image, ImageFormat, OpenGate, OpenOptions, SameDirectory};
use guestctl::cache::Store;
use guestctl::ops::Filter;
use guestctl::{DriveOptions, Error, Guestfs, Result, worker};

use crate::args::{BulkArgs, FilterArgs, GuestArgs, ImageArgs, Isolation, OpenArgs};
use crate::context::Context;

impl OpenArgs {
    /// The gate that the options ask for.
    pub fn gate(&self) -> Result<Arc<dyn OpenGate>> {
        Ok(if self.allow_same_dir {
            Arc::new(SameDirectory)
        } else if self.allow_backing.is_empty() {
            Arc::new(DenyAll)
        } else {
            Arc::new(AllowDirectories::new(self.allow_backing.iter().cloned())?)
        })
    }

    /// Refuses formats without backing files that can be changed.
    pub fn only_qcow2(&self) -> Result<()> {
        match self.format {
            None | Some(ImageFormat::Qcow2) => Ok(()),
            Some(other) => Err(Error::unsupported(other.name(), "changing overlays")),
        }
    }

    /// The library's options.
    pub fn options(&self) -> Result<OpenOptions> {
        Ok(OpenOptions { format: self.format, gate: self.gate()?, snapshot: None, nbd: self.nbd() })
    }

    /// The deadlines for NBD servers.
    pub fn nbd(&self) -> NbdOptions {
        let default = NbdOptions::default();
        match self.nbd_timeout {
            None => default,
            Some(time) => NbdOptions {
                connect_timeout: time.min(default.connect_timeout),
                request_timeout: time,
                total_timeout: time.saturating_mul(3),
                ..default
            },
        }
    }
}

impl Isolation {
    /// Opens an image that is going to be read whole.
    pub fn open(self, path: &Path, options: &OpenOptions) -> Result<Image> {
        if self.isolate { worker::open_whole(path, options, None) } else { block::open(path, options) }
    }
}

impl FilterArgs {
    /// The library's filter.
    pub fn filter(&self) -> Result<Filter> {
        Filter::new(&self.exclude, &self.include)
    }
}

impl BulkArgs {
    /// The library's filter.
    pub fn filter(&self) -> Result<Filter> {
        self.entries.filter()
    }
}

impl ImageArgs {
    /// All images as drives, launched; nothing is mounted.
    pub fn launch(&self) -> Result<Guestfs> {
        self.launch_with(None)
    }

    /// The same, with the cache that the settings name.
    pub fn launch_cached(&self, context: &Context) -> Result<Guestfs> {
        self.launch_with(context.store())
    }

    fn launch_with(&self, store: Option<Store>) -> Result<Guestfs> {
        let g = Guestfs::new()?;
        g.set_cache(store.map(Arc::new));
        let gate = self.open.gate()?;
        for path in std::iter::once(&self.image).chain(&self.more) {
            let options = DriveOptions {
                format: self.open.format,
                gate: gate.clone(),
                nbd: self.open.nbd(),
                out_of_process: self.isolate,
                ..DriveOptions::default()
            };
            g.add_drive_with(path, options)?;
        }
        g.launch()?;
        Ok(g)
    }
}

impl GuestArgs {
    /// The image's path, for messages.
    pub fn image(&self) -> &Path {
        &self.images.image
    }

    /// Launched, and mounted as `-m` says; else as the guest itself would; else the only filesystem there is.
    pub fn mounted(&self) -> Result<Guestfs> {
        let g = self.images.launch()?;
        self.mount(&g)?;
        Ok(g)
    }

    /// The same for a handle that is launched.
    pub fn mount(&self, g: &Guestfs) -> Result<()> {
        if !self.mount.is_empty() {
            for mount in &self.mount {
                let (device, mountpoint) = mount.split_once(':').unwrap_or((mount, "/"));
                g.mount_ro(device, mountpoint)?;
            }
            return Ok(());
        }
        match &g.inspect_os()?[..] {
            [root] => g.mount_inspected(root)?,
            [] => mount_only_filesystem(g).map_err(|error| error.in_image(self.image().display()))?,
            roots => {
                let message = format!("there are {} operating systems: {}", roots.len(), roots.join(", "));
                return Err(Error::invalid(message)
                    .in_image(self.image().display())
                    .with_hint("choose one with -m DEV"));
            }
        }
        Ok(())
    }
}

/// Why the first container (LUKS, RAID …) cannot be mounted: containers are not listed as filesystems.
fn sealed(g: &Guestfs) -> Result<Option<Error>> {
    for device in [g.lvs()?, g.list_partitions()?, g.list_devices()?].concat() {
        if !matches!(g.vfs_type(&device)?.as_str(), "unknown" | "swap" | "LVM2_member") {
            return Ok(g.mount_ro(&device, "/").err());
        }
    }
    Ok(None)
}

fn mount_only_filesystem(g: &Guestfs) -> Result<()> {
    let found = g.list_filesystems()?;
    let candidates: Vec<_> = found.iter().filter(|(_, kind)| !matches!(kind.as_str(), "swap" | "unknown")).collect();
    match candidates[..] {
        [(device, _)] => g.mount_ro(device, "/"),
        [] => Err(sealed(g)?.unwrap_or_else(|| {
            Error::invalid("there is no operating system and no filesystem on the disk")
                .with_hint("guestctl filesystems shows what was found; state the format (-f) if it was probed wrongly")
        })),
        _ => {
            let names: Vec<_> = candidates.iter().map(|(device, kind)| format!("{device} ({kind})")).collect();
            Err(Error::invalid(format!("there is no operating system, and several filesystems: {}", names.join(", ")))
                .with_hint("choose with -m DEV[:MOUNTPOINT]"))
        }
    }
}
