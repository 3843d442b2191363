//! pacman's local database: `/var/lib/pacman/local/<name>-<version>/desc`, one file for each package.
//!
//! Text: a line `%KEY%`, the values on the lines below it, an empty line.
//!
//! | key | becomes |
//! |---|---|
//! | `%NAME%` | name; required |
//! | `%VERSION%` | `[epoch:]version-release`; required |
//! | `%ARCH%`, `%PACKAGER%`, `%URL%` | arch, publisher, url |
//! | `%BASE%` | source package |
//! | `%DESC%` | description |
//! | `%SIZE%` (`%ISIZE%` before pacman 4) | installed size in bytes |

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::str::FromStr;

use super::stanza::Lines;
use super::{Gathered, Package, Source, decimal, text};
use crate::block::read_vec;
use crate::bytes::{escape, to_u64, to_usize};
use crate::error::{Error, Result};
use crate::fs::{FileType, Filesystem, Inode};
use crate::limits;

const FORMAT: &str = "pacman desc";

pub(super) fn read_local(source: &Source<'_>, gathered: &mut Gathered) -> Result<()> {
    let (fs, local) = (&*source.location.fs, source.location.inode);
    let mut directories = Vec::new();
    fs.read_dir(local, &mut |entry| {
        directories.push((entry.name, entry.inode));
        let count = to_u64(directories.len());
        limits::check("files of a package database", count, limits::PACKAGE_FILES)?;
        Ok(ControlFlow::Continue(()))
    })?;
    directories.sort_unstable();
    let mut left = limits::PACKAGE_TEXT_BYTES;
    let mut seen = HashSet::new();
    for (name, directory) in directories {
        let outcome = if seen.insert(directory) {
            read_desc(fs, directory, &mut left, gathered)
        } else {
            let found = format!("a second entry for inode {directory}");
            Err(Error::corrupt(FORMAT, "directory entry", 0, found, "a directory of its own for each package"))
        };
        gathered.tolerate(outcome.map_err(|error| error.at_path(&name)))?;
    }
    Ok(())
}

/// Adds the package of one directory; what is no directory or has no `desc` is none (`ALPM_DB_VERSION`).
fn read_desc(fs: &dyn Filesystem, directory: Inode, left: &mut u64, gathered: &mut Gathered) -> Result<()> {
    if fs.metadata(directory)?.file_type != FileType::Dir {
        return Ok(());
    }
    let Some(desc) = fs.lookup(directory, b"desc")? else { return Ok(()) };
    if fs.metadata(desc)?.file_type != FileType::File {
        return Ok(());
    }
    let file = fs.open(desc)?;
    let size = limits::check("bytes of an inspected file", file.size(), limits::INSPECT_FILE_BYTES)?;
    gathered.charge(size)?;
    *left = match left.checked_sub(size) {
        Some(left) => left,
        None => return Err(gathered.exhaust("bytes of a text package database", limits::PACKAGE_TEXT_BYTES)),
    };
    gathered.add(parse(&read_vec(&file, 0, to_usize(size))?)?)
}

/// The package that a `desc` file describes.
///
/// # Errors
///
/// [`Corrupt`](crate::ErrorKind::Corrupt) without a name or version.
pub fn parse(desc: &[u8]) -> Result<Package> {
    let mut package = Package::default();
    let mut lines = Lines(desc);
    while let Some(key) = lines.next() {
        if !matches!(key, [b'%', .., b'%']) {
            continue;
        }
        let Some(value) = lines.next() else { break };
        match key {
            b"%NAME%" => package.name = text(value).unwrap_or_default(),
            b"%VERSION%" => (package.epoch, package.version, package.release) = version(value)?,
            b"%ARCH%" => package.arch = text(value).unwrap_or_default(),
            b"%PACKAGER%" => package.publisher = text(value),
            b"%URL%" => package.url = text(value),
            b"%BASE%" => package.source_package = text(value),
            b"%DESC%" => package.description = text(value),
            b"%SIZE%" | b"%ISIZE%" => package.installed_size = decimal(value),
            _ => {}
        }
    }
    for (field, value) in [("%NAME%", &package.name), ("%VERSION%", &package.version)] {
        if value.is_empty() {
            return Err(Error::corrupt(FORMAT, field, 0, "no such key", "one in every file"));
        }
    }
    Ok(package)
}

/// `[epoch:]version-release` in its three parts.
fn version(value: &[u8]) -> Result<(u32, String, String)> {
    let all = text(value).unwrap_or_default();
    let parts = || {
        let (epoch, rest) = all.split_once(':').unwrap_or(("0", &all));
        let (version, release) = rest.rsplit_once('-')?;
        Some((u32::from_str(epoch).ok()?, version.to_owned(), release.to_owned()))
    };
    parts().ok_or_else(|| Error::corrupt(FORMAT, "%VERSION%", 0, escape(value), "[epoch:]version-release"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_desc_file_becomes_a_package() {
        let desc = concat!(
            "%NAME%\nbash\n\n%VERSION%\n1:5.2.037-1\n\n%BASE%\nbash-base\n\n%DESC%\nThe GNU shell\n\n",
            "%URL%\nhttps://example.org/bash\n\n%ARCH%\nx86_64\n\n%BUILDDATE%\n1700000000\n\n",
            "%PACKAGER%\nSomeone <someone@example.org>\n\n%SIZE%\n9410000\n\n%GROUPS%\nbase\nbase-devel\n\n",
            "%VALIDATION%\npgp\n\n%DEPENDS%\nreadline\nglibc\n\n",
        );
        let expected = Package {
            name: "bash".to_owned(),
            epoch: 1,
            version: "5.2.037".to_owned(),
            release: "1".to_owned(),
            arch: "x86_64".to_owned(),
            publisher: Some("Someone <someone@example.org>".to_owned()),
            url: Some("https://example.org/bash".to_owned()),
            source_package: Some("bash-base".to_owned()),
            description: Some("The GNU shell".to_owned()),
            installed_size: Some(9_410_000),
            ..Package::default()
        };
        assert_eq!(parse(desc.as_bytes()).unwrap(), expected);
    }

    #[test]
    fn what_is_required_is_named_when_it_is_missing() {
        for (desc, field) in [
            ("", "%NAME%"),
            ("%NAME%\nx\n\n", "%VERSION%"),
            ("%NAME%\nx\n\n%VERSION%", "%VERSION%"),
            ("%NAME%\nx\n\n%VERSION%\n1.0\n\n", "%VERSION%"),
            ("%NAME%\nx\n\n%VERSION%\na:1.0-1\n\n", "%VERSION%"),
            ("%NAME%\nx\n\n%VERSION%\n-1:1.0-1\n\n", "%VERSION%"),
        ] {
            assert_eq!(parse(desc.as_bytes()).unwrap_err().as_corrupt().unwrap().field, field, "{desc:?}");
        }
    }
}
