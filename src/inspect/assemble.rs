//! From a root to the guest's whole namespace: fstab, mount units, discoverable partitions, ostree, a `/usr` of its own.

use std::collections::BTreeMap;

use super::candidate::{Candidate, Role};
use super::devices::Devices;
use super::discoverable::Purpose;
use super::fstab::{self, Entry, Opened};
use super::reader::{Notes, Reader};
use super::version::natural_order;
use super::{Guest, assignments, ostree};
use crate::bytes::escape;
use crate::error::Result;
use crate::fs::{FsKind, GuestPath, MountTable, SubRoot};
use crate::limits;

/// A guest's namespace as far as it could be put together.
#[derive(Debug)]
pub(super) struct Assembled<'a> {
    /// The mounted filesystems.
    pub(super) mounts: MountTable,
    /// Mountpoints, each before those below it, and the candidates mounted there.
    pub(super) mountpoints: BTreeMap<GuestPath, &'a Candidate>,
    /// Swap space.
    pub(super) swaps: Vec<&'a Candidate>,
}

/// The namespace of the guest whose root is `root`; `None` when there is no system in it after all.
pub(super) fn assemble<'a>(
    devices: &Devices<'a>,
    roles: &[Role],
    root: &'a Candidate,
    role: Role,
    notes: &Notes<'_>,
) -> Result<Option<Assembled<'a>>> {
    let Some(fs) = root.fs.clone() else { return Ok(None) };
    let physical = MountTable::with_root(&root.mountable, fs);
    let mut assembled = if role == Role::Ostree {
        let Some(assembled) = ostree_root(devices, root, &physical, notes)? else { return Ok(None) };
        assembled
    } else {
        Assembled { mounts: physical, mountpoints: BTreeMap::from([(GuestPath::root(), root)]), swaps: Vec::new() }
    };
    assembled.configured(devices, root, notes)?;
    assembled.separate_usr(devices, roles, root, notes)?;
    Ok(Some(assembled))
}

/// The default deployment with the physical root at `/sysroot` and its stateroot's `/var`.
fn ostree_root<'a>(
    devices: &Devices<'a>,
    root: &'a Candidate,
    physical: &MountTable,
    notes: &Notes<'_>,
) -> Result<Option<Assembled<'a>>> {
    let others = devices.neighbours(root).into_iter().filter(|other| other.mountable != root.mountable);
    let boots = others.filter_map(|other| Some(MountTable::with_root(&other.mountable, other.fs.clone()?)));
    let boots: Vec<MountTable> = boots.collect();
    let Some(deployment) = ostree::find(notes.guest(physical), &boots, notes)? else { return Ok(None) };

    let directory = deployment.directory;
    let fs = SubRoot::new(directory.fs.clone(), directory.inode);
    let mounts = MountTable::with_root(&root.mountable, std::sync::Arc::new(fs));
    let mut assembled =
        Assembled { mounts, mountpoints: BTreeMap::from([(GuestPath::root(), root)]), swaps: Vec::new() };
    let sysroot = GuestPath::parse("/sysroot")?;
    notes.tolerate(assembled.mounts.mount(&root.mountable, &sysroot, directory.fs))?;
    if let Some(var) = deployment.var {
        let fs = std::sync::Arc::new(SubRoot::new(var.fs, var.inode));
        notes.tolerate(assembled.mounts.mount(&root.mountable, &GuestPath::parse("/var")?, fs))?;
    }
    Ok(Some(assembled))
}

impl<'a> Assembled<'a> {
    fn guest<'g>(&'g self, notes: &Notes<'g>) -> Guest<'g> {
        notes.guest(&self.mounts)
    }

    /// Mounts `candidate` at `mountpoint` unless something is there. What cannot be mounted is noted.
    fn mount(&mut self, candidate: &'a Candidate, path: GuestPath, notes: &Notes<'_>) -> Result<()> {
        if self.mountpoints.contains_key(&path) {
            return Ok(());
        }
        if self.mountpoints.len() >= limits::INSPECT_MOUNTS {
            notes.add(format!("more than {} mountpoints: the others were left out", limits::INSPECT_MOUNTS));
            return Ok(());
        }
        match &candidate.fs {
            // The look goes on the inspection's expense and keeps an expensive path from being mounted at.
            Some(fs)
                if notes.tolerate(self.guest(notes).is_dir(&String::from_utf8_lossy(path.as_bytes())))?.is_some() =>
            {
                let mounted = self.mounts.mount(&candidate.mountable, &path, fs.clone());
                notes.tolerate(mounted.map_err(|error| error.on_device(&candidate.mountable)))?;
            }
            Some(_) => return Ok(()),
            None => notes.add(format!(
                "{} at {path} cannot be read ({})",
                candidate.mountable,
                candidate.identity.kind.name()
            )),
        }
        self.mountpoints.insert(path, candidate);
        Ok(())
    }

