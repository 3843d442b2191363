//! dpkg's status database (deb): `/var/lib/dpkg/status`, and `/var/lib/dpkg/status.d/*` in images made without dpkg.
//!
//! Text in the manner of deb822(5), one stanza for each package that dpkg knows:
//!
//! | field | becomes |
//! |---|---|
//! | `Package` | name; required |
//! | `Status` | three words; the third is `installed` for what is listed here, all others are left out |
//! | `Version` | `[epoch:]upstream[-revision]`: the first `:` and the last `-` separate (deb-version(7)); required |
//! | `Architecture`, `Maintainer`, `Homepage` | arch, publisher, url |
//! | `Source` | source package, its version in brackets cut off |
//! | `Installed-Size` | installed size, in units of 1024 bytes |
//! | `Description` | the first line is the summary, the continuation lines are the description |
//!
//! A line that begins with a blank continues the field before it. In a description that first blank is cut and a line
//! with nothing but `.` is an empty one (Debian Policy 5.6.13). Field names have no case. A NUL byte means that the file
//! was damaged: that stanza is left out.
//!
//! `/var/lib/dpkg/updates/` holds stanzas that dpkg had written but not yet merged when it was interrupted; they
//! supersede the status file's, as they do in dpkg.

use std::collections::BTreeMap;

use super::stanza::{self, Lines};
use super::{Gathered, Package, Source, decimal, plain, text};
use crate::block::{BlockDevice, Memory};
use crate::bytes::to_u64;
use crate::error::{Error, Result};
use crate::limits;

const FORMAT: &str = "dpkg status";

/// Where dpkg keeps what it has not merged yet: files with a number for a name.
const UPDATES: &str = "/var/lib/dpkg/updates";

/// What a stanza without a `Status` field is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoStatus {
    /// Known, not installed: in dpkg's own database.
    NotInstalled,
    /// Installed: where only installed packages are written down.
    Installed,
}

/// Gathers the installed packages of a status file, read in parts.
///
/// # Errors
///
/// What reading `file` fails with, and [`Limit`](crate::ErrorKind::Limit) for one that is too long.
pub fn read(file: &dyn BlockDevice, no_status: NoStatus, gathered: &mut Gathered) -> Result<()> {
    stanza::for_each(file, gathered, &mut |stanza, offset, gathered| {
        Stanza::parse(stanza, offset)?.package(no_status)?.map_or(Ok(()), |package| gathered.add(package))
    })
}

/// `/var/lib/dpkg/status` and what is to be merged into it.
pub(super) fn read_status(source: &Source<'_>, gathered: &mut Gathered) -> Result<()> {
    read(&source.open()?, NoStatus::NotInstalled, gathered)?;
    let updates = read_updates(source, gathered)?;
    if !updates.is_empty() {
        gathered.packages_mut().retain(|package| !updates.contains_key(&key(&package.name, &package.arch)));
        updates.into_values().flatten().try_for_each(|package| gathered.add(package))?;
    }
    Ok(())
}

/// The unmerged stanzas, the last one of each package; `None` for one that is no longer installed.
fn read_updates(source: &Source<'_>, gathered: &mut Gathered) -> Result<BTreeMap<String, Option<Package>>> {
    let mut updates = BTreeMap::new();
    let mut names = source.guest.list(UPDATES)?;
    names.retain(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
    for name in names {
        let Some(bytes) = source.guest.read(&format!("{UPDATES}/{name}"))? else { continue };
        stanza::for_each(&Memory::new(bytes), gathered, &mut |stanza, offset, _| {
            let stanza = Stanza::parse(stanza, offset)?;
            let name = text(stanza.package).ok_or_else(|| stanza.missing("Package"))?;
            let arch = text(stanza.architecture).unwrap_or_default();
            updates.insert(key(&name, &arch), stanza.package(NoStatus::NotInstalled)?);
            Ok(())
        })?;
    }
    Ok(updates)
}

fn key(name: &str, arch: &str) -> String {
    format!("{name}:{arch}")
}

/// The files of `/var/lib/dpkg/status.d`, each a package's control file; checksums lie beside them.
pub(super) fn read_status_d(source: &Source<'_>, gathered: &mut Gathered) -> Result<()> {
    let names = source.guest.list(source.path)?;
    limits::check("files of a package database", to_u64(names.len()), limits::PACKAGE_FILES)?;
    for name in names.iter().filter(|name| !name.ends_with(".md5sums")) {
        let outcome = source.guest.read(&format!("{}/{name}", source.path));
        let outcome = outcome.and_then(|bytes| match bytes {
            Some(bytes) => read(&Memory::new(bytes), NoStatus::Installed, gathered),
            None => Ok(()),
        });
        gathered.tolerate(outcome)?;
    }
    Ok(())
}

/// The fields of a stanza that are of use, as they stand there; empty when missing.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Stanza<'a> {
    offset: u64,
    package: &'a [u8],
    status: &'a [u8],
    version: &'a [u8],
    architecture: &'a [u8],
    maintainer: &'a [u8],
    homepage: &'a [u8],
    source: &'a [u8],
    installed_size: &'a [u8],
    /// The first line of `Description`.
    summary: &'a [u8],
    /// Its other lines, still folded.
    description: &'a [u8],
}

