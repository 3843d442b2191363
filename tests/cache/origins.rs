//! The second image on one backing file: what lies there is known by its place, until the file changes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use guestctl::cache::Digest;
use serde_json::Value;

use super::program::guestctl;
use super::support::{have, shell};

/// Files of all sizes, some sparse, some with several names; and images on one backing file, each with a file of its own.
const IMAGES: &str = r#"mkdir -p t/d; cd t; n=0
    while [ $n -lt 60 ]; do head -c $((n * n * 37 + 65)) /dev/urandom > d/$n; n=$((n + 1)); done
    head -c 300000 /dev/urandom > large; head -c 3000000 /dev/urandom > larger; ln large d/linked; ln d/59 again; : > nothing
    truncate -s 2M sparse; printf data | dd of=sparse bs=1 seek=1048576 conv=notrunc 2>/dev/null; truncate -s 1M hole
    cp large copy; ln -s large link; cd ..
    mke2fs -q -t ext4 -d t base.raw 32M
    for n in 1 2 3 4; do
        head -c $((n * 100000)) /dev/urandom > own; cp base.raw whole.raw
        debugfs -w -R "write own own" whole.raw 2>/dev/null >&2
        "$GUESTCTL" convert -q --no-cache -O qcow2 -B base.raw -F raw whole.raw $n.qcow2
    done; rm whole.raw"#;

struct Yard(tempfile::TempDir);

impl Yard {
    fn new() -> Option<Self> {
        if !["mke2fs", "debugfs"].into_iter().all(have) {
            return None;
        }
        let yard = Self(tempfile::tempdir().unwrap());
        yard.images(IMAGES);
        yard.settle();
        Some(yard)
    }

    /// Runs a script that makes images; of an overlay only what differs is stored.
    fn images(&self, script: &str) {
        shell(self.0.path(), &format!("GUESTCTL={}; {script}", env!("CARGO_BIN_EXE_guestctl")));
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Waits until files are old enough to be known by their times.
    fn settle(&self) {
        std::thread::sleep(Duration::from_millis(2100));
    }

    fn cache(&self, store: &str, arguments: &[&str]) -> Value {
        let store = self.path(store);
        guestctl(["cache", "--cache-dir", store.to_str().unwrap()].iter().chain(arguments)).json()
    }

    fn add(&self, store: &str, image: &str) -> Value {
        let path = self.path(image);
        let path = path.to_str().unwrap();
        self.cache(store, &["add", "--json", "-q", "--allow-same-dir", "-m", "/dev/sda", "--name", image, path])
    }

    /// Adds an image, whose tree must be what a store that knows nothing makes of it.
    #[track_caller]
    fn right(&self, image: &str) -> Value {
        let (added, alone) = (self.add("cache", image), self.add(&format!("alone-{image}"), image));
        assert_eq!(added["tree"], alone["tree"], "{image}");
        assert_eq!((added["hit"].as_bool(), alone["hit"].as_bool()), (Some(false), Some(false)));
        added
    }

    fn tables(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.path("cache/origins")).into_iter().flatten();
        let mut tables: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        tables.sort_unstable_by_key(|path| std::fs::metadata(path).unwrap().len());
        tables
    }

    /// Gives each record of a table the blob of another one of the same length, and the table its sum.
    fn lie(&self, table: &Path) -> usize {
        let bytes = std::fs::read(table).unwrap();
        let (body, _) = bytes.split_at(bytes.len() - 32);
        let mut lies = body.to_vec();
        let blob = |at: usize| &body[at + 32..at + 72];
        let mut told = 0;
        for at in (16..body.len()).step_by(72) {
            let other = (16..body.len())
                .step_by(72)
                .find(|other| blob(*other)[32..] == blob(at)[32..] && blob(*other)[..32] != blob(at)[..32]);
            if let Some(other) = other {
                lies[at + 32..at + 72].copy_from_slice(blob(other));
                told += 1;
            }
        }
        let sum = Digest::of(&lies);
        lies.extend(sum.as_bytes());
        std::fs::write(table, lies).unwrap();
        told
    }
}

#[test]
fn the_second_image_on_a_backing_file_costs_what_is_its_own() {
    let Some(yard) = Yard::new() else { return };
    let first = yard.right("1.qcow2");
    assert!(!yard.tables().is_empty());
    let second = yard.right("2.qcow2");
    let number = |added: &Value, name: &str| added[name].as_u64().unwrap();
    assert!(number(&first, "new_blobs") > 50, "{first}");
    // Its own file alone is new.
    assert_eq!((number(&second, "new_blobs"), number(&second, "new_bytes")), (1, 200_000), "{second}");
    assert!(number(&second, "deduplicated_bytes") > 5_000_000, "{second}");
    // Everything comes back, from both.
    for (image, own) in [("1.qcow2", 100_000), ("2.qcow2", 200_000)] {
        let target = yard.path(&format!("out-{image}"));
        yard.cache("cache", &["restore", "--json", "-q", &format!("trees/{image}"), target.to_str().unwrap()]);
        assert_eq!(std::fs::metadata(target.join("own")).unwrap().len(), own);
        shell(yard.0.path(), &format!("rm -r out-{image}/own out-{image}/lost+found; diff -r t out-{image}"));
    }
    // gc took the blobs: they are read again.
    yard.cache("cache", &["rm", "--json", "1.qcow2", "2.qcow2"]);
    shell(yard.0.path(), "find cache/actions -type f -delete");
    yard.cache("cache", &["gc", "--json", "--grace", "0"]);
    assert!(!yard.tables().is_empty());
    let third = yard.right("3.qcow2");
    assert!(number(&third, "new_blobs") > 50, "{third}");
    assert_eq!(yard.cache("cache", &["verify", "--json"])["damage"], Value::Array(Vec::new()));
}

#[test]
fn what_lies_in_the_backing_file_is_not_read_again() {
    let Some(yard) = Yard::new() else { return };
    // Several files of one length whose places are known.
    shell(
        yard.0.path(),
        "rm *.qcow2; mkdir t/e; for n in 1 2 3 4 5 6 7 8; do head -c 150000 /dev/urandom > t/e/$n; done",
    );
    yard.images(IMAGES.split_once("cd ..").unwrap().1);
    yard.settle();
    yard.right("1.qcow2");
    let tables = yard.tables();
    let shared = tables.last().unwrap();
    // Whoever believes the table gets what it says.
    assert!(yard.lie(shared) >= 2);
    let lied = yard.add("cache", "2.qcow2");
    let alone = yard.add("alone", "2.qcow2");
    assert_ne!(lied["tree"], alone["tree"]);
    // Of a file that was touched nothing is believed, nor of one that was rewritten.
    shell(yard.0.path(), "touch base.raw");
    yard.right("3.qcow2");
    yard.settle();
    shell(yard.0.path(), "cp base.raw again; cat again > base.raw; touch -r again base.raw");
    yard.settle();
    yard.right("4.qcow2");
}

#[test]
fn a_damaged_table_is_none() {
    let Some(yard) = Yard::new() else { return };
    yard.right("1.qcow2");
    let flip = |path: &Path| {
        let mut bytes = std::fs::read(path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(path, bytes).unwrap();
    };
    yard.tables().iter().for_each(|path| flip(path));
    yard.right("2.qcow2");
    for path in yard.tables() {
        std::fs::File::options().write(true).open(path).unwrap().set_len(100).unwrap();
    }
    yard.right("3.qcow2");
    shell(yard.0.path(), "rm -r cache/origins; : > cache/origins");
    yard.right("4.qcow2");
}
