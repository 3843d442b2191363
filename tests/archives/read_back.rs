//! What Python's tarfile and the `tar` crate read from an archive is what the kernel shows of the tree.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::Value;

use super::extracted::{comparable, groups};
use super::facts::{Contents, DataDigest, Facts, Tree, mounted, same};
use super::guest::guest;
use super::program::program;
use super::support::have;

/// A member of an archive.
#[derive(Debug)]
pub struct Member {
    pub path: Vec<u8>,
    pub link: Option<Vec<u8>>,
    pub names: (Vec<u8>, Vec<u8>),
    pub facts: Facts,
}

/// The members of an archive as Python's tarfile reads them; `None` without Python.
pub fn by_python(archive: &Path) -> Option<Vec<Member>> {
    if !have("python3") {
        return None;
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/archives/read.py");
    let output = Command::new("python3").arg(script).arg(archive).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = output.stdout.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    Some(lines.map(|line| of_python(&serde_json::from_slice(line).unwrap())).collect())
}

fn of_python(line: &Value) -> Member {
    let hex = |value: &Value| {
        let text = value.as_str().unwrap().as_bytes();
        text.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
    };
    let number = |key: &str| line[key].as_u64().unwrap();
    let records: BTreeMap<String, Vec<u8>> =
        line["records"].as_object().unwrap().iter().map(|(key, value)| (key.clone(), hex(value))).collect();
    let kind = line["type"].as_str().unwrap();
    let link: Vec<u8> = hex(&line["link"]);
    let is_device = matches!(kind, "3" | "4");
    Member {
        path: hex(&line["path"]),
        link: (kind == "1").then(|| link.clone()),
        names: (hex(&line["uname"]), hex(&line["gname"])),
        facts: Facts {
            kind: kind_of(kind.as_bytes()[0]).to_owned(),
            mode: number("mode") as u32,
            owner: (number("uid") as u32, number("gid") as u32),
            size: if kind == "2" { link.len() as u64 } else { number("size") },
            links: 1,
            mtime: line["mtime"].as_str().unwrap().parse().unwrap(),
            target: (kind == "2").then_some(link),
            rdev: is_device.then(|| format!("{}:{}", number("major"), number("minor"))),
            xattrs: xattrs(&records),
            sha256: line["digest"].as_str().map(str::to_owned),
        },
    }
}

fn kind_of(letter: u8) -> &'static str {
    match letter {
        b'0' | b'\0' | b'1' => "file",
        b'2' => "symlink",
        b'3' => "char",
        b'4' => "block",
        b'5' => "dir",
        b'6' => "fifo",
        other => panic!("type {other}"),
    }
}

/// Extended attributes as the kernel has them, from pax records.
fn xattrs(records: &BTreeMap<String, Vec<u8>>) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for (keyword, value) in records {
        let (name, value) = match keyword.as_str() {
            "SCHILY.acl.access" => ("system.posix_acl_access".to_owned(), acl(value)),
            "SCHILY.acl.default" => ("system.posix_acl_default".to_owned(), acl(value)),
            // The same label once more.
            "RHT.security.selinux" => {
                let label = records.get("SCHILY.xattr.security.selinux").unwrap();
                assert_eq!(label.strip_suffix(&[0]).unwrap_or(label), value);
                continue;
            }
            other => {
                let Some(name) = other.strip_prefix("SCHILY.xattr.") else { continue };
                (name.replace("%3D", "=").replace("%25", "%"), value.clone())
            }
        };
        found.insert(name, BASE64.encode(value));
    }
    found
}

/// An ACL in the kernel's form, from its text.
fn acl(text: &[u8]) -> Vec<u8> {
    let mut value = 2_u32.to_le_bytes().to_vec();
    for entry in std::str::from_utf8(text).unwrap().split(',') {
        let [who, name, may] = entry.split(':').collect::<Vec<_>>()[..] else { panic!("{entry}") };
        let tag: u16 = match (who, name.is_empty()) {
            ("user", true) => 1,
            ("user", false) => 2,
            ("group", true) => 4,
            ("group", false) => 8,
            ("mask", true) => 16,
            ("other", true) => 32,
            other => panic!("{other:?}"),
        };
        let bits = may.bytes().zip([(b'r', 4), (b'w', 2), (b'x', 1)]);
        let permissions: u16 = bits.filter(|(found, (letter, _))| found == letter).map(|(_, (_, bit))| bit).sum();
        value.extend(tag.to_le_bytes());
        value.extend(permissions.to_le_bytes());
        value.extend(name.parse().unwrap_or(u32::MAX).to_le_bytes());
    }
    value
}

