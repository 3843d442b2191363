//! apk's database of installed packages: `/lib/apk/db/installed`.
//!
//! Text, one stanza for each package; each line is a letter, a colon and a value:
//!
//! | letter | becomes |
//! |---|---|
//! | `P` | name; required |
//! | `V` | `version[-rN]`: version and release (`rN`, the `r` kept); required |
//! | `A`, `m`, `U` | arch, publisher, url |
//! | `o` | source package (apk's "origin") |
//! | `T` | description |
//! | `I` | installed size in bytes |
//!
//! All others (the files, their owners and checksums: `F`, `R`, `M`, `a`, `Z` …) are passed over. See apk-installed(5).

use super::stanza::{self, Lines};
use super::{Gathered, Package, Source, decimal, text};
use crate::block::BlockDevice;
use crate::error::{Error, Result};

const FORMAT: &str = "apk installed";

/// Gathers the packages of a database, read in parts.
///
/// # Errors
///
/// What reading `file` fails with, and [`Limit`](crate::ErrorKind::Limit) for one that is too long.
pub fn read(file: &dyn BlockDevice, gathered: &mut Gathered) -> Result<()> {
    stanza::for_each(file, gathered, &mut |stanza, offset, gathered| gathered.add(parse(stanza, offset)?))
}

pub(super) fn read_installed(source: &Source<'_>, gathered: &mut Gathered) -> Result<()> {
    read(&source.open()?, gathered)
}

fn parse(stanza: &[u8], offset: u64) -> Result<Package> {
    let mut package = Package::default();
    for line in Lines(stanza) {
        let Some((&[letter, b':'], value)) = line.split_first_chunk() else { continue };
        match letter {
            b'P' => package.name = text(value).unwrap_or_default(),
            b'V' => (package.version, package.release) = version(value),
            b'A' => package.arch = text(value).unwrap_or_default(),
            b'm' => package.publisher = text(value),
            b'U' => package.url = text(value),
            b'o' => package.source_package = text(value),
            b'T' => package.description = text(value),
            b'I' => package.installed_size = decimal(value),
            _ => {}
        }
    }
    for (field, value) in [("P", &package.name), ("V", &package.version)] {
        if value.is_empty() {
            return Err(Error::corrupt(FORMAT, field, offset, "no such line", "one in every stanza"));
        }
    }
    Ok(package)
}

/// `version-rN` in its two parts.
fn version(value: &[u8]) -> (String, String) {
    let all = text(value).unwrap_or_default();
    match all.rsplit_once('-') {
        Some((version, release)) if release.starts_with('r') => (version.to_owned(), release.to_owned()),
        _ => (all, String::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Memory;

    #[test]
    fn a_stanza_becomes_a_package_and_a_bad_one_a_note() {
        let database = concat!(
            "C:Q1abcdefghijklmnopqrstuvwxyz0=\nP:musl\nV:1.2.5-r9\nA:x86_64\nS:407123\nI:667648\n",
            "T:the musl c library (libc) implementation\nU:https://musl.libc.org/\nL:MIT\no:musl\n",
            "m:Someone <someone@example.org>\nt:1739000000\nc:0123\np:so:libc.musl-x86_64.so.1=1\n",
            "F:lib\nR:ld-musl-x86_64.so.1\na:0:0:755\nZ:Q1xxxxxxxxxxxxxxxxxxxxxxxxx0=\n\n",
            "P:no-version\n\n",
            "P:odd\nV:2024-alpha\n\n",
        );
        let mut gathered = Gathered::default();
        read(&Memory::new(database.as_bytes().to_vec()), &mut gathered).unwrap();
        let musl = Package {
            name: "musl".to_owned(),
            version: "1.2.5".to_owned(),
            release: "r9".to_owned(),
            arch: "x86_64".to_owned(),
            publisher: Some("Someone <someone@example.org>".to_owned()),
            url: Some("https://musl.libc.org/".to_owned()),
            source_package: Some("musl".to_owned()),
            description: Some("the musl c library (libc) implementation".to_owned()),
            installed_size: Some(667_648),
            ..Package::default()
        };
        let odd = Package { name: "odd".to_owned(), version: "2024-alpha".to_owned(), ..Package::default() };
        assert_eq!(gathered.packages(), [musl, odd]);
        let notes = gathered.finish(super::super::PackageFormat::Apk, String::new(), Ok(())).unwrap().notes;
        assert_eq!(notes.len(), 1);
        assert!(notes[0].contains("apk installed") && notes[0].contains('V'), "{}", notes[0]);
    }
}
