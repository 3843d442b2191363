//! What options leave out or put in: patterns as git understands them, owners' names, attributes, times.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::UNIX_EPOCH;

use super::guest::guest;
use super::program::program;
use super::support::{have, shell};

/// A tree and the same as an image; `None` without the tools for it.
fn tree(at: &Path) -> Option<()> {
    if !have("git") || !have("mke2fs") {
        return None;
    }
    shell(
        at,
        "mkdir tree; cd tree; mkdir -p etc/ssh/deep etc/ssl tmp/keep tmp/other var/cache/apt var/tmp usr/share/doc/x a/b/c '#x' '!x'
         for directory in . etc etc/ssh etc/ssh/deep etc/ssl tmp tmp/keep tmp/other var/cache/apt usr/share/doc/x a a/b/c; do
             for name in x.log y.conf z 'with space' UPPER.LOG '[b]' 'back\\slash' cache '#hash' '!bang' 'trailing '; do
                 [ -e \"$directory/$name\" ] || : >\"$directory/$name\"
             done
         done
         ln -s etc/ssh link; ln -s nowhere var/cache.log; cd ..; mke2fs -q -F -t ext4 -d tree fs.raw 16M
         git init -q tree",
    );
    Some(())
}

/// The paths in an archive made with these options, without `./` and the directories' slashes.
fn archived(at: &Path, options: &[&str]) -> BTreeSet<Vec<u8>> {
    let output = program()
        .args(["tar-out", "-q", "-m", "/dev/sda"])
        .args(options)
        .args(["fs.raw", "/", "-"])
        .current_dir(at)
        .output()
        .unwrap();
    assert!(output.status.success(), "{options:?}: {}", String::from_utf8_lossy(&output.stderr));
    let mut archive = tar::Archive::new(&output.stdout[..]);
    let paths = archive.entries().unwrap().map(|entry| {
        let path = entry.unwrap().path_bytes().into_owned();
        let path = path.strip_prefix(b"./").unwrap();
        path.strip_suffix(b"/").unwrap_or(path).to_vec()
    });
    paths.filter(|path| !path.starts_with(b"lost+found")).collect()
}

fn lines(output: &[u8]) -> BTreeSet<Vec<u8>> {
    let names = output.split(|&byte| byte == 0).filter(|name| !name.is_empty());
    names.map(|name| name.strip_prefix(b"./").unwrap_or(name).to_vec()).collect()
}

#[test]
fn excludes_are_what_git_ignores() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    if tree(at).is_none() {
        return;
    }
    let find = "find . -path ./.git -prune -o -mindepth 1 -print0";
    let mut all = lines(&shell(&at.join("tree"), find).stdout);
    all.insert(Vec::new());
    assert_eq!(archived(at, &[]), all);
    for patterns in [
        &["*.log"][..],
        &["/tmp/*", "!/tmp/keep"],
        &["/tmp", "!/tmp/keep"],
        &["cache/"],
        &["cache"],
        &["/a/**/z"],
        &["**/deep"],
        &["etc/**"],
        &["etc/*.conf", "!etc/y.conf"],
        &["usr/share/*/x"],
        &["[xy].*"],
        &["[!xy]*"],
        &["\\#hash", "\\!bang"],
        &["back\\\\slash"],
        &["trailing\\ "],
        &["with space"],
        &["\\[b\\]"],
        &["link"],
        &["link/"],
        &["*", "!*/", "!*.conf"],
        &["/etc/ssh/", "/var/**/apt", "?"],
        &["a/b"],
        &["b/c"],
    ] {
        std::fs::write(at.join("tree/.git/info/exclude"), patterns.join("\n") + "\n").unwrap();
        let script = format!("{find} | git check-ignore --no-index -z --stdin || test $? = 1");
        let ignored = lines(&shell(&at.join("tree"), &script).stdout);
        let expected: BTreeSet<_> = all.difference(&ignored).cloned().collect();
        let options: Vec<String> = patterns.iter().map(|pattern| format!("--exclude={pattern}")).collect();
        let found = archived(at, &options.iter().map(String::as_str).collect::<Vec<_>>());
        let show = |paths: &mut dyn Iterator<Item = &Vec<u8>>| {
            paths.map(|path| String::from_utf8_lossy(path).into_owned()).collect::<Vec<_>>()
        };
        let (more, less) = (show(&mut found.difference(&expected)), show(&mut expected.difference(&found)));
        assert!(more.is_empty() && less.is_empty(), "{patterns:?}: too many {more:?}, missing {less:?}");
    }
}

