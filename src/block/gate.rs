//! Who may open a file that an image names: backing files, external data files, VMDK extents.
//!
//! An image is data from a stranger. Were it allowed to name host files, a 512-byte header could hand out the host's
//! password file (CVE-2024-32498, CVE-2022-47951). So no format driver opens a path: each builds a [`Reference`] and asks
//! the [`OpenGate`] that the caller has chosen. The default, [`DenyAll`], refuses. A gate decides and opens in one step,
//! beneath a directory descriptor where the kernel can do that (openat2(2), `RESOLVE_BENEATH`), so that a path cannot
//! be swapped between the check and the use.

use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::probe::ImageFormat;
use crate::bytes::escape;
use crate::error::{Error, Result};

/// What role a named file plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReferenceKind {
    /// What is not in the image is in its backing file (qcow2) or parent (VMDK).
    Backing,
    /// All guest data of a qcow2 image lies there.
    DataFile,
    /// One part of a VMDK.
    Extent,
}

/// A file that an image names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// Its role.
    pub kind: ReferenceKind,
    /// The name's bytes as they stand in the image: a path, absolute or relative to the image's directory.
    pub name: Vec<u8>,
    /// The format that the image states for it; `None` lets it be probed.
    pub format: Option<ImageFormat>,
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            ReferenceKind::Backing => "backing file",
            ReferenceKind::DataFile => "data file",
            ReferenceKind::Extent => "extent file",
        };
        write!(f, "{kind} '{}'", escape(&self.name))
    }
}

/// A file that a gate has let in.
#[derive(Debug)]
pub struct Gated {
    /// Open for reading, a regular file.
    pub file: File,
    /// Where it was found; names it in messages, and references of its own are relative to this.
    pub path: PathBuf,
}

/// Decides whether an image may open another file it names, and opens it.
pub trait OpenGate: Send + Sync + fmt::Debug {
    /// Opens the file that `image` calls `reference`, or refuses with [`ErrorKind::Denied`](crate::ErrorKind).
    fn open(&self, image: &Path, reference: &Reference) -> Result<Gated>;

    /// What it decides by, if that can be told to another process.
    fn policy(&self) -> Option<GatePolicy> {
        None
    }
}

/// What a gate decides by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GatePolicy {
    /// As [`DenyAll`].
    Nothing,
    /// As [`SameDirectory`].
    SameDirectory,
    /// As [`AllowDirectories`], with these.
    Directories(Vec<PathBuf>),
}

/// Refuses everything: the default.
#[derive(Debug, Clone, Copy, Default)]
pub struct DenyAll;

impl OpenGate for DenyAll {
    fn policy(&self) -> Option<GatePolicy> {
        Some(GatePolicy::Nothing)
    }

    fn open(&self, _image: &Path, reference: &Reference) -> Result<Gated> {
        Err(denied(reference, "no file that an image names is opened by default")
            .with_hint("if you trust the image, allow the directory of that file (--allow-backing DIR)"))
    }
}

/// Lets in what lies in the directory of the naming image itself, and nothing below or above it.
#[derive(Debug, Clone, Copy, Default)]
pub struct SameDirectory;

impl OpenGate for SameDirectory {
    fn policy(&self) -> Option<GatePolicy> {
        Some(GatePolicy::SameDirectory)
    }

    fn open(&self, image: &Path, reference: &Reference) -> Result<Gated> {
        let path = local_path(image, reference)?;
        let (directory, name) = (directory_of(image), path.file_name());
        match name {
            Some(name) if directory_of(&path) == directory => open_beneath(&directory, Path::new(name), reference),
            _ => Err(denied(reference, "it is not in the image's own directory")
                .with_hint("allow its directory (--allow-backing DIR)")),
        }
    }
}

/// Lets in what lies in or below one of these directories.
#[derive(Debug, Clone, Default)]
pub struct AllowDirectories {
    directories: Vec<PathBuf>,
}

impl AllowDirectories {
    /// Each directory must exist; its symbolic links are resolved now, once.
    pub fn new(directories: impl IntoIterator<Item = PathBuf>) -> Result<Self> {
        let resolve =
            |path: PathBuf| path.canonicalize().map_err(|error| Error::io("find the directory", path.display(), error));
        Ok(Self { directories: directories.into_iter().map(resolve).collect::<Result<_>>()? })
    }
}

impl OpenGate for AllowDirectories {
    fn policy(&self) -> Option<GatePolicy> {
        Some(GatePolicy::Directories(self.directories.clone()))
    }

