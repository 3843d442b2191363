//! The [`Guestfs`] handle: libguestfs's names and meanings over everything below. It delegates and knows no format.
//!
//! A handle goes through three states: drives are added, `launch` opens them, and then calls look inside; `shutdown`
//! closes it. All methods take `&self` and the handle is `Send + Sync`: calls from several threads run at the same time.
//! Drives are never written to.

mod bulk;
mod comparing;
mod copying;
mod create;
mod devices;
mod drive;
mod files;
mod inspection;
mod kernel;
mod listing;
mod looking;
mod memoised;
mod mounting;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

pub use drive::DriveOptions;
pub use files::Stat;
pub use kernel::{GetKernelOptions, GuestKernel, KernelFile};
pub use listing::Listed;
pub use looking::{Dirent, GrepFlags, TskDirent};
pub use memoised::Inspected;

use crate::cache::Store;
use crate::error::{Error, Result};
use crate::fs::{Filesystem, MountTable};
use crate::inspect::OperatingSystem;
use devices::Devices;
use drive::Drive;

/// A guest's disks and what is mounted from them.
///
/// ```no_run
/// # fn main() -> guestctl::Result<()> {
/// let g = guestctl::Guestfs::new()?;
/// g.add_drive_ro("disk.qcow2")?;
/// g.launch()?;
/// for root in g.inspect_os()? {
///     println!("{}", g.inspect_get_product_name(&root)?);
///     for (mountpoint, device) in g.inspect_get_mountpoints(&root)? {
///         g.mount_ro(&device, &mountpoint)?;
///     }
///     println!("{}", g.cat("/etc/hostname")?);
///     g.umount_all()?;
/// }
/// g.shutdown()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Default)]
pub struct Guestfs {
    state: RwLock<State>,
    cache: RwLock<Option<Arc<Store>>>,
    verbose: AtomicBool,
}

#[derive(Debug)]
enum State {
    /// Drives are being added.
    Config(Vec<Drive>),
    /// Calls look inside.
    Launched(Arc<Launched>),
    /// Nothing more can be done.
    Closed,
}

impl Default for State {
    fn default() -> Self {
        Self::Config(Vec::new())
    }
}

/// What there is after launch.
#[derive(Debug)]
struct Launched {
    /// The drives as they were added.
    drives: Vec<Drive>,
    devices: Devices,
    mounts: RwLock<Arc<MountTable>>,
    /// Filesystems by mountable, each opened (and its journal replayed) once.
    filesystems: Mutex<BTreeMap<String, Arc<dyn Filesystem>>>,
    /// What `inspect_os` found; `inspect_get_*` reads it.
    inspected: RwLock<Option<Arc<Vec<OperatingSystem>>>>,
    /// What a cache knew, or got, of that.
    inspection: RwLock<Option<Arc<Vec<Inspected>>>>,
}

impl Guestfs {
    /// A handle without drives. Cheap: nothing is opened or started.
    pub fn new() -> Result<Self> {
        Ok(Self::default())
    }

    /// Adds a drive that is never written to, its format probed. The first drive is `/dev/sda`, the next `/dev/sdb` …
    pub fn add_drive_ro(&self, path: impl AsRef<Path>) -> Result<()> {
        self.add_drive_with(path, DriveOptions { readonly: true, ..DriveOptions::default() })
    }

    /// Adds a drive in the stated format; `None` probes it, which trusts what the guest has written at its beginning.
    /// There are no calls yet that write: a drive that is not `readonly` is treated like one that is.
    pub fn add_drive_opts(&self, path: impl AsRef<Path>, format: Option<&str>, readonly: bool) -> Result<()> {
        let format = format.map(str::parse).transpose()?;
        self.add_drive_with(path, DriveOptions { format, readonly, ..DriveOptions::default() })
    }

    /// Adds a drive with all there is to choose. The file must exist; it is opened by [`launch`](Self::launch).
    pub fn add_drive_with(&self, path: impl AsRef<Path>, options: DriveOptions) -> Result<()> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let State::Config(drives) = &mut *state else {
            return Err(Error::invalid("drives are added before launch"));
        };
        let name = drive::name(drives.len());
        drives.push(Drive::new(name, path.as_ref(), options)?);
        Ok(())
    }

    /// Opens the drives. Called once, after at least one drive was added.
    pub fn launch(&self) -> Result<()> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let drives = match &*state {
            State::Config(drives) if drives.is_empty() => {
                return Err(Error::invalid("there is no drive to launch with").with_hint("add one with add_drive_ro"));
            }
            State::Config(drives) => drives,
            State::Launched(_) => return Err(Error::invalid("the handle is launched already")),
            State::Closed => return Err(closed()),
        };
        let open = drives.iter().map(Drive::open).collect::<Result<Vec<_>>>()?;
        let launched = Launched {
            drives: drives.clone(),
            devices: Devices::new(open),
            mounts: RwLock::default(),
            filesystems: Mutex::default(),
            inspected: RwLock::default(),
            inspection: RwLock::default(),
        };
        *state = State::Launched(Arc::new(launched));
        Ok(())
    }

    /// Unmounts everything and closes the drives. Safe to repeat.
    pub fn shutdown(&self) -> Result<()> {
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = State::Closed;
        Ok(())
    }

    /// Whether the library's debug messages are wanted, through the `log` crate that the program has set up.
    pub fn set_verbose(&self, verbose: bool) {
        self.verbose.store(verbose, Ordering::Relaxed);
        if verbose {
            log::set_max_level(log::LevelFilter::Debug);
        }
    }

    /// What [`set_verbose`](Self::set_verbose) was last told.
    #[must_use]
    pub fn get_verbose(&self) -> bool {
        self.verbose.load(Ordering::Relaxed)
    }

    fn launched(&self) -> Result<Arc<Launched>> {
        match &*self.state.read().unwrap_or_else(PoisonError::into_inner) {
            State::Launched(launched) => Ok(launched.clone()),
            State::Config(_) => Err(Error::invalid("the handle is not launched").with_hint("call launch first")),
            State::Closed => Err(closed()),
        }
    }

    fn mounted(&self) -> Result<Arc<MountTable>> {
        Ok(self.launched()?.mounts())
    }
}

impl Launched {
    fn mounts(&self) -> Arc<MountTable> {
        self.mounts.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn closed() -> Error {
    Error::invalid("the handle is shut down")
}

/// Guest bytes as a `String`: as they are when they are UTF-8, else escaped.
fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| crate::bytes::escape(error.as_bytes()))
}
