//! Installed packages, read from the package manager's own database inside the guest.
//!
//! | format | database | file |
//! |---|---|---|
//! | deb | `/var/lib/dpkg/status`, `/var/lib/dpkg/status.d/` (images without dpkg) | [`dpkg`] |
//! | rpm | `rpmdb.sqlite`, `Packages.db` (ndb) or `Packages` (Berkeley DB) in one of three directories | [`rpm`] |
//! | apk | `/lib/apk/db/installed` | [`apk`] |
//! | pacman | `/var/lib/pacman/local/*/desc` | [`pacman`] |
//!
//! Fields mean what they mean in libguestfs's `inspect_list_applications2`. A damaged record is left out and noted, a
//! damaged database yields what could be read and a note: inspection of a guest does not fail for one of its files.

pub mod apk;
pub mod dpkg;
mod gathered;
mod order;
pub mod pacman;
pub mod rpm;
mod stanza;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use PackageFormat::{Apk, Deb, Pacman, Rpm};
pub use gathered::Gathered;
pub use order::version_order;

use super::Guest;
use crate::block::BlockDevice;
use crate::error::{Error, ErrorKind, Result};
use crate::fs::{FileType, Location};

/// One installed package. Texts are the guest's: invalid UTF-8 is replaced, control characters are not.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Package {
    /// Its name: `bash`, `libc6`.
    pub name: String,
    /// The name shown to people, where it is another (Windows).
    pub display_name: Option<String>,
    /// Compared before the version; 0 when there is none.
    pub epoch: u32,
    /// The upstream version, without epoch and release.
    pub version: String,
    /// The packager's revision of that version: `150400.6.1`, `2+deb12u1`, `r4`; empty when there is none.
    pub release: String,
    /// In the package manager's word: `amd64`, `x86_64`, `noarch`, `all`; empty when there is none.
    pub arch: String,
    /// Where it is installed, when that is one place (Windows).
    pub install_path: Option<String>,
    /// The vendor (rpm), maintainer (deb, apk) or packager (pacman).
    pub publisher: Option<String>,
    /// Its home page.
    pub url: Option<String>,
    /// The name of the source package; `None` in deb when it is the package's own.
    pub source_package: Option<String>,
    /// One line that says what it is (deb, rpm).
    pub summary: Option<String>,
    /// What it is at length; in apk and pacman, whose packages have but one line, that line.
    pub description: Option<String>,
    /// Bytes it takes when installed, as the packager counted them.
    pub installed_size: Option<u64>,
}

/// A package manager's format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum PackageFormat {
    /// Debian, Ubuntu and their kin.
    Deb,
    /// Fedora, RHEL, SUSE and their kin.
    Rpm,
    /// Alpine, Wolfi.
    Apk,
    /// Arch Linux and its kin.
    Pacman,
}

impl PackageFormat {
    /// libguestfs's word for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Deb => "deb",
            Self::Rpm => "rpm",
            Self::Apk => "apk",
            Self::Pacman => "pacman",
        }
    }
}

/// What one package database holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackageList {
    /// The package manager's format.
    pub format: PackageFormat,
    /// The guest path of the database that was read.
    pub source: String,
    /// The installed packages, sorted by name.
    pub packages: Vec<Package>,
    /// What could not be read, in sentences for the user; empty when the list is complete.
    pub notes: Vec<String>,
}

/// Reads a database.
type Read = fn(&Source<'_>, &mut Gathered) -> Result<()>;

/// A database that is there.
struct Source<'a> {
    guest: &'a Guest<'a>,
    path: &'a str,
    location: Location,
}

impl Source<'_> {
    /// The database file, to be read in parts.
    fn open(&self) -> Result<Arc<dyn BlockDevice>> {
        self.location.fs.open(self.location.inode)
    }
}

/// A place where a package manager keeps its database: by one of these names, the newest kind first.
struct Place {
    format: PackageFormat,
    directory: &'static str,
    file_type: FileType,
    names: &'static [(&'static str, Read)],
}

const RPM: &[(&str, Read)] =
    &[("rpmdb.sqlite", rpm::read_sqlite), ("Packages.db", rpm::read_ndb), ("Packages", rpm::read_bdb)];