impl<'a> Stanza<'a> {
    fn parse(bytes: &'a [u8], offset: u64) -> Result<Self> {
        if bytes.contains(&0) {
            return Err(Error::corrupt(FORMAT, "field", offset, "a NUL byte in the stanza", "text"));
        }
        let mut stanza = Self { offset, ..Self::default() };
        let mut lines = Lines(bytes);
        while let Some(line) = lines.next() {
            if is_continuation(line) {
                continue;
            }
            let mut parts = line.splitn(2, |&byte| byte == b':');
            let (Some(name), Some(value)) = (parts.next(), parts.next()) else { continue };
            if let Some(field) = stanza.field(name) {
                *field = value;
            } else if name.eq_ignore_ascii_case(b"Description") {
                stanza.summary = value;
                stanza.description = continuation(&mut lines);
            }
        }
        Ok(stanza)
    }

    /// The place for the field `name`; `None` for one that is of no use, a continuation line, or `Description`.
    fn field(&mut self, name: &[u8]) -> Option<&mut &'a [u8]> {
        let is = |field: &str| name.eq_ignore_ascii_case(field.as_bytes());
        Some(match name.len() {
            7 if is("Package") => &mut self.package,
            7 if is("Version") => &mut self.version,
            6 if is("Status") => &mut self.status,
            6 if is("Source") => &mut self.source,
            8 if is("Homepage") => &mut self.homepage,
            10 if is("Maintainer") => &mut self.maintainer,
            12 if is("Architecture") => &mut self.architecture,
            14 if is("Installed-Size") => &mut self.installed_size,
            _ => return None,
        })
    }

    fn is_installed(&self, no_status: NoStatus) -> bool {
        let mut words = self.status.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
        match words.nth(2) {
            Some(state) => state == b"installed",
            None => self.status.is_empty() && no_status == NoStatus::Installed,
        }
    }

    /// The package, when it is installed.
    fn package(&self, no_status: NoStatus) -> Result<Option<Package>> {
        let name = text(self.package).ok_or_else(|| self.missing("Package"))?;
        if !self.is_installed(no_status) {
            return Ok(None);
        }
        let (epoch, version, release) = self.version()?;
        let source = self.source.split(|&byte| byte == b'(').next().unwrap_or_default();
        Ok(Some(Package {
            name,
            epoch,
            version,
            release,
            arch: text(self.architecture).unwrap_or_default(),
            publisher: text(self.maintainer),
            url: text(self.homepage),
            source_package: text(source),
            summary: plain(self.summary.trim_ascii_start()),
            description: unfold(self.description),
            installed_size: decimal(self.installed_size.trim_ascii()).and_then(|kib| kib.checked_mul(1_024)),
            ..Package::default()
        }))
    }

    /// `[epoch:]upstream[-revision]` in its three parts.
    fn version(&self) -> Result<(u32, String, String)> {
        let all = text(self.version).ok_or_else(|| self.missing("Version"))?;
        let (epoch, rest) = match all.split_once(':') {
            Some((epoch, rest)) => (epoch.parse().map_err(|_| self.bad_epoch(epoch))?, rest),
            None => (0, all.as_str()),
        };
        let (version, release) = rest.rsplit_once('-').unwrap_or((rest, ""));
        Ok((epoch, version.to_owned(), release.to_owned()))
    }

    fn missing(&self, field: &'static str) -> Error {
        Error::corrupt(FORMAT, field, self.offset, "no such field", "one in every stanza")
    }

    fn bad_epoch(&self, epoch: &str) -> Error {
        let found = crate::bytes::escape(epoch.as_bytes());
        Error::corrupt(FORMAT, "Version", self.offset, format!("the epoch '{found}'"), "a number")
    }
}

