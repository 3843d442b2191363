use super::*;
use crate::cache::Digest;
use crate::fs::{DeviceNumber, FileType, Metadata, Timestamp, Xattr};

fn metadata(file_type: FileType, size: u64) -> Metadata {
    let time = |seconds, nanoseconds| Timestamp { seconds, nanoseconds };
    Metadata {
        inode: 7,
        file_type,
        permissions: if file_type == FileType::Dir { 0o1755 } else { 0o4640 },
        uid: 1000,
        gid: 65_534,
        nlink: 1,
        size,
        blocks: 0,
        block_size: 4096,
        rdev: matches!(file_type, FileType::Char | FileType::Block).then_some(DeviceNumber { major: 8, minor: 300 }),
        atime: time(1_700_000_000, 1),
        mtime: time(-5, 999_999_999),
        ctime: time(4_102_444_800, 0),
        crtime: Some(time(9, 9)),
        encrypted: false,
    }
}

fn entry(path: &str, file_type: FileType, size: u64, content: NewContent) -> NewEntry {
    let metadata = metadata(file_type, size);
    NewEntry { path: path.into(), metadata, xattrs: Vec::new(), content, link: None, sparse: None }
}

fn xattr(name: &str, value: &[u8]) -> Xattr {
    Xattr { name: name.into(), value: value.to_vec() }
}

/// One of everything.
fn sample() -> Vec<NewEntry> {
    let blob = |text: &str, len| NewContent::Blob(Digest::of(text.as_bytes()), len);
    let mut linked = entry("etc/z-link", FileType::File, 100, NewContent::Linked);
    linked.link = Some(44);
    let mut first = entry("etc/passwd", FileType::File, 100, blob("passwd", 100));
    first.link = Some(44);
    first.xattrs = vec![xattr("user.b", b""), xattr("security.capability", &[1, 0, 0, 2]), xattr("user.a", b"1")];
    let mut sparse = entry("var/lib/disk", FileType::File, 1 << 40, blob("disk", 8192));
    sparse.sparse = Some(vec![Run { offset: 0, len: 4096 }, Run { offset: 1 << 30, len: 4096 }]);
    let mut hole = entry("var/hole", FileType::File, 5000, NewContent::None);
    hole.sparse = Some(Vec::new());
    vec![
        entry("", FileType::Dir, 4096, NewContent::None),
        entry("etc", FileType::Dir, 4096, NewContent::None),
        first,
        linked,
        entry("etc/hostname", FileType::File, 5, NewContent::Inline(b"web1\n".to_vec())),
        entry("etc/empty", FileType::File, 0, NewContent::None),
        entry("var", FileType::Dir, 4096, NewContent::None),
        entry("var/lib", FileType::Dir, 4096, NewContent::None),
        sparse,
        hole,
        entry("var/run", FileType::Symlink, 4, NewContent::Target(b"/run".to_vec())),
        entry("dev", FileType::Dir, 0, NewContent::None),
        entry("dev/sda", FileType::Block, 0, NewContent::None),
        entry("dev/fifo", FileType::Fifo, 0, NewContent::None),
        entry("dev/sock\u{e9}", FileType::Socket, 0, NewContent::None),
        entry("dup", FileType::File, 100, blob("passwd", 100)),
    ]
}

fn build(entries: Vec<NewEntry>, times: bool) -> Manifest {
    let mut builder = Builder::new(times);
    entries.into_iter().for_each(|entry| builder.push(entry).unwrap());
    builder.finish().unwrap()
}

