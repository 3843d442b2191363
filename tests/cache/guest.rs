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
        shell(
            &dir.path().join("tree"),
            "chown 1000:33 etc/hostname; mknod null c 1 3; setfattr -n user.k -v v etc/packed",
        );
    }
    if everything && have("mkfs.ext4") {
        // The kernel writes it, nanoseconds and all.
        shell(
            dir.path(),
            "truncate -s 64M disk.raw; mkfs.ext4 -q -F disk.raw; mkdir m; mount -o loop disk.raw m; cp -a tree/. m; umount m",
        );
    } else {
        // Of times mke2fs writes the seconds, of 32 bits.
        shell(dir.path(), "find tree -depth -exec touch -hd @1700000000 {} +; mke2fs -q -t ext4 -d tree disk.raw 64M");
    }
    shell(dir.path(), "qemu-img convert -O qcow2 disk.raw disk.qcow2 2>/dev/null || cp disk.raw disk.qcow2");
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let added =
        cache(dir.path(), &["add", "--json", "-q", "--name", "guest", "-m", "/dev/sda", &path("disk.raw")]).json();
    let again = cache(
        dir.path(),
        &["add", "--json", "-q", "--name", "again", "-m", "/dev/sda", "--jobs", "1", &path("disk.qcow2")],
    )
    .json();
    assert_eq!(added["tree"], again["tree"], "formats and threads do not show");
    assert_eq!((again["new_blobs"].as_u64(), again["known"].as_bool()), (Some(0), Some(true)), "{again}");
    let preserve = if everything { "all" } else { "default,setid" };
    let report = cache(dir.path(), &["restore", "--json", "-q", "--preserve", preserve, "guest", &path("back")]).json();
    assert_eq!(report["links"], 2, "{report}");
    shell(dir.path(), "rmdir back/lost+found");
    let expected = witness(&dir.path().join("tree"), everything);
    let found = witness(&dir.path().join("back"), everything);
    // The root of a new filesystem has a directory more, and the time of making.
    let entries =
        |text: &str| text.lines().filter(|line| !line.starts_with("root ")).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(entries(&found), entries(&expected));
    // Out of the store as an archive: GNU tar finds everything in it, whoever restored the tree and whatever was lost by that.
    cache(dir.path(), &["tar-out", "-q", "guest", &path("tree.tar")]).text();
    shell(
        dir.path(),
        "mkdir untarred; tar -x -p --xattrs --xattrs-include='*' -f tree.tar -C untarred; rmdir untarred/lost+found",
    );
    assert_eq!(entries(&witness(&dir.path().join("untarred"), everything)), entries(&expected));
    let shown = cache(dir.path(), &["show", "--json", "guest", "/etc/hostname"]).json();
    assert_eq!((shown["path"].as_str(), shown["size"].as_u64()), (Some("/etc/hostname"), Some(5)));
    let listed = cache(dir.path(), &["ls", "--json"]).json();
    assert_eq!(listed.as_array().unwrap().len(), 2);
    // Rules and sets.
    let some = cache(
        dir.path(),
        &[
            "add",
            "--json",
            "-q",
            "--name",
            "some",
            "-m",
            "/dev/sda",
            "--exclude",
            "*.d",
            "--exclude",
            "/usr/bin/*",
            &path("disk.raw"),
        ],
    )
    .json();
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

#[test]
fn an_image_that_was_added_before_is_known_by_its_content() {
    if !have("mke2fs") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    shell(
        dir.path(),
        "mkdir tree; echo one > tree/one; head -c 9000 /dev/urandom > tree/two; mke2fs -q -t ext4 -d tree a.raw 16M; cp a.raw b.raw",
    );
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let add = |arguments: &[&str]| cache(dir.path(), &[&["add", "--json", "-q"], arguments].concat()).json();
    let made = add(&["--name", "a", &path("a.raw")]);
    assert_eq!(made["hit"], false);
    // Another file with the same content, another name.
    let known = add(&["--name", "b", &path("b.raw")]);
    assert_eq!((&known["hit"], &known["tree"]), (&serde_json::Value::Bool(true), &made["tree"]));
    // Other arguments, another image.
    assert_eq!(add(&["--name", "c", "--exclude", "two", &path("a.raw")])["hit"], false);
    shell(dir.path(), "echo changed > tree/one; mke2fs -q -t ext4 -d tree b.raw 16M");
    let explained = cache(dir.path(), &["explain", &path("b.raw")]).json();
    assert_eq!(
        (explained["hit"].as_bool(), explained["cause"].as_str()),
        (Some(false), Some("image-changed")),
        "{explained}"
    );
    assert_eq!(add(&["--name", "b", &path("b.raw")])["hit"], false);
    let misses = cache(dir.path(), &["misses", "--json"]).json();
    let causes: Vec<_> = misses.as_array().unwrap().iter().map(|miss| miss["cause"].as_str().unwrap()).collect();
    assert_eq!(causes, ["never-seen", "rules-changed", "image-changed"]);
    let stats = cache(dir.path(), &["stats", "--json"]).json();
    assert_eq!(stats["operations"]["tree"]["hits"], 1, "{stats}");
    assert_eq!(cache(dir.path(), &["analyze", "--json", "--fail-below", "90"]).code, 1);
    let warmed = cache(dir.path(), &["prewarm", "--json", &path("a.raw"), &path("b.raw"), &path("none.raw")]);
    assert_eq!(warmed.code, 3);
    let warmed: serde_json::Value = serde_json::from_slice(&warmed.out).unwrap();
    assert_eq!(
        (&warmed[0]["hit"], &warmed[1]["hit"], warmed[2]["error"].is_string()),
        (&true.into(), &true.into(), true)
    );
    // An image in place of a tree.
    cache(dir.path(), &["restore", "-q", &path("a.raw"), &path("out")]).text();
    assert_eq!(std::fs::read(dir.path().join("out/one")).unwrap(), b"one\n");
    cache(dir.path(), &["export", "-o", &path("trees.tar"), "a", "b"]).text();
    let other = dir.path().join("other");
    let imported =
        guestctl(["cache", "--cache-dir", other.to_str().unwrap(), "import", "--json", &path("trees.tar")]).json();
    assert_eq!(imported.as_array().unwrap().len(), 2, "{imported}");
}
