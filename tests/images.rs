//! Builds every recipe in `images/` and holds what is on the disks against the manifests, which are computed from the
//! recipes: by sfdisk, e2fsck, fsck.vfat and the kernel, and by our own reading.
#![cfg(feature = "mkimages")]
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use guestctl::block::{BlockDevice, HostFile, Slice};
use guestctl::bytes::escape;
use guestctl::fs::{self, DeviceNumber, FileType, Filesystem, Inode};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use support::{have, root, shell};

const TOOLS: [&str; 9] =
    ["mke2fs", "debugfs", "e2fsck", "mkfs.vfat", "fsck.vfat", "mcopy", "mkswap", "qemu-img", "sfdisk"];

const RECIPES: [&str; 6] = ["demo", "features-ext2", "features-ext3", "features-ext4", "mbr", "multiboot"];

fn images() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("images")
}

fn mkimages(out: &Path, recipe: &Path) -> std::process::Output {
    Command::new(env!("CARGO_BIN_EXE_mkimages")).arg("--out").arg(out).arg(recipe).output().unwrap()
}

/// A built recipe: the disk as raw bytes, and its manifest.
struct Built {
    disk: PathBuf,
    manifest: Value,
}

impl Built {
    fn partitions(&self) -> &[Value] {
        self.manifest["partitions"].as_array().unwrap()
    }

    fn device(&self, partition: &Value) -> Arc<dyn BlockDevice> {
        let disk: Arc<dyn BlockDevice> = Arc::new(HostFile::open(&self.disk).unwrap());
        Arc::new(Slice::new(disk, number(partition, "start"), number(partition, "size")).unwrap())
    }
}

fn number(value: &Value, key: &str) -> u64 {
    value[key].as_u64().unwrap()
}

fn build(out: &Path, name: &str) -> Built {
    let output = mkimages(out, &images().join(format!("{name}.toml")));
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    let files = String::from_utf8(output.stdout).unwrap();
    let first = files.lines().next().unwrap().to_owned();
    let disk = match first.ends_with(".raw") {
        true => PathBuf::from(first),
        false => {
            let raw = out.join(format!("{name}.converted"));
            shell(out, &format!("qemu-img convert -O raw {first} {}", raw.display()));
            raw
        }
    };
    let manifest = std::fs::read(out.join(format!("{name}.json"))).unwrap();
    Built { disk, manifest: serde_json::from_slice(&manifest).unwrap() }
}