#[test]
fn what_goes_in_comes_out() {
    let manifest = build(sample(), true);
    manifest.validate().unwrap();
    assert_eq!((manifest.len(), manifest.directories(), manifest.blobs()), (16, 5, 2));
    for new in sample() {
        let found = manifest.lookup(&new.path).unwrap().unwrap();
        assert_eq!(manifest.path(found.index).unwrap(), new.path);
        let shown = (found.file_type, found.permissions, found.uid, found.gid, found.mtime);
        let metadata = &new.metadata;
        assert_eq!(shown, (metadata.file_type, metadata.permissions, 1000, 65_534, metadata.mtime));
        let times = manifest.times(found.index).unwrap().unwrap();
        assert_eq!(times, Times::from(metadata));
        match (&new.content, found.content) {
            (NewContent::Inline(a), Content::Inline(b)) | (NewContent::Target(a), Content::Target(b)) => {
                assert_eq!(a, b);
            }
            (NewContent::Blob(digest, len), Content::Blob(blob)) => {
                assert_eq!(manifest.blob(blob).unwrap(), (*digest, *len));
            }
            (NewContent::Linked, Content::Blob(blob)) => {
                assert_eq!(manifest.blob(blob).unwrap(), (Digest::of(b"passwd"), 100));
            }
            (NewContent::None, Content::Device(device)) => assert_eq!(Some(device), metadata.rdev),
            (NewContent::None, Content::None | Content::Directory(_)) => {}
            (a, b) => panic!("{a:?} became {b:?}"),
        }
        assert_eq!(found.sparse.map(|map| manifest.sparse(map).unwrap()), new.sparse);
    }
    let passwd = manifest.lookup(b"etc/passwd").unwrap().unwrap();
    let names: Vec<_> = manifest.xattrs(passwd.xattrs.unwrap()).unwrap();
    assert_eq!(
        names.iter().map(|xattr| &xattr.name[..]).collect::<Vec<_>>(),
        [&b"security.capability"[..], b"user.a", b"user.b"]
    );
    let link = manifest.lookup(b"etc/z-link").unwrap().unwrap();
    assert_eq!((passwd.leader, link.leader, link.xattrs), (Some(passwd.index), Some(passwd.index), passwd.xattrs));
    assert!(manifest.lookup(b"etc/passwd/x").unwrap().is_none());
    assert!(manifest.lookup(b"nothing").unwrap().is_none());
}

#[test]
fn the_bytes_are_a_contract() {
    let manifest = build(sample(), true);
    assert_eq!(manifest.id().hex(), GOLDEN, "a change here makes every stored tree unreadable: raise the version");
    let root = manifest.directory(0).unwrap().subtree;
    assert_eq!(root.hex(), GOLDEN_SUBTREE);
    // Times for information change the id and not what is restored.
    let plain = build(sample(), false);
    assert_ne!(plain.id(), manifest.id());
    assert_eq!(plain.directory(0).unwrap().subtree, root);
    assert_eq!(plain.times(3).unwrap(), None);
}

const GOLDEN: &str = "fd850bbcdcb44d7de896d402f3fb306d82aaa8f8c92818233c9556583a44b445";
const GOLDEN_SUBTREE: &str = "29843aea041ca61788dbd2be117813e1e5d9a35daec3bdcdf0414cad9f28f49c";

#[test]
fn the_order_of_arrival_does_not_matter() {
    let mut entries = sample();
    let root = entries.remove(0);
    entries.sort_by_key(|entry| (entry.path.iter().filter(|byte| **byte == b'/').count(), entry.path.len()));
    entries.insert(0, root);
    assert_eq!(build(entries, true).id(), build(sample(), true).id());
}

#[test]
fn every_flipped_bit_is_refused_by_the_id() {
    let manifest = build(sample(), true);
    let (bytes, id) = (manifest.as_bytes().to_vec(), manifest.id());
    Manifest::verified(bytes.clone(), &id).unwrap();
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(Manifest::verified(flipped, &id).is_err(), "bit {bit}");
    }
    for len in 0..bytes.len() {
        assert!(Manifest::verified(bytes[..len].to_vec(), &id).is_err(), "{len} bytes");
    }
}

