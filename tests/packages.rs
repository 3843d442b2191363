//! Package lists against the package managers themselves: rpm, dpkg-query, sqlite3 and Berkeley DB's db_load write or read
//! the databases, and guestctl must say what they say.
#![allow(clippy::print_stdout, clippy::unwrap_used, missing_docs, reason = "tests")]

mod support;
#[path = "support/tree_fs.rs"]
mod tree_fs;

#[path = "packages/dpkg.rs"]
mod dpkg;
#[path = "packages/find.rs"]
mod find;
#[path = "packages/hostile.rs"]
mod hostile;
#[path = "packages/ndb.rs"]
mod ndb;
#[path = "packages/rpm.rs"]
mod rpm;

use guestctl::fs::MountTable;
use guestctl::inspect::{Guest, Package, PackageList, packages};
use tree_fs::TreeFs;

/// All lists of a guest.
fn lists(tree: TreeFs) -> Vec<PackageList> {
    let mounts: MountTable = tree.mounts();
    packages(&Guest::new(&mounts)).unwrap()
}

/// The one list of a guest.
fn list(tree: TreeFs) -> PackageList {
    let mut lists = lists(tree);
    assert_eq!(lists.len(), 1, "{lists:#?}");
    lists.remove(0)
}

/// The packages of a list that must be complete.
fn complete(list: PackageList) -> Vec<Package> {
    assert_eq!(list.notes, Vec::<String>::new());
    list.packages
}

/// `text`, or `None` when it is empty.
fn some(text: &str) -> Option<String> {
    Some(text.to_owned()).filter(|text| !text.is_empty())
}

/// Asserts that two lists are equal; tells the first difference alone.
fn assert_same(ours: &[Package], theirs: &[Package], what: &str) {
    for (ours, theirs) in ours.iter().zip(theirs) {
        assert_eq!(ours, theirs, "{what}");
    }
    assert_eq!(ours.len(), theirs.len(), "{what}");
}