/// The tree that the members describe: a further name is what its first name is, and links are counted.
pub fn tree(members: &[Member]) -> (Tree, BTreeMap<Vec<u8>, Vec<u8>>) {
    let clean = |path: &[u8]| {
        let path = path.strip_prefix(b"./").or_else(|| path.strip_prefix(b".")).unwrap();
        path.strip_suffix(b"/").unwrap_or(path).to_vec()
    };
    let (mut tree, mut names) = (Tree::new(), BTreeMap::<Vec<u8>, Vec<Vec<u8>>>::new());
    for member in members {
        let mut facts = member.facts.clone();
        let path = clean(&member.path);
        if let Some(link) = &member.link {
            let first = clean(link);
            let of_first: &Facts = tree.get(&[b"/", &first[..]].concat()).expect("a link to what came before");
            assert_eq!((facts.mode, facts.owner, facts.mtime), (of_first.mode, of_first.owner, of_first.mtime));
            facts = of_first.clone();
            names.entry(first).or_default().push(path.clone());
        }
        assert!(tree.insert([b"/", &path[..]].concat(), facts).is_none(), "twice: {}", guestctl::bytes::escape(&path));
    }
    let mut groups = BTreeMap::new();
    for (first, mut all) in names {
        all.push(first);
        let smallest = all.iter().min().unwrap().clone();
        for name in &all {
            tree.get_mut(&[b"/", &name[..]].concat()).unwrap().links = all.len() as u64;
            groups.insert(name.clone(), smallest.clone());
        }
    }
    (tree, groups)
}

/// The kernel's tree as far as an archive can tell it.
fn told(tree: Tree) -> Tree {
    let mut tree = comparable(tree);
    for facts in tree.values_mut() {
        if facts.kind == "dir" {
            facts.links = 1;
        }
    }
    tree
}

#[test]
fn by_pythons_tarfile() {
    let Some(guest) = guest() else { return };
    let archive = guest.directory().join("for-python.tar");
    let ran = program()
        .args(["tar-out", "-q", "-m", "/dev/sda"])
        .args([guest.image.as_path(), Path::new("/"), archive.as_path()])
        .status();
    assert!(ran.unwrap().success());
    let Some(members) = by_python(&archive) else { return };
    let kernel = guest.mounted();
    let (ours, links) = tree(&members);
    same("tarfile", &told(mounted(&kernel.path(), "/", Contents::Data)), &told(ours));
    assert_eq!(groups(&kernel.path()), links);
    let long = "n".repeat(40);
    for member in &members {
        let user = match member.facts.owner.0 {
            0 => "root",
            1000 => "someone",
            1 => &long,
            _ => "",
        };
        let group = match member.facts.owner.1 {
            0 => "root",
            1000 => "some group",
            1 => "José",
            _ => "",
        };
        let names = (user.as_bytes().to_vec(), group.as_bytes().to_vec());
        assert_eq!(member.names, names, "{}", guestctl::bytes::escape(&member.path));
    }
    std::fs::remove_file(archive).unwrap();
}

/// What is too large to be written out with its holes.
const LARGE: [&str; 7] = [
    "--exclude=/giant",
    "--exclude=/archives/sparse/hole to *",
    "--exclude=/archives/sparse/data up to *",
    "--exclude=/archives/sparse/data before*",
    "--exclude=lost+found",
    "--exclude=/corners/attributes",
    "--exclude=/archives/attributes",
];

fn left_out(path: &[u8]) -> bool {
    let patterns: [&[u8]; 6] = [
        b"/giant",
        b"/archives/sparse/hole to",
        b"/archives/sparse/data up to",
        b"/archives/sparse/data before",
        b"/lost+found",
        b"/corners/attributes",
    ];
    path.starts_with(b"/archives/attributes") || patterns.iter().any(|pattern| path.starts_with(pattern))
}

