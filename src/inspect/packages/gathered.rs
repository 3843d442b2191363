//! Packages while a database is read: what was found, what was damaged, and how much of either is enough.

use std::fmt::Display;

use super::{Package, PackageFormat, PackageList, is_guest_fault};
use crate::bytes::to_u64;
use crate::error::{Error, Result};
use crate::limits;

/// Notes kept of one database; the others are counted.
const NOTES: usize = 20;

/// Bytes an allocation costs beyond its content.
const ALLOCATION: u64 = 24;

/// The packages of one database while it is read, with the budgets for all of it: a database that lies about its
/// structure (records that overlap, a million empty ones) runs into one of them and ends there.
#[derive(Debug, Default)]
pub struct Gathered {
    packages: Vec<Package>,
    notes: Vec<String>,
    notes_left_out: u64,
    records: u64,
    record_bytes: u64,
    package_bytes: u64,
    damaged: u64,
    exhausted: bool,
}

impl Gathered {
    /// Charges one more record of `len` bytes; to be called before it is read.
    ///
    /// # Errors
    ///
    /// [`Limit`](crate::ErrorKind::Limit) for a record that is too long, or when the database as a whole holds too many
    /// records or bytes; then [`tolerate`](Self::tolerate) lets nothing pass any more.
    pub fn charge(&mut self, len: u64) -> Result<()> {
        self.records = self.records.saturating_add(1);
        if self.records > limits::PACKAGES {
            return Err(self.exhaust("records of a package database", limits::PACKAGES));
        }
        limits::check("bytes of a package record", len, limits::PACKAGE_RECORD_BYTES)?;
        self.record_bytes = self.record_bytes.saturating_add(len);
        if self.record_bytes > limits::PACKAGE_DATABASE_BYTES {
            return Err(self.exhaust("record bytes of a package database", limits::PACKAGE_DATABASE_BYTES));
        }
        Ok(())
    }

    /// Keeps `package`.
    ///
    /// # Errors
    ///
    /// [`Limit`](crate::ErrorKind::Limit) when the list takes too much memory; what it holds stays.
    pub fn add(&mut self, package: Package) -> Result<()> {
        let bytes = self.package_bytes.saturating_add(memory(&package));
        if let Err(error) = limits::check("bytes of a package list", bytes, limits::PACKAGE_LIST_BYTES) {
            self.exhausted = true;
            return Err(error);
        }
        self.package_bytes = bytes;
        self.packages.push(package);
        Ok(())
    }

    /// Keeps a sentence for the user.
    pub fn note(&mut self, note: impl Display) {
        if self.notes.len() < NOTES {
            self.notes.push(note.to_string());
        } else {
            self.notes_left_out = self.notes_left_out.saturating_add(1);
        }
    }

    /// Turns damage to one record into a note, so that the next one can be read.
    ///
    /// # Errors
    ///
    /// What the guest is not to blame for, and everything once a budget is used up, which damage has one of itself.
    pub fn tolerate(&mut self, outcome: Result<()>) -> Result<()> {
        let Err(error) = outcome else { return Ok(()) };
        if self.exhausted || !is_guest_fault(&error) {
            return Err(error);
        }
        self.note(error);
        self.damaged = self.damaged.saturating_add(1);
        if self.damaged > limits::PACKAGE_DAMAGE {
            return Err(self.exhaust("damaged records of a package database", limits::PACKAGE_DAMAGE));
        }
        Ok(())
    }

    /// The error for a budget of the whole database that is used up; nothing is tolerated after it.
    pub(super) fn exhaust(&mut self, what: &'static str, limit: u64) -> Error {
        self.exhausted = true;
        Error::limit(what, limit, limit.saturating_add(1))
    }

    /// The packages so far.
    #[must_use]
    pub fn packages(&self) -> &[Package] {
        &self.packages
    }

    /// The packages so far, to be changed by a database that supersedes its own records.
    pub(super) fn packages_mut(&mut self) -> &mut Vec<Package> {
        &mut self.packages
    }

