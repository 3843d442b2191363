//! The named operations: what they make is what the command makes alone.

use std::path::Path;

use serde_json::{Value, json};

use crate::Yard;

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