#[test]
fn includes_are_what_find_finds_with_the_directories_above() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    if tree(at).is_none() {
        return;
    }
    let cases: [(&[&str], &str); 5] = [
        (&["/etc/ssh"], "find . ./etc ./etc/ssh -maxdepth 0 -print0; find etc/ssh -mindepth 1 -print0"),
        (
            &["/usr/share/*/x/z"],
            "find . usr usr/share usr/share/doc usr/share/doc/x usr/share/doc/x/z -maxdepth 0 -print0",
        ),
        (&["/a", "/tmp/keep/z"], "find . tmp tmp/keep tmp/keep/z -maxdepth 0 -print0; find a -print0"),
        (&["/nowhere"], "find . -maxdepth 0 -print0"),
        (&["deep/"], "find . etc etc/ssh -maxdepth 0 -print0; find etc/ssh/deep -print0"),
    ];
    for (patterns, find) in cases {
        let expected = lines(&shell(&at.join("tree"), find).stdout);
        let expected = expected.into_iter().map(|path| if path == b"." { Vec::new() } else { path });
        let options: Vec<String> = patterns.iter().map(|pattern| format!("--include={pattern}")).collect();
        let found = archived(at, &options.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(found, expected.collect(), "{patterns:?}");
    }
    // Both: of what is included, what is not excluded.
    let found = archived(at, &["--include=/etc/ssh", "--exclude=deep", "--exclude=*.log"]);
    assert!(found.contains(&b"etc/ssh/z"[..]) && !found.iter().any(|path| path.ends_with(b"x.log")), "{found:?}");
    assert!(!found.iter().any(|path| path.starts_with(b"etc/ssh/deep") || path.starts_with(b"etc/z")), "{found:?}");
}

/// The records and owners' names of each entry of the guest's archive.
type Headers = BTreeMap<Vec<u8>, (BTreeMap<String, String>, Vec<u8>)>;

fn headers(image: &Path, options: &[&str]) -> Headers {
    let output = program()
        // The crate does not know the names of sparse files.
        .args(["tar-out", "-q", "-m", "/dev/sda", "--no-sparse", "--exclude=/giant", "--exclude=/archives/sparse"])
        .args(options)
        .arg(image)
        .arg("/")
        .output()
        .unwrap();
    assert!(output.status.success());
    let mut found = Headers::new();
    for entry in tar::Archive::new(&output.stdout[..]).entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path_bytes().strip_prefix(b"./").unwrap().to_vec();
        let names = [entry.header().username_bytes().unwrap(), entry.header().groupname_bytes().unwrap()].concat();
        let mut records = BTreeMap::new();
        if let Some(found) = entry.pax_extensions().unwrap() {
            // The crate cuts values at line ends; those are not looked at here.
            for record in found.filter_map(Result::ok) {
                if let (Ok(key), value) = (record.key(), record.value_bytes()) {
                    records.insert(key.to_owned(), String::from_utf8_lossy(value).into_owned());
                }
            }
        }
        found.insert(path, (records, names));
    }
    found
}

#[test]
fn names_attributes_and_times_are_left_out_or_put_in_as_asked() {
    let Some(guest) = guest() else { return };
    let usual = headers(&guest.image, &[]);
    let any_record = |headers: &Headers, prefix: &str| {
        headers.values().flat_map(|(records, _)| records.keys()).any(|key| key.starts_with(prefix))
    };
    assert!(["SCHILY.xattr.", "SCHILY.acl.", "RHT."].iter().all(|prefix| any_record(&usual, prefix)));
    assert!(!any_record(&usual, "atime") && usual.values().any(|(_, names)| names == b"rootroot"));

    let without = headers(&guest.image, &["--no-xattrs"]);
    assert!(!["SCHILY.", "RHT.", "LIBARCHIVE."].iter().any(|prefix| any_record(&without, prefix)));
    assert_eq!(without.keys().collect::<Vec<_>>(), usual.keys().collect::<Vec<_>>());

    let numeric = headers(&guest.image, &["--numeric-owner"]);
    assert!(numeric.values().all(|(_, names)| names.is_empty()) && !any_record(&numeric, "uname"));

    let all_times = headers(&guest.image, &["--all-times", "--no-xattrs"]);
    let kernel = guest.mounted();
    let top = kernel.path();
    let mut seen = 0;
    for (path, (records, _)) in all_times {
        let metadata = std::fs::symlink_metadata(top.join(std::ffi::OsStr::from_bytes(&path))).unwrap();
        let of = |key: &str| nanoseconds(&records[key]);
        let expected = |seconds: i64, part: i64| i128::from(seconds) * 1_000_000_000 + i128::from(part);
        let name = guestctl::bytes::escape(&path);
        assert_eq!(of("atime"), expected(metadata.atime(), metadata.atime_nsec()), "{name}");
        assert_eq!(of("ctime"), expected(metadata.ctime(), metadata.ctime_nsec()), "{name}");
        if let Ok(created) = metadata.created() {
            let created = created.duration_since(UNIX_EPOCH).unwrap().as_nanos() as i128;
            assert_eq!(of("LIBARCHIVE.creationtime"), created, "{name}");
        }
        seen += 1;
    }
    assert!(seen > 1000);
}

fn nanoseconds(text: &str) -> i128 {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let part: i128 = format!("{part:0<9}").parse().unwrap();
    let whole_ns = whole.parse::<i128>().unwrap() * 1_000_000_000;
    if text.starts_with('-') { whole_ns - part } else { whole_ns + part }
}
