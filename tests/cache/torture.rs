//! Writers, readers and collectors at once, each with a store of its own as processes have.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use guestctl::cache::{Described, Digest, Prepared, Source};
use guestctl::cache::{GcOptions, ImportOptions, Ref, Store, Verify, VerifyOptions};
use guestctl::fs::{FileType, Metadata, Timestamp};
use guestctl::progress::Silent;

use super::trees::{options, store};

const WRITERS: u64 = 16;
const READERS: u64 = 16;
const COLLECTORS: u64 = 4;
/// Different contents; writers share them, so that what one stores another relies on.
const CONTENTS: u64 = 40;

fn content(number: u64) -> Vec<u8> {
    let len = 100 + (number * 7919) % 40_000;
    number
        .to_le_bytes()
        .iter()
        .copied()
        .cycle()
        .enumerate()
        .map(|(at, byte)| byte ^ at as u8)
        .take(len as usize)
        .collect()
}

pub fn metadata(file_type: FileType, size: u64) -> Metadata {
    let time = Timestamp { seconds: 1_700_000_000, nanoseconds: 0 };
    Metadata {
        inode: 1,
        file_type,
        permissions: 0o755,
        uid: 0,
        gid: 0,
        nlink: 1,
        size,
        blocks: 0,
        block_size: 4096,
        rdev: None,
        atime: time,
        mtime: time,
        ctime: time,
        crtime: None,
        encrypted: false,
    }
}

/// A tree of some contents, named by their numbers.
fn write(store: &Store, name: &str, first: u64) -> guestctl::Result<Digest> {
    let import = store.import(ImportOptions::default())?;
    let described =
        |path: String, metadata| Described { path: path.into_bytes(), metadata, xattrs: Vec::new(), link: None };
    import.push(described(String::new(), metadata(FileType::Dir, 0)), Prepared::nothing())?;
    for number in first..first + 6 {
        let bytes = content(number % CONTENTS);
        let prepared = import.prepare(Source::Bytes(&bytes))?;
        import.push(
            described(format!("{:02}", number % CONTENTS), metadata(FileType::File, bytes.len() as u64)),
            prepared,
        )?;
    }
    Ok(import.finish(Some(&Ref::new("trees", name, Digest::of(b""))?))?.tree)
}

fn check(tree: &Path) {
    let mut files = 0;
    for entry in std::fs::read_dir(tree).unwrap() {
        let path = entry.unwrap().path();
        let number: u64 = path.file_name().unwrap().to_str().unwrap().parse().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), content(number), "{}", path.display());
        files += 1;
    }
    assert_eq!(files, 6);
}

#[test]
fn writers_readers_and_collectors_lose_nothing() {
    let seconds = std::env::var("GUESTCTL_TORTURE_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(4);
    let dir = tempfile::tempdir().unwrap();
    let root = store(dir.path()).path().to_owned();
    let (stop, turns) = (AtomicBool::new(false), [const { AtomicU64::new(0) }; 3]);
    let until = Instant::now() + Duration::from_secs(seconds);
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (root, stop, turns) = (&root, &stop, &turns);
            scope.spawn(move || {
                let mut round = writer * 13;
                while !stop.load(Ordering::Relaxed) {
                    let store = Store::open(root).unwrap();
                    let name = format!("w{writer}");
                    let tree = write(&store, &name, round).unwrap();
                    // Reported stored: there, and stays until its name goes.
                    assert_eq!(store.get_ref("trees", &name).unwrap().unwrap().tree, tree);
                    round += 5;
                    if round % 3 == 0 {
                        store.remove_ref("trees", &name).unwrap();
                    }
                    turns[0].fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for reader in 0..READERS {
            let (root, stop, turns, dir) = (&root, &stop, &turns, dir.path());
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let store = Store::open(root).unwrap().with_verification(Verify::Always);
                    let Ok(refs) = store.refs() else { continue };
                    for named in refs {
                        let target = dir.join(format!("r{reader}"));
                        match store.restore(&named.tree, &target, &options(), &Silent) {
                            Ok(_) => {
                                check(&target);
                                std::fs::remove_dir_all(&target).unwrap();
                                turns[1].fetch_add(1, Ordering::Relaxed);
                            }
                            // Its name was taken away meanwhile, and gc has no grace here.
                            Err(error) => {
                                let now = store.get_ref("trees", &named.name).unwrap();
                                assert!(now.as_ref() != Some(&named), "{error}");
                                assert!(!target.exists());
                            }
                        }
                    }
                }
            });
        }
        for _ in 0..COLLECTORS {
            let (root, stop, turns) = (&root, &stop, &turns);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let store = Store::open(root).unwrap();
                    store.gc(&GcOptions { grace: Duration::ZERO, ..GcOptions::default() }).unwrap();
                    turns[2].fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        while Instant::now() < until {
            std::thread::sleep(Duration::from_millis(50));
        }
        stop.store(true, Ordering::Relaxed);
    });
    let turns = turns.map(AtomicU64::into_inner);
    assert!(turns.iter().all(|count| *count > 0), "{turns:?}");
    let store = Store::open(&root).unwrap().with_verification(Verify::Always);
    assert_eq!(store.verify(&VerifyOptions::default(), &Silent).unwrap().damage, []);
    for named in store.refs().unwrap() {
        let target = dir.path().join("last");
        store.restore(&named.tree, &target, &options(), &Silent).unwrap();
        check(&target);
        std::fs::remove_dir_all(&target).unwrap();
    }
}
