//! A store of a million objects: gc takes seconds, and nobody waits for it. Run by hand:
//! `cargo test --test cache million -- --ignored --nocapture`; TMPDIR says where the store is made.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use guestctl::cache::{Described, GcOptions, ImportOptions, InitOptions, Prepared, Ref, Source, Store};
use guestctl::fs::FileType;

use super::torture::metadata;

const LIVING: u64 = 500_000;
const DEAD: u64 = 500_000;

#[test]
#[ignore = "takes minutes, and says how long gc does"]
fn gc_of_a_million_objects_is_quick_and_blocks_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let options = InitOptions { pack_threshold: Some(0), ..InitOptions::default() };
    let store = Store::init(dir.path().join("store"), &options).unwrap();
    let started = Instant::now();
    let import = store.import(ImportOptions::default()).unwrap();
    let described = |path: String, metadata| Described { path: path.into(), metadata, xattrs: Vec::new(), link: None };
    import.push(described(String::new(), metadata(FileType::Dir, 0)), Prepared::nothing()).unwrap();
    for number in 0..LIVING {
        let prepared = import.prepare(Source::Bytes(&[number.to_le_bytes(); 9].concat())).unwrap();
        import.push(described(format!("{number:07}"), metadata(FileType::File, 72)), prepared).unwrap();
    }
    let tree =
        import.finish(Some(&Ref::new("trees", "living", guestctl::cache::Digest::of(b"")).unwrap())).unwrap().tree;
    for number in 0..DEAD {
        let hex = guestctl::cache::Digest::of(&number.to_le_bytes()).hex();
        std::fs::write(store.path().join("objects").join(&hex[..2]).join(&hex[2..]), b"dead").unwrap();
    }
    eprintln!("made in {:.1?}", started.elapsed());
    let dry = Instant::now();
    let report = store.gc(&GcOptions { dry_run: true, ..GcOptions::default() }).unwrap();
    let dry = dry.elapsed();
    assert_eq!(report.condemned_objects, DEAD);
    // A reader and a publisher, all the time.
    let done = AtomicBool::new(false);
    let (taken, waited) = std::thread::scope(|scope| {
        let longest = |work: &dyn Fn()| {
            let mut longest = Duration::ZERO;
            while !done.load(Ordering::Relaxed) {
                let started = Instant::now();
                work();
                longest = longest.max(started.elapsed());
            }
            longest
        };
        let path = store.path();
        let publisher = scope.spawn(move || {
            let store = Store::open(path).unwrap();
            longest(&|| {
                let reference = Ref::new("trees", "again", tree).unwrap();
                // Not `set_ref`, which looks at every blob.
                store
                    .record_action(
                        guestctl::cache::ActionKey::new("test", 1, []),
                        vec![reference.tree],
                        String::new(),
                        0,
                    )
                    .unwrap();
            })
        });
        let started = Instant::now();
        let report = store.gc(&GcOptions { grace: Duration::ZERO, ..GcOptions::default() }).unwrap();
        let taken = started.elapsed();
        done.store(true, Ordering::Relaxed);
        assert_eq!((report.condemned_objects, report.live_blobs), (DEAD, LIVING));
        eprintln!("longest slice {:.1?}", Duration::from_nanos(report.longest_slice_ns));
        (taken, publisher.join().unwrap())
    });
    eprintln!("dry run {dry:.1?}, gc {taken:.1?}, the publisher waited {waited:.1?} at most");
    assert!(
        dry < Duration::from_secs(10) && taken < Duration::from_secs(20) && waited < Duration::from_secs(1),
        "{dry:?} {taken:?} {waited:?}"
    );
}