    /// The list, when reading `source` has ended with `outcome`.
    ///
    /// # Errors
    ///
    /// `outcome`'s own, unless the guest is to blame for it; then it becomes a note.
    pub fn finish(mut self, format: PackageFormat, source: String, outcome: Result<()>) -> Result<PackageList> {
        if let Err(error) = outcome {
            if !is_guest_fault(&error) {
                return Err(error.at_path(source.as_bytes()));
            }
            self.notes.push(incomplete(&error));
        }
        if self.notes_left_out > 0 {
            self.notes.push(format!("{} more records could not be read", self.notes_left_out));
        }
        self.packages.sort_unstable();
        Ok(PackageList { format, source, packages: self.packages, notes: self.notes })
    }
}

fn incomplete(error: &Error) -> String {
    format!("the list ends early: {error}")
}

/// Bytes of memory that `package` takes.
fn memory(package: &Package) -> u64 {
    let always = [&package.name, &package.version, &package.release, &package.arch];
    let sometimes = [
        &package.display_name,
        &package.install_path,
        &package.publisher,
        &package.url,
        &package.source_package,
        &package.summary,
        &package.description,
    ];
    let texts = always.into_iter().chain(sometimes.into_iter().flatten());
    texts.fold(to_u64(size_of::<Package>()), |sum, text| {
        sum.saturating_add(to_u64(text.capacity())).saturating_add(ALLOCATION)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> Package {
        Package { name: name.to_owned(), ..Package::default() }
    }

    #[test]
    fn damage_is_noted_and_the_notes_are_bounded() {
        let mut gathered = Gathered::default();
        for _ in 0..1_000 {
            gathered.tolerate(Err(Error::corrupt("x", "y", 0, "a", "b"))).unwrap();
        }
        gathered.add(named("b")).unwrap();
        gathered.add(named("a")).unwrap();
        let list = gathered.finish(PackageFormat::Rpm, "/db".to_owned(), Ok(())).unwrap();
        assert_eq!(list.packages, [named("a"), named("b")]);
        assert_eq!(list.notes.len(), NOTES + 1);
        assert_eq!(list.notes[NOTES], "980 more records could not be read");
    }

    #[test]
    fn a_list_that_is_too_long_ends_and_keeps_what_it_has() {
        let mut gathered = Gathered::default();
        let outcome = (0..1_000_000).try_for_each(|_| {
            let added = gathered.add(named("n"));
            gathered.tolerate(added)
        });
        let list = gathered.finish(PackageFormat::Deb, "/db".to_owned(), outcome).unwrap();
        assert!((50_000..100_000).contains(&list.packages.len()), "{}", list.packages.len());
        assert!(list.notes[0].starts_with("the list ends early: bytes of a package list is limited to"));
    }

    #[test]
    fn a_host_error_is_no_note() {
        let error = Error::io("read", "image", std::io::Error::from_raw_os_error(5));
        let finished = Gathered::default().finish(PackageFormat::Deb, "/db".to_owned(), Err(error));
        assert_eq!(finished.unwrap_err().exit_code(), 1);
    }

    #[test]
    fn one_long_record_is_skipped_and_too_many_end_the_reading() {
        let mut gathered = Gathered::default();
        let charged = gathered.charge(limits::PACKAGE_RECORD_BYTES + 1);
        assert_eq!(charged.as_ref().unwrap_err().exit_code(), 4);
        gathered.tolerate(charged).unwrap();
        let outcome = (0..1_000).try_for_each(|_| {
            let charged = gathered.charge(limits::PACKAGE_RECORD_BYTES);
            gathered.tolerate(charged)
        });
        assert!(outcome.unwrap_err().to_string().starts_with("record bytes of a package database"));
    }

    #[test]
    fn too_much_damage_ends_the_reading() {
        let mut gathered = Gathered::default();
        let outcome = (0..1_000_000).try_for_each(|_| gathered.tolerate(Err(Error::corrupt("x", "y", 0, "a", "b"))));
        assert_eq!(
            outcome.unwrap_err().to_string(),
            "damaged records of a package database is limited to 10000, the image asks for 10001"
        );
    }
}
