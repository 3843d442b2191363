//! RPM's database: one [`header`] for each installed package, in one of three containers.
//!
//! | file | container | used by |
//! |---|---|---|
//! | `rpmdb.sqlite` | an SQLite database ([`sqlite`]), with a write-ahead log beside it | Fedora 33+, RHEL 9+ |
//! | `Packages.db` | RPM's own [`ndb`] | SUSE |
//! | `Packages` | a Berkeley DB hash ([`bdb`]) | RHEL up to 8, Fedora up to 32 |
//!
//! The other files beside them are indexes and not needed. All packages are listed as `rpm -qa` and libguestfs list
//! them: the public keys that RPM keeps as packages named `gpg-pubkey` too.

pub mod bdb;
pub mod header;
pub mod ndb;
mod pages;
mod row;
pub mod sqlite;
mod wal;

use super::{Gathered, Source};
use crate::block::BlockDevice;
use crate::error::Result;
use crate::limits;

pub(super) fn read_sqlite(source: &Source<'_>, gathered: &mut Gathered) -> Result<()> {
    let wal = source.guest.open(&format!("{}-wal", source.path))?;
    if source.guest.metadata(&format!("{}-journal", source.path))?.is_some_and(|journal| journal.size > 0) {
        gathered.note("a rollback journal lies beside the database: a transaction may have been cut off in its middle");
    }
    sqlite::read(&source.open()?, wal.as_deref(), gathered)
}

pub(super) fn read_ndb(source: &Source<'_>, gathered: &mut Gathered) -> Result<()> {
    ndb::read(&source.open()?, gathered)
}

pub(super) fn read_bdb(source: &Source<'_>, gathered: &mut Gathered) -> Result<()> {
    bdb::read(&source.open()?, gathered)
}

/// Adds the package whose header is `blob`; it lies at `offset` of the database, or begins there when it is scattered.
fn add_header(blob: &[u8], offset: u64, gathered: &mut Gathered) -> Result<()> {
    gathered.add(header::parse(blob, offset)?)
}

/// Holds a database's size against its limit.
fn check_size(device: &dyn BlockDevice) -> Result<u64> {
    limits::check("bytes of a package database", device.size(), limits::PACKAGE_DATABASE_BYTES)
}

/// Holds a record's length against its limit, before memory is reserved for it.
fn record_len(len: u64, gathered: &mut Gathered) -> Result<usize> {
    gathered.charge(len)?;
    Ok(crate::bytes::to_usize(len))
}
