//! A guest's tree through the program: made by mke2fs, added, brought back, and compared with what it was made of.

use std::path::Path;

use super::program::guestctl;
use super::support::{have, root, shell};
use super::trees::{ordinary, witness};

/// Runs `guestctl cache` with a store of its own.
fn cache(dir: &Path, arguments: &[&str]) -> super::program::Ran {
    let store = dir.join("cache");
    let base = ["cache", "--cache-dir", store.to_str().unwrap()];
    guestctl(base.iter().chain(arguments))
}

#[test]
fn an_ext4_guest_comes_back_as_it_was() {
    if !have("mke2fs") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    ordinary(dir.path());
    let everything = root();
    if everything {
        shell(&dir.path().join("tree"), "chown 1000:33 etc/hostname; mknod null c 1 3; setfattr -n user.k -v v etc/packed");
    }
    if everything && have("mkfs.ext4") {
        // The kernel writes it, nanoseconds and all.
        shell(dir.path(), "truncate -s 64M disk.raw; mkfs.ext4 -q -F disk.raw; mkdir m; mount -o loop disk.raw m; cp -a tree/. m; umount m");
    } else {
        // Of times mke2fs writes the seconds, of 32 bits.
        shell(dir.path(), "find tree -depth -exec touch -hd @1700000000 {} +; mke2fs -q -t ext4 -d tree disk.raw 64M");
    }
    shell(dir.path(), "qemu-img convert -O qcow2 disk.raw disk.qcow2 2>/dev/null || cp disk.raw disk.qcow2");
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let added = cache(dir.path(), &["add", "--json", "-q", "--name", "guest", "-m", "/dev/sda", &path("disk.raw")]).json();
    let again = cache(dir.path(), &["add", "--json", "-q", "--name", "again", "-m", "/dev/sda", "--jobs", "1", &path("disk.qcow2")]).json();
    assert_eq!(added["tree"], again["tree"], "formats and threads do not show");
    assert_eq!((again["new_blobs"].as_u64(), again["known"].as_bool()), (Some(0), Some(true)), "{again}");
    let preserve = if everything { "all" } else { "default,setid" };
    let report = cache(dir.path(), &["restore", "--json", "-q", "--preserve", preserve, "guest", &path("back")]).json();
    assert_eq!(report["links"], 2, "{report}");
    shell(dir.path(), "rmdir back/lost+found");
    let expected = witness(&dir.path().join("tree"), everything);
    let found = witness(&dir.path().join("back"), everything);
    // The root of a new filesystem has a directory more, and the time of making.
    let entries = |text: &str| text.lines().filter(|line| !line.starts_with("root ")).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(entries(&found), entries(&expected));
    let shown = cache(dir.path(), &["show", "--json", "guest", "/etc/hostname"]).json();
    assert_eq!((shown["path"].as_str(), shown["size"].as_u64()), (Some("/etc/hostname"), Some(5)));
    let listed = cache(dir.path(), &["ls", "--json"]).json();
    assert_eq!(listed.as_array().unwrap().len(), 2);
    // Rules and sets.
    let some = cache(dir.path(), &["add", "--json", "-q", "--name", "some", "-m", "/dev/sda", "--exclude", "*.d", "--exclude", "/usr/bin/*", &path("disk.raw")]).json();
    assert_ne!(some["tree"], added["tree"]);
    let ran = cache(dir.path(), &["diff", "guest", "some"]);
    assert_eq!(ran.code, 1);
    let text = String::from_utf8(ran.out).unwrap();
    assert!(text.contains("- /usr/bin/large\n") && !text.contains("hostname"), "{text}");
    assert_eq!(cache(dir.path(), &["diff", "guest", "again"]).text(), "");
    // Names, pins, gc and the rest of the commands.
    cache(dir.path(), &["pin", "guest"]).text();
    cache(dir.path(), &["rm", "guest", "again", "some"]).text();
    let gc = cache(dir.path(), &["gc", "--json", "--grace", "0"]).json();
    assert_eq!((gc["live_trees"].as_u64(), gc["condemned_trees"].as_u64()), (Some(1), Some(1)), "{gc}");
    let verified = cache(dir.path(), &["verify", "--json"]).json();
    assert_eq!(verified["damage"].as_array().unwrap().len(), 0);
    let stats = cache(dir.path(), &["stats", "--json"]).json();
    assert_eq!((stats["trees"].as_u64(), stats["refs"].as_u64()), (Some(1), Some(1)));
    assert!(cache(dir.path(), &["doctor", "--json", "--calibrate"]).json()["measured"]["mtime_step_ns"].is_u64());
    let tree = added["tree"].as_str().unwrap();
    cache(dir.path(), &["restore", "-q", &tree[..10], &path("by-id")]).text();
    cache(dir.path(), &["restore", "-q", "nothing", &path("x")])
        .fails(2, "guestctl: error: there is no tree 'nothing' in the cache\nhint: guestctl cache ls lists them\n");
}
