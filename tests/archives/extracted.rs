//! Extracted by GNU tar and by bsdtar, an archive is the tree that the kernel mounts, in everything.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::facts::{Contents, Tree, mounted, same};
use super::guest::{empty, guest};
use super::support::{have, shell};

/// Which paths are names of one inode: the first of them, for each.
pub fn groups(top: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names: BTreeMap<u64, BTreeSet<Vec<u8>>> = BTreeMap::new();
    let mut rest = vec![top.to_owned()];
    while let Some(directory) = rest.pop() {
        for entry in std::fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let metadata = std::fs::symlink_metadata(&path).unwrap();
            if metadata.is_dir() {
                rest.push(path);
            } else if metadata.nlink() > 1 {
                let relative = path.strip_prefix(top).unwrap().as_os_str().as_bytes().to_vec();
                names.entry(metadata.ino()).or_default().insert(relative);
            }
        }
    }
    let firsts = names.into_values().flat_map(|names| {
        let first = names.first().unwrap().clone();
        names.into_iter().map(move |name| (name, first.clone()))
    });
    firsts.collect()
}

/// Without what no archive keeps: sockets, and the sizes of directories.
pub fn comparable(mut tree: Tree) -> Tree {
    tree.retain(|_, facts| facts.kind != "socket");
    for facts in tree.values_mut() {
        if facts.kind == "dir" {
            facts.size = 0;
        }
        // Whether a label ends in a NUL is up to who writes it.
        if let Some(label) = facts.xattrs.get_mut("security.selinux") {
            let bytes = BASE64.decode(&*label).unwrap();
            *label = BASE64.encode(bytes.strip_suffix(&[0]).unwrap_or(&bytes));
        }
    }
    tree
}

fn extracted_is_the_mount(what: &str, extract: &str, change: impl Fn(&mut Tree)) {
    let Some(guest) = guest() else { return };
    let directory = tempfile::tempdir().unwrap();
    let into = empty(directory.path());
    let program = env!("CARGO_BIN_EXE_guestctl");
    let script = format!(
        "{program} tar-out -q -m /dev/sda {} / archive.tar
         {extract} -f archive.tar -C {} 2>messages || {{ tail messages >&2; exit 1; }}",
        guest.image.display(),
        into.path().display()
    );
    shell(directory.path(), &script);
    let kernel = guest.mounted();
    let tree = |top: &Path| {
        let mut tree = comparable(mounted(top, "/", Contents::Data));
        change(&mut tree);
        tree
    };
    same(what, &tree(&kernel.path()), &tree(&into.path()));
    assert_eq!(groups(&kernel.path()), groups(&into.path()), "{what}: hard links");
}

#[test]
fn by_gnu_tar() {
    if have("tar") {
        let extract = "tar --xattrs --xattrs-include='*' --acls --selinux --numeric-owner -xp";
        extracted_is_the_mount("GNU tar", extract, |_| {});
    }
}

/// libarchive leaves the directory that it extracts into as it is, takes names of attributes as they are escaped, and adds the
/// fraction of a time before 1970 where POSIX takes it away.
#[test]
fn by_bsdtar() {
    if have("bsdtar") {
        extracted_is_the_mount("bsdtar", "bsdtar -xp --xattrs --acls --numeric-owner", |tree| {
            tree.remove(&b"/"[..]);
            for facts in tree.values_mut() {
                facts.xattrs.retain(|name, _| !name.contains(['=', '%']));
                if facts.mtime < 1_000_000_000 && facts.mtime % 1_000_000_000 != 0 {
                    facts.mtime = 0;
                }
            }
        });
    }
}
