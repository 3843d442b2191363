//! ostree: systems that are directories of one filesystem.
//!
//! ```text
//! /ostree/deploy/<stateroot>/deploy/<checksum>.<serial>/   a deployment: what the system sees as /
//! /ostree/deploy/<stateroot>/var                           what it sees as /var
//! /ostree/boot.N/<stateroot>/<bootchecksum>/<serial>       a link to a deployment, named by ostree= on the command line
//! ```
//!
//! The deployment that boots is that of the boot entry with the highest version; without entries it is the one whose
//! directory changed last.

use super::reader::Notes;
use super::{Guest, bls};
use crate::bytes::escape;
use crate::error::Result;
use crate::fs::{FileType, Location, MountTable};

/// The deployment that boots by default.
#[derive(Debug)]
pub(super) struct Deployment {
    /// Its directory in the physical root.
    pub(super) directory: Location,
    /// Its stateroot's `var`.
    pub(super) var: Option<Location>,
}

/// Finds the deployment in `physical`, the guest as the physical root shows it; `boots` are other filesystems of the same
/// disk, one of which may hold the boot entries.
pub(super) fn find(physical: Guest<'_>, boots: &[MountTable], notes: &Notes<'_>) -> Result<Option<Deployment>> {
    let mut entries = bls::read(physical, "/boot/loader/entries", notes)?;
    for boot in boots {
        entries.extend(bls::read(notes.guest(boot), "/loader/entries", notes)?);
    }
    bls::sort(&mut entries);
    for entry in entries.iter().rev() {
        let Some(path) = entry.options.split_ascii_whitespace().find_map(|word| word.strip_prefix("ostree=")) else {
            continue;
        };
        if let Some(directory) = notes.tolerate(physical.locate(path))?.flatten()
            && directory.metadata()?.file_type == FileType::Dir
        {
            return deployment(physical, directory, notes).map(Some);
        }
        notes.add(format!("boot entry {}: {} does not exist", entry.file, escape(path.as_bytes())));
    }
    newest(physical, notes)
}

fn newest(physical: Guest<'_>, notes: &Notes<'_>) -> Result<Option<Deployment>> {
    let mut found = None;
    for stateroot in notes.tolerate(physical.list("/ostree/deploy"))?.unwrap_or_default() {
        let parent = format!("/ostree/deploy/{stateroot}/deploy");
        for name in notes.tolerate(physical.list(&parent))?.unwrap_or_default() {
            let Some(directory) = notes.tolerate(physical.locate(&format!("{parent}/{name}")))?.flatten() else {
                continue;
            };
            let Some(metadata) = notes.tolerate(directory.metadata())? else { continue };
            let is_newer = found.as_ref().is_none_or(|(mtime, _)| *mtime <= metadata.mtime);
            if metadata.file_type == FileType::Dir && is_newer {
                found = Some((metadata.mtime, directory));
            }
        }
    }
    found.map(|(_, directory)| deployment(physical, directory, notes)).transpose()
}

fn deployment(physical: Guest<'_>, directory: Location, notes: &Notes<'_>) -> Result<Deployment> {
    let stateroot = directory.path.parent().parent();
    let var = String::from_utf8_lossy(stateroot.join(b"var").as_bytes()).into_owned();
    let var = notes.tolerate(physical.locate(&var))?.flatten();
    let var = match var {
        Some(var) if var.metadata()?.file_type == FileType::Dir => Some(var),
        _ => None,
    };
    Ok(Deployment { directory, var })
}