/// Every recipe, built once for all tests; `None` when tools are missing.
fn built() -> Option<&'static BTreeMap<&'static str, Built>> {
    static BUILT: OnceLock<Option<(tempfile::TempDir, BTreeMap<&'static str, Built>)>> = OnceLock::new();
    let built = BUILT.get_or_init(|| {
        if !TOOLS.into_iter().all(have) {
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let built = RECIPES.into_iter().map(|name| (name, build(directory.path(), name))).collect();
        Some((directory, built))
    });
    built.as_ref().map(|(_, built)| built)
}

#[test]
fn every_recipe_is_tested() {
    let mut found: Vec<String> = std::fs::read_dir(images())
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().into_string().unwrap().strip_suffix(".toml").map(str::to_owned))
        .collect();
    found.sort();
    assert_eq!(found, RECIPES);
}

#[test]
fn partition_tables_are_what_the_recipes_ask_for() {
    let Some(built) = built() else { return };
    for (name, image) in built {
        let output = shell(image.disk.parent().unwrap(), &format!("sfdisk -J {}", image.disk.display()));
        let table: Value = serde_json::from_slice(&output.stdout).unwrap();
        let found: Vec<_> = table["partitiontable"]["partitions"].as_array().unwrap().iter().collect();
        assert_eq!(found.len(), image.partitions().len(), "{name}");
        for (found, partition) in found.into_iter().zip(image.partitions()) {
            let node = found["node"].as_str().unwrap();
            assert!(node.ends_with(&partition["number"].to_string()), "{name}: {node}");
            assert_eq!(number(found, "start") * 512, number(partition, "start"), "{name} {node}");
            assert_eq!(number(found, "size") * 512, number(partition, "size"), "{name} {node}");
            let lower = |value: &Value| value.as_str().unwrap_or_default().to_lowercase();
            let kind = lower(&partition["type"]);
            let kind = kind.strip_prefix("0x").map(|byte| byte.trim_start_matches('0')).unwrap_or(&kind);
            assert_eq!(lower(&found["type"]), kind, "{name} {node}");
            if image.manifest["table"] == "gpt" {
                assert_eq!(lower(&found["uuid"]), lower(&partition["uuid"]), "{name} {node}");
                assert_eq!(found["name"], partition["name"], "{name} {node}");
            }
        }
    }
}

#[test]
fn filesystems_are_clean_and_named_as_asked() {
    let Some(built) = built() else { return };
    for (name, image) in built {
        let directory = image.disk.parent().unwrap();
        for partition in image.partitions() {
            let Some(kind) = partition["filesystem"].as_str() else { continue };
            let (start, size) = (number(partition, "start"), number(partition, "size"));
            let check = match kind {
                "vfat" => "fsck.vfat -n",
                "swap" => "true",
                _ => "e2fsck -f -n",
            };
            let disk = image.disk.display();
            shell(
                directory,
                &format!(
                    "rm -f part; dd if={disk} of=part bs=1M iflag=skip_bytes,count_bytes skip={start} count={size} conv=sparse 2>/dev/null; {check} part"
                ),
            );

            let identity = fs::probe(&*image.device(partition)).unwrap();
            assert_eq!(identity.kind.name(), kind, "{name} {}", partition["name"]);
            assert_eq!(identity.label.as_deref(), partition["label"].as_str(), "{name}");
            assert_eq!(identity.uuid.as_deref(), partition["filesystem_uuid"].as_str(), "{name}");
        }
    }
}

#[test]
fn the_same_recipe_gives_the_same_bytes() {
    let Some(built) = built() else { return };
    let again = tempfile::tempdir().unwrap();
    for name in ["features-ext2", "mbr", "multiboot"] {
        let disks = [&built[name].disk, &build(again.path(), name).disk].map(|path| path.display().to_string());
        shell(again.path(), &format!("cmp {}", disks.join(" ")));
    }
}

#[test]
fn the_committed_demo_is_what_its_recipe_gives() {
    let Some(built) = built() else { return };
    let demo = images().join("demo.qcow2");
    assert!(std::fs::metadata(&demo).unwrap().len() < 200 << 10);
    let directory = built["demo"].disk.parent().unwrap();
    let output = Command::new("mke2fs").env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin").arg("-V").output();
    let version = output.map(|output| String::from_utf8_lossy(&output.stderr).into_owned()).unwrap_or_default();
    if !version.starts_with("mke2fs 1.47.0 ") {
        support::skipped(format_args!("needs the mke2fs that made the demo, 1.47.0"));
        return;
    }
    let (ours, fresh) = (demo.display(), built["demo"].disk.display());
    shell(directory, &format!("qemu-img compare -f qcow2 -F raw {ours} {fresh}"));
}

#[test]
fn errors_name_what_is_wrong() {
    let directory = tempfile::tempdir().unwrap();
    let head = "[image]\nname = \"x\"\nsize = \"4M\"\nformats = []\ntable = \"none\"\n";
    let fat = "[[partition]]\nfs = { type = \"vfat\", uuid = \"12345678\" }\n";
    let cases = [
        ("[image]\nname = \"x\"\ncolour = 1\n".to_owned(), "unknown field `colour`"),
        (format!("{head}[[partition]]\nsize = \"many\"\n"), "'many' is no size"),
        (format!("{head}{fat}[[partition.symlink]]\npath = \"/a\"\ntarget = \"b\"\n"), "/a: FAT knows only files"),
        (format!("{head}{fat}[[partition.file]]\npath = \"a\"\n"), "'a' is no plain absolute path"),
        (format!("{head}{fat}[[partition.file]]\npath = \"/a/../b\"\n"), "no plain absolute path"),
        (
            format!("{head}{fat}[[partition.file]]\npath = \"/a\"\n[[partition.dir]]\npath = \"/a\"\n"),
            "/a: given twice",
        ),
        (format!("{head}{fat}[[partition.file]]\npath = \"/a\"\nmode = \"9\"\n"), "/a: the mode is not octal"),
        (head.replace("none", "gpt") + "[[partition]]\ntype = \"moon\"\nsize = \"1M\"\n", "'moon' is no known type"),
        (head.replace("none", "gpt") + "[[partition]]\ntype = \"linux\"\nsize = \"9M\"\n", "do not fit"),
    ];
    for (recipe, expected) in cases {
        let path = directory.path().join("recipe.toml");
        std::fs::write(&path, &recipe).unwrap();
        let output = mkimages(directory.path(), &path);
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{recipe}");
        assert!(message.contains(expected), "{message}");
    }
    let missing = Command::new(env!("CARGO_BIN_EXE_mkimages"))
        .env("PATH", "/nowhere")
        .arg("--out")
        .arg(directory.path())
        .arg(images().join("demo.toml"))
        .output()
        .unwrap();
    let message = String::from_utf8(missing.stderr).unwrap();
    // mkfs.vfat lies in /usr/sbin, which is always searched; mmd does not.
    assert!(message.contains("is missing: install the Debian package"), "{message}");
}

/// The facts of every path of a partition, as the manifest has them.
fn expected(partition: &Value) -> BTreeMap<String, Value> {
    let paths = partition["paths"].as_array().unwrap();
    paths.iter().map(|line| (line["path"].as_str().unwrap().to_owned(), line.clone())).collect()
}

/// Compares path by path, so that a failure names it.
fn compare(what: &str, expected: &BTreeMap<String, Value>, found: &BTreeMap<String, Value>) {
    let names = |map: &BTreeMap<String, Value>| map.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(found), names(expected), "{what}");
    for (path, expected) in expected {
        if &found[path] != expected {
            let [found, expected] =
                [&found[path], expected].map(|line| line.to_string().chars().take(2000).collect::<String>());
            panic!("{what}: {path}\n   found {found}\nexpected {expected}");
        }
    }
}

