//! Copying trees out.

use std::path::Path;

use super::Guestfs;
use crate::error::Result;
use crate::fs::GuestPath;
use crate::ops::{self, CopyOutOptions, CopyOutReport};
use crate::progress::{Progress, Silent};

impl Guestfs {
    /// Copies a guest file or directory, with everything below it, into the host directory `localdir`, where it gets its
    /// own name, which must not exist; what is in `/` goes into `localdir` itself. Needs no root: owners, devices and what
    /// else the host files are not given is in a manifest, `NAME.guestctl-manifest.jsonl`. When parts could not be read the
    /// rest is there, and the error is [`Partial`](crate::ErrorKind::Partial).
    pub fn copy_out(&self, remotepath: impl AsRef<[u8]>, localdir: impl AsRef<Path>) -> Result<()> {
        use std::os::unix::ffi::OsStrExt;
        let remote = GuestPath::parse(remotepath.as_ref())?;
        let name = remote.file_name().filter(|name| *name != b"..").map(std::ffi::OsStr::from_bytes);
        let options = CopyOutOptions { into: name.is_none(), ..CopyOutOptions::default() };
        let local = name.map_or_else(|| localdir.as_ref().to_owned(), |name| localdir.as_ref().join(name));
        self.copy_out_with(remotepath, local, &options, &Silent)?.problems.complete()
    }

    /// Copies a guest file or directory to the host path `local`, which must not exist unless it is copied into; watched.
    /// The report tells what could not be read, and how contents were copied.
    pub fn copy_out_with(
        &self,
        remotepath: impl AsRef<[u8]>,
        local: impl AsRef<Path>,
        options: &CopyOutOptions,
        progress: &dyn Progress,
    ) -> Result<CopyOutReport> {
        let remote = GuestPath::parse(remotepath)?;
        ops::copy_out(&*self.mounted()?, &remote, local.as_ref(), options, progress)
    }
}
