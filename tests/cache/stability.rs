//! The layout on disk is a contract: a fixed input gives fixed bytes and names.

use std::collections::BTreeMap;
use std::path::Path;

use guestctl::cache::{
    ActionKey, Compression, Described, Digest, ImportOptions, InitOptions, Prepared, Ref, Source, Store,
};
use guestctl::fs::{DeviceNumber, FileType, Metadata, Timestamp, Xattr};

fn metadata(file_type: FileType, size: u64) -> Metadata {
    let time = |seconds| Timestamp { seconds, nanoseconds: 7 };
    Metadata {
        inode: 5,
        file_type,
        permissions: 0o4750,
        uid: 1000,
        gid: 100,
        nlink: 1,
        size,
        blocks: 8,
        block_size: 4096,
        rdev: (file_type == FileType::Char).then_some(DeviceNumber { major: 1, minor: 3 }),
        atime: time(1),
        mtime: time(1_000_000_000),
        ctime: time(3),
        crtime: None,
        encrypted: false,
    }
}

fn fixed(store: &Store) -> Digest {
    let import = store.import(ImportOptions::default()).unwrap();
    let push = |path: &str, file_type, bytes: &[u8]| {
        let prepared = match file_type {
            FileType::File => import.prepare(Source::Bytes(bytes)).unwrap(),
            FileType::Symlink => Prepared::target(bytes.to_vec()),
            _ => Prepared::nothing(),
        };
        let xattrs = vec![Xattr { name: b"user.k".to_vec(), value: b"v".to_vec() }];
        let metadata = metadata(file_type, bytes.len() as u64);
        import.push(Described { path: path.into(), metadata, xattrs, link: None }, prepared).unwrap();
    };
    push("", FileType::Dir, b"");
    push("a", FileType::Dir, b"");
    push("a/inline", FileType::File, b"few bytes");
    push("a/packed", FileType::File, &[7; 1000]);
    push("a/packed2", FileType::File, &[8; 2000]);
    push("large", FileType::File, &[9; 20_000]);
    push("link", FileType::Symlink, b"a/inline");
    push("null", FileType::Char, b"");
    import.finish(Some(&Ref::new("trees", "fixed", Digest::of(b"")).unwrap())).unwrap().tree
}

/// Names and digests of the files below a directory.
fn listing(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut pending = vec![root.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                pending.push(path);
            } else {
                let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                found.insert(name, Digest::of(&std::fs::read(&path).unwrap()).hex());
            }
        }
    }
    found
}

#[test]
fn a_fixed_tree_gives_fixed_names_and_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let options = InitOptions { pack_threshold: Some(4096), compression: Compression::None };
    let store = Store::init(dir.path().join("s"), &options).unwrap();
    let tree = fixed(&store);
    let version: serde_json::Value =
        serde_json::from_slice(&std::fs::read(store.path().join("VERSION.json")).unwrap()).unwrap();
    assert_eq!((version["format"].as_u64(), version["hash"].as_str()), (Some(1), Some("blake3")));
    assert_eq!(version["pack_threshold_bytes"], 4096);
    let mut files = listing(store.path());
    files.retain(|name, _| !name.starts_with("VERSION") && !name.starts_with("refs/"));
    let text: String = files.iter().map(|(name, digest)| format!("{name} {digest}\n")).collect();
    assert_eq!(text, include_str!("stability.txt"), "the layout has changed: raise the format's number");
    let hex = tree.hex();
    let (shard, rest) = hex.split_at(2);
    assert!(text.contains(&format!("trees/{shard}/{rest}.tree {tree}\n")));
    let named: serde_json::Value =
        serde_json::from_slice(&std::fs::read(store.path().join("refs/trees/fixed")).unwrap()).unwrap();
    assert_eq!(named["tree"], tree.hex());
    // Compressed or not, packed or not: the tree is the same.
    for (name, options) in [
        ("c", InitOptions { pack_threshold: Some(4096), compression: Compression::Zstd }),
        ("p", InitOptions { pack_threshold: Some(1 << 20), compression: Compression::None }),
        ("l", InitOptions { pack_threshold: Some(0), compression: Compression::Zstd }),
    ] {
        let store = Store::init(dir.path().join(name), &options).unwrap();
        assert_eq!(fixed(&store), tree, "{name}");
        let target = dir.path().join(format!("{name}-back"));
        super::trees::bring_back(&store, &tree, &target).unwrap();
        assert_eq!(std::fs::read(target.join("large")).unwrap(), [9; 20_000]);
        assert_eq!(std::fs::read(target.join("a/packed2")).unwrap(), [8; 2000]);
    }
}

#[test]
fn keys_of_results_are_fixed() {
    let parts = [("image", Digest::of(b"image").hex()), ("rules", "*.log".to_owned())];
    let key = ActionKey::new("inspect", 1, parts.clone());
    assert_eq!(key.digest().hex(), include_str!("key.txt").trim());
    assert_ne!(ActionKey::new("inspect", 2, parts.clone()).digest(), key.digest());
    let (image, rules) = (&parts[0], &parts[1]);
    let moved = [(image.0, format!("{}{}", image.1, "x")), rules.clone()];
    assert_ne!(ActionKey::new("inspect", 1, moved).digest(), key.digest());
}

#[test]
fn stores_of_other_times_are_refused_or_only_read() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::init(dir.path().join("s"), &InitOptions::default()).unwrap();
    let tree = fixed(&store);
    let path = store.path().join("VERSION.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let with = |from: &str, to: &str| {
        std::fs::write(&path, text.replace(from, to)).unwrap();
        Store::open(store.path())
    };
    assert_eq!(with("\"format\": 1", "\"format\": 2").unwrap_err().exit_code(), 7);
    assert_eq!(with("\"incompat\": []", "\"incompat\": [\"later\"]").unwrap_err().exit_code(), 7);
    assert_eq!(with("\"blake3\"", "\"sha256\"").unwrap_err().exit_code(), 7);
    let read_only = with("\"ro_compat\": []", "\"ro_compat\": [\"later\"]").unwrap();
    assert!(!read_only.is_writable());
    assert!(read_only.tree(&tree).is_ok() && read_only.import(ImportOptions::default()).is_err());
    assert!(with("\"compat\": []", "\"compat\": [\"later\"]").unwrap().is_writable());
    assert_eq!(with(&text, "{").unwrap_err().exit_code(), 8);
    assert_eq!(Store::open(dir.path()).unwrap_err().exit_code(), 2);
    std::fs::write(dir.path().join("mine"), "").unwrap();
    assert_eq!(Store::init(dir.path(), &InitOptions::default()).unwrap_err().exit_code(), 2);
}