/// One path's facts as a line of the manifest.
struct Facts {
    path: Vec<u8>,
    kind: FileType,
    mode: u32,
    owner: (u32, u32),
    size: u64,
    links: u64,
    mtime: i128,
    rdev: Option<DeviceNumber>,
    target: Option<Vec<u8>>,
    xattrs: BTreeMap<String, String>,
    sha256: Option<String>,
}

impl Facts {
    fn line(self) -> (String, Value) {
        let path = escape(&self.path);
        let mut line = json!({
            "path": path, "type": self.kind.name(), "mode": format!("{:04o}", self.mode), "uid": self.owner.0,
            "gid": self.owner.1, "nlink": self.links, "mtime_ns": i64::try_from(self.mtime).ok(),
        });
        // Past the year 2262 nanoseconds need more than 64 bits.
        if line["mtime_ns"].is_null() {
            line["mtime_ns"] = serde_json::from_str(&self.mtime.to_string()).unwrap();
        }
        if self.kind != FileType::Dir {
            line["size"] = self.size.into();
        }
        if let Some(DeviceNumber { major, minor }) = self.rdev {
            line["rdev"] = format!("{major}:{minor}").into();
        }
        if let Some(target) = self.target {
            line["target"] = escape(&target).into();
        }
        if !self.xattrs.is_empty() {
            line["xattrs"] = json!(self.xattrs);
        }
        if let Some(sha256) = self.sha256 {
            line["sha256"] = sha256.into();
        }
        (path, line)
    }
}

fn hex(digest: impl AsRef<[u8]>) -> String {
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Our own reading of a filesystem.
fn read(fs: &dyn Filesystem) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    let mut rest: Vec<(Vec<u8>, Inode)> = vec![(b"/".to_vec(), fs.root())];
    while let Some((path, inode)) = rest.pop() {
        let metadata = fs.metadata(inode).unwrap();
        let kind = metadata.file_type;
        if kind == FileType::Dir {
            fs.read_dir(inode, &mut |entry| {
                let prefix = if path == b"/" { &b""[..] } else { &path };
                assert_eq!(fs.lookup(inode, &entry.name)?, Some(entry.inode));
                rest.push(([prefix, b"/", &entry.name].concat(), entry.inode));
                Ok(ControlFlow::Continue(()))
            })
            .unwrap();
        }
        let sha256 = (kind == FileType::File).then(|| {
            let file = fs.open(inode).unwrap();
            assert_eq!(file.size(), metadata.size);
            let mut digest = Sha256::new();
            let mut buf = vec![0; 1 << 20];
            let mut at = 0;
            while at < file.size() {
                let len = usize::try_from(file.size() - at).unwrap().min(buf.len());
                file.read_exact_at(&mut buf[..len], at).unwrap();
                digest.update(&buf[..len]);
                at += len as u64;
            }
            hex(digest.finalize())
        });
        let xattrs = fs.xattrs(inode).unwrap().into_iter();
        let facts = Facts {
            kind,
            mode: metadata.permissions,
            owner: (metadata.uid, metadata.gid),
            size: metadata.size,
            links: metadata.nlink,
            mtime: metadata.mtime.total_nanoseconds(),
            rdev: metadata.rdev,
            target: (kind == FileType::Symlink).then(|| fs.read_link(inode).unwrap()),
            xattrs: xattrs.map(|attr| (String::from_utf8(attr.name).unwrap(), STANDARD.encode(attr.value))).collect(),
            sha256,
            path,
        };
        found.extend([facts.line()]);
    }
    found
}

