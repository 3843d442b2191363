//! The named operations: what they make is what the command makes alone.

use std::path::Path;

use serde_json::{Value, json};

use crate::{Batch, Yard};

fn same(a: &Path, b: &Path) -> bool {
    std::fs::read(a).unwrap() == std::fs::read(b).unwrap()
}

#[test]
fn archives_and_images_are_those_of_the_commands() {
    let yard = Yard::new(["a.qcow2", "b.qcow2"]);
    let batch = yard.batch("--op tar *.qcow2 -o out -q -- --exclude /var --numeric-owner");
    assert_eq!(batch.code, Some(0), "{batch:?}");
    yard.alone(&["tar-out", "-q", "--exclude", "/var", "--numeric-owner", "a.qcow2", "/", "alone.tar"]);
    assert!(
        same(&yard.path("alone.tar"), &yard.path("out/a.tar"))
            && same(&yard.path("alone.tar"), &yard.path("out/b.tar"))
    );
    let size = std::fs::metadata(yard.path("alone.tar")).unwrap().len();
    assert_eq!(batch.results[0]["output"]["archive_bytes"], size);

    let batch = yard.batch("--op convert -O vmdk *.qcow2 -o out -q");
    assert_eq!(batch.code, Some(0), "{batch:?}");
    yard.alone(&["convert", "-q", "-O", "raw", "a.qcow2", "alone.raw"]);
    yard.alone(&["convert", "-q", "-O", "raw", "out/b.vmdk", "again.raw"]);
    assert!(same(&yard.path("alone.raw"), &yard.path("again.raw")));

    // Nothing is written over an image of the list.
    let before = std::fs::read(yard.path("a.qcow2")).unwrap();
    let batch = yard.batch("--op convert -O qcow2 *.qcow2 -o .");
    assert_eq!(batch.code, Some(2));
    assert!(batch.err.contains("is an image of the list and would be overwritten"), "{}", batch.err);
    assert_eq!(std::fs::read(yard.path("a.qcow2")).unwrap(), before);
}

#[test]
fn digests_are_those_of_the_command() {
    let yard = Yard::new(["a.qcow2"]);
    let batch = yard.batch("--op checksum a.qcow2 -q -- -A blake3 /etc");
    let alone =
        String::from_utf8(yard.alone(&["checksum", "-q", "--json", "a.qcow2", "-A", "blake3", "/etc"])).unwrap();
    let lines: Vec<Value> = alone.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines.len() > 3);
    assert_eq!(batch.results[0]["output"], Value::Array(lines));
    assert_eq!(batch.results[0]["output_encoding"], "json-sequence");
}

#[test]
fn extracted_trees_are_whole_and_never_replaced() {
    let yard = Yard::new(["a.qcow2", "b.qcow2"]);
    let batch = yard.batch("--op extract *.qcow2 -o out -q");
    assert_eq!(batch.code, Some(0), "{batch:?}");
    for name in ["a", "b"] {
        let passwd = yard.alone(&["cat", "a.qcow2", "/etc/passwd"]);
        assert_eq!(std::fs::read(yard.path("out").join(name).join("etc/passwd")).unwrap(), passwd);
    }
    std::fs::write(yard.path("out/a/mine"), "mine").unwrap();
    let batch = yard.batch("--op extract *.qcow2 -o out -q");
    assert_eq!((batch.code, batch.all("status")), (Some(3), vec!["failed".to_owned(); 2]));
    assert_eq!(batch.results[0]["message"], "out/a exists");
    assert_eq!(std::fs::read(yard.path("out/a/mine")).unwrap(), b"mine");
    assert_eq!(batch.results[0]["attempts"], json!(0));
}

