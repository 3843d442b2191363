//! Whatever is damaged is found before anybody gets a byte of it, as closely as was asked, and put aside.

use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use guestctl::cache::{Digest, Store, Verify, VerifyOptions};
use guestctl::progress::Silent;

use super::trees::{bring_back, ordinary, seed, store, witness};

/// Kinds of files in a store.
const KINDS: [(&str, &str); 4] = [("objects", ""), ("packs", "pack"), ("packs", "idx"), ("trees", "tree")];

#[derive(Debug, Clone, Copy, PartialEq)]
enum Harm {
    /// A bit, and the file's time as it was.
    Bit,
    /// The last byte is gone; the file's time as it was.
    Truncated,
    /// Another object of its kind under its name.
    Swapped,
    /// A bit, written as programs write.
    Written,
}

fn files(store: &Store, (directory, extension): (&str, &str)) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut pending = vec![store.path().join(directory)];
    while let Some(directory) = pending.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                pending.push(path);
            } else if path.extension().is_none_or(|found| found == extension) && path.is_file() {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// Damages a file and keeps mode and time.
fn harm(path: &Path, harm: Harm, other: Option<&Path>) {
    let metadata = std::fs::metadata(path).unwrap();
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o644)).unwrap();
    let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    match harm {
        Harm::Bit | Harm::Written => {
            let mut byte = [0];
            // Behind headers, where content is.
            let at = metadata.len() * 2 / 3;
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ 4], at).unwrap();
        }
        Harm::Truncated => file.set_len(metadata.len() - 1).unwrap(),
        Harm::Swapped => {
            let (other, aside) = (other.unwrap(), path.with_extension("aside"));
            std::fs::set_permissions(path, metadata.permissions()).unwrap();
            std::fs::rename(path, &aside).unwrap();
            std::fs::rename(other, path).unwrap();
            std::fs::rename(&aside, other).unwrap();
            return;
        }
    }
    std::fs::set_permissions(path, metadata.permissions()).unwrap();
    if harm != Harm::Written {
        file.set_modified(metadata.modified().unwrap()).unwrap();
    }
}

/// A fresh store of two trees; the ids, and what the first is.
fn fresh(dir: &Path) -> (Store, Digest, String) {
    ordinary(dir);
    let source = dir.join("tree");
    let store = store(dir);
    let tree = seed(&store, &source, "tree").unwrap();
    // A second of everything, of the same sizes, for swaps.
    super::support::shell(
        dir,
        "mkdir -p other/usr/bin; head -c 5000 /dev/urandom > other/usr/bin/a; head -c 300000 /dev/urandom > other/usr/bin/b",
    );
    seed(&store, &dir.join("other"), "other").unwrap();
    (store, tree, witness(&source, true))
}

#[test]
fn every_damage_is_found_at_the_levels_that_promise_it() {
    for kind in KINDS {
        for damage in [Harm::Bit, Harm::Truncated, Harm::Swapped, Harm::Written] {
            for level in [Verify::Trusted, Verify::FirstUse, Verify::Always] {
                let dir = tempfile::tempdir().unwrap();
                let (store, tree, expected) = fresh(dir.path());
                let all = files(&store, kind);
                let swap = damage == Harm::Swapped;
                if swap {
                    harm(&all[0], damage, all.get(1).map(PathBuf::as_path));
                } else {
                    all.iter().for_each(|path| harm(path, damage, None));
                }
                let store = Store::open(store.path()).unwrap().with_verification(level);
                let target = dir.path().join("target");
                let restored = bring_back(&store, &tree, &target);
                // What is trusted is not read: that a bit changed under an unchanged time is not seen.
                let trusted_bit = level == Verify::Trusted && damage == Harm::Bit && matches!(kind.1, "" | "pack");
                let context = format!("{kind:?} {damage:?} {level:?}");
                match restored {
                    Ok(_) if trusted_bit => {}
                    // A damaged index is made again from its pack.
                    Ok(_) if kind.1 == "idx" => assert_eq!(witness(&target, true), expected, "{context}"),
                    Ok(_) => panic!("{context}: damage was not seen"),
                    Err(error) => {
                        assert!(matches!(error.exit_code(), 2 | 8), "{context}: {error}");
                        assert!(!target.exists(), "{context}");
                    }
                }
                if kind.1 == "idx" || trusted_bit {
                    continue;
                }
                // Added again, it is whole again.
                let store = Store::open(store.path()).unwrap();
                let found = store.verify(&VerifyOptions { repair: true, ..VerifyOptions::default() }, &Silent).unwrap();
                assert!(!found.damage.is_empty() || level != Verify::Never, "{context}");
                let store = Store::open(store.path()).unwrap().with_verification(Verify::Always);
                let again = seed(&store, &dir.path().join("tree"), "again").unwrap();
                assert_eq!(again, tree, "{context}");
                bring_back(&store, &tree, &target).unwrap_or_else(|error| panic!("{context}: {error}"));
                assert_eq!(witness(&target, true), expected, "{context}");
            }
        }
    }
}

#[test]
fn verify_finds_each_flipped_bit_and_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _, _) = fresh(dir.path());
    let clean = store.verify(&VerifyOptions::default(), &Silent).unwrap();
    assert_eq!(clean.damage, []);
    assert!(clean.objects == 2 && clean.packed_blobs >= 3 && clean.trees == 2, "{clean:?}");
    for (kind, name) in KINDS.iter().zip(["object", "packed", "index", "tree"]) {
        let path = &files(&store, *kind)[0];
        harm(path, Harm::Bit, None);
        let store = Store::open(store.path()).unwrap();
        let found = store.verify(&VerifyOptions::default(), &Silent).unwrap();
        assert!(found.damage.iter().any(|damage| damage.kind == name), "{name}: {:?}", found.damage);
        harm(path, Harm::Bit, None);
        let found = Store::open(store.path()).unwrap().verify(&VerifyOptions::default(), &Silent).unwrap();
        assert_eq!(found.damage, [], "{name}");
    }
}