fn read_all(kinds: &[&str]) {
    let Some(built) = built() else { return };
    for (name, image) in built {
        for partition in image.partitions() {
            if kinds.contains(&partition["filesystem"].as_str().unwrap_or_default()) {
                let fs = fs::open(image.device(partition)).unwrap();
                compare(&format!("{name} {}", partition["name"]), &expected(partition), &read(&*fs));
            }
        }
    }
}

#[test]
fn fat_is_read_as_the_recipes_say() {
    read_all(&["vfat"]);
}

#[test]
fn ext_is_read_as_the_recipes_say() {
    read_all(&["ext2", "ext3", "ext4"]);
}

#[test]
fn the_kernel_reads_what_the_recipes_say() {
    let Some(built) = built() else { return };
    if !have("mount") || !root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path().display();
    for (name, image) in built {
        for partition in image.partitions() {
            let is_ext = partition["filesystem"].as_str().is_some_and(|kind| kind.starts_with("ext"));
            let what = format!("{name} {}", partition["name"]);
            let (start, size) = (number(partition, "start"), number(partition, "size"));
            let options = format!("loop,ro,offset={start},sizelimit={size}");
            let mount = Command::new("mount").args(["-o", &options]).arg(&image.disk).arg(directory.path()).output();
            match mount {
                Ok(output) if is_ext && output.status.success() => {
                    let found = std::panic::catch_unwind(|| read_host(directory.path()));
                    shell(Path::new("/"), &format!("umount {at}"));
                    compare(&what, &expected(partition), &found.unwrap());
                }
                Ok(output) if output.status.success() => drop(shell(Path::new("/"), &format!("umount {at}"))),
                _ if is_ext => support::skipped(format_args!("this kernel does not mount {what}")),
                _ => {}
            }
        }
    }
}

/// The kernel's reading of a mounted filesystem.
fn read_host(top: &Path) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    let mut rest = vec![top.to_owned()];
    while let Some(path) = rest.pop() {
        let metadata = std::fs::symlink_metadata(&path).unwrap();
        let kind = FileType::from_mode(metadata.mode()).unwrap();
        if kind == FileType::Dir {
            rest.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        let is_device = matches!(kind, FileType::Char | FileType::Block);
        let relative = path.strip_prefix(top).unwrap().as_os_str().as_bytes();
        let facts = Facts {
            path: [b"/", relative].concat(),
            kind,
            mode: metadata.mode() & 0o7777,
            owner: (metadata.uid(), metadata.gid()),
            size: metadata.size(),
            links: metadata.nlink(),
            mtime: i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec()),
            rdev: is_device.then(|| DeviceNumber {
                major: rustix::fs::major(metadata.rdev()),
                minor: rustix::fs::minor(metadata.rdev()),
            }),
            target: std::fs::read_link(&path).ok().map(|target| target.as_os_str().as_bytes().to_vec()),
            xattrs: host_xattrs(&path),
            sha256: (kind == FileType::File).then(|| hex(Sha256::digest(std::fs::read(&path).unwrap()))),
        };
        found.extend([facts.line()]);
    }
    found
}

fn host_xattrs(path: &Path) -> BTreeMap<String, String> {
    let mut names = vec![0; 1 << 16];
    let Ok(len) = rustix::fs::llistxattr(path, &mut names[..]) else { return BTreeMap::new() };
    let names = names[..len].split(|&byte| byte == 0).filter(|name| !name.is_empty());
    names
        .map(|name| {
            let name = String::from_utf8(name.to_vec()).unwrap();
            let mut value = vec![0; 1 << 16];
            let len = rustix::fs::lgetxattr(path, &name, &mut value[..]).unwrap();
            (name, STANDARD.encode(&value[..len]))
        })
        .collect()
}
