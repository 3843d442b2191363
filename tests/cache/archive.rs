//! Trees in a tar file: the same bytes whatever the store, and nothing that is not what its name says gets in.

use guestctl::cache::{Compression, Digest, InitOptions, Ref, Store, Verify};
use guestctl::progress::Silent;

use super::support::shell;
use super::trees::{bring_back, ordinary, seed, store, witness};

fn export(store: &Store, tree: Digest) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut named = Ref::new("trees", "tree", tree).unwrap();
    named.created = 1;
    let exported = store.export(&[named], &mut bytes, &Silent).unwrap();
    assert_eq!(exported.trees, 1);
    bytes
}

#[test]
fn what_is_exported_is_imported_by_any_store() {
    let dir = tempfile::tempdir().unwrap();
    ordinary(dir.path());
    let source = dir.path().join("tree");
    let first = store(dir.path());
    let tree = seed(&first, &source, "tree").unwrap();
    let bytes = export(&first, tree);
    std::fs::write(dir.path().join("archive.tar"), &bytes).unwrap();
    let listed = String::from_utf8(shell(dir.path(), "tar tf archive.tar").stdout).unwrap();
    assert!(
        listed.starts_with("guestctl-cache.json\nblobs/") && listed.ends_with(&format!("trees/{tree}\n")),
        "{listed}"
    );
    for (name, compression, pack_threshold) in [("zstd", Compression::Zstd, 4096), ("loose", Compression::None, 0)] {
        let options = InitOptions { pack_threshold: Some(pack_threshold), compression };
        let other = Store::init(dir.path().join(name), &options).unwrap().with_verification(Verify::Always);
        let imported = other.import_archive(&mut &bytes[..], &Silent).unwrap();
        assert_eq!((imported.len(), imported[0].tree), (1, tree));
        assert_eq!(other.get_ref("trees", "tree").unwrap().unwrap().tree, tree);
        let target = dir.path().join(format!("{name}-target"));
        bring_back(&other, &tree, &target).unwrap();
        assert_eq!(witness(&target, true), witness(&source, true));
        assert_eq!(export(&other, tree), bytes, "{name}");
        // A second time nothing is new.
        let again = other.import_archive(&mut &bytes[..], &Silent).unwrap();
        assert!(again[0].known && again[0].report.new_blobs == 0);
    }
}

#[test]
fn no_changed_byte_of_an_archive_gets_in() {
    let dir = tempfile::tempdir().unwrap();
    shell(
        dir.path(),
        "mkdir tree; head -c 300 /dev/urandom > tree/a; head -c 5000 /dev/urandom > tree/b; ln -s a tree/c",
    );
    let first = store(dir.path());
    let tree = seed(&first, &dir.path().join("tree"), "tree").unwrap();
    let bytes = export(&first, tree);
    let options = InitOptions { pack_threshold: Some(1000), ..InitOptions::default() };
    let other = Store::init(dir.path().join("other"), &options).unwrap();
    let mut refused = 0;
    for at in (0..bytes.len()).step_by(97) {
        let mut changed = bytes.clone();
        changed[at] ^= 0x21;
        match other.import_archive(&mut &changed[..], &Silent) {
            // Padding, or a field of a header that nobody reads.
            Ok(imported) => assert!(imported.iter().all(|imported| imported.tree == tree)),
            Err(_) => refused += 1,
        }
        if at % 10 == 0 {
            let cut = other.import_archive(&mut &bytes[..at], &Silent);
            assert!(cut.is_err() || cut.unwrap().is_empty() || at > bytes.len() - 2048);
        }
    }
    assert!(refused > 20, "{refused}");
    let report = other.verify(&guestctl::cache::VerifyOptions::default(), &Silent).unwrap();
    assert_eq!(report.damage, []);
    assert!(other.trees().unwrap().iter().all(|found| *found == tree));
}