#[test]
fn with_a_cache_the_second_batch_is_answered_by_it() {
    use guestctl::cache::{EventKind, Store};
    let yard = Yard::new(["a.qcow2", "b.qcow2"]);
    std::fs::OpenOptions::new().append(true).open(yard.path("b.qcow2")).unwrap().set_len(4 << 20).unwrap();
    let count = |operation: &str, kind| {
        let events = Store::open(yard.path("cache")).unwrap().events(0).unwrap();
        events.iter().filter(|event| event.event == kind && event.operation == operation).count()
    };
    let outputs = |batch: Batch| {
        assert_eq!((batch.code, batch.err.as_str()), (Some(0), ""));
        batch.results.into_iter().map(|result| result["output"].clone()).collect::<Vec<_>>()
    };
    for (operation, more) in [("inspect", ""), ("checksum", " -- /etc")] {
        let run = |cache: &str| outputs(yard.batch(&format!("--op {operation} *.qcow2 -q{cache}{more}")));
        let plain = run("");
        assert_eq!(run(" --cache-dir cache"), plain);
        let (hits, misses) = (count(operation, EventKind::Hit), count(operation, EventKind::Miss));
        assert_eq!(misses, 2, "{operation}");
        assert_eq!(run(" --cache-dir cache"), plain);
        assert_eq!(count(operation, EventKind::Miss), 2, "{operation}");
        assert!(count(operation, EventKind::Hit) >= hits + 2, "{operation}");
    }
}

/// What find and sha256sum say of a tree.
fn witness(directory: &Path) -> Vec<u8> {
    let script = r"find . -printf '%P %y %m %T@ %l %n ' \( -type f -printf '%s' -o -printf '-' \) -printf '\n' | sort
        find . -type f -print0 | sort -z | xargs -0 sha256sum";
    crate::support::shell(directory, script).stdout
}

#[test]
fn with_a_cache_trees_come_from_there_and_are_the_same() {
    let yard = Yard::new(["a.qcow2", "d/a.qcow2"]);
    let extract = |out: &str, cache: &str| {
        let batch = yard.batch(&format!("--op extract a.qcow2 d/a.qcow2 -o {out} -q {cache}"));
        assert_eq!((batch.code, batch.err.as_str()), (Some(0), ""), "{batch:?}");
        batch
    };
    let names = |batch: &Batch| batch.all("name");
    let plain = extract("plain", "");
    assert_eq!(plain.results[0]["output"]["cached"], Value::Null);
    for out in ["first", "second"] {
        let batch = extract(out, "--cache-dir cache");
        assert_eq!(names(&batch), names(&plain));
        for (result, name) in batch.results.iter().zip(names(&plain)) {
            assert_eq!(result["output"]["cached"], true, "{result}");
            let (cached, copied) = (yard.path(out).join(&name), yard.path("plain").join(&name));
            assert!(witness(&cached) == witness(&copied), "{out} {name}");
        }
    }
    let name = &names(&plain)[0];
    let one = yard.path("plain").join(name);
    let batch = yard.batch("--op extract a.qcow2 d/a.qcow2 -o first -q --cache-dir cache");
    assert_eq!(batch.results[0]["message"], format!("first/{name} exists"));
    // An image is that image, whatever tree has its name.
    yard.alone(&["cache", "--cache-dir", "cache", "seed", "-q", "--name", "a.qcow2", "d"]);
    let batch = extract("third", "--cache-dir cache");
    assert!(witness(&yard.path("third").join(name)) == witness(&one), "{batch:?}");
    // Further arguments are copy-out's.
    let batch = yard.batch("--op extract a.qcow2 -o some -q --cache-dir cache -- --exclude /var");
    assert_eq!(batch.code, Some(0), "{batch:?}");
    assert!(!yard.path("some/a/var").exists() && yard.path("some/a/etc").exists());
    // A cache that cannot be used is none.
    std::fs::write(yard.path("cache/VERSION.json"), "{").unwrap();
    let batch = yard.batch("--op extract a.qcow2 -o last -q --cache-dir cache");
    assert_eq!(batch.code, Some(0), "{batch:?}");
    assert!(witness(&yard.path("last/a")) == witness(&one));
}
