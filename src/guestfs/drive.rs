//! Drives: image files under the names the guest's kernel would give their disks.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use crate::block::nbd::NbdOptions;
use crate::block::{self, BlockDevice, ImageFormat, ImageInfo, OpenGate, Overlay};
use crate::error::{Error, Result};
use crate::volume::{self, PartitionTable};
use crate::worker;

/// Bytes of changes to one drive that stay in memory before they go to a temporary file.
const OVERLAY_MEMORY: u64 = 32 << 20;

/// How to add a drive.
#[derive(Debug, Clone)]
pub struct DriveOptions {
    /// The image's format; `None` probes it. Stating it closes the hole that a guest can write another format's header
    /// at the start of its raw disk.
    pub format: Option<ImageFormat>,
    /// Whether the image file may never be written. There are no calls yet that write.
    pub readonly: bool,
    /// Who may open files that the image names; by default nobody.
    pub gate: Arc<dyn OpenGate>,
    /// Read this internal snapshot, or this disk of an OVA.
    pub snapshot: Option<String>,
    /// Open the image in a process of its own, which serves it to this one. Needs a program for that: this one, if it
    /// calls [`worker::run_if_asked`], or [`worker`](Self::worker).
    pub out_of_process: bool,
    /// The program to run for [`out_of_process`](Self::out_of_process), such as the path of `guestctl`; `None` is this
    /// program.
    pub worker: Option<PathBuf>,
    /// How to deal with the server when the image is an NBD export.
    pub nbd: NbdOptions,
}

impl Default for DriveOptions {
    fn default() -> Self {
        Self {
            format: None,
            readonly: true,
            gate: Arc::new(block::DenyAll),
            snapshot: None,
            out_of_process: false,
            worker: None,
            nbd: NbdOptions::default(),
        }
    }
}

/// A drive as it was added.
#[derive(Debug, Clone)]
pub(super) struct Drive {
    name: String,
    path: PathBuf,
    options: DriveOptions,
}

/// `/dev/sda` … `/dev/sdz`, `/dev/sdaa` …
pub(super) fn name(mut index: usize) -> String {
    let mut letters = Vec::new();
    loop {
        letters.push(char::from(b"abcdefghijklmnopqrstuvwxyz"[index % 26]));
        if index < 26 {
            break;
        }
        index = index / 26 - 1;
    }
    format!("/dev/sd{}", letters.iter().rev().collect::<String>())
}

impl Drive {
    pub(super) fn is_out_of_process(&self) -> bool {
        self.options.out_of_process
    }

    pub(super) fn new(name: String, path: &Path, options: DriveOptions) -> Result<Self> {
        let part_of = path.to_str().and_then(|path| path.rsplit_once('#')).map(|(file, _)| Path::new(file));
        if !block::nbd::Uri::is_uri(path)
            && let Err(error) = path.metadata()
            && !part_of.is_some_and(Path::exists)
        {
            return Err(Error::io("open", path.display(), error));
        }
        Ok(Self { name, path: path.to_owned(), options })
    }

    /// The image's path as it was given.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// How its image is opened.
    pub(super) fn open_options(&self) -> block::OpenOptions {
        let DriveOptions { format, gate, snapshot, nbd, .. } = self.options.clone();
        block::OpenOptions { format, gate, snapshot, nbd }
    }

    pub(super) fn open(&self) -> Result<OpenDrive> {
        let options = self.open_options();
        let image = if self.options.out_of_process {
            worker::open(&self.path, &options, self.options.worker.as_deref())?
        } else {
            block::open(&self.path, &options)?
        };
        // A drive is writable inside and its image is not: changes collect in an overlay that ends with the handle.
        let disk = Arc::new(Overlay::new(image.device, OVERLAY_MEMORY, &std::env::temp_dir()));
        Ok(OpenDrive { name: self.name.clone(), disk, info: image.info, table: OnceLock::new() })
    }
}

/// A drive after launch.
#[derive(Debug)]
pub(super) struct OpenDrive {
    /// `/dev/sda`.
    pub name: String,
    /// The disk's bytes.
    pub disk: Arc<dyn BlockDevice>,
    /// What is known of the image file.
    pub info: ImageInfo,
    table: OnceLock<Option<PartitionTable>>,
}

impl OpenDrive {
    /// The partition table, read at the first question; `None` when there is none.
    pub(super) fn table(&self) -> Result<Option<&PartitionTable>> {
        if let Some(table) = self.table.get() {
            return Ok(table.as_ref());
        }
        let table = volume::scan(&self.disk).map_err(|error| self.name_in(error))?;
        for note in table.iter().flat_map(|table| &table.notes) {
            log::warn!("{}: {}: {note}", self.info.filename, self.name);
        }
        Ok(self.table.get_or_init(|| table).as_ref())
    }

    /// Adds drive and image to an error.
    pub(super) fn name_in(&self, error: Error) -> Error {
        error.on_device(&self.name).in_image(&self.info.filename)
    }
}

#[cfg(test)]
mod tests {
    use super::name;

    #[test]
    fn drives_are_named_as_the_kernel_names_scsi_disks() {
        let names: Vec<_> = [0, 1, 25, 26, 27, 701, 702].into_iter().map(name).collect();
        assert_eq!(names, ["/dev/sda", "/dev/sdb", "/dev/sdz", "/dev/sdaa", "/dev/sdab", "/dev/sdzz", "/dev/sdaaa"]);
    }
}