    /// What fstab and mount units say; discoverable partitions when they do not mount the root.
    fn configured(&mut self, devices: &Devices<'a>, root: &'a Candidate, notes: &Notes<'_>) -> Result<()> {
        let (entries, opened) = self.entries(notes)?;
        let mut wanted: BTreeMap<GuestPath, &'a Candidate> = BTreeMap::new();
        let mut has_root = false;
        for entry in entries.iter().filter(|entry| entry.is_disk()) {
            let Some(candidate) = devices.find(&entry.spec, root) else {
                has_root |= entry.file == "/";
                notes.add(unresolved(entry, &opened));
                continue;
            };
            if entry.is_swap() {
                self.add_swap(candidate);
                continue;
            }
            let Some(path) = notes.tolerate(GuestPath::parse(&entry.file))? else { continue };
            if path == GuestPath::root() {
                has_root = true;
                if candidate.mountable != root.mountable {
                    notes.add(format!("fstab mounts {} at /, inspected is {}", candidate.mountable, root.mountable));
                }
                continue;
            }
            wanted.entry(path).or_insert(candidate);
        }
        if !has_root {
            for (path, candidate) in self.discovered(devices, root, notes)? {
                wanted.entry(path).or_insert(candidate);
            }
        }
        for (path, candidate) in wanted {
            self.mount(candidate, path, notes)?;
        }
        Ok(())
    }

    fn entries(&self, notes: &Notes<'_>) -> Result<(Vec<Entry>, Vec<Opened>)> {
        let reader = Reader::new(self.guest(notes), notes)?;
        let text = |path: &str| -> Result<String> { Ok(reader.text(path)?.map(|text| text.value).unwrap_or_default()) };
        let mut entries = fstab::parse(&text("/etc/fstab")?);
        let units = reader.names("/etc/systemd/system")?;
        for unit in units.iter().filter(|name| name.ends_with(".mount")).take(limits::INSPECT_MOUNTS) {
            entries.extend(fstab::parse_mount_unit(&text(&format!("/etc/systemd/system/{unit}"))?));
        }
        let opened = fstab::parse_crypttab(&text("/etc/crypttab")?);
        Ok((entries, opened))
    }

    fn add_swap(&mut self, candidate: &'a Candidate) {
        if !self.swaps.iter().any(|swap| swap.mountable == candidate.mountable) {
            self.swaps.push(candidate);
        }
    }

    /// Partitions on the root's disk by their types, and CoreOS's `/boot` by its label.
    fn discovered(
        &mut self,
        devices: &Devices<'a>,
        root: &'a Candidate,
        notes: &Notes<'_>,
    ) -> Result<Vec<(GuestPath, &'a Candidate)>> {
        if root.disk().is_none() {
            return Ok(Vec::new());
        }
        let neighbours = devices.neighbours(root);
        let is_boot = |candidate: &Candidate| {
            candidate.purpose() == Some(Purpose::Xbootldr) || candidate.identity.label.as_deref() == Some("boot")
        };
        let has_boot = neighbours.iter().any(|candidate| is_boot(candidate));
        let mut found = Vec::new();
        for candidate in neighbours {
            if candidate.purpose() == Some(Purpose::Swap) && candidate.identity.kind == FsKind::Swap {
                self.add_swap(candidate);
            }
            let mountpoints = match candidate.purpose() {
                _ if is_boot(candidate) => Purpose::Xbootldr.mountpoints(),
                Some(purpose) => purpose.mountpoints(),
                None => continue,
            };
            for mountpoint in mountpoints {
                let is_taken = *mountpoint == "/boot" && has_boot && !is_boot(candidate);
                if !is_taken && notes.tolerate(self.guest(notes).is_dir(mountpoint))? == Some(true) {
                    found.push((GuestPath::parse(mountpoint)?, candidate));
                    break;
                }
            }
        }
        Ok(found)
    }

    /// When the root has no `/usr` after all, the `/usr` of the highest version that no one names (Container Linux keeps
    /// two, one for the next update).
    fn separate_usr(
        &mut self,
        devices: &Devices<'a>,
        roles: &[Role],
        root: &Candidate,
        notes: &Notes<'_>,
    ) -> Result<()> {
        let usr = GuestPath::parse("/usr")?;
        let guest = self.guest(notes);
        if self.mountpoints.contains_key(&usr) || guest.is_dir("/usr/bin")? || !guest.is_dir("/usr")? {
            return Ok(());
        }
        let mut best: Option<(String, &'a Candidate)> = None;
        for (candidate, role) in devices.candidates().iter().zip(roles) {
            let Some(fs) = candidate.fs.clone().filter(|_| *role == Role::Usr && candidate.disk() == root.disk())
            else {
                continue;
            };
            let table = MountTable::with_root(&candidate.mountable, fs);
            let text = notes.tolerate(notes.guest(&table).read_text("/lib/os-release"))?.flatten().unwrap_or_default();
            let version = assignments::find(&text, "VERSION_ID").unwrap_or_default();
            if best.as_ref().is_none_or(|(highest, _)| natural_order(highest, &version).is_lt()) {
                best = Some((version, candidate));
            }
        }
        best.map_or(Ok(()), |(_, candidate)| self.mount(candidate, usr, notes))
    }
}

fn unresolved(entry: &Entry, opened: &[Opened]) -> String {
    let name = entry.spec.strip_prefix("/dev/mapper/");
    let encrypted = name.and_then(|name| opened.iter().find(|opened| opened.name == name));
    let (spec, file) = (escape(entry.spec.as_bytes()), escape(entry.file.as_bytes()));
    match encrypted {
        Some(opened) => format!("fstab: {spec} for {file} is encrypted on {}", escape(opened.source.as_bytes())),
        None => format!("fstab: {spec} for {file} is not in this image"),
    }
}
