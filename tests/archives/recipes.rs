//! Archives of the images that `mkimages` builds, read by Python's tarfile, are what the recipes' manifests say. Without root.
#![cfg(feature = "mkimages")]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::program::program;
use super::read_back::{by_python, tree};
use super::support::have;

const TOOLS: [&str; 6] = ["mke2fs", "debugfs", "mkfs.vfat", "mcopy", "qemu-img", "python3"];

/// What a manifest and an archive both tell of a path. Digests have other tests: the archive's are of blocks.
fn told(path: &str, facts: &Value) -> Value {
    let keys = ["type", "mode", "uid", "gid", "mtime_ns", "size", "target", "rdev", "xattrs"];
    let mut told = serde_json::Map::new();
    told.insert("path".to_owned(), path.into());
    told.extend(keys.iter().filter(|key| !facts[**key].is_null()).map(|key| ((*key).to_owned(), facts[*key].clone())));
    Value::Object(told)
}

fn archived(image: &Path, device: &str, archive: &Path) -> Option<BTreeMap<String, Value>> {
    let ran = program().args(["tar-out", "-q", "-m", device]).args([image, Path::new("/"), archive]).output().unwrap();
    assert!(ran.status.success(), "{device}: {}", String::from_utf8_lossy(&ran.stderr));
    let (tree, _) = tree(&by_python(archive)?);
    let lines = tree.into_iter().map(|(path, facts)| {
        let path = guestctl::bytes::escape(&path);
        let mut line = json!({
            "type": facts.kind, "mode": format!("{:04o}", facts.mode), "uid": facts.owner.0, "gid": facts.owner.1,
            "mtime_ns": serde_json::from_str::<Value>(&facts.mtime.to_string()).unwrap(),
        });
        if facts.kind != "dir" {
            line["size"] = facts.size.into();
        }
        if let Some(target) = facts.target {
            line["target"] = guestctl::bytes::escape(&target).into();
        }
        if let Some(rdev) = facts.rdev {
            line["rdev"] = rdev.into();
        }
        if !facts.xattrs.is_empty() {
            line["xattrs"] = json!(facts.xattrs);
        }
        (path.clone(), told(&path, &line))
    });
    Some(lines.collect())
}

#[test]
fn manifests_of_every_recipe() {
    if !TOOLS.into_iter().all(have) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    let images = Path::new(env!("CARGO_MANIFEST_DIR")).join("images");
    let mut partitions = 0;
    for name in ["demo", "features-ext2", "features-ext3", "features-ext4", "mbr"] {
        let recipe = images.join(format!("{name}.toml"));
        let made = Command::new(env!("CARGO_BIN_EXE_mkimages")).arg("--out").arg(at).arg(recipe).output().unwrap();
        assert!(made.status.success(), "{name}: {}", String::from_utf8_lossy(&made.stderr));
        let image = String::from_utf8(made.stdout).unwrap().lines().next().unwrap().to_owned();
        let manifest: Value = serde_json::from_slice(&std::fs::read(at.join(format!("{name}.json"))).unwrap()).unwrap();
        for partition in manifest["partitions"].as_array().unwrap() {
            if !matches!(partition["filesystem"].as_str(), Some("vfat" | "ext2" | "ext3" | "ext4")) {
                continue;
            }
            let device = format!("/dev/sda{}", partition["number"]);
            let Some(found) = archived(Path::new(&image), &device, &at.join("archive")) else { return };
            let expected: BTreeMap<String, Value> = partition["paths"]
                .as_array()
                .unwrap()
                .iter()
                .filter(|line| line["type"] != "socket")
                .map(|line| (line["path"].as_str().unwrap().to_owned(), told(line["path"].as_str().unwrap(), line)))
                .collect();
            for path in expected.keys().chain(found.keys()) {
                assert_eq!(found.get(path), expected.get(path), "{name} {}", partition["name"]);
            }
            partitions += 1;
        }
    }
    assert!(partitions > 20, "{partitions}");
}