/// Without the id a manifest from elsewhere can say anything that its rules allow, and nothing else: no name leads out, no
/// directory contains itself, reading ends.
#[test]
fn no_change_of_a_byte_breaks_a_rule_unseen() {
    let manifest = build(sample(), true);
    let bytes = manifest.as_bytes().to_vec();
    let mut valid = 0;
    for at in 0..bytes.len() {
        for value in [0, 1, 2, 4, 46, 47, 0x7f, 0xff] {
            let mut changed = bytes.clone();
            changed[at] = value;
            if changed == bytes {
                continue;
            }
            let Ok(manifest) = Manifest::new(changed) else { continue };
            // Accessors never panic, whatever they are asked.
            for index in 0..manifest.len().saturating_add(2) {
                let _ = (manifest.entry(index), manifest.path(index), manifest.times(index), manifest.directory(index));
                let _ = (manifest.xattrs(index), manifest.sparse(index), manifest.blob(index));
            }
            let _ = manifest.lookup(b"var/lib/disk");
            if manifest.validate().is_ok() {
                valid += 1;
                for index in 1..manifest.len() {
                    let path = manifest.path(index).unwrap();
                    assert!(path.split(|byte| *byte == b'/').all(|name| !matches!(name, b"" | b"." | b"..")));
                    assert_eq!(manifest.lookup(&path).unwrap().unwrap().index, index);
                }
            }
        }
    }
    // What subtree digests do not cover: times for information, the root's own owner, mode and mtime.
    let free = usize::try_from(manifest.len()).unwrap() * TIMES + ENTRY;
    assert!(valid > 0 && valid < free * 8, "{valid} changes passed");
}

#[test]
fn rules_of_the_builder() {
    let push = |entries: Vec<NewEntry>| {
        let mut builder = Builder::new(false);
        entries.into_iter().try_for_each(|entry| builder.push(entry)).and_then(|()| builder.finish()).map(|_| ())
    };
    let root = || entry("", FileType::Dir, 0, NewContent::None);
    let file = |path: &str| entry(path, FileType::File, 0, NewContent::None);
    assert!(push(vec![root(), file("a"), file("b")]).is_ok());
    for bad in ["..", ".", "a/b", "no/dir"] {
        assert!(push(vec![root(), file("a"), file(bad)]).is_err(), "{bad}");
    }
    assert!(push(vec![root(), file("a"), file("a")]).is_err());
    assert!(push(vec![file("a")]).is_err());
    assert!(push(vec![root(), root()]).is_err());
    assert!(push(vec![]).is_err());
    assert!(push(vec![root(), entry("a", FileType::File, 9, NewContent::Inline(vec![1]))]).is_err());
    assert!(push(vec![root(), entry("a", FileType::File, 9, NewContent::Linked)]).is_err());
    assert!(push(vec![root(), entry("a", FileType::File, 9, NewContent::Target(vec![1]))]).is_err());
}

/// A small generator of trees: what is built is what is read, for many of them.
#[test]
fn built_trees_are_read_back() {
    for seed in 0..200u64 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut random = move |bound: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % bound
        };
        let mut directories = vec![String::new()];
        let mut entries = vec![entry("", FileType::Dir, 0, NewContent::None)];
        for number in 0..random(60) {
            let parent = directories[random(directories.len() as u64) as usize].clone();
            let separator = if parent.is_empty() { "" } else { "/" };
            let path = format!("{parent}{separator}{}{number}", ["a", "Z", "\u{e4}", "_"][random(4) as usize]);
            entries.push(match random(5) {
                0 => {
                    directories.push(path.clone());
                    entry(&path, FileType::Dir, 0, NewContent::None)
                }
                1 => entry(&path, FileType::Symlink, 2, NewContent::Target(b"to".to_vec())),
                2 => entry(&path, FileType::File, 3, NewContent::Inline(vec![1, 2, 3])),
                3 => entry(&path, FileType::File, 65, NewContent::Blob(Digest::of(&[random(4) as u8]), 65)),
                _ => entry(&path, FileType::Char, 0, NewContent::None),
            });
        }
        let manifest = build(entries.clone(), seed % 2 == 0);
        manifest.validate().unwrap();
        let again = Manifest::verified(manifest.as_bytes().to_vec(), &manifest.id()).unwrap();
        assert_eq!(again.len() as usize, entries.len());
        for new in entries {
            let found = again.lookup(&new.path).unwrap().unwrap();
            assert_eq!((found.file_type, again.path(found.index).unwrap()), (new.metadata.file_type, new.path));
        }
    }
}