    fn open(&self, image: &Path, reference: &Reference) -> Result<Gated> {
        let path = local_path(image, reference)?;
        // Only the directory part is resolved: the last component is opened without following a link out of it.
        let parent = directory_of(&path);
        let resolved =
            parent.canonicalize().map_err(|error| Error::io("find the directory", parent.display(), error))?;
        let path = resolved.join(path.file_name().unwrap_or_default());
        for directory in &self.directories {
            if let Ok(below) = path.strip_prefix(directory) {
                return open_beneath(directory, below, reference);
            }
        }
        Err(denied(reference, "it is outside the allowed directories")
            .with_hint("allow its directory (--allow-backing DIR)"))
    }
}

fn denied(reference: &Reference, why: &str) -> Error {
    Error::denied(format!("the image names the {reference}; {why}"))
}

/// The named path, seen from the image's directory. Anything but a plain path (`json:`, `nbd:`, an URI) is refused here:
/// only local files are ever opened on an image's word.
fn local_path(image: &Path, reference: &Reference) -> Result<PathBuf> {
    let name = reference.name.strip_prefix(b"file:").unwrap_or(&reference.name);
    let scheme = name.split(|&byte| byte == b'/').next().unwrap_or_default();
    if scheme.contains(&b':') {
        return Err(denied(reference, "only plain paths are followed"));
    }
    if name.is_empty() || name.contains(&0) {
        return Err(denied(reference, "that is no file name"));
    }
    Ok(directory_of(image).join(OsStr::from_bytes(name)))
}

/// The directory part, `.` for a bare name.
fn directory_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Opens `below` without leaving `directory`, whatever links lie on the way. Only regular files are let in: a device or
/// a FIFO could block or have effects.
fn open_beneath(directory: &Path, below: &Path, reference: &Reference) -> Result<Gated> {
    let path = directory.join(below);
    let fail = |errno: rustix::io::Errno| match errno {
        rustix::io::Errno::XDEV | rustix::io::Errno::LOOP => {
            denied(reference, "its path leads out of the allowed directory")
        }
        errno => Error::io("open", format!("{} ({reference})", path.display()), errno),
    };
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let top =
        rustix::fs::open(directory, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(fail)?;
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let descriptor = match rustix::fs::openat2(&top, below, flags, Mode::empty(), beneath) {
        // Blocked or missing in some containers: walk by hand, following no link at all.
        Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) => {
            let mut at = top;
            let mut parts = below.components().peekable();
            while let Some(part) = parts.next() {
                let Component::Normal(name) = part else {
                    return Err(denied(reference, "its path leads out of the allowed directory"));
                };
                let last = parts.peek().is_none();
                let part_flags = if last { flags } else { OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC };
                at = rustix::fs::openat(&at, name, part_flags | OFlags::NOFOLLOW, Mode::empty()).map_err(fail)?;
            }
            at
        }
        result => result.map_err(fail)?,
    };
    let file = File::from(descriptor);
    let metadata = file.metadata().map_err(|error| Error::io("stat", path.display(), error))?;
    if !metadata.is_file() {
        return Err(denied(reference, "it is not a regular file"));
    }
    Ok(Gated { file, path })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference(name: &str) -> Reference {
        Reference { kind: ReferenceKind::Backing, name: name.into(), format: None }
    }

    #[test]
    fn gates_let_in_what_they_say_and_nothing_else() {
        let top = tempfile::tempdir().unwrap();
        let dir = top.path().join("images");
        std::fs::create_dir_all(dir.join("sub")).unwrap();
        for name in ["base", "sub/deep"] {
            std::fs::write(dir.join(name), b"x").unwrap();
        }
        std::fs::write(top.path().join("secret"), b"secret").unwrap();
        std::os::unix::fs::symlink("../secret", dir.join("link")).unwrap();
        let image = dir.join("top.qcow2");

        let denied =
            |gate: &dyn OpenGate, name: &str| gate.open(&image, &reference(name)).unwrap_err().exit_code() == 5;
        assert!(denied(&DenyAll, "base"));

        SameDirectory.open(&image, &reference("base")).unwrap();
        SameDirectory.open(&image, &reference("file:base")).unwrap();
        for name in ["sub/deep", "../secret", "link", "json:{}", "nbd://localhost", "", "file:/etc/passwd", ".."] {
            assert!(denied(&SameDirectory, name), "{name}");
        }

        let allowed = AllowDirectories::new([dir.clone()]).unwrap();
        allowed.open(&image, &reference("sub/deep")).unwrap();
        allowed.open(&image, &reference(dir.join("base").to_str().unwrap())).unwrap();
        for name in ["../secret", "link", "/etc/passwd", "sub/../../secret"] {
            assert!(denied(&allowed, name), "{name}");
        }
    }
}