/// The `tar` crate knows no sparse files of this form: with --no-sparse it reads whole contents. Of records it cuts values
/// at line ends, so attributes are left to the others.
#[test]
fn by_the_tar_crate() {
    let Some(guest) = guest() else { return };
    let mut child = program()
        .args(["tar-out", "-q", "-m", "/dev/sda", "--no-sparse"])
        .args(LARGE)
        .args([guest.image.as_path(), Path::new("/")])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut archive = tar::Archive::new(child.stdout.take().unwrap());
    let members: Vec<Member> = archive.entries().unwrap().map(|entry| of_crate(entry.unwrap())).collect();
    assert!(child.wait().unwrap().success());
    let kernel = guest.mounted();
    let (ours, links) = tree(&members);
    let keep = |mut tree: Tree| {
        tree.retain(|path, _| !left_out(path));
        tree.values_mut().for_each(|facts| facts.xattrs.clear());
        tree
    };
    let kernels = keep(told(mounted(&kernel.path(), "/", Contents::Data)));
    assert!(kernels.values().any(|facts| facts.size > 8 << 30) && kernels.len() > 800, "{}", kernels.len());
    same("the tar crate", &kernels, &keep(told(ours)));
    let mut kernels = groups(&kernel.path());
    kernels.retain(|path, _| !left_out(&[b"/", &path[..]].concat()));
    assert_eq!(kernels, links);
}

fn of_crate(mut entry: tar::Entry<'_, impl Read>) -> Member {
    let mut mtime = None;
    if let Some(records) = entry.pax_extensions().unwrap() {
        for record in records.map(Result::unwrap).filter(|record| record.key() == Ok("mtime")) {
            mtime = Some(nanoseconds(record.value().unwrap()));
        }
    }
    let path = entry.path_bytes().into_owned();
    let link = entry.link_name_bytes().map(|link| link.into_owned());
    let header = entry.header().clone();
    let kind = header.entry_type();
    // Only devices have numbers; the fields of others are empty.
    let numbers = || (header.device_major().unwrap().unwrap(), header.device_minor().unwrap().unwrap());
    let is_device = kind.is_character_special() || kind.is_block_special();
    let target = kind.is_symlink().then(|| link.clone().unwrap());
    let mut facts = Facts {
        kind: kind_of(kind.as_byte()).to_owned(),
        mode: header.mode().unwrap(),
        owner: (header.uid().unwrap() as u32, header.gid().unwrap() as u32),
        size: target.as_ref().map_or(entry.size(), |target| target.len() as u64),
        links: 1,
        mtime: mtime.unwrap_or(i128::from(header.mtime().unwrap()) * 1_000_000_000),
        target,
        rdev: is_device.then(numbers).map(|(major, minor)| format!("{major}:{minor}")),
        xattrs: BTreeMap::new(),
        sha256: None,
    };
    if kind.is_file() {
        let (digest, len) = DataDigest::of(&mut entry);
        assert_eq!(len, facts.size);
        facts.sha256 = Some(digest);
    }
    Member { path, link: kind.is_hard_link().then(|| link.unwrap()), names: Default::default(), facts }
}

fn nanoseconds(text: &str) -> i128 {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let part: i128 = format!("{part:0<9}").parse().unwrap();
    let whole_ns = whole.parse::<i128>().unwrap() * 1_000_000_000;
    if text.starts_with('-') { whole_ns - part } else { whole_ns + part }
}

#[test]
fn the_demo_guest_by_pythons_tarfile() {
    let directory = tempfile::tempdir().unwrap();
    let archive = directory.path().join("demo.tar");
    let arguments = [super::demo(), "/".into(), archive.clone()];
    let ran = program().args(["tar-out", "-q", "-m", "/dev/sda2"]).args(arguments).status();
    assert!(ran.unwrap().success());
    let Some(members) = by_python(&archive) else { return };
    let (ours, _) = tree(&members);
    let listing = program()
        .args(["ls", "-R", "--json", "--checksum", "sha256", "-m", "/dev/sda2"])
        .arg(super::demo())
        .arg("/")
        .output();
    let mut listed = super::facts::listed(&listing.unwrap().stdout);
    // The listing's digests are of all bytes; contents are compared by extracting.
    listed.values_mut().for_each(|facts| facts.sha256 = None);
    let mut ours = told(ours);
    ours.values_mut().for_each(|facts| facts.sha256 = None);
    assert!(listed.len() > 100);
    same("the demo guest", &told(listed), &ours);
}
