//! What is known of one path, from the kernel and from the program's JSON lines.
#![allow(dead_code, reason = "each test program uses a part")]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use guestctl::fs::FileType;
use serde_json::Value;
use sha2::{Digest, Sha256};

/// The facts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    pub kind: String,
    pub mode: u32,
    pub owner: (u32, u32),
    pub size: u64,
    pub links: u64,
    pub mtime: i128,
    pub target: Option<Vec<u8>>,
    pub rdev: Option<String>,
    pub xattrs: BTreeMap<String, String>,
    pub sha256: Option<String>,
}

/// A tree by path.
pub type Tree = BTreeMap<Vec<u8>, Facts>;

/// Whether contents are digested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contents {
    Digested,
    /// As [`DataDigest`] does, so that holes of terabytes take no time.
    Data,
    Left,
}

/// A digest of those blocks that are not all zero, and of where they lie.
#[derive(Debug, Default)]
pub struct DataDigest(Sha256);

/// Bytes of its blocks, which begin at multiples of it.
pub const BLOCK: usize = 4096;

impl DataDigest {
    /// The block at the file's byte `at`; the last one of a file may be shorter.
    pub fn block(&mut self, at: u64, bytes: &[u8]) {
        if bytes.iter().any(|byte| *byte != 0) {
            self.0.update(at.to_le_bytes());
            self.0.update(bytes);
        }
    }

    /// All bytes of `from`, which are the whole file.
    pub fn of(mut from: impl Read) -> (String, u64) {
        let (mut digest, mut chunk, mut at) = (Self::default(), vec![0; 64 * BLOCK], 0);
        loop {
            let mut filled = 0;
            while filled < chunk.len() {
                match from.read(&mut chunk[filled..]).unwrap() {
                    0 => break,
                    len => filled += len,
                }
            }
            for block in chunk[..filled].chunks(BLOCK) {
                digest.block(at, block);
                at += block.len() as u64;
            }
            if filled < chunk.len() {
                return (digest.finish(), at);
            }
        }
    }

    pub fn finish(self) -> String {
        hex(self.0)
    }
}

fn hex(hasher: Sha256) -> String {
    hasher.finalize().iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

/// What the program has listed.
pub fn listed(json_lines: &[u8]) -> Tree {
    let mut tree = Tree::new();
    for line in json_lines.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
        let line: Value = serde_json::from_slice(line).unwrap();
        let twice = tree.insert(bytes(&line, "path").unwrap(), of_line(&line));
        assert!(twice.is_none(), "listed twice: {line}");
    }
    tree
}

fn of_line(line: &Value) -> Facts {
    let text = |key: &str| line[key].as_str().map(str::to_owned);
    let number = |key: &str| line[key].as_u64().unwrap();
    let xattrs = line["xattrs"].as_object().unwrap().iter();
    Facts {
        kind: text("type").unwrap(),
        mode: u32::from_str_radix(line["mode"].as_str().unwrap(), 8).unwrap(),
        owner: (number("uid") as u32, number("gid") as u32),
        size: number("size"),
        links: number("nlink"),
        mtime: line["mtime_ns"].as_number().unwrap().as_i128().unwrap(),
        target: bytes(line, "target"),
        rdev: text("rdev"),
        xattrs: xattrs.map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned())).collect(),
        sha256: text("sha256"),
    }
}

fn bytes(line: &Value, key: &str) -> Option<Vec<u8>> {
    match line[format!("{key}_b64")].as_str() {
        Some(text) => Some(BASE64.decode(text).unwrap()),
        None => line[key].as_str().map(|text| text.as_bytes().to_vec()),
    }
}

