//! The program from outside: what every subcommand prints, its exit code, and that it leaves its inputs as they were.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "support/program.rs"]
mod program;
mod support;

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::SystemTime;

use program::{Ran, guestctl, program};
use serde_json::Value;
use sha2::{Digest, Sha256};
use support::{have, shell};

#[path = "cli/inspect.rs"]
mod inspect;
#[path = "cli/settings.rs"]
mod settings;

/// A directory of images that no run may change.
struct Inputs {
    directory: tempfile::TempDir,
}

impl Inputs {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    /// With the demo guest as `demo.qcow2`.
    fn demo() -> Self {
        let inputs = Self::new();
        let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("images/demo.qcow2");
        std::fs::copy(demo, inputs.path("demo.qcow2")).unwrap();
        inputs
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> &Self {
        std::fs::write(self.path(name), bytes).unwrap();
        self
    }

    fn shell(&self, script: &str) -> &Self {
        shell(self.directory.path(), script);
        self
    }

    /// Digest and time of every file.
    fn state(&self) -> BTreeMap<PathBuf, (Vec<u8>, SystemTime)> {
        let file = |entry: std::io::Result<std::fs::DirEntry>| {
            let path = entry.unwrap().path();
            let bytes = if path.is_file() { std::fs::read(&path).unwrap() } else { Vec::new() };
            let modified = path.metadata().unwrap().modified().unwrap();
            (path, (Sha256::digest(bytes).to_vec(), modified))
        };
        self.directory.path().read_dir().unwrap().map(file).collect()
    }

    /// Runs a command line, split at blanks, in which `@name` is a file here. Nothing here may change by it.
    fn run(&self, line: &str) -> Ran {
        let before = self.state();
        let argument = |word: &str| match word.strip_prefix('@') {
            Some(name) => self.path(name).into_os_string(),
            None => word.into(),
        };
        let ran = guestctl(line.split(' ').map(argument));
        assert!(before == self.state(), "{line}: the inputs have changed");
        ran
    }

    /// The same, and the paths of files here shortened in the message.
    fn fails(&self, line: &str, code: i32, message: &str) {
        let mut ran = self.run(line);
        ran.err = ran.err.replace(&format!("{}/", self.directory.path().display()), "@");
        ran.fails(code, message);
    }
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn ls_lists() {
    let demo = Inputs::demo();
    assert_eq!(
        demo.run("ls @demo.qcow2").text().replace('\n', " "),
        "bin boot dev etc home initrd.img lib lib64 lost+found mnt proc root run sbin sys tmp usr var vmlinuz "
    );
    assert_eq!(demo.run("ls @demo.qcow2 /etc/hostname").text(), "/etc/hostname\n");
    assert_eq!(demo.run("ls @demo.qcow2 /home/demo").text(), ".bashrc\n.ssh\nnotes.txt\n");
    assert_eq!(
        demo.run("ls -l @demo.qcow2 /home/demo").text(),
        "-rw-r--r-- 1 demo demo   17 2025-01-01 00:00 .bashrc\n\
         drwx------ 2 demo demo 4096 2025-01-01 00:00 .ssh\n\
         -rw-r--r-- 1 demo demo   22 2025-01-01 00:00 notes.txt\n"
    );
    assert_eq!(
        demo.run("ls -l @demo.qcow2 /etc/os-release").text(),
        "-rw-r--r-- 1 root root 267 2025-01-01 00:00 /usr/lib/os-release\n"
    );
    assert_eq!(
        demo.run("ls -lR @demo.qcow2 /home").text(),
        "/home:\n\
         drwxr-xr-x 3 demo demo 4096 2025-01-01 00:00 demo\n\n\
         /home/demo:\n\
         -rw-r--r-- 1 demo demo   17 2025-01-01 00:00 .bashrc\n\
         drwx------ 2 demo demo 4096 2025-01-01 00:00 .ssh\n\
         -rw-r--r-- 1 demo demo   22 2025-01-01 00:00 notes.txt\n\n\
         /home/demo/.ssh:\n\
         -rw------- 1 demo demo 90 2025-01-01 00:00 authorized_keys\n"
    );
    assert_eq!(demo.run("ls -R @demo.qcow2 /etc/ssh").text().lines().next(), Some("/etc/ssh:"));
}

#[test]
fn ls_writes_json_lines() {
    let demo = Inputs::demo();
    let notes = "{\"path\":\"/home/demo/notes.txt\",\"type\":\"file\",\"mode\":\"0644\",\"uid\":1000,\"gid\":1000,\
                 \"size\":22,\"nlink\":1,\"inode\":74,\"mtime_ns\":1735689600000000000,\"target\":null,\"rdev\":null,\
                 \"xattrs\":{\"user.colour\":\"Ymx1ZQ==\"}}\n";
    assert_eq!(demo.run("ls --json @demo.qcow2 /home/demo/notes.txt").text(), notes);
    let listed = demo.run("ls --json @demo.qcow2 /home/demo").text();
    assert!(listed.ends_with(notes));
    let paths =
        |text: &str| lines(text).iter().map(|line| line["path"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
    assert_eq!(paths(&listed), ["/home/demo/.bashrc", "/home/demo/.ssh", "/home/demo/notes.txt"]);
    let all = demo.run("ls -R --json --checksum sha256 --checksum md5 @demo.qcow2 /home").text();
    assert_eq!(
        paths(&all),
        [
            "/home",
            "/home/demo",
            "/home/demo/.bashrc",
            "/home/demo/.ssh",
            "/home/demo/.ssh/authorized_keys",
            "/home/demo/notes.txt"
        ]
    );
    let last = lines(&all).pop().unwrap();
    let sha256: String = Sha256::digest("Nothing here is real.\n").iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!((last["sha256"].as_str(), last["md5"].as_str().map(str::len)), (Some(sha256.as_str()), Some(32)));
    assert_eq!(lines(&all)[1].get("sha256"), None);
}

#[test]
fn cat_and_find_and_stat_answer() {
    let demo = Inputs::demo();
    assert_eq!(demo.run("cat @demo.qcow2 /etc/hostname /etc/debian_version").text(), "demo\n12.7\n");
    assert_eq!(demo.run("cat @demo.qcow2 /boot/efi/EFI/BOOT/BOOTX64.EFI").bytes().len(), 1500);
    assert_eq!(
        demo.run("find @demo.qcow2 /home").text(),
        "demo\ndemo/.bashrc\ndemo/.ssh\ndemo/.ssh/authorized_keys\ndemo/notes.txt\n"
    );
    assert_eq!(
        demo.run("find -0 @demo.qcow2 /home").text(),
        "demo\0demo/.bashrc\0demo/.ssh\0demo/.ssh/authorized_keys\0demo/notes.txt\0"
    );
    assert_eq!(demo.run("find --json @demo.qcow2 /home/demo/.ssh").text(), "\"authorized_keys\"\n");
    assert!(demo.run("find @demo.qcow2 /boot").text().contains("\nefi/EFI/debian/grub.cfg\n"), "mounts are crossed");
    assert_eq!(
        demo.run("stat @demo.qcow2 /etc/os-release /home/demo/notes.txt").text(),
        "  File: /etc/os-release -> ../usr/lib/os-release\n\
         \x20 Type: symlink\tSize: 21\tBlocks: 0 x 512\n\
         \x20Inode: 47\tLinks: 1\tDevice: -\n\
         \x20 Mode: 0777\tUid: 0\tGid: 0\n\
         Access: 2025-01-01 00:00:00.000000000 UTC\n\
         Modify: 2025-01-01 00:00:00.000000000 UTC\n\
         Change: 2025-01-01 00:00:00.000000000 UTC\n\
         \x20Birth: 2025-01-01 00:00:00.000000000 UTC\n\
         \x20 File: /home/demo/notes.txt\n\
         \x20 Type: file\tSize: 22\tBlocks: 8 x 512\n\
         \x20Inode: 74\tLinks: 1\tDevice: -\n\
         \x20 Mode: 0644\tUid: 1000\tGid: 1000\n\
         Access: 2025-01-01 00:00:00.000000000 UTC\n\
         Modify: 2025-01-01 00:00:00.000000000 UTC\n\
         Change: 2025-01-01 00:00:00.000000000 UTC\n\
         \x20Birth: 2025-01-01 00:00:00.000000000 UTC\n\
         \x20Xattr: user.colour=blue\n"
    );
    let [link, file] = &lines(&demo.run("stat --json @demo.qcow2 /etc/os-release /home/demo/notes.txt").text())[..]
    else {
        panic!("two lines")
    };
    assert_eq!(link["target"], "../usr/lib/os-release");
    assert_eq!(file["blocks_512"], 8);
    for time in ["atime_ns", "mtime_ns", "ctime_ns", "crtime_ns"] {
        assert_eq!(file[time], 1_735_689_600_000_000_000_u64, "{time}");
    }
    assert_eq!(demo.run("stat -L --json @demo.qcow2 /etc/os-release").json()["path"], "/usr/lib/os-release");
}

#[test]
fn df_and_filesystems_count() {
    let demo = Inputs::demo();
    assert_eq!(
        demo.run("df @demo.qcow2").text(),
        "DEVICE     1K-BLOCKS  USED  AVAILABLE  USE%  MOUNTED ON\n\
         /dev/sda2      46808   444      42780    2%  /\n\
         /dev/sda1      36281     6      36275    1%  /boot/efi\n"
    );
    assert_eq!(
        demo.run("df -H @demo.qcow2").text().lines().nth(1),
        Some("/dev/sda2  45.7 MiB   444 KiB   41.7 MiB    2%  /")
    );
    assert_eq!(demo.run("df -i @demo.qcow2").text().lines().nth(1), Some("/dev/sda2    1024   130   894   13%  /"));
    let rows = demo.run("df --json @demo.qcow2").json();
    assert_eq!(
        rows[0],
        serde_json::json!({"device": "/dev/sda2", "mountpoint": "/", "size_bytes": 47_931_392, "used_bytes": 454_656,
            "available_bytes": 43_806_720, "inodes": 1024, "inodes_free": 894})
    );
    assert_eq!(
        demo.run("filesystems @demo.qcow2").text(),
        "DEVICE     TYPE      SIZE  LABEL      UUID\n\
         /dev/sda1  vfat  36.0 MiB  ESP        D0D0-1E51\n\
         /dev/sda2  ext4  50.0 MiB  demo-root  d0d0d0d0-0002-4000-8000-000000000002\n"
    );
    assert!(demo.run("filesystems --bytes @demo.qcow2").text().contains(" 52428800 "));
    assert_eq!(
        demo.run("filesystems --json @demo.qcow2").json()[0],
        serde_json::json!({"device": "/dev/sda1", "fs_type": "vfat", "label": "ESP", "uuid": "D0D0-1E51",
            "size": 37_748_736, "partition_type": "c12a7328-f81f-11d2-ba4b-00a0c93ec93b",
            "partition_label": "EFI System", "partition_uuid": "d0d0d0d0-0001-4000-8000-000000000001"})
    );
}

#[test]
fn download_is_complete_or_nothing() {
    let demo = Inputs::demo();
    let out = tempfile::tempdir().unwrap();
    let to = |name: &str| format!("{}/{name}", out.path().display());
    let names = || out.path().read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();

    assert_eq!(demo.run("download @demo.qcow2 /etc/hostname -").text(), "demo\n");
    demo.run(&format!("download @demo.qcow2 /etc/hostname {}", to("copy"))).text();
    assert_eq!(std::fs::read_to_string(to("copy")).unwrap(), "demo\n");
    demo.run(&format!("download @demo.qcow2 /etc/debian_version {}", to("copy"))).text();
    assert_eq!(std::fs::read_to_string(to("copy")).unwrap(), "12.7\n", "an existing file is replaced");

    demo.fails(
        &format!("download @demo.qcow2 /etc/nothing {}", to("copy")),
        9,
        "guestctl: error: @demo.qcow2: /etc/nothing: no such file or directory in the guest\n",
    );
    assert_eq!(std::fs::read_to_string(to("copy")).unwrap(), "12.7\n", "a failure leaves it");
    assert_eq!(demo.run(&format!("download @demo.qcow2 /etc {}", to("etc"))).code, 9);
    let ran = demo.run(&format!("download @demo.qcow2 /etc/hostname {}", to("missing/copy")));
    assert_eq!(ran.code, 1, "{}", ran.err);
    assert!(ran.err.contains("No such file or directory"), "{}", ran.err);
    assert_eq!(names(), ["copy"]);
    demo.run("download @demo.qcow2 /etc/hostname /dev/null").text();
    assert!(!std::fs::metadata("/dev/null").unwrap().is_file(), "a device is written into, not replaced");
    let ran = demo.run(&format!("download @demo.qcow2 /etc/hostname {}", out.path().display()));
    assert_eq!(ran.code, 1, "{}", ran.err);
    assert!(ran.err.contains("Is a directory"), "{}", ran.err);
    assert_eq!(names(), ["copy"]);
    // Nothing is unwritable to root.
    if !rustix::process::geteuid().is_root() {
        shell(out.path(), "mkdir locked; chmod 555 locked");
        let ran = demo.run(&format!("download @demo.qcow2 /etc/hostname {}", to("locked/copy")));
        assert_eq!(ran.code, 1, "{}", ran.err);
        assert_eq!(Path::new(&to("locked")).read_dir().unwrap().count(), 0);
    }
}

#[test]
fn a_device_is_downloaded_whole() {
    if !have("qemu-img") {
        return;
    }
    let demo = Inputs::demo();
    demo.shell("qemu-img convert -O raw demo.qcow2 demo.raw");
    let raw = std::fs::read(demo.path("demo.raw")).unwrap();
    let out = tempfile::tempdir().unwrap();
    let copy = out.path().join("copy");
    for (device, range) in
        [("/dev/sda", 0..raw.len()), ("/dev/vda1", 1 << 20..37 << 20), ("/dev/sda2", 37 << 20..87 << 20)]
    {
        demo.run(&format!("download @demo.qcow2 {device} {}", copy.display())).text();
        assert!(std::fs::read(&copy).unwrap() == raw[range.clone()], "{device}");
        assert!(demo.run(&format!("download @demo.qcow2 {device} -")).bytes() == raw[range], "{device}");
    }
}

/// `qemu-img info`'s keys but those of the file below.
#[test]
fn info_has_the_keys_and_values_of_qemu_img() {
    if !have("qemu-img") {
        return;
    }
    let demo = Inputs::demo();
    demo.shell(
        "qemu-img create -q -f raw plain.raw 3M
         qemu-img create -q -f qcow2 -o compat=0.10 old.qcow2 64M
         qemu-img create -q -f qcow2 -o compression_type=zstd,extended_l2=on,cluster_size=128k new.qcow2 64M
         qemu-img create -q -f qcow2 -b demo.qcow2 -F qcow2 top.qcow2
         cp demo.qcow2 snapped.qcow2; qemu-img snapshot -c before snapped.qcow2; qemu-img snapshot -c 'second one' snapped.qcow2
         qemu-img convert -O vmdk demo.qcow2 sparse.vmdk
         qemu-img convert -O vmdk -o subformat=streamOptimized demo.qcow2 stream.vmdk
         qemu-img convert -O vmdk -o subformat=monolithicFlat demo.qcow2 flat.vmdk
         qemu-img convert -O vmdk -o subformat=twoGbMaxExtentSparse demo.qcow2 split.vmdk
         sync -f .",
    );
    let names =
        demo.directory.path().read_dir().unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    for name in names.filter(|name| !name.contains("-flat") && !name.contains("-s0")) {
        let format = if name.ends_with("raw") { " -f raw" } else { "" };
        let mut ours = demo.run(&format!("info --output json{format} @{name}")).json();
        let theirs = shell(demo.directory.path(), &format!("qemu-img info{format} --output=json $PWD/{name}"));
        let mut theirs: Value = serde_json::from_slice(&theirs.stdout).unwrap();
        assert!(ours.as_object_mut().unwrap().remove("probed").is_some());
        theirs.as_object_mut().unwrap().remove("children");
        if matches!(name.as_str(), "split.vmdk" | "flat.vmdk") {
            // These are told by the extents' own files, which are not opened.
            ours.as_object_mut().unwrap().remove("actual-size");
            theirs.as_object_mut().unwrap().retain(|key, _| !matches!(key.as_str(), "actual-size" | "cluster-size"));
            theirs["format-specific"]["data"]["extents"][0].as_object_mut().unwrap().remove("cluster-size");
        }
        assert_eq!(ours, theirs, "{name}");
        assert_eq!(demo.run(&format!("info --json{format} @{name}")).json()["format"], theirs["format"]);
    }
    assert_eq!(
        demo.run("info -f qcow2 @top.qcow2").text().lines().skip(1).take(2).collect::<Vec<_>>(),
        ["file format: qcow2", "virtual size: 88.0 MiB (92274688 bytes)"]
    );
    assert!(demo.run("info @snapped.qcow2").text().contains("second one"));
}

#[test]
fn the_program_describes_itself() {
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(guestctl(["--version"]).text(), format!("guestctl {version}\n"));
    assert_eq!(
        guestctl(["version"]).text(),
        format!(
            "guestctl {version}\nimage formats: qcow2, vmdk, vdi, vpc, vhdx, ova, raw\nfilesystems: ext2, ext3, ext4, vfat\n"
        )
    );
    assert_eq!(
        guestctl(["version", "--json"]).json(),
        serde_json::json!({"version": version, "image_formats": ["qcow2", "vmdk", "vdi", "vpc", "vhdx", "ova", "raw"],
            "filesystems": ["ext2", "ext3", "ext4", "vfat"]})
    );
    let help = guestctl(["--help"]).text();
    let commands: Vec<_> = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.strip_prefix("  ")?.split(' ').next().filter(|word| !word.is_empty()))
        .collect();
    assert_eq!(
        commands.join(" "),
        "inspect filesystems ls cat find grep stat download cpio-out get-kernel initrd-list initrd-cat checksum tar-out copy-out df du \
         info map compare cache diff create convert measure check commit rebase resize snapshot serve batch settings schema completions \
         man version"
    );
    for shell in ["bash", "zsh", "fish"] {
        let script = guestctl(["completions", shell]).text();
        assert!(commands.iter().all(|command| script.contains(command)), "{shell}");
    }
    let pages = tempfile::tempdir().unwrap();
    guestctl(["man".as_ref(), pages.path().as_os_str()]).text();
    let mut written: Vec<_> =
        pages.path().read_dir().unwrap().map(|page| page.unwrap().file_name().into_string().unwrap()).collect();
    let mut expected: Vec<_> = commands.iter().map(|command| format!("guestctl-{command}.1")).collect();
    expected.push("guestctl.1".to_owned());
    written.sort();
    expected.sort();
    // Those of the cache's own commands, too.
    let own = written.iter().filter(|page| page.starts_with("guestctl-cache-")).count();
    assert!(own >= 20, "{written:?}");
    let top: Vec<_> = written.iter().filter(|page| !page.starts_with("guestctl-cache-")).cloned().collect();
    assert_eq!(top, expected);
    for page in written {
        assert!(std::fs::read_to_string(pages.path().join(&page)).unwrap().contains(".TH"), "{page}");
    }
    guestctl(["man", "/nonexistent"])
        .fails(1, "guestctl: error: cannot write man pages to /nonexistent: No such file or directory (os error 2)\n");
}

#[cfg(target_os = "linux")]
#[test]
fn a_failed_write_is_seen_and_a_closed_pipe_is_success() {
    let demo = Inputs::demo();
    let image = demo.path("demo.qcow2");
    for line in
        ["ls -R", "ls -R --json", "inspect --json", "inspect --yaml", "inspect --xml", "find", "df", "filesystems"]
    {
        let command = || {
            let mut command = program();
            command.args(line.split(' ')).arg(&image);
            command
        };
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = command().stdout(full).output().unwrap();
        assert_eq!(output.status.code(), Some(4), "{line}");
        assert_eq!(
            String::from_utf8(output.stderr).unwrap(),
            "guestctl: error: cannot write to standard output: No space left on device (os error 28)\n",
            "{line}"
        );
    }
    for line in [
        "ls -R @",
        "ls -lR @",
        "inspect --yaml @",
        "inspect --xml @",
        "find @",
        "cat @ /etc/hosts",
        "download @ /dev/sda -",
        "completions bash",
        "schema",
    ] {
        let arguments = line.split(' ').map(|word| if word == "@" { image.as_os_str() } else { word.as_ref() });
        let mut child = program().args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let mut message = String::new();
        child.stderr.take().unwrap().read_to_string(&mut message).unwrap();
        assert_eq!((child.wait().unwrap().code(), message.as_str()), (Some(0), ""), "{line}");
    }
}

#[test]
fn errors_have_their_exit_codes_places_and_hints() {
    let demo = Inputs::demo();
    demo.fails(
        "ls @missing.qcow2",
        1,
        "guestctl: error: cannot open @missing.qcow2: No such file or directory (os error 2)\n",
    );
    demo.fails(
        "cat @demo.qcow2 /etc/nothing",
        9,
        "guestctl: error: @demo.qcow2: /etc/nothing: no such file or directory in the guest\n",
    );
    demo.fails(
        "cat @demo.qcow2 /etc/hostname/x",
        9,
        "guestctl: error: @demo.qcow2: /etc/hostname/x: not a directory\n",
    );
    demo.fails("cat @demo.qcow2 /etc", 9, "guestctl: error: /etc: is a directory\n");
    demo.fails("find @demo.qcow2 /etc/hostname", 9, "guestctl: error: /etc/hostname: not a directory\n");
    demo.fails(
        "ls @demo.qcow2 etc",
        2,
        "guestctl: error: guest path 'etc' is not absolute\nhint: begin the path with '/'\n",
    );
    demo.fails(
        "ls @demo.qcow2 / -m /dev/sda9",
        9,
        "guestctl: error: @demo.qcow2: /dev/sda9: no such device or partition in the guest\n\
         hint: list_filesystems (guestctl filesystems) shows what there is\n",
    );
    for line in [
        "",
        "ls",
        "nonsense",
        "ls --checksum sha256 @demo.qcow2",
        "ls -f qed @demo.qcow2",
        "inspect --json --xml @demo.qcow2",
        "ls --json --checksum sha3 @demo.qcow2",
        "ls --allow-same-dir --allow-backing / @demo.qcow2",
    ] {
        assert_eq!(demo.run(line.trim()).code, 2, "{line}");
    }
    let mut bytes = std::fs::read(demo.path("demo.qcow2")).unwrap();
    bytes[40..48].copy_from_slice(&1_u64.to_be_bytes());
    demo.write("broken.qcow2", &bytes);
    demo.fails(
        "ls @broken.qcow2",
        8,
        "guestctl: error: @broken.qcow2: corrupt qcow2: l1_table_offset at byte 0x28: found 0x1, expected a multiple of 16384\n",
    );
}

#[test]
fn what_cannot_be_read_is_named() {
    let inputs = Inputs::new();
    let signature = |at: usize, magic: &[u8]| {
        let mut bytes = vec![0; 1 << 20];
        bytes[at..at + magic.len()].copy_from_slice(magic);
        bytes
    };
    inputs.write("xfs.raw", &signature(0, b"XFSB"));
    inputs.write("luks.raw", &signature(0, b"LUKS\xba\xbe\0\x02"));
    inputs.write("zeroes.raw", &[0; 1 << 20]);
    inputs.fails("ls @xfs.raw", 7, "guestctl: error: @xfs.raw: /dev/sda: xfs: reading is not supported\n");
    inputs.fails("ls @luks.raw", 7, "guestctl: error: @luks.raw: /dev/sda: crypto_LUKS: reading is not supported\n");
    inputs.fails(
        "ls @luks.raw / -m /dev/sda",
        7,
        "guestctl: error: @luks.raw: /dev/sda: crypto_LUKS: reading is not supported\n",
    );
    inputs.fails(
        "ls @zeroes.raw",
        2,
        "guestctl: error: @zeroes.raw: there is no operating system and no filesystem on the disk\n\
         hint: guestctl filesystems shows what was found; state the format (-f) if it was probed wrongly\n",
    );
    assert!(inputs.run("inspect @zeroes.raw").text().ends_with("no operating system found\n"));
    assert_eq!(inputs.run("inspect --json @zeroes.raw").json()["operating_systems"], serde_json::json!([]));
}

#[test]
fn a_backing_file_is_opened_only_when_allowed() {
    if !have("qemu-img") {
        return;
    }
    let demo = Inputs::demo();
    demo.shell("qemu-img create -q -f qcow2 -b demo.qcow2 -F qcow2 top.qcow2; mkdir elsewhere");
    let ran = demo.run("cat @top.qcow2 /etc/hostname");
    assert_eq!((ran.code, ran.out.len()), (5, 0), "{}", ran.err);
    assert!(ran.err.contains("refused: ") && ran.err.contains("demo.qcow2"), "{}", ran.err);
    assert!(ran.err.lines().nth(1).unwrap().contains("--allow-"), "{}", ran.err);
    assert_eq!(demo.run("cat --allow-same-dir @top.qcow2 /etc/hostname").text(), "demo\n");
    let allowed = demo.directory.path().display();
    assert_eq!(demo.run(&format!("cat --allow-backing {allowed} @top.qcow2 /etc/hostname")).text(), "demo\n");
    assert_eq!(demo.run(&format!("cat --allow-backing {allowed}/elsewhere @top.qcow2 /etc/hostname")).code, 5);
    assert_eq!(demo.run("info --json @top.qcow2").json()["backing-filename"], "demo.qcow2");
}

#[test]
fn the_format_is_what_was_stated() {
    let demo = Inputs::demo();
    let info = demo.run("info --json -f raw @demo.qcow2").json();
    assert_eq!(
        (&info["format"], &info["probed"], &info["virtual-size"]),
        (&"raw".into(), &false.into(), &131_072.into())
    );
    assert_eq!(demo.run("ls -f raw @demo.qcow2").code, 2, "no filesystem begins with a qcow2 header");
    assert_eq!(demo.run("ls -f vmdk @demo.qcow2").code, 8);
    assert_eq!(demo.run("cat -f qcow2 @demo.qcow2 /etc/hostname").text(), "demo\n");
}

#[test]
fn drives_and_mounts_are_chosen() {
    let demo = Inputs::demo();
    std::fs::copy(demo.path("demo.qcow2"), demo.path("second.qcow2")).unwrap();
    let devices = demo.run("filesystems --json @demo.qcow2 -a @second.qcow2").json();
    let devices: Vec<_> = devices.as_array().unwrap().iter().map(|row| row["device"].as_str().unwrap()).collect();
    assert_eq!(devices, ["/dev/sda1", "/dev/sda2", "/dev/sdb1", "/dev/sdb2"]);
    demo.fails(
        "ls @demo.qcow2 -a @second.qcow2",
        2,
        "guestctl: error: @demo.qcow2: there are 2 operating systems: /dev/sda2, /dev/sdb2\nhint: choose one with -m DEV\n",
    );
    assert_eq!(demo.run("cat @demo.qcow2 -a @second.qcow2 -m /dev/sdb2 /etc/hostname").text(), "demo\n");
    assert_eq!(demo.run("ls @demo.qcow2 -m /dev/sda1 /").text(), "EFI\n");
    assert_eq!(demo.run("ls @demo.qcow2 -m /dev/sda2:/ -m /dev/sda1:/mnt /mnt/EFI").text(), "BOOT\ndebian\n");
    assert_eq!(demo.run("ls @demo.qcow2 -m /dev/sda2 /boot/efi").text(), "", "-m mounts nothing else");
    assert_eq!(demo.run("ls @demo.qcow2 -m /dev/sda1:/mnt /mnt").code, 2, "the root comes first");
    let report = demo.run("inspect --json @demo.qcow2 -a @second.qcow2").json();
    assert_eq!(report["drives"].as_array().unwrap().len(), 2);
    assert_eq!(report["operating_systems"][1]["root"], "/dev/sdb2");
}

#[test]
fn a_disk_without_a_system_is_read_too() {
    if !have("mke2fs") {
        return;
    }
    let inputs = Inputs::new();
    inputs.shell(
        "mkdir tree; echo data > tree/file
         mke2fs -q -F -t ext4 -d tree one.raw 4M; cp one.raw two.raw; rm -r tree; rm -f tree",
    );
    assert_eq!(inputs.run("cat @one.raw /file").text(), "data\n");
    inputs.fails(
        "cat @one.raw -a @two.raw /file",
        2,
        "guestctl: error: @one.raw: there is no operating system, and several filesystems: /dev/sda (ext4), /dev/sdb (ext4)\n\
         hint: choose with -m DEV[:MOUNTPOINT]\n",
    );
    assert_eq!(inputs.run("cat @one.raw -a @two.raw -m /dev/sdb /file").text(), "data\n");
}

#[test]
fn no_guest_steers_a_terminal() {
    if !have("mke2fs") {
        return;
    }
    use std::os::unix::ffi::OsStrExt;
    let inputs = Inputs::new();
    let tree = tempfile::tempdir().unwrap();
    let at = |name: &[u8]| tree.path().join(std::ffi::OsStr::from_bytes(name));
    std::fs::create_dir_all(at(b"etc")).unwrap();
    let names: [&[u8]; 7] = [
        b"esc\x1b[31m",
        b"new\nline",
        b"del\x7f",
        b"c1\xc2\x9b31m",
        b"bad\xff\xfe",
        b"bidi\xe2\x80\xaetxt",
        b"back\\slash",
    ];
    for name in names {
        std::fs::write(at(name), "x").unwrap();
        std::os::unix::fs::symlink(std::ffi::OsStr::from_bytes(name), at(&[b"to ", name].concat())).unwrap();
    }
    std::fs::write(
        at(b"etc/os-release"),
        "ID=evil\x1b[1m\nPRETTY_NAME=\"Evil \x1b]0;title\x07 \u{9b}31m\"\nVERSION_ID=1\n",
    )
    .unwrap();
    std::fs::write(at(b"etc/hostname"), "evil\x1b[2J\n").unwrap();
    std::fs::write(at(b"etc/passwd"), "e\x1b[2Jvil:x:0:0:\u{9b}:/:/bin/sh\nroot:x:0:0::/root:/bin/sh\n").unwrap();
    std::fs::write(at(b"etc/fstab"), "/dev/sda / ext4 defaults 0 0\n/dev/\x1b[1m /x ext4 defaults 0 0\n").unwrap();
    std::fs::create_dir_all(at(b"bin")).unwrap();
    std::fs::create_dir_all(at(b"var/lib/dpkg")).unwrap();
    let package = "Package: evil\x1b[1m\nStatus: install ok installed\nVersion: 1\u{9b}\nArchitecture: all\nDescription: \x1b[1m\n";
    std::fs::write(at(b"var/lib/dpkg/status"), package).unwrap();
    inputs
        .shell(&format!("mke2fs -q -F -t ext4 -L \"$(printf 'a\\033[1m')\" -d {} evil.raw 8M", tree.path().display()));
    for line in [
        "ls @evil.raw",
        "ls -l @evil.raw",
        "ls -lR @evil.raw",
        "ls -R --json @evil.raw",
        "find @evil.raw",
        "find --json @evil.raw",
        "inspect @evil.raw",
        "inspect --json @evil.raw",
        "inspect --xml @evil.raw",
        "inspect --yaml @evil.raw",
        "filesystems @evil.raw",
        "filesystems --json @evil.raw",
        "stat @evil.raw /etc/hostname",
    ] {
        let text = inputs.run(line);
        assert_eq!(text.code, 0, "{line}: {}", text.err);
        harmless(line, std::str::from_utf8(&text.out).unwrap());
        harmless(line, &text.err);
    }
    for name in names {
        for path in [[b"/", name].concat(), [b"/none ", name].concat()] {
            let arguments = ["stat".as_ref(), inputs.path("evil.raw").as_os_str(), std::ffi::OsStr::from_bytes(&path)]
                .map(std::ffi::OsStr::to_owned);
            let Ok(_) = std::str::from_utf8(&path) else { continue };
            let ran = guestctl(arguments);
            assert_eq!(ran.code, if path.starts_with(b"/none") { 9 } else { 0 });
            harmless("stat", &ran.err);
            harmless("stat", std::str::from_utf8(&ran.out).unwrap());
        }
    }
    let zeroes = inputs.run("find -0 @evil.raw").bytes();
    let found: Vec<_> = zeroes.split(|&byte| byte == 0).collect();
    assert!(names.iter().all(|name| found.contains(name)), "-0 gives the bytes as they are");
    let listed = lines(&inputs.run("ls --json @evil.raw /").text());
    let bytes: Vec<_> = listed
        .iter()
        .map(|line| match line["path_b64"].as_str() {
            Some(text) => base64::Engine::decode(&base64::engine::general_purpose::STANDARD, text).unwrap(),
            None => line["path"].as_str().unwrap().as_bytes().to_vec(),
        })
        .collect();
    assert!(names.iter().all(|name| bytes.contains(&[b"/", *name].concat())), "JSON loses nothing");
}

fn harmless(line: &str, text: &str) {
    let bad = |c: &char| {
        !matches!(c, '\n' | '\t') && (c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'))
    };
    assert_eq!(text.chars().find(bad), None, "{line}: {text}");
}