fn is_continuation(line: &[u8]) -> bool {
    matches!(line.first(), Some(b' ' | b'\t'))
}

/// Takes the continuation lines that come next.
fn continuation<'a>(lines: &mut Lines<'a>) -> &'a [u8] {
    let folded = lines.0;
    while is_continuation(lines.0) {
        lines.next();
    }
    folded.get(..folded.len().saturating_sub(lines.0.len())).unwrap_or_default()
}

/// Continuation lines as text: without the blank each begins with, and with `.` for an empty line.
fn unfold(folded: &[u8]) -> Option<String> {
    let mut unfolded = Vec::with_capacity(folded.len());
    for line in Lines(folded) {
        match line.get(1..).unwrap_or_default() {
            b"." => {}
            line => unfolded.extend_from_slice(line),
        }
        unfolded.push(b'\n');
    }
    unfolded.strip_suffix(b"\n").and_then(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::packages::PackageFormat;

    fn list(text: &str) -> (Vec<Package>, Vec<String>) {
        let mut gathered = Gathered::default();
        let outcome = read(&Memory::new(text.as_bytes().to_vec()), NoStatus::NotInstalled, &mut gathered);
        let list = gathered.finish(PackageFormat::Deb, "/status".to_owned(), outcome).unwrap();
        (list.packages, list.notes)
    }

    #[test]
    fn a_stanza_becomes_a_package() {
        let (packages, notes) = list(concat!(
            "Package: libexample-dev\n",
            "Status: install ok installed\n",
            "Priority: optional\n",
            "Installed-Size: 42\n",
            "Maintainer: The Maintainers <team@example.org>\n",
            "Architecture: amd64\n",
            "Multi-Arch: same\n",
            "Source: example (1.0-1)\n",
            "Version: 2:1.0-rc1-1+b2\n",
            "Conffiles:\n",
            " /etc/example 0123456789abcdef\n",
            "Description: headers of: example\n",
            " First line.\n",
            " .\n",
            "  * a list\n",
            "Homepage: https://example.org/\n",
        ));
        let expected = Package {
            name: "libexample-dev".to_owned(),
            epoch: 2,
            version: "1.0-rc1".to_owned(),
            release: "1+b2".to_owned(),
            arch: "amd64".to_owned(),
            publisher: Some("The Maintainers <team@example.org>".to_owned()),
            url: Some("https://example.org/".to_owned()),
            source_package: Some("example".to_owned()),
            summary: Some("headers of: example".to_owned()),
            description: Some("First line.\n\n * a list".to_owned()),
            installed_size: Some(43_008),
            ..Package::default()
        };
        assert_eq!((packages, notes), (vec![expected], Vec::new()));
    }

    #[test]
    fn only_what_is_installed_is_listed() {
        let states = [
            ("install ok installed", true),
            ("hold ok installed", true),
            ("deinstall ok config-files", false),
            ("install ok half-installed", false),
            ("install ok unpacked", false),
            ("purge ok not-installed", false),
            ("install ok triggers-pending", false),
            ("", false),
        ];
        for (state, installed) in states {
            let (packages, notes) = list(&format!("Package: x\nStatus: {state}\nVersion: 1\n\n"));
            assert_eq!((packages.len(), notes.len()), (usize::from(installed), 0), "{state}");
        }
    }

    #[test]
    fn a_damaged_stanza_is_noted_and_the_others_are_read() {
        let good = "Package: good\nStatus: install ok installed\nVersion: 1\n\n";
        for (bad, note) in [
            ("Status: install ok installed\nVersion: 1\n\n", "Package"),
            ("Package: x\nStatus: install ok installed\n\n", "Version"),
            ("Package: x\nStatus: install ok installed\nVersion: a:1\n\n", "Version"),
            ("Package: x\nStatus: install ok installed\nVer\0sion: 1\n\n", "field"),
            ("junk\n\n", "Package"),
        ] {
            let (packages, notes) = list(&format!("{bad}{good}"));
            assert_eq!(packages.len(), 1, "{bad}");
            assert_eq!(notes.len(), 1, "{bad}");
            assert!(notes[0].contains(note), "{}", notes[0]);
        }
    }
}
