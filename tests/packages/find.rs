//! Which databases of a guest are found.

use guestctl::inspect::PackageFormat;

use super::{TreeFs, complete, list, lists};

const STATUS: &str = "Package: a\nStatus: install ok installed\nVersion: 1\n\n";

#[test]
fn a_guest_without_databases_has_no_lists() {
    assert_eq!(lists(TreeFs::new()), []);
    // A directory, a dangling link and a loop are no databases.
    let tree = TreeFs::new()
        .file("/var/lib/dpkg/status/x", "")
        .link("/var/lib/rpm/rpmdb.sqlite", "nowhere")
        .link("/lib/apk", "/lib/apk");
    assert_eq!(lists(tree), []);
}

#[test]
fn each_database_has_a_list_and_links_lead_to_none_twice() {
    let tree = TreeFs::new()
        .file("/var/lib/dpkg/status", STATUS)
        .file("/var/lib/dpkg/status.d/base", "Package: base\nVersion: 12.4\n")
        .file("/var/lib/dpkg/status.d/base.md5sums", "0123 usr/bin/x\n")
        .file("/usr/lib/sysimage/rpm/rpmdb.sqlite", "")
        .link("/var/lib/rpm", "../../usr/lib/sysimage/rpm")
        .link("/lib", "usr/lib")
        .file("/usr/lib/apk/db/installed", "P:musl\nV:1.2.5-r9\n\n")
        .file("/var/lib/pacman/local/ALPM_DB_VERSION", "9\n")
        .file("/var/lib/pacman/local/zlib-1-1/desc", "%NAME%\nzlib\n\n%VERSION%\n1:1.3.1-2\n\n")
        .file("/var/lib/pacman/local/zlib-1-1/files", "%FILES%\nusr/\n");
    let lists = lists(tree);
    let found: Vec<(PackageFormat, &str, Vec<&str>)> = lists
        .iter()
        .map(|list| (list.format, &*list.source, list.packages.iter().map(|package| &*package.name).collect()))
        .collect();
    assert_eq!(
        found,
        [
            (PackageFormat::Deb, "/var/lib/dpkg/status", vec!["a"]),
            (PackageFormat::Deb, "/var/lib/dpkg/status.d", vec!["base"]),
            (PackageFormat::Rpm, "/usr/lib/sysimage/rpm/rpmdb.sqlite", vec![]),
            (PackageFormat::Apk, "/lib/apk/db/installed", vec!["musl"]),
            (PackageFormat::Pacman, "/var/lib/pacman/local", vec!["zlib"]),
        ]
    );
    assert_eq!(lists[4].packages[0].epoch, 1);
    assert!(lists.iter().all(|list| list.notes.is_empty()), "{lists:#?}");
}

#[test]
fn what_a_conversion_left_behind_is_noted() {
    let tree = TreeFs::new().file("/var/lib/rpm/rpmdb.sqlite", "").file("/var/lib/rpm/Packages", "old");
    let list = list(tree);
    assert_eq!((&*list.source, list.packages.len()), ("/var/lib/rpm/rpmdb.sqlite", 0));
    assert_eq!(list.notes, ["/var/lib/rpm/Packages is there too and was not read"]);
}

#[test]
fn a_damaged_database_does_not_hide_another() {
    let tree = TreeFs::new().file("/var/lib/rpm/rpmdb.sqlite", "no database").file("/var/lib/dpkg/status", STATUS);
    let lists = lists(tree);
    assert_eq!(lists.len(), 2);
    assert_eq!(lists[0].packages.len(), 1);
    assert_eq!(lists[1].packages.len(), 0);
    assert!(lists[1].notes[0].starts_with("the list ends early: corrupt rpmdb.sqlite: "), "{}", lists[1].notes[0]);
}

#[test]
fn a_damaged_pacman_directory_is_noted_and_the_others_are_read() {
    let tree = TreeFs::new()
        .file("/var/lib/pacman/local/a-1-1/desc", "%NAME%\na\n\n")
        .file("/var/lib/pacman/local/b-1-1/desc", "%NAME%\nb\n\n%VERSION%\n1-1\n\n")
        .file("/var/lib/pacman/local/c-1-1/mtree", "");
    let list = list(tree);
    assert_eq!(list.packages.len(), 1);
    assert_eq!(list.notes.len(), 1);
    assert!(list.notes[0].contains("%VERSION%"), "{}", list.notes[0]);
}

#[test]
fn formats_have_libguestfs_names() {
    let names =
        [PackageFormat::Deb, PackageFormat::Rpm, PackageFormat::Apk, PackageFormat::Pacman].map(PackageFormat::name);
    assert_eq!(names, ["deb", "rpm", "apk", "pacman"]);
    let list = list(TreeFs::new().file("/var/lib/dpkg/status", STATUS));
    assert_eq!(serde_json::to_value(&list).unwrap()["format"], "deb");
    assert_eq!(complete(list).len(), 1);
}