/// What the kernel shows below `top`; paths begin with `prefix`.
pub fn mounted(top: &Path, prefix: &str, contents: Contents) -> Tree {
    let mut tree = Tree::new();
    let mut rest = vec![top.to_owned()];
    while let Some(path) = rest.pop() {
        let facts = of_host(&path, contents);
        if facts.kind == "dir" {
            rest.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        let relative = path.strip_prefix(top).unwrap().as_os_str().as_bytes();
        let guest = match (prefix, relative) {
            ("/", relative) => [b"/", relative].concat(),
            (prefix, b"") => prefix.as_bytes().to_vec(),
            (prefix, relative) => [prefix.as_bytes(), b"/", relative].concat(),
        };
        tree.insert(guest, facts);
    }
    tree
}

fn of_host(path: &Path, contents: Contents) -> Facts {
    let metadata = std::fs::symlink_metadata(path).unwrap();
    let kind = FileType::from_mode(metadata.mode()).unwrap();
    let is_device = matches!(kind, FileType::Char | FileType::Block);
    let (major, minor) = (rustix::fs::major(metadata.rdev()), rustix::fs::minor(metadata.rdev()));
    Facts {
        kind: kind.name().to_owned(),
        mode: metadata.mode() & 0o7777,
        owner: (metadata.uid(), metadata.gid()),
        size: metadata.size(),
        links: metadata.nlink(),
        mtime: i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec()),
        target: (kind == FileType::Symlink)
            .then(|| std::fs::read_link(path).unwrap().into_os_string().as_bytes().to_vec()),
        rdev: is_device.then(|| format!("{major}:{minor}")),
        xattrs: xattrs(path),
        sha256: match contents {
            Contents::Digested if kind == FileType::File => Some(digest(path)),
            Contents::Data if kind == FileType::File => Some(data_digest(path)),
            _ => None,
        },
    }
}

fn xattrs(path: &Path) -> BTreeMap<String, String> {
    let mut names = vec![0; 1 << 16];
    let len = rustix::fs::llistxattr(path, &mut names[..]).unwrap();
    let names = names[..len].split(|&byte| byte == 0).filter(|name| !name.is_empty());
    let value = |name: &[u8]| {
        let mut value = vec![0; 1 << 16];
        let len = rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut value[..]).unwrap();
        (String::from_utf8(name.to_vec()).unwrap(), BASE64.encode(&value[..len]))
    };
    names.map(value).collect()
}

fn digest(path: &Path) -> String {
    let (mut file, mut hasher, mut chunk) = (File::open(path).unwrap(), Sha256::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut chunk).unwrap() {
            0 => break,
            len => hasher.update(&chunk[..len]),
        }
    }
    hex(hasher)
}

/// The [`DataDigest`] of a host file, whose holes are not read.
fn data_digest(path: &Path) -> String {
    use rustix::fs::SeekFrom;
    let file = File::open(path).unwrap();
    let (size, mut digest, mut at) = (file.metadata().unwrap().len(), DataDigest::default(), 0);
    let mut block = [0; BLOCK];
    while at < size {
        let Ok(data) = rustix::fs::seek(&file, SeekFrom::Data(at)) else { break };
        let end = rustix::fs::seek(&file, SeekFrom::Hole(data)).unwrap();
        at = data / BLOCK as u64 * BLOCK as u64;
        while at < end {
            let len = (size - at).min(BLOCK as u64) as usize;
            file.read_exact_at(&mut block[..len], at).unwrap();
            digest.block(at, &block[..len]);
            at += BLOCK as u64;
        }
    }
    digest.finish()
}

/// What `df --json` must say of a filesystem that the kernel has mounted at `top`.
pub fn space(top: &Path) -> Value {
    let kernel = rustix::fs::statvfs(top).unwrap();
    serde_json::json!([{
        "device": "/dev/sda",
        "mountpoint": "/",
        "size_bytes": kernel.f_blocks * kernel.f_frsize,
        "used_bytes": (kernel.f_blocks - kernel.f_bfree) * kernel.f_frsize,
        "available_bytes": kernel.f_bavail * kernel.f_frsize,
        "inodes": kernel.f_files,
        "inodes_free": kernel.f_ffree,
    }])
}

/// The trees are the same in everything.
#[track_caller]
pub fn same(what: &str, kernel: &Tree, ours: &Tree) {
    let mut differences = Vec::new();
    for path in kernel.keys().chain(ours.keys().filter(|path| !kernel.contains_key(*path))) {
        let (kernel, ours) = (kernel.get(path), ours.get(path));
        if kernel != ours {
            differences.push(format!("{}\n  kernel {kernel:?}\n  ours   {ours:?}", guestctl::bytes::escape(path)));
        }
    }
    let shown = differences.iter().take(10).map(|text| text.chars().take(1500).collect()).collect::<Vec<String>>();
    assert!(differences.is_empty(), "{what}: {} paths differ:\n{}", differences.len(), shown.join("\n"));
}