const APK: &[(&str, Read)] = &[("installed", apk::read_installed)];

#[rustfmt::skip]
const PLACES: &[Place] = &[
    Place { format: Deb, directory: "/var/lib/dpkg", file_type: FileType::File, names: &[("status", dpkg::read_status)] },
    Place { format: Deb, directory: "/var/lib/dpkg", file_type: FileType::Dir, names: &[("status.d", dpkg::read_status_d)] },
    Place { format: Rpm, directory: "/usr/lib/sysimage/rpm", file_type: FileType::File, names: RPM },
    Place { format: Rpm, directory: "/var/lib/rpm", file_type: FileType::File, names: RPM },
    Place { format: Rpm, directory: "/usr/share/rpm", file_type: FileType::File, names: RPM },
    Place { format: Apk, directory: "/lib/apk/db", file_type: FileType::File, names: APK },
    Place { format: Apk, directory: "/usr/lib/apk/db", file_type: FileType::File, names: APK },
    Place { format: Pacman, directory: "/var/lib/pacman", file_type: FileType::Dir, names: &[("local", pacman::read_local)] },
];

/// The packages of every package database in `guest`, one list for each database; empty when there is none.
///
/// Where one package manager has left databases of two kinds in one directory, as a conversion does, the newer kind is
/// read and the other is noted.
///
/// # Errors
///
/// Only what the guest is not to blame for: the host's reading errors. Damage inside the guest ends up in
/// [`PackageList::notes`].
pub fn packages(guest: &Guest<'_>) -> Result<Vec<PackageList>> {
    // Distributions link these directories to one another: what was read under one name is not read again.
    let mut seen = Vec::new();
    let mut lists = Vec::new();
    for place in PLACES {
        let mut found: Option<PackageList> = None;
        for (name, read) in place.names {
            let path = format!("{}/{name}", place.directory);
            let location = find(guest, &path, place.file_type);
            if let Ok(location) = &location {
                match location.as_ref().map(|location| (location.mount, location.inode)) {
                    Some(inode) if !seen.contains(&inode) => seen.push(inode),
                    _ => continue,
                }
            }
            if let Some(list) = &mut found {
                match location {
                    Ok(_) => list.notes.push(format!("{path} is there too and was not read")),
                    Err(error) if is_guest_fault(&error) => list.notes.push(error.to_string()),
                    Err(error) => return Err(error),
                }
                continue;
            }
            let mut gathered = Gathered::default();
            let outcome = location.and_then(|location| match location {
                Some(location) => read(&Source { guest, path: &path, location }, &mut gathered),
                None => Ok(()),
            });
            found = Some(gathered.finish(place.format, path, outcome)?);
        }
        lists.extend(found);
    }
    Ok(lists)
}

/// Where `path` leads, when that is a `file_type`.
fn find(guest: &Guest<'_>, path: &str, file_type: FileType) -> Result<Option<Location>> {
    match guest.locate(path)? {
        Some(location) if location.metadata()?.file_type == file_type => Ok(Some(location)),
        _ => Ok(None),
    }
}

/// Whether the guest's bytes are to blame, and not the host or the caller.
fn is_guest_fault(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Corrupt(_) | ErrorKind::Limit { .. } | ErrorKind::Unsupported { .. } | ErrorKind::Path { .. }
    )
}

/// Guest text as it is; `None` when there is nothing.
fn plain(bytes: &[u8]) -> Option<String> {
    (!bytes.is_empty()).then(|| lossy(bytes))
}

/// Bytes as text, what is not UTF-8 replaced.
fn lossy(bytes: &[u8]) -> String {
    // The common case, for which the standard library has a much faster check.
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => String::from_utf8_lossy(bytes).into_owned(),
    }
}

/// Guest text without outer blanks; `None` when nothing is left.
fn text(bytes: &[u8]) -> Option<String> {
    plain(bytes.trim_ascii())
}

/// A decimal number, nothing before or after it.
fn decimal(bytes: &[u8]) -> Option<u64> {
    bytes.first()?.is_ascii_digit().then(|| std::str::from_utf8(bytes).ok()?.parse().ok())?
}
